"""Compare fine-tuning settings on molecules that are in no published test set.

    python -m benchmarks.accuracy.finetuning_settings --sets freesolv esol bbbp bace --seeds 0 1 2

Appends one row per set, seed and setting to `benchmarks/results/finetuning_settings.csv`; existing
rows are kept and not run again. The test rows of protocol U are dropped. The other rows are split
anew by clusters (Butina, ECFP4, Tanimoto 0.4), with a different split per seed. Each setting
changes one of the current defaults, selects its epoch on the validation set of that split, and is
scored on its test set.
"""

import hashlib
import io
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import tyro
from rich.console import Console

from benchmarks.accuracy.model_comparison import prepare
from benchmarks.results.csv_files import RESULTS, append_row, read_rows
from moleblend.data.formats import read_table, write_table
from moleblend.data.splits import cluster_split
from moleblend.evaluation.metrics import Metrics, mean_metric
from moleblend.finetuning.config import TrainConfig
from moleblend.finetuning.train import train
from moleblend.model import checkpoint

FIELDS = (
    *("dataset", "seed", "setting", "metric", "validation", "test", "epoch", "minutes"),
    *("split_hash", "checkpoint"),
)
_FIRST_DEFAULTS: dict[str, Any] = {"epochs": 40, "patience": 10, "features": ("none",)}
SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "random weights": {"source": "scratch"},
    "no extra features": {"features": ("none",)},
    "random weights, no extra features": {"source": "scratch", "features": ("none",)},
    "best epoch": {"patience": 30},
    "40 epochs": {"epochs": 40},
    "best of 40": {"epochs": 40, "patience": 10},
    "first defaults": _FIRST_DEFAULTS,
    "best of 40, EMA 0.99": {"epochs": 40, "patience": 10, "ema": 0.99},
    "random weights, first defaults": {"source": "scratch", **_FIRST_DEFAULTS},
    "random weights, 1 conformer, first defaults": {
        **{"source": "scratch", "conformers": 1},
        **_FIRST_DEFAULTS,
    },
    "descriptors": {"features": ("descriptors",)},
    "ecfp4 and descriptors": {"features": ("ecfp4", "descriptors")},
    "readout of all layers": {"readout": "layers"},
    "last-layer readout": {"readout": "mean"},
    "random weights, readout of all layers": {"source": "scratch", "readout": "layers"},
    "layer decay 0.8": {"layer_decay": 0.8},
    "EMA 0.99": {"ema": 0.99},
    "learning rate 1e-4": {"learning_rate": 1e-4},
    "learning rate 5e-4": {"learning_rate": 5e-4},
    "1 conformer": {"conformers": 1},
    "random weights, 1 conformer": {"source": "scratch", "conformers": 1},
    "all layers, 1 conformer": {"readout": "layers", "conformers": 1},
    "4 conformers": {"conformers": 4},
    "frozen": {"freeze": True, "learning_rate": 1e-3, "epochs": 200, "patience": 30},
    "weights of class 1": {"pos_weight": "on"},
}


@dataclass(frozen=True)
class Options:
    """Which settings to compare.

    Attributes:
        sets: data sets of protocol U.
        settings: names of `SETTINGS`; all by default.
        seeds: random seeds of the split and of training.
        out: folder for the runs.
        results: csv file that the metrics are appended to.
    """

    sets: tuple[str, ...] = ("freesolv", "esol", "bbbp", "bace")
    settings: tuple[str, ...] = tuple(SETTINGS)
    seeds: tuple[int, ...] = (0, 1, 2)
    out: Path = Path("runs/defaults")
    results: Path = RESULTS / "finetuning_settings.csv"


def main(options: Options) -> None:
    """Run everything that is not in the result file yet."""
    source = hashlib.sha256(checkpoint.packaged().read_bytes()).hexdigest()[:12]
    names = ("dataset", "seed", "setting", "checkpoint")
    done = {tuple(row[name] for name in names) for row in read_rows(options.results)}
    for seed in options.seeds:
        for name in options.sets:
            data, targets, is_regression = development_table(name, seed, options.out)
            split_hash = hashlib.sha256(data.read_bytes()).hexdigest()[:12]
            for setting in options.settings:
                used = "" if SETTINGS[setting].get("source") == "scratch" else source
                if (name, str(seed), setting, used) in done:
                    continue
                if setting == "weights of class 1" and is_regression:
                    continue
                started = time.perf_counter()
                result = train(
                    TrainConfig(
                        data=str(data),
                        target=targets,
                        smiles="smiles",
                        split="split",
                        forest=0,
                        seed=seed,
                        out=str(options.out / f"{name}-{seed}-{setting.replace(' ', '-')}"),
                        **SETTINGS[setting],
                    ),
                    console=Console(file=io.StringIO()),
                )
                minutes = (time.perf_counter() - started) / 60
                metric = "RMSE" if is_regression else "ROC-AUC"
                validation = _mean(result.validation, metric)
                test = _mean(result.test, metric)
                row = (
                    *(name, seed, setting, metric, f"{validation:.4f}", f"{test:.4f}"),
                    *(result.kept_epoch, f"{minutes:.1f}", split_hash, used),
                )
                append_row(options.results, dict(zip(FIELDS, row, strict=True)))
                print(*row, flush=True)


def development_table(name: str, seed: int, out: Path) -> tuple[Path, tuple[str, ...], bool]:
    """Write the rows of a data set that are not in its test set, with a new split."""
    task = prepare(name, "U", out)
    published = read_table(task.data).columns
    kept = published.filter(np.array(published["split"].to_pylist()) != "test")
    split = cluster_split(kept["smiles"].to_pylist(), similarity=0.4, seed=seed)
    names = np.empty(len(kept), object)
    names[split.train], names[split.validation], names[split.test] = "train", "valid", "test"
    column = kept.column_names.index("split")
    kept = kept.set_column(column, "split", pa.array(names.tolist()))
    path = out / f"{name}-{seed}.csv"
    write_table(kept, path)
    return path, task.targets, task.is_regression


def _mean(by_target: dict[str, Metrics], metric: str) -> float:
    value = mean_metric(list(by_target.values()), metric)
    assert value is not None, f"{metric} is defined for no target"
    return value


if __name__ == "__main__":
    main(tyro.cli(Options))
