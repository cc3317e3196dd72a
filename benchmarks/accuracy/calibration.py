"""Measure uncertainty before and after calibration, on scaffold test sets.

    python -m benchmarks.accuracy.calibration --sets esol freesolv bbbp bace

Appends one row per data set, split, seed and calibration set to
`benchmarks/results/calibration.csv`; existing rows are kept and not run again. The model is a
random forest on count-ECFP4 with 50 trees. The standard deviation of its trees is the uncertainty.
Regression uses a fifth of the bits at each branch. Bits that fewer than three training molecules
have are left out.

Calibration sets are compared on inner scaffold splits of the published training and validation
sets. The published test set (`U`) is for reporting, not for choosing.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import tyro
from jaxtyping import Float32, Float64, Int64
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

from benchmarks.results.csv_files import RESULTS, read_rows, write_rows
from moleblend.chem.fingerprints import count_ecfp4, nearest_packed, packed_ecfp4
from moleblend.data.formats import read_table
from moleblend.data.labels.cell_values import read_numbers
from moleblend.data.splits import Split, grouped_folds, read_split, scaffolds
from moleblend.evaluation.calibration import ProbabilityCalibration, StdCalibration
from moleblend.evaluation.conformal import IntervalCalibration, SetCalibration
from moleblend.evaluation.uncertainty_metrics import (
    error_curve,
    interval_coverage,
    quantile_curve,
    reliability,
    set_coverage,
)

SETS = {
    "esol": ("measured log solubility in mols per litre", "regression"),
    "freesolv": ("expt", "regression"),
    "bbbp": ("p_np", "binary"),
    "bace": ("Class", "binary"),
}
"""Target column and its kind."""

CONFIDENCE = 0.9
N_FOLDS = 3
FEWEST_WITH_BIT = 3
BANDWIDTH = 0.1
"""Kernel width of the similarity to the training set, by which scores are weighted."""


@dataclass(frozen=True)
class Options:
    """What to measure.

    Attributes:
        sets: names of `SETS`.
        seeds: random seeds of the forest and of the inner splits.
        trees: number of trees in a forest.
        results: csv file that the rows are written to.
    """

    sets: tuple[str, ...] = tuple(SETS)
    seeds: tuple[int, ...] = (0, 1, 2)
    trees: int = 50
    results: Path = RESULTS / "calibration.csv"


@dataclass(frozen=True, eq=False)
class Predictions:
    """Predictions of a model for some molecules, and the measured labels.

    Attributes:
        predicted: in the label's unit, or the probability of class 1.
        std: standard deviation of the trees, in the same unit.
        label: NaN where missing.
        similarity: Tanimoto similarity to the nearest training molecule.
    """

    predicted: Float64[np.ndarray, " n"]
    std: Float64[np.ndarray, " n"]
    label: Float64[np.ndarray, " n"]
    similarity: Float64[np.ndarray, " n"]


def evaluate_regression(known: Predictions, test: Predictions) -> dict[str, object]:
    """Calibrate on one set of predictions and evaluate on the other."""
    fitted = StdCalibration.fit(known.predicted, known.label, known.std)
    calibrated = fitted.apply(test.predicted, test.std)
    constant = StdCalibration.fit(known.predicted, known.label)
    unscaled = IntervalCalibration.fit(known.predicted, known.label)
    scaled = IntervalCalibration.fit(
        known.predicted, known.label, fitted.apply(known.predicted, known.std)
    )
    weighted = weighted_intervals(known, fitted.apply(known.predicted, known.std), test, calibrated)
    raw = np.maximum(test.std, 1e-6)
    half = 1.6448536 * raw
    before = np.stack([test.predicted - half, test.predicted + half], 1)
    intervals_by_method = {
        "coverage before": before,
        "coverage, constant width": unscaled.predict_intervals(
            test.predicted, confidence=CONFIDENCE
        ),
        "coverage, by std": scaled.predict_intervals(test.predicted, calibrated, CONFIDENCE),
        "coverage, weighted": weighted,
    }
    row: dict[str, object] = {"factor": f"{fitted.factor:.3f}", "has_std": fitted.has_spread}
    for name, intervals in intervals_by_method.items():
        coverage = interval_coverage(intervals, test.label, CONFIDENCE)
        row[name] = f"{coverage.observed:.4f}"
        row[f"{name}, low"] = f"{coverage.low:.4f}"
        row[f"{name}, high"] = f"{coverage.high:.4f}"
        width = np.diff(intervals)[:, 0]
        row[name.replace("coverage", "median width")] = f"{np.median(width):.3f}"
        row[name.replace("coverage", "fraction infinite")] = f"{np.isinf(width).mean():.4f}"
    for name, std in (
        ("before", raw),
        ("after", calibrated),
        ("constant", constant.apply(test.predicted)),
    ):
        curve = quantile_curve(test.predicted, std, test.label)
        row[f"quantile error {name}"] = f"{curve.error:.4f}" if curve else ""
    curve = error_curve(test.predicted, raw, test.label)
    row["rank correlation"] = f"{curve.rank_correlation:.3f}" if curve else ""
    return row


def evaluate_binary(known: Predictions, test: Predictions) -> dict[str, object]:
    """Calibrate on one set of predictions and evaluate on the other."""
    chosen = ProbabilityCalibration.fit(known.predicted, known.label)
    row: dict[str, object] = {"method": chosen.method, "temperature": f"{chosen.temperature:.3f}"}
    for name, probability in (
        ("before", test.predicted),
        ("after", chosen.apply(test.predicted)),
    ):
        curve = reliability(probability, test.label)
        if curve is not None:
            row[f"ECE {name}"] = f"{curve.error:.4f}"
            row[f"ECE if calibrated {name}"] = f"{curve.error_if_calibrated:.4f}"
            row[f"ECE if calibrated {name}, 95 %"] = f"{curve.error_if_calibrated_95:.4f}"
        row[f"Brier {name}"] = f"{((probability - test.label) ** 2).mean():.4f}"
    sets = SetCalibration.fit(known.predicted, known.label).predict_sets(test.predicted, CONFIDENCE)
    coverage = set_coverage(sets, test.label, CONFIDENCE)
    row["coverage, sets"] = f"{coverage.observed:.4f}"
    row["coverage, sets, low"] = f"{coverage.low:.4f}"
    row["coverage, sets, high"] = f"{coverage.high:.4f}"
    row["classes in a set"] = f"{sets.sum(1).mean():.3f}"
    return row


def weighted_intervals(
    known: Predictions,
    known_std: Float64[np.ndarray, " n"],
    test: Predictions,
    test_std: Float64[np.ndarray, " m"],
) -> Float64[np.ndarray, "m 2"]:
    """Compute conformal intervals from weighted scores.

    A calibration molecule weighs more if its similarity to the training set is closer to that of
    the test molecule. The interval is the quantile of the weighted scores, in which the test
    molecule has weight 1 and an infinite score.

    Reference:
        Tibshirani et al., NeurIPS 2019; Barber et al., Ann. Stat. 2023.
    """
    scores = np.abs(known.label - known.predicted) / known_std
    order = np.argsort(scores)
    scores, similarity = scores[order], known.similarity[order]
    apart = (test.similarity[:, None] - similarity[None, :]) / BANDWIDTH
    weight = np.exp(-(apart**2) / 2)
    reached = np.cumsum(weight, 1) / (weight.sum(1, keepdims=True) + 1)
    place = (reached < CONFIDENCE).sum(1)
    half = np.append(scores, np.inf)[place] * test_std
    return np.stack([test.predicted - half, test.predicted + half], 1)


def main(options: Options) -> None:
    """Measure everything that is not in the result file yet."""
    folder = os.environ.get("MOLEBLEND_DATA")
    if not folder:
        raise ValueError("MOLEBLEND_DATA must name the folder that holds unimol_split")
    done = read_rows(options.results)
    rows = list(done)
    keys = {(row["dataset"], row["split"], row["seed"]) for row in done}
    for seed, name in product(options.seeds, options.sets):
        target, kind = SETS[name]
        table = read_table(Path(folder) / "unimol_split" / f"{name}.csv.gz")
        smiles, published, _ = read_split(table, "split", smiles="smiles")
        label = read_numbers(table, target)
        pool = np.sort(np.concatenate([published.train, published.validation]))
        for split_name, split in (("U", published), ("inner", inner_split(smiles, pool, seed))):
            if (name, split_name, str(seed)) in keys:
                continue
            for name_of_set, row in _measure(
                smiles, label, split, kind, seed, options.trees
            ).items():
                key = {"dataset": name, "split": split_name, "seed": str(seed)}
                key["calibration_set"] = name_of_set
                rows.append({**key, **{k: str(v) for k, v in row.items()}})
            write_rows(options.results, rows)
            print(name, split_name, seed)


def inner_split(smiles: list[str], pool: Int64[np.ndarray, " m"], seed: int) -> Split:
    """Split by scaffold like the published splits: large scaffolds train, rare ones test.

    Scaffolds of equal size are in random order. 80 % of the rows train and 10 % validate.
    """
    names = scaffolds([smiles[k] for k in pool])
    groups: dict[str, list[int]] = {}
    for name, row in zip(names, pool.tolist(), strict=True):
        groups.setdefault(name, []).append(row)
    order = np.random.default_rng(seed).permutation(sorted(groups)).tolist()
    sets: tuple[list[int], ...] = ([], [], [])
    n_before = 0
    for name in sorted(order, key=lambda name: -len(groups[name])):
        fraction = n_before / len(pool)
        sets[(fraction >= 0.8) + (fraction >= 0.9)].extend(groups[name])
        n_before += len(groups[name])
    train, validation, test = (np.sort(np.array(rows, np.int64)) for rows in sets)
    return Split(train, validation, test)


def _measure(
    smiles: list[str],
    label: Float64[np.ndarray, " n"],
    split: Split,
    kind: str,
    seed: int,
    n_trees: int,
) -> dict[str, dict[str, object]]:
    """Calibrate on the validation set, and on scaffold folds of training and validation set."""
    used = np.concatenate([split.train, split.validation, split.test])
    counts = np.zeros((len(smiles), 2048), np.float32)
    prints = np.zeros((len(smiles), 256), np.uint8)
    counts[used] = np.stack([count_ecfp4(smiles[k]) for k in used])
    prints[used] = packed_ecfp4([smiles[k] for k in used])

    def predict(train: Int64[np.ndarray, " m"], rows: Int64[np.ndarray, " k"]) -> Predictions:
        trained = train_forest(counts[train], label[train], kind, seed, n_trees)
        predicted, std = trained(counts[rows])
        similarity, _ = nearest_packed(prints[rows], prints[train])
        return Predictions(predicted, std, label[rows], similarity)

    evaluate = evaluate_regression if kind == "regression" else evaluate_binary
    both = predict(split.train, np.concatenate([split.validation, split.test]))
    n_validation = len(split.validation)
    validation = _subset(both, slice(0, n_validation))
    test = _subset(both, slice(n_validation, None))
    pool = np.concatenate([split.train, split.validation])
    predictions = []
    for fold in grouped_folds(scaffolds([smiles[k] for k in pool]), N_FOLDS, seed):
        train = np.concatenate([fold.train, fold.validation])
        predictions.append(predict(pool[train], pool[fold.test]))
    folds = Predictions(
        np.concatenate([one.predicted for one in predictions]),
        np.concatenate([one.std for one in predictions]),
        np.concatenate([one.label for one in predictions]),
        np.concatenate([one.similarity for one in predictions]),
    )
    sizes = {"n_train": len(split.train), "n_test": len(split.test)}
    return {
        "validation": {**sizes, "n": n_validation, **evaluate(validation, test)},
        "scaffold folds": {**sizes, "n": len(pool), **evaluate(folds, test)},
    }


def train_forest(
    counts: Float32[np.ndarray, "n c"],
    label: Float64[np.ndarray, " n"],
    kind: str,
    seed: int,
    n_trees: int,
) -> Callable[[Float32[np.ndarray, "m c"]], tuple[np.ndarray, np.ndarray]]:
    """Train a forest; return a function to the mean and standard deviation of its trees."""
    is_used = (counts > 0).sum(0) >= FEWEST_WITH_BIT
    counts = counts[:, is_used]
    if kind == "regression":
        model = RandomForestRegressor(n_trees, max_features=0.2, random_state=seed).fit(
            counts, label
        )
    else:
        model = RandomForestClassifier(n_trees, random_state=seed).fit(counts, label)

    def predict(new: Float32[np.ndarray, "m c"]) -> tuple[np.ndarray, np.ndarray]:
        new = new[:, is_used]
        if kind == "regression":
            by_tree = np.stack([tree.predict(new) for tree in model.estimators_])
        else:
            by_tree = np.stack([tree.predict_proba(new)[:, 1] for tree in model.estimators_])
        return by_tree.mean(0), by_tree.std(0)

    return predict


def _subset(predictions: Predictions, rows: slice) -> Predictions:
    return Predictions(
        predictions.predicted[rows],
        predictions.std[rows],
        predictions.label[rows],
        predictions.similarity[rows],
    )


if __name__ == "__main__":
    main(tyro.cli(Options))
