"""Reading and writing table files in pieces: every row of a file, complete and in order."""

import csv
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from moleblend.data.columnar import arrow_pieces, parquet_pieces
from moleblend.data.sdf import read_sdf
from moleblend.data.table import Table
from moleblend.data.text_files import (
    DELIMITERS,
    csv_pieces,
    grouped,
    scan_encoding,
    smi_pieces,
    sniff,
    text_ending,
)
from moleblend.errors import MissingFileError, TableError
from moleblend.files import replacing

_FORMULA_SIGNS = ("=", "+", "-", "@", "\t", "\r")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?(inf|nan)", re.IGNORECASE)

_ENDINGS = (".csv", ".tsv", ".smi", ".cxsmiles", ".sdf", ".parquet", ".arrow")

_READABLE = (
    ".csv, .tsv, .smi, .cxsmiles, .sdf (each also with .gz), .sdf.tar.gz, .parquet and .arrow"
)
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
        pieces = parquet_pieces(path, n_rows)
    elif ending == ".arrow":
        pieces = arrow_pieces(path, n_rows)
    elif ending == ".sdf":
        pieces = _sdf_pieces(path, n_rows)
    else:
        read = csv_pieces if ending in DELIMITERS else smi_pieces
        pieces = read(path, sniff(path), n_rows)
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
    if ending != ".parquet" and ending not in DELIMITERS:
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
            writer = csv.writer(_UnixLines(file), delimiter=DELIMITERS[ending])
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
    name, ending = Path(path.name.lower()), text_ending(path)
    if name.name.endswith(".sdf.tar.gz"):
        ending = ".sdf"
    is_packed_columns = name.suffix == ".gz" and ending in (".parquet", ".arrow")
    if ending not in _ENDINGS or is_packed_columns:
        hint = "; save a sheet as .csv" if name.suffix in (".xlsx", ".xls", ".ods") else ""
        raise TableError(f"{path}: unknown ending; available: {_READABLE}{hint}")
    if path.stat().st_size == 0:
        raise TableError(f"{path}: the file is empty")
    return ending


def _sdf_pieces(path: Path, n_rows: int | None) -> Iterator[Table]:
    notes = scan_encoding(path)[1] if path.suffix.lower() == ".sdf" else ()
    if n_rows is None:
        records = list(read_sdf(path))
        names = dict.fromkeys(name for _, properties in records for name in properties)
        yield _sdf_table(path, records, names, notes)
        return
    n_all, names = 0, {}
    for _, properties in read_sdf(path):  # read twice, because any record may add a property
        n_all += 1
        names.update(dict.fromkeys(properties))
    for n_before, records in grouped(read_sdf(path), n_rows):
        fraction = (n_before + len(records)) / max(n_all, 1)
        table = _sdf_table(path, records, names, notes)
        yield replace(table, n_before=n_before, share_read=fraction)


def _sdf_table(
    path: Path,
    records: list[tuple[str, dict[str, str]]],
    names: Iterable[str],
    notes: tuple[str, ...],
) -> Table:
    blocks = tuple(block for block, _ in records)
    titles = [block.split("\n", 1)[0].strip() for block in blocks]
    columns = {"name": pa.array(titles, pa.string())}
    for name in names:
        cells = [properties.get(name) for _, properties in records]
        columns[name] = pa.array(cells, pa.string())
    return Table(path, pa.table(columns), blocks=blocks, notes=notes)


def _cells(column: pa.Array) -> list[object]:
    """Return the cells of a column; float32 values keep their digits and do not become doubles."""
    if pa.types.is_float32(column.type) or pa.types.is_float16(column.type):
        column = column.cast(pa.string())
    return column.to_pylist()
