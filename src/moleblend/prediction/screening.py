"""Screening: prediction or embedding of files of any size, in several processes or on Ray."""

import json
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from multiprocessing import parent_process
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float32

from moleblend.chem.parsing import RDKIT_VERSION
from moleblend.data.formats import check_ending, read_pieces, write_tables
from moleblend.data.table import Table
from moleblend.environment import VERSION
from moleblend.errors import SettingError
from moleblend.evaluation.conformal import check_confidence
from moleblend.evaluation.uncertainty import CONFIDENCE
from moleblend.files import PartialOutput, alone_with, check_outputs, file_sha256, replacing
from moleblend.model import checkpoint
from moleblend.model.blending import ShownViews
from moleblend.parallel import Engine, map_in_order
from moleblend.prediction.inputs import Errors
from moleblend.prediction.predictor import Predictor, forget_predictors, open_predictor

Command = Literal["predict", "embed"]

_ROWS_IN_A_PIECE = 4096
"""Rows of the file that each process holds in memory at a time. Molecules of similar size within a
piece are batched together."""

Vectors = Float32[np.ndarray, "n d"]


@dataclass(frozen=True)
class FileAccount:
    """Summary of a predicted or embedded file.

    Attributes:
        n_rows: rows written.
        statuses: number of rows with each status.
        notes: remarks for the user on the source and on the results, one sentence each.
        n_resumed: rows that an interrupted run had finished already.
    """

    n_rows: int
    statuses: dict[str, int]
    notes: tuple[str, ...]
    n_resumed: int = 0


def predict_file(
    model: str | Path,
    source: str | Path,
    out: str | Path,
    *,
    views: ShownViews | None = None,
    smiles: str | None = None,
    errors: Errors = "keep",
    confidence: float = CONFIDENCE,
    engine: Engine = "processes",
    n_processes: int = 1,
    address: str | None = None,
    resume: bool = False,
    on_progress: Callable[[int, float | None], None] | None = None,
) -> FileAccount:
    """Write the predictions of `Predictor.predict` for a file, piece by piece.

    Memory does not grow with the file. Finished pieces are kept in the folder `.OUT.parts` next to
    the output. An interrupted run (also by SIGKILL) continues from them with `resume`, and its
    output is the same to the byte.

    Args:
        model: the model file; on a Ray cluster every machine needs it under this path.
        source: a file that `formats.read_table` reads.
        out: a csv, tsv or Parquet file. It appears when it is complete.
        views: as of `Predictor.predict`, as are `smiles`, `errors` and `confidence`.
        smiles: the SMILES column.
        errors: what happens to rows that cannot be used.
        confidence: of intervals and sets.
        engine: as of `parallel.map_in_order`, as is `address`.
        n_processes: with 1, this process computes with all its threads; several processes have one
            thread each. On Ray each task has one core, and this is the number of tasks at a time.
        address: of a Ray cluster.
        resume: continue an interrupted run.
        on_progress: called repeatedly with the number of finished rows and the fraction of the
            source that is read, if known.

    Raises:
        MissingFileError: there is no such file.
        SettingError: as `Predictor.predict` and `write_table` raise it; or there is an interrupted
            run and `resume` is false, or there is none and it is true, or the interrupted run had
            other settings.
        MoleculeError: a row cannot be used and `errors` is "raise".
        WorkerError: a process died.
    """
    check_confidence(confidence)
    options = {"views": views, "smiles": smiles, "errors": errors, "confidence": confidence}
    work = _FileRun("predict", model, source, out, options)
    with work.finished_pieces(engine, n_processes, address, resume, on_progress) as pieces:
        summary = _Summary(pieces)
        write_tables((table for table, _ in summary), out, "status")
    return summary.account(work.n_resumed)


def embed_file(
    model: str | Path,
    source: str | Path,
    out: str | Path,
    *,
    views: ShownViews | None = None,
    smiles: str | None = None,
    errors: Errors = "keep",
    engine: Engine = "processes",
    n_processes: int = 1,
    address: str | None = None,
    resume: bool = False,
    on_progress: Callable[[int, float | None], None] | None = None,
) -> FileAccount:
    """Write the vectors of `Predictor.embed_table` for a file. Arguments as of `predict_file`.

    `out` may also end in .npy, see `write_embeddings`.
    """
    options = {"views": views, "smiles": smiles, "errors": errors}
    work = _FileRun("embed", model, source, out, options)
    with work.finished_pieces(engine, n_processes, address, resume, on_progress) as pieces:
        summary = _Summary(pieces)
        write_embeddings(summary, out)
    return summary.account(work.n_resumed)


def write_embeddings(pieces: Iterable[tuple[pa.Table, Vectors]], path: str | Path) -> None:
    """Write rows and their vectors.

    Args:
        pieces: at least one: rows as `Predictor.embed_table` returns them, and one vector per row,
            NaN where the row cannot be used.
        path: ending in .parquet (one column `embedding`), .csv or .tsv (columns e0, e1, ...), or
            .npy (only the vectors, in float32; the rows are written to PATH.rows.csv).

    Raises:
        SettingError: the path has another ending, or the rows already have a column of such a name.
    """
    path = Path(path)
    if path.suffix == ".npy":
        _write_vectors(iter(pieces), path)
    else:
        is_list = path.suffix == ".parquet"
        tables = (_with_vectors(table, vectors, is_list, path) for table, vectors in pieces)
        write_tables(tables, path, "status")


def rows_file(path: Path) -> Path:
    """Return the file with the rows of the vectors in an .npy file."""
    return path.with_name(f"{path.name}.rows.csv")


def _write_vectors(pieces: Iterator[tuple[pa.Table, Vectors]], path: Path) -> None:
    first = next(pieces)
    width, n_rows = first[1].shape[1], 0
    with replacing(path) as temporary, temporary.open("wb") as file:

        def write_header() -> None:
            header = {"descr": "<f4", "fortran_order": False, "shape": (n_rows, width)}
            np.lib.format.write_array_header_1_0(file, header)

        def rows() -> Iterator[pa.Table]:
            nonlocal n_rows
            for table, vectors in chain([first], pieces):
                file.write(vectors.astype("<f4").tobytes())
                n_rows += len(vectors)
                yield table

        write_header()
        start = file.tell()
        write_tables(rows(), rows_file(path), "status")
        file.seek(0)
        write_header()  # numpy reserves space in it for a larger number of rows
        if file.tell() != start:
            raise AssertionError("numpy wrote a header of another length")


def _with_vectors(table: pa.Table, vectors: Vectors, is_list: bool, path: Path) -> pa.Table:
    """Append vectors to their rows, as one column of lists or as one column per axis."""
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
            raise SettingError(f"{path}: the input already has a column {name!r}; rename it")
        table = table.append_column(name, column)
    return table


@dataclass(frozen=True)
class _SourcePiece:
    """A piece of the source, and its number."""

    number: int
    table: Table


@dataclass(frozen=True, eq=False)
class _Result:
    """The result of a worker for one piece: rows with their status, and vectors of `embed`."""

    number: int
    table: pa.Table
    vectors: Vectors
    n_done: int
    fraction_read: float | None
    notes: tuple[str, ...]

    def write(self, path: Path) -> None:
        """Save it to a file, without loss of digits."""
        metadata = {"width": str(self.vectors.shape[1]), "notes": json.dumps(self.notes)}
        flat = pa.array([row.tobytes() for row in self.vectors.astype("<f4")], pa.binary())
        finished = self.table.append_column("vectors", flat).replace_schema_metadata(metadata)
        with replacing(path) as temporary, pa.ipc.new_file(temporary, finished.schema) as file:
            file.write_table(finished)


@dataclass(frozen=True, eq=False)
class _SavedResult:
    """The result for one piece, read from its file."""

    table: pa.Table
    vectors: Vectors
    notes: tuple[str, ...]

    @classmethod
    def read(cls, path: Path) -> "_SavedResult":
        """Read a file that `_Result.write` wrote."""
        with pa.ipc.open_file(path) as file:
            table = file.read_all()
        metadata, last = table.schema.metadata, table.num_columns - 1
        flat = np.frombuffer(b"".join(table.column(last).to_pylist()), "<f4")
        vectors = flat.reshape(len(table), int(metadata[b"width"])).copy()
        rows = table.remove_column(last).replace_schema_metadata(None)
        return cls(rows, vectors, tuple(json.loads(metadata[b"notes"])))


class _Summary:
    """Iterates over table and vectors of each piece, and counts the statuses."""

    def __init__(self, pieces: Iterable[_SavedResult]) -> None:
        self._pieces = pieces
        self._statuses: dict[str, int] = {}
        self._notes: dict[str, None] = {}

    def __iter__(self) -> Iterator[tuple[pa.Table, Vectors]]:
        for piece in self._pieces:
            for status in piece.table.column("status").to_pylist():
                self._statuses[status] = self._statuses.get(status, 0) + 1
            self._notes.update(dict.fromkeys(piece.notes))
            yield piece.table, piece.vectors

    def account(self, n_resumed: int) -> FileAccount:
        """Summarise the pieces so far."""
        n_rows = sum(self._statuses.values())
        return FileAccount(n_rows, self._statuses, tuple(self._notes), n_resumed)


class _FileRun:
    """The run of one command on one file: each piece is saved until all are finished."""

    def __init__(
        self,
        command: Command,
        model: str | Path,
        source: str | Path,
        out: str | Path,
        options: dict[str, Any],
    ) -> None:
        self.model, self.source, self.out = checkpoint.locate(model), Path(source), Path(out)
        self.command: Command = command
        self.options = options
        self.parts = PartialOutput(self.out, "arrow", "run")
        self.n_resumed = 0

    @contextmanager
    def finished_pieces(
        self,
        engine: Engine,
        n_processes: int,
        address: str | None,
        resume: bool,
        on_progress: Callable[[int, float | None], None] | None,
    ) -> Generator[Iterator[_SavedResult], None, None]:
        """Compute the missing pieces and yield all; remove them after the output is written."""
        beside = [rows_file(self.out)] if self.out.suffix == ".npy" else []
        check_outputs([self.out, *beside], [self.source, self.model])
        if self.out.suffix != ".npy" or self.command == "predict":
            check_ending(self.out)
        pieces = read_pieces(self.source, _ROWS_IN_A_PIECE)
        is_one_of_several = engine == "processes" and n_processes > 1
        model = self.model.resolve() if engine == "ray" else self.model
        open_predictor(model)  # a model that cannot be used is an error before the run starts
        with alone_with(self.out):
            self.parts.start_or_resume(self._origin(), resume=resume)
            compute = partial(
                _compute, self.command, model, is_one_of_several, options=self.options
            )
            try:
                for result in map_in_order(
                    compute,
                    self._missing(pieces),
                    engine=engine,
                    n_workers=n_processes,
                    address=address,
                ):
                    if result.number == 0:
                        self._check_names(result)
                    result.write(self.parts.path(result.number))
                    if on_progress is not None:
                        on_progress(result.n_done, result.fraction_read)
                yield map(_SavedResult.read, self.parts.finished())
            except ValueError:  # a resumed run would raise it again
                self.parts.remove()
                raise
            finally:
                forget_predictors()
                if not self.parts.finished():
                    self.parts.remove()
            self.parts.remove()

    def _missing(self, pieces: Iterable[Table]) -> Iterator[_SourcePiece]:
        for number, piece in enumerate(pieces):
            if self.parts.path(number).exists():
                self.n_resumed += len(piece)
            else:
                yield _SourcePiece(number, piece)

    def _check_names(self, first: _Result) -> None:
        """Refuse an input column that the output adds, after the first piece."""
        if self.command == "embed" and self.out.suffix != ".npy":
            is_list = self.out.suffix == ".parquet"
            _with_vectors(first.table[:0], first.vectors[:0], is_list, self.out)

    def _origin(self) -> dict[str, object]:
        """Describe everything that the output depends on; a resumed run must have the same."""
        return {
            "moleblend": VERSION,
            "rdkit": RDKIT_VERSION,
            "torch": str(torch.__version__),
            "command": self.command,
            "model": file_sha256(self.model),
            "source": file_sha256(self.source),
            "rows": _ROWS_IN_A_PIECE,
            **self.options,
        }


def _compute(
    command: Command,
    model: Path,
    is_one_of_several: bool,
    piece: _SourcePiece,
    *,
    options: dict[str, Any],
) -> _Result:
    """Predict or embed one piece, in a worker."""
    if is_one_of_several and parent_process() is not None:
        torch.set_num_threads(1)  # so that the processes do not compete for the same cores
    predictor: Predictor = open_predictor(model)
    rows = piece.table
    notes = list(rows.notes)
    if command == "predict":
        targets = predictor.model.config.targets
        notes += predictor.uncertainty.limitations(targets, options["confidence"])
        table = predictor.predict(rows, **options)
        vectors = np.zeros((len(table), 0), np.float32)
    else:
        table, vectors = predictor.embed_table(rows, **options)
    n_done = rows.n_before + len(rows)
    return _Result(piece.number, table, vectors, n_done, rows.share_read, tuple(notes))
