"""What a step of fine-tuning takes on large molecules, in pieces and as a whole.

    python -m benchmarks.large

Writes `benchmarks/large.csv` anew: for chains of carbon of some lengths, in both ways, the peak
memory of a process that does three steps from the packaged model, and the median of their times.
"""

import io
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from benchmarks.ledger import append, timed
from moleblend.chem.parsing import read_smiles
from moleblend.data.dataset import MoleculeDataset
from moleblend.data.targets import Target
from moleblend.finetuning import lightning_module as finetuning
from moleblend.finetuning.config import TrainConfig
from moleblend.model import checkpoint
from moleblend.model.batch import collate
from moleblend.model.heads import ModelConfig

RESULTS = Path(__file__).parent / "large.csv"
BATCHES = ((30, 32), (150, 32), (400, 8))
"""Atoms of each molecule, and molecules."""


def steps(way: str, n_atoms: int, n_molecules: int) -> None:
    """Do three steps and print the seconds of the median one."""
    if way == "whole":
        finetuning._PAIRS_AT_ONCE = sys.maxsize
    source = checkpoint.load(checkpoint.packaged())
    config = ModelConfig(source.config.encoder, None, (Target("y", "regression"),))
    molecules = [read_smiles("C" * n_atoms)] * n_molecules
    labels, censoring = np.zeros((n_molecules, 1)), np.zeros((n_molecules, 1), np.int8)
    part = MoleculeDataset(molecules, labels, censoring, np.zeros((n_molecules, 0), np.float32))
    model = checkpoint.transfer(source, config).train()
    quiet = Console(file=io.StringIO())
    run = finetuning.FineTuning(model, TrainConfig("x"), "2d", part, part, quiet, seed=0)
    given = (part.features, labels.astype(np.float32), censoring)
    batch = (collate(molecules), *map(torch.from_numpy, given))
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        run.training_step(batch, 0).backward()
        seconds.append(time.perf_counter() - began)
    print(statistics.median(seconds))


def main() -> None:
    """Measure all batches in both ways, which take turns."""
    RESULTS.unlink(missing_ok=True)
    for n_atoms, n_molecules in BATCHES:
        for way in ("whole", "pieces"):
            command = [sys.executable, "-m", "benchmarks.large", way]
            log = RESULTS.with_suffix(".log")
            with log.open("w+", encoding="utf-8") as said:
                _, peak_mb = timed([*command, str(n_atoms), str(n_molecules)], said, threads=1)
                said.seek(0)
                seconds = float(said.read().split()[-1])
            log.unlink()
            row = {"n_atoms": n_atoms, "n_molecules": n_molecules, "way": way}
            row |= {"peak_mb": round(peak_mb), "step_seconds": round(seconds, 2)}
            append(RESULTS, row)
            print(*row.values(), flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        steps(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
    else:
        main()
