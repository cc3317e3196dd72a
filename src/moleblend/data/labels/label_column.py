"""The cells of a target column as labels: numbers, bounds, classes, and what is none of these."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float64, Int8

from moleblend.chem.parse_errors import shown
from moleblend.data.labels.cell_values import (
    ColumnValues,
    ParsedValue,
    is_plain_number,
    read_column_values,
    read_number,
)
from moleblend.data.table import Table
from moleblend.data.targets import Kind

Task = Literal["auto", "regression", "binary", "multiclass"]

MOST_CLASSES = 20
"""A column of more different texts is no target."""

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
"""Pairs of words, the second of which is class 1."""


@dataclass(frozen=True, eq=False)
class LabelColumn:
    """The labels in one column.

    Attributes:
        name: of the column.
        kind: what they are.
        classes: what the file calls class 0, 1, ...; empty for regression.
        values: in the unit of the file, or the number of the class; NaN where missing.
        censoring: 1 and -1 where only a bound is known, see `ParsedValue`.
        problems: rows (from 0) whose cell is no label, and why.
        n_approximate: cells that said `~`.
        notes: what the user should be told, one sentence each.
    """

    name: str
    kind: Kind
    classes: tuple[str, ...]
    values: Float64[np.ndarray, " n"]
    censoring: Int8[np.ndarray, " n"]
    problems: dict[int, str]
    n_approximate: int = 0
    notes: tuple[str, ...] = ()


def read_label_column(
    table: Table, name: str, task: Task = "auto", *, log10: bool = False
) -> LabelColumn:
    """Read the labels of a column and decide what kind they are.

    With `auto`, a column of which at least half of the cells are numbers is binary if these are 0
    and 1, else regression; a column of few texts is binary if there are two, else multi-class.

    Args:
        table: the rows.
        name: of the column.
        task: the kind, or `auto`.
        log10: log10 of the values will be learnt, so only positive ones are labels.

    Raises:
        ValueError: there is no such column; it holds nothing; or more than half of its cells are no
            label of the kind.
    """
    cells = read_column_values(table, name)
    if cells is None:
        raise ValueError(
            f"{table.source}: column {name!r} holds lists, one label a row was expected"
        )
    if not cells.texts:
        raise ValueError(f"{table.source}: column {name!r} has no label, all its cells are empty")
    readings = [read_number(text) for text in cells.texts]
    is_number = np.array([not reading.problem for reading in readings])
    share = cells.counts[is_number].sum() / cells.counts.sum()
    values = {r.value for r in readings if not r.problem}
    is_binary = values <= {0.0, 1.0} and not any(reading.bound for reading in readings)
    if task == "auto":
        if share >= 0.5:
            task = "binary" if is_binary else "regression"
        else:
            task = _task_of_texts(table, name, cells)
    if task == "regression":
        return _regression(table, name, cells, readings, log10)
    if log10:
        raise ValueError(f"{table.source}: column {name!r} holds classes, which have no logarithm")
    if task == "binary":
        return _binary(table, name, cells, readings if share >= 0.5 else None)
    return _multiclass(table, name, cells, readings if is_number.all() else None)


def _regression(
    table: Table, name: str, cells: ColumnValues, readings: Sequence[ParsedValue], log10: bool
) -> LabelColumn:
    if log10:
        readings = [
            ParsedValue(problem=f"log10 of {reading.value:g} does not exist")
            if reading.value <= 0
            else reading
            for reading in readings
        ]
    values = np.array([*(r.value for r in readings), np.nan])[cells.which]
    censoring = np.array([*(r.bound for r in readings), 0], np.int8)[cells.which]
    problems = _problems(table, name, cells, [r.problem for r in readings], "numbers")
    n_approximate = int(cells.counts[[r.is_approximate for r in readings]].sum())
    notes = []
    if cells.has_commas:
        notes.append(f"{name!r}: its commas are decimal commas, and so it was read")
    known = values[~np.isnan(values)]
    if not log10 and known.min() > 0 and known.max() / known.min() > 1000:
        decades = np.log10(known.max() / known.min())
        notes.append(
            f"{name!r} spans {decades:.1f} decades, from {known.min():g} to {known.max():g}: "
            f"--log-scale {_quoted(name)} learns its logarithm"
        )
    different = np.unique(known)
    if 2 <= len(different) <= 10 and (different == different.round()).all() and not censoring.any():
        notes.append(
            f"{name!r} has only the values {', '.join(f'{v:g}' for v in different)}: taken as "
            f"numbers; --task {'binary' if len(different) == 2 else 'multiclass'} takes them as "
            "classes"
        )
    return LabelColumn(
        name, "regression", (), values, censoring, problems, n_approximate, tuple(notes)
    )


def _binary(
    table: Table, name: str, cells: ColumnValues, readings: Sequence[ParsedValue] | None
) -> LabelColumn:
    """Two classes: 0 and 1, two other numbers, a pair of opposites, or two texts in their order."""
    if readings is not None:
        numbers = [float(r.value) if not (r.problem or r.bound) else np.nan for r in readings]
        order, told = sorted({value for value in numbers if not np.isnan(value)}), []
        if set(order) <= {0.0, 1.0} or {0.0, 1.0} < set(order):
            order = [0.0, 1.0]
        elif len(order) == 2:
            told = [f"{name!r}: class 1 is {_written(order[1])}, class 0 {_written(order[0])}"]
        else:
            raise ValueError(
                f"{table.source}: column {name!r} is to be binary, but has the labels "
                f"{', '.join(map(_written, order[:5]))}"
            )
        pair = (_written(order[0]), _written(order[1]))
        places = [order.index(value) if value in order else -1 for value in numbers]
        return _classes(table, name, cells, "binary", pair, places, " and ".join(pair), told)
    texts = [text.lower() for text in cells.texts]
    pair = _pair_of(texts)
    told = []
    if pair is None:
        most = [texts[k] for k in np.argsort(-cells.counts, kind="stable")]
        pair = tuple(sorted(dict.fromkeys(most))) if len(set(texts)) == 2 else ()
        if len(pair) != 2:
            raise ValueError(
                f"{table.source}: column {name!r} is to be binary, but has the labels "
                f"{', '.join(map(repr, list(dict.fromkeys(most))[:5]))}"
            )
        told = [f"{name!r}: class 1 is {pair[1]!r}, class 0 {pair[0]!r} (by the alphabet)"]
    places = [pair.index(text) if text in pair else -1 for text in texts]
    return _classes(table, name, cells, "binary", pair, places, " and ".join(pair), told)


def _multiclass(
    table: Table, name: str, cells: ColumnValues, readings: Sequence[ParsedValue] | None
) -> LabelColumn:
    """Several classes, in the order of their numbers or of the alphabet."""
    if readings is not None and not any(reading.bound for reading in readings):
        values = [reading.value for reading in readings]
        order = sorted(set(values))
        classes, places = [_written(value) for value in order], [order.index(v) for v in values]
    else:
        texts = [text.lower() for text in cells.texts]
        # The first way of writing that the file has is the name of the class.
        written = {text: cells.texts[texts.index(text)] for text in sorted(set(texts))}
        classes, keys = list(written.values()), list(written)
        places = [keys.index(text) for text in texts]
    if not 2 <= len(classes) <= MOST_CLASSES:
        raise ValueError(
            f"{table.source}: column {name!r} has {len(classes):,} different labels, a multi-class "
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
    wanted: str,
    notes: Sequence[str] = (),
) -> LabelColumn:
    """Number the classes; `places` has the class of each different text, -1 where it is none."""
    problems = [
        "" if place >= 0 else f"{shown(text)!r} is neither {' nor '.join(classes)}"
        for text, place in zip(cells.texts, places, strict=True)
    ]
    numbers = np.array([*(place if place >= 0 else np.nan for place in places), np.nan])
    if cells.n_none and not all(map(is_plain_number, classes)):
        told = f"{name!r}: cells that say none are taken as missing: {cells.n_none:,}"
        notes = [*notes, f"{told}; if that is a class, give it another word"]
    return LabelColumn(
        name=name,
        kind=kind,
        classes=classes,
        values=numbers[cells.which],
        censoring=np.zeros(len(cells.which), np.int8),
        problems=_problems(table, name, cells, problems, wanted),
        notes=tuple(notes),
    )


def _problems(
    table: Table, name: str, cells: ColumnValues, problems: Sequence[str], wanted: str
) -> dict[int, str]:
    """Say of each bad cell what is wrong; refuse a column where more than half are bad."""
    is_bad: Bool[np.ndarray, " texts"] = np.array([bool(problem) for problem in problems])
    rows = np.flatnonzero(np.append(is_bad, False)[cells.which])
    n_known = int((cells.which >= 0).sum())
    if 2 * len(rows) > n_known:
        first = int(rows[0])
        raise ValueError(
            f"{table.source}, {table.place(first)}: column {name!r} should hold {wanted}, but "
            f"{problems[cells.which[first]]}, and so it is with {len(rows):,} of {n_known:,} cells"
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
    raise AssertionError("more than half of the cells are no numbers")


def is_few(cells: ColumnValues) -> bool:
    """Whether there are so few different texts that they may be classes."""
    texts = {text.lower() for text in cells.texts}
    return 2 <= len(texts) <= min(MOST_CLASSES, int(cells.counts.sum()) // 2)


def is_pair(cells: ColumnValues) -> bool:
    """Whether all cells are of one pair of opposites, such as active and inactive."""
    return _pair_of([text.lower() for text in cells.texts]) is not None


def _pair_of(texts: Sequence[str]) -> tuple[str, str] | None:
    return next((pair for pair in _OPPOSITES if set(texts) <= set(pair)), None)


def _written(value: float) -> str:
    """Write a number that names a class; no two are written alike."""
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)


def _quoted(name: str) -> str:
    return name if re.fullmatch(r"[\w.-]+", name) else f"'{name}'"
