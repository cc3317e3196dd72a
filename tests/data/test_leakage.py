import json

import numpy as np
import pytest

from moleblend.chem.molecule import MoleculeError
from moleblend.cli import main as cli
from moleblend.data.formats import read_table
from moleblend.data.leakage import leakage
from moleblend.data.splits import Split, read_split, scaffold_split

SMILES = [
    "CCO",  # train
    "C[C@H](N)C(=O)O",
    "Cc1ccccc1",
    "Oc1ccccn1",
    "OCC",  # validation: ethanol again
    "C[C@@H](N)C(=O)O",  # test: the other alanine
    "O=c1cccc[nH]1",  # the other tautomer
    "CCc1ccccc1",  # the same scaffold
    "OCC",  # and ethanol a third time
    "C1CC",  # in no part
]


def rows(*numbers):
    return np.array(numbers, np.int64)


SPLIT = Split(rows(0, 1, 2, 3), rows(4), rows(5, 6, 7, 8))


def test_by_hand():
    found = leakage(SMILES, SPLIT)
    assert found.n_rows == {"train": 4, "validation": 1, "test": 4}
    expected = {
        ("molecule", "train", "validation"): (1, [0], [4]),
        ("molecule", "train", "test"): (1, [0], [8]),
        ("molecule", "validation", "test"): (1, [4], [8]),
        ("skeleton", "train", "validation"): (1, [0], [4]),
        ("skeleton", "train", "test"): (3, [0, 1, 3], [5, 6, 8]),
        ("skeleton", "validation", "test"): (1, [4], [8]),
        ("scaffold", "train", "validation"): (1, [0, 1], [4]),  # no ring: one scaffold
        ("scaffold", "train", "test"): (2, [0, 1, 2], [5, 7, 8]),
        ("scaffold", "validation", "test"): (1, [4], [5, 8]),
    }
    assert len(found.shared) == len(expected)
    for where, (n_shared, first, second) in expected.items():
        one = found.find(*where)
        assert (one.n_shared, one.first.tolist(), one.second.tolist()) == (n_shared, first, second)
    validation, test = found.nearest
    assert (validation.part, validation.rows.tolist()) == ("validation", [4])
    assert (validation.similarity.tolist(), validation.train_rows.tolist()) == ([1.0], [0])
    assert test.similarity[[0, 3]].tolist() == [1, 1]  # ECFP4 sees no stereo
    assert 0 < test.similarity[2] < 1
    assert test.train_rows.tolist() == [1, 2, 2, 0]
    assert test.quantiles["largest"] == 1
    assert test.quantiles["median"] == np.median(test.similarity)


def test_rows_are_those_of_the_file():
    found = leakage(["C1CC", "OCC", "CCN", "CCCO", "CCO"], Split(rows(2, 4), rows(3), rows(1)))
    assert found.nearest[1].rows.tolist() == [1]
    assert found.nearest[1].train_rows.tolist() == [4]
    assert found.find("molecule", "train", "test").first.tolist() == [4]


def test_parts_without_rows():
    found = leakage(["CC", "CC"], Split(rows(0), rows(), rows(1)))
    assert found.nearest[0].quantiles == {}
    assert found.find("molecule", "train", "test").n_shared == 1
    assert leakage(["CC"], Split(rows(), rows(), rows(0))).nearest == ()


def test_a_molecule_without_inchikey():
    smiles = ["*CC", "CC*", "*CO"]
    found = leakage(smiles, Split(rows(0), rows(1), rows(2)))
    assert found.find("skeleton", "train", "validation").n_shared == 1
    assert found.find("skeleton", "train", "test").n_shared == 0


def test_a_row_that_is_no_molecule():
    with pytest.raises(MoleculeError, match=r"row 10: C1CC.*unclosed ring"):
        leakage(SMILES, Split(rows(0), rows(9), rows(1)))


def test_a_scaffold_split_shares_no_scaffold(data_folder):
    table = read_table(data_folder / "moleculenet/delaney-processed.csv").piece(0, 300)
    smiles = table.column("smiles").to_pylist()
    found = leakage(smiles, scaffold_split(smiles))
    for pair in (("train", "validation"), ("train", "test"), ("validation", "test")):
        assert found.find("scaffold", *pair).n_shared == 0
    other = Split(*(np.arange(first, 300, 3) for first in range(3)))
    assert leakage(smiles, other).find("scaffold", "train", "test").n_shared > 5


def test_the_published_split_of_bbbp(data_folder):
    """One molecule of validation stands in test with other stereo."""
    table = read_table(data_folder / "unimol_split/bbbp.csv.gz").piece(1631, 2039)
    smiles, split, reasons = read_split(table, "split")
    assert not reasons
    found = leakage(smiles, split)
    assert found.n_rows == {"train": 0, "validation": 204, "test": 204}
    assert [one.n_shared for one in found.shared] == [0, 0, 0, 0, 0, 1, 0, 0, 0]


def test_the_verb(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    parts = ["train"] * 4 + ["valid"] + ["test"] * 4 + ["train"]
    lines = [f"{smiles},{part}" for smiles, part in zip(SMILES, parts, strict=True)]
    (tmp_path / "in.csv").write_text("\n".join(["smiles,part", *lines, "CC,"]) + "\n")
    command = "data leakage in.csv --split part --json out/leakage.json"
    assert cli.main(command.split()) == 0
    said = capfd.readouterr().err
    assert "row 10 (line 11) is in no set: not a valid SMILES" in said
    assert "row 11 (line 12) is in no set: column 'part' is empty" in said
    assert "rows: 4 train, 1 validation, 4 test" in said
    assert "3 (3 + 3)" in said
    told = json.loads((tmp_path / "out/leakage.json").read_text())
    shared = next(
        one
        for one in told["shared"]
        if one["kind"] == "skeleton" and one["parts"] == ["train", "test"]
    )
    assert shared["first"] == [1, 2, 4]  # as in the file: counted from 1
    assert told["nearest_in_train"][1]["train_rows"] == [2, 3, 3, 1]
    for command, sentence in {
        "in.csv --split fold": "no column 'fold'",
        "in.csv --split smiles": "got 'CCO' in column 'smiles', expected train, validation or test",
        "no.csv --split part": "no such file",
    }.items():
        assert cli.main(["data", "leakage", *command.split()]) == 2
        assert sentence in capfd.readouterr().err
