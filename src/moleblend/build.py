"""From a file of molecules to a store, in several processes, with an account of every row."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from moleblend.chem import add_positions
from moleblend.molecule import FeatureVersion, Molecule, MoleculeError
from moleblend.processes import in_order
from moleblend.store import write_store
from moleblend.tables import Rejected, Table, read_molecules, read_pieces, write_table

_ROWS_IN_A_PIECE = 64
"""So few that progress shows when rows need conformers, so many that sending costs little."""


@dataclass(frozen=True)
class BuildAccount:
    """What became of every row.

    Attributes:
        n_rows: rows of the source.
        n_written: molecules in the store.
        rejected: rows that are not in the store, and why.
        flat: rows that are in the store without the geometry that was asked for, and why.
        notes: what the user should be told about the source, one sentence each.
    """

    n_rows: int
    n_written: int
    rejected: tuple[Rejected, ...]
    flat: tuple[Rejected, ...]
    notes: tuple[str, ...]


def build_store(
    source: str | Path,
    out: str | Path,
    *,
    features: FeatureVersion = "cip-1",
    n_processes: int | None = None,
    n_conformers: int = 0,
    seed: int = 0,
    smiles: str | None = None,
    limit_s: float = 20.0,
    on_progress: Callable[[int, int], None] | None = None,
) -> BuildAccount:
    """Read a file of molecules into a store.

    Beside the store stands `OUT.rejected.csv` (row, id, reason) with every row that is not in it,
    and those that are in it without the geometry that was asked for ("2D only: ..."). The result
    depends neither on the number of processes nor on their speed, except where the search for
    conformers meets its time limit.

    Args:
        source: what `tables.read_table` reads.
        out: the store; its name ends in .arrow.
        features: the version of the features.
        n_processes: left out, one for each core. With 1 all happens in this process; more are
            spawned, so a script that calls this needs `if __name__ == "__main__":`.
        n_conformers: geometries to compute for each molecule that comes without; 0 leaves it in 2D.
        seed: of the conformers; every row has its own, derived from this one.
        smiles: the SMILES column; left out, it is found by name.
        limit_s: seconds after which the conformers of one molecule are given up.
        on_progress: called now and then with the number of rows done and of all rows.

    Raises:
        FileNotFoundError: there is no such source.
        ValueError: the source or none of its rows can be read, or an argument is refused.
        ChildProcessError: a process died (no memory left, or a crash inside RDKit).
    """
    source, out = Path(source), Path(out)
    if out.suffix != ".arrow":
        raise ValueError(f"{out}: the name of a store ends in .arrow")
    if out.resolve() == source.resolve():
        raise ValueError(f"{out}: the store would overwrite the file it is made from")
    if n_processes is not None and n_processes < 1:
        raise ValueError(f"at least one process is needed to read molecules, not {n_processes}")
    read = partial(
        _read_piece,
        smiles=smiles,
        features=features,
        n_conformers=n_conformers,
        seed=seed,
        limit_s=limit_s,
    )
    n_rows, pieces = read_pieces(source, _ROWS_IN_A_PIECE)
    n_pieces = -(-n_rows // _ROWS_IN_A_PIECE)
    read_pieces_in_order = in_order(read, pieces, min(n_processes or os.cpu_count() or 1, n_pieces))
    rejected: list[Rejected] = []
    flat: list[Rejected] = []
    notes: dict[str, None] = {}

    def molecules() -> Iterator[Molecule]:
        n_done = 0
        for piece in read_pieces_in_order:
            rejected.extend(item for item in piece.rows if isinstance(item, Rejected))
            flat.extend(piece.flat)
            notes.update(dict.fromkeys(piece.notes))
            yield from (item for item in piece.rows if isinstance(item, Molecule))
            n_done += len(piece.rows)
            if on_progress:
                on_progress(n_done, n_rows)
        _write_account(rejected + flat, out.with_name(f"{out.name}.rejected.csv"))
        if len(rejected) == n_rows:  # raised here, so that no store comes into being
            reason = f", first reason: {rejected[0].reason}" if rejected else ""
            raise ValueError(f"none of the {n_rows} rows of {source} could be read{reason}")

    n_written = write_store(molecules(), out, features=features)
    return BuildAccount(n_rows, n_written, tuple(rejected), tuple(flat), tuple(notes))


@dataclass(frozen=True)
class _ReadPiece:
    """What a process makes of a piece: an item for each row, and the notes on them."""

    rows: list[Molecule | Rejected]
    flat: list[Rejected]
    notes: tuple[str, ...]


def _read_piece(
    piece: Table,
    *,
    smiles: str | None,
    features: FeatureVersion,
    n_conformers: int,
    seed: int,
    limit_s: float,
) -> _ReadPiece:
    rows: list[Molecule | Rejected] = []
    flat: list[Rejected] = []
    for row, item in enumerate(
        read_molecules(piece, smiles=smiles, features=features), start=piece.n_before + 1
    ):
        rows.append(item)
        if n_conformers == 0 or isinstance(item, Rejected) or item.n_conformers > 0:
            continue
        # Neighbouring rows of neighbouring seeds must not share conformers, as seed + row would.
        own_seed = int(np.random.SeedSequence((seed, row)).generate_state(1)[0] >> 1)
        try:
            rows[-1] = add_positions(
                item, seed=own_seed, n_conformers=n_conformers, limit_s=limit_s
            )
        except MoleculeError as error:
            reason = str(error).removeprefix(f"{item.id}: ")
            flat.append(Rejected(row, item.id, f"2D only: {reason}"))
    return _ReadPiece(rows, flat, piece.notes)


def _write_account(rows: list[Rejected], path: Path) -> None:
    rows = sorted(rows, key=lambda rejected: rejected.row)
    columns = {
        "row": pa.array([rejected.row for rejected in rows], pa.int64()),
        "id": pa.array([rejected.id for rejected in rows], pa.string()),
        "reason": pa.array([rejected.reason for rejected in rows], pa.string()),
    }
    write_table(pa.table(columns), path)
