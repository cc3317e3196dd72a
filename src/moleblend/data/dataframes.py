"""Molecules in lists, arrays, iterators, Series and data frames of pandas, polars or Arrow."""

from collections.abc import Iterable, Mapping, Set
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Int64

from moleblend.data.table import Table, find_smiles_column, plain_columns, smiles_table
from moleblend.errors import TableError

Frame = Any
"""A `pandas.DataFrame` or a `polars.DataFrame`; the package needs neither library."""


def is_frame(source: object) -> bool:
    """Check whether an object is a data frame of pandas or polars."""
    return _library(source) in ("pandas", "polars") and type(source).__name__ == "DataFrame"


def frame_table(frame: Frame) -> Table:
    """Convert a data frame to a table, without the index of a pandas data frame.

    Raises:
        TableError: the name of a column is not a text, or a column has values of several types.
    """
    wrong = next((name for name in frame.columns if not isinstance(name, str)), None)
    if wrong is not None:
        raise TableError(f"got the column name {wrong!r} in a data frame, expected a text")
    if _library(frame) == "polars":
        columns = frame.to_arrow()
    else:
        try:
            columns = pa.Table.from_pandas(frame, preserve_index=False)
        except pa.ArrowException as error:
            raise TableError(f"a column of the data frame has mixed types: {error}") from error
    return Table(
        source=smiles_table([]).source, columns=plain_columns(columns.replace_schema_metadata(None))
    )


def with_columns(frame: Frame, rows: Int64[np.ndarray, " k"], added: pa.Table) -> Frame:
    """Select rows of a data frame and add columns; a pandas data frame keeps its index.

    Args:
        frame: the data frame.
        rows: k rows of it, counted from 0.
        added: the new columns, with k rows.
    """
    if _library(frame) == "polars":
        import polars

        return frame[rows].hstack(polars.from_arrow(added))
    columns = {name: added.column(name).to_pandas().array for name in added.column_names}
    return frame.iloc[rows].assign(**columns)


def read_container(molecules: Any) -> list[Any]:  # noqa: ANN401
    """Read a list, an array, a Series or an iterator once, into a list.

    Args:
        molecules: any iterable with an order; of a 2-D array with one column, that column.

    Returns:
        The items; a missing value (None, NaN, `pandas.NA`) becomes None.

    Raises:
        TableError: the object is one molecule, has no order (a set), or has keys (a dict).
    """
    if isinstance(molecules, str):
        raise TableError(f"got one SMILES, expected a list such as [{molecules!r}]")
    kind = type(molecules).__name__
    if isinstance(molecules, Mapping):
        raise TableError(f"got a {kind}, expected a list of molecules such as list(d.values())")
    if isinstance(molecules, Set):
        raise TableError(f"got a {kind}, which has no order, expected a list of molecules")
    if isinstance(molecules, bytes | bytearray | memoryview) or not isinstance(molecules, Iterable):
        raise TableError(f"got a {kind}, expected a list of molecules")
    if isinstance(molecules, pa.Array | pa.ChunkedArray):
        molecules = molecules.to_pylist()
    if isinstance(molecules, np.ndarray):
        shape, items = molecules.shape, list(molecules.ravel())
    else:
        items = list(molecules)
        shape = (len(items),)
        lengths = {len(item) if isinstance(item, list | tuple) else 0 for item in items}
        if len(lengths) == 1 and lengths != {0}:  # the rows of a 2-D array
            shape, items = (len(items), *lengths), [cell for row in items for cell in row]
    if len(shape) != 1 and (len(shape) != 2 or shape[1] != 1):
        raise TableError(f"got shape {shape}, expected one SMILES for each molecule")
    return [None if _is_missing(item) else item for item in items]


def smiles_list(molecules: Any, column: str | None = None) -> list[str]:  # noqa: ANN401
    """Convert a container of SMILES to a list; a missing SMILES becomes "".

    Args:
        molecules: what `read_container` reads, or a data frame.
        column: of a data frame; by default its only column, or the one found by name.

    Raises:
        TableError: there is no such column, there are several columns, or a value is not a text.
    """
    if is_frame(molecules):
        table = frame_table(molecules)
        name = column or (table.names[0] if len(table.names) == 1 else find_smiles_column(table))
        molecules = table.column(name)
    return check_texts(read_container(molecules))


def check_texts(cells: list[Any]) -> list[str]:
    """Check that the items of `read_container` are texts; a missing one becomes "".

    Raises:
        TableError: an item is something else; the message names its row.
    """
    for row, cell in enumerate(cells):
        if not isinstance(cell, str | None):
            raise TableError(f"row {row + 1}: got {cell!r}, expected a SMILES")
    return ["" if cell is None else str(cell) for cell in cells]


def _is_missing(cell: object) -> bool:
    """Check for None, NaN and the missing values of pandas."""
    if cell is None or type(cell).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(cell, float | np.floating) and bool(np.isnan(cell))


def _library(value: object) -> str:
    return type(value).__module__.partition(".")[0]
