"""The same molecule in several rows: whether labels contradict, and whether parts share it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int8, Int64

from moleblend.chem.molecule import MoleculeError
from moleblend.chem.standardise import canonical
from moleblend.data.splits import Split

_MOST_NAMED = 5
"""Molecules in a sentence; the record has up to `_MOST_KEPT`, and rows.csv all."""

_MOST_KEPT = 100


@dataclass(frozen=True)
class LabelConflict:
    """Labels of one molecule that cannot all be true.

    Attributes:
        target: what they are labels of.
        rows: of the file, counted from 0, that have one.
        labels: of these rows, as text.
        gap: from the least to the greatest, of classes 1; between bounds, by how much they miss.
    """

    target: str
    rows: tuple[int, ...]
    labels: tuple[str, ...]
    gap: float

    def __str__(self) -> str:
        """Name the rows, counted from 1, each with its label."""
        named = zip(self.rows, self.labels, strict=True)
        return ", ".join(f"row {row + 1}: {label}" for row, label in named)


@dataclass(frozen=True, eq=False)
class Duplicates:
    """What stands in several rows; rows are those of the file, counted from 0.

    Attributes:
        groups: the rows of each molecule that has several, in the order of the first.
        contradictions: the widest gap first.
        known_test_rows: rows of a test part whose molecule is also in train or validation.
        known_validation_rows: rows of a validation part whose molecule is also in train.
    """

    groups: tuple[tuple[int, ...], ...] = ()
    contradictions: tuple[LabelConflict, ...] = ()
    known_test_rows: tuple[int, ...] = ()
    known_validation_rows: tuple[int, ...] = ()

    def sentences(self) -> list[str]:
        """Say it, with rows counted from 1; nothing where all molecules differ."""
        if not self.groups:
            return []
        counts = f"{len(self.groups):,} (in {sum(map(len, self.groups)):,} rows)"
        told = [f"molecules that stand in several rows: {counts}; each row is used as it is"]
        for target in dict.fromkeys(one.target for one in self.contradictions):
            found = [one for one in self.contradictions if one.target == target]
            some = "; ".join(map(str, found[:_MOST_NAMED]))
            more = f"; and {len(found) - _MOST_NAMED:,} more" if found[_MOST_NAMED:] else ""
            told.append(
                f"{target!r}: molecules whose labels differ from row to row: {len(found):,} "
                f"({some}{more}); moleblend data clean --duplicates mean --target ... merges them"
            )
        for part, rows, others in (
            ("test", self.known_test_rows, "train or validation, so its figures flatter"),
            ("validation", self.known_validation_rows, "train"),
        ):
            if rows:
                some = ", ".join(str(row + 1) for row in rows[:_MOST_NAMED])
                more = f" and {len(rows) - _MOST_NAMED:,} more" if rows[_MOST_NAMED:] else ""
                told.append(
                    f"rows of {part} whose molecule is also in {others}: {len(rows):,} "
                    f"({'rows' if rows[1:] else 'row'} {some}{more}); a split by scaffold or "
                    "cluster keeps a molecule in one part"
                )
        return told

    def to_dict(self) -> dict[str, object]:
        """For the record: counts, and the first rows, counted from 1."""
        return {
            "molecules": len(self.groups),
            "rows": sum(map(len, self.groups)),
            "first": [[row + 1 for row in group] for group in self.groups[:_MOST_KEPT]],
            "contradicting": len(self.contradictions),
            "first_contradicting": [
                {
                    "target": one.target,
                    "rows": [row + 1 for row in one.rows],
                    "labels": list(one.labels),
                }
                for one in self.contradictions[:_MOST_KEPT]
            ],
            "test_rows_known_before": [row + 1 for row in self.known_test_rows],
            "validation_rows_in_train": [row + 1 for row in self.known_validation_rows],
        }

    def others(self) -> dict[int, str]:
        """Say for each row that has some which other rows, counted from 1, are its molecule."""
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
    """Find molecules that stand in several rows: those of the same canonical SMILES.

    Args:
        smiles: of each usable row.
        rows: where it stands in the file, counted from 0.
        labels: NaN where missing.
        censoring: 1 where the true value is at least the label, -1 where at most, else 0.
        targets: each name, and what its classes are called; nothing for a number.
        splits: the parts, in places among the usable rows; several are folds.
    """
    molecules = same_molecules([_canonical(text) for text in smiles])
    lowest = np.where(np.isnan(labels) | (censoring == -1), -np.inf, labels)
    highest = np.where(np.isnan(labels) | (censoring == 1), np.inf, labels)
    contradictions = []
    for group in molecules:
        for k in np.flatnonzero(contradict(lowest[group], highest[group])):
            name, classes = list(targets.items())[k]
            having = [place for place in group if not np.isnan(labels[place, k])]
            contradictions.append(
                LabelConflict(
                    target=name,
                    rows=tuple(int(rows[place]) for place in having),
                    labels=tuple(
                        _said(labels[place, k], int(censoring[place, k]), classes)
                        for place in having
                    ),
                    gap=1.0 if classes else float(lowest[group, k].max() - highest[group, k].min()),
                )
            )
    of = {place: number for number, group in enumerate(molecules) for place in group}
    known: dict[str, set[int]] = {"validation": set(), "test": set()}
    for split in splits:
        train, validation = (
            {of[place] for place in part.tolist() if place in of}
            for part in (split.train, split.validation)
        )
        for part, before in (("validation", train), ("test", train | validation)):
            known[part] |= {p for p in getattr(split, part).tolist() if of.get(p, -1) in before}
    return Duplicates(
        groups=tuple(tuple(int(rows[place]) for place in group) for group in molecules),
        contradictions=tuple(sorted(contradictions, key=lambda one: -one.gap)),
        known_test_rows=tuple(int(rows[place]) for place in sorted(known["test"])),
        known_validation_rows=tuple(int(rows[place]) for place in sorted(known["validation"])),
    )


def same_molecules(names: Sequence[str]) -> list[list[int]]:
    """Gather the places of each name that stands in several; "" is no name."""
    groups: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        if name:
            groups.setdefault(name, []).append(place)
    return [group for group in groups.values() if len(group) > 1]


def contradict(
    lowest: Float64[np.ndarray, "m t"], highest: Float64[np.ndarray, "m t"], tolerance: float = 0.0
) -> Bool[np.ndarray, " t"]:
    """Whether the labels of each target differ by more than the tolerance, rounding apart.

    Args:
        lowest: least value that each label allows; -inf of one that is missing or an upper bound.
        highest: greatest one; inf of one that is missing or a lower bound.
        tolerance: largest difference of two labels that agree, in the unit of the label.
    """
    low, high = lowest.max(0), highest.min(0)
    size = np.where(np.isfinite([low, high]), np.abs([low, high]), 0).max(0)
    return low - high - tolerance > 1e-12 * size


def _canonical(smiles: str) -> str:
    """Write it as RDKit does; what RDKit refuses, of a mol block, is compared as it stands."""
    try:
        return canonical(smiles)
    except MoleculeError:
        return smiles


def _said(label: float, bound: int, classes: tuple[str, ...]) -> str:
    if classes:
        return classes[int(label)]
    return f"{('', '≥', '≤')[bound]}{label:.6g}"
