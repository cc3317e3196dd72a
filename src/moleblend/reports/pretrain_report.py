"""Report of a pretraining run: validation, losses, speed and provenance."""

import json
import shlex
from csv import DictReader
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moleblend.errors import MissingFileError
from moleblend.pretraining.validation import SHOWN_AS, Score, metric_label, read_validations
from moleblend.reports.html_page import Table, flat_settings, format_number, write_page
from moleblend.reports.plots import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    Plot,
    add_legend,
    finish_plot,
    new_axes,
    or_a_note,
)

_LOG_COLUMNS = ("step", "learning_rate", "loss", "molecules_per_s")

_MOST_STARTS = 3

_VIEW_NAMES = {
    "path_length": "path length",
    "bonds": "bonds on the path",
    "distance": "distance",
    "direction": "direction",
    "denoising": "noise on the positions",
    "descriptors": "molecular descriptors",
}


@dataclass(frozen=True)
class ScoreCell:
    """A validation score; texts are empty where there is none."""

    value: str = ""
    lookup: str = ""


@dataclass(frozen=True)
class ScoreRow:
    """Validation scores of one view.

    Attributes:
        view: its name.
        metric: with its unit.
        cells: for each of `SHOWN_AS`.
    """

    view: str
    metric: str
    cells: list[ScoreCell]


@dataclass(frozen=True)
class Validation:
    """The last validation of a run, and all of them as plots.

    Attributes:
        head: how a view was shown.
        rows: one for each view.
        plots: scores over steps.
    """

    head: tuple[str, ...]
    rows: list[ScoreRow]
    plots: list[Plot]


def write_pretrain_report(folder: Path, path: Path) -> Path:
    """Write the report of a pretraining run from the files in its folder.

    Args:
        folder: of the run, which may still be going on.
        path: of the report.

    Returns:
        The path.

    Raises:
        MissingFileError: the folder has no log or no validation yet.
        SettingError: matplotlib is not installed.
    """
    log, record = _read_csv(folder / "log.csv"), _read_record(folder)
    speed = np.array([float(row["molecules_per_s"]) for row in log])
    starts = _starts(folder)
    model = shlex.quote(str(folder / "model.safetensors"))
    return write_page(
        path,
        "pretrain_report.html",
        title="Pretraining report",
        data=record["config"]["data"],
        n_steps=int(log[-1]["step"]),
        n_steps_planned=record["config"]["schedule"]["steps"],
        speed=float(np.median(speed)),
        resumed_at=[int(start["step"]) for start in starts[1:]],
        validation=read_validation(folder),
        loss_plots=loss_plots(folder),
        speed_plot=_speed_plot(log, speed),
        command=f"moleblend train assay.csv --target pIC50 --from {model} --out runs/tuned",
        starts=_starts_table(starts, record.get("data_fingerprint", "")),
        n_starts=len(starts),
        settings=flat_settings(record["config"]),
    )


@or_a_note
def _speed_plot(log: list[dict[str, str]], speed: np.ndarray) -> Plot:
    axes = new_axes("step", "molecules/s")
    axes.plot([int(row["step"]) for row in log], speed, color=GREY)
    axes.set_ylim(bottom=0)
    caption = f"Training steps only, without validation. Median: {np.median(speed):,.0f}."
    return finish_plot(axes, "molecules/s", caption)


def _read_record(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


def _starts(folder: Path) -> list[dict[str, str]]:
    """Read the starts of a run; none of an old run folder without this file."""
    path = folder / "starts.csv"
    return _read_csv(path) if path.is_file() else []


def _starts_table(starts: list[dict[str, str]], fingerprint: str) -> Table | None:
    """List the machine and code of the last starts, one column each."""
    if not starts:
        return None
    last = starts[-_MOST_STARTS:]
    head = ["", *(f"from step {int(start['step']):,}" for start in last)]
    rows = [(name, *(start[name] for start in last)) for name in last[0] if name != "step"]
    note = "data: the first 16 digits of the hash of all molecules."
    if len(starts) > len(last):
        note += f" The last {len(last)} of {len(starts)} starts; starts.csv lists all."
    return Table(head, [("data", *[fingerprint[:16]] * len(last)), *rows], note, is_text=True)


def _mark_starts(axes: Any, folder: Path) -> None:  # noqa: ANN401 (a matplotlib Axes)
    """Mark the steps from which the run was resumed."""
    for k, start in enumerate(_starts(folder)[1:]):
        label = None if k else "resumed"
        axes.axvline(int(start["step"]), color=GREY, linewidth=0.8, linestyle="--", label=label)


def read_validation(folder: Path) -> Validation:
    """Read the validation scores of a run folder.

    Raises:
        MissingFileError: the folder has none.
    """
    validations = read_validations(folder / "validation.csv")
    last = {(score.view, score.shown): score for score in validations[max(validations)]}
    rows = []
    for view in dict.fromkeys(view for view, _ in last):
        cells = [_score_cell(last.get((view, shown))) for shown in SHOWN_AS]
        metric = next(score.metric for (other, _), score in last.items() if other == view)
        rows.append(ScoreRow(_VIEW_NAMES[view], metric_label(metric), cells))
    return Validation(SHOWN_AS, rows, _validation_plots(validations, folder))


def _score_cell(score: Score | None) -> ScoreCell:
    if score is None:
        return ScoreCell()
    lookup = score.lookup_baseline
    return ScoreCell(format_number(score.value), "" if lookup is None else format_number(lookup))


@or_a_note
def _validation_plots(validations: dict[int, list[Score]], folder: Path) -> list[Plot]:
    """Plot the validation score of each view over the steps."""
    plots = []
    for view in dict.fromkeys(score.view for scores in validations.values() for score in scores):
        chosen = [
            (step, score)
            for step, scores in validations.items()
            for score in scores
            if score.view == view
        ]
        _, first = chosen[0]
        metric = metric_label(first.metric)
        axes = new_axes("step", metric)
        for shown, colour in zip(SHOWN_AS, (BLUE, ORANGE, GREEN), strict=True):
            line = [(step, score.value) for step, score in chosen if score.shown == shown]
            steps, values = [step for step, _ in line], [value for _, value in line]
            axes.plot(steps, values, color=colour, marker=".", label=shown)
        if first.lookup_baseline is not None:
            axes.axhline(first.lookup_baseline, color=GREY, linestyle=":", label="lookup baseline")
        _mark_starts(axes, folder)
        add_legend(axes)
        plots.append(finish_plot(axes, f"{_VIEW_NAMES[view]}: {metric}", "Held-out molecules."))
    return plots


@or_a_note
def loss_plots(folder: Path) -> list[Plot]:
    """Plot the loss of each view and the learning rate over the steps of a run."""
    log = _read_csv(folder / "log.csv")
    constant = _read_record(folder).get("constant_losses", {})
    steps = [int(row["step"]) for row in log]
    plots = []
    for name in log[0]:
        if name in _LOG_COLUMNS:
            continue
        axes = new_axes("step", "loss")
        axes.plot(steps, [float(row[name]) for row in log], color=BLUE)
        caption = f"Last value: {format_number(log[-1][name])}."
        if name in constant:
            axes.axhline(constant[name], color=GREY, linestyle=":", label="constant baseline")
            caption += f" Best constant prediction: {format_number(constant[name])}."
        _mark_starts(axes, folder)
        if axes.get_legend_handles_labels()[1]:
            add_legend(axes)
        plots.append(finish_plot(axes, f"loss: {_VIEW_NAMES.get(name, name)}", caption))
    axes = new_axes("step", "learning rate")
    axes.plot(steps, [float(row["learning_rate"]) for row in log], color=ORANGE)
    axes.ticklabel_format(axis="y", scilimits=(-2, 3))
    _mark_starts(axes, folder)
    return [*plots, finish_plot(axes, "learning rate", "Linear warm-up, then cosine decay.")]


def _read_csv(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        raise MissingFileError(
            f"{path}: no such file; a report needs the log and the validation of the run"
        )
    with path.open(newline="", encoding="utf-8") as file:
        return list(DictReader(file))
