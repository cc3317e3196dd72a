"""Metrics of uncertainty, as records that can be plotted.

`reliability` evaluates probabilities, `quantile_curve` standard deviations, `error_curve` the
ranking of molecules by uncertainty, `interval_coverage` and `set_coverage` intervals and sets.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import binomtest, norm, spearmanr
from sklearn.metrics import roc_auc_score

MAX_BINS = 10
MIN_BIN_SIZE = 20

_N_DRAWS = 500
_LEVELS = tuple(round(0.05 * k, 2) for k in range(1, 20))


@dataclass(frozen=True)
class Reliability:
    """Reliability diagram: predicted probabilities and observed frequencies.

    Attributes:
        predicted: mean probability in each bin.
        observed: fraction of the molecules in each bin for which the predicted event occurred.
        count: number of molecules in each bin.
        error: expected calibration error: sum of count / n · |observed - predicted|.
        error_if_calibrated: mean expected calibration error if the probabilities were correct. With
            few molecules it is far above 0. An `error` below it is no evidence of miscalibration.
        error_if_calibrated_95: the error that correct probabilities exceed in 5 % of draws.
        n: number of labelled molecules.
    """

    predicted: tuple[float, ...]
    observed: tuple[float, ...]
    count: tuple[int, ...]
    error: float
    error_if_calibrated: float
    error_if_calibrated_95: float
    n: int


@dataclass(frozen=True)
class QuantileCurve:
    """Predicted quantiles and the fraction of labels below them.

    Attributes:
        level: of the quantiles.
        observed: fraction of labels below each quantile; equal to `level` if the standard
            deviations are correct.
        error: mean of |observed - level|.
        n: number of labelled molecules.
    """

    level: tuple[float, ...]
    observed: tuple[float, ...]
    error: float
    n: int


@dataclass(frozen=True)
class ErrorCurve:
    """Sparsification curve: mean error of the molecules with the lowest uncertainty.

    Attributes:
        kept: fraction of the molecules that is kept, in order of increasing uncertainty.
        error: mean absolute error of these molecules.
        error_at_best: mean absolute error if molecules were kept in order of increasing error.
        rank_correlation: Spearman's, of absolute error and uncertainty; None if either is constant.
        n: number of labelled molecules.
    """

    kept: tuple[float, ...]
    error: tuple[float, ...]
    error_at_best: tuple[float, ...]
    rank_correlation: float | None
    n: int


@dataclass(frozen=True)
class Coverage:
    """Fraction of labels inside their interval or set.

    Attributes:
        nominal: the confidence of the intervals or sets.
        observed: fraction of labels inside; None without a label.
        low: lower end of its 95 % binomial confidence interval (Clopper and Pearson).
        high: upper end of this interval.
        n: number of labelled molecules.
    """

    nominal: float
    observed: float | None
    low: float
    high: float
    n: int


def reliability(
    probability: Float[np.ndarray, "n ..."], label: Float[np.ndarray, " n"]
) -> Reliability | None:
    """Compare probabilities with observed frequencies, in bins of equal mass.

    For a binary target the event is class 1. For several classes it is that the most probable class
    is correct. There are ten bins, or fewer if a bin would have less than 20 molecules. Equal
    probabilities are always in the same bin, so bins can differ in size. The error of correct
    probabilities is computed from 500 draws of labels from them (consistency resampling), with a
    fixed seed.

    Args:
        probability: of class 1, or of every class.
        label: class numbers from 0; NaN where missing.

    Returns:
        None without a label.

    Reference:
        Naeini et al., AAAI 2015 (expected calibration error); Nixon et al., CVPR workshops 2019,
        arXiv:1904.01685 (bins of equal mass); Bröcker and Smith, Weather Forecast. 2007
        (consistency resampling).
    """
    if probability.ndim == 1:
        of_event, event = probability, label
    else:
        of_event = probability.max(1)
        event = np.where(np.isnan(label), np.nan, probability.argmax(1) == label)
    is_known = ~np.isnan(event) & ~np.isnan(of_event)
    of_event, event = of_event[is_known].astype(np.float64), event[is_known].astype(np.float64)
    n = len(event)
    if not n:
        return None
    n_bins = int(np.clip(n // MIN_BIN_SIZE, 1, MAX_BINS))
    edges = np.unique(np.quantile(of_event, np.linspace(0, 1, n_bins + 1)[1:-1]))
    _, bins = np.unique(np.searchsorted(edges, of_event, side="left"), return_inverse=True)
    count = np.bincount(bins)
    predicted = np.bincount(bins, of_event) / count
    observed = np.bincount(bins, event) / count
    rng = np.random.default_rng(0)
    drawn = [
        np.abs(np.bincount(bins, rng.random(n) < of_event) / count - predicted) @ count / n
        for _ in range(_N_DRAWS)
    ]
    return Reliability(
        predicted=tuple(predicted.tolist()),
        observed=tuple(observed.tolist()),
        count=tuple(count.tolist()),
        error=float(np.abs(observed - predicted) @ count / n),
        error_if_calibrated=float(np.mean(drawn)),
        error_if_calibrated_95=float(np.quantile(drawn, 0.95)),
        n=n,
    )


def quantile_curve(
    predicted: Float[np.ndarray, " n"],
    std: Float[np.ndarray, " n"],
    label: Float[np.ndarray, " n"],
) -> QuantileCurve | None:
    """Compare the quantiles of predicted normal distributions with the labels.

    Args:
        predicted: means, in the label's unit.
        std: standard deviations, above 0, in the label's unit.
        label: NaN where missing.

    Returns:
        At the levels 0.05, 0.10 … 0.95; None without a label.

    Reference:
        Kuleshov et al., ICML 2018, arXiv:1807.00263 (their calibration plot; the mean absolute
        distance from its diagonal).
    """
    is_known = ~np.isnan(label) & ~np.isnan(predicted)
    if not is_known.any():
        return None
    quantile_of_label = norm.cdf((label - predicted)[is_known] / std[is_known])
    observed = [float((quantile_of_label <= level).mean()) for level in _LEVELS]
    return QuantileCurve(
        level=_LEVELS,
        observed=tuple(observed),
        error=float(np.abs(np.array(observed) - _LEVELS).mean()),
        n=int(is_known.sum()),
    )


def error_curve(
    predicted: Float[np.ndarray, " n"],
    uncertainty: Float[np.ndarray, " n"],
    label: Float[np.ndarray, " n"],
) -> ErrorCurve | None:
    """Rank molecules by uncertainty and compute the errors of the least uncertain ones.

    Args:
        predicted: in the label's unit.
        uncertainty: any quantity to rank by, greater where the prediction is less certain.
        label: NaN where missing.

    Returns:
        The mean absolute errors of the least uncertain 5 %, 10 % … 100 %; None without a label.

    Reference:
        Ilg et al., ECCV 2018, arXiv:1802.07095 (sparsification); Scalia et al., J. Chem. Inf.
        Model. 2020, doi:10.1021/acs.jcim.9b00975 (for molecules).
    """
    is_known = ~np.isnan(label) & ~np.isnan(predicted)
    error, uncertainty = np.abs(label - predicted)[is_known], uncertainty[is_known]
    n = len(error)
    if not n:
        return None
    kept = [round(0.05 * k, 2) for k in range(1, 21)]
    n_kept = [max(1, round(fraction * n)) for fraction in kept]
    varies = n > 1 and np.ptp(error) > 0 and np.ptp(uncertainty) > 0
    by_uncertainty = np.cumsum(error[np.argsort(uncertainty, kind="stable")])
    by_error = np.cumsum(np.sort(error))
    return ErrorCurve(
        kept=tuple(kept),
        error=tuple(float(by_uncertainty[k - 1] / k) for k in n_kept),
        error_at_best=tuple(float(by_error[k - 1] / k) for k in n_kept),
        rank_correlation=float(spearmanr(error, uncertainty).statistic) if varies else None,
        n=n,
    )


def error_roc_auc(
    is_wrong: Bool[np.ndarray, " n"], uncertainty: Float[np.ndarray, " n"]
) -> float | None:
    """Compute the ROC-AUC of the uncertainty for wrong predictions of a class.

    Args:
        is_wrong: whether the predicted class is wrong.
        uncertainty: any quantity to rank by, greater where the prediction is less certain.

    Returns:
        0.5 if the uncertainty has no information; None if all or no predictions are wrong.

    Reference:
        Hendrycks and Gimpel, ICLR 2017, arXiv:1610.02136.
    """
    if is_wrong.all() or not is_wrong.any():
        return None
    return float(roc_auc_score(is_wrong, uncertainty))


def interval_coverage(
    intervals: Float[np.ndarray, "n 2"], label: Float[np.ndarray, " n"], nominal: float
) -> Coverage:
    """Compute the fraction of labels inside their intervals.

    Args:
        intervals: lower and upper ends, which are inside; NaN without a prediction.
        label: NaN where missing.
        nominal: the confidence of the intervals.
    """
    is_known = ~np.isnan(label) & ~np.isnan(intervals).any(1)
    inside = (intervals[:, 0] <= label) & (label <= intervals[:, 1])
    return _coverage(inside[is_known], nominal)


def set_coverage(
    sets: Bool[np.ndarray, "n c"], label: Float[np.ndarray, " n"], nominal: float
) -> Coverage:
    """Compute the fraction of labels inside their sets.

    Args:
        sets: which classes are in the set of each molecule.
        label: class numbers from 0; NaN where missing.
        nominal: the confidence of the sets.
    """
    rows = np.flatnonzero(~np.isnan(label))
    return _coverage(sets[rows, label[rows].astype(np.int64)], nominal)


def _coverage(inside: Bool[np.ndarray, " n"], nominal: float) -> Coverage:
    n = len(inside)
    if not n:
        return Coverage(nominal, None, 0.0, 1.0, 0)
    interval = binomtest(int(inside.sum()), n).proportion_ci(0.95, method="exact")
    return Coverage(nominal, float(inside.mean()), float(interval.low), float(interval.high), n)
