"""Evaluation of uncertainty: uncertainty estimates of labelled molecules, and metrics of them.

`estimate_uncertainty` computes an `UncertaintyEstimate` for each target, `evaluate_uncertainty`
compares these with the labels. The metrics themselves are in `uncertainty_metrics`.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Float64, Int8, Int64

from moleblend.data.targets import Target, exact_labels, output_slices
from moleblend.evaluation.uncertainty import CONFIDENCE, Uncertainty
from moleblend.evaluation.uncertainty_metrics import (
    Coverage,
    ErrorCurve,
    QuantileCurve,
    Reliability,
    error_curve,
    error_roc_auc,
    interval_coverage,
    quantile_curve,
    reliability,
    set_coverage,
)


@dataclass(frozen=True, eq=False)
class RegressionEstimate:
    """Predictions and their uncertainty for a regression target, with the labels.

    All values are in the label's unit, or log10 of it if the model is trained on log10.

    Attributes:
        predicted: predicted values.
        std: standard deviation of the error.
        has_molecular_std: whether the standard deviation depends on the molecule.
        distance: to the training set, see `DomainScores.distance`; NaN where unknown.
        interval: lower and upper end at 90 % confidence.
        label: NaN where missing or censored.
    """

    predicted: Float64[np.ndarray, " n"]
    std: Float64[np.ndarray, " n"]
    has_molecular_std: Bool[np.ndarray, " n"]
    distance: Float64[np.ndarray, " n"]
    interval: Float64[np.ndarray, "n 2"]
    label: Float64[np.ndarray, " n"]


@dataclass(frozen=True, eq=False)
class ClassificationEstimate:
    """Probabilities and sets of classes for a classification target, with the labels.

    Attributes:
        raw: uncalibrated probabilities, of class 1 or of each class.
        calibrated: calibrated probabilities.
        sets: which classes are in the set at 90 % confidence.
        label: number of the class; NaN where missing.
    """

    raw: Float64[np.ndarray, "n ..."]
    calibrated: Float64[np.ndarray, "n ..."]
    sets: Bool[np.ndarray, "n c"]
    label: Float64[np.ndarray, " n"]


UncertaintyEstimate = RegressionEstimate | ClassificationEstimate


@dataclass(frozen=True)
class UncertaintyMetrics:
    """Metrics of the uncertainty of one target on a set of molecules.

    Attributes:
        coverage: of the 90 % intervals or sets.
        size: median width of the intervals, in the label's unit (or log10 if the model is trained
            on log10); mean number of classes in a set.
        ranked_by: the uncertainty by which `errors` are ranked: `std` of the error; `distance` to
            the training set, if the standard deviation is the same for all molecules; or
            `probability`.
        errors: None without a label, or without an uncertainty to rank by. The error of a class is
            0 or 1, so this is the risk-coverage curve.
        error_auc: ROC-AUC of the uncertainty for wrong predictions of a class: the probability that
            a wrong prediction is more uncertain than a correct one, 0.5 without information. None
            for regression, and if all or no predictions are wrong.
        quantiles: for regression.
        before: reliability of the uncalibrated probabilities, for classification.
        after: reliability of the calibrated probabilities, for classification.
    """

    coverage: Coverage
    size: float
    ranked_by: Literal["std", "distance", "probability"]
    errors: ErrorCurve | None
    error_auc: float | None = None
    quantiles: QuantileCurve | None = None
    before: Reliability | None = None
    after: Reliability | None = None

    def summary(self) -> dict[str, Any]:
        """Return the numbers that metrics.json stores.

        `coverage`; `median_width` or `mean_set_size`; `rank_correlation` of error and uncertainty
        and what it is `ranked_by`; for regression `quantile_error`; for classification
        `error_roc_auc` of wrong predictions, the expected
        calibration error `ECE_before` and `ECE_after` calibration, and what it would be for correct
        probabilities, on average (`..._if_right`) and exceeded in 5 % of draws
        (`..._if_right_95`).
        """
        numbers: dict[str, Any] = {"coverage": asdict(self.coverage)}
        numbers["median_width" if self.quantiles else "mean_set_size"] = self.size
        numbers["rank_correlation"] = self.errors.rank_correlation if self.errors else None
        numbers["ranked_by"] = self.ranked_by
        if self.quantiles is not None:
            numbers["quantile_error"] = self.quantiles.error
        else:
            numbers["error_roc_auc"] = self.error_auc
        for name, curve in (("before", self.before), ("after", self.after)):
            if curve is not None:
                numbers[f"ECE_{name}"] = curve.error
                numbers[f"ECE_{name}_if_right"] = curve.error_if_calibrated
                numbers[f"ECE_{name}_if_right_95"] = curve.error_if_calibrated_95
        return numbers


def estimate_uncertainty(
    uncertainty: Uncertainty,
    targets: Sequence[Target],
    mean: Float64[np.ndarray, "n o"],
    member_std: Float64[np.ndarray, "n o"] | None,
    labels: Float64[np.ndarray, "n t"],
    censoring: Int8[np.ndarray, "n t"],
    distance: Float64[np.ndarray, " n"],
) -> dict[str, UncertaintyEstimate]:
    """Compute the uncertainty of predictions for labelled molecules.

    Args:
        uncertainty: as fitted on the validation set.
        targets: of the model.
        mean: predictions, with uncalibrated probabilities.
        member_std: standard deviation over the members of an ensemble.
        labels: in the unit of the file, or the number of a class; NaN where missing.
        censoring: +1 true value at least the label, -1 at most, 0 exact.
        distance: to the training set, NaN where unknown.

    Returns:
        The estimate of each target in `uncertainty`, by its name.
    """
    estimates: dict[str, UncertaintyEstimate] = {}
    labels = exact_labels(labels, censoring)
    for k, (target, where) in enumerate(zip(targets, output_slices(targets), strict=True)):
        if target.name in uncertainty.classes:
            of_classes, raw = (
                uncertainty.classes[target.name],
                target.class_probability(mean[:, where]),
            )
            estimates[target.name] = ClassificationEstimate(
                raw=raw,
                calibrated=of_classes.probability.apply(raw),
                sets=of_classes.sets.predict_sets(raw, CONFIDENCE),
                label=labels[:, k],
            )
        elif target.name in uncertainty.values:
            of_values = uncertainty.values[target.name]
            predicted = target.to_training_scale(mean[:, where.start])
            std, low, high = of_values.std_and_interval(
                predicted, None if member_std is None else member_std[:, where.start], CONFIDENCE
            )
            estimates[target.name] = RegressionEstimate(
                predicted=predicted,
                std=std,
                has_molecular_std=np.full(len(mean), of_values.spread.has_spread),
                distance=distance,
                interval=np.stack([low, high], 1),
                label=target.to_training_scale(labels[:, k]),
            )
    return estimates


def concatenate_estimates(
    estimates: Sequence[dict[str, UncertaintyEstimate]],
) -> dict[str, UncertaintyEstimate]:
    """Concatenate the estimates of several models, each of its own molecules.

    Args:
        estimates: of each model, by the name of the target.

    Returns:
        The targets that all models have.
    """
    together = {}
    for name, first in estimates[0].items():
        if all(name in one for one in estimates):
            columns = {
                column.name: np.concatenate([getattr(one[name], column.name) for one in estimates])
                for column in fields(first)
            }
            together[name] = type(first)(**columns)
    return together


def reorder_estimate(
    estimate: UncertaintyEstimate, order: Int64[np.ndarray, " m"]
) -> UncertaintyEstimate:
    """Return the estimate of the molecules in another order.

    Args:
        estimate: of one target.
        order: row in `estimate` of each molecule of the result.
    """
    columns = {column.name: getattr(estimate, column.name)[order] for column in fields(estimate)}
    return type(estimate)(**columns)


def evaluate_uncertainty(
    estimates: dict[str, UncertaintyEstimate],
) -> dict[str, UncertaintyMetrics]:
    """Compute the metrics of the uncertainty of each target."""
    return {
        name: _evaluate_regression(estimate)
        if isinstance(estimate, RegressionEstimate)
        else _evaluate_classification(estimate)
        for name, estimate in estimates.items()
    }


def _evaluate_regression(estimate: RegressionEstimate) -> UncertaintyMetrics:
    by_std = bool(estimate.has_molecular_std.all())
    rank = estimate.std if by_std else estimate.distance
    errors = None
    if not np.isnan(rank).any():
        errors = error_curve(estimate.predicted, rank, estimate.label)
    low, high = estimate.interval.T
    return UncertaintyMetrics(
        coverage=interval_coverage(estimate.interval, estimate.label, CONFIDENCE),
        size=float(np.median(high - low)),
        ranked_by="std" if by_std else "distance",
        errors=errors,
        quantiles=quantile_curve(estimate.predicted, estimate.std, estimate.label),
    )


def _evaluate_classification(estimate: ClassificationEstimate) -> UncertaintyMetrics:
    """Error: 1 where the class of greatest probability is wrong; uncertainty: 1 - that probability.

    1 - the probability of the true class is no error to rank by: it depends on the uncertainty
    itself, so it correlates with it where confidence says nothing about accuracy.
    """
    calibrated = estimate.calibrated
    classes: Float[np.ndarray, "n c"] = (
        np.stack([1 - calibrated, calibrated], 1) if calibrated.ndim == 1 else calibrated
    )
    is_known = ~np.isnan(estimate.label) & ~np.isnan(classes).any(1)
    is_correct = (classes.argmax(1) == estimate.label).astype(np.float64)
    uncertainty = 1 - classes.max(1)
    return UncertaintyMetrics(
        coverage=set_coverage(estimate.sets, estimate.label, CONFIDENCE),
        size=float(estimate.sets.sum(1).mean()),
        ranked_by="probability",
        errors=error_curve(is_correct, uncertainty, np.where(is_known, 1.0, np.nan)),
        error_auc=error_roc_auc(is_correct[is_known] == 0, uncertainty[is_known]),
        before=reliability(estimate.raw, estimate.label),
        after=reliability(calibrated, estimate.label),
    )
