"""Calibration of class probabilities and of standard deviations, on the validation set.

`ProbabilityCalibration` maps the probabilities of a classification target, by temperature scaling
or isotonic regression. `StdCalibration` maps the standard deviation of an ensemble to the standard
deviation of the error of a regression target. Both store their fitted parameters in the model file;
the names of their fields are keys of its header.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Float64, Int64

from moleblend.errors import SettingError, TableError

Method = Literal["none", "temperature", "isotonic"]

MIN_MOLECULES = 30
"""Number of labelled validation molecules below which probabilities are not calibrated."""

MIN_MOLECULES_OF_A_CLASS = 5
"""Number of validation molecules of each class below which probabilities are not calibrated."""

_ROUNDING = 1e-6
_N_FOLDS, _N_REPEATS = 5, 4
_MIN_PROBABILITY = 1e-6
_TEMPERATURE_RANGE = (0.25, 20.0)
_FLOOR_QUANTILE = 0.05


@dataclass(frozen=True)
class Knots:
    """A non-decreasing function: linear between its knots, constant beyond them.

    Attributes:
        given: probabilities of the model at the knots, ascending.
        value: calibrated probabilities at the knots.
    """

    given: tuple[float, ...]
    value: tuple[float, ...]

    def __post_init__(self) -> None:
        """Check that the knots are those of a function of probabilities."""
        if not self.given or len(self.given) != len(self.value):
            raise TableError(
                f"got {len(self.given)} and {len(self.value)} numbers of knots, expected as many "
                "given probabilities as calibrated ones"
            )
        check_ascending("given", self.given, highest=1.0)
        check_ascending("value", self.value, highest=1.0)


@dataclass(frozen=True)
class ProbabilityCalibration:
    """Calibration of the probabilities of one target.

    Attributes:
        method: `none` (probabilities are unchanged), `temperature` or `isotonic`.
        reason: why this method was chosen, in a sentence.
        temperature: divides the logits; above 1 probabilities become less extreme.
        knots: isotonic functions: one, of class 1, for a binary target, else one for each class.
    """

    method: Method
    reason: str
    temperature: float = 1.0
    knots: tuple[Knots, ...] = ()

    def __post_init__(self) -> None:
        """Check that the method has what it needs."""
        if not 0 < self.temperature < np.inf:
            raise TableError(f"got temperature={self.temperature}, expected a number above 0")
        if (self.method == "isotonic") != bool(self.knots):
            raise TableError(f"got method {self.method} and {len(self.knots)} isotonic functions")

    @classmethod
    def fit(
        cls, probability: Float[np.ndarray, "n ..."], label: Float[np.ndarray, " n"]
    ) -> "ProbabilityCalibration":
        """Choose a method by cross-validation on the validation set and fit it to that set.

        The Brier score of each molecule (summed over the classes) is the mean over four repeats of
        stratified 5-fold cross-validation. Temperature scaling is chosen if it lowers the mean
        Brier score by more than one standard error of the paired differences. Isotonic regression
        is chosen if it lowers the score of the better of these two by more than one standard error.
        Few validation molecules therefore mostly lead to `none`.

        Args:
            probability: of class 1, or of every class, on validation molecules.
            label: class numbers from 0; NaN where missing.

        Raises:
            SettingError: a label is not a class number.

        Reference:
            Guo et al., ICML 2017, arXiv:1706.04599 (temperature); Zadrozny and Elkan, KDD 2002
            (isotonic, one class against the others).
        """
        classes, label = _labelled(by_class(probability), label)
        counts = np.bincount(label, minlength=classes.shape[1])
        if len(label) < MIN_MOLECULES:
            return cls(
                "none",
                f"there are {len(label)} labelled validation molecules and calibration needs "
                f"{MIN_MOLECULES}",
            )
        if counts.min() < MIN_MOLECULES_OF_A_CLASS:
            return cls(
                "none",
                f"class {counts.argmin()} has {counts.min()} validation molecules and calibration "
                f"needs {MIN_MOLECULES_OF_A_CLASS} of each class",
            )
        scores = {method: _cross_validated(fit, classes, label) for method, fit in _FITS.items()}
        best, results = "none", []
        for method in ("temperature", "isotonic"):
            decrease = scores[best] - scores[method]
            error = float(decrease.std(ddof=1)) / np.sqrt(len(decrease))
            is_better = decrease.mean() > error
            results.append(
                f"{method} {'is' if is_better else 'is not'} better than {best} by more than one "
                f"standard error (Brier score lower by {decrease.mean():.4f} ± {error:.4f})"
            )
            if is_better:
                best = method
        reason = f"cross-validated on {len(label)} validation molecules: {'; '.join(results)}"
        return _FITS[best](classes, label, reason)

    def apply(self, probability: Float[np.ndarray, "n ..."]) -> Float64[np.ndarray, "n ..."]:
        """Calibrate probabilities; NaN remains NaN.

        Temperature scaling is p' = softmax(log p / T). Isotonic values of several classes are
        divided by their sum.

        Args:
            probability: of class 1, or of every class, as in `fit`.

        Raises:
            SettingError: the number of classes differs from that in `fit`.
        """
        from scipy.special import softmax  # takes 0.3 s, which no help needs

        classes = by_class(probability)
        if self.method == "temperature":
            classes = softmax(_logits(classes) / self.temperature, axis=1)
        elif self.method == "isotonic" and len(self.knots) == 1:
            of_one = np.interp(classes[:, 1], self.knots[0].given, self.knots[0].value)
            classes = np.stack([1 - of_one, of_one], 1)
        elif self.method == "isotonic":
            if len(self.knots) != classes.shape[1]:
                raise SettingError(
                    f"got probabilities of {classes.shape[1]} classes, expected "
                    f"{len(self.knots)} as in the calibration"
                )
            columns = zip(classes.T, self.knots, strict=True)
            classes = np.stack([np.interp(p, knots.given, knots.value) for p, knots in columns], 1)
            classes = classes / classes.sum(1, keepdims=True)
        return classes[:, 1] if probability.ndim == 1 else classes


@dataclass(frozen=True)
class StdCalibration:
    """Standard deviation of the error of one regression target, from that of the members.

    Attributes:
        factor: multiplies the standard deviation of the members. If `has_spread` is false, it is
            the standard deviation of every error, in the label's unit.
        floor: smallest standard deviation of the members; smaller ones are replaced by it.
        has_spread: whether the standard deviation of the error depends on the molecule, through
            the standard deviation of the members.
        n: number of validation molecules it was fitted to.
    """

    factor: float
    floor: float
    has_spread: bool
    n: int

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not (0 < self.factor < np.inf and 0 <= self.floor < np.inf and self.n > 0):
            raise TableError(
                f"got factor={self.factor}, floor={self.floor} and n={self.n}, expected a factor "
                "and a number of molecules above 0 and a floor of at least 0"
            )

    @classmethod
    def fit(
        cls,
        predicted: Float[np.ndarray, " n"],
        label: Float[np.ndarray, " n"],
        member_std: Float[np.ndarray, " n"] | None = None,
    ) -> "StdCalibration":
        """Find the maximum-likelihood factor for normally distributed errors.

        With member standard deviation s and error e of each molecule, factor² = mean(e²/s²);
        without s, factor² = mean(e²). Either has one parameter, and the one with the higher
        likelihood of the validation molecules is chosen. The floor is the 5 % quantile of s.

        Args:
            predicted: on validation molecules, in the label's unit.
            label: NaN where missing.
            member_std: standard deviation over the members of an ensemble, in the label's unit.

        Raises:
            SettingError: there is no label, every error is 0, or a standard deviation is negative
                or missing.

        Reference:
            Levi et al., Sensors 2022, arXiv:1905.11659; Laves et al., MIDL 2020 (a single factor).
        """
        is_known = ~np.isnan(label) & ~np.isnan(predicted)
        error = (label - predicted)[is_known].astype(np.float64)
        if not error.any():
            raise SettingError("no validation molecule has a label and an error other than 0")
        constant = cls(float(np.sqrt((error**2).mean())), 0.0, has_spread=False, n=len(error))
        if member_std is None:
            return constant
        std = member_std[is_known].astype(np.float64)
        if np.isnan(std).any() or (std < 0).any():
            raise SettingError(
                "a standard deviation of the members is negative or missing where there is a "
                "prediction"
            )
        floor = float(np.quantile(std, _FLOOR_QUANTILE))
        if floor == 0:
            return constant
        std = np.maximum(std, floor)
        factor = float(np.sqrt((error**2 / std**2).mean()))
        # At the best factors the log-likelihoods differ only by the mean log standard deviations.
        if np.log(factor * std).mean() >= np.log(constant.factor):
            return constant
        return cls(factor, floor, has_spread=True, n=len(error))

    def apply(
        self,
        predicted: Float[np.ndarray, " n"],
        member_std: Float[np.ndarray, " n"] | None = None,
    ) -> Float64[np.ndarray, " n"]:
        """Compute the standard deviation of each error; NaN without a prediction.

        Args:
            predicted: in the label's unit.
            member_std: as in `fit`; not used if `has_spread` is false.

        Raises:
            SettingError: `has_spread` is true and `member_std` is None.
        """
        if not self.has_spread:
            return np.where(np.isnan(predicted), np.nan, self.factor)
        if member_std is None:
            raise SettingError(
                "got no standard deviation of the members, expected one: the calibration was "
                "fitted with it"
            )
        std = self.factor * np.maximum(member_std, self.floor).astype(np.float64)
        return np.where(np.isnan(predicted), np.nan, std)


def _fit_none(
    classes: Float64[np.ndarray, "n c"], label: Int64[np.ndarray, " n"], reason: str = ""
) -> ProbabilityCalibration:
    del classes, label
    return ProbabilityCalibration("none", reason)


def _fit_temperature(
    classes: Float64[np.ndarray, "n c"], label: Int64[np.ndarray, " n"], reason: str = ""
) -> ProbabilityCalibration:
    """Find the temperature with the greatest likelihood of the labels."""
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    logits = _logits(classes)

    def loss(log_temperature: float) -> float:
        log_probability = log_softmax(logits / np.exp(log_temperature), axis=1)
        return -float(log_probability[np.arange(len(label)), label].mean())

    optimum = minimize_scalar(loss, bounds=tuple(np.log(_TEMPERATURE_RANGE)), method="bounded")
    return ProbabilityCalibration("temperature", reason, temperature=float(np.exp(optimum.x)))


def _fit_isotonic(
    classes: Float64[np.ndarray, "n c"], label: Int64[np.ndarray, " n"], reason: str = ""
) -> ProbabilityCalibration:
    """Fit isotonic functions with values in [1 / (n + 2), (n + 1) / (n + 2)], so never 0 or 1.

    An isotonic function is constant on blocks, which would give equal probabilities to molecules
    that the model ranks. The functions are therefore made strictly rising: they pass through the
    middle of each block and are linear in between.
    """
    from sklearn.isotonic import IsotonicRegression  # scikit-learn takes 2 s

    n, n_classes = classes.shape
    knots = []
    for k in [1] if n_classes == 2 else range(n_classes):
        regression = IsotonicRegression(y_min=1 / (n + 2), y_max=(n + 1) / (n + 2))
        regression.fit(classes[:, k], (label == k).astype(np.float64))
        given, value = _through_blocks(regression.X_thresholds_, regression.y_thresholds_)
        knots.append(Knots(tuple(given.tolist()), tuple(value.tolist())))
    return ProbabilityCalibration("isotonic", reason, knots=tuple(knots))


def _through_blocks(
    given: Float64[np.ndarray, " k"], value: Float64[np.ndarray, " k"]
) -> tuple[Float64[np.ndarray, " j"], Float64[np.ndarray, " j"]]:
    """Return knots of a strictly rising function through the middle of each block.

    Below the first middle it falls to half of the first value at 0, above the last one the distance
    to 1 falls to half at 1.
    """
    levels = np.unique(value)
    middles = np.array([given[value == level].mean() for level in levels])
    first, last = levels[0] / 2, (1 + levels[-1]) / 2
    inside = (middles > 0) & (middles < 1)
    return (
        np.concatenate([[0.0], middles[inside], [1.0]]),
        np.concatenate([[first], levels[inside], [last]]),
    )


_Fit = Callable[..., ProbabilityCalibration]
_FITS: dict[str, _Fit] = {
    "none": _fit_none,
    "temperature": _fit_temperature,
    "isotonic": _fit_isotonic,
}


def _cross_validated(
    fit: _Fit, classes: Float64[np.ndarray, "n c"], label: Int64[np.ndarray, " n"]
) -> Float64[np.ndarray, " n"]:
    """Cross-validated Brier score of each molecule, mean over the repeats."""
    from sklearn.model_selection import RepeatedStratifiedKFold

    one_hot = np.eye(classes.shape[1])[label]
    total = np.zeros(len(label))
    folds = RepeatedStratifiedKFold(n_splits=_N_FOLDS, n_repeats=_N_REPEATS, random_state=0)
    for rest, held_out in folds.split(classes, label):
        calibrated = fit(classes[rest], label[rest]).apply(classes[held_out])
        total[held_out] += ((calibrated - one_hot[held_out]) ** 2).sum(1)
    return total / _N_REPEATS


def check_ascending(name: str, values: Sequence[float], highest: float = np.inf) -> None:
    """Check stored numbers: ascending, and from 0 to `highest` but for rounding.

    Raises:
        TableError: the message starts with `name`.
    """
    array = np.array(values, np.float64)
    is_in_range = (array >= -_ROUNDING) & (array <= highest + _ROUNDING) & np.isfinite(array)
    if not (is_in_range.all() and (np.diff(array) >= 0).all()):
        raise TableError(f"{name}: expected ascending numbers from 0 to {highest:g}")


def by_class(probability: Float[np.ndarray, "n ..."]) -> Float64[np.ndarray, "n c"]:
    """Return probabilities with a column for each class.

    Args:
        probability: of each class, or only p of class 1, which becomes the columns 1 - p and p.

    Raises:
        SettingError: the array has another shape.
    """
    if probability.ndim == 1:
        probability = np.stack([1 - probability, probability], 1)
    if probability.ndim != 2 or probability.shape[1] < 2:
        raise SettingError(
            f"got probabilities of shape {probability.shape}, expected one column, or one for each "
            "of two or more classes"
        )
    return probability.astype(np.float64)


def _labelled(
    classes: Float64[np.ndarray, "n c"], label: Float[np.ndarray, " n"]
) -> tuple[Float64[np.ndarray, "m c"], Int64[np.ndarray, " m"]]:
    """Select the molecules with a label and a prediction."""
    is_known = ~np.isnan(label) & ~np.isnan(classes).any(1)
    known = label[is_known]
    for value in known:
        if value != int(value) or not 0 <= value < classes.shape[1]:
            raise SettingError(
                f"got label {value:g}, expected a class number from 0 to {classes.shape[1] - 1}"
            )
    return classes[is_known], known.astype(np.int64)


def _logits(classes: Float64[np.ndarray, "n c"]) -> Float64[np.ndarray, "n c"]:
    return np.log(np.maximum(classes, _MIN_PROBABILITY))
