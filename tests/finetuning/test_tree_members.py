"""Runs whose model averages a network and trees."""

from dataclasses import replace

import numpy as np
import pytest

from moleblend.chem.descriptors import molecule_features
from moleblend.data.formats import read_table
from moleblend.finetuning.train import TrainConfig, train
from moleblend.model.checkpoint import read_model_file
from moleblend.prediction.predictor import Predictor
from moleblend.reports.train_report import write_train_report
from moleblend.trees.tree_model import tree_tensors
from tests.helpers.molecules import CHAINS, N_CARBONS, PARTS
from tests.helpers.runs import trained
from tests.helpers.tables import write

CLASSES = [str(text.count("C") > 6) for text in CHAINS]


def written(tmp_path):
    toxic = [float("N" in text) for text in CHAINS]
    return write(tmp_path / "table.csv", smiles=CHAINS, y=N_CARBONS, t=toxic, c=CLASSES, set=PARTS)


def test_the_model_file_predicts_the_average_that_was_tested(tmp_path) -> None:
    written(tmp_path)
    result, _, metrics = trained(
        tmp_path,
        split="set",
        members="both",
        target=("y", "t", "c"),
        task=("regression", "binary", "multiclass"),
    )
    weights = {name: one["weights"] for name, one in metrics["members"].items()}
    assert set(weights) == {
        *("network", "gradient boosting on ecfp4 and properties"),
        *("random forest on ecfp4 and properties", "random forest on ecfp4"),
    }
    for target in ("y", "t", "c"):
        assert sum(of_member[target] for of_member in weights.values()) == pytest.approx(1)
        assert weights["random forest on ecfp4"][target] == 0  # only a baseline
    rows = result.table.split.test
    output = Predictor(result.model).predict([CHAINS[row] for row in rows])
    columns = np.stack([np.array(output["y_pred"]), np.array(output["t_prob"])], 1)
    assert columns == pytest.approx(result.predictions.predicted[:, :2], rel=1e-5)
    assert np.array(output["c_prob_True"]) == pytest.approx(
        result.predictions.predicted[:, -1], rel=1e-5
    )
    assert "y_members_std" in output.column_names or "y_std" in output.column_names
    file = read_model_file(result.model)
    assert {model.target for model in file.tree_models} == {"y", "t", "c"}
    report = write_train_report(result, tmp_path / "report.html").read_text()
    assert "gradient boosting on ecfp4 and properties" in report


def test_the_average_is_better_than_a_network_that_learned_nothing(tmp_path) -> None:
    written(tmp_path)
    _, _, alone = trained(tmp_path, split="set", target=("y",))
    _, _, both = trained(tmp_path, split="set", target=("y",), members="both")
    assert both["test"]["y"]["RMSE"] < alone["test"]["y"]["RMSE"]
    assert alone["members"]["network"]["weights"] == {"y": 1.0}
    assert alone["test"]["y"]["RMSE"] == alone["members"]["network"]["test"]["y"]["RMSE"]
    assert both["test"]["y"]["RMSE"] < both["members"]["network"]["test"]["y"]["RMSE"]


def test_trees_alone_need_no_epoch(tmp_path) -> None:
    written(tmp_path)
    result, said, metrics = trained(tmp_path, split="set", target=("y",), members="trees")
    assert "epoch 1" not in said
    assert "network" not in metrics["members"]
    assert sum(one["weights"]["y"] for one in metrics["members"].values()) == pytest.approx(1)
    output = Predictor(result.model).predict(CHAINS)
    assert "domain" in output.column_names
    error = np.array(output["y_pred"]) - np.array(N_CARBONS)
    assert abs(error).mean() < np.std(N_CARBONS) / 2
    assert "Learning curve" not in write_train_report(result, tmp_path / "report.html").read_text()


def test_trees_that_are_wanted_but_not_trained_are_an_error(tmp_path) -> None:
    path = written(tmp_path)
    config = TrainConfig(data=str(path), target=("y",), split="set", source="scratch", epochs=1)
    config = replace(config, out=str(tmp_path / "run"), members="trees")
    with pytest.raises(ValueError, match="members=trees, but forest=0 asks for no trees"):
        train(replace(config, forest=0))


def test_folds_share_the_trees_of_the_model_file(tmp_path) -> None:
    written(tmp_path)
    result, _, _ = trained(tmp_path, split="random", folds=3, target=("y",), members="both")
    forests = [model for model in result.tree_models if not model.header.is_boosted]
    assert sum(model.header.n_trees for model in forests) <= 12  # a third of ten of each fold
    total = sum(model.weight for model in result.tree_models)
    expected = np.mean([sum(m.weight for m in run.tree_models) for run in result.runs])
    assert total == pytest.approx(expected)
    file = read_model_file(result.model)
    before, after = tree_tensors(result.tree_models), tree_tensors(file.tree_models)
    assert all((before[name] == after[name]).all() for name in before)
    assert len(Predictor(result.model).predict(CHAINS)) == len(CHAINS)


def test_a_row_without_features_says_what_the_model_needs(tmp_path) -> None:
    written(tmp_path)
    result, _, _ = trained(tmp_path, split="set", target=("y",), members="both", features=("none",))
    predictor = Predictor(result.model)
    assert predictor.feature_kinds == ("ecfp4", "properties")
    x = molecule_features(CHAINS[:1], predictor.feature_kinds)
    assert x.shape == (1, 2048 + 111)
    together = np.array(predictor.predict(CHAINS)["y_pred"])
    alone = [predictor.predict([text])["y_pred"][0].as_py() for text in CHAINS]
    assert alone == pytest.approx(together, rel=1e-5)
    assert len(read_table(tmp_path / "table.csv")) == len(CHAINS)


def test_censored_labels_count_as_their_limits_in_trees(tmp_path) -> None:
    """Without them, nothing would tell the trees that long chains have large values."""
    values = [f">{n}" if n > 8 else str(n) for n in N_CARBONS]
    write(tmp_path / "table.csv", smiles=CHAINS, y=values, set=PARTS)
    result, _, _ = trained(tmp_path, split="set", target=("y",), members="trees")
    output = Predictor(result.model).predict(["C" * 12, "C" * 3])
    long, short = output["y_pred"].to_pylist()
    assert long > 8
    assert short < 6
