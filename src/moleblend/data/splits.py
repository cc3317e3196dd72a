"""Which rows train, which choose, which judge: at random, by groups, or as the table says."""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, fields

import numpy as np
import pyarrow as pa
from jaxtyping import Int64

from moleblend.chem.fingerprints import cluster, scaffold
from moleblend.chem.molecule import MoleculeError
from moleblend.data.table import Rejected, Table, read_molecules, with_smiles

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
    return _fill(_largest_first(_sets(scaffolds(smiles))), len(smiles), fractions)


def balanced_scaffold_split(
    smiles: Sequence[str], fractions: Fractions = (0.8, 0.1, 0.1), seed: int = 0
) -> Split:
    """Split as `grouped_split` does, by Bemis-Murcko scaffold (chirality kept).

    Raises:
        MoleculeError: a SMILES that cannot be read; the message names its row.
        ValueError: fractions that don't sum to one.

    Reference:
        Yang et al., J. Chem. Inf. Model. 2019, doi:10.1021/acs.jcim.9b00237 (scaffold-balanced).
    """
    return grouped_split(scaffolds(smiles), fractions, seed)


def cluster_split(
    smiles: Sequence[str],
    fractions: Fractions = (0.8, 0.1, 0.1),
    similarity: float = 0.65,
    seed: int = 0,
) -> Split:
    """Split as `grouped_split` does, by Butina cluster on ECFP4.

    Molecules of two clusters can still be more similar than `similarity`: only those near its
    centre belong to a cluster.

    Args:
        smiles: one per row, at most `fingerprints.MOST_TO_CLUSTER`.
        fractions: of train, validation and test; they sum to one.
        similarity: Tanimoto to the centre of its cluster that a molecule has at least.
        seed: of the order of the clusters.

    Raises:
        MoleculeError: a SMILES that cannot be read; the message names its row.
        ValueError: fractions that don't sum to one, or too many molecules.
    """
    _check_fractions(fractions)
    return grouped_split(cluster(smiles, similarity).tolist(), fractions, seed)


def grouped_split(
    groups: Sequence[Hashable], fractions: Fractions = (0.8, 0.1, 0.1), seed: int = 0
) -> Split:
    """Split at random so that no group is in two parts.

    Groups too large for half of validation or test come first, in random order, then all others in
    random order; each goes to train while it has room for the whole group, else to validation, else
    to test. So no single group fills validation or test, where large ones fit into train.

    Args:
        groups: what each row belongs to.
        fractions: of train, validation and test; they sum to one.
        seed: of both orders.

    Raises:
        ValueError: fractions that don't sum to one.
    """
    _check_fractions(fractions)
    shuffled = _shuffled(_sets(groups), seed)
    half = min(share * len(groups) / 2 for share in fractions[1:])
    shuffled.sort(key=lambda rows: len(rows) <= half)
    return _fill(shuffled, len(groups), fractions)


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
            raise ValueError(
                f"row {row + 1}: a split is train, validation or test, found {value!r}"
            )
        parts[part].append(row)
    return Split(**{part: _rows(rows) for part, rows in parts.items()})


SPLITS: dict[str, Callable[[Sequence[str], Fractions, int], Split]] = {
    "random": lambda smiles, fractions, seed: random_split(len(smiles), fractions, seed),
    "scaffold": lambda smiles, fractions, _: scaffold_split(smiles, fractions),
    "balanced": balanced_scaffold_split,
    "cluster": lambda smiles, fractions, seed: cluster_split(smiles, fractions, seed=seed),
}
"""The kinds of split that need no column: SMILES, fractions and seed in."""


def folds(kind: str, smiles: Sequence[str], n_folds: int, seed: int = 0) -> tuple[Split, ...]:
    """Split into `n_folds` folds by one of the kinds of `SPLITS`; see `grouped_folds`.

    Args:
        kind: `scaffold` ignores the seed.
        smiles: one per row.
        n_folds: at least 3.
        seed: of what is random.

    Raises:
        MoleculeError: a SMILES that cannot be read; the message names its row.
        ValueError: another kind, or rows that don't make so many folds.
    """
    if kind not in SPLITS:
        raise ValueError(f"there are folds by {', '.join(SPLITS)}, not by {kind!r}")
    if kind == "random":
        return grouped_folds(range(len(smiles)), n_folds, seed)
    if kind == "cluster":
        return grouped_folds(cluster(smiles).tolist(), n_folds, seed)
    return grouped_folds(scaffolds(smiles), n_folds, None if kind == "scaffold" else seed)


def grouped_folds(groups: Sequence[Hashable], n_folds: int, seed: int | None) -> tuple[Split, ...]:
    """Split into folds of nearly equal size, none of which cuts a group.

    The groups, the largest first, each go to the fold that is smallest so far. In split k, fold k
    is test, the next one (after the last, the first) validation, and all others are train.

    Args:
        groups: what each row belongs to.
        n_folds: at least 3, so that there is something to train on.
        seed: of the order of equally large groups; None takes those with later first rows first.

    Returns:
        One split per fold; every row is in the test part of one of them, and in the validation
        part of another one.

    Raises:
        ValueError: fewer folds than 3, or fewer groups than folds.
    """
    sets = _sets(groups)
    if n_folds < 3:
        raise ValueError(
            f"at least 3 folds are needed, to test, to validate and to train; {n_folds} came"
        )
    if len(sets) < n_folds:
        raise ValueError(f"{len(sets)} groups of rows that stay together make no {n_folds} folds")
    if seed is not None:
        sets = sorted(_shuffled(sets, seed), key=len, reverse=True)
    parts: list[list[int]] = [[] for _ in range(n_folds)]
    for rows in sets if seed is not None else _largest_first(sets):
        min(parts, key=len).extend(rows)
    return tuple(
        Split(
            train=_rows([row for step in range(2, n_folds) for row in parts[(k + step) % n_folds]]),
            validation=_rows(parts[(k + 1) % n_folds]),
            test=_rows(parts[k]),
        )
        for k in range(n_folds)
    )


def split_table(
    table: Table,
    by: str,
    *,
    n_folds: int | None = None,
    fractions: Fractions | None = None,
    seed: int = 0,
    column: str = "split",
    smiles: str | None = None,
) -> tuple[pa.Table, dict[str, Split], dict[int, str]]:
    """Add to a table what part each row is in.

    Args:
        table: the rows.
        by: one of `SPLITS`, or a column: rows with the same value stay together.
        n_folds: makes a column for each fold, `column` with _1, _2, ... at its end.
        fractions: of train, validation and test; left out, 0.8, 0.1 and 0.1. Folds take none.
        seed: of what is random.
        column: the new column; beside it stands `column` with _reason at its end.
        smiles: the SMILES column; left out, it is found by name.

    Returns:
        All rows and columns (the molecules of an SDF as SMILES, see `tables.with_smiles`) and the
        new ones; the split of each new column, in rows of the table; the rows that are in no part,
        each with its reason. Such a row is no molecule, or its cell in the column `by` is empty.

    Raises:
        ValueError: a column is missing or there already, or no such split can be made.
    """
    if n_folds is not None and fractions is not None:
        raise ValueError("folds are equal parts: ask for folds or for fractions")
    fractions = fractions or (0.8, 0.1, 0.1)
    columns, _ = with_smiles(table, smiles)
    names = [column] if n_folds is None else [f"{column}_{k + 1}" for k in range(n_folds)]
    for name in (*names, f"{column}_reason"):
        if name in columns.column_names:
            raise ValueError(
                f"{table.source}: it has a column {name!r} already, name the new one differently"
            )
    given = None if by in SPLITS else table.column(by).to_pylist()
    texts: list[str] = []
    groups: list[object] = []
    rows: list[int] = []
    reasons: dict[int, str] = {}
    for row, item in enumerate(read_molecules(table, smiles=smiles)):
        group = given[row] if given is not None else ""
        if isinstance(item, Rejected):
            reasons[row] = item.reason
        elif given is not None and (group is None or not str(group).strip()):
            reasons[row] = f"column {by!r} is empty"
        else:
            rows.append(row)
            texts.append(item.smiles)
            groups.append(str(group).strip())
    if n_folds is not None:
        found = (
            folds(by, texts, n_folds, seed)
            if given is None
            else grouped_folds(groups, n_folds, seed)
        )
    elif given is None:
        found = (SPLITS[by](texts, fractions, seed),)
    else:
        found = (grouped_split(groups, fractions, seed),)
    places = np.array(rows, np.int64)
    splits = {}
    for name, split in zip(names, found, strict=True):
        parts = {part.name: places[getattr(split, part.name)] for part in fields(split)}
        cells = [None] * len(table)
        for part, chosen in parts.items():
            for row in chosen:
                cells[row] = part
        columns = columns.append_column(name, pa.array(cells, pa.string()))
        splits[name] = Split(**parts)
    told = pa.array([reasons.get(row) for row in range(len(table))], pa.string())
    return columns.append_column(f"{column}_reason", told), splits, reasons


def read_split(
    table: Table, column: str, *, smiles: str | None = None
) -> tuple[list[str], Split, dict[int, str]]:
    """Read the molecules of a table, and their parts as a column says; see `given_split`.

    Returns:
        Canonical SMILES of each row, "" for a row that is no molecule; the parts; the rows that are
        in no part, each with its reason: it is no molecule, or its cell is empty.

    Raises:
        ValueError: there is no such column, or a cell of it says something else.
    """
    names = ["" if cell is None else str(cell).strip() for cell in table.column(column).to_pylist()]
    texts, reasons = [], {}
    parts: dict[str, list[int]] = {"train": [], "validation": [], "test": []}
    for row, item in enumerate(read_molecules(table, smiles=smiles)):
        texts.append("" if isinstance(item, Rejected) else item.smiles)
        if isinstance(item, Rejected):
            reasons[row] = item.reason
        elif not names[row]:
            reasons[row] = f"column {column!r} is empty"
        elif names[row].lower() in _GIVEN_NAMES:
            parts[_GIVEN_NAMES[names[row].lower()]].append(row)
        else:
            raise ValueError(
                f"{table.source}, {table.place(row)}: column {column!r} should hold train, "
                f"validation or test, not {names[row]!r}"
            )
    return texts, Split(**{part: _rows(rows) for part, rows in parts.items()}), reasons


def scaffolds(smiles: Sequence[str]) -> list[str]:
    """Compute the scaffold of each row; "" where there is no ring.

    Raises:
        MoleculeError: a SMILES that cannot be read; the message names its row.
    """
    found = []
    for row, text in enumerate(smiles):
        try:
            found.append(scaffold(text))
        except MoleculeError as error:
            raise MoleculeError(f"row {row + 1}: {error}") from error
    return found


def _sets(groups: Sequence[Hashable]) -> list[list[int]]:
    """Gather the rows of each group."""
    sets: dict[Hashable, list[int]] = {}
    for row, group in enumerate(groups):
        sets.setdefault(group, []).append(row)
    return list(sets.values())


def _largest_first(sets: list[list[int]]) -> list[list[int]]:
    """Order by size; of equal sets that with the later first row comes first."""
    return sorted(sets, key=lambda rows: (len(rows), rows[0]), reverse=True)


def _shuffled(sets: list[list[int]], seed: int) -> list[list[int]]:
    return [sets[k] for k in np.random.default_rng(seed).permutation(len(sets))]


def _fill(sets: list[list[int]], n_rows: int, fractions: Fractions) -> Split:
    """Give whole sets, in their order, to train while it has room, to validation, to test."""
    room, room_for_both = (
        math.floor(share * n_rows + 1e-9)  # 0.7 + 0.2 is a little below 0.9
        for share in (fractions[0], sum(fractions[:2]))
    )
    train: list[int] = []
    validation: list[int] = []
    test: list[int] = []
    for rows in sets:
        if len(train) + len(rows) <= room:
            train += rows
        elif len(train) + len(validation) + len(rows) <= room_for_both:
            validation += rows
        else:
            test += rows
    return Split(_rows(train), _rows(validation), _rows(test))


def _check_fractions(fractions: Fractions) -> None:
    """Refuse shares that are not shares."""
    if min(fractions) < 0 or not math.isclose(sum(fractions), 1):
        raise ValueError(
            f"fractions must be at least 0 and sum to 1, got {fractions}, sum {sum(fractions):g}"
        )


def _rows(rows: Sequence[int] | np.ndarray) -> Int64[np.ndarray, " n"]:
    return np.sort(np.asarray(rows, np.int64))
