"""Building a store from a file of molecules, shard by shard, with a record of every rejected row.

During a build, the finished shards are in a hidden folder next to the store,
`.OUT.parts/shard-00000.arrow` etc., each with a JSON file about its rows. A shard gets its name
only when it is complete, so an interrupted build can be resumed.
"""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Literal

import pyarrow as pa

from moleblend.chem.conformers import ConformerConfig, Conformers
from moleblend.chem.molecule import FeatureVersion, Molecule, MoleculeError
from moleblend.chem.parsing import RDKIT_VERSION
from moleblend.data.formats import read_pieces, write_tables
from moleblend.data.store import STORE_VERSION, pack, read_batches, write_batches, write_manifest
from moleblend.data.table import Rejected, Table, read_molecules
from moleblend.environment import VERSION
from moleblend.errors import TableError
from moleblend.files import (
    PartialOutput,
    alone_with,
    check_outputs,
    file_sha256,
    partial_output_folder,
    write_json,
)
from moleblend.parallel import Engine, map_in_order

ShardFormat = Literal["arrow", "parquet"]

_ROWS_IN_A_BATCH = 1024
"""Rows of the source in a record batch."""

_ROWS_IN_A_PIECE = 64
"""Rows that a worker gets at a time if it computes conformers: few, to use all cores and to show
progress. Without conformers a worker gets complete batches. It must divide `_ROWS_IN_A_BATCH`."""


@dataclass(frozen=True)
class BuildAccount:
    """Summary of a build; `OUT.rejected.csv` lists the rejected rows.

    Attributes:
        n_rows: rows of the source.
        n_written: molecules in the store.
        n_rejected: rows that are not in the store.
        n_flat: rows in the store without a geometry that was requested, or whose coordinates are
            not a geometry.
        n_shards: shards of the build.
        n_resumed: shards that an earlier, interrupted build had finished.
        notes: messages about the source for the user, one sentence each.
    """

    n_rows: int
    n_written: int
    n_rejected: int
    n_flat: int
    n_shards: int
    n_resumed: int
    notes: tuple[str, ...]


def build_store(
    source: str | Path,
    out: str | Path,
    *,
    features: FeatureVersion = "cip-1",
    conformers: ConformerConfig | None = None,
    smiles: str | None = None,
    shard_rows: int = 16_384,
    shard_format: ShardFormat = "arrow",
    engine: Engine = "processes",
    n_processes: int | None = None,
    address: str | None = None,
    resume: bool = False,
    on_progress: Callable[[int, float | None], None] | None = None,
) -> BuildAccount:
    """Build a store from a file of molecules, with a few shards in memory.

    `OUT.rejected.csv` (row, id, reason) lists every row that is not in the store, and the rows that
    are in it without the requested geometry ("2D only: ..."). The bytes of the store depend only on
    the source and on the arguments `features` to `shard_format`, not on the number of processes,
    the engine or interruptions. The only exception are conformers close to the time limit.

    Args:
        source: a file for `formats.read_table`.
        out: the store: one file if the name ends in .arrow, else a folder of shards.
        features: the feature version.
        conformers: how to compute geometries for molecules without one; None leaves them in 2D.
        smiles: the SMILES column; found by name by default.
        shard_rows: rows of the source in a shard; an interrupted build loses at most one shard.
        shard_format: parquet gives a folder for other tools, which `MoleculeStore` does not read.
        engine: see `parallel.map_in_order`; only this process reads and writes files.
        n_processes: by default one for each core. With 1, everything runs in this process.
        address: of a Ray cluster.
        resume: continue with the shards of an interrupted build.
        on_progress: called from time to time with the number of finished rows (including those of
            an earlier build) and the fraction of the source that is read, if known.

    Raises:
        MissingFileError: there is no such source.
        TableError: the source or all of its rows cannot be read, an argument is invalid, `out` is
            an existing folder, another process is building the store, there is an unfinished build
            and `resume` is false, or there is none and `resume` is true.
        WorkerError: a process died (out of memory, or a crash in RDKit).
    """
    source, out = Path(source), Path(out)
    _check_out(source, out, shard_format)
    if shard_rows < 1:
        raise TableError(f"got shard_rows={shard_rows}, expected at least 1")
    tables = read_pieces(source, shard_rows)
    origin: dict[str, object] = {
        "moleblend": VERSION,
        "store": STORE_VERSION,
        "rdkit": RDKIT_VERSION,
        "source": file_sha256(source),
        "features": features,
        "smiles": smiles,
        "shard_rows": shard_rows,
        "shard_format": shard_format,
    }
    if conformers is not None:
        settings = {f"conformers.{name}": value for name, value in asdict(conformers).items()}
        del settings["conformers.cache"]
        origin |= settings
    partial_output = PartialOutput(out, shard_format, "build")
    shards = _Shards(partial_output, features)
    piece_rows = _ROWS_IN_A_BATCH if conformers is None else _ROWS_IN_A_PIECE
    with alone_with(out):
        partial_output.start_or_resume(origin, resume=resume)
        n_resumed = len(shards.finished())
        try:
            results = map_in_order(
                partial(_read_piece, smiles=smiles, features=features, conformers=conformers),
                _pieces(tables, shards, piece_rows),
                engine=engine,
                n_workers=n_processes,
                address=address,
            )
            for number, pieces in groupby(results, key=lambda piece: piece.shard):
                reported = _report_progress(pieces, on_progress)
                shards.write(number, reported, _ROWS_IN_A_BATCH // piece_rows)
            account = _settle_account(shards, source, out, n_resumed)
            shards.finish(out)
        finally:
            if not shards.finished():
                partial_output.remove()
            if conformers is not None and _opened.cache_info().currsize:
                _opened(conformers).close()
                _opened.cache_clear()
    return account


def count_unfinished(out: Path) -> int:
    """Count the finished shards of an interrupted build of this store."""
    return len(list(partial_output_folder(out).glob("shard-*.json")))


@dataclass(frozen=True)
class _Piece:
    """Rows of the source for one worker, and the number of their shard."""

    shard: int
    table: Table


@dataclass(frozen=True)
class _ReadPiece:
    """Result of a worker for a piece.

    `lost` lists the rows that are not in the batch, and the `n_flat` rows that are in it without
    the requested geometry, or whose coordinates are not a geometry.
    """

    shard: int
    n_done: int
    n_rows: int
    n_flat: int
    batch: pa.RecordBatch
    lost: list[Rejected]
    notes: tuple[str, ...]
    share_read: float | None


@dataclass(frozen=True)
class _ShardAccount:
    """Summary of the rows of one shard, as stored in its JSON file."""

    n_rows: int
    n_written: int
    n_flat: int
    notes: list[str]
    lost: list[tuple[int, str, str]]


class _Shards:
    """The shards in a folder, each with a JSON file about its rows."""

    def __init__(self, partial_output: PartialOutput, features: FeatureVersion) -> None:
        self.folder, self.path = partial_output.folder, partial_output.path
        self.finished = partial_output.finished
        self._features: FeatureVersion = features

    def write(self, number: int, pieces: Iterable[_ReadPiece], n_in_a_batch: int) -> None:
        """Write a shard from an iterator of its pieces."""

        def batches() -> Iterator[pa.RecordBatch]:
            n_rows = n_written = n_flat = 0
            notes: dict[str, None] = {}
            lost: list[tuple[int, str, str]] = []
            remaining = iter(pieces)
            while group := list(islice(remaining, n_in_a_batch)):
                for piece in group:
                    n_rows += piece.n_rows
                    n_written += piece.batch.num_rows
                    n_flat += piece.n_flat
                    notes.update(dict.fromkeys(piece.notes))
                    lost += [(item.row, item.id, item.reason) for item in piece.lost]
                yield pa.concat_batches([piece.batch for piece in group])
            # Written before the shard gets its name, so that no shard is without this file.
            account = _ShardAccount(n_rows, n_written, n_flat, list(notes), lost)
            write_json(self.path(number).with_suffix(".json"), asdict(account))

        write_batches(batches(), self.path(number), features=self._features)

    def accounts(self) -> Iterator[_ShardAccount]:
        """Read the summaries of the finished shards, one at a time."""
        for path in self.finished():
            values = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
            values["lost"] = [tuple(item) for item in values["lost"]]
            yield _ShardAccount(**values)

    def finish(self, out: Path) -> None:
        """Make the store of all shards, atomically."""
        if out.suffix == ".arrow":
            merged = self.folder / "merged.arrow"
            batches = chain.from_iterable(map(read_batches, self.finished()))
            write_batches(batches, merged, features=self._features)
            merged.replace(out)
            shutil.rmtree(self.folder)
            return
        write_manifest(self.folder, self.finished(), features=self._features)
        self.folder.rename(out)
        for path in [*out.glob("shard-*.json"), out / "origin.json"]:
            path.unlink()


def _pieces(tables: Iterable[Table], shards: _Shards, n_rows: int) -> Iterator[_Piece]:
    """Divide the tables of the missing shards into pieces; there is one table for each shard."""
    before = 0.0
    for number, table in enumerate(tables):
        fraction, end = table.share_read, table.share_read
        if not shards.path(number).exists():
            for start in range(0, len(table), n_rows):
                piece = table.piece(start, start + n_rows)
                if end is not None:
                    fraction = before + (end - before) * (start + len(piece)) / len(table)
                yield _Piece(number, replace(piece, share_read=fraction))
        before = end or 0.0


def _read_piece(
    piece: _Piece,
    *,
    smiles: str | None,
    features: FeatureVersion,
    conformers: ConformerConfig | None,
) -> _ReadPiece:
    table = piece.table
    molecules: list[Molecule] = []
    lost: list[Rejected] = []
    n_flat = 0
    for row, item in enumerate(
        read_molecules(table, smiles=smiles, features=features), start=table.n_before + 1
    ):
        if isinstance(item, Rejected):
            lost.append(item)
            continue
        molecule = item
        if conformers is not None and item.n_conformers == 0:
            try:
                molecule = _opened(conformers).add_positions(item)
            except MoleculeError as error:
                reason = str(error).removeprefix(f"{item.id}: ")
                lost.append(Rejected(row, item.id, f"2D only: {reason}"))
                n_flat += 1
        elif item.geometry_note:
            lost.append(Rejected(row, item.id, f"2D only: {item.geometry_note}"))
            n_flat += 1
        molecules.append(molecule)
    return _ReadPiece(
        shard=piece.shard,
        n_done=table.n_before + len(table),
        n_rows=len(table),
        n_flat=n_flat,
        batch=pack(molecules, features),
        lost=lost,
        notes=table.notes,
        share_read=table.share_read,
    )


@lru_cache(maxsize=1)
def _opened(config: ConformerConfig) -> Conformers:
    """Open the conformers of this process, with one worker and one cache for all pieces."""
    return Conformers(config)


def _report_progress(
    pieces: Iterable[_ReadPiece], on_progress: Callable[[int, float | None], None] | None
) -> Iterator[_ReadPiece]:
    for piece in pieces:
        yield piece
        if on_progress is not None:
            on_progress(piece.n_done, piece.share_read)


def _settle_account(shards: _Shards, source: Path, out: Path, n_resumed: int) -> BuildAccount:
    """Add up the summaries of all shards and write `OUT.rejected.csv`.

    Raises:
        TableError: none of the rows could be read.
    """
    n_shards = n_rows = n_written = n_flat = 0
    notes: dict[str, None] = {}

    def lost() -> Iterator[pa.Table]:
        nonlocal n_shards, n_rows, n_written, n_flat
        for account in chain(shards.accounts(), [_ShardAccount(0, 0, 0, [], [])]):
            n_shards += account.n_rows > 0
            n_rows += account.n_rows
            n_written += account.n_written
            n_flat += account.n_flat
            notes.update(dict.fromkeys(account.notes))
            rows, ids, reasons = zip(*account.lost, strict=True) if account.lost else ((), (), ())
            yield pa.table(
                {
                    "row": pa.array(rows, pa.int64()),
                    "id": pa.array(ids, pa.string()),
                    "reason": pa.array(reasons, pa.string()),
                }
            )

    write_tables(lost(), _rejected_file(out), "row")
    if n_written == 0:  # raised before a store is written
        first = next((account.lost[0][2] for account in shards.accounts()), None)
        shutil.rmtree(shards.folder)
        reason = "" if first is None else f", first reason: {first}"
        raise TableError(f"none of the {n_rows} rows of {source} could be read{reason}")
    return BuildAccount(
        n_rows=n_rows,
        n_written=n_written,
        n_rejected=n_rows - n_written,
        n_flat=n_flat,
        n_shards=n_shards,
        n_resumed=n_resumed,
        notes=tuple(notes),
    )


def _check_out(source: Path, out: Path, shard_format: ShardFormat) -> None:
    """Check before the build that the store can be written."""
    if out.suffix not in ("", ".arrow"):
        raise TableError(
            f"{out}: the name of a store must end in .arrow, or have no ending for a folder of "
            "shards"
        )
    if shard_format == "parquet" and out.suffix:
        raise TableError(
            f"{out}: Parquet shards need a folder, whose name has no ending; a single file is Arrow"
        )
    if out.resolve() == source.resolve():
        raise TableError(f"{out}: the store would overwrite its source")
    if out.is_dir():
        raise TableError(f"{out}: there is already a folder with this name")
    check_outputs([out, _rejected_file(out)], [source])


def _rejected_file(out: Path) -> Path:
    """Return the file that lists the rows that are not in a store."""
    return out.with_name(f"{out.name}.rejected.csv")
