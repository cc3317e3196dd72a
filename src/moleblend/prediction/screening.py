"""Screening: files of any size predicted or embedded, in several processes or on Ray."""

import json
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import chain
from multiprocessing import parent_process
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float32

from moleblend import __version__
from moleblend.chem.parsing import RDKIT_VERSION
from moleblend.data.formats import check_ending, read_pieces, write_tables
from moleblend.data.table import Table
from moleblend.evaluation.conformal import check_confidence
from moleblend.evaluation.uncertainty import CONFIDENCE
from moleblend.files import PartialOutput, alone_with, file_sha256, replacing
from moleblend.model import checkpoint
from moleblend.model.blending import ShownViews
from moleblend.parallel import Engine, map_in_order
from moleblend.prediction.inputs import Errors
from moleblend.prediction.predictor import Predictor

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
        notes: what the user should be told about the source and the answers, one sentence each.
        n_resumed: those of the rows that an earlier run had left.
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
    """Write what `Predictor.predict` gives for a file, in the memory that a few pieces need.

    Until the file is whole its pieces lie in `.OUT.parts` beside it. A run that was stopped, by
    SIGKILL too, goes on from there with `resume`, and ends as the same bytes.

    Args:
        model: the model file; on a Ray cluster every machine needs it under this path.
        source: what `tables.read_table` reads.
        out: csv, tsv or Parquet file; whole at the end or not there.
        views: as of `Predictor.predict`, as are `smiles`, `errors` and `confidence`.
        smiles: the SMILES column.
        errors: what is done with rows that cannot be used.
        confidence: of intervals and sets.
        engine: see `engines.map_in_order`, as for `address`.
        n_processes: with 1 this process computes, with all its threads; several have one thread
            each. On Ray, of which each task has one core, it bounds what is under way.
        address: of a Ray cluster.
        resume: go on with what a run left that was stopped.
        on_progress: called now and then with the number of rows done and the share of the source
            that is read, if known.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: as `Predictor.predict` and `write_table` raise it; an unfinished run is there
            and `resume` false, or the reverse, or it began otherwise.
        MoleculeError: a row cannot be used and `errors` is "raise".
        ChildProcessError: a process died.
    """
    check_confidence(confidence)
    told = {"views": views, "smiles": smiles, "errors": errors, "confidence": confidence}
    work = _Work("predict", model, source, out, told)
    with work.answered(engine, n_processes, address, resume, on_progress) as pieces:
        tally = _Tally(pieces)
        write_tables((table for table, _ in tally), out)
    return tally.account(work.n_resumed)


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
    """Write what `Predictor.embed_table` gives for a file. Arguments as of `predict_file`.

    `out` may also end in .npy, see `write_embeddings`.
    """
    told = {"views": views, "smiles": smiles, "errors": errors}
    work = _Work("embed", model, source, out, told)
    with work.answered(engine, n_processes, address, resume, on_progress) as pieces:
        tally = _Tally(pieces)
        write_embeddings(tally, out)
    return tally.account(work.n_resumed)


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


@dataclass(frozen=True)
class _Numbered:
    """A piece of the source for one worker, and its number."""

    number: int
    table: Table


@dataclass(frozen=True, eq=False)
class _Answer:
    """What a worker makes of a piece: rows with their status, and vectors where these are asked."""

    number: int
    table: pa.Table
    vectors: Vectors
    n_done: int
    share_read: float | None
    notes: tuple[str, ...]

    def write(self, path: Path) -> None:
        """Keep it in a file, to the last digit."""
        told = {"width": str(self.vectors.shape[1]), "notes": json.dumps(self.notes)}
        flat = pa.array([row.tobytes() for row in self.vectors.astype("<f4")], pa.binary())
        finished = self.table.append_column("vectors", flat).replace_schema_metadata(told)
        with replacing(path) as temporary, pa.ipc.new_file(temporary, finished.schema) as file:
            file.write_table(finished)


@dataclass(frozen=True, eq=False)
class _Kept:
    """A piece as it comes back from its file."""

    table: pa.Table
    vectors: Vectors
    notes: tuple[str, ...]

    @classmethod
    def read(cls, path: Path) -> "_Kept":
        """Read what `_Answer.write` wrote."""
        with pa.ipc.open_file(path) as file:
            table = file.read_all()
        told, last = table.schema.metadata, table.num_columns - 1
        flat = np.frombuffer(b"".join(table.column(last).to_pylist()), "<f4")
        vectors = flat.reshape(len(table), int(told[b"width"])).copy()
        rows = table.remove_column(last).replace_schema_metadata(None)
        return cls(rows, vectors, tuple(json.loads(told[b"notes"])))


class _Tally:
    """Gives table and vectors of each piece, and counts what passes."""

    def __init__(self, pieces: Iterable[_Kept]) -> None:
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
        """What passed."""
        n_rows = sum(self._statuses.values())
        return FileAccount(n_rows, self._statuses, tuple(self._notes), n_resumed)


class _Work:
    """One file to be answered for, piece by piece, each kept until all are there."""

    def __init__(
        self,
        verb: Literal["predict", "embed"],
        model: str | Path,
        source: str | Path,
        out: str | Path,
        options: dict[str, Any],
    ) -> None:
        self.model, self.source, self.out = checkpoint.locate(model), Path(source), Path(out)
        self.verb: Literal["predict", "embed"] = verb
        self.options = options
        self.parts = PartialOutput(self.out, "arrow", "run")
        self.n_resumed = 0

    @contextmanager
    def answered(
        self,
        engine: Engine,
        n_processes: int,
        address: str | None,
        resume: bool,
        on_progress: Callable[[int, float | None], None] | None,
    ) -> Generator[Iterator[_Kept], None, None]:
        """Answer for the pieces that are missing; give all; forget them when all is written."""
        if self.out.suffix != ".npy" or self.verb == "predict":
            check_ending(self.out)
        pieces = read_pieces(self.source, _ROWS_IN_A_PIECE)
        is_one_of_several = engine == "processes" and n_processes > 1
        model = self.model.resolve() if engine == "ray" else self.model
        _opened(model, is_one_of_several)  # says what is wrong with it before anything is begun
        with alone_with(self.out):
            self.parts.start_or_resume(self._origin(), resume=resume)
            answer = partial(_answer, self.verb, model, is_one_of_several, options=self.options)
            try:
                for answered in map_in_order(
                    answer,
                    self._missing(pieces),
                    engine=engine,
                    n_workers=n_processes,
                    address=address,
                ):
                    if answered.number == 0:
                        self._check_names(answered)
                    answered.write(self.parts.path(answered.number))
                    if on_progress is not None:
                        on_progress(answered.n_done, answered.share_read)
                yield map(_Kept.read, self.parts.finished())
            except ValueError:  # it would be raised again, so there is nothing to be resumed
                self.parts.remove()
                raise
            finally:
                _opened.cache_clear()
                if not self.parts.finished():
                    self.parts.remove()
            self.parts.remove()

    def _missing(self, pieces: Iterable[Table]) -> Iterator[_Numbered]:
        for number, piece in enumerate(pieces):
            if self.parts.path(number).exists():
                self.n_resumed += len(piece)
            else:
                yield _Numbered(number, piece)

    def _check_names(self, first: _Answer) -> None:
        """Refuse a column that the output cannot have, before the work is done."""
        if self.verb == "embed" and self.out.suffix != ".npy":
            is_list = self.out.suffix == ".parquet"
            _beside(first.table[:0], first.vectors[:0], is_list, self.out)

    def _origin(self) -> dict[str, object]:
        """All that an answer is a function of."""
        return {
            "moleblend": __version__,
            "rdkit": RDKIT_VERSION,
            "torch": str(torch.__version__),
            "verb": self.verb,
            "model": file_sha256(self.model),
            "source": file_sha256(self.source),
            "rows": _ROWS_IN_A_PIECE,
            **self.options,
        }


@lru_cache(maxsize=1)
def _opened(model: Path, is_one_of_several: bool) -> Predictor:
    """The model of this process, read once for all its pieces."""
    if is_one_of_several and parent_process() is not None:
        torch.set_num_threads(1)  # else the processes fight for the same cores
    return Predictor(model)


def _answer(
    verb: Literal["predict", "embed"],
    model: Path,
    is_one_of_several: bool,
    piece: _Numbered,
    *,
    options: dict[str, Any],
) -> _Answer:
    predictor, rows = _opened(model, is_one_of_several), piece.table
    notes = list(rows.notes)
    if verb == "predict":
        targets = predictor.model.config.targets
        notes += predictor.uncertainty.limitations(targets, options["confidence"])
        table = predictor.predict(rows, **options)
        vectors = np.zeros((len(table), 0), np.float32)
    else:
        table, vectors = predictor.embed_table(rows, **options)
    n_done = rows.n_before + len(rows)
    return _Answer(piece.number, table, vectors, n_done, rows.share_read, tuple(notes))
