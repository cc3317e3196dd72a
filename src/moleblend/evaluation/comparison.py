"""Paired comparison of the model with the random forest baseline, on the same test molecules.

`compare_with_baseline` computes one `Comparison` for each target, with a bootstrap interval of the
difference; `summarise` puts them into sentences; `baseline_record` into the entry of metrics.json.
The forest itself is in `baseline`.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64
from scipy.stats import norm, rankdata
from scipy.stats import t as t_distribution

from moleblend.data.dataset import MoleculeDataset
from moleblend.data.targets import Target, output_slices
from moleblend.evaluation.baseline import BaselineResult, describe_forest
from moleblend.evaluation.metrics import main_metric

_N_RESAMPLES = 1000
_N_AT_ONCE = 500_000
"""Resamples times molecules that are held in memory at once."""

_MIN_MOLECULES = 25
_MIN_OF_A_CLASS = 10
"""Test molecules with a label, and of each class, below which there is no bootstrap interval.

With fewer, two equally good models are called different too often: in 11 to 15 % of the cases with
10 to 20 molecules, and in 21 to 55 % with one or two molecules of a class, instead of 5 %.
"""

_MAX_SENTENCES = 4
"""Number of targets above which they are summarised in a single sentence."""


@dataclass(frozen=True)
class Comparison:
    """Metrics of model and forest for one target, and their difference.

    Attributes:
        target: its name.
        baseline: what the forest reads, such as `random forest on ecfp4`.
        metric: `RMSE`, `RMSE log10`, `ROC-AUC` or `macro ROC-AUC`.
        unit: of the metric; empty if it has none.
        model: metric of the model.
        forest: metric of the forest.
        improvement: difference of the metrics, positive where the model is better.
        low: 2.5 % quantile of the improvement over bootstrap resamples of the test molecules; None
            where there are too few.
        high: 97.5 % quantile.
        n: test molecules with a label.
    """

    target: str
    baseline: str
    metric: str
    unit: str
    model: float
    forest: float
    improvement: float
    low: float | None
    high: float | None
    n: int

    @property
    def is_significant(self) -> bool:
        """Whether the 95 % bootstrap interval of the improvement excludes 0."""
        return self.low is not None and self.high is not None and self.low * self.high > 0

    def sentence(self) -> str:
        """State the metric of both, which one is better, and the interval of the difference."""
        unit = f" {self.unit}" if self.unit else ""
        values = f"{self.metric} {self.model:.4g}{unit} (model), {self.forest:.4g}{unit} (forest)"
        if self.low is None or self.high is None:
            return (
                f"{self.target}: {values}; {self.n:,} test molecules with a label are too few for "
                f"a bootstrap interval: {_MIN_MOLECULES} are needed, and {_MIN_OF_A_CLASS} of each "
                "class"
            )
        is_model = self.improvement >= 0
        low, high = (self.low, self.high) if is_model else (-self.high, -self.low)
        interval = f"95 % bootstrap interval {low:.3g} to {high:.3g}"
        difference = f"difference {abs(self.improvement):.3g}"
        if not self.is_significant:
            if self.improvement:
                difference += f" in favour of the {'model' if is_model else 'forest'}"
            return (
                f"{self.target}: no significant difference between the model and a "
                f"{self.baseline}: {values}, {difference} ({interval} includes 0, n = {self.n:,})"
            )
        better = (
            f"the model is better than a {self.baseline}"
            if is_model
            else f"a {self.baseline} is better than the model"
        )
        return f"{self.target}: {better}: {values}, {difference} ({interval}, n = {self.n:,})"


@dataclass(frozen=True)
class ComparisonSummary:
    """A sentence about model and forest.

    Attributes:
        text: the sentence, without its full stop.
        is_baseline_better: whether the forest is significantly better; for a sentence about many
            targets, whether it is so for more of them than the model.
    """

    text: str
    is_baseline_better: bool


def compare_with_baseline(
    targets: Sequence[Target],
    predictions: Sequence[Float64[np.ndarray, "_ o"]],
    baselines: Sequence[BaselineResult],
    test_sets: Sequence[MoleculeDataset],
) -> tuple[Comparison, ...]:
    """Compare model and forest for each target, by a paired bootstrap over test molecules.

    With several test sets (folds) a metric is the mean over those in which it is defined; each
    bootstrap resample draws from each test set separately.

    Args:
        targets: of the model.
        predictions: of the model, for each test set, in the label's unit or as probabilities.
        baselines: the forests, for each test set.
        test_sets: molecules and labels; censored labels are left out.

    Returns:
        One for each target that has a forest and a metric that is defined.
    """
    comparisons = []
    for k, (target, where) in enumerate(zip(targets, output_slices(targets), strict=True)):
        by_test_set, n, rng = [], 0, np.random.default_rng(0)
        counts = np.zeros(max(len(target.class_names), 2), np.int64)
        names = {baseline.chosen.get(target.name, "random forest") for baseline in baselines}
        for predicted, baseline, test in zip(predictions, baselines, test_sets, strict=True):
            label = test.labels[:, k]
            is_known = ~np.isnan(label) & (test.censoring[:, k] == 0)
            if target.name not in baseline.test or not is_known.any():
                continue
            metrics = _bootstrap(
                target,
                predicted[is_known, where],
                baseline.predicted[is_known, where],
                label[is_known],
                rng,
            )
            if not np.isnan(metrics[:, 0]).any():  # a fold can have a single class
                by_test_set.append(metrics)
                n += int(is_known.sum())
                if target.kind != "regression":
                    classes = label[is_known].astype(np.int64)
                    counts += np.bincount(classes, minlength=len(counts))
        if not by_test_set:
            continue
        model, forest = np.mean(by_test_set, 0)  # each [r + 1], first the test set itself
        is_regression = target.kind == "regression"
        improvement = forest - model if is_regression else model - forest
        resampled = improvement[1:][~np.isnan(improvement[1:])]  # some have a single class
        low, high = None, None
        n_smallest = n if is_regression else int(counts[counts > 0].min())
        is_enough = n >= _MIN_MOLECULES and (is_regression or n_smallest >= _MIN_OF_A_CLASS)
        if len(resampled) and is_enough:
            ends = np.quantile(resampled, _expanded_quantiles(n_smallest))
            low, high = (float(value) for value in ends)
        comparisons.append(
            Comparison(
                target=target.name,
                baseline=names.pop() if len(names) == 1 else "random forest",
                metric=main_metric(target),
                unit=target.unit if is_regression and not target.log10 else "",
                model=float(model[0]),
                forest=float(forest[0]),
                improvement=float(improvement[0]),
                low=low,
                high=high,
                n=n,
            )
        )
    return tuple(comparisons)


def _expanded_quantiles(n: int) -> tuple[float, float]:
    """Return the quantiles of a 95 % interval, further out than 2.5 % and 97.5 % for small n.

    The plain interval is too narrow by the factor by which a t interval is wider than a normal one.

    Reference:
        Hesterberg, Am. Stat. 2015, doi:10.1080/00031305.2015.1089789, section 5.3.
    """
    low = float(norm.cdf(t_distribution.ppf(0.025, n - 1) * np.sqrt(n / (n - 1))))
    return low, 1 - low


def summarise(comparisons: Sequence[Comparison]) -> list[ComparisonSummary]:
    """Write a sentence for each target, or a single one if there are many targets."""
    if len(comparisons) <= _MAX_SENTENCES:
        return [
            ComparisonSummary(one.sentence(), one.is_significant and one.improvement < 0)
            for one in comparisons
        ]
    n_better, n_worse = (sum(sign * one.improvement > 0 for one in comparisons) for sign in (1, -1))
    significant = [one for one in comparisons if one.is_significant]
    n_significantly_better = sum(one.improvement > 0 for one in significant)
    n_significantly_worse = len(significant) - n_significantly_better
    text = (
        f"of {len(comparisons):,} targets, the model is better than a random forest for "
        f"{n_better:,} ({n_significantly_better:,} significantly) and the forest is better for "
        f"{n_worse:,} ({n_significantly_worse:,} significantly, by 95 % bootstrap intervals)"
    )
    areas = [(one.model, one.forest) for one in comparisons if "AUC" in one.metric]
    if areas:
        model, forest = np.mean(areas, 0)
        text += f"; mean ROC-AUC {model:.4g} (model), {forest:.4g} (forest)"
    return [ComparisonSummary(text, n_significantly_worse > n_significantly_better)]


def baseline_record(
    targets: Sequence[Target],
    baseline: BaselineResult,
    comparisons: Sequence[Comparison],
    note: str,
) -> dict[str, Any]:
    """Return the entry of the baseline in metrics.json.

    Args:
        targets: of the model.
        baseline: the forests.
        comparisons: of `compare_with_baseline`.
        note: of `plan_forest`.
    """
    return {
        "about": describe_forest(targets, baseline),
        "n_trees": baseline.n_trees,
        "note": note,
        "test": baseline.test,
        "not_trained": baseline.not_trained,
        "comparison": {
            comparison.target: {
                name: value for name, value in asdict(comparison).items() if name != "target"
            }
            | {"is_significant": comparison.is_significant}
            for comparison in comparisons
        },
    }


def _bootstrap(
    target: Target,
    model: Float64[np.ndarray, "n c"],
    forest: Float64[np.ndarray, "n c"],
    label: Float64[np.ndarray, " n"],
    rng: np.random.Generator,
) -> Float64[np.ndarray, "2 r"]:
    """Compute both metrics on the molecules themselves, then on resamples with replacement.

    scipy.stats.bootstrap draws the same resamples, but takes no single molecule and no metric that
    is undefined on some resamples; both occur in folds.
    """
    n = len(label)
    draws = [np.arange(n)[None]]
    n_left, n_at_once = _N_RESAMPLES, max(_N_AT_ONCE // n, 1)
    while n_left:
        draws.append(rng.integers(n, size=(min(n_left, n_at_once), n)))
        n_left -= len(draws[-1])
    return np.stack(
        [
            np.concatenate([_resampled_metric(target, predicted, label, rows) for rows in draws])
            for predicted in (model, forest)
        ]
    )


def _resampled_metric(
    target: Target,
    predicted: Float64[np.ndarray, "n c"],
    label: Float64[np.ndarray, " n"],
    rows: Int64[np.ndarray, "r n"],
) -> Float64[np.ndarray, " r"]:
    """Compute the metric on each resample of molecules; NaN where it is not defined."""
    if target.kind == "regression":
        first, second = map(target.to_training_scale, (predicted[:, 0], label))
        return np.sqrt(((first - second) ** 2)[rows].mean(1))
    if target.kind == "binary":
        return _roc_auc(predicted[:, 0], label == 1, rows)
    areas = np.stack([_roc_auc(predicted[:, int(k)], label == k, rows) for k in np.unique(label)])
    n_defined = (~np.isnan(areas)).sum(0)
    return np.where(n_defined > 0, np.nansum(areas, 0) / np.maximum(n_defined, 1), np.nan)


def _roc_auc(
    score: Float64[np.ndarray, " n"],
    is_positive: Bool[np.ndarray, " n"],
    rows: Int64[np.ndarray, "r n"],
) -> Float64[np.ndarray, " r"]:
    """Compute the area under the ROC curve on each resample, from the ranks of the positives."""
    positive = is_positive[rows]
    ranks = rankdata(score[rows], axis=1)
    n_positive = positive.sum(1)
    n_pairs = n_positive * (positive.shape[1] - n_positive)
    above = (ranks * positive).sum(1) - n_positive * (n_positive + 1) / 2
    return np.where(n_pairs > 0, above / np.maximum(n_pairs, 1), np.nan)
