"""Summary of a training report: accuracy, baselines, uncertainty and what to do next."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median_high
from typing import Literal

import numpy as np

from moleblend.data.targets import Target
from moleblend.evaluation.applicability_domain import OUT_OF_DOMAIN
from moleblend.evaluation.comparison import Comparison
from moleblend.evaluation.metrics import Metrics
from moleblend.evaluation.uncertainty_evaluation import UncertaintyMetrics
from moleblend.evaluation.uncertainty_metrics import Coverage

State = Literal["good", "check", "problem", "unknown"]

FAIR_R2, FAIR_AUC = 0.5, 0.7
"""Accuracy is called good from here on. At 0 and at 0.5 a model is no better than a constant."""

FEW_TEST_LABELS, FEW_TRAINING_LABELS = 50, 200
MANY_OUT_OF_DOMAIN = 0.1
LOW_COVERAGE = 0.1
"""Coverage that is significantly below its nominal value by more than this is a problem."""

_MOST_TARGETS = 3
_STATES: tuple[State, ...] = ("good", "check", "problem")


@dataclass(frozen=True)
class Accuracy:
    """Test metrics of one target.

    Attributes:
        name: of the target.
        error_name: name of `error`: RMSE, RMSE log10 or PR-AUC.
        error: RMSE, or PR-AUC of a binary target.
        unit: of `error`.
        score_name: name of `score`: R2, ROC-AUC or macro ROC-AUC.
        score: None where it is undefined.
        constant: `error` of the constant baseline, or 0.5 of ROC-AUC.
        n: test molecules with a label.
        state: by `score`.
    """

    name: str
    error_name: str
    error: float | None
    unit: str
    score_name: str
    score: float | None
    constant: float | None
    n: int
    state: State


@dataclass(frozen=True)
class CoverageResult:
    """Coverage of the intervals or sets of one target.

    Attributes:
        name: of the target.
        coverage: of the test labels.
        has_intervals: intervals of values; else sets of classes.
        ece: expected calibration error of the probabilities; None of a regression target.
        ece_if_calibrated: what it would be on average with perfectly calibrated probabilities.
        is_miscalibrated: `ece` is larger than in 95 % of draws from such probabilities.
        rank_correlation: Spearman correlation of the error with the uncertainty.
        state: by coverage, calibration and number of labels.
    """

    name: str
    coverage: Coverage
    has_intervals: bool
    ece: float | None
    ece_if_calibrated: float | None
    is_miscalibrated: bool
    rank_correlation: float | None
    state: State


@dataclass(frozen=True)
class NextSteps:
    """Facts that call for an action; 0 or False where they do not.

    Attributes:
        few_test_labels: number of test labels, if the target with the fewest has few.
        few_training_labels: the same of the training set.
        constant_is_as_good: some target is not predicted better than by a constant.
        forest_is_ahead: the random forest is significantly better on more targets than the model.
        forest_is_as_good: neither is significantly better on more targets.
        still_improving: the last epoch improved validation by more than 1 %.
        n_conflicts: molecules with conflicting labels.
        n_known_test_rows: test rows whose molecule is also in another set.
        n_unusable_rows: rows that could not be used.
        n_unreadable_cells: label cells that could not be read.
        out_of_domain: fraction of test molecules out of the applicability domain, if it is large.
        low_coverage: some coverage is significantly below its nominal value.
        is_miscalibrated: the probabilities of some target are significantly miscalibrated.
        epochs: of the run.
    """

    few_test_labels: int
    few_training_labels: int
    constant_is_as_good: bool
    forest_is_ahead: bool
    forest_is_as_good: bool
    still_improving: bool
    n_conflicts: int
    n_known_test_rows: int
    n_unusable_rows: int
    n_unreadable_cells: int
    out_of_domain: float
    low_coverage: bool
    is_miscalibrated: bool
    epochs: int

    @property
    def state(self) -> State:
        """A problem where a result is wrong or no better than a baseline; else check or good."""
        if self.constant_is_as_good or self.forest_is_ahead or self.n_known_test_rows:
            return "problem"
        facts = (
            *(self.few_test_labels, self.few_training_labels, self.still_improving),
            *(self.n_conflicts, self.n_unusable_rows, self.n_unreadable_cells),
            *(self.out_of_domain, self.low_coverage, self.is_miscalibrated),
            self.forest_is_as_good,
        )
        return "check" if any(facts) else "good"


@dataclass(frozen=True)
class Summary:
    """The first cards of a training report.

    Attributes:
        accuracy: of the first targets.
        accuracy_state: of the median target.
        n_targets: all of them.
        mean_scores: mean of each score over all targets for which it is defined.
        comparisons: with the random forest, of the first targets.
        n_better: targets for which the model is significantly better than the forest.
        n_worse: targets for which it is significantly worse.
        n_compared: targets with a forest.
        baseline_state: by these numbers.
        coverages: of the first targets.
        coverage_state: of the median target.
        next_steps: what to do.
    """

    accuracy: list[Accuracy]
    accuracy_state: State
    n_targets: int
    mean_scores: dict[str, float]
    comparisons: Sequence[Comparison]
    n_better: int
    n_worse: int
    n_compared: int
    baseline_state: State
    coverages: list[CoverageResult]
    coverage_state: State
    next_steps: NextSteps


@dataclass(frozen=True)
class DataFacts:
    """What the summary needs to know of the data; see `NextSteps`.

    Attributes:
        n_training_labels: of the target with the fewest; None where they are not known.
        n_conflicts: molecules with conflicting labels.
        n_known_test_rows: test rows whose molecule is also in another set.
        n_unusable_rows: rows that could not be used.
        n_unreadable_cells: label cells that could not be read.
        domain: of each test molecule, empty where it is not known.
    """

    n_training_labels: int | None
    n_conflicts: int
    n_known_test_rows: int
    n_unusable_rows: int
    n_unreadable_cells: int
    domain: Sequence[str]


def summarise_run(
    targets: Sequence[Target],
    test: Mapping[str, Metrics],
    constant: Mapping[str, Metrics],
    comparisons: Sequence[Comparison],
    uncertainty: Mapping[str, UncertaintyMetrics],
    data: DataFacts,
    *,
    epochs: int,
    still_improving: bool,
) -> Summary:
    """Summarise a run.

    Args:
        targets: of the model.
        test: test metrics of each target.
        constant: test metrics of the constant baseline, of regression targets.
        comparisons: with the random forest; none where no forest was trained.
        uncertainty: metrics on the test set; none where the model has no uncertainty.
        data: counts of the data section.
        epochs: of the run.
        still_improving: the last epoch improved validation by more than 1 %.
    """
    accuracy = [
        _accuracy(target, test[target.name], constant.get(target.name)) for target in targets
    ]
    scores: dict[str, list[float]] = {}
    for one in accuracy:
        if one.score is not None:
            scores.setdefault(one.score_name, []).append(one.score)
    coverages = [
        _coverage(target, uncertainty[target.name])
        for target in targets
        if target.name in uncertainty
    ]
    significant = [one for one in comparisons if one.is_significant]
    n_better = sum(one.improvement > 0 for one in significant)
    n_worse = len(significant) - n_better
    baseline_state = _baseline_state(comparisons, n_better, n_worse)
    return Summary(
        accuracy=accuracy[:_MOST_TARGETS],
        accuracy_state=_median([one.state for one in accuracy]),
        n_targets=len(targets),
        mean_scores={name: fmean(values) for name, values in scores.items()},
        comparisons=comparisons[:_MOST_TARGETS],
        n_better=n_better,
        n_worse=n_worse,
        n_compared=len(comparisons),
        baseline_state=baseline_state,
        coverages=coverages[:_MOST_TARGETS],
        coverage_state=_median([one.state for one in coverages]),
        next_steps=_next_steps(accuracy, data, baseline_state, coverages, epochs, still_improving),
    )


def _accuracy(target: Target, test: Metrics, constant: Metrics | None) -> Accuracy:
    n = int(test["n"] or 0)
    if target.kind == "regression":
        name = "RMSE log10" if target.log10 else "RMSE"
        score = test.get("R2 log10" if target.log10 else "R2")
        return Accuracy(
            name=target.name,
            error_name=name,
            error=test.get(name),
            unit="" if target.log10 else target.unit,
            score_name="R2",
            score=score,
            constant=None if constant is None else constant.get(name),
            n=n,
            state=_accuracy_state(score, 0.0, FAIR_R2, n),
        )
    name = "ROC-AUC" if target.kind == "binary" else "macro ROC-AUC"
    score = test.get(name)
    second = "PR-AUC" if target.kind == "binary" else "balanced accuracy"
    return Accuracy(
        name=target.name,
        error_name=second,
        error=test.get(second),
        unit="",
        score_name=name,
        score=score,
        constant=0.5,
        n=n,
        state=_accuracy_state(score, 0.5, FAIR_AUC, n),
    )


def _accuracy_state(score: float | None, constant: float, fair: float, n: int) -> State:
    if score is None:
        return "unknown"
    if score <= constant:
        return "problem"
    return "good" if score >= fair and n >= FEW_TEST_LABELS else "check"


def _baseline_state(comparisons: Sequence[Comparison], n_better: int, n_worse: int) -> State:
    if not comparisons:
        return "unknown"
    if n_worse > n_better:
        return "problem"
    return "good" if n_better > n_worse else "check"


def _coverage(target: Target, metrics: UncertaintyMetrics) -> CoverageResult:
    coverage, after = metrics.coverage, metrics.after
    is_miscalibrated = after is not None and after.error > after.error_if_calibrated_95
    state: State = "good"
    if coverage.observed is None:
        state = "unknown"
    elif coverage.high < coverage.nominal - LOW_COVERAGE:
        state = "problem"
    elif coverage.high < coverage.nominal or is_miscalibrated or coverage.n < FEW_TEST_LABELS:
        state = "check"
    return CoverageResult(
        name=target.name,
        coverage=coverage,
        has_intervals=metrics.quantiles is not None,
        ece=None if after is None else after.error,
        ece_if_calibrated=None if after is None else after.error_if_calibrated,
        is_miscalibrated=is_miscalibrated,
        rank_correlation=None if metrics.errors is None else metrics.errors.rank_correlation,
        state=state,
    )


def _median(states: Sequence[State]) -> State:
    """State of the median target, the worse one of two; unknown where none is known."""
    known = [_STATES.index(state) for state in states if state != "unknown"]
    return _STATES[median_high(known)] if known else "unknown"


def _next_steps(
    accuracy: Sequence[Accuracy],
    data: DataFacts,
    baseline_state: State,
    coverages: Sequence[CoverageResult],
    epochs: int,
    still_improving: bool,
) -> NextSteps:
    n_test = min(one.n for one in accuracy)
    n_training = data.n_training_labels
    known = [word for word in data.domain if word]
    outside = float(np.mean([word == OUT_OF_DOMAIN for word in known])) if known else 0.0
    return NextSteps(
        few_test_labels=n_test if n_test < FEW_TEST_LABELS else 0,
        few_training_labels=n_training if n_training and n_training < FEW_TRAINING_LABELS else 0,
        constant_is_as_good=any(one.state == "problem" for one in accuracy),
        forest_is_ahead=baseline_state == "problem",
        forest_is_as_good=baseline_state == "check",
        still_improving=still_improving,
        n_conflicts=data.n_conflicts,
        n_known_test_rows=data.n_known_test_rows,
        n_unusable_rows=data.n_unusable_rows,
        n_unreadable_cells=data.n_unreadable_cells,
        out_of_domain=outside if outside > MANY_OUT_OF_DOMAIN else 0.0,
        low_coverage=any(one.coverage.high < one.coverage.nominal for one in coverages),
        is_miscalibrated=any(one.is_miscalibrated for one in coverages),
        epochs=epochs,
    )
