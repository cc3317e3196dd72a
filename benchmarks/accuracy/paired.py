"""Paired intervals of the model comparison: is the difference larger than chance in the molecules?

    python -m benchmarks.accuracy.paired --out runs/compare --model default

Reads the test predictions that `model_comparison` left in its folder. For each set the difference
between two models is that of their metrics, the mean over seeds; its 95 % interval is that of 2,000
bootstrap samples of the test molecules, with the same samples for both models and all seeds. It is
positive where the first model is better. Appends to `results/paired.csv`.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from jaxtyping import Float64, Int64
from scipy.stats import rankdata

from benchmarks.accuracy.model_comparison import SETS, Task, prepare
from benchmarks.results.csv_files import RESULTS, append_row, read_rows
from moleblend.data.formats import read_table
from moleblend.data.labels.cell_values import read_numbers

N_SAMPLES = 2_000
OTHERS = ("trees", "random forest", "random forest, properties", "pretrained", "chemprop")


@dataclass(frozen=True)
class Options:
    """What to compare.

    Attributes:
        out: folder of `model_comparison`.
        model: the first model.
        others: models that it is compared with.
        sets: data sets.
        results: the csv file.
    """

    out: Path = Path("runs/compare")
    model: str = "default"
    others: tuple[str, ...] = OTHERS
    sets: tuple[str, ...] = SETS
    results: Path = RESULTS / "paired.csv"


def main(options: Options) -> None:
    """Compare what the file does not have yet."""
    done = {(r["dataset"], r["model"], r["other"], r["seeds"]) for r in read_rows(options.results)}
    for name in options.sets:
        task = prepare(name, "U", options.out)
        of_model = predictions(task, options.model, options.out)
        for other in options.others:
            of_other = predictions(task, other, options.out)
            seeds = sorted(set(of_model) & set(of_other))
            key = (name, options.model, other, str(len(seeds)))
            if not seeds or key in done:
                continue
            row = compare(task, [of_model[s] for s in seeds], [of_other[s] for s in seeds])
            row = {"dataset": name, "model": options.model, "other": other, **row}
            append_row(options.results, row | {"seeds": len(seeds)})
            print(row, flush=True)


def predictions(task: Task, model: str, out: Path) -> dict[int, Float64[np.ndarray, "n t"]]:
    """Read the test predictions of a model, by seed."""
    found = {}
    start = f"{task.name}-{task.protocol}-{model.replace(' ', '-')}-"
    for path in sorted(out.glob(f"{start}*.predicted.csv")):
        seed = path.name.removeprefix(start).removesuffix(".predicted.csv")
        if not seed.isdigit():
            continue
        table = read_table(path)
        ending = "pred" if task.is_regression else "prob"
        names = [
            f"{target}_{ending}" if f"{target}_{ending}" in table.columns.column_names else target
            for target in task.targets
        ]
        found[int(seed)] = np.stack([read_numbers(table, name) for name in names], 1)
    return found


def compare(
    task: Task, first: list[Float64[np.ndarray, "n t"]], second: list[Float64[np.ndarray, "n t"]]
) -> dict[str, object]:
    """Compute the metrics of both, their difference, and its interval."""
    table = read_table(task.test)
    labels = np.stack([read_numbers(table, name) for name in task.targets], 1)
    rng, rows = np.random.default_rng(0), np.arange(len(labels))
    samples = [rows, *(rng.choice(rows, len(rows)) for _ in range(N_SAMPLES))]
    values = np.array(
        [
            [np.mean([metric(task, one, labels, sample) for one in models]) for sample in samples]
            for models in (first, second)
        ]
    )
    difference = values[0] - values[1]
    difference = -difference if task.is_regression else difference
    low, high = np.nanquantile(difference[1:], (0.025, 0.975))
    return {
        "metric": task.metric,
        "value": f"{values[0, 0]:.4f}",
        "value_of_other": f"{values[1, 0]:.4f}",
        "advantage": f"{difference[0]:.4f}",
        "low": f"{low:.4f}",
        "high": f"{high:.4f}",
        "n": len(labels),
    }


def metric(
    task: Task,
    predicted: Float64[np.ndarray, "n t"],
    labels: Float64[np.ndarray, "n t"],
    sample: Int64[np.ndarray, " n"],
) -> float:
    """Compute RMSE, or ROC-AUC averaged over the targets with both classes in the sample."""
    if task.is_regression:
        return float(np.sqrt(np.nanmean((predicted[sample] - labels[sample]) ** 2)))
    areas = []
    for k in range(labels.shape[1]):
        known = sample[~np.isnan(labels[sample, k])]
        label = labels[known, k]
        if 0 < label.sum() < len(label):
            areas.append(roc_auc(predicted[known, k], label))
    return float(np.mean(areas)) if areas else float("nan")


def roc_auc(score: Float64[np.ndarray, " m"], label: Float64[np.ndarray, " m"]) -> float:
    """Compute the area under the ROC curve from ranks, faster than scikit-learn."""
    n_positive = label.sum()
    above = rankdata(score)[label == 1].sum() - n_positive * (n_positive + 1) / 2
    return float(above / (n_positive * (len(label) - n_positive)))


if __name__ == "__main__":
    main(tyro.cli(Options))
