"""Data section of a training report: rows, sets, labels and duplicate molecules."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from moleblend.data.duplicates import Duplicates
from moleblend.data.splits import Split
from moleblend.data.targets import Target, class_names
from moleblend.finetuning.resolved_settings import ResolvedSettings, TargetSettings
from moleblend.prediction.inputs import Row
from moleblend.reports.html_page import Table, in_parentheses
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

_MOST_REASONS = 3
_COLOURS = {"train": GREY, "validation": ORANGE, "test": BLUE}


@dataclass(frozen=True)
class DataSection:
    """What a run read.

    Attributes:
        n_rows: of the file.
        n_usable: in one of the sets.
        statuses: number of rows for each status, with the first reasons.
        sets: number of molecules in each set.
        n_folds: 0 without cross-validation.
        duplicates: sentences about molecules in several rows.
        labels: cells of each target; None where they are not known.
        classes: number of labels of each class in each set; None without a classification target.
        plots: histograms of the labels of regression targets.
    """

    n_rows: int
    n_usable: int
    statuses: Table
    sets: Table
    n_folds: int
    duplicates: list[str]
    labels: Table | None
    classes: Table | None
    plots: list[Plot]


def data_section(
    rows: Sequence[Row],
    split: Split,
    targets: Sequence[Target],
    measured: np.ndarray,
    settings: ResolvedSettings,
    duplicates: Duplicates,
) -> DataSection:
    """Summarise rows, sets, labels and duplicates.

    Args:
        rows: status and reason of every row of the file.
        split: rows of each set; with folds all rows are test rows.
        targets: of the model.
        measured: labels of every row, one column for each target.
        settings: of the run, see `resolve_settings`.
        duplicates: molecules that are in several rows.
    """
    reasons: dict[str, list[str]] = {}
    for k, row in enumerate(rows):
        if row.reason:
            reasons.setdefault(row.status, []).append(f"row {k + 1}: {row.reason}")
    statuses = [
        (status, f"{count:,}", "; ".join(reasons.get(status, [])[:_MOST_REASONS]))
        for status, count in Counter(row.status for row in rows).most_common()
    ]
    sets = _rows_of_sets(split)
    labels = classes = None
    plots: list[Plot] = []
    if settings.targets:
        labels = _label_table(targets, settings.targets, len(rows))
        known = [_labels_of_sets(measured[:, k], sets) for k in range(len(targets))]
        classes = _class_table(targets, known, list(sets))
        plots = [
            _histogram(target, known[k])
            for k, target in enumerate(targets[:MOST_TARGETS_PLOTTED])
            if target.kind == "regression"
        ]
    return DataSection(
        n_rows=len(rows),
        n_usable=sum(map(len, sets.values())),
        statuses=Table(("status", "rows", "first reasons"), statuses, is_text=True),
        sets=Table(("set", "molecules"), [(name, f"{len(one):,}") for name, one in sets.items()]),
        n_folds=settings.folds,
        duplicates=duplicates.sentences(),
        labels=labels,
        classes=classes,
        plots=plots,
    )


def _rows_of_sets(split: Split) -> dict[str, np.ndarray]:
    """Rows of each set that is not empty."""
    return {name: rows for name, rows in split.sets().items() if len(rows)}


def _labels_of_sets(column: np.ndarray, sets: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Labels of one target in each set, without the missing ones."""
    labels = {name: column[rows] for name, rows in sets.items()}
    return {name: values[~np.isnan(values)] for name, values in labels.items()}


def _label_table(
    targets: Sequence[Target], counts: Mapping[str, TargetSettings], n_rows: int
) -> Table:
    rows = []
    for target in targets:
        count = counts[target.name]
        n_labels, n_bad = count.n_labels, count.n_bad_cells
        cells = (n_labels, count.n_censored, n_rows - n_labels - n_bad, n_bad)
        rows.append([target.name, target.kind, *(f"{n:,}" for n in cells)])
    return Table(("target", "task", "labels", "censored", "missing", "unreadable cells"), rows)


def _class_table(
    targets: Sequence[Target], known: Sequence[dict[str, np.ndarray]], sets: list[str]
) -> Table | None:
    """Count each class in each set, with its fraction of the set's labels."""
    rows = []
    for target, labels in list(zip(targets, known, strict=True))[:MOST_TARGETS_PLOTTED]:
        if target.kind == "regression":
            continue
        for number, name in enumerate(class_names(target)):
            cells = []
            for values in labels.values():
                n = int((values == number).sum())
                cells.append(f"{n:,} ({n / len(values):.1%})" if len(values) else "–")
            rows.append([target.name, name, *cells])
    return Table(("target", "class", *sets), rows) if rows else None


@or_a_note
def _histogram(target: Target, labels: dict[str, np.ndarray]) -> Plot:
    """Draw the fraction of each set's labels in bins that the sets have in common."""
    values = np.concatenate(list(labels.values()))
    values = np.log10(values) if target.log10 else values
    edges = np.histogram_bin_edges(values, bins=min(20, max(5, len(values) // 20)))
    edges = 10**edges if target.log10 else edges
    axes = new_axes(f"measured{in_parentheses(target.unit)}", "fraction of the set")
    counts = []
    for name, values in labels.items():
        if not len(values):
            continue
        fraction = np.histogram(values, edges)[0] / len(values)
        is_filled = name == "train"
        style = {"fill": is_filled, "alpha": 0.5 if is_filled else 1, "linewidth": 1.3}
        axes.stairs(fraction, edges, color=_COLOURS[name], label=name, **style)
        counts.append(f"{name} {len(values):,} labels, mean {values.mean():.4g}")
    if target.log10:
        axes.set_xscale("log")
    add_legend(axes)
    return finish_plot(axes, f"{target.name}: labels", "; ".join(counts) + ".")
