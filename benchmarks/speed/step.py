"""Time a pretraining step and inference, compared with a naive implementation and a lower bound.

    python -m benchmarks.speed.step                 # MOLEBLEND_DATA is the folder of data sets
    python -m benchmarks.speed.step --quick         # three minutes: the small configuration only
    python -m benchmarks.speed.step --json FILE     # also writes the rows as JSON

A step draws the blend, runs the forward pass, four losses and the backward pass, clips the gradient
and updates the weights with Adam. Batches are made beforehand. The package and the naive
implementation (`benchmarks/speed/naive_model.py`: same parameters, same losses) take turns on the
same batches; `ratio_to_plain` is the ratio of their median times. The lower bound ("floor") is the
time of the layers' matrix products alone (6 C^2 multiply-adds per token and layer, three times) at
the rate of large fp32 matrix products on this machine in the same run; `multiple_of_floor` is the
step's time divided by it. Peak memory is that of a separate process that does six steps
(`benchmarks/speed/step_memory.py`), imports included.
"""

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
import tyro
from torch import nn

from benchmarks.results.csv_files import RESULTS, write_rows
from benchmarks.speed.step_memory import CONFIGS, IMPLEMENTATIONS, Step, embedding, peak_mb
from moleblend.data.table import Rejected, Table, read_molecules
from moleblend.model.batch import Batch, collate
from moleblend.model.blending import ShownViews

PUBLISHED = {
    ("small", "QM9", "step"): 131,
    ("small", "MOSES", "step"): 19.6,
    ("base", "QM9", "step"): 25,
    ("base", "MOSES", "step"): 6.7,
    ("small", "QM9", "2D"): 1_215,
    ("small", "QM9", "2D+3D"): 1_111,
    ("small", "MOSES", "2D"): 428,
    ("small", "MOSES", "2D+3D"): 362,
}
"""Molecules/s of the published code, measured on another day."""

BATCH_SIZE = {"QM9": 32, "MOSES": 16}


@dataclass(frozen=True)
class Options:
    """What to time.

    Attributes:
        quick: the small configuration only, and fewer rounds.
        n_rounds: steps of each implementation; the first two are not counted.
        json: JSON file for the rows.
        out: csv file to write; not written with `quick`.
    """

    quick: bool = False
    n_rounds: int = 22
    json: Path | None = None
    out: Path = RESULTS / "step.csv"


@dataclass(frozen=True)
class Row:
    """One row of the results."""

    config: str
    data: str
    batch: int
    task: str
    molecules_per_s: float
    ratio_to_plain: float
    multiple_of_floor: float | None
    peak_mb: float | None
    plain_peak_mb: float | None
    published_molecules_per_s: float | None
    threads: int
    date: str


def main(options: Options) -> None:
    """Time everything, print and write the results."""
    rows = []
    n_rounds = 8 if options.quick else options.n_rounds
    for name in ("small",) if options.quick else tuple(CONFIGS):
        for data in BATCH_SIZE:
            rows += measure(name, data, n_rounds)
            for row in rows[-3:]:
                print(row, flush=True)
            print(time_fractions(name, data), flush=True)
    if options.json:
        options.json.write_text(json.dumps([vars(row) for row in rows], indent=2) + "\n")
    if not options.quick:
        write_rows(options.out, [vars(row) for row in rows])


def measure(name: str, data: str, n_rounds: int) -> list[Row]:
    """Time the step and inference of one configuration on one data set."""
    batches = read(name, data, 6)
    size, config = len(batches[0]), CONFIGS[name].encoder
    tokens = size * (batches[0].is_atom.shape[1] + 1)
    steps = {kind: Step(name, kind) for kind in IMPLEMENTATIONS}
    seconds = interleaved({kind: step.run for kind, step in steps.items()}, batches, n_rounds)
    work = 2 * 6 * config.width**2 * tokens * config.n_layers * 3
    peaks = {kind: peak_mb(name, batches, kind) for kind in IMPLEMENTATIONS}
    rows = [
        Row(
            config=name,
            data=data,
            batch=size,
            task="step",
            molecules_per_s=round(size / seconds["package"], 1),
            ratio_to_plain=round(seconds["naive"] / seconds["package"], 2),
            multiple_of_floor=round(seconds["package"] * matrix_rate() / work, 2),
            peak_mb=peaks.get("package"),
            plain_peak_mb=peaks.get("naive"),
            published_molecules_per_s=PUBLISHED.get((name, data, "step")),
            threads=torch.get_num_threads(),
            date=date.today().isoformat(),
        )
    ]
    model = steps["package"].model.eval()
    shown: dict[str, ShownViews] = {"2D": "2d", "2D+3D": "both"}
    for task, views in shown.items():
        encoders = {kind: embedding(model, kind, views) for kind in IMPLEMENTATIONS}
        with torch.inference_mode():
            seconds = interleaved(encoders, batches, n_rounds)
        rows.append(
            Row(
                config=name,
                data=data,
                batch=size,
                task=task,
                molecules_per_s=round(size / seconds["package"], 1),
                ratio_to_plain=round(seconds["naive"] / seconds["package"], 2),
                multiple_of_floor=round(seconds["package"] * matrix_rate() / (work / 3), 2),
                peak_mb=None,
                plain_peak_mb=None,
                published_molecules_per_s=PUBLISHED.get((name, data, task)),
                threads=torch.get_num_threads(),
                date=date.today().isoformat(),
            )
        )
    return rows


def interleaved(
    functions: dict[str, Callable[[Batch], object]], batches: list[Batch], n_rounds: int
) -> dict[str, float]:
    """Median seconds of each function; they take turns, so that drift affects all equally."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for k in range(n_rounds):
        for name, run in functions.items():
            started = time.perf_counter()
            run(batches[k % len(batches)])
            if k > 1:
                seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(times) for name, times in seconds.items()}


def matrix_rate(size: int = 1_024, n_rounds: int = 15) -> float:
    """Measure the floating point operations per second of a large fp32 matrix product."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    seconds = []
    for _ in range(n_rounds):
        started = time.perf_counter()
        torch.mm(a, b)
        seconds.append(time.perf_counter() - started)
    return 2 * size**3 / statistics.median(seconds)


def time_fractions(name: str, data: str) -> dict[str, float]:
    """Fraction of a step's time that each module takes, from a profile."""
    step, batches = Step(name, "package"), read(name, data, 4)
    encoder, heads = step.model.encoder, step.model.pair_heads
    assert heads is not None
    modules: dict[str, nn.Module] = {
        "path length bias": encoder.path_length_bias,
        "edge path bias": encoder.edge_path_bias,
        "Gaussians": encoder.kernels,
        "distance bias": encoder.distance_bias,
        "geometry head": heads.geometry,
        "denoising head": heads.noise,
        "layers": encoder.layers,
    }
    with torch.profiler.profile(with_modules=False) as profile:
        handles = []
        for label, module in modules.items():
            for each in module if isinstance(module, nn.ModuleList) else [module]:
                handles += _mark(each, f"forward: {label}")
        for batch in batches:
            step.run(batch)
        for handle in handles:
            handle.remove()
    total = {event.key: event.cpu_time_total for event in profile.key_averages()}
    own = {event.key: event.self_cpu_time_total for event in profile.key_averages()}
    all_time = sum(event.self_cpu_time_total for event in profile.key_averages())
    backward = sum(time for key, time in total.items() if key.startswith("autograd::engine"))
    seconds = {key: time for key, time in total.items() if key.startswith("forward:")}
    seconds["path and bond heads with their gradients"] = total["PairCrossEntropy"]
    seconds["backward"] = backward
    seconds["of all: matrix products"] = sum(own[f"aten::{k}"] for k in ("mm", "addmm", "bmm"))
    seconds["of all: random numbers"] = own["aten::uniform_"]
    seconds["optimiser"] = sum(t for key, t in total.items() if "Optimizer.step" in key)
    return {key: round(value / all_time, 3) for key, value in seconds.items()}


def _mark(module: nn.Module, label: str) -> list[torch.utils.hooks.RemovableHandle]:
    """Label the forward pass of a module in a profile."""
    open_marks = []

    def enter(*_: object) -> None:
        mark = torch.profiler.record_function(label)
        mark.__enter__()
        open_marks.append(mark)

    def leave(*_: object) -> None:
        open_marks.pop().__exit__(None, None, None)

    return [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]


def read(name: str, data: str, n_batches: int) -> list[Batch]:
    """Draw batches of real molecules with their geometry, the same in every call."""
    folder = Path(os.environ["MOLEBLEND_DATA"])
    n_molecules = n_batches * BATCH_SIZE[data]
    if data == "QM9":
        path = folder / "qm9" / "qm9.parquet"
        columns, source = ["smiles", "atomic_numbers", "coordinates"], None
    else:
        path = folder / "corpus3d" / "corpus3d.parquet"
        columns, source = ["smiles", "coordinates_mA"], pc.field("source") == "moses"
    table = pq.read_table(path, columns=columns, filters=source)
    rows = np.random.default_rng(0).choice(len(table), n_molecules, replace=False)
    features = CONFIGS[name].encoder.features
    drawn = Table(path, table.take(rows))
    molecules = list(read_molecules(drawn, features=features))
    kept = [item for item in molecules if not isinstance(item, Rejected)]
    if len(kept) < n_molecules:
        raise ValueError(f"{n_molecules - len(kept)} of {n_molecules} molecules could not be read")
    size = BATCH_SIZE[data]
    return [collate(kept[k : k + size]) for k in range(0, n_molecules, size)]


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options)))
