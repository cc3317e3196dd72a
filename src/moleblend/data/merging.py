"""Merging of duplicate rows: one label of a molecule from the labels of several rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float64, Int64

from moleblend.data.duplicates import contradict
from moleblend.data.labels.label_column import LabelColumn
from moleblend.errors import TableError

Merge = Literal["keep", "mean", "drop"]


@dataclass(frozen=True)
class MergedLabel:
    """The label of a molecule that has several rows.

    Attributes:
        value: NaN if it is missing.
        censoring: 1 if the true value is at least `value`, -1 if at most, 0 if exact.
        row: the row whose cells contain the label; None if it is a mean, or missing.
        qualifier_row: the row whose qualifier belongs to the label; None if it is missing.
        unused: rows with a censored label that is not part of the merged label.
    """

    value: float
    censoring: int = 0
    row: int | None = None
    qualifier_row: int | None = None
    unused: tuple[int, ...] = ()


class MergeError(TableError):
    """Labels that no single cell can replace."""


def find_conflicts(
    label_columns: Sequence[LabelColumn], rows: Sequence[int], tolerance: float
) -> Bool[np.ndarray, " t"]:
    """Find the targets whose labels in these rows cannot all be true.

    Args:
        label_columns: labels of each target.
        rows: rows of one molecule.
        tolerance: largest difference between numeric labels that agree; classes must be equal.
    """
    conflicts = np.zeros(len(label_columns), bool)
    for k, column in enumerate(label_columns):
        values, censoring = column.values[rows], column.censoring[rows]
        lowest = np.where(np.isnan(values) | (censoring == -1), -np.inf, values)
        highest = np.where(np.isnan(values) | (censoring == 1), np.inf, values)
        allowed = tolerance if column.kind == "regression" else 0.0
        (conflicts[k],) = contradict(lowest[:, None], highest[:, None], allowed)
    return conflicts


def merge_labels(
    column: LabelColumn, rows: Sequence[int], how: Merge, *, is_conflict: bool
) -> MergedLabel:
    """Merge the labels of one target.

    An exact label takes precedence over a censored one. Among censored labels, the one that
    excludes most values is kept: the largest with `>`, the smallest with `<`. Only exact labels are
    averaged.

    Args:
        column: labels of the target.
        rows: rows of one molecule.
        how: `mean` averages exact labels that differ; `drop` removes labels in conflict; otherwise
            the label of the first row with an exact label is kept.
        is_conflict: whether the labels cannot all be true, see `find_conflicts`.

    Raises:
        MergeError: `mean` of labels in conflict, of which some are censored and exclude the mean;
            or censored labels of both directions, which no single cell can hold.
    """
    known = [row for row in rows if not np.isnan(column.values[row])]
    if not known:
        return MergedLabel(np.nan, row=rows[0], qualifier_row=rows[0])
    if is_conflict and how == "drop":
        return MergedLabel(np.nan)
    exact = [row for row in known if column.censoring[row] == 0]
    censored: Int64[np.ndarray, " m"] = np.array(
        [row for row in known if column.censoring[row]], np.int64
    )
    values: Float64[np.ndarray, " e"] = column.values[exact]
    if exact:
        is_mean = how == "mean" and np.ptp(values) > 0
        value = float(f"{values.mean():.12g}") if is_mean else float(values[0])
        if is_conflict and _excludes(column, censored, value):
            raise MergeError(f"{column.name}: censored labels have no mean")
        return MergedLabel(
            value=value,
            row=None if is_mean else exact[0],
            qualifier_row=exact[0],
            unused=tuple(censored.tolist()),
        )
    limits, directions = column.values[censored], column.censoring[censored]
    if is_conflict:
        raise MergeError(f"{column.name}: censored labels have no mean")
    if np.ptp(directions) > 0:
        raise MergeError(f"{column.name}: one cell cannot hold a lower and an upper limit")
    place = int(np.argmax(limits * directions))
    row = int(censored[place])
    return MergedLabel(
        value=float(limits[place]),
        censoring=int(directions[place]),
        row=row,
        qualifier_row=row,
        unused=tuple(censored[limits != limits[place]].tolist()),
    )


def _excludes(column: LabelColumn, censored: Int64[np.ndarray, " m"], value: float) -> bool:
    """Whether a censored label excludes a value."""
    distance = (value - column.values[censored]) * column.censoring[censored]
    return bool((distance < 0).any())
