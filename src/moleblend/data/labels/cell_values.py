"""Distinct cell texts of a column, and texts parsed as numbers."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from jaxtyping import Float64, Int64

from moleblend.chem.parse_errors import MISSING_WORDS, shown
from moleblend.data.table import Table
from moleblend.errors import TableError

_PLUS_OR_MINUS = re.compile(r"'?[(]?([+\-]+)[)]?'?")
_SCORE = re.compile(r"[+\-]+|[+]/-|±")
_DASHES = str.maketrans("\N{EN DASH}\N{EM DASH}\N{MINUS SIGN}\N{FULLWIDTH PLUS SIGN}", "---+")

_QUALIFIED = re.compile(r"(>=|<=|=>|=<|>>|<<|[><≥≤⩾⩽~≈=]|ca\.?(?=\s*[\d.+-]))?\s*(.*)", re.DOTALL)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
_WITH_COMMA = re.compile(r"[+-]?\d+(,\d+)+(\.\d+)?(e[+-]?\d+)?", re.IGNORECASE)
_LIKE_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}[.,]\d{3}")
_FORMULA = re.compile(r"\s*=.*[+*/(-].*", re.DOTALL)

LARGEST_LABEL = 1e30
"""Larger numbers mark missing values; the square of the largest float is not a number."""

_TOO_LARGE = f"is not below {LARGEST_LABEL:g}, which no label is; such numbers mark missing values"

COMMA = "has a comma, expected a decimal point and no separators"
"""The problem of 1,5 and of 1,000 where commas are not clearly decimal commas."""

DATE = re.compile(r"\d{4}-\d\d?-\d\d?([T ].*)?|\d\d?[./-]\d\d?[./-]\d{2,4}")
"""2024-01-05, with or without a time, or 5.1.24."""


@dataclass(frozen=True)
class ParsedValue:
    """One cell parsed as a number.

    Attributes:
        value: NaN if the cell is not a number.
        censoring: 1 if the true value is at least `value` (`>10000`), -1 if it is at most `value`,
            0 if the value is exact.
        is_approximate: the cell has the qualifier `~`; its value is used unchanged.
        problem: why the cell is not a number; empty if it is one, or is missing.
    """

    value: float = np.nan
    censoring: int = 0
    is_approximate: bool = False
    problem: str = ""


@dataclass(frozen=True, eq=False)
class ColumnValues:
    """The cells of a column, stored as distinct texts.

    Attributes:
        texts: distinct texts of the cells that are not missing, stripped of surrounding blanks.
        which: index into `texts` of each row; -1 where the cell is missing.
        n_none: rows that contain the word `none`, which counts as missing.
        has_commas: the column has decimal commas; `texts` has points in their place.
    """

    texts: list[str]
    which: Int64[np.ndarray, " n"]
    n_none: int = 0
    has_commas: bool = False

    @property
    def counts(self) -> Int64[np.ndarray, " texts"]:
        """Number of rows with each text."""
        return np.bincount(self.which[self.which >= 0], minlength=len(self.texts))


class TableCells(dict[str, ColumnValues | None]):
    """Cells of the columns of a table, by column name; each column is read once, on first access.

    A column of lists or records maps to None, see `read_column_values`.
    """

    def __init__(self, table: Table) -> None:
        super().__init__()
        self.table = table

    def __missing__(self, name: str) -> ColumnValues | None:
        self[name] = read_column_values(self.table, name)
        return self[name]


def read_column_values(table: Table, name: str) -> ColumnValues | None:
    """Collect the distinct cells of a column; missing cells and malformed rows are left out.

    A dash is a missing value, unless the column contains only `+`, `-`, `++` and similar scores.

    Returns:
        None if the column holds lists or records.

    Raises:
        TableError: there is no such column, or several.
    """
    column = table.column(name)
    if pa.types.is_nested(column.type):
        return None
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.string())
    encoded = column.combine_chunks().dictionary_encode()
    raw_texts = [_plain(cell) for cell in encoded.dictionary.to_pylist()]
    rows = encoded.indices.fill_null(len(raw_texts)).to_numpy(zero_copy_only=False)
    is_well_formed = np.ones(len(rows), bool)
    is_well_formed[list(table.flaws)] = False
    # A text that occurs only in malformed rows is neither a label nor a class.
    used = set(np.flatnonzero(np.bincount(rows[is_well_formed], minlength=1)).tolist())
    missing = _missing_words([text for place, text in enumerate(raw_texts) if place in used])
    texts = list(
        dict.fromkeys(
            text
            for place, text in enumerate(raw_texts)
            if place in used and text and text.lower() not in missing
        )
    )
    places = {text: place for place, text in enumerate(texts)}
    which = np.array([places.get(text, -1) for text in raw_texts] + [-1], np.int64)[rows]
    which[~is_well_formed] = -1
    is_none = np.array([text.lower() == "none" for text in raw_texts] + [False])[rows]
    cells = ColumnValues(texts, which, int((is_none & is_well_formed).sum()))
    return _with_points(cells) if _has_decimal_commas(cells) else cells


def read_numbers(table: Table, name: str) -> Float64[np.ndarray, " n"]:
    """Read a column in which every cell must be a number or missing.

    Numbers are parsed as in the targets of `moleblend train`; the value of a censored cell such as
    `>10` is the number after its qualifier.

    Returns:
        NaN where the cell is missing or the row is malformed.

    Raises:
        TableError: there is no such column, it holds lists, or a cell is not a finite number (the
            message contains the row and the cell).
    """
    column = table.column(name)
    if pa.types.is_floating(column.type) or pa.types.is_integer(column.type):
        values = column.to_numpy().astype(np.float64)
        values[list(table.flaws)] = np.nan
        is_bad = np.abs(values) >= LARGEST_LABEL
        problems = {
            int(row): f"'{values[row]}' {'is infinite' if np.isinf(values[row]) else _TOO_LARGE}"
            for row in np.flatnonzero(is_bad)[:1]
        }
    else:
        cells = read_column_values(table, name)
        if cells is None:
            raise TableError(f"{table.source}: column {name!r} holds lists, expected numbers")
        parsed = [read_number(text) for text in cells.texts]
        values = np.array([*(one.value for one in parsed), np.nan])[cells.which]
        is_bad = np.array([*(bool(one.problem) for one in parsed), False])[cells.which]
        problems = {
            int(row): parsed[cells.which[row]].problem for row in np.flatnonzero(is_bad)[:1]
        }
    for row, problem in problems.items():
        place = f"{table.source}, {table.place(row)}"
        raise TableError(f"{place}: column {name!r} should hold numbers, but {problem}")
    return values


def _plain(cell: object) -> str:
    """Convert a cell to text: stripped, and with plain characters if only plus and minus signs."""
    text = "" if cell is None else str(cell).strip()
    match = _PLUS_OR_MINUS.fullmatch(text.translate(_DASHES))
    return match[1] if match else text


def _missing_words(texts: Sequence[str]) -> frozenset[str]:
    """Return the words for a missing value; without dashes if all other texts are scores."""
    dashes = {"-", "--"}
    others = [text for text in texts if text and text.lower() not in MISSING_WORDS - dashes]
    is_score = all(map(_SCORE.fullmatch, others)) and any("+" in text for text in others)
    return MISSING_WORDS - dashes if is_score else MISSING_WORDS


def _has_decimal_commas(cells: ColumnValues) -> bool:
    """Whether the commas of a column are decimal commas.

    1,5 and 0,500 have a decimal comma; 1,500 may also be 1500. Most cells must be numbers. At least
    half of the cells with a comma, and more than a quarter of all numbers, must be of the first
    kind: a single one among thousands is probably an error, and a 1,5 among integers may be two of
    them.
    """
    if not any("," in text for text in cells.texts):
        return False
    digits = [_split_qualifier(text)[1] for text in cells.texts]
    has_comma = np.array([bool(_WITH_COMMA.fullmatch(text)) for text in digits], bool)
    is_number = np.array([bool(_NUMBER.fullmatch(text)) for text in digits], bool)
    is_like_thousands = np.array([bool(_LIKE_THOUSANDS.fullmatch(text)) for text in digits], bool)
    is_clear = has_comma & ~is_like_thousands
    has_point = np.array(["." in text for text in digits], bool)
    has_several = np.array([text.count(",") > 1 for text in digits], bool)
    has_other_use = (has_point & (has_comma | is_number)) | (has_several & has_comma)
    if not is_clear.any() or has_other_use.any():
        return False
    n_clear, n_comma, n_number = (
        int(cells.counts[which].sum()) for which in (is_clear, has_comma, has_comma | is_number)
    )
    is_usual = 2 * n_clear >= n_comma and 4 * n_clear > n_number
    return is_usual and 2 * n_number > int(cells.counts.sum())


def _with_points(cells: ColumnValues) -> ColumnValues:
    """Replace decimal commas by points; texts that are not numbers stay unchanged."""
    texts = [
        text.replace(",", ".") if _WITH_COMMA.fullmatch(_split_qualifier(text)[1]) else text
        for text in cells.texts
    ]
    return replace(cells, texts=texts, has_commas=True)


def may_have_thousands(cells: ColumnValues) -> bool:
    """Whether every point in a column may separate thousands, as in 1.500 for 1500."""
    digits = [_split_qualifier(text)[1] for text in cells.texts]
    points = [text for text in digits if "." in text and _NUMBER.fullmatch(text)]
    return bool(points) and not cells.has_commas and all(map(_LIKE_THOUSANDS.fullmatch, points))


def is_plain_number(text: str) -> bool:
    """Whether a text is a number without a qualifier."""
    return bool(_NUMBER.fullmatch(text))


def read_number(text: str) -> ParsedValue:
    """Parse a number, with or without a qualifier such as `>` before it.

    Example:
        >>> read_number(">= 5"), read_number("~3").value
        (ParsedValue(value=5.0, censoring=1, is_approximate=False, problem=''), 3.0)
        >>> read_number("1,5").problem
        "'1,5' has a comma, expected a decimal point and no separators"
    """
    qualifier, digits = _split_qualifier(text)
    if not _NUMBER.fullmatch(digits):
        return ParsedValue(problem=f"{shown(text)!r} {_why_not_a_number(text, digits)}")
    value = float(digits)
    if abs(value) >= LARGEST_LABEL and np.isfinite(value):
        return ParsedValue(problem=f"{shown(text)!r} {_TOO_LARGE}")
    if np.isinf(value) or (value == 0 and re.search(r"[^\W0]", digits.lower().split("e")[0])):
        return ParsedValue(problem=f"{shown(text)!r} is outside the range of a 64-bit float")
    return ParsedValue(value, *read_qualifier(qualifier))


def _split_qualifier(text: str) -> tuple[str, str]:
    """Split a cell into its qualifier, which may be empty, and the rest."""
    match = _QUALIFIED.fullmatch(text.strip().replace("\N{MINUS SIGN}", "-"))
    assert match is not None
    return match[1] or "", match[2].strip()


def is_qualifier(text: str) -> bool:
    """Whether a text is a qualifier and nothing else."""
    qualifier, digits = _split_qualifier(text)
    return bool(qualifier) and not digits


def read_qualifier(qualifier: str) -> tuple[int, bool]:
    """Return `censoring` and `is_approximate` of `ParsedValue` for a qualifier.

    Example:
        >>> read_qualifier(">="), read_qualifier("~"), read_qualifier("=")
        ((1, False), (0, True), (0, False))
    """
    is_at_least = qualifier[:1] in tuple(">≥⩾") or qualifier == "=>"
    is_at_most = qualifier[:1] in tuple("<≤⩽") or qualifier == "=<"
    return is_at_least - is_at_most, qualifier[:1] in tuple("~≈c")


def _why_not_a_number(text: str, digits: str) -> str:
    """Describe a cell that is not a number; `digits` is the cell without its qualifier."""
    if _WITH_COMMA.fullmatch(digits):
        return COMMA
    if re.fullmatch(r"[+-]?inf(inity)?", digits, re.IGNORECASE):
        return "is infinite, expected a finite number"
    if _FORMULA.fullmatch(text):
        return "is a formula, expected its value"
    if DATE.fullmatch(digits):
        return "is a date, expected a number"
    if _NUMBER.match(digits):
        return "has text after the number, expected only a number"
    return "is not a number"
