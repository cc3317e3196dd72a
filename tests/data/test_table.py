from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from moleblend.chem.parsing import read_smiles
from moleblend.data.formats import read_table
from moleblend.data.table import Rejected, Table, find_smiles_column, read_molecules
from tests.helpers.tables import read, reason, write_file


def in_memory(**columns):
    return Table(Path("t.csv"), pa.table(columns))


def test_missing_and_ambiguous_columns(tmp_path):
    table = read_table(write_file(tmp_path / "t.csv", "smiles,y,y\nC,1,2\n"))
    assert "'smiles', 'y', 'y'" in reason(table.column, "z")
    assert "2 columns are called 'y'" in reason(table.column, "y")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["y", "SMILES"], "SMILES"),
        (["mol", "smiles"], "smiles"),
        (["mol", "CID"], "mol"),
        (["Canonical SMILES", "y"], "Canonical SMILES"),
        (["id", "SMILES (canonical)"], "SMILES (canonical)"),
        (["Molecule SMILES", "y"], "Molecule SMILES"),
        (["smiles_std", "y"], "smiles_std"),
        (["smiles", "parent_smiles"], "smiles"),
    ],
)
def test_smiles_column_is_found(names, expected):
    assert find_smiles_column(in_memory(**{name: ["C"] for name in names})) == expected


def test_smiles_column_is_not_guessed():
    assert "'a', 'b'" in reason(find_smiles_column, in_memory(a=["C"], b=["C"]))
    ambiguous = in_memory(mol=["C"], structure=["C"])
    assert "'mol' and 'structure'" in reason(find_smiles_column, ambiguous)
    pair = in_memory(salt_smiles=["C"], parent_smiles=["C"])
    assert "choose one (--smiles COLUMN" in reason(find_smiles_column, pair)
    assert "(--smiles COLUMN" in reason(find_smiles_column, in_memory(smilesian=["C"]))


def test_the_column_that_holds_smiles_is_proposed():
    table = in_memory(code=["a1", "a2"], Molecule=["CCO", "c1ccccc1"], y=["1", "2"])
    told = reason(find_smiles_column, table)
    assert "(--smiles COLUMN, in Python smiles=); by its content it may be 'Molecule'; " in told


def test_a_table_without_a_header_is_told():
    told = reason(find_smiles_column, in_memory(**{"CC(=O)OCC": ["CCO"], "-4.69": ["1"]}))
    assert "expected column names in the first line, got the molecule" in told
    assert "first line" not in reason(find_smiles_column, in_memory(**{"C1": ["C"], "IC50": ["1"]}))


# --- molecules -----------------------------------------------------------------------------------


def test_one_item_a_row_in_order():
    table = in_memory(smiles=["CO", "nonsense", None, "N"], code=["a", "b", None, "a"])
    methanol, nonsense, empty, ammonia = read(table, id="code")
    assert (methanol.id, ammonia.id) == ("a", "a")
    assert (nonsense.row, nonsense.id) == (2, "b")
    assert not nonsense.reason.startswith("b: ")
    assert (empty.row, empty.id) == (3, "row 3")
    assert "empty" in empty.reason


def test_feature_version_is_passed_on():
    for version in ("cip-1", "ogb-1"):
        (molecule,) = read(in_memory(smiles=["OCC"]), features=version)
        expected = read_smiles("OCC", features=version)
        assert molecule.features == version
        np.testing.assert_array_equal(molecule.atoms, expected.atoms)


def test_wrong_columns_are_refused_before_the_first_row():
    assert "there is no column 'x'" in reason(read_molecules, in_memory(smiles=["C"]), smiles="x")
    assert "there is no column 'x'" in reason(read_molecules, in_memory(smiles=["C"]), id="x")
    assert "row 1: got 1 in column 'y', expected text" in reason(
        read_molecules, in_memory(y=[1]), smiles="y"
    )
    assert "list of numbers" in reason(
        read_molecules, in_memory(smiles=["C"]), coordinates="smiles"
    )


def test_geometry_with_hydrogens_from_list_columns():
    water_xyz = [1.21, 0, 0, 0.01, 0.93, 0, 0.25, 0, 0]  # the hydrogens first
    table = in_memory(
        smiles=["O", "O", "O", "C"],
        atomic_numbers=pa.array([[1, 1, 8]] * 4, pa.list_(pa.uint8())),
        coordinates=pa.array(
            [water_xyz, [1, 0], None, water_xyz],
            pa.list_(pa.float32()),
        ),
    )
    water, ragged, flat, methane = read(table)
    np.testing.assert_array_equal(water.positions, [[[0.25, 0, 0]]])
    assert ragged == Rejected(2, "row 2", "got 2 coordinates, expected three per atom")
    assert flat.n_conformers == 0
    assert isinstance(methane, Rejected)


def test_geometry_of_heavy_atoms_in_milli_angstrom_follows_the_atoms():
    lists = pa.array([[0, 0, 0, 1400, 0, 0, 1900, 1000, -500]], pa.list_(pa.int16()))
    table = in_memory(smiles=["OCN"], coordinates_mA=lists)
    (molecule,) = read(table)
    expected = np.array([[0, 0, 0], [1.4, 0, 0], [1.9, 1, -0.5]], np.float32)
    np.testing.assert_allclose(molecule.positions[0], expected[molecule.source_atoms])
    elements = np.array([8, 6, 7])[molecule.source_atoms]
    np.testing.assert_array_equal(molecule.atoms[:, 0] + 1, elements)
    (scaled,) = read(table, coordinates="coordinates_mA", coordinate_scale=0.00105)
    np.testing.assert_allclose(scaled.positions, 1.05 * molecule.positions, rtol=1e-6)


def test_a_text_column_called_coordinates_is_no_geometry():
    (molecule,) = read(in_memory(smiles=["C"], coordinates=["north"]))
    assert molecule.n_conformers == 0
