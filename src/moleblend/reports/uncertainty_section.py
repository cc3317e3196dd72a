"""Uncertainty section of a training report: coverage, calibration and ranking by uncertainty."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from moleblend.data.targets import Target
from moleblend.evaluation.calibration import ProbabilityCalibration
from moleblend.evaluation.uncertainty import Uncertainty
from moleblend.evaluation.uncertainty_evaluation import UncertaintyMetrics
from moleblend.evaluation.uncertainty_metrics import ErrorCurve, QuantileCurve, Reliability
from moleblend.reports.html_page import error_unit, in_parentheses
from moleblend.reports.plots import (
    BLUE,
    GREY,
    MOST_TARGETS_PLOTTED,
    ORANGE,
    Plot,
    add_legend,
    finish_plot,
    new_axes,
    or_a_note,
)

_RANKED_BY = {
    "std": "the standard deviation of the error",
    "distance": "the distance to the training set",
    "probability": "one minus the largest class probability",
}


@dataclass(frozen=True)
class TargetUncertainty:
    """How good the uncertainty of one target is on the test set.

    Attributes:
        name: of the target.
        metrics: on the test set.
        unit: of the width of the intervals.
        ranked_by: the quantity that ranks molecules from certain to uncertain.
        calibration: of the probabilities; None of a regression target.
        plots: calibration, and error over the fraction of molecules that is kept.
    """

    name: str
    metrics: UncertaintyMetrics
    unit: str
    ranked_by: str
    calibration: ProbabilityCalibration | None
    plots: list[Plot]


def uncertainty_section(
    targets: Sequence[Target],
    metrics: Mapping[str, UncertaintyMetrics],
    uncertainty: Uncertainty,
) -> list[TargetUncertainty]:
    """Collect the uncertainty metrics of the first targets, with their plots.

    Args:
        targets: of the model.
        metrics: on the test set, by target.
        uncertainty: of the model.
    """
    return [
        target_uncertainty(
            target,
            metrics[target.name],
            uncertainty.classes[target.name].probability
            if target.name in uncertainty.classes
            else None,
        )
        for target in targets[:MOST_TARGETS_PLOTTED]
        if target.name in metrics
    ]


def target_uncertainty(
    target: Target, metrics: UncertaintyMetrics, calibration: ProbabilityCalibration | None
) -> TargetUncertainty:
    """Collect the uncertainty metrics of one target, with its plots."""
    ranked_by = _RANKED_BY[metrics.ranked_by]
    plots = []
    if metrics.before is not None and metrics.after is not None:
        plots.append(_reliability(target.name, metrics.before, metrics.after))
    if metrics.quantiles is not None:
        plots.append(_quantiles(target.name, metrics.quantiles))
    if metrics.errors is not None:
        y = (
            "fraction of wrong classes"
            if metrics.ranked_by == "probability"
            else f"mean absolute error{in_parentheses(error_unit(target))}"
        )
        plots.append(_errors(target.name, metrics.errors, y, ranked_by))
    return TargetUncertainty(
        target.name, metrics, error_unit(target), ranked_by, calibration, plots
    )


@or_a_note
def _reliability(name: str, before: Reliability, after: Reliability) -> Plot:
    axes = new_axes("predicted probability", "observed frequency", height=3.6)
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":")
    for label, curve, colour in (("uncalibrated", before, ORANGE), ("calibrated", after, BLUE)):
        axes.plot(curve.predicted, curve.observed, color=colour, marker=".", label=label)
    add_legend(axes)
    caption = (
        f"{after.n:,} test molecules in {len(after.count)} bins. Perfect calibration lies on the "
        "dotted line. A single visible line means that calibration changed nothing."
    )
    return finish_plot(axes, f"{name}: calibration of probabilities", caption)


@or_a_note
def _quantiles(name: str, curve: QuantileCurve) -> Plot:
    axes = new_axes("predicted quantile", "fraction of labels below it", height=3.6)
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":")
    axes.plot(curve.level, curve.observed, color=BLUE, marker=".")
    caption = (
        f"{curve.n:,} test molecules, normal distributions with the calibrated standard deviation. "
        f"Perfect calibration lies on the dotted line. The mean gap is {curve.error:.3f}."
    )
    return finish_plot(axes, f"{name}: calibration of quantiles", caption)


@or_a_note
def _errors(name: str, curve: ErrorCurve, y: str, ranked_by: str) -> Plot:
    x = "fraction of molecules kept, the most certain first"
    axes = new_axes(x, y, height=3.6)
    axes.plot(curve.kept, curve.error, color=BLUE, marker=".", label="ranked by uncertainty")
    axes.plot(
        curve.kept, curve.error_at_best, color=GREY, linestyle=":", label="ranked by true error"
    )
    axes.set_ylim(bottom=0)
    add_legend(axes)
    caption = (
        f"Molecules are ranked by {ranked_by}. The error rises to the right where this ranking is "
        "informative."
    )
    return finish_plot(axes, f"{name}: error of the most certain molecules", caption)
