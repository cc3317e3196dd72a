"""Train random forests and gradient boosting on fingerprints and properties.

`plan_trees` decides which methods are affordable and with how many trees, `train_tree_model` trains
one for one target.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64
from sklearn.ensemble import (
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)

from moleblend.chem.descriptors import FEATURES
from moleblend.data.dataset import MoleculeDataset
from moleblend.data.splits import Split
from moleblend.data.targets import Kind, Target
from moleblend.errors import SettingError
from moleblend.trees.tree_model import TreeModel

_STEPS = 200
"""Steps of boosting at a learning rate of 0.05; with fewer steps the rate is higher."""

MAX_MOLECULES = 50_000
"""Largest training set for trees; the inputs of one molecule take 9 KB."""

MAX_SECONDS = 300.0
"""Largest estimated time of one core for all trees of a run."""

_FEWEST_TREES = 1 / 4
"""Share of the trees that was asked for below which a method is not worth training."""

_FEWEST_TO_SAMPLE = 20
"""With fewer labels, boosting uses all of them in every step."""

_LEAVES = 2_500
"""Largest number of leaves of a tree of a forest, which limits the size of the model file."""


@dataclass(frozen=True)
class TreeMethod:
    """A method of training trees.

    Attributes:
        name: of the method and of what it reads.
        inputs: kinds of `descriptors.FEATURES`.
        is_boosted: gradient boosting; otherwise a random forest.
        prior: weight in the average of a model, without any evidence, relative to the network's. A
            method with 0 is only a baseline.
        seconds: measured time of one core per tree and label: of values, and of classes.
    """

    name: str
    inputs: tuple[str, ...]
    is_boosted: bool
    prior: float
    seconds: tuple[float, float]


METHODS = (
    TreeMethod("gradient boosting", ("ecfp4", "properties"), True, 1.0, (4e-6, 4e-6)),
    TreeMethod("random forest", ("ecfp4", "properties"), False, 1.0, (4e-5, 1e-5)),
    TreeMethod("random forest on ECFP4", ("ecfp4",), False, 0.0, (4e-5, 1e-5)),
)
"""The methods, in the order in which they are kept where time is short. The settings and the priors
were chosen on development splits, see `benchmarks/development/members.py`."""


@dataclass(frozen=True)
class TreePlan:
    """What is trained for each target.

    Attributes:
        n_trees: of each tree model; 0 where none is trained.
        methods: of `METHODS`.
        note: why it is less than was asked for; empty if it is not.
    """

    n_trees: int = 0
    methods: tuple[TreeMethod, ...] = ()
    note: str = ""


def plan_trees(
    wanted: int,
    kinds: Sequence[Kind],
    data: MoleculeDataset,
    splits: Sequence[Split],
    n_repeats: int,
) -> TreePlan:
    """Decide on the methods and the number of trees, over all runs.

    Args:
        wanted: number of trees that was asked for; 0 for none.
        kinds: of the targets, in the order of the labels.
        data: the usable molecules.
        splits: one for each fold, or a single one.
        n_repeats: runs on each split.
    """
    if not wanted:
        return TreePlan()
    largest = max(len(split.train) for split in splits)
    if largest > MAX_MOLECULES:
        return TreePlan(
            note=f"no trees are trained: {largest:,} training molecules are more than "
            f"{MAX_MOLECULES:,}"
        )
    n_labels = [0, 0]
    for split in splits:
        for k, kind in enumerate(kinds):
            known = n_repeats * int((~np.isnan(data.labels[split.train, k])).sum())
            n_labels[kind != "regression"] += known
    for n_methods in range(len(METHODS), 0, -1):
        methods = METHODS[:n_methods]
        seconds = sum(np.dot(method.seconds, n_labels) for method in methods)
        n_trees = min(wanted, int(MAX_SECONDS / seconds)) if seconds else wanted
        if n_trees >= wanted * _FEWEST_TREES:
            return TreePlan(n_trees, methods, _describe_less(n_trees, methods, wanted))
    return TreePlan(
        note=f"no trees are trained: it would take too long for {sum(n_labels):,} labels"
    )


def _describe_less(n_trees: int, methods: Sequence[TreeMethod], wanted: int) -> str:
    """Say what is trained if it is less than was asked for."""
    if n_trees == wanted and len(methods) == len(METHODS):
        return ""
    names = " and ".join(method.name for method in methods)
    return f"{names}: {n_trees} trees for each target, to limit their training to minutes"


def train_tree_model(
    target: Target,
    method: TreeMethod,
    x: Float32[np.ndarray, "n f"],
    labels: Float64[np.ndarray, " n"],
    *,
    n_trees: int,
    seed: int = 0,
) -> TreeModel:
    """Train trees for one target; their weight is 0.

    Missing labels are left out. Censored labels count as their limits: without them, predictions
    would be pulled away from the censored side. Where the model is trained on log10 of the labels,
    so are the trees.

    Args:
        target: gives name, kind, classes and `log10`; its mean and scale are not used.
        method: of `METHODS`.
        x: features of the training molecules, of the kinds that the method reads.
        labels: of the training molecules, in the unit of the file or as class numbers; NaN where
            missing.
        n_trees: trees of a forest, or steps of boosting.
        seed: of the trees.

    Raises:
        SettingError: there is no label, or boosting lacks a class.

    Reference:
        Breiman, Machine Learning 2001, doi:10.1023/A:1010933404324 (random forests); Friedman,
        Comput. Stat. Data Anal. 2002, doi:10.1016/S0167-9473(01)00065-2 (stochastic gradient
        boosting).
    """
    assert x.shape[1] == sum(FEATURES[kind] for kind in method.inputs)
    is_known = ~np.isnan(labels)
    if not is_known.any():
        raise SettingError("it has no training labels")
    is_regression = target.kind == "regression"
    y = target.to_training_scale(labels[is_known])
    if method.is_boosted:
        if not is_regression and len(np.unique(y)) < len(target.class_names):
            raise SettingError("its training labels lack a class")
        boosting = GradientBoostingRegressor if is_regression else GradientBoostingClassifier
        model = boosting(
            n_estimators=n_trees,
            learning_rate=min(0.05 * _STEPS / n_trees, 0.2),
            max_depth=4,
            subsample=0.5 if len(y) >= _FEWEST_TO_SAMPLE else 1.0,
            max_features=0.1,
            min_samples_leaf=5,
            random_state=seed,
        )
    else:
        forest = RandomForestRegressor if is_regression else RandomForestClassifier
        model = forest(
            n_estimators=n_trees,
            max_features=0.33 if is_regression else "sqrt",
            min_samples_leaf=max(2, round(len(y) / _LEAVES)),
            random_state=seed,
            n_jobs=-1,
        )
    model.fit(x[is_known], y)
    return TreeModel.from_sklearn(model, target, method.inputs)
