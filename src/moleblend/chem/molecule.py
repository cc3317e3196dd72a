"""`Molecule`, the record of one molecule that all packages share, and `MoleculeError`."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Float32, Int32, UInt8

from moleblend.errors import MoleculeError

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
"""Number of values that `descriptors.compute_descriptors` computes for a molecule."""

_LARGEST_COORDINATE = 100_000.0
"""In Å. Larger values are errors, such as a missing value written as 1e30; squares overflow."""


def check_positions(positions: Float[np.ndarray, "... 3"], name: str) -> None:
    """Check that all coordinates are finite and not too large.

    Raises:
        MoleculeError: a coordinate is NaN, infinite or too large; the message starts with `name`.
    """
    if not (np.abs(positions) < _LARGEST_COORDINATE).all():
        raise MoleculeError(
            f"{name}: positions must be numbers in Å below {_LARGEST_COORDINATE:,.0f}"
        )


@dataclass(frozen=True, eq=False)
class Molecule:
    """One molecule: heavy atoms, bonds, and any number of geometries.

    Hydrogens are counted in the features of the atom that carries them. They are atoms of the
    record only where RDKit keeps them as atoms (a proton, H2, a hydride, an isotope).

    There are two feature versions. `ogb-1` is the version of the published code: atoms are in the
    order of the input, and chirality is RDKit's CW/CCW tag. `cip-1`, the default, differs in two
    points: atoms are in the canonical order of `smiles`, and chirality is the CIP label. The
    `cip-1` record of a molecule does not depend on how the molecule was written.

    Attributes:
        atoms: the nine atom features (`ATOM_FEATURES`), each counted from 0 (column 0 is the atomic
            number - 1).
        bonds: the two atoms of each bond; each bond is listed once.
        bond_features: type, stereo and conjugation of each bond (`BOND_FEATURES`).
        positions: c geometries in Å, float32; c = 0 if no geometry is known.
        id: the name of the molecule in error messages and tables.
        smiles: a SMILES whose atoms RDKit reads in the order of this record.
        source_atoms: for each atom, its index in the input, where hydrogens are counted.
        features: the feature version.
        energies: energies of the geometries in kcal/mol; None if not known.
        force_field: MMFF94 or UFF, the source of `energies`; empty without energies. Energies of
            different force fields cannot be compared.
        geometry_note: why coordinates of the input are not used, as a clause for messages; empty if
            they are, or if there are none.
        stereo_identity: canonical CXSMILES of a molecule whose stereo the features do not represent
            completely, see `identity`; empty for other molecules.
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
    geometry_note: str = ""
    stereo_identity: str = ""

    def __post_init__(self) -> None:
        """Check the number of atoms, the atoms of the bonds and the positions."""
        if self.n_atoms == 0:
            raise MoleculeError(f"{self.id}: a molecule needs at least one atom, got none")
        if self.bonds.size and int(self.bonds.max()) >= self.n_atoms:
            raise MoleculeError(
                f"{self.id}: a bond refers to atom {int(self.bonds.max())}, "
                f"but there are {self.n_atoms} atoms"
            )
        check_positions(self.positions, self.id)

    @property
    def n_atoms(self) -> int:
        """Number of atoms."""
        return len(self.atoms)

    @property
    def has_any_atom(self) -> bool:
        """Tell whether an atom is a dummy (`*`), which is any atom or group."""
        return bool((self.atoms[:, 0] == ATOM_FEATURE_SIZES[0] - 1).any())

    @property
    def n_conformers(self) -> int:
        """Number of geometries."""
        return len(self.positions)
