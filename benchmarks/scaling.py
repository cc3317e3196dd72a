"""How time and memory of the small default model grow with atoms and with the batch.

    python -m benchmarks.scaling            # some five minutes; writes scaling.csv and the plot

The molecules are peptides: one glycine and as many alanines as give the wanted number of heavy
atoms. Their positions are a random walk of 1.5 Å steps: time does not depend on them. Exponents are
slopes in a log-log fit over the sizes that a row names. The largest molecule is one whose fresh
process stays within the limit, imports included.
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

from benchmarks.ledger import write
from benchmarks.one_step import Step, embedding, peak_mb
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
        n_rounds: of each size, which take turns; the first is not counted.
        limit_mb: of memory, for the largest molecule.
        out: the table.
        plot: the picture.
    """

    n_rounds: int = 6
    limit_mb: int = 4_096
    out: Path = Path(__file__).parent / "scaling.csv"
    plot: Path = Path(__file__).parents[1] / "docs" / "img" / "scaling.png"


@dataclass(frozen=True)
class Row:
    """One figure: seconds of a step or of embedding, an exponent of them, or the largest size."""

    what: str
    grows: str
    size: str
    figure: str
    value: float
    threads: int
    date: str


def main(options: Options) -> None:
    """Measure, write and draw."""
    rows: list[Row] = []

    def tell(what: str, grows: str, size: str, figure: str, value: float) -> None:
        today = date.today().isoformat()
        rows.append(Row(what, grows, size, figure, value, torch.get_num_threads(), today))
        print(rows[-1], flush=True)

    batches = {
        "atoms": {n: collate([peptide(n)]) for n in N_ATOMS},
        "batch": {b: collate([peptide(ATOMS_IN_BATCH)] * b) for b in BATCH_SIZES},
    }
    seconds = {}
    for grows, sized in batches.items():
        for what in ("step", "embedding"):
            seconds[what, grows] = times(what, sized, options.n_rounds)
            for size, value in seconds[what, grows].items():
                tell(what, grows, str(size), "seconds", round(value, 5))
            for low, high in FITTED[grows]:
                fitted = {s: t for s, t in seconds[what, grows].items() if low <= s <= high}
                slope = np.polyfit(np.log(list(fitted)), np.log(list(fitted.values())), 1)[0]
                tell(what, grows, f"{low} to {high}", "exponent", round(float(slope), 2))
    draw(seconds, options.plot)
    for what in ("step", "embedding"):
        tell(what, "atoms", *largest(what, options.limit_mb))
    write(options.out, [vars(row) for row in rows])


def peptide(n_atoms: int) -> Molecule:
    """Give a peptide of n heavy atoms, a multiple of 5."""
    if n_atoms % 5 or n_atoms < 10:
        raise ValueError(f"a multiple of 5 from 10 on was expected, {n_atoms} came")
    n_alanines = (n_atoms - 5) // 5
    molecule = read_smiles("NCC(=O)" + "N[C@@H](C)C(=O)" * n_alanines + "O")
    steps = np.random.default_rng(0).normal(size=(1, molecule.n_atoms, 3))
    steps *= 1.5 / np.linalg.norm(steps, axis=-1, keepdims=True)
    return replace(molecule, positions=steps.cumsum(1).astype(np.float32))


def times(what: str, sized: dict[int, Batch], n_rounds: int) -> dict[int, float]:
    """Give the median seconds of each size; sizes take turns."""
    step = Step(CONFIG, "ours")
    run = step.run if what == "step" else embedding(step.model.eval(), "ours", "both")
    taken: dict[int, list[float]] = {size: [] for size in sized}
    with torch.inference_mode(what == "embedding"):
        for k in range(n_rounds):
            for size, batch in sized.items():
                started = time.perf_counter()
                run(batch)
                if k:
                    taken[size].append(time.perf_counter() - started)
    return {size: statistics.median(seconds) for size, seconds in taken.items()}


def largest(what: str, limit_mb: int, precision: int = 80) -> tuple[str, str, float]:
    """Find the largest peptide whose process stays below the limit, to within `precision` atoms."""

    def fits(n_atoms: int) -> bool:
        batch = collate([peptide(n_atoms)])
        try:
            return peak_mb(CONFIG, [batch], "ours", what, limit_mb) <= limit_mb
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
    """Draw seconds against atoms and against molecules in a batch."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained", sharey=True)
    labels = {"step": "training step", "embedding": "embedding, 2D and 3D"}
    names = {"atoms": "heavy atoms of one peptide", "batch": "peptides of 25 atoms in a batch"}
    for axis, grows in zip(axes, names, strict=True):
        for (what, grown), taken in seconds.items():
            if grown == grows:
                axis.loglog(
                    list(taken), [1e3 * t for t in taken.values()], "o-", label=labels[what]
                )
        sizes = list(seconds["step", grows])
        axis.set_xticks(sizes, [str(size) for size in sizes])
        axis.minorticks_off()
        axis.set_xlabel(names[grows])
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("milliseconds")
    axes[0].legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options)))
