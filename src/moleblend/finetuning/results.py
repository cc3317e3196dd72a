"""What fine-tuning came to: one run or several put together."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
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
from moleblend.finetuning.config import TrainConfig
from moleblend.finetuning.hyperparameter_search import Search
from moleblend.finetuning.run import Run, with_thresholds
from moleblend.prediction.inputs import Row

Spread = dict[str, dict[str, dict[str, float]]]
"""Of each target and metric the mean and the standard deviation over runs."""


@dataclass(frozen=True, eq=False)
class TrainResult:
    """What a run found, and what its report shows.

    With several seeds the figures are those of the first, which is the model that is kept; with
    folds they are means over the folds, and the predictions those of all folds for their tests.

    Attributes:
        config: of the run.
        model: path of the model file.
        targets: of the model in the file.
        validation: metrics per target on the validation part, of the weights that were kept.
        test: metrics per target on the test part, read once.
        trivial: test metrics of predicting the training mean; only for regression.
        history: see `Run.histories`, of the first member.
        kept_epoch: whose weights were kept, in the first member.
        parts: rows of each part, counted from 0 in the file; with folds all are tested.
        predicted: for the rows of the test part, see `columns.unscale_outputs`.
        labels: for the rows of the test part; NaN where missing.
        rows: status and reason of every row of the file.
        censoring: for the rows of the test part, 1 and -1 where a label is only a bound.
        runs: one for each seed or fold.
        spread: of the validation and test figures over several runs.
        choices: what was decided, and by what.
        uncertainty: of the model in the file.
        domain: of the model in the file.
        raw: as `predicted`, before probabilities are put right; areas under curves are of these.
        uncertainty_metrics: of each target on the validation and the test set; with folds, each
            fold's own on its own molecules.
        said: for the rows of the test part, how sure the model is of each target.
        smiles: of the rows of the test part.
        scores: of the same to the training molecules, whose rows are those of the file.
        measured: labels of every row of the file, one column for each target; NaN where missing.
        duplicates: molecules that stand in several rows.
        baseline: the random forest, put together as the predictions are.
        comparisons: how it compares with the model; with several seeds of the first.
        forest_note: what should be known of the number of its trees; may be empty.
        search: how the settings of `config` were found; None where they came as they are.
    """

    config: TrainConfig
    model: Path
    targets: tuple[Target, ...]
    validation: dict[str, Metrics]
    test: dict[str, Metrics]
    trivial: dict[str, Metrics]
    history: list[dict[str, int | float]]
    kept_epoch: int
    parts: Split
    predicted: Float64[np.ndarray, "m o"]
    labels: Float64[np.ndarray, "m t"]
    rows: list[Row]
    censoring: Int8[np.ndarray, "m t"] | None = None
    runs: tuple[Run, ...] = ()
    spread: dict[str, Spread] = field(default_factory=dict)
    choices: dict[str, Any] = field(default_factory=dict)
    uncertainty: Uncertainty = field(default_factory=Uncertainty)
    domain: ApplicabilityDomain | None = None
    raw: Float64[np.ndarray, "m o"] | None = None
    uncertainty_metrics: dict[str, dict[str, UncertaintyMetrics]] = field(default_factory=dict)
    said: dict[str, UncertaintyEstimate] = field(default_factory=dict)
    smiles: tuple[str, ...] = ()
    scores: DomainScores = field(default_factory=lambda: DomainScores.unknown(0))
    measured: Float64[np.ndarray, "r t"] | None = None
    duplicates: Duplicates = field(default_factory=Duplicates)
    baseline: BaselineResult = field(default_factory=BaselineResult)
    comparisons: tuple[Comparison, ...] = ()
    forest_note: str = ""
    search: Search | None = None


def aggregate_runs(
    config: TrainConfig,
    runs: Sequence[Run],
    data: MoleculeDataset,
    usable: Int64[np.ndarray, " n"],
    rows: list[Row],
    choices: dict[str, Any],
    measured: Float64[np.ndarray, "r t"],
    duplicates: Duplicates,
    forest_note: str = "",
) -> TrainResult:
    """Sum the runs up; the first stands for all seeds, all folds stand together."""
    first, shown = runs[0], runs if config.folds else runs[:1]
    tested = np.concatenate([run.parts.test for run in shown])
    order = np.argsort(tested)
    tested = tested[order]
    predicted, raw, forest = (
        np.concatenate(values)[order]
        for values in zip(
            *((run.predicted, run.raw, run.baseline.predicted) for run in shown), strict=True
        )
    )
    validation, test, trivial = first.validation, first.test, first.trivial
    parts = {name: usable[part] for name, part in asdict(first.parts).items()}
    targets, uncertainty = first.targets, first.uncertainty
    if config.folds:
        validation, test, trivial = (
            _means([getattr(run, name) for run in runs])
            for name in ("validation", "test", "trivial")
        )
        parts = {"train": usable[:0], "validation": usable[:0], "test": usable[tested]}
        targets, uncertainty = _of_folds(runs, data)
    spread = {}
    if len(runs) > 1:
        spread = {
            name: _spread([getattr(run, name) for run in runs]) for name in ("validation", "test")
        }
        spread["test_of_random_forest"] = _spread(_forests(runs))
    learnt = {
        target.name: {
            "mean": target.mean,
            "scale": target.scale,
            **({"threshold": target.threshold} if target.kind == "binary" else {}),
        }
        for target in targets
    }
    for name, values in learnt.items():
        choices["targets"][name] |= values
    choices["pos_weight"] = runs[0].is_weighted
    domain = first.domain
    if domain is not None:
        domain = replace(domain, rows=usable[first.parts.train[domain.rows]])
    choices["sureness"] = _sureness_choices(config, first, uncertainty)
    return TrainResult(
        config=config,
        model=config.folder / "model.safetensors",
        targets=targets,
        validation=validation,
        test=test,
        trivial=trivial,
        history=first.histories[0],
        kept_epoch=first.kept_epochs[0],
        parts=Split(**parts),
        predicted=predicted,
        labels=data.labels[tested],
        rows=rows,
        censoring=data.censoring[tested],
        runs=tuple(runs),
        spread=spread,
        choices=choices,
        uncertainty=uncertainty,
        domain=domain,
        raw=raw,
        uncertainty_metrics={
            part: evaluate_uncertainty(concatenate_estimates([run.said[part] for run in shown]))
            for part in ("validation", "test")
        },
        said={
            name: reorder_estimate(one, order)
            for name, one in concatenate_estimates([run.said["test"] for run in shown]).items()
        },
        smiles=tuple(data.molecules[k].smiles for k in tested),
        scores=_nearness(shown, usable, order),
        measured=measured,
        duplicates=duplicates,
        baseline=replace(
            first.baseline,
            predicted=forest,
            test=_means(_forests(shown)) if config.folds else first.baseline.test,
            n_censored=sum(run.baseline.n_censored for run in shown),
        ),
        comparisons=compare_with_baseline(
            targets,
            [run.raw for run in shown],
            [run.baseline for run in shown],
            [data.subset(run.parts.test) for run in shown],
        ),
        forest_note=forest_note,
    )


def _forests(runs: Sequence[Run]) -> list[dict[str, Metrics]]:
    """Give what the forests of all runs came to, for the targets that all could learn."""
    learnt = set.intersection(*(set(run.baseline.test) for run in runs))
    return [
        {name: found for name, found in run.baseline.test.items() if name in learnt} for run in runs
    ]


def _nearness(
    runs: Sequence[Run], usable: Int64[np.ndarray, " n"], order: Int64[np.ndarray, " m"]
) -> DomainScores:
    """Put together how near test molecules are; the nearest is named by its row in the file."""
    found = []
    for run in runs:
        place = run.scores.row
        row = np.where(place < 0, -1, usable[run.parts.train[place]])
        found.append(replace(run.scores, row=row))
    return DomainScores.concatenate(found, order)


def _of_folds(runs: Sequence[Run], data: MoleculeDataset) -> tuple[tuple[Target, ...], Uncertainty]:
    """Fit thresholds and sureness of the model in the file to the validation parts of all folds.

    A fold's prediction of its validation part has no spread over folds, so none is calibrated.
    """
    targets, judged = runs[0].targets, np.concatenate([run.judged for run in runs])
    rows = np.concatenate([run.parts.validation for run in runs])
    labels = data.labels[rows]
    uncertainty = Uncertainty.fit(targets, judged, None, labels, data.censoring[rows])
    return with_thresholds(
        targets, uncertainty.calibrate_probabilities(targets, judged), labels
    ), uncertainty


def _sureness_choices(config: TrainConfig, first: Run, uncertainty: Uncertainty) -> dict[str, Any]:
    """Say what is known of how sure predictions are, and from where."""
    fitted = "the validation part"
    if config.folds:
        fitted = (
            "the validation parts of all folds, each predicted by the models of its own fold; the "
            "training molecules are those of fold 1"
        )
    # A run's own notes on targets are of a fold; those of the file count.
    of_domain = [note for note in first.notes if note not in first.uncertainty.notes]
    return {
        "fitted_to": fitted,
        "probabilities": {
            name: f"{known.probability.method}: {known.probability.reason}"
            for name, known in uncertainty.classes.items()
        },
        "training_smiles": config.keep_training_smiles,
        "notes": [*uncertainty.notes, *of_domain],
    }


def _figures_of(runs: Sequence[dict[str, Metrics]], of: Callable[[list[float]], Any]) -> dict:
    """Sum up each metric of each target over the runs in which it is defined."""
    found: dict[str, dict[str, Any]] = {}
    for target in runs[0]:
        names = dict.fromkeys(name for run in runs for name in run[target])
        found[target] = {
            name: of([float(v) for run in runs if (v := run[target].get(name)) is not None])
            for name in names
        }
    return found


def _means(runs: Sequence[dict[str, Metrics]]) -> dict[str, Metrics]:
    """Mean of each metric; counts are summed."""
    found = _figures_of(runs, lambda values: float(np.mean(values)) if values else None)
    for target, metrics in found.items():
        for name in metrics:
            if name.startswith("n"):
                metrics[name] = sum(int(run[target].get(name) or 0) for run in runs)
    return found


def _spread(runs: Sequence[dict[str, Metrics]]) -> Spread:
    """Mean and standard deviation (of the sample) of each metric."""

    def summed(values: list[float]) -> dict[str, float | None]:
        return {
            "mean": float(np.mean(values)) if values else None,
            "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None,
        }

    return _figures_of(runs, summed)
