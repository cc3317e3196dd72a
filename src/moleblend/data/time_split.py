"""Splits by date: the oldest rows train, the newest test."""

import re
from collections.abc import Sequence
from datetime import date, datetime

import numpy as np
from jaxtyping import Float64

from moleblend.errors import TableError

_ISO = re.compile(r"(\d{4})[-/.](\d{1,2})(?:[-/.](\d{1,2}))?(?:[T ].*)?")
_NUMERIC = re.compile(r"(\d{1,2})[-/.](\d{1,2})[-/.](\d{4})(?: .*)?")
_NAMED = ("%d-%b-%Y", "%d %b %Y", "%d %B %Y", "%b %d, %Y", "%B %d, %Y", "%d-%b-%y")
_MOST_LIKE_DATES = 0.9


def read_dates(cells: Sequence[object]) -> Float64[np.ndarray, " n"]:
    """Read dates as days since year 1; NaN for empty cells.

    Years alone, ISO dates, dates with the name of the month, and day/month/year or month/day/year
    are read. The order of the last two is that of the column, if one of its cells has a number
    above 12 in one place.

    Raises:
        TableError: a cell is not a date, or the order of day and month cannot be told.
    """
    is_day_first = _day_first([str(cell) for cell in cells])
    days = np.full(len(cells), np.nan)
    for row, cell in enumerate(cells):
        text = "" if cell is None else str(cell).strip()
        if text:
            days[row] = _day(cell, text, row, is_day_first)
    return days


def looks_like_dates(cells: Sequence[object]) -> bool:
    """Tell whether nearly all of the first cells that are not empty are dates with a day."""
    texts = [cell for cell in cells[:200] if cell is not None and str(cell).strip()]
    n_dates = 0
    for cell in texts:
        text = str(cell).strip()
        matched = _ISO.fullmatch(text)
        is_full = bool(matched and matched.group(3)) or _NUMERIC.fullmatch(text) is not None
        n_dates += is_full or isinstance(cell, date) or _named(text) is not None
    return bool(texts) and n_dates >= _MOST_LIKE_DATES * len(texts)


def _day(cell: object, text: str, row: int, is_day_first: bool | None) -> int:
    if isinstance(cell, date):  # also datetime
        return cell.toordinal()
    try:
        if re.fullmatch(r"[12]\d{3}", text):
            return date(int(text), 1, 1).toordinal()
        if matched := _ISO.fullmatch(text):
            year, month, day = matched.groups()
            return date(int(year), int(month), int(day or 1)).toordinal()
        if matched := _NUMERIC.fullmatch(text):
            first, second, year = map(int, matched.groups())
            if is_day_first is None:
                raise TableError(
                    f"row {row + 1}: got {text!r}, which may be day/month or month/day; write the "
                    "dates as year-month-day"
                )
            day, month = (first, second) if is_day_first else (second, first)
            return date(year, month, day).toordinal()
    except ValueError as error:
        if isinstance(error, TableError):
            raise
        raise TableError(f"row {row + 1}: got {text!r}, expected a date ({error})") from error
    named = _named(text)
    if named is None:
        raise TableError(f"row {row + 1}: got {text!r}, expected a date such as 2024-03-31")
    return named


def _named(text: str) -> int | None:
    """Read a date with the name of its month."""
    for form in _NAMED:
        try:
            return datetime.strptime(text, form).date().toordinal()
        except ValueError:
            continue
    return None


def _day_first(texts: Sequence[str]) -> bool | None:
    """Tell whether the day is written before the month; None if no cell shows it."""
    matches = [matched for text in texts if (matched := _NUMERIC.fullmatch(text.strip()))]
    if any(int(matched.group(1)) > 12 for matched in matches):
        return True
    return False if any(int(matched.group(2)) > 12 for matched in matches) else None
