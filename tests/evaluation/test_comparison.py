from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import roc_auc_score

from moleblend.chem.parsing import read_smiles
from moleblend.data.dataset import MoleculeDataset
from moleblend.data.labels.target_detection import read_target_columns
from moleblend.data.splits import Split, random_split
from moleblend.data.table import Table
from moleblend.data.targets import Target
from moleblend.evaluation.baseline import BaselineResult, learn_forest, plan_forest
from moleblend.evaluation.comparison import compare_with_baseline, summarise
from moleblend.evaluation.metrics import regression_metrics

CHAINS = [read_smiles("C" * n + end) for n in range(1, 11) for end in ("", "O", "N", "F")]
VALUE, TOXIC = Target("y", "regression", "nM"), Target("t", "binary")
SEVERAL = Target("c", "multiclass", classes=("a", "b", "c"))


def part(labels, censoring=None):
    """Molecules with labels; which ones does not matter."""
    labels = np.array(labels, np.float64).reshape(len(labels), -1)
    signs = np.zeros(labels.shape, np.int8) if censoring is None else censoring
    molecules = [CHAINS[k % len(CHAINS)] for k in range(len(labels))]
    return MoleculeDataset(molecules, labels, signs, np.zeros((len(labels), 0), np.float32))


def comparison(target, model, forest, labels):
    baseline = BaselineResult(10, np.array(forest).reshape(len(labels), -1), {target.name: {}}, {})
    values = np.array(model).reshape(len(labels), -1)
    (found,) = compare_with_baseline([target], [values], [baseline], [part(labels)])
    return found


def test_a_clear_difference_is_told_from_noise() -> None:
    rng = np.random.default_rng(1)
    label, noise, other = rng.normal(size=(3, 60))
    won = comparison(VALUE, label + 0.1 * noise, label + other, label)
    assert won.model == pytest.approx(np.sqrt((0.01 * noise**2).mean()))
    assert won.forest == pytest.approx(np.sqrt((other**2).mean()))
    assert won.is_certain
    assert "y: the model is better than a random forest on ECFP4 (RMSE" in won.sentence()
    lost = comparison(VALUE, label + other, label + 0.1 * noise, label)
    assert (lost.gain, lost.low, lost.high) == pytest.approx((-won.gain, -won.high, -won.low))
    (verdict,) = summarise([lost])
    assert verdict.is_lost
    assert "y: a random forest on ECFP4 is better than this model (RMSE" in verdict.text
    assert f"test molecules the forest by {-lost.high:.3g} to {-lost.low:.3g}" in verdict.text
    even = comparison(VALUE, label + noise, label + 1.02 * other, label)
    assert not even.is_certain
    (verdict,) = summarise([even])
    assert not verdict.is_lost
    assert "no difference beyond the noise of the test part" in verdict.text


def test_a_tie_has_nobody_ahead() -> None:
    label = np.tile([0.0, 1.0], 20)
    predicted = np.random.default_rng(2).random(40)
    tie = comparison(TOXIC, predicted, predicted.copy(), label)
    assert "; neither is ahead, in 95 of 100 drawings" in tie.sentence()


def test_pairs_count_not_the_spread_of_molecules() -> None:
    """Molecules differ far more in error than the two models do on each of them."""
    error = np.linspace(-5, 5, 50)
    assert comparison(VALUE, error, 1.1 * error, np.zeros(50)).is_certain


def test_areas_are_those_of_scikit_learn_with_ties() -> None:
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 40).astype(float)
    model, forest = rng.integers(0, 4, (2, 40)) / 4
    found = comparison(TOXIC, model, forest, label)
    assert (found.metric, found.n) == ("ROC-AUC", 40)
    assert found.model == pytest.approx(roc_auc_score(label, model))
    assert found.forest == pytest.approx(roc_auc_score(label, forest))
    label = rng.integers(0, 3, 40).astype(float)
    model, forest = rng.dirichlet(np.ones(3), (2, 40))
    found = comparison(SEVERAL, model, forest, label)
    assert found.metric == "macro ROC-AUC"
    assert found.model == pytest.approx(roc_auc_score(label, model, multi_class="ovr"))


def test_logarithms_are_compared_where_they_are_learnt() -> None:
    label = np.logspace(0, 5, 20)
    found = comparison(Target("y", "regression", log10=True), 10 * label, 100 * label, label)
    assert (found.metric, found.model, found.forest) == ("RMSE log10", 1, 2)


def test_of_few_molecules_nothing_is_better() -> None:
    few = comparison(VALUE, np.zeros(9), np.ones(9), np.zeros(9))
    assert not few.is_certain
    assert "too few to say which is better" in few.sentence()


def test_missing_labels_and_bounds_are_in_no_comparison() -> None:
    labels = np.zeros((12, 1))
    labels[0], censoring = np.nan, np.zeros((12, 1), np.int8)
    censoring[1] = 1
    model = np.zeros((12, 1))
    model[:2] = 99
    baseline = BaselineResult(10, np.ones((12, 1)), {"y": {}}, {})
    (found,) = compare_with_baseline([VALUE], [model], [baseline], [part(labels, censoring)])
    assert (found.model, found.forest, found.n) == (0, 1, 10)


def test_folds_are_compared_fold_by_fold() -> None:
    rivals = [BaselineResult(10, np.full((10, 1), k), {"y": {}}, {}) for k in (2.0, 4.0)]
    parts, model = [part(np.zeros(10))] * 2, [np.ones((10, 1))] * 2
    (found,) = compare_with_baseline([VALUE], model, rivals, parts)
    assert (found.model, found.forest, found.n) == (1, 3, 20)


def test_a_fold_of_one_class_does_not_hide_the_others() -> None:
    label = np.tile([0.0, 1.0], 10)
    rivals = [BaselineResult(10, np.full((20, 1), 0.5), {"t": {}}, {})] * 2
    parts, model = [part(label), part(np.zeros(20))], [label.reshape(-1, 1)] * 2
    (found,) = compare_with_baseline([TOXIC], model, rivals, parts)
    assert (found.model, found.forest, found.n) == (1, 0.5, 20)


def test_many_targets_are_summed_up() -> None:
    label = np.tile([0.0, 1.0], 20)
    right, wrong = label, 1 - label
    won = [comparison(TOXIC, right, wrong, label)] * 2
    lost = [comparison(TOXIC, wrong, right, label)] * 4
    (verdict,) = summarise([*won, *lost])
    assert "of 6 targets the model is better than a random forest on ECFP4 in 2 (2 beyond" in (
        verdict.text
    )
    assert "the forest in 4 (4 beyond it); mean ROC-AUC 0.3333 of the model" in verdict.text
    assert verdict.is_lost


def test_the_forest_is_scored_as_the_model_is() -> None:
    """Values, classes with a threshold of their own, several classes, and one of bounds alone."""
    length = np.array([molecule.n_atoms for molecule in CHAINS], np.float64)
    third = np.arange(40) % 4 % 3
    labels = np.stack([length, length > 6, third, length], 1)
    censoring = np.zeros(labels.shape, np.int8)
    censoring[:, 3] = 1
    labels[5, 0] = np.nan
    whole = MoleculeDataset(CHAINS, labels, censoring, np.zeros((40, 0), np.float32))
    split = random_split(40, (0.6, 0.2, 0.2))
    targets = (VALUE, TOXIC, SEVERAL, Target("b", "regression"))
    training, validation, test = (
        whole.subset(rows) for rows in (split.train, split.validation, split.test)
    )
    baseline = learn_forest(20, targets, training, validation, test, 0)
    assert baseline.predicted.shape == (8, 6)
    assert np.isnan(baseline.predicted[:, 5]).all()
    assert list(baseline.test) == ["y", "t", "c"]
    assert "bounds cannot be learnt" in baseline.not_learnt["b"]
    expected = regression_metrics(baseline.predicted[:, 0], test.labels[:, 0], test.censoring[:, 0])
    assert baseline.test["y"] == expected
    assert baseline.test["y"]["RMSE"] < np.std(length)
    again = learn_forest(20, targets, training, validation, test, 0)
    assert np.array_equal(again.predicted, baseline.predicted, equal_nan=True)
    assert learn_forest(0, targets, training, validation, test, 0).test == {}


def test_a_forest_that_would_take_too_long_is_not_trained() -> None:
    columns = pa.table({"smiles": ["C"] * 40, "y": [f"{k / 7:.2f}" for k in range(40)]})
    target_columns = read_target_columns(Table(Path("assay.csv"), columns), not_targets=["smiles"])
    data, splits = part(np.arange(40.0)), [random_split(40)]
    assert plan_forest(500, target_columns, data, splits, 1) == (500, "")
    assert plan_forest(0, target_columns, data, splits, 1) == (0, "")
    n_trees, note = plan_forest(500, target_columns, data, splits, 200)
    assert 50 <= n_trees < 500
    assert f"has {n_trees} trees instead of 500" in note
    n_trees, note = plan_forest(500, target_columns, data, splits, 1000)
    assert (n_trees, "it would take too long for 32,000 labels" in note) == (0, True)
    rows = np.arange(50_001)
    many = MoleculeDataset(
        [CHAINS[0]] * 50_001, np.full((50_001, 1), np.nan), np.zeros((50_001, 1), np.int8),
        np.zeros((50_001, 0), np.float32),
    )  # fmt: skip
    split = Split(rows, rows[:0], rows[:0])
    assert (
        "50,001 training molecules are more than"
        in plan_forest(1, target_columns, many, [split], 1)[1]
    )
