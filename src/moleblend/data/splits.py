"""Training, validation and test sets: at random, by scaffold, cluster or group, or given."""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from jaxtyping import Float64, Int64

from moleblend.chem.fingerprints import cluster, scaffold
from moleblend.chem.molecule import MoleculeError
from moleblend.config import check_type
from moleblend.data.containers import read_container
from moleblend.data.table import Rejected, Table, read_molecules, read_with_smiles
from moleblend.data.time_split import read_dates
from moleblend.errors import TableError

Fractions = tuple[float, float, float]
"""Fractions of the training, validation and test sets, which sum to 1."""

_SET_NAMES = {
    "train": "train",
    "training": "train",
    "valid": "validation",
    "validation": "validation",
    "val": "validation",
    "test": "test",
}


@dataclass(frozen=True, eq=False)
class Split:
    """Row numbers of the three sets, counted from 0 and ascending. No row is listed twice.

    Attributes:
        train: rows of the training set.
        validation: rows of the validation set.
        test: rows of the test set.
        excluded: rows that are in no set, because they are not molecules.
    """

    train: Int64[np.ndarray, " n_train"]
    validation: Int64[np.ndarray, " n_validation"]
    test: Int64[np.ndarray, " n_test"]
    excluded: Int64[np.ndarray, " n_excluded"] = field(
        default_factory=lambda: np.zeros(0, np.int64)
    )

    def __post_init__(self) -> None:
        """Check that no row is listed twice."""
        rows, counts = np.unique(
            np.concatenate([*self.sets().values(), self.excluded]), return_counts=True
        )
        if (counts > 1).any():
            raise TableError(f"row {rows[counts > 1][0]} is in the split more than once")
        if rows.size and rows[0] < 0:
            raise TableError(f"got row number {rows[0]}, expected at least 0")

    def sets(self) -> dict[str, Int64[np.ndarray, " n"]]:
        """Return the rows of the three sets by name: `train`, `validation` and `test`."""
        return {"train": self.train, "validation": self.validation, "test": self.test}


def scaffold_split(
    smiles: Sequence[str | float | None], fractions: Fractions = (0.8, 0.1, 0.1)
) -> Split:
    """Split so that no Bemis-Murcko scaffold is in two sets.

    The groups of rows with the same scaffold are sorted by size, the largest first; of groups of
    equal size, the one with the later first row comes first. Each group goes to the training set
    if it fits completely, else to the validation set if it fits, else to the test set. All
    molecules without a ring are one group. Nothing is random.

    Args:
        smiles: one per row. A row without a SMILES (empty, None, NaN) or with an invalid one is in
            no set; `Split.excluded` lists these rows.
        fractions: of the training, validation and test sets, among the rows with a molecule.

    Raises:
        TableError: the fractions do not sum to 1.

    Reference:
        Hu et al., ICLR 2020, arXiv:1905.12265 (their deterministic scaffold split, chirality kept).
    """
    _check_fractions(fractions)
    rows: list[int] = []
    excluded: list[int] = []
    groups: list[str] = []
    for row, text in enumerate(read_container(smiles)):
        try:
            groups.append(scaffold(text if isinstance(text, str) else ""))
        except MoleculeError:
            excluded.append(row)
        else:
            rows.append(row)
    split = _fill(_largest_first(_group_rows(groups)), len(rows), fractions)
    return _renumbered(split, rows, excluded)


def balanced_scaffold_split(
    smiles: Sequence[str], fractions: Fractions = (0.8, 0.1, 0.1), seed: int = 0
) -> Split:
    """Split as `grouped_split` does, by Bemis-Murcko scaffold (chirality kept).

    Raises:
        MoleculeError: a SMILES is invalid; the message has its row.
        TableError: the fractions do not sum to 1.

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

    Molecules of different clusters can still be more similar than `similarity`, because only the
    similarity to the cluster centre counts.

    Args:
        smiles: one per row, at most `fingerprints.MOST_TO_CLUSTER`.
        fractions: of the training, validation and test sets.
        similarity: smallest Tanimoto similarity of a molecule to its cluster centre.
        seed: for the order of the clusters.

    Raises:
        MoleculeError: a SMILES is invalid; the message has its row.
        TableError: the fractions do not sum to 1, or there are too many molecules.
    """
    _check_fractions(fractions)
    return grouped_split(cluster(smiles, similarity).tolist(), fractions, seed)


def grouped_split(
    groups: Sequence[Hashable], fractions: Fractions = (0.8, 0.1, 0.1), seed: int = 0
) -> Split:
    """Split at random so that no group is in two sets.

    Groups that are larger than half of the validation or test set come first, in random order; all
    others follow in random order. Each group goes to the training set if it fits completely, else
    to the validation set if it fits, else to the test set. Large groups therefore go to the
    training set if they fit, and no single group fills the validation or test set.

    Args:
        groups: the group of each row.
        fractions: of the training, validation and test sets.
        seed: for both orders.

    Raises:
        TableError: the fractions do not sum to 1.
    """
    _check_fractions(fractions)
    shuffled = _shuffled(_group_rows(groups), seed)
    half = min(fraction * len(groups) / 2 for fraction in fractions[1:])
    shuffled.sort(key=lambda rows: len(rows) <= half)
    return _fill(shuffled, len(groups), fractions)


def random_split(n_rows: int, fractions: Fractions = (0.8, 0.1, 0.1), seed: int = 0) -> Split:
    """Split rows at random; the sizes of the sets are rounded.

    Raises:
        TableError: the fractions do not sum to 1.
    """
    _check_fractions(fractions)
    order = np.random.default_rng(seed).permutation(n_rows)
    first = round(fractions[0] * n_rows)
    second = round(sum(fractions[:2]) * n_rows)
    return Split(_rows(order[:first]), _rows(order[first:second]), _rows(order[second:]))


def given_split(column: Sequence[str]) -> Split:
    """Split by a column with the values train, validation (or valid, val) and test, in any case.

    Raises:
        TableError: there is another value; the message has its row.
    """
    sets: dict[str, list[int]] = {"train": [], "validation": [], "test": []}
    for row, value in enumerate(column):
        name = _SET_NAMES.get(value.strip().lower())
        if name is None:
            raise TableError(f"row {row + 1}: got {value!r}, expected train, validation or test")
        sets[name].append(row)
    return Split(**{name: _rows(rows) for name, rows in sets.items()})


def with_validation(split: Split, smiles: Sequence[str]) -> Split:
    """Draw a validation set from the training set by scaffold, if the split has none.

    A tenth of the training rows is drawn: those of the smallest scaffolds.

    Args:
        split: with training rows.
        smiles: of all rows.
    """
    if len(split.validation) or len(split.train) < 2:
        return split
    groups = scaffolds([smiles[row] for row in split.train])
    drawn = _fill(_largest_first(_group_rows(groups)), len(split.train), (0.9, 0.1, 0.0))
    kept = split.train[drawn.train]
    left = np.sort(split.train[np.concatenate([drawn.validation, drawn.test])])
    return Split(kept, left, split.test, split.excluded)


def time_split(days: Float64[np.ndarray, " n"], fractions: Fractions = (0.8, 0.1, 0.1)) -> Split:
    """Split by date: the oldest rows train, the newest test; rows of one day stay together.

    Args:
        days: date of each row, see `time_split.read_dates`; none is NaN.
        fractions: of the training, validation and test sets.
    """
    _check_fractions(fractions)
    order = np.argsort(days, kind="stable")
    ends = np.round(np.cumsum(fractions)[:2] * len(days)).astype(int)
    # A set ends after the last row of its last day.
    cuts = [
        int(np.searchsorted(days[order], days[order][max(end - 1, 0)], "right")) for end in ends
    ]
    parts = np.split(order, cuts)
    return Split(*(np.sort(part) for part in parts))


def set_columns(table: Table) -> list[str]:
    """List the columns whose cells name the sets of a split, `train` and `test` among them."""
    found = []
    for name in table.names:
        if table.names.count(name) > 1:
            continue
        values = {str(cell).strip().lower() for cell in table.column(name).to_pylist()}
        sets = {_SET_NAMES.get(value) for value in values - {"", "none"}}
        if None not in sets and {"train", "test"} <= sets:
            found.append(name)
    return found


SPLITS: dict[str, Callable[[Sequence[str], Fractions, int], Split]] = {
    "random": lambda smiles, fractions, seed: random_split(len(smiles), fractions, seed),
    "scaffold": lambda smiles, fractions, _: scaffold_split(smiles, fractions),
    "balanced": balanced_scaffold_split,
    "cluster": lambda smiles, fractions, seed: cluster_split(smiles, fractions, seed=seed),
}
"""Split functions of SMILES, fractions and seed, by name."""


def folds(kind: str, smiles: Sequence[str], n_folds: int, seed: int = 0) -> tuple[Split, ...]:
    """Split into `n_folds` folds by one of the kinds of `SPLITS`; see `grouped_folds`.

    Args:
        kind: name of a split; `scaffold` ignores the seed.
        smiles: one per row.
        n_folds: at least 3.
        seed: for the random order.

    Raises:
        MoleculeError: a SMILES is invalid; the message has its row.
        TableError: the kind is unknown, or there are too few groups of rows.
    """
    if kind not in SPLITS:
        raise TableError(f"unknown split {kind!r}; available: {', '.join(SPLITS)}")
    if kind == "random":
        return grouped_folds(range(len(smiles)), n_folds, seed)
    if kind == "cluster":
        return grouped_folds(cluster(smiles).tolist(), n_folds, seed)
    return grouped_folds(scaffolds(smiles), n_folds, None if kind == "scaffold" else seed)


def grouped_folds(groups: Sequence[Hashable], n_folds: int, seed: int | None) -> tuple[Split, ...]:
    """Split into folds of nearly equal size without dividing a group.

    The groups are sorted by size, the largest first; each goes to the fold that is smallest so far.
    In split k, fold k is the test set, the next fold (cyclically) is the validation set, and the
    others are the training set.

    Args:
        groups: the group of each row.
        n_folds: at least 3, so that the training set is not empty.
        seed: for the order of groups of equal size; None puts groups with later first rows first.

    Returns:
        One split per fold. Every row is in the test set of one split and in the validation set of
        another one.

    Raises:
        TableError: there are fewer than 3 folds, or fewer groups than folds.
    """
    grouped = _group_rows(groups)
    if n_folds < 3:
        raise TableError(
            f"got {n_folds} folds, expected at least 3: for training, validation and test"
        )
    if len(grouped) < n_folds:
        raise TableError(
            f"got {len(grouped)} groups of rows that stay together, but {n_folds} folds need at "
            f"least {n_folds}"
        )
    if seed is not None:
        grouped = sorted(_shuffled(grouped, seed), key=len, reverse=True)
    fold_rows: list[list[int]] = [[] for _ in range(n_folds)]
    for rows in grouped if seed is not None else _largest_first(grouped):
        min(fold_rows, key=len).extend(rows)
    return tuple(
        Split(
            train=_rows(
                [row for step in range(2, n_folds) for row in fold_rows[(k + step) % n_folds]]
            ),
            validation=_rows(fold_rows[(k + 1) % n_folds]),
            test=_rows(fold_rows[k]),
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
    dates: str = "",
    smiles: str | None = None,
) -> tuple[pa.Table, dict[str, Split], dict[int, str]]:
    """Add a column with the set of each row to a table.

    Args:
        table: the rows.
        by: one of `SPLITS`; `time`, oldest rows first; or a column: rows with the same value stay
            in one set.
        n_folds: makes one column per fold, named `column` with the suffix _1, _2, ...
        fractions: of the training, validation and test sets, by default 0.8, 0.1 and 0.1; not
            with folds.
        seed: for random splits.
        column: name of the new column; the column `column`_reason is added, too.
        dates: the column of dates of the split by `time`.
        smiles: the SMILES column; found by name by default.

    Returns:
        All rows with the old and the new columns (an SDF gets its SMILES, see
        `table.read_with_smiles`); the split of each new column, in rows of the table; the reasons
        of the rows that are in no set. Such a row is not a molecule, or its cell in the column
        `by` is empty.

    Raises:
        TableError: a column is missing or exists already, or the split is not possible.
    """
    if n_folds is not None and fractions is not None:
        raise TableError("folds have equal sizes: give the number of folds or fractions, not both")
    fractions = fractions or (0.8, 0.1, 0.1)
    columns, _, items = read_with_smiles(table, smiles)
    names = [column] if n_folds is None else [f"{column}_{k + 1}" for k in range(n_folds)]
    for name in (*names, f"{column}_reason"):
        if name in columns.column_names:
            raise TableError(
                f"{table.source}: there is a column {name!r} already, choose another name for the "
                "new one"
            )
    if (by == "time") != bool(dates):
        raise TableError(
            f"got by={by!r} and dates={dates!r}, expected the column of dates with `time` only"
        )
    given = None if by in SPLITS else table.column(dates or by).to_pylist()
    days = read_dates(given) if given is not None and dates else None
    texts: list[str] = []
    groups: list[object] = []
    rows: list[int] = []
    reasons: dict[int, str] = {}
    for row, item in enumerate(items):
        group = given[row] if given is not None else ""
        if isinstance(item, Rejected):
            reasons[row] = item.reason
        elif given is not None and (group is None or not str(group).strip()):
            reasons[row] = f"column {dates or by!r} is empty"
        else:
            rows.append(row)
            texts.append(item.smiles)
            groups.append(str(group).strip())
    if days is not None:
        if n_folds is not None:
            raise TableError("a split by time has no folds")
        usable_splits = (time_split(days[rows], fractions),)
    elif n_folds is not None:
        usable_splits = (
            folds(by, texts, n_folds, seed)
            if given is None
            else grouped_folds(groups, n_folds, seed)
        )
    elif given is None:
        usable_splits = (SPLITS[by](texts, fractions, seed),)
    else:
        usable_splits = (grouped_split(groups, fractions, seed),)
    splits = {}
    for name, usable_split in zip(names, usable_splits, strict=True):
        splits[name] = _renumbered(usable_split, rows, list(reasons))
        cells = [None] * len(table)
        for set_name, set_rows in splits[name].sets().items():
            for row in set_rows:
                cells[row] = set_name
        columns = columns.append_column(name, pa.array(cells, pa.string()))
    reason_cells = pa.array([reasons.get(row) for row in range(len(table))], pa.string())
    return columns.append_column(f"{column}_reason", reason_cells), splits, reasons


def read_split(
    table: Table, column: str, *, smiles: str | None = None
) -> tuple[list[str], Split, dict[int, str]]:
    """Read the molecules of a table, and their sets from a column; see `given_split`.

    Returns:
        Canonical SMILES of each row, "" for a row that is not a molecule; the split; the reasons of
        the rows that are in no set: the row is not a molecule, or its cell is empty.

    Raises:
        TableError: there is no such column, or it has another value.
    """
    names = ["" if cell is None else str(cell).strip() for cell in table.column(column).to_pylist()]
    texts, reasons = [], {}
    sets: dict[str, list[int]] = {"train": [], "validation": [], "test": []}
    for row, item in enumerate(read_molecules(table, smiles=smiles)):
        texts.append("" if isinstance(item, Rejected) else item.smiles)
        if isinstance(item, Rejected):
            reasons[row] = item.reason
        elif not names[row]:
            reasons[row] = f"column {column!r} is empty"
        elif names[row].lower() in _SET_NAMES:
            sets[_SET_NAMES[names[row].lower()]].append(row)
        else:
            raise TableError(
                f"{table.source}, {table.place(row)}: got {names[row]!r} in column {column!r}, "
                "expected train, validation or test"
            )
    split = Split(
        **{name: _rows(rows) for name, rows in sets.items()}, excluded=_rows(list(reasons))
    )
    return texts, split, reasons


def scaffolds(smiles: Sequence[str]) -> list[str]:
    """Compute the scaffold of each row; "" for a molecule without a ring.

    Raises:
        MoleculeError: a SMILES is invalid; the message has its row.
    """
    result = []
    for row, text in enumerate(smiles):
        try:
            result.append(scaffold(text))
        except MoleculeError as error:
            raise MoleculeError(f"row {row + 1}: {error}") from error
    return result


def _group_rows(groups: Sequence[Hashable]) -> list[list[int]]:
    """List the rows of each group."""
    rows: dict[Hashable, list[int]] = {}
    for row, group in enumerate(groups):
        rows.setdefault(group, []).append(row)
    return list(rows.values())


def _largest_first(grouped: list[list[int]]) -> list[list[int]]:
    """Sort groups by size; of equal ones, the group with the later first row comes first."""
    return sorted(grouped, key=lambda rows: (len(rows), rows[0]), reverse=True)


def _shuffled(grouped: list[list[int]], seed: int) -> list[list[int]]:
    return [grouped[k] for k in np.random.default_rng(seed).permutation(len(grouped))]


def _fill(grouped: list[list[int]], n_rows: int, fractions: Fractions) -> Split:
    """Assign complete groups, in their order, to training, else to validation, else to test."""
    n_train, n_train_and_validation = (
        math.floor(fraction * n_rows + 1e-9)  # 0.7 + 0.2 is slightly below 0.9
        for fraction in (fractions[0], sum(fractions[:2]))
    )
    train: list[int] = []
    validation: list[int] = []
    test: list[int] = []
    for rows in grouped:
        if len(train) + len(rows) <= n_train:
            train += rows
        elif len(train) + len(validation) + len(rows) <= n_train_and_validation:
            validation += rows
        else:
            test += rows
    return Split(_rows(train), _rows(validation), _rows(test))


def _renumbered(split: Split, rows: Sequence[int], excluded: Sequence[int]) -> Split:
    """Convert a split of the usable rows to the row numbers of the table."""
    numbers = np.array(rows, np.int64)
    sets = {name: numbers[positions] for name, positions in split.sets().items()}
    return Split(**sets, excluded=_rows(excluded))


def _check_fractions(fractions: Fractions) -> None:
    """Check that the fractions are not negative and sum to 1."""
    check_type("fractions", fractions, tuple[float, float, float])
    if min(fractions) < 0 or not math.isclose(sum(fractions), 1):
        raise TableError(
            f"fractions must be at least 0 and sum to 1, got {fractions}, sum {sum(fractions):g}"
        )


def _rows(rows: Sequence[int] | np.ndarray) -> Int64[np.ndarray, " n"]:
    return np.sort(np.asarray(rows, np.int64))
