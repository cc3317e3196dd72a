"""Error analysis of the test set: errors by scaffold, by distance to training, and the extremes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float64, Int8, Int64
from scipy.stats import spearmanr

from moleblend.chem.fingerprints import framework, scaffold
from moleblend.chem.molecule import MoleculeError
from moleblend.data.targets import Target

MIN_GROUP_SIZE = 5

_MAX_GROUPS = 8
_MIN_BIN_SIZE, _MAX_BINS = 10, 5


@dataclass(frozen=True)
class ScaffoldGroup:
    """Test molecules that share a scaffold or a framework, compared with all other test molecules.

    Errors are those of `prediction_errors`.

    Attributes:
        smiles: the scaffold or framework; empty for molecules without a ring.
        n: number of molecules.
        error: mean error.
        standard_error: of that mean.
        rest: mean error of all other molecules.
        rest_standard_error: of that mean.
    """

    smiles: str
    n: int
    error: float
    standard_error: float
    rest: float
    rest_standard_error: float

    @property
    def difficulty(self) -> Literal["harder", "easier", ""]:
        """Comparison with the rest; empty if it differs by less than two standard errors."""
        gap = self.error - self.rest
        if abs(gap) <= 2 * np.hypot(self.standard_error, self.rest_standard_error):
            return ""
        return "harder" if gap > 0 else "easier"


@dataclass(frozen=True, eq=False)
class ScaffoldGroups:
    """The largest groups of test molecules.

    Attributes:
        by: what the molecules of a group share: the Bemis-Murcko scaffold or, where hardly any
            molecules share one, the framework: the scaffold without elements and bond orders.
        groups: the largest first; empty if fewer than two are large enough.
    """

    by: Literal["scaffold", "framework"]
    groups: tuple[ScaffoldGroup, ...]


@dataclass(frozen=True, eq=False)
class ErrorTrend:
    """Mean errors of molecules in bins of equal size, ordered by a quantity.

    Attributes:
        median: median of the quantity in each bin.
        error: mean error in each bin.
        standard_error: of that mean.
        n: number of molecules in each bin.
        rank_correlation: Spearman's, of error and quantity over all molecules; None if either is
            constant.
    """

    median: Float64[np.ndarray, " k"]
    error: Float64[np.ndarray, " k"]
    standard_error: Float64[np.ndarray, " k"]
    n: Int64[np.ndarray, " k"]
    rank_correlation: float | None


def prediction_errors(
    target: Target,
    predicted: Float64[np.ndarray, "m c"],
    labels: Float64[np.ndarray, " m"],
    censoring: Int8[np.ndarray, " m"],
) -> Float64[np.ndarray, " m"]:
    """Compute the error of each prediction; NaN without an exact label.

    For regression it is the absolute error in the label's unit, or that of log10 if the model is
    trained on log10. For classification it is the Brier score, half the sum of squared differences
    over the classes, from 0 to 1.

    Args:
        target: that is predicted.
        predicted: values, the probability of class 1, or that of each class.
        labels: values, or class numbers; NaN where missing.
        censoring: +1 true value at least the label, -1 at most, 0 exact.
    """
    is_exact = ~np.isnan(labels) & (censoring == 0)
    error = np.full(len(labels), np.nan)
    outputs, label = predicted[is_exact], labels[is_exact]
    if target.kind == "regression":
        first, second = map(target.to_training_scale, (outputs[:, 0], label))
        error[is_exact] = np.abs(first - second)
    elif target.kind == "binary":
        error[is_exact] = (outputs[:, 0] - label) ** 2
    else:
        one_hot = np.eye(len(target.classes))[label.astype(np.int64)]
        error[is_exact] = ((outputs - one_hot) ** 2).sum(1) / 2
    return error


def scaffold_groups(smiles: Sequence[str], error: Float64[np.ndarray, " m"]) -> ScaffoldGroups:
    """Find the largest groups of molecules that share a scaffold, or else a framework.

    Args:
        smiles: of the molecules.
        error: of the molecules; those with NaN are left out.
    """
    known = np.flatnonzero(~np.isnan(error))
    groups: tuple[ScaffoldGroup, ...] = ()
    for by, shared in (("scaffold", scaffold), ("framework", framework)):
        members: dict[str, list[int]] = {}
        for k in known:
            try:
                members.setdefault(shared(smiles[k]), []).append(int(k))
            except MoleculeError:  # read from a mol block, and RDKit cannot read its SMILES
                continue
        by_size = sorted(members.items(), key=lambda item: -len(item[1]))
        groups = tuple(
            _group(name, rows, known, error)
            for name, rows in by_size[:_MAX_GROUPS]
            if MIN_GROUP_SIZE <= len(rows) <= len(known) - MIN_GROUP_SIZE
        )
        if len(groups) > 1:
            return ScaffoldGroups(by, groups)
    return ScaffoldGroups("framework", groups)


def error_trend(
    quantity: Float64[np.ndarray, " m"], error: Float64[np.ndarray, " m"]
) -> ErrorTrend | None:
    """Compute mean errors in bins of a quantity.

    Args:
        quantity: of each molecule, such as its similarity to the training set; NaN where unknown.
        error: of each molecule; NaN where unknown.

    Returns:
        None if there are too few molecules for two bins, or the quantity is constant.
    """
    is_known = ~np.isnan(quantity) & ~np.isnan(error)
    quantity, error = quantity[is_known], error[is_known]
    n_bins = min(len(error) // _MIN_BIN_SIZE, _MAX_BINS)
    if n_bins < 2 or not np.ptp(quantity) > 0:
        return None
    bins = np.array_split(np.argsort(quantity, kind="stable"), n_bins)
    return ErrorTrend(
        median=np.array([np.median(quantity[rows]) for rows in bins]),
        error=np.array([error[rows].mean() for rows in bins]),
        standard_error=np.array([_standard_error(error[rows]) for rows in bins]),
        n=np.array([len(rows) for rows in bins]),
        rank_correlation=(
            float(spearmanr(quantity, error).statistic) if np.ptp(error) > 0 else None
        ),
    )


def extreme_errors(error: Float64[np.ndarray, " m"], n: int) -> tuple[list[int], list[int]]:
    """Find the rows of the smallest and of the largest errors, the most extreme first.

    Args:
        error: of each molecule; NaN where unknown.
        n: number of rows in each list; at most half of the molecules, so that none is in both.
    """
    known = np.flatnonzero(~np.isnan(error))
    order = known[np.argsort(error[known], kind="stable")].tolist()
    n = min(n, len(order) // 2)
    return order[:n], order[::-1][:n]


def _group(
    name: str, rows: list[int], known: Int64[np.ndarray, " k"], error: Float64[np.ndarray, " m"]
) -> ScaffoldGroup:
    inside, outside = error[rows], error[np.setdiff1d(known, rows)]
    return ScaffoldGroup(
        smiles=name,
        n=len(rows),
        error=float(inside.mean()),
        standard_error=_standard_error(inside),
        rest=float(outside.mean()),
        rest_standard_error=_standard_error(outside),
    )


def _standard_error(error: Float64[np.ndarray, " m"]) -> float:
    """Standard error of the mean."""
    return float(error.std(ddof=1) / len(error) ** 0.5)
