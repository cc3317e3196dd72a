"""Conformers of many molecules, with a strict time limit and a cache."""

import hashlib
import json
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
from moleblend.config import check_fields, check_finite
from moleblend.errors import SettingError, WorkerError
from moleblend.parallel import end_with_parent

Compute = Callable[..., Molecule]
"""`geometry.add_positions`, or a function with the same arguments in a test."""

_METHOD = "ETKDGv3, 200 steps of MMFF94 or UFF, 1"
"""Included in every cache key; must change if `add_positions` gives different geometries."""

_SECONDS_TO_START = 120.0
"""Time limit for a process to start and to load RDKit."""


@dataclass(frozen=True)
class ConformerConfig:
    """Settings for computing conformers.

    Attributes:
        n_conformers: geometries of each molecule, at least 1.
        seed: at least 0; the same for all molecules, so that the geometries of a molecule do not
            depend on its row.
        prune_rms: only one of several geometries within this RMSD (Å) is kept; 0 keeps all.
        limit_s: time limit for each molecule, in seconds.
        cache: folder of previously computed conformers; None uses no cache.
    """

    n_conformers: int = 1
    seed: int = 0
    prune_rms: float = 0.0
    limit_s: float = 20.0
    cache: Path | None = None

    def __post_init__(self) -> None:
        """Check that the values are in range."""
        check_fields(self)
        if self.n_conformers < 1 or self.seed < 0:
            raise SettingError(
                f"got n_conformers={self.n_conformers} and seed={self.seed}, expected at least 1 "
                "and at least 0"
            )
        if not (self.prune_rms >= 0 and self.limit_s > 0):
            raise SettingError(
                f"got prune_rms={self.prune_rms} and limit_s={self.limit_s}, expected at least "
                "0 Å and more than 0 s"
            )
        check_finite(self)


class _CrashError(MoleculeError):
    """RDKit crashed or ran out of memory. Not cached, because it may work on another machine."""


class ConformerWorker:
    """A separate process that computes conformers, one molecule at a time.

    The process is killed and replaced if a molecule exceeds the time limit, and replaced if RDKit
    crashes. It starts with the first molecule and ends with the parent process.

    Args:
        config: the settings; its cache is not used here.
        compute: a function at the top level of a module.
    """

    def __init__(self, config: ConformerConfig, compute: Compute = add_positions) -> None:
        self._config = config
        self._compute = compute
        self._process = None
        self._connection: Connection | None = None

    def add_positions(self, molecule: Molecule) -> Molecule:
        """Compute the geometries of one molecule.

        Raises:
            TooSlowError: the time limit was exceeded.
            MoleculeError: no geometry was found, or RDKit crashed on this molecule.
            WorkerError: the process could not be started.
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
        """Kill the process; the next molecule starts a new one."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process.close()
        if self._connection is not None:
            self._connection.close()
        self._process = self._connection = None

    def _start(self) -> Connection:
        context = get_context("spawn")
        self._connection, child_connection = context.Pipe()
        process = context.Process(
            target=_serve, args=(child_connection, self._compute), daemon=True
        )
        process.start()
        self._process = process
        child_connection.close()
        try:
            if not self._connection.poll(_SECONDS_TO_START):
                raise EOFError
            self._connection.recv()
        except (EOFError, ConnectionError) as error:
            self.close()
            raise WorkerError(
                "could not start the process that computes conformers: out of memory, or a script "
                "without `if __name__ == '__main__':`"
            ) from error
        return self._connection


def _serve(connection: Connection, compute: Compute) -> None:
    """Compute one molecule after the other until the parent closes the connection."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
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
    """Conformers of molecules, from the cache or a `ConformerWorker`.

    Args:
        config: the settings.
        compute: as for `ConformerWorker`.
    """

    def __init__(self, config: ConformerConfig, compute: Compute = add_positions) -> None:
        self._config = config
        self._worker = ConformerWorker(config, compute)
        self._cache = None if config.cache is None else _Cache(config.cache)

    def add_positions(self, molecule: Molecule) -> Molecule:
        """Add geometries to a molecule.

        Cached results and cached failures are not computed again. The exception is a failure by
        the time limit if the limit is longer now.

        Raises:
            MoleculeError: no geometry was found, or not within the time limit.
            WorkerError: the process could not be started.
            OSError: the cache cannot be used.
        """
        if self._cache is None:
            return self._worker.add_positions(molecule)
        key = _key(molecule, self._config)
        entry = self._cache.get(key)
        if entry is None or (entry.limit_s is not None and entry.limit_s < self._config.limit_s):
            entry = self._compute(molecule)
            self._cache.put(key, entry)
        if entry.failure:
            raise MoleculeError(f"{molecule.id}: {entry.failure}")
        if entry.limit_s is not None:
            raise TooSlowError(f"{molecule.id}: no geometry within {self._config.limit_s:g} s")
        positions = np.frombuffer(entry.positions, "<f4").reshape(-1, molecule.n_atoms, 3)
        return replace(
            molecule,
            positions=positions,
            energies=np.frombuffer(entry.energies, "<f4") if entry.energies else None,
            force_field=entry.force_field,
        )

    def _compute(self, molecule: Molecule) -> "_CacheEntry":
        try:
            computed = self._worker.add_positions(molecule)
        except TooSlowError:
            return _CacheEntry(limit_s=self._config.limit_s)
        except _CrashError:
            raise
        except MoleculeError as error:
            return _CacheEntry(failure=str(error).removeprefix(f"{molecule.id}: "))
        energies = b"" if computed.energies is None else computed.energies.astype("<f4").tobytes()
        positions = computed.positions.astype("<f4").tobytes()
        return _CacheEntry(positions, energies, computed.force_field)

    def close(self) -> None:
        """Stop the process and close the cache."""
        self._worker.close()
        if self._cache is not None:
            self._cache.close()


@dataclass(frozen=True)
class _CacheEntry:
    """Result for one molecule: float32 geometries and energies, or the reason of the failure.

    `limit_s` is the time limit that was exceeded; None otherwise.
    """

    positions: bytes = b""
    energies: bytes = b""
    force_field: str = ""
    failure: str = ""
    limit_s: float | None = None


class _Cache:
    """A SQLite file that several processes may write to."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "conformers.sqlite"
        folder.mkdir(parents=True, exist_ok=True)
        try:
            self._file = sqlite3.connect(self._path, timeout=60, isolation_level=None)
            # Entries that are lost when the machine crashes are computed again.
            self._file.execute("PRAGMA journal_mode = WAL")
            self._file.execute("PRAGMA synchronous = NORMAL")
            self._file.execute(
                "CREATE TABLE IF NOT EXISTS conformers (key BLOB PRIMARY KEY, positions BLOB, "
                "energies BLOB, force_field TEXT, failure TEXT, limit_s REAL)"
            )
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    def get(self, key: bytes) -> _CacheEntry | None:
        """Return the entry of a key; None if there is none."""
        try:
            row = self._file.execute(
                "SELECT positions, energies, force_field, failure, limit_s FROM conformers "
                "WHERE key = ?",
                (key,),
            ).fetchone()
        except sqlite3.Error as error:
            raise self._unusable(error) from error
        return None if row is None else _CacheEntry(*row)

    def put(self, key: bytes, entry: _CacheEntry) -> None:
        """Store an entry; an existing one is replaced."""
        values = (
            *(key, entry.positions, entry.energies),
            *(entry.force_field, entry.failure, entry.limit_s),
        )
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
        return OSError(f"{self._path}: the conformer cache cannot be used ({error})")


def _key(molecule: Molecule, config: ConformerConfig) -> bytes:
    """Hash everything that the geometries depend on, and nothing else."""
    values = [
        _METHOD,
        RDKIT_VERSION,
        molecule.features,
        molecule.smiles,
        config.n_conformers,
        config.seed,
        config.prune_rms,
    ]
    digest = hashlib.sha256(json.dumps(values).encode())
    digest.update(molecule.atoms.tobytes())  # an `ogb-1` record may differ from its SMILES' order
    digest.update(molecule.bonds.tobytes())
    return digest.digest()
