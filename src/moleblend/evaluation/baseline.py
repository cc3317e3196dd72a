"""Baseline: a random forest on ECFP4 counts, trained on the same training set as the model.

`plan_forest` decides how many trees it can have, `train_forest` trains and evaluates it, and
`describe_forest` describes it. The comparison with the model is in `comparison`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float32, Float64, Int8
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

from moleblend.chem.fingerprints import count_ecfp4
from moleblend.chem.molecule import MoleculeError
from moleblend.data.dataset import MoleculeDataset
from moleblend.data.splits import Split
from moleblend.data.targets import Kind, Target, output_slices
from moleblend.errors import SettingError
from moleblend.evaluation.metrics import Metrics, best_threshold, metrics_by_target

N_TREES = 500

MIN_TREES = 50
"""A forest with fewer trees would be a weak baseline, so none is trained."""

MAX_MOLECULES = 50_000
"""Largest training set for a forest; the counts of one molecule take 8 KB."""

_MAX_WORK = 1_000_000.0
"""Trees times regression labels: below 5 minutes of one core for 3,400 to 20,000 labels."""

_WORK = {"regression": 1.0, "binary": 1 / 15, "multiclass": 1 / 15}
"""Relative cost of one label in one tree: a split considers 45 bits for classes, 2,048 for values.
"""


@dataclass(frozen=True, eq=False)
class BaselineResult:
    """The forests of one run, one for each target.

    Attributes:
        n_trees: in each forest; 0 where none was trained.
        predicted: for the test set, see `targets.unscale_outputs`; NaN where a target has no
            forest.
        test: test metrics of the targets that have a forest.
        not_trained: for each other target the reason why it has no forest.
        n_censored: training labels that were left out because they are censored; with folds, of all
            folds together.
    """

    n_trees: int = 0
    predicted: Float64[np.ndarray, "m o"] = field(default_factory=lambda: np.zeros((0, 0)))
    test: dict[str, Metrics] = field(default_factory=dict)
    not_trained: dict[str, str] = field(default_factory=dict)
    n_censored: int = 0


def affordable_trees(wanted: int, n_labels: Sequence[tuple[Kind, int]]) -> int:
    """Compute how many trees each forest can have if all are to be trained within minutes.

    Args:
        wanted: number of trees.
        n_labels: kind and number of labels of each forest.

    Returns:
        At most `wanted`; 0 where that would be fewer than both `wanted` and `MIN_TREES`.
    """
    work = sum(_WORK[kind] * n for kind, n in n_labels)
    n_trees = min(wanted, int(_MAX_WORK / work)) if work else wanted
    return n_trees if n_trees >= min(wanted, MIN_TREES) else 0


def plan_forest(
    wanted: int,
    kinds: Sequence[Kind],
    data: MoleculeDataset,
    splits: Sequence[Split],
    n_repeats: int,
) -> tuple[int, str]:
    """Decide on the number of trees of each forest, over all runs.

    Args:
        wanted: number of trees that was asked for; 0 for no forest.
        kinds: of the targets, in the order of the labels.
        data: the usable molecules.
        splits: one for each fold, or a single one.
        n_repeats: runs on each split.

    Returns:
        The number of trees (0 where no forest is trained), and a note if it differs from `wanted`.
    """
    if not wanted:
        return 0, ""
    largest = max(len(split.train) for split in splits)
    if largest > MAX_MOLECULES:
        return 0, (
            f"no random forest is trained as a baseline: {largest:,} training molecules are more "
            f"than {MAX_MOLECULES:,}"
        )
    n_labels = [
        (kind, n_repeats * int((~np.isnan(data.labels[split.train, k])).sum()))
        for split in splits
        for k, kind in enumerate(kinds)
    ]
    n_trees = affordable_trees(wanted, n_labels)
    if not n_trees:
        return 0, (
            "no random forest is trained as a baseline: it would take too long for "
            f"{sum(n for _, n in n_labels):,} labels"
        )
    if n_trees < wanted:
        return n_trees, (
            f"the random forest baseline has {n_trees} trees instead of {wanted}, to limit its "
            "training to minutes"
        )
    return n_trees, ""


def count_matrix(smiles: Sequence[str]) -> Float32[np.ndarray, "n 2048"]:
    """Compute the ECFP4 counts (numbers of circular environments) of each molecule.

    Raises:
        MoleculeError: RDKit cannot read a SMILES.
    """
    counts = np.zeros((len(smiles), 2048), np.float32)
    for row, text in enumerate(smiles):
        counts[row] = count_ecfp4(text)
    return counts


def forest_predictions(
    target: Target,
    counts: Float32[np.ndarray, "n c"],
    labels: Float64[np.ndarray, " n"],
    censoring: Int8[np.ndarray, " n"],
    query_counts: Float32[np.ndarray, "m c"],
    *,
    n_trees: int = N_TREES,
    seed: int = 0,
) -> Float64[np.ndarray, "m o"]:
    """Train a forest for one target and predict other molecules with it.

    The forest has scikit-learn's default settings. Missing and censored labels are left out. Where
    the model is trained on log10 of the labels, so is the forest.

    Args:
        target: gives kind, classes and `log10`; its mean and scale are not used.
        counts: ECFP4 counts of the training molecules.
        labels: of the training molecules, in the unit of the file or as class numbers; NaN where
            missing.
        censoring: of these labels: +1 true value at least the label, -1 at most, 0 exact.
        query_counts: ECFP4 counts of the molecules to predict.
        n_trees: in the forest.
        seed: of the forest.

    Returns:
        Values in the label's unit, the probability of class 1, or the probability of each class.

    Raises:
        SettingError: there is no exact label.
    """
    is_known = ~np.isnan(labels) & (censoring == 0)
    if not is_known.any():
        raise SettingError(
            "none of its training labels is exact, and the forest cannot use censored labels"
        )
    counts, labels = counts[is_known], labels[is_known]
    forest_class = RandomForestRegressor if target.kind == "regression" else RandomForestClassifier
    forest = forest_class(n_estimators=n_trees, random_state=seed, n_jobs=-1)
    forest.fit(counts, target.to_training_scale(labels))
    forest.n_jobs = 1  # several jobs sum the trees in varying order, with varying rounding
    if isinstance(forest, RandomForestRegressor):
        predicted = forest.predict(query_counts)[:, None]
        return target.from_training_scale(predicted)
    votes, classes = forest.predict_proba(query_counts), np.asarray(forest.classes_)
    if target.kind == "binary":  # a single class in training gives a single column
        return votes @ classes[:, None]
    probability = np.zeros((len(query_counts), len(target.classes)))
    probability[:, classes.astype(np.int64)] = votes
    return probability


def train_forest(
    n_trees: int,
    targets: Sequence[Target],
    training: MoleculeDataset,
    validation: MoleculeDataset,
    test: MoleculeDataset,
    seed: int,
) -> BaselineResult:
    """Train a forest for each target and evaluate it on the test set as the model is evaluated.

    Args:
        n_trees: in each forest; 0 for none.
        targets: of the model. The threshold of a binary target is chosen anew for the forest.
        training: molecules to train on.
        validation: molecules on which thresholds are chosen.
        test: molecules to evaluate on.
        seed: of the forests.
    """
    slices = output_slices(targets)
    predicted = np.full((len(test), slices[-1].stop), np.nan)
    if not n_trees:
        return BaselineResult(0, predicted)
    try:
        counts, validation_counts, test_counts = (
            count_matrix([molecule.smiles for molecule in data.molecules])
            for data in (training, validation, test)
        )
    except MoleculeError as error:  # a molecule that was read from a mol block
        reason = f"RDKit cannot read the SMILES of a molecule: {error}"
        return BaselineResult(0, predicted, {}, {target.name: reason for target in targets})
    query_counts, n_validation = np.concatenate([validation_counts, test_counts]), len(validation)
    with_thresholds = list(targets)
    not_trained: dict[str, str] = {}
    for k, (target, where) in enumerate(zip(targets, slices, strict=True)):
        try:
            values = forest_predictions(
                target,
                counts,
                training.labels[:, k],
                training.censoring[:, k],
                query_counts,
                n_trees=n_trees,
                seed=seed,
            )
        except ValueError as error:
            not_trained[target.name] = str(error)
            continue
        predicted[:, where] = values[n_validation:]
        if target.kind == "binary":
            threshold = best_threshold(values[:n_validation, 0], validation.labels[:, k])
            with_thresholds[k] = replace(target, threshold=threshold)
    # Missing predictions become 1, which has a logarithm; the metrics of these targets are dropped.
    metrics = metrics_by_target(with_thresholds, np.nan_to_num(predicted, nan=1.0), test)
    return BaselineResult(
        n_trees=n_trees,
        predicted=predicted,
        test={name: one for name, one in metrics.items() if name not in not_trained},
        not_trained=not_trained,
        n_censored=int(np.count_nonzero(training.censoring)),
    )


def describe_forest(targets: Sequence[Target], baseline: BaselineResult) -> str:
    """Describe how the forests were trained, as far as it concerns these targets."""
    text = (
        "The random forest is trained on the labels of the same training set and evaluated on the "
        "same test set; it does not affect the model."
    )
    if baseline.n_censored:
        text += " Censored labels are left out of its training."
    if any(target.kind == "binary" for target in targets):
        text += " Its classification threshold is chosen on the validation set."
    if any(target.kind != "regression" for target in targets):
        text += " Its probabilities are the votes of its trees, without calibration."
    return text
