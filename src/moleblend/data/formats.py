"""Reading and writing table files in pieces: every row of a file, complete and in order."""

import codecs
import csv
import gzip
import io
import re
import zlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import TextIO, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from moleblend.data.sdf import LONGEST_LINE, bounded_lines, read_sdf
from moleblend.data.table import Table, plain_columns
from moleblend.errors import MissingFileError, TableError
from moleblend.files import replacing

_Item = TypeVar("_Item")

# The default limit of 131,072 characters per cell would stop reading at a long cell. A limit is
# needed for unclosed quotes.
csv.field_size_limit(1 << 24)

_FORMULA_SIGNS = ("=", "+", "-", "@", "\t", "\r")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?(inf|nan)", re.IGNORECASE)

_BYTES_AT_ONCE = 1 << 20
_ENCODING, _LATIN_1 = "utf-8-sig", "moleblend-latin-1"
_PARQUET_ROWS_AT_ONCE = 16_384

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_LINES_TO_JUDGE, _REGULAR = 50, 0.9
"""First lines by which the delimiter is found, and the fraction of them that must agree."""

_MOST_LINES_OF_A_CELL = 50
"""Lines that a quoted cell of a file with tabs may have."""

_SMILES_LINE = re.compile(r"(\S+(?:\s+\|[^|]*\|)?)\s*(.*)")
_READABLE = ".csv, .tsv, .smi, .cxsmiles, .sdf (each also with .gz), .sdf.tar.gz and .parquet"
_WRITABLE = ".csv, .tsv and .parquet"


def read_table(path: str | Path) -> Table:
    """Read a file of molecules: csv, tsv, smi, sdf (plain or .gz) or Parquet, by its ending.

    Blank lines are skipped. A csv row with too few or too many cells is kept, with an entry in
    `Table.flaws`. An .smi file has no header; its columns are `smiles` and `name`.

    Raises:
        MissingFileError: there is no such file.
        TableError: the file is empty or damaged, or its ending is unknown.
    """
    (table,) = read_pieces(path, None)
    return table


def read_pieces(path: str | Path, n_rows: int | None) -> Iterator[Table]:
    """Read a file as `read_table` does, with `n_rows` rows in memory at a time.

    A text file is read twice. The first pass determines its encoding, whether a .gz is complete,
    and the properties of the records of an SDF.

    Args:
        path: the file.
        n_rows: rows of each piece except the last one; None reads all rows at once.

    Returns:
        At least one piece; a file without rows gives one without rows.

    Raises:
        MissingFileError: there is no such file.
        TableError: the file is empty or damaged, its ending is unknown, or it is changed while it
            is read. If the damage is found in a later row, the pieces before it have been returned.
    """
    path = Path(path)
    ending = _ending(path)
    if n_rows is not None and n_rows < 1:
        raise TableError(f"got n_rows={n_rows}, expected at least 1")
    before = _state(path)
    if ending == ".parquet":
        pieces = _parquet_pieces(path, n_rows)
    elif ending == ".sdf":
        pieces = _sdf_pieces(path, n_rows)
    else:
        read = _csv_pieces if ending in _DELIMITERS else _smi_pieces
        pieces = read(path, _sniff(path), n_rows)
    return _while_unchanged(path, before, pieces)


def _state(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ino


def _while_unchanged(
    path: Path, before: tuple[int, int, int], pieces: Iterator[Table]
) -> Iterator[Table]:
    """Yield the pieces of a file; raise an error if it was changed before the last one was read."""
    yield from pieces
    if not path.exists() or _state(path) != before:
        raise TableError(f"{path}: the file was changed while it was read; read it again")


def write_table(columns: pa.Table, path: str | Path, own_from: str | None = None) -> None:
    """Write a csv, tsv or Parquet file atomically; the ending determines the format.

    Missing folders are created. In text files a null is an empty cell, and a list is in brackets.

    Args:
        columns: the rows.
        path: of the file.
        own_from: the first column that is not the user's. Texts in this and the following columns,
            and their names, are written so that no spreadsheet takes them for formulas.

    Raises:
        TableError: the ending is unknown.
    """
    write_tables([columns], path, own_from)


def check_ending(path: Path) -> str:
    """Return the ending of a table file to write, in lower case.

    Raises:
        TableError: the ending is unknown.
    """
    ending = path.suffix.lower()
    if ending != ".parquet" and ending not in _DELIMITERS:
        raise TableError(
            f"{path}: got {f'the ending {ending}' if ending else 'no ending'}, expected {_WRITABLE}"
        )
    return ending


def write_tables(pieces: Iterable[pa.Table], path: str | Path, own_from: str | None = None) -> None:
    """Write the rows of one or more tables with the same columns, as `write_table` does."""
    path = Path(path)
    ending = check_ending(path)
    remaining = iter(pieces)
    first = next(remaining)
    with replacing(path) as temporary:
        if ending == ".parquet":
            with pq.ParquetWriter(temporary, first.schema) as writer:
                for piece in chain([first], remaining):
                    writer.write_table(piece)
            return
        with temporary.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(_UnixLines(file), delimiter=_DELIMITERS[ending])
            names = first.column_names
            n_given = names.index(own_from) if own_from in names else len(names)
            writer.writerow([*names[:n_given], *map(without_formula, names[n_given:])])
            for piece in chain([first], remaining):
                for batch in piece.to_batches(max_chunksize=10_000):
                    given = map(_cells, batch.columns[:n_given])
                    own = (map(without_formula, _cells(one)) for one in batch.columns[n_given:])
                    writer.writerows(zip(*given, *own, strict=True))


def without_formula(cell: object) -> object:
    """Put an apostrophe before a text that a spreadsheet would take for a formula.

    A single sign, a number and other values are not changed.
    """
    if not isinstance(cell, str) or cell[:1] not in _FORMULA_SIGNS or len(cell) < 2:
        return cell
    return cell if _NUMBER.fullmatch(cell) else f"'{cell}"


class _UnixLines:
    """Ends csv rows with LF; the line terminator of csv would leave CR unquoted (Python 3.11)."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, row: str) -> int:
        """Write one row, which ends in CR LF."""
        return self._file.write(row[:-2] + "\n")


def _ending(path: Path) -> str:
    """Check that a file can be read and return its ending, without .gz."""
    if not path.exists():
        raise MissingFileError(f"{path}: no such file")
    if path.is_dir():
        raise TableError(f"{path}: this is a folder, expected a file")
    name = Path(path.name.lower())
    ending = Path(name.stem).suffix if name.suffix == ".gz" else name.suffix
    if name.name.endswith(".sdf.tar.gz"):
        ending = ".sdf"
    if ending not in (".csv", ".tsv", ".smi", ".cxsmiles", ".sdf") and name.suffix != ".parquet":
        hint = "; save a sheet as .csv" if name.suffix in (".xlsx", ".xls", ".ods") else ""
        raise TableError(f"{path}: unknown ending; available: {_READABLE}{hint}")
    if path.stat().st_size == 0:
        raise TableError(f"{path}: the file is empty")
    return ending


def _parquet_pieces(path: Path, n_rows: int | None) -> Iterator[Table]:
    n_before = 0
    try:
        with pq.ParquetFile(path) as file:
            n_all = file.metadata.num_rows
            if n_rows is None or n_all == 0:
                yield Table(path, plain_columns(file.read()), share_read=1.0)
                return
            waiting = plain_columns(file.schema_arrow.empty_table())
            for batch in file.iter_batches(min(n_rows, _PARQUET_ROWS_AT_ONCE)):
                waiting = pa.concat_tables([waiting, plain_columns(pa.Table.from_batches([batch]))])
                while len(waiting) >= n_rows or 0 < len(waiting) == n_all - n_before:
                    rows = waiting.slice(0, n_rows)
                    waiting = waiting.slice(n_rows)
                    fraction = (n_before + len(rows)) / n_all
                    yield Table(path, rows, n_before=n_before, share_read=fraction)
                    n_before += len(rows)
    except (pa.ArrowInvalid, OSError) as error:
        raise TableError(f"{path}: not a Parquet file, or truncated ({error})") from error


def _sniff(path: Path) -> tuple[str, ...]:
    """Read a text file once and return messages about its encoding.

    Raises:
        TableError: the file is blank, is UTF-16, or is a damaged gzip file.
    """
    decoder = codecs.getincrementaldecoder(_ENCODING)()
    is_utf8 = is_blank = True
    with path.open("rb") as stored:
        file, data, line = _unpacked(path, stored), b"begin", 1
        while data:
            try:
                data = file.read(_BYTES_AT_ONCE)
            except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                raise TableError(
                    f"{path}: the gzip file is truncated or damaged ({error})"
                ) from error
            if is_blank and data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                raise TableError(f"{path}: the text is UTF-16; save it as UTF-8")
            if is_utf8:
                try:
                    is_blank &= not decoder.decode(data, final=not data).strip()
                except UnicodeDecodeError as error:
                    is_utf8 = is_blank = False
                    line += error.object[: error.start].count(b"\n")
                else:
                    line += data.count(b"\n")
    if is_blank:
        raise TableError(f"{path}: the file is empty")
    if is_utf8:
        return ()
    return (f"{path} is not UTF-8 from line {line} on; invalid bytes are read as Latin-1",)


def _as_latin_1(error: UnicodeError) -> tuple[str, int]:
    """Decode the bytes that are not UTF-8 as Latin-1; valid UTF-8 is not changed."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return error.object[error.start : error.end].decode("latin-1"), error.end


codecs.register_error(_LATIN_1, _as_latin_1)


def _unpacked(path: Path, stored: io.BufferedReader) -> io.BufferedReader | gzip.GzipFile:
    """Return the bytes of a file, decompressed if it is a .gz."""
    is_packed = path.suffix.lower() == ".gz"
    return gzip.GzipFile(fileobj=stored) if is_packed else stored


@contextmanager
def _open_lines(
    path: Path, newline: str | None
) -> Generator[tuple[Iterator[str], Callable[[], float]], None, None]:
    """Open a text file; yield its lines and a function for the fraction that has been read."""
    n_bytes = path.stat().st_size
    with (
        path.open("rb") as stored,
        io.TextIOWrapper(_unpacked(path, stored), _ENCODING, _LATIN_1, newline) as lines,
    ):
        yield bounded_lines(lines, path), lambda: min(stored.tell() / n_bytes, 1.0)


def _delimiter(path: Path) -> str:
    """Return the delimiter; a .csv may have `;` or tabs.

    It is the one that divides the first lines into most cells, and nearly all of them, the header
    included, into the same number; with the same number of cells it is not the comma, which
    numbers contain. Quotes are respected.
    """
    default = _DELIMITERS[_ending(path)]
    if default != ",":
        return default
    with _open_lines(path, newline="") as (lines, _):
        first = list(islice((line for line in lines if line.strip()), _LINES_TO_JUDGE))
    best, most = default, 1
    for delimiter in (",", ";", "\t"):
        counts = [_n_cells(line, delimiter) for line in first]
        n_header = counts[0] if counts else 0
        is_regular = sum(n == n_header for n in counts) >= _REGULAR * len(counts)
        if is_regular and n_header > 1 and n_header >= most:
            best, most = delimiter, n_header
    if most > 1 or not first:
        return best
    others = [delimiter for delimiter in (";", "\t") if _n_cells(first[0], delimiter) > 1]
    return others[0] if default not in first[0] and others else default


def _n_cells(line: str, delimiter: str) -> int:
    """Count the cells of a line; 0 if it cannot be parsed."""
    return len(_parsed(line, delimiter))


def _parsed(line: str, delimiter: str) -> list[str]:
    """Divide a line into cells; none if it cannot be parsed."""
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        return []


def _csv_pieces(
    path: Path, notes: tuple[str, ...], n_rows: int | None, delimiter: str = ""
) -> Iterator[Table]:
    default = delimiter or _DELIMITERS[_ending(path)]
    delimiter = delimiter or _delimiter(path)
    if delimiter != default:
        name = {";": "semicolons", "\t": "tabs"}[delimiter]
        notes = (*notes, f"{path}: read with {name} as delimiters")
    with _open_lines(path, newline="") as (lines, share_read):
        is_tabs = delimiter == "\t"
        records = _tab_records(lines) if is_tabs else _csv_records(lines, delimiter)
        header = next(records, None)
        if header is None:
            raise TableError(f"{path}: the file is empty")
        if header.flaw:
            raise TableError(f"{path}, line {header.line}: {header.flaw}")
        names = header.cells
        for n_before, group in _grouped(records, n_rows):
            flaws, rows = {}, []
            for row, record in enumerate(group):
                cells, flaw = record.cells, record.flaw
                if not flaw and (len(cells) < len(names) or any(cells[len(names) :])):
                    n_cells = "1 cell" if len(cells) == 1 else f"{len(cells)} cells"
                    flaw = f"the row has {n_cells}, the header has {len(names)}"
                if flaw:
                    flaws[row] = flaw
                rows.append((cells + [""] * (len(names) - len(cells)))[: len(names)])
            columns = zip(*rows, strict=True) if rows else [()] * len(names)
            arrays = [pa.chunked_array([pa.array(cells, pa.string())]) for cells in columns]
            yield Table(
                path,
                pa.Table.from_arrays(arrays, names=names),
                flaws=flaws,
                lines=tuple(record.line for record in group),
                notes=notes,
                n_before=n_before,
                share_read=share_read(),
            )


@dataclass(frozen=True)
class _Record:
    """One row of a csv file: the line on which it starts, and its cells.

    A row that cannot be parsed has a flaw, and its first line as its only cell.
    """

    line: int
    cells: list[str]
    flaw: str = ""


def _tab_records(lines: Iterable[str]) -> Iterator[_Record]:
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
            quoted = _parsed(text, "\t")
            if len(quoted) == n_header:
                yield _Record(number, quoted)
                continue
        n_header = n_header or len(cells)
        yield _Record(number, [_unquoted(cell) for cell in cells])


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
            if len(cells) != n_header or _unquoted(cells[-1]) == cells[-1]:
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


def _csv_records(lines: Iterable[str], delimiter: str) -> Iterator[_Record]:
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
            yield _Record(line, [source.go_back().rstrip("\r\n")], _explain(error))
            reader = csv.reader(source, delimiter=delimiter, strict=True)
            line += 1
            continue
        if cells and not (len(cells) == 1 and cells[0].isspace()):
            yield _Record(line, cells)
        line += len(source.current_row)


def _explain(error: csv.Error) -> str:
    """Explain an error of the csv module in one sentence."""
    message = str(error)
    if message == "unexpected end of data":
        message = "a quote is never closed"
    elif message.endswith("""expected after '"'"""):
        message = "a quote is closed before the end of its cell, or is never closed"
    return f"cannot be read: {message}"


def _smi_pieces(path: Path, notes: tuple[str, ...], n_rows: int | None) -> Iterator[Table]:
    if _has_tab_header(path):
        note = f"{path}: read as a table with tabs and a header"
        yield from _csv_pieces(path, (*notes, note), n_rows, delimiter="\t")
        return
    with _open_lines(path, newline=None) as (lines, share_read):
        numbered_words = (
            (number, _smiles_and_name(line.strip()))
            for number, line in enumerate(lines, start=1)
            if line.strip()
        )
        for n_before, group in _grouped(numbered_words, n_rows):
            smiles = pa.array([first for _, (first, *_) in group], pa.string())
            names = pa.array(["".join(rest) for _, (_, *rest) in group], pa.string())
            yield Table(
                path,
                pa.table({"smiles": smiles, "name": names}),
                lines=tuple(number for number, _ in group),
                notes=notes,
                n_before=n_before,
                share_read=share_read(),
            )


def _has_tab_header(path: Path) -> bool:
    """Tell whether the first line has tabs and starts with a word for SMILES."""
    with _open_lines(path, newline=None) as (lines, _):
        first = next((line for line in lines if line.strip()), "")
    cells = [cell.strip().lower() for cell in first.split("\t")]
    return len(cells) > 1 and any("smiles" in cell for cell in cells)


def _smiles_and_name(line: str) -> list[str]:
    """Divide a line into the SMILES, with its extension in bars (CXSMILES), and the name.

    With tabs, the name ends at the next tab.
    """
    matched = _SMILES_LINE.match(line)
    assert matched is not None
    smiles, name = matched.group(1), matched.group(2).split("\t")[0].strip()
    return [smiles, name] if name else [smiles]


def _sdf_pieces(path: Path, n_rows: int | None) -> Iterator[Table]:
    if n_rows is None:
        records = list(read_sdf(path))
        names = dict.fromkeys(name for _, properties in records for name in properties)
        yield _sdf_table(path, records, names)
        return
    n_all, names = 0, {}
    for _, properties in read_sdf(path):  # read twice, because any record may add a property
        n_all += 1
        names.update(dict.fromkeys(properties))
    for n_before, records in _grouped(read_sdf(path), n_rows):
        fraction = (n_before + len(records)) / max(n_all, 1)
        table = _sdf_table(path, records, names)
        yield replace(table, n_before=n_before, share_read=fraction)


def _grouped(items: Iterator[_Item], n_items: int | None) -> Iterator[tuple[int, list[_Item]]]:
    """Divide into lists of `n_items`, with the number of items before each; at least one list."""
    n_before = 0
    while (group := list(islice(items, n_items))) or n_before == 0:
        yield n_before, group
        n_before += len(group)
        if not group:
            return


def _sdf_table(
    path: Path, records: list[tuple[str, dict[str, str]]], names: Iterable[str]
) -> Table:
    blocks = tuple(block for block, _ in records)
    titles = [block.split("\n", 1)[0].strip() for block in blocks]
    columns = {"name": pa.array(titles, pa.string())}
    for name in names:
        cells = [properties.get(name) for _, properties in records]
        columns[name] = pa.array(cells, pa.string())
    return Table(path, pa.table(columns), blocks=blocks)


def _cells(column: pa.Array) -> list[object]:
    """Return the cells of a column; float32 values keep their digits and do not become doubles."""
    if pa.types.is_float32(column.type) or pa.types.is_float16(column.type):
        column = column.cast(pa.string())
    return column.to_pylist()
