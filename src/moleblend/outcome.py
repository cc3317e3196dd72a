"""What fine-tuning came to: one run or several put together, and the folder that they leave."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float64, Int8, Int64

from moleblend import checkpoint
from moleblend.assay import Assay
from moleblend.blending import Views
from moleblend.columns import domain_names, result_names
from moleblend.config import to_dict
from moleblend.domain import Domain
from moleblend.files import replacing
from moleblend.finetuning import Labelled
from moleblend.heads import Model, Target, output_slices
from moleblend.metrics import Metrics, why_undefined
from moleblend.predict import Row
from moleblend.search import Search
from moleblend.settings import TrainConfig
from moleblend.splits import Split
from moleblend.sureness import Sureness
from moleblend.tables import write_table
from moleblend.worth import Said, Worth, joined, worth_of

Spread = dict[str, dict[str, dict[str, float]]]
"""Of each target and metric the mean and the standard deviation over runs."""


@dataclass(frozen=True, eq=False)
class Run:
    """One training: one seed on one split.

    Attributes:
        seed: of its first member; the others have the next ones.
        parts: rows of each part, counted from 0 among the usable rows.
        targets: with the scaling of the training labels and the threshold chosen on validation.
        models: one, or the members of an ensemble.
        histories: of each member, per epoch: `epoch`, `training_loss`, and `validation`, the figure
            that chose the epoch: mean ROC-AUC of the classes, mean RMSE in standard deviations of
            the regression targets (a bound counts where it is broken), their difference where there
            are both; or, where neither is defined, the loss.
        best_epochs: of each member, whose weights were kept.
        validation: metrics per target on the validation part, of the weights that were kept.
        test: metrics per target on the test part, read once.
        trivial: test metrics of predicting the training mean; only for regression.
        predicted: for the test part, see `predict.in_units`; probabilities are put right.
        raw: the same, before they are put right.
        is_weighted: whether class 1 was weighed by how rare it is.
        judged: for the validation part, before probabilities are put right.
        sureness: fitted to that.
        domain: the training molecules; None where they could not be kept, `notes` say why.
        said: of the parts `validation` and `test`, how sure the model is.
        notes: what is not known of sureness, and why.
    """

    seed: int
    parts: Split
    targets: tuple[Target, ...]
    models: tuple[Model, ...]
    histories: tuple[list[dict[str, int | float]], ...]
    best_epochs: tuple[int, ...]
    validation: dict[str, Metrics]
    test: dict[str, Metrics]
    trivial: dict[str, Metrics]
    predicted: Float64[np.ndarray, "m o"]
    raw: Float64[np.ndarray, "m o"]
    is_weighted: bool
    judged: Float64[np.ndarray, "v o"]
    sureness: Sureness
    domain: Domain | None
    said: dict[str, dict[str, Said]]
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class TrainResult:
    """What a run found, and what its report shows.

    With several seeds the figures are those of the first, which is the model that is kept; with
    folds they are means over the folds, and the predictions those of all folds for their tests.

    Attributes:
        config: of the run.
        model: path of the model file.
        targets: of the model in the file.
        validation: metrics per target on the validation part, of the weights that were kept.
        test: metrics per target on the test part, read once.
        trivial: test metrics of predicting the training mean; only for regression.
        history: see `Run.histories`, of the first member.
        best_epoch: whose weights were kept, in the first member.
        parts: rows of each part, counted from 0 in the file; with folds all are tested.
        predicted: for the rows of the test part, see `predict.in_units`.
        labels: for the rows of the test part; NaN where missing.
        rows: status and reason of every row of the file.
        bounds: for the rows of the test part, 1 and -1 where a label is only a bound.
        runs: one for each seed or fold.
        spread: of the validation and test figures over several runs.
        choices: what was decided, and by what.
        sureness: of the model in the file.
        domain: of the model in the file.
        raw: as `predicted`, before probabilities are put right; areas under curves are of these.
        worth: of the parts `validation` and `test`, what the sureness of each target is worth; with
            folds of each fold's own, on its own molecules.
        search: how the settings of `config` were found; None where they came as they are.
    """

    config: TrainConfig
    model: Path
    targets: tuple[Target, ...]
    validation: dict[str, Metrics]
    test: dict[str, Metrics]
    trivial: dict[str, Metrics]
    history: list[dict[str, int | float]]
    best_epoch: int
    parts: Split
    predicted: Float64[np.ndarray, "m o"]
    labels: Float64[np.ndarray, "m t"]
    rows: list[Row]
    bounds: Int8[np.ndarray, "m t"] | None = None
    runs: tuple[Run, ...] = ()
    spread: dict[str, Spread] = field(default_factory=dict)
    choices: dict[str, Any] = field(default_factory=dict)
    sureness: Sureness = field(default_factory=Sureness)
    domain: Domain | None = None
    raw: Float64[np.ndarray, "m o"] | None = None
    worth: dict[str, dict[str, Worth]] = field(default_factory=dict)
    search: Search | None = None


def outcome_of(
    config: TrainConfig,
    runs: Sequence[Run],
    data: Labelled,
    usable: Int64[np.ndarray, " n"],
    rows: list[Row],
    choices: dict[str, Any],
) -> TrainResult:
    """Sum the runs up; the first stands for all seeds, all folds stand together."""
    first, tested = runs[0], runs[0].parts.test
    predicted, raw = first.predicted, first.raw
    validation, test, trivial = first.validation, first.test, first.trivial
    parts = {name: usable[part] for name, part in asdict(first.parts).items()}
    targets = first.targets
    if config.folds:
        tested = np.concatenate([run.parts.test for run in runs])
        order = np.argsort(tested)
        tested = tested[order]
        predicted, raw = (
            np.concatenate([getattr(run, name) for run in runs])[order]
            for name in ("predicted", "raw")
        )
        validation, test, trivial = (
            _means([getattr(run, name) for run in runs])
            for name in ("validation", "test", "trivial")
        )
        parts = {"train": usable[:0], "validation": usable[:0], "test": usable[tested]}
        targets = tuple(
            replace(target, threshold=float(np.mean([run.targets[k].threshold for run in runs])))
            for k, target in enumerate(first.targets)
        )
    spread = {
        name: _spread([getattr(run, name) for run in runs])
        for name in ("validation", "test")
        if len(runs) > 1
    }
    learnt = {
        target.name: {
            "mean": target.mean,
            "scale": target.scale,
            **({"threshold": target.threshold} if target.kind == "binary" else {}),
        }
        for target in targets
    }
    for name, values in learnt.items():
        choices["targets"][name] |= values
    choices["pos_weight"] = runs[0].is_weighted
    sureness, domain = _kept_sureness(config, runs, data, targets), first.domain
    if domain is not None:
        domain = replace(domain, rows=usable[first.parts.train[domain.rows]])
    choices["sureness"] = _sureness_choices(config, first, sureness)
    return TrainResult(
        config=config,
        model=config.folder / "model.safetensors",
        targets=targets,
        validation=validation,
        test=test,
        trivial=trivial,
        history=first.histories[0],
        best_epoch=first.best_epochs[0],
        parts=Split(**parts),
        predicted=predicted,
        labels=data.labels[tested],
        rows=rows,
        bounds=data.bounds[tested],
        runs=tuple(runs),
        spread=spread,
        choices=choices,
        sureness=sureness,
        domain=domain,
        raw=raw,
        worth={
            part: worth_of(joined([run.said[part] for run in (runs if config.folds else [first])]))
            for part in ("validation", "test")
        },
    )


def _kept_sureness(
    config: TrainConfig, runs: Sequence[Run], data: Labelled, targets: tuple[Target, ...]
) -> Sureness:
    """Give that of the model in the file: of the first seed, or of all folds together.

    A fold's prediction of its validation part has no spread over folds, so none is calibrated.
    """
    if not config.folds:
        return runs[0].sureness
    rows = np.concatenate([run.parts.validation for run in runs])
    judged = np.concatenate([run.judged for run in runs])
    return Sureness.fit(targets, judged, None, data.labels[rows], data.bounds[rows])


def _sureness_choices(config: TrainConfig, first: Run, sureness: Sureness) -> dict[str, Any]:
    """Say what is known of how sure predictions are, and from where."""
    fitted = "the validation part"
    if config.folds:
        fitted = (
            "the validation parts of all folds, each predicted by the models of its own fold; the "
            "training molecules are those of fold 1"
        )
    # A run's own notes on targets are of a fold; those of the file count.
    of_domain = [note for note in first.notes if note not in first.sureness.notes]
    return {
        "fitted_to": fitted,
        "probabilities": {
            name: f"{known.probability.method}: {known.probability.reason}"
            for name, known in sureness.classes.items()
        },
        "training_smiles": config.keep_training_smiles,
        "notes": [*sureness.notes, *of_domain],
    }


def _figures_of(runs: Sequence[dict[str, Metrics]], of: Callable[[list[float]], Any]) -> dict:
    """Sum up each metric of each target over the runs in which it is defined."""
    found: dict[str, dict[str, Any]] = {}
    for target in runs[0]:
        names = dict.fromkeys(name for run in runs for name in run[target])
        found[target] = {
            name: of([float(v) for run in runs if (v := run[target].get(name)) is not None])
            for name in names
        }
    return found


def _means(runs: Sequence[dict[str, Metrics]]) -> dict[str, Metrics]:
    """Mean of each metric; counts are summed."""
    found = _figures_of(runs, lambda values: float(np.mean(values)) if values else None)
    for target, metrics in found.items():
        for name in metrics:
            if name.startswith("n"):
                metrics[name] = sum(int(run[target].get(name) or 0) for run in runs)
    return found


def _spread(runs: Sequence[dict[str, Metrics]]) -> Spread:
    """Mean and standard deviation (of the sample) of each metric."""

    def summed(values: list[float]) -> dict[str, float | None]:
        return {
            "mean": float(np.mean(values)) if values else None,
            "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None,
        }

    return _figures_of(runs, summed)


def write_outcome(result: TrainResult, assay: Assay, views: Views) -> None:
    """Write the run folder, the model last."""
    config, out = result.config, result.config.folder
    figures: dict[str, Any] = {
        "validation": result.validation,
        "test": result.test,
        "test_of_predicting_the_training_mean": result.trivial,
        "best_epoch": result.best_epoch,
        "undefined": {
            part: {target: why for target, m in found.items() if (why := why_undefined(m))}
            for part, found in (("validation", result.validation), ("test", result.test))
        },
        "uncertainty": {
            part: {name: worth.figures() for name, worth in found.items()}
            for part, found in result.worth.items()
        },
        "spread": {
            "over": "folds" if config.folds else "seeds",
            "n": len(result.runs),
            **result.spread,
        },
        "choices": result.choices,
    }
    n_rows = len(result.rows)
    rows = {
        "row": pa.array(range(1, n_rows + 1)),
        "part": pa.array(_part_names(result)),
        "status": pa.array([row.status for row in result.rows]),
        "reason": pa.array([row.reason for row in result.rows]),
        "labels": pa.array([assay.problems(row) for row in range(n_rows)]),
    }
    log = [
        {"run": k + 1, "member": member + 1, **epoch}
        for k, run in enumerate(result.runs)
        for member, history in enumerate(run.histories)
        for epoch in history
    ]
    with Path(config.data).open("rb") as file:
        fingerprint = hashlib.file_digest(file, "sha256").hexdigest()
    members = _kept_models(result)
    names = result_names(result.targets, len(members), result.sureness)
    figures["choices"]["prediction_columns"] = names + domain_names(result.domain)
    # A model file leaves the machine, so it names files without their folders.
    named = {name: Path(getattr(config, name)).name for name in ("data", "out", "source")}
    choices = result.choices | {"source": named["source"]}
    notes = {
        "conformers": config.conformers,
        "config": to_dict(replace(config, **named)),
        "metrics": figures | {"choices": choices},
    }
    card = checkpoint.Card(
        trained_by="train",
        data=named["data"],
        data_fingerprint=fingerprint,
        views=views,
        notes=notes,
    )
    _write_json(out / "config.json", to_dict(config) | {"choices": result.choices})
    _write_json(out / "metrics.json", figures)
    write_table(pa.Table.from_pylist(log), out / "log.csv")
    write_table(pa.table(rows), out / "rows.csv")
    checkpoint.save(members, result.model, card, sureness=result.sureness, domain=result.domain)


def _kept_models(result: TrainResult) -> list[Model]:
    """Give the members of the model file: of the first seed, or of all folds in one scaling."""
    if not result.config.folds:
        return list(result.runs[0].models)
    members = []
    for run in result.runs:
        for model in run.models:
            _rescale(model, run.targets, result.targets)
            model.config = replace(model.config, targets=result.targets)
            members.append(model)
    return members


@torch.no_grad()
def _rescale(model: Model, found: Sequence[Target], wanted: Sequence[Target]) -> None:
    """Change the last layer so that the outputs, scaled otherwise, mean the same values."""
    assert model.property_head is not None
    last = model.property_head.out
    for old, new, where in zip(found, wanted, output_slices(found), strict=True):
        last.weight[where] *= old.scale / new.scale
        last.bias[where] = (last.bias[where] * old.scale + old.mean - new.mean) / new.scale


def _part_names(result: TrainResult) -> list[str]:
    """Say of each row of the file in which part, or in the test part of which fold, it is."""
    part_of = {int(row): name for name, rows in asdict(result.parts).items() for row in rows}
    if result.config.folds:
        tested = np.sort(np.concatenate([run.parts.test for run in result.runs]))
        where = dict(zip(tested.tolist(), result.parts.test.tolist(), strict=True))
        part_of = {
            where[int(place)]: f"fold {k + 1}"
            for k, run in enumerate(result.runs)
            for place in run.parts.test
        }
    return [part_of.get(row, "") for row in range(len(result.rows))]


def _write_json(path: Path, values: object) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
