import numpy as np
import pytest

from moleblend.data.targets import Target
from moleblend.evaluation.uncertainty import Uncertainty
from moleblend.evaluation.uncertainty_evaluation import (
    ClassificationEstimate,
    concatenate_estimates,
    estimate_uncertainty,
    evaluate_uncertainty,
)

VALUE = Target("dose", "regression", log10=True)
TOXIC = Target("toxic", "binary")
TARGETS = (VALUE, TOXIC)


def predictions(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Predictions, standard deviations of the members (correct ones), labels, censoring."""
    rng = np.random.default_rng(seed)
    logs, member_std = rng.normal(size=n), rng.uniform(0.1, 1, n)
    probability = rng.random(n)
    labels = np.stack(
        [10 ** (logs + member_std * rng.normal(size=n)), rng.random(n) < probability], 1
    ).astype(np.float64)
    mean = np.stack([10**logs, probability], 1)
    censoring = np.zeros((n, 2), np.int8)
    labels[0], censoring[1, 0], labels[1, 0] = np.nan, 1, 1e9
    return mean, np.stack([member_std, member_std], 1), labels, censoring


def test_metrics_are_those_of_the_columns() -> None:
    mean, member_std, labels, censoring = predictions(400, 0)
    uncertainty = Uncertainty.fit(TARGETS, mean, member_std, labels, censoring)
    mean, member_std, labels, censoring = predictions(300, 1)
    estimates = estimate_uncertainty(
        uncertainty, TARGETS, mean, member_std, labels, censoring, np.full(300, np.nan)
    )
    metrics = evaluate_uncertainty(estimates)
    columns = uncertainty.output_columns(VALUE, mean[:, :1], member_std[:, :1])
    inside = (columns["dose_low"] <= labels[:, 0]) & (labels[:, 0] <= columns["dose_high"])
    # one label is missing, one censored
    assert metrics["dose"].coverage.observed == pytest.approx(inside[2:].mean())
    assert metrics["dose"].coverage.n == 298
    assert metrics["dose"].ranked_by == "std"
    assert metrics["dose"].summary()["rank_correlation"] > 0.3
    expected = columns["dose_log10_std"] * mean[:, 0] * np.log(10)
    assert columns["dose_std"] == pytest.approx(expected)
    sets = uncertainty.output_columns(TOXIC, mean[:, 1:], None)["toxic_set"]
    right = [str(int(label)) in text for label, text in zip(labels[1:, 1], sets[1:], strict=True)]
    assert metrics["toxic"].coverage.observed == pytest.approx(np.mean(right))
    summary = metrics["toxic"].summary()
    assert uncertainty.classes["toxic"].probability.method == "none"
    assert summary["ECE_after"] == summary["ECE_before"] > 0
    assert summary["mean_set_size"] == pytest.approx(
        np.mean([text.count(",") + 1 for text in sets])
    )


def test_folds_are_evaluated_together() -> None:
    estimates = []
    for seed in (0, 1):
        validation = predictions(100, seed)
        uncertainty = Uncertainty.fit(TARGETS, *validation)
        estimates.append(
            estimate_uncertainty(
                uncertainty, TARGETS, *predictions(50, seed + 2), np.full(50, np.nan)
            )
        )
    alone, together = (
        [evaluate_uncertainty(one) for one in estimates],
        evaluate_uncertainty(concatenate_estimates(estimates)),
    )
    for name in ("dose", "toxic"):
        mean = np.mean([one[name].coverage.observed for one in alone])
        assert together[name].coverage.observed == pytest.approx(mean)
        assert together[name].coverage.n == 2 * alone[0][name].coverage.n


def test_a_single_model_is_ranked_by_the_distance_or_not_at_all() -> None:
    mean, _, labels, censoring = predictions(100, 0)
    uncertainty = Uncertainty.fit(TARGETS, mean, None, labels, censoring)
    for distance, is_ranked in ((np.arange(100.0), True), (np.full(100, np.nan), False)):
        metrics = evaluate_uncertainty(
            estimate_uncertainty(uncertainty, TARGETS, mean, None, labels, censoring, distance)
        )["dose"]
        assert (metrics.ranked_by, metrics.errors is not None) == ("distance", is_ranked)


def test_confidence_without_information_does_not_rank_wrong_classes() -> None:
    """Accuracy is 0.8 whatever the confidence, so neither number departs from no information."""
    rng = np.random.default_rng(0)
    n = 4000
    confidence = rng.uniform(0.5, 1, n)
    predicted = rng.integers(0, 2, n)
    label = np.where(rng.random(n) < 0.8, predicted, 1 - predicted).astype(np.float64)
    probability = np.where(predicted == 1, confidence, 1 - confidence)
    estimate = ClassificationEstimate(
        raw=probability, calibrated=probability, sets=np.ones((n, 2), bool), label=label
    )
    summary = evaluate_uncertainty({"active": estimate})["active"].summary()
    assert abs(summary["rank_correlation"]) < 0.05
    assert abs(summary["error_roc_auc"] - 0.5) < 0.03
