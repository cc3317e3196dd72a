"""Trees of a fine-tuning run: members of the model, and its baseline."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from jaxtyping import Float32, Float64

from moleblend.data.dataset import MoleculeDataset
from moleblend.data.targets import Target, exact_labels, output_slices
from moleblend.evaluation.baseline import BaselineResult
from moleblend.evaluation.metrics import Metrics, best_threshold, main_metric, target_metrics
from moleblend.trees.averaging import MemberValues, feature_columns, fit_weights
from moleblend.trees.training import TreePlan, train_tree_model
from moleblend.trees.tree_model import TreeModel

TREE_KINDS = ("ecfp4", "properties")
"""Kinds of the columns of `MoleculeDataset.tree_inputs`."""

NETWORK = "network"
"""Name of the networks among the members."""

_MOST_TARGETS = 4

Members = Literal["both", "network", "trees"]


@dataclass(frozen=True, eq=False)
class TrainedTrees:
    """The trees of one run.

    Attributes:
        models: all of them; their weights in the average of the model are 0 until they are fitted.
        not_trained: for each target without trees the reason.
        n_censored: censored training labels, which count as their limits.
    """

    models: tuple[TreeModel, ...] = ()
    not_trained: dict[str, str] = field(default_factory=dict)
    n_censored: int = 0

    @property
    def members(self) -> tuple[TreeModel, ...]:
        """The trees that belong to the model."""
        return tuple(model for model in self.models if model.weight > 0)


def train_trees(
    plan: TreePlan, targets: Sequence[Target], training: MoleculeDataset, seed: int
) -> TrainedTrees:
    """Train trees by each method of the plan for each target.

    Args:
        plan: methods and number of trees.
        targets: of the model.
        training: molecules to train on.
        seed: of the trees.
    """
    models: list[TreeModel] = []
    not_trained: dict[str, str] = {}
    for k, target in enumerate(targets):
        reason = ""
        for method in plan.methods:
            x = inputs_of(training, method.inputs)
            labels = training.labels[:, k]
            try:
                model = train_tree_model(target, method, x, labels, n_trees=plan.n_trees, seed=seed)
            except ValueError as error:
                reason = str(error)
                continue
            models.append(model)
        if reason and all(model.target != target.name for model in models):
            not_trained[target.name] = reason
    n_censored = int(np.count_nonzero(training.censoring)) if plan.methods else 0
    return TrainedTrees(tuple(models), not_trained, n_censored)


def weigh(
    trained: TrainedTrees,
    plan: TreePlan,
    members: Members,
    networks: Float64[np.ndarray, "m n o"],
    targets: Sequence[Target],
    validation: MoleculeDataset,
) -> TrainedTrees:
    """Fit the weights of the trees in the average of a model to the validation set.

    The networks count as one member, the mean of their predictions.

    Args:
        trained: the trees.
        plan: the methods, which have the prior weights.
        members: what the model averages.
        networks: predictions of the networks for the validation set.
        targets: of the model.
        validation: the validation set.
    """
    if members == "network" or not trained.models:
        return trained
    network = MemberValues.of_networks(networks).mean(targets)
    labels = exact_labels(validation.labels, validation.censoring)
    priors = {(method.is_boosted, method.inputs): method.prior for method in plan.methods}
    weighed = []
    for k, (target, where) in enumerate(zip(targets, output_slices(targets), strict=True)):
        of_target = [model for model in trained.models if model.target == target.name]
        models = [model for model in of_target if priors[_method_key(model)] > 0]
        weighed += [model for model in of_target if model not in models]  # only a baseline
        if not models:
            continue
        prior = [priors[_method_key(model)] for model in models]
        values = [_predict(model, validation, target) for model in models]
        if members == "both":
            prior, values = [1.0, *prior], [network[:, where], *values]
        fitted = fit_weights(np.stack(values), np.array(prior) / sum(prior), labels[:, k], target)[
            -len(models) :
        ]
        weighed += [
            model.with_weight(weight) for model, weight in zip(models, fitted.tolist(), strict=True)
        ]
    return replace(trained, models=tuple(weighed))


def _method_key(model: TreeModel) -> tuple[bool, tuple[str, ...]]:
    return model.header.is_boosted, model.inputs


@dataclass(frozen=True, eq=False)
class MemberEvaluation:
    """How good one member alone is on the test set.

    Attributes:
        name: `network`, or as `TreeModel.name`.
        weights: its weight in the average of each target; 0 if it is only a baseline.
        test: test metrics of each target, with a threshold of its own for a binary target.
    """

    name: str
    weights: dict[str, float]
    test: dict[str, Metrics]


def evaluate_members(
    trained: TrainedTrees,
    networks: tuple[Float64[np.ndarray, "_ o"], ...] | None,
    targets: Sequence[Target],
    validation: MoleculeDataset,
    test: MoleculeDataset,
) -> tuple[tuple[MemberEvaluation, ...], BaselineResult]:
    """Evaluate the networks and the trees of each method alone, as the model is evaluated.

    Args:
        trained: the trees, with their weights.
        networks: mean prediction of the networks for the validation and for the test set; None if
            they are not trained.
        targets: of the model.
        validation: chooses the threshold of a binary target, and the forest of the baseline.
        test: molecules to evaluate on.

    Returns:
        The members, and the baseline: for each target the random forest that is better on the
        validation set.
    """
    slices = output_slices(targets)
    members: dict[str, MemberEvaluation] = {}
    baseline = np.full((len(test), slices[-1].stop), np.nan)
    chosen: dict[str, tuple[float, str, Metrics]] = {}
    total = dict.fromkeys((target.name for target in targets), 0.0)
    for k, (target, where) in enumerate(zip(targets, slices, strict=True)):
        for model in (one for one in trained.models if one.target == target.name):
            total[target.name] += model.weight
            predicted = [_predict(model, one, target) for one in (validation, test)]
            quality, metrics = _test_one(target, k, *predicted, validation, test)
            member = members.setdefault(model.name, MemberEvaluation(model.name, {}, {}))
            member.weights[target.name], member.test[target.name] = model.weight, metrics
            is_better = target.name not in chosen or quality > chosen[target.name][0]
            if is_better and not model.header.is_boosted:
                chosen[target.name] = (quality, model.name, metrics)
                baseline[:, where] = predicted[1]
    if networks is not None:
        of_network = {
            target.name: _test_one(
                target, k, networks[0][:, where], networks[1][:, where], validation, test
            )[1]
            for k, (target, where) in enumerate(zip(targets, slices, strict=True))
        }
        weights = {name: 1 - weight for name, weight in total.items()}
        members = {NETWORK: MemberEvaluation(NETWORK, weights, of_network), **members}
    n_trees = max((model.header.n_trees for model in trained.models), default=0)
    return tuple(members.values()), BaselineResult(
        n_trees=n_trees,
        predicted=baseline,
        test={name: metrics for name, (_, _, metrics) in chosen.items()},
        chosen={name: member for name, (_, member, _) in chosen.items()},
        not_trained=trained.not_trained,
        n_censored=trained.n_censored,
    )


def describe_members(targets: Sequence[Target], members: Sequence[MemberEvaluation]) -> list[str]:
    """Say what the model averages, one sentence for each of the first targets."""
    sentences = []
    for target in targets[:_MOST_TARGETS]:
        metric, parts = main_metric(target), []
        for member in members:
            weight = member.weights.get(target.name, 0.0)
            if weight:
                value = member.test[target.name].get(metric)
                alone = "undefined" if value is None else f"{value:.4g}"
                parts.append(f"{weight:.2f} {member.name} (alone {metric} {alone})")
        if len(parts) > 1:
            sentences.append(f"average  {target.name}  {', '.join(parts)}")
    return sentences


def _predict(model: TreeModel, data: MoleculeDataset, target: Target) -> Float64[np.ndarray, "n c"]:
    return model.predict(inputs_of(data, model.inputs), target)


def inputs_of(data: MoleculeDataset, kinds: tuple[str, ...]) -> Float32[np.ndarray, "n f"]:
    """Return the inputs of trees of some kinds."""
    assert data.tree_inputs is not None
    return data.tree_inputs[:, feature_columns(TREE_KINDS, kinds)]


def _test_one(
    target: Target,
    k: int,
    of_validation: Float64[np.ndarray, "v c"],
    of_test: Float64[np.ndarray, "m c"],
    validation: MoleculeDataset,
    test: MoleculeDataset,
) -> tuple[float, Metrics]:
    """Compute the quality on the validation set (higher is better) and the test metrics."""
    labels, censoring = validation.labels[:, k], validation.censoring[:, k]
    if target.kind == "binary":
        target = replace(target, threshold=best_threshold(of_validation[:, 0], labels))
    on_validation = target_metrics(target, of_validation, labels, censoring)
    quality = _quality(on_validation, target)
    return quality, target_metrics(target, of_test, test.labels[:, k], test.censoring[:, k])


def _quality(metrics: Metrics, target: Target) -> float:
    """Return the metric by which members are compared; -infinity where it is not defined."""
    value = metrics.get(main_metric(target))
    if value is None:
        return -np.inf
    return -value if target.kind == "regression" else value
