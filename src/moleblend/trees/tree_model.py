"""Random forests and boosted trees as flat arrays, evaluated by numpy.

scikit-learn trains them, `TreeModel.from_sklearn` copies their nodes. So a model file needs no
pickle, and its predictions do not depend on the version of scikit-learn.

The nodes of a tree are in depth-first order: the left child of a node is the next node.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, Int16, Int32, Int64
from scipy.special import expit, softmax

from moleblend.chem.descriptors import FEATURES
from moleblend.data.targets import Target
from moleblend.errors import ModelFileError

LEAF = -1
"""The feature of a node that does not split."""

PREFIX = "trees."
"""Prefix of the tensor names in a model file."""

_ARRAYS = {
    "base": np.float32,
    "roots": np.int32,
    "feature": np.int16,
    "threshold": np.float32,
    "right": np.int32,
    "value": np.float32,
}
_PATHS_AT_ONCE = 2_000_000


@dataclass(frozen=True)
class TreeHeader:
    """What the header of a model file holds of trees. The field names are keys of the header.

    Attributes:
        target: name of the target that they predict.
        inputs: kinds of `descriptors.FEATURES` that they read, in this order.
        weight: of their prediction in the average of the members.
        is_boosted: whether they are summed (gradient boosting) or averaged (random forest).
        n_trees: number of trees.
        n_nodes: number of nodes of all trees.
        n_values: values of a node: one, or one for each of several classes.
    """

    target: str
    inputs: tuple[str, ...]
    weight: float
    is_boosted: bool
    n_trees: int
    n_nodes: int
    n_values: int

    def __post_init__(self) -> None:
        """Check inputs, sizes and weight."""
        if unknown := [kind for kind in self.inputs if kind not in FEATURES]:
            raise ModelFileError(
                f"trees: got the input {unknown[0]!r}, expected one of {', '.join(FEATURES)}"
            )
        if min(self.n_trees, self.n_nodes, self.n_values) < 1 or not 0 <= self.weight <= 1:
            raise ModelFileError(
                f"trees: got {self.n_trees} trees, {self.n_nodes} nodes, {self.n_values} values "
                f"and the weight {self.weight}, expected positive numbers and a share"
            )

    @property
    def n_inputs(self) -> int:
        """Number of inputs of a molecule."""
        return sum(FEATURES[kind] for kind in self.inputs)


@dataclass(frozen=True, eq=False)
class TreeModel:
    """A random forest, or boosted trees, for one target.

    Attributes:
        header: target, inputs, weight and sizes.
        base: what is added to the sum of boosted trees; 0 for a forest.
        roots: first node of each tree.
        feature: input that each node splits on, or `LEAF`.
        threshold: molecules with at most this input go to the left child.
        right: the right child of each node; 0 for a leaf.
        value: of the nodes of a forest, the mean over its training molecules: of the labels as the
            model is trained on them (`Target.to_training_scale`), of class 1, or of each of several
            classes. Of boosted trees what is added, to log-odds for classes.
    """

    header: TreeHeader
    base: Float32[np.ndarray, " c"]
    roots: Int32[np.ndarray, " t"]
    feature: Int16[np.ndarray, " k"]
    threshold: Float32[np.ndarray, " k"]
    right: Int32[np.ndarray, " k"]
    value: Float32[np.ndarray, "k c"]

    @classmethod
    def from_sklearn(
        cls,
        trained: Any,  # noqa: ANN401 (four classes without a common type)
        target: Target,
        inputs: tuple[str, ...],
    ) -> "TreeModel":
        """Copy the nodes of a trained model of scikit-learn; its weight is 0.

        Args:
            trained: a random forest, or gradient boosting with its default loss.
            target: that it predicts.
            inputs: kinds of features that it was trained on.
        """
        is_boosted = hasattr(trained, "init_")  # what boosting starts from
        trees = [one.tree_ for one in np.ravel(trained.estimators_)]
        classes = np.asarray(getattr(trained, "classes_", ()), float)
        per_step = np.shape(trained.estimators_)[1] if is_boosted else 1
        starts = [0, *accumulate(tree.node_count for tree in trees)]
        feature, threshold, right, value = [], [], [], []
        for number, (start, tree) in enumerate(zip(starts, trees, strict=False)):
            is_leaf = tree.children_left < 0
            if not (is_leaf | (tree.children_left == np.arange(1, tree.node_count + 1))).all():
                raise AssertionError("scikit-learn wrote the nodes of a tree in another order")
            feature.append(np.where(is_leaf, LEAF, tree.feature).astype(np.int16))
            threshold.append(_rounded_down(np.where(is_leaf, 0.0, tree.threshold)))
            right.append(np.where(is_leaf, 0, start + tree.children_right).astype(np.int32))
            if is_boosted:
                steps = trained.learning_rate * _consistent_values(tree)
                value.append(np.zeros((tree.node_count, target.n_outputs)))
                value[-1][:, number % per_step if per_step > 1 else -1] = steps
            else:
                value.append(_node_values(tree.value[:, 0, :], classes, target))
        base = _base(trained, target) if is_boosted else np.zeros(target.n_outputs)
        sizes = (len(trees), starts[-1], target.n_outputs)
        return cls(
            header=TreeHeader(target.name, inputs, 0.0, is_boosted, *sizes),
            base=base.astype(np.float32),
            roots=np.array(starts[:-1], np.int32),
            feature=np.concatenate(feature),
            threshold=np.concatenate(threshold),
            right=np.concatenate(right),
            value=np.concatenate(value).astype(np.float32),
        )

    @property
    def target(self) -> str:
        """Name of the target."""
        return self.header.target

    @property
    def inputs(self) -> tuple[str, ...]:
        """Kinds of features, in their order."""
        return self.header.inputs

    @property
    def weight(self) -> float:
        """Weight in the average of the members."""
        return self.header.weight

    @property
    def name(self) -> str:
        """Method and inputs, such as `gradient boosting on ecfp4 and properties`."""
        method = "gradient boosting" if self.header.is_boosted else "random forest"
        return f"{method} on {' and '.join(self.inputs)}"

    def with_weight(self, weight: float) -> "TreeModel":
        """Return the same trees with another weight in the average."""
        return replace(self, header=replace(self.header, weight=weight))

    def first_trees(self, n: int) -> "TreeModel":
        """Return a forest of the first `n` trees; boosted trees need each other."""
        if n >= len(self.roots) or self.header.is_boosted:
            return self
        end = int(self.roots[n])
        kept = {name: getattr(self, name)[:end] for name in ("feature", "threshold", "right")}
        return replace(
            self,
            header=replace(self.header, n_trees=n, n_nodes=end),
            roots=self.roots[:n],
            value=self.value[:end],
            **kept,
        )

    def predict(self, x: Float32[np.ndarray, "n f"], target: Target) -> Float64[np.ndarray, "n c"]:
        """Predict molecules.

        Args:
            x: their features of the kinds `inputs`.
            target: the target of the trees.

        Returns:
            As `targets.unscale_outputs`: values in the label's unit, or probabilities.
        """
        mean = np.zeros((len(x), self.header.n_values))
        step = max(_PATHS_AT_ONCE // len(self.roots), 1)
        for start in range(0, len(x), step):
            rows = slice(start, start + step)
            mean[rows] = self.value[self._leaves(x[rows])].astype(np.float64).mean(1)
        raw = self.base + len(self.roots) * mean if self.header.is_boosted else mean
        if target.kind == "regression":
            return target.from_training_scale(raw)
        if not self.header.is_boosted:
            return raw
        return expit(raw) if target.kind == "binary" else softmax(raw, 1)

    def contributions(
        self, x: Float32[np.ndarray, " f"]
    ) -> tuple[Float64[np.ndarray, " c"], Float64[np.ndarray, "f c"]]:
        """Attribute the prediction for one molecule to its inputs.

        The contribution of an input is the change of the node's value at the splits on this input
        along the path of the molecule, averaged over trees or summed over boosted ones.

        Returns:
            The value without contributions, and the contribution of each input. Their sum is the
            prediction, in the scale of `value`.

        Reference:
            Palczewska et al., 2014, doi:10.1007/978-3-319-04717-1_9.
        """
        factor = 1.0 if self.header.is_boosted else 1 / len(self.roots)
        node = self.roots.astype(np.int64)
        total = np.zeros((len(x), self.header.n_values))
        without = self.base + factor * self.value[node].astype(np.float64).sum(0)
        while len(node := node[self.feature[node] != LEAF]):
            child = self._children(node, x[self.feature[node]])
            change = self.value[child].astype(np.float64) - self.value[node]
            np.add.at(total, self.feature[node], factor * change)
            node = child
        return without, total

    def depth(self) -> int:
        """Count the splits on the longest path from a root to a leaf."""
        node, n_splits = self.roots.astype(np.int64), 0
        while len(node := node[self.feature[node] != LEAF]):
            node, n_splits = np.concatenate([node + 1, self.right[node]]), n_splits + 1
        return n_splits

    def _leaves(self, x: Float32[np.ndarray, "n f"]) -> Int64[np.ndarray, "n t"]:
        """Follow each molecule to a leaf of each tree."""
        node = np.tile(self.roots.astype(np.int64), len(x))
        row = np.repeat(np.arange(len(x)), len(self.roots))
        place = np.flatnonzero(self.feature[node] != LEAF)
        while len(place):
            at = node[place]
            child = self._children(at, x[row[place], self.feature[at]])
            node[place] = child
            place = place[self.feature[child] != LEAF]
        return node.reshape(len(x), -1)

    def _children(
        self, node: Int64[np.ndarray, " p"], x: Float32[np.ndarray, " p"]
    ) -> Int64[np.ndarray, " p"]:
        return np.where(x <= self.threshold[node], node + 1, self.right[node])


def tree_tensors(models: Sequence[TreeModel]) -> dict[str, np.ndarray]:
    """Concatenate the arrays of tree models, for a model file."""
    return {
        PREFIX + name: np.concatenate([getattr(model, name).ravel() for model in models])
        for name in _ARRAYS
        if models
    }


def trees_from_tensors(
    tensors: dict[str, np.ndarray], headers: Sequence[TreeHeader]
) -> tuple[TreeModel, ...]:
    """Rebuild tree models from the arrays of `tree_tensors`.

    Raises:
        ModelFileError: an array is missing, has another type or size, or holds no trees.
    """
    expected = {PREFIX + name for name in _ARRAYS if headers}
    if set(tensors) != expected:
        raise ModelFileError(
            f"trees: got {', '.join(sorted(tensors)) or 'nothing'}, expected "
            f"{', '.join(sorted(expected)) or 'nothing'}"
        )
    models, ends = [], dict.fromkeys(_ARRAYS, 0)
    for header in headers:
        sizes = dict.fromkeys(_ARRAYS, header.n_nodes) | {
            "base": header.n_values,
            "roots": header.n_trees,
            "value": header.n_nodes * header.n_values,
        }
        arrays = {}
        for name, kind in _ARRAYS.items():
            start, ends[name] = ends[name], ends[name] + sizes[name]
            arrays[name] = tensors[PREFIX + name][start : ends[name]]
            if arrays[name].dtype != kind or arrays[name].shape != (sizes[name],):
                raise ModelFileError(
                    f"trees: {name} of {header.target} has {arrays[name].size} numbers of type "
                    f"{arrays[name].dtype}, expected {sizes[name]} of {np.dtype(kind)}"
                )
        arrays["value"] = arrays["value"].reshape(header.n_nodes, header.n_values)
        models.append(TreeModel(header, **arrays))
        _check_nodes(models[-1])
    if any(len(tensors[PREFIX + name]) != end for name, end in ends.items() if headers):
        raise ModelFileError("trees: there are more nodes than the header counts")
    return tuple(models)


def _check_nodes(model: TreeModel) -> None:
    """Check that every path ends: a child comes after its parent, and exists."""
    n_nodes = model.header.n_nodes
    splits = np.flatnonzero(model.feature != LEAF)
    is_sound = (
        (model.feature >= LEAF).all()
        and (model.feature[splits] < model.header.n_inputs).all()
        and (model.right[splits] > splits + 1).all()
        and (model.right[splits] < n_nodes).all()
        and (model.roots >= 0).all()
        and (model.roots < n_nodes).all()
        and all(np.isfinite(one).all() for one in (model.base, model.value, model.threshold))
    )
    if not is_sound:
        raise ModelFileError(f"trees: the nodes of a tree of {model.target} are damaged")


def _rounded_down(threshold: Float64[np.ndarray, " k"]) -> Float32[np.ndarray, " k"]:
    """Round to float32 so that x <= threshold is unchanged for every x in float32."""
    rounded = threshold.astype(np.float32)
    lower = np.nextafter(rounded, np.float32(-np.inf))
    return np.where(rounded > threshold, lower, rounded)


def _node_values(
    value: Float64[np.ndarray, "k s"],
    classes: Float64[np.ndarray, " _"],
    target: Target,
) -> Float64[np.ndarray, "k c"]:
    """Return regression values, or the share of class 1, or of every class of the target."""
    if target.kind == "regression":
        return value
    shares = np.zeros((len(value), len(target.class_names)))  # a class may be absent in training
    shares[:, classes.astype(np.int64)] = value / value.sum(1, keepdims=True)
    return shares[:, 1:] if target.kind == "binary" else shares


def _consistent_values(tree: Any) -> Float64[np.ndarray, " k"]:  # noqa: ANN401 (a private class)
    """Return the values of leaves, and for other nodes their mean over training molecules.

    Boosting for classes changes the values of leaves only.
    """
    values, weight = tree.value[:, 0, 0].copy(), tree.weighted_n_node_samples
    for node in range(tree.node_count - 1, -1, -1):
        left, right = tree.children_left[node], tree.children_right[node]
        if left >= 0:
            total = weight[left] * values[left] + weight[right] * values[right]
            values[node] = total / (weight[left] + weight[right])
    return values


def _base(trained: Any, target: Target) -> Float64[np.ndarray, " c"]:  # noqa: ANN401
    """Return what boosting starts from: the mean label, or the log-odds of the classes."""
    if target.kind == "regression":
        return np.ravel(trained.init_.constant_)
    prior = np.zeros(len(target.class_names))
    prior[trained.classes_.astype(np.int64)] = trained.init_.class_prior_
    prior = np.clip(prior, 1e-9, 1)
    return np.log(prior[1:] / prior[:1]) if target.kind == "binary" else np.log(prior)
