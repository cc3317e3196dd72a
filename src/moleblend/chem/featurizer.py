"""Features of atoms and bonds, including CIP labels."""

import numpy as np
from jaxtyping import Int32, UInt8
from rdkit import Chem
from rdkit.Chem import rdCIPLabeler

from moleblend.chem.molecule import FeatureVersion, Molecule

_CIP_ITERATIONS = 100_000
"""Comparisons (about 0.1 s) after which CIP labels stay undefined; most molecules need < 10,000."""

_ATOM_LABELS = {"R": 1, "S": 2, "r": 3, "s": 4}
_BOND_LABELS = {"Z": 1, "E": 2, "z": 3, "e": 4}

_CHIRAL_TAGS = {
    Chem.ChiralType.CHI_UNSPECIFIED: 0,
    Chem.ChiralType.CHI_TETRAHEDRAL_CW: 1,
    Chem.ChiralType.CHI_TETRAHEDRAL_CCW: 2,
    Chem.ChiralType.CHI_OTHER: 3,
}

_HYBRIDISATIONS = {
    Chem.HybridizationType.SP: 0,
    Chem.HybridizationType.SP2: 1,
    Chem.HybridizationType.SP3: 2,
    Chem.HybridizationType.SP3D: 3,
    Chem.HybridizationType.SP3D2: 4,
}

_BOND_TYPES = {
    Chem.BondType.SINGLE: 0,
    Chem.BondType.DOUBLE: 1,
    Chem.BondType.TRIPLE: 2,
    Chem.BondType.AROMATIC: 3,
}

_BOND_STEREO = {
    Chem.BondStereo.STEREONONE: 0,
    Chem.BondStereo.STEREOZ: 1,
    Chem.BondStereo.STEREOE: 2,
    Chem.BondStereo.STEREOCIS: 3,
    Chem.BondStereo.STEREOTRANS: 4,
}

_OTHER_ELEMENT, _OTHER_TAG, _OTHER_HYBRIDISATION, _OTHER_BOND, _OTHER_STEREO = 118, 4, 5, 4, 5


def element_symbols(molecule: Molecule) -> list[str]:
    """Return the element symbol of each atom; `*` for a dummy atom."""
    table = Chem.GetPeriodicTable()
    numbers = (molecule.atoms[:, 0].astype(int) + 1) % (_OTHER_ELEMENT + 1)
    return [table.GetElementSymbol(int(number)) for number in numbers]


def label_stereo(mol: Chem.Mol) -> None:
    """Set the CIP labels of atoms and bonds, as far as `_CIP_ITERATIONS` allow.

    The CIP rules do not define bonds of fractional order, which some metal complexes have. Such a
    molecule keeps the labels that were set before RDKit stopped.
    """
    try:
        rdCIPLabeler.AssignCIPLabels(mol, maxRecursiveIterations=_CIP_ITERATIONS)
    except RuntimeError as error:
        expected = ("Max Iterations Exceeded", "Non integer-order bonds")
        if not any(reason in str(error) for reason in expected):
            raise


def list_atoms(mol: Chem.Mol) -> list[Chem.Atom]:
    """List the atoms; several times faster than `mol.GetAtoms()`."""
    return [mol.GetAtomWithIdx(i) for i in range(mol.GetNumAtoms())]


def list_bonds(mol: Chem.Mol) -> list[Chem.Bond]:
    """List the bonds; several times faster than `mol.GetBonds()`."""
    return [mol.GetBondWithIdx(i) for i in range(mol.GetNumBonds())]


def atom_rows(
    mol: Chem.Mol, features: FeatureVersion, *, has_stereo: bool = True
) -> UInt8[np.ndarray, "n 9"]:
    """Return the nine features of each atom (`ATOM_FEATURES`).

    With `has_stereo=False` chirality is not queried, which saves a tenth of the time.
    """
    values = []
    for atom in list_atoms(mol):
        number = atom.GetAtomicNum()
        charge = atom.GetFormalCharge() + 5
        if not has_stereo:
            chirality = 0
        elif features == "ogb-1":
            chirality = _CHIRAL_TAGS.get(atom.GetChiralTag(), _OTHER_TAG)
        else:
            chirality = _ATOM_LABELS.get(_cip_label(atom), 0)
        values += (
            number - 1 if number else _OTHER_ELEMENT,
            chirality,
            min(atom.GetTotalDegree(), 11),
            charge if 0 <= charge <= 10 else 11,
            min(atom.GetTotalNumHs(), 9),
            min(atom.GetNumRadicalElectrons(), 5),
            _HYBRIDISATIONS.get(atom.GetHybridization(), _OTHER_HYBRIDISATION),
            atom.GetIsAromatic(),
            atom.IsInRing(),
        )
    return np.array(values, np.uint8).reshape(-1, 9)


def bond_rows(
    mol: Chem.Mol, features: FeatureVersion, *, has_stereo: bool = True
) -> tuple[Int32[np.ndarray, "m 2"], UInt8[np.ndarray, "m 3"]]:
    """Return the atoms of each bond, sorted, and its three features (`BOND_FEATURES`)."""
    rows = []
    for bond in list_bonds(mol):
        i, j = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        if not has_stereo:
            stereo = 0
        elif features == "ogb-1":
            stereo = _BOND_STEREO.get(bond.GetStereo(), _OTHER_STEREO)
        else:
            stereo = _BOND_LABELS.get(_cip_label(bond), 0)
        kind = _BOND_TYPES.get(bond.GetBondType(), _OTHER_BOND)
        rows.append((min(i, j), max(i, j), kind, stereo, bond.GetIsConjugated()))
    table = np.array(sorted(rows), np.int32).reshape(-1, 5)
    return table[:, :2].copy(), table[:, 2:].astype(np.uint8)


def _cip_label(centre: Chem.Atom | Chem.Bond) -> str:
    """Return R, S, r or s of an atom, E, Z, e or z of a bond, or "" without a label."""
    return centre.GetProp("_CIPCode") if centre.HasProp("_CIPCode") else ""
