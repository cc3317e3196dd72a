"""Molecules in lists, arrays, Series and iterators."""

from collections.abc import Iterable, Mapping, Set
from typing import Any

import numpy as np
import pyarrow as pa

from moleblend.config import shown_value
from moleblend.errors import TableError


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


def check_texts(cells: list[Any]) -> list[str]:
    """Check that the items of `read_container` are texts; a missing one becomes "".

    Raises:
        TableError: an item is something else; the message names its row.
    """
    for row, cell in enumerate(cells):
        if not isinstance(cell, str | None):
            raise TableError(f"row {row + 1}: got {shown_value(cell)}, expected a SMILES")
    return ["" if cell is None else str(cell) for cell in cells]


def _is_missing(cell: object) -> bool:
    """Check for None, NaN and the missing values of pandas."""
    if cell is None or type(cell).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(cell, float | np.floating) and bool(np.isnan(cell))
