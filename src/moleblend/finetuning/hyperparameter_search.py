"""Hyperparameter search: trials are scored on the validation set, and the best one is kept.

Optuna, an optional dependency, proposes the settings. Each trial is written to `search.csv` in the
run folder when it ends. A proposal depends only on the earlier trials, the seed and its number.
An interrupted search therefore continues from this file with the same results.
"""

import csv
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from moleblend.config import to_dict
from moleblend.errors import SettingError
from moleblend.files import alone_with, file_sha256, replacing, write_json
from moleblend.finetuning.callbacks import ShouldContinue
from moleblend.finetuning.config import TrainConfig
from moleblend.model.compat import upgrade_search_record

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

TrialOutcome = Literal["done", "stopped", "failed"]
"""`stopped`: the trial was behind the other trials; `failed`: its loss diverged."""

TRIALS, ORIGIN = "search.csv", "search.json"
"""Files in the run folder: the trials, and the data and settings that they depend on."""

_IS_FINISHED = "is_finished"

SCORE = (
    "the score (higher is better) is the mean ROC-AUC of the classification targets minus the mean "
    "RMSE of the regression targets in standard deviations"
)
"""How a trial is scored on the validation set; the negative loss if neither is defined."""

NOTE = (
    "the validation score of the best trial is optimistically biased, since it is the best of many "
    "on the same molecules; calibration and intervals are fitted to these molecules, too; the "
    "test set is evaluated once, with the kept model"
)

_WITHOUT_EFFECT = (
    *("data", "source", "out", "search", "seeds", "ensemble", "keep_training_smiles", "forest"),
)
"""Settings that do not change a trial, or whose files are identified by their hash."""


@dataclass(frozen=True)
class Trial:
    """One training with proposed settings.

    Attributes:
        number: counted from 1.
        settings: settings by their name in `TrainConfig`; `features` is one string.
        state: how the trial ended.
        scores: validation score of the kept weights after each epoch, see `SCORE`.
        seconds: duration.
        reason: why it failed.
    """

    number: int
    settings: dict[str, Any]
    state: TrialOutcome
    scores: tuple[float, ...]
    seconds: float
    reason: str = ""

    @property
    def score(self) -> float:
        """Score of the kept weights; NaN without an epoch."""
        return self.scores[-1] if self.scores else float("nan")


@dataclass(frozen=True)
class Search:
    """The trials of a search.

    Attributes:
        config: settings of the run with those of the best trial.
        trials: in their order; the first one has the initial settings.
        best: best of the trials that are done.
    """

    config: TrainConfig
    trials: tuple[Trial, ...]
    best: Trial

    def summary(self) -> dict[str, Any]:
        """Summarise the search for metrics.json."""
        states = [trial.state for trial in self.trials]
        return {
            "trials": len(states),
            **{state: states.count(state) for state in ("done", "stopped", "failed")},
            "best": self.best.number,
            "score": self.best.score,
            "score_of_trial_1": self.trials[0].score if self.trials[0].scores else None,
            "best_settings": self.best.settings,
            "note": NOTE,
        }


def require_optuna() -> None:
    """Check that Optuna is installed.

    Raises:
        SettingError: Optuna is not installed.
    """
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise SettingError("--search needs Optuna: pip install 'moleblend[search]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def is_unfinished(folder: Path) -> bool:
    """Return whether a run folder holds a search without a finished run."""
    origin, model = folder / ORIGIN, folder / "model.safetensors"
    if not origin.is_file():
        return False
    record = json.loads(origin.read_text(encoding="utf-8"))
    return not (record.get(_IS_FINISHED, True) and model.is_file())


def finish(folder: Path) -> None:
    """Record that the run of the search in a run folder is finished."""
    record = json.loads((folder / ORIGIN).read_text(encoding="utf-8"))
    _write_origin(folder, record | {_IS_FINISHED: True})


def remove_record(folder: Path) -> None:
    """Remove the files of an earlier search, which the next run would contradict."""
    for name in (TRIALS, ORIGIN):
        (folder / name).unlink(missing_ok=True)


def search(
    config: TrainConfig,
    attempt: Callable[[TrainConfig, ShouldContinue], None],
    say: Callable[[str], None],
    *,
    model: Path | None,
    has_classes: bool,
    search_features: bool,
    resume: bool = False,
) -> Search:
    """Run `config.search` trials and keep the best one.

    The first trial has the settings of `config`. Settings that differ from the defaults of
    `TrainConfig` are not searched; `pos_weight="try"` is searched. After five trials are done, a
    trial is stopped if it is behind their median at the same epoch, after half of the epochs.

    Args:
        config: settings of the run.
        attempt: trains on the training set and scores on the validation set. It calls the function
            after each epoch and stops if that returns False.
        say: prints a line per trial.
        model: file of the source model; None for random weights.
        has_classes: whether there is a binary target, so that `pos_weight` is searched.
        search_features: whether extra features are searched.
        resume: continue the trials in the run folder.

    Raises:
        SettingError: Optuna is not installed, all settings are given, the trials in the folder have
            other data or settings, or no trial is done.
    """
    require_optuna()
    space = _search_space(config, has_classes=has_classes, search_features=search_features)
    if not space:
        raise SettingError("there is nothing to search: all settings differ from their defaults")
    path = config.folder / TRIALS
    with alone_with(path):
        trials = _read_trials(config, model, space) if resume else []
        if not resume:
            remove_record(config.folder)
        _write_origin(config.folder, _origin(config, model, space) | {_IS_FINISHED: False})
        if not resume:
            _write_trials(trials, space, path)
        searched = ", ".join(f"{name} ({_describe_range(asked)})" for name, asked in space.items())
        say(f"search: {config.search} trials over {searched}; {SCORE}")
        if trials:
            say(f"continuing after {len(trials)} earlier trials")
        study = _make_study(config)
        for trial in trials:
            study.add_trial(_to_optuna(trial, space))
        for number in range(len(trials) + 1, config.search + 1):
            try:
                trials.append(_run_trial(config, number, study, space, attempt))
            except KeyboardInterrupt:
                say(f"{len(trials)} trials are saved in {path}; continue with --resume")
                raise
            _write_trials(trials, space, path)
            say(_describe_last(trials, config.search))
    done = [trial for trial in trials if trial.state == "done"]
    if not done:
        raise SettingError(
            f"all {len(trials)} trials failed or were stopped; reason of the first: "
            f"{trials[0].reason}"
        )
    best = max(done, key=lambda trial: trial.score)
    say(f"search: trial {best.number} is the best, {_describe_settings(best)}; {NOTE}")
    return Search(_with_settings(config, best.settings), tuple(trials), best)


def _search_space(
    config: TrainConfig, *, has_classes: bool, search_features: bool
) -> dict[str, "BaseDistribution"]:
    """Return the range of each searched setting; settings that the user changed are left out."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    space: dict[str, BaseDistribution] = {
        "learning_rate": FloatDistribution(3e-5, 5e-3, log=True),
        "layer_decay": FloatDistribution(0.6, 1.0),
        "freeze": CategoricalDistribution((False, True)),
        "features": CategoricalDistribution(("none", "ecfp4", "descriptors", "ecfp4 descriptors")),
        "pos_weight": CategoricalDistribution(("off", "on")),
        "batch_size": CategoricalDistribution((16, 32, 64, 128)),
        "head_dropout": FloatDistribution(0.0, 0.5),
        "weight_decay": FloatDistribution(1e-4, 1.0, log=True),
        "ema": CategoricalDistribution((0.0, 0.9, 0.99)),
    }
    defaults = TrainConfig(config.data)
    # Features are resolved by now, so they differ from the default even if the user gave none.
    left_out = set() if search_features else {"features"}
    left_out |= {
        name
        for name in space
        if name != "features" and getattr(config, name) != getattr(defaults, name)
    }
    if config.pos_weight == "try":
        left_out.discard("pos_weight")
    if not has_classes:
        left_out.add("pos_weight")
    if config.source == "scratch":  # a frozen encoder with random weights is not useful
        left_out.add("freeze")
    if config.freeze:
        left_out.add("layer_decay")
    return {name: asked for name, asked in space.items() if name not in left_out}


def _describe_range(asked: "BaseDistribution") -> str:
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if isinstance(asked, CategoricalDistribution):
        return ", ".join(map(str, asked.choices))
    assert isinstance(asked, FloatDistribution)
    return f"{asked.low:g} to {asked.high:g}"


def _make_study(config: TrainConfig) -> "Study":
    """Make a study that stops trials below the median, after half of the epochs."""
    import optuna

    pruner = optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=config.epochs // 2)
    return optuna.create_study(direction="maximize", pruner=pruner)


def _first_settings(
    config: TrainConfig, space: dict[str, "BaseDistribution"]
) -> list[dict[str, Any]]:
    """Return the settings of the first trials: those of the run, with `try` both options."""
    initial = {name: getattr(config, name) for name in space}
    if "features" in initial:
        initial["features"] = " ".join(config.features)
    options = ("off", "on") if config.pos_weight == "try" and "pos_weight" in initial else ()
    return [initial | {"pos_weight": option} for option in options] or [initial]


def _run_trial(
    config: TrainConfig,
    number: int,
    study: "Study",
    space: dict[str, "BaseDistribution"],
    attempt: Callable[[TrainConfig, ShouldContinue], None],
) -> Trial:
    """Ask the study for settings, train with them, and report the outcome to the study."""
    import optuna

    first = _first_settings(config, space)
    if number <= len(first):
        study.enqueue_trial(first[number - 1])
    seed = np.random.SeedSequence([config.seed, number]).generate_state(1)[0]
    study.sampler = optuna.samplers.TPESampler(seed=int(seed))
    trial, scores, is_behind = study.ask(space), [], False

    def should_continue(epoch: int, score: float) -> bool:
        nonlocal is_behind
        scores.append(score)
        trial.report(score, epoch)
        is_behind = trial.should_prune()
        return not is_behind

    state, reason, started = "done", "", time.monotonic()
    try:
        attempt(_with_settings(config, trial.params), should_continue)
    except (FloatingPointError, torch.OutOfMemoryError) as error:
        state, reason = "failed", " ".join(str(error).split())
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
    else:
        if is_behind:
            state = "stopped"
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            study.tell(trial, scores[-1])
    seconds = round(time.monotonic() - started, 1)
    return Trial(number, dict(trial.params), state, tuple(scores), seconds, reason)


def _with_settings(config: TrainConfig, settings: dict[str, Any]) -> TrainConfig:
    """Replace settings of a configuration by those of a trial."""
    values = dict(settings)
    if "features" in values:
        values["features"] = tuple(values["features"].split())
    return replace(config, **values)


def _to_optuna(trial: Trial, space: dict[str, "BaseDistribution"]) -> "FrozenTrial":
    """Convert an earlier trial for Optuna."""
    from optuna.trial import TrialState, create_trial

    states = {"done": TrialState.COMPLETE, "stopped": TrialState.PRUNED, "failed": TrialState.FAIL}
    return create_trial(
        state=states[trial.state],
        # As in Optuna, a failed trial has no value and a stopped trial has its last score.
        value=None if trial.state == "failed" else trial.score,
        params=trial.settings,
        distributions=space,
        intermediate_values=dict(enumerate(trial.scores, 1)),
    )


def _origin(config: TrainConfig, model: Path | None, space: Iterable[str]) -> dict[str, Any]:
    """Collect all that the trials depend on, except their number."""
    settings = {key: value for key, value in to_dict(config).items() if key not in _WITHOUT_EFFECT}
    origin = {
        "data": file_sha256(Path(config.data)),
        "from": "scratch" if model is None else file_sha256(model),
        **settings,
        "searched": list(space),
    }
    return json.loads(json.dumps(origin))


def _write_origin(folder: Path, origin: dict[str, Any]) -> None:
    write_json(folder / ORIGIN, origin, indent=1)


def _read_trials(
    config: TrainConfig, model: Path | None, space: dict[str, "BaseDistribution"]
) -> list[Trial]:
    """Read the earlier trials and check that their data and settings are the same."""
    path = config.folder / ORIGIN
    saved = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    saved = upgrade_search_record(saved)
    saved.pop(_IS_FINISHED, None)
    origin = _origin(config, model, space)
    changed = [name for name in {**saved, **origin} if saved.get(name) != origin.get(name)]
    if changed:
        raise SettingError(
            f"{config.folder}: the search cannot be resumed, since these settings differ: "
            f"{', '.join(changed)}; start a new search in another --out, without --resume"
        )
    with (config.folder / TRIALS).open(newline="", encoding="utf-8") as file:
        rows = map(upgrade_search_record, csv.DictReader(file))
        return [_parse_trial(row, space) for row in rows][: config.search]


def _parse_trial(row: dict[str, str], space: dict[str, "BaseDistribution"]) -> Trial:
    """Parse a row of `search.csv`."""
    from optuna.distributions import CategoricalDistribution

    settings: dict[str, Any] = {}
    for name, asked in space.items():
        if isinstance(asked, CategoricalDistribution):
            settings[name] = {str(choice): choice for choice in asked.choices}[row[name]]
        else:
            settings[name] = float(row[name])
    state = {"done": "done", "stopped": "stopped", "failed": "failed"}[row["state"]]
    scores = tuple(float(text) for text in row["scores"].split())
    return Trial(int(row["trial"]), settings, state, scores, float(row["seconds"]), row["reason"])


def _write_trials(trials: Sequence[Trial], space: Iterable[str], path: Path) -> None:
    """Write all trials; the old file stays if writing fails."""
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        head = ("trial", "state", "score", "epochs", "seconds", *space, "scores", "reason")
        writer.writerow(head)
        for trial in trials:
            score = trial.score if trial.scores else ""
            settings = [trial.settings[name] for name in space]
            scores = " ".join(map(repr, trial.scores))
            row = [trial.number, trial.state, score, len(trial.scores), trial.seconds]
            writer.writerow([*row, *settings, scores, trial.reason])


def _describe_settings(trial: Trial) -> str:
    return ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in trial.settings.items()
    )


def _describe_last(trials: Sequence[Trial], n_trials: int) -> str:
    """Describe the last trial in one line."""
    last = trials[-1]
    text = f"trial {last.number} of {n_trials}: {_describe_settings(last)}: "
    if last.state == "failed":
        return f"{text}failed, {last.reason}"
    stopped = "" if last.state == "done" else ", stopped: below the median of the other trials"
    done = [trial for trial in trials if trial.state == "done"]
    best = max(done, key=lambda trial: trial.score, default=last)
    comparison = "best so far" if best is last else f"trial {best.number} has {best.score:.4f}"
    return (
        f"{text}{last.score:.4f} after epoch {len(last.scores)}{stopped} "
        f"({last.seconds:.0f} s; {comparison})"
    )
