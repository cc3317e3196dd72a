"""Text files of molecules (csv, tsv, smi) as tables: encoding, delimiter and rows."""

import codecs
import gzip
import io
import re
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TypeVar

import pyarrow as pa

from moleblend.data.delimited_rows import csv_records, parse_line, tab_records
from moleblend.data.sdf import ENCODING, LATIN_1, bounded_lines
from moleblend.data.table import Table
from moleblend.errors import TableError

_Item = TypeVar("_Item")

DELIMITERS = {".csv": ",", ".tsv": "\t"}
"""Delimiters of text tables by the ending of the file."""

_BYTES_AT_ONCE = 1 << 20

_LINES_TO_JUDGE, _REGULAR = 50, 0.9
"""First lines by which the delimiter is found, and the fraction of them that must agree."""

_SMILES_LINE = re.compile(r"(\S+(?:\s+\|[^|]*\|)?)\s*(.*)")


def text_ending(path: Path) -> str:
    """Return the ending of a file in lower case, without .gz."""
    name = Path(path.name.lower())
    return Path(name.stem).suffix if name.suffix == ".gz" else name.suffix


def sniff(path: Path) -> tuple[str, ...]:
    """Read a text file once and return messages about its encoding.

    Raises:
        TableError: the file is blank, is UTF-16, or is a damaged gzip file.
    """
    is_blank, notes = scan_encoding(path)
    if is_blank:
        raise TableError(f"{path}: the file is empty")
    return notes


def scan_encoding(path: Path) -> tuple[bool, tuple[str, ...]]:
    """Read a text file once; return whether it is blank, and messages about its encoding.

    Raises:
        TableError: the file is UTF-16, or is a damaged gzip file.
    """
    decoder = codecs.getincrementaldecoder(ENCODING)()
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
    note = f"{path} is not UTF-8 from line {line} on; invalid bytes are read as Latin-1"
    return is_blank, () if is_utf8 else (note,)


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
        io.TextIOWrapper(_unpacked(path, stored), ENCODING, LATIN_1, newline) as lines,
    ):
        yield bounded_lines(lines, path), lambda: min(stored.tell() / n_bytes, 1.0)


def _delimiter(path: Path) -> str:
    """Return the delimiter; a .csv may have `;` or tabs.

    It is the one that divides the first lines into most cells, and nearly all of them, the header
    included, into the same number; with the same number of cells it is not the comma, which
    numbers contain. Quotes are respected.
    """
    default = DELIMITERS[text_ending(path)]
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
    return len(parse_line(line, delimiter))


def csv_pieces(
    path: Path, notes: tuple[str, ...], n_rows: int | None, delimiter: str = ""
) -> Iterator[Table]:
    """Read a csv or tsv file in tables of `n_rows` rows, or in one.

    Args:
        path: the file.
        notes: messages for the user about the file.
        n_rows: rows of each table.
        delimiter: by default found from the first lines.

    Raises:
        TableError: the file is empty, or its header cannot be parsed.
    """
    default = delimiter or DELIMITERS[text_ending(path)]
    delimiter = delimiter or _delimiter(path)
    if delimiter != default:
        name = {";": "semicolons", "\t": "tabs"}[delimiter]
        notes = (*notes, f"{path}: read with {name} as delimiters")
    with _open_lines(path, newline="") as (lines, share_read):
        is_tabs = delimiter == "\t"
        records = tab_records(lines) if is_tabs else csv_records(lines, delimiter)
        header = next(records, None)
        if header is None:
            raise TableError(f"{path}: the file is empty")
        if header.flaw:
            raise TableError(f"{path}, line {header.line}: {header.flaw}")
        names = header.cells
        for n_before, group in grouped(records, n_rows):
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


def smi_pieces(path: Path, notes: tuple[str, ...], n_rows: int | None) -> Iterator[Table]:
    """Read an .smi file, without a header or with one and tabs, as `csv_pieces` does."""
    if _has_tab_header(path):
        note = f"{path}: read as a table with tabs and a header"
        yield from csv_pieces(path, (*notes, note), n_rows, delimiter="\t")
        return
    with _open_lines(path, newline=None) as (lines, share_read):
        numbered_words = (
            (number, _smiles_and_name(line.strip()))
            for number, line in enumerate(lines, start=1)
            if line.strip()
        )
        for n_before, group in grouped(numbered_words, n_rows):
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


def grouped(items: Iterator[_Item], n_items: int | None) -> Iterator[tuple[int, list[_Item]]]:
    """Divide into lists of `n_items`, with the number of items before each; at least one list."""
    n_before = 0
    while (group := list(islice(items, n_items))) or n_before == 0:
        yield n_before, group
        n_before += len(group)
        if not group:
            return
