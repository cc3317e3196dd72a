import csv
import gzip
import json
import random
from dataclasses import replace

import numpy as np
import pyarrow.parquet as parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem
from rdkit.Chem import rdDepictor, rdDistGeom
from safetensors.numpy import load_file

from moleblend.chem import featurizer
from moleblend.chem.geometry import add_positions
from moleblend.chem.molecule import MoleculeError
from moleblend.chem.parsing import read_mol_block, read_smiles, remove_hydrogens
from moleblend.chem.xyz import parse_xyz, read_xyz
from tests.helpers.molecules import AWKWARD, DRUGS, key


def shuffled(mol: Chem.Mol, seed: int) -> Chem.Mol:
    order = list(range(mol.GetNumAtoms()))
    random.Random(seed).shuffle(order)
    return Chem.RenumberAtoms(mol, order)


def test_features_of_ethanol_by_hand():
    molecule = read_smiles(" OCC ")
    assert (molecule.smiles, molecule.id) == ("CCO", "OCC")
    # element, chirality, degree, charge + 5, hydrogens, radicals, sp3, aromatic, ring
    assert molecule.atoms.tolist() == [
        [5, 0, 4, 5, 3, 0, 2, 0, 0],
        [5, 0, 4, 5, 2, 0, 2, 0, 0],
        [7, 0, 2, 5, 1, 0, 2, 0, 0],
    ]
    assert molecule.bonds.tolist() == [[0, 1], [1, 2]]
    assert molecule.bond_features.tolist() == [[0, 0, 0], [0, 0, 0]]
    assert molecule.source_atoms.tolist() == [2, 1, 0]
    assert molecule.n_conformers == 0


@pytest.mark.parametrize(
    ("smiles", "column", "values"),
    [
        ("c1ccccc1[N+](=O)[O-]", 3, {4, 5, 6}),
        ("[CH2]C#N", 5, {0, 1}),
        ("C#N", 6, {0}),
        ("FS(F)(F)(F)(F)F", 6, {2, 4}),
        ("*C", 0, {118, 5}),
        ("[C+20]", 3, {11}),
        ("F[P-](F)(F)(F)(F)F", 2, {1, 6}),
    ],
)
def test_atom_features(smiles, column, values):
    assert set(read_smiles(smiles).atoms[:, column].tolist()) == values


@pytest.mark.parametrize(
    ("smiles", "expected"),
    [
        ("C[C@H](N)C(=O)O", [0, 2, 0, 0, 0, 0]),
        ("C[C@@H](N)C(=O)O", [0, 1, 0, 0, 0, 0]),
        ("C[C@@H](O)[C@@H](O)[C@H](C)O", None),
    ],
)
def test_cip_labels(smiles, expected):
    """L-alanine is S; the middle of a meso-like triol is pseudo-asymmetric."""
    labels = read_smiles(smiles).atoms[:, 1].tolist()
    assert labels == expected if expected else sorted(set(labels) - {0}) in ([1, 2, 3], [1, 2, 4])


@pytest.mark.parametrize(("smiles", "label"), [("F/C=C\\F", 1), ("F/C=C/F", 2), ("FC=CF", 0)])
@pytest.mark.parametrize("features", ["cip-1", "ogb-1"])
def test_double_bond_stereo(smiles, label, features):
    assert read_smiles(smiles, features=features).bond_features[:, 1].max() == label


@pytest.mark.parametrize(
    ("smiles", "label"),
    [("CC/C(C)=C(/[C@H](C)O)[C@@H](C)O", 3), ("CC/C(C)=C(\\[C@H](C)O)[C@@H](C)O", 4)],
)
def test_double_bonds_that_only_r_and_s_decide(smiles, label):
    """Ethyl outranks methyl and R outranks S: in the first one ethyl lies on the side of R."""
    assert read_smiles(smiles).bond_features[:, 1].max() == label


def test_undecided_cip_labels_are_zero(monkeypatch):
    monkeypatch.setattr(featurizer, "_CIP_ITERATIONS", 1)
    assert not read_smiles(DRUGS[1]).atoms[:, 1].any()


def test_ogb_values_outside_its_lists_are_other():
    assert read_smiles("N->[Fe]", features="ogb-1").bond_features[:, 0].tolist() == [4]
    mol = Chem.MolFromSmiles("CC=CC")
    rdDepictor.Compute2DCoords(mol)
    crossed = read_mol_block(Chem.MolToMolBlock(mol), features="ogb-1")
    assert crossed.bond_features[:, 1].max() == 5
    square = read_smiles("C[Pt@SP1](F)(Cl)Br", features="ogb-1")
    assert square.atoms[:, 1].max() == 4


@given(st.sampled_from(AWKWARD[:-4] + AWKWARD[-2:] + DRUGS), st.integers(0, 2**31 - 1))
@settings(max_examples=60, deadline=None)
def test_record_does_not_depend_on_how_the_molecule_is_written(smiles, seed):
    expected = read_smiles(smiles)
    assert key(read_smiles(expected.smiles)) == key(expected)
    mol = shuffled(Chem.MolFromSmiles(smiles), seed)
    assert key(read_smiles(Chem.MolToSmiles(mol, canonical=False))) == key(expected)
    assert key(read_smiles(Chem.MolToSmiles(mol, doRandom=True, kekuleSmiles=True))) == key(
        expected
    )
    rdDepictor.Compute2DCoords(mol)
    for block in (Chem.MolToMolBlock(mol), Chem.MolToV3KMolBlock(mol)):
        drawn = read_mol_block(block)
        assert key(drawn) == key(expected)
        assert drawn.n_conformers == 0


@pytest.mark.parametrize("smiles", [*DRUGS, "[2H]C([2H])([2H])O", "C", "[H][H]"])
def test_a_geometry_gives_the_record_of_the_smiles(smiles):
    expected = read_smiles(smiles)
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert rdDistGeom.EmbedMolecule(mol, randomSeed=1) == 0
    numbers = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()])
    positions = mol.GetConformer().GetPositions()
    from_xyz = read_xyz(numbers, positions, smiles)
    mixed = shuffled(mol, 3)
    places = mixed.GetConformer().GetPositions()
    for molecule, source in (
        (from_xyz, positions),
        (read_mol_block(Chem.MolToMolBlock(mixed)), places),
        (read_mol_block(Chem.MolToV3KMolBlock(mixed)), places),
    ):
        assert key(molecule) == key(expected)
        np.testing.assert_allclose(molecule.positions[0], source[molecule.source_atoms], atol=1e-4)


def test_hydrogens_that_mark_an_imine_are_counted_not_kept():
    molecule = read_smiles("[H]/N=C(/C)CC")
    assert molecule.n_atoms == 5
    nitrogen = int(np.flatnonzero(molecule.atoms[:, 0] == 6)[0])
    assert molecule.atoms[nitrogen, [2, 4]].tolist() == [2, 1]
    assert molecule.bond_features[:, 1].max() == 1
    assert key(molecule) != key(read_smiles("[H]/N=C(\\C)CC"))
    assert read_smiles("[H]/N=C(/C)CC", features="ogb-1").n_atoms == 6


def test_source_atoms_count_the_hydrogens_of_the_input():
    molecule = read_smiles("[H]OC([H])([H])[H]")
    assert (molecule.smiles, molecule.source_atoms.tolist()) == ("CO", [2, 1])


def test_reaction_numbers_do_not_matter():
    assert key(read_smiles("[CH3:7][CH2:1][OH:3]")) == key(read_smiles("CCO"))


@pytest.mark.parametrize("smiles", AWKWARD)
@pytest.mark.parametrize("features", ["cip-1", "ogb-1"])
def test_awkward_molecules_are_ordinary_input(smiles, features):
    molecule = read_smiles(smiles, features=features)
    again = Chem.MolFromSmiles(molecule.smiles)
    numbers = [atom.GetAtomicNum() or 119 for atom in again.GetAtoms()]
    assert [number - 1 for number in numbers] == molecule.atoms[:, 0].tolist()


@pytest.mark.parametrize(
    ("smiles", "words"),
    [
        ("", "the SMILES is empty"),
        ("  ", "the SMILES is empty"),
        ("C1CC", "unclosed ring"),
        ("CC(", "unmatched parenthesis"),
        ("C(C)(C)(C)(C)C", "atom 1, C, has a valence of 5"),
        ("c1ccnc1", "kekulize"),
        ("CC ethane", "contains a space"),
        ("CCé", r"it contains the character 'é' \(latin small letter e with acute\)"),
        ("CCO\x00", r"it contains the character '\\x00' \(control character\)"),
    ],
)
def test_a_refused_smiles_says_why(smiles, words, capfd):
    with pytest.raises(MoleculeError, match=words):
        read_smiles(smiles)
    with pytest.raises(MoleculeError, match="row 7: "):
        read_smiles(smiles, id="row 7")
    assert capfd.readouterr().err == ""


def mol_block(smiles: str) -> str:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert rdDistGeom.EmbedMolecule(mol, randomSeed=1) == 0
    return Chem.MolToMolBlock(mol)


def test_a_damaged_mol_block_says_why():
    lines = mol_block("c1cocn1").splitlines()
    for n_lines in range(len(lines)):
        with pytest.raises(MoleculeError, match="mol block: "):
            read_mol_block("\n".join(lines[:n_lines]))
    with pytest.raises(MoleculeError, match=r"ring: .*EOF"):
        read_mol_block("ring\n" + "\n".join(lines[1:6]))
    with pytest.raises(MoleculeError, match="no atoms"):
        read_mol_block("\n\n\n  0  0  0  0  0  0  0  0  0  0999 V2000\nM  END\n")


def test_corrupted_mol_blocks_raise_nothing_else():
    block = mol_block("O=[N+]([O-])c1cocn1")
    dice = random.Random(0)
    for _ in range(300):
        letters = list(block)
        for _ in range(3):
            letters[dice.randrange(len(letters))] = dice.choice("0123456789 CNXM.-\n")
        try:
            read_mol_block("".join(letters))
        except MoleculeError:
            continue


def test_a_mol_block_that_is_wrong_only_without_its_hydrogens():
    block = mol_block("O=[N+]([O-])c1cocn1").replace("  2  4  1  0", "  2  4  5  0")
    mol = Chem.AddHs(Chem.MolFromMolBlock(block))
    with pytest.raises(MoleculeError, match="without its hydrogens"):
        remove_hydrogens(mol, "mol block")


def test_geometry_of_another_molecule_is_refused():
    water = np.array([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]])
    assert read_xyz(np.array([8, 1, 1]), water, "O").n_conformers == 1
    assert read_xyz(np.array([1, 8, 1]), water[[1, 0, 2]], "O").source_atoms.tolist() == [1]
    with pytest.raises(MoleculeError, match="the 3 atoms of the geometry do not match"):
        read_xyz(np.array([8, 1, 1]), water, "CO")
    with pytest.raises(MoleculeError, match="distances"):
        read_xyz(np.array([8, 1, 1]), 3 * water, "O")
    with pytest.raises(MoleculeError, match="distances"):
        read_xyz(np.array([8, 6]), np.array([[0.0, 0.0, 0.0], [9.0, 0.0, 0.0]]), "OC")


def test_of_two_maps_the_shorter_bond_is_the_double_one():
    formate = np.array([[-1.1, 0.0, 0.0], [0.0, 0.0, 0.0], [0.7, 1.15, 0.0], [0.6, -1.0, 0.0]])
    for rows in ([0, 1, 2, 3], [0, 1, 3, 2]):
        positions = formate[rows]
        molecule = read_xyz(np.array([1, 6, 8, 8]), positions, "[O-]C=O")
        assert molecule.smiles == "O=C[O-]"
        assert positions[molecule.source_atoms[0]].tolist() == [0.6, -1.0, 0.0]


def test_xyz_text():
    numbers, positions = parse_xyz("2\nany words\nCl 0 0 1.2*^-6 0.3\n1 1 2 3\nrest\n")
    assert numbers.tolist() == [17, 1]
    assert positions.tolist() == [[0, 0, 1.2e-6], [1, 2, 3]]
    for text, words in (
        ("", "line 1"),
        ("2\n\nC 0 0 0\n", "only 1 follow"),
        ("1\n\nC 1\n", "line 3"),
        ("1\n\nXx 0 0 0\n", "line 3"),
    ):
        with pytest.raises(MoleculeError, match=words):
            parse_xyz(text)


def test_ogb_record_whose_order_no_smiles_has_gets_no_positions():
    mol = shuffled(Chem.MolFromSmiles(DRUGS[0]), 1)
    rdDepictor.Compute2DCoords(mol)
    molecule = read_mol_block(Chem.MolToMolBlock(mol), features="ogb-1")
    with pytest.raises(MoleculeError, match="order of the record"):
        add_positions(molecule)
    for other in ("OC=C", "C(O)=C"):  # the elements stand elsewhere; the bonds do
        with pytest.raises(MoleculeError, match="order of the record"):
            add_positions(replace(read_smiles("C=CO", features="ogb-1"), smiles=other))


def test_published_features_from_smiles_and_mol_block(parity_fixture):
    tensors = load_file(parity_fixture.with_name(parity_fixture.name + ".safetensors"))
    told = json.loads(parity_fixture.with_name(parity_fixture.name + ".json").read_text())
    for row in told["molecules"]:
        i = row["index"]
        directed = tensors[f"in.{i}.edge_index"].T
        forward = directed[:, 0] < directed[:, 1]
        order = np.lexsort(directed[forward].T[::-1])
        blocks = read_mol_block(row["molblock_with_hydrogens"], features="ogb-1")
        for molecule in (blocks, read_smiles(row["smiles"], features="ogb-1")):
            assert np.array_equal(molecule.atoms, tensors[f"in.{i}.x"])
            assert np.array_equal(molecule.bonds, directed[forward][order])
            expected = tensors[f"in.{i}.edge_attr"][forward][order]
            assert np.array_equal(molecule.bond_features, expected)
        np.testing.assert_allclose(blocks.positions[0], tensors[f"in.{i}.pos"], atol=1e-4)


def test_qm9_geometries_in_another_order(data_folder):
    """Rows where a hydrogen stands before a heavy atom, and one that isn't what its SMILES says."""
    columns = ["index", "smiles", "atomic_numbers", "coordinates"]
    table = parquet.read_table(data_folder / "qm9" / "qm9.parquet", columns=columns)
    numbers = [np.array(row) for row in table["atomic_numbers"].to_pylist()]
    reordered = [i for i, row in enumerate(numbers) if (np.diff(row == 1) & (row[:-1] == 1)).any()]
    assert len(reordered) == 417
    for i in reordered[::4]:
        row = table.slice(i, 1).to_pylist()[0]
        if row["index"] == 59827:  # the geometry has this zwitterion's proton on its oxygen
            continue
        positions = np.array(row["coordinates"]).reshape(-1, 3)
        molecule = read_xyz(numbers[i], positions, row["smiles"])
        assert np.array_equal(molecule.atoms[:, 0] + 1, numbers[i][molecule.source_atoms])
        assert molecule.source_atoms.max() >= molecule.n_atoms
        i_bond, j_bond = molecule.positions[0][molecule.bonds.T]
        assert np.linalg.norm(i_bond - j_bond, axis=1).max() < 1.8
    torn = table.slice(table["index"].to_pylist().index(133859), 1).to_pylist()[0]
    with pytest.raises(MoleculeError, match="133859: the distances"):
        read_xyz(
            np.array(torn["atomic_numbers"]),
            np.array(torn["coordinates"]).reshape(-1, 3),
            torn["smiles"],
            id="133859",
        )


def test_real_smiles_in_random_order(data_folder):
    with gzip.open(data_folder / "unimol_split" / "hiv.csv.gz", "rt") as file:
        rows = [row["smiles"] for row in csv.DictReader(file)][:40_000:160]
    for smiles in rows:
        mol = Chem.MolFromSmiles(smiles)
        if mol is not None:
            written = Chem.MolToSmiles(mol, doRandom=True)
            assert key(read_smiles(written)) == key(read_smiles(smiles))
