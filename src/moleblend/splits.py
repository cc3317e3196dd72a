"""Which rows train, which choose, which judge: random, by scaffold, or as the table says."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Int64

from .chem import scaffold
from .molecule import MoleculeError

Fractions = tuple[float, float, float]

_GIVEN_NAMES = {
    "train": "train",
    "valid": "validation",
    "validation": "validation",
    "val": "validation",
    "test": "test",
}


@dataclass(frozen=True, eq=False)
class Split:
    """Row numbers, counted from 0 and ascending; no row stands twice."""

    train: Int64[np.ndarray, " n_train"]
    validation: Int64[np.ndarray, " n_validation"]
    test: Int64[np.ndarray, " n_test"]

    def __post_init__(self) -> None:
        """Refuse rows that stand twice."""
        rows, counts = np.unique(
            np.concatenate([getattr(self, part.name) for part in fields(self)]), return_counts=True
        )
        if (counts > 1).any():
            raise ValueError(f"row {rows[counts > 1][0]} stands in the split more than once")
        if rows.size and rows[0] < 0:
            raise ValueError(f"row numbers start at 0, found {rows[0]}")


def scaffold_split(smiles: Sequence[str], fractions: Fractions = (0.8, 0.1, 0.1)) -> Split:
    """Split so that no Bemis-Murcko scaffold is in two parts.

    Sets of rows with the same scaffold, the largest first (of equal ones that with the later first
    row), go to train while it has room for the whole set, else to validation, else to test. All
    molecules without a ring are one set. Nothing is random.

    Args:
        smiles: one per row.
        fractions: of train, validation and test; they sum to one.

    Raises:
        MoleculeError: a SMILES that cannot be read; the message names its row.
        ValueError: fractions that don't sum to one.

    Reference:
        Hu et al., ICLR 2020, arXiv:1905.12265 (their deterministic scaffold split, chirality kept).
    """
    _check_fractions(fractions)
    sets: dict[str, list[int]] = {}
    for row, text in enumerate(smiles):
        try:
            sets.setdefault(scaffold(text), []).append(row)
        except MoleculeError as error:
            raise MoleculeError(f"row {row}: {error}") from error
    room, room_for_both = (
        math.floor(share * len(smiles) + 1e-9)  # 0.7 + 0.2 is a little below 0.9
        for share in (fractions[0], sum(fractions[:2]))
    )
    train: list[int] = []
    validation: list[int] = []
    test: list[int] = []
    for rows in sorted(sets.values(), key=lambda rows: (len(rows), rows[0]), reverse=True):
        if len(train) + len(rows) <= room:
            train += rows
        elif len(train) + len(validation) + len(rows) <= room_for_both:
            validation += rows
        else:
            test += rows
    return Split(_rows(train), _rows(validation), _rows(test))


def random_split(n_rows: int, fractions: Fractions = (0.8, 0.1, 0.1), seed: int = 0) -> Split:
    """Split at random; train and validation have their share rounded to whole rows.

    Raises:
        ValueError: fractions that don't sum to one.
    """
    _check_fractions(fractions)
    order = np.random.default_rng(seed).permutation(n_rows)
    first = round(fractions[0] * n_rows)
    second = round(sum(fractions[:2]) * n_rows)
    return Split(_rows(order[:first]), _rows(order[first:second]), _rows(order[second:]))


def given_split(column: Sequence[str]) -> Split:
    """Split as a column of the table says: train, validation (or valid, val), test, in any case.

    Raises:
        ValueError: any other value; the message has its row.
    """
    parts: dict[str, list[int]] = {"train": [], "validation": [], "test": []}
    for row, value in enumerate(column):
        part = _GIVEN_NAMES.get(value.strip().lower())
        if part is None:
            raise ValueError(f"row {row}: a split is train, validation or test, found {value!r}")
        parts[part].append(row)
    return Split(**{part: _rows(rows) for part, rows in parts.items()})


def _check_fractions(fractions: Fractions) -> None:
    """Refuse shares that are not shares."""
    if min(fractions) < 0 or not math.isclose(sum(fractions), 1):
        raise ValueError(
            f"fractions must be at least 0 and sum to 1, got {fractions}, sum {sum(fractions):g}"
        )


def _rows(rows: Sequence[int] | np.ndarray) -> Int64[np.ndarray, " n"]:
    return np.sort(np.asarray(rows, np.int64))
