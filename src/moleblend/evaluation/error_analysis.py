"""Where the errors of a test part are: in which families of molecules, how far from training."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float64, Int8, Int64
from scipy.stats import spearmanr

from moleblend.chem.fingerprints import framework, scaffold
from moleblend.chem.molecule import MoleculeError
from moleblend.data.targets import Target

FEWEST_IN_FAMILY = 5

_MOST_FAMILIES = 8
_FEWEST_IN_BIN, _MOST_BINS = 10, 5


@dataclass(frozen=True)
class ScaffoldGroup:
    """Test molecules that share a scaffold or a framework.

    Attributes:
        smiles: what they share; "" are molecules without a ring.
        n: how many they are.
        error: their mean error.
        uncertainty: standard error of that mean.
        rest: mean error of all others.
        rest_uncertainty: standard error of that.
    """

    smiles: str
    n: int
    error: float
    uncertainty: float
    rest: float
    rest_uncertainty: float

    @property
    def verdict(self) -> Literal["harder", "easier", ""]:
        """How it differs from the rest; nothing within two standard errors of the difference."""
        gap = self.error - self.rest
        if abs(gap) <= 2 * np.hypot(self.uncertainty, self.rest_uncertainty):
            return ""
        return "harder" if gap > 0 else "easier"


@dataclass(frozen=True, eq=False)
class ScaffoldGroups:
    """The largest families.

    Attributes:
        by: what makes a family: the Bemis-Murcko scaffold, or, where hardly any molecules share
            one, the framework: the scaffold without its elements and bond orders.
        found: the largest first; none where no two are large enough.
    """

    by: Literal["scaffold", "framework"]
    found: tuple[ScaffoldGroup, ...]


@dataclass(frozen=True, eq=False)
class ErrorTrend:
    """Errors of molecules in the order of another quantity, in bins of equally many.

    Attributes:
        middle: median of the quantity in each bin.
        error: mean error in each bin.
        uncertainty: standard error of that mean.
        n: molecules in each bin.
        rank_correlation: Spearman's, of error and quantity over all molecules; None where one of
            them is constant.
    """

    middle: Float64[np.ndarray, " k"]
    error: Float64[np.ndarray, " k"]
    uncertainty: Float64[np.ndarray, " k"]
    n: Int64[np.ndarray, " k"]
    rank_correlation: float | None


def errors_of(
    target: Target,
    predicted: Float64[np.ndarray, "m c"],
    labels: Float64[np.ndarray, " m"],
    censoring: Int8[np.ndarray, " m"],
) -> Float64[np.ndarray, " m"]:
    """Compute the error of each prediction; NaN where no exact label is known.

    Of a value it is the absolute error (of the logarithm where that is learnt), of classes the
    Brier score: half the summed squares of what the probabilities are off, 0 to 1.

    Args:
        target: what is predicted.
        predicted: values, the probability of class 1, or that of each class.
        labels: values, or numbers of classes; NaN where missing.
        censoring: 0 where the label is the value itself.
    """
    is_known = ~np.isnan(labels) & (censoring == 0)
    error = np.full(len(labels), np.nan)
    found, label = predicted[is_known], labels[is_known]
    if target.kind == "regression":
        pair = (found[:, 0], label)
        first, second = np.log10(pair) if target.log10 else pair
        error[is_known] = np.abs(first - second)
    elif target.kind == "binary":
        error[is_known] = (found[:, 0] - label) ** 2
    else:
        true = np.eye(len(target.classes))[label.astype(np.int64)]
        error[is_known] = ((found - true) ** 2).sum(1) / 2
    return error


def scaffold_groups(smiles: Sequence[str], error: Float64[np.ndarray, " m"]) -> ScaffoldGroups:
    """Find the largest families of those molecules whose error is known.

    Args:
        smiles: of the molecules.
        error: NaN where unknown.
    """
    known = np.flatnonzero(~np.isnan(error))
    found: tuple[ScaffoldGroup, ...] = ()
    for by, shared in (("scaffold", scaffold), ("framework", framework)):
        members: dict[str, list[int]] = {}
        for k in known:
            try:
                members.setdefault(shared(smiles[k]), []).append(int(k))
            except MoleculeError:  # of a mol block, which RDKit does not read again
                continue
        large = sorted(members.items(), key=lambda item: -len(item[1]))
        found = tuple(
            _family(name, places, known, error)
            for name, places in large[:_MOST_FAMILIES]
            if FEWEST_IN_FAMILY <= len(places) <= len(known) - FEWEST_IN_FAMILY
        )
        if len(found) > 1:
            return ScaffoldGroups(by, found)
    return ScaffoldGroups("framework", found)


def error_trend(
    quantity: Float64[np.ndarray, " m"], error: Float64[np.ndarray, " m"]
) -> ErrorTrend | None:
    """See how errors go with a quantity; None of too few molecules, or if all are alike."""
    is_known = ~np.isnan(quantity) & ~np.isnan(error)
    quantity, error = quantity[is_known], error[is_known]
    n_bins = min(len(error) // _FEWEST_IN_BIN, _MOST_BINS)
    if n_bins < 2 or not np.ptp(quantity) > 0:
        return None
    bins = np.array_split(np.argsort(quantity, kind="stable"), n_bins)
    return ErrorTrend(
        middle=np.array([np.median(quantity[chosen]) for chosen in bins]),
        error=np.array([error[chosen].mean() for chosen in bins]),
        uncertainty=np.array([_uncertainty(error[chosen]) for chosen in bins]),
        n=np.array([len(chosen) for chosen in bins]),
        rank_correlation=(
            float(spearmanr(quantity, error).statistic) if np.ptp(error) > 0 else None
        ),
    )


def extremes_of(error: Float64[np.ndarray, " m"], n: int) -> tuple[list[int], list[int]]:
    """Find the places of the smallest and of the largest errors, the most extreme first.

    No molecule is in both; of few there are fewer.
    """
    known = np.flatnonzero(~np.isnan(error))
    order = known[np.argsort(error[known], kind="stable")].tolist()
    n = min(n, len(order) // 2)
    return order[:n], order[::-1][:n]


def _family(
    name: str, places: list[int], known: Int64[np.ndarray, " k"], error: Float64[np.ndarray, " m"]
) -> ScaffoldGroup:
    inside, outside = error[places], error[np.setdiff1d(known, places)]
    return ScaffoldGroup(
        smiles=name,
        n=len(places),
        error=float(inside.mean()),
        uncertainty=_uncertainty(inside),
        rest=float(outside.mean()),
        rest_uncertainty=_uncertainty(outside),
    )


def _uncertainty(error: Float64[np.ndarray, " m"]) -> float:
    """Standard error of the mean of several values."""
    return float(error.std(ddof=1) / len(error) ** 0.5)
