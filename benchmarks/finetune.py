"""Fine-tune on protocol U from a pretrained model and from random weights, beside a random forest.

    python -m benchmarks.finetune --model runs/qm9/model.safetensors --sets esol bbbp --seeds 0 1 2

Appends to `benchmarks/results.csv` one row per set, model and seed; a row that is there stays.
The split is the column of the file; epochs are selected on validation; test is read once.
"""

import csv
import hashlib
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from rich.console import Console
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

from moleblend.fingerprints import count_ecfp4
from moleblend.metrics import binary_metrics, regression_metrics
from moleblend.molecule import MoleculeError
from moleblend.splits import given_split
from moleblend.tables import numbers, read_table
from moleblend.train import TrainConfig, train

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
)
SETS = {
    "esol": ("measured log solubility in mols per litre", "RMSE", "log mol/L", 30),
    "bbbp": ("p_np", "ROC-AUC", "", 15),
}
"""Target, metric, unit, and epochs at most."""


@dataclass(frozen=True)
class Options:
    """What to run.

    Attributes:
        model: pretrained model file.
        sets: names of `SETS`.
        seeds: one run for each.
        out: folder for the runs.
        results: the table to append to.
    """

    model: Path
    sets: tuple[str, ...] = ("esol", "bbbp")
    seeds: tuple[int, ...] = (0, 1, 2)
    out: Path = Path("runs/finetune")
    results: Path = Path(__file__).parent / "results.csv"


def main(options: Options) -> None:
    """Run everything that is not in the table yet."""
    folder = os.environ.get("MOLEBLEND_DATA")
    if not folder:
        raise ValueError("MOLEBLEND_DATA must name the folder that holds unimol_split")
    checkpoint = hashlib.sha256(options.model.read_bytes()).hexdigest()[:12]
    git = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    done = _read(options.results)
    for name in options.sets:
        data = Path(folder) / "unimol_split" / f"{name}.csv.gz"
        target, metric, unit, epochs = SETS[name]
        split_hash = hashlib.sha256(data.read_bytes()).hexdigest()[:12]
        for seed in options.seeds:
            for model in ("pretrained", "random weights", "random forest"):
                used = checkpoint if model == "pretrained" else ""
                key = (name, "U", model, str(seed), used)
                if key in done:
                    continue
                started = time.perf_counter()
                if model == "random forest":
                    value = forest(data, target, metric, seed)
                else:
                    config = TrainConfig(
                        data=str(data),
                        target=(target,),
                        out=str(options.out / f"{name}-{model.replace(' ', '-')}-{seed}"),
                        source=str(options.model) if model == "pretrained" else "scratch",
                        split="split",
                        units=(unit,),
                        epochs=epochs,
                        patience=epochs,
                        seed=seed,
                    )
                    value = train(config, console=Console(quiet=True)).test[target][metric]
                minutes = (time.perf_counter() - started) / 60
                device = f"CPU, {torch.get_num_threads()} thread(s)"
                row = (name, "U", split_hash, model, seed, metric, f"{value:.4f}", unit)
                _append(options.results, (*row, used, commit, device, f"{minutes:.1f}"))
                print(*row, f"{minutes:.1f} min")


def forest(data: Path, target: str, metric: str, seed: int) -> float | None:
    """Train 500 trees on count-ECFP4 (2,048 bits) and give the test figure."""
    table = read_table(data)
    labels = numbers(table, target)
    split = given_split([str(part) for part in table.column("split").to_pylist()])
    fingerprints, known = [], []
    for row, smiles in enumerate(table.column("smiles").to_pylist()):
        try:
            fingerprints.append(count_ecfp4(smiles))
            known.append(row)
        except MoleculeError as error:
            print(f"row {row + 1} left out: {error}")
    place = {row: k for k, row in enumerate(known)}
    x = np.stack(fingerprints)
    rows = {
        part: [row for row in getattr(split, part) if row in place] for part in ("train", "test")
    }
    inputs = {part: x[[place[row] for row in chosen]] for part, chosen in rows.items()}
    settings = {"n_estimators": 500, "random_state": seed, "n_jobs": 1}
    if metric == "RMSE":
        model = RandomForestRegressor(**settings).fit(inputs["train"], labels[rows["train"]])
        return regression_metrics(model.predict(inputs["test"]), labels[rows["test"]])[metric]
    model = RandomForestClassifier(**settings).fit(inputs["train"], labels[rows["train"]])
    return binary_metrics(model.predict_proba(inputs["test"])[:, 1], labels[rows["test"]])[metric]


def _read(path: Path) -> set[tuple[str, ...]]:
    if not path.is_file():
        return set()
    with path.open(newline="", encoding="utf-8") as file:
        return {
            (r["dataset"], r["protocol"], r["model"], r["seed"], r["checkpoint"])
            for r in csv.DictReader(file)
        }


def _append(path: Path, row: tuple[object, ...]) -> None:
    is_new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if is_new:
            writer.writerow(FIELDS)
        writer.writerow(row)


if __name__ == "__main__":
    main(tyro.cli(Options))
