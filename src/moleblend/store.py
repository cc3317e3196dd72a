"""Many molecules in one memory-mapped Arrow file, each read as views of the file."""

import hashlib
import operator
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import SupportsIndex, cast, get_args

import numpy as np
import pyarrow as pa

from moleblend.files import replacing
from moleblend.molecule import FeatureVersion, Molecule

_FORMAT = b"moleblend-store"
_SCHEMA_VERSION = b"1"

# Flat lists: the shapes follow from the number of atoms. Large ones: no limit on values in a batch.
_ARRAYS = {
    "atoms": np.dtype(np.uint8),
    "bonds": np.dtype(np.int32),
    "bond_features": np.dtype(np.uint8),
    "positions": np.dtype(np.float32),
    "source_atoms": np.dtype(np.int32),
}
_TEXTS = ("id", "smiles")


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
    schema = _schema(features)
    remaining, n_written, content = iter(molecules), 0, hashlib.sha256(features.encode())
    with (
        replacing(Path(path)) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, schema) as writer,
    ):
        while batch := list(islice(remaining, batch_size)):
            for molecule in batch:
                if molecule.features != features:
                    raise ValueError(
                        f"{molecule.id}: its features are {molecule.features}, "
                        f"those of the store {features}"
                    )
                _add_to(content, molecule)
            writer.write_batch(_record_batch(batch, schema))
            n_written += len(batch)
        # The hash is known only now, too late for the schema: an empty batch carries it.
        writer.write_batch(_record_batch([], schema), {"sha256": content.hexdigest()})
    return n_written


class MoleculeStore:
    """The molecules of a store, read without a copy.

    `store[i]` gives a `Molecule` whose arrays are read-only views of the memory-mapped file. A
    store can be sent to other processes: they map the file anew.

    Attributes:
        path: the file.
        features: the feature version of its molecules.
        fingerprint: SHA-256 over the feature version and all molecules in order, computed while
            writing. Stores with the same molecules have the same one, in whatever batches.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is truncated, not a store, or one of another version.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).resolve()
        if not self.path.is_file():
            raise FileNotFoundError(f"{path}: there is no such store")
        try:
            self._map = pa.memory_map(str(self.path))
            reader = pa.ipc.open_file(self._map)
        except (pa.ArrowInvalid, OSError) as error:
            raise _unreadable(self.path) from error
        self.features = _check(self.path, reader.schema)
        if reader.num_record_batches == 0:
            raise _unreadable(self.path)
        *batches, last = range(reader.num_record_batches)
        metadata = reader.get_batch_with_custom_metadata(last).custom_metadata
        if metadata is None or b"sha256" not in metadata:
            raise _unreadable(self.path)
        self.fingerprint = metadata[b"sha256"].decode()
        self._chunks = [_Chunk(reader.get_batch(index), self.features) for index in batches]
        ends = np.cumsum([len(chunk) for chunk in self._chunks], dtype=np.int64).tolist()
        self._starts = [0, *ends[:-1]]
        self._n_molecules = ends[-1] if ends else 0

    def __len__(self) -> int:
        return self._n_molecules

    def __getitem__(self, index: SupportsIndex) -> Molecule:
        wanted = operator.index(index)
        if not -self._n_molecules <= wanted < self._n_molecules:
            raise IndexError(f"{self.path}: no molecule {wanted}, there are {self._n_molecules}")
        wanted %= self._n_molecules
        chunk = bisect_right(self._starts, wanted) - 1
        return self._chunks[chunk].molecule(wanted - self._starts[chunk])

    def __iter__(self) -> Iterator[Molecule]:
        return (self[index] for index in range(len(self)))

    def __reduce__(self) -> tuple[type["MoleculeStore"], tuple[Path]]:
        return MoleculeStore, (self.path,)


class _Chunk:
    """Numpy views of one record batch."""

    def __init__(self, batch: pa.RecordBatch, features: FeatureVersion) -> None:
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
            self._texts.append((memoryview(offsets).cast("q"), memoryview(letters)))

    def __len__(self) -> int:
        return self._n_rows

    def molecule(self, row: int) -> Molecule:
        """Give the molecule of one row."""
        atoms, bonds, bond_features, positions, source_atoms = (
            values[ends[row] : ends[row + 1]] for ends, values in self._arrays
        )
        id, smiles = (str(text[ends[row] : ends[row + 1]], "utf-8") for ends, text in self._texts)
        return Molecule(
            atoms=atoms.reshape(-1, 9),
            bonds=bonds.reshape(-1, 2),
            bond_features=bond_features.reshape(-1, 3),
            positions=positions.reshape(-1, len(source_atoms), 3),
            id=id,
            smiles=smiles,
            source_atoms=source_atoms,
            features=self._features,
        )


def _schema(features: FeatureVersion) -> pa.Schema:
    fields = [(name, pa.large_list(pa.from_numpy_dtype(kind))) for name, kind in _ARRAYS.items()]
    fields += [(name, pa.large_string()) for name in _TEXTS]
    return pa.schema(
        fields, {b"format": _FORMAT, b"version": _SCHEMA_VERSION, b"features": features.encode()}
    )


def _check(path: Path, schema: pa.Schema) -> FeatureVersion:
    """Check that a schema is one we write and give its feature version."""
    metadata = schema.metadata or {}
    if metadata.get(b"format") != _FORMAT:
        raise _unreadable(path)
    version = metadata.get(b"version", b"none")
    if version != _SCHEMA_VERSION:
        raise ValueError(
            f"{path}: a store of version {version.decode()}, but this moleblend reads version "
            f"{_SCHEMA_VERSION.decode()}: build it anew"
        )
    features = metadata.get(b"features", b"none").decode()
    if features not in get_args(FeatureVersion):
        raise ValueError(
            f"{path}: a store with features {features!r}, but this moleblend knows "
            f"{' and '.join(get_args(FeatureVersion))}: build it anew"
        )
    return cast(FeatureVersion, features)


def _unreadable(path: Path) -> ValueError:
    return ValueError(f"{path}: the file is truncated or not a moleblend store")


def _record_batch(molecules: list[Molecule], schema: pa.Schema) -> pa.RecordBatch:
    columns: list[pa.Array] = [
        _ragged([getattr(molecule, name) for molecule in molecules], kind)
        for name, kind in _ARRAYS.items()
    ]
    for name in _TEXTS:
        texts = [getattr(molecule, name) for molecule in molecules]
        columns += [pa.array(texts, pa.large_string())]
    return pa.record_batch(columns, schema=schema)


def _ragged(arrays: list[np.ndarray], kind: np.dtype) -> pa.LargeListArray:
    """Put arrays of any size into one column of flat lists."""
    ends = np.cumsum([0, *(array.size for array in arrays)], dtype=np.int64)
    values = np.concatenate([np.empty(0, kind), *(array.ravel() for array in arrays)])
    return pa.LargeListArray.from_arrays(ends, values)


def _add_to(content: "hashlib._Hash", molecule: Molecule) -> None:
    """Hash one molecule: first the sizes, so that no two molecules give the same bytes."""
    pieces = [getattr(molecule, name).encode() for name in _TEXTS]
    pieces += [getattr(molecule, name).tobytes() for name in _ARRAYS]
    content.update(np.array([len(piece) for piece in pieces], np.int64).tobytes())
    content.update(b"".join(pieces))
