"""One training run: a model, or the members of an ensemble, trained and tested on one split."""

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float32, Float64
from rich.console import Console

from moleblend.chem.molecule import Molecule
from moleblend.data.dataset import MoleculeDataset
from moleblend.data.labels.target_detection import TargetColumns
from moleblend.data.splits import Split
from moleblend.data.targets import Target, output_slices, unscale_outputs
from moleblend.evaluation.applicability_domain import (
    ApplicabilityDomain,
    DomainScores,
    domain_scores,
)
from moleblend.evaluation.baseline import BaselineResult
from moleblend.evaluation.metrics import (
    Metrics,
    best_threshold,
    metrics_by_target,
    regression_metrics,
)
from moleblend.evaluation.uncertainty import Uncertainty
from moleblend.evaluation.uncertainty_evaluation import UncertaintyEstimate, estimate_uncertainty
from moleblend.finetuning.callbacks import EpochHistory, ShouldContinue
from moleblend.finetuning.config import TrainConfig
from moleblend.finetuning.finished_members import FinishedMembers
from moleblend.finetuning.lightning_module import FineTuning
from moleblend.finetuning.scaling import (
    class_weights,
    remove_prior_shift,
    scale_features,
    scale_targets,
)
from moleblend.finetuning.trainer import TrainedModel, fit
from moleblend.finetuning.tree_members import (
    TREE_KINDS,
    MemberEvaluation,
    evaluate_members,
    train_trees,
    weigh,
)
from moleblend.model.blending import ShownViews
from moleblend.model.encoder_config import EncoderConfig
from moleblend.model.functional import seeded
from moleblend.model.growth import transfer
from moleblend.model.heads import Model, ModelConfig, Readout
from moleblend.trees.averaging import MemberValues
from moleblend.trees.training import TreePlan
from moleblend.trees.tree_model import TreeModel


@dataclass(frozen=True, eq=False)
class Start:
    """What all trainings of a command have in common.

    Attributes:
        source: source model; None for random weights.
        encoder: settings of its encoder.
        views: what the model sees of each molecule.
        target_columns: the targets.
        vectors: molecule vectors of the frozen source model; each is computed once.
        finished: members that an interrupted run has trained; None keeps none.
    """

    source: Model | None
    encoder: EncoderConfig
    views: ShownViews
    target_columns: TargetColumns
    vectors: dict[Molecule, Float32[torch.Tensor, "c d"]] = field(default_factory=dict)
    finished: FinishedMembers | None = None


@dataclass(frozen=True, eq=False)
class Member:
    """A trained model of a run.

    Attributes:
        model: with the weights of the kept epoch.
        history: its epochs.
    """

    model: Model
    history: EpochHistory


@dataclass(frozen=True)
class Evaluation:
    """Metrics of the kept weights, per target.

    Attributes:
        validation: on the validation set.
        test: on the test set, which is evaluated once.
        constant_baseline: test metrics of predicting the training mean; regression only.
    """

    validation: dict[str, Metrics]
    test: dict[str, Metrics]
    constant_baseline: dict[str, Metrics]


@dataclass(frozen=True, eq=False)
class RunPredictions:
    """Predictions of a run, see `targets.unscale_outputs`.

    Attributes:
        validation: of the validation set, before calibration.
        test: of the test set; probabilities are calibrated.
        test_uncalibrated: of the test set, before calibration.
        estimates: uncertainty estimates of the sets `validation` and `test`, per target.
        domain_scores: scores of the test molecules; rows count in the training set.
    """

    validation: Float64[np.ndarray, "v o"]
    test: Float64[np.ndarray, "m o"]
    test_uncalibrated: Float64[np.ndarray, "m o"]
    estimates: dict[str, dict[str, UncertaintyEstimate]]
    domain_scores: DomainScores


@dataclass(frozen=True, eq=False)
class Run:
    """One training run: one seed on one split.

    Attributes:
        seed: seed of the first member; each further member has the next integer.
        split: rows of each set, counted from 0 among the usable rows.
        members: one model, or the members of an ensemble.
        uses_class_weights: whether class 1 was weighted by the class ratio.
        targets: targets with the scaling of the training labels and the threshold chosen on the
            validation set.
        uncertainty: fitted to the validation predictions.
        domain: applicability domain of the training molecules, whose rows count in the training
            set; None if it could not be fitted.
        notes: what is missing in uncertainty and domain, and why.
        evaluation: metrics.
        predictions: on the validation and the test set.
        tree_models: trees that the model averages with the networks.
        member_evaluations: test metrics of the networks and of the trees of each method alone.
        baseline: for each target the better random forest.
    """

    seed: int
    split: Split
    members: tuple[Member, ...]
    uses_class_weights: bool
    targets: tuple[Target, ...]
    uncertainty: Uncertainty
    domain: ApplicabilityDomain | None
    notes: tuple[str, ...]
    evaluation: Evaluation
    predictions: RunPredictions
    tree_models: tuple[TreeModel, ...]
    member_evaluations: tuple[MemberEvaluation, ...]
    baseline: BaselineResult


def train_and_test(
    config: TrainConfig,
    seed: int,
    start: Start,
    data: MoleculeDataset,
    split: Split,
    plan: TreePlan,
    console: Console,
) -> Run:
    """Train networks and trees, fit the weights of their average, then evaluate the test set.

    Args:
        config: settings of the run.
        seed: seed of the first member; each further member has the next integer.
        start: what all runs have in common.
        data: the usable rows.
        split: rows of each set among the usable rows.
        plan: methods and number of trees.
        console: where epochs are printed.

    Raises:
        SettingError: a target has no label in the training set.
        TrainingError: the loss or a prediction is not finite.
        KeyboardInterrupt: Ctrl-C was pressed, or SIGTERM was received.
    """
    training, validation, test = map(data.subset, (split.train, split.validation, split.test))
    members, uses_class_weights = _train_members(config, seed, start, training, validation, console)
    modules = [member.module for member in members]
    targets = modules[0].model.config.targets

    def networks(dataset: MoleculeDataset) -> Float64[np.ndarray, "e m o"]:
        return np.stack([unscale_outputs(module.outputs(dataset), targets) for module in modules])

    of_validation = networks(validation)
    trained = train_trees(plan, targets, training, seed)
    trained = weigh(trained, plan, config.members, of_validation, targets, validation)

    def average(
        values: Float64[np.ndarray, "e m o"], dataset: MoleculeDataset
    ) -> tuple[Float64[np.ndarray, "m o"], Float64[np.ndarray, "m o"] | None]:
        joined = MemberValues.of(values, trained.members, dataset.tree_inputs, TREE_KINDS, targets)
        return joined.mean(targets), joined.std(targets)

    mean, std = average(of_validation, validation)
    uncertainty = Uncertainty.fit(targets, mean, std, validation.labels, validation.censoring)
    domain, domain_notes = _fit_domain(modules[0], training, validation, config)
    calibrated = uncertainty.calibrate_probabilities(targets, mean)
    final = with_thresholds(targets, calibrated, validation.labels)
    for module in modules:
        module.model.config = replace(module.model.config, targets=final)
    of_test = networks(test)
    test_mean, test_std = average(of_test, test)
    each = tuple(MemberValues.of_networks(one).mean(final) for one in (of_validation, of_test))
    evaluations, baseline = evaluate_members(
        trained, None if config.members == "trees" else each, final, validation, test
    )
    predicted = uncertainty.calibrate_probabilities(final, test_mean)
    validation_scores, test_scores = (
        _score_domain(domain, modules[0], dataset) for dataset in (validation, test)
    )
    estimates = {
        name: estimate_uncertainty(
            uncertainty, final, *given, dataset.labels, dataset.censoring, scores.distance
        )
        for name, dataset, scores, given in (
            ("validation", validation, validation_scores, (mean, std)),
            ("test", test, test_scores, (test_mean, test_std)),
        )
    }
    return Run(
        seed=seed,
        split=split,
        members=tuple(Member(trained.module.model, trained.history) for trained in members),
        uses_class_weights=uses_class_weights,
        targets=final,
        uncertainty=uncertainty,
        domain=domain,
        notes=(*uncertainty.notes, *domain_notes),
        evaluation=Evaluation(
            validation=_score_calibrated(final, mean, calibrated, validation),
            test=_score_calibrated(final, test_mean, predicted, test),
            constant_baseline=_score_training_mean(final, test),
        ),
        predictions=RunPredictions(mean, predicted, test_mean, estimates, test_scores),
        tree_models=trained.members,
        member_evaluations=evaluations,
        baseline=baseline,
    )


def _train_members(
    config: TrainConfig,
    seed: int,
    start: Start,
    training: MoleculeDataset,
    validation: MoleculeDataset,
    console: Console,
) -> tuple[list[TrainedModel], bool]:
    """Train the members; with `pos_weight="try"` the first one decides on class weights.

    Returns:
        The members, and whether class weights are used.
    """
    options = {"off": (False,), "on": (True,), "try": (False, True)}[config.pos_weight]

    def train(seed: int, with_weights: bool) -> TrainedModel:
        return train_model(config, seed, start, training, validation, console, with_weights)

    tried = {with_weights: train(seed, with_weights) for with_weights in options}
    best = max(options, key=lambda with_weights: tried[with_weights].history.kept_score)
    if len(options) > 1:
        scores = "; ".join(
            f"{'with' if with_weights else 'without'} {tried[with_weights].history.kept_score:.4f}"
            for with_weights in options
        )
        console.print(f"validation score by class weights: {scores}", soft_wrap=True)
    return [tried[best], *(train(seed + k, best) for k in range(1, config.ensemble))], best


def with_thresholds(
    targets: tuple[Target, ...],
    probabilities: Float64[np.ndarray, "m o"],
    labels: Float64[np.ndarray, "m t"],
) -> tuple[Target, ...]:
    """Choose the threshold of each binary target on calibrated probabilities."""
    return tuple(
        replace(target, threshold=best_threshold(probabilities[:, where.start], labels[:, k]))
        if target.kind == "binary"
        else target
        for k, (target, where) in enumerate(zip(targets, output_slices(targets), strict=True))
    )


def train_model(
    config: TrainConfig,
    seed: int,
    start: Start,
    training: MoleculeDataset,
    validation: MoleculeDataset,
    console: Console,
    with_class_weights: bool,
    should_continue: ShouldContinue | None = None,
) -> TrainedModel:
    """Train one network; it then has the weights of the kept epoch.

    If the model has trees alone, it is not trained: it gives the vectors of the applicability
    domain.
    """
    source, targets = start.source, scale_targets(training, start.target_columns, config)
    model_config = ModelConfig(
        encoder=start.encoder,
        heads=None,
        targets=targets,
        head_dropout=config.head_dropout,
        readout=_readout(config, source),
        features=config.extra_features,
        n_features=training.features.shape[1],
    )
    with seeded(seed) as generator:
        model = transfer(source, model_config) if source else Model(model_config)
    if config.device != "cpu" and torch.cuda.is_available():
        torch.cuda.manual_seed_all(seed)
    scale_features(model, training, config)
    weights = class_weights(training, targets) if with_class_weights else None
    module = FineTuning(
        model,
        config,
        start.views,
        training,
        seed=seed,
        weights=weights,
        vectors=start.vectors if source else None,
        generator=generator,
    )
    if config.members == "trees" and should_continue is None:
        return TrainedModel(module, EpochHistory((), 0, 0.0))
    if start.finished is None or should_continue is not None:  # trials of a search are not kept
        trained = fit(module, validation, console, should_continue)
    else:
        trained = start.finished.get(module, lambda: fit(module, validation, console))
    if weights is not None:
        remove_prior_shift(trained.module.model, weights)
    return trained


def _readout(config: TrainConfig, source: Model | None) -> Readout:
    if config.readout != "auto":
        return config.readout
    return source.config.readout if source else "mean"


def _score_calibrated(
    targets: tuple[Target, ...],
    uncalibrated: Float64[np.ndarray, "m o"],
    calibrated: Float64[np.ndarray, "m o"],
    dataset: MoleculeDataset,
) -> dict[str, Metrics]:
    """Compute metrics of calibrated predictions.

    Areas under curves of several classes are those of uncalibrated predictions: their calibration
    is divided by its sum, which changes the ranking. That of two classes does not change it.
    """
    metrics = metrics_by_target(targets, calibrated, dataset)
    before = metrics_by_target(targets, uncalibrated, dataset)
    for target in targets:
        if target.kind == "multiclass":
            areas = {key: value for key, value in before[target.name].items() if "AUC" in key}
            metrics[target.name] |= areas
    return metrics


def _score_training_mean(targets: tuple[Target, ...], test: MoleculeDataset) -> dict[str, Metrics]:
    """Compute test metrics of predicting the training mean, for regression targets."""
    slices = output_slices(targets)
    means = unscale_outputs(np.zeros((len(test), slices[-1].stop)), targets)
    return {
        target.name: regression_metrics(
            means[:, where.start], test.labels[:, k], test.censoring[:, k], log10=target.log10
        )
        for k, (target, where) in enumerate(zip(targets, slices, strict=True))
        if target.kind == "regression"
    }


def _fit_domain(
    module: FineTuning,
    training: MoleculeDataset,
    validation: MoleculeDataset,
    config: TrainConfig,
) -> tuple[ApplicabilityDomain | None, list[str]]:
    """Fit the applicability domain; return a note instead if this is impossible."""
    try:
        domain = ApplicabilityDomain.fit(
            module.embeddings(training),
            [molecule.smiles for molecule in training.molecules],
            np.arange(len(training)),
            module.embeddings(validation),
            [molecule.smiles for molecule in validation.molecules],
            keep_smiles=config.keep_training_smiles,
        )
    except (
        ValueError
    ) as error:  # too few molecules, or RDKit cannot parse the SMILES of a mol block
        return None, [f"predictions have no domain, similarity and nearest: {error}"]
    return domain, []


def _score_domain(
    domain: ApplicabilityDomain | None, module: FineTuning, dataset: MoleculeDataset
) -> DomainScores:
    """Score molecules by their distance to the training set; unknown without a domain."""
    if domain is None:
        return DomainScores.unknown(len(dataset))
    smiles = [molecule.smiles for molecule in dataset.molecules]
    return domain_scores(domain, module.embeddings(dataset), smiles)
