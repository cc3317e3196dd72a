"""Geometries in Å pass; drawings and other units do not, in whatever format they come."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from rdkit import Chem
from rdkit.Chem import rdDepictor, rdDistGeom, rdForceFieldHelpers

from moleblend.chem.geometry import add_positions
from moleblend.chem.geometry_check import check_geometry
from moleblend.chem.parsing import parse, read_mol_block, read_smiles
from moleblend.chem.xyz import parse_xyz, read_xyz
from moleblend.data.table import Table, read_molecules

FLAT = ("c1ccccc1", "c1ccncc1", "C=C", "O=C=O", "O", "C=O", "N#CC#N", "OC=O")
ROUND = ("CCO", "CC(C)O", "C1CCCCC1", "CS(N)(=O)=O", "N[C@@H](C)C(=O)O", "CC(=O)Oc1ccccc1C(=O)O")


def embedded(smiles: str, *, hydrogens: bool = True) -> Chem.Mol:
    """RDKit's geometry of a molecule, as a molecule with a conformer."""
    mol = Chem.AddHs(parse(smiles))
    assert rdDistGeom.EmbedMolecule(mol, randomSeed=1) == 0
    rdForceFieldHelpers.MMFFOptimizeMolecule(mol)
    if smiles == "O=C=O":  # MMFF94 has 1.40 Å
        mol.GetConformer().SetPositions(np.array([[-1.16, 0, 0], [0, 0, 0], [1.16, 0, 0.0]]))
    return mol if hydrogens else Chem.RemoveHs(mol)


def drawn(smiles: str, *, length: float = 1.5, hydrogens: bool = False) -> Chem.Mol:
    mol = Chem.AddHs(parse(smiles)) if hydrogens else parse(smiles)
    rdDepictor.Compute2DCoords(mol, bondLength=length)
    return mol


def block_of(mol: Chem.Mol, dimension: str, scale: float = 1.0, *, v3000: bool = False) -> str:
    mol = Chem.Mol(mol)
    mol.GetConformer().SetPositions(mol.GetConformer().GetPositions() * scale)
    lines = Chem.MolToMolBlock(mol, forceV3000=v3000).split("\n")
    lines[1] = f"{lines[1][:20]:<20}{dimension}"
    return "\n".join(lines)


@pytest.mark.parametrize("smiles", FLAT + ROUND)
@pytest.mark.parametrize("v3000", [False, True])
@pytest.mark.parametrize("dimension", ["3D", "2D", "  "])
def test_a_geometry_with_hydrogens_is_one_whatever_the_header_says(
    smiles: str, dimension: str, v3000: bool
) -> None:
    molecule = read_mol_block(block_of(embedded(smiles), dimension, v3000=v3000))
    assert molecule.n_conformers == 1
    assert molecule.geometry_note == ""
    assert Chem.CanonSmiles(molecule.smiles) == Chem.CanonSmiles(smiles)


@pytest.mark.parametrize("smiles", [*ROUND, "c1ccccc1", "c1ccncc1", "O=C=O", "CC=CC"])
@pytest.mark.parametrize("length", [1.0, 1.5, 0.825])
@pytest.mark.parametrize("hydrogens", [False, True])
def test_a_drawing_is_one_although_the_header_says_3d(
    smiles: str, length: float, hydrogens: bool
) -> None:
    mol = drawn(smiles, length=length, hydrogens=hydrogens)
    molecule = read_mol_block(block_of(mol, "3D"))
    assert molecule.n_conformers == 0
    assert molecule.geometry_note.startswith("the coordinates are a 2D drawing: ")
    assert molecule.smiles == read_smiles(smiles).smiles  # wedges are kept, no other stereo appears


@pytest.mark.parametrize(("unit", "factor"), [("bohr", 1 / 0.529177), ("nm", 0.1), ("pm", 100.0)])
@pytest.mark.parametrize("smiles", ["CC(C)O", "CS(N)(=O)=O", "N[C@@H](C)C(=O)O"])
def test_another_unit_is_refused_and_named(smiles: str, unit: str, factor: float) -> None:
    molecule = read_mol_block(block_of(embedded(smiles), "3D", factor))
    assert molecule.n_conformers == 0
    assert molecule.geometry_note.endswith(f"the unit is probably {unit}")
    assert molecule.smiles == read_smiles(smiles).smiles


def test_two_atoms_in_one_place_are_refused() -> None:
    mol = embedded("CCCCO")
    positions = mol.GetConformer().GetPositions()
    positions[4] = positions[0] + 0.1
    assert check_geometry(mol, positions).kind == "refused"


def test_positions_of_a_table_are_checked_too() -> None:
    mol = embedded("CC(C)O")
    positions = mol.GetConformer().GetPositions()
    flat = drawn("CC(C)O", hydrogens=True).GetConformer().GetPositions()
    rows = [positions.tolist(), (positions / 0.529177).tolist(), flat.tolist(), None]
    numbers = [atom.GetAtomicNum() for atom in mol.GetAtoms()]
    for nested in (pa.list_(pa.list_(pa.float64())), pa.list_(pa.list_(pa.float32(), 3))):
        columns = {
            "smiles": ["CC(C)O"] * 4,
            "xyz": pa.array(rows, nested),
            "atomic_numbers": [numbers] * 4,
        }
        items = list(read_molecules(Table(source=Path("table"), columns=pa.table(columns))))
        assert [item.n_conformers for item in items] == [1, 0, 0, 0]
        notes = [item.geometry_note for item in items]
        assert notes[0] == notes[3] == ""
        assert notes[1].endswith("the unit is probably bohr")
        assert notes[2].startswith("the coordinates are a 2D drawing")


def test_isotopes_of_hydrogen_in_xyz() -> None:
    numbers, positions = parse_xyz("3\n\nO 0 0 0\nD 0.96 0 0\nT -0.24 0.93 0\n")
    assert numbers.tolist() == [8, 1, 1]
    assert read_xyz(numbers, positions, "O").n_conformers == 1


@pytest.mark.parametrize("smiles", ["CN=S=O", "CN=S=NC"])
def test_groups_that_do_not_fit_the_knowledge_of_etkdg(smiles: str) -> None:
    assert add_positions(read_smiles(smiles)).n_conformers == 1


def test_the_scale_of_a_geometry_decides_alone() -> None:
    """Rotation, translation and the order of atoms do not matter."""
    rng = np.random.default_rng(0)
    mol = embedded("c1ccncc1")
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    positions = mol.GetConformer().GetPositions() @ rotation + rng.normal(size=3)
    assert check_geometry(mol, positions).kind == "geometry"
    order = rng.permutation(mol.GetNumAtoms()).tolist()
    renumbered = Chem.RenumberAtoms(mol, order)
    assert check_geometry(renumbered, positions[order]).kind == "geometry"
