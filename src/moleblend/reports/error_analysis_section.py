"""Error analysis section of a training report: errors by scaffold and distance, best and worst."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int8, Int64

from moleblend.data.targets import Target, class_names, output_slices
from moleblend.evaluation.applicability_domain import DomainScores
from moleblend.evaluation.error_analysis import (
    MIN_GROUP_SIZE,
    ErrorTrend,
    ScaffoldGroup,
    error_trend,
    extreme_errors,
    prediction_errors,
    scaffold_groups,
)
from moleblend.evaluation.uncertainty_evaluation import (
    ClassificationEstimate,
    RegressionEstimate,
    UncertaintyEstimate,
)
from moleblend.reports.html_page import error_unit, format_number, in_parentheses
from moleblend.reports.molecules import Drawing, NearestMolecule, draw_molecule, nearest_molecule
from moleblend.reports.plots import BLUE, Plot, finish_plot, new_axes, or_a_note

_MOST_TARGETS = 3
_MOST_MOLECULES = 4


@dataclass(frozen=True, eq=False)
class TestedMolecules:
    """Molecules of the test set, with labels and predictions.

    Attributes:
        rows: of the file, counted from 0.
        smiles: empty where errors are not analysed.
        labels: NaN where missing.
        censoring: 1 or -1 where the label is censored.
        predicted: see `targets.unscale_outputs`.
        scores: distances to the training set.
        estimates: uncertainty estimates of each target.
    """

    rows: Int64[np.ndarray, " m"]
    smiles: Sequence[str]
    labels: Float64[np.ndarray, "m t"]
    censoring: Int8[np.ndarray, "m t"]
    predicted: Float64[np.ndarray, "m o"]
    scores: DomainScores
    estimates: Mapping[str, UncertaintyEstimate]


@dataclass(frozen=True)
class GroupRow:
    """A group of test molecules with the same scaffold or framework.

    Attributes:
        group: its error and that of all other molecules.
        drawing: of the scaffold; None of molecules without a ring.
    """

    group: ScaffoldGroup
    drawing: Drawing | None


@dataclass(frozen=True)
class MoleculeCard:
    """A test molecule with its prediction.

    Attributes:
        row: of the file, counted from 1.
        drawing: of the molecule.
        measured: label with class name.
        predicted: value, or the most probable class with its probability.
        uncertainty: interval or set of classes; empty where it is not known.
        nearest: the most similar training molecule; None where it is not known.
    """

    row: int
    drawing: Drawing
    measured: str
    predicted: str
    uncertainty: str
    nearest: NearestMolecule | None


@dataclass(frozen=True)
class TargetErrors:
    """Errors of one target on the test set.

    Attributes:
        name: of the target.
        is_regression: the error is the absolute error; else it is the Brier score.
        unit: of the error.
        label_unit: of the labels.
        n: test molecules with a label that is not censored.
        grouped_by: `scaffold` or `framework`.
        groups: the largest groups; none where all are too small.
        fewest_in_group: molecules that a group needs.
        trends: error over similarity and over distance to the training set.
        is_distance_known: the model file has the training set.
        worst: molecules with the largest errors.
        best: molecules with the smallest errors.
    """

    name: str
    is_regression: bool
    unit: str
    label_unit: str
    n: int
    grouped_by: str
    groups: list[GroupRow]
    fewest_in_group: int
    trends: list[Plot]
    is_distance_known: bool
    worst: list[MoleculeCard]
    best: list[MoleculeCard]


def error_analysis_section(
    targets: Sequence[Target], tested: TestedMolecules
) -> list[TargetErrors]:
    """Analyse the test errors of the first targets."""
    if not tested.smiles:
        return []
    shown = targets[:_MOST_TARGETS]
    return [
        _target_errors(target, k, columns, tested)
        for k, (target, columns) in enumerate(zip(shown, output_slices(shown), strict=True))
    ]


def _target_errors(target: Target, k: int, columns: slice, tested: TestedMolecules) -> TargetErrors:
    predicted = tested.predicted[:, columns]
    error = prediction_errors(target, predicted, tested.labels[:, k], tested.censoring[:, k])
    groups = scaffold_groups(tested.smiles, error)
    best, worst = extreme_errors(error, _MOST_MOLECULES)
    return TargetErrors(
        name=target.name,
        is_regression=target.kind == "regression",
        unit=error_unit(target) if target.kind == "regression" else "",
        label_unit=target.unit,
        n=int((~np.isnan(error)).sum()),
        grouped_by=groups.by,
        groups=[
            GroupRow(group, draw_molecule(group.smiles, 150, 95) if group.smiles else None)
            for group in groups.groups
        ],
        fewest_in_group=MIN_GROUP_SIZE,
        trends=_trends(target, tested.scores, error),
        is_distance_known=not np.isnan(tested.scores.similarity).all(),
        worst=[_card(target, k, columns, tested, place) for place in worst],
        best=[_card(target, k, columns, tested, place) for place in best],
    )


@or_a_note
def _trends(target: Target, scores: DomainScores, error: Float64[np.ndarray, " m"]) -> list[Plot]:
    """Draw the error over similarity and over distance, where there are enough molecules."""
    metric = "MAE" if target.kind == "regression" else "Brier score"
    unit = in_parentheses(error_unit(target)) if target.kind == "regression" else ""
    quantities = (
        ("similarity", "Tanimoto similarity of the nearest training molecule", scores.similarity),
        ("distance", "distance to the training set in the embedding", scores.distance),
    )
    return [
        _trend(f"{target.name}: error by {name}", x, metric + unit, trend)
        for name, x, quantity in quantities
        if (trend := error_trend(quantity, error)) is not None
    ]


@or_a_note
def _trend(title: str, x: str, y: str, trend: ErrorTrend) -> Plot:
    axes = new_axes(x, y)
    axes.errorbar(
        trend.median, trend.error, trend.standard_error, color=BLUE, marker=".", capsize=2
    )
    axes.set_ylim(bottom=0)
    sizes = " or ".join(f"{n:,}" for n in sorted({int(n) for n in trend.n}))
    caption = (
        f"{int(trend.n.sum()):,} test molecules in {len(trend.n)} bins of {sizes}. Bars are "
        "standard errors."
    )
    if trend.rank_correlation is not None:
        caption += f" Spearman correlation over molecules: {trend.rank_correlation:.2f}."
    return finish_plot(axes, title, caption)


def _card(
    target: Target, k: int, columns: slice, tested: TestedMolecules, place: int
) -> MoleculeCard:
    label = tested.labels[place, k]
    is_regression = target.kind == "regression"
    return MoleculeCard(
        row=int(tested.rows[place]) + 1,
        drawing=draw_molecule(tested.smiles[place], 240, 150),
        measured=format_number(label) if is_regression else class_names(target)[int(label)],
        predicted=_prediction(target, tested.predicted[place, columns]),
        uncertainty=_uncertainty(target, tested.estimates.get(target.name), place),
        nearest=nearest_molecule(tested.scores, place),
    )


def _prediction(target: Target, outputs: Float64[np.ndarray, " c"]) -> str:
    """Format a value, or the most probable class with its probability."""
    if target.kind == "regression":
        return format_number(_rounded(outputs[0]))
    probabilities = [1 - outputs[0], outputs[0]] if target.kind == "binary" else outputs
    top = int(np.argmax(probabilities))
    return f"{class_names(target)[top]} with probability {probabilities[top]:.2f}"


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")


def _uncertainty(target: Target, estimate: UncertaintyEstimate | None, place: int) -> str:
    """Format the interval or the set of classes; empty where there is none."""
    if isinstance(estimate, RegressionEstimate):
        low, high = estimate.interval[place]
        if target.log10:
            low, high = 10**low, 10**high
        ends = f"{format_number(_rounded(low))} to {format_number(_rounded(high))}"
        return f"90 % interval: {ends}"
    if isinstance(estimate, ClassificationEstimate):
        names = zip(class_names(target), estimate.sets[place], strict=True)
        return f"90 % set: {', '.join(name for name, is_in in names if is_in) or 'none'}"
    return ""
