"""The rows of a table: names, cells, molecules; none is lost."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Num

from moleblend.chem.molecule import ATOM_FEATURE_SIZES, FeatureVersion, Molecule, MoleculeError
from moleblend.chem.parsing import count_atoms, read_mol_block, read_smiles
from moleblend.chem.xyz import read_xyz

_BY_NAME = "--smiles COLUMN, in Python smiles="
_SMILES_NAMES = ("canonical_smiles", "isomeric_smiles", "mol", "structure")


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

    @cached_property
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


def smiles_table(smiles: Sequence[str], names: Sequence[str] | None = None) -> Table:
    """Make a table of SMILES that came from no file: columns `smiles` and, if given, `name`."""
    columns = {"smiles": pa.array(list(smiles), pa.string())}
    if names is not None:
        columns["name"] = pa.array(list(names), pa.string())
    return Table(source=Path("input"), columns=pa.table(columns))


def find_smiles_column(table: Table) -> str:
    """Find the column that holds SMILES by its name.

    It is `smiles`, or else the only one of a few usual names, or the only one whose name has that
    word in it.

    Raises:
        ValueError: none or several could be it; the message names the columns.
    """
    plain = {name: name.strip().lower().replace(" ", "_") for name in table.names}
    for is_such in (
        lambda name: plain[name] == "smiles",
        lambda name: plain[name] in _SMILES_NAMES,
        lambda name: re.search(r"smiles(?![a-z])", plain[name]) is not None,
    ):
        found = [name for name in table.names if is_such(name)]
        if len(found) == 1:
            return found[0]
        if found:
            raise ValueError(
                f"{table.source}: {' and '.join(map(repr, found))} could each be the SMILES, "
                f"name the right column ({_BY_NAME})"
            )
    molecule = next((name for name in table.names if _looks_like_smiles(name)), "")
    if molecule:
        raise ValueError(
            f"{table.source}: names of columns were expected in the first line, but there is the "
            f"molecule {molecule!r}; a line such as smiles,value above it mends that"
        )
    told = f"no column is called 'smiles'; {table._described()}; name the right one ({_BY_NAME})"
    likely = [name for name in dict.fromkeys(table.names) if _holds_smiles(table, name)]
    told += f": {' or '.join(map(repr, likely))} by what stands in it" if likely else ""
    raise ValueError(f"{table.source}: {told}")


def _holds_smiles(table: Table, name: str) -> bool:
    """Whether most of the first cells of a column are molecules of more than one atom."""
    if table.names.count(name) > 1:
        return False
    cells = [cell for cell in table.column(name)[:100].to_pylist() if isinstance(cell, str)]
    seen = [cell.strip() for cell in cells if cell.strip()][:20]
    return bool(seen) and 2 * sum(count_atoms(text) > 1 for text in seen) > len(seen)


def _looks_like_smiles(name: str) -> bool:
    """Whether the name of a column is a molecule, and no word."""
    signs = re.search(r"[()=#\[\]@\d]", name) and re.search(r"[CcNnOo]", name)
    return bool(signs) and count_atoms(name) > 1


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
