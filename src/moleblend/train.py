"""Fine-tuning: a table of measured molecules in, a model file with honest test figures out."""

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
from rich.console import Console

from moleblend import checkpoint
from moleblend.assay import Assay, read_assay
from moleblend.blending import Views
from moleblend.choices import choices_of, told
from moleblend.config import to_dict
from moleblend.domain import Domain
from moleblend.encoder import EncoderConfig
from moleblend.files import replacing
from moleblend.finetuning import FineTuning, Labelled, fit, score
from moleblend.fingerprints import FEATURES, joined_features
from moleblend.heads import Model, ModelConfig, Target, output_slices
from moleblend.metrics import Metrics, best_threshold, regression_metrics, why_undefined
from moleblend.molecule import Molecule
from moleblend.predict import (
    Row,
    domain_names,
    in_units,
    mean_of_members,
    prepare,
    result_names,
    spread_of_members,
)
from moleblend.settings import TrainConfig
from moleblend.splits import SPLITS, Split, folds, given_split
from moleblend.sureness import Sureness
from moleblend.tables import Table, find_smiles_column, read_molecules, read_table, write_table
from moleblend.worth import Said, Worth, joined, said_of, worth_of

__all__ = ["Run", "TrainConfig", "TrainResult", "train"]

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


def train(config: TrainConfig, *, console: Console | None = None) -> TrainResult:
    """Fine-tune a model on a table and leave a run folder.

    The folder holds `model.safetensors`, `metrics.json`, `config.json`, `log.csv` (per epoch) and
    `rows.csv` (part, status and reason of every row of the file); it is written when all is done.
    The test part is read once, after all choices.

    Args:
        config: the run.
        console: where progress and every choice is shown.

    Raises:
        FileNotFoundError: the table or the source is not there.
        ValueError: no target is clear, a column is missing, most of its cells are no labels, or a
            part is left without labels.
        FloatingPointError: the loss is no longer a number.
        KeyboardInterrupt: Ctrl-C was pressed, or SIGTERM came; nothing is written then.
    """
    console = console or Console(stderr=True)

    def say(text: str) -> None:
        console.print(text, soft_wrap=True, highlight=False, markup=False)

    _check_out(config)
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device cuda was asked for, but there is no GPU that torch can use")
    is_new = config.source == "scratch"
    source = None if is_new else checkpoint.load(checkpoint.locate(config.source))
    encoder = source.config.encoder if source else config.encoder
    if config.encoder not in (encoder, EncoderConfig()):
        raise ValueError(
            f"{config.source}: its encoder is taken as it is, but other encoder settings came; "
            "leave them out"
        )
    table = read_table(config.data)
    for note in table.notes:
        say(note)
    if not len(table):
        raise ValueError(f"{config.data}: none of its 0 rows can be used")
    smiles = (
        "" if table.blocks and not config.smiles else config.smiles or find_smiles_column(table)
    )
    assay = read_assay(
        table,
        config.target,
        tasks=config.task,
        units=config.units,
        log_scale=config.log_scale,
        not_targets=[smiles, *([config.split] if config.split not in SPLITS else [])],
    )
    views, rows = _read_rows(table, smiles, config, encoder)
    rows = [_with_label(row, assay, k) for k, row in enumerate(rows)]
    usable = np.array([k for k, row in enumerate(rows) if row.molecule is not None], np.int64)
    if not len(usable):
        reason = f": the first is {rows[0].status} ({rows[0].reason})" if rows else ""
        raise ValueError(f"{config.data}: none of its {len(rows)} rows can be used{reason}")
    molecules = [row.molecule for row in rows if row.molecule is not None]
    features = joined_features([molecule.smiles for molecule in molecules], config.features)
    data = Labelled(molecules, assay.values[usable], assay.bounds[usable], features)
    splits = _splits(table, usable, data, config)
    choices = choices_of(config, assay, smiles, views, len(rows), data, splits)
    for sentence in told(choices, assay, table):
        say(sentence)

    runs = []
    for k, split in enumerate(splits):
        for repeat in range(config.seeds):
            if len(splits) * config.seeds > 1:
                say(
                    f"fold {k + 1} of {len(splits)}"
                    if config.folds
                    else f"seed {config.seed + repeat}"
                )
            seed = config.seed + repeat * config.ensemble
            runs.append(_run(config, seed, source, encoder, views, assay, data, split, console))
    result = _result(config, runs, data, usable, rows, choices)
    for note in choices["sureness"]["notes"]:
        say(f"note: {note}")
    _write(result, assay, views)
    return result


def _run(
    config: TrainConfig,
    seed: int,
    source: Model | None,
    encoder: EncoderConfig,
    views: Views,
    assay: Assay,
    data: Labelled,
    split: Split,
    console: Console,
) -> Run:
    """Train one model or the members of an ensemble, then read the test part."""
    training, validation, test = map(data.part, (split.train, split.validation, split.test))
    targets = _targets(training, assay, config)
    model_config = ModelConfig(
        encoder=encoder,
        heads=None,
        targets=targets,
        head_dropout=config.head_dropout,
        readout=source.config.readout if source else "mean",
        features=config.features,
        n_features=training.features.shape[1],
    )
    weights = _class_weights(training, targets)
    ways = {"off": (False,), "on": (True,), "try": (False, True)}[config.pos_weight]

    def trained(seed: int, is_weighted: bool) -> FineTuning:
        torch.manual_seed(seed)
        model = checkpoint.transfer(source, model_config) if source else Model(model_config)
        _scale_features(model, training, config)
        given = weights if is_weighted else None
        run = FineTuning(
            model, config, views, training, validation, console, seed=seed, weights=given
        )
        fit(run)
        return run

    tried = {way: trained(seed, way) for way in ways}
    is_weighted = max(ways, key=lambda way: tried[way].best_figure)
    if len(ways) > 1:
        said = "; ".join(f"{'with' if w else 'without'} {tried[w].best_figure:.4f}" for w in ways)
        console.print(f"weights of class 1, judged on validation: {said}", soft_wrap=True)
    members = [tried[is_weighted]]
    members += [trained(seed + k, is_weighted) for k in range(1, config.ensemble)]

    def answer(
        part: Labelled,
    ) -> tuple[Float64[np.ndarray, "m o"], Float64[np.ndarray, "m o"] | None]:
        values = np.stack([in_units(member.outputs(part), targets) for member in members])
        return mean_of_members(values, targets), spread_of_members(values, targets)

    raw, spread = answer(validation)
    sureness = Sureness.fit(targets, raw, spread, validation.labels, validation.bounds)
    domain, missing = _domain(members[0], training, validation, config)
    judged = sureness.calibrated(targets, raw)
    slices = output_slices(targets)
    final = tuple(
        replace(target, threshold=best_threshold(judged[:, where.start], validation.labels[:, k]))
        if target.kind == "binary"
        else target
        for k, (target, where) in enumerate(zip(targets, slices, strict=True))
    )
    for member in members:
        member.model.config = replace(model_config, targets=final)
    raw_test, test_spread = answer(test)
    predicted = sureness.calibrated(final, raw_test)
    said = {
        name: said_of(
            sureness, final, *given, part.labels, part.bounds, _distance(domain, members[0], part)
        )
        for name, part, given in (
            ("validation", validation, (raw, spread)),
            ("test", test, (raw_test, test_spread)),
        )
    }
    means = in_units(np.zeros((len(test), predicted.shape[1])), final)
    return Run(
        seed=seed,
        parts=split,
        targets=final,
        models=tuple(member.model for member in members),
        histories=tuple(member.history for member in members),
        best_epochs=tuple(member.best_epoch for member in members),
        validation=_scored(final, raw, judged, validation),
        test=_scored(final, raw_test, predicted, test),
        trivial={
            target.name: regression_metrics(
                means[:, where.start], test.labels[:, k], test.bounds[:, k], log10=target.log10
            )
            for k, (target, where) in enumerate(zip(final, slices, strict=True))
            if target.kind == "regression"
        },
        predicted=predicted,
        raw=raw_test,
        is_weighted=is_weighted,
        judged=raw,
        sureness=sureness,
        domain=domain,
        said=said,
        notes=(*sureness.notes, *missing),
    )


def _scored(
    targets: tuple[Target, ...],
    raw: Float64[np.ndarray, "m o"],
    right: Float64[np.ndarray, "m o"],
    part: Labelled,
) -> dict[str, Metrics]:
    """Score probabilities that are put right, but areas under curves before.

    Isotonic regression ties molecules and was fitted to validation, whose order it makes better
    than it is.
    """
    found, before = score(targets, right, part), score(targets, raw, part)
    for name, metrics in found.items():
        metrics |= {key: value for key, value in before[name].items() if "AUC" in key}
    return found


def _domain(
    member: FineTuning, training: Labelled, validation: Labelled, config: TrainConfig
) -> tuple[Domain | None, list[str]]:
    """Keep the training molecules, by their places in that part; or say why this cannot be."""
    try:
        domain = Domain.fit(
            member.embeddings(training),
            [molecule.smiles for molecule in training.molecules],
            np.arange(len(training)),
            member.embeddings(validation),
            [molecule.smiles for molecule in validation.molecules],
            keep_smiles=config.keep_training_smiles,
        )
    except ValueError as error:  # too few molecules, or RDKit refuses one that came as a mol block
        return None, [f"predictions come without domain, similarity and nearest: {error}"]
    return domain, []


def _distance(
    domain: Domain | None, member: FineTuning, part: Labelled
) -> Float64[np.ndarray, " m"]:
    """Distance of molecules to the training set; NaN without one."""
    if domain is None:
        return np.full(len(part), np.nan)
    return domain.distance(member.embeddings(part))


def _result(
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


def _check_out(config: TrainConfig) -> None:
    """Refuse a folder that cannot be written to, before any work is done."""
    out = config.folder
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out}: this is a file, a folder was expected")
    if (out / "state.ckpt").exists():
        raise ValueError(f"{out} holds a pretraining run, another --out keeps it whole")
    if not config.out and out.exists():
        raise ValueError(f"{out} is there already; --out names another folder, or this one again")


def _read_rows(
    table: Table, smiles: str, config: TrainConfig, encoder: EncoderConfig
) -> tuple[Views, list[Row]]:
    """Read the molecules and decide what is used of them."""
    items = list(read_molecules(table, smiles=smiles or None, features=encoder.features))
    views: Views
    if config.views == "auto":
        has_3d = config.conformers > 0 or any(
            isinstance(item, Molecule) and item.n_conformers for item in items
        )
        views = "both" if has_3d else "2d"
    else:
        views = config.views
    return views, prepare(items, views, encoder.max_atoms, config.conformers)


def _with_label(row: Row, assay: Assay, k: int) -> Row:
    """Set a row without any label aside."""
    if row.molecule is not None and all(np.isnan(m.values[k]) for m in assay.measurements):
        return Row(None, "no_label", "no target has a label")
    return row


def _splits(
    table: Table, usable: Int64[np.ndarray, " n"], data: Labelled, config: TrainConfig
) -> tuple[Split, ...]:
    """Split the usable rows, once or into folds; every part needs some."""
    smiles = [molecule.smiles for molecule in data.molecules]
    if config.folds and config.split in SPLITS:
        return folds(config.split, smiles, config.folds, config.seed)
    if config.folds:
        raise ValueError(f"folds are made by {', '.join(SPLITS)}, not by a column {config.split!r}")
    if config.split in SPLITS:
        split = SPLITS[config.split](smiles, (0.8, 0.1, 0.1), config.seed)
    else:
        split = given_split(_named_parts(table, usable, config.split))
    for name in ("train", "validation", "test"):
        if not len(getattr(split, name)):
            hint = "; --split random makes parts of any table" if config.split in SPLITS else ""
            raise ValueError(
                f"{config.data}: the {config.split} split leaves no row in the {name} part "
                f"({len(usable)} rows can be used){hint}"
            )
    return (split,)


def _named_parts(table: Table, usable: Int64[np.ndarray, " n"], column: str) -> list[str]:
    """Read the part of each usable row; an error names the row as the file has it."""
    cells = table.column(column).to_pylist()
    names = []
    for row in usable:
        name = "" if cells[row] is None else str(cells[row])
        try:
            given_split([name])
        except ValueError as error:
            raise ValueError(
                f"{table.source}, {table.place(int(row))}: column {column!r} should hold train, "
                f"validation or test, not {name!r}"
            ) from error
        names.append(name)
    return names


def _targets(training: Labelled, assay: Assay, config: TrainConfig) -> tuple[Target, ...]:
    """Scale regression targets by the training labels; by bounds if there is nothing else."""
    targets = []
    for k, (measured, unit) in enumerate(zip(assay.measurements, assay.units, strict=True)):
        labels, is_exact = training.labels[:, k], training.bounds[:, k] == 0
        seen = labels[~np.isnan(labels)]
        if not len(seen):
            raise ValueError(
                f"{config.data}: target {measured.name!r} has no label in the training part"
            )
        if measured.kind != "regression":
            targets.append(Target(measured.name, measured.kind, classes=measured.classes))
            continue
        exact = labels[~np.isnan(labels) & is_exact]
        seen = exact if len(exact) else seen
        log10 = measured.name in config.log_scale
        seen = np.log10(seen) if log10 else seen
        scale = float(seen.std()) if np.ptp(seen) > 0 else 1.0
        target = Target(measured.name, "regression", unit, float(seen.mean()), scale, log10)
        targets.append(target)
    return tuple(targets)


def _class_weights(training: Labelled, targets: Sequence[Target]) -> torch.Tensor:
    """Negatives per positive of each binary target, at most 100; 1 for the others."""
    weights = np.ones(len(targets), np.float32)
    for k, target in enumerate(targets):
        n_positive = np.nansum(training.labels[:, k] == 1)
        if target.kind == "binary" and n_positive:
            weights[k] = min(np.nansum(training.labels[:, k] == 0) / n_positive, 100)
    return torch.from_numpy(weights)


def _scale_features(model: Model, training: Labelled, config: TrainConfig) -> None:
    """Standardise descriptors by the training part; counts stay as they are."""
    start = 0
    for kind in config.features:
        where = slice(start, start := start + FEATURES[kind])
        if kind == "descriptors" and model.property_head is not None:
            found = torch.from_numpy(training.features[:, where])
            spread = found.std(0, correction=0)
            model.property_head.feature_mean[where] = found.mean(0)
            model.property_head.feature_scale[where] = torch.where(spread > 0, spread, 1)


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


def _write(result: TrainResult, assay: Assay, views: Views) -> None:
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
    card = checkpoint.Card(
        trained_by="train",
        data=Path(config.data).name,
        data_fingerprint=fingerprint,
        views=views,
        notes={"conformers": config.conformers, "config": to_dict(config), "metrics": figures},
    )
    members = _kept_models(result)
    names = result_names(result.targets, len(members), result.sureness)
    figures["choices"]["prediction_columns"] = names + domain_names(result.domain)
    _write_json(out / "config.json", to_dict(config) | {"choices": result.choices})
    _write_json(out / "metrics.json", figures)
    write_table(pa.Table.from_pylist(log), out / "log.csv")
    write_table(pa.table(rows), out / "rows.csv")
    checkpoint.save(members, result.model, card, sureness=result.sureness, domain=result.domain)


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
