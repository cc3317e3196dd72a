"""Screening: files of any size predicted or embedded, in several processes or on Ray."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import chain
from multiprocessing import parent_process
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float32

from moleblend.blending import Views
from moleblend.engines import Engine, map_in_order
from moleblend.files import replacing
from moleblend.predict import Errors, Predictor
from moleblend.tables import Table, read_pieces, write_tables

_ROWS_IN_A_PIECE = 4096
"""Rows of which molecules of similar size are batched together, and that are in memory at a time
for each process."""

Vectors = Float32[np.ndarray, "n d"]


@dataclass(frozen=True)
class FileAccount:
    """What became of the rows of a file.

    Attributes:
        n_rows: rows written.
        statuses: how many of them have each status.
        notes: what the user should be told about the source, one sentence each.
    """

    n_rows: int
    statuses: dict[str, int]
    notes: tuple[str, ...]


def predict_file(
    model: str | Path,
    source: str | Path,
    out: str | Path,
    *,
    views: Views | None = None,
    smiles: str | None = None,
    errors: Errors = "keep",
    engine: Engine = "processes",
    n_processes: int = 1,
    address: str | None = None,
    on_progress: Callable[[int, float | None], None] | None = None,
) -> FileAccount:
    """Write what `Predictor.predict` gives for a file, in the memory that a few pieces need.

    Args:
        model: the model file; on a Ray cluster every machine needs it under this path.
        source: what `tables.read_table` reads.
        out: csv, tsv or Parquet file; whole at the end or not there.
        views: as of `Predictor.predict`, as are `smiles` and `errors`.
        smiles: the SMILES column.
        errors: what is done with rows that cannot be used.
        engine: see `engines.map_in_order`, as for `address`.
        n_processes: with 1 this process computes, with all its threads; several have one thread
            each. On Ray, of which each task has one core, it bounds what is under way.
        address: of a Ray cluster.
        on_progress: called now and then with the number of rows done and the share of the source
            that is read, if known.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: as `Predictor.predict` and `write_table` raise it.
        MoleculeError: a row cannot be used and `errors` is "raise".
        ChildProcessError: a process died.
    """
    options = {"views": views, "smiles": smiles, "errors": errors}
    answer = partial(_predict, options=options)
    answers = _answers(answer, model, source, engine, n_processes, address)
    tally = _Tally(on_progress)
    write_tables((table for table, _ in tally.follow(answers)), out)
    return tally.account()


def embed_file(
    model: str | Path,
    source: str | Path,
    out: str | Path,
    *,
    views: Views | None = None,
    smiles: str | None = None,
    errors: Errors = "keep",
    engine: Engine = "processes",
    n_processes: int = 1,
    address: str | None = None,
    on_progress: Callable[[int, float | None], None] | None = None,
) -> FileAccount:
    """Write what `Predictor.embed_table` gives for a file. Arguments as of `predict_file`.

    `out` may also end in .npy, see `write_embeddings`.
    """
    options = {"views": views, "smiles": smiles, "errors": errors}
    answer = partial(_embed, options=options)
    answers = _answers(answer, model, source, engine, n_processes, address)
    tally = _Tally(on_progress)
    write_embeddings(tally.follow(answers), out)
    return tally.account()


def write_embeddings(pieces: Iterable[tuple[pa.Table, Vectors]], path: str | Path) -> None:
    """Write rows and their vectors.

    Args:
        pieces: at least one; the rows, as `Predictor.embed_table` gives them, and one vector per
            row, NaN where the row cannot be used.
        path: ending in .parquet (a column `embedding`), .csv or .tsv (columns e0, e1, ...), or .npy
            (the vectors alone, float32; the rows then go to PATH.rows.csv).

    Raises:
        ValueError: the path ends otherwise, or a row has a column of such a name.
    """
    path = Path(path)
    if path.suffix == ".npy":
        _write_vectors(iter(pieces), path)
    else:
        is_list = path.suffix == ".parquet"
        write_tables((_beside(table, vectors, is_list, path) for table, vectors in pieces), path)


def _write_vectors(pieces: Iterator[tuple[pa.Table, Vectors]], path: Path) -> None:
    first = next(pieces)
    width, n_rows = first[1].shape[1], 0
    with replacing(path) as temporary, temporary.open("wb") as file:

        def write_header() -> None:
            told = {"descr": "<f4", "fortran_order": False, "shape": (n_rows, width)}
            np.lib.format.write_array_header_1_0(file, told)

        def rows() -> Iterator[pa.Table]:
            nonlocal n_rows
            for table, vectors in chain([first], pieces):
                file.write(vectors.astype("<f4").tobytes())
                n_rows += len(vectors)
                yield table

        write_header()
        begin = file.tell()
        write_tables(rows(), path.with_name(f"{path.name}.rows.csv"))
        file.seek(0)
        write_header()  # numpy leaves room in it for the number of rows to grow
        if file.tell() != begin:
            raise AssertionError("numpy wrote a header of another length")


def _beside(table: pa.Table, vectors: Vectors, is_list: bool, path: Path) -> pa.Table:
    """Put vectors beside their rows, as one column of lists or as one column for each axis."""
    if is_list:
        is_unknown = pa.array(np.isnan(vectors).any(1))
        flat = pa.array(vectors.ravel())
        added = {
            "embedding": pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1], mask=is_unknown)
        }
    else:
        added = {f"e{k}": pa.array(column, from_pandas=True) for k, column in enumerate(vectors.T)}
    for name, column in added.items():
        if name in table.column_names:
            raise ValueError(f"{path}: the input has a column {name!r} already; rename it")
        table = table.append_column(name, column)
    return table


@dataclass(frozen=True, eq=False)
class _Answer:
    """What a worker makes of a piece: rows with their status, and vectors where these are asked."""

    table: pa.Table
    vectors: Vectors
    n_done: int
    share_read: float | None
    notes: tuple[str, ...]


class _Tally:
    """Counts what passes."""

    def __init__(self, on_progress: Callable[[int, float | None], None] | None) -> None:
        self._on_progress = on_progress
        self._statuses: dict[str, int] = {}
        self._notes: dict[str, None] = {}

    def follow(self, answers: Iterable[_Answer]) -> Iterator[tuple[pa.Table, Vectors]]:
        """Give table and vectors of each answer."""
        for answer in answers:
            for status in answer.table.column("status").to_pylist():
                self._statuses[status] = self._statuses.get(status, 0) + 1
            self._notes.update(dict.fromkeys(answer.notes))
            yield answer.table, answer.vectors
            if self._on_progress is not None:
                self._on_progress(answer.n_done, answer.share_read)

    def account(self) -> FileAccount:
        """What passed."""
        n_rows = sum(self._statuses.values())
        return FileAccount(n_rows, self._statuses, tuple(self._notes))


def _answers(
    answer: Callable[..., _Answer],
    model: str | Path,
    source: str | Path,
    engine: Engine,
    n_processes: int,
    address: str | None,
) -> Iterator[_Answer]:
    is_one_of_several = engine == "processes" and n_processes > 1
    model = Path(model).resolve() if engine == "ray" else Path(model)
    try:
        yield from map_in_order(
            partial(answer, model, is_one_of_several),
            read_pieces(source, _ROWS_IN_A_PIECE),
            engine=engine,
            n_workers=n_processes,
            address=address,
        )
    finally:
        _opened.cache_clear()


@lru_cache(maxsize=1)
def _opened(model: Path, is_one_of_several: bool) -> Predictor:
    """The model of this process, read once for all its pieces."""
    if is_one_of_several and parent_process() is not None:
        torch.set_num_threads(1)  # else the processes fight for the same cores
    return Predictor(model)


def _predict(
    model: Path, is_one_of_several: bool, piece: Table, *, options: dict[str, Any]
) -> _Answer:
    table = _opened(model, is_one_of_several).predict(piece, **options)
    return _answer(piece, table, np.zeros((len(table), 0), np.float32))


def _embed(
    model: Path, is_one_of_several: bool, piece: Table, *, options: dict[str, Any]
) -> _Answer:
    table, vectors = _opened(model, is_one_of_several).embed_table(piece, **options)
    return _answer(piece, table, vectors)


def _answer(piece: Table, table: pa.Table, vectors: Vectors) -> _Answer:
    return _Answer(table, vectors, piece.n_before + len(piece), piece.share_read, piece.notes)
