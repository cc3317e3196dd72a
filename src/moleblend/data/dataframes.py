"""What Python users hold molecules in: lists, arrays, Series, frames of pandas and of polars."""

from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Int64

from moleblend.data.table import Table, find_smiles_column, smiles_table

Frame = Any
"""A `pandas.DataFrame` or a `polars.DataFrame`; the package needs neither library."""


def is_frame(source: object) -> bool:
    """Say whether something is a data frame that can be read."""
    return _library(source) in ("pandas", "polars") and type(source).__name__ == "DataFrame"


def frame_table(frame: Frame) -> Table:
    """Give the columns of a data frame, without the index of a pandas one.

    Raises:
        ValueError: a column's name is no text, or its values are of several kinds.
    """
    odd = next((name for name in frame.columns if not isinstance(name, str)), None)
    if odd is not None:
        raise ValueError(f"columns of a data frame need text for a name, one is called {odd!r}")
    if _library(frame) == "polars":
        columns = frame.to_arrow()
    else:
        try:
            columns = pa.Table.from_pandas(frame, preserve_index=False)
        except pa.ArrowException as error:
            raise ValueError(f"a column of the data frame has mixed values: {error}") from error
    return Table(source=smiles_table([]).source, columns=columns.replace_schema_metadata(None))


def with_columns(frame: Frame, rows: Int64[np.ndarray, " k"], added: pa.Table) -> Frame:
    """Give rows of a data frame, a pandas one with its index, and new columns beside them.

    Args:
        frame: of n rows.
        rows: which of them, counted from 0.
        added: k rows.
    """
    if _library(frame) == "polars":
        import polars

        return frame[rows].hstack(polars.from_arrow(added))
    columns = {name: added.column(name).to_pandas().array for name in added.column_names}
    return frame.iloc[rows].assign(**columns)


def smiles_list(molecules: Any, column: str | None = None) -> list[str]:  # noqa: ANN401
    """Give SMILES as a list, whatever they came in; a missing one is empty.

    Args:
        molecules: list, array or Series of SMILES, a 2-D array with one column, or a data frame.
        column: of a data frame; left out, it is its only one, or found by name.

    Raises:
        ValueError: there is no such column, several columns came, or something that is no text.
    """
    if isinstance(molecules, str):
        raise ValueError(f"a list of SMILES was expected, not one: [{molecules!r}] is a list")
    if is_frame(molecules):
        table = frame_table(molecules)
        name = column or (table.names[0] if len(table.names) == 1 else find_smiles_column(table))
        cells = table.column(name).to_pylist()
    else:
        if not hasattr(molecules, "__len__"):
            raise ValueError(f"a list of SMILES was expected, not a {type(molecules).__name__}")
        cells = np.asarray(molecules, dtype=object)
        if cells.ndim == 2 and cells.shape[1] == 1:
            cells = cells[:, 0]
        if cells.ndim != 1:
            raise ValueError(f"one SMILES for each molecule was expected, not shape {cells.shape}")
    for row, cell in enumerate(cells):
        if not (isinstance(cell, str) or _is_missing(cell)):
            raise ValueError(f"row {row + 1}: a SMILES is text, {cell!r} came")
    return ["" if _is_missing(cell) else str(cell) for cell in cells]


def _is_missing(cell: object) -> bool:
    """None, NaN, and what pandas writes for them."""
    return cell is None or type(cell).__name__ == "NAType" or cell != cell


def _library(value: object) -> str:
    return type(value).__module__.partition(".")[0]
