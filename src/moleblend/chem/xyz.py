"""XYZ geometries, which have no bonds, combined with the SMILES of their molecules."""

import math
from dataclasses import replace

import numpy as np
from jaxtyping import Float, Int, Integer
from rdkit import Chem
from rdkit.Chem import rdDetermineBonds

from moleblend.chem.featurizer import list_atoms, list_bonds
from moleblend.chem.geometry_check import GeometryCheck, check_geometry, unit_problem
from moleblend.chem.molecule import FeatureVersion, Molecule, MoleculeError, check_positions
from moleblend.chem.parsing import (
    REMOVE_STEREO_HYDROGENS,
    build_record,
    parse_with_sources,
    read_smiles,
    remove_hydrogens,
)
from moleblend.chem.size import check_size

_LONGEST_BOND = 1.3
"""Length of the longest plausible bond, divided by the sum of the two covalent radii."""

_LARGEST_DRAWING = 2.0
"""Length of the bonds of a drawing divided by their expected length; atoms of other molecules are
farther apart."""

_ISOTOPES = {"D": "H", "T": "H"}
"""Symbols of isotopes; positions do not tell them apart."""

_COVALENT_RADII = np.array([Chem.GetPeriodicTable().GetRcovalent(number) for number in range(119)])


def read_xyz(
    atomic_numbers: Integer[np.ndarray, " n"],
    positions: Float[np.ndarray, "n 3"],
    smiles: str,
    *,
    id: str = "",
    features: FeatureVersion = "cip-1",
) -> Molecule:
    """Combine a geometry without bonds with the SMILES that defines the bonds.

    Atoms in RDKit's order of the SMILES (heavy atoms, then hydrogens) are accepted if the elements
    agree and no bond is longer than 1.3 times the sum of the covalent radii. In QM9 this ratio is
    at most 1.29, and at least 2.1 if the order differs. Otherwise the bonds are determined from the
    distances, and the two graphs are matched without bond orders. If several matches exist, the one
    with the shortest distances for high bond orders is used.

    Args:
        atomic_numbers: of all atoms, or of the heavy atoms only (then in the order of the SMILES).
        positions: in Å.
        smiles: its stereo is replaced by the stereo of the geometry.
        id: the molecule's name; the SMILES itself if empty.
        features: the feature version.

    Returns:
        A molecule with one geometry; `source_atoms` are rows of `positions`. If the positions are
        a drawing or not in Å, the molecule has no geometry, and `geometry_note` has the reason.

    Raises:
        MoleculeError: the SMILES is invalid, or geometry and SMILES are different molecules.
    """
    text = smiles.strip()
    name = id or text or "molecule"
    numbers = np.asarray(atomic_numbers, np.int64)
    check_size(int((numbers != 1).sum()), int((numbers == 1).sum()), name)
    check_positions(positions, name)
    parsed, _ = parse_with_sources(text, name)
    bare = Chem.RemoveHs(parsed, REMOVE_STEREO_HYDROGENS)
    for mol in (Chem.AddHs(bare), parsed, bare):
        if sorted(numbers) == sorted(atom.GetAtomicNum() for atom in list_atoms(mol)):
            break
    else:
        raise MoleculeError(
            f"{name}: the {len(numbers)} atoms of the geometry do not match the SMILES {text}, "
            "with or without hydrogens"
        )
    rows = np.arange(len(numbers))
    is_in_order = [atom.GetAtomicNum() for atom in list_atoms(mol)] == numbers.tolist()
    check = check_geometry(mol, positions) if is_in_order else GeometryCheck("geometry")
    is_drawing = check.kind == "drawing" and check.ratio < _LARGEST_DRAWING
    note = check.reason if is_drawing else unit_problem(numbers, positions)
    if note:
        return replace(read_smiles(text, id=name, features=features), geometry_note=note)
    if not _is_plausible(mol, numbers, positions):
        has_all_atoms = not any(atom.GetTotalNumHs() for atom in list_atoms(mol))
        matched = _match_geometry(mol, numbers, positions) if has_all_atoms else None
        if matched is None:
            raise MoleculeError(
                f"{name}: the distances in the geometry do not match the bonds of {text}"
            )
        rows = matched
    check = check_geometry(mol, positions[rows])
    if check.kind in ("drawing", "refused"):
        return replace(read_smiles(text, id=name, features=features), geometry_note=check.reason)
    mol.RemoveAllConformers()
    mol.AddConformer(_conformer(positions[rows]))
    Chem.AssignStereochemistryFrom3D(mol)
    mol, kept = remove_hydrogens(mol, name)
    return build_record(mol, [int(rows[i]) for i in kept], name, features)


def parse_xyz(text: str) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, "n 3"]]:
    """Read the first frame of an XYZ file: atom count, comment, then `element x y z ...` per atom.

    Args:
        text: elements are symbols or numbers; further columns and frames are ignored. Numbers may
            be written as 1.2*^-6, as in the files of QM9.

    Returns:
        Atomic numbers and positions in Å.

    Raises:
        MoleculeError: a line is invalid; the message has its number.
    """
    lines = text.splitlines()
    if not lines or not lines[0].strip().isdecimal():
        raise MoleculeError(f"XYZ: line 1 must be the number of atoms, got {(lines or [''])[0]!r}")
    n_atoms = int(lines[0])
    if len(lines) < n_atoms + 2:
        raise MoleculeError(
            f"XYZ: line 1 says {n_atoms} atoms, but only {max(len(lines) - 2, 0)} follow"
        )
    table = Chem.GetPeriodicTable()
    numbers = np.zeros(n_atoms, np.int64)
    positions = np.zeros((n_atoms, 3))
    for row, line in enumerate(lines[2 : n_atoms + 2]):
        try:
            element, x, y, z = line.replace("*^", "e").split()[:4]
            symbol = _ISOTOPES.get(element.upper(), element.capitalize())
            numbers[row] = int(element) if element.isdecimal() else table.GetAtomicNumber(symbol)
            positions[row] = float(x), float(y), float(z)
        except (ValueError, RuntimeError) as error:  # RuntimeError: unknown element symbol
            raise MoleculeError(
                f"XYZ: line {row + 3} must be an element and three numbers, got {line!r}"
            ) from error
    return numbers, positions


def _is_plausible(
    mol: Chem.Mol, numbers: Int[np.ndarray, " n"], positions: Float[np.ndarray, "n 3"]
) -> bool:
    """Check that the geometry, in the order of `mol`, has the same elements and no long bond."""
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
    """Return the row of the geometry for each atom of `mol`; None if the two graphs differ."""
    geometry = Chem.RWMol()
    for number in numbers:
        geometry.AddAtom(Chem.Atom(int(number)))
    geometry.AddConformer(_conformer(positions))
    rdDetermineBonds.DetermineConnectivity(geometry, useVdw=True, covFactor=1.15)
    expected, expected_atoms = _skeleton(mol)
    given, given_atoms = _skeleton(geometry)
    if given.GetNumBonds() != expected.GetNumBonds():
        return None
    shortest = math.inf
    best = None
    orders = [
        (b.GetBeginAtomIdx(), b.GetEndAtomIdx(), b.GetBondTypeAsDouble()) for b in list_bonds(mol)
    ]
    for match in given.GetSubstructMatches(expected, uniquify=False, maxMatches=1000):
        rows = np.zeros(len(numbers), np.int64)
        for atoms, atom in zip(expected_atoms, match, strict=True):
            rows[atoms] = given_atoms[atom]
        # All matches use the same distances; the sum is smallest if high orders are short.
        total = sum(
            k * np.linalg.norm(positions[rows[i]] - positions[rows[j]]) for i, j, k in orders
        )
        if total < shortest:
            shortest, best = total, rows
    return best


def _skeleton(mol: Chem.Mol) -> tuple[Chem.Mol, list[list[int]]]:
    """Return the heavy atoms with single bonds, and for each its index and those of its hydrogens.

    The number of hydrogens is stored as the isotope, so that substructure matching respects it.
    """
    skeleton = Chem.RWMol()
    members: list[list[int]] = []
    index: dict[int, int] = {}
    for atom in list_atoms(mol):
        if atom.GetAtomicNum() == 1:
            continue
        hydrogens = [other.GetIdx() for other in atom.GetNeighbors() if other.GetAtomicNum() == 1]
        bare = Chem.Atom(atom.GetAtomicNum())
        bare.SetIsotope(1 + len(hydrogens))
        index[atom.GetIdx()] = skeleton.AddAtom(bare)
        members.append([atom.GetIdx(), *hydrogens])
    for bond in list_bonds(mol):
        i, j = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        if i in index and j in index:
            skeleton.AddBond(index[i], index[j], Chem.BondType.SINGLE)
    return skeleton.GetMol(), members


def _conformer(positions: Float[np.ndarray, "n 3"]) -> Chem.Conformer:
    conformer = Chem.Conformer(len(positions))
    conformer.Set3D(True)
    conformer.SetPositions(np.ascontiguousarray(positions, np.float64))
    return conformer
