"""Measure time and memory of a fine-tuning step on large molecules, in one pass or in chunks.

    python -m benchmarks.speed.large_molecules

Writes `benchmarks/results/large_molecules.csv`. The molecules are carbon chains. Each row has the
peak memory of a process that does three steps from the packaged model, and their median time.
"""

import statistics
import sys
import time

import numpy as np
import torch

from benchmarks.results.csv_files import RESULTS, append_row
from benchmarks.speed.commands import run_timed
from moleblend.chem.parsing import read_smiles
from moleblend.data.dataset import MoleculeDataset
from moleblend.data.targets import Target
from moleblend.finetuning.config import TrainConfig
from moleblend.finetuning.lightning_module import FineTuning
from moleblend.model import checkpoint
from moleblend.model.batch import collate
from moleblend.model.growth import transfer
from moleblend.model.heads import ModelConfig

OUT = RESULTS / "large_molecules.csv"
BATCHES = ((30, 32), (150, 32), (400, 8))
"""Atoms per molecule, and molecules per batch."""


def steps(method: str, n_atoms: int, n_molecules: int) -> None:
    """Do three steps and print their median seconds."""
    source = checkpoint.load(checkpoint.packaged())
    config = ModelConfig(source.config.encoder, None, (Target("y", "regression"),))
    molecules = [read_smiles("C" * n_atoms)] * n_molecules
    labels, censoring = np.zeros((n_molecules, 1)), np.zeros((n_molecules, 1), np.int8)
    data = MoleculeDataset(molecules, labels, censoring, np.zeros((n_molecules, 0), np.float32))
    model = transfer(source, config).train()
    limit = {"max_pairs": sys.maxsize} if method == "one pass" else {}
    run = FineTuning(model, TrainConfig("x"), "2d", data, seed=0, **limit)
    arrays = (data.features, labels.astype(np.float32), censoring)
    batch = (collate(molecules), *map(torch.from_numpy, arrays))
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        run.training_step(batch, 0).backward()
        seconds.append(time.perf_counter() - started)
    print(statistics.median(seconds))


def main() -> None:
    """Measure all batches with both methods in turn."""
    OUT.unlink(missing_ok=True)
    for n_atoms, n_molecules in BATCHES:
        for method in ("one pass", "chunks"):
            command = [sys.executable, "-m", "benchmarks.speed.large_molecules", method]
            log = OUT.with_suffix(".log")
            with log.open("w+", encoding="utf-8") as output:
                _, peak_mb = run_timed(
                    [*command, str(n_atoms), str(n_molecules)], output, threads=1
                )
                output.seek(0)
                seconds = float(output.read().split()[-1])
            log.unlink()
            row = {"n_atoms": n_atoms, "n_molecules": n_molecules, "method": method}
            row |= {"peak_mb": round(peak_mb), "step_seconds": round(seconds, 2)}
            append_row(OUT, row)
            print(*row.values(), flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        steps(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
    else:
        main()
