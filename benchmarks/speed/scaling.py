"""Measure how time and memory of the small default model scale with atoms and batch size.

    python -m benchmarks.speed.scaling            # takes about five minutes

Writes `benchmarks/results/scaling.csv` and the plot `docs/img/scaling.png`. The molecules are
peptides of one glycine and as many alanines as the number of heavy atoms needs. Their positions are
a random walk with 1.5 Å steps; the time does not depend on them. Exponents are slopes of a log-log
fit over the sizes in the row. The largest molecule is the largest one whose fresh process stays
within the memory limit, imports included.
"""

import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
import tyro

from benchmarks.results.csv_files import REPOSITORY, RESULTS, write_rows
from benchmarks.speed.step_memory import Step, embedding, peak_mb
from moleblend.chem.molecule import Molecule
from moleblend.chem.parsing import read_smiles
from moleblend.model.batch import Batch, collate

mpl.use("Agg")
import matplotlib.pyplot as plt

CONFIG = "small, default"
N_ATOMS = (10, 20, 40, 80, 160, 320)
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
ATOMS_IN_BATCH = 25
FITTED = {"atoms": ((10, 40), (80, 320)), "batch": ((1, 8), (16, 128))}


@dataclass(frozen=True)
class Options:
    """What to measure.

    Attributes:
        n_rounds: rounds of all sizes; the first is not counted.
        limit_mb: memory limit for the largest molecule, in MB.
        out: csv file to write.
        plot: image file to write.
    """

    n_rounds: int = 6
    limit_mb: int = 4_096
    out: Path = RESULTS / "scaling.csv"
    plot: Path = REPOSITORY / "docs" / "img" / "scaling.png"


@dataclass(frozen=True)
class Row:
    """One measurement: seconds of a step or an embedding, their exponent, or the largest size."""

    task: str
    varied: str
    size: str
    metric: str
    value: float
    threads: int
    date: str


def main(options: Options) -> None:
    """Measure, write and plot."""
    rows: list[Row] = []

    def record(task: str, varied: str, size: str, metric: str, value: float) -> None:
        today = date.today().isoformat()
        rows.append(Row(task, varied, size, metric, value, torch.get_num_threads(), today))
        print(rows[-1], flush=True)

    batches = {
        "atoms": {n: collate([peptide(n)]) for n in N_ATOMS},
        "batch": {b: collate([peptide(ATOMS_IN_BATCH)] * b) for b in BATCH_SIZES},
    }
    seconds = {}
    for varied, sized in batches.items():
        for task in ("step", "embedding"):
            seconds[task, varied] = times(task, sized, options.n_rounds)
            for size, value in seconds[task, varied].items():
                record(task, varied, str(size), "seconds", round(value, 5))
            for low, high in FITTED[varied]:
                fitted = {s: t for s, t in seconds[task, varied].items() if low <= s <= high}
                slope = np.polyfit(np.log(list(fitted)), np.log(list(fitted.values())), 1)[0]
                record(task, varied, f"{low} to {high}", "exponent", round(float(slope), 2))
    draw(seconds, options.plot)
    for task in ("step", "embedding"):
        record(task, "atoms", *largest(task, options.limit_mb))
    write_rows(options.out, [vars(row) for row in rows])


def peptide(n_atoms: int) -> Molecule:
    """Make a peptide of n heavy atoms, a multiple of 5."""
    if n_atoms % 5 or n_atoms < 10:
        raise ValueError(f"got n_atoms={n_atoms}, expected a multiple of 5, at least 10")
    n_alanines = (n_atoms - 5) // 5
    molecule = read_smiles("NCC(=O)" + "N[C@@H](C)C(=O)" * n_alanines + "O")
    steps = np.random.default_rng(0).normal(size=(1, molecule.n_atoms, 3))
    steps *= 1.5 / np.linalg.norm(steps, axis=-1, keepdims=True)
    return replace(molecule, positions=steps.cumsum(1).astype(np.float32))


def times(task: str, sized: dict[int, Batch], n_rounds: int) -> dict[int, float]:
    """Median seconds of each size; sizes take turns."""
    step = Step(CONFIG, "package")
    run = step.run if task == "step" else embedding(step.model.eval(), "package", "both")
    taken: dict[int, list[float]] = {size: [] for size in sized}
    with torch.inference_mode(task == "embedding"):
        for k in range(n_rounds):
            for size, batch in sized.items():
                started = time.perf_counter()
                run(batch)
                if k:
                    taken[size].append(time.perf_counter() - started)
    return {size: statistics.median(seconds) for size, seconds in taken.items()}


def largest(task: str, limit_mb: int, precision: int = 80) -> tuple[str, str, float]:
    """Largest peptide whose process stays below the memory limit, to within `precision` atoms."""

    def fits(n_atoms: int) -> bool:
        batch = collate([peptide(n_atoms)])
        try:
            return peak_mb(CONFIG, [batch], "package", task, limit_mb) <= limit_mb
        except subprocess.CalledProcessError as error:
            if "DefaultCPUAllocator: can't allocate memory" in error.stderr:
                return False
            raise

    low = high = 960
    while fits(high):
        low, high = high, high * 3 // 2
    while high - low > precision:
        middle = (low + high) // 2 // precision * precision
        low, high = (middle, high) if fits(middle) else (low, middle)
    return f"at most {limit_mb} MB", "largest molecule, atoms", low


def draw(seconds: dict[tuple[str, str], dict[int, float]], path: Path) -> None:
    """Plot seconds against atoms and against molecules in a batch."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained", sharey=True)
    labels = {"step": "training step", "embedding": "embedding, 2D and 3D"}
    names = {"atoms": "heavy atoms of one peptide", "batch": "peptides of 25 atoms in a batch"}
    for axis, varied in zip(axes, names, strict=True):
        for (task, other), taken in seconds.items():
            if other == varied:
                axis.loglog(
                    list(taken), [1e3 * t for t in taken.values()], "o-", label=labels[task]
                )
        sizes = list(seconds["step", varied])
        axis.set_xticks(sizes, [str(size) for size in sizes])
        axis.minorticks_off()
        axis.set_xlabel(names[varied])
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("milliseconds")
    axes[0].legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options)))
