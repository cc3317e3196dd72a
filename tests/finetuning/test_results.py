import numpy as np
import pyarrow.csv
import pytest

from moleblend.chem.descriptors import molecule_features
from moleblend.chem.fingerprints import nearest
from moleblend.chem.standardise import canonical
from moleblend.trees.training import METHODS, train_tree_model
from tests.helpers.molecules import CHAINS, N_CARBONS, PARTS
from tests.helpers.runs import trained
from tests.helpers.tables import write


def of_forest(result, name, smiles, labels, rows, asked):
    """Predict as the random forest of this name."""
    inputs = tuple(name.removeprefix("random forest on ").split(" and "))
    (method,) = [one for one in METHODS if one.inputs == inputs and not one.is_boosted]
    x, target = molecule_features(smiles, inputs), result.targets[0]
    trees = train_tree_model(target, method, x[rows], labels[rows], n_trees=10)
    return trees.predict(x[asked], target)


RINGS = [f"C1{'C' * n}C1{end}" for n in range(1, 9) for end in ("", "O", "N")]


def test_the_forest_has_the_same_parts_and_stands_in_the_record(tmp_path):
    write(tmp_path / "table.csv", smiles=CHAINS, y=N_CARBONS, set=PARTS)
    result, _, metrics = trained(tmp_path, split="set")
    labels = np.array(N_CARBONS)
    train_rows, test_rows = result.table.split.train, result.table.split.test
    name = result.baseline.forest.chosen["y"]
    expected = of_forest(result, name, CHAINS, labels, train_rows, test_rows)
    assert result.baseline.forest.predicted == pytest.approx(expected)
    found = metrics["baseline"]
    error = expected[:, 0] - labels[test_rows]
    assert found["test"]["y"]["RMSE"] == pytest.approx(np.sqrt((error**2).mean()))
    assert (found["n_trees"], found["not_trained"], found["note"]) == (10, {}, "")
    compared = found["comparison"]["y"]
    assert compared["metric"] == "RMSE"
    assert compared["model"] == pytest.approx(metrics["test"]["y"]["RMSE"])
    assert compared["forest"] == pytest.approx(found["test"]["y"]["RMSE"])
    assert compared["improvement"] == pytest.approx(compared["forest"] - compared["model"])
    without, _, metrics = trained(tmp_path, split="set", forest=0)
    assert np.array_equal(
        without.predictions.predicted, result.predictions.predicted
    )  # the forest changes no model
    assert metrics["baseline"]["test"] == {}


def test_folds_have_a_forest_each_and_all_stands_in_the_order_of_the_file(tmp_path):
    labels = [float(text.count("C")) for text in RINGS]
    write(tmp_path / "table.csv", smiles=["nonsense", *RINGS], y=[1, *labels])
    result, _, metrics = trained(tmp_path, folds=3, split="random")
    assert list(result.predictions.smiles) == [canonical(text) for text in RINGS]
    errors = []
    for run in result.runs:
        rows, asked = run.split.train, run.split.test
        expected = of_forest(run, run.baseline.chosen["y"], RINGS, np.array(labels), rows, asked)
        assert result.baseline.forest.predicted[asked] == pytest.approx(expected)
        errors.append(np.sqrt(((expected[:, 0] - np.array(labels)[asked]) ** 2).mean()))
        similarity, place = nearest([RINGS[k] for k in asked], [RINGS[k] for k in rows])
        assert result.predictions.domain_scores.similarity[asked] == pytest.approx(similarity)
        assert (
            result.predictions.domain_scores.row[asked].tolist() == (rows[place] + 1).tolist()
        )  # of the file
    forest = metrics["baseline"]
    assert forest["test"]["y"]["RMSE"] == pytest.approx(np.mean(errors))
    assert forest["comparison"]["y"]["forest"] == pytest.approx(np.mean(errors))
    assert forest["comparison"]["y"]["model"] == pytest.approx(metrics["test"]["y"]["RMSE"])
    statistics = metrics["std"]["baseline_test"]["y"]["RMSE"]
    assert statistics["std"] == pytest.approx(np.std(errors, ddof=1))


def test_with_seeds_the_first_is_compared(tmp_path):
    write(tmp_path / "table.csv", smiles=CHAINS, y=N_CARBONS, set=PARTS)
    one, _, alone = trained(tmp_path, split="set")
    two, _, both = trained(tmp_path, split="set", seeds=2)
    assert np.array_equal(one.baseline.forest.predicted, two.baseline.forest.predicted)
    assert alone["baseline"]["comparison"] == both["baseline"]["comparison"]
    assert both["std"]["baseline_test"]["y"]["RMSE"]["std"] > 0


def test_molecules_that_repeat_are_told_and_recorded(tmp_path):
    smiles, labels, parts = (
        [*CHAINS, "OC", "C(C)O"],
        [*N_CARBONS, 1.0, 9.0],
        [*PARTS, "test", "train"],
    )
    write(tmp_path / "table.csv", smiles=smiles, y=labels, set=parts)
    # CO is row 2 and in train, CCO is row 6 and in train
    result, output, metrics = trained(tmp_path, split="set")
    assert "note: duplicate molecules: 2 (in 4 rows)" in output
    assert "'y': duplicate molecules with different labels: 1 (row 6: 2, row 62: 9)" in output
    assert "rows of the test set whose molecule is also in the training or validation set" in output
    record = metrics["settings"]["duplicates"]
    assert record["first"] == [[2, 61], [6, 62]]
    assert record["test_rows_known_before"] == [61]
    assert record["first_contradicting"] == [{"target": "y", "rows": [6, 62], "labels": ["2", "9"]}]
    rows = pyarrow.csv.read_csv(
        tmp_path / "run/rows.csv",
        convert_options=pyarrow.csv.ConvertOptions(column_types={"same_molecule": "string"}),
    )
    same = rows.column("same_molecule").to_pylist()
    assert (same[1], same[60], same[5], same[61], same[0]) == ("61", "2", "62", "6", "")
    assert result.table.duplicates.known_test_rows == (60,)
