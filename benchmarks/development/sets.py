"""Development sets: the sets of protocol U without their test rows, split anew.

No choice of a default or a recipe may see a test row of protocol U. The training and validation
rows of each set are drawn down to at most 2,000, and split four times: twice by groups of scaffolds
and twice by clusters of similar molecules, 80 % to train and 20 % to evaluate.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64

from moleblend.chem.fingerprints import cluster
from moleblend.chem.molecule import Molecule, MoleculeError
from moleblend.chem.parsing import read_smiles
from moleblend.data.datasets.catalogue import known_datasets, on_protocol_u
from moleblend.data.datasets.fetch import read
from moleblend.data.labels.cell_values import read_numbers
from moleblend.data.splits import Split, scaffolds

MOST_ROWS = 2_000
MOST_TASKS = 20
"""ToxCast has 617 tasks; those with most labels are kept."""

N_SPLITS = 4
FEWEST_OF_A_CLASS = 5
"""A task is scored on a split with at least so many rows of each class on both sides."""

FINE_TUNED = ("esol", "freesolv", "lipo", "bace", "bbbp", "clintox")
"""The sets on which fine-tuning is compared."""


@dataclass(frozen=True, eq=False)
class DevelopmentSet:
    """The molecules and labels of a set, and its splits.

    Attributes:
        name: of the set.
        molecules: n molecules.
        labels: one column per task, NaN where unknown.
        has_classes: whether labels are classes 0 and 1, or values.
        splits: for each split, which rows are evaluated; the others train.
        groups: number of the scaffold, and of the cluster, of each molecule; the splits take turns.
    """

    name: str
    molecules: tuple[Molecule, ...]
    labels: Float64[np.ndarray, "n t"]
    has_classes: bool
    splits: tuple[Bool[np.ndarray, " n"], ...]
    groups: tuple[Int64[np.ndarray, " n"], ...]

    def split(self, number: int) -> Split:
        """Return a split with a validation set: a ninth of the training rows, in whole groups."""
        is_out, groups = self.splits[number], self.groups[number % len(self.groups)]
        rest = np.flatnonzero(~is_out)
        held_out = _held_out(groups[rest], np.random.default_rng(100 + number), 1 / 9)
        return Split(rest[~held_out], rest[held_out], np.flatnonzero(is_out))


def development_set(name: str) -> DevelopmentSet:
    """Read a set of `on_protocol_u()`; the rows and splits are always the same."""
    table, known = read(f"{name}-u"), known_datasets()[f"{name}-u"]
    split = np.array(table.column("split").to_pylist())
    tasks = [c for c in table.columns.column_names if c not in ("smiles", "split")]
    labels = np.stack([read_numbers(table, task) for task in tasks], 1)
    smiles = table.column("smiles").to_pylist()
    allowed = np.flatnonzero(split != "test")
    most_labels = np.argsort(-np.isfinite(labels[allowed]).sum(0), kind="stable")[:MOST_TASKS]
    labels = labels[:, np.sort(most_labels)]
    rows = _sample(allowed, labels, has_classes=known.classes)
    molecules, kept = [], []
    for row in rows.tolist():
        try:
            molecules.append(read_smiles(smiles[row]))
        except MoleculeError:
            continue
        kept.append(row)
    texts = [molecule.smiles for molecule in molecules]
    by_scaffold, by_cluster = _numbered(scaffolds(texts)), cluster(texts)
    splits = [
        _held_out(groups, np.random.default_rng(seed))
        for seed in range(N_SPLITS // 2)
        for groups in (by_scaffold, by_cluster)
    ]
    groups = (by_scaffold, by_cluster)
    return DevelopmentSet(
        name, tuple(molecules), labels[kept], known.classes, tuple(splits), groups
    )


def development_sets(names: Sequence[str] = ()) -> list[DevelopmentSet]:
    """Read some or all development sets."""
    return [development_set(name) for name in names or on_protocol_u()]


def _sample(
    rows: Int64[np.ndarray, " m"], labels: Float64[np.ndarray, "n t"], *, has_classes: bool
) -> Int64[np.ndarray, " k"]:
    """Draw rows; those with a positive label come first, because they are rare in large sets."""
    if len(rows) <= MOST_ROWS:
        return rows
    order = np.random.default_rng(0).permutation(rows)
    if has_classes:
        is_active = (labels[order] == 1).any(1)
        active, inactive = order[is_active], order[~is_active]
        order = np.concatenate([active[: MOST_ROWS // 2], inactive, active[MOST_ROWS // 2 :]])
    return np.sort(order[:MOST_ROWS])


def _numbered(groups: Sequence[str]) -> Int64[np.ndarray, " n"]:
    """Number the scaffolds; every molecule without a ring is a group of its own."""
    names = [name or f"without ring {row}" for row, name in enumerate(groups)]
    return np.unique(names, return_inverse=True)[1]


def _held_out(
    groups: Int64[np.ndarray, " n"], rng: np.random.Generator, share: float = 1 / 5
) -> Bool[np.ndarray, " n"]:
    """Draw groups until a share of the rows is held out; a group above half of it always trains."""
    sizes = np.bincount(groups)
    is_out, n_out = np.zeros(len(groups), bool), 0
    for group in rng.permutation(len(sizes)).tolist():
        if n_out >= len(groups) * share:
            break
        if 0 < sizes[group] <= len(groups) * share / 2:
            is_out |= groups == group
            n_out += int(sizes[group])
    return is_out
