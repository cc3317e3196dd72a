"""A fine-tuning run as a page to read: what came in, what was learnt, and how to use it."""

from html import escape
from pathlib import Path

import numpy as np
from jaxtyping import Float64
from sklearn.metrics import precision_recall_curve, roc_curve

from moleblend.config import to_dict
from moleblend.data.targets import Target, output_slices
from moleblend.evaluation.baseline import describe_forest
from moleblend.evaluation.comparison import summarise
from moleblend.evaluation.metrics import Metrics
from moleblend.finetuning.train import TrainResult
from moleblend.model import checkpoint
from moleblend.reports.data_section import data_part
from moleblend.reports.error_analysis_section import mistakes_part
from moleblend.reports.html_page import (
    BLUE,
    GREY,
    ORANGE,
    axes_of,
    number,
    picture,
    plots,
    settings_table,
    table,
    write_page,
)
from moleblend.reports.search_section import search_part
from moleblend.reports.uncertainty_section import pictures, sentence
from moleblend.reports.usage_section import usage_part

_MOST_PLOTS = 6


def write_train_report(result: TrainResult, path: Path) -> Path:
    """Write the page of a fine-tuning run.

    Args:
        result: of `train.train`; its model file is there already.
        path: the page.

    Returns:
        The path.

    Raises:
        ValueError: matplotlib is not installed.
    """
    config = result.config
    names = ", ".join(target.name for target in result.targets)
    views = checkpoint.read_card(result.model).views
    start = (
        "random weights" if config.source == "scratch" else f"<code>{escape(config.source)}</code>"
    )
    lead = (
        f"{escape(config.data)}; started from {start}; views: {views}; "
        f"split: {escape(config.split)}."
    )
    kept = (
        "This run read the test part once, after every choice had been made on the validation "
        f"part. The weights are those of epoch {result.kept_epoch} of {len(result.history)}, the "
        f"{'best on validation' if config.patience else 'last'}."
    )
    if config.folds:
        kept = (
            "Each row was tested once, by a model that had not seen it: the figures are means over "
            f"{config.folds} folds. The model file holds the models of all folds, and their mean "
            "has no test of its own."
        )
    elif config.ensemble > 1:
        kept += f" So it is for each of the {config.ensemble} members, of which this is the first."
    body = [
        f"<p class='lead'>{lead}</p>",
        "<h2>Result</h2>",
        _metrics_table(result),
        f"<p>{kept}</p>",
        *_forest(result),
        plots(_target_plots(result)),
        *_sureness(result),
        *mistakes_part(result),
        "<h2>Learning</h2>",
        plots(_learning_plots(result)),
        *([] if result.search is None else search_part(result.search)),
        *data_part(result),
        *usage_part(result),
        "<h2>Settings and choices</h2>",
        settings_table(to_dict(config) | {"choices": result.choices}),
    ]
    return write_page(path, f"Fine-tuning: {names}", body)


def _metrics_table(result: TrainResult) -> str:
    rows = []
    for target in result.targets:
        is_named = target.unit in target.name  # also where there is no unit
        name = target.name if is_named else f"{target.name} ({target.unit})"
        test = result.test[target.name]
        constant = _constant_answer(test, result.trivial.get(target.name))
        for metric, value in test.items():
            if metric in ("n", "n_positive", "n_censored"):
                continue
            found = number(result.validation[target.name].get(metric))
            told = number(constant[metric]) if metric in constant else "–"
            row = [name, metric, found, number(value)]
            if result.spread:
                figure = result.spread["test"][target.name][metric]
                row.append(f"{number(figure['mean'])} ± {number(figure['sd'])}")
            if result.baseline.test:
                forest = result.baseline.test.get(target.name, {})
                row.append(number(forest[metric]) if metric in forest else "–")
            n_labels = test["n_censored" if metric == "censored labels respected" else "n"]
            rows.append([*row, told, number(n_labels)])
    head = ["target", "metric", "validation", "test"]
    note = (
        "The constant answer is the mean of the training labels, or for classes the same "
        "probability for every molecule."
    )
    if result.spread:
        over = f"{len(result.runs)} {'folds' if result.config.folds else 'seeds'}"
        head.append(f"test, mean ± sd over {over}")
    if result.baseline.test:
        head.append("random forest, test")
        note += f" The random forest has {result.baseline.n_trees} trees on the counts of ECFP4."
    return table([*head, "constant answer, test", "labels, test"], rows, note)


def _forest(result: TrainResult) -> list[str]:
    """Say whether the model is better than a random forest, and what that was told."""
    if not result.config.forest:
        return []
    told = []
    for verdict in summarise(result.comparisons):
        style = " class='warning'" if verdict.is_baseline_better else ""
        told.append(f"<p{style}>{_sentence(verdict.text)}</p>")
    about = [result.forest_note] if result.forest_note else []
    about += [
        f"{name}: no forest, since {why}" for name, why in result.baseline.not_trained.items()
    ]
    if result.baseline.test:
        about.append(describe_forest(result.targets, result.baseline).removesuffix("."))
    return [*told, *(f"<p>{_sentence(text)}</p>" for text in about)]


def _sentence(text: str) -> str:
    """Begin large, end with a full stop; a name at the beginning stays as it is."""
    return escape(text if ": " in text else text[0].upper() + text[1:]) + "."


def _constant_answer(test: Metrics, trivial: Metrics | None) -> Metrics:
    if trivial is not None:
        return trivial
    n, n_positive = test["n"], test.get("n_positive")
    if not n or n_positive is None:
        return {"macro ROC-AUC": 0.5}
    share = n_positive / n
    found: Metrics = {"ROC-AUC": 0.5, "PR-AUC": share, "accuracy": max(share, 1 - share)}
    return found | {"balanced accuracy": 0.5, "MCC": 0.0}


def _target_plots(result: TrainResult) -> list[str]:
    """Draw each of the first targets: predicted over measured, or how well classes are ranked."""
    pictures = []
    slices = output_slices(result.targets)
    for k, target in enumerate(result.targets[:_MOST_PLOTS]):
        predicted, label = result.predicted[:, slices[k].start], result.labels[:, k]
        is_known = ~np.isnan(label)
        if result.censoring is not None:
            is_known &= result.censoring[:, k] == 0
        predicted, label = predicted[is_known], label[is_known]
        if target.kind == "regression" and len(label):
            told = f"{target.name}: MAE {number(result.test[target.name]['MAE'])} {target.unit}"
            pictures.append(parity_picture(predicted, label, target, told))
        elif target.kind == "binary" and len(np.unique(label)) == 2:
            ranked = result.predicted if result.raw is None else result.raw
            ranked = ranked[is_known, slices[k].start]
            curves = {"model": ranked}
            if target.name in result.baseline.test:
                curves["random forest"] = result.baseline.predicted[is_known, slices[k].start]
            pictures += _rank_pictures(curves, label, result, target)
    return pictures


def _sureness(result: TrainResult) -> list[str]:
    """What is known of how sure predictions are, and what that was worth on test."""
    notes = result.choices.get("sureness", {}).get("notes", [])
    told = [f"<p>{escape(note)}.</p>" for note in notes]
    drawn = []
    for target in result.targets[:_MOST_PLOTS]:
        uncertainty_metrics = result.uncertainty_metrics.get("test", {}).get(target.name)
        if uncertainty_metrics is not None:
            classes = result.uncertainty.classes.get(target.name)
            told.append(
                sentence(target, uncertainty_metrics, classes.probability if classes else None)
            )
            drawn += pictures(target, uncertainty_metrics)
    return ["<h2>How sure it is</h2>", *told, plots(drawn)] if told else []


def parity_picture(
    predicted: Float64[np.ndarray, " m"],
    label: Float64[np.ndarray, " m"],
    target: Target,
    told: str,
    colour: str = BLUE,
) -> str:
    """Draw predicted over measured values of one target."""
    unit = f" ({target.unit})" if target.unit else ""
    plot = axes_of(told, f"measured{unit}", f"predicted{unit}", height=3.2)
    low, high = min(predicted.min(), label.min()), max(predicted.max(), label.max())
    plot.plot([low, high], [low, high], color=GREY, linewidth=1)
    if target.log10:
        plot.set_xscale("log")
        plot.set_yscale("log")
    mean = 10**target.mean if target.log10 else target.mean
    plot.axhline(mean, color=GREY, linewidth=1, linestyle=":")
    plot.scatter(label, predicted, s=9, color=colour, alpha=0.5, linewidths=0)
    return picture(
        plot,
        f"{len(label):,} test molecules. On the line the prediction is right; the dotted line is "
        "the mean of the training labels.",
    )


def _rank_pictures(
    scores: dict[str, Float64[np.ndarray, " m"]],
    label: Float64[np.ndarray, " m"],
    result: TrainResult,
    target: Target,
) -> list[str]:
    """Draw the ROC curve, and precision over recall, which shows more where positives are rare."""
    test = result.test[target.name]
    roc = axes_of(
        f"{target.name}: ROC-AUC {number(test['ROC-AUC'])}",
        "false positive rate",
        "true positive rate",
        height=3.2,
    )
    precise = axes_of(
        f"{target.name}: PR-AUC {number(test['PR-AUC'])}",
        "recall (share of the positives found)",
        "precision (share of the found that is positive)",
        height=3.2,
    )
    share = float(label.mean())
    roc.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":")
    precise.plot([0, 1], [share, share], color=GREY, linewidth=1, linestyle=":")
    for (name, score), colour in zip(scores.items(), (BLUE, ORANGE), strict=False):
        false_positive, true_positive, _ = roc_curve(label, score)
        roc.plot(false_positive, true_positive, color=colour, label=name)
        precision, recall, _ = precision_recall_curve(label, score)
        precise.plot(recall, precision, color=colour, label=name, drawstyle="steps-post")
    for plot in (roc, precise):
        plot.set_ylim(-0.02, 1.02)
        if len(scores) > 1:
            plot.legend(frameon=False, fontsize=8, loc="lower right" if plot is roc else "best")
    positive = f"{int(label.sum()):,} of {len(label):,} test molecules are positive."
    return [
        picture(roc, f"{positive} The dotted line is guessing."),
        picture(precise, f"The dotted line is guessing: {share:.1%} of all are positive."),
    ]


def _learning_plots(result: TrainResult) -> list[str]:
    """Draw the curves of the run that is kept, and thin ones of all other runs and members."""
    histories = [history for run in result.runs for history in run.histories] or [result.history]
    about = f"The dotted line is epoch {result.kept_epoch}, which was kept."
    if len(histories) > 1:
        many = [
            f"{n} {name}"
            for n, name in (
                (result.config.folds, "folds"),
                (result.config.seeds, "seeds"),
                (result.config.ensemble, "members"),
            )
            if n > 1
        ]
        about = (
            f"Thick: the first of {' of '.join(reversed(many))}, with its epoch that was kept "
            f"(dotted, {result.kept_epoch}). Thin: the others."
        )
    pictures = []
    for name, title in (("training_loss", "training loss"), ("validation", figure_name(result))):
        plot = axes_of(title, "epoch", "")
        for other in histories[1:]:
            epochs = [epoch["epoch"] for epoch in other]
            plot.plot(epochs, [epoch[name] for epoch in other], color=GREY, linewidth=0.7)
        epochs = [epoch["epoch"] for epoch in histories[0]]
        plot.plot(epochs, [epoch[name] for epoch in histories[0]], color=BLUE, marker=".")
        plot.axvline(result.kept_epoch, color=GREY, linewidth=1, linestyle=":")
        plot.xaxis.get_major_locator().set_params(integer=True)
        pictures.append(picture(plot, about))
    return pictures


def figure_name(result: TrainResult) -> str:
    """What `TrainResult.history` holds as the validation figure."""
    defined = {
        name
        for metrics in result.validation.values()
        for name, value in metrics.items()
        if value is not None
    }
    if {"ROC-AUC", "macro ROC-AUC"} & defined:
        return "validation ROC-AUC − RMSE" if "RMSE" in defined else "validation ROC-AUC"
    return "validation RMSE / deviation" if "RMSE" in defined else "validation loss"
