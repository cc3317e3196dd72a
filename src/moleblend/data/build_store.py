"""From a file of molecules to a store, shard by shard, with an account of every row.

While a build runs, its shards lie in a hidden folder beside the store that is to be,
`.OUT.parts/shard-00000.arrow` and so on, each with the account of its rows. A shard has its name
only when it is whole, so what a killed build leaves behind is as good as new.
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

from moleblend import __version__
from moleblend.chem.conformers import ConformerConfig, Conformers
from moleblend.chem.molecule import FeatureVersion, Molecule, MoleculeError
from moleblend.chem.parsing import RDKIT_VERSION
from moleblend.data.formats import read_pieces, write_tables
from moleblend.data.store import STORE_VERSION, pack, read_batches, write_batches, write_manifest
from moleblend.data.table import Rejected, Table, read_molecules
from moleblend.files import PartialOutput, alone_with, file_sha256, partial_output_folder, replacing
from moleblend.parallel import Engine, map_in_order

ShardFormat = Literal["arrow", "parquet"]

_ROWS_IN_A_BATCH = 1024
"""Rows of the source that make a record batch."""

_ROWS_IN_A_PIECE = 64
"""Rows that a worker gets at a time where they need conformers: few, so that all cores have some
and progress shows. Rows that are only read come in whole batches. Divides a batch."""


@dataclass(frozen=True)
class BuildAccount:
    """What became of every row; `OUT.rejected.csv` names the rows.

    Attributes:
        n_rows: rows of the source.
        n_written: molecules in the store.
        n_rejected: rows that are not in the store.
        n_flat: rows that are in the store without the geometry that was asked for.
        n_shards: shards the store was built in.
        n_resumed: those of them that an earlier build had left.
        notes: what the user should be told about the source, one sentence each.
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
    """Read a file of molecules into a store, in the memory that a few shards need.

    Beside the store stands `OUT.rejected.csv` (row, id, reason) with every row that is not in it,
    and those that are in it without the geometry that was asked for ("2D only: ..."). The store is
    a function of the source and of the first six arguments here, to the byte: neither the number
    of processes, nor the engine, nor how often the build was killed and resumed changes it (only
    conformers that just meet their time limit do).

    Args:
        source: what `tables.read_table` reads.
        out: the store: one file if the name ends in .arrow, else a folder of shards.
        features: the version of the features.
        conformers: which geometries to compute for molecules that come without; None leaves these
            in 2D.
        smiles: the SMILES column; left out, it is found by name.
        shard_rows: rows of the source in a shard, which is what a killed build loses at most.
        shard_format: parquet gives a folder for other tools, which `MoleculeStore` does not read.
        engine: what reads, see `engines.map_in_order`; this process alone reads and writes files.
        n_processes: left out, one for each core. With 1 all happens in this process.
        address: of a Ray cluster.
        resume: go on with the shards of a build that was stopped.
        on_progress: called now and then with the number of rows done (those of an earlier build
            too) and the share of the source that is read, if known.

    Raises:
        FileNotFoundError: there is no such source.
        ValueError: the source or none of its rows can be read, an argument is refused, `out` is
            there as a folder, another process is building it, or an unfinished build is there and
            `resume` false, or the reverse.
        ChildProcessError: a process died (no memory left, or a crash inside RDKit).
    """
    source, out = Path(source), Path(out)
    _check_out(source, out, shard_format)
    if shard_rows < 1:
        raise ValueError(f"a shard has at least one row, not {shard_rows}")
    tables = read_pieces(source, shard_rows)
    origin: dict[str, object] = {
        "moleblend": __version__,
        "store": STORE_VERSION,
        "rdkit": RDKIT_VERSION,
        "source": file_sha256(source),
        "features": features,
        "smiles": smiles,
        "shard_rows": shard_rows,
        "shard_format": shard_format,
    }
    if conformers is not None:
        wanted = {f"conformers.{name}": value for name, value in asdict(conformers).items()}
        del wanted["conformers.cache"]
        origin |= wanted
    parts = PartialOutput(out, shard_format, "build")
    shards = _Shards(parts, features)
    piece_rows = _ROWS_IN_A_BATCH if conformers is None else _ROWS_IN_A_PIECE
    with alone_with(out):
        parts.start_or_resume(origin, resume=resume)
        n_resumed = len(shards.finished())
        try:
            results = map_in_order(
                partial(_read_piece, smiles=smiles, features=features, conformers=conformers),
                _pieces(tables, shards, piece_rows),
                engine=engine,
                n_workers=n_processes,
                address=address,
            )
            for number, found in groupby(results, key=lambda piece: piece.shard):
                shards.write(number, _told(found, on_progress), _ROWS_IN_A_BATCH // piece_rows)
            account = _settle_account(shards, source, out, n_resumed)
            shards.finish(out)
        finally:
            if not shards.finished():
                parts.remove()
            if conformers is not None and _opened.cache_info().currsize:
                _opened(conformers).close()
                _opened.cache_clear()
    return account


def count_unfinished(out: Path) -> int:
    """Count the shards that a build of this store has left behind: resuming goes on with them."""
    return len(list(partial_output_folder(out).glob("shard-*.json")))


@dataclass(frozen=True)
class _Piece:
    """Rows of the source for one worker, and the number of the shard they belong to."""

    shard: int
    table: Table


@dataclass(frozen=True)
class _ReadPiece:
    """What a worker makes of a piece.

    `lost` has the rows that are not in the batch, or are in it without the geometry asked for (as
    many as `n_flat` says).
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
    """What became of the rows of one shard, as its JSON file says it."""

    n_rows: int
    n_written: int
    n_flat: int
    notes: list[str]
    lost: list[tuple[int, str, str]]


class _Shards:
    """The shards in a folder: each a part of the store, with its account in another file."""

    def __init__(self, parts: PartialOutput, features: FeatureVersion) -> None:
        self.folder, self.path, self.finished = parts.folder, parts.path, parts.finished
        self._features: FeatureVersion = features

    def write(self, number: int, found: Iterable[_ReadPiece], n_in_a_batch: int) -> None:
        """Write a shard as its pieces come."""

        def batches() -> Iterator[pa.RecordBatch]:
            n_rows = n_written = n_flat = 0
            notes: dict[str, None] = {}
            lost: list[tuple[int, str, str]] = []
            remaining = iter(found)
            while group := list(islice(remaining, n_in_a_batch)):
                for piece in group:
                    n_rows += piece.n_rows
                    n_written += piece.batch.num_rows
                    n_flat += piece.n_flat
                    notes.update(dict.fromkeys(piece.notes))
                    lost += [(item.row, item.id, item.reason) for item in piece.lost]
                yield pa.concat_batches([piece.batch for piece in group])
            # Before the shard gets its name, so that none is ever without its account.
            account = _ShardAccount(n_rows, n_written, n_flat, list(notes), lost)
            with replacing(self.path(number).with_suffix(".json")) as temporary:
                temporary.write_text(json.dumps(asdict(account)) + "\n", encoding="utf-8")

        write_batches(batches(), self.path(number), features=self._features)

    def accounts(self) -> Iterator[_ShardAccount]:
        """Read the accounts, one at a time."""
        for path in self.finished():
            told = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
            told["lost"] = [tuple(item) for item in told["lost"]]
            yield _ShardAccount(**told)

    def finish(self, out: Path) -> None:
        """Make the store of all shards, in one step that leaves it whole or not there."""
        if out.suffix == ".arrow":
            joined = self.folder / "joined.arrow"
            batches = chain.from_iterable(map(read_batches, self.finished()))
            write_batches(batches, joined, features=self._features)
            joined.replace(out)
            shutil.rmtree(self.folder)
            return
        write_manifest(self.folder, self.finished(), features=self._features)
        self.folder.rename(out)
        for path in [*out.glob("shard-*.json"), out / "origin.json"]:
            path.unlink()


def _pieces(tables: Iterable[Table], shards: _Shards, n_rows: int) -> Iterator[_Piece]:
    """Cut the tables, one for each shard, whose shards are missing."""
    before = 0.0
    for number, table in enumerate(tables):
        share, finished = table.share_read, table.share_read
        if not shards.path(number).exists():
            for start in range(0, len(table), n_rows):
                piece = table.piece(start, start + n_rows)
                if finished is not None:
                    share = before + (finished - before) * (start + len(piece)) / len(table)
                yield _Piece(number, replace(piece, share_read=share))
        before = finished or 0.0


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
    """The conformers of this process: one worker and one cache for all its pieces."""
    return Conformers(config)


def _told(
    pieces: Iterable[_ReadPiece], on_progress: Callable[[int, float | None], None] | None
) -> Iterator[_ReadPiece]:
    for piece in pieces:
        yield piece
        if on_progress is not None:
            on_progress(piece.n_done, piece.share_read)


def _settle_account(shards: _Shards, source: Path, out: Path, n_resumed: int) -> BuildAccount:
    """Add up the accounts of all shards and write the rows that were lost beside the store.

    Raises:
        ValueError: none of the rows could be read.
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

    write_tables(lost(), out.with_name(f"{out.name}.rejected.csv"))
    if n_written == 0:  # raised here, so that no store comes into being
        first = next((account.lost[0][2] for account in shards.accounts()), None)
        shutil.rmtree(shards.folder)
        reason = "" if first is None else f", first reason: {first}"
        raise ValueError(f"none of the {n_rows} rows of {source} could be read{reason}")
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
    """Refuse a store that cannot be written before the work is done, not after it."""
    if out.suffix not in ("", ".arrow"):
        raise ValueError(
            f"{out}: the name of a store ends in .arrow, or has no ending for a folder of shards"
        )
    if shard_format == "parquet" and out.suffix:
        raise ValueError(
            f"{out}: Parquet shards make a folder, whose name has no ending; one file is Arrow"
        )
    if out.resolve() == source.resolve():
        raise ValueError(f"{out}: the store would overwrite the file it is made from")
    if out.is_dir():
        raise ValueError(f"{out}: there is a folder of that name already")
