"""Train the model of the file again on all labelled molecules, after its test set was evaluated."""

from dataclasses import dataclass, replace

import numpy as np
from rich.console import Console

from moleblend.data.dataset import MoleculeDataset
from moleblend.evaluation.applicability_domain import ApplicabilityDomain
from moleblend.finetuning.config import TrainConfig
from moleblend.finetuning.lightning_module import FineTuning
from moleblend.finetuning.run import Run, Start, train_model
from moleblend.finetuning.tree_members import train_trees
from moleblend.model.heads import Model
from moleblend.trees.training import TreePlan
from moleblend.trees.tree_model import TreeModel


@dataclass(frozen=True, eq=False)
class Refitted:
    """The model of the file, trained on all labelled molecules.

    Attributes:
        models: the networks.
        tree_models: the trees.
        domain: applicability domain, whose rows count among the usable rows; None without one.
        n_molecules: number of molecules.
    """

    models: list[Model]
    tree_models: tuple[TreeModel, ...]
    domain: ApplicabilityDomain | None
    n_molecules: int


def refit(
    config: TrainConfig,
    run: Run,
    start: Start,
    data: MoleculeDataset,
    plan: TreePlan,
    console: Console,
) -> Refitted:
    """Train the members of a run again on all usable rows.

    Settings, number of epochs, weights of the average, thresholds and calibration are those of the
    run. They were chosen on molecules that did not train it; nothing can be chosen on molecules
    that do.

    Args:
        config: settings of the run.
        run: the run whose test set has been evaluated.
        start: what all trainings have in common.
        data: the usable rows.
        plan: methods and number of trees.
        console: where epochs are printed.

    Raises:
        TrainingError: the loss or a prediction is not finite.
        KeyboardInterrupt: Ctrl-C was pressed, or SIGTERM was received.
    """
    n_epochs = max(run.members[0].history.kept_epoch, 1)
    settings = replace(config, epochs=n_epochs, patience=0)
    validation = data.subset(run.split.validation)  # for the log; it is also trained on
    trained = [
        train_model(
            settings, run.seed + k, start, data, validation, console, run.uses_class_weights
        )
        for k in range(len(run.members))
    ]
    targets = tuple(
        replace(target, threshold=before.threshold)
        for target, before in zip(trained[0].module.model.config.targets, run.targets, strict=True)
    )
    for one in trained:
        one.module.model.config = replace(one.module.model.config, targets=targets)
    weights = {(model.target, model.name): model.weight for model in run.tree_models}
    methods = tuple(method for method in plan.methods if method.prior > 0)
    models = train_trees(replace(plan, methods=methods), targets, data, run.seed).models
    return Refitted(
        models=[one.module.model for one in trained],
        tree_models=tuple(
            model.with_weight(weights[model.target, model.name])
            for model in models
            if weights.get((model.target, model.name), 0) > 0
        ),
        domain=_domain(trained[0].module, run, data, config),
        n_molecules=len(data),
    )


def _domain(
    module: FineTuning, run: Run, data: MoleculeDataset, config: TrainConfig
) -> ApplicabilityDomain | None:
    """Store all molecules; the thresholds are those of the validation set to the training set."""
    if run.domain is None:
        return None
    embeddings = module.embeddings(data)
    smiles = [molecule.smiles for molecule in data.molecules]

    def fit(rows: np.ndarray) -> ApplicabilityDomain:
        held_out = run.split.validation
        return ApplicabilityDomain.fit(
            embeddings[rows],
            [smiles[row] for row in rows],
            rows,
            embeddings[held_out],
            [smiles[row] for row in held_out],
            keep_smiles=config.keep_training_smiles,
        )

    return replace(fit(np.arange(len(data))), thresholds=fit(run.split.train).thresholds)
