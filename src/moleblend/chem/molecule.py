"""The record that every other module shares: one molecule, and the error that names it."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float32, Int32, UInt8

FeatureVersion = Literal["cip-1", "ogb-1"]

ATOM_FEATURES = (
    "atomic_number",
    "chirality",
    "degree",
    "formal_charge",
    "n_hydrogens",
    "n_radical_electrons",
    "hybridisation",
    "is_aromatic",
    "is_in_ring",
)
"""Names of the nine columns of `Molecule.atoms`."""

ATOM_FEATURE_SIZES = (119, 5, 12, 12, 10, 6, 6, 2, 2)
"""Number of values of each atom feature."""

BOND_FEATURES = ("type", "stereo", "is_conjugated")
"""Names of the three columns of `Molecule.bond_features`."""

BOND_FEATURE_SIZES = (5, 6, 2)
"""Number of values of each bond feature."""

N_DESCRIPTORS = 121
"""How many numbers `descriptors.compute_descriptors` gives of a molecule."""


FARTHEST = 100_000.0
"""Å; a position beyond is a mistake (a missing value written as 1e30), and its square overflows."""


class MoleculeError(ValueError):
    """A molecule that cannot be used: one sentence says which, what came, what was expected."""


@dataclass(frozen=True, eq=False)
class Molecule:
    """One molecule: heavy atoms, bonds, and any number of geometries.

    Hydrogens are counted in the features of the atom that carries them. They are atoms of the
    record only where RDKit keeps them as such (a proton, H2, a hydride, an isotope).

    Two feature versions exist. `ogb-1` is what the published code uses: atoms in the order of the
    input, chirality as RDKit's CW/CCW tag. `cip-1`, the default, differs in two points: atoms stand
    in the canonical order of `smiles`, and chirality is the CIP label, so that the record is the
    same however the molecule was written.

    Attributes:
        atoms: the nine atom features (`ATOM_FEATURES`), each counted from 0 (column 0 is the atomic
            number - 1).
        bonds: the two atoms of each bond; every bond stands once.
        bond_features: type, stereo and conjugation of each bond (`BOND_FEATURES`).
        positions: c geometries in Å, float32; c = 0 where none is known.
        id: the name under which errors and tables speak of the molecule.
        smiles: a SMILES whose atoms RDKit reads in the order of this record.
        source_atoms: for each atom, its index (hydrogens counted) in the input the molecule was
            read from.
        features: the version of the features.
        energies: of the geometries, in kcal/mol by `force_field`; None where they are not known.
        force_field: MMFF94 or UFF, whose energies cannot be compared; empty where there are none.
    """

    atoms: UInt8[np.ndarray, "n 9"]
    bonds: Int32[np.ndarray, "m 2"]
    bond_features: UInt8[np.ndarray, "m 3"]
    positions: Float32[np.ndarray, "c n 3"]
    id: str
    smiles: str
    source_atoms: Int32[np.ndarray, " n"]
    features: FeatureVersion = "cip-1"
    energies: Float32[np.ndarray, " c"] | None = None
    force_field: str = ""

    def __post_init__(self) -> None:
        """Refuse a record that no later step could use."""
        if self.n_atoms == 0:
            raise MoleculeError(f"{self.id}: a molecule needs at least one atom, this one has none")
        if self.bonds.size and int(self.bonds.max()) >= self.n_atoms:
            raise MoleculeError(
                f"{self.id}: a bond names atom {int(self.bonds.max())}, "
                f"but there are {self.n_atoms} atoms"
            )
        if self.positions.size and not (np.abs(self.positions) < FARTHEST).all():
            raise MoleculeError(f"{self.id}: positions must be numbers in Å below {FARTHEST:,.0f}")

    @property
    def n_atoms(self) -> int:
        """Number of atoms."""
        return len(self.atoms)

    @property
    def n_conformers(self) -> int:
        """Number of geometries."""
        return len(self.positions)
