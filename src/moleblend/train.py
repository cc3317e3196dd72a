"""Fine-tuning: a table of measured molecules in, a model file with honest test figures out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64
from rich.console import Console

from moleblend import checkpoint
from moleblend.assay import Assay, read_assay
from moleblend.blending import Views
from moleblend.choices import choices_of, told
from moleblend.columns import in_units, mean_of_members, spread_of_members
from moleblend.domain import Domain, Nearness
from moleblend.encoder import EncoderConfig
from moleblend.finetuning import FineTuning, Labelled, fit, score
from moleblend.fingerprints import FEATURES, joined_features
from moleblend.heads import Model, ModelConfig, Readout, Target, output_slices
from moleblend.metrics import Metrics, best_threshold, regression_metrics
from moleblend.molecule import Molecule, MoleculeError
from moleblend.outcome import Run, TrainResult, outcome_of
from moleblend.predict import Row, nearness_of, prepare
from moleblend.repeats import find_repeats
from moleblend.rival import learn_forest, plan_forest
from moleblend.run_folder import write_run_folder
from moleblend.search import GoesOn, Search, forget, is_unfinished, require_optuna, search
from moleblend.settings import TrainConfig
from moleblend.splits import SPLITS, Split, folds, given_split
from moleblend.sureness import Sureness
from moleblend.tables import Table, find_smiles_column, read_molecules, read_table
from moleblend.worth import said_of

__all__ = ["Run", "TrainConfig", "TrainResult", "train"]


@dataclass(frozen=True, eq=False)
class _Start:
    """What every training of a run begins with.

    Attributes:
        source: the model that is started from; None for random weights.
        encoder: its settings.
        views: what is used of each molecule.
        assay: the targets.
        vectors: what the source gave for molecules, frozen; each is computed once in a run.
    """

    source: Model | None
    encoder: EncoderConfig
    views: Views
    assay: Assay
    vectors: dict[Molecule, Float32[torch.Tensor, "c d"]] = field(default_factory=dict)


def train(
    config: TrainConfig, *, resume: bool = False, console: Console | None = None
) -> TrainResult:
    """Fine-tune a model on a table and leave a run folder.

    The folder holds `model.safetensors`, `metrics.json`, `config.json`, `log.csv` (per epoch) and
    `rows.csv` (part, status and reason of every row of the file); it is written when all is done,
    but for `search.csv`, which has each trial of a search as soon as it is over. The test part is
    read once, after all choices.

    Args:
        config: the run.
        resume: go on with the trials of a search that was stopped, or add some.
        console: where progress and every choice is shown.

    Raises:
        FileNotFoundError: the table or the source is not there.
        ValueError: no target is clear, a column is missing, most of its cells are no labels, or a
            part is left without labels.
        FloatingPointError: the loss is no longer a number.
        KeyboardInterrupt: Ctrl-C was pressed, or SIGTERM came; no model is written then.
    """
    console = console or Console(stderr=True)

    def say(text: str) -> None:
        console.print(text, soft_wrap=True, highlight=False, markup=False)

    _check_out(config, resume=resume)
    if config.search:
        require_optuna()
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device cuda was asked for, but there is no GPU that torch can use")
    is_new = config.source == "scratch"
    origin = None if is_new else checkpoint.locate(config.source)
    source = None if origin is None else checkpoint.load(origin)
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
    classes = {measured.name: measured.classes for measured in assay.measurements}
    repeats = find_repeats(
        [molecule.smiles for molecule in molecules],
        usable,
        data.labels,
        data.bounds,
        classes,
        splits,
    )
    choices["repeats"] = repeats.to_dict()
    choices["notes"] += repeats.sentences()
    n_trees, forest_note = plan_forest(config.forest, assay, data, splits, config.seeds)
    choices["notes"] += [forest_note] if forest_note else []
    for sentence in told(choices, assay, table):
        say(sentence)

    start, found = _Start(source, encoder, views, assay), None
    if config.search:
        found, data = _searched(config, start, data, splits[0], origin, say, resume=resume)
        config = found.config
        choices = choices_of(config, assay, smiles, views, len(rows), data, splits)
        choices["search"] = found.account()
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
            runs.append(_run(config, seed, start, data, split, n_trees, console))
    result = outcome_of(
        config, runs, data, usable, rows, choices, assay.values, repeats, forest_note
    )
    result = replace(result, search=found)
    for note in choices["sureness"]["notes"]:
        say(f"note: {note}")
    if found is None:
        forget(config.folder)
    write_run_folder(result, assay, views)
    return result


def _searched(
    config: TrainConfig,
    start: _Start,
    data: Labelled,
    split: Split,
    model: Path | None,
    say: Callable[[str], None],
    *,
    resume: bool,
) -> tuple[Search, Labelled]:
    """Search settings on the training and the validation part.

    Returns:
        What was found, and the molecules with the features that it joins to them.
    """
    smiles = [molecule.smiles for molecule in data.molecules]
    joined: dict[tuple[str, ...], Float32[np.ndarray, "n f"]] = {config.features: data.features}
    try:
        for kind in () if config.features else FEATURES:
            joined[kind,] = joined_features(smiles, [kind])
    except MoleculeError as error:  # a molecule from a mol block whose SMILES RDKit refuses
        say(f"features are not searched: {error}")

    def with_features(kinds: tuple[str, ...]) -> Labelled:
        if kinds not in joined:
            joined[kinds] = np.concatenate([joined[kind,] for kind in kinds], 1)
        return replace(data, features=joined[kinds])

    def attempt(settled: TrainConfig, goes_on: GoesOn) -> None:
        given = with_features(settled.features)
        parts = given.part(split.train), given.part(split.validation)
        is_weighted = settled.pos_weight == "on"
        quiet = Console(quiet=True)
        _trained(settled, settled.seed, start, *parts, quiet, is_weighted, goes_on)

    found = search(
        config,
        attempt,
        say,
        model=model,
        has_classes=any(measured.kind == "binary" for measured in start.assay.measurements),
        has_features=len(joined) > len(FEATURES),
        resume=resume,
    )
    return found, with_features(found.config.features)


def _trained(
    config: TrainConfig,
    seed: int,
    start: _Start,
    training: Labelled,
    validation: Labelled,
    console: Console,
    is_weighted: bool,
    goes_on: GoesOn | None = None,
) -> FineTuning:
    """Train one model; it then has the weights of the epoch that was best on validation."""
    source, targets = start.source, _targets(training, start.assay, config)
    model_config = ModelConfig(
        encoder=start.encoder,
        heads=None,
        targets=targets,
        head_dropout=config.head_dropout,
        readout=_readout(config, source),
        features=config.features,
        n_features=training.features.shape[1],
    )
    torch.manual_seed(seed)
    model = checkpoint.transfer(source, model_config) if source else Model(model_config)
    _scale_features(model, training, config)
    run = FineTuning(
        model,
        config,
        start.views,
        training,
        validation,
        console,
        seed=seed,
        weights=_class_weights(training, targets) if is_weighted else None,
        vectors=start.vectors if source else None,
        goes_on=goes_on,
    )
    fit(run)
    return run


def _run(
    config: TrainConfig,
    seed: int,
    start: _Start,
    data: Labelled,
    split: Split,
    n_trees: int,
    console: Console,
) -> Run:
    """Train one model or the members of an ensemble, then read the test part."""
    training, validation, test = map(data.part, (split.train, split.validation, split.test))
    ways = {"off": (False,), "on": (True,), "try": (False, True)}[config.pos_weight]

    def trained(seed: int, is_weighted: bool) -> FineTuning:
        return _trained(config, seed, start, training, validation, console, is_weighted)

    tried = {way: trained(seed, way) for way in ways}
    is_weighted = max(ways, key=lambda way: tried[way].best_figure)
    if len(ways) > 1:
        said = "; ".join(f"{'with' if w else 'without'} {tried[w].best_figure:.4f}" for w in ways)
        console.print(f"weights of class 1, judged on validation: {said}", soft_wrap=True)
    members = [tried[is_weighted]]
    members += [trained(seed + k, is_weighted) for k in range(1, config.ensemble)]
    targets = members[0].model.config.targets

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
        member.model.config = replace(member.model.config, targets=final)
    raw_test, test_spread = answer(test)
    predicted = sureness.calibrated(final, raw_test)
    near_validation, near_test = (_nearness(domain, members[0], p) for p in (validation, test))
    said = {
        name: said_of(sureness, final, *given, part.labels, part.bounds, near.distance)
        for name, part, near, given in (
            ("validation", validation, near_validation, (raw, spread)),
            ("test", test, near_test, (raw_test, test_spread)),
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
        nearness=near_test,
        rival=learn_forest(n_trees, final, training, validation, test, seed),
        notes=(*sureness.notes, *missing),
    )


def _readout(config: TrainConfig, source: Model | None) -> Readout:
    if config.readout != "auto":
        return config.readout
    return source.config.readout if source else "mean"


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


def _nearness(domain: Domain | None, member: FineTuning, part: Labelled) -> Nearness:
    """Say how near molecules are to the training part; nothing is known without a domain."""
    if domain is None:
        return Nearness.unknown(len(part))
    return nearness_of(domain, member.embeddings(part), [m.smiles for m in part.molecules])


def _check_out(config: TrainConfig, *, resume: bool) -> None:
    """Refuse a folder that cannot be written to, before any work is done."""
    out = config.folder
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out}: this is a file, a folder was expected")
    if (out / "state.ckpt").exists():
        raise ValueError(f"{out} holds a pretraining run, another --out keeps it whole")
    if resume:
        if not (config.search and (out / "search.csv").is_file()):
            raise ValueError(f"{out}: there is no search to be resumed")
        return
    if is_unfinished(out):
        raise ValueError(
            f"{out} holds an unfinished search: --resume goes on with it, removing the folder "
            "begins anew"
        )
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
            is_by_kind = config.split in SPLITS and config.split != "random"
            hint = "; --split random makes parts of any table" if is_by_kind else ""
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
