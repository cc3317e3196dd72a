"""Molecules in data frames of pandas or polars."""

from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Int64

from moleblend.data.containers import check_texts, read_container
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


def _library(value: object) -> str:
    return type(value).__module__.partition(".")[0]
