import json
from collections.abc import Callable

import numpy as np
import pytest

from moleblend.config import from_dict, to_dict
from moleblend.evaluation.conformal import IntervalCalibration, SetCalibration, fewest, in_words

NAN = np.nan
N_DRAWS = 250


def mean_coverage(
    n: int, confidence: float, intervals: Callable[[IntervalCalibration], IntervalCalibration]
) -> tuple[float, float]:
    """Share of labels in their interval over many calibration sets, and its standard error."""
    inside = []
    for seed in range(N_DRAWS):
        rng = np.random.default_rng(seed)
        deviation = rng.uniform(0.2, 3.0, n + 50)
        predicted = rng.normal(size=n + 50)
        label = predicted + deviation * rng.standard_t(3, n + 50)
        known = IntervalCalibration.fit(predicted[:n], label[:n], deviation[:n])
        low, high = intervals(known).intervals(predicted[n:], deviation[n:], confidence).T
        inside.append(((low <= label[n:]) & (label[n:] <= high)).mean())
    return float(np.mean(inside)), float(np.std(inside, ddof=1) / np.sqrt(N_DRAWS))


@pytest.mark.parametrize(("n", "confidence"), [(9, 0.9), (19, 0.9), (25, 0.8), (100, 0.95)])
def test_mean_coverage_is_what_was_promised(n: int, confidence: float) -> None:
    """Over exchangeable draws it is the smallest k / (n + 1) from the confidence up, exactly."""
    exact = np.ceil(confidence * (n + 1) - 1e-9) / (n + 1)
    found, error = mean_coverage(n, confidence, lambda known: known)
    assert found == pytest.approx(exact, abs=3 * error)


def test_a_quantile_one_score_too_low_would_be_seen() -> None:
    def without_greatest(known: IntervalCalibration) -> IntervalCalibration:
        return IntervalCalibration((0.0, *known.scores[:-1]), is_normalised=True)

    found, error = mean_coverage(19, 0.9, without_greatest)
    assert found < 0.9 - 3 * error


def test_intervals_by_hand() -> None:
    """Of 9 scores the greatest is the 90 % quantile, of 19 the second greatest."""
    label = np.array([*np.arange(1.0, 10.0), NAN])
    known = IntervalCalibration.fit(np.zeros(10), label)
    assert known.intervals(np.array([5.0])).tolist() == [[-4.0, 14.0]]
    known = IntervalCalibration.fit(np.zeros(19), np.arange(1.0, 20.0))
    assert known.intervals(np.array([0.0])).tolist() == [[-18.0, 18.0]]
    known = IntervalCalibration.fit(np.zeros(10), 2 * label, np.full(10, 2.0))
    assert known.intervals(np.array([0.0, NAN]), np.array([3.0, NAN])).tolist() == [
        [-27.0, 27.0],
        [pytest.approx(NAN, nan_ok=True)] * 2,
    ]


def test_too_few_molecules_give_infinite_intervals_and_say_so() -> None:
    assert [fewest(confidence) for confidence in (0.5, 0.8, 0.9, 0.95, 0.99)] == [1, 4, 9, 19, 99]
    known = IntervalCalibration.fit(np.zeros(8), np.arange(8.0))
    found = known.intervals(np.array([1.0, NAN]))
    assert found[0].tolist() == [-np.inf, np.inf]
    assert np.isnan(found[1]).all()
    assert known.note("pIC50") == (
        "pIC50: the 90% intervals are infinite, since they need 9 labelled validation molecules "
        "and there are 8"
    )
    assert known.note("pIC50", 0.8) == ""
    assert np.isfinite(known.intervals(np.array([1.0]), confidence=0.8)).all()
    nothing = IntervalCalibration.fit(np.zeros(2), np.full(2, NAN))
    assert nothing.intervals(np.zeros(1)).tolist() == [[-np.inf, np.inf]]


def test_intervals_refuse_what_does_not_fit() -> None:
    known = IntervalCalibration.fit(np.zeros(20), np.arange(20.0))
    with pytest.raises(ValueError, match="calibrated without standard deviations"):
        known.intervals(np.zeros(1), np.ones(1))
    with pytest.raises(ValueError, match="lies between 0 and 1"):
        known.intervals(np.zeros(1), confidence=90.0)
    with pytest.raises(ValueError, match="not above 0"):
        IntervalCalibration.fit(np.zeros(2), np.ones(2), np.array([1.0, 0.0]))


@pytest.mark.parametrize("n_classes", [2, 3])
def test_every_class_is_in_its_sets_as_often_as_promised(n_classes: int) -> None:
    """Also the rare one, which sets for all classes at once would neglect."""
    share = np.array([0.7, 0.3]) if n_classes == 2 else np.array([0.6, 0.3, 0.1])
    inside: list[list[float]] = [[] for _ in range(n_classes)]
    for seed in range(150):
        rng = np.random.default_rng(seed)
        label = rng.choice(n_classes, 200, p=share)
        probability = rng.dirichlet(np.ones(n_classes), 200) + 0.6 * np.eye(n_classes)[label]
        probability /= probability.sum(1, keepdims=True)
        given = probability[:, 1] if n_classes == 2 else probability
        known = SetCalibration.fit(given[:150], label[:150].astype(np.float64))
        sets = known.sets(given[150:], 0.8)
        for k in range(n_classes):
            if (label[150:] == k).any():
                inside[k].append(float(sets[label[150:] == k, k].mean()))
    for found in inside:
        error = np.std(found, ddof=1) / np.sqrt(len(found))
        # between the promise and one molecule more of the class, of which there are 15 or so
        assert 0.8 - 3 * error <= np.mean(found) <= 0.8 + 1 / 12 + 3 * error


def test_sets_by_hand() -> None:
    """Class 1 was given 0.1 to 0.9, class 0 the same: from 0.1 on a class cannot be ruled out."""
    probability = np.concatenate([np.arange(1, 10) / 10, 1 - np.arange(1, 10) / 10, [0.3]])
    label = np.concatenate([np.ones(9), np.zeros(9), [NAN]])
    known = SetCalibration.fit(probability, label)
    assert [len(scores) for scores in known.scores] == [9, 9]
    sets = known.sets(np.array([0.05, 0.5, 0.95, NAN]))
    assert in_words(sets, ["0", "1"]) == ["{0}", "{0, 1}", "{1}", "{}"]
    assert in_words(known.sets(np.array([0.5]), 0.3), ["0", "1"]) == ["{}"]


def test_a_class_that_was_too_rare_is_in_every_set() -> None:
    probability = np.linspace(0.01, 0.3, 40)
    label = np.zeros(40)
    label[:3] = 1
    known = SetCalibration.fit(probability, label)
    assert known.sets(np.array([0.0, 1.0]))[:, 1].tolist() == [True, True]
    assert known.note("toxic", ["no", "yes"]) == (
        "toxic: every 90% set holds these classes, since it needs 9 validation molecules of each: "
        "yes (3)"
    )
    assert known.note("toxic", ["no", "yes"], 0.7) == ""
    with pytest.raises(ValueError, match="2 classes were expected, 3 came"):
        known.sets(np.full((1, 3), 1 / 3))


def test_it_comes_back_from_json() -> None:
    rng = np.random.default_rng(0)
    intervals = IntervalCalibration.fit(rng.normal(size=30), rng.normal(size=30))
    sets = SetCalibration.fit(rng.random(30), (rng.random(30) < 0.5).astype(np.float64))
    for known in (intervals, sets):
        assert from_dict(type(known), json.loads(json.dumps(to_dict(known))), "header") == known
