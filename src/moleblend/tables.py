"""Tables of molecules as the user's file has them: every row, in order, whole."""

import csv
import gzip
import io
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TextIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float64, Num

from moleblend.chem import read_mol_block, read_sdf, read_smiles, read_xyz
from moleblend.files import replacing
from moleblend.molecule import ATOM_FEATURE_SIZES, FeatureVersion, Molecule, MoleculeError

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
    """

    source: Path
    columns: pa.Table
    blocks: tuple[str, ...] | None = None
    flaws: dict[int, str] = field(default_factory=dict)
    lines: tuple[int, ...] | None = None
    notes: tuple[str, ...] = ()
    n_before: int = 0

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
            lines=self.lines[start:stop] if self.lines else None,
            notes=self.notes,
            n_before=self.n_before + start,
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
    path = Path(path)
    ending = _ending(path)
    if ending == ".parquet":
        return _read_parquet(path)
    if ending == ".sdf":
        return _sdf_table(path, list(read_sdf(path)), n_before=0)
    text, notes = _read_text(path)
    return _read_smi(path, text, notes) if ending == ".smi" else _read_csv(path, text, notes)


def smiles_table(smiles: Sequence[str], names: Sequence[str] | None = None) -> Table:
    """Make a table of SMILES that came from no file: columns `smiles` and, if given, `name`."""
    columns = {"smiles": pa.array(list(smiles), pa.string())}
    if names is not None:
        columns["name"] = pa.array(list(names), pa.string())
    return Table(source=Path("input"), columns=pa.table(columns))


def read_pieces(path: str | Path, n_rows: int) -> tuple[int, Iterator[Table]]:
    """Read a file as `read_table` does, `n_rows` rows at a time; an SDF is streamed.

    Returns:
        The number of rows of the file (for which an SDF is read through once), and the pieces.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is empty, of another kind, or damaged.
    """
    path = Path(path)
    if _ending(path) == ".sdf":
        return sum(1 for _ in read_sdf(path)), _stream_sdf(path, n_rows)
    table = read_table(path)
    starts = range(0, len(table), n_rows)
    return len(table), (table.piece(start, start + n_rows) for start in starts)


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
    path = Path(path)
    ending = path.suffix.lower()
    if ending != ".parquet" and ending not in _DELIMITERS:
        raise ValueError(
            f"{path}: tables are written as {_WRITABLE}, not {ending or 'a bare name'}"
        )
    with replacing(path) as temporary:
        if ending == ".parquet":
            pq.write_table(columns, temporary)
            return
        with temporary.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(_UnixLines(file), delimiter=_DELIMITERS[ending])
            writer.writerow(columns.column_names)
            for batch in columns.to_batches(max_chunksize=10_000):
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


def _read_parquet(path: Path) -> Table:
    try:
        with pq.ParquetFile(path) as file:
            return Table(path, file.read())
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path}: not a Parquet file, or a truncated one ({error})") from error


def _read_text(path: Path) -> tuple[str, tuple[str, ...]]:
    """Read a text file; give the text and what is to be said about it."""
    data = path.read_bytes()
    if path.suffix.lower() == ".gz":
        try:
            data = gzip.decompress(data)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{path}: not a whole gzip file ({error})") from error
    try:
        text, notes = data.decode("utf-8-sig"), ()
    except UnicodeDecodeError:
        text, notes = data.decode("latin-1"), (f"{path} is not UTF-8, it was read as Latin-1",)
    if not text.strip():
        raise ValueError(f"{path}: the file is empty")
    return text, notes


def _read_csv(path: Path, text: str, notes: tuple[str, ...]) -> Table:
    delimiter = _DELIMITERS[_ending(path)]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    records: list[list[str]] = []
    lines: list[int] = []
    start = 1
    try:
        for cells in reader:
            if cells and not (len(cells) == 1 and cells[0].isspace()):
                records.append(cells)
                lines.append(start)
            start = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f"{path}, line {start}: the row cannot be read ({error})") from error
    header, rows = records[0], records[1:]
    flaws = {}
    for row, cells in enumerate(rows):
        if len(cells) < len(header) or any(cells[len(header) :]):
            flaws[row] = f"the row has {len(cells)} cells, the header has {len(header)}"
        if len(cells) != len(header):
            rows[row] = (cells + [""] * len(header))[: len(header)]
    columns = zip(*rows, strict=True) if rows else [()] * len(header)
    arrays = [pa.chunked_array([pa.array(cells, pa.string())]) for cells in columns]
    table = pa.Table.from_arrays(arrays, names=header)
    return Table(path, table, flaws=flaws, lines=tuple(lines[1:]), notes=notes)


def _read_smi(path: Path, text: str, notes: tuple[str, ...]) -> Table:
    lines, smiles, names = [], [], []
    for number, line in enumerate(io.StringIO(text, newline=None), start=1):
        if line.strip():
            first, *rest = line.strip().split(maxsplit=1)
            lines.append(number)
            smiles.append(first)
            names.append("".join(rest))
    columns = pa.table({"smiles": pa.array(smiles), "name": pa.array(names)})
    return Table(path, columns, lines=tuple(lines), notes=notes)


def _stream_sdf(path: Path, n_rows: int) -> Iterator[Table]:
    records, n_before = read_sdf(path), 0
    while batch := list(islice(records, n_rows)):
        yield _sdf_table(path, batch, n_before)
        n_before += len(batch)


def _sdf_table(path: Path, records: list[tuple[str, dict[str, str]]], n_before: int) -> Table:
    blocks = tuple(block for block, _ in records)
    titles = [block.split("\n", 1)[0].strip() for block in blocks]
    columns = {"name": pa.array(titles, pa.string())}
    for name in dict.fromkeys(name for _, properties in records for name in properties):
        cells = [properties.get(name) for _, properties in records]
        columns[name] = pa.array(cells, pa.string())
    return Table(path, pa.table(columns), blocks=blocks, n_before=n_before)


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
