"""Where a model errs, for the page of its training: families, distance, best and worst."""

from html import escape

import numpy as np
from jaxtyping import Float64

from moleblend.chem.drawing import draw_svg
from moleblend.chem.molecule import MoleculeError
from moleblend.data.targets import Target, class_names, output_slices
from moleblend.evaluation.error_analysis import (
    MIN_GROUP_SIZE,
    ErrorTrend,
    ScaffoldGroup,
    ScaffoldGroups,
    error_trend,
    extreme_errors,
    prediction_errors,
    scaffold_groups,
)
from moleblend.evaluation.uncertainty_evaluation import ClassificationEstimate, RegressionEstimate
from moleblend.finetuning.train import TrainResult
from moleblend.reports.html_page import BLUE, axes_of, image, number, picture, plots, table

_MOST_TARGETS = 3
_MOST_DRAWN = 4


def mistakes_part(result: TrainResult) -> list[str]:
    """Say where the errors on test are, target by target; of many targets of the first ones."""
    if not result.smiles:
        return []
    body = ["<h2>Where it errs</h2>"]
    shown = result.targets[:_MOST_TARGETS]
    if len(result.targets) > len(shown):
        body.append(f"<p>The first {len(shown)} of {len(result.targets)} targets are shown.</p>")
    for k, (target, where) in enumerate(zip(shown, output_slices(shown), strict=True)):
        censoring = np.zeros(len(result.labels), np.int8)
        if result.censoring is not None:
            censoring = result.censoring[:, k]
        error = prediction_errors(
            target, result.predicted[:, where], result.labels[:, k], censoring
        )
        n = int((~np.isnan(error)).sum())
        told = f"{_kind_of_error(target)}, over {n:,} test molecules with a label."
        body.append(f"<h3>{escape(target.name)}</h3><p>The error here is the {escape(told)}</p>")
        body += [
            _families(scaffold_groups(result.smiles, error), target, n),
            _trends(result, target, error),
            *_extremes(result, k, target, where, error),
        ]
    return body


def _kind_of_error(target: Target) -> str:
    if target.kind == "regression":
        return f"absolute error{_unit(target)}"
    return "Brier score (0: certain and right, 0.25: undecided between two, 1: certain and wrong)"


def _unit(target: Target) -> str:
    unit = "log10" if target.log10 else target.unit
    return f" ({unit})" if unit else ""


def _families(families: ScaffoldGroups, target: Target, n: int) -> str:
    """Draw the families in a table, each with its error and that of the rest."""
    if not families.groups:
        return (
            f"<p>No family of test molecules has {MIN_GROUP_SIZE} members and a rest as large "
            f"among these {n:,}, so errors are not told by family.</p>"
        )
    by = (
        "Bemis-Murcko scaffold"
        if families.by == "scaffold"
        else "Bemis-Murcko framework (the scaffold as a bare graph, since hardly any share one)"
    )
    rows = [
        (
            _drawn(family.smiles, 130, 80) if family.smiles else "no ring",
            f"{family.n:,}",
            f"{family.error:.3g} ± {family.standard_error:.2g}",
            f"{family.rest:.3g}",
            _verdict(family),
        )
        for family in families.groups
    ]
    head = ("family", "n", _name(target), "the rest", "verdict")
    note = (
        f"n test molecules with the same {by}, the largest families; ± is the standard error of "
        "the mean. Harder or easier: more than two standard errors from the rest, which among so "
        "many families one may be by chance."
    )
    return table(head, rows, note, style="families", is_html=True)


def _name(target: Target) -> str:
    return "MAE" if target.kind == "regression" else "Brier score"


def _verdict(family: ScaffoldGroup) -> str:
    return f"<b>{family.difficulty}</b>" if family.difficulty else "as the rest"


def _drawn(smiles: str, width: int, height: int) -> str:
    try:
        svg = draw_svg(smiles, width, height)
    except MoleculeError:  # of a mol block, which RDKit does not read again
        return f"<code>{escape(smiles)}</code>"
    return image(svg.encode(), "", smiles)


def _trends(result: TrainResult, target: Target, error: Float64[np.ndarray, " m"]) -> str:
    """Draw the error over similarity and over distance; say so where there is too little."""
    near = result.scores
    found = [
        ("similarity", "Tanimoto similarity of the nearest training molecule", near.similarity),
        ("distance", "distance to training, in the embedding", near.distance),
    ]
    drawn = [
        _trend(f"{target.name}: error by {name}", x, _name(target) + _unit(target), trend)
        for name, x, quantity in found
        if (trend := error_trend(quantity, error)) is not None
    ]
    if drawn:
        return plots(drawn)
    why = (
        "The distance to the training set is not known, so errors are not drawn along it"
        if np.isnan(near.similarity).all()
        else "There are too few test molecules to draw errors along their distance to training"
    )
    return f"<p>{why}.</p>"


def _trend(title: str, x: str, y: str, trend: ErrorTrend) -> str:
    plot = axes_of(title, x, y, height=3.2)
    plot.errorbar(
        trend.median, trend.error, trend.standard_error, color=BLUE, marker=".", capsize=2
    )
    plot.set_ylim(bottom=0)
    sizes = sorted({int(n) for n in trend.n})
    about = (
        f"{int(trend.n.sum()):,} test molecules in {len(trend.n)} bins of "
        f"{' or '.join(f'{n:,}' for n in sizes)}; bars are standard errors."
    )
    if trend.rank_correlation is not None:
        about += f" Spearman's correlation over molecules is {trend.rank_correlation:.2f}."
    return picture(plot, about)


def _extremes(
    result: TrainResult, k: int, target: Target, where: slice, error: Float64[np.ndarray, " m"]
) -> list[str]:
    """Draw the worst and the best predicted molecules."""
    best, worst = extreme_errors(error, _MOST_DRAWN)
    body = []
    for name, places in (("Worst predicted", worst), ("Best predicted", best)):
        if places:
            cards = "".join(_card(result, k, target, where, place) for place in places)
            unit = f" ({target.unit})" if target.unit else ""
            body.append(f"<h4>{name}{escape(unit)}</h4><div class='molecules'>{cards}</div>")
    return body


def _card(result: TrainResult, k: int, target: Target, where: slice, place: int) -> str:
    """One test molecule: measured, predicted, and what the model could know it from."""
    near, label = result.scores, result.labels[place, k]
    names = class_names(target)
    is_value = target.kind == "regression"
    measured = number(label) if is_value else names[int(label)]
    lines = [
        f"row {result.parts.test[place] + 1}",
        f"measured <b>{escape(measured)}</b>",
        f"predicted <b>{escape(_predicted(result, target, where, place))}</b>"
        + escape(_sureness(result, target, place)),
    ]
    if near.row[place] >= 0:
        lines.append(
            f"nearest in training: row {near.row[place] + 1}, similarity "
            f"{near.similarity[place]:.2f}"
        )
        if near.smiles[place]:
            lines.append(f"<code>{escape(near.smiles[place])}</code>")
    return f"<div>{_drawn(result.smiles[place], 220, 140)}<p>{'<br/>'.join(lines)}</p></div>"


def _predicted(result: TrainResult, target: Target, where: slice, place: int) -> str:
    """Say a value, or the probability of the class that is likeliest."""
    found = result.predicted[place, where]
    if target.kind == "regression":
        return number(_rounded(found[0]))
    each = [1 - found[0], found[0]] if target.kind == "binary" else found
    likeliest = int(np.argmax(each))
    return f"{class_names(target)[likeliest]} with probability {each[likeliest]:.2f}"


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")


def _sureness(result: TrainResult, target: Target, place: int) -> str:
    """Say the interval, or the set of classes, where the model has them."""
    said = result.said.get(target.name)
    if isinstance(said, RegressionEstimate):
        low, high = 10 ** said.interval[place] if target.log10 else said.interval[place]
        return f" (90 %: {number(_rounded(low))} to {number(_rounded(high))})"
    if isinstance(said, ClassificationEstimate):
        names = class_names(target)
        chosen = [name for name, is_in in zip(names, said.sets[place], strict=True) if is_in]
        return f" (90 % set: {', '.join(chosen) or 'none'})"
    return ""
