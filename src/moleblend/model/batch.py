"""Batches: several molecules as one record of padded tensors. Only this module pads."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int16, Int64, UInt8
from torch import Tensor

from moleblend.chem.molecule import Molecule, MoleculeError
from moleblend.model.relations import N_HOPS, bond_kinds, relate_all

_POOL = 16
"""Number of batches in a pool within which molecules are sorted by size."""


@dataclass(frozen=True, eq=False)
class Batch:
    """b molecules, padded to n atoms. The values of padding (`is_atom` is false) are arbitrary.

    Attributes:
        atoms: the nine atom features, counted from 0.
        is_atom: which places are atoms; the others are padding.
        degree: number of bonds of each atom.
        path_length: number of bonds on the shortest path, -1 where there is none.
        edge_path: bond kind + 1 of the first k bonds on the path, 0 after its end.
        positions: in Å; zero where a molecule has none.
        has_positions: which molecules have a geometry.
        descriptors: of each molecule, see `descriptors.compute_descriptors`; NaN where unknown.
            None if no objective predicts them.
        fingerprints: bits of each molecule, 0 or 1; None if no objective predicts them.
        labels: measured labels of each molecule, NaN where unknown; None if no objective predicts
            them.
        places: index of each molecule in the batch of the complete training step; None if this is
            the complete batch. Random draws depend on it.
    """

    atoms: Int64[Tensor, "b n 9"]
    is_atom: Bool[Tensor, "b n"]
    degree: Int64[Tensor, "b n"]
    path_length: Int16[Tensor, "b n n"]
    edge_path: UInt8[Tensor, "b n n k"]
    positions: Float32[Tensor, "b n 3"]
    has_positions: Bool[Tensor, " b"]
    descriptors: Float32[Tensor, "b f"] | None = None
    fingerprints: UInt8[Tensor, "b v"] | None = None
    labels: Float32[Tensor, "b t"] | None = None
    places: Int64[Tensor, " b"] | None = None

    def __len__(self) -> int:
        """Return the number of molecules."""
        return len(self.is_atom)

    @property
    def is_pair(self) -> Bool[Tensor, "b n n"]:
        """Tell which ordered pairs (i, j) consist of two different atoms."""
        both = self.is_atom[:, :, None] & self.is_atom[:, None, :]
        return both & ~torch.eye(both.shape[1], dtype=torch.bool, device=both.device)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        """Move every tensor to a device."""
        return self.changed(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def subset(self, rows: slice | Tensor) -> "Batch":
        """Select some of the molecules."""
        return self.changed(lambda tensor: tensor[rows])

    def with_geometry(self) -> "Batch | None":
        """Select the molecules that have positions; None if there is none.

        The selected molecules keep their places, so that their random draws do not change.
        """
        if not bool(self.has_positions.any()):
            return None
        places = torch.arange(len(self)) if self.places is None else self.places
        return replace(self, places=places.to(self.is_atom.device)).subset(self.has_positions)

    def changed(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """Apply a function to every tensor."""
        values = (getattr(self, field.name) for field in fields(self))
        return Batch(*(value if value is None else change(value) for value in values))


@dataclass(frozen=True, eq=False)
class Packing:
    """Index of the m real tokens among b rows of t tokens, to skip computation on padding.

    Attributes:
        is_real: which tokens are real.
        row: of each real token.
        column: of each real token.
    """

    is_real: Bool[Tensor, "b t"]
    row: Int64[Tensor, " m"]
    column: Int64[Tensor, " m"]

    @classmethod
    def of(cls, is_real: Bool[Tensor, "b t"]) -> "Packing":
        """Index the real tokens."""
        row, column = is_real.nonzero(as_tuple=True)
        return cls(is_real, row, column)

    def pack(self, padded: Float[Tensor, "b t c"]) -> Float[Tensor, "m c"]:
        """Select the real tokens."""
        n_columns = self.is_real.shape[1]
        return padded.flatten(0, 1).index_select(0, self.row * n_columns + self.column)

    def pad(self, packed: Float[Tensor, "m c"]) -> Float[Tensor, "b t c"]:
        """Put the real tokens back into their rows; padding is 0."""
        b, t = self.is_real.shape
        zeros = packed.new_zeros((b * t, packed.shape[1]))
        return zeros.index_copy_(0, self.row * t + self.column, packed).view(b, t, -1)


def pieces(n_molecules: int, n_atoms: int, most_pairs: int) -> Iterator[slice]:
    """Cut molecules of n atoms into slices of at most `most_pairs` pairs, or of one molecule."""
    at_once = max(most_pairs // n_atoms**2, 1)
    return (slice(start, start + at_once) for start in range(0, n_molecules, at_once))


def collate(
    molecules: Sequence[Molecule], conformers: Sequence[int] | None = None, n_hops: int = N_HOPS
) -> Batch:
    """Pad molecules to one batch and derive their relations.

    Args:
        molecules: at least one; with or without positions, all of the same feature version.
        conformers: index of the geometry of each molecule; by default the first.
        n_hops: number of bonds of a path that are kept.

    Raises:
        MoleculeError: there is no molecule, the feature versions differ, or a conformer is missing.
    """
    if not molecules:
        raise MoleculeError("got no molecule, expected at least one")
    versions = sorted({molecule.features for molecule in molecules})
    if len(versions) > 1:
        raise MoleculeError(
            f"got molecules with feature versions {' and '.join(versions)}, expected one version"
        )
    chosen = [0] * len(molecules) if conformers is None else conformers
    b, n = len(molecules), max(molecule.n_atoms for molecule in molecules)

    sizes = np.array([molecule.n_atoms for molecule in molecules])
    is_atom = np.arange(n) < sizes[:, None]
    atoms = np.zeros((b, n, 9), np.int64)
    atoms[is_atom] = np.concatenate([molecule.atoms for molecule in molecules])

    # Each atom of the batch has one number: n * row + column.
    n_bonds = [len(molecule.bonds) for molecule in molecules]
    starts = np.repeat(n * np.arange(b), n_bonds)[:, None]
    ends = np.concatenate([molecule.bonds for molecule in molecules]) + starts
    degree = np.bincount(ends.reshape(-1), minlength=b * n).reshape(b, n)
    codes = np.zeros((b * n, n), np.uint8)
    kinds = bond_kinds(np.concatenate([molecule.bond_features for molecule in molecules]))
    for here, there in (ends.T, ends.T[::-1]):
        codes[here, there % n] = kinds + 1
    relations = relate_all(codes.reshape(b, n, n), n_hops)
    is_pair = is_atom[:, :, None] & is_atom[:, None, :]

    positions = np.zeros((b, n, 3), np.float32)
    for row, (molecule, conformer) in enumerate(zip(molecules, chosen, strict=True)):
        if molecule.n_conformers:
            if not 0 <= conformer < molecule.n_conformers:
                raise MoleculeError(
                    f"{molecule.id}: got conformer={conformer}, expected a number from 0 to "
                    f"{molecule.n_conformers - 1}"
                )
            positions[row, : molecule.n_atoms] = molecule.positions[conformer]
    return Batch(
        atoms=torch.from_numpy(atoms),
        is_atom=torch.from_numpy(is_atom),
        degree=torch.from_numpy(degree),
        path_length=torch.from_numpy(relations.path_length * is_pair),
        edge_path=torch.from_numpy(relations.edge_path),
        positions=torch.from_numpy(positions),
        has_positions=torch.tensor([molecule.n_conformers > 0 for molecule in molecules]),
    )


def shuffled_batches(
    n_atoms: Int64[np.ndarray, " m"], batch_size: int, rng: np.random.Generator
) -> list[Int64[np.ndarray, " k"]]:
    """Group all molecules at random into batches of similar size, to reduce padding.

    The molecules are shuffled and sorted by size within pools of 16 batches. Then the batches are
    shuffled.

    Args:
        n_atoms: of each molecule.
        batch_size: molecules in a batch; only one batch may have fewer.
        rng: source of all random choices.

    Returns:
        Indices of the molecules of each batch; each molecule is in exactly one batch.
    """
    order = rng.permutation(len(n_atoms))
    batches: list[np.ndarray] = []
    for start in range(0, len(order), _POOL * batch_size):
        pool = order[start : start + _POOL * batch_size]
        pool = pool[np.argsort(n_atoms[pool], kind="stable")]
        batches += [pool[k : k + batch_size] for k in range(0, len(pool), batch_size)]
    return [batches[k] for k in rng.permutation(len(batches))]
