"""Tables of molecules as the user's file has them: every row, in order, whole."""

import codecs
import csv
import gzip
import io
import zlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import TextIO, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float64, Num

from moleblend.chem import read_mol_block, read_smiles, read_xyz
from moleblend.files import replacing
from moleblend.molecule import ATOM_FEATURE_SIZES, FeatureVersion, Molecule, MoleculeError
from moleblend.sdf import read_sdf

_Item = TypeVar("_Item")

# The 131,072 letters that csv allows a cell would end a file at a long one; an unclosed quote is
# noticed after so many.
csv.field_size_limit(1 << 24)

_BYTES_AT_ONCE = 1 << 20
_ENCODING, _LATIN_1 = "utf-8-sig", "moleblend-latin-1"
_PARQUET_ROWS_AT_ONCE = 16_384

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_READABLE = ".csv, .tsv, .smi, .sdf (each also with .gz), .sdf.tar.gz and .parquet"
_WRITABLE = ".csv, .tsv and .parquet"
_SMILES_NAMES = ("canonical_smiles", "isomeric_smiles", "mol", "structure")
_NO_NUMBER = ("", "na", "n/a", "nan", "none", "null")


@dataclass(frozen=True, eq=False)
class Table:
    """The rows of a file, none left out and none changed.

    Attributes:
        source: the file, as errors name it.
        columns: the columns; cells of text files are the strings of the file, those of Parquet keep
            their type. An SDF has the title line of each record as `name`, then its properties
            (null where a record lacks one).
        blocks: for an SDF, the mol block of each row.
        flaws: what is wrong with each malformed row (counted from 0); do not trust its cells.
        lines: for a text file, the line on which each row starts.
        notes: what the user should be told about the file, one sentence each.
        n_before: rows of the file that stand before the first one of this table.
        share_read: how much of the file is read with the last row of this table, from 0 to 1; None
            where that is not known. For progress only.
    """

    source: Path
    columns: pa.Table
    blocks: tuple[str, ...] | None = None
    flaws: dict[int, str] = field(default_factory=dict)
    lines: tuple[int, ...] | None = None
    notes: tuple[str, ...] = ()
    n_before: int = 0
    share_read: float | None = None

    def __len__(self) -> int:
        return self.columns.num_rows

    @property
    def names(self) -> list[str]:
        """Names of the columns."""
        return self.columns.column_names

    def column(self, name: str) -> pa.ChunkedArray:
        """Give one column.

        Raises:
            ValueError: there is no such column (the message names those that exist), or several.
        """
        n_found = self.names.count(name)
        if n_found > 1:
            raise ValueError(f"{self.source}: {n_found} columns are called {name!r}, one is needed")
        if n_found == 0:
            raise ValueError(f"{self.source}: there is no column {name!r}; {self._described()}")
        return self.columns.column(name)

    def place(self, row: int) -> str:
        """Say where a row stands, as someone sees it who has the file open.

        Args:
            row: counted from 0 in this table.
        """
        text = f"row {self.n_before + row + 1}"
        return f"{text} (line {self.lines[row]})" if self.lines else text

    def piece(self, start: int, stop: int) -> "Table":
        """Copy rows `start` to `stop` (not included): a piece to send to another process."""
        rows = self.columns.slice(start, stop - start)
        return Table(
            source=self.source,
            columns=rows.take(np.arange(len(rows))),  # a slice would carry the whole table along
            blocks=self.blocks[start:stop] if self.blocks else None,
            flaws={row - start: text for row, text in self.flaws.items() if start <= row < stop},
            lines=None if self.lines is None else self.lines[start:stop],
            notes=self.notes,
            n_before=self.n_before + start,
            share_read=self.share_read,
        )

    def _described(self) -> str:
        return f"its columns are {', '.join(map(repr, self.names))}"


@dataclass(frozen=True)
class Rejected:
    """A row that is no molecule.

    Attributes:
        row: counted from 1, the header not counted.
        id: the name of the row.
        reason: one sentence.
    """

    row: int
    id: str
    reason: str


def read_table(path: str | Path) -> Table:
    """Read a file of molecules: csv, tsv, smi, sdf (plain or .gz) or Parquet, told by its ending.

    Blank lines are skipped. A csv row with too few or too many cells stays, with a `Table.flaws`.
    An .smi file has no header: its columns are `smiles` and `name`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is empty, of another kind, or damaged.
    """
    (table,) = read_pieces(path, None)
    return table


def smiles_table(smiles: Sequence[str], names: Sequence[str] | None = None) -> Table:
    """Make a table of SMILES that came from no file: columns `smiles` and, if given, `name`."""
    columns = {"smiles": pa.array(list(smiles), pa.string())}
    if names is not None:
        columns["name"] = pa.array(list(names), pa.string())
    return Table(source=Path("input"), columns=pa.table(columns))


def read_pieces(path: str | Path, n_rows: int | None) -> Iterator[Table]:
    """Read a file as `read_table` does, `n_rows` rows at a time; only those are in memory.

    A text file is read twice: first to learn its encoding, whether a .gz is whole, and which
    properties the records of an SDF have.

    Args:
        path: the file.
        n_rows: rows of a piece, of which the last may have fewer; None reads all at once.

    Returns:
        At least one piece, of no rows where the file has none.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is empty, of another kind, or damaged; where the damage shows only in a later
            row, the pieces before it have been given.
    """
    path = Path(path)
    ending = _ending(path)
    if n_rows is not None and n_rows < 1:
        raise ValueError(f"a piece has at least one row, not {n_rows}")
    if ending == ".parquet":
        return _parquet_pieces(path, n_rows)
    if ending == ".sdf":
        return _sdf_pieces(path, n_rows)
    read = _smi_pieces if ending == ".smi" else _csv_pieces
    return read(path, _sniff(path), n_rows)


def find_smiles_column(table: Table) -> str:
    """Find the column that holds SMILES: `smiles`, or else the only one of a few usual names.

    Raises:
        ValueError: none or several could be it; the message names the columns.
    """
    for usual in (("smiles",), _SMILES_NAMES):
        found = [name for name in table.names if name.strip().lower().replace(" ", "_") in usual]
        if len(found) == 1:
            return found[0]
        if found:
            raise ValueError(
                f"{table.source}: {' and '.join(map(repr, found))} could each be the SMILES, "
                "name the right column"
            )
    raise ValueError(f"{table.source}: no column is called 'smiles'; {table._described()}")


def with_smiles(table: Table, smiles: str | None = None) -> tuple[pa.Table, str]:
    """Give the columns of a table and the name of that with SMILES.

    The mol blocks of an SDF become canonical SMILES in a new last column `smiles`, null where a
    block is no molecule. Their geometry does not come along.

    Args:
        table: the rows.
        smiles: the column; left out, it is found by name.

    Raises:
        ValueError: no such column, none that could be it, or an SDF with a field `smiles`.
    """
    if smiles is not None or table.blocks is None:
        name = smiles or find_smiles_column(table)
        _texts(table, name)
        return table.columns, name
    if "smiles" in table.names:
        raise ValueError(
            f"{table.source}: it has mol blocks and a field 'smiles', say which one counts"
        )
    written = [
        item.smiles if isinstance(item, Molecule) else None for item in read_molecules(table)
    ]
    return table.columns.append_column("smiles", pa.array(written, pa.string())), "smiles"


def numbers(table: Table, name: str) -> Float64[np.ndarray, " n"]:
    """Read a column of numbers.

    Returns:
        NaN where the cell is empty, NA, N/A, NaN, None or null, and where the row is malformed.

    Raises:
        ValueError: there is no such column, or a cell is no finite number (the message has both).
    """
    values = np.full(len(table), np.nan)
    for row, cell in enumerate(table.column(name).to_pylist()):
        if row in table.flaws or cell is None:
            continue
        if isinstance(cell, str) and cell.strip().lower() in _NO_NUMBER:
            continue
        try:
            values[row] = float(cell)
        except (TypeError, ValueError):
            values[row] = np.inf
        if np.isinf(values[row]):
            raise ValueError(
                f"{table.source}, {table.place(row)}: "
                f"column {name!r} should hold numbers, not {cell!r}"
            )
    return values


def read_molecules(
    table: Table,
    *,
    smiles: str | None = None,
    features: FeatureVersion = "cip-1",
    coordinates: str | None = None,
    atomic_numbers: str | None = None,
    coordinate_scale: float | None = None,
    id: str | None = None,
) -> Iterator[Molecule | Rejected]:
    """Read the molecule of every row, in order.

    An SDF row is read from its mol block unless `smiles` names a column. Any other row is read from
    its SMILES, and its geometry from a list column x0 y0 z0 x1 ... where there is one; a row whose
    list is null has no geometry.

    Args:
        table: the rows.
        smiles: the SMILES column; left out, `find_smiles_column` finds it.
        features: the version of the features.
        coordinates: the list column; left out, `coordinates` or `coordinates_mA` if it holds lists.
        atomic_numbers: the list column with the elements; left out, `atomic_numbers`
            if it holds lists, else the positions are those of the heavy atoms in the SMILES' order.
        coordinate_scale: Å per unit of the coordinates; left out, 0.001 where the column name
            ends in `_mA`, else 1.
        id: the column with the names of the molecules; left out, `name` if there is one. Where it
            is empty, the name is "row 17".

    Returns:
        One item a row. Names may repeat.

    Raises:
        ValueError: a column is missing or holds something else.
    """
    if table.blocks is not None and smiles is None:
        blocks = table.blocks

        def read(row: int, name: str) -> Molecule:
            return read_mol_block(blocks[row], id=name, features=features)

    else:
        texts = _texts(table, smiles or find_smiles_column(table))
        read = _reader(table, texts, features, coordinates, atomic_numbers, coordinate_scale)
    if id is None and table.names.count("name") == 1:
        id = "name"
    given = [None] * len(table) if id is None else table.column(id).to_pylist()
    return _each_row(table, given, read)


def write_table(columns: pa.Table, path: str | Path) -> None:
    """Write a csv, tsv or Parquet file, told by its ending, whole or not at all.

    Missing folders are made. In text files a null is an empty cell, and a list stands in brackets.

    Raises:
        ValueError: the ending is another one.
    """
    write_tables([columns], path)


def check_ending(path: Path) -> str:
    """Give the ending of a table that can be written, in small letters.

    Raises:
        ValueError: it is another one.
    """
    ending = path.suffix.lower()
    if ending != ".parquet" and ending not in _DELIMITERS:
        raise ValueError(
            f"{path}: tables are written as {_WRITABLE}, not {ending or 'a bare name'}"
        )
    return ending


def write_tables(pieces: Iterable[pa.Table], path: str | Path) -> None:
    """Write tables of the same columns, at least one, below each other, as `write_table` does."""
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
            writer.writerow(first.column_names)
            for piece in chain([first], remaining):
                for batch in piece.to_batches(max_chunksize=10_000):
                    writer.writerows(zip(*map(_cells, batch.columns), strict=True))


class _UnixLines:
    """Ends csv rows with LF alone; a writer told to do so leaves CR unquoted (Python 3.11)."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, row: str) -> int:
        """Write one row, which ends in CR LF."""
        return self._file.write(row[:-2] + "\n")


def _ending(path: Path) -> str:
    """Check that a file can be read and give its ending, .gz taken off."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file")
    if path.is_dir():
        raise ValueError(f"{path}: this is a folder, a file was expected")
    name = Path(path.name.lower())
    ending = Path(name.stem).suffix if name.suffix == ".gz" else name.suffix
    if name.name.endswith(".sdf.tar.gz"):
        ending = ".sdf"
    if ending not in (".csv", ".tsv", ".smi", ".sdf") and name.suffix != ".parquet":
        raise ValueError(f"{path}: unknown ending; known are {_READABLE}")
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: the file is empty")
    return ending


def _parquet_pieces(path: Path, n_rows: int | None) -> Iterator[Table]:
    n_before = 0
    try:
        with pq.ParquetFile(path) as file:
            n_all = file.metadata.num_rows
            if n_rows is None or n_all == 0:
                yield Table(path, file.read(), share_read=1.0)
                return
            waiting = file.schema_arrow.empty_table()
            for batch in file.iter_batches(min(n_rows, _PARQUET_ROWS_AT_ONCE)):
                waiting = pa.concat_tables([waiting, pa.Table.from_batches([batch])])
                while len(waiting) >= n_rows or 0 < len(waiting) == n_all - n_before:
                    rows = waiting.slice(0, n_rows)
                    waiting = waiting.slice(n_rows)
                    share = (n_before + len(rows)) / n_all
                    yield Table(path, rows, n_before=n_before, share_read=share)
                    n_before += len(rows)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path}: not a Parquet file, or a truncated one ({error})") from error


def _sniff(path: Path) -> tuple[str, ...]:
    """Read a text file once to give what is to be said about its encoding.

    Raises:
        ValueError: it has nothing but blanks, is UTF-16, or is not a whole gzip file.
    """
    decoder = codecs.getincrementaldecoder(_ENCODING)()
    is_utf8 = is_blank = True
    with path.open("rb") as stored:
        file, data, line = _unpacked(path, stored), b"begin", 1
        while data:
            try:
                data = file.read(_BYTES_AT_ONCE)
            except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                raise ValueError(f"{path}: not a whole gzip file ({error})") from error
            if is_blank and data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                raise ValueError(f"{path}: the text is UTF-16; save it as UTF-8")
            if is_utf8:
                try:
                    is_blank &= not decoder.decode(data, final=not data).strip()
                except UnicodeDecodeError as error:
                    is_utf8 = is_blank = False
                    line += error.object[: error.start].count(b"\n")
                else:
                    line += data.count(b"\n")
    if is_blank:
        raise ValueError(f"{path}: the file is empty")
    if is_utf8:
        return ()
    return (f"{path} is not UTF-8 from line {line} on; what is not was read as Latin-1",)


def _as_latin_1(error: UnicodeError) -> tuple[str, int]:
    """Read the bytes that are not UTF-8 as Latin-1: what is UTF-8 in the file stays so."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return error.object[error.start : error.end].decode("latin-1"), error.end


codecs.register_error(_LATIN_1, _as_latin_1)


def _unpacked(path: Path, stored: io.BufferedReader) -> io.BufferedReader | gzip.GzipFile:
    """Give the bytes of a file, those inside where it is a .gz."""
    is_packed = path.suffix.lower() == ".gz"
    return gzip.GzipFile(fileobj=stored) if is_packed else stored


@contextmanager
def _open_lines(
    path: Path, newline: str | None
) -> Generator[tuple[TextIO, Callable[[], float]], None, None]:
    """Open a text file; give its lines and the function that says what share of it is read."""
    n_bytes = path.stat().st_size
    with (
        path.open("rb") as stored,
        io.TextIOWrapper(_unpacked(path, stored), _ENCODING, _LATIN_1, newline) as lines,
    ):
        yield lines, lambda: min(stored.tell() / n_bytes, 1.0)


def _csv_pieces(path: Path, notes: tuple[str, ...], n_rows: int | None) -> Iterator[Table]:
    with _open_lines(path, newline="") as (lines, share_read):
        records = _csv_records(lines, _DELIMITERS[_ending(path)])
        header = next(records, None)
        if header is None:
            raise ValueError(f"{path}: the file is empty")
        if header.flaw:
            raise ValueError(f"{path}, line {header.line}: {header.flaw}")
        names = header.cells
        for n_before, found in _grouped(records, n_rows):
            flaws, rows = {}, []
            for row, record in enumerate(found):
                cells, flaw = record.cells, record.flaw
                if not flaw and (len(cells) < len(names) or any(cells[len(names) :])):
                    cells_told = "1 cell" if len(cells) == 1 else f"{len(cells)} cells"
                    flaw = f"the row has {cells_told}, the header has {len(names)}"
                if flaw:
                    flaws[row] = flaw
                rows.append((cells + [""] * (len(names) - len(cells)))[: len(names)])
            columns = zip(*rows, strict=True) if rows else [()] * len(names)
            arrays = [pa.chunked_array([pa.array(cells, pa.string())]) for cells in columns]
            yield Table(
                path,
                pa.Table.from_arrays(arrays, names=names),
                flaws=flaws,
                lines=tuple(record.line for record in found),
                notes=notes,
                n_before=n_before,
                share_read=share_read(),
            )


@dataclass(frozen=True)
class _Record:
    """One row of a csv file that is not blank: the line on which it starts, and its cells.

    A row that cannot be read has a flaw, and its first line as its only cell.
    """

    line: int
    cells: list[str]
    flaw: str = ""


class _Lines:
    """Lines for a csv reader; those of a row that cannot be read are given again but for one."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._fresh = iter(lines)
        self._again: deque[str] = deque()
        self.taken: list[str] = []

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        self.taken.append(self._again.popleft() if self._again else next(self._fresh))
        return self.taken[-1]

    def take_back(self) -> str:
        """Give the first line of the row at hand; the reader shall have the others anew."""
        first, *others = self.taken
        self._again.extendleft(reversed(others))
        return first


def _csv_records(lines: Iterable[str], delimiter: str) -> Iterator[_Record]:
    """Give every row that is not blank.

    A quote that is not closed would take all rows behind it into one cell. Where a row cannot be
    read, only its first line is given up, and reading goes on with the second.
    """
    given, line = _Lines(lines), 1
    reader = csv.reader(given, delimiter=delimiter, strict=True)
    while True:
        given.taken.clear()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield _Record(line, [given.take_back().rstrip("\r\n")], _why_unread(error))
            reader = csv.reader(given, delimiter=delimiter, strict=True)
            line += 1
            continue
        if cells and not (len(cells) == 1 and cells[0].isspace()):
            yield _Record(line, cells)
        line += len(given.taken)


def _why_unread(error: csv.Error) -> str:
    """Say for a chemist what csv says of a row."""
    said = str(error)
    if said == "unexpected end of data":
        said = "a quote is opened and nowhere closed"
    elif said.endswith("""expected after '"'"""):
        said = "a quote ends before its cell does, or is nowhere closed"
    return f"cannot be read: {said}"


def _smi_pieces(path: Path, notes: tuple[str, ...], n_rows: int | None) -> Iterator[Table]:
    with _open_lines(path, newline=None) as (lines, share_read):
        found_lines = (
            (number, line.strip().split(maxsplit=1))
            for number, line in enumerate(lines, start=1)
            if line.strip()
        )
        for n_before, found in _grouped(found_lines, n_rows):
            smiles = pa.array([first for _, (first, *_) in found], pa.string())
            names = pa.array(["".join(rest) for _, (_, *rest) in found], pa.string())
            yield Table(
                path,
                pa.table({"smiles": smiles, "name": names}),
                lines=tuple(number for number, _ in found),
                notes=notes,
                n_before=n_before,
                share_read=share_read(),
            )


def _sdf_pieces(path: Path, n_rows: int | None) -> Iterator[Table]:
    if n_rows is None:
        records = list(read_sdf(path))
        yield _sdf_table(path, records, dict.fromkeys(name for _, told in records for name in told))
        return
    n_all, names = 0, {}
    for _, told in read_sdf(path):  # read twice, as any record may have a property of its own
        n_all += 1
        names.update(dict.fromkeys(told))
    for n_before, records in _grouped(read_sdf(path), n_rows):
        share_read = (n_before + len(records)) / max(n_all, 1)
        table = _sdf_table(path, records, names)
        yield replace(table, n_before=n_before, share_read=share_read)


def _grouped(items: Iterator[_Item], n_items: int | None) -> Iterator[tuple[int, list[_Item]]]:
    """Cut into lists of `n_items`, each with the number of items before it; at least one list."""
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


def _texts(table: Table, name: str) -> list[str]:
    cells = table.column(name).to_pylist()
    odd = next((row for row, cell in enumerate(cells) if not isinstance(cell, str | None)), None)
    if odd is not None:
        raise ValueError(
            f"{table.source}, {table.place(odd)}: "
            f"column {name!r} should hold text, not {cells[odd]!r}"
        )
    return ["" if cell is None else cell for cell in cells]


def _list_column(table: Table, name: str | None, usual: tuple[str, ...]) -> str | None:
    """Name the list column that is meant: the given one, or the usual one that is there."""
    if name is not None:
        if not _is_list_of_numbers(table.column(name).type):
            raise ValueError(
                f"{table.source}: column {name!r} should hold a list of numbers in each row"
            )
        return name
    found = (name for name in usual if table.names.count(name) == 1)
    return next((name for name in found if _is_list_of_numbers(table.column(name).type)), None)


def _is_list_of_numbers(kind: pa.DataType) -> bool:
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    return is_list and (
        pa.types.is_integer(kind.value_type) or pa.types.is_floating(kind.value_type)
    )


def _numbers_of(column: pa.ChunkedArray, row: int) -> Num[np.ndarray, " m"] | None:
    """Give the list in one row, None for null."""
    values = column[row].values
    return None if values is None else values.to_numpy(zero_copy_only=False)


def _reader(
    table: Table,
    texts: list[str],
    features: FeatureVersion,
    coordinates: str | None,
    atomic_numbers: str | None,
    coordinate_scale: float | None,
) -> Callable[[int, str], Molecule]:
    """Give the function that reads one row: its SMILES and, where there is one, its geometry."""
    coordinates = _list_column(table, coordinates, ("coordinates", "coordinates_mA"))
    if coordinates is None:
        return lambda row, name: read_smiles(texts[row], id=name, features=features)
    atomic_numbers = _list_column(table, atomic_numbers, ("atomic_numbers",))
    elements = table.column(atomic_numbers) if atomic_numbers else None
    lists = table.column(coordinates)
    if coordinate_scale is None:
        coordinate_scale = 0.001 if coordinates.endswith("_mA") else 1.0

    def read(row: int, name: str) -> Molecule:
        flat = _numbers_of(lists, row)
        if flat is None:
            return read_smiles(texts[row], id=name, features=features)
        if flat.size % 3:
            raise MoleculeError(f"{name}: {flat.size} coordinates, not three for each atom")
        positions = (flat.reshape(-1, 3) * coordinate_scale).astype(np.float32)
        given = None if elements is None else _numbers_of(elements, row)
        if given is None:
            # ogb-1 keeps the order of the input; column 0 is the atomic number - 1, dummies last
            atoms = read_smiles(texts[row], id=name, features="ogb-1").atoms
            given = (atoms[:, 0].astype(np.int32) + 1) % ATOM_FEATURE_SIZES[0]
        if len(given) != len(positions):
            raise MoleculeError(f"{name}: {len(positions)} positions for {len(given)} atoms")
        return read_xyz(given.astype(np.int32), positions, texts[row], id=name, features=features)

    return read


def _each_row(
    table: Table, ids: list[object], read: Callable[[int, str], Molecule]
) -> Iterator[Molecule | Rejected]:
    for row, given in enumerate(ids):
        number = table.n_before + row + 1
        name = ("" if given is None else str(given).strip()) or f"row {number}"
        if row in table.flaws:
            yield Rejected(number, name, table.flaws[row])
            continue
        try:
            yield read(row, name)
        except MoleculeError as error:
            yield Rejected(number, name, str(error).removeprefix(f"{name}: "))


def _cells(column: pa.Array) -> list[object]:
    """Give the cells of a column; a float32 with its own digits, not those of its double."""
    if pa.types.is_float32(column.type) or pa.types.is_float16(column.type):
        column = column.cast(pa.string())
    return column.to_pylist()
