"""Prepare a fine-tuning run: read a table into molecules, labels and splits."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Int64

from moleblend.chem.descriptors import molecule_features
from moleblend.chem.fingerprints import is_readable
from moleblend.chem.molecule import Molecule, MoleculeError
from moleblend.config import check_choice, did_you_mean
from moleblend.data.dataset import MoleculeDataset
from moleblend.data.duplicates import Duplicates, find_duplicates
from moleblend.data.formats import read_table
from moleblend.data.labels.target_detection import TargetColumns, left_out_note, read_target_columns
from moleblend.data.splits import (
    SPLITS,
    Split,
    folds,
    given_split,
    set_columns,
    with_validation,
)
from moleblend.data.table import Table, find_smiles_column, read_molecules
from moleblend.data.targets import Target
from moleblend.errors import SettingError
from moleblend.finetuning.config import TrainConfig
from moleblend.finetuning.resolved_settings import (
    ResolvedSettings,
    describe_settings,
    resolve_settings,
)
from moleblend.finetuning.run import Start
from moleblend.finetuning.tree_members import TREE_KINDS
from moleblend.model import checkpoint
from moleblend.model.blending import ShownViews
from moleblend.model.encoder_config import EncoderConfig
from moleblend.prediction.inputs import InputRules, Row, prepare
from moleblend.prediction.outputs import check_names
from moleblend.trees.averaging import feature_columns
from moleblend.trees.training import TreePlan, plan_trees

_SETS = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class PreparedRun:
    """Inputs of a run: data, splits, source model, and settings without `auto`.

    Attributes:
        config: settings of the run, with resolved features.
        start: what all trainings have in common.
        origin: file of the source model; None for random weights.
        table: the table.
        smiles: its SMILES column; empty if mol blocks are read.
        rows: status and reason of every row of the table.
        usable: rows with a molecule and a label, counted from 0.
        data: molecules and labels of these rows.
        splits: one split, or one for each fold; they count among the usable rows.
        duplicates: molecules in several rows.
        tree_plan: methods and number of trees, and why it is less than was asked for.
        features_note: why no features are added; may be empty.
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
    tree_plan: TreePlan
    features_note: str

    def settings(self, config: TrainConfig, data: MoleculeDataset) -> ResolvedSettings:
        """Resolve the settings of a run.

        Args:
            config: settings; after a search those of the best trial.
            data: the usable rows with the extra features of `config`.
        """
        target_columns, views = self.start.target_columns, self.start.views
        settings = resolve_settings(
            config, target_columns, self.smiles, views, len(self.rows), data, self.splits
        )
        more_notes = (
            *self.duplicates.sentences(),
            *(note for note in (self.features_note, self.tree_plan.note) if note),
        )
        return replace(
            settings,
            duplicates=self.duplicates.to_dict(),
            notes=(*settings.notes, *more_notes),
        )

    def describe(self, settings: ResolvedSettings) -> list[str]:
        """Describe the resolved settings and the excluded rows, one sentence each."""
        return [
            *describe_settings(settings, self.start.target_columns, self.table),
            *_describe_excluded(self.rows, self.table),
        ]


def prepare_run(
    config: TrainConfig, errors: Literal["keep", "raise"], say: Callable[[str], None]
) -> PreparedRun:
    """Read the table and the source model, and resolve the settings that depend on them.

    Args:
        config: settings of the run.
        errors: exclude rows without a usable molecule (`keep`), or raise an error.
        say: prints notes on the file format, before any error of its content.

    Raises:
        MissingFileError: the table or the source model does not exist.
        SettingError: no target is detected, a column is missing, most of its cells are not labels,
            or a set has no labels.
        MoleculeError: a row has no usable molecule and `errors` is "raise".
    """
    check_choice("errors", errors, Literal["keep", "raise"])
    origin = None if config.source == "scratch" else checkpoint.locate(config.source)
    source = None if origin is None else checkpoint.load(origin)
    encoder = source.config.encoder if source else config.encoder
    if config.encoder not in (encoder, EncoderConfig()):
        raise SettingError(
            f"{config.source}: got encoder settings that differ from those of the source model; "
            "leave them out"
        )
    table = read_table(config.data)
    for note in table.notes:
        say(note)
    if not len(table):
        raise SettingError(f"{config.data}: the table has no rows")
    smiles = (
        "" if table.blocks and not config.smiles else config.smiles or find_smiles_column(table)
    )
    target_columns = _read_targets(table, smiles, config)
    views, rows = _read_rows(table, smiles, config, encoder, say)
    if errors == "raise":
        for k, row in enumerate(rows):
            if row.molecule is None:
                raise MoleculeError(f"{table.source}, {table.place(k)}: {row.reason}")
    rows = [_exclude_unlabelled(row, target_columns, k) for k, row in enumerate(rows)]
    usable = np.array([k for k, row in enumerate(rows) if row.molecule is not None], np.int64)
    if not len(usable):
        raise SettingError(
            f"{config.data}: none of the {len(rows)} rows is usable; row 1 is {rows[0].status} "
            f"({rows[0].reason})"
        )
    molecules = [row.molecule for row in rows if row.molecule is not None]
    config, features_note = _resolve_features(config, views, molecules)
    features = np.zeros((len(molecules), 0), np.float32)
    data = MoleculeDataset(
        molecules, target_columns.values[usable], target_columns.censoring[usable], features
    )
    splits = _make_splits(table, usable, data, config, say)
    target_columns, data = _leave_out_unlabelled(target_columns, data, splits, say)
    classes = {
        label_column.name: label_column.classes for label_column in target_columns.label_columns
    }
    identities = [molecule.stereo_identity or molecule.smiles for molecule in molecules]
    n_stereo = sum(bool(molecule.stereo_identity) for molecule in molecules)
    if n_stereo:
        say(
            f"{n_stereo:,} of {len(molecules):,} molecules have stereo that the model does not "
            "represent (racemates, one of two enantiomers, hindered rotation): they are compared "
            "as different molecules, and their centres count as unspecified"
        )
    duplicates = find_duplicates(identities, usable, data.labels, data.censoring, classes, splits)
    kinds = [label_column.kind for label_column in target_columns.label_columns]
    tree_plan = plan_trees(config.forest, kinds, data, splits, config.seeds)
    if tree_plan.n_trees and views == "3d":
        tree_plan = TreePlan(note="no trees are trained: the model sees 3D only")
    data, unreadable = _add_features(data, config, with_trees=tree_plan.n_trees > 0)
    if unreadable:
        tree_plan = TreePlan(note=f"no trees are trained: {unreadable}")
    if config.members == "trees" and not tree_plan.n_trees:
        reason = tree_plan.note or "forest=0 asks for no trees"
        raise SettingError(f"got members=trees, but {reason}")
    return PreparedRun(
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
        tree_plan=tree_plan,
        features_note=features_note,
    )


def _add_features(
    data: MoleculeDataset, config: TrainConfig, *, with_trees: bool
) -> tuple[MoleculeDataset, str]:
    """Compute the features of the property head and the inputs of the trees.

    Returns:
        The molecules with their features, and why the trees have no inputs; empty if they have.
    """
    smiles, kinds = [molecule.smiles for molecule in data.molecules], config.extra_features
    all_kinds = tuple(dict.fromkeys([*kinds, *TREE_KINDS])) if with_trees else kinds
    try:
        features = molecule_features(smiles, all_kinds)
    except MoleculeError as error:  # the SMILES of a mol block that RDKit reads, but not its SMILES
        if not with_trees:
            raise
        return replace(data, features=molecule_features(smiles, kinds)), str(error)
    if not with_trees:
        return replace(data, features=features), ""
    of_network = features[:, feature_columns(all_kinds, kinds)] if kinds else features[:, :0]
    inputs = features[:, feature_columns(all_kinds, TREE_KINDS)]
    return replace(data, features=of_network, tree_inputs=inputs), ""


def _leave_out_unlabelled(
    target_columns: TargetColumns,
    data: MoleculeDataset,
    splits: tuple[Split, ...],
    say: Callable[[str], None],
) -> tuple[TargetColumns, MoleculeDataset]:
    """Leave out targets that have no label, or one class, in a training set, if others remain."""
    reasons = {}
    for k, column in enumerate(target_columns.label_columns):
        for split in splits:
            known = data.labels[split.train, k]
            known = known[~np.isnan(known)]
            if not len(known):
                reasons[column.name] = "has no label in the training set"
            elif column.kind != "regression" and np.ptp(known) == 0:
                reasons.setdefault(column.name, "has one class in the training set")
    n_targets = len(target_columns.label_columns)
    if not reasons or len(reasons) == n_targets or n_targets == 1:
        return target_columns, data
    say(left_out_note(reasons))
    kept = [k for k, c in enumerate(target_columns.label_columns) if c.name not in reasons]
    labels, censoring = data.labels[:, kept], data.censoring[:, kept]
    return target_columns.without(reasons), replace(data, labels=labels, censoring=censoring)


def _read_targets(table: Table, smiles: str, config: TrainConfig) -> TargetColumns:
    """Read the labels; refuse targets whose prediction columns would have the same names."""
    target_columns = read_target_columns(
        table,
        config.target,
        tasks=config.task,
        units=config.units,
        log_scale=config.log_scale,
        qualifier=config.qualifier,
        not_targets=[smiles, *([config.split] if config.split not in SPLITS else [])],
    )
    check_names(
        [
            Target(
                column.name,
                column.kind,
                log10=column.name in config.log_scale,
                classes=column.classes,
            )
            for column in target_columns.label_columns
        ],
        max(config.ensemble, config.folds),
    )
    return target_columns


def _read_rows(
    table: Table,
    smiles: str,
    config: TrainConfig,
    encoder: EncoderConfig,
    say: Callable[[str], None],
) -> tuple[ShownViews, list[Row]]:
    """Read the molecules and resolve the views.

    Raises:
        SettingError: the configuration wants 3D, and no row has or gets a geometry.
    """
    items = list(read_molecules(table, smiles=smiles or None, features=encoder.features))
    unused = [item.geometry_note for item in items if isinstance(item, Molecule)]
    unused = [note for note in unused if note]
    if unused:
        say(f"coordinates of {len(unused)} of {len(items)} rows are not used: {unused[0]}")
    views: ShownViews
    if config.views == "auto":
        has_3d = config.conformers > 0 or any(
            isinstance(item, Molecule) and item.n_conformers for item in items
        )
        views = "both" if has_3d else "2d"
    else:
        views = config.views
        has_3d = views == "2d" or config.conformers > 0
        if not (has_3d or any(isinstance(i, Molecule) and i.n_conformers for i in items)):
            reason = f" ({unused[0]})" if unused else ""
            raise SettingError(
                f"{table.source}: got --views {views}, but no row has a geometry{reason}; give a "
                "file with geometries, or compute them with --conformers 1"
            )
    # `auto` features never exclude a row.
    features = () if config.features == ("auto",) else config.extra_features
    rules = InputRules(views, encoder.max_atoms, required=features)
    return views, prepare(items, rules, config.conformers)


def _resolve_features(
    config: TrainConfig, views: ShownViews, molecules: Sequence[Molecule]
) -> tuple[TrainConfig, str]:
    """Resolve `auto` features.

    Returns:
        The configuration, and why no features are added.
    """
    if config.features != ("auto",):
        return config, ""
    if views == "3d":
        return replace(config, features=("none",)), ""
    unreadable = [molecule.smiles for molecule in molecules if not is_readable(molecule.smiles)]
    if unreadable:
        return replace(config, features=("none",)), (
            "no fingerprints are used, since RDKit cannot parse the SMILES of "
            f"{len(unreadable):,} usable rows, such as {unreadable[0]}; --features ecfp4 uses "
            "fingerprints and excludes these rows"
        )
    return replace(config, features=("ecfp4",)), ""


def _describe_excluded(rows: Sequence[Row], table: Table) -> list[str]:
    """Count the excluded rows by status, with the first of each."""
    by_status: dict[str, list[int]] = {}
    for k, row in enumerate(rows):
        if row.molecule is None:
            by_status.setdefault(row.status, []).append(k)
    return [
        f"excluded rows with status {status}: {len(places):,}; the first is "
        f"{table.place(places[0])}: {rows[places[0]].reason}"
        for status, places in by_status.items()
    ]


def _exclude_unlabelled(row: Row, target_columns: TargetColumns, k: int) -> Row:
    """Exclude a row without any label."""
    if row.molecule is not None and all(
        np.isnan(column.values[k]) for column in target_columns.label_columns
    ):
        return Row(None, "no_label", "no target has a label")
    return row


def _make_splits(
    table: Table,
    usable: Int64[np.ndarray, " n"],
    data: MoleculeDataset,
    config: TrainConfig,
    say: Callable[[str], None],
) -> tuple[Split, ...]:
    """Split the usable rows, once or into folds; no set may be empty.

    A split column without validation rows gets some of the training rows.
    """
    smiles = [molecule.smiles for molecule in data.molecules]
    if config.folds and config.split not in SPLITS:
        raise SettingError(
            f"got split={config.split} with folds={config.folds}, expected one of "
            f"{', '.join(SPLITS)}: a column cannot define folds"
        )
    if config.split in ("scaffold", "balanced", "cluster"):
        for row, text in zip(usable, smiles, strict=True):
            if not is_readable(text):
                raise SettingError(
                    f"{table.source}, {table.place(int(row))}: RDKit cannot parse its own SMILES "
                    f"{text} of this molecule, which the {config.split} split needs; use --split "
                    "random or a split column"
                )
    # Without named targets, the search for targets has said so.
    if config.target and config.split in SPLITS and (named := set_columns(table)):
        say(
            f"column {named[0]!r} names the sets of a split, which this run does not use; --split "
            f"{named[0]} uses it"
        )
    if config.folds:
        return folds(config.split, smiles, config.folds, config.seed)
    if config.split in SPLITS:
        split = SPLITS[config.split](smiles, (0.8, 0.1, 0.1), config.seed)
    else:
        given = given_split(_read_set_names(table, usable, config.split))
        split = with_validation(given, smiles)
        if len(split.validation) > len(given.validation):
            say(
                f"column {config.split!r} has no validation rows: {len(split.validation):,} of "
                f"{len(given.train):,} training rows are drawn for it by scaffold"
            )
    for name in _SETS:
        if not len(getattr(split, name)):
            is_by_group = config.split in SPLITS and config.split != "random" and len(usable) >= 10
            hint = "; --split random fills all sets" if is_by_group else ""
            raise SettingError(
                f"{config.data}: the {config.split} split leaves the {name} set empty "
                f"({len(usable)} usable rows){hint}"
            )
    return (split,)


def _read_set_names(table: Table, usable: Int64[np.ndarray, " n"], column: str) -> list[str]:
    """Read the set of each usable row from a column."""
    if column not in table.columns.column_names:
        hint = did_you_mean(column, [*SPLITS, *table.columns.column_names])
        raise SettingError(
            f"{table.source}: got split={column!r}{hint}, expected one of {', '.join(SPLITS)}, or "
            f"the name of a column; available: {table.column_list()}"
        )
    cells = table.column(column).to_pylist()
    names = []
    for row in usable:
        name = "" if cells[row] is None else str(cells[row])
        try:
            given_split([name])
        except ValueError as error:
            raise SettingError(
                f"{table.source}, {table.place(int(row))}: got {name!r} in column {column!r}, "
                "expected train, validation or test"
            ) from error
        names.append(name)
    return names
