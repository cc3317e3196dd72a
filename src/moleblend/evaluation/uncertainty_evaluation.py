"""What a model's word on its sureness is worth: its predictions of a part, beside the labels."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float64, Int8, Int64

from moleblend.data.targets import Target, as_given, exact, learnt, output_slices
from moleblend.evaluation.uncertainty import CONFIDENCE, Uncertainty
from moleblend.evaluation.uncertainty_metrics import (
    Coverage,
    ErrorCurve,
    QuantileCurve,
    Reliability,
    error_curve,
    interval_coverage,
    quantile_curve,
    reliability,
    set_coverage,
)


@dataclass(frozen=True, eq=False)
class RegressionEstimate:
    """What was said of molecules for a regression target; logarithms where these are learnt.

    Attributes:
        predicted: as the file says.
        deviation: standard deviation of the error.
        has_spread: whether that depends on the molecule.
        distance: to the training set, NaN where unknown.
        interval: at 90 %.
        label: NaN where missing or only a bound.
    """

    predicted: Float64[np.ndarray, " n"]
    deviation: Float64[np.ndarray, " n"]
    has_spread: Bool[np.ndarray, " n"]
    distance: Float64[np.ndarray, " n"]
    interval: Float64[np.ndarray, "n 2"]
    label: Float64[np.ndarray, " n"]


@dataclass(frozen=True, eq=False)
class ClassificationEstimate:
    """What was said of molecules for a target of classes.

    Attributes:
        before: probabilities as the model gave them, of class 1 or of each class.
        after: put right.
        sets: classes in the 90 % set.
        label: number of the class; NaN where missing.
    """

    before: Float64[np.ndarray, "n ..."]
    after: Float64[np.ndarray, "n ..."]
    sets: Bool[np.ndarray, "n c"]
    label: Float64[np.ndarray, " n"]


UncertaintyEstimate = RegressionEstimate | ClassificationEstimate


@dataclass(frozen=True)
class UncertaintyMetrics:
    """What that is worth.

    Attributes:
        coverage: of the 90 % intervals or sets.
        size: median width of the intervals, in the label's unit or, where it is learnt, of the
            log10; mean number of classes in a set.
        ranked_by: what `errors` are ranked by: `spread` of the members, `distance` to the training
            set where there is none, or `probability`.
        errors: None without a label, or where there is nothing to rank by.
        quantiles: of a regression target.
        before: reliability of the probabilities as the model gave them.
        after: the same, put right.
    """

    coverage: Coverage
    size: float
    ranked_by: str
    errors: ErrorCurve | None
    quantiles: QuantileCurve | None = None
    before: Reliability | None = None
    after: Reliability | None = None

    def figures(self) -> dict[str, Any]:
        """Sum up in numbers, for the record."""
        found: dict[str, Any] = {"coverage": asdict(self.coverage)}
        found["median_width" if self.quantiles else "mean_set_size"] = self.size
        found["rank_correlation"] = self.errors.rank_correlation if self.errors else None
        found["ranked_by"] = self.ranked_by
        if self.quantiles is not None:
            found["quantile_error"] = self.quantiles.error
        for name, curve in (("before", self.before), ("after", self.after)):
            if curve is not None:
                found[f"ECE_{name}"] = curve.error
                found[f"ECE_{name}_if_right"] = curve.error_if_calibrated
                found[f"ECE_{name}_if_right_95"] = curve.error_if_calibrated_95
        return found


def estimate_uncertainty(
    uncertainty: Uncertainty,
    targets: Sequence[Target],
    mean: Float64[np.ndarray, "n o"],
    spread: Float64[np.ndarray, "n o"] | None,
    labels: Float64[np.ndarray, "n t"],
    censoring: Int8[np.ndarray, "n t"],
    distance: Float64[np.ndarray, " n"],
) -> dict[str, UncertaintyEstimate]:
    """Gather what a model says of labelled molecules, target by target.

    Args:
        uncertainty: what is fitted; its targets are those of the answer.
        targets: all of them.
        mean: predictions, before they are put right.
        spread: of the members.
        labels: in the unit of the file.
        censoring: 1 or -1 where a label is only a bound.
        distance: to the training set, NaN where unknown.
    """
    found: dict[str, UncertaintyEstimate] = {}
    labels = exact(labels, censoring)
    for k, (target, where) in enumerate(zip(targets, output_slices(targets), strict=True)):
        if target.name in uncertainty.classes:
            known, given = uncertainty.classes[target.name], as_given(target, mean[:, where])
            right = known.probability.apply(given)
            found[target.name] = ClassificationEstimate(
                given, right, known.sets.sets(given, CONFIDENCE), labels[:, k]
            )
        elif target.name in uncertainty.values:
            value, predicted = uncertainty.values[target.name], learnt(target, mean[:, where.start])
            used = None if spread is None else spread[:, where.start]
            deviation, low, high = value.columns("", predicted, used, CONFIDENCE).values()
            has_spread = np.full(len(mean), value.spread.has_spread)
            interval = np.stack([low, high], 1)
            label = learnt(target, labels[:, k])
            found[target.name] = RegressionEstimate(
                predicted, deviation, has_spread, distance, interval, label
            )
    return found


def joined(parts: Sequence[dict[str, UncertaintyEstimate]]) -> dict[str, UncertaintyEstimate]:
    """Put what several models said of their own molecules together; targets that all know."""
    found = {}
    for name, first in parts[0].items():
        if all(name in part for part in parts):
            columns = {
                one.name: np.concatenate([getattr(part[name], one.name) for part in parts])
                for one in fields(first)
            }
            found[name] = type(first)(**columns)
    return found


def reordered(said: UncertaintyEstimate, order: Int64[np.ndarray, " m"]) -> UncertaintyEstimate:
    """Put what was said of molecules into another order."""
    columns = {one.name: getattr(said, one.name)[order] for one in fields(said)}
    return type(said)(**columns)


def evaluate_uncertainty(said: dict[str, UncertaintyEstimate]) -> dict[str, UncertaintyMetrics]:
    """Compare what was said with the labels, target by target."""
    return {
        name: _of_values(one) if isinstance(one, RegressionEstimate) else _of_classes(one)
        for name, one in said.items()
    }


def _of_values(said: RegressionEstimate) -> UncertaintyMetrics:
    has_spread = bool(said.has_spread.all())
    unsure = said.deviation if has_spread else said.distance
    rank = None if np.isnan(unsure).any() else error_curve(said.predicted, unsure, said.label)
    low, high = said.interval.T
    return UncertaintyMetrics(
        coverage=interval_coverage(said.interval, said.label, CONFIDENCE),
        size=float(np.median(high - low)),
        ranked_by="spread" if has_spread else "distance",
        errors=rank,
        quantiles=quantile_curve(said.predicted, said.deviation, said.label),
    )


def _of_classes(said: ClassificationEstimate) -> UncertaintyMetrics:
    """The error is one less the probability of the true class; unsure is a small greatest one."""
    classes: Float[np.ndarray, "n c"] = (
        np.stack([1 - said.after, said.after], 1) if said.after.ndim == 1 else said.after
    )
    is_known = ~np.isnan(said.label)
    true = np.where(is_known, said.label, 0).astype(np.int64)
    of_true = np.take_along_axis(classes, true[:, None], 1)[:, 0]
    return UncertaintyMetrics(
        coverage=set_coverage(said.sets, said.label, CONFIDENCE),
        size=float(said.sets.sum(1).mean()),
        ranked_by="probability",
        errors=error_curve(of_true, 1 - classes.max(1), np.where(is_known, 1.0, np.nan)),
        before=reliability(said.before, said.label),
        after=reliability(said.after, said.label),
    )
