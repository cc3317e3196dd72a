import math

import numpy as np
import pytest
from sklearn.metrics import r2_score

from moleblend.evaluation.metrics import (
    Metrics,
    best_threshold,
    binary_metrics,
    mean_metric,
    multiclass_metrics,
    regression_metrics,
    undefined_reasons,
)

NAN = np.nan


def test_regression_by_hand() -> None:
    metrics = regression_metrics(np.array([1.0, 2.0, 6.0]), np.array([1.0, 4.0, 5.0]))
    assert metrics["RMSE"] == pytest.approx(math.sqrt(5 / 3))
    assert metrics["MAE"] == pytest.approx(1.0)
    # squared errors 0 + 4 + 1; the labels are 7/3, 2/3 and 5/3 away from their mean
    assert metrics["R2"] == pytest.approx(1 - 5 / (78 / 9))
    assert metrics["n"] == 3


def test_r2_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    predicted, label = rng.normal(size=(2, 40))
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


def test_roc_auc_is_the_fraction_of_pairs_in_the_right_order() -> None:
    label = np.array([0.0, 1.0, 0.0, 1.0, 1.0, 0.0])
    probability = np.array([0.1, 0.6, 0.6, 0.9, 0.3, 0.4])
    right = [
        (p > q) + 0.5 * (p == q) for p in probability[label == 1] for q in probability[label == 0]
    ]
    assert binary_metrics(probability, label)["ROC-AUC"] == pytest.approx(np.mean(right))


def test_average_precision_by_hand() -> None:
    # ranked: hit, miss, hit: precision 1/1 at the first hit and 2/3 at the second
    metrics = binary_metrics(np.array([0.9, 0.8, 0.7]), np.array([1.0, 0.0, 1.0]))
    assert metrics["PR-AUC"] == pytest.approx((1 + 2 / 3) / 2)
    assert metrics["accuracy"] == pytest.approx(2 / 3)
    assert (metrics["n"], metrics["n_positive"]) == (3, 2)


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_one_class_has_no_roc_auc(label: float) -> None:
    metrics = binary_metrics(np.array([0.2, 0.8]), np.array([label, label]))
    assert metrics["ROC-AUC"] is None
    assert metrics["PR-AUC"] is None
    assert metrics["accuracy"] == 0.5


def test_metrics_without_a_label() -> None:
    nothing, missing = np.zeros(2), np.full(2, NAN)
    assert regression_metrics(nothing, missing) == {"RMSE": None, "MAE": None, "R2": None, "n": 0}
    assert regression_metrics(nothing[:0], missing[:0])["n"] == 0
    metrics = binary_metrics(nothing, missing)
    assert metrics["n"] == 0
    assert metrics["accuracy"] is None


def test_equal_labels_have_no_r2() -> None:
    metrics = regression_metrics(np.array([1.0, 3.0]), np.array([2.0, 2.0]))
    assert metrics["R2"] is None
    assert metrics["RMSE"] == 1.0


def test_equal_labels_that_are_no_binary_fraction_have_no_r2() -> None:
    label = np.full(3, 0.1)  # their mean, as floats have it, is not 0.1
    assert regression_metrics(np.zeros(3), label)["R2"] is None


def test_the_mean_leaves_undefined_metrics_out() -> None:
    of_targets: list[Metrics] = [
        {"ROC-AUC": 0.5},
        {"ROC-AUC": None},
        {"ROC-AUC": 0.7},
        {"RMSE": 9.0},
    ]
    assert mean_metric(of_targets, "ROC-AUC") == pytest.approx(0.6)
    assert mean_metric(of_targets, "MAE") is None
    assert mean_metric([], "MAE") is None


def test_censored_labels_are_in_no_error_but_are_counted() -> None:
    predicted, label = np.array([1.0, 12.0, 8.0, 0.0, 3.0]), np.array([2.0, 10, 10, 1, 1])
    censoring = np.array([0, 1, 1, -1, -1], np.int8)
    metrics = regression_metrics(predicted, label, censoring)
    assert (metrics["RMSE"], metrics["n"], metrics["n_censored"]) == (1, 1, 4)
    # 12 > 10 and 0 < 1 are allowed, 8 and 3 are not
    assert metrics["censored labels respected"] == 0.5
    assert "n_censored" not in regression_metrics(predicted, label)


def test_log10_metrics_are_added() -> None:
    metrics = regression_metrics(np.array([10.0, 1000.0]), np.array([100.0, 100.0]), log10=True)
    assert metrics["RMSE log10"] == pytest.approx(1)
    assert metrics["MAE"] == pytest.approx((90 + 900) / 2)


def test_two_classes_at_a_threshold() -> None:
    probability, label = np.array([0.1, 0.3, 0.35, 0.4]), np.array([0.0, 0, 1, 1])
    at_half, below = (binary_metrics(probability, label, t) for t in (0.5, 0.32))
    assert (at_half["accuracy"], at_half["balanced accuracy"], at_half["MCC"]) == (0.5, 0.5, 0)
    assert (below["accuracy"], below["balanced accuracy"], below["MCC"]) == (1, 1, 1)
    by_hand = -np.log([0.9, 0.7, 0.35, 0.4]).mean()
    assert below["log loss"] == pytest.approx(by_hand)


def test_the_threshold_is_the_one_with_the_best_mcc() -> None:
    rng = np.random.default_rng(0)
    label = (rng.random(60) < 0.2).astype(float)
    probability = 0.3 * rng.random(60) + 0.1 * label
    threshold = best_threshold(probability, label)
    values = [binary_metrics(probability, label, t)["MCC"] for t in np.linspace(0, 0.5, 500)]
    reached = binary_metrics(probability, label, threshold)["MCC"]
    assert reached == pytest.approx(max(v for v in values if v is not None))
    assert best_threshold(np.array([0.2, 0.3]), np.ones(2)) == 0.5
    assert best_threshold(np.array([0.3, 0.8, NAN]), np.array([0.0, 1, NAN])) == 0.5


def test_several_classes_by_hand() -> None:
    probability = np.array([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.5, 0.4, 0.1], [0.3, 0.3, 0.4]])
    metrics = multiclass_metrics(probability, np.array([0.0, 1, 1, NAN]))
    assert metrics["accuracy"] == pytest.approx(2 / 3)
    assert metrics["balanced accuracy"] == pytest.approx((1 + 1 / 2) / 2)
    assert metrics["macro ROC-AUC"] == pytest.approx(1)  # both classes are ranked without a mistake
    assert metrics["log loss"] == pytest.approx(-np.log([0.6, 0.5, 0.4]).mean())
    alone = multiclass_metrics(probability, np.array([1.0, 1, 1, 1]))
    assert (alone["macro ROC-AUC"], alone["balanced accuracy"]) == (None, None)


def test_undefined_metrics_have_a_reason() -> None:
    one_class = binary_metrics(np.array([0.2, 0.8]), np.ones(2))
    reasons = undefined_reasons(one_class)
    assert set(reasons) == {"ROC-AUC", "PR-AUC", "balanced accuracy", "MCC"}
    assert set(reasons.values()) == {"only one class occurs"}
    equal = undefined_reasons(regression_metrics(np.zeros(2), np.ones(2)))
    assert equal == {"R2": "all labels are equal"}
    nothing = undefined_reasons(regression_metrics(np.zeros(1), np.full(1, NAN)))
    assert set(nothing.values()) == {"there is no label"}
