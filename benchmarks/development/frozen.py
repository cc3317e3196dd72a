"""Rank models by a linear head on their frozen vectors, on development splits.

    python -m benchmarks.development.frozen MODEL.safetensors ... [--fixed]

The figure by which recipes are ranked was fixed before any of them was trained: the *gain*, one
minus the geometric mean over the eleven sets of error(model) / error(random weights). The error of
a set is the RMSE, or 1 - ROC-AUC averaged over its tasks, and is averaged over its four splits. The
random weights are those of the packaged model's configuration, the mean of three seeds. The
standard error of a gain is that of the mean over sets.

The head is ridge regression, or logistic regression for classes, on standardised vectors. Its
strength is chosen on a fifth of the training rows and the head is then fitted to all of them.
`--fixed` adds the representations to which models are compared: count-ECFP4, and count-ECFP4 with
RDKit descriptors. Every row of `results/development.csv` is one representation, set and split, so a
run continues where another stopped.
"""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import tyro
from jaxtyping import Float, Float64
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score

from benchmarks.development.sets import FEWEST_OF_A_CLASS, DevelopmentSet, development_sets
from benchmarks.results.csv_files import RESULTS, append_row, read_rows
from moleblend.chem.descriptors import molecule_features
from moleblend.model.checkpoint import load, locate, sha256
from moleblend.model.heads import Model
from moleblend.prediction.inference import over_geometries

DEVELOPMENT = RESULTS / "development.csv"
RANDOM = tuple(f"random weights {seed}" for seed in range(3))
STRENGTHS = (1.0, 10.0, 100.0, 1_000.0)

Vectors = Callable[[DevelopmentSet], Float[np.ndarray, "n d"]]


@dataclass(frozen=True)
class Options:
    """What to rank.

    Attributes:
        models: model files, or `packaged`.
        names: names of the models in the result file; the file names if left out.
        fixed: also evaluate random weights and fingerprints.
        sets: names of development sets; all if left out.
        results: the csv file.
    """

    models: tyro.conf.Positional[tuple[str, ...]]
    names: tuple[str, ...] = ()
    fixed: bool = False
    sets: tuple[str, ...] = ()
    results: Path = DEVELOPMENT


def main(options: Options) -> None:
    """Evaluate what the file does not have yet, and print the ranking."""
    torch.set_num_threads(1)
    representations: dict[str, Vectors] = {}
    if options.fixed:
        for seed, name in enumerate(RANDOM):
            torch.manual_seed(seed)
            random = Model(replace(load(locate("packaged")).config, heads=None)).eval()
            representations[name] = _embedded(random)
        representations["count-ECFP4"] = lambda data: _features(data, "ecfp4")
        representations["count-ECFP4 and descriptors"] = lambda data: _features(
            data, "ecfp4", "descriptors"
        )
    names = options.names or tuple(
        "packaged" if model == "packaged" else Path(model).stem for model in options.models
    )
    for name, model in zip(names, options.models, strict=True):
        path = locate(model)
        representations[f"{name} {sha256(path)[:8]}"] = vectors_of(path)
    evaluate(representations, options)
    print_ranking(options.results)


def evaluate(representations: dict[str, Vectors], options: Options) -> None:
    """Append the error of every representation on every set and split."""
    done = {(row["representation"], row["set"]) for row in read_rows(options.results)}
    for data in development_sets(options.sets):
        for name, vectors in representations.items():
            if (name, data.name) in done:
                continue
            started = time.process_time()
            x = np.asarray(vectors(data), np.float64)
            for number, is_out in enumerate(data.splits):
                error = _error(x, data, is_out)
                row = {
                    "representation": name,
                    "set": data.name,
                    "split": number,
                    "error": f"{error:.5f}",
                    "cpu_s": f"{time.process_time() - started:.1f}",
                }
                append_row(options.results, row)


def random_errors(path: Path) -> dict[str, float]:
    """Read the error of random weights on each set, the mean over seeds and splits; or none."""
    errors = _errors(path)
    if any(name not in errors for name in RANDOM):
        return {}
    return {
        one: float(np.mean([np.mean(errors[name][one]) for name in RANDOM]))
        for one in errors[RANDOM[0]]
    }


def print_ranking(path: Path) -> None:
    """Print the gain over random weights of every representation that has all sets."""
    errors, random = _errors(path), random_errors(path)
    if not random:
        print("random weights have not been evaluated: run with --fixed")
        return
    print(f"{'':42s}  gain ± s.e.   " + " ".join(f"{one:>8s}" for one in random))
    ranked = []
    for name, of_sets in errors.items():
        if any(one not in of_sets for one in random):
            continue
        logs = np.log([np.mean(of_sets[one]) / random[one] for one in random])
        ranked.append((1 - np.exp(logs.mean()), logs.std(ddof=1) / len(logs) ** 0.5, name))
    for gain, error, name in sorted(ranked, reverse=True):
        cells = " ".join(f"{np.mean(errors[name][one]):8.3f}" for one in random)
        print(f"{name:42s}  {gain:+.3f} ± {error:.3f}  {cells}")


def vectors_of(path: Path) -> Vectors:
    """Return the function that embeds a set with the model of a file, shown in 2D."""
    return _embedded(load(path).eval())


def _errors(path: Path) -> dict[str, dict[str, list[float]]]:
    """Read the errors on the splits of each set, of each representation."""
    errors: dict[str, dict[str, list[float]]] = {}
    for row in read_rows(path):
        of_sets = errors.setdefault(row["representation"], {})
        of_sets.setdefault(row["set"], []).append(float(row["error"]))
    return errors


def _embedded(model: Model) -> Vectors:
    def vectors(data: DevelopmentSet) -> Float[np.ndarray, "n d"]:
        def embed(_, batch, blend):  # noqa: ANN001, ANN202
            return model.embed(batch, blend)

        return over_geometries(data.molecules, "2d", embed, model.config.encoder.width, "cpu")

    return vectors


def _features(data: DevelopmentSet, *kinds: str) -> Float[np.ndarray, "n f"]:
    x = molecule_features([molecule.smiles for molecule in data.molecules], kinds)
    return x[:, x.std(0) > 0]


def _error(x: Float64[np.ndarray, "n d"], data: DevelopmentSet, is_out: np.ndarray) -> float:
    """Mean error over the tasks that can be scored on this split."""
    errors = []
    for task in range(data.labels.shape[1]):
        y = data.labels[:, task]
        train, out = np.isfinite(y) & ~is_out, np.isfinite(y) & is_out
        if data.has_classes:
            counts = [np.bincount(y[rows].astype(int), minlength=2) for rows in (train, out)]
            if min(count.min() for count in counts) < FEWEST_OF_A_CLASS:
                continue
            scores = _fitted(x[train], y[train], has_classes=True)(x[out])
            errors.append(1 - float(roc_auc_score(y[out], scores)))
        else:
            predicted = _fitted(x[train], y[train], has_classes=False)(x[out])
            errors.append(float(np.sqrt(np.mean((predicted - y[out]) ** 2))))
    return float(np.mean(errors))


def _fitted(
    x: Float64[np.ndarray, "n d"], y: Float64[np.ndarray, " n"], *, has_classes: bool
) -> Callable[[Float64[np.ndarray, "m d"]], Float64[np.ndarray, " m"]]:
    """Fit the linear head, its strength chosen on a fifth of the rows."""
    mean, std = x.mean(0), x.std(0)
    std = np.where(std > 1e-9, std, 1.0)
    scaled = np.clip((x - mean) / std, -8, 8)
    rng = np.random.default_rng(int(hashlib.sha256(y.tobytes()).hexdigest()[:8], 16))
    inner = np.zeros(len(y), bool)
    for value in np.unique(y) if has_classes else [None]:
        rows = np.flatnonzero(y == value) if has_classes else np.arange(len(y))
        inner[rng.permutation(rows)[: max(len(rows) // 5, 1)]] = True

    def fit(rows: np.ndarray, strength: float) -> Callable[[np.ndarray], np.ndarray]:
        if has_classes:
            head = LogisticRegression(C=1 / strength, max_iter=200, tol=1e-3)
            return head.fit(scaled[rows], y[rows]).decision_function
        return Ridge(alpha=strength).fit(scaled[rows], y[rows]).predict

    def error(strength: float) -> float:
        predicted = fit(~inner, strength)(scaled[inner])
        if has_classes:
            return -float(roc_auc_score(y[inner], predicted))
        return float(np.mean((predicted - y[inner]) ** 2))

    best = min(STRENGTHS, key=error)
    predict = fit(np.ones(len(y), bool), best)
    return lambda new: predict(np.clip((new - mean) / std, -8, 8))


if __name__ == "__main__":
    main(tyro.cli(Options))
