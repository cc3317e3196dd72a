import json
from collections.abc import Callable

import numpy as np
import pytest

from moleblend.config import from_dict, to_dict
from moleblend.evaluation.conformal import (
    IntervalCalibration,
    SetCalibration,
    format_sets,
    min_molecules,
)

NAN = np.nan
N_DRAWS = 250


def mean_coverage(
    n: int, confidence: float, intervals: Callable[[IntervalCalibration], IntervalCalibration]
) -> tuple[float, float]:
    """Fraction of labels in their interval over many calibration sets, and its standard error."""
    inside = []
    for seed in range(N_DRAWS):
        rng = np.random.default_rng(seed)
        std = rng.uniform(0.2, 3.0, n + 50)
        predicted = rng.normal(size=n + 50)
        label = predicted + std * rng.standard_t(3, n + 50)
        calibration = IntervalCalibration.fit(predicted[:n], label[:n], std[:n])
        low, high = intervals(calibration).predict_intervals(predicted[n:], std[n:], confidence).T
        inside.append(((low <= label[n:]) & (label[n:] <= high)).mean())
    return float(np.mean(inside)), float(np.std(inside, ddof=1) / np.sqrt(N_DRAWS))


@pytest.mark.parametrize(("n", "confidence"), [(9, 0.9), (19, 0.9), (25, 0.8), (100, 0.95)])
def test_mean_coverage_is_the_confidence(n: int, confidence: float) -> None:
    """Over exchangeable draws it is the smallest k / (n + 1) from the confidence upwards."""
    exact = np.ceil(confidence * (n + 1) - 1e-9) / (n + 1)
    found, error = mean_coverage(n, confidence, lambda calibration: calibration)
    assert found == pytest.approx(exact, abs=3 * error)


def test_a_quantile_one_score_too_low_is_detected() -> None:
    def without_greatest(calibration: IntervalCalibration) -> IntervalCalibration:
        return IntervalCalibration((0.0, *calibration.scores[:-1]), is_normalised=True)

    found, error = mean_coverage(19, 0.9, without_greatest)
    assert found < 0.9 - 3 * error


def test_intervals_by_hand() -> None:
    """Of 9 scores the greatest is the 90 % quantile, of 19 the second greatest."""
    label = np.array([*np.arange(1.0, 10.0), NAN])
    calibration = IntervalCalibration.fit(np.zeros(10), label)
    assert calibration.predict_intervals(np.array([5.0])).tolist() == [[-4.0, 14.0]]
    calibration = IntervalCalibration.fit(np.zeros(19), np.arange(1.0, 20.0))
    assert calibration.predict_intervals(np.array([0.0])).tolist() == [[-18.0, 18.0]]
    calibration = IntervalCalibration.fit(np.zeros(10), 2 * label, np.full(10, 2.0))
    assert calibration.predict_intervals(np.array([0.0, NAN]), np.array([3.0, NAN])).tolist() == [
        [-27.0, 27.0],
        [pytest.approx(NAN, nan_ok=True)] * 2,
    ]


def test_too_few_molecules_give_infinite_intervals_and_a_sentence() -> None:
    needed = [min_molecules(confidence) for confidence in (0.5, 0.8, 0.9, 0.95, 0.99)]
    assert needed == [1, 4, 9, 19, 99]
    calibration = IntervalCalibration.fit(np.zeros(8), np.arange(8.0))
    found = calibration.predict_intervals(np.array([1.0, NAN]))
    assert found[0].tolist() == [-np.inf, np.inf]
    assert np.isnan(found[1]).all()
    assert calibration.limitation("pIC50") == (
        "pIC50: the 90% intervals are infinite, since they need 9 labelled validation molecules "
        "and there are 8"
    )
    assert calibration.limitation("pIC50", 0.8) == ""
    assert np.isfinite(calibration.predict_intervals(np.array([1.0]), confidence=0.8)).all()
    nothing = IntervalCalibration.fit(np.zeros(2), np.full(2, NAN))
    assert nothing.predict_intervals(np.zeros(1)).tolist() == [[-np.inf, np.inf]]


def test_invalid_arguments_are_refused() -> None:
    calibration = IntervalCalibration.fit(np.zeros(20), np.arange(20.0))
    with pytest.raises(
        ValueError, match="got standard deviations, expected none as in the calibration"
    ):
        calibration.predict_intervals(np.zeros(1), np.ones(1))
    with pytest.raises(
        ValueError, match=r"got confidence=90\.0, expected a number between 0 and 1"
    ):
        calibration.predict_intervals(np.zeros(1), confidence=90.0)
    with pytest.raises(ValueError, match="not above 0"):
        IntervalCalibration.fit(np.zeros(2), np.ones(2), np.array([1.0, 0.0]))


@pytest.mark.parametrize("n_classes", [2, 3])
def test_every_class_is_in_its_sets_as_often_as_the_confidence(n_classes: int) -> None:
    """This includes the rare class, which sets calibrated on all classes together would miss."""
    fraction = np.array([0.7, 0.3]) if n_classes == 2 else np.array([0.6, 0.3, 0.1])
    inside: list[list[float]] = [[] for _ in range(n_classes)]
    for seed in range(150):
        rng = np.random.default_rng(seed)
        label = rng.choice(n_classes, 200, p=fraction)
        probability = rng.dirichlet(np.ones(n_classes), 200) + 0.6 * np.eye(n_classes)[label]
        probability /= probability.sum(1, keepdims=True)
        given = probability[:, 1] if n_classes == 2 else probability
        calibration = SetCalibration.fit(given[:150], label[:150].astype(np.float64))
        sets = calibration.predict_sets(given[150:], 0.8)
        for k in range(n_classes):
            if (label[150:] == k).any():
                inside[k].append(float(sets[label[150:] == k, k].mean()))
    for found in inside:
        error = np.std(found, ddof=1) / np.sqrt(len(found))
        # between the confidence and one molecule more of the class, which has about 15
        assert 0.8 - 3 * error <= np.mean(found) <= 0.8 + 1 / 12 + 3 * error


def test_sets_by_hand() -> None:
    """Both classes have scores from 0.1 to 0.9, so a class of probability 0.1 is in the set."""
    probability = np.concatenate([np.arange(1, 10) / 10, 1 - np.arange(1, 10) / 10, [0.3]])
    label = np.concatenate([np.ones(9), np.zeros(9), [NAN]])
    calibration = SetCalibration.fit(probability, label)
    assert [len(scores) for scores in calibration.scores] == [9, 9]
    sets = calibration.predict_sets(np.array([0.05, 0.5, 0.95, NAN]))
    assert format_sets(sets, ["0", "1"]) == ["{0}", "{0, 1}", "{1}", "{}"]
    assert format_sets(calibration.predict_sets(np.array([0.5]), 0.3), ["0", "1"]) == ["{}"]


def test_a_class_with_too_few_molecules_is_in_every_set() -> None:
    probability = np.linspace(0.01, 0.3, 40)
    label = np.zeros(40)
    label[:3] = 1
    calibration = SetCalibration.fit(probability, label)
    assert calibration.predict_sets(np.array([0.0, 1.0]))[:, 1].tolist() == [True, True]
    assert calibration.limitation("toxic", ["no", "yes"]) == (
        "toxic: every 90% set contains these classes, since it needs 9 validation molecules of "
        "each: yes (3)"
    )
    assert calibration.limitation("toxic", ["no", "yes"], 0.7) == ""
    with pytest.raises(ValueError, match="got probabilities of 3 classes, expected 2"):
        calibration.predict_sets(np.full((1, 3), 1 / 3))


def test_calibrations_are_read_from_json() -> None:
    rng = np.random.default_rng(0)
    intervals = IntervalCalibration.fit(rng.normal(size=30), rng.normal(size=30))
    sets = SetCalibration.fit(rng.random(30), (rng.random(30) < 0.5).astype(np.float64))
    for calibration in (intervals, sets):
        assert (
            from_dict(type(calibration), json.loads(json.dumps(to_dict(calibration))), "header")
            == calibration
        )
