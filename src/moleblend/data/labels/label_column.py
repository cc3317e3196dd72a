"""Labels of one target column: numbers, censored numbers, classes, and cells that are no labels."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int8

from moleblend.chem.parse_errors import shown
from moleblend.data.labels.cell_values import (
    ColumnValues,
    ParsedValue,
    TableCells,
    is_plain_number,
    read_number,
)
from moleblend.data.table import Table
from moleblend.data.targets import Kind, Task
from moleblend.errors import TableError

_SMALLEST_RANGE = 1e-100

MOST_CLASSES = 20
"""Largest number of classes: a text column with more distinct texts is not a target."""

_OPPOSITES = (
    ("0", "1"),
    ("false", "true"),
    ("no", "yes"),
    ("n", "y"),
    ("-", "+"),
    ("inactive", "active"),
    ("negative", "positive"),
    ("neg", "pos"),
    ("non-toxic", "toxic"),
    ("nontoxic", "toxic"),
    ("insoluble", "soluble"),
    ("low", "high"),
)
"""Pairs of words for two classes; the second word is class 1."""


@dataclass(frozen=True, eq=False)
class LabelColumn:
    """The labels in one column.

    Attributes:
        name: name of the column.
        kind: regression, binary or multiclass.
        classes: names of class 0, 1, ... in the file; empty for regression.
        values: numbers in the unit of the file, or class numbers; NaN where missing.
        censoring: 1 if the true value is at least the label, -1 if at most, 0 if exact.
        problems: reason for each row (from 0) whose cell is not a label.
        n_approximate: number of cells with the qualifier `~`.
        notes: messages for the user, one sentence each.
    """

    name: str
    kind: Kind
    classes: tuple[str, ...]
    values: Float64[np.ndarray, " n"]
    censoring: Int8[np.ndarray, " n"]
    problems: dict[int, str]
    n_approximate: int = 0
    notes: tuple[str, ...] = ()

    def text(self, row: int) -> str:
        """Format the label of a row: the name of its class, or a number such as ≥10."""
        if np.isnan(self.values[row]):
            return "not a label" if row in self.problems else "empty"
        if self.classes:
            return self.classes[int(self.values[row])]
        return f"{('', '≥', '≤')[self.censoring[row]]}{self.values[row]:.6g}"


def read_label_column(
    table_cells: TableCells, name: str, task: Task = "auto", *, log10: bool = False
) -> LabelColumn:
    """Read the labels of a column and determine their kind.

    With `auto`, a column in which at least half of the cells are numbers is binary if all numbers
    are 0 or 1, else regression. Any other column with few distinct texts is binary if there are
    two, else multi-class.

    Args:
        table_cells: cells of the table.
        name: name of the column.
        task: kind of the labels, or `auto`.
        log10: the model will be trained on log10 of the values, so only positive values are labels.

    Raises:
        TableError: there is no such column, it is empty or holds lists, or more than half of its
            cells are not labels of this kind.
    """
    table, cells = table_cells.table, table_cells[name]
    if cells is None:
        raise TableError(
            f"{table.source}: column {name!r} holds lists, expected one label in each row"
        )
    if not cells.texts:
        raise TableError(f"{table.source}: column {name!r} has no labels, all its cells are empty")
    parsed = [read_number(text) for text in cells.texts]
    # A number beyond the range of labels is no label, but does not make its column one of classes.
    is_number = np.array(
        [
            not one.problem or is_plain_number(text)
            for text, one in zip(cells.texts, parsed, strict=True)
        ]
    )
    number_fraction = cells.counts[is_number].sum() / cells.counts.sum()
    values = {one.value for one in parsed if not one.problem}
    is_binary = bool(values) and values <= {0.0, 1.0} and not any(one.censoring for one in parsed)
    if task == "auto":
        if number_fraction >= 0.5:
            task = "binary" if is_binary else "regression"
        else:
            task = _task_of_texts(table, name, cells)
    if task == "regression":
        return _regression(table, name, cells, parsed, log10)
    if log10:
        raise TableError(f"{table.source}: column {name!r} holds classes, which have no logarithm")
    if task == "binary":
        return _binary(table, name, cells, parsed if number_fraction >= 0.5 else None)
    return _multiclass(table, name, cells, None if any(one.problem for one in parsed) else parsed)


def _regression(
    table: Table, name: str, cells: ColumnValues, parsed: Sequence[ParsedValue], log10: bool
) -> LabelColumn:
    if log10:
        parsed = [
            ParsedValue(problem=f"log10 of {one.value:g} is not defined") if one.value <= 0 else one
            for one in parsed
        ]
    values = np.array([*(one.value for one in parsed), np.nan])[cells.which]
    censoring = np.array([*(one.censoring for one in parsed), 0], np.int8)[cells.which]
    problems = _problems(table, name, cells, [one.problem for one in parsed], "numbers")
    n_approximate = int(cells.counts[[one.is_approximate for one in parsed]].sum())
    notes = []
    if cells.has_commas:
        notes.append(f"{name!r}: commas are read as decimal commas")
    known = values[~np.isnan(values)]
    if not log10 and 0 < np.ptp(known) < _SMALLEST_RANGE:
        raise TableError(
            f"{table.source}: the labels in column {name!r} differ by {np.ptp(known):g} at most, "
            f"whose square is not a number above 0; use another unit or --log-scale {_quoted(name)}"
        )
    if not log10 and known.min() > 0 and known.max() / known.min() > 1000:
        decades = np.log10(known.max() / known.min())
        notes.append(
            f"{name!r} spans {decades:.1f} decades, from {known.min():g} to {known.max():g}: "
            f"--log-scale {_quoted(name)} trains on its logarithm"
        )
    distinct = np.unique(known)
    if 2 <= len(distinct) <= 10 and (distinct == distinct.round()).all() and not censoring.any():
        notes.append(
            f"{name!r} has only the values {', '.join(f'{v:g}' for v in distinct)}, which are used "
            f"as numbers; --task {'binary' if len(distinct) == 2 else 'multiclass'} uses them as "
            "classes"
        )
    return LabelColumn(
        name, "regression", (), values, censoring, problems, n_approximate, tuple(notes)
    )


def _binary(
    table: Table, name: str, cells: ColumnValues, parsed: Sequence[ParsedValue] | None
) -> LabelColumn:
    """Read two classes: 0 and 1, two other numbers, two opposite words, or two texts in order."""
    if parsed is not None:
        numbers = [one.value if not (one.problem or one.censoring) else np.nan for one in parsed]
        order = sorted({value for value in numbers if not np.isnan(value)})
        notes = []
        if set(order) <= {0.0, 1.0} or {0.0, 1.0} < set(order):
            order = [0.0, 1.0]
        elif len(order) == 2:
            notes = [f"{name!r}: class 1 is {_written(order[1])}, class 0 {_written(order[0])}"]
        else:
            raise TableError(
                f"{table.source}: binary target {name!r} needs two classes, got the labels "
                f"{', '.join(map(_written, order[:5]))}"
            )
        pair = (_written(order[0]), _written(order[1]))
        places = [order.index(value) if value in order else -1 for value in numbers]
        return _classes(table, name, cells, "binary", pair, places, " and ".join(pair), notes)
    texts = [text.lower() for text in cells.texts]
    pair = _pair_of(texts)
    notes = []
    if pair is None:
        by_count = [texts[k] for k in np.argsort(-cells.counts, kind="stable")]
        pair = tuple(sorted(dict.fromkeys(by_count))) if len(set(texts)) == 2 else ()
        if len(pair) != 2:
            raise TableError(
                f"{table.source}: binary target {name!r} needs two classes, got the labels "
                f"{', '.join(map(repr, list(dict.fromkeys(by_count))[:5]))}"
            )
        notes = [f"{name!r}: class 1 is {pair[1]!r}, class 0 {pair[0]!r} (alphabetical order)"]
    places = [pair.index(text) if text in pair else -1 for text in texts]
    return _classes(table, name, cells, "binary", pair, places, " and ".join(pair), notes)


def _multiclass(
    table: Table, name: str, cells: ColumnValues, parsed: Sequence[ParsedValue] | None
) -> LabelColumn:
    """Read several classes, in numerical or alphabetical order."""
    if parsed is not None and not any(one.censoring for one in parsed):
        values = [one.value for one in parsed]
        order = sorted(set(values))
        classes, places = [_written(value) for value in order], [order.index(v) for v in values]
    else:
        texts = [text.lower() for text in cells.texts]
        # A class is named by its first spelling in the file.
        written = {text: cells.texts[texts.index(text)] for text in sorted(set(texts))}
        classes, keys = list(written.values()), list(written)
        places = [keys.index(text) for text in texts]
    if not 2 <= len(classes) <= MOST_CLASSES:
        raise TableError(
            f"{table.source}: column {name!r} has {len(classes):,} distinct labels; a multi-class "
            f"target has 2 to {MOST_CLASSES}"
        )
    return _classes(table, name, cells, "multiclass", tuple(classes), places, "classes")


def _classes(
    table: Table,
    name: str,
    cells: ColumnValues,
    kind: Kind,
    classes: tuple[str, ...],
    places: Sequence[int],
    expected: str,
    notes: Sequence[str] = (),
) -> LabelColumn:
    """Number the classes; `places` holds the class of each distinct text, -1 if it is none."""
    problems = [
        "" if place >= 0 else f"{shown(text)!r} is neither {' nor '.join(classes)}"
        for text, place in zip(cells.texts, places, strict=True)
    ]
    numbers = np.array([*(place if place >= 0 else np.nan for place in places), np.nan])
    if cells.n_none and not all(map(is_plain_number, classes)):
        note = f"{name!r}: cells with the word none are read as missing: {cells.n_none:,}"
        notes = [*notes, f"{note}; if none is a class, use another word for it"]
    return LabelColumn(
        name=name,
        kind=kind,
        classes=classes,
        values=numbers[cells.which],
        censoring=np.zeros(len(cells.which), np.int8),
        problems=_problems(table, name, cells, problems, expected),
        notes=tuple(notes),
    )


def _problems(
    table: Table, name: str, cells: ColumnValues, problems: Sequence[str], expected: str
) -> dict[int, str]:
    """Return the problem of each bad cell by row; refuse a column with more than half bad cells."""
    is_bad: Bool[np.ndarray, " texts"] = np.array([bool(problem) for problem in problems])
    rows = np.flatnonzero(np.append(is_bad, False)[cells.which])
    n_known = int((cells.which >= 0).sum())
    if 2 * len(rows) > n_known:
        first = int(rows[0])
        raise TableError(
            f"{table.source}, {table.place(first)}: column {name!r} should hold {expected}, but "
            f"{problems[cells.which[first]]} ({len(rows):,} of {n_known:,} cells are not labels)"
        )
    return {int(row): problems[cells.which[row]] for row in rows}


def _task_of_texts(table: Table, name: str, cells: ColumnValues) -> Task:
    texts = {text.lower() for text in cells.texts}
    if _pair_of(list(texts)) or len(texts) == 2:
        return "binary"
    if is_few(cells):
        return "multiclass"
    problems = [read_number(text).problem for text in cells.texts]
    _problems(table, name, cells, problems, "numbers or a few classes")
    raise AssertionError("more than half of the cells are not numbers")


def is_few(cells: ColumnValues) -> bool:
    """Whether a column has so few distinct texts that they may be classes."""
    texts = {text.lower() for text in cells.texts}
    return 2 <= len(texts) <= min(MOST_CLASSES, int(cells.counts.sum()) // 2)


def is_pair(cells: ColumnValues) -> bool:
    """Whether all cells belong to one pair of opposites, such as active and inactive."""
    return _pair_of([text.lower() for text in cells.texts]) is not None


def _pair_of(texts: Sequence[str]) -> tuple[str, str] | None:
    return next((pair for pair in _OPPOSITES if set(texts) <= set(pair)), None)


def _written(value: float) -> str:
    """Format a number as the name of a class; distinct numbers get distinct names."""
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)


def _quoted(name: str) -> str:
    return name if re.fullmatch(r"[\w.-]+", name) else f"'{name}'"
