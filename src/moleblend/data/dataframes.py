"""Molecules in lists, arrays, Series and data frames of pandas or polars."""

from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Int64

from moleblend.data.table import Table, find_smiles_column, smiles_table

Frame = Any
"""A `pandas.DataFrame` or a `polars.DataFrame`; the package needs neither library."""


def is_frame(source: object) -> bool:
    """Check whether an object is a data frame of pandas or polars."""
    return _library(source) in ("pandas", "polars") and type(source).__name__ == "DataFrame"


def frame_table(frame: Frame) -> Table:
    """Convert a data frame to a table, without the index of a pandas data frame.

    Raises:
        ValueError: the name of a column is not a text, or a column has values of several types.
    """
    wrong = next((name for name in frame.columns if not isinstance(name, str)), None)
    if wrong is not None:
        raise ValueError(f"got the column name {wrong!r} in a data frame, expected a text")
    if _library(frame) == "polars":
        columns = frame.to_arrow()
    else:
        try:
            columns = pa.Table.from_pandas(frame, preserve_index=False)
        except pa.ArrowException as error:
            raise ValueError(f"a column of the data frame has mixed types: {error}") from error
    return Table(source=smiles_table([]).source, columns=columns.replace_schema_metadata(None))


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


def smiles_list(molecules: Any, column: str | None = None) -> list[str]:  # noqa: ANN401
    """Convert a container of SMILES to a list; a missing SMILES becomes "".

    Args:
        molecules: list, array or Series of SMILES, a 2-D array with one column, or a data frame.
        column: of a data frame; by default its only column, or the one found by name.

    Raises:
        ValueError: there is no such column, there are several columns, or a value is not a text.
    """
    if isinstance(molecules, str):
        raise ValueError(f"got one SMILES, expected a list such as [{molecules!r}]")
    if is_frame(molecules):
        table = frame_table(molecules)
        name = column or (table.names[0] if len(table.names) == 1 else find_smiles_column(table))
        cells = table.column(name).to_pylist()
    else:
        if not hasattr(molecules, "__len__"):
            raise ValueError(f"got a {type(molecules).__name__}, expected a list of SMILES")
        cells = np.asarray(molecules, dtype=object)
        if cells.ndim == 2 and cells.shape[1] == 1:
            cells = cells[:, 0]
        if cells.ndim != 1:
            raise ValueError(f"got shape {cells.shape}, expected one SMILES for each molecule")
    for row, cell in enumerate(cells):
        if not (isinstance(cell, str) or _is_missing(cell)):
            raise ValueError(f"row {row + 1}: got {cell!r}, expected a SMILES")
    return ["" if _is_missing(cell) else str(cell) for cell in cells]


def _is_missing(cell: object) -> bool:
    """Check for None, NaN and the missing value of pandas."""
    return cell is None or type(cell).__name__ == "NAType" or cell != cell


def _library(value: object) -> str:
    return type(value).__module__.partition(".")[0]
