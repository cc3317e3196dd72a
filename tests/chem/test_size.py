"""Molecules of absurd size: refused before RDKit reads them. The cap is lowered for these tests."""

from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import AllChem

from moleblend.chem import parsing, size
from moleblend.chem.parsing import read_mol_block, read_smiles
from moleblend.chem.xyz import read_xyz
from moleblend.data.formats import read_table
from moleblend.data.table import Rejected, read_molecules
from moleblend.errors import TooLargeError
from tests.helpers.molecules import AWKWARD, DRUGS


@pytest.fixture
def _cap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(size, "MOST_ATOMS", 8)


def block(smiles: str, version: str, *, with_hydrogens: bool = True) -> str:
    mol = Chem.MolFromSmiles(smiles)
    mol = Chem.AddHs(mol) if with_hydrogens else mol
    AllChem.Compute2DCoords(mol)
    return Chem.MolToMolBlock(mol, forceV3000=version == "V3000")


@pytest.fixture
def _no_rdkit(monkeypatch: pytest.MonkeyPatch) -> None:
    """RDKit is not called."""

    def called(*_: object, **__: object) -> None:
        raise AssertionError("RDKit was called")

    monkeypatch.setattr(parsing.Chem, "MolFromSmiles", called)
    monkeypatch.setattr(parsing.Chem, "MolFromMolBlock", called)


LARGE = [
    "C" * 9,
    "ClCCCCCCCBr",
    "[CH3]CCCCCCCC",
    "c1ccccc1[13CH2][Si](O)",
    "[Na+].[Cl-].[Hg].[He].[H+].O.O.O.O.O",
    "[H]" * 25 + "[H]" * 8,
    "C1CC1" * 3,
]


@pytest.mark.usefixtures("_cap", "_no_rdkit")
@pytest.mark.parametrize("smiles", LARGE)
def test_a_large_smiles_is_not_given_to_rdkit(smiles: str) -> None:
    with pytest.raises(TooLargeError, match=r"x: .* moleblend reads at most 8 atoms \(32 with hy"):
        read_smiles(smiles, id="x")


@pytest.mark.usefixtures("_cap")
@pytest.mark.parametrize("version", ["V2000", "V3000"])
def test_a_large_mol_block_is_not_given_to_rdkit(
    version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read_mol_block(block("CCCCCCCC", version)).n_atoms == 8  # 26 with hydrogens
    assert read_mol_block(block("CCCCCCCC", version, with_hydrogens=False)).n_atoms == 8
    large = [block("CCCCCCCCC", version, with_hydrogens=one) for one in (True, False)]
    monkeypatch.setattr(parsing.Chem, "MolFromMolBlock", None)
    for text in large:
        with pytest.raises(TooLargeError, match="9 atoms"):
            read_mol_block(text)


@pytest.mark.usefixtures("_cap")
def test_a_large_geometry_is_not_given_to_rdkit() -> None:
    with pytest.raises(TooLargeError, match="9 atoms and 1 hydrogens"):
        read_xyz(np.array([6] * 9 + [1]), np.zeros((10, 3)), "CCC")


@pytest.mark.usefixtures("_cap")
@pytest.mark.parametrize("ending", ["csv", "tsv", "smi", "sdf"])
def test_the_row_is_too_large_in_every_format(ending: str, tmp_path: Path) -> None:
    path, smiles = tmp_path / f"in.{ending}", ["CC", "C" * 9, "C1CC"]
    if ending == "sdf":
        blocks = [block(text, "V3000") for text in smiles[:2]]
        path.write_text("".join(f"{text}$$$$\n" for text in [*blocks, "nonsense\n"]))
    else:
        path.write_text("\n".join([*(["smiles"] * (ending != "smi")), *smiles, ""]))
    _, second, third = read_molecules(read_table(path))
    assert isinstance(second, Rejected)
    assert isinstance(third, Rejected)
    assert (second.status, third.status) == ("too_large", "invalid")
    assert "9 atoms" in second.reason


@pytest.mark.parametrize("smiles", AWKWARD + DRUGS)
def test_the_count_is_that_of_rdkit(smiles: str, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []
    monkeypatch.setattr(size, "MOST_ATOMS", 0)
    monkeypatch.setattr(
        size, "check_size", lambda heavy, hydrogens, _: counted.extend((heavy, hydrogens))
    )
    size.check_smiles_size(smiles, "x")
    parameters = Chem.SmilesParserParams()
    parameters.removeHs = False
    numbers = [atom.GetAtomicNum() for atom in Chem.MolFromSmiles(smiles, parameters).GetAtoms()]
    assert sum(counted) == len(numbers)
