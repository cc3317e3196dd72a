import json

import numpy as np
import pytest
from scipy.special import expit, softmax
from scipy.stats import norm
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import roc_auc_score

from moleblend.config import from_dict, to_dict
from moleblend.evaluation.calibration import (
    Knots,
    ProbabilityCalibration,
    StdCalibration,
    _fit_isotonic,
    _fit_temperature,
)

NAN = np.nan


def drawn(n: int, seed: int, hotter: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities with logits `hotter` times the correct ones, labels, and the correct ones."""
    rng = np.random.default_rng(seed)
    logit = 1.5 * rng.normal(size=n)
    right = expit(logit)
    return expit(hotter * logit), (rng.random(n) < right).astype(np.float64), right


def test_temperature_is_recovered() -> None:
    probability, label, right = drawn(2000, 0, hotter=3.0)
    calibration = ProbabilityCalibration.fit(probability, label)
    assert calibration.method == "temperature"
    assert calibration.temperature == pytest.approx(3.0, rel=0.15)
    assert calibration.apply(probability) == pytest.approx(right, abs=0.05)
    assert np.argsort(calibration.apply(probability)).tolist() == np.argsort(probability).tolist()


def test_temperature_of_several_classes() -> None:
    rng = np.random.default_rng(1)
    logits = 1.5 * rng.normal(size=(1500, 3))
    label = np.array([rng.choice(3, p=p) for p in softmax(logits, 1)], np.float64)
    given = softmax(2.5 * logits, 1)
    calibration = ProbabilityCalibration.fit(given, label)
    assert (calibration.method, calibration.temperature) == (
        "temperature",
        pytest.approx(2.5, rel=0.15),
    )
    assert calibration.apply(given) == pytest.approx(softmax(logits, 1), abs=0.06)


def test_isotonic_is_chosen_where_no_temperature_helps() -> None:
    """The ranking is correct but all probabilities are halved."""
    rng = np.random.default_rng(2)
    right = rng.random(3000)
    label = (rng.random(3000) < right).astype(np.float64)
    calibration = ProbabilityCalibration.fit(right / 2, label)
    assert calibration.method == "isotonic"
    assert np.abs(calibration.apply(right / 2) - right).mean() < 0.04
    assert 0 < calibration.apply(np.array([0.0]))[0] < calibration.apply(np.array([1.0]))[0] < 1
    # it passes through the middle of each block of scikit-learn
    theirs = IsotonicRegression(y_min=1 / 3002, y_max=3001 / 3002, out_of_bounds="clip")
    theirs.fit(right / 2, label)
    given, value = theirs.X_thresholds_, theirs.y_thresholds_
    middles = np.array([given[value == level].mean() for level in np.unique(value)])
    assert calibration.apply(middles) == pytest.approx(theirs.predict(middles))


def test_calibration_of_two_classes_never_changes_the_ranking() -> None:
    """Isotonic regression alone would give 152 molecules about 20 different probabilities."""
    rng = np.random.default_rng(2)
    right = rng.random(152)
    label = (rng.random(152) < right).astype(np.float64)
    for classes in (right / 2, right**3):
        for fit in (_fit_isotonic, _fit_temperature):
            calibration = fit(np.stack([1 - classes, classes], 1), label.astype(np.int64))
            after = calibration.apply(np.sort(classes))
            assert (np.diff(after) > 0).all()
            assert roc_auc_score(label, calibration.apply(classes)) == roc_auc_score(label, classes)
    extremes = _fit_isotonic(np.eye(2)[np.arange(6) % 2], np.arange(6) % 2)  # sure and right
    assert (np.diff(extremes.apply(np.array([0.0, 1e-9, 0.5, 1.0]))) > 0).all()


def test_isotonic_of_several_classes_sums_to_one() -> None:
    rng = np.random.default_rng(3)
    right = softmax(2 * rng.normal(size=(3000, 3)), 1)
    label = np.array([rng.choice(3, p=p) for p in right], np.float64)
    wrong = right**0.5 * np.array([3.0, 1.0, 0.3])
    wrong /= wrong.sum(1, keepdims=True)
    calibration = ProbabilityCalibration.fit(wrong, label)
    assert calibration.method == "isotonic"
    after = calibration.apply(wrong)
    assert after.sum(1) == pytest.approx(1.0)
    assert np.abs(after - right).mean() < 0.5 * np.abs(wrong - right).mean()
    with pytest.raises(ValueError, match="got probabilities of 4 classes, expected 3"):
        calibration.apply(np.full((1, 4), 0.25))


@pytest.mark.parametrize("n", [30, 50, 150])
def test_small_validation_sets_do_not_overfit(n: int) -> None:
    """Correct probabilities remain nearly correct: mean increase of the exact Brier score."""
    lost, lost_by_isotonic, n_unchanged = [], [], 0
    for seed in range(20):
        probability, label, right = drawn(n, seed)
        calibration = ProbabilityCalibration.fit(probability, label)
        n_unchanged += calibration.method == "none"
        lost.append(((calibration.apply(probability) - right) ** 2).mean())
        always = IsotonicRegression().fit(probability, label)
        lost_by_isotonic.append(((always.predict(probability) - right) ** 2).mean())
    assert n_unchanged >= 15
    assert np.mean(lost) < 0.003  # a probability is off by 0.05
    assert np.mean(lost_by_isotonic) > 4 * np.mean(lost)


def test_missing_labels_and_predictions_are_left_out() -> None:
    probability, label, _ = drawn(300, 4, hotter=3.0)
    without = ProbabilityCalibration.fit(probability, label)
    more = np.concatenate([probability, [0.9, NAN]]), np.concatenate([label, [NAN, 1.0]])
    assert ProbabilityCalibration.fit(*more) == without
    assert np.isnan(without.apply(np.array([NAN, 0.5]))).tolist() == [True, False]


def test_too_few_molecules_leave_probabilities_unchanged() -> None:
    probability, label, _ = drawn(29, 5, hotter=5.0)
    calibration = ProbabilityCalibration.fit(probability, label)
    assert calibration.method == "none"
    assert calibration.reason.startswith(
        "there are 29 labelled validation molecules and calibration needs 30"
    )
    assert calibration.apply(probability).tolist() == pytest.approx(probability.tolist())
    label = np.zeros(50)
    label[:4] = 1
    calibration = ProbabilityCalibration.fit(np.linspace(0, 1, 50), label)
    assert calibration.method == "none"
    assert "class 1 has 4 validation molecules" in calibration.reason


def test_labels_that_are_not_class_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"got label 0\.5, expected a class number from 0 to 1"):
        ProbabilityCalibration.fit(np.array([0.2, 0.3]), np.array([1.0, 0.5]))


def test_the_factor_is_the_maximum_likelihood_estimate() -> None:
    rng = np.random.default_rng(6)
    member_std = rng.uniform(0.2, 2.0, 80)
    predicted = rng.normal(size=80)
    label = predicted + 2.5 * member_std * rng.normal(size=80)
    calibration = StdCalibration.fit(predicted, label, member_std)
    assert calibration.has_spread

    def likelihood(factor: float) -> float:
        std = factor * np.maximum(member_std, calibration.floor)
        return norm.logpdf(label, predicted, std).sum()

    for other in (0.97, 1.03):
        assert likelihood(calibration.factor) > likelihood(other * calibration.factor)
    assert calibration.apply(predicted, member_std).max() == pytest.approx(
        calibration.factor * member_std.max()
    )
    assert calibration.apply(np.zeros(1), np.zeros(1))[0] == pytest.approx(
        calibration.factor * calibration.floor
    )
    with pytest.raises(ValueError, match="got no standard deviation of the members"):
        calibration.apply(predicted)


def test_an_uninformative_member_std_is_not_used() -> None:
    rng = np.random.default_rng(7)
    error = rng.normal(size=100)
    constant = StdCalibration.fit(np.zeros(100), error)
    assert constant.factor == pytest.approx(np.sqrt((error**2).mean()))
    assert (constant.has_spread, constant.n) == (False, 100)
    misleading = np.exp(2 * rng.normal(size=100))
    assert StdCalibration.fit(np.zeros(100), error, misleading) == constant
    mostly_zero = np.where(np.arange(100) < 10, 0.0, 1.0)
    assert StdCalibration.fit(np.zeros(100), error, mostly_zero) == constant
    assert constant.apply(np.array([1.0, NAN])).tolist() == [
        constant.factor,
        pytest.approx(NAN, nan_ok=True),
    ]


def test_member_std_that_cannot_be_calibrated_is_refused() -> None:
    with pytest.raises(ValueError, match="an error other than 0"):
        StdCalibration.fit(np.ones(3), np.ones(3))
    with pytest.raises(ValueError, match="an error other than 0"):
        StdCalibration.fit(np.ones(3), np.full(3, NAN))
    with pytest.raises(ValueError, match="negative or missing"):
        StdCalibration.fit(np.ones(2), np.zeros(2), np.array([1.0, -1.0]))


@pytest.mark.parametrize(
    "calibration",
    [
        ProbabilityCalibration("temperature", "because", temperature=1.25),
        ProbabilityCalibration("isotonic", "because", knots=(Knots((0.1, 0.4), (0.2, 0.9)),)),
        StdCalibration(1.5, 0.25, has_spread=True, n=12),
    ],
)
def test_a_calibration_is_read_from_json(
    calibration: ProbabilityCalibration | StdCalibration,
) -> None:
    text = json.dumps(to_dict(calibration))
    assert from_dict(type(calibration), json.loads(text), "header") == calibration
