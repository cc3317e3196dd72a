"""What came in, for the page of a training: rows, parts, labels, and molecules that repeat."""

from collections import Counter
from dataclasses import fields
from html import escape

import numpy as np

from moleblend.data.targets import Target
from moleblend.finetuning.train import TrainResult
from moleblend.reports.html_page import BLUE, GREY, ORANGE, axes_of, picture, plots, table

_MOST_PLOTS = 6

_COLOURS = {"train": GREY, "validation": ORANGE, "test": BLUE}


def data_part(result: TrainResult) -> list[str]:
    """Say what became of each row, how labels are spread over the parts, and what repeats."""
    counts = Counter(row.status for row in result.rows)
    reasons: dict[str, list[str]] = {}
    for k, row in enumerate(result.rows):
        if row.reason:
            reasons.setdefault(row.status, []).append(f"row {k + 1}: {row.reason}")
    statuses = [
        (status, f"{count:,}", "; ".join(reasons.get(status, [])[:3]))
        for status, count in counts.most_common()
    ]
    sizes = {name: len(rows) for name, rows in _parts(result).items()}
    parts = [(name, f"{size:,}") for name, size in sizes.items()]
    folds, about = result.choices.get("folds", 0), ""
    if folds:
        about = f"In {folds} folds; each is tested once, validates once, and trains otherwise."
    counted = f"{len(result.rows):,} rows, {sum(sizes.values()):,} of them usable."
    return [
        "<h2>Data</h2>",
        f"<p>{counted} <code>rows.csv</code> in the run folder says what became of each.</p>",
        table(("status", "rows", "first reasons"), statuses, style="words"),
        table(("part", "molecules"), parts, about),
        *(
            f"<p>{escape(text[0].upper() + text[1:])}.</p>"
            for text in result.duplicates.sentences()
        ),
        *_labels(result),
    ]


def _parts(result: TrainResult) -> dict[str, np.ndarray]:
    """The rows of each part; with folds every row is tested, and stands there alone."""
    parts = {part.name: getattr(result.parts, part.name) for part in fields(result.parts)}
    return {name: rows for name, rows in parts.items() if len(rows)}


def _labels(result: TrainResult) -> list[str]:
    """Count the cells of each target, and show how values and classes are spread."""
    told = result.choices.get("targets", {})
    if result.measured is None or not told:
        return []
    rows = []
    for target in result.targets:
        one = told[target.name]
        counts = [one[name] for name in ("n_labels", "n_bounds", "n_bad_cells")]
        n_missing = len(result.rows) - one["n_labels"] - one["n_bad_cells"]
        cells = [f"{count:,}" for count in (*counts[:2], n_missing, counts[2])]
        rows.append([target.name, target.kind, *cells])
    head = ("target", "kind", "labels", "of them bounds", "missing", "cells that are no label")
    shown = result.targets[:_MOST_PLOTS]
    values, classes = [], []
    for k, target in enumerate(shown):
        labels = {name: result.measured[rows, k] for name, rows in _parts(result).items()}
        known = {name: one[~np.isnan(one)] for name, one in labels.items()}
        if target.kind == "regression":
            values.append(_histogram(target, known))
        else:
            classes += _class_rows(target, known)
    counted = table(("target", "class", *_parts(result)), classes) if classes else ""
    return [table(head, rows), counted, plots(values) if values else ""]


def _class_rows(target: Target, labels: dict[str, np.ndarray]) -> list[list[str]]:
    """Count each class in each part, with its share of the labels there."""
    rows = []
    for number, name in enumerate(target.classes or ("0", "1")):
        cells = []
        for found in labels.values():
            n = int((found == number).sum())
            cells.append(f"{n:,} ({n / len(found):.1%})" if len(found) else "–")
        rows.append([target.name, name, *cells])
    return rows


def _histogram(target: Target, labels: dict[str, np.ndarray]) -> str:
    """Draw which share of each part's labels lies where, in bins that the parts have in common."""
    every = np.concatenate(list(labels.values()))
    every = np.log10(every) if target.log10 else every
    edges = np.histogram_bin_edges(every, bins=min(20, max(5, len(every) // 20)))
    edges = 10**edges if target.log10 else edges
    unit = f" ({target.unit})" if target.unit else ""
    plot = axes_of(f"{target.name}: labels", f"measured{unit}", "share of the part")
    told = []
    for name, found in labels.items():
        if not len(found):
            continue
        share = np.histogram(found, edges)[0] / len(found)
        is_filled = name == "train"
        shade = {"fill": is_filled, "alpha": 0.5 if is_filled else 1, "linewidth": 1.3}
        plot.stairs(share, edges, color=_COLOURS[name], label=name, **shade)
        told.append(f"{name} {len(found):,} labels, mean {found.mean():.4g}")
    if target.log10:
        plot.set_xscale("log")
    plot.legend(frameon=False, fontsize=8)
    return picture(plot, "; ".join(told) + ".")
