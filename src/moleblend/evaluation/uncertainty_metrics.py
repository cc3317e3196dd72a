"""What the sureness of predictions is worth: curves and figures, as records that can be drawn."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import binomtest, norm, spearmanr

N_BINS = 10
FEWEST_IN_A_BIN = 20

_N_DRAWS = 500
_LEVELS = tuple(round(0.05 * k, 2) for k in range(1, 20))


@dataclass(frozen=True)
class Reliability:
    """How often what was predicted with a probability came true.

    Attributes:
        predicted: mean probability in each bin.
        observed: share that came true in each bin.
        count: molecules in each bin.
        error: expected calibration error: sum of count / n · |observed - predicted|.
        error_if_calibrated: what it would be on average, were the probabilities right: with few
            molecules it is far from 0. An `error` below it is no evidence against them.
        error_if_calibrated_95: the same, exceeded in 5 % of draws.
        n: labelled molecules.
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
    """How often labels lie below the quantiles that were predicted.

    Attributes:
        level: of the quantiles.
        observed: share of labels below them; equal to `level` where spreads are right.
        error: mean of |observed - level|.
        n: labelled molecules.
    """

    level: tuple[float, ...]
    observed: tuple[float, ...]
    error: float
    n: int


@dataclass(frozen=True)
class ErrorCurve:
    """Whether the errors are where the model is unsure.

    Attributes:
        kept: share of the molecules that is kept, the surest first.
        error: mean absolute error of these.
        error_at_best: the same, were they kept by their true error.
        rank_correlation: Spearman's, of absolute error and spread; None where either is constant.
        n: labelled molecules.
    """

    kept: tuple[float, ...]
    error: tuple[float, ...]
    error_at_best: tuple[float, ...]
    rank_correlation: float | None
    n: int


@dataclass(frozen=True)
class Coverage:
    """How many labels lie in their interval or set.

    Attributes:
        nominal: share that was promised.
        observed: share that was found; None without a label.
        low: lower end of its 95 % binomial confidence interval (Clopper and Pearson).
        high: upper end.
        n: labelled molecules.
    """

    nominal: float
    observed: float | None
    low: float
    high: float
    n: int


def reliability(
    probability: Float[np.ndarray, "n ..."], label: Float[np.ndarray, " n"]
) -> Reliability | None:
    """Compare probabilities with what came true, in bins of equal mass.

    For a binary target that is the probability of class 1; for several classes the greatest one,
    and whether that class was right. There are ten bins, fewer where a bin would hold less than 20
    molecules; equal probabilities are not parted, so ties can make bins unequal. What the error
    would be with right probabilities comes from 500 draws of labels from them (consistency
    resampling), with a fixed seed.

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
        sure, came = probability, label
    else:
        sure = probability.max(1)
        came = np.where(np.isnan(label), np.nan, probability.argmax(1) == label)
    is_known = ~np.isnan(came) & ~np.isnan(sure)
    sure, came = sure[is_known].astype(np.float64), came[is_known].astype(np.float64)
    n = len(sure)
    if not n:
        return None
    n_bins = int(np.clip(n // FEWEST_IN_A_BIN, 1, N_BINS))
    edges = np.unique(np.quantile(sure, np.linspace(0, 1, n_bins + 1)[1:-1]))
    _, place = np.unique(np.searchsorted(edges, sure, side="left"), return_inverse=True)
    count = np.bincount(place)
    predicted = np.bincount(place, sure) / count

    observed = np.bincount(place, came) / count
    rng = np.random.default_rng(0)
    drawn = [
        np.abs(np.bincount(place, rng.random(n) < sure) / count - predicted) @ count / n
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
    deviation: Float[np.ndarray, " n"],
    label: Float[np.ndarray, " n"],
) -> QuantileCurve | None:
    """Compare the quantiles of normal distributions with where the labels lie.

    Args:
        predicted: means.
        deviation: standard deviations, above 0.
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
    reached = norm.cdf((label - predicted)[is_known] / deviation[is_known])
    observed = [float((reached <= level).mean()) for level in _LEVELS]
    return QuantileCurve(
        _LEVELS,
        tuple(observed),
        float(np.abs(np.array(observed) - _LEVELS).mean()),
        int(is_known.sum()),
    )


def error_curve(
    predicted: Float[np.ndarray, " n"],
    deviation: Float[np.ndarray, " n"],
    label: Float[np.ndarray, " n"],
) -> ErrorCurve | None:
    """Rank molecules by their spread and see where the errors are (a sparsification curve).

    Args:
        predicted: in the label's unit.
        deviation: any number that is greater where the model is less sure.
        label: NaN where missing.

    Returns:
        The mean absolute errors of the surest 5 %, 10 % … 100 %; None without a label.

    Reference:
        Ilg et al., ECCV 2018, arXiv:1802.07095 (sparsification); Scalia et al., J. Chem. Inf.
        Model. 2020, doi:10.1021/acs.jcim.9b00975 (for molecules).
    """
    is_known = ~np.isnan(label) & ~np.isnan(predicted)
    error, unsure = np.abs(label - predicted)[is_known], deviation[is_known]
    n = len(error)
    if not n:
        return None
    shares = [round(0.05 * k, 2) for k in range(1, 21)]
    places = [max(1, round(share * n)) for share in shares]
    varies = n > 1 and np.ptp(error) > 0 and np.ptp(unsure) > 0
    by_spread = np.cumsum(error[np.argsort(unsure, kind="stable")])
    by_error = np.cumsum(np.sort(error))
    return ErrorCurve(
        tuple(shares),
        tuple(float(by_spread[k - 1] / k) for k in places),
        tuple(float(by_error[k - 1] / k) for k in places),
        float(spearmanr(error, unsure).statistic) if varies else None,
        n,
    )


def interval_coverage(
    intervals: Float[np.ndarray, "n 2"], label: Float[np.ndarray, " n"], nominal: float
) -> Coverage:
    """Count the labels in their intervals, ends included; missing labels are left out."""
    is_known = ~np.isnan(label) & ~np.isnan(intervals).any(1)
    inside = (intervals[:, 0] <= label) & (label <= intervals[:, 1])
    return _coverage(inside[is_known], nominal)


def set_coverage(
    sets: Bool[np.ndarray, "n c"], label: Float[np.ndarray, " n"], nominal: float
) -> Coverage:
    """Count the labels in their sets; missing labels are left out.

    Args:
        sets: which classes are in the set of each molecule.
        label: class numbers from 0; NaN where missing.
        nominal: share that was promised.
    """
    rows = np.flatnonzero(~np.isnan(label))
    return _coverage(sets[rows, label[rows].astype(np.int64)], nominal)


def _coverage(inside: Bool[np.ndarray, " n"], nominal: float) -> Coverage:
    n = len(inside)
    if not n:
        return Coverage(nominal, None, 0.0, 1.0, 0)
    bounds = binomtest(int(inside.sum()), n).proportion_ci(0.95, method="exact")
    return Coverage(nominal, float(inside.mean()), float(bounds.low), float(bounds.high), n)
