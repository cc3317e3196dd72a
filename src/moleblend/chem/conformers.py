"""Conformers of many molecules: within a time limit that holds, and never computed twice."""

import hashlib
import json
import os
import signal
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from moleblend.chem.geometry import TooSlowError, add_positions
from moleblend.chem.molecule import Molecule, MoleculeError
from moleblend.chem.parsing import RDKIT_VERSION
from moleblend.parallel import end_with_parent

Compute = Callable[..., Molecule]
"""What computes: `geometry.add_positions`, or in a test a function of the same arguments."""

_METHOD = "ETKDGv3, 200 steps of MMFF94 or UFF, 1"
"""Part of every key: to be changed when `add_positions` would give other geometries."""

_SECONDS_TO_START = 120.0
"""A process that has not loaded RDKit by then never will."""


@dataclass(frozen=True)
class ConformerConfig:
    """Which conformers are wanted.

    Attributes:
        n_conformers: geometries of each molecule, at least 1.
        seed: at least 0; the same for all molecules, so that a molecule has the same geometries
            wherever it stands.
        prune_rms: of geometries within this RMSD (Å) of each other one is kept; 0 keeps all.
        limit_s: seconds after which a molecule is given up.
        cache: folder of what was computed before; None remembers nothing.
    """

    n_conformers: int = 1
    seed: int = 0
    prune_rms: float = 0.0
    limit_s: float = 20.0
    cache: Path | None = None

    def __post_init__(self) -> None:
        """Refuse what no molecule could be computed with."""
        if self.n_conformers < 1 or self.seed < 0:
            raise ValueError(
                f"at least one conformer and a seed of at least 0 are needed, not "
                f"{self.n_conformers} and {self.seed}"
            )
        if not (self.prune_rms >= 0 and self.limit_s > 0):
            raise ValueError(
                f"the RMSD for pruning is at least 0 Å and the limit more than 0 s, not "
                f"{self.prune_rms} and {self.limit_s}"
            )


class _CrashError(MoleculeError):
    """RDKit crashed, or ran out of memory: not to be remembered, it may fare better elsewhere."""


class ConformerWorker:
    """A process of its own that computes conformers, one molecule at a time.

    It is killed and replaced when a molecule takes too long, wherever in RDKit that is, and
    replaced when RDKit crashes. It starts with the first molecule, and ends with this process.

    Args:
        config: what is wanted; its cache is not used here.
        compute: at the top level of a module.
    """

    def __init__(self, config: ConformerConfig, compute: Compute = add_positions) -> None:
        self._config = config
        self._compute = compute
        self._process = None
        self._connection: Connection | None = None

    def add_positions(self, molecule: Molecule) -> Molecule:
        """Compute the geometries of one molecule.

        Raises:
            TooSlowError: not in time; never later than the limit and the moment it takes to kill.
            MoleculeError: there are none, or RDKit crashed on this molecule.
            ChildProcessError: no process can be started.
        """
        connection = self._connection or self._start()
        config = self._config
        options = {
            "seed": config.seed,
            "n_conformers": config.n_conformers,
            "prune_rms": config.prune_rms,
            "limit_s": config.limit_s,
        }
        answer: Molecule | MoleculeError | None = None
        try:
            connection.send((molecule, options))
            if connection.poll(config.limit_s):
                answer = connection.recv()
            else:
                self.close()
        except (EOFError, ConnectionError):
            self.close()
            answer = _CrashError(f"{molecule.id}: RDKit crashed while it computed a geometry")
        if answer is None or isinstance(answer, TooSlowError):
            raise TooSlowError(f"{molecule.id}: no geometry within {config.limit_s:g} s")
        if isinstance(answer, MoleculeError):
            raise answer
        return answer

    def close(self) -> None:
        """Kill the process; the next molecule starts another."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process.close()
        if self._connection is not None:
            self._connection.close()
        self._process = self._connection = None

    def _start(self) -> Connection:
        context = get_context("spawn")
        self._connection, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, self._compute), daemon=True)
        process.start()
        self._process = process
        theirs.close()
        try:
            if not self._connection.poll(_SECONDS_TO_START):
                raise EOFError
            self._connection.recv()
        except (EOFError, ConnectionError) as error:
            self.close()
            raise ChildProcessError(
                "the process that computes conformers could not be started: out of memory, or a "
                "script without `if __name__ == '__main__':`"
            ) from error
        return self._connection


def _serve(connection: Connection, compute: Compute) -> None:
    """Answer for one molecule after the other until the other side is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks
    end_with_parent()
    connection.send("ready")
    while True:
        try:
            molecule, options = connection.recv()
            try:
                answer = compute(molecule, **options)
            except MoleculeError as error:
                answer = error
            connection.send(answer)
        except (EOFError, ConnectionError):
            return


class Conformers:
    """Conformers of one molecule after the other, from the cache or a `ConformerWorker`.

    Args:
        config: what is wanted.
        compute: as of `ConformerWorker`.
    """

    def __init__(self, config: ConformerConfig, compute: Compute = add_positions) -> None:
        self._config = config
        self._worker = ConformerWorker(config, compute)
        self._cache = None if config.cache is None else _Cache(config.cache)

    def add_positions(self, molecule: Molecule) -> Molecule:
        """Give the molecule its geometries.

        What was found before is not computed again, failures neither, unless it failed for lack of
        time and there is more of it now.

        Raises:
            MoleculeError: there are none, or not in time.
            ChildProcessError: no process can be started.
            OSError: the cache cannot be used.
        """
        if self._cache is None:
            return self._worker.add_positions(molecule)
        key = _key(molecule, self._config)
        kept = self._cache.get(key)
        if kept is None or (kept.limit_s is not None and kept.limit_s < self._config.limit_s):
            kept = self._compute(molecule)
            self._cache.put(key, kept)
        if kept.failure:
            raise MoleculeError(f"{molecule.id}: {kept.failure}")
        if kept.limit_s is not None:
            raise TooSlowError(f"{molecule.id}: no geometry within {self._config.limit_s:g} s")
        positions = np.frombuffer(kept.positions, "<f4").reshape(-1, molecule.n_atoms, 3)
        return replace(
            molecule,
            positions=positions,
            energies=np.frombuffer(kept.energies, "<f4") if kept.energies else None,
            force_field=kept.force_field,
        )

    def _compute(self, molecule: Molecule) -> "_Kept":
        try:
            found = self._worker.add_positions(molecule)
        except TooSlowError:
            return _Kept(limit_s=self._config.limit_s)
        except _CrashError:
            raise
        except MoleculeError as error:
            return _Kept(failure=str(error).removeprefix(f"{molecule.id}: "))
        energies = b"" if found.energies is None else found.energies.astype("<f4").tobytes()
        return _Kept(found.positions.astype("<f4").tobytes(), energies, found.force_field)

    def close(self) -> None:
        """Stop the process and close the cache."""
        self._worker.close()
        if self._cache is not None:
            self._cache.close()


def cache_folder() -> Path:
    """The user's folder for what can be computed anew."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "moleblend"


@dataclass(frozen=True)
class _Kept:
    """What came of one molecule: float32 geometries and energies, or why there are none.

    `limit_s` is the limit that was too short; None if it was not for lack of time.
    """

    positions: bytes = b""
    energies: bytes = b""
    force_field: str = ""
    failure: str = ""
    limit_s: float | None = None


class _Cache:
    """One SQLite file, into which several processes may write."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "conformers.sqlite"
        folder.mkdir(parents=True, exist_ok=True)
        try:
            self._file = sqlite3.connect(self._path, timeout=60, isolation_level=None)
            # What a crash of the machine takes from a cache is computed anew.
            self._file.execute("PRAGMA journal_mode = WAL")
            self._file.execute("PRAGMA synchronous = NORMAL")
            self._file.execute(
                "CREATE TABLE IF NOT EXISTS conformers (key BLOB PRIMARY KEY, positions BLOB, "
                "energies BLOB, force_field TEXT, failure TEXT, limit_s REAL)"
            )
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    def get(self, key: bytes) -> _Kept | None:
        """Give what is kept under a key."""
        try:
            found = self._file.execute(
                "SELECT positions, energies, force_field, failure, limit_s FROM conformers "
                "WHERE key = ?",
                (key,),
            ).fetchone()
        except sqlite3.Error as error:
            raise self._unusable(error) from error
        return None if found is None else _Kept(*found)

    def put(self, key: bytes, kept: _Kept) -> None:
        """Keep something, in place of what was kept under this key."""
        values = (key, kept.positions, kept.energies, kept.force_field, kept.failure, kept.limit_s)
        try:
            self._file.execute(
                "INSERT OR REPLACE INTO conformers VALUES (?, ?, ?, ?, ?, ?)", values
            )
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _unusable(self, error: sqlite3.Error) -> OSError:
        return OSError(f"{self._path}: the cache of conformers cannot be used ({error})")


def _key(molecule: Molecule, config: ConformerConfig) -> bytes:
    """Name what is computed: everything on which the geometries depend, and nothing else."""
    parts = [
        _METHOD,
        RDKIT_VERSION,
        molecule.features,
        molecule.smiles,
        config.n_conformers,
        config.seed,
        config.prune_rms,
    ]
    named = hashlib.sha256(json.dumps(parts).encode())
    named.update(molecule.atoms.tobytes())  # an `ogb-1` record need not be in its SMILES' order
    named.update(molecule.bonds.tobytes())
    return named.digest()
