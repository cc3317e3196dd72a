import numpy as np
import pytest

from moleblend.data.targets import Target
from moleblend.evaluation.uncertainty import Uncertainty
from moleblend.evaluation.uncertainty_evaluation import (
    estimate_uncertainty,
    evaluate_uncertainty,
    joined,
)

VALUE = Target("dose", "regression", log10=True)
TOXIC = Target("toxic", "binary")
TARGETS = (VALUE, TOXIC)


def part(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Predictions, the spread of their members, labels, bounds: the spread is right for both."""
    rng = np.random.default_rng(seed)
    logs, spread = rng.normal(size=n), rng.uniform(0.1, 1, n)
    probability = rng.random(n)
    labels = np.stack(
        [10 ** (logs + spread * rng.normal(size=n)), rng.random(n) < probability], 1
    ).astype(np.float64)
    mean = np.stack([10**logs, probability], 1)
    censoring = np.zeros((n, 2), np.int8)
    labels[0], censoring[1, 0], labels[1, 0] = np.nan, 1, 1e9
    return mean, np.stack([spread, spread], 1), labels, censoring


def test_figures_are_those_of_the_columns() -> None:
    mean, spread, labels, censoring = part(400, 0)
    known = Uncertainty.fit(TARGETS, mean, spread, labels, censoring)
    mean, spread, labels, censoring = part(300, 1)
    said = estimate_uncertainty(
        known, TARGETS, mean, spread, labels, censoring, np.full(300, np.nan)
    )
    found = evaluate_uncertainty(said)
    columns = known.columns(VALUE, mean[:, :1], spread[:, :1])
    inside = (columns["dose_low"] <= labels[:, 0]) & (labels[:, 0] <= columns["dose_high"])
    assert found["dose"].coverage.observed == pytest.approx(inside[2:].mean())  # a bound, a gap
    assert found["dose"].coverage.n == 298
    assert found["dose"].ranked_by == "spread"
    assert found["dose"].figures()["rank_correlation"] > 0.3
    told = columns["dose_log10_std"] * mean[:, 0] * np.log(10)
    assert columns["dose_std"] == pytest.approx(told)
    sets = known.columns(TOXIC, mean[:, 1:], None)["toxic_set"]
    right = [str(int(label)) in text for label, text in zip(labels[1:, 1], sets[1:], strict=True)]
    assert found["toxic"].coverage.observed == pytest.approx(np.mean(right))
    figures = found["toxic"].figures()
    assert known.classes["toxic"].probability.method == "none"
    assert figures["ECE_after"] == figures["ECE_before"] > 0
    assert figures["mean_set_size"] == pytest.approx(
        np.mean([text.count(",") + 1 for text in sets])
    )


def test_folds_are_counted_together() -> None:
    parts = []
    for seed in (0, 1):
        given = part(100, seed)
        known = Uncertainty.fit(TARGETS, *given)
        parts.append(estimate_uncertainty(known, TARGETS, *part(50, seed + 2), np.full(50, np.nan)))
    alone, together = (
        [evaluate_uncertainty(one) for one in parts],
        evaluate_uncertainty(joined(parts)),
    )
    for name in ("dose", "toxic"):
        mean = np.mean([one[name].coverage.observed for one in alone])
        assert together[name].coverage.observed == pytest.approx(mean)
        assert together[name].coverage.n == 2 * alone[0][name].coverage.n


def test_a_single_model_is_ranked_by_the_distance_or_not_at_all() -> None:
    mean, _, labels, censoring = part(100, 0)
    known = Uncertainty.fit(TARGETS, mean, None, labels, censoring)
    for distance, is_ranked in ((np.arange(100.0), True), (np.full(100, np.nan), False)):
        found = evaluate_uncertainty(
            estimate_uncertainty(known, TARGETS, mean, None, labels, censoring, distance)
        )["dose"]
        assert (found.ranked_by, found.errors is not None) == ("distance", is_ranked)
