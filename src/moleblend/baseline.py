"""A random forest on count-ECFP4: what a learned model has to beat."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, Float64, Int8
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

from moleblend.chem.fingerprints import count_ecfp4
from moleblend.heads import Kind, Target

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
    bounds: Int8[np.ndarray, " n"],
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
        bounds: of the same, 0 where the label is the value itself.
        asked: counts of the molecules to predict.
        n_trees: in the forest.
        seed: of the trees.

    Returns:
        Values in the label's unit, the probability of class 1, or that of each class.

    Raises:
        ValueError: no label is left to learn from.
    """
    is_known = ~np.isnan(labels) & (bounds == 0)
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
