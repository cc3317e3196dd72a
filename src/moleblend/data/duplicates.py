"""Duplicate molecules: conflicting labels, and molecules in more than one set of a split."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int8, Int64

from moleblend.chem.molecule import MoleculeError
from moleblend.chem.standardise import identity
from moleblend.data.splits import Split

_MAX_IN_SENTENCE = 5
"""Largest number of molecules in a sentence."""

_MAX_IN_DICT = 100
"""Largest number of molecules in `Duplicates.to_dict`; rows.csv of a run has all."""


@dataclass(frozen=True)
class LabelConflict:
    """Labels of one molecule that cannot all be correct.

    Attributes:
        target: name of the target.
        rows: the rows of the file with a label, counted from 0.
        labels: the labels of these rows, as text.
        gap: difference of the largest and the smallest label, 1 for classes; for censored labels
            the distance between the ranges that they allow.
    """

    target: str
    rows: tuple[int, ...]
    labels: tuple[str, ...]
    gap: float

    def __str__(self) -> str:
        """List the rows, counted from 1, with their labels."""
        labelled = zip(self.rows, self.labels, strict=True)
        return ", ".join(f"row {row + 1}: {label}" for row, label in labelled)


@dataclass(frozen=True, eq=False)
class Duplicates:
    """Molecules with several rows; rows are those of the file, counted from 0.

    Attributes:
        groups: the rows of each such molecule, in the order of the first row.
        contradictions: label conflicts, the largest gap first.
        known_test_rows: rows of a test set whose molecule is also in the training or validation
            set.
        known_validation_rows: rows of a validation set whose molecule is also in the training set.
    """

    groups: tuple[tuple[int, ...], ...] = ()
    contradictions: tuple[LabelConflict, ...] = ()
    known_test_rows: tuple[int, ...] = ()
    known_validation_rows: tuple[int, ...] = ()

    def sentences(self) -> list[str]:
        """Describe the duplicates, with rows counted from 1; empty if all molecules differ."""
        if not self.groups:
            return []
        counts = f"{len(self.groups):,} (in {sum(map(len, self.groups)):,} rows)"
        lines = [f"duplicate molecules: {counts}; each row is used separately"]
        for target in dict.fromkeys(conflict.target for conflict in self.contradictions):
            conflicts = [conflict for conflict in self.contradictions if conflict.target == target]
            some = "; ".join(map(str, conflicts[:_MAX_IN_SENTENCE]))
            n_more = len(conflicts) - _MAX_IN_SENTENCE
            more = f"; and {n_more:,} more" if n_more > 0 else ""
            lines.append(
                f"{target!r}: duplicate molecules with different labels: {len(conflicts):,} "
                f"({some}{more}); moleblend data clean --duplicates mean --target ... merges them"
            )
        for name, rows, others, effect in (
            (
                *("test", self.known_test_rows, "training or validation"),
                ", so test metrics are optimistic",
            ),
            ("validation", self.known_validation_rows, "training", ""),
        ):
            if rows:
                some = ", ".join(str(row + 1) for row in rows[:_MAX_IN_SENTENCE])
                n_more = len(rows) - _MAX_IN_SENTENCE
                more = f" and {n_more:,} more" if n_more > 0 else ""
                lines.append(
                    f"rows of the {name} set whose molecule is also in the {others} set: "
                    f"{len(rows):,} ({'rows' if rows[1:] else 'row'} {some}{more}){effect}; a "
                    "scaffold or cluster split keeps each molecule in one set"
                )
        return lines

    def to_dict(self) -> dict[str, object]:
        """Return counts and the first rows, counted from 1, for JSON."""
        return {
            "molecules": len(self.groups),
            "rows": sum(map(len, self.groups)),
            "first": [[row + 1 for row in group] for group in self.groups[:_MAX_IN_DICT]],
            "contradicting": len(self.contradictions),
            "first_contradicting": [
                {
                    "target": conflict.target,
                    "rows": [row + 1 for row in conflict.rows],
                    "labels": list(conflict.labels),
                }
                for conflict in self.contradictions[:_MAX_IN_DICT]
            ],
            "test_rows_known_before": [row + 1 for row in self.known_test_rows],
            "validation_rows_in_train": [row + 1 for row in self.known_validation_rows],
        }

    def others(self) -> dict[int, str]:
        """Return the other rows of the same molecule, counted from 1, for each row with some."""
        return {
            row: " ".join(str(other + 1) for other in group if other != row)
            for group in self.groups
            for row in group
        }


def find_duplicates(
    smiles: Sequence[str],
    rows: Int64[np.ndarray, " n"],
    labels: Float64[np.ndarray, "n t"],
    censoring: Int8[np.ndarray, "n t"],
    targets: dict[str, tuple[str, ...]],
    splits: Sequence[Split] = (),
) -> Duplicates:
    """Find molecules with several rows, by their identity (`chem.identity`).

    Args:
        smiles: SMILES or CXSMILES of each usable row.
        rows: the row of the file for each of them, counted from 0.
        labels: NaN if missing.
        censoring: 1 if the true value is at least the label, -1 if at most, else 0.
        targets: names of the targets and of their classes; no classes for a regression target.
        splits: in positions among the usable rows; several splits are folds.
    """
    molecules = same_molecules([_identity(text) for text in smiles])
    lowest = np.where(np.isnan(labels) | (censoring == -1), -np.inf, labels)
    highest = np.where(np.isnan(labels) | (censoring == 1), np.inf, labels)
    contradictions = []
    for group in molecules:
        for k in np.flatnonzero(contradict(lowest[group], highest[group])):
            name, classes = list(targets.items())[k]
            labelled = [position for position in group if not np.isnan(labels[position, k])]
            contradictions.append(
                LabelConflict(
                    target=name,
                    rows=tuple(int(rows[position]) for position in labelled),
                    labels=tuple(
                        _format_label(labels[position, k], int(censoring[position, k]), classes)
                        for position in labelled
                    ),
                    gap=1.0 if classes else float(lowest[group, k].max() - highest[group, k].min()),
                )
            )
    number_of = {position: number for number, group in enumerate(molecules) for position in group}
    known: dict[str, set[int]] = {"validation": set(), "test": set()}
    for split in splits:
        train, validation = (
            {number_of[position] for position in positions.tolist() if position in number_of}
            for positions in (split.train, split.validation)
        )
        for name, others in (("validation", train), ("test", train | validation)):
            positions = split.sets()[name].tolist()
            known[name] |= {p for p in positions if number_of.get(p, -1) in others}
    return Duplicates(
        groups=tuple(tuple(int(rows[position]) for position in group) for group in molecules),
        contradictions=tuple(sorted(contradictions, key=lambda conflict: -conflict.gap)),
        known_test_rows=tuple(int(rows[position]) for position in sorted(known["test"])),
        known_validation_rows=tuple(
            int(rows[position]) for position in sorted(known["validation"])
        ),
    )


def same_molecules(names: Sequence[str]) -> list[list[int]]:
    """List the positions of each name that occurs several times; "" does not count."""
    groups: dict[str, list[int]] = {}
    for position, name in enumerate(names):
        if name:
            groups.setdefault(name, []).append(position)
    return [group for group in groups.values() if len(group) > 1]


def contradict(
    lowest: Float64[np.ndarray, "m t"], highest: Float64[np.ndarray, "m t"], tolerance: float = 0.0
) -> Bool[np.ndarray, " t"]:
    """Check whether the labels of each target differ by more than the tolerance and rounding.

    Args:
        lowest: smallest value that each label allows; -inf for a missing label and for `<`.
        highest: largest value that each label allows; inf for a missing label and for `>`.
        tolerance: largest difference of two labels that agree, in the unit of the label.
    """
    low, high = lowest.max(0), highest.min(0)
    size = np.where(np.isfinite([low, high]), np.abs([low, high]), 0).max(0)
    return low - high - tolerance > 1e-12 * size


def _identity(smiles: str) -> str:
    """Return the identity; the text itself if RDKit cannot read it (from a mol block)."""
    try:
        return identity(smiles)
    except MoleculeError:
        return smiles


def _format_label(label: float, censoring: int, classes: tuple[str, ...]) -> str:
    if classes:
        return classes[int(label)]
    return f"{('', '≥', '≤')[censoring]}{label:.6g}"
