"""The random forest beside a model: trained on the same part, read on the same part, compared."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64
from scipy.stats import rankdata

from moleblend.data.dataset import MoleculeDataset
from moleblend.data.targets import Target, output_slices
from moleblend.evaluation.baseline import (
    BaselineResult,
)

_N_RESAMPLES = 1000
_AT_ONCE = 500_000
_FEWEST = 10
"""Test molecules with a label, below which nothing is said to be better."""

_MOST_SAID = 4


@dataclass(frozen=True)
class Comparison:
    """Model and forest on the test molecules of one target.

    Attributes:
        target: its name.
        metric: by which they are compared.
        unit: of the metric.
        model: its figure.
        forest: its figure.
        gain: by how much the model is better; negative where the forest is.
        low: 2.5 % quantile of the gain, when test molecules are drawn anew; None of too few.
        high: 97.5 % quantile.
        n: test molecules with a label.
    """

    target: str
    metric: str
    unit: str
    model: float
    forest: float
    gain: float
    low: float | None
    high: float | None
    n: int

    @property
    def is_certain(self) -> bool:
        """Whether the difference is beyond the noise of the test molecules."""
        return self.low is not None and self.high is not None and self.low * self.high > 0

    def sentence(self) -> str:
        """Say who is better, and whether that means anything."""
        unit = f" {self.unit}" if self.unit else ""
        figures = (
            f"{self.metric} {self.model:.4g}{unit} against the forest's {self.forest:.4g} on "
            f"{self.n:,} test molecules"
        )
        if self.low is None or self.high is None:
            return f"{self.target}: {figures}, too few to say which is better"
        who = "model" if self.gain >= 0 else "forest"
        ends = sorted((self.low, self.high) if self.gain >= 0 else (-self.low, -self.high))
        lead = f"the {who} is ahead by {abs(self.gain):.3g}" if self.gain else "neither is ahead"
        figures += (
            f"; {lead}, in 95 of 100 drawings of other test molecules the {who} by {ends[0]:.3g} "
            f"to {ends[1]:.3g}"
        )
        if not self.is_certain:
            return (
                f"{self.target}: no difference beyond the noise of the test part between the model "
                f"and a random forest on ECFP4 ({figures})"
            )
        if self.gain > 0:
            return f"{self.target}: the model is better than a random forest on ECFP4 ({figures})"
        return f"{self.target}: a random forest on ECFP4 is better than this model ({figures})"


@dataclass(frozen=True)
class ComparisonSummary:
    """How model and forest compare.

    Attributes:
        text: a sentence, without its full stop.
        is_lost: the forest is better beyond the noise; of many targets, on more than the model.
    """

    text: str
    is_lost: bool


def compare_with_baseline(
    targets: Sequence[Target],
    model: Sequence[Float64[np.ndarray, "_ o"]],
    rivals: Sequence[BaselineResult],
    tests: Sequence[MoleculeDataset],
) -> tuple[Comparison, ...]:
    """Compare model and forest, target by target: a paired bootstrap over test molecules.

    Args:
        targets: what the outputs are.
        model: its predictions for each test part, of which there are several with folds; the
            figures are means over those for which there are figures.
        rivals: for each.
        tests: the parts.

    Returns:
        One for each target for which both have a figure.
    """
    found = []
    for k, (target, where) in enumerate(zip(targets, output_slices(targets), strict=True)):
        sampled, n, rng = [], 0, np.random.default_rng(0)
        for ours, baseline, part in zip(model, rivals, tests, strict=True):
            label = part.labels[:, k]
            is_known = ~np.isnan(label) & (part.censoring[:, k] == 0)
            theirs = baseline.predicted[:, where]
            if target.name not in baseline.test or not is_known.any():
                continue
            both = [one[is_known] for one in (ours[:, where], theirs)]
            resampled = _resampled(target, both, label[is_known], rng)
            if not np.isnan(resampled[:, 0]).any():  # a fold may have one class only
                sampled.append(resampled)
                n += int(is_known.sum())
        if not sampled:
            continue
        figures = np.mean(sampled, 0)  # [2 r], the first resample is the part as it is
        is_value = target.kind == "regression"
        gains = (figures[1] - figures[0]) * (1 if is_value else -1)
        drawn = gains[1:][~np.isnan(gains[1:])]  # a drawing may have one class only
        low, high = np.quantile(drawn, (0.025, 0.975)) if len(drawn) else (None, None)
        found.append(
            Comparison(
                target=target.name,
                metric=_metric(target),
                unit="" if not is_value or target.log10 else target.unit,
                model=float(figures[0, 0]),
                forest=float(figures[1, 0]),
                gain=float(gains[0]),
                low=None if low is None or n < _FEWEST else float(low),
                high=None if high is None or n < _FEWEST else float(high),
                n=n,
            )
        )
    return tuple(found)


def summarise(comparisons: Sequence[Comparison]) -> list[ComparisonSummary]:
    """Say how model and forest compare: of each of a few targets, of many in sum."""
    if len(comparisons) <= _MOST_SAID:
        return [
            ComparisonSummary(one.sentence(), one.is_certain and one.gain < 0)
            for one in comparisons
        ]
    n_won, n_lost = (sum(sign * one.gain > 0 for one in comparisons) for sign in (1, -1))
    certain = [one for one in comparisons if one.is_certain]
    n_surely_won = sum(one.gain > 0 for one in certain)
    n_surely_lost = len(certain) - n_surely_won
    told = (
        f"of {len(comparisons):,} targets the model is better than a random forest on ECFP4 in "
        f"{n_won:,} ({n_surely_won:,} beyond the noise of the test part) and the forest in "
        f"{n_lost:,} ({n_surely_lost:,} beyond it)"
    )
    areas = [(one.model, one.forest) for one in comparisons if "AUC" in one.metric]
    if areas:
        model, forest = np.mean(areas, 0)
        told += f"; mean ROC-AUC {model:.4g} of the model, {forest:.4g} of the forest"
    return [ComparisonSummary(told, n_surely_lost > n_surely_won)]


def record(
    baseline: BaselineResult, comparisons: Sequence[Comparison], about: str, note: str
) -> dict[str, Any]:
    """Give what metrics.json says of the forest."""
    return {
        "about": about,
        "n_trees": baseline.n_trees,
        "note": note,
        "test": baseline.test,
        "not_learnt": baseline.not_learnt,
        "compared": {
            comparison.target: {
                name: value for name, value in asdict(comparison).items() if name != "target"
            }
            | {"is_beyond_noise": comparison.is_certain}
            for comparison in comparisons
        },
    }


def _metric(target: Target) -> str:
    """By which figure model and forest are compared."""
    if target.kind == "regression":
        return "RMSE log10" if target.log10 else "RMSE"
    return "ROC-AUC" if target.kind == "binary" else "macro ROC-AUC"


def _resampled(
    target: Target,
    both: Sequence[Float64[np.ndarray, "n c"]],
    label: Float64[np.ndarray, " n"],
    rng: np.random.Generator,
) -> Float64[np.ndarray, "2 r"]:
    """Compute the figure of both on the molecules as they are, then on molecules drawn anew."""
    n = len(label)
    picks = [np.arange(n)[None]]
    n_left, at_once = _N_RESAMPLES, max(_AT_ONCE // n, 1)
    while n_left:
        picks.append(rng.integers(n, size=(min(n_left, at_once), n)))
        n_left -= len(picks[-1])
    return np.stack(
        [np.concatenate([_figures(target, one, label, p) for p in picks]) for one in both]
    )


def _figures(
    target: Target,
    predicted: Float64[np.ndarray, "n c"],
    label: Float64[np.ndarray, " n"],
    picks: Int64[np.ndarray, "r n"],
) -> Float64[np.ndarray, " r"]:
    """Compute the metric on each drawing of molecules; NaN where it is not defined."""
    if target.kind == "regression":
        values = [predicted[:, 0], label]
        first, second = np.log10(values) if target.log10 else values
        return np.sqrt(((first - second) ** 2)[picks].mean(1))
    if target.kind == "binary":
        return _areas(predicted[:, 0], label == 1, picks)
    found = np.stack([_areas(predicted[:, int(k)], label == k, picks) for k in np.unique(label)])
    n_defined = (~np.isnan(found)).sum(0)
    return np.where(n_defined > 0, np.nansum(found, 0) / np.maximum(n_defined, 1), np.nan)


def _areas(
    score: Float64[np.ndarray, " n"],
    is_positive: Bool[np.ndarray, " n"],
    picks: Int64[np.ndarray, "r n"],
) -> Float64[np.ndarray, " r"]:
    """Compute the areas under the ROC curves, by the ranks of the positives."""
    positive = is_positive[picks]
    ranks = rankdata(score[picks], axis=1)
    n_positive = positive.sum(1)
    n_pairs = n_positive * (positive.shape[1] - n_positive)
    above = (ranks * positive).sum(1) - n_positive * (n_positive + 1) / 2
    return np.where(n_pairs > 0, above / np.maximum(n_pairs, 1), np.nan)
