"""Report of a fine-tuning run: results, uncertainty, error analysis, data and usage."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64
from sklearn.metrics import precision_recall_curve, roc_curve

from moleblend.config import to_dict
from moleblend.data.targets import Target, output_slices
from moleblend.evaluation.baseline import describe_forest
from moleblend.evaluation.comparison import summarise
from moleblend.evaluation.metrics import Metrics, main_metric
from moleblend.finetuning.train import TrainResult
from moleblend.model import checkpoint
from moleblend.reports.data_section import data_section
from moleblend.reports.error_analysis_section import TestedMolecules, error_analysis_section
from moleblend.reports.html_page import (
    Table,
    flat_settings,
    format_number,
    in_parentheses,
    write_page,
)
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
    scatter,
)
from moleblend.reports.search_section import search_section
from moleblend.reports.summary_section import DataFacts, summarise_run
from moleblend.reports.uncertainty_section import uncertainty_section
from moleblend.reports.usage_section import usage_section

_LEAST_IMPROVEMENT = 0.01
"""Fraction of the best validation metric by which an epoch has to improve it to count."""

_COUNTS = ("n", "n_positive", "n_censored")


@dataclass(frozen=True)
class RunHeader:
    """What a run was.

    Attributes:
        data: the file.
        source: model file, `packaged` or `scratch`.
        views: `2d`, `3d` or `both`.
        split: how the sets were made.
        features: added to the property head.
        n_test: test molecules.
        kept_epoch: of the weights.
        n_epochs: that were trained.
        keeps_best: the best epoch on validation is kept; else the last one.
        n_folds: 0 without cross-validation.
        n_members: of the ensemble.
    """

    data: str
    source: str
    views: str
    split: str
    features: tuple[str, ...]
    n_test: int
    kept_epoch: int
    n_epochs: int
    keeps_best: bool
    n_folds: int
    n_members: int


def write_train_report(result: TrainResult, path: Path) -> Path:
    """Write the report of a fine-tuning run.

    Args:
        result: of `train.train`. Its model file exists already.
        path: of the report.

    Returns:
        The path.

    Raises:
        ValueError: matplotlib is not installed.
    """
    config, targets = result.config, result.targets
    evaluation, baseline, table = result.evaluation, result.baseline, result.table
    uncertainty = result.settings.uncertainty
    test_uncertainty = result.uncertainty_metrics.get("test", {})
    forest_notes = [f"{name}: {why}" for name, why in baseline.forest.not_trained.items()]
    return write_page(
        path,
        "train_report.html",
        title=f"Fine-tuning report: {', '.join(target.name for target in targets)}",
        header=_header(result),
        summary=summarise_run(
            targets,
            evaluation.test,
            evaluation.constant_baseline,
            baseline.comparisons,
            test_uncertainty,
            _data_facts(result),
            epochs=config.epochs,
            still_improving=_is_still_improving(
                result.histories[0].epochs, validation_metric(result)
            ),
        ),
        metrics=_metrics_table(result),
        prediction_plots=_prediction_plots(result),
        members=_members_table(result),
        n_refitted=0 if result.refitted is None else result.refitted.n_molecules,
        n_trees=baseline.forest.n_trees if baseline.forest.test else 0,
        comparisons=summarise(baseline.comparisons) if config.forest else [],
        forest_description=(
            describe_forest(targets, baseline.forest)
            if config.forest and baseline.forest.test
            else ""
        ),
        forest_note=baseline.note if config.forest else "",
        forest_failures=forest_notes if config.forest else [],
        uncertainty_notes=[] if uncertainty is None else list(uncertainty.notes),
        uncertainty=uncertainty_section(targets, test_uncertainty, result.uncertainty),
        errors=error_analysis_section(targets, _tested(result)),
        n_targets=len(targets),
        training_plots=_training_plots(result),
        search=None if result.search is None else search_section(result.search),
        data=data_section(
            table.rows,
            table.split,
            targets,
            table.labels,
            result.settings,
            table.duplicates,
        ),
        usage=usage_section(
            result.model,
            config,
            targets,
            result.settings.prediction_columns,
            result.domain,
            has_intervals=bool(result.uncertainty.values or result.uncertainty.classes),
        ),
        settings=flat_settings(to_dict(config) | {"resolved": result.settings.to_dict()}),
    )


def _header(result: TrainResult) -> RunHeader:
    config = result.config
    return RunHeader(
        data=config.data,
        source=config.source,
        views=checkpoint.read_card(result.model).views,
        split=config.split,
        features=config.extra_features,
        n_test=len(result.predictions.labels),
        kept_epoch=result.kept_epoch,
        n_epochs=len(result.histories[0].epochs),
        keeps_best=bool(config.patience),
        n_folds=config.folds,
        n_members=config.ensemble,
    )


def _tested(result: TrainResult) -> TestedMolecules:
    predictions = result.predictions
    return TestedMolecules(
        rows=result.table.split.test,
        smiles=predictions.smiles,
        labels=predictions.labels,
        censoring=predictions.censoring,
        predicted=predictions.predicted,
        scores=predictions.domain_scores,
        estimates=predictions.estimates,
    )


def _data_facts(result: TrainResult) -> DataFacts:
    """Count what the summary warns of."""
    n_training, table = None, result.table
    if len(table.split.train):
        n_training = int((~np.isnan(table.labels[table.split.train])).sum(0).min())
    targets = result.settings.targets.values()
    return DataFacts(
        n_training_labels=n_training,
        n_conflicts=len({one.rows for one in table.duplicates.contradictions}),
        n_known_test_rows=len(table.duplicates.known_test_rows),
        n_unusable_rows=sum(not row.status.startswith("ok") for row in table.rows),
        n_unreadable_cells=sum(target.n_bad_cells for target in targets),
        domain=result.predictions.domain_scores.category,
    )


def _metrics_table(result: TrainResult) -> Table:
    """Validation and test metrics, with those of both baselines."""
    rows = []
    for target in result.targets:
        is_named = target.unit in target.name  # also where there is no unit
        name = target.name if is_named else f"{target.name}{in_parentheses(target.unit)}"
        test = result.test[target.name]
        constant = _constant_metrics(test, result.evaluation.constant_baseline.get(target.name))
        for metric, value in test.items():
            if metric in _COUNTS:
                continue
            validation = format_number(result.validation[target.name].get(metric))
            row = [name, metric.replace("R2", "R²"), validation, format_number(value)]
            if result.statistics:
                over_runs = result.statistics["test"][target.name][metric]
                mean, std = format_number(over_runs["mean"]), format_number(over_runs["std"])
                row.append(f"{mean} ± {std}")
            if result.baseline.forest.test:
                forest = result.baseline.forest.test.get(target.name, {})
                row.append(format_number(forest[metric]) if metric in forest else "–")
            row.append(format_number(constant[metric]) if metric in constant else "–")
            n_labels = test["n_censored" if metric == "censored labels respected" else "n"]
            rows.append([*row, format_number(n_labels)])
    head = ["target", "metric", "validation", "test"]
    if result.statistics:
        repeats = "folds" if result.config.folds else "seeds"
        head.append(f"test, mean ± std over {len(result.runs)} {repeats}")
    if result.baseline.forest.test:
        head.append("random forest, test")
    return Table([*head, "constant baseline, test", "test labels"], rows)


def _members_table(result: TrainResult) -> Table | None:
    """Weight and test metric of each member alone, of the first targets; None for a network."""
    if not result.tree_models:
        return None
    rows = []
    for target in result.targets[:MOST_TARGETS_PLOTTED]:
        metric = main_metric(target)
        for member in result.members:
            if target.name in member.test:
                weight = f"{member.weights[target.name]:.2f}"
                value = format_number(member.test[target.name].get(metric))
                rows.append([target.name, member.name, weight, metric, value])
        value = format_number(result.test[target.name].get(metric))
        rows.append([target.name, "the model (average)", "", metric, value])
    return Table(["target", "member", "weight", "metric", "test"], rows)


def _constant_metrics(test: Metrics, regression: Metrics | None) -> Metrics:
    """Test metrics of the same prediction for every molecule, where they are known."""
    if regression is not None:
        return regression
    n, n_positive = test["n"], test.get("n_positive")
    if not n or n_positive is None:
        return {"macro ROC-AUC": 0.5}
    fraction = n_positive / n
    return {
        "ROC-AUC": 0.5,
        "PR-AUC": fraction,
        "accuracy": max(fraction, 1 - fraction),
        "balanced accuracy": 0.5,
        "MCC": 0.0,
    }


@or_a_note
def _prediction_plots(result: TrainResult) -> list[Plot]:
    """Plot predicted over measured values, or ROC and precision-recall curves, of some targets."""
    plots = []
    slices, predictions = output_slices(result.targets), result.predictions
    forest = result.baseline.forest
    for k, target in enumerate(result.targets[:MOST_TARGETS_PLOTTED]):
        predicted, label = predictions.predicted[:, slices[k].start], predictions.labels[:, k]
        is_known = ~np.isnan(label) & (predictions.censoring[:, k] == 0)
        predicted, label = predicted[is_known], label[is_known]
        if target.kind == "regression" and len(label):
            mae = format_number(result.test[target.name]["MAE"])
            title = f"{target.name}: MAE {mae} {target.unit}".strip()
            plots.append(parity_plot(predicted, label, target, title))
        elif target.kind == "binary" and len(np.unique(label)) == 2:
            scores = {"model": predictions.uncalibrated[is_known, slices[k].start]}
            if target.name in forest.test:
                scores["random forest"] = forest.predicted[is_known, slices[k].start]
            plots += _ranking_plots(scores, label, target.name, result.test[target.name])
    return plots


@or_a_note
def parity_plot(
    predicted: Float64[np.ndarray, " m"],
    label: Float64[np.ndarray, " m"],
    target: Target,
    title: str,
    colour: str = BLUE,
) -> Plot:
    """Plot predicted over measured values of one target."""
    unit = in_parentheses(target.unit)
    axes = new_axes(f"measured{unit}", f"predicted{unit}", height=3.6)
    low, high = min(predicted.min(), label.min()), max(predicted.max(), label.max())
    axes.plot([low, high], [low, high], color=GREY, linewidth=1)
    if target.log10:
        axes.set_xscale("log")
        axes.set_yscale("log")
    mean = 10**target.mean if target.log10 else target.mean
    axes.axhline(mean, color=GREY, linewidth=1, linestyle=":")
    scatter(axes, label, predicted, colour)
    caption = (
        f"{len(label):,} test molecules. Perfect predictions lie on the solid line. The dotted "
        "line is the mean of the training labels."
    )
    return finish_plot(axes, title, caption)


@or_a_note
def _ranking_plots(
    scores: Mapping[str, Float64[np.ndarray, " m"]],
    label: Float64[np.ndarray, " m"],
    name: str,
    test: Metrics,
) -> list[Plot]:
    """Plot the ROC curve and the precision-recall curve, which is clearer for rare positives."""
    roc = new_axes("false positive rate", "true positive rate", height=3.6)
    precision_recall = new_axes("recall", "precision", height=3.6)
    fraction = float(label.mean())
    roc.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":")
    precision_recall.plot([0, 1], [fraction] * 2, color=GREY, linewidth=1, linestyle=":")
    for (model, score), colour in zip(scores.items(), (BLUE, ORANGE), strict=False):
        false_positive, true_positive, _ = roc_curve(label, score)
        roc.plot(false_positive, true_positive, color=colour, label=model)
        precision, recall, _ = precision_recall_curve(label, score)
        style = {"color": colour, "label": model, "drawstyle": "steps-post"}
        precision_recall.plot(recall, precision, **style)
    for axes in (roc, precision_recall):
        axes.set_ylim(-0.02, 1.02)
        if len(scores) > 1:
            add_legend(axes, "lower right" if axes is roc else "best")
    positive = f"{int(label.sum()):,} of {len(label):,} test molecules are positive."
    return [
        finish_plot(
            roc,
            f"{name}: ROC-AUC {format_number(test['ROC-AUC'])}",
            f"{positive} The dotted line is a random ranking.",
        ),
        finish_plot(
            precision_recall,
            f"{name}: PR-AUC {format_number(test['PR-AUC'])}",
            f"The dotted line is a random ranking: {fraction:.1%} of all molecules are positive.",
        ),
    ]


@or_a_note
def _training_plots(result: TrainResult) -> list[Plot]:
    """Plot the curves of the first run, and thin curves of all other runs and members."""
    histories = [history.epochs for history in result.histories if history.epochs]
    if not histories:
        return []
    caption = f"The dotted line marks the kept epoch, {result.kept_epoch}."
    if len(histories) > 1:
        config = result.config
        counts = ((config.folds, "folds"), (config.seeds, "seeds"), (config.ensemble, "members"))
        runs = " of ".join(reversed([f"{n} {name}" for n, name in counts if n > 1]))
        caption = (
            f"Thick line: the first of {runs}; the dotted line marks its kept epoch, "
            f"{result.kept_epoch}. Thin lines: the others."
        )
    plots = []
    for name, title in (
        ("training_loss", "training loss"),
        ("validation", validation_metric(result)),
    ):
        axes = new_axes("epoch", "")
        for other in histories[1:]:
            epochs = [epoch["epoch"] for epoch in other]
            axes.plot(epochs, [epoch[name] for epoch in other], color=GREY, linewidth=0.7)
        epochs = [epoch["epoch"] for epoch in histories[0]]
        axes.plot(epochs, [epoch[name] for epoch in histories[0]], color=BLUE, marker=".")
        axes.axvline(result.kept_epoch, color=GREY, linewidth=1, linestyle=":")
        axes.xaxis.get_major_locator().set_params(integer=True)
        plots.append(finish_plot(axes, title, caption))
    return plots


def validation_metric(result: TrainResult) -> str:
    """Name the validation metric of `TrainResult.histories`."""
    defined = {
        name
        for metrics in result.validation.values()
        for name, value in metrics.items()
        if value is not None
    }
    if {"ROC-AUC", "macro ROC-AUC"} & defined:
        return "validation ROC-AUC − RMSE" if "RMSE" in defined else "validation ROC-AUC"
    return "validation RMSE / std" if "RMSE" in defined else "validation loss"


def _is_still_improving(history: Sequence[Mapping[str, int | float]], metric: str) -> bool:
    """Whether the last epoch improved the validation metric by more than 1 %."""
    values = [epoch["validation"] for epoch in history]
    if len(values) < 2:
        return False
    is_higher_better = "ROC-AUC" in metric
    best = max(values[:-1]) if is_higher_better else min(values[:-1])
    improvement = values[-1] - best if is_higher_better else best - values[-1]
    return improvement > _LEAST_IMPROVEMENT * abs(best)
