"""Fine-tuning: a table of measured molecules in, a model file with honest test figures out."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float32, Int64
from rich.console import Console

from moleblend import checkpoint
from moleblend.assay import Assay, read_assay
from moleblend.blending import Views
from moleblend.choices import choices_of, told
from moleblend.columns import check_names
from moleblend.descriptors import joined_features
from moleblend.encoder import EncoderConfig
from moleblend.finetuning import Labelled
from moleblend.fingerprints import is_readable
from moleblend.heads import Target
from moleblend.molecule import Molecule, MoleculeError
from moleblend.outcome import TrainResult, outcome_of
from moleblend.predict import Row, prepare
from moleblend.repeats import find_repeats
from moleblend.rival import plan_forest
from moleblend.rows import Table, find_smiles_column, read_molecules
from moleblend.run_folder import reserved, write_run_folder
from moleblend.runs import Run, Start, run_on, trained_on
from moleblend.search import GoesOn, Search, finish, forget, is_unfinished, require_optuna, search
from moleblend.settings import TrainConfig
from moleblend.splits import SPLITS, Split, folds, given_split
from moleblend.tables import read_table

__all__ = ["Run", "TrainConfig", "TrainResult", "train"]


def train(
    config: TrainConfig,
    *,
    resume: bool = False,
    errors: Literal["keep", "raise"] = "keep",
    console: Console | None = None,
) -> TrainResult:
    """Fine-tune a model on a table and leave a run folder.

    The folder holds `model.safetensors`, `metrics.json`, `config.json`, `log.csv` (per epoch) and
    `rows.csv` (part, status and reason of every row of the file); it is written when all is done,
    but for `search.csv`, which has each trial of a search as soon as it is over. The test part is
    read once, after all choices.

    Args:
        config: the run.
        resume: go on with the trials of a search that was stopped, or add some.
        errors: a row without a usable molecule is told and left out, or raises an error.
        console: where progress and every choice is shown.

    Raises:
        FileNotFoundError: the table or the source is not there.
        ValueError: no target is clear, a column is missing, most of its cells are no labels, or a
            part is left without labels.
        MoleculeError: a row has no usable molecule and `errors` is "raise".
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
        relation=config.relation,
        not_targets=[smiles, *([config.split] if config.split not in SPLITS else [])],
    )
    check_names(
        [
            Target(m.name, m.kind, log10=m.name in config.log_scale, classes=m.classes)
            for m in assay.measurements
        ],
        max(config.ensemble, config.folds),
    )
    views, rows = _read_rows(table, smiles, config, encoder)
    if errors == "raise":
        for k, row in enumerate(rows):
            if row.molecule is None:
                raise MoleculeError(f"{table.source}, {table.place(k)}: {row.reason}")
    rows = [_with_label(row, assay, k) for k, row in enumerate(rows)]
    usable = np.array([k for k, row in enumerate(rows) if row.molecule is not None], np.int64)
    if not len(usable):
        reason = f": the first is {rows[0].status} ({rows[0].reason})" if rows else ""
        raise ValueError(f"{config.data}: none of its {len(rows)} rows can be used{reason}")
    molecules = [row.molecule for row in rows if row.molecule is not None]
    may_search_features = config.features == ("auto",)
    config, features_note = _settle_features(config, views, molecules)
    features = joined_features([molecule.smiles for molecule in molecules], config.joined)
    data = Labelled(molecules, assay.values[usable], assay.bounds[usable], features)
    splits = _splits(table, usable, data, config)
    classes = {measured.name: measured.classes for measured in assay.measurements}
    repeats = find_repeats(
        [molecule.smiles for molecule in molecules],
        usable,
        data.labels,
        data.bounds,
        classes,
        splits,
    )
    n_trees, forest_note = plan_forest(config.forest, assay, data, splits, config.seeds)

    def chosen(config: TrainConfig, data: Labelled) -> dict[str, Any]:
        choices = choices_of(config, assay, smiles, views, len(rows), data, splits)
        choices["repeats"] = repeats.to_dict()
        choices["notes"] += repeats.sentences()
        choices["notes"] += [note for note in (features_note, forest_note) if note]
        return choices

    choices = chosen(config, data)
    for sentence in [*told(choices, assay, table), *_lost(rows, table)]:
        say(sentence)

    with reserved(config.folder):
        start, found = Start(source, encoder, views, assay), None
        if config.search:
            is_open = may_search_features and bool(config.joined)
            found, data = _searched(
                config, start, data, splits[0], origin, say, has_features=is_open, resume=resume
            )
            config = found.config
            choices = chosen(config, data)
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
                runs.append(run_on(config, seed, start, data, split, n_trees, console))
        result = outcome_of(
            config, runs, data, usable, rows, choices, assay.values, repeats, forest_note
        )
        result = replace(result, search=found)
        for note in choices["sureness"]["notes"]:
            say(f"note: {note}")
        if found is None:
            forget(config.folder)
        write_run_folder(result, assay, views)
        if found is not None:
            finish(config.folder)
    return result


def _searched(
    config: TrainConfig,
    start: Start,
    data: Labelled,
    split: Split,
    model: Path | None,
    say: Callable[[str], None],
    *,
    has_features: bool,
    resume: bool,
) -> tuple[Search, Labelled]:
    """Search settings on the training and the validation part.

    Returns:
        What was found, and the molecules with the features that it joins to them.
    """
    smiles = [molecule.smiles for molecule in data.molecules]
    joined: dict[tuple[str, ...], Float32[np.ndarray, "n f"]] = {config.joined: data.features}

    def with_features(kinds: tuple[str, ...]) -> Labelled:
        if kinds not in joined and len(kinds) > 1:
            alone = [with_features((kind,)).features for kind in kinds]
            joined[kinds] = np.concatenate(alone, 1)
        elif kinds not in joined:
            joined[kinds] = joined_features(smiles, kinds)
        return replace(data, features=joined[kinds])

    def attempt(settled: TrainConfig, goes_on: GoesOn) -> None:
        given = with_features(settled.joined)
        parts = given.part(split.train), given.part(split.validation)
        is_weighted = settled.pos_weight == "on"
        quiet = Console(quiet=True)
        trained_on(settled, settled.seed, start, *parts, quiet, is_weighted, goes_on)

    found = search(
        config,
        attempt,
        say,
        model=model,
        has_classes=any(measured.kind == "binary" for measured in start.assay.measurements),
        has_features=has_features,
        resume=resume,
    )
    return found, with_features(found.config.joined)


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
    # What `auto` makes of the features depends on the rows, and costs none.
    joined = () if config.features == ("auto",) else config.joined
    return views, prepare(items, views, encoder.max_atoms, config.conformers, joined)


def _settle_features(
    config: TrainConfig, views: Views, molecules: Sequence[Molecule]
) -> tuple[TrainConfig, str]:
    """Say which features are joined, where that was left open.

    Returns:
        The configuration, and why nothing is joined.
    """
    if config.features != ("auto",):
        return config, ""
    if views == "3d":
        return replace(config, features=("none",)), ""
    unreadable = [molecule.smiles for molecule in molecules if not is_readable(molecule.smiles)]
    if unreadable:
        return replace(config, features=("none",)), (
            "no fingerprints are joined, since RDKit does not read the SMILES of some usable rows "
            f"({len(unreadable):,}, such as {unreadable[0]}); --features ecfp4 joins them and "
            "loses these rows"
        )
    return replace(config, features=("ecfp4",)), ""


def _lost(rows: Sequence[Row], table: Table) -> list[str]:
    """Say how many rows are left out, and why the first of each status is."""
    found: dict[str, list[int]] = {}
    for k, row in enumerate(rows):
        if row.molecule is None:
            found.setdefault(row.status, []).append(k)
    return [
        f"rows left out as {status}: {len(places):,}; the first is {table.place(places[0])}: "
        f"{rows[places[0]].reason}"
        for status, places in found.items()
    ]


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
    if config.folds and config.split not in SPLITS:
        raise ValueError(f"folds are made by {', '.join(SPLITS)}, not by a column {config.split!r}")
    if config.split in ("scaffold", "balanced", "cluster"):
        for row, text in zip(usable, smiles, strict=True):
            if not is_readable(text):
                raise ValueError(
                    f"{table.source}, {table.place(int(row))}: RDKit does not read {text}, as it "
                    f"wrote this molecule, so the {config.split} split has no place for it; "
                    "--split random or a column has one"
                )
    if config.folds:
        return folds(config.split, smiles, config.folds, config.seed)
    if config.split in SPLITS:
        split = SPLITS[config.split](smiles, (0.8, 0.1, 0.1), config.seed)
    else:
        split = given_split(_named_parts(table, usable, config.split))
    for name in ("train", "validation", "test"):
        if not len(getattr(split, name)):
            is_by_kind = config.split in SPLITS and config.split != "random" and len(usable) >= 10
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
