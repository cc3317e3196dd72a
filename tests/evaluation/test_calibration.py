import json

import numpy as np
import pytest
from scipy.special import expit, softmax
from scipy.stats import norm
from sklearn.isotonic import IsotonicRegression

from moleblend.config import from_dict, to_dict
from moleblend.evaluation.calibration import Knots, ProbabilityCalibration, SpreadCalibration

NAN = np.nan


def drawn(n: int, seed: int, hotter: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities with logits `hotter` times what is right, labels, and what is right."""
    rng = np.random.default_rng(seed)
    logit = 1.5 * rng.normal(size=n)
    right = expit(logit)
    return expit(hotter * logit), (rng.random(n) < right).astype(np.float64), right


def test_a_temperature_is_found_again() -> None:
    probability, label, right = drawn(2000, 0, hotter=3.0)
    found = ProbabilityCalibration.fit(probability, label)
    assert found.method == "temperature"
    assert found.temperature == pytest.approx(3.0, rel=0.15)
    assert found.apply(probability) == pytest.approx(right, abs=0.05)
    assert np.argsort(found.apply(probability)).tolist() == np.argsort(probability).tolist()


def test_temperature_of_several_classes() -> None:
    rng = np.random.default_rng(1)
    logits = 1.5 * rng.normal(size=(1500, 3))
    label = np.array([rng.choice(3, p=p) for p in softmax(logits, 1)], np.float64)
    given = softmax(2.5 * logits, 1)
    found = ProbabilityCalibration.fit(given, label)
    assert (found.method, found.temperature) == ("temperature", pytest.approx(2.5, rel=0.15))
    assert found.apply(given) == pytest.approx(softmax(logits, 1), abs=0.06)


def test_isotonic_where_no_temperature_helps() -> None:
    """The ranking is right but the probabilities are squeezed into the lower half."""
    rng = np.random.default_rng(2)
    right = rng.random(3000)
    label = (rng.random(3000) < right).astype(np.float64)
    found = ProbabilityCalibration.fit(right / 2, label)
    assert found.method == "isotonic"
    assert np.abs(found.apply(right / 2) - right).mean() < 0.04
    assert 0 < found.apply(np.array([0.0]))[0] < found.apply(np.array([1.0]))[0] < 1
    # the knots are those of scikit-learn
    theirs = IsotonicRegression(y_min=1 / 3002, y_max=3001 / 3002, out_of_bounds="clip")
    theirs.fit(right / 2, label)
    asked = np.linspace(0, 1, 50)
    assert found.apply(asked) == pytest.approx(theirs.predict(asked))


def test_isotonic_of_several_classes_sums_to_one() -> None:
    rng = np.random.default_rng(3)
    right = softmax(2 * rng.normal(size=(3000, 3)), 1)
    label = np.array([rng.choice(3, p=p) for p in right], np.float64)
    wrong = right**0.5 * np.array([3.0, 1.0, 0.3])
    wrong /= wrong.sum(1, keepdims=True)
    found = ProbabilityCalibration.fit(wrong, label)
    assert found.method == "isotonic"
    after = found.apply(wrong)
    assert after.sum(1) == pytest.approx(1.0)
    assert np.abs(after - right).mean() < 0.5 * np.abs(wrong - right).mean()
    with pytest.raises(ValueError, match="knows 3 classes, 4 came"):
        found.apply(np.full((1, 4), 0.25))


@pytest.mark.parametrize("n", [30, 50, 150])
def test_small_validation_parts_do_not_overfit(n: int) -> None:
    """Probabilities that are right stay nearly right: exact Brier score lost, over many draws."""
    lost, lost_by_isotonic, n_left_alone = [], [], 0
    for seed in range(20):
        probability, label, right = drawn(n, seed)
        found = ProbabilityCalibration.fit(probability, label)
        n_left_alone += found.method == "none"
        lost.append(((found.apply(probability) - right) ** 2).mean())
        always = IsotonicRegression().fit(probability, label)
        lost_by_isotonic.append(((always.predict(probability) - right) ** 2).mean())
    assert n_left_alone >= 15
    assert np.mean(lost) < 0.003  # a probability is off by 0.05
    assert np.mean(lost_by_isotonic) > 4 * np.mean(lost)


def test_missing_labels_and_predictions_are_left_out() -> None:
    probability, label, _ = drawn(300, 4, hotter=3.0)
    without = ProbabilityCalibration.fit(probability, label)
    more = np.concatenate([probability, [0.9, NAN]]), np.concatenate([label, [NAN, 1.0]])
    assert ProbabilityCalibration.fit(*more) == without
    assert np.isnan(without.apply(np.array([NAN, 0.5]))).tolist() == [True, False]


def test_too_few_molecules_leave_probabilities_alone() -> None:
    probability, label, _ = drawn(29, 5, hotter=5.0)
    found = ProbabilityCalibration.fit(probability, label)
    assert found.method == "none"
    assert found.reason.startswith("29 labelled validation molecules are fewer than the 30")
    assert found.apply(probability).tolist() == pytest.approx(probability.tolist())
    label = np.zeros(50)
    label[:4] = 1
    found = ProbabilityCalibration.fit(np.linspace(0, 1, 50), label)
    assert found.method == "none"
    assert "class 1 has 4 validation molecules" in found.reason


def test_labels_that_are_no_class_are_refused() -> None:
    with pytest.raises(ValueError, match=r"label 0\.5 is no class, they are 0 to 1"):
        ProbabilityCalibration.fit(np.array([0.2, 0.3]), np.array([1.0, 0.5]))


def test_the_factor_is_that_of_greatest_likelihood() -> None:
    rng = np.random.default_rng(6)
    spread = rng.uniform(0.2, 2.0, 80)
    predicted = rng.normal(size=80)
    label = predicted + 2.5 * spread * rng.normal(size=80)
    found = SpreadCalibration.fit(predicted, label, spread)
    assert found.has_spread

    def likelihood(factor: float) -> float:
        deviation = factor * np.maximum(spread, found.floor)
        return norm.logpdf(label, predicted, deviation).sum()

    for other in (0.97, 1.03):
        assert likelihood(found.factor) > likelihood(other * found.factor)
    assert found.apply(predicted, spread).max() == pytest.approx(found.factor * spread.max())
    assert found.apply(np.zeros(1), np.zeros(1))[0] == pytest.approx(found.factor * found.floor)
    with pytest.raises(ValueError, match="none came"):
        found.apply(predicted)


def test_a_spread_that_says_nothing_is_not_used() -> None:
    rng = np.random.default_rng(7)
    error = rng.normal(size=100)
    plain = SpreadCalibration.fit(np.zeros(100), error)
    assert plain.factor == pytest.approx(np.sqrt((error**2).mean()))
    assert (plain.has_spread, plain.n) == (False, 100)
    misleading = np.exp(2 * rng.normal(size=100))
    assert SpreadCalibration.fit(np.zeros(100), error, misleading) == plain
    mostly_zero = np.where(np.arange(100) < 10, 0.0, 1.0)
    assert SpreadCalibration.fit(np.zeros(100), error, mostly_zero) == plain
    assert plain.apply(np.array([1.0, NAN])).tolist() == [
        plain.factor,
        pytest.approx(NAN, nan_ok=True),
    ]


def test_spreads_that_cannot_be_calibrated_are_refused() -> None:
    with pytest.raises(ValueError, match="an error other than 0"):
        SpreadCalibration.fit(np.ones(3), np.ones(3))
    with pytest.raises(ValueError, match="an error other than 0"):
        SpreadCalibration.fit(np.ones(3), np.full(3, NAN))
    with pytest.raises(ValueError, match="negative or missing"):
        SpreadCalibration.fit(np.ones(2), np.zeros(2), np.array([1.0, -1.0]))


@pytest.mark.parametrize(
    "calibration",
    [
        ProbabilityCalibration("temperature", "because", temperature=1.25),
        ProbabilityCalibration("isotonic", "because", knots=(Knots((0.1, 0.4), (0.2, 0.9)),)),
        SpreadCalibration(1.5, 0.25, has_spread=True, n=12),
    ],
)
def test_it_comes_back_from_json(calibration: ProbabilityCalibration | SpreadCalibration) -> None:
    text = json.dumps(to_dict(calibration))
    assert from_dict(type(calibration), json.loads(text), "header") == calibration
