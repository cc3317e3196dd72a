"""Average the networks and the trees of a model.

Regression values are averaged in the scale that the model is trained on. With trees, classes are
averaged in log-odds: a member that is sure counts more than one that is not. A model without trees
averages the probabilities of its networks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Float64
from scipy.special import expit, log_expit, log_softmax, softmax

from moleblend.chem.descriptors import FEATURES
from moleblend.data.targets import Target, output_slices
from moleblend.errors import ModelFileError
from moleblend.trees.tree_model import TreeModel

SHRINKAGE = 10.0
"""Strength with which weights are drawn to the prior, in validation molecules; chosen on
development splits, see `benchmarks/development/members.py`."""

SMALLEST_WEIGHT = 0.02
"""A member with less has no weight."""

_MIN_LABELS = 10
"""Validation labels below which the weights are the prior."""

SMALLEST_SHARE = 2e-3
"""Probabilities are clipped to this distance from 0 and 1 before their logarithm is taken."""

_TEMPERATURE_PRIOR = 50.0
"""Strength with which the temperature of a member is drawn to 1, in validation molecules."""


@dataclass(frozen=True, eq=False)
class MemberValues:
    """Predictions of all members, and their weights.

    Attributes:
        values: of m members, as `targets.unscale_outputs` gives them. A member that does not
            predict a target has the weight 0 there.
        weights: of each member in each column; they sum to 1 over the members.
        has_trees: whether classes are averaged in log-odds.
    """

    values: Float64[np.ndarray, "m n o"]
    weights: Float64[np.ndarray, "m o"]
    has_trees: bool = False

    @classmethod
    def of_networks(cls, values: Float64[np.ndarray, "m n o"]) -> "MemberValues":
        """Give all networks of a model without forests the same weight."""
        return cls(values, np.full(values.shape[::2], 1 / len(values)))

    @classmethod
    def of(
        cls,
        networks: Float64[np.ndarray, "m n o"],
        models: Sequence[TreeModel],
        inputs: Float32[np.ndarray, "n f"] | None,
        kinds: Sequence[str],
        targets: Sequence[Target],
    ) -> "MemberValues":
        """Predict with the trees and join their predictions to those of the networks.

        Args:
            networks: predictions of the networks; NaN for a row that cannot be used.
            models: the trees of the model; may be empty.
            inputs: of the trees, see `descriptors.molecule_features`; None if there are none.
            kinds: of the features in `inputs`, in their order.
            targets: of the model.
        """
        if not models or inputs is None:
            return cls.of_networks(networks)
        by_target: dict[str, list[TreeModel]] = {}
        for model in models:
            by_target.setdefault(model.target, []).append(model)
        n_networks, n_slots = len(networks), max(map(len, by_target.values()))
        values = np.concatenate([networks, np.repeat(networks.mean(0)[None], n_slots, 0)])
        weights = np.zeros(values.shape[::2])
        weights[:n_networks] = 1 / n_networks
        is_known = ~np.isnan(networks).any((0, 2))
        for target, where in zip(targets, output_slices(targets), strict=True):
            of_target = by_target.get(target.name, [])
            for row, model in enumerate(of_target, n_networks):
                x = inputs[is_known][:, feature_columns(kinds, model.inputs)]
                values[row, is_known, where] = model.predict(x, target)
                weights[row, where] = model.weight
            of_networks = max(1 - sum(model.weight for model in of_target), 0.0)
            weights[:n_networks, where] = of_networks / n_networks
        return cls(values, weights, has_trees=True)

    def mean(self, targets: Sequence[Target]) -> Float64[np.ndarray, "n o"]:
        """Average over the members; logarithms where the model is trained on them."""
        if not self.has_trees:
            mean = self.values.mean(0)
            for target, where in zip(targets, output_slices(targets), strict=True):
                if target.log10:
                    mean[:, where] = 10.0 ** np.log10(self.values[..., where]).mean(0)
            return mean
        mean = np.empty(self.values.shape[1:])
        for target, where in zip(targets, output_slices(targets), strict=True):
            scaled = to_average(self.values[..., where], target)
            weighted = np.einsum("mno,mo->no", scaled, self.weights[:, where])
            mean[:, where] = from_average(weighted, target)
        return mean

    def std(self, targets: Sequence[Target]) -> Float64[np.ndarray, "n o"] | None:
        """Compute the standard deviation over the members; None for a single member.

        It is that of logarithms where the model is trained on them, and of probabilities for
        classes.
        """
        if len(self.values) == 1:
            return None
        std = self.std_of(self.values)
        for target, where in zip(targets, output_slices(targets), strict=True):
            if target.log10:
                of_target = self.of_target(where)
                std[:, where] = of_target.std_of(np.log10(of_target.values))
        return std

    def std_of(self, values: Float64[np.ndarray, "m n o"]) -> Float64[np.ndarray, "n o"]:
        """Compute the standard deviation of values of the members, with their weights."""
        if not self.has_trees:
            return values.std(0)
        mean = np.einsum("mno,mo->no", values, self.weights)
        return np.sqrt(np.einsum("mno,mo->no", (values - mean) ** 2, self.weights))

    def of_target(self, where: slice) -> "MemberValues":
        """Return the members' predictions of one target, see `targets.output_slices`."""
        return MemberValues(self.values[..., where], self.weights[:, where], self.has_trees)


def to_average(values: Float[np.ndarray, "... c"], target: Target) -> Float64[np.ndarray, "... c"]:
    """Convert predictions to the scale in which they are averaged: log-odds for classes."""
    if target.kind == "regression":
        return target.to_training_scale(values)
    shares = np.clip(values, SMALLEST_SHARE, 1 - SMALLEST_SHARE)
    if target.kind == "binary":
        return np.log(shares) - np.log1p(-shares)
    return np.log(shares)


def from_average(values: Float[np.ndarray, "n c"], target: Target) -> Float64[np.ndarray, "n c"]:
    """Convert averages of `to_average` back to predictions."""
    if target.kind == "regression":
        return target.from_training_scale(values)
    return expit(values) if target.kind == "binary" else softmax(values, 1)


def fit_weights(
    values: Float64[np.ndarray, "m n c"],
    prior: Float64[np.ndarray, " m"],
    label: Float64[np.ndarray, " n"],
    target: Target,
) -> Float64[np.ndarray, " m"]:
    """Fit the weights of the members of one target to validation molecules.

    The weights minimise the loss of the average (squared error over that of the best member, or
    cross-entropy) plus a penalty for their distance to the prior. The penalty counts as much as
    `SHRINKAGE` molecules: a few validation molecules hardly move the weights, and a member that is
    far behind on many gets none. The log-odds of a member are first divided by a temperature, since
    a member that is too sure of itself would outweigh the others.

    Args:
        values: predictions of m members, as `targets.unscale_outputs` gives them.
        prior: weights without evidence, which sum to 1.
        label: in the unit of the file, or class numbers; NaN where it is missing or censored.
        target: the target.

    Returns:
        Weights of at least 0 that sum to 1.

    Reference:
        Breiman, Machine Learning 1996, doi:10.1007/BF00117832 (stacked regressions); Guo et al.,
        ICML 2017, arXiv:1706.04599 (temperature).
    """
    from scipy.optimize import minimize  # takes 0.1 s, which predicting does not need

    is_known = ~np.isnan(label) & ~np.isnan(values).any((0, 2))
    if is_known.sum() < _MIN_LABELS or len(values) == 1:
        return prior
    scaled, label = to_average(values[:, is_known], target), label[is_known]
    factor = np.ones(len(values))
    if target.kind != "regression":
        factor = np.array([1 / _temperature(one, label, target) for one in scaled])
        scaled = factor[:, None, None] * scaled
    loss = _loss_of(scaled, label, target)

    def objective(weights: Float64[np.ndarray, " m"]) -> float:
        penalty = SHRINKAGE / 2 * len(prior) * ((weights - prior) ** 2).sum()
        return loss(weights) + penalty

    found = minimize(
        objective,
        prior,
        method="SLSQP",
        bounds=[(0, 1)] * len(prior),
        constraints={"type": "eq", "fun": lambda weights: weights.sum() - 1},
    )
    weights = np.clip(found.x, 0, None) * factor
    if not np.isfinite(weights).all() or weights.sum() <= 0:
        return prior
    weights /= weights.sum()
    weights[weights < SMALLEST_WEIGHT] = 0
    return weights / weights.sum()


def _loss_of(
    scaled: Float64[np.ndarray, "m n c"], label: Float64[np.ndarray, " n"], target: Target
) -> Callable[[Float64[np.ndarray, " m"]], float]:
    """Return the loss of an average as a function of the weights, in molecules."""
    if target.kind == "regression":
        errors = scaled[..., 0] - target.to_training_scale(label)
        smallest = max((errors**2).mean(1).min(), np.finfo(float).tiny)
        return lambda weights: float(((weights @ errors) ** 2).sum() / smallest / 2)
    if target.kind == "binary":
        sign = 2 * label - 1
        return lambda weights: float(-log_expit(sign * (weights @ scaled[..., 0])).sum())
    row, classes = np.arange(len(label)), label.astype(np.int64)
    return lambda weights: float(
        -log_softmax(np.einsum("m,mnc->nc", weights, scaled), 1)[row, classes].sum()
    )


def _temperature(
    scaled: Float64[np.ndarray, "n c"], label: Float64[np.ndarray, " n"], target: Target
) -> float:
    """Fit the temperature of one member by its cross-entropy, drawn to 1."""
    from scipy.optimize import minimize_scalar

    loss = _loss_of(scaled[None], label, target)

    def objective(logarithm: float) -> float:
        return loss(np.exp([-logarithm])) + _TEMPERATURE_PRIOR / 2 * logarithm**2

    return float(np.exp(minimize_scalar(objective, bounds=(-3, 3), method="bounded").x))


def feature_columns(kinds: Sequence[str], wanted: Sequence[str]) -> list[int] | slice:
    """Find the columns of some kinds of features among those of all kinds."""
    start, places = 0, {}
    for kind in kinds:
        places[kind] = range(start, start := start + FEATURES[kind])
    columns = [column for kind in wanted for column in places[kind]]
    is_run = columns == list(range(columns[0], columns[0] + len(columns)))
    return slice(columns[0], columns[0] + len(columns)) if is_run else columns


def check_trees(models: Sequence[TreeModel], targets: Sequence[Target]) -> None:
    """Check that the trees of a model file predict its targets.

    Raises:
        ModelFileError: trees are of another target, have another number of classes, or the weights
            of a target sum to more than 1.
    """
    known = {target.name: target for target in targets}
    sums = dict.fromkeys(known, 0.0)
    for model in models:
        if model.target not in known:
            raise ModelFileError(f"trees: the model has no target {model.target!r}")
        expected = known[model.target].n_outputs
        if model.header.n_values != expected:
            raise ModelFileError(
                f"trees: got {model.header.n_values} values of {model.target!r}, expected "
                f"{expected}"
            )
        sums[model.target] += model.weight
    for name, total in sums.items():
        if total > 1 + 1e-6:
            raise ModelFileError(f"trees: the weights of {name!r} sum to {total:g}, above 1")


def feature_kinds(of_network: Sequence[str], models: Sequence[TreeModel]) -> tuple[str, ...]:
    """List the kinds of features that a model reads: those of the network first."""
    kinds = (kind for model in models for kind in model.inputs)
    return tuple(dict.fromkeys([*of_network, *kinds]))


def count_members(n_networks: int, models: Sequence[TreeModel]) -> int:
    """Count the members of a model: the networks, and the tree models of the target with most."""
    names = [model.target for model in models]
    return n_networks + max((names.count(name) for name in names), default=0)
