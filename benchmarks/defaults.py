"""What fine-tuning does by default, chosen where no test part of a published split is seen.

    python -m benchmarks.defaults --sets freesolv esol bbbp bace --seeds 0 1 2

Appends to `benchmarks/defaults.csv` one row per set, seed and way; a row that is there stays. The
test rows of protocol U are dropped; the others are split anew by clusters (Butina, ECFP4, Tanimoto
0.4), another split for each seed. Each way changes one setting of the present defaults, chooses its
epoch on the validation part of that split, and is judged on its test part.
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

from benchmarks.compare import prepare
from benchmarks.ledger import append, rows_of
from moleblend.data.formats import read_table, write_table
from moleblend.data.splits import cluster_split
from moleblend.evaluation.metrics import Metrics, mean_metric
from moleblend.finetuning.config import TrainConfig
from moleblend.finetuning.train import train
from moleblend.model import checkpoint

FIELDS = (
    *("dataset", "seed", "way", "metric", "validation", "test", "epoch", "minutes"),
    *("split_hash", "checkpoint"),
)
_FIRST_DEFAULTS: dict[str, Any] = {"epochs": 40, "patience": 10, "features": ("none",)}
WAYS: dict[str, dict[str, Any]] = {
    "default": {},
    "random weights": {"source": "scratch"},
    "nothing joined": {"features": ("none",)},
    "random weights, nothing joined": {"source": "scratch", "features": ("none",)},
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
    "read-out of all layers": {"readout": "layers"},
    "read-out of the last layer": {"readout": "mean"},
    "random weights, read-out of all layers": {"source": "scratch", "readout": "layers"},
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
    """What to run.

    Attributes:
        sets: of protocol U.
        ways: which of `WAYS`; all by default.
        seeds: of the split and of the training.
        out: folder for the runs.
        results: the table to append to.
    """

    sets: tuple[str, ...] = ("freesolv", "esol", "bbbp", "bace")
    ways: tuple[str, ...] = tuple(WAYS)
    seeds: tuple[int, ...] = (0, 1, 2)
    out: Path = Path("runs/defaults")
    results: Path = Path(__file__).parent / "defaults.csv"


def main(options: Options) -> None:
    """Run everything that is not in the table yet."""
    source = hashlib.sha256(checkpoint.packaged().read_bytes()).hexdigest()[:12]
    names = ("dataset", "seed", "way", "checkpoint")
    done = {tuple(row[name] for name in names) for row in rows_of(options.results)}
    for seed in options.seeds:
        for name in options.sets:
            data, targets, is_regression = development_table(name, seed, options.out)
            split_hash = hashlib.sha256(data.read_bytes()).hexdigest()[:12]
            for way in options.ways:
                used = "" if WAYS[way].get("source") == "scratch" else source
                if (name, str(seed), way, used) in done:
                    continue
                if way == "weights of class 1" and is_regression:
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
                        out=str(options.out / f"{name}-{seed}-{way.replace(' ', '-')}"),
                        **WAYS[way],
                    ),
                    console=Console(file=io.StringIO()),
                )
                minutes = (time.perf_counter() - started) / 60
                metric = "RMSE" if is_regression else "ROC-AUC"
                judged, tested = _mean(result.validation, metric), _mean(result.test, metric)
                row = (
                    *(name, seed, way, metric, f"{judged:.4f}", f"{tested:.4f}"),
                    *(result.kept_epoch, f"{minutes:.1f}", split_hash, used),
                )
                append(options.results, dict(zip(FIELDS, row, strict=True)))
                print(*row, flush=True)


def development_table(name: str, seed: int, out: Path) -> tuple[Path, tuple[str, ...], bool]:
    """Write the rows of a set that are not tested on, split anew."""
    task = prepare(name, "U", out)
    whole = read_table(task.data).columns
    known = whole.filter(np.array(whole["split"].to_pylist()) != "test")
    split = cluster_split(known["smiles"].to_pylist(), similarity=0.4, seed=seed)
    parts = np.empty(len(known), object)
    parts[split.train], parts[split.validation], parts[split.test] = "train", "valid", "test"
    place = known.column_names.index("split")
    known = known.set_column(place, "split", pa.array(parts.tolist()))
    path = out / f"{name}-{seed}.csv"
    write_table(known, path)
    return path, task.targets, task.is_regression


def _mean(found: dict[str, Metrics], metric: str) -> float:
    value = mean_metric(list(found.values()), metric)
    assert value is not None, f"{metric} is defined for no target"
    return value


if __name__ == "__main__":
    main(tyro.cli(Options))
