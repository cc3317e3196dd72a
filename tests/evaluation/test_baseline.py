import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

from moleblend.chem.fingerprints import count_ecfp4
from moleblend.data.targets import Target
from moleblend.evaluation.baseline import affordable_trees, count_matrix, forest_predictions

SMILES = ["C" * n + end for n in range(1, 9) for end in ("", "O", "N")]
COUNTS = count_matrix(SMILES)
LENGTH = np.array([float(text.count("C")) for text in SMILES])
NONE = np.zeros(len(SMILES), np.int8)


def predicted(target, labels, censoring=NONE):
    return forest_predictions(target, COUNTS, labels, censoring, COUNTS[:5], n_trees=20, seed=3)


def test_fingerprints_are_counts() -> None:
    assert COUNTS.shape == (24, 2048)
    assert (COUNTS[5] == count_ecfp4(SMILES[5])).all()


def test_the_forest_is_that_of_scikit_learn_on_the_exact_labels() -> None:
    labels, censoring = LENGTH.copy(), NONE.copy()
    labels[3], censoring[4] = np.nan, 1  # one is missing, one is censored
    used = np.array([k for k in range(24) if k not in (3, 4)])
    forest = RandomForestRegressor(20, random_state=3).fit(COUNTS[used], labels[used])
    values = predicted(Target("y", "regression"), labels, censoring)
    assert values[:, 0] == pytest.approx(forest.predict(COUNTS[:5]))
    toxic = np.array([float("N" in text) for text in SMILES])
    forest = RandomForestClassifier(20, random_state=3).fit(COUNTS, toxic)
    expected = forest.predict_proba(COUNTS[:5])[:, 1]
    assert predicted(Target("t", "binary"), toxic)[:, 0] == pytest.approx(expected)


def test_the_forest_is_trained_on_log10_where_the_model_is() -> None:
    plain = predicted(Target("y", "regression"), LENGTH)
    values = predicted(Target("y", "regression", log10=True), 10**LENGTH)
    assert np.log10(values) == pytest.approx(plain)


def test_classes_that_training_lacks_have_no_votes() -> None:
    target = Target("c", "multiclass", classes=("a", "b", "c", "d"))
    labels = np.array([3.0 if "O" in text else 1.0 for text in SMILES])
    probability = predicted(target, labels)
    assert probability.shape == (5, 4)
    assert (probability[:, [0, 2]] == 0).all()
    assert probability.sum(1) == pytest.approx(1)
    assert probability.argmax(1).tolist() == [3 if "O" in text else 1 for text in SMILES[:5]]
    assert (predicted(Target("t", "binary"), NONE + 0.0) == 0).all()  # of one class alone
    assert (predicted(Target("t", "binary"), NONE + 1.0) == 1).all()


def test_censored_labels_alone_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot use censored labels"):
        predicted(Target("y", "regression"), LENGTH, NONE + 1)


def test_large_tables_get_fewer_trees_and_the_largest_none() -> None:
    assert affordable_trees(500, [("regression", 900)]) == 500
    assert 50 <= affordable_trees(500, [("regression", 10_000)]) < 500
    assert affordable_trees(500, [("regression", 10_000)] * 4) == 0
    assert affordable_trees(500, [("binary", 20_000)]) == 500  # a class is quicker than a value
    assert affordable_trees(20, [("regression", 10_000)] * 4) == 20
    assert affordable_trees(500, []) == 500
