"""A random forest on count-ECFP4: what a learned model has to beat."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, Int8
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

from moleblend.chem.fingerprints import count_ecfp4
from moleblend.chem.molecule import MoleculeError
from moleblend.data.dataset import MoleculeDataset
from moleblend.data.labels.target_detection import TargetColumns
from moleblend.data.splits import Split
from moleblend.data.targets import Kind, Target, output_slices
from moleblend.evaluation.metrics import Metrics, best_threshold, score

N_TREES = 500

FEWEST_TREES = 50
"""A forest of fewer is no fair one."""

MOST_MOLECULES = 50_000
"""Their fingerprints take 8 KB each."""

_MOST_WORK = 1_000_000.0
"""Trees times labels, of a regression: below 5 minutes of one core for 3,400 to 20,000 labels."""

_WORK = {"regression": 1.0, "binary": 1 / 15, "multiclass": 1 / 15}
"""Of one label in one tree: a class is decided on by 45 bits at a branch, a value by all 2,048."""


def affordable_trees(wanted: int, n_labels: Sequence[tuple[Kind, int]]) -> int:
    """Say how many trees a forest can have in minutes, not hours.

    Args:
        wanted: trees.
        n_labels: kind and number of labels of each forest that is to be trained.

    Returns:
        At most `wanted`; 0 where it would be fewer than these and than `FEWEST_TREES`.
    """
    work = sum(_WORK[kind] * n for kind, n in n_labels)
    n_trees = min(wanted, int(_MOST_WORK / work)) if work else wanted
    return n_trees if n_trees >= min(wanted, FEWEST_TREES) else 0


def count_matrix(smiles: Sequence[str]) -> Float32[np.ndarray, "n 2048"]:
    """Count the circular environments of each molecule.

    Raises:
        MoleculeError: RDKit refuses a SMILES.
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
    asked: Float32[np.ndarray, "m c"],
    *,
    n_trees: int = N_TREES,
    seed: int = 0,
) -> Float64[np.ndarray, "m o"]:
    """Train a forest for one target and let it predict.

    It has scikit-learn's settings. A tree knows no bounds: labels that are bounds are left out, as
    missing ones are. Where the model learns the logarithm, so does the forest.

    Args:
        target: its kind, classes and whether its logarithm is learnt; its scale does not matter.
        counts: of the training molecules.
        labels: of the same, in the unit of the file or the number of a class; NaN where missing.
        censoring: of the same, 0 where the label is the value itself.
        asked: counts of the molecules to predict.
        n_trees: in the forest.
        seed: of the trees.

    Returns:
        Values in the label's unit, the probability of class 1, or that of each class.

    Raises:
        ValueError: no label is left to learn from.
    """
    is_known = ~np.isnan(labels) & (censoring == 0)
    if not is_known.any():
        raise ValueError("none of its training labels is a value, and bounds cannot be learnt")
    counts, labels = counts[is_known], labels[is_known]
    is_value = target.kind == "regression"
    kind = RandomForestRegressor if is_value else RandomForestClassifier
    forest = kind(n_estimators=n_trees, random_state=seed, n_jobs=-1)
    forest.fit(counts, np.log10(labels) if target.log10 else labels)
    forest.n_jobs = 1  # several would add the trees up in any order, and round differently
    if isinstance(forest, RandomForestRegressor):
        predicted = forest.predict(asked)[:, None]
        return 10.0**predicted if target.log10 else predicted
    votes, learnt = forest.predict_proba(asked), np.asarray(forest.classes_)
    if target.kind == "binary":  # of one class in training there is one column
        return votes @ learnt[:, None]
    probability = np.zeros((len(asked), len(target.classes)))
    probability[:, learnt.astype(np.int64)] = votes
    return probability


@dataclass(frozen=True, eq=False)
class BaselineResult:
    """The forest of one run.

    Attributes:
        n_trees: 0 where none was trained.
        predicted: for the test part, see `targets.unscale_outputs`; NaN where a target was not
            learnt.
        test: metrics of the targets that were learnt.
        not_learnt: why the others were not.
    """

    n_trees: int = 0
    predicted: Float64[np.ndarray, "m o"] = field(default_factory=lambda: np.zeros((0, 0)))
    test: dict[str, Metrics] = field(default_factory=dict)
    not_learnt: dict[str, str] = field(default_factory=dict)


def plan_forest(
    wanted: int,
    target_columns: TargetColumns,
    data: MoleculeDataset,
    splits: Sequence[Split],
    n_repeats: int,
) -> tuple[int, str]:
    """Decide on the trees of each forest, all runs together.

    Returns:
        The number of trees, and what should be said of it; 0 where none is trained.
    """
    if not wanted:
        return 0, ""
    largest = max(len(split.train) for split in splits)
    if largest > MOST_MOLECULES:
        return 0, (
            f"no random forest is trained beside the model: {largest:,} training molecules are "
            f"more than {MOST_MOLECULES:,}"
        )
    n_labels = [
        (label_column.kind, n_repeats * int((~np.isnan(data.labels[split.train, k])).sum()))
        for split in splits
        for k, label_column in enumerate(target_columns.label_columns)
    ]
    n_trees = affordable_trees(wanted, n_labels)
    if not n_trees:
        return 0, (
            "no random forest is trained beside the model: it would take too long for "
            f"{sum(n for _, n in n_labels):,} labels"
        )
    if n_trees < wanted:
        return n_trees, (
            f"the random forest beside the model has {n_trees} trees instead of {wanted}, so that "
            "it takes minutes"
        )
    return n_trees, ""


def learn_forest(
    n_trees: int,
    targets: Sequence[Target],
    training: MoleculeDataset,
    validation: MoleculeDataset,
    test: MoleculeDataset,
    seed: int,
) -> BaselineResult:
    """Train a forest for each target, and score it as the model is scored."""
    slices = output_slices(targets)
    predicted = np.full((len(test), slices[-1].stop), np.nan)
    if not n_trees:
        return BaselineResult(0, predicted)
    try:
        learnt, chosen, asked = (
            count_matrix([molecule.smiles for molecule in part.molecules])
            for part in (training, validation, test)
        )
    except MoleculeError as error:  # a molecule that came as a mol block
        why = f"RDKit cannot read a molecule again: {error}"
        return BaselineResult(0, predicted, {}, {target.name: why for target in targets})
    both = np.concatenate([chosen, asked])
    judged: list[Target] = []
    not_learnt: dict[str, str] = {}
    for k, (target, where) in enumerate(zip(targets, slices, strict=True)):
        judged.append(target)
        try:
            found = forest_predictions(
                target,
                learnt,
                training.labels[:, k],
                training.censoring[:, k],
                both,
                n_trees=n_trees,
                seed=seed,
            )
        except ValueError as error:
            not_learnt[target.name] = str(error)
            continue
        predicted[:, where] = found[len(chosen) :]
        if target.kind == "binary":
            threshold = best_threshold(found[: len(chosen), 0], validation.labels[:, k])
            judged[-1] = replace(target, threshold=threshold)
    # What was not learnt is filled with 1, which has a logarithm, and its figures are left out.
    scored = score(judged, np.nan_to_num(predicted, nan=1.0), test)
    known = {name: metrics for name, metrics in scored.items() if name not in not_learnt}
    return BaselineResult(n_trees, predicted, known, not_learnt)


def about_forest(targets: Sequence[Target], choices: dict[str, Any]) -> str:
    """Say what a forest was told, as far as these targets are concerned.

    Args:
        targets: those of the model.
        choices: of the run, see `choices.resolve_settings`.
    """
    told = (
        "The random forest is trained on the labels of the same training part and read on the same "
        "test part; it changes nothing about the model."
    )
    if any(found["n_bounds"] for found in choices.get("targets", {}).values()):
        told += " Labels that are bounds are left out of its training."
    if any(target.kind == "binary" for target in targets):
        told += " It has a threshold of its own, chosen on validation."
    if any(target.kind != "regression" for target in targets):
        told += " Its probabilities are the votes of its trees, which nothing puts right."
    return told
