"""Probabilities and spreads put right, by what validation molecules showed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Float64, Int64
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.isotonic import IsotonicRegression

Method = Literal["none", "temperature", "isotonic"]

FEWEST = 30
"""Labelled validation molecules below which probabilities stay as they are."""

FEWEST_OF_A_CLASS = 5
"""Validation molecules of each class below which probabilities stay as they are."""

_N_FOLDS, _N_ROUNDS = 5, 4
_SMALLEST_PROBABILITY = 1e-6
_TEMPERATURES = (0.25, 20.0)
_FLOOR_QUANTILE = 0.05


@dataclass(frozen=True)
class Knots:
    """A rising function: straight between its knots, constant beyond them."""

    given: tuple[float, ...]
    value: tuple[float, ...]


@dataclass(frozen=True)
class ProbabilityCalibration:
    """How the probabilities of one target are put right.

    Attributes:
        method: `none` (they stay), `temperature`, or `isotonic`.
        reason: why this method, in a sentence.
        temperature: logits are divided by it; above 1 makes probabilities less extreme.
        knots: isotonic functions: of class 1 for a binary target, else one for each class.
    """

    method: Method
    reason: str
    temperature: float = 1.0
    knots: tuple[Knots, ...] = ()

    @classmethod
    def fit(
        cls, probability: Float[np.ndarray, "n ..."], label: Float[np.ndarray, " n"]
    ) -> "ProbabilityCalibration":
        """Choose a method by cross-validation within the validation part, and fit it to all of it.

        The Brier score of each molecule (its sum over the classes) comes from five folds that keep
        the shares of the classes, four times with other folds. Temperature is taken where its mean
        score is better than that of leaving all as it is by more than a standard error of the
        paired differences; isotonic where it is better by as much than the better of these two. So
        what is more flexible must show its worth, and a small validation part mostly leaves
        probabilities alone.

        Args:
            probability: of class 1, or of every class, on validation molecules.
            label: class numbers from 0; NaN where missing.

        Raises:
            ValueError: a label is no class.

        Reference:
            Guo et al., ICML 2017, arXiv:1706.04599 (temperature); Zadrozny and Elkan, KDD 2002
            (isotonic, one class against the others).
        """
        classes, label = _known(by_class(probability), label)
        n_classes = classes.shape[1]
        counts = np.bincount(label, minlength=n_classes)
        if len(label) < FEWEST:
            return cls(
                "none",
                f"{len(label)} labelled validation molecules are fewer than the {FEWEST} from "
                "which probabilities are put right",
            )
        if counts.min() < FEWEST_OF_A_CLASS:
            return cls(
                "none",
                f"class {counts.argmin()} has {counts.min()} validation molecules, fewer than the "
                f"{FEWEST_OF_A_CLASS} from which probabilities are put right",
            )
        scores = {method: _cross_validated(fit, classes, label) for method, fit in _FITS.items()}
        best, tried = "none", []
        for method in ("temperature", "isotonic"):
            gain = scores[best] - scores[method]
            error = float(gain.std(ddof=1)) / np.sqrt(len(gain))
            is_better = gain.mean() > error
            tried.append(
                f"{method} {'is' if is_better else 'is not'} better than {best} by more than a "
                f"standard error (Brier score lower by {gain.mean():.4f} ± {error:.4f})"
            )
            if is_better:
                best = method
        reason = f"cross-validated on {len(label)} validation molecules: {'; '.join(tried)}"
        return _FITS[best](classes, label, reason)

    def apply(self, probability: Float[np.ndarray, "n ..."]) -> Float64[np.ndarray, "n ..."]:
        """Put probabilities right; NaN stays.

        Temperature is p' = softmax(log p / T). Isotonic values of several classes are divided by
        their sum.

        Args:
            probability: of class 1, or of every class, as in `fit`.
        """
        classes = by_class(probability)
        if self.method == "temperature":
            classes = softmax(_logits(classes) / self.temperature, axis=1)
        elif self.method == "isotonic" and len(self.knots) == 1:
            risen = np.interp(classes[:, 1], self.knots[0].given, self.knots[0].value)
            classes = np.stack([1 - risen, risen], 1)
        elif self.method == "isotonic":
            if len(self.knots) != classes.shape[1]:
                raise ValueError(
                    f"the calibration knows {len(self.knots)} classes, {classes.shape[1]} came"
                )
            columns = zip(classes.T, self.knots, strict=True)
            classes = np.stack([np.interp(p, knot.given, knot.value) for p, knot in columns], 1)
            classes = classes / classes.sum(1, keepdims=True)
        return classes[:, 1] if probability.ndim == 1 else classes


@dataclass(frozen=True)
class SpreadCalibration:
    """How the spread of one regression target becomes a standard deviation of its error.

    Attributes:
        factor: the spread is multiplied by it; without a spread, the standard deviation itself in
            the label's unit.
        floor: a smaller spread counts as this one.
        has_spread: the standard deviation depends on the molecule.
        n: validation molecules it was fitted to.
    """

    factor: float
    floor: float
    has_spread: bool
    n: int

    @classmethod
    def fit(
        cls,
        predicted: Float[np.ndarray, " n"],
        label: Float[np.ndarray, " n"],
        spread: Float[np.ndarray, " n"] | None = None,
    ) -> "SpreadCalibration":
        """Find the factor of greatest likelihood, with errors that are normally distributed.

        With spread s and error e of each molecule, factor² = mean(e²/s²); without, factor² =
        mean(e²). The spread is used if the validation molecules are likelier with it than without:
        each has one number to fit. Its floor is the 5 % quantile of the validation molecules.

        Args:
            predicted: on validation molecules, in the label's unit.
            label: NaN where missing.
            spread: of an ensemble or a variance head, in the label's unit.

        Raises:
            ValueError: no label, every error is 0, or a spread is negative.

        Reference:
            Levi et al., Sensors 2022, arXiv:1905.11659; Laves et al., MIDL 2020 (a single factor).
        """
        is_known = ~np.isnan(label) & ~np.isnan(predicted)
        error = (label - predicted)[is_known].astype(np.float64)
        if not error.any():
            raise ValueError("no validation molecule has a label and an error other than 0")
        plain = cls(float(np.sqrt((error**2).mean())), 0.0, has_spread=False, n=len(error))
        if spread is None:
            return plain
        used = spread[is_known].astype(np.float64)
        if np.isnan(used).any() or (used < 0).any():
            raise ValueError("a spread is negative or missing where there is a prediction")
        floor = float(np.quantile(used, _FLOOR_QUANTILE))
        if floor == 0:
            return plain
        used = np.maximum(used, floor)
        factor = float(np.sqrt((error**2 / used**2).mean()))
        # at the best factor the log-likelihoods differ by the logarithms of the deviations only
        if np.log(factor * used).mean() >= np.log(plain.factor):
            return plain
        return cls(factor, floor, has_spread=True, n=len(error))

    def apply(
        self,
        predicted: Float[np.ndarray, " n"],
        spread: Float[np.ndarray, " n"] | None = None,
    ) -> Float64[np.ndarray, " n"]:
        """Give the standard deviation of each error, in the label's unit; NaN without a prediction.

        Raises:
            ValueError: the calibration is that of a spread, and none came.
        """
        if not self.has_spread:
            return np.where(np.isnan(predicted), np.nan, self.factor)
        if spread is None:
            raise ValueError("the model's errors were calibrated with a spread, but none came")
        deviation = self.factor * np.maximum(spread, self.floor).astype(np.float64)
        return np.where(np.isnan(predicted), np.nan, deviation)


def _no_fit(
    classes: Float64[np.ndarray, "n c"], label: Int64[np.ndarray, " n"], reason: str = ""
) -> ProbabilityCalibration:
    del classes, label
    return ProbabilityCalibration("none", reason)


def _temperature(
    classes: Float64[np.ndarray, "n c"], label: Int64[np.ndarray, " n"], reason: str = ""
) -> ProbabilityCalibration:
    """Find the temperature at which the labels are likeliest."""
    logits = _logits(classes)

    def loss(log_temperature: float) -> float:
        scaled = log_softmax(logits / np.exp(log_temperature), axis=1)
        return -float(scaled[np.arange(len(label)), label].mean())

    found = minimize_scalar(loss, bounds=tuple(np.log(_TEMPERATURES)), method="bounded")
    return ProbabilityCalibration("temperature", reason, temperature=float(np.exp(found.x)))


def _isotonic(
    classes: Float64[np.ndarray, "n c"], label: Int64[np.ndarray, " n"], reason: str = ""
) -> ProbabilityCalibration:
    """Fit rising functions; none reaches 0 or 1, which so few molecules cannot show."""
    n, n_classes = classes.shape
    knots = []
    for k in [1] if n_classes == 2 else range(n_classes):
        rising = IsotonicRegression(y_min=1 / (n + 2), y_max=(n + 1) / (n + 2))
        rising.fit(classes[:, k], (label == k).astype(np.float64))
        given, value = rising.X_thresholds_, rising.y_thresholds_
        knots.append(Knots(tuple(given.tolist()), tuple(value.tolist())))
    return ProbabilityCalibration("isotonic", reason, knots=tuple(knots))


_Fit = Callable[..., ProbabilityCalibration]
_FITS: dict[str, _Fit] = {"none": _no_fit, "temperature": _temperature, "isotonic": _isotonic}


def _cross_validated(
    fit: _Fit, classes: Float64[np.ndarray, "n c"], label: Int64[np.ndarray, " n"]
) -> Float64[np.ndarray, " n"]:
    """Brier score of each molecule, by calibrations that did not see it."""
    wanted = np.eye(classes.shape[1])[label]
    total = np.zeros(len(label))
    for seed in range(_N_ROUNDS):
        fold = _folds(label, seed)
        for k in range(_N_FOLDS):
            held = fold == k
            found = fit(classes[~held], label[~held]).apply(classes[held])
            total[held] += ((found - wanted[held]) ** 2).sum(1)
    return total / _N_ROUNDS


def _folds(label: Int64[np.ndarray, " n"], seed: int) -> Int64[np.ndarray, " n"]:
    """Number of the fold of each molecule; each class is dealt out evenly."""
    order = np.random.default_rng(seed).permutation(len(label))
    order = order[np.argsort(label[order], kind="stable")]
    fold = np.empty(len(label), np.int64)
    fold[order] = np.arange(len(label)) % _N_FOLDS
    return fold


def by_class(probability: Float[np.ndarray, "n ..."]) -> Float64[np.ndarray, "n c"]:
    """Give every class a column: 1 - p and p where only the probability p of class 1 came."""
    if probability.ndim == 1:
        probability = np.stack([1 - probability, probability], 1)
    if probability.ndim != 2 or probability.shape[1] < 2:
        raise ValueError(
            "probabilities have one column, or one for each of two or more classes, not the shape "
            f"{probability.shape}"
        )
    return probability.astype(np.float64)


def _known(
    classes: Float64[np.ndarray, "n c"], label: Float[np.ndarray, " n"]
) -> tuple[Float64[np.ndarray, "m c"], Int64[np.ndarray, " m"]]:
    """Take the molecules with a label and a prediction."""
    is_known = ~np.isnan(label) & ~np.isnan(classes).any(1)
    known = label[is_known]
    for value in known:
        if value != int(value) or not 0 <= value < classes.shape[1]:
            raise ValueError(f"label {value:g} is no class, they are 0 to {classes.shape[1] - 1}")
    return classes[is_known], known.astype(np.int64)


def _logits(classes: Float64[np.ndarray, "n c"]) -> Float64[np.ndarray, "n c"]:
    return np.log(np.maximum(classes, _SMALLEST_PROBABILITY))
