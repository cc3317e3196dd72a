"""A column as its different texts, and a text as a number."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from jaxtyping import Int64

from moleblend.chem.parse_errors import shown
from moleblend.data.table import Table

MISSING = frozenset(
    [
        "na",
        "n/a",
        "#n/a",
        "nan",
        "none",
        "null",
        "-",
        "--",
        ".",
        "?",
        "nd",
        "n.d.",
        "n.d",
        "nt",
        "n.t.",
        "n.a.",
        "missing",
        "not determined",
        "not tested",
        "not available",
        "#value!",
        "#div/0!",
        "#ref!",
        "#num!",
        "#name?",
        "#null!",
    ]
)
"""Words, in small letters, for a label that is not there; so is an empty cell."""

_PLUS_OR_MINUS = re.compile(r"'?[(]?([+\-]+)[)]?'?")
_SCORE = re.compile(r"[+\-]+|[+]/-|±")
_DASHES = str.maketrans("\N{EN DASH}\N{EM DASH}\N{MINUS SIGN}\N{FULLWIDTH PLUS SIGN}", "---+")

_SIGN = re.compile(r"(>=|<=|=>|=<|>>|<<|[><≥≤⩾⩽~≈=]|ca\.?(?=\s*[\d.+-]))?\s*(.*)", re.DOTALL)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
_WITH_COMMA = re.compile(r"[+-]?\d+(,\d+)+(\.\d+)?(e[+-]?\d+)?", re.IGNORECASE)
_LIKE_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}[.,]\d{3}")
_FORMULA = re.compile(r"\s*=.*[+*/(-].*", re.DOTALL)

COMMA = "has a comma: a number has a decimal point and no separators"
"""What is said of 1,5 and of 1,000."""

DATE = re.compile(r"\d{4}-\d\d?-\d\d?([T ].*)?|\d\d?[./-]\d\d?[./-]\d{2,4}")
"""2024-01-05, also with a time, or 5.1.24."""


@dataclass(frozen=True)
class ParsedValue:
    """One cell as a number.

    Attributes:
        value: NaN where there is none.
        bound: 1 if the true value is at least `value` (`>10000`), -1 if at most, 0 if equal.
        is_approximate: the cell says `~`; the value is taken.
        problem: why the cell is no number; empty where it is one, or is missing.
    """

    value: float = np.nan
    bound: int = 0
    is_approximate: bool = False
    problem: str = ""


@dataclass(frozen=True, eq=False)
class ColumnValues:
    """A column as its different texts.

    Attributes:
        texts: different cells that are not missing, without blanks around them.
        which: the text of each row; -1 where it is missing.
        n_none: rows that say `none`, which are missing too.
        has_commas: numbers had decimal commas, which are points here.
    """

    texts: list[str]
    which: Int64[np.ndarray, " n"]
    n_none: int = 0
    has_commas: bool = False

    @property
    def counts(self) -> Int64[np.ndarray, " texts"]:
        """Rows that have each text."""
        return np.bincount(self.which[self.which >= 0], minlength=len(self.texts))


def read_column_values(table: Table, name: str) -> ColumnValues | None:
    """Gather the different cells of a column, missing ones and malformed rows left out.

    A dash is missing, unless the column is of `+` and `-`, `++` and so on alone.

    Returns:
        None where the column holds lists or records.

    Raises:
        ValueError: there is no such column, or several.
    """
    column = table.column(name)
    if pa.types.is_nested(column.type):
        return None
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.string())
    encoded = column.combine_chunks().dictionary_encode()
    found = [_plain(text) for text in encoded.dictionary.to_pylist()]
    rows = encoded.indices.fill_null(len(found)).to_numpy(zero_copy_only=False)
    is_whole = np.ones(len(rows), bool)
    is_whole[list(table.flaws)] = False
    # A text that malformed rows alone have is no label, and no class.
    used = set(np.flatnonzero(np.bincount(rows[is_whole], minlength=1)).tolist())
    missing = _missing_words([text for place, text in enumerate(found) if place in used])
    texts = list(
        dict.fromkeys(
            text
            for place, text in enumerate(found)
            if place in used and text and text.lower() not in missing
        )
    )
    places = {text: place for place, text in enumerate(texts)}
    which = np.array([places.get(text, -1) for text in found] + [-1], np.int64)[rows]
    which[~is_whole] = -1
    says_none = np.array([text.lower() == "none" for text in found] + [False])[rows]
    cells = ColumnValues(texts, which, int((says_none & is_whole).sum()))
    return _with_points(cells) if _has_decimal_commas(cells) else cells


def _plain(cell: object) -> str:
    """Give a cell as text, without blanks around it; signs of plus and minus alone as such."""
    text = "" if cell is None else str(cell).strip()
    match = _PLUS_OR_MINUS.fullmatch(text.translate(_DASHES))
    return match[1] if match else text


def _missing_words(texts: Sequence[str]) -> frozenset[str]:
    """Give the words for a missing label; dashes are none where all others are plus and minus."""
    dashes = {"-", "--"}
    others = [text for text in texts if text and text.lower() not in MISSING - dashes]
    is_score = all(map(_SCORE.fullmatch, others)) and any("+" in text for text in others)
    return MISSING - dashes if is_score else MISSING


def _has_decimal_commas(cells: ColumnValues) -> bool:
    """Whether commas can be nothing but decimal ones: most cells are numbers, many with such a one.

    1,5 and 0,500 have a decimal comma, 1,500 may be 1500 as well. At least half of the cells with a
    comma, and more than a quarter of all numbers, must be of the first kind: one of them among
    thousands is a slip, and a 1,5 among whole numbers may be two of them.
    """
    if not any("," in text for text in cells.texts):
        return False
    digits = [_parted(text)[1] for text in cells.texts]
    has_comma = np.array([bool(_WITH_COMMA.fullmatch(text)) for text in digits], bool)
    is_number = np.array([bool(_NUMBER.fullmatch(text)) for text in digits], bool)
    is_like = np.array([bool(_LIKE_THOUSANDS.fullmatch(text)) for text in digits], bool)
    is_clear = has_comma & ~is_like
    has_point = np.array(["." in text for text in digits], bool)
    has_several = np.array([text.count(",") > 1 for text in digits], bool)
    has_other_sign = (has_point & (has_comma | is_number)) | (has_several & has_comma)
    if not is_clear.any() or has_other_sign.any():
        return False
    n_clear, n_comma, n_number = (
        int(cells.counts[which].sum()) for which in (is_clear, has_comma, has_comma | is_number)
    )
    is_usual = 2 * n_clear >= n_comma and 4 * n_clear > n_number
    return is_usual and 2 * n_number > int(cells.counts.sum())


def _with_points(cells: ColumnValues) -> ColumnValues:
    """Write decimal commas as points; what other texts have stays."""
    texts = [
        text.replace(",", ".") if _WITH_COMMA.fullmatch(_parted(text)[1]) else text
        for text in cells.texts
    ]
    return replace(cells, texts=texts, has_commas=True)


def may_have_thousands(cells: ColumnValues) -> bool:
    """Whether every point in a column may separate thousands, as in 1.500 of some countries."""
    digits = [_parted(text)[1] for text in cells.texts]
    points = [text for text in digits if "." in text and _NUMBER.fullmatch(text)]
    return bool(points) and not cells.has_commas and all(map(_LIKE_THOUSANDS.fullmatch, points))


def is_plain_number(text: str) -> bool:
    """Whether a text is a number and nothing else, without the sign of a bound."""
    return bool(_NUMBER.fullmatch(text))


def read_number(text: str) -> ParsedValue:
    """Read a number, which may have a sign before it that makes it a bound.

    Example:
        >>> read_number(">= 5"), read_number("~3").value
        (ParsedValue(value=5.0, bound=1, is_approximate=False, problem=''), 3.0)
        >>> read_number("1,5").problem
        "'1,5' has a comma: a number has a decimal point and no separators"
    """
    sign, digits = _parted(text)
    if not _NUMBER.fullmatch(digits):
        return ParsedValue(problem=f"{shown(text)!r} {_why_no_number(text, digits)}")
    value = float(digits)
    if np.isinf(value) or (value == 0 and re.search(r"[^\W0]", digits.lower().split("e")[0])):
        return ParsedValue(
            problem=f"{shown(text)!r} is beyond the numbers that can be computed with"
        )
    return ParsedValue(value, *read_sign(sign))


def _parted(text: str) -> tuple[str, str]:
    """Part a cell into its sign of a bound and what follows."""
    match = _SIGN.fullmatch(text.strip().replace("\N{MINUS SIGN}", "-"))
    assert match is not None
    return match[1] or "", match[2].strip()


def is_sign(text: str) -> bool:
    """Whether a text is the sign of a bound and nothing else."""
    sign, digits = _parted(text)
    return bool(sign) and not digits


def read_sign(sign: str) -> tuple[int, bool]:
    """Read the qualifier before a number: `bound` and `is_approximate` of `ParsedValue`.

    Example:
        >>> read_sign(">="), read_sign("~"), read_sign("=")
        ((1, False), (0, True), (0, False))
    """
    is_above = sign[:1] in tuple(">≥⩾") or sign == "=>"
    is_below = sign[:1] in tuple("<≤⩽") or sign == "=<"
    return is_above - is_below, sign[:1] in tuple("~≈c")


def _why_no_number(text: str, digits: str) -> str:
    """Say what a cell is, and what was expected; `digits` is what follows its sign."""
    if _WITH_COMMA.fullmatch(digits):
        return COMMA
    if re.fullmatch(r"[+-]?inf(inity)?", digits, re.IGNORECASE):
        return "is infinite, a finite number was expected"
    if _FORMULA.fullmatch(text):
        return "is a formula, its value was expected"
    if DATE.fullmatch(digits):
        return "is a date, a number was expected"
    if _NUMBER.match(digits):
        return "goes on after the number, a number alone was expected"
    return "is no number"
