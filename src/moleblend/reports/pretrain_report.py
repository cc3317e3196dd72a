"""A pretraining run as a page to read: what was learnt, how fast, and how it was made."""

import json
import shlex
from csv import DictReader
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from moleblend.pretraining.validation import (
    SHOWN_AS,
    Score,
    metric_label,
    read_scores,
    read_validations,
)
from moleblend.reports.html_page import (
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
    "descriptors": "descriptors of the molecule",
}


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


def validation_table(folder: Path) -> str:
    """The last validation: views by how they were shown."""
    scores = {(score.view, score.shown): score for score in read_scores(folder)}
    rows = []
    for view in dict.fromkeys(view for view, _ in scores):
        cells = [_score_html(scores.get((view, shown))) for shown in SHOWN_AS]
        metric = next(score.metric for (other, _), score in scores.items() if other == view)
        rows.append((f"{_NAMES[view]}<small>{metric_label(metric)}</small>", *cells))
    note = (
        "Visible: the pair showed this view. Hidden: it showed another one. Modality hidden: the "
        "molecule showed nothing of its kind (distances from 2D alone, bonds from 3D alone). "
        "Small: what a table gives that looks the answer up by how the same pair is related in the "
        "other modality, made on these very pairs. Accuracy: higher is better; MAE: lower is. "
        "Descriptors: of molecules shown wholly in 2D, blended, wholly in 3D."
    )
    return table(("view", *SHOWN_AS), rows, note, is_html=True)


def _score_html(score: Score | None) -> str:
    if score is None:
        return "–"
    if score.lookup_baseline is None:
        return number(score.value)
    return f"{number(score.value)}<small>lookup baseline {number(score.lookup_baseline)}</small>"


def validation_plots(folder: Path) -> list[str]:
    """Plot the scores of each view over the steps of a run."""
    validations = read_validations(folder / "validation.csv")
    pictures = []
    for view in dict.fromkeys(score.view for scores in validations.values() for score in scores):
        chosen = [
            (step, score)
            for step, scores in validations.items()
            for score in scores
            if score.view == view
        ]
        _, first = chosen[0]
        plot = axes_of(f"{_NAMES[view]}: {metric_label(first.metric)}", "step", "")
        for shown, colour in zip(SHOWN_AS, (BLUE, ORANGE, GREEN), strict=True):
            line = [(step, score.value) for step, score in chosen if score.shown == shown]
            steps, values = [step for step, _ in line], [value for _, value in line]
            plot.plot(steps, values, color=colour, marker=".", label=shown)
        if first.lookup_baseline is not None:
            plot.axhline(first.lookup_baseline, color=GREY, linestyle=":", label="lookup baseline")
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
