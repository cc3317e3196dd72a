"""The settings of a fine-tuning run after every `auto` is resolved, for the record and the log."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from moleblend.data.dataset import MoleculeDataset
from moleblend.data.labels.target_detection import TargetColumns, notes_of_cells
from moleblend.data.splits import SPLITS, Split
from moleblend.data.table import Table
from moleblend.data.targets import Target
from moleblend.finetuning.config import TrainConfig
from moleblend.model.blending import ShownViews

_FAR = 10
"""Distance of a censored label to the exact ones, in standard deviations, that gets a note."""

_FEW = 10
"""Molecules of a class in the validation or test set below which a note warns."""

_MOST_NAMED = 8
"""Column names that a sentence lists."""

_KINDS = {"binary": "binary", "multiclass": "multi-class", "regression": "regression"}


@dataclass(frozen=True)
class TargetSettings:
    """How a target is read and scaled.

    Attributes:
        kind: `regression`, `binary` or `multiclass`.
        unit: of the values; may be empty.
        unit_from: where the unit was found.
        log10: whether the model learns the log10.
        classes: names of the classes; empty for regression.
        n_labels: cells with a label.
        n_censored: cells with a censored label.
        n_approximate: cells with an approximate label (~).
        n_bad_cells: cells that cannot be read as a label.
        mean: of the training labels; None before training.
        scale: standard deviation of the training labels; None before training.
        threshold: probability above which class 1 is predicted; None unless binary.
    """

    kind: str
    unit: str
    unit_from: str
    log10: bool
    classes: tuple[str, ...]
    n_labels: int
    n_censored: int
    n_approximate: int
    n_bad_cells: int
    mean: float | None = None
    scale: float | None = None
    threshold: float | None = None


@dataclass(frozen=True)
class UncertaintySettings:
    """How intervals, prediction sets, probabilities and the applicability domain were fitted.

    Attributes:
        fitted_to: the rows that they were fitted to.
        probabilities: calibration method of each classification target, and why it was chosen.
        training_smiles: whether the model file holds the SMILES of the training molecules.
        notes: what is missing, and why.
    """

    fitted_to: str
    probabilities: Mapping[str, str]
    training_smiles: bool
    notes: tuple[str, ...]


@dataclass(frozen=True)
class ResolvedSettings:
    """Settings of a run: what the user set, what the table decided, and what training fitted.

    Attributes:
        smiles: the SMILES column, or `mol blocks`.
        targets: settings of each target.
        targets_from: how the target columns were chosen.
        left_out: columns that are not targets, and why.
        qualifiers: qualifier column of each target that has one.
        n_rows: rows of the table.
        n_usable: rows with a molecule and a label.
        split: name of the split, or the column that defines it.
        folds: number of cross-validation folds; 0 for one test set.
        set_sizes: rows of the training, validation and test set, in the first fold.
        fold_sizes: test rows of each fold; empty without folds.
        views: what the model sees of each molecule.
        source: model that training starts from.
        features: extra features for the property head.
        freeze: whether only the property head is trained.
        seeds: runs with different seeds.
        ensemble: members of the model.
        epoch_from: what selects the epoch.
        threshold_from: what selects the classification threshold.
        notes: warnings about labels, sets and settings.
        duplicates: summary of molecules in several rows, see `Duplicates.to_dict`.
        search: summary of the hyperparameter search, see `Search.summary`; None without one.
        pos_weight: whether class 1 was weighted; None before training.
        uncertainty: None before training.
        prediction_columns: columns that `predict` adds to a table; empty before training.
    """

    smiles: str
    targets: Mapping[str, TargetSettings]
    targets_from: str
    left_out: Mapping[str, str]
    qualifiers: Mapping[str, str]
    n_rows: int
    n_usable: int
    split: str
    folds: int
    set_sizes: Mapping[str, int]
    fold_sizes: tuple[int, ...]
    views: ShownViews
    source: str
    features: tuple[str, ...]
    freeze: bool
    seeds: int
    ensemble: int
    epoch_from: str
    threshold_from: str
    notes: tuple[str, ...]
    duplicates: Mapping[str, object] = field(default_factory=dict)
    search: Mapping[str, object] | None = None
    pos_weight: bool | None = None
    uncertainty: UncertaintySettings | None = None
    prediction_columns: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain values for JSON; a search that did not happen is left out."""
        values = asdict(self)
        if self.search is None:
            del values["search"]
        return values

    def with_scaling(self, targets: Sequence[Target]) -> "ResolvedSettings":
        """Add the scaling and the thresholds that training fitted."""
        fitted = {
            target.name: replace(
                self.targets[target.name],
                mean=target.mean,
                scale=target.scale,
                threshold=target.threshold if target.kind == "binary" else None,
            )
            for target in targets
        }
        return replace(self, targets={**self.targets, **fitted})


def resolve_settings(
    config: TrainConfig,
    target_columns: TargetColumns,
    smiles: str,
    views: ShownViews,
    n_rows: int,
    data: MoleculeDataset,
    splits: Sequence[Split],
) -> ResolvedSettings:
    """Collect the settings that the user or the table decided.

    Args:
        config: settings of the run.
        target_columns: the targets.
        smiles: the SMILES column; empty if mol blocks are read.
        views: what the model sees of each molecule.
        n_rows: rows of the table.
        data: the usable rows.
        splits: one split, or one for each fold.
    """
    targets = {
        label_column.name: TargetSettings(
            kind=label_column.kind,
            unit=unit,
            unit_from=unit_from,
            log10=label_column.name in config.log_scale,
            classes=tuple(label_column.classes),
            n_labels=int((~np.isnan(label_column.values)).sum()),
            n_censored=int(np.count_nonzero(label_column.censoring)),
            n_approximate=label_column.n_approximate,
            n_bad_cells=len(label_column.problems),
        )
        for label_column, unit, unit_from in zip(
            target_columns.label_columns,
            target_columns.units,
            target_columns.units_from,
            strict=True,
        )
    }
    sets = ("train", "validation", "test")
    return ResolvedSettings(
        smiles=smiles or "mol blocks",
        targets=targets,
        targets_from="flag" if config.target else "detection",
        left_out=target_columns.left_out,
        qualifiers=target_columns.relations,
        n_rows=n_rows,
        n_usable=len(data),
        split=config.split,
        folds=config.folds,
        set_sizes={name: len(getattr(splits[0], name)) for name in sets},
        fold_sizes=tuple(len(split.test) for split in splits) if config.folds else (),
        views=views,
        source=config.source,
        features=config.extra_features,
        freeze=config.freeze,
        seeds=config.seeds,
        ensemble=config.ensemble,
        epoch_from="validation" if config.patience else "the last",
        threshold_from="validation",
        notes=(
            *target_columns.notes,
            *_random_encoder_note(config),
            *_label_notes(target_columns),
            *_small_training_set_note(config, splits, len(data)),
            *_class_notes(target_columns, splits, data),
        ),
    )


def _random_encoder_note(config: TrainConfig) -> list[str]:
    """Warn if a frozen encoder has random weights."""
    is_random = config.freeze and config.source == "scratch"
    return (
        ["the frozen encoder has random weights; --from selects a trained model"]
        if is_random
        else []
    )


def _label_notes(target_columns: TargetColumns) -> list[str]:
    """Warn of targets whose labels are all equal, or whose censored labels dominate the loss."""
    notes = []
    for label_column in target_columns.label_columns:
        name, values = label_column.name, label_column.values
        is_known, is_censored = ~np.isnan(values), label_column.censoring != 0
        known, exact = values[is_known], values[is_known & ~is_censored]
        if len(known) and np.ptp(known) == 0 and not is_censored.any():
            label = label_column.classes[int(known[0])] if label_column.classes else f"{known[0]:g}"
            notes.append(
                f"{name!r}: all {len(known):,} labels are {label}; a model cannot learn from them"
            )
        elif len(exact) > 1 and np.ptp(exact) > 0:
            distance = np.abs(values[is_censored] - exact.mean()) / exact.std()
            n_far = int((distance > _FAR).sum())
            if n_far:
                notes.append(
                    f"{name!r}: {n_far:,} censored labels are more than {_FAR} standard deviations "
                    "from the mean of the exact labels and may dominate the loss; --log-scale or "
                    "class labels may work better"
                )
    return notes


def _small_training_set_note(
    config: TrainConfig, splits: Sequence[Split], n_usable: int
) -> list[str]:
    """Warn if large groups that stay together leave less than half of the rows for training."""
    smallest = min(len(split.train) for split in splits)
    if config.split not in SPLITS or 2 * smallest >= n_usable:
        return []
    where = " in one of the folds" if config.folds else ""
    note = (
        f"the training set has only {smallest:,} of {n_usable:,} molecules{where}, since the "
        f"{config.split} split keeps a large group in one set; --split random does not"
    )
    return [note]


def _class_notes(
    target_columns: TargetColumns, splits: Sequence[Split], data: MoleculeDataset
) -> list[str]:
    """Warn of classes without training molecules or with few validation or test molecules."""
    notes = []
    for k, label_column in enumerate(target_columns.label_columns):
        for number, name in enumerate(label_column.classes):
            is_class = data.labels[:, k] == number
            n_without = sum(not is_class[split.train].any() for split in splits)
            if n_without:
                where = f" in {n_without} of {len(splits)} folds" if len(splits) > 1 else ""
                notes.append(
                    f"{label_column.name!r}: class {name!r} has no molecule in the training set"
                    f"{where}"
                )
                continue
            n_validation, n_test = (
                min(int(is_class[getattr(split, set_name)].sum()) for split in splits)
                for set_name in ("validation", "test")
            )
            if min(n_validation, n_test) < _FEW:
                not_stratified = "folds are" if len(splits) > 1 else "split is"
                notes.append(
                    f"{label_column.name!r}: class {name!r} has {n_validation} molecules in the "
                    f"validation set and {n_test} in the test set, too few for precise metrics; "
                    f"the {not_stratified} not stratified"
                )
    if len(notes) > 4:
        return [*notes[:3], f"{len(notes) - 3:,} more classes have few molecules"]
    return notes


def describe_settings(
    settings: ResolvedSettings, target_columns: TargetColumns, table: Table
) -> list[str]:
    """Describe the resolved settings, one sentence each."""
    sentences = [f"molecules are read from {settings.smiles!r}"]
    if settings.left_out:
        some = list(settings.left_out.items())
        listed = "; ".join(f"{name!r} {why}" for name, why in some[:_MOST_NAMED])
        more = f" and {len(some) - _MOST_NAMED:,} more" if some[_MOST_NAMED:] else ""
        sentences.append(f"no targets: {listed}{more}")
    names_by_description: dict[str, list[str]] = {}
    for name, target in settings.targets.items():
        names_by_description.setdefault(_describe_target(target), []).append(name)
    for description, names in names_by_description.items():
        listed = ", ".join(map(repr, names[:_MOST_NAMED]))
        listed += f" and {len(names) - _MOST_NAMED:,} more" if names[_MOST_NAMED:] else ""
        sentences.append(f"{'targets' if names[1:] else 'target'} {listed}: {description}")
    for label_column in target_columns.label_columns:
        sentences += notes_of_cells(table, label_column)
    sentences += [f"note: {note}" for note in settings.notes]
    features = " and ".join(settings.features) or "none"
    sentences.append(
        f"{settings.n_rows:,} rows, {settings.n_usable:,} usable: {_describe_split(settings)}; "
        f"views: {settings.views}; extra features: {features}; model: {settings.source}"
    )
    return sentences


def _describe_target(target: TargetSettings) -> str:
    text = _KINDS[target.kind]
    if target.classes:
        text += f" ({', '.join(target.classes)})"
    if target.unit:
        text += f", unit {target.unit} (from the {target.unit_from})"
    return text + (", on a log10 scale" if target.log10 else "")


def _describe_split(settings: ResolvedSettings) -> str:
    if settings.folds:
        smallest, largest = min(settings.fold_sizes), max(settings.fold_sizes)
        size = f"{smallest:,}" if smallest == largest else f"{smallest:,} to {largest:,}"
        return (
            f"{settings.folds} folds ({settings.split}) of {size} molecules, each used once as the "
            "test set and once as the validation set"
        )
    sizes = settings.set_sizes
    return (
        f"{sizes['train']:,} training, {sizes['validation']:,} validation, {sizes['test']:,} test "
        f"({settings.split} split)"
    )
