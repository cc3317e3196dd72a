"""How sure predictions are, before and after calibration, on scaffold tests of real sets.

    python -m benchmarks.uncertainty --sets esol freesolv bbbp bace

Appends to `benchmarks/uncertainty.csv` one row per set, split, seed and way to calibrate; what is
there stays. The learner is a random forest on count-ECFP4 (50 trees; their spread; a fifth of
the bits at each branch for regression; bits that fewer than three training molecules have are left
out).
Ways to calibrate are compared on inner scaffold splits of the train and validation parts; the
published test part (`U`) is there to report, not to choose.
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

from benchmarks.ledger import rows_of, write
from moleblend.chem.fingerprints import count_ecfp4, nearest_packed, packed_ecfp4
from moleblend.data.formats import read_table
from moleblend.data.splits import Split, grouped_folds, read_split, scaffolds
from moleblend.data.table import numbers
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
"""Target and kind."""

CONFIDENCE = 0.9
N_FOLDS = 3
FEWEST_WITH_BIT = 3
BANDWIDTH = 0.1
"""Of the similarity to the training set, by which scores are weighted."""


@dataclass(frozen=True)
class Options:
    """What to measure.

    Attributes:
        sets: names of `SETS`.
        seeds: of the forest, and of the inner splits.
        trees: in a forest.
        results: the table to append to.
    """

    sets: tuple[str, ...] = tuple(SETS)
    seeds: tuple[int, ...] = (0, 1, 2)
    trees: int = 50
    results: Path = Path(__file__).parent / "uncertainty.csv"


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a model said of some molecules, and what was measured.

    Attributes:
        predicted: in the label's unit, or the probability of class 1.
        spread: of the members, in the same.
        label: NaN where missing.
        similarity: to the nearest molecule that the model learnt from.
    """

    predicted: Float64[np.ndarray, " n"]
    spread: Float64[np.ndarray, " n"]
    label: Float64[np.ndarray, " n"]
    similarity: Float64[np.ndarray, " n"]


def judge_regression(known: Predictions, test: Predictions) -> dict[str, object]:
    """Calibrate on one set of predictions and judge on the other."""
    spread = StdCalibration.fit(known.predicted, known.label, known.spread)
    sure = spread.apply(test.predicted, test.spread)
    constant = StdCalibration.fit(known.predicted, known.label)
    plain = IntervalCalibration.fit(known.predicted, known.label)
    scaled = IntervalCalibration.fit(
        known.predicted, known.label, spread.apply(known.predicted, known.spread)
    )
    weighted = weighted_intervals(known, spread.apply(known.predicted, known.spread), test, sure)
    raw = np.maximum(test.spread, 1e-6)
    half = 1.6448536 * raw
    before = np.stack([test.predicted - half, test.predicted + half], 1)
    found = {
        "coverage before": before,
        "coverage, constant width": plain.predict_intervals(test.predicted, confidence=CONFIDENCE),
        "coverage, by spread": scaled.predict_intervals(test.predicted, sure, CONFIDENCE),
        "coverage, weighted": weighted,
    }
    row: dict[str, object] = {"factor": f"{spread.factor:.3f}", "has_spread": spread.has_spread}
    for name, intervals in found.items():
        coverage = interval_coverage(intervals, test.label, CONFIDENCE)
        row[name] = f"{coverage.observed:.4f}"
        row[f"{name}, low"] = f"{coverage.low:.4f}"
        row[f"{name}, high"] = f"{coverage.high:.4f}"
        width = np.diff(intervals)[:, 0]
        row[name.replace("coverage", "median width")] = f"{np.median(width):.3f}"
        row[name.replace("coverage", "share infinite")] = f"{np.isinf(width).mean():.4f}"
    for name, deviation in (
        ("before", raw),
        ("after", sure),
        ("constant", constant.apply(test.predicted)),
    ):
        curve = quantile_curve(test.predicted, deviation, test.label)
        row[f"quantile error {name}"] = f"{curve.error:.4f}" if curve else ""
    curve = error_curve(test.predicted, raw, test.label)
    row["rank correlation"] = f"{curve.rank_correlation:.3f}" if curve else ""
    return row


def judge_binary(known: Predictions, test: Predictions) -> dict[str, object]:
    """Calibrate on one set of predictions and judge on the other."""
    chosen = ProbabilityCalibration.fit(known.predicted, known.label)
    row: dict[str, object] = {"method": chosen.method, "temperature": f"{chosen.temperature:.3f}"}
    for name, probability in (
        ("before", test.predicted),
        ("after", chosen.apply(test.predicted)),
    ):
        found = reliability(probability, test.label)
        if found is not None:
            row[f"ECE {name}"] = f"{found.error:.4f}"
            row[f"ECE if calibrated {name}"] = f"{found.error_if_calibrated:.4f}"
            row[f"ECE if calibrated {name}, 95 %"] = f"{found.error_if_calibrated_95:.4f}"
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
    known_deviation: Float64[np.ndarray, " n"],
    test: Predictions,
    deviation: Float64[np.ndarray, " m"],
) -> Float64[np.ndarray, "m 2"]:
    """Weigh each score by how alike the similarities to the training set are.

    Tibshirani et al., NeurIPS 2019, and Barber et al., Ann. Stat. 2023: the quantile of weighted
    scores, in which the new molecule has weight 1 and an infinite score.
    """
    scores = np.abs(known.label - known.predicted) / known_deviation
    order = np.argsort(scores)
    scores, similarity = scores[order], known.similarity[order]
    apart = (test.similarity[:, None] - similarity[None, :]) / BANDWIDTH
    weight = np.exp(-(apart**2) / 2)
    reached = np.cumsum(weight, 1) / (weight.sum(1, keepdims=True) + 1)
    place = (reached < CONFIDENCE).sum(1)
    half = np.append(scores, np.inf)[place] * deviation
    return np.stack([test.predicted - half, test.predicted + half], 1)


def main(options: Options) -> None:
    """Measure everything that is not in the table yet."""
    folder = os.environ.get("MOLEBLEND_DATA")
    if not folder:
        raise ValueError("MOLEBLEND_DATA must name the folder that holds unimol_split")
    done = rows_of(options.results)
    rows = list(done)
    keys = {(row["dataset"], row["split"], row["seed"]) for row in done}
    for seed, name in product(options.seeds, options.sets):
        target, kind = SETS[name]
        table = read_table(Path(folder) / "unimol_split" / f"{name}.csv.gz")
        smiles, published, _ = read_split(table, "split", smiles="smiles")
        label = numbers(table, target)
        pool = np.sort(np.concatenate([published.train, published.validation]))
        for split_name, split in (("U", published), ("inner", inner_split(smiles, pool, seed))):
            if (name, split_name, str(seed)) in keys:
                continue
            for way, row in _measure(smiles, label, split, kind, seed, options.trees).items():
                key = {"dataset": name, "split": split_name, "seed": str(seed), "way": way}
                rows.append({**key, **{k: str(v) for k, v in row.items()}})
            write(options.results, rows)
            print(name, split_name, seed)


def inner_split(smiles: list[str], pool: Int64[np.ndarray, " m"], seed: int) -> Split:
    """Split by scaffold as the published parts were: the largest learn, the rarest are the test.

    Scaffolds of equal size stand in random order; 80 % of rows learn, 10 % validate.
    """
    names = scaffolds([smiles[k] for k in pool])
    sets: dict[str, list[int]] = {}
    for name, row in zip(names, pool.tolist(), strict=True):
        sets.setdefault(name, []).append(row)
    order = np.random.default_rng(seed).permutation(sorted(sets)).tolist()
    parts: tuple[list[int], ...] = ([], [], [])
    n_before = 0
    for name in sorted(order, key=lambda name: -len(sets[name])):
        share = n_before / len(pool)
        parts[(share >= 0.8) + (share >= 0.9)].extend(sets[name])
        n_before += len(sets[name])
    train, validation, test = (np.sort(np.array(part, np.int64)) for part in parts)
    return Split(train, validation, test)


def _measure(
    smiles: list[str],
    label: Float64[np.ndarray, " n"],
    split: Split,
    kind: str,
    seed: int,
    n_trees: int,
) -> dict[str, dict[str, object]]:
    """Calibrate on the validation part, and on scaffold folds of train and validation."""
    used = np.concatenate([split.train, split.validation, split.test])
    counts = np.zeros((len(smiles), 2048), np.float32)
    prints = np.zeros((len(smiles), 256), np.uint8)
    counts[used] = np.stack([count_ecfp4(smiles[k]) for k in used])
    prints[used] = packed_ecfp4([smiles[k] for k in used])

    def predict(learn: Int64[np.ndarray, " m"], asked: Int64[np.ndarray, " k"]) -> Predictions:
        ask = forest(counts[learn], label[learn], kind, seed, n_trees)
        predicted, spread = ask(counts[asked])
        similarity, _ = nearest_packed(prints[asked], prints[learn])
        return Predictions(predicted, spread, label[asked], similarity)

    judge = judge_regression if kind == "regression" else judge_binary
    asked = predict(split.train, np.concatenate([split.validation, split.test]))
    n_validation = len(split.validation)
    validation, test = _part(asked, slice(0, n_validation)), _part(asked, slice(n_validation, None))
    pool = np.concatenate([split.train, split.validation])
    parts = []
    for fold in grouped_folds(scaffolds([smiles[k] for k in pool]), N_FOLDS, seed):
        learn = np.concatenate([fold.train, fold.validation])
        parts.append(predict(pool[learn], pool[fold.test]))
    folds = Predictions(
        np.concatenate([part.predicted for part in parts]),
        np.concatenate([part.spread for part in parts]),
        np.concatenate([part.label for part in parts]),
        np.concatenate([part.similarity for part in parts]),
    )
    sizes = {"n_train": len(split.train), "n_test": len(split.test)}
    return {
        "validation": {**sizes, "n": n_validation, **judge(validation, test)},
        "scaffold folds": {**sizes, "n": len(pool), **judge(folds, test)},
    }


def forest(
    counts: Float32[np.ndarray, "n c"],
    label: Float64[np.ndarray, " n"],
    kind: str,
    seed: int,
    n_trees: int,
) -> Callable[[Float32[np.ndarray, "m c"]], tuple[np.ndarray, np.ndarray]]:
    """Train a forest; it answers with the mean and the spread of its trees."""
    is_used = (counts > 0).sum(0) >= FEWEST_WITH_BIT
    counts = counts[:, is_used]
    if kind == "regression":
        model = RandomForestRegressor(n_trees, max_features=0.2, random_state=seed).fit(
            counts, label
        )
    else:
        model = RandomForestClassifier(n_trees, random_state=seed).fit(counts, label)

    def answer(asked: Float32[np.ndarray, "m c"]) -> tuple[np.ndarray, np.ndarray]:
        asked = asked[:, is_used]
        if kind == "regression":
            told = np.stack([tree.predict(asked) for tree in model.estimators_])
        else:
            told = np.stack([tree.predict_proba(asked)[:, 1] for tree in model.estimators_])
        return told.mean(0), told.std(0)

    return answer


def _part(given: Predictions, chosen: slice) -> Predictions:
    return Predictions(
        given.predicted[chosen], given.spread[chosen], given.label[chosen], given.similarity[chosen]
    )


if __name__ == "__main__":
    main(tyro.cli(Options))
