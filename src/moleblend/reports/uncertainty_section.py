"""How sure a model is, and whether rightly so: sentences and plots for the page of its training."""

from html import escape

from moleblend.data.targets import Target
from moleblend.evaluation.calibration import ProbabilityCalibration
from moleblend.evaluation.uncertainty_evaluation import UncertaintyMetrics
from moleblend.evaluation.uncertainty_metrics import ErrorCurve, QuantileCurve, Reliability
from moleblend.reports.html_page import BLUE, GREY, ORANGE, axes_of, number, picture

_RANKS = {
    "std": "the standard deviation of the error",
    "distance": "the distance to the training set",
    "probability": "the doubt (1 less the greatest probability)",
}


def sentence(
    target: Target,
    uncertainty_metrics: UncertaintyMetrics,
    probability: ProbabilityCalibration | None,
) -> str:
    """Say in a paragraph what the sureness of a target is worth on test molecules."""
    coverage, errors = uncertainty_metrics.coverage, uncertainty_metrics.errors
    what = "intervals" if uncertainty_metrics.quantiles else "sets"
    size = f"{number(uncertainty_metrics.size)} {'log10' if target.log10 else target.unit}".strip()
    told = "there is no labelled test molecule to count"
    if coverage.observed is not None:
        size = (
            f"median width {size}"
            if uncertainty_metrics.quantiles
            else f"{uncertainty_metrics.size:.2f} classes in a set"
        )
        told = (
            f"the {coverage.nominal:.0%} {what} hold the label of {coverage.observed:.1%} of "
            f"{coverage.n:,} test molecules (95 % interval {coverage.low:.1%} to "
            f"{coverage.high:.1%}), with {size}"
        )
    if uncertainty_metrics.before is not None and uncertainty_metrics.after is not None:
        told += (
            f"; the expected calibration error is {uncertainty_metrics.after.error:.3f}, "
            f"before calibration {uncertainty_metrics.before.error:.3f}, "
            f"and right probabilities would have "
            f"{uncertainty_metrics.after.error_if_calibrated:.3f} in so few molecules"
        )
    if errors is not None and errors.rank_correlation is not None:
        told += (
            f"; Spearman's correlation of the error with {_rank(uncertainty_metrics)} is "
            f"{errors.rank_correlation:.2f}"
        )
    if probability is not None:
        told += f". Calibration {probability.method}: {probability.reason}"
    return f"<p><b>{escape(target.name)}</b>: {escape(told)}.</p>"


def pictures(target: Target, uncertainty_metrics: UncertaintyMetrics) -> list[str]:
    """Draw whether probabilities or quantiles are right, and where the errors are."""
    found = []
    if uncertainty_metrics.before is not None and uncertainty_metrics.after is not None:
        found.append(
            _reliability(target.name, uncertainty_metrics.before, uncertainty_metrics.after)
        )
    if uncertainty_metrics.quantiles is not None:
        found.append(_quantiles(target.name, uncertainty_metrics.quantiles))
    if uncertainty_metrics.errors is not None:
        unit = "log10" if target.log10 else target.unit
        y = "mean absolute error" + (f" ({unit})" if unit else "")
        found.append(
            _errors(target.name, uncertainty_metrics.errors, y, _rank(uncertainty_metrics))
        )
    return found


def _rank(uncertainty_metrics: UncertaintyMetrics) -> str:
    return _RANKS[uncertainty_metrics.ranked_by]


def _reliability(name: str, before: Reliability, after: Reliability) -> str:
    plot = axes_of(f"{name}: probabilities", "predicted", "came true", height=3.2)
    plot.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":")
    drawn = (("as the model gives them", before, ORANGE), ("calibrated", after, BLUE))
    for label, curve, colour in drawn:
        plot.plot(curve.predicted, curve.observed, color=colour, marker=".", label=label)
    plot.legend(frameon=False, fontsize=8)
    about = f"{after.n:,} test molecules in {len(after.count)} bins; on the dotted line all is "
    return picture(plot, f"{about}right. Where only one line is seen they are the same.")


def _quantiles(name: str, curve: QuantileCurve) -> str:
    plot = axes_of(f"{name}: quantiles", "predicted quantile", "labels below it", height=3.2)
    plot.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":")
    plot.plot(curve.level, curve.observed, color=BLUE, marker=".")
    about = f"{curve.n:,} test molecules; normal distributions of the calibrated deviation. On the "
    return picture(plot, f"{about}dotted line all is right; the mean gap is {curve.error:.3f}.")


def _errors(name: str, curve: ErrorCurve, y: str, rank: str) -> str:
    plot = axes_of(f"{name}: the surest molecules", "share kept, the surest first", y, height=3.2)
    plot.plot(curve.kept, curve.error, color=BLUE, marker=".", label="kept by the model's word")
    plot.plot(curve.kept, curve.error_at_best, color=GREY, linestyle=":", label="by their error")
    plot.set_ylim(bottom=0)
    plot.legend(frameon=False, fontsize=8)
    return picture(plot, f"Surest first by {rank}. A useful ranking rises to the right.")
