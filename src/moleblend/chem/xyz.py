"""XYZ: geometries without bonds, joined to the SMILES that name them."""

import math

import numpy as np
from jaxtyping import Float, Int, Integer
from rdkit import Chem
from rdkit.Chem import rdDetermineBonds

from moleblend.chem.featurizer import list_atoms, list_bonds
from moleblend.chem.molecule import FeatureVersion, Molecule, MoleculeError
from moleblend.chem.parsing import (
    BARE,
    build_record,
    check_positions,
    parse_with_sources,
    remove_hydrogens,
)

_LONGEST_BOND = 1.3
"""Length of the longest plausible bond, in sums of the two covalent radii."""

_COVALENT_RADII = np.array([Chem.GetPeriodicTable().GetRcovalent(number) for number in range(119)])


def read_xyz(
    atomic_numbers: Integer[np.ndarray, " n"],
    positions: Float[np.ndarray, "n 3"],
    smiles: str,
    *,
    id: str = "",
    features: FeatureVersion = "cip-1",
) -> Molecule:
    """Join a geometry without bonds to the SMILES that names them.

    Atoms in RDKit's order of the SMILES (heavy atoms, then hydrogens) are accepted if the elements
    agree and no bond is longer than 1.3 sums of covalent radii (in QM9 they reach 1.29, and 2.1 or
    more where the order differs). Otherwise bonds are read off the distances and mapped on the
    SMILES as graphs without bond orders; of several maps the one that gives high bond orders the
    short distances is taken.

    Args:
        atomic_numbers: of all atoms, or of the heavy atoms alone (then in the order of the SMILES).
        positions: in Å.
        smiles: its stereo marks are replaced by the stereo of the geometry.
        id: the molecule's name; the SMILES itself if empty.
        features: version of the features.

    Returns:
        A molecule with one geometry; `source_atoms` are rows of `positions`.

    Raises:
        MoleculeError: the SMILES is refused, or geometry and SMILES are not the same molecule.
    """
    text = smiles.strip()
    name = id or text or "molecule"
    numbers = np.asarray(atomic_numbers, np.int64)
    check_positions(positions, name)
    read, _ = parse_with_sources(text, name)
    bare = Chem.RemoveHs(read, BARE)
    for mol in (Chem.AddHs(bare), read, bare):
        if sorted(numbers) == sorted(atom.GetAtomicNum() for atom in list_atoms(mol)):
            break
    else:
        raise MoleculeError(
            f"{name}: the geometry's {len(numbers)} atoms are not those of the SMILES {text}, "
            "neither with nor without hydrogens"
        )
    rows = np.arange(len(numbers))
    if not _is_plausible(mol, numbers, positions):
        has_all_atoms = not any(atom.GetTotalNumHs() for atom in list_atoms(mol))
        matched = _match_geometry(mol, numbers, positions) if has_all_atoms else None
        if matched is None:
            raise MoleculeError(
                f"{name}: the distances of the geometry don't fit the bonds of {text}"
            )
        rows = matched
    mol.RemoveAllConformers()
    mol.AddConformer(_conformer(positions[rows]))
    Chem.AssignStereochemistryFrom3D(mol)
    mol, kept = remove_hydrogens(mol, name)
    return build_record(mol, [int(rows[i]) for i in kept], name, features)


def parse_xyz(text: str) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, "n 3"]]:
    """Read the first frame of an XYZ file: atom count, comment, then `element x y z ...` per atom.

    Args:
        text: elements are symbols or numbers; further columns and frames are not read. Numbers may
            be written 1.2*^-6, as in QM9's files.

    Returns:
        Atomic numbers and positions in Å.

    Raises:
        MoleculeError: which line is wrong, and how.
    """
    lines = text.splitlines()
    if not lines or not lines[0].strip().isdecimal():
        raise MoleculeError(
            f"XYZ: line 1 must be the number of atoms, found {(lines or [''])[0]!r}"
        )
    n_atoms = int(lines[0])
    if len(lines) < n_atoms + 2:
        raise MoleculeError(
            f"XYZ: {n_atoms} atoms announced, but only {max(len(lines) - 2, 0)} follow"
        )
    table = Chem.GetPeriodicTable()
    numbers = np.zeros(n_atoms, np.int64)
    positions = np.zeros((n_atoms, 3))
    for row, line in enumerate(lines[2 : n_atoms + 2]):
        try:
            element, x, y, z = line.replace("*^", "e").split()[:4]
            numbers[row] = (
                int(element) if element.isdecimal() else table.GetAtomicNumber(element.capitalize())
            )
            positions[row] = float(x), float(y), float(z)
        except (ValueError, RuntimeError) as error:  # RuntimeError: RDKit does not know the symbol
            raise MoleculeError(
                f"XYZ: line {row + 3} must be an element and three numbers, found {line!r}"
            ) from error
    return numbers, positions


def _is_plausible(
    mol: Chem.Mol, numbers: Int[np.ndarray, " n"], positions: Float[np.ndarray, "n 3"]
) -> bool:
    """Whether the geometry, taken in the order of `mol`, has its elements and no torn bond."""
    if any(
        atom.GetAtomicNum() != number for atom, number in zip(list_atoms(mol), numbers, strict=True)
    ):
        return False
    ends = np.array([(b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in list_bonds(mol)]).reshape(
        -1, 2
    )
    ends = ends.astype(np.int64)
    lengths = np.linalg.norm(positions[ends[:, 0]] - positions[ends[:, 1]], axis=1)
    return bool((lengths <= _LONGEST_BOND * _COVALENT_RADII[numbers[ends]].sum(axis=1)).all())


def _match_geometry(
    mol: Chem.Mol, numbers: Int[np.ndarray, " n"], positions: Float[np.ndarray, "n 3"]
) -> Int[np.ndarray, " n"] | None:
    """Find the row of the geometry for each atom of `mol`; None if the two graphs differ."""
    geometry = Chem.RWMol()
    for number in numbers:
        geometry.AddAtom(Chem.Atom(int(number)))
    geometry.AddConformer(_conformer(positions))
    rdDetermineBonds.DetermineConnectivity(geometry, useVdw=True, covFactor=1.15)
    wanted, wanted_atoms = _skeleton(mol)
    found, found_atoms = _skeleton(geometry)
    if found.GetNumBonds() != wanted.GetNumBonds():
        return None
    shortest = math.inf
    best = None
    orders = [
        (b.GetBeginAtomIdx(), b.GetEndAtomIdx(), b.GetBondTypeAsDouble()) for b in list_bonds(mol)
    ]
    for match in found.GetSubstructMatches(wanted, uniquify=False, maxMatches=1000):
        rows = np.zeros(len(numbers), np.int64)
        for atoms, atom in zip(wanted_atoms, match, strict=True):
            rows[atoms] = found_atoms[atom]
        # Every match uses the same distances, so the sum is least where high orders are short.
        total = sum(
            k * np.linalg.norm(positions[rows[i]] - positions[rows[j]]) for i, j, k in orders
        )
        if total < shortest:
            shortest, best = total, rows
    return best


def _skeleton(mol: Chem.Mol) -> tuple[Chem.Mol, list[list[int]]]:
    """Join heavy atoms by single bonds, and list for each its atom of `mol` and the hydrogens.

    The number of hydrogens stands in the isotope, so that a substructure match has to respect it.
    """
    skeleton = Chem.RWMol()
    members: list[list[int]] = []
    place: dict[int, int] = {}
    for atom in list_atoms(mol):
        if atom.GetAtomicNum() == 1:
            continue
        hydrogens = [other.GetIdx() for other in atom.GetNeighbors() if other.GetAtomicNum() == 1]
        bare = Chem.Atom(atom.GetAtomicNum())
        bare.SetIsotope(1 + len(hydrogens))
        place[atom.GetIdx()] = skeleton.AddAtom(bare)
        members.append([atom.GetIdx(), *hydrogens])
    for bond in list_bonds(mol):
        i, j = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        if i in place and j in place:
            skeleton.AddBond(place[i], place[j], Chem.BondType.SINGLE)
    return skeleton.GetMol(), members


def _conformer(positions: Float[np.ndarray, "n 3"]) -> Chem.Conformer:
    conformer = Chem.Conformer(len(positions))
    conformer.Set3D(True)
    conformer.SetPositions(np.ascontiguousarray(positions, np.float64))
    return conformer
