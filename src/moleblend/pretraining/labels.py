"""Measured labels as targets of pretraining: a table most of whose cells are empty."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float32, Float64

from moleblend.errors import MissingFileError, TableError


class LabelTable:
    """Labels of molecules, by the SMILES of the store.

    A column with the values 0 and 1 only is binary; the others are standardised by the mean and the
    standard deviation of their known values. Only known cells are kept in memory.

    Args:
        path: a Parquet file with a column `smiles` and one numeric column per label.

    Attributes:
        names: the labels.
        mean: of each label; 0 for a binary label.
        std: of each label; 0 for a binary label.

    Raises:
        MissingFileError: the file does not exist.
        TableError: it is no Parquet file, or has no column `smiles` or no label.
    """

    def __init__(self, path: str | Path) -> None:
        if not Path(path).is_file():
            raise MissingFileError(f"{path}: there is no such file of labels")
        try:
            table = pq.read_table(path)
        except pa.ArrowInvalid as error:
            raise TableError(f"{path}: not a Parquet file of labels ({error})") from error
        if "smiles" not in table.column_names or table.num_columns < 2:
            raise TableError(
                f"{path}: got the columns {', '.join(table.column_names[:5])}, expected `smiles` "
                "and at least one label"
            )
        self._rows = {text: row for row, text in enumerate(table["smiles"].to_pylist())}
        self.names = [name for name in table.column_names if name != "smiles"]
        rows, columns, values = [], [], []
        self.mean: Float64[np.ndarray, " t"] = np.zeros(len(self.names))
        self.std: Float64[np.ndarray, " t"] = np.zeros(len(self.names))
        for column, name in enumerate(self.names):
            of_column = table[name].to_numpy().astype(np.float64)
            known = np.flatnonzero(np.isfinite(of_column))
            of_known = of_column[known]
            if not np.isin(of_known, (0, 1)).all():
                self.mean[column], self.std[column] = of_known.mean(), of_known.std() or 1.0
            rows.append(known)
            columns.append(np.full(len(known), column))
            values.append(of_known)
        order = np.argsort(np.concatenate(rows), kind="stable")
        counts = np.bincount(np.concatenate(rows), minlength=table.num_rows)
        self._starts = np.concatenate([[0], np.cumsum(counts)])
        self._columns = np.concatenate(columns)[order].astype(np.int32)
        self._values = np.concatenate(values)[order].astype(np.float32)

    def of(self, smiles: Sequence[str]) -> Float32[np.ndarray, "b t"]:
        """Return the labels of molecules; NaN where unknown."""
        labels = np.full((len(smiles), len(self.names)), np.nan, np.float32)
        for k, text in enumerate(smiles):
            row = self._rows.get(text)
            if row is not None:
                known = slice(self._starts[row], self._starts[row + 1])
                labels[k, self._columns[known]] = self._values[known]
        return labels
