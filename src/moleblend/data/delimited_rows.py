"""Rows of text files with delimiters: csv as programs write it, and tabs without quoting."""

import csv
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from moleblend.data.sdf import LONGEST_LINE

# The default limit of 131,072 characters per cell would stop reading at a long cell. A limit is
# needed for unclosed quotes.
csv.field_size_limit(1 << 24)

_MOST_LINES_OF_A_CELL = 50
"""Lines that a quoted cell of a file with tabs may have."""


@dataclass(frozen=True)
class Record:
    """One row of a csv file: the line on which it starts, and its cells.

    A row that cannot be parsed has a flaw, and its first line as its only cell.
    """

    line: int
    cells: list[str]
    flaw: str = ""


def tab_records(lines: Iterable[str]) -> Iterator[Record]:
    """Parse rows of cells divided by tabs.

    Programs write tabs without quoting, so a quote is part of the cell unless it encloses the
    complete cell. Such a cell may contain line breaks if the lines that continue it are no rows of
    their own.
    """
    numbered = enumerate(lines, start=1)
    waiting: deque[tuple[int, str]] = deque()
    n_header = 0
    while item := waiting.popleft() if waiting else next(numbered, None):
        number, line = item
        text = line.rstrip("\r\n")
        if not text.strip(" "):
            continue
        cells = text.split("\t")
        if n_header and cells[-1].startswith('"') and cells[-1].count('"') % 2:
            cells = _continued(line, waiting, numbered, n_header) or cells
        if n_header and len(cells) != n_header and '"' in text:  # a quoted cell with a tab
            quoted = parse_line(text, "\t")
            if len(quoted) == n_header:
                yield Record(number, quoted)
                continue
        n_header = n_header or len(cells)
        yield Record(number, [_unquoted(cell) for cell in cells])


def _continued(
    line: str, waiting: deque[tuple[int, str]], numbered: Iterator[tuple[int, str]], n_header: int
) -> list[str]:
    """Return the cells of a row whose last cell goes on in the next lines; empty if it does not."""
    text = line
    for k in range(_MOST_LINES_OF_A_CELL):
        if len(waiting) <= k:
            item = next(numbered, None)
            if item is None:
                return []
            waiting.append(item)
        following = waiting[k][1]
        if following.count("\t") >= max(n_header - 1, 1):
            return []  # a row of its own
        text += following
        if following.count('"') % 2:
            cells = text.rstrip("\r\n").split("\t")
            place = line.count("\t")
            if len(cells) != n_header or _unquoted(cells[place]) == cells[place]:
                return []
            for _ in range(k + 1):
                waiting.popleft()
            return cells
    return []


def _unquoted(cell: str) -> str:
    """Remove quotes that enclose a cell; quotes inside it are doubled."""
    inner = cell[1:-1]
    is_quoted = len(cell) > 1 and cell[0] == cell[-1] == '"' and '"' not in inner.replace('""', "")
    return inner.replace('""', '"') if is_quoted else cell


class _Lines:
    """Lines for a csv reader, which can go back to the second line of the current row."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._unread = iter(lines)
        self._returned: deque[str] = deque()
        self.current_row: list[str] = []

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        if sum(map(len, self.current_row)) > LONGEST_LINE:
            raise csv.Error(f"the row has more than {LONGEST_LINE:,} characters")
        self.current_row.append(self._returned.popleft() if self._returned else next(self._unread))
        return self.current_row[-1]

    def go_back(self) -> str:
        """Return the first line of the current row; the others will be read again."""
        first, *others = self.current_row
        self._returned.extendleft(reversed(others))
        return first


def csv_records(lines: Iterable[str], delimiter: str) -> Iterator[Record]:
    """Parse all rows that are not blank.

    An unclosed quote would merge all following rows into one cell. Therefore, if a row cannot be
    parsed, only its first line is skipped, and parsing continues with the second line.
    """
    source, line = _Lines(lines), 1
    reader = csv.reader(source, delimiter=delimiter, strict=True)
    while True:
        source.current_row.clear()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Record(line, [source.go_back().rstrip("\r\n")], _explain(error))
            reader = csv.reader(source, delimiter=delimiter, strict=True)
            line += 1
            continue
        if cells and not (len(cells) == 1 and cells[0].isspace()):
            yield Record(line, cells)
        line += len(source.current_row)


def _explain(error: csv.Error) -> str:
    """Explain an error of the csv module in one sentence."""
    message = str(error)
    if message == "unexpected end of data":
        message = "a quote is never closed"
    elif message.endswith("""expected after '"'"""):
        message = "a quote is closed before the end of its cell, or is never closed"
    return f"cannot be read: {message}"


def parse_line(line: str, delimiter: str) -> list[str]:
    """Divide a line into cells; none if it cannot be parsed."""
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        return []
