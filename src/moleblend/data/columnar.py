"""Parquet and Arrow files as tables of molecules, stores of the package among them."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from moleblend.chem.molecule import ATOM_FEATURE_SIZES
from moleblend.data.table import Table, plain_columns
from moleblend.errors import TableError

_ROWS_AT_ONCE = 16_384

_STORE_COLUMNS = frozenset(["atoms", "bonds", "positions", "source_atoms", "smiles", "id"])
"""Columns by which a store of `moleblend data build`, or a shard of one, is recognised."""


def parquet_pieces(path: Path, n_rows: int | None) -> Iterator[Table]:
    """Read a Parquet file in tables of `n_rows` rows, or in one.

    Raises:
        TableError: it is not a Parquet file, or truncated.
    """
    try:
        with pq.ParquetFile(path) as file:
            batches = file.iter_batches(min(n_rows or _ROWS_AT_ONCE, _ROWS_AT_ONCE))
            yield from _pieces_of(path, batches, file.schema_arrow, file.metadata.num_rows, n_rows)
    except (pa.ArrowInvalid, OSError) as error:
        raise TableError(f"{path}: not a Parquet file, or truncated ({error})") from error


def arrow_pieces(path: Path, n_rows: int | None) -> Iterator[Table]:
    """Read an Arrow file, such as a store of `moleblend data build`, as `parquet_pieces` does.

    Raises:
        TableError: it is not an Arrow file, or truncated.
    """
    try:
        with pa.memory_map(str(path)) as stored, pa.ipc.open_file(stored) as file:
            batches = map(file.get_batch, range(file.num_record_batches))
            n_all = sum(file.get_batch(k).num_rows for k in range(file.num_record_batches))
            yield from _pieces_of(path, batches, file.schema, n_all, n_rows)
    except (pa.ArrowInvalid, OSError) as error:
        raise TableError(f"{path}: not an Arrow file, or truncated ({error})") from error


def _pieces_of(
    path: Path,
    batches: Iterable[pa.RecordBatch],
    schema: pa.Schema,
    n_all: int,
    n_rows: int | None,
) -> Iterator[Table]:
    """Divide record batches into tables of `n_rows` rows."""
    n_before, n_rows = 0, n_rows or max(n_all, 1)
    waiting = _readable(schema.empty_table())
    if n_all == 0:
        yield Table(path, waiting, share_read=1.0)
        return
    for batch in batches:
        waiting = pa.concat_tables([waiting, _readable(pa.Table.from_batches([batch]))])
        while len(waiting) >= n_rows or 0 < len(waiting) == n_all - n_before:
            rows = waiting.slice(0, n_rows)
            waiting = waiting.slice(n_rows)
            fraction = (n_before + len(rows)) / n_all
            yield Table(path, rows, n_before=n_before, share_read=fraction)
            n_before += len(rows)


def _readable(columns: pa.Table) -> pa.Table:
    """Give the columns plain types; those of a store become name, SMILES and first geometry."""
    if not set(columns.column_names) >= _STORE_COLUMNS:
        return plain_columns(columns.replace_schema_metadata(None))
    columns = columns.combine_chunks()
    atoms, lists = (_one_chunk(columns.column(name)) for name in ("atoms", "positions"))
    n_atoms = np.diff(atoms.offsets.to_numpy()) // len(ATOM_FEATURE_SIZES)
    starts = lists.offsets.to_numpy()
    sizes = np.where(np.diff(starts) > 0, 3 * n_atoms, 0)
    ends = np.cumsum(sizes)
    rows = np.arange(sizes.sum()) + np.repeat(starts[:-1] - (ends - sizes), sizes)
    offsets = pa.array([0, *ends], pa.int64(), mask=np.append(sizes == 0, False))
    first = pa.LargeListArray.from_arrays(offsets, lists.values.take(pa.array(rows)))
    return pa.table(
        {
            "name": columns.column("id").cast(pa.string()),
            "smiles": columns.column("smiles").cast(pa.string()),
            "coordinates": first,
        }
    )


def _one_chunk(column: pa.ChunkedArray) -> pa.LargeListArray:
    chunks = column.combine_chunks()
    return chunks if isinstance(chunks, pa.LargeListArray) else pa.concat_arrays(chunks.chunks)
