import gzip
import io
import json
import zipfile
from pathlib import Path

import pytest

from moleblend.data.datasets.converters import (
    EV_PER_HARTREE,
    moses_table,
    protocol_u_table,
    qm9_table,
)
from moleblend.data.formats import read_table
from moleblend.data.table import smiles_table

QM9_HEADER = (
    "XYZ_file,Index,SMILES,Elements,XYZ_Ang,RotA_GHz,RotB_GHz,RotC_GHz,Dipole_debye,"
    "Polarizability_bohr3,HOMO_au,LUMO_au,HOMO_LUMO_gap_au,R2_bohr2,ZPVE_au,InternalEnergy_0K_au,"
    "InternalEnergy_298K_au,Enthalphy_298K_au,GibbsFreeEnergy_298K_au,Heatcapacity_Cv_cal_mol_K\n"
)


def wheel(path: Path, members: dict[str, bytes | str]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def test_moses_has_its_three_sets_in_order(tmp_path: Path) -> None:
    files = {"train": "SMILES\nC\nCC\n", "test": "SMILES\nN\n", "test_scaffolds": "SMILES\nO\n"}
    members = {
        f"moses/dataset/data/{name}.csv.gz": gzip.compress(text.encode())
        for name, text in files.items()
    }
    table = moses_table(wheel(tmp_path / "molsets.whl", {**members, "moses/__init__.py": "1/0"}))
    assert table.to_pydict() == {
        "smiles": ["C", "CC", "N", "O"],
        "split": ["train", "train", "test", "test_scaffolds"],
    }
    members.popitem()
    with pytest.raises(ValueError, match=r"the archive has no member .*test_scaffolds.csv.gz"):
        moses_table(wheel(tmp_path / "molsets.whl", members))
    (tmp_path / "molsets.whl").write_bytes(b"no wheel")
    with pytest.raises(ValueError, match="not a zip"):
        moses_table(tmp_path / "molsets.whl")


def test_qm9_is_in_ev_and_ascending(tmp_path: Path) -> None:
    # Numbers as qm9pack writes them: "0." for integers, which json does not read.
    def row(index: int, smiles: str, elements: str, positions: str) -> str:
        values = f"9,8,7,1.5,13.21,-0.5,0.25,0.75,35.,0.04,{-40 - index},-39,-38,-41,6.469"
        return f'"f.xyz",{index},"{smiles}","{elements}","{positions}",{values}\n'

    members = {
        "qm9pack/data/qm9_part1.csv": QM9_HEADER
        + row(7, "O", "['O','H','H']", "[[0.,0.,0.1],[1.,0.,0.],[-1.,0.5,0.]]"),
        "qm9pack/data/qm9_part2.csv": QM9_HEADER + row(3, "F", "['F','H']", "[[0.,0.,0.],[1,0,0]]"),
        "qm9pack/data/qm9_part3.csv": QM9_HEADER + row(1, "[H]", "['H']", "[[0.,0.,0.]]"),
    }
    table = qm9_table(wheel(tmp_path / "qm9pack.whl", members)).to_pydict()
    assert table["index"] == [1, 3, 7]
    assert table["smiles"] == ["[H]", "F", "O"]
    assert table["atomic_numbers"] == [[1], [9, 1], [8, 1, 1]]
    assert table["coordinates"][2][3:] == [1, 0, 0, -1, 0.5, 0]
    assert table["gap"] == [0.75 * EV_PER_HARTREE] * 3
    assert table["u0"] == [u0 * EV_PER_HARTREE for u0 in (-41, -43, -47)]
    assert (table["mu"], table["cv"], table["A"]) == ([1.5] * 3, [6.469] * 3, [9.0] * 3)


def write_set(path: Path, rows: list[tuple[str, list[float], list[float]]]) -> Path:
    text = io.StringIO(",smiles,labels,masks\n")
    text.seek(0, io.SEEK_END)
    for number, (smiles, labels, masks) in enumerate(rows):
        text.write(f'{number},{smiles},"{json.dumps(labels)}","{json.dumps(masks)}"\n')
    path.write_text(text.getvalue())
    return path


def test_sets_of_protocol_u_are_combined(tmp_path: Path) -> None:
    files = {
        "train": write_set(tmp_path / "train.csv", [("C", [-2.06, 1], [1.0, 1])]),
        "valid": write_set(tmp_path / "valid.csv", [("CC", [-1, 0], [0, 1])]),
    }
    table = protocol_u_table(files, ("a", "b"))
    assert table.to_pydict() == {
        "smiles": ["C", "CC"],
        "a": ["-2.06", ""],
        "b": ["1", "0"],
        "split": ["train", "valid"],
    }
    with pytest.raises(ValueError, match="C has 2 labels, expected 1"):
        protocol_u_table(files, ("a",))
    files.pop("train")
    with pytest.raises(ValueError, match="the training set is missing"):
        protocol_u_table(files, ("a", "b"))


def test_train_is_the_raw_file_without_the_other_sets(tmp_path: Path) -> None:
    raw = tmp_path / "raw.csv"
    raw.write_text("a,id,smiles\n1.0,x,N\n,x,CC\n0.0,x,FAIL\n,x,O\n")
    files = {"test": write_set(tmp_path / "test.csv", [("CC", [1], [1])])}
    table = protocol_u_table(files, ("a",), read_table(raw))
    assert table.to_pydict() == {
        "smiles": ["N", "O", "CC"],
        "a": ["1", "", "1"],
        "split": ["train", "train", "test"],
    }
    with pytest.raises(ValueError, match="there is no column 'a'"):
        protocol_u_table(files, ("a",), smiles_table(["C"]))
