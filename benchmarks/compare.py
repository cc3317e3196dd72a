"""Fine-tuned models beside a random forest and chemprop: the same splits, rows and scoring.

    python -m benchmarks.compare --chemprop /path/to/chemprop --sets esol bbbp --seeds 0 1 2

Appends to `benchmarks/results.csv` one row per set, protocol, model and seed, and to
`benchmarks/sureness.csv` what the sureness of each moleblend model was worth; a row that is there
stays. Every model is trained by the command that a user would type, in a process of its own, and
told the same rows and parts; it predicts the test part once, and all predictions are scored here.
On protocol U the split is the column of the file, on H it is `scaffold_split` of the raw file.
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

from benchmarks.ledger import append, rows_of, timed
from moleblend.data.datasets.catalogue import known_datasets
from moleblend.data.datasets.fetch import read
from moleblend.data.formats import read_table, write_table
from moleblend.data.splits import read_split, scaffold_split
from moleblend.data.table import Rejected, numbers, read_molecules
from moleblend.evaluation.metrics import binary_metrics, mean_metric, regression_metrics

Protocol = Literal["U", "H"]
ModelName = Literal[
    *("pretrained", "pretrained, first defaults"),
    *("random weights", "random weights, first defaults"),
    *("random forest", "chemprop"),
]
_FIRST_DEFAULTS = ("--features", "none", "--epochs", "40", "--patience", "10")
OPTIONS: dict[str, tuple[str, ...]] = {
    "pretrained": (),
    "pretrained, first defaults": _FIRST_DEFAULTS,
    "random weights": ("--from", "scratch"),
    "random weights, first defaults": ("--from", "scratch", *_FIRST_DEFAULTS),
}
"""What is typed for each of moleblend's models."""
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
SURENESS_FIELDS = (
    *("dataset", "protocol", "split_hash", "model", "seed", "n_targets"),
    *("ECE_before", "ECE_after", "ECE_after_if_right"),
    *("quantile_error", "coverage", "mean_set_size", "rank_correlation", "checkpoint", "commit"),
)
UNITS = {"esol": "log mol/L", "freesolv": "kcal/mol", "lipo": "log D"}


@dataclass(frozen=True)
class Options:
    """What to run.

    Attributes:
        sets: names of data sets of MoleculeNet.
        protocols: U, H or both.
        models: which to train.
        seeds: one run for each.
        checkpoint: model file that `pretrained` starts from; left out, the one of the package.
        chemprop: its command, in an environment of its own; chemprop is left out without it.
        out: folder for the runs.
        results: the table to append to.
        uncertainty: another, of how sure moleblend's models were.
    """

    sets: tuple[str, ...] = SETS
    protocols: tuple[Protocol, ...] = ("U",)
    models: tuple[ModelName, ...] = ("random forest", "pretrained", "random weights", "chemprop")
    seeds: tuple[int, ...] = (0, 1, 2)
    checkpoint: Path | None = None
    chemprop: Path | None = None
    out: Path = Path("runs/compare")
    results: Path = Path(__file__).parent / "results.csv"
    uncertainty: Path = Path(__file__).parent / "sureness.csv"


@dataclass(frozen=True)
class Task:
    """One set on one protocol, written down for all models.

    Attributes:
        name: of the set.
        protocol: U or H.
        data: csv with the columns `smiles`, the targets, and `split` (train, val, test).
        test: the rows of the test part.
        targets: the columns to predict.
        is_regression: what the targets are; else all are binary.
    """

    name: str
    protocol: Protocol
    data: Path
    test: Path
    targets: tuple[str, ...]
    is_regression: bool

    @property
    def metric(self) -> str:
        """What is compared; the mean over the targets."""
        return "RMSE" if self.is_regression else "ROC-AUC"

    @property
    def split_hash(self) -> str:
        """Of rows, labels and parts."""
        return hashlib.sha256(self.data.read_bytes()).hexdigest()[:12]


def main(options: Options) -> None:
    """Run everything that is not in the table yet."""
    git = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    source = [] if options.checkpoint is None else ["--from", str(options.checkpoint)]
    names = ("dataset", "protocol", "model", "seed", "checkpoint")
    done = {tuple(row[name] for name in names) for row in rows_of(options.results)}
    for seed in options.seeds:
        for name in options.sets:
            for protocol in options.protocols:
                task = prepare(name, protocol, options.out)
                for model in options.models:
                    if model == "chemprop" and options.chemprop is None:
                        continue
                    is_pretrained = model.startswith("pretrained")
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
                        known = (*row[:5], *sureness_of(run / "metrics.json"), used, commit)
                        append(options.uncertainty, dict(zip(SURENESS_FIELDS, known, strict=True)))
                    append(options.results, dict(zip(FIELDS, row, strict=True)))
                    print(*row, flush=True)


def prepare(name: str, protocol: Protocol, out: Path) -> Task:
    """Write the rows that are molecules, with their labels and parts, as every model reads them."""
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
        split = type(split)(*(rows[part] for part in (split.train, split.validation, split.test)))
    part_of = {int(row): "train" for row in split.train}
    part_of |= {int(row): "val" for row in split.validation}
    part_of |= {int(row): "test" for row in split.test}
    kept = sorted(part_of)
    columns: dict[str, pa.Array] = {"smiles": pa.array([texts[row] for row in kept])}
    for target in targets:
        columns[target] = pa.array(numbers(table, target)[kept], from_pandas=True)
    columns["split"] = pa.array([part_of[row] for row in kept])
    whole = pa.table(columns)
    out.mkdir(parents=True, exist_ok=True)
    data, test = out / f"{name}-{protocol}.csv", out / f"{name}-{protocol}-test.csv"
    write_table(whole, data)
    write_table(whole.filter(pc.equal(whole["split"], "test")), test)
    return Task(name, protocol, data, test, targets, known.task == "regression")


def train_and_predict(
    task: Task, model: ModelName, seed: int, run: Path, flags: Sequence[str], chemprop: Path | None
) -> tuple[float, float, Float64[np.ndarray, "m t"]]:
    """Train one model; give the minutes and MB of the training, and what it predicts for test."""
    predicted = run.with_suffix(".predicted.csv")
    data, test, targets = str(task.data), str(task.test), list(task.targets)
    if model == "random forest":
        kind = "regression" if task.is_regression else "binary"
        command = [sys.executable, "-m", "benchmarks.forest", data, str(predicted)]
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
        options = ["--split", "split", "--forest", "0", "--seed", str(seed), "--out", str(run)]
        options += flags
        train = [*command, "train", data, "--smiles", "smiles", "--target", *targets, *options]
        minutes, peak_mb = _timed(train, run)
        _timed([*command, "predict", str(run / "model.safetensors"), test, str(predicted)], run)
        ending = "pred" if task.is_regression else "prob"
        names = [f"{target}_{ending}" for target in targets]
    table = read_table(predicted)
    return minutes, peak_mb, np.stack([numbers(table, name) for name in names], 1)


def score(task: Task, predicted: Float64[np.ndarray, "m t"]) -> float:
    """Mean of the metric over the targets for which the test part defines it."""
    table = read_table(task.test)
    labels = np.stack([numbers(table, name) for name in task.targets], 1)
    measure = regression_metrics if task.is_regression else binary_metrics
    found = [measure(predicted[:, k], labels[:, k]) for k in range(len(task.targets))]
    value = mean_metric(found, task.metric)
    if value is None:
        raise ValueError(f"{task.test}: {task.metric} is defined for no target")
    return value


def sureness_of(path: Path) -> tuple[object, ...]:
    """Read what sureness was worth on test: means over the targets, coverage over all labels."""
    told = json.loads(path.read_text(encoding="utf-8"))["uncertainty"]["test"].values()

    def mean(name: str) -> str:
        values = [found[name] for found in told if found.get(name) is not None]
        return f"{np.mean(values):.4f}" if values else ""

    judged = [found["coverage"] for found in told if found["coverage"]["n"]]
    n = sum(one["n"] for one in judged)
    coverage = f"{sum(one['observed'] * one['n'] for one in judged) / n:.4f}" if n else ""
    before = (mean("ECE_before"), mean("ECE_after"), mean("ECE_after_if_right"))
    others = (mean("mean_set_size"), mean("rank_correlation"))
    return len(told), *before, mean("quantile_error"), coverage, *others


def _timed(command: list[str], run: Path) -> tuple[float, float]:
    """Run a command, whose words go to a log; give its minutes and its largest memory in MB."""
    with run.with_suffix(".log").open("a", encoding="utf-8") as log:
        seconds, peak_mb = timed(command, log)
    return seconds / 60, peak_mb


def _hash_of(checkpoint: Path | None) -> str:
    if checkpoint is None:
        from moleblend.model.checkpoint import packaged

        checkpoint = packaged()
    return hashlib.sha256(checkpoint.read_bytes()).hexdigest()[:12]


if __name__ == "__main__":
    main(tyro.cli(Options))
