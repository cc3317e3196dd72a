"""The result of a fine-tuning command: one run, or several runs aggregated."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Int8, Int64

from moleblend.data.dataset import MoleculeDataset
from moleblend.data.duplicates import Duplicates
from moleblend.data.splits import Split
from moleblend.data.targets import Target
from moleblend.evaluation.applicability_domain import ApplicabilityDomain, DomainScores
from moleblend.evaluation.baseline import BaselineResult
from moleblend.evaluation.comparison import Comparison, compare_with_baseline
from moleblend.evaluation.metrics import Metrics
from moleblend.evaluation.uncertainty import Uncertainty
from moleblend.evaluation.uncertainty_evaluation import (
    UncertaintyEstimate,
    UncertaintyMetrics,
    concatenate_estimates,
    evaluate_uncertainty,
    reorder_estimate,
)
from moleblend.finetuning.callbacks import EpochHistory
from moleblend.finetuning.config import TrainConfig
from moleblend.finetuning.hyperparameter_search import Search
from moleblend.finetuning.preparation import PreparedRun
from moleblend.finetuning.refit import Refitted
from moleblend.finetuning.resolved_settings import ResolvedSettings, UncertaintySettings
from moleblend.finetuning.run import Evaluation, Run, with_thresholds
from moleblend.finetuning.tree_members import MemberEvaluation
from moleblend.prediction.inputs import Row
from moleblend.prediction.outputs import domain_names, result_names
from moleblend.trees.averaging import count_members
from moleblend.trees.tree_model import TreeModel

MetricStatistics = dict[str, dict[str, dict[str, float | None]]]
"""`mean` and `std` (of the sample) over runs, of each metric of each target."""


@dataclass(frozen=True, eq=False)
class LabelledPredictions:
    """Predictions and labels of the test rows, in the order of the table.

    With folds all rows are test rows, each predicted by the models of its fold.

    Attributes:
        smiles: canonical SMILES.
        labels: in the unit of the table, or class numbers; NaN where missing.
        censoring: 1 where the true value is at least the label, -1 where at most, 0 where exact.
        predicted: see `targets.unscale_outputs`; probabilities are calibrated.
        uncalibrated: before calibration; areas under curves are computed from these.
        estimates: uncertainty estimates, per target.
        domain_scores: similarity and distance to the training set; the nearest molecule is a row of
            the table.
    """

    smiles: tuple[str, ...]
    labels: Float64[np.ndarray, "m t"]
    censoring: Int8[np.ndarray, "m t"]
    predicted: Float64[np.ndarray, "m o"]
    uncalibrated: Float64[np.ndarray, "m o"]
    estimates: dict[str, UncertaintyEstimate]
    domain_scores: DomainScores


@dataclass(frozen=True, eq=False)
class BaselineComparison:
    """The random forests as a baseline, and how the model compares with them.

    Attributes:
        forest: for each target the better forest, aggregated like the predictions of the model.
        comparisons: model against forest, per target; with several seeds of the first.
        note: comment on the number of trees; may be empty.
    """

    forest: BaselineResult
    comparisons: tuple[Comparison, ...]
    note: str


@dataclass(frozen=True, eq=False)
class TableSummary:
    """The rows of the table.

    Attributes:
        rows: status and reason of every row.
        labels: of every row; NaN where missing.
        split: rows of each set, counted from 0; with folds all usable rows are test rows.
        duplicates: molecules in several rows.
    """

    rows: list[Row]
    labels: Float64[np.ndarray, "r t"]
    split: Split
    duplicates: Duplicates


@dataclass(frozen=True, eq=False)
class TrainResult:
    """What a fine-tuning command produced, and what its report shows.

    With several seeds the metrics are those of the first seed, whose model is kept. With folds they
    are means over the folds.

    Attributes:
        config: settings of the run; after a search those of the best trial.
        settings: the same without `auto`, with what the table and training decided.
        model: path of the model file.
        targets: targets of the model.
        uncertainty: calibration, intervals and prediction sets of the model.
        domain: applicability domain of the model; None if it could not be fitted.
        evaluation: metrics.
        uncertainty_metrics: of the sets `validation` and `test`, per target; with folds each fold
            contributes its own molecules.
        statistics: mean and standard deviation of the metrics over several runs: `validation`,
            `test` and `baseline_test`; empty for one run.
        predictions: of the test rows.
        baseline: the random forest baseline.
        table: the rows of the table.
        histories: epochs of each member of each run.
        tree_models: trees of the model file.
        members: networks and trees, each alone; weights and metrics are means over folds.
        runs: one for each seed or fold.
        search: the hyperparameter search; None without one.
        refitted: the model of the file, if it was trained again on all rows; everything else is of
            the model before.
    """

    config: TrainConfig
    settings: ResolvedSettings
    model: Path
    targets: tuple[Target, ...]
    uncertainty: Uncertainty
    domain: ApplicabilityDomain | None
    evaluation: Evaluation
    uncertainty_metrics: dict[str, dict[str, UncertaintyMetrics]]
    statistics: dict[str, MetricStatistics]
    predictions: LabelledPredictions
    baseline: BaselineComparison
    table: TableSummary
    histories: tuple[EpochHistory, ...]
    tree_models: tuple[TreeModel, ...] = ()
    members: tuple[MemberEvaluation, ...] = ()
    runs: tuple[Run, ...] = ()
    search: Search | None = None
    refitted: Refitted | None = None

    @property
    def validation(self) -> dict[str, Metrics]:
        """Metrics on the validation set, per target."""
        return self.evaluation.validation

    @property
    def test(self) -> dict[str, Metrics]:
        """Metrics on the test set, per target."""
        return self.evaluation.test

    @property
    def kept_epoch(self) -> int:
        """Epoch of the kept weights of the first member, counted from 1."""
        return self.histories[0].kept_epoch


def aggregate_runs(
    config: TrainConfig,
    settings: ResolvedSettings,
    runs: Sequence[Run],
    prepared: PreparedRun,
    data: MoleculeDataset,
) -> TrainResult:
    """Aggregate runs: with seeds the first one is reported, with folds all are combined.

    Args:
        config: settings of the runs.
        settings: the same without `auto`, before training.
        runs: one for each seed or fold.
        prepared: the table.
        data: the usable rows with the extra features of `config`.
    """
    first, reported = runs[0], runs if config.folds else runs[:1]
    targets, uncertainty, evaluation = first.targets, first.uncertainty, first.evaluation
    if config.folds:
        targets, uncertainty = _fit_to_all_folds(runs, data)
        evaluation = Evaluation(
            validation=_mean_metrics([run.evaluation.validation for run in runs]),
            test=_mean_metrics([run.evaluation.test for run in runs]),
            constant_baseline=_mean_metrics([run.evaluation.constant_baseline for run in runs]),
        )
    domain = first.domain
    if domain is not None:
        domain = replace(domain, rows=prepared.usable[first.split.train[domain.rows]])
    tested = np.concatenate([run.split.test for run in reported])
    order = np.argsort(tested)
    tree_models = _merge_tree_models(reported, targets)
    n_members = count_members(sum(len(run.members) for run in reported), tree_models)
    columns = result_names(targets, n_members, uncertainty) + domain_names(domain)
    return TrainResult(
        config=config,
        settings=replace(
            settings.with_scaling(targets),
            pos_weight=first.uses_class_weights,
            uncertainty=_uncertainty_settings(config, first, uncertainty),
            prediction_columns=tuple(columns),
        ),
        model=config.folder / "model.safetensors",
        targets=targets,
        uncertainty=uncertainty,
        domain=domain,
        evaluation=evaluation,
        uncertainty_metrics={
            set_name: evaluate_uncertainty(
                concatenate_estimates([run.predictions.estimates[set_name] for run in reported])
            )
            for set_name in ("validation", "test")
        },
        statistics=_statistics_of(runs) if len(runs) > 1 else {},
        predictions=_merge_predictions(reported, data, prepared.usable, order),
        baseline=BaselineComparison(
            forest=_merge_forests(config, reported, order),
            comparisons=compare_with_baseline(
                targets,
                [run.predictions.test_uncalibrated for run in reported],
                [run.baseline for run in reported],
                [data.subset(run.split.test) for run in reported],
            ),
            note=prepared.tree_plan.note,
        ),
        tree_models=tree_models,
        members=_merge_evaluations(reported),
        table=TableSummary(
            rows=prepared.rows,
            labels=prepared.start.target_columns.values,
            split=_split_of_table(config, first, prepared.usable, tested[order]),
            duplicates=prepared.duplicates,
        ),
        histories=tuple(member.history for run in runs for member in run.members),
        runs=tuple(runs),
    )


def _split_of_table(
    config: TrainConfig,
    first: Run,
    usable: Int64[np.ndarray, " n"],
    tested: Int64[np.ndarray, " m"],
) -> Split:
    """Count the rows of each set in the table."""
    if config.folds:
        return Split(usable[:0], usable[:0], usable[tested])
    split = first.split
    return Split(usable[split.train], usable[split.validation], usable[split.test])


def _merge_predictions(
    runs: Sequence[Run],
    data: MoleculeDataset,
    usable: Int64[np.ndarray, " n"],
    order: Int64[np.ndarray, " m"],
) -> LabelledPredictions:
    """Merge the test predictions of folds into the order of the table."""
    tested = np.concatenate([run.split.test for run in runs])[order]
    scores = []
    for run in runs:
        place = run.predictions.domain_scores.row
        row = np.where(place < 0, -1, usable[run.split.train[place]])
        scores.append(replace(run.predictions.domain_scores, row=row))
    estimates = concatenate_estimates([run.predictions.estimates["test"] for run in runs])
    return LabelledPredictions(
        smiles=tuple(data.molecules[k].smiles for k in tested),
        labels=data.labels[tested],
        censoring=data.censoring[tested],
        predicted=np.concatenate([run.predictions.test for run in runs])[order],
        uncalibrated=np.concatenate([run.predictions.test_uncalibrated for run in runs])[order],
        estimates={name: reorder_estimate(estimate, order) for name, estimate in estimates.items()},
        domain_scores=DomainScores.concatenate(scores, order),
    )


def _merge_forests(
    config: TrainConfig, runs: Sequence[Run], order: Int64[np.ndarray, " m"]
) -> BaselineResult:
    """Merge the random forests of folds: predictions in the order of the table, mean metrics."""
    first = runs[0].baseline
    return replace(
        first,
        predicted=np.concatenate([run.baseline.predicted for run in runs])[order],
        test=_mean_metrics(_forest_metrics(runs)) if config.folds else first.test,
        n_censored=sum(run.baseline.n_censored for run in runs),
    )


def _merge_tree_models(runs: Sequence[Run], targets: tuple[Target, ...]) -> tuple[TreeModel, ...]:
    """Collect the trees of the model file; with folds the first trees of the forests of each.

    A fold's share of the trees and of the weights is one over the number of folds.
    """
    if len(runs) == 1:
        return runs[0].tree_models
    models = [
        model.first_trees(math.ceil(model.header.n_trees / len(runs))).with_weight(
            model.weight / len(runs)
        )
        for run in runs
        for model in run.tree_models
    ]
    order = {target.name: k for k, target in enumerate(targets)}
    return tuple(sorted(models, key=lambda model: order[model.target]))


def _merge_evaluations(runs: Sequence[Run]) -> tuple[MemberEvaluation, ...]:
    """Average the test metrics and weights of each member over folds."""
    merged: dict[str, list[MemberEvaluation]] = {}
    for run in runs:
        for one in run.member_evaluations:
            merged.setdefault(one.name, []).append(one)
    evaluations = []
    for name, several in merged.items():
        common = set.intersection(*(set(one.test) for one in several))
        tests = [{k: v for k, v in one.test.items() if k in common} for one in several]
        weights = {k: float(np.mean([one.weights[k] for one in several])) for k in tests[0]}
        test = _mean_metrics(tests) if len(tests) > 1 else tests[0]
        evaluations.append(MemberEvaluation(name, weights, test))
    return tuple(evaluations)


def _forest_metrics(runs: Sequence[Run]) -> list[dict[str, Metrics]]:
    """Return the test metrics of each forest, for the targets that all forests could learn."""
    common = set.intersection(*(set(run.baseline.test) for run in runs))
    return [
        {name: metrics for name, metrics in run.baseline.test.items() if name in common}
        for run in runs
    ]


def _fit_to_all_folds(
    runs: Sequence[Run], data: MoleculeDataset
) -> tuple[tuple[Target, ...], Uncertainty]:
    """Fit thresholds and uncertainty of the model file to the validation sets of all folds.

    One fold predicts each validation molecule, so that no standard deviation over folds is known
    and none is calibrated.
    """
    targets = runs[0].targets
    predicted = np.concatenate([run.predictions.validation for run in runs])
    rows = np.concatenate([run.split.validation for run in runs])
    labels = data.labels[rows]
    uncertainty = Uncertainty.fit(targets, predicted, None, labels, data.censoring[rows])
    calibrated = uncertainty.calibrate_probabilities(targets, predicted)
    return with_thresholds(targets, calibrated, labels), uncertainty


def _uncertainty_settings(
    config: TrainConfig, first: Run, uncertainty: Uncertainty
) -> UncertaintySettings:
    """Describe how uncertainty was fitted, and what is missing."""
    fitted_to = "the validation set"
    if config.folds:
        fitted_to = (
            "the validation sets of all folds, each predicted by the models of its own fold; the "
            "training molecules are those of fold 1"
        )
    # The notes of a run on targets are those of one fold; the notes of the model file count.
    domain_notes = [note for note in first.notes if note not in first.uncertainty.notes]
    return UncertaintySettings(
        fitted_to=fitted_to,
        probabilities={
            name: f"{known.probability.method}: {known.probability.reason}"
            for name, known in uncertainty.classes.items()
        },
        training_smiles=config.keep_training_smiles,
        notes=(*uncertainty.notes, *domain_notes),
    )


def _statistics_of(runs: Sequence[Run]) -> dict[str, MetricStatistics]:
    """Compute mean and standard deviation of the metrics over runs."""
    return {
        "validation": _metric_statistics([run.evaluation.validation for run in runs]),
        "test": _metric_statistics([run.evaluation.test for run in runs]),
        "baseline_test": _metric_statistics(_forest_metrics(runs)),
    }


def _aggregate_metrics(
    runs: Sequence[dict[str, Metrics]], aggregate: Callable[[list[float]], Any]
) -> dict[str, dict[str, Any]]:
    """Apply a function to the values of each metric in the runs in which it is defined."""
    aggregated: dict[str, dict[str, Any]] = {}
    for target in runs[0]:
        names = dict.fromkeys(name for run in runs for name in run[target])
        aggregated[target] = {
            name: aggregate([float(v) for run in runs if (v := run[target].get(name)) is not None])
            for name in names
        }
    return aggregated


def _mean_metrics(runs: Sequence[dict[str, Metrics]]) -> dict[str, Metrics]:
    """Compute the mean of each metric; counts are summed."""
    means = _aggregate_metrics(runs, lambda values: float(np.mean(values)) if values else None)
    for target, metrics in means.items():
        for name in metrics:
            if name.startswith("n"):
                metrics[name] = sum(int(run[target].get(name) or 0) for run in runs)
    return means


def _metric_statistics(runs: Sequence[dict[str, Metrics]]) -> MetricStatistics:
    """Compute the mean and the standard deviation (of the sample) of each metric."""

    def statistics(values: list[float]) -> dict[str, float | None]:
        return {
            "mean": float(np.mean(values)) if values else None,
            "std": float(np.std(values, ddof=1)) if len(values) > 1 else None,
        }

    return _aggregate_metrics(runs, statistics)
