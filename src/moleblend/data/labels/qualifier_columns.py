"""Columns beside a target that say more of its numbers: signs of bounds, and units."""

import html
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import numpy as np

from moleblend.chem.parse_errors import shown
from moleblend.data.labels.cell_values import (
    ColumnValues,
    is_sign,
    read_column_values,
    read_number,
    read_sign,
)
from moleblend.data.labels.column_names import is_logarithm, may_be_negative_log, unit_of, words_of
from moleblend.data.labels.label_column import LabelColumn
from moleblend.data.table import Table

_WRITTEN = {
    **{"gt": ">", "ge": ">=", "gte": ">=", "lt": "<", "le": "<=", "lte": "<=", "eq": "="},
    **{"\N{SINGLE LEFT-POINTING ANGLE QUOTATION MARK}": "<"},
    **{"\N{SINGLE RIGHT-POINTING ANGLE QUOTATION MARK}": ">"},
}
# Words of names that say what a column holds, and not of which other column.
_WORDS_OF_SIGNS = frozenset(
    [
        *("relation", "relations", "rel", "relationship", "operator", "op", "qualifier", "sign"),
        *("prefix", "modifier", "mod", "symbol", "censoring", "censored", "censor", "inequality"),
    ]
)
_WORDS_OF_UNITS = frozenset(["unit", "units"])


def read_signs(
    table: Table,
    label_columns: Sequence[LabelColumn],
    relation: str,
    not_signs: Collection[str],
    rivals: Callable[[], Sequence[str]],
) -> tuple[tuple[LabelColumn, ...], dict[str, str], list[str]]:
    """Find columns of signs, and take the labels beside `>` and `<` as bounds.

    Args:
        table: the rows.
        label_columns: the labels of each target.
        relation: the column, for one regression target; `auto`: a column whose name says of which
            target it is (`IC50_relation`, `Standard Relation`), or that can be of no other; `none`.
        not_signs: columns that are something else.
        rivals: gives the columns that are measured too, but are no targets.

    Returns:
        The labels; for targets the column that was read; what the user should be told.

    Raises:
        ValueError: the column is missing, most of its cells are no signs or contradict the labels,
            or it came for several targets or classes.
    """
    of_name = {label_column.name: label_column for label_column in label_columns}
    if relation not in ("auto", "none"):
        if len(of_name) > 1 or label_columns[0].kind != "regression":
            kinds = ", ".join(f"{m.name!r} ({m.kind})" for m in label_columns)
            raise ValueError(
                f"--relation {relation!r} is of one regression target, but there are {kinds}; "
                "bounds of several can stand in the cells of their labels, such as >10000"
            )
        return (
            (_with_bounds(table, label_columns[0], relation),),
            {of_name.popitem()[0]: relation},
            [],
        )
    columns = {} if relation == "none" else _sign_columns(table, {*of_name, *not_signs})
    if not columns:
        return tuple(label_columns), {}, []
    others = rivals()
    owners = {
        column: _owner(set(words_of(column)) - _WORDS_OF_SIGNS, [*of_name, *others])
        for column in columns
    }
    read, notes = {}, []
    for column, signs in columns.items():
        owner = owners[column]
        if owner in others:
            continue
        doubt = _doubt(owner, of_name.get(owner), list(owners.values()).count(owner))
        if doubt:
            notes.append(f"column {column!r} says {', '.join(signs)}, and is not read: {doubt}")
            continue
        of_name[owner] = _with_bounds(table, of_name[owner], column)
        read[owner] = column
        told = f"the signs of bounds of {owner!r} are read from column {column!r}"
        notes.append(f"{told}; --relation none leaves it")
    return tuple(of_name.values()), read, notes


def read_units(
    table: Table,
    label_columns: Sequence[LabelColumn],
    given: Sequence[str],
    not_units: Collection[str],
    rivals: Callable[[], Sequence[str]],
) -> tuple[tuple[str, ...], tuple[str, ...], list[str]]:
    """Give the unit of each target: as told, of the header, or of a column of units beside it.

    Nothing is converted. A logarithm has no unit in a column: that is of the value itself.

    Returns:
        The units, empty where unknown; where each is from (`flag`, `header`, or `column NAME`);
        what the user should be told.
    """
    found = list(given) or [
        unit_of(m.name) if m.kind == "regression" else "" for m in label_columns
    ]
    sources = [("flag" if given else "header") if unit else "" for unit in found]
    notes: list[str] = []
    places = {label_column.name: k for k, label_column in enumerate(label_columns)}
    names = [
        name
        for name in dict.fromkeys(table.names)
        if _WORDS_OF_UNITS & set(words_of(name)[-1:])
        and name not in {*places, *not_units}
        and table.names.count(name) == 1
    ]
    measured_columns = [*places, *(rivals() if names else [])]
    # The column whose name says more is the one that is meant.
    for name in sorted(names, key=lambda name: -len(words_of(name))):
        owner = _owner(set(words_of(name)) - _WORDS_OF_UNITS, measured_columns)
        cells = read_column_values(table, name)
        if owner not in places or cells is None or not cells.texts:
            continue
        place = places.pop(owner)
        label_column = label_columns[place]
        if label_column.kind != "regression" or is_logarithm(owner) or may_be_negative_log(owner):
            continue
        units: dict[str, str] = {}
        counts: dict[str, int] = {}
        for which in cells.which[~np.isnan(label_column.values) & (cells.which >= 0)]:
            text = cells.texts[which]
            units.setdefault(_folded(text), text)
            counts[_folded(text)] = counts.get(_folded(text), 0) + 1
        if len(units) > 1:
            usual = sorted(counts, key=lambda unit: -counts[unit])[:5]
            notes.append(
                f"column {name!r} has {len(units)} units for {owner!r}, "
                f"{', '.join(f'{units[unit]} ({counts[unit]:,})' for unit in usual)}: nothing is "
                "converted, so all are learnt as one; keep the rows of one unit"
            )
        elif units and not found[place]:
            (found[place],) = units.values()
            sources[place] = f"column {name!r}"
        elif units and _folded(found[place]) not in units:
            (unit,) = units.values()
            notes.append(
                f"{owner!r} is in {found[place]} by the {sources[place]}, but column {name!r} says "
                f"{unit}; --units decides what is recorded"
            )
    return tuple(found), tuple(sources), notes


def holds_signs(cells: ColumnValues) -> bool:
    """Whether most cells of a column are signs of bounds; ChEMBL writes `'>'`."""
    are_signs = np.array([is_sign(_sign(text)) for text in cells.texts], bool)
    return 2 * int(cells.counts[are_signs].sum()) > int(cells.counts.sum())


def _sign_columns(table: Table, others: Collection[str]) -> dict[str, list[str]]:
    """Give the columns of signs of which some mean a bound, and what they say."""
    found = {}
    for name in dict.fromkeys(table.names):
        if name in others or table.names.count(name) > 1:
            continue
        cells = read_column_values(table, name)
        if cells is None or not holds_signs(cells):
            continue
        signs = [_sign(text) for text in cells.texts]
        if any(is_sign(sign) and read_sign(sign)[0] for sign in signs):
            found[name] = [shown(sign) for sign in signs[:8]]
    return found


def _owner(words: set[str], columns: Sequence[str]) -> str:
    """Give the column that a name is of: it has all its words, and the fewest others.

    Returns:
        Empty where there is none, or several; a name without words of its own is of the only one.
    """
    if not words:
        return columns[0] if len(columns) == 1 else ""
    others = {
        name: len({*words_of(name)} - words) for name in columns if words <= {*words_of(name)}
    }
    nearest = [name for name, n in others.items() if n == min(others.values())]
    return nearest[0] if len(nearest) == 1 else ""


def _doubt(owner: str, label_column: LabelColumn | None, n_columns: int) -> str:
    """Say why signs are not read; nothing where they are."""
    if label_column is None:
        return (
            "it is not clear of which column it is; --relation reads it as of the only target, "
            "else what is a bound is learnt as a value"
        )
    if label_column.kind != "regression":
        return f"{owner!r} has classes, which have no bounds"
    if n_columns > 1:
        return f"{n_columns} such columns may be of {owner!r}; --relation COLUMN says which"
    if may_be_negative_log(owner):
        return (
            f"{owner!r} may be a negative logarithm, and where > is of the value itself it means < "
            f"here; --relation reads it if it is of {owner!r}, else what is a bound is learnt as a "
            "value"
        )
    return ""


def _with_bounds(table: Table, label_column: LabelColumn, name: str) -> LabelColumn:
    """Take the labels beside `>` and `<` as bounds, and those beside another text as none."""
    cells, own = read_column_values(table, name), read_column_values(table, label_column.name)
    if cells is None or own is None or not holds_signs(cells):
        said = "lists" if cells is None else ", ".join(repr(shown(t)) for t in cells.texts[:5])
        raise ValueError(
            f"{table.source}: column {name!r} should hold signs such as >, = and <, but has "
            f"{said or 'nothing'}"
        )
    signs = [_sign(text) for text in cells.texts]
    are_approximate = [read_number(text).is_approximate for text in own.texts]
    censoring, problems, n_approximate = label_column.censoring.copy(), {}, 0
    labelled = np.flatnonzero(~np.isnan(label_column.values))
    for row in labelled.tolist():
        is_approximate = are_approximate[own.which[row]]
        place = cells.which[row]
        if place >= 0:
            sign = signs[place]
            bound, says_so = read_sign(sign)
            if not is_sign(sign):
                said = shown(cells.texts[place])
                problems[row] = f"its sign is {said!r}, one such as >, = and < was expected"
                continue
            if censoring[row] and bound != censoring[row]:
                is_of_cell = ">" if censoring[row] > 0 else "<"
                problems[row] = f"its cell has the sign {is_of_cell}, but {name!r} says {sign}"
                continue
            censoring[row] = bound
            is_approximate |= says_so
        n_approximate += is_approximate
    if 2 * len(problems) > len(labelled):
        first, why = next(iter(problems.items()))
        raise ValueError(
            f"{table.source}, {table.place(first)}: the label of {label_column.name!r} and its "
            f"sign in {name!r} do not go together ({why}), and so it is with {len(problems):,} of "
            f"{len(labelled):,} labels; --relation none leaves {name!r}"
        )
    values = label_column.values.copy()
    values[list(problems)], censoring[list(problems)] = np.nan, 0
    return replace(
        label_column,
        values=values,
        censoring=censoring,
        problems={**label_column.problems, **problems},
        n_approximate=n_approximate,
    )


def _sign(text: str) -> str:
    """Give a sign as it is usually written."""
    bare = html.unescape(text).strip("'\" ").lower()
    return _WRITTEN.get(bare, bare)


def _folded(unit: str) -> str:
    """Write a unit as it is compared: both letters mu are u."""
    return unit.replace("\N{MICRO SIGN}", "u").replace("\N{GREEK SMALL LETTER MU}", "u").strip()
