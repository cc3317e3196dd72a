import gzip

import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from moleblend.chem.molecule import MoleculeError
from moleblend.chem.parsing import read_mol_block
from moleblend.data.sdf import read_sdf


def mol_block(smiles: str) -> str:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert rdDistGeom.EmbedMolecule(mol, randomSeed=1) == 0
    return Chem.MolToMolBlock(mol)


@pytest.mark.parametrize("name", ["some.sdf", "some.sdf.gz"])
def test_sdf_loses_no_record(tmp_path, name):
    good = mol_block("CO")
    fields = ">  <ID>  (1)\nmethanol\n\n> <note>\ntwo\nlines <x>\n\n"
    text = f"{good}{fields}$$$$\nbroken\n$$$$\n{good}$$$$\n{good[:90]}"
    opened = gzip.open if name.endswith(".gz") else open
    with opened(tmp_path / name, "wt", newline="\r\n") as file:
        file.write(text)
    records = list(read_sdf(tmp_path / name))
    assert [properties for _, properties in records] == [
        {"ID": "methanol", "note": "two\nlines <x>"},
        {},
        {},
        {},
    ]
    assert records[0][0] == good
    assert read_mol_block(records[2][0]).smiles == "CO"
    for block in (records[1][0], records[3][0]):
        with pytest.raises(MoleculeError):
            read_mol_block(block)


def test_sdf_that_is_missing_or_cut(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.sdf"):
        next(read_sdf(tmp_path / "none.sdf"))
    blocks = [
        mol_block(smiles)
        for smiles in ("CC(=O)Oc1ccccc1C(=O)O", "CN1CCC[C@H]1c1cccnc1", "OCC(O)CO")
    ]
    packed = gzip.compress("$$$$\n".join(blocks).encode())
    (tmp_path / "cut.sdf.gz").write_bytes(packed[: len(packed) // 2])
    found = []
    with pytest.raises(ValueError, match="truncated or damaged"):
        found.extend(read_sdf(tmp_path / "cut.sdf.gz"))
    (tmp_path / "text.sdf.gz").write_bytes(b"not gzip")
    with pytest.raises(ValueError, match="damaged"):
        list(read_sdf(tmp_path / "text.sdf.gz"))
