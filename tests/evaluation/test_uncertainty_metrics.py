import numpy as np
import pytest
from scipy.special import expit

from moleblend.evaluation.uncertainty_metrics import (
    error_curve,
    interval_coverage,
    quantile_curve,
    reliability,
    set_coverage,
)

NAN = np.nan


def test_calibration_error_by_hand() -> None:
    """40 molecules make two bins of 20: predicted 0.2 and 0.9, observed 0.25 and 0.6."""
    probability = np.repeat([0.2, 0.9], 20)
    label = np.concatenate([np.arange(20) < 5, np.arange(20) < 12]).astype(np.float64)
    found = reliability(probability, label)
    assert found is not None
    assert found.predicted == pytest.approx((0.2, 0.9))
    assert found.observed == pytest.approx((0.25, 0.6))
    assert found.count == (20, 20)
    assert found.error == pytest.approx((0.05 + 0.3) / 2)


def test_bins_have_equal_mass_and_ties_stay_together() -> None:
    rng = np.random.default_rng(0)
    probability = rng.random(1000)
    found = reliability(probability, (rng.random(1000) < probability).astype(np.float64))
    assert found is not None
    assert found.count == (100,) * 10
    order = rng.permutation(400)
    tied = np.repeat([0.1, 0.5, 0.6, 0.9], 100)[order]
    label = (np.arange(400) % 3 == 0).astype(np.float64)[order]
    found = reliability(tied, label)
    assert found is not None
    assert found.predicted == pytest.approx((0.1, 0.5, 0.6, 0.9))


def test_correct_probabilities_have_an_error_too() -> None:
    """With 100 molecules correct probabilities have an error of about 0.1, as computed."""
    errors, expected, n_above = [], [], 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        probability = expit(rng.normal(size=100))
        found = reliability(probability, (rng.random(100) < probability).astype(np.float64))
        assert found is not None
        errors.append(found.error)
        expected.append(found.error_if_calibrated)
        n_above += found.error > found.error_if_calibrated_95
    assert np.mean(errors) > 0.05
    assert np.mean(expected) == pytest.approx(np.mean(errors), rel=0.15)
    assert n_above <= 5
    wrong = reliability(np.full(100, 0.9), (np.arange(100) % 2).astype(np.float64))
    assert wrong is not None
    assert wrong.error > 3 * wrong.error_if_calibrated_95


def test_several_classes_are_evaluated_by_the_most_probable_one() -> None:
    probability = np.tile([0.1, 0.7, 0.2], (20, 1))
    label = np.where(np.arange(20) < 10, 1.0, 2.0)
    label[19] = NAN
    found = reliability(probability, label)
    assert found is not None
    assert (found.n, found.predicted[0]) == (19, pytest.approx(0.7))
    assert found.observed == pytest.approx((10 / 19,))


def test_without_labels_there_is_no_curve() -> None:
    nothing = np.full(3, NAN)
    assert reliability(np.full(3, 0.5), nothing) is None
    assert quantile_curve(np.zeros(3), np.ones(3), nothing) is None
    assert error_curve(np.zeros(3), np.ones(3), nothing) is None
    assert interval_coverage(np.zeros((3, 2)), nothing, 0.9).observed is None


def test_quantiles_of_correct_and_of_too_small_std() -> None:
    rng = np.random.default_rng(1)
    std = rng.uniform(0.5, 2, 4000)
    label = std * rng.normal(size=4000)
    label[:100] = NAN
    correct = quantile_curve(np.zeros(4000), std, label)
    narrow = quantile_curve(np.zeros(4000), std / 3, label)
    assert correct is not None
    assert narrow is not None
    assert (correct.n, correct.error < 0.015) == (3900, True)
    assert correct.observed == pytest.approx(correct.level, abs=0.03)
    assert narrow.observed[0] > 0.25  # below the 5 % quantile
    assert narrow.error > 0.1


def test_error_curve_by_hand() -> None:
    predicted, uncertainty = np.zeros(20), np.arange(20.0)
    found = error_curve(predicted, uncertainty, np.arange(20.0) + 1)
    assert found is not None
    assert found.rank_correlation == pytest.approx(1.0)
    assert found.error == found.error_at_best
    assert found.error[0] == 1.0
    assert found.error[-1] == pytest.approx(10.5)
    backwards = error_curve(predicted, -uncertainty, np.arange(20.0) + 1)
    assert backwards is not None
    assert backwards.rank_correlation == pytest.approx(-1.0)
    assert backwards.error[0] == 20.0
    constant = error_curve(predicted, np.ones(20), np.arange(20.0))
    assert constant is not None
    assert constant.rank_correlation is None


def test_coverage_and_its_confidence_interval() -> None:
    intervals = np.tile([0.0, 1.0], (11, 1))
    label = np.array([0.0, 1.0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 2.0, NAN])
    found = interval_coverage(intervals, label, 0.9)
    assert (found.nominal, found.observed, found.n) == (0.9, pytest.approx(0.9), 10)
    # Clopper and Pearson for 9 of 10, as in tables
    assert (found.low, found.high) == (
        pytest.approx(0.5550, abs=1e-4),
        pytest.approx(0.9975, abs=1e-4),
    )


def test_coverage_of_sets() -> None:
    sets = np.array([[True, False], [True, True], [False, False], [True, False]])
    found = set_coverage(sets, np.array([0.0, 1.0, 0.0, NAN]), 0.8)
    assert (found.observed, found.n) == (pytest.approx(2 / 3), 3)
