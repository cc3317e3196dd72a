"""Columns with the qualifiers (>, <) or the unit of a target."""

import html
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import numpy as np

from moleblend.chem.parse_errors import shown
from moleblend.data.labels.cell_values import (
    ColumnValues,
    TableCells,
    is_qualifier,
    read_number,
    read_qualifier,
)
from moleblend.data.labels.column_names import is_logarithm, may_be_negative_log, unit_of, words_of
from moleblend.data.labels.label_column import LabelColumn
from moleblend.errors import TableError

_SPELLINGS = {
    **{"gt": ">", "ge": ">=", "gte": ">=", "lt": "<", "le": "<=", "lte": "<=", "eq": "="},
    **{"\N{SINGLE LEFT-POINTING ANGLE QUOTATION MARK}": "<"},
    **{"\N{SINGLE RIGHT-POINTING ANGLE QUOTATION MARK}": ">"},
}
# Words in column names that describe the content and do not name the target.
_QUALIFIER_WORDS = frozenset(
    [
        *("relation", "relations", "rel", "relationship", "operator", "op", "qualifier", "sign"),
        *("prefix", "modifier", "mod", "symbol", "censoring", "censored", "censor", "inequality"),
    ]
)
_UNIT_WORDS = frozenset(["unit", "units"])


def read_qualifiers(
    table_cells: TableCells,
    label_columns: Sequence[LabelColumn],
    qualifier_column: str,
    not_qualifiers: Collection[str],
    other_measured: Callable[[], Sequence[str]],
) -> tuple[tuple[LabelColumn, ...], dict[str, str], list[str]]:
    """Find columns of qualifiers and censor the labels with `>` or `<`.

    Args:
        table_cells: cells of the table.
        label_columns: labels of each target.
        qualifier_column: name of the column with the qualifiers of the only, numeric target. `auto`
            uses a column whose name contains the name of its target (`IC50_relation`, `Standard
            Relation`), or that can belong to no other column. `none` reads no such column.
        not_qualifiers: columns with another purpose.
        other_measured: returns the columns that look measured, but are not targets.

    Returns:
        The labels; the column of qualifiers by target; messages for the user.

    Raises:
        TableError: the column is missing, most of its cells are not qualifiers or contradict the
            labels, or it was named for several targets or for classes.
    """
    by_name = {label_column.name: label_column for label_column in label_columns}
    if qualifier_column not in ("auto", "none"):
        if len(by_name) > 1 or label_columns[0].kind != "regression":
            kinds = ", ".join(f"{m.name!r} ({m.kind})" for m in label_columns)
            raise TableError(
                f"--qualifier {qualifier_column!r} needs exactly one regression target, got "
                f"{kinds}; with several targets, write qualifiers into the cells of the labels, "
                "such as >10000"
            )
        censored = _censored(table_cells, label_columns[0], qualifier_column)
        return (censored,), {censored.name: qualifier_column}, []
    columns = (
        {}
        if qualifier_column == "none"
        else _qualifier_columns(table_cells, {*by_name, *not_qualifiers})
    )
    if not columns:
        return tuple(label_columns), {}, []
    others = other_measured()
    owners = {
        column: _owner(set(words_of(column)) - _QUALIFIER_WORDS, [*by_name, *others])
        for column in columns
    }
    relations, notes = {}, []
    for column, qualifiers in columns.items():
        owner = owners[column]
        if owner in others:
            continue
        doubt = _doubt(owner, by_name.get(owner), list(owners.values()).count(owner))
        if doubt:
            listed = ", ".join(qualifiers)
            notes.append(f"column {column!r} has qualifiers {listed}, but is not used: {doubt}")
            continue
        by_name[owner] = _censored(table_cells, by_name[owner], column)
        relations[owner] = column
        notes.append(
            f"the qualifiers of {owner!r} are read from column {column!r}; --qualifier none "
            "ignores it"
        )
    return tuple(by_name.values()), relations, notes


def read_units(
    table_cells: TableCells,
    label_columns: Sequence[LabelColumn],
    given: Sequence[str],
    not_units: Collection[str],
    other_measured: Callable[[], Sequence[str]],
) -> tuple[tuple[str, ...], tuple[str, ...], list[str]]:
    """Determine the unit of each target: given, from its column name, or from a column of units.

    Values are never converted. A logarithm gets no unit from a column, which holds the unit of the
    value itself.

    Returns:
        The units, empty where unknown; the source of each (`flag`, `header` or `column NAME`);
        messages for the user.
    """
    table = table_cells.table
    target_units = list(given) or [
        unit_of(m.name) if m.kind == "regression" else "" for m in label_columns
    ]
    sources = [("flag" if given else "header") if unit else "" for unit in target_units]
    notes: list[str] = []
    places = {label_column.name: k for k, label_column in enumerate(label_columns)}
    names = [
        name
        for name in dict.fromkeys(table.names)
        if _UNIT_WORDS & set(words_of(name)[-1:])
        and name not in {*places, *not_units}
        and table.names.count(name) == 1
    ]
    measured_columns = [*places, *(other_measured() if names else [])]
    # The column with the most specific name comes first.
    for name in sorted(names, key=lambda name: -len(words_of(name))):
        owner = _owner(set(words_of(name)) - _UNIT_WORDS, measured_columns)
        cells = table_cells[name]
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
            most_frequent = sorted(counts, key=lambda unit: -counts[unit])[:5]
            listed = ", ".join(f"{units[unit]} ({counts[unit]:,})" for unit in most_frequent)
            notes.append(
                f"column {name!r} has {len(units)} units for {owner!r}: {listed}. Values are not "
                "converted, so the model mixes them; keep the rows of one unit"
            )
        elif units and not target_units[place]:
            (target_units[place],) = units.values()
            sources[place] = f"column {name!r}"
        elif units and _folded(target_units[place]) not in units:
            (unit,) = units.values()
            notes.append(
                f"the unit of {owner!r} is {target_units[place]} according to the "
                f"{sources[place]}, but {unit} according to column {name!r}; --units sets the "
                "recorded unit"
            )
    return tuple(target_units), tuple(sources), notes


def holds_qualifiers(cells: ColumnValues) -> bool:
    """Whether most cells of a column are qualifiers; ChEMBL writes `'>'`."""
    are_qualifiers = np.array([is_qualifier(_qualifier(text)) for text in cells.texts], bool)
    return 2 * int(cells.counts[are_qualifiers].sum()) > int(cells.counts.sum())


def _qualifier_columns(table_cells: TableCells, others: Collection[str]) -> dict[str, list[str]]:
    """Return the columns of qualifiers that censor some label, with their distinct qualifiers."""
    table, columns = table_cells.table, {}
    for name in dict.fromkeys(table.names):
        if name in others or table.names.count(name) > 1:
            continue
        cells = table_cells[name]
        if cells is None or not holds_qualifiers(cells):
            continue
        qualifiers = [_qualifier(text) for text in cells.texts]
        if any(is_qualifier(text) and read_qualifier(text)[0] for text in qualifiers):
            columns[name] = [shown(text) for text in qualifiers[:8]]
    return columns


def _owner(words: set[str], columns: Sequence[str]) -> str:
    """Return the column whose name contains all these words and the fewest others.

    Returns:
        Empty if there is no such column, or several. Without words, the only column.
    """
    if not words:
        return columns[0] if len(columns) == 1 else ""
    n_others = {
        name: len({*words_of(name)} - words) for name in columns if words <= {*words_of(name)}
    }
    closest = [name for name, n in n_others.items() if n == min(n_others.values())]
    return closest[0] if len(closest) == 1 else ""


def _doubt(owner: str, label_column: LabelColumn | None, n_columns: int) -> str:
    """Explain why a column of qualifiers is not used; empty if it is used."""
    if label_column is None:
        return (
            "its target is ambiguous; --qualifier assigns it to the only target, otherwise "
            "censored labels are used as exact values"
        )
    if label_column.kind != "regression":
        return f"{owner!r} has classes, which cannot be censored"
    if n_columns > 1:
        return f"{n_columns} such columns may belong to {owner!r}; --qualifier COLUMN selects one"
    if may_be_negative_log(owner):
        return (
            f"{owner!r} may be a negative logarithm, for which > of the value itself means <; "
            f"--qualifier uses it if the qualifiers belong to {owner!r}, otherwise censored labels "
            "are used as exact values"
        )
    return ""


def _censored(table_cells: TableCells, label_column: LabelColumn, name: str) -> LabelColumn:
    """Censor labels by a column of qualifiers; a label with any other text becomes missing."""
    table = table_cells.table
    cells, own_cells = table_cells[name], table_cells[label_column.name]
    if cells is None or own_cells is None or not holds_qualifiers(cells):
        content = "lists" if cells is None else ", ".join(repr(shown(t)) for t in cells.texts[:5])
        raise TableError(
            f"{table.source}: column {name!r} should hold qualifiers such as >, = and <, got "
            f"{content or 'no values'}"
        )
    qualifiers = [_qualifier(text) for text in cells.texts]
    are_approximate = [read_number(text).is_approximate for text in own_cells.texts]
    censoring, problems, n_approximate = label_column.censoring.copy(), {}, 0
    labelled = np.flatnonzero(~np.isnan(label_column.values))
    for row in labelled.tolist():
        is_approximate = are_approximate[own_cells.which[row]]
        place = cells.which[row]
        if place >= 0:
            qualifier = qualifiers[place]
            row_censoring, has_tilde = read_qualifier(qualifier)
            if not is_qualifier(qualifier):
                text = shown(cells.texts[place])
                problems[row] = f"got the qualifier {text!r}, expected one such as >, = and <"
                continue
            if censoring[row] and row_censoring != censoring[row]:
                own = ">" if censoring[row] > 0 else "<"
                problems[row] = f"its cell has the qualifier {own}, but {name!r} has {qualifier}"
                continue
            censoring[row] = row_censoring
            is_approximate |= has_tilde
        n_approximate += is_approximate
    if 2 * len(problems) > len(labelled):
        first, problem = next(iter(problems.items()))
        raise TableError(
            f"{table.source}, {table.place(first)}: labels of {label_column.name!r} and their "
            f"qualifiers in {name!r} do not match ({problem}), in {len(problems):,} of "
            f"{len(labelled):,} labels; --qualifier none ignores {name!r}"
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


def _qualifier(text: str) -> str:
    """Normalise the spelling of a qualifier."""
    bare = html.unescape(text).strip("'\" ").lower()
    return _SPELLINGS.get(bare, bare)


def _folded(unit: str) -> str:
    """Normalise a unit for comparison: both letters mu become u."""
    return unit.replace("\N{MICRO SIGN}", "u").replace("\N{GREEK SMALL LETTER MU}", "u").strip()
