"""Reads what older versions wrote: the only module that knows former names.

Files are not changed. Their names are translated when they are read:

* Model files: the header key `sureness` is now `uncertainty`. A header without `members` holds one
  model. Fields that a configuration lacks get their defaults (`config.from_dict`).
* `metrics.json` of a run folder, of which a model file has a copy in the notes of its card: see
  `METRICS_KEYS`.
* `validation.csv` and the saved states of a pretraining run: see `VALIDATION_COLUMNS` and
  `CALLBACKS`.
* `config.json` of a pretraining run: see `BLEND_KEYS`.
* `search.json` and `search.csv` of an unfinished hyperparameter search: see `SEARCH_KEYS`.
"""

from collections.abc import Mapping
from typing import Any

HEADER_KEYS = {"sureness": "uncertainty"}
"""Former keys of the header of a model file, and the keys of today."""

HEADER_DEFAULTS = {"members": "1"}
"""What older headers lack, and what it means that it is missing."""

METRICS_KEYS = {
    "choices": "settings",
    "random_forest_on_ecfp4": "baseline",
    "test_of_predicting_the_training_mean": "constant_baseline",
    "spread": "std",
}
"""Former keys of `metrics.json`, and the keys of today."""

VALIDATION_COLUMNS = {"trivial": "lookup_baseline"}
"""Former columns of `validation.csv`, and the columns of today."""

CALLBACKS = {"Journal": "TrainingCallback"}
"""Former names of callbacks in a saved state, and the names of today."""

SETTINGS_KEYS = {
    "sureness": "uncertainty",
    "relations": "qualifiers",
    "rows": "n_rows",
    "usable": "n_usable",
    "parts": "set_sizes",
    "repeats": "duplicates",
}
"""Former keys of the settings in `metrics.json`, and the keys of today."""

TARGET_SETTINGS_KEYS = {"n_bounds": "n_censored"}
"""Former keys of a target in the settings, and the keys of today."""

SEARCH_SUMMARY_KEYS = {
    "figure": "score",
    "figure_of_trial_1": "score_of_trial_1",
    "found": "best_settings",
}
"""Former keys of the search in the settings, and the keys of today."""

SEARCH_KEYS = {"relation": "qualifier", "figure": "score", "figures": "scores"}
"""Former settings in `search.json` and columns of `search.csv`, and the names of today."""

STATISTICS_KEYS = {"test_of_random_forest": "baseline_test"}
"""Former keys of the statistics over runs in `metrics.json`, and the keys of today."""

TARGET_METRICS_KEYS = {"bounds respected": "censored labels respected", "n_bounds": "n_censored"}
"""Former names of metrics of a target, and the names of today."""

BASELINE_KEYS = {"not_learnt": "not_trained", "compared": "comparison"}
"""Former keys of the baseline in `metrics.json`, and the keys of today."""

COMPARISON_KEYS = {"gain": "improvement", "is_beyond_noise": "is_significant"}
"""Former keys of the comparison of a target with the baseline, and the keys of today."""

RANKED_BY = {"spread": "std"}
"""Former values of `ranked_by` in the uncertainty metrics of a target, and the values of today."""

BLEND_KEYS = {
    "pair_shares": "pair_probabilities",
    "atom_shares": "atom_probabilities",
    "whole": "unblended",
}
"""Former fields of `blending.BlendConfig`, and the fields of today."""


def upgrade_header(header: Mapping[str, str] | None) -> dict[str, str]:
    """Give the header of a model file today's keys; None is a file without a header."""
    return HEADER_DEFAULTS | _renamed(header or {}, HEADER_KEYS)


def upgrade_card(card: object) -> object:
    """Give the notes of a card (the JSON of `checkpoint.Card`) today's keys.

    A value that is not a card is returned as it is: `config.from_dict` then says what is wrong.
    """
    if not isinstance(card, dict) or not isinstance(notes := card.get("notes"), dict):
        return card
    if not isinstance(metrics := notes.get("metrics"), dict):
        return card
    return card | {"notes": notes | {"metrics": upgrade_metrics(metrics)}}


def upgrade_metrics(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Give the content of `metrics.json` today's keys and values."""
    upgraded = _with_target_metrics(_renamed(metrics, METRICS_KEYS))
    for name, upgrade in (
        ("constant_baseline", lambda values: _each_renamed(values, TARGET_METRICS_KEYS)),
        ("std", _upgrade_statistics),
        ("settings", _upgrade_settings),
        ("baseline", _upgrade_baseline),
        ("uncertainty", _upgrade_uncertainty),
    ):
        if isinstance(values := upgraded.get(name), dict):
            upgraded[name] = upgrade(values)
    return upgraded


def _with_target_metrics(values: dict[str, Any]) -> dict[str, Any]:
    """Rename the metrics of all targets on the validation and the test set."""
    sets = {
        name: _each_renamed(values[name], TARGET_METRICS_KEYS)
        for name in ("validation", "test")
        if isinstance(values.get(name), dict)
    }
    return values | sets


def _upgrade_settings(settings: dict[str, Any]) -> dict[str, Any]:
    upgraded = _renamed(settings, SETTINGS_KEYS)
    if isinstance(targets := upgraded.get("targets"), dict):
        upgraded["targets"] = _each_renamed(targets, TARGET_SETTINGS_KEYS)
    if isinstance(search := upgraded.get("search"), dict):
        upgraded["search"] = _renamed(search, SEARCH_SUMMARY_KEYS)
    return upgraded


def _upgrade_statistics(statistics: dict[str, Any]) -> dict[str, Any]:
    """Rename the sets, the metrics of all targets, and the standard deviation of each metric."""
    upgraded = _with_target_metrics(_renamed(statistics, STATISTICS_KEYS))
    for name, targets in upgraded.items():
        if isinstance(targets, dict):
            upgraded[name] = {
                target: _each_renamed(metrics, {"sd": "std"})
                if isinstance(metrics, dict)
                else metrics
                for target, metrics in targets.items()
            }
    return upgraded


def upgrade_search_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """Give `search.json`, or a row of `search.csv`, today's names."""
    return _renamed(record, SEARCH_KEYS)


def _upgrade_baseline(baseline: dict[str, Any]) -> dict[str, Any]:
    upgraded = _with_target_metrics(_renamed(baseline, BASELINE_KEYS))
    if isinstance(comparison := upgraded.get("comparison"), dict):
        upgraded["comparison"] = _each_renamed(comparison, COMPARISON_KEYS)
    return upgraded


def _upgrade_uncertainty(uncertainty: dict[str, Any]) -> dict[str, Any]:
    """Translate `ranked_by` of every target on every set."""

    def upgraded(metrics: object) -> object:
        if not isinstance(metrics, dict) or "ranked_by" not in metrics:
            return metrics
        return metrics | {"ranked_by": RANKED_BY.get(metrics["ranked_by"], metrics["ranked_by"])}

    return {
        name: {target: upgraded(metrics) for target, metrics in targets.items()}
        if isinstance(targets, dict)
        else targets
        for name, targets in uncertainty.items()
    }


def _each_renamed(values: dict[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Rename the keys of every value that is a record."""
    return {
        key: _renamed(value, names) if isinstance(value, dict) else value
        for key, value in values.items()
    }


def upgrade_pretrain_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Give the configuration in the `config.json` of a pretraining run today's fields."""
    blend = config.get("blend")
    if not isinstance(blend, dict):
        return dict(config)
    return dict(config) | {"blend": _renamed(blend, BLEND_KEYS)}


def upgrade_validation(row: Mapping[str, str]) -> dict[str, str]:
    """Give a row of `validation.csv` today's columns."""
    return _renamed(row, VALIDATION_COLUMNS)


def upgrade_state(state: Mapping[str, Any]) -> dict[str, Any]:
    """Give the callbacks in a saved state of a pretraining run today's names."""
    if not isinstance(callbacks := state.get("callbacks"), dict):
        return dict(state)
    return dict(state) | {"callbacks": _renamed(callbacks, CALLBACKS)}


def _renamed(values: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Rename keys, in their order; a key of today wins over its former name."""
    return {
        names.get(key, key): value
        for key, value in values.items()
        if key not in names or names[key] not in values
    }
