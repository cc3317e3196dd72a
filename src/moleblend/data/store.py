"""Stores: many molecules in memory-mapped Arrow files, read without a copy.

A store is one Arrow IPC file, or a folder of such files (shards) with a `store.json` that lists
them.
"""

import hashlib
import json
import operator
import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, SupportsIndex, cast, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int64

from moleblend.chem.molecule import FeatureVersion, Molecule
from moleblend.errors import MissingFileError, TableError
from moleblend.files import replacing, write_json

STORE_VERSION = "2"
_FORMAT = "moleblend-store"
_MANIFEST = "store.json"

# Lists are flat, since shapes follow from the number of atoms. Large lists have no limit per batch.
_ARRAYS = {
    "atoms": np.dtype(np.uint8),
    "bonds": np.dtype(np.int32),
    "bond_features": np.dtype(np.uint8),
    "positions": np.dtype(np.float32),
    "energies": np.dtype(np.float32),
    "source_atoms": np.dtype(np.int32),
}
_TEXTS = ("id", "smiles", "force_field")


def write_store(
    molecules: Iterable[Molecule],
    path: str | Path,
    *,
    features: FeatureVersion,
    batch_size: int = 1024,
) -> int:
    """Write molecules to a store atomically, with one batch of them in memory.

    Args:
        molecules: any number of molecules, including none.
        path: the file to write; an existing file is replaced when the new one is complete.
        features: the feature version of all molecules.
        batch_size: molecules in a record batch; the content and the fingerprint do not depend on
            it.

    Returns:
        The number of molecules written.

    Raises:
        TableError: a molecule has another feature version, or `batch_size` is below 1.
    """
    if batch_size < 1:
        raise TableError(f"got batch_size={batch_size}, expected at least 1")
    remaining = iter(molecules)
    groups = iter(lambda: list(islice(remaining, batch_size)), [])
    return write_batches((pack(group, features) for group in groups), path, features=features)


def pack(molecules: Sequence[Molecule], features: FeatureVersion) -> pa.RecordBatch:
    """Convert molecules to a record batch of a store.

    Raises:
        TableError: a molecule has another feature version.
    """
    for molecule in molecules:
        if molecule.features != features:
            raise TableError(
                f"{molecule.id}: got features {molecule.features}, but the store has {features}"
            )
    columns: list[pa.Array] = [
        _ragged([getattr(molecule, name) for molecule in molecules], kind)
        for name, kind in _ARRAYS.items()
    ]
    for name in _TEXTS:
        texts = [getattr(molecule, name) for molecule in molecules]
        columns += [pa.array(texts, pa.large_string())]
    return pa.record_batch(columns, schema=_schema(features))


def write_batches(
    batches: Iterable[pa.RecordBatch], path: str | Path, *, features: FeatureVersion
) -> int:
    """Write record batches of `pack` to a store atomically.

    Args:
        batches: any number; empty batches are skipped.
        path: the file. The ending .parquet writes an export for other tools with the same columns,
            which `MoleculeStore` does not read.
        features: the feature version.

    Returns:
        The number of molecules written.
    """
    path, schema = Path(path), _schema(features)
    n_written, content = 0, _Content(features)
    with replacing(path) as temporary:
        if path.suffix == ".parquet":
            with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
                for batch in batches:
                    if batch.num_rows:
                        writer.write_batch(batch)
                        n_written += batch.num_rows
            return n_written
        with (
            pa.OSFile(str(temporary), "wb") as sink,
            pa.ipc.new_file(sink, schema) as writer,
        ):
            for batch in batches:
                if batch.num_rows:
                    content.add(batch)
                    writer.write_batch(batch)
                    n_written += batch.num_rows
            # The hash is known too late for the schema, so it is in the metadata of an empty batch.
            writer.write_batch(pack([], features), {"sha256": content.hexdigest()})
    return n_written


def read_batches(path: Path) -> Iterator[pa.RecordBatch]:
    """Read the record batches of a file of `write_batches`, with one in memory at a time.

    Raises:
        TableError: the file is truncated, not a store, or a store of another version.
    """
    try:
        if path.suffix == ".parquet":
            with pq.ParquetFile(path) as file:
                _check(path, file.schema_arrow)
                yield from file.iter_batches(1024)
            return
        # Not memory-mapped, because a mapped file counts as memory of this process.
        with pa.OSFile(str(path)) as source, pa.ipc.open_file(source) as reader:
            _check(path, reader.schema)
            for index in range(reader.num_record_batches):
                if (batch := reader.get_batch(index)).num_rows:
                    yield batch
    except (pa.ArrowInvalid, OSError) as error:
        raise _unreadable(path) from error


@dataclass(frozen=True)
class _Manifest:
    """Content of `store.json` in a folder of shards.

    Attributes:
        format: a constant.
        version: version of the schema.
        features: the feature version of all molecules.
        shards: names of the files, in the order of the molecules.
        n_molecules: number of molecules in all shards.
        fingerprint: as for a store of one file.
    """

    format: str
    version: str
    features: str
    shards: tuple[str, ...]
    n_molecules: int
    fingerprint: str


def write_manifest(folder: Path, shards: Sequence[Path], *, features: FeatureVersion) -> None:
    """Make the shards in a folder a store; they are read once for the fingerprint."""
    content, n_molecules = _Content(features), 0
    for shard in shards:
        for batch in read_batches(shard):
            content.add(batch)
            n_molecules += batch.num_rows
    manifest = _Manifest(
        format=_FORMAT,
        version=STORE_VERSION,
        features=features,
        shards=tuple(shard.name for shard in shards),
        n_molecules=n_molecules,
        fingerprint=content.hexdigest(),
    )
    write_json(folder / _MANIFEST, asdict(manifest), indent=1)


class MoleculeStore:
    """The molecules of a store, read without a copy.

    `store[i]` returns a `Molecule` whose arrays are read-only views of the memory-mapped file. A
    store can be pickled; other processes map the file again.

    Attributes:
        path: the file, or the folder of shards.
        features: the feature version of the molecules.
        fingerprint: SHA-256 of the feature version and all molecules in order, computed while
            writing. It does not depend on the division into batches and shards.

    Raises:
        MissingFileError: there is no such file, or a shard is missing.
        TableError: the store is truncated, not a store, or of another version; or, while molecules
            are read, the size of a file has changed since it was opened.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).resolve()
        self._chunks: list[_Chunk] = []
        if self.path.is_dir():
            manifest = _read_manifest(self.path)
            self.features = _known(self.path, manifest.version, manifest.features)
            for shard in manifest.shards:
                self._add_file(self.path / shard)
            self.fingerprint = manifest.fingerprint
        elif self.path.is_file():
            self.features, self.fingerprint = self._add_file(self.path)
        else:
            raise MissingFileError(f"{path}: no such store")
        ends = np.cumsum([len(chunk) for chunk in self._chunks], dtype=np.int64).tolist()
        self._starts = [0, *ends[:-1]]
        self._n_molecules = ends[-1] if ends else 0
        if self.path.is_dir() and self._n_molecules != manifest.n_molecules:
            raise TableError(
                f"{self.path}: the shards have {self._n_molecules} molecules, but {_MANIFEST} "
                f"says {manifest.n_molecules}"
            )

    def _add_file(self, path: Path) -> tuple[FeatureVersion, str]:
        """Map one file; return its feature version and fingerprint."""
        try:
            reader = pa.ipc.open_file(pa.memory_map(str(path)))
        except FileNotFoundError as error:
            raise MissingFileError(f"{path}: this shard of the store is missing") from error
        except (pa.ArrowInvalid, OSError) as error:
            raise _unreadable(path) from error
        features = _check(path, reader.schema)
        if reader.num_record_batches == 0:
            raise _unreadable(path)
        *batches, last = range(reader.num_record_batches)
        metadata = reader.get_batch_with_custom_metadata(last).custom_metadata
        if metadata is None or b"sha256" not in metadata:
            raise _unreadable(path)
        opened = path.stat()
        self._chunks += [
            _Chunk(path, opened, reader.get_batch(index), features) for index in batches
        ]
        return features, metadata[b"sha256"].decode()

    def __len__(self) -> int:
        return self._n_molecules

    def __getitem__(self, index: SupportsIndex) -> Molecule:
        number = operator.index(index)
        if not -self._n_molecules <= number < self._n_molecules:
            raise IndexError(
                f"{self.path}: got index {number}, but there are {self._n_molecules} molecules"
            )
        number %= self._n_molecules
        chunk = bisect_right(self._starts, number) - 1
        return self._chunks[chunk].molecule(number - self._starts[chunk])

    def n_atoms(self) -> Int64[np.ndarray, " m"]:
        """Return the number of atoms of every molecule, without reading the molecules."""
        sizes = [chunk.n_atoms() for chunk in self._chunks]
        return np.concatenate([np.zeros(0, np.int64), *sizes])

    def __iter__(self) -> Iterator[Molecule]:
        return (self[index] for index in range(len(self)))

    def __reduce__(self) -> tuple[type["MoleculeStore"], tuple[Path]]:
        return MoleculeStore, (self.path,)


class _Chunk:
    """Numpy views of one record batch."""

    def __init__(
        self, path: Path, opened: os.stat_result, batch: pa.RecordBatch, features: FeatureVersion
    ) -> None:
        self._path, self._opened = path, opened
        self._features = features
        self._n_rows = batch.num_rows
        self._arrays = []
        for name in _ARRAYS:
            column = batch.column(name)
            values = column.values.to_numpy(zero_copy_only=True)
            self._arrays.append((memoryview(column.offsets.to_numpy(zero_copy_only=True)), values))
        self._texts = []
        for name in _TEXTS:
            _, offsets, letters = batch.column(name).buffers()
            self._texts.append((memoryview(offsets).cast("q"), memoryview(letters or b"")))

    def __len__(self) -> int:
        return self._n_rows

    def n_atoms(self) -> Int64[np.ndarray, " m"]:
        """Return the number of atoms of every molecule: each atom has one source atom."""
        ends, _ = self._arrays[tuple(_ARRAYS).index("source_atoms")]
        return np.diff(np.asarray(ends))

    def molecule(self, row: int) -> Molecule:
        """Return the molecule of one row.

        Raises:
            TableError: the size of the file has changed since it was opened. Reading a truncated
                mapped file would kill the process without a message.
        """
        try:
            now = self._path.stat()
        except FileNotFoundError:
            now = self._opened
        # The mapping of a file that was removed or replaced remains valid.
        if now.st_ino == self._opened.st_ino and now.st_size != self._opened.st_size:
            raise TableError(
                f"{self._path}: the file had {self._opened.st_size:,} bytes when it was opened, "
                f"and has {now.st_size:,} now"
            )
        atoms, bonds, bond_features, positions, energies, source_atoms = (
            values[ends[row] : ends[row + 1]] for ends, values in self._arrays
        )
        id, smiles, force_field = (
            str(text[ends[row] : ends[row + 1]], "utf-8") for ends, text in self._texts
        )
        return Molecule(
            atoms=atoms.reshape(-1, 9),
            bonds=bonds.reshape(-1, 2),
            bond_features=bond_features.reshape(-1, 3),
            positions=positions.reshape(-1, len(source_atoms), 3),
            id=id,
            smiles=smiles,
            source_atoms=source_atoms,
            features=self._features,
            energies=energies if len(energies) else None,
            force_field=force_field,
        )


class _Content:
    """SHA-256 of molecules in order, independent of their division into batches.

    Each column has two hashes, one of its values and one of their number per molecule, so that
    different lists of molecules never give the same bytes.
    """

    def __init__(self, features: FeatureVersion) -> None:
        self._features = features
        self._columns = [(name, hashlib.sha256(), hashlib.sha256()) for name in (*_ARRAYS, *_TEXTS)]

    def add(self, batch: pa.RecordBatch) -> None:
        """Add the molecules of a batch that is not empty."""
        for name, sizes, values in self._columns:
            column = batch.column(name)
            if name in _TEXTS:
                _, offsets, letters = column.buffers()
                ends = np.frombuffer(offsets, np.int64)[column.offset :][: len(column) + 1]
                flat = np.frombuffer(letters or b"", np.uint8)
            else:
                ends, flat = column.offsets.to_numpy(), column.values.to_numpy()
            sizes.update(np.diff(ends).astype("<i8").tobytes())
            values.update(flat[ends[0] : ends[-1]].tobytes())

    def hexdigest(self) -> str:
        """Return the hash of all molecules added so far."""
        digest = hashlib.sha256(self._features.encode())
        for _, sizes, values in self._columns:
            digest.update(sizes.digest() + values.digest())
        return digest.hexdigest()


def _schema(features: FeatureVersion) -> pa.Schema:
    fields = [(name, pa.large_list(pa.from_numpy_dtype(kind))) for name, kind in _ARRAYS.items()]
    fields += [(name, pa.large_string()) for name in _TEXTS]
    metadata = {"format": _FORMAT, "version": STORE_VERSION, "features": features}
    return pa.schema(fields, metadata)


def _check(path: Path, schema: pa.Schema) -> FeatureVersion:
    """Check that a schema is that of a store and return its feature version."""
    metadata = {key.decode(): value.decode() for key, value in (schema.metadata or {}).items()}
    if metadata.get("format") != _FORMAT:
        raise _unreadable(path)
    return _known(path, metadata.get("version", "none"), metadata.get("features", "none"))


def _known(path: Path, version: str, features: str) -> FeatureVersion:
    """Check the versions of a store and return its feature version."""
    if version != STORE_VERSION:
        raise TableError(
            f"{path}: got store version {version}, expected {STORE_VERSION}; build the store again"
        )
    if features not in get_args(FeatureVersion):
        raise TableError(
            f"{path}: got a store with features {features!r}, expected "
            f"{' or '.join(get_args(FeatureVersion))}; build the store again"
        )
    return cast(FeatureVersion, features)


def _read_manifest(folder: Path) -> _Manifest:
    try:
        values: dict[str, Any] = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        shards = tuple(map(str, values.pop("shards")))
        manifest = _Manifest(shards=shards, **values)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise TableError(
            f"{folder}: not a folder of shards: {_MANIFEST} is missing or damaged"
        ) from error
    if any(name.endswith(".parquet") for name in manifest.shards):
        raise TableError(
            f"{folder}: its shards are Parquet, an export for other tools; expected Arrow shards"
        )
    return manifest


def _unreadable(path: Path) -> ValueError:
    return TableError(f"{path}: the file is truncated or not a moleblend store")


def _ragged(arrays: list[np.ndarray | None], kind: np.dtype) -> pa.LargeListArray:
    """Convert arrays of any size to one column of flat lists; None is an empty list."""
    ends = np.cumsum([0, *(0 if array is None else array.size for array in arrays)], dtype=np.int64)
    flat = (array.ravel() for array in arrays if array is not None)
    values = np.concatenate([np.empty(0, kind), *flat])
    return pa.LargeListArray.from_arrays(ends, values)
