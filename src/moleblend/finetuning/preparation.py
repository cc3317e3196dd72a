"""A table of measurements made ready for fine-tuning: molecules, labels and parts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Int64

from moleblend.chem.descriptors import molecule_features
from moleblend.chem.fingerprints import is_readable
from moleblend.chem.molecule import Molecule, MoleculeError
from moleblend.data.dataset import MoleculeDataset
from moleblend.data.duplicates import Duplicates, find_duplicates
from moleblend.data.formats import read_table
from moleblend.data.labels.target_detection import TargetColumns, read_target_columns
from moleblend.data.splits import SPLITS, Split, folds, given_split
from moleblend.data.table import Table, find_smiles_column, read_molecules
from moleblend.data.targets import Target
from moleblend.evaluation.baseline import plan_forest
from moleblend.finetuning.config import TrainConfig
from moleblend.finetuning.resolved_settings import describe_settings, resolve_settings
from moleblend.finetuning.run import Start
from moleblend.model import checkpoint
from moleblend.model.blending import ShownViews
from moleblend.model.encoder import EncoderConfig
from moleblend.prediction.inputs import Row, prepare
from moleblend.prediction.outputs import check_names


@dataclass(frozen=True, eq=False)
class Prepared:
    """What a run learns from, and all that was decided on the way there.

    Attributes:
        config: of the run, in which the features are settled.
        start: what every training begins with.
        origin: file of the model that is started from; None for random weights.
        table: as it was read.
        smiles: its SMILES column; empty where mol blocks are read.
        rows: status and reason of every row of the table.
        usable: the rows that have a molecule and a label, counted from 0.
        data: these.
        splits: one, or the folds; they count among the usable rows.
        duplicates: molecules that stand in several rows.
        n_trees: of the forest.
        features_note: why nothing is joined; may be empty.
        forest_note: what should be known of the number of trees; may be empty.
    """

    config: TrainConfig
    start: Start
    origin: Path | None
    table: Table
    smiles: str
    rows: list[Row]
    usable: Int64[np.ndarray, " n"]
    data: MoleculeDataset
    splits: tuple[Split, ...]
    duplicates: Duplicates
    n_trees: int
    features_note: str
    forest_note: str

    def choices(self, config: TrainConfig, data: MoleculeDataset) -> dict[str, Any]:
        """Gather what was decided, with the settings and features that a search has found."""
        target_columns, views = self.start.target_columns, self.start.views
        found = resolve_settings(
            config, target_columns, self.smiles, views, len(self.rows), data, self.splits
        )
        found["repeats"] = self.duplicates.to_dict()
        found["notes"] += self.duplicates.sentences()
        found["notes"] += [note for note in (self.features_note, self.forest_note) if note]
        return found

    def describe(self, choices: dict[str, Any]) -> list[str]:
        """Say every choice, and which rows are left out, in a sentence each."""
        return [
            *describe_settings(choices, self.start.target_columns, self.table),
            *_lost(self.rows, self.table),
        ]


def prepared(
    config: TrainConfig, errors: Literal["keep", "raise"], say: Callable[[str], None]
) -> Prepared:
    """Read the table and the source of a run, and settle what they decide.

    Args:
        config: of the run.
        errors: a row without a usable molecule is left out, or raises an error.
        say: is told what is to be known of the file, before anything else may be wrong with it.

    Raises:
        FileNotFoundError: the table or the source is not there.
        ValueError: no target is clear, a column is missing, most of its cells are no labels, or a
            part is left without labels.
        MoleculeError: a row has no usable molecule and `errors` is "raise".
    """
    origin = None if config.source == "scratch" else checkpoint.locate(config.source)
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
    target_columns = _read_assay(table, smiles, config)
    views, rows = _read_rows(table, smiles, config, encoder)
    if errors == "raise":
        for k, row in enumerate(rows):
            if row.molecule is None:
                raise MoleculeError(f"{table.source}, {table.place(k)}: {row.reason}")
    rows = [_with_label(row, target_columns, k) for k, row in enumerate(rows)]
    usable = np.array([k for k, row in enumerate(rows) if row.molecule is not None], np.int64)
    if not len(usable):
        reason = f": the first is {rows[0].status} ({rows[0].reason})" if rows else ""
        raise ValueError(f"{config.data}: none of its {len(rows)} rows can be used{reason}")
    molecules = [row.molecule for row in rows if row.molecule is not None]
    config, features_note = _settle_features(config, views, molecules)
    texts = [molecule.smiles for molecule in molecules]
    features = molecule_features(texts, config.joined)
    data = MoleculeDataset(
        molecules, target_columns.values[usable], target_columns.censoring[usable], features
    )
    splits = _splits(table, usable, data, config)
    classes = {
        label_column.name: label_column.classes for label_column in target_columns.label_columns
    }
    duplicates = find_duplicates(texts, usable, data.labels, data.censoring, classes, splits)
    kinds = [label_column.kind for label_column in target_columns.label_columns]
    n_trees, forest_note = plan_forest(config.forest, kinds, data, splits, config.seeds)
    return Prepared(
        config=config,
        start=Start(source, encoder, views, target_columns),
        origin=origin,
        table=table,
        smiles=smiles,
        rows=rows,
        usable=usable,
        data=data,
        splits=splits,
        duplicates=duplicates,
        n_trees=n_trees,
        features_note=features_note,
        forest_note=forest_note,
    )


def _read_assay(table: Table, smiles: str, config: TrainConfig) -> TargetColumns:
    """Read the labels; targets whose predictions would have the same names are refused."""
    target_columns = read_target_columns(
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
            for m in target_columns.label_columns
        ],
        max(config.ensemble, config.folds),
    )
    return target_columns


def _read_rows(
    table: Table, smiles: str, config: TrainConfig, encoder: EncoderConfig
) -> tuple[ShownViews, list[Row]]:
    """Read the molecules and decide what is used of them."""
    items = list(read_molecules(table, smiles=smiles or None, features=encoder.features))
    views: ShownViews
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
    config: TrainConfig, views: ShownViews, molecules: Sequence[Molecule]
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


def _with_label(row: Row, target_columns: TargetColumns, k: int) -> Row:
    """Set a row without any label aside."""
    if row.molecule is not None and all(
        np.isnan(m.values[k]) for m in target_columns.label_columns
    ):
        return Row(None, "no_label", "no target has a label")
    return row


def _splits(
    table: Table, usable: Int64[np.ndarray, " n"], data: MoleculeDataset, config: TrainConfig
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
