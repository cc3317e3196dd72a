import numpy as np
import pytest

from moleblend.chem.descriptors import molecule_features
from moleblend.data.dataset import MoleculeDataset
from moleblend.data.splits import Split
from moleblend.data.targets import Target
from moleblend.trees.training import METHODS, TreePlan, plan_trees, train_tree_model

SMILES = ["C" * n + end for n in range(1, 17) for end in ("", "O", "N")]
LENGTH = np.array([float(text.count("C")) for text in SMILES])
NONE = np.zeros(len(SMILES), np.int8)
BOOSTING, FOREST, BASELINE = METHODS


def predicted(method, target, labels):
    x = molecule_features(SMILES, method.inputs)
    trees = train_tree_model(target, method, x, labels, n_trees=20, seed=3)
    return trees.predict(x, target)


@pytest.mark.parametrize("method", METHODS)
def test_missing_labels_are_left_out(method) -> None:
    labels = LENGTH.copy()
    values = predicted(method, Target("y", "regression"), LENGTH)
    assert abs(values[:, 0] - LENGTH).mean() < 0.5 * abs(LENGTH - LENGTH.mean()).mean()
    labels[::2] = np.nan
    assert np.isfinite(predicted(method, Target("y", "regression"), labels)).all()


@pytest.mark.parametrize("method", METHODS)
def test_trees_are_trained_on_log10_where_the_model_is(method) -> None:
    plain = predicted(method, Target("y", "regression"), LENGTH)
    values = predicted(method, Target("y", "regression", log10=True), 10**LENGTH)
    assert np.log10(values) == pytest.approx(plain, rel=1e-5)


def test_what_cannot_be_trained_is_said() -> None:
    for method in METHODS:
        with pytest.raises(ValueError, match="no training labels"):
            predicted(method, Target("y", "regression"), LENGTH * np.nan)
    with pytest.raises(ValueError, match="lack a class"):
        predicted(BOOSTING, Target("t", "binary"), NONE + 1.0)
    assert (predicted(FOREST, Target("t", "binary"), NONE + 1.0) == 1).all()


def plan(n_molecules: int, n_targets: int, kind, wanted: int = 200, n_repeats: int = 1) -> TreePlan:
    labels = np.ones((n_molecules, n_targets))
    data = MoleculeDataset(
        [], labels, np.zeros(labels.shape, np.int8), np.zeros((n_molecules, 0), "f4")
    )
    rows = np.arange(n_molecules)
    split = Split(rows, rows[:0], rows[:0])
    return plan_trees(wanted, [kind] * n_targets, data, [split], n_repeats)


def test_large_tables_get_fewer_trees_then_fewer_methods_then_none() -> None:
    assert plan(900, 1, "regression") == TreePlan(200, METHODS)
    fewer = plan(30_000, 1, "regression")
    assert 50 <= fewer.n_trees < 200
    assert fewer.methods == METHODS
    assert f"{fewer.n_trees} trees for each target" in fewer.note
    assert len(plan(8_000, 12, "regression").methods) < 3
    assert plan(2_000, 617, "binary").methods == (BOOSTING,)
    assert plan(40_000, 617, "binary").n_trees == 0
    assert "take too long for 24,680,000 labels" in plan(40_000, 617, "binary").note
    assert "more than 50,000" in plan(50_001, 1, "binary").note
    assert plan(900, 1, "regression", wanted=0) == TreePlan()
    assert plan(900, 1, "regression", n_repeats=100).n_trees < 200
