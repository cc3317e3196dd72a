"""What was decided before a fine-tuning run: gathered for its record, and said in sentences."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from moleblend.data.dataset import MoleculeDataset
from moleblend.data.labels.target_detection import TargetColumns, notes_of_cells
from moleblend.data.splits import SPLITS, Split
from moleblend.data.table import Table
from moleblend.finetuning.config import TrainConfig
from moleblend.model.blending import ShownViews

_FAR = 10
"""Standard deviations of the exact labels, beyond which bounds are said to rule them."""

_FEW = 10
"""Molecules of a class in validation or test, below which figures are said to be uncertain."""


def resolve_settings(
    config: TrainConfig,
    target_columns: TargetColumns,
    smiles: str,
    views: ShownViews,
    n_rows: int,
    data: MoleculeDataset,
    splits: Sequence[Split],
) -> dict[str, Any]:
    """Gather what was decided, by the user or by what the table holds.

    Args:
        config: of the run.
        target_columns: the targets.
        smiles: the SMILES column; empty where mol blocks are read.
        views: what is used of each molecule.
        n_rows: of the table.
        data: the usable rows.
        splits: one, or the folds.
    """
    targets = {}
    units = zip(target_columns.units, target_columns.units_from, strict=True)
    for label_column, (unit, unit_from) in zip(target_columns.label_columns, units, strict=True):
        targets[label_column.name] = {
            "kind": label_column.kind,
            "unit": unit,
            "unit_from": unit_from,
            "log10": label_column.name in config.log_scale,
            "classes": list(label_column.classes),
            "n_labels": int((~np.isnan(label_column.values)).sum()),
            "n_bounds": int(np.count_nonzero(label_column.censoring)),
            "n_approximate": label_column.n_approximate,
            "n_bad_cells": len(label_column.problems),
        }
    counts = [len(getattr(splits[0], name)) for name in ("train", "validation", "test")]
    return {
        "smiles": smiles or "mol blocks",
        "targets": targets,
        "targets_from": "flag" if config.target else "the columns that look measured",
        "left_out": target_columns.left_out,
        "relations": target_columns.relations,
        "rows": n_rows,
        "usable": len(data),
        "split": config.split,
        "folds": config.folds,
        "parts": dict(zip(("train", "validation", "test"), counts, strict=True)),
        "views": views,
        "source": config.source,
        "features": list(config.joined),
        "freeze": config.freeze,
        "seeds": config.seeds,
        "ensemble": config.ensemble,
        "epoch_from": "validation" if config.patience else "the last",
        "threshold_from": "validation",
        "fold_sizes": [len(split.test) for split in splits] if config.folds else [],
        "notes": [
            *target_columns.notes,
            *_of_nothing(config),
            *_of_labels(target_columns),
            *_small_parts(config, splits, len(data)),
            *_imbalance(target_columns, splits, data),
        ],
    }


def _of_nothing(config: TrainConfig) -> list[str]:
    """Say where settings make little sense together."""
    is_random = config.freeze and config.source == "scratch"
    return (
        ["the frozen encoder has random weights; --from names a trained one"] if is_random else []
    )


def _of_labels(target_columns: TargetColumns) -> list[str]:
    """Name targets from which nothing can be learnt, or whose bounds rule what is learnt."""
    found = []
    for label_column in target_columns.label_columns:
        known, is_bound = (
            label_column.values[~np.isnan(label_column.values)],
            label_column.censoring != 0,
        )
        name, exact = (
            label_column.name,
            label_column.values[~is_bound & ~np.isnan(label_column.values)],
        )
        if len(known) and np.ptp(known) == 0 and not is_bound.any():
            label = label_column.classes[int(known[0])] if label_column.classes else f"{known[0]:g}"
            found.append(f"{name!r}: all {len(known):,} labels are {label}: nothing can be learnt")
        elif len(exact) > 1 and np.ptp(exact) > 0:
            away = np.abs(label_column.values[is_bound] - exact.mean()) / exact.std()
            n_far = int((away > _FAR).sum())
            if n_far:
                found.append(
                    f"{name!r}: {n_far:,} bounds lie more than {_FAR} standard deviations from the "
                    "mean of the exact labels, and outweigh them where they are broken; "
                    "--log-scale, or classes, may suit better"
                )
    return found


def _small_parts(config: TrainConfig, splits: Sequence[Split], n_usable: int) -> list[str]:
    """Say where groups that stay together leave little to learn from."""
    least = min(len(split.train) for split in splits)
    if config.split not in SPLITS or 2 * least >= n_usable:
        return []
    where = "in one of the folds " if config.folds else ""
    told = f"{where}only {least:,} of {n_usable:,} molecules are there to learn from, since the"
    return [f"{told} {config.split} split keeps a large group together; --split random parts it"]


def _imbalance(
    target_columns: TargetColumns, splits: Sequence[Split], data: MoleculeDataset
) -> list[str]:
    """Name the classes that are not learnt, and those of which validation or test have few."""
    found = []
    split = "folds do" if len(splits) > 1 else "split does"
    for k, label_column in enumerate(target_columns.label_columns):
        for number, name in enumerate(label_column.classes):
            is_class = data.labels[:, k] == number
            n_without = sum(not is_class[split.train].any() for split in splits)
            if n_without:
                where = f" in {n_without} of {len(splits)} folds" if len(splits) > 1 else ""
                told = f"class {name!r} has no molecule to be learnt from{where}"
                found.append(f"{label_column.name!r}: {told}")
                continue
            n_validation, n_test = (
                min(int(is_class[getattr(split, part)].sum()) for split in splits)
                for part in ("validation", "test")
            )
            if min(n_validation, n_test) < _FEW:
                found.append(
                    f"{label_column.name!r}: class {name!r} has {n_validation} molecules in "
                    f"validation and {n_test} in test, too few for certain figures; "
                    f"the {split} not stratify"
                )
    more = [f"and {len(found) - 3:,} classes more of which there are few"] if found[4:] else []
    return found[: 3 if more else 4] + more


def describe_settings(
    choices: dict[str, Any], target_columns: TargetColumns, table: Table
) -> list[str]:
    """Say every choice in a sentence."""
    said = [f"molecules are read from {choices['smiles']!r}"]
    if choices["left_out"]:
        some = list(choices["left_out"].items())
        listed = "; ".join(f"{name!r} {why}" for name, why in some[:8])
        said.append(f"no targets: {listed}" + (f" and {len(some) - 8:,} more" if some[8:] else ""))
    kinds: dict[str, list[str]] = {}
    for name, target in choices["targets"].items():
        what = {"binary": "binary", "multiclass": "multi-class", "regression": "regression"}
        kind = what[target["kind"]]
        if target["classes"]:
            kind += f" ({', '.join(target['classes'])})"
        if target["unit"]:
            kind += f", unit {target['unit']} (from the {target['unit_from']})"
        kind += ", its log10 is learnt" if target["log10"] else ""
        kinds.setdefault(kind, []).append(name)
    for kind, names in kinds.items():
        listed = ", ".join(map(repr, names[:8]))
        listed += f" and {len(names) - 8:,} more" if names[8:] else ""
        said.append(f"{'targets' if names[1:] else 'target'} {listed}: {kind}")
    for label_column in target_columns.label_columns:
        said += notes_of_cells(table, label_column)
    said += [f"note: {note}" for note in choices["notes"]]
    parts, split = choices["parts"], choices["split"]
    sizes = (
        f"{parts['train']:,} to train, {parts['validation']:,} to validate, "
        f"{parts['test']:,} to test ({split} split)"
    )
    if choices["folds"]:
        least, most = min(choices["fold_sizes"]), max(choices["fold_sizes"])
        each = f"{least:,} to {most:,}, each" if least < most else f"{least:,} each,"
        sizes = (
            f"{choices['folds']} folds ({split}) of {each} tested once and used to validate once"
        )
    joined = " and ".join(choices["features"]) or "nothing"
    said.append(
        f"{choices['rows']:,} rows, {choices['usable']:,} usable: {sizes}; "
        f"views {choices['views']}, {joined} joined; start from {choices['source']}"
    )
    return said
