"""Bounds whose sign stands in a column of its own, beside the number (`Standard Relation`)."""

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from moleblend.complaints import shown
from moleblend.headers import may_be_negative_log, words_of
from moleblend.labels import Cells, Measurement, read_cells, read_sign
from moleblend.rows import Table

_SIGNS = frozenset([*">≥⩾<≤⩽=~≈", ">=", "<=", "=>", "=<", ">>", "<<"])
_WORDS = frozenset(
    [
        *("relation", "relations", "rel", "relationship", "operator", "op", "qualifier", "sign"),
        *("prefix", "modifier", "mod", "symbol", "censoring", "censored", "censor", "inequality"),
    ]
)
"""Words of names that say that a column holds signs, and not of which other column."""


def read_signs(
    table: Table,
    measurements: Sequence[Measurement],
    relation: str = "auto",
    not_signs: Collection[str] = (),
) -> tuple[tuple[Measurement, ...], str, list[str]]:
    """Find the column of signs, and take the labels beside `>` and `<` as bounds.

    Args:
        table: the rows.
        measurements: the labels of each target.
        relation: the column, for one regression target; `auto`: the only one there is, if there is
            one regression target alone, and nothing in the names speaks against it; or `none`.
        not_signs: columns that are something else.

    Returns:
        The labels; the column that was read, empty for none; what the user should be told.

    Raises:
        ValueError: the column is missing, most of its cells are no signs, or several targets or
            classes came with it.
    """
    wanted = [measured for measured in measurements if measured.kind == "regression"]
    if relation not in ("auto", "none"):
        if len(wanted) != 1 or len(measurements) > 1:
            kinds = ", ".join(f"{m.name!r} ({m.kind})" for m in measurements)
            raise ValueError(
                f"--relation {relation!r} is of one regression target, but there are {kinds}; "
                "write the signs into the cells of the labels, such as >10000"
            )
        found = _with_bounds(table, wanted[0], relation)
        return (found,), relation, []
    columns = _sign_columns(table, {*(m.name for m in measurements), *not_signs})
    if relation == "none" or not columns or not wanted:
        return tuple(measurements), "", []
    doubt = _doubt(columns, measurements)
    if not doubt:
        (name,), (measured,) = columns, measurements
        found = _with_bounds(table, measured, name)
        told = f"the signs of bounds of {measured.name!r} are read from column {name!r}"
        return (found,), name, [f"{told}; --relation none leaves it"]
    return (
        tuple(measurements),
        "",
        [
            f"column {name!r} says {', '.join(map(_bare, texts))}, but is not read: {doubt}; else "
            f"bounds are learnt as values"
            for name, texts in columns.items()
        ],
    )


def are_signs(cells: Cells) -> bool:
    """Whether a column holds nothing but signs; ChEMBL writes `'>'`."""
    return bool(cells.texts) and {_bare(text) for text in cells.texts} <= _SIGNS


def _sign_columns(table: Table, others: Collection[str]) -> dict[str, list[str]]:
    """Give the columns of signs of which some mean a bound, and what they say."""
    found = {}
    for name in dict.fromkeys(table.names):
        if name in others or table.names.count(name) > 1:
            continue
        cells = read_cells(table, name)
        if (
            cells is not None
            and are_signs(cells)
            and any(read_sign(_bare(text))[0] for text in cells.texts)
        ):
            found[name] = cells.texts
    return found


def _doubt(columns: Collection[str], measurements: Sequence[Measurement]) -> str:
    """Say why it is not clear that the signs are of the target, and what would do."""
    if len(measurements) > 1:
        return "it is one for several targets; write the sign into the cells, such as >10000"
    if len(columns) > 1:
        return "there are several such columns; --relation COLUMN says which"
    (name,), (measured,) = columns, measurements
    flag = f"--relation {name!r} reads it so"
    if not set(words_of(name)) - _WORDS <= set(words_of(measured.name)):
        return f"its name is not of {measured.name!r}; {flag}"
    if may_be_negative_log(measured.name):
        return (
            f"{measured.name!r} may be a negative logarithm, and where > is of the value itself "
            f"it means < here; {flag} if it is of {measured.name!r}"
        )
    return ""


def _with_bounds(table: Table, measured: Measurement, name: str) -> Measurement:
    """Take the labels beside `>` and `<` as bounds, and those beside another text as none."""
    cells = read_cells(table, name)
    texts = [] if cells is None else [_bare(text) for text in cells.texts]
    is_sign = np.array([text in _SIGNS for text in texts], bool)
    if cells is None or 2 * cells.counts[is_sign].sum() < cells.counts.sum() or not texts:
        raise ValueError(
            f"{table.source}: column {name!r} should hold signs such as >, = and <, but says "
            f"{', '.join(repr(shown(text)) for text in texts[:5]) or 'nothing'}"
        )
    signs = [read_sign(text) for text in texts]
    bounds, problems = measured.bounds.copy(), dict(measured.problems)
    n_approximate = measured.n_approximate
    for row in np.flatnonzero(~np.isnan(measured.values) & (cells.which >= 0)):
        place = cells.which[row]
        bound, is_approximate = signs[place]
        if not is_sign[place]:
            said = shown(cells.texts[place])
            problems[int(row)] = f"its sign is {said!r}, one such as >, = and < was expected"
        elif bounds[row] and bound != bounds[row]:
            own = ">" if bounds[row] > 0 else "<"
            problems[int(row)] = f"its cell has the sign {own}, but {name!r} says {texts[place]}"
        else:
            bounds[row] = bound
            n_approximate += is_approximate
    values = measured.values.copy()
    values[list(problems)], bounds[list(problems)] = np.nan, 0
    return replace(
        measured, values=values, bounds=bounds, problems=problems, n_approximate=n_approximate
    )


def _bare(text: str) -> str:
    return text.strip("'\" ")
