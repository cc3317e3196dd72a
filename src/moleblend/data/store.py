"""Many molecules in memory-mapped Arrow files, each read as views of its file.

A store is one Arrow IPC file, or a folder of such files (shards) with a `store.json` that says what
belongs to it.
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
from moleblend.files import replacing

STORE_VERSION = "2"
_FORMAT = "moleblend-store"
_MANIFEST = "store.json"

# Flat lists: the shapes follow from the number of atoms. Large ones: no limit on values in a batch.
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
    """Write molecules to a store, whole or not at all; only one batch of them is in memory.

    Args:
        molecules: any number, none too.
        path: the file to write; one of that name is replaced when the new one is whole.
        features: the feature version, the same for all molecules.
        batch_size: molecules in a record batch; changes neither what is read nor the fingerprint.

    Returns:
        The number of molecules written.

    Raises:
        ValueError: a molecule has another feature version, or `batch_size` is below 1.
    """
    if batch_size < 1:
        raise ValueError(f"a batch has at least one molecule, not {batch_size}")
    remaining = iter(molecules)
    groups = iter(lambda: list(islice(remaining, batch_size)), [])
    return write_batches((pack(group, features) for group in groups), path, features=features)


def pack(molecules: Sequence[Molecule], features: FeatureVersion) -> pa.RecordBatch:
    """Put molecules into a record batch of a store.

    Raises:
        ValueError: a molecule has another feature version.
    """
    for molecule in molecules:
        if molecule.features != features:
            raise ValueError(
                f"{molecule.id}: its features are {molecule.features}, "
                f"those of the store {features}"
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
    """Write record batches of `pack` to a store, whole or not at all, one after the other.

    Args:
        batches: any number; empty ones are left out.
        path: the file. With the ending .parquet it is an export for other tools, with the same
            columns, which `MoleculeStore` does not read.
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
            # The hash is known only now, too late for the schema: an empty batch carries it.
            writer.write_batch(pack([], features), {"sha256": content.hexdigest()})
    return n_written


def read_batches(path: Path) -> Iterator[pa.RecordBatch]:
    """Read the record batches of a file of `write_batches`, one in memory at a time.

    Raises:
        ValueError: it is truncated, not a store, or one of another version.
    """
    try:
        if path.suffix == ".parquet":
            with pq.ParquetFile(path) as file:
                _check(path, file.schema_arrow)
                yield from file.iter_batches(1024)
            return
        # Read, not mapped: a mapped file counts as memory of this process.
        with pa.OSFile(str(path)) as source, pa.ipc.open_file(source) as reader:
            _check(path, reader.schema)
            for index in range(reader.num_record_batches):
                if (batch := reader.get_batch(index)).num_rows:
                    yield batch
    except (pa.ArrowInvalid, OSError) as error:
        raise _unreadable(path) from error


@dataclass(frozen=True)
class _Manifest:
    """What `store.json` says about a folder of shards.

    Attributes:
        format: always the same.
        version: of the schema.
        features: the feature version of all molecules.
        shards: names of the files, in the order of the molecules.
        n_molecules: in all of them.
        fingerprint: as of a store that is one file.
    """

    format: str
    version: str
    features: str
    shards: tuple[str, ...]
    n_molecules: int
    fingerprint: str


def write_manifest(folder: Path, shards: Sequence[Path], *, features: FeatureVersion) -> None:
    """Make a store of the files in a folder, which are read through once for the fingerprint."""
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
    with replacing(folder / _MANIFEST) as temporary:
        temporary.write_text(json.dumps(asdict(manifest), indent=1) + "\n", encoding="utf-8")


class MoleculeStore:
    """The molecules of a store, read without a copy.

    `store[i]` gives a `Molecule` whose arrays are read-only views of the memory-mapped file. A
    store can be sent to other processes: they map the file anew.

    Attributes:
        path: the file, or the folder of shards.
        features: the feature version of its molecules.
        fingerprint: SHA-256 over the feature version and all molecules in order, computed while
            writing. Stores with the same molecules have the same one, in whatever batches and
            shards.

    Raises:
        FileNotFoundError: there is no such file, or a shard is gone.
        ValueError: it is truncated, not a store, or one of another version; or, while molecules
            are read, a file has another size than when it was opened.
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
            raise FileNotFoundError(f"{path}: there is no such store")
        ends = np.cumsum([len(chunk) for chunk in self._chunks], dtype=np.int64).tolist()
        self._starts = [0, *ends[:-1]]
        self._n_molecules = ends[-1] if ends else 0
        if self.path.is_dir() and self._n_molecules != manifest.n_molecules:
            raise ValueError(
                f"{self.path}: {self._n_molecules} molecules in the shards, but {_MANIFEST} says "
                f"{manifest.n_molecules}"
            )

    def _add_file(self, path: Path) -> tuple[FeatureVersion, str]:
        """Map one file; give its feature version and fingerprint."""
        try:
            reader = pa.ipc.open_file(pa.memory_map(str(path)))
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{path}: this shard of the store is missing") from error
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
        wanted = operator.index(index)
        if not -self._n_molecules <= wanted < self._n_molecules:
            raise IndexError(f"{self.path}: no molecule {wanted}, there are {self._n_molecules}")
        wanted %= self._n_molecules
        chunk = bisect_right(self._starts, wanted) - 1
        return self._chunks[chunk].molecule(wanted - self._starts[chunk])

    def n_atoms(self) -> Int64[np.ndarray, " m"]:
        """Give the number of atoms of every molecule, without reading them."""
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
        """Give the number of atoms of every molecule: each has one source atom."""
        ends, _ = self._arrays[tuple(_ARRAYS).index("source_atoms")]
        return np.diff(np.asarray(ends))

    def molecule(self, row: int) -> Molecule:
        """Give the molecule of one row.

        Raises:
            ValueError: the file has another size than when it was opened. To read what is no longer
                there of a mapped file would kill the process without a word.
        """
        try:
            now = self._path.stat()
        except FileNotFoundError:
            now = self._opened
        # The mapping of a file that was removed, or replaced by another one, stays whole.
        if now.st_ino == self._opened.st_ino and now.st_size != self._opened.st_size:
            raise ValueError(
                f"{self._path}: the file had {self._opened.st_size:,} bytes when it was opened, "
                f"and now has {now.st_size:,}"
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
    """SHA-256 over molecules in order, whatever batches they come in.

    Each column has two hashes, one of its values and one of how many belong to each molecule, so
    that no two lists of molecules give the same bytes.
    """

    def __init__(self, features: FeatureVersion) -> None:
        self._features = features
        self._columns = [(name, hashlib.sha256(), hashlib.sha256()) for name in (*_ARRAYS, *_TEXTS)]

    def add(self, batch: pa.RecordBatch) -> None:
        """Go on with the molecules of a batch that is not empty."""
        for name, sizes, values in self._columns:
            column = batch.column(name)
            if name in _TEXTS:
                _, offsets, letters = column.buffers()
                ends = np.frombuffer(offsets, np.int64)[column.offset :][: len(column) + 1]
                held = np.frombuffer(letters or b"", np.uint8)
            else:
                ends, held = column.offsets.to_numpy(), column.values.to_numpy()
            sizes.update(np.diff(ends).astype("<i8").tobytes())
            values.update(held[ends[0] : ends[-1]].tobytes())

    def hexdigest(self) -> str:
        """The hash of all molecules so far."""
        whole = hashlib.sha256(self._features.encode())
        for _, sizes, values in self._columns:
            whole.update(sizes.digest() + values.digest())
        return whole.hexdigest()


def _schema(features: FeatureVersion) -> pa.Schema:
    fields = [(name, pa.large_list(pa.from_numpy_dtype(kind))) for name, kind in _ARRAYS.items()]
    fields += [(name, pa.large_string()) for name in _TEXTS]
    metadata = {"format": _FORMAT, "version": STORE_VERSION, "features": features}
    return pa.schema(fields, metadata)


def _check(path: Path, schema: pa.Schema) -> FeatureVersion:
    """Check that a schema is one we write and give its feature version."""
    metadata = {key.decode(): value.decode() for key, value in (schema.metadata or {}).items()}
    if metadata.get("format") != _FORMAT:
        raise _unreadable(path)
    return _known(path, metadata.get("version", "none"), metadata.get("features", "none"))


def _known(path: Path, version: str, features: str) -> FeatureVersion:
    """Check that this moleblend reads such a store and give its feature version."""
    if version != STORE_VERSION:
        raise ValueError(
            f"{path}: a store of version {version}, but this moleblend reads version "
            f"{STORE_VERSION}: build it anew"
        )
    if features not in get_args(FeatureVersion):
        raise ValueError(
            f"{path}: a store with features {features!r}, but this moleblend knows "
            f"{' and '.join(get_args(FeatureVersion))}: build it anew"
        )
    return cast(FeatureVersion, features)


def _read_manifest(folder: Path) -> _Manifest:
    try:
        told: dict[str, Any] = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        shards = tuple(map(str, told.pop("shards")))
        manifest = _Manifest(shards=shards, **told)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{folder}: not a folder of shards: its {_MANIFEST} is missing or damaged"
        ) from error
    if any(name.endswith(".parquet") for name in manifest.shards):
        raise ValueError(
            f"{folder}: its shards are Parquet, an export for other tools; moleblend itself reads "
            "Arrow shards"
        )
    return manifest


def _unreadable(path: Path) -> ValueError:
    return ValueError(f"{path}: the file is truncated or not a moleblend store")


def _ragged(arrays: list[np.ndarray | None], kind: np.dtype) -> pa.LargeListArray:
    """Put arrays of any size into one column of flat lists; None is an empty list."""
    ends = np.cumsum([0, *(0 if array is None else array.size for array in arrays)], dtype=np.int64)
    given = (array.ravel() for array in arrays if array is not None)
    values = np.concatenate([np.empty(0, kind), *given])
    return pa.LargeListArray.from_arrays(ends, values)
