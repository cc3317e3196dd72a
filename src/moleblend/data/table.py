"""Tables of molecules: rows, columns and molecules. No row is dropped or reordered."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Num

from moleblend.chem.molecule import ATOM_FEATURE_SIZES, FeatureVersion, Molecule, MoleculeError
from moleblend.chem.parse_errors import rdkit_refusals
from moleblend.chem.parsing import count_atoms, read_mol_block, read_smiles
from moleblend.chem.xyz import read_xyz
from moleblend.config import did_you_mean
from moleblend.errors import TableError, TooLargeError

COORDINATE_NAMES = (
    *("coordinates", "coordinates_mA", "positions", "coords", "xyz", "pos", "geometry"),
    *("conformer", "atom_coordinates", "coordinates_A", "coordinates_angstrom"),
)
"""Names of columns of coordinates, the most usual first."""

_HOW_TO_NAME_IT = "--smiles COLUMN, in Python smiles="
_SMILES_NAMES = ("canonical_smiles", "isomeric_smiles", "mol", "structure")


@dataclass(frozen=True, eq=False)
class Table:
    """The rows of a file, complete and unchanged.

    Attributes:
        source: the file, for error messages.
        columns: the columns. Cells of text files are strings; those of Parquet keep their type. An
            SDF has the title line of each record as `name`, then its properties (null if a record
            does not have one).
        blocks: for an SDF, the mol block of each row.
        flaws: the reason for each malformed row (counted from 0), whose cells are not reliable.
        lines: for a text file, the line on which each row starts.
        notes: messages about the file for the user, one sentence each.
        n_before: number of rows of the file before the first one of this table.
        share_read: fraction of the file (0 to 1) that is read with the last row of this table, for
            progress messages; None if unknown.
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
        """Return one column.

        Raises:
            TableError: there is no such column (the message lists the columns), or several.
        """
        n_columns = self.names.count(name)
        if n_columns > 1:
            raise TableError(
                f"{self.source}: {n_columns} columns are called {name!r}, expected one"
            )
        if n_columns == 0:
            raise TableError(
                f"{self.source}: there is no column {name!r}{did_you_mean(name, self.names)}; "
                f"available: {self.column_list()}"
            )
        return self.columns.column(name)

    def place(self, row: int) -> str:
        """Describe the position of a row in the file, for messages.

        Args:
            row: counted from 0 in this table.
        """
        text = f"row {self.n_before + row + 1}"
        return f"{text} (line {self.lines[row]})" if self.lines else text

    def piece(self, start: int, stop: int) -> "Table":
        """Copy rows `start` to `stop` (exclusive), for sending them to another process."""
        rows = self.columns.slice(start, stop - start)
        return Table(
            source=self.source,
            columns=rows.take(np.arange(len(rows))),  # a slice would pickle the complete table
            blocks=self.blocks[start:stop] if self.blocks else None,
            flaws={row - start: text for row, text in self.flaws.items() if start <= row < stop},
            lines=None if self.lines is None else self.lines[start:stop],
            notes=self.notes,
            n_before=self.n_before + start,
            share_read=self.share_read,
        )

    def column_list(self) -> str:
        """List the names of the columns, for messages."""
        return ", ".join(map(repr, self.names))


def plain_columns(columns: pa.Table) -> pa.Table:
    """Convert types of Arrow that few functions accept: string views, binary views, list views."""
    for place, name in enumerate(columns.column_names):
        column = columns.column(place)
        kind = _plain_type(column.type)
        if kind != column.type:
            columns = columns.set_column(place, name, column.cast(kind))
    return columns


def _plain_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_binary_view(kind):
        return pa.binary()
    if pa.types.is_list_view(kind):
        return pa.list_(_plain_type(kind.value_type))
    if pa.types.is_large_list_view(kind):
        return pa.large_list(_plain_type(kind.value_type))
    is_container = pa.types.is_dictionary(kind) or pa.types.is_list(kind)
    if not is_container or _plain_type(kind.value_type) == kind.value_type:
        return kind
    value = _plain_type(kind.value_type)
    return value if pa.types.is_dictionary(kind) else pa.list_(value)


@dataclass(frozen=True)
class Rejected:
    """A row that is not a molecule.

    Attributes:
        row: counted from 1, without the header.
        id: the name of the row.
        reason: one sentence.
        status: `invalid`, or `too_large` for a molecule that is not given to RDKit.
    """

    row: int
    id: str
    reason: str
    status: str = "invalid"


def smiles_table(smiles: Sequence[str], names: Sequence[str] | None = None) -> Table:
    """Make a table from a list of SMILES, with the columns `smiles` and, if given, `name`."""
    columns = {"smiles": pa.array(list(smiles), pa.string())}
    if names is not None:
        columns["name"] = pa.array(list(names), pa.string())
    return Table(source=Path("input"), columns=pa.table(columns))


def find_smiles_column(table: Table) -> str:
    """Find the SMILES column by its name.

    It is the column `smiles`, or else the only one with a common name for SMILES, or the only one
    whose name contains the word.

    Raises:
        TableError: no column or several columns match; the message lists them.
    """
    normalised = {name: name.strip().lower().replace(" ", "_") for name in table.names}
    for matches in (
        lambda name: normalised[name] == "smiles",
        lambda name: normalised[name] in _SMILES_NAMES,
        lambda name: re.search(r"smiles(?![a-z])", normalised[name]) is not None,
    ):
        candidates = [name for name in table.names if matches(name)]
        if len(candidates) == 1:
            return candidates[0]
        if candidates:
            raise TableError(
                f"{table.source}: {' and '.join(map(repr, candidates))} may each be the SMILES "
                f"column, choose one ({_HOW_TO_NAME_IT})"
            )
    molecule = next((name for name in table.names if _looks_like_smiles(name)), "")
    if molecule:
        raise TableError(
            f"{table.source}: expected column names in the first line, got the molecule "
            f"{molecule!r}; add a first line such as smiles,value"
        )
    likely = [name for name in dict.fromkeys(table.names) if _holds_smiles(table, name)]
    hint = f"; by its content it may be {' or '.join(map(repr, likely))}" if likely else ""
    raise TableError(
        f"{table.source}: no column is called 'smiles', choose one ({_HOW_TO_NAME_IT}){hint}; "
        f"available: {table.column_list()}"
    )


def _holds_smiles(table: Table, name: str) -> bool:
    """Check whether most of the first cells of a column are molecules of more than one atom."""
    if table.names.count(name) > 1:
        return False
    cells = [cell for cell in table.column(name)[:100].to_pylist() if isinstance(cell, str)]
    sample = [cell.strip() for cell in cells if cell.strip()][:20]
    return bool(sample) and 2 * sum(count_atoms(text) > 1 for text in sample) > len(sample)


def _looks_like_smiles(name: str) -> bool:
    """Check whether a column name is a SMILES and not a word."""
    is_plausible = re.search(r"[()=#\[\]@\d]", name) and re.search(r"[CcNnOo]", name)
    return bool(is_plausible) and count_atoms(name) > 1


def read_with_smiles(
    table: Table, smiles: str | None = None
) -> tuple[pa.Table, str, Iterable[Molecule | Rejected]]:
    """Read the molecules of a table for an output that has a SMILES column.

    The mol blocks of an SDF become canonical SMILES in a new last column `smiles`, null if a block
    is not a molecule. Their geometry is not in the columns.

    Args:
        table: the rows.
        smiles: the SMILES column; found by name by default.

    Returns:
        The columns, the name of the SMILES column, and the molecule of every row. Each row is
        parsed once.

    Raises:
        TableError: there is no such column, or none can be found; or an SDF has a field `smiles`.
    """
    if smiles is not None or table.blocks is None:
        name = smiles or find_smiles_column(table)
        return table.columns, name, read_molecules(table, smiles=name)
    if "smiles" in table.names:
        raise TableError(
            f"{table.source}: there are mol blocks and a field 'smiles'; choose the field "
            f"({_HOW_TO_NAME_IT}) or rename it"
        )
    items = list(read_molecules(table))
    texts = [item.smiles if isinstance(item, Molecule) else None for item in items]
    return table.columns.append_column("smiles", pa.array(texts, pa.string())), "smiles", items


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

    A row of an SDF is read from its mol block unless `smiles` names a column. Other rows are read
    from their SMILES, and their geometry from a list column x0 y0 z0 x1 ..., or [x0 y0 z0] ..., if
    there is one. A row with a null list has no geometry.

    Args:
        table: the rows.
        smiles: the SMILES column; by default that of `find_smiles_column`.
        features: the feature version.
        coordinates: the list column; by default the first of `COORDINATE_NAMES` that has lists.
        atomic_numbers: the list column with the elements; by default `atomic_numbers`, `numbers` or
            `elements` if it has lists of numbers. Without elements, the positions are those of the
            heavy atoms in the order of the SMILES.
        coordinate_scale: Å per unit of the coordinates; by default 0.001 if the column name ends
            in `_mA`, else 1.
        id: the column with the names of the molecules; by default `name` if there is one. If a
            cell is empty, the name is "row 17".

    Returns:
        One item per row. Names may repeat.

    Raises:
        TableError: a column is missing or has another type.
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
    ids = [None] * len(table) if id is None else table.column(id).to_pylist()
    return _each_row(table, ids, read)


def _texts(table: Table, name: str) -> list[str]:
    cells = table.column(name).to_pylist()
    wrong = next((row for row, cell in enumerate(cells) if not isinstance(cell, str | None)), None)
    if wrong is not None:
        raise TableError(
            f"{table.source}, {table.place(wrong)}: "
            f"got {cells[wrong]!r} in column {name!r}, expected text"
        )
    return ["" if cell is None else cell for cell in cells]


def _list_column(table: Table, name: str | None, defaults: tuple[str, ...]) -> str | None:
    """Return the name of a list column: the given one, or the first default that exists."""
    if name is not None:
        if not _is_list_of_numbers(table.column(name).type):
            raise TableError(
                f"{table.source}: column {name!r} should have a list of numbers in each row"
            )
        return name
    existing = (name for name in defaults if table.names.count(name) == 1)
    return next((name for name in existing if _is_list_of_numbers(table.column(name).type)), None)


def _is_list_of_numbers(kind: pa.DataType) -> bool:
    """Check for a list of numbers, or of lists of them; the lists may have a fixed size."""
    if not _is_list(kind):
        return False
    inner = kind.value_type
    if _is_list(inner):
        inner = inner.value_type
    return pa.types.is_integer(inner) or pa.types.is_floating(inner)


def _is_list(kind: pa.DataType) -> bool:
    return (
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def _numbers_of(column: pa.ChunkedArray, row: int) -> Num[np.ndarray, " m"] | None:
    """Return the numbers in one row, lists of lists one after the other; None for null."""
    values = column[row].values
    if values is None:
        return None
    if _is_list(values.type):
        values = values.flatten()
    return values.to_numpy(zero_copy_only=False)


def _reader(
    table: Table,
    texts: list[str],
    features: FeatureVersion,
    coordinates: str | None,
    atomic_numbers: str | None,
    coordinate_scale: float | None,
) -> Callable[[int, str], Molecule]:
    """Return the function that reads the SMILES and the geometry, if any, of one row."""
    coordinates = _list_column(table, coordinates, COORDINATE_NAMES)
    if coordinates is None:
        return lambda row, name: read_smiles(texts[row], id=name, features=features)
    atomic_numbers = _list_column(table, atomic_numbers, ("atomic_numbers", "numbers", "elements"))
    elements = table.column(atomic_numbers) if atomic_numbers else None
    lists = table.column(coordinates)
    if coordinate_scale is None:
        coordinate_scale = 0.001 if coordinates.endswith("_mA") else 1.0

    def read(row: int, name: str) -> Molecule:
        flat = _numbers_of(lists, row)
        if flat is None:
            return read_smiles(texts[row], id=name, features=features)
        if flat.size % 3:
            raise MoleculeError(f"{name}: got {flat.size} coordinates, expected three per atom")
        positions = (flat.reshape(-1, 3) * coordinate_scale).astype(np.float32)
        numbers = None if elements is None else _numbers_of(elements, row)
        if numbers is None:
            # ogb-1 keeps the order of the input; column 0 is the atomic number - 1, dummies last
            atoms = read_smiles(texts[row], id=name, features="ogb-1").atoms
            numbers = (atoms[:, 0].astype(np.int32) + 1) % ATOM_FEATURE_SIZES[0]
        if len(numbers) != len(positions):
            raise MoleculeError(f"{name}: got {len(positions)} positions for {len(numbers)} atoms")
        return read_xyz(numbers.astype(np.int32), positions, texts[row], id=name, features=features)

    return read


def _each_row(
    table: Table, ids: list[object], read: Callable[[int, str], Molecule]
) -> Iterator[Molecule | Rejected]:
    for row, id in enumerate(ids):
        number = table.n_before + row + 1
        name = ("" if id is None else str(id).strip()) or f"row {number}"
        if row in table.flaws:
            yield Rejected(number, name, table.flaws[row])
            continue
        try:
            with rdkit_refusals(name):
                molecule = read(row, name)
            if molecule.has_any_atom:
                raise MoleculeError("represents many molecules: an atom is `*`, any atom or group")
            yield molecule
        except MoleculeError as error:
            status = "too_large" if isinstance(error, TooLargeError) else "invalid"
            yield Rejected(number, name, str(error).removeprefix(f"{name}: "), status)
