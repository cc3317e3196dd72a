"""Time featurization from SMILES, or from a store, to a padded batch, in one process.

    python -m benchmarks.speed.featurization        # MOLEBLEND_DATA is the folder of data sets

The methods take turns for several rounds. `benchmarks/results/featurization.csv` has the medians
and their ratios to the naive implementation (`benchmarks/speed/naive_featurization.py`) and to
RDKit's parsing alone, all of the same run. `ratio_to_published` is relative to the published code
(Yu et al.), measured on another day in one process of a similar machine.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import tyro
from rdkit import Chem

from benchmarks.results.csv_files import RESULTS, write_rows
from benchmarks.speed import naive_featurization
from moleblend.chem.parsing import read_smiles
from moleblend.data.store import MoleculeStore, write_store
from moleblend.model.batch import collate

PUBLISHED = {"QM9": 758, "MOSES": 209}
"""Molecules/s of the published pipeline, SMILES to padded batch."""


@dataclass(frozen=True)
class Options:
    """What to time.

    Attributes:
        n_molecules: molecules of each data set.
        batch_size: molecules in a batch.
        n_rounds: rounds of all methods.
        out: csv file to write.
    """

    n_molecules: int = 2_048
    batch_size: int = 64
    n_rounds: int = 7
    out: Path = RESULTS / "featurization.csv"


def main(options: Options) -> None:
    """Time everything and write the results."""
    rows = []
    for name, smiles in read(options.n_molecules).items():
        with tempfile.TemporaryDirectory() as folder:
            rates = measure(smiles, Path(folder) / "molecules.arrow", options)
        for method, rate in rates.items():
            rows.append(
                {
                    "data": name,
                    "method": method,
                    "molecules_per_s": round(rate),
                    "ratio_to_plain": round(
                        rate / rates["naive implementation, published features"], 1
                    ),
                    "fraction_of_rdkit_parsing": round(rate / rates["RDKit parsing alone"], 3),
                    "ratio_to_published": round(rate / PUBLISHED[name], 1),
                    "date": date.today().isoformat(),
                }
            )
            print(*rows[-1].values(), sep="  ")
    write_rows(options.out, rows)


def read(n_molecules: int) -> dict[str, list[str]]:
    """Draw molecules of QM9 and of MOSES."""
    folder = Path(os.environ["MOLEBLEND_DATA"])
    qm9 = pq.read_table(folder / "qm9" / "qm9.parquet", columns=["smiles"])
    drugs = pq.read_table(
        folder / "corpus3d" / "corpus3d.parquet",
        columns=["smiles"],
        filters=pc.field("source") == "moses",
    )
    chosen = {}
    for name, table in (("QM9", qm9), ("MOSES", drugs)):
        rows = np.random.default_rng(0).choice(len(table), n_molecules, replace=False)
        chosen[name] = table.column("smiles").take(rows).to_pylist()
    return chosen


def measure(smiles: list[str], path: Path, options: Options) -> dict[str, float]:
    """Molecules/s of every method, the median over the rounds."""
    starts = range(0, len(smiles), options.batch_size)
    batches = [smiles[k : k + options.batch_size] for k in starts]
    write_store((read_smiles(text) for text in smiles), path, features="cip-1")
    store = MoleculeStore(path)
    order = np.random.default_rng(1).permutation(len(store)).tolist()
    drawn = [order[k : k + options.batch_size] for k in starts]
    methods: dict[str, Callable[[], object]] = {
        "RDKit parsing alone": lambda: [Chem.MolFromSmiles(text) for text in smiles],
        "naive implementation, published features": lambda: [
            naive_featurization.featurise(batch) for batch in batches
        ],
        "published features": lambda: [
            collate([read_smiles(text, features="ogb-1") for text in batch]) for batch in batches
        ],
        "default features": lambda: [
            collate([read_smiles(text) for text in batch]) for batch in batches
        ],
        "from the store": lambda: [collate([store[row] for row in rows]) for rows in drawn],
    }
    seconds: dict[str, list[float]] = {method: [] for method in methods}
    for _ in range(options.n_rounds):
        for method, run in methods.items():
            started = time.perf_counter()
            run()
            seconds[method].append(time.perf_counter() - started)
    return {method: len(smiles) / statistics.median(times) for method, times in seconds.items()}


if __name__ == "__main__":
    main(tyro.cli(Options))
