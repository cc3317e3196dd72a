"""One run of fine-tuning: a model, or the members of an ensemble, trained and judged on a split."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float32, Float64
from rich.console import Console

from moleblend.chem.descriptors import FEATURES
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
from moleblend.evaluation.baseline import BaselineResult, train_forest
from moleblend.evaluation.metrics import (
    Metrics,
    best_threshold,
    metrics_by_target,
    regression_metrics,
)
from moleblend.evaluation.uncertainty import Uncertainty
from moleblend.evaluation.uncertainty_evaluation import UncertaintyEstimate, estimate_uncertainty
from moleblend.finetuning.config import TrainConfig
from moleblend.finetuning.hyperparameter_search import GoesOn
from moleblend.finetuning.lightning_module import FineTuning, fit
from moleblend.model import checkpoint
from moleblend.model.blending import ShownViews
from moleblend.model.encoder import EncoderConfig
from moleblend.model.heads import Model, ModelConfig, Readout
from moleblend.prediction.outputs import mean_over_members, std_over_members


@dataclass(frozen=True, eq=False)
class Start:
    """What every training of a run begins with.

    Attributes:
        source: the model that is started from; None for random weights.
        encoder: its settings.
        views: what is used of each molecule.
        target_columns: the targets.
        vectors: what the source gave for molecules, frozen; each is computed once in a run.
    """

    source: Model | None
    encoder: EncoderConfig
    views: ShownViews
    target_columns: TargetColumns
    vectors: dict[Molecule, Float32[torch.Tensor, "c d"]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Run:
    """One training: one seed on one split.

    Attributes:
        seed: of its first member; the others have the next ones.
        parts: rows of each part, counted from 0 among the usable rows.
        targets: with the scaling of the training labels and the threshold chosen on validation.
        models: one, or the members of an ensemble.
        histories: of each member, per epoch: `epoch`, `training_loss`, and `validation`, the figure
            epochs are compared by: mean ROC-AUC of the classes, mean RMSE in standard deviations of
            the regression targets (a bound counts where it is broken), their difference where there
            are both; or, where neither is defined, the loss.
        kept_epochs: of each member, whose weights were kept.
        validation: metrics per target on the validation part, of the weights that were kept.
        test: metrics per target on the test part, read once.
        trivial: test metrics of predicting the training mean; only for regression.
        predicted: for the test part, see `columns.unscale_outputs`; probabilities are put right.
        raw: the same, before they are put right.
        is_weighted: whether class 1 was weighed by how rare it is.
        judged: for the validation part, before probabilities are put right.
        uncertainty: fitted to that.
        domain: the training molecules; None where they could not be kept, `notes` say why.
        said: of the parts `validation` and `test`, how sure the model is.
        scores: of the test part to the training part, whose places are its rows.
        baseline: the forest.
        notes: what is not known of sureness, and why.
    """

    seed: int
    parts: Split
    targets: tuple[Target, ...]
    models: tuple[Model, ...]
    histories: tuple[list[dict[str, int | float]], ...]
    kept_epochs: tuple[int, ...]
    validation: dict[str, Metrics]
    test: dict[str, Metrics]
    trivial: dict[str, Metrics]
    predicted: Float64[np.ndarray, "m o"]
    raw: Float64[np.ndarray, "m o"]
    is_weighted: bool
    judged: Float64[np.ndarray, "v o"]
    uncertainty: Uncertainty
    domain: ApplicabilityDomain | None
    said: dict[str, dict[str, UncertaintyEstimate]]
    scores: DomainScores
    baseline: BaselineResult
    notes: tuple[str, ...]


def train_and_test(
    config: TrainConfig,
    seed: int,
    start: Start,
    data: MoleculeDataset,
    split: Split,
    n_trees: int,
    console: Console,
) -> Run:
    """Train one model or the members of an ensemble, then read the test part.

    Args:
        config: what was asked for.
        seed: of the first member; the others have the next ones.
        start: what is the same in all runs.
        data: the usable rows.
        split: the places of its parts among them.
        n_trees: of the forest beside the model; 0 for none.
        console: where epochs are shown.

    Raises:
        ValueError: a target has no label in the training part.
        FloatingPointError: the loss is no longer a number.
        KeyboardInterrupt: Ctrl-C was pressed, or SIGTERM came.
    """
    training, validation, test = map(data.subset, (split.train, split.validation, split.test))
    ways = {"off": (False,), "on": (True,), "try": (False, True)}[config.pos_weight]

    def trained(seed: int, is_weighted: bool) -> FineTuning:
        return train_model(config, seed, start, training, validation, console, is_weighted)

    tried = {way: trained(seed, way) for way in ways}
    is_weighted = max(ways, key=lambda way: tried[way].kept_figure)
    if len(ways) > 1:
        said = "; ".join(f"{'with' if w else 'without'} {tried[w].kept_figure:.4f}" for w in ways)
        console.print(f"weights of class 1, judged on validation: {said}", soft_wrap=True)
    members = [tried[is_weighted]]
    members += [trained(seed + k, is_weighted) for k in range(1, config.ensemble)]
    targets = members[0].model.config.targets

    def answer(
        part: MoleculeDataset,
    ) -> tuple[Float64[np.ndarray, "m o"], Float64[np.ndarray, "m o"] | None]:
        values = np.stack([unscale_outputs(member.outputs(part), targets) for member in members])
        return mean_over_members(values, targets), std_over_members(values, targets)

    raw, spread = answer(validation)
    uncertainty = Uncertainty.fit(targets, raw, spread, validation.labels, validation.censoring)
    domain, missing = _domain(members[0], training, validation, config)
    judged = uncertainty.calibrate_probabilities(targets, raw)
    final = with_thresholds(targets, judged, validation.labels)
    for member in members:
        member.model.config = replace(member.model.config, targets=final)
    raw_test, test_spread = answer(test)
    predicted = uncertainty.calibrate_probabilities(final, raw_test)
    near_validation, near_test = (_nearness(domain, members[0], p) for p in (validation, test))
    said = {
        name: estimate_uncertainty(
            uncertainty, final, *given, part.labels, part.censoring, near.distance
        )
        for name, part, near, given in (
            ("validation", validation, near_validation, (raw, spread)),
            ("test", test, near_test, (raw_test, test_spread)),
        )
    }
    means = unscale_outputs(np.zeros((len(test), predicted.shape[1])), final)
    return Run(
        seed=seed,
        parts=split,
        targets=final,
        models=tuple(member.model for member in members),
        histories=tuple(member.history for member in members),
        kept_epochs=tuple(member.kept_epoch for member in members),
        validation=_scored(final, raw, judged, validation),
        test=_scored(final, raw_test, predicted, test),
        trivial={
            target.name: regression_metrics(
                means[:, where.start], test.labels[:, k], test.censoring[:, k], log10=target.log10
            )
            for k, (target, where) in enumerate(zip(final, output_slices(final), strict=True))
            if target.kind == "regression"
        },
        predicted=predicted,
        raw=raw_test,
        is_weighted=is_weighted,
        judged=raw,
        uncertainty=uncertainty,
        domain=domain,
        said=said,
        scores=near_test,
        baseline=train_forest(n_trees, final, training, validation, test, seed),
        notes=(*uncertainty.notes, *missing),
    )


def with_thresholds(
    targets: tuple[Target, ...],
    probabilities: Float64[np.ndarray, "m o"],
    labels: Float64[np.ndarray, "m t"],
) -> tuple[Target, ...]:
    """Choose the threshold of each binary target on probabilities that are put right."""
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
    is_weighted: bool,
    goes_on: GoesOn | None = None,
) -> FineTuning:
    """Train one model; it then has the weights that are kept."""
    source, targets = start.source, _targets(training, start.target_columns, config)
    model_config = ModelConfig(
        encoder=start.encoder,
        heads=None,
        targets=targets,
        head_dropout=config.head_dropout,
        readout=_readout(config, source),
        features=config.joined,
        n_features=training.features.shape[1],
    )
    torch.manual_seed(seed)
    model = checkpoint.transfer(source, model_config) if source else Model(model_config)
    _scale_features(model, training, config)
    run = FineTuning(
        model,
        config,
        start.views,
        training,
        validation,
        console,
        seed=seed,
        weights=_class_weights(training, targets) if is_weighted else None,
        vectors=start.vectors if source else None,
        goes_on=goes_on,
    )
    fit(run)
    return run


def _readout(config: TrainConfig, source: Model | None) -> Readout:
    if config.readout != "auto":
        return config.readout
    return source.config.readout if source else "mean"


def _targets(
    training: MoleculeDataset, target_columns: TargetColumns, config: TrainConfig
) -> tuple[Target, ...]:
    """Scale regression targets by the training labels; by bounds too if those do not differ."""
    targets = []
    for k, (label_column, unit) in enumerate(
        zip(target_columns.label_columns, target_columns.units, strict=True)
    ):
        labels, is_exact = training.labels[:, k], training.censoring[:, k] == 0
        seen = labels[~np.isnan(labels)]
        if not len(seen):
            raise ValueError(
                f"{config.data}: target {label_column.name!r} has no label in the training part"
            )
        if label_column.kind != "regression":
            targets.append(
                Target(label_column.name, label_column.kind, classes=label_column.classes)
            )
            continue
        exact = labels[~np.isnan(labels) & is_exact]
        # Where exact labels say nothing of the scale, bounds do.
        seen = exact if len(exact) and np.ptp(exact) > 0 else seen
        log10 = label_column.name in config.log_scale
        seen = np.log10(seen) if log10 else seen
        scale = float(seen.std()) if np.ptp(seen) > 0 else 1.0
        target = Target(label_column.name, "regression", unit, float(seen.mean()), scale, log10)
        targets.append(target)
    return tuple(targets)


def _class_weights(training: MoleculeDataset, targets: Sequence[Target]) -> torch.Tensor:
    """Negatives per positive of each binary target, at most 100; 1 for the others."""
    weights = np.ones(len(targets), np.float32)
    for k, target in enumerate(targets):
        n_positive = np.nansum(training.labels[:, k] == 1)
        if target.kind == "binary" and n_positive:
            weights[k] = min(np.nansum(training.labels[:, k] == 0) / n_positive, 100)
    return torch.from_numpy(weights)


def _scale_features(model: Model, training: MoleculeDataset, config: TrainConfig) -> None:
    """Standardise descriptors by the training part; counts stay as they are."""
    start = 0
    for kind in config.joined:
        where = slice(start, start := start + FEATURES[kind])
        if kind == "descriptors" and model.property_head is not None:
            found = torch.from_numpy(training.features[:, where])
            spread = found.std(0, correction=0)
            model.property_head.feature_mean[where] = found.mean(0)
            model.property_head.feature_scale[where] = torch.where(spread > 0, spread, 1)


def _scored(
    targets: tuple[Target, ...],
    raw: Float64[np.ndarray, "m o"],
    right: Float64[np.ndarray, "m o"],
    part: MoleculeDataset,
) -> dict[str, Metrics]:
    """Score probabilities that are put right, but areas under curves before.

    Isotonic regression ties molecules and was fitted to validation, whose order it makes better
    than it is.
    """
    found, before = metrics_by_target(targets, right, part), metrics_by_target(targets, raw, part)
    for name, metrics in found.items():
        metrics |= {key: value for key, value in before[name].items() if "AUC" in key}
    return found


def _domain(
    member: FineTuning, training: MoleculeDataset, validation: MoleculeDataset, config: TrainConfig
) -> tuple[ApplicabilityDomain | None, list[str]]:
    """Keep the training molecules, by their places in that part; or say why this cannot be."""
    try:
        domain = ApplicabilityDomain.fit(
            member.embeddings(training),
            [molecule.smiles for molecule in training.molecules],
            np.arange(len(training)),
            member.embeddings(validation),
            [molecule.smiles for molecule in validation.molecules],
            keep_smiles=config.keep_training_smiles,
        )
    except ValueError as error:  # too few molecules, or RDKit refuses one that came as a mol block
        return None, [f"predictions come without domain, similarity and nearest: {error}"]
    return domain, []


def _nearness(
    domain: ApplicabilityDomain | None, member: FineTuning, part: MoleculeDataset
) -> DomainScores:
    """Say how near molecules are to the training part; nothing is known without a domain."""
    if domain is None:
        return DomainScores.unknown(len(part))
    return domain_scores(domain, member.embeddings(part), [m.smiles for m in part.molecules])
