"""Runs as pages to read: what came in, what was learnt, and how to use it."""

import json
import shlex
from collections import Counter
from csv import DictReader
from dataclasses import fields
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64
from sklearn.metrics import roc_curve

from moleblend import checkpoint
from moleblend.config import to_dict
from moleblend.heads import Target, output_slices
from moleblend.metrics import Metrics
from moleblend.page import (
    BLUE,
    GREEN,
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
from moleblend.recovery import SHOWN
from moleblend.search_page import search_part
from moleblend.sureness_page import pictures, sentence
from moleblend.train import TrainResult

_MOST_PLOTS = 6

_LOG_COLUMNS = ("step", "learning_rate", "loss", "molecules_per_s")

_MOST_STARTS = 3

_FILES = (
    ("model.safetensors", "the model as of the last validation: one file, for train and embed"),
    ("config.json", "what was asked for, the hash of the data, the losses of a constant guess"),
    ("starts.csv", "each start: from which step, when, on what machine, with what code"),
    ("log.csv", "the loss of each view, the learning rate, the speed"),
    ("validation.csv", "how well each view is predicted on held-out molecules"),
    ("state.ckpt", "what --resume goes on from; state.before.ckpt if that is damaged"),
    ("report.html", "this page"),
)

_NAMES = {
    "path_length": "path length",
    "bonds": "bonds on the path",
    "distance": "distance",
    "direction": "direction",
    "denoising": "noise on the positions",
}


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
        f"part. The weights are those of epoch {result.best_epoch} of {len(result.history)}, the "
        "best on validation."
    )
    if config.folds:
        kept = (
            "Each row was tested once, by a model that had not seen it: the figures are means over "
            f"{config.folds} folds. The model file holds the models of all folds, and their mean "
            "has no test of its own."
        )
    elif config.ensemble > 1:
        kept += f" So it is for each of the {config.ensemble} members, of which this is the first."
    command = f"moleblend predict {shlex.quote(str(result.model))} molecules.csv predictions.csv"
    body = [
        f"<p class='lead'>{lead}</p>",
        "<h2>Result</h2>",
        _metrics_table(result),
        f"<p>{kept}</p>",
        plots(_target_plots(result)),
        *_sureness(result),
        "<h2>Learning</h2>",
        plots(_learning_plots(result)),
        *([] if result.search is None else search_part(result.search)),
        "<h2>Data</h2>",
        _data_tables(result),
        "<h2>Use the model</h2>",
        "<p>The model is one file. Every row of the input comes back, with a status.</p>",
        f"<pre>{escape(command)}</pre>",
        "<h2>Settings and choices</h2>",
        settings_table(to_dict(config) | {"choices": result.choices}),
    ]
    return write_page(path, f"Fine-tuning: {names}", body)


def write_pretrain_report(folder: Path, path: Path) -> Path:
    """Write the page of a pretraining run from the csv files in its folder.

    Args:
        folder: of the run, which may still go on.
        path: the page.

    Returns:
        The path.

    Raises:
        FileNotFoundError: the folder has no log or no validation yet.
        ValueError: matplotlib is not installed.
    """
    log = _read_csv(folder / "log.csv")
    told = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    speed = np.array([float(row["molecules_per_s"]) for row in log])
    starts = _starts(folder)
    resumed = [int(start["step"]) for start in starts[1:]]
    lead = (
        f"{escape(told['config']['data'])}; {int(log[-1]['step']):,} of "
        f"{told['config']['schedule']['steps']:,} steps; {np.median(speed):,.0f} molecules/s."
    )
    if resumed:
        lead += f" Resumed at step {', '.join(f'{step:,}' for step in resumed)}."
    plot = axes_of("molecules/s", "step", "")
    plot.plot([int(row["step"]) for row in log], speed, color=GREY)
    plot.set_ylim(bottom=0)
    model = shlex.quote(str(folder / "model.safetensors"))
    command = f"moleblend train assay.csv --target pIC50 --from {model} --out runs/tuned"
    body = [
        f"<p class='lead'>{lead}</p>",
        "<h2>What was learnt, on held-out molecules</h2>",
        validation_table(folder),
        plots(validation_plots(folder)),
        "<h2>Loss per view</h2>",
        plots(loss_plots(folder)),
        "<h2>Speed</h2>",
        plots([picture(plot, f"Training alone; the median is {np.median(speed):,.0f}.")]),
        "<h2>Use the model</h2>",
        "<p>It is a start for molecules measured by you:</p>",
        f"<pre>{escape(command)}</pre>",
        "<h2>How it was made</h2>",
        _starts_table(starts, told.get("data_fingerprint", "")),
        settings_table(told["config"]),
        "<h2>What is in the folder</h2>",
        table(("file", "what"), _FILES, style="words"),
    ]
    return write_page(path, "Pretraining by blending", body)


def _starts(folder: Path) -> list[dict[str, str]]:
    """The starts of a run; none where it began before they were noted."""
    path = folder / "starts.csv"
    return _read_csv(path) if path.is_file() else []


def _starts_table(starts: list[dict[str, str]], fingerprint: str) -> str:
    """What the run was made with: a column for each start, the last few of many."""
    if not starts:
        return ""
    last = starts[-_MOST_STARTS:]
    head = ["", *(f"from step {int(start['step']):,}" for start in last)]
    rows = [(name, *(start[name] for start in last)) for name in last[0] if name != "step"]
    note = "Data: the first 16 digits of the hash of all molecules."
    if len(starts) > len(last):
        note += f" Of {len(starts)} starts the last {len(last)} are shown; starts.csv has all."
    return table(head, [("data", *[fingerprint[:16]] * len(last)), *rows], note, style="words")


def _mark_starts(axes: Any, folder: Path) -> None:  # noqa: ANN401 (a matplotlib Axes)
    """Mark the steps from which the run was resumed."""
    for k, start in enumerate(_starts(folder)[1:]):
        label = None if k else "resumed"
        axes.axvline(int(start["step"]), color=GREY, linewidth=0.8, linestyle="--", label=label)


def _metrics_table(result: TrainResult) -> str:
    rows = []
    for target in result.targets:
        name = f"{target.name} ({target.unit})" if target.unit else target.name
        test = result.test[target.name]
        constant = _constant_answer(test, result.trivial.get(target.name))
        for metric, value in test.items():
            if metric in ("n", "n_positive", "n_bounds"):
                continue
            found = number(result.validation[target.name].get(metric))
            told = number(constant[metric]) if metric in constant else "–"
            row = [name, metric, found, number(value), told, number(test["n"])]
            if result.spread:
                figure = result.spread["test"][target.name][metric]
                row.insert(4, f"{number(figure['mean'])} ± {number(figure['sd'])}")
            rows.append(row)
    head = ["target", "metric", "validation", "test", "constant answer, test", "labels, test"]
    note = (
        "The constant answer is the mean of the training labels, or for classes the same "
        "probability for every molecule."
    )
    if result.spread:
        over = f"{len(result.runs)} {'folds' if result.config.folds else 'seeds'}"
        head.insert(4, f"test, mean ± sd over {over}")
    return table(head, rows, note)


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
    """One plot for each of the first targets: predicted over measured, or the ROC curve."""
    pictures = []
    slices = output_slices(result.targets)
    for k, target in enumerate(result.targets[:_MOST_PLOTS]):
        predicted, label = result.predicted[:, slices[k].start], result.labels[:, k]
        is_known = ~np.isnan(label)
        if result.bounds is not None:
            is_known &= result.bounds[:, k] == 0
        predicted, label = predicted[is_known], label[is_known]
        if target.kind == "regression" and len(label):
            told = f"{target.name}: MAE {number(result.test[target.name]['MAE'])} {target.unit}"
            pictures.append(parity_picture(predicted, label, target, told))
        elif target.kind == "binary" and len(np.unique(label)) == 2:
            ranked = result.predicted if result.raw is None else result.raw
            ranked = ranked[is_known, slices[k].start]
            pictures.append(_roc_picture(ranked, label, result, target))
    return pictures


def _sureness(result: TrainResult) -> list[str]:
    """What is known of how sure predictions are, and what that was worth on test."""
    notes = result.choices.get("sureness", {}).get("notes", [])
    told = [f"<p>{escape(note)}.</p>" for note in notes]
    drawn = []
    for target in result.targets[:_MOST_PLOTS]:
        worth = result.worth.get("test", {}).get(target.name)
        if worth is not None:
            classes = result.sureness.classes.get(target.name)
            told.append(sentence(target, worth, classes.probability if classes else None))
            drawn += pictures(target, worth)
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


def _roc_picture(
    probability: Float64[np.ndarray, " m"],
    label: Float64[np.ndarray, " m"],
    result: TrainResult,
    target: Target,
) -> str:
    told = f"{target.name}: ROC-AUC {number(result.test[target.name]['ROC-AUC'])}"
    plot = axes_of(told, "false positive rate", "true positive rate", height=3.2)
    false_positive, true_positive, _ = roc_curve(label, probability)
    plot.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":")
    plot.plot(false_positive, true_positive, color=BLUE)
    positive = f"{int(label.sum()):,} of {len(label):,} test molecules are positive."
    return picture(plot, f"{positive} The dotted line is guessing.")


def _learning_plots(result: TrainResult) -> list[str]:
    epochs = [epoch["epoch"] for epoch in result.history]
    pictures = []
    for name, title in (("training_loss", "training loss"), ("validation", figure_name(result))):
        plot = axes_of(title, "epoch", "")
        plot.plot(epochs, [epoch[name] for epoch in result.history], color=BLUE, marker=".")
        plot.axvline(result.best_epoch, color=GREY, linewidth=1, linestyle=":")
        pictures.append(
            picture(plot, f"The dotted line is epoch {result.best_epoch}, which was kept.")
        )
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


def _data_tables(result: TrainResult) -> str:
    counts = Counter(row.status for row in result.rows)
    reasons: dict[str, list[str]] = {}
    for k, row in enumerate(result.rows):
        if row.reason:
            reasons.setdefault(row.status, []).append(f"row {k + 1}: {row.reason}")
    statuses = [
        (status, f"{count:,}", "; ".join(reasons.get(status, [])[:3]))
        for status, count in counts.most_common()
    ]
    sizes = {part.name: len(getattr(result.parts, part.name)) for part in fields(result.parts)}
    parts = [(name, f"{size:,}") for name, size in sizes.items()]
    return (
        f"<p>{len(result.rows):,} rows, {sum(sizes.values()):,} of them usable. <code>rows.csv"
        "</code> in the run folder says what became of each.</p>"
        + table(("status", "rows", "first reasons"), statuses, style="words")
        + table(("part", "molecules"), parts)
    )


def validation_table(folder: Path) -> str:
    """The last validation: views by how they were shown."""
    scores = _read_csv(folder / "validation.csv")
    last = {(row["view"], row["shown"]): row for row in scores if row["step"] == scores[-1]["step"]}
    rows = []
    for view in dict.fromkeys(view for view, _ in last):
        cells = []
        for shown in SHOWN:
            score = last.get((view, shown))
            cells.append(_score_cell(score) if score else "–")
        metric = last[view, next(shown for v, shown in last if v == view)]["metric"]
        unit = "MAE, Å" if metric == "MAE" else metric
        rows.append((f"{_NAMES[view]}<small>{unit}</small>", *cells))
    note = (
        "Visible: the pair showed this view. Hidden: it showed another one. Modality hidden: the "
        "molecule showed nothing of its kind (distances from 2D alone, bonds from 3D alone). "
        "Small: what a table gives that looks the answer up by how the same pair is related in the "
        "other modality, made on these very pairs. Accuracy: higher is better; MAE: lower is."
    )
    return table(("view", *SHOWN), rows, note, is_html=True)


def _score_cell(score: dict[str, str]) -> str:
    trivial = f"<small>look-up {number(score['trivial'])}</small>" if score["trivial"] else ""
    return f"{number(score['value'])}{trivial}"


def validation_plots(folder: Path) -> list[str]:
    """Draw how well each view is predicted over the steps of a run."""
    scores = _read_csv(folder / "validation.csv")
    pictures = []
    for view in dict.fromkeys(row["view"] for row in scores):
        chosen = [row for row in scores if row["view"] == view]
        unit = "MAE (Å)" if chosen[0]["metric"] == "MAE" else chosen[0]["metric"]
        plot = axes_of(f"{_NAMES[view]}: {unit}", "step", "")
        for shown, colour in zip(SHOWN, (BLUE, ORANGE, GREEN), strict=True):
            line = [row for row in chosen if row["shown"] == shown]
            steps, values = [int(row["step"]) for row in line], [float(r["value"]) for r in line]
            plot.plot(steps, values, color=colour, marker=".", label=shown)
        if chosen[0]["trivial"]:
            label = "look-up"
            plot.axhline(float(chosen[0]["trivial"]), color=GREY, linestyle=":", label=label)
        _mark_starts(plot, folder)
        plot.legend(frameon=False, fontsize=8)
        pictures.append(picture(plot, "On held-out molecules."))
    return pictures


def loss_plots(folder: Path) -> list[str]:
    """Draw the loss of each view over the steps of a run, and the learning rate."""
    log = _read_csv(folder / "log.csv")
    told = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    constant = told.get("constant_losses", {})
    steps = [int(row["step"]) for row in log]
    pictures = []
    for name in log[0]:
        if name not in _LOG_COLUMNS:
            plot = axes_of(f"loss: {_NAMES.get(name, name)}", "step", "")
            plot.plot(steps, [float(row[name]) for row in log], color=BLUE)
            about = f"At the end {number(log[-1][name])}"
            if name in constant:
                plot.axhline(constant[name], color=GREY, linestyle=":", label="constant guess")
                about += f"; the best constant guess has {number(constant[name])}"
            _mark_starts(plot, folder)
            if plot.get_legend_handles_labels()[1]:
                plot.legend(frameon=False, fontsize=8)
            pictures.append(picture(plot, f"{about}."))
    plot = axes_of("learning rate", "step", "")
    plot.plot(steps, [float(row["learning_rate"]) for row in log], color=ORANGE)
    plot.ticklabel_format(axis="y", scilimits=(-2, 3))
    _mark_starts(plot, folder)
    return [*pictures, picture(plot, "It rises, and falls along a cosine.")]


def _read_csv(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file, so the run has nothing to report")
    with path.open(newline="", encoding="utf-8") as file:
        return list(DictReader(file))
