"""Compare fine-tuned models with a random forest and chemprop on the same rows and splits.

    python -m benchmarks.accuracy.model_comparison --chemprop /path/to/chemprop --sets esol bbbp

Appends one row per set, protocol, model and seed to `benchmarks/results/model_comparison.csv`, and
the uncertainty metrics of each moleblend model to `benchmarks/results/uncertainty.csv`. Existing
rows are kept and not run again. Each model is trained with the command that a user would type, in a
process of its own, on the same training and validation set. It predicts the test set once, and this
script scores all predictions. The split is the split column of the file on protocol U, and
`scaffold_split` of the raw file on protocol H.
"""

import hashlib
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
import tyro
from jaxtyping import Float64

from benchmarks.results.csv_files import RESULTS, append_row, read_rows
from benchmarks.speed.commands import run_timed
from moleblend.data.datasets.catalogue import known_datasets
from moleblend.data.datasets.fetch import read
from moleblend.data.formats import read_table, write_table
from moleblend.data.labels.cell_values import read_numbers
from moleblend.data.splits import read_split, scaffold_split
from moleblend.data.table import Rejected, read_molecules
from moleblend.evaluation.metrics import binary_metrics, mean_metric, regression_metrics

Protocol = Literal["U", "H"]
ModelName = Literal[
    *("default", "trees"),
    *("pretrained", "pretrained, first defaults"),
    *("random weights", "random weights, first defaults"),
    *("random forest", "random forest, properties", "chemprop"),
]
_FIRST_DEFAULTS = ("--features", "none", "--epochs", "40", "--patience", "10")
_NETWORK = ("--forest", "0")
OPTIONS: dict[str, tuple[str, ...]] = {
    "default": (),
    "trees": ("--members", "trees"),
    "pretrained": _NETWORK,
    "pretrained, first defaults": (*_NETWORK, *_FIRST_DEFAULTS),
    "random weights": (*_NETWORK, "--from", "scratch"),
    "random weights, first defaults": (*_NETWORK, "--from", "scratch", *_FIRST_DEFAULTS),
}
"""Command-line options of each moleblend model. `default` averages the pretrained network and
trees; `pretrained` and `random weights` are networks alone."""
SETS = ("freesolv", "esol", "bbbp", "bace", "clintox", "sider", "lipo")

FIELDS = (
    "dataset",
    "protocol",
    "split_hash",
    "model",
    "seed",
    "metric",
    "value",
    "unit",
    "checkpoint",
    "commit",
    "device",
    "minutes",
    "peak_mb",
)
UNCERTAINTY_FIELDS = (
    *("dataset", "protocol", "split_hash", "model", "seed", "n_targets"),
    *("ECE_before", "ECE_after", "ECE_after_if_right"),
    *("quantile_error", "coverage", "mean_set_size", "rank_correlation", "checkpoint", "commit"),
)
UNITS = {"esol": "log mol/L", "freesolv": "kcal/mol", "lipo": "log D"}


@dataclass(frozen=True)
class Options:
    """Which comparisons to run.

    Attributes:
        sets: names of MoleculeNet data sets.
        protocols: U, H or both.
        models: the models to train.
        seeds: one run per seed.
        checkpoint: model file that `pretrained` starts from; the packaged model if left out.
        chemprop: path of the chemprop command; chemprop is skipped if left out.
        out: folder for the runs.
        results: csv file that the metrics are appended to.
        uncertainty: csv file that the uncertainty metrics are appended to.
    """

    sets: tuple[str, ...] = SETS
    protocols: tuple[Protocol, ...] = ("U",)
    models: tuple[ModelName, ...] = (
        *("random forest", "random forest, properties", "trees", "default"),
        *("pretrained", "random weights", "chemprop"),
    )
    seeds: tuple[int, ...] = (0, 1, 2)
    checkpoint: Path | None = None
    chemprop: Path | None = None
    out: Path = Path("runs/compare")
    results: Path = RESULTS / "model_comparison.csv"
    uncertainty: Path = RESULTS / "uncertainty.csv"


@dataclass(frozen=True)
class Task:
    """One data set on one protocol, in files that all models read.

    Attributes:
        name: name of the data set.
        protocol: U or H.
        data: csv file with the columns `smiles`, the targets, and `split` (train, val, test).
        test: csv file with the rows of the test set.
        targets: the columns to predict.
        is_regression: whether the targets are numbers; otherwise all are binary.
    """

    name: str
    protocol: Protocol
    data: Path
    test: Path
    targets: tuple[str, ...]
    is_regression: bool

    @property
    def metric(self) -> str:
        """Name of the metric; its mean over the targets is compared."""
        return "RMSE" if self.is_regression else "ROC-AUC"

    @property
    def split_hash(self) -> str:
        """Hash of the rows, labels and split."""
        return hashlib.sha256(self.data.read_bytes()).hexdigest()[:12]


def main(options: Options) -> None:
    """Run everything that is not in the result file yet."""
    git = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    source = [] if options.checkpoint is None else ["--from", str(options.checkpoint)]
    names = ("dataset", "protocol", "model", "seed", "checkpoint")
    done = {tuple(row[name] for name in names) for row in read_rows(options.results)}
    for seed in options.seeds:
        for name in options.sets:
            for protocol in options.protocols:
                task = prepare(name, protocol, options.out)
                for model in options.models:
                    if model == "chemprop" and options.chemprop is None:
                        continue
                    is_pretrained = model.startswith(("pretrained", "default"))
                    used = _hash_of(options.checkpoint) if is_pretrained else ""
                    if (name, protocol, model, str(seed), used) in done:
                        continue
                    run = options.out / f"{name}-{protocol}-{model.replace(' ', '-')}-{seed}"
                    flags = [*OPTIONS.get(model, ()), *(source if is_pretrained else ())]
                    minutes, peak_mb, predicted = train_and_predict(
                        task, model, seed, run, flags, options.chemprop
                    )
                    value = score(task, predicted)
                    row = (
                        *(name, protocol, task.split_hash, model, seed, task.metric),
                        f"{value:.4f}",
                        *(UNITS.get(name, ""), used, commit),
                        f"CPU, {torch.get_num_threads()} thread(s)",
                        f"{minutes:.1f}",
                        f"{peak_mb:.0f}",
                    )
                    if model in OPTIONS:
                        values = (*row[:5], *uncertainty_metrics(run), used, commit)
                        append_row(
                            options.uncertainty, dict(zip(UNCERTAINTY_FIELDS, values, strict=True))
                        )
                    append_row(options.results, dict(zip(FIELDS, row, strict=True)))
                    print(*row, flush=True)


def prepare(name: str, protocol: Protocol, out: Path) -> Task:
    """Write the rows that can be parsed, with labels and split, to the files that models read."""
    known = known_datasets()[f"{name}-u" if protocol == "U" else name]
    table = read(f"{name}-u" if protocol == "U" else name)
    targets = known.task_names(table.names)
    if protocol == "U":
        texts, split, _ = read_split(table, "split", smiles=known.smiles)
    else:
        items = list(read_molecules(table, smiles=known.smiles))
        texts = ["" if isinstance(item, Rejected) else item.smiles for item in items]
        rows = np.flatnonzero([bool(text) for text in texts])
        split = scaffold_split([texts[row] for row in rows])
        split = type(split)(
            *(rows[chosen] for chosen in (split.train, split.validation, split.test))
        )
    set_of = {int(row): "train" for row in split.train}
    set_of |= {int(row): "val" for row in split.validation}
    set_of |= {int(row): "test" for row in split.test}
    kept = sorted(set_of)
    columns: dict[str, pa.Array] = {"smiles": pa.array([texts[row] for row in kept])}
    for target in targets:
        columns[target] = pa.array(read_numbers(table, target)[kept], from_pandas=True)
    columns["split"] = pa.array([set_of[row] for row in kept])
    table_of_all = pa.table(columns)
    out.mkdir(parents=True, exist_ok=True)
    data, test = out / f"{name}-{protocol}.csv", out / f"{name}-{protocol}-test.csv"
    write_table(table_of_all, data)
    write_table(table_of_all.filter(pc.equal(table_of_all["split"], "test")), test)
    return Task(name, protocol, data, test, targets, known.task == "regression")


def train_and_predict(
    task: Task, model: ModelName, seed: int, run: Path, flags: Sequence[str], chemprop: Path | None
) -> tuple[float, float, Float64[np.ndarray, "m t"]]:
    """Train one model; return minutes and peak MB of training, and the test predictions."""
    predicted = run.with_suffix(".predicted.csv")
    data, test, targets = str(task.data), str(task.test), list(task.targets)
    if model.startswith("random forest"):
        kind = "regression" if task.is_regression else "binary"
        command = [sys.executable, "-m", "benchmarks.accuracy.random_forest", data, str(predicted)]
        command += ["--descriptors"] if "properties" in model else []
        minutes, peak_mb = _timed([*command, "--kind", kind, "--seed", str(seed)], run)
        names = targets
    elif model == "chemprop":
        kind = "regression" if task.is_regression else "classification"
        common = ["--smiles-columns", "smiles", "--accelerator", "cpu"]
        train = [str(chemprop), "train", "--data-path", data, "--task-type", kind, *common]
        train += ["--target-columns", *targets, "--splits-column", "split"]
        train += ["--pytorch-seed", str(seed), "--output-dir", str(run)]
        minutes, peak_mb = _timed(train, run)
        predict = [str(chemprop), "predict", "--test-path", test, *common]
        predict += ["--model-paths", str(next(run.rglob("best.pt")))]
        _timed([*predict, "--preds-path", str(predicted)], run)
        names = targets
    else:
        command = [sys.executable, "-m", "moleblend.cli.main"]
        options = ["--split", "split", "--seed", str(seed), "--out", str(run)]
        options += flags
        train = [*command, "train", data, "--smiles", "smiles", "--target", *targets, *options]
        minutes, peak_mb = _timed(train, run)
        _timed([*command, "predict", str(run / "model.safetensors"), test, str(predicted)], run)
        ending = "pred" if task.is_regression else "prob"
        names = [f"{target}_{ending}" for target in targets]
    table = read_table(predicted)
    return minutes, peak_mb, np.stack([read_numbers(table, name) for name in names], 1)


def score(task: Task, predicted: Float64[np.ndarray, "m t"]) -> float:
    """Mean of the metric over the targets for which it is defined on the test set."""
    table = read_table(task.test)
    labels = np.stack([read_numbers(table, name) for name in task.targets], 1)
    measure = regression_metrics if task.is_regression else binary_metrics
    metrics = [measure(predicted[:, k], labels[:, k]) for k in range(len(task.targets))]
    value = mean_metric(metrics, task.metric)
    if value is None:
        raise ValueError(f"{task.test}: {task.metric} is defined for no target")
    return value


def uncertainty_metrics(run: Path) -> tuple[object, ...]:
    """Read the uncertainty metrics on the test set: means over targets, coverage over labels."""
    text = (run / "metrics.json").read_text(encoding="utf-8")
    by_target = json.loads(text)["uncertainty"]["test"].values()

    def mean(name: str) -> str:
        values = [metrics[name] for metrics in by_target if metrics.get(name) is not None]
        return f"{np.mean(values):.4f}" if values else ""

    coverages = [metrics["coverage"] for metrics in by_target if metrics["coverage"]["n"]]
    n = sum(one["n"] for one in coverages)
    coverage = f"{sum(one['observed'] * one['n'] for one in coverages) / n:.4f}" if n else ""
    calibration = (mean("ECE_before"), mean("ECE_after"), mean("ECE_after_if_right"))
    others = (mean("mean_set_size"), mean("rank_correlation"))
    return len(by_target), *calibration, mean("quantile_error"), coverage, *others


def _timed(command: list[str], run: Path) -> tuple[float, float]:
    """Run a command with its output in a log file; return minutes and peak memory in MB."""
    with run.with_suffix(".log").open("a", encoding="utf-8") as log:
        seconds, peak_mb = run_timed(command, log)
    return seconds / 60, peak_mb


def _hash_of(checkpoint: Path | None) -> str:
    if checkpoint is None:
        from moleblend.model.checkpoint import packaged

        checkpoint = packaged()
    return hashlib.sha256(checkpoint.read_bytes()).hexdigest()[:12]


if __name__ == "__main__":
    main(tyro.cli(Options))
