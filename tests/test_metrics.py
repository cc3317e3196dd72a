import math

import numpy as np
import pytest
from sklearn.metrics import r2_score

from moleblend.metrics import Metrics, binary_metrics, mean_metric, regression_metrics

NAN = np.nan


def test_regression_by_hand() -> None:
    found = regression_metrics(np.array([1.0, 2.0, 6.0]), np.array([1.0, 4.0, 5.0]))
    assert found["RMSE"] == pytest.approx(math.sqrt(5 / 3))
    assert found["MAE"] == pytest.approx(1.0)
    # squared errors 0 + 4 + 1; the labels are 7/3, 2/3 and 5/3 away from their mean
    assert found["R2"] == pytest.approx(1 - 5 / (78 / 9))
    assert found["n"] == 3


def test_r2_is_that_of_scikit_learn() -> None:
    chance = np.random.default_rng(0)
    predicted, label = chance.normal(size=(2, 40))
    assert regression_metrics(predicted, label)["R2"] == pytest.approx(r2_score(label, predicted))


def test_missing_labels_are_left_out() -> None:
    with_gap = regression_metrics(np.array([1.0, 100.0, 3.0]), np.array([2.0, NAN, 3.0]))
    without = regression_metrics(np.array([1.0, 3.0]), np.array([2.0, 3.0]))
    assert with_gap == without
    assert with_gap["n"] == 2
    probability = np.array([0.9, 0.2, 0.4, 0.99])
    with_gap = binary_metrics(probability, np.array([1.0, 0.0, 1.0, NAN]))
    assert with_gap == binary_metrics(probability[:3], np.array([1.0, 0.0, 1.0]))
    assert with_gap["n"] == 3


def test_roc_auc_is_the_share_of_pairs_in_the_right_order() -> None:
    label = np.array([0.0, 1.0, 0.0, 1.0, 1.0, 0.0])
    probability = np.array([0.1, 0.6, 0.6, 0.9, 0.3, 0.4])
    right = [
        (p > q) + 0.5 * (p == q) for p in probability[label == 1] for q in probability[label == 0]
    ]
    assert binary_metrics(probability, label)["ROC-AUC"] == pytest.approx(np.mean(right))


def test_average_precision_by_hand() -> None:
    # ranked: hit, miss, hit: precision 1/1 at the first hit and 2/3 at the second
    found = binary_metrics(np.array([0.9, 0.8, 0.7]), np.array([1.0, 0.0, 1.0]))
    assert found["PR-AUC"] == pytest.approx((1 + 2 / 3) / 2)
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert (found["n"], found["n_positive"]) == (3, 2)


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_one_class_has_no_roc_auc(label: float) -> None:
    found = binary_metrics(np.array([0.2, 0.8]), np.array([label, label]))
    assert found["ROC-AUC"] is None
    assert found["PR-AUC"] is None
    assert found["accuracy"] == 0.5


def test_no_label_at_all() -> None:
    nothing, missing = np.zeros(2), np.full(2, NAN)
    assert regression_metrics(nothing, missing) == {"RMSE": None, "MAE": None, "R2": None, "n": 0}
    assert regression_metrics(nothing[:0], missing[:0])["n"] == 0
    found = binary_metrics(nothing, missing)
    assert found["n"] == 0
    assert found["accuracy"] is None


def test_equal_labels_have_no_r2() -> None:
    found = regression_metrics(np.array([1.0, 3.0]), np.array([2.0, 2.0]))
    assert found["R2"] is None
    assert found["RMSE"] == 1.0


def test_equal_labels_that_are_no_binary_fraction_have_no_r2() -> None:
    label = np.full(3, 0.1)  # their mean, as floats have it, is not 0.1
    assert regression_metrics(np.zeros(3), label)["R2"] is None


def test_the_mean_leaves_undefined_metrics_out() -> None:
    found: list[Metrics] = [{"ROC-AUC": 0.5}, {"ROC-AUC": None}, {"ROC-AUC": 0.7}, {"RMSE": 9.0}]
    assert mean_metric(found, "ROC-AUC") == pytest.approx(0.6)
    assert mean_metric(found, "MAE") is None
    assert mean_metric([], "MAE") is None
