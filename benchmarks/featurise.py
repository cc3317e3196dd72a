"""Time the way from SMILES to a padded batch, and from a store to one, in one process.

    python -m benchmarks.featurise            # MOLEBLEND_DATA names the folder of data sets

Every way is timed in turn, several times over; what is written to `featurise.csv` is the median,
and its ratio to the straightforward way (`benchmarks/plain.py`) and to RDKit's parsing alone, both
of the same run. The last column is what the published code did on another day (Yu et al.'s code,
one process of a like machine).
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

from benchmarks import plain
from benchmarks.ledger import write
from moleblend.chem.parsing import read_smiles
from moleblend.data.store import MoleculeStore, write_store
from moleblend.model.batch import collate

PUBLISHED = {"QM9": 758, "MOSES": 209}
"""Molecules/s of the published pipeline, SMILES to padded batch."""


@dataclass(frozen=True)
class Options:
    """What to time.

    Attributes:
        n_molecules: of each data set.
        batch_size: molecules in a batch.
        n_rounds: times that every way is taken.
        out: the table to write.
    """

    n_molecules: int = 2_048
    batch_size: int = 64
    n_rounds: int = 7
    out: Path = Path(__file__).parent / "featurise.csv"


def main(options: Options) -> None:
    """Time everything and write the table."""
    rows = []
    for name, smiles in read(options.n_molecules).items():
        with tempfile.TemporaryDirectory() as folder:
            rates = measure(smiles, Path(folder) / "molecules.arrow", options)
        for way, rate in rates.items():
            rows.append(
                {
                    "data": name,
                    "way": way,
                    "molecules_per_s": round(rate),
                    "ratio_to_plain": round(rate / rates["plain, published features"], 1),
                    "share_of_rdkit_parsing": round(rate / rates["RDKit parsing alone"], 3),
                    "ratio_to_published": round(rate / PUBLISHED[name], 1),
                    "date": date.today().isoformat(),
                }
            )
            print(*rows[-1].values(), sep="  ")
    write(options.out, rows)


def read(n_molecules: int) -> dict[str, list[str]]:
    """Draw molecules of both kinds."""
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
    """Give molecules/s of every way, the median over the rounds."""
    starts = range(0, len(smiles), options.batch_size)
    batches = [smiles[k : k + options.batch_size] for k in starts]
    write_store((read_smiles(text) for text in smiles), path, features="cip-1")
    store = MoleculeStore(path)
    order = np.random.default_rng(1).permutation(len(store)).tolist()
    drawn = [order[k : k + options.batch_size] for k in starts]
    ways: dict[str, Callable[[], object]] = {
        "RDKit parsing alone": lambda: [Chem.MolFromSmiles(text) for text in smiles],
        "plain, published features": lambda: [plain.featurise(batch) for batch in batches],
        "published features": lambda: [
            collate([read_smiles(text, features="ogb-1") for text in batch]) for batch in batches
        ],
        "default features": lambda: [
            collate([read_smiles(text) for text in batch]) for batch in batches
        ],
        "from the store": lambda: [collate([store[row] for row in rows]) for rows in drawn],
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(options.n_rounds):
        for way, run in ways.items():
            started = time.perf_counter()
            run()
            seconds[way].append(time.perf_counter() - started)
    return {way: len(smiles) / statistics.median(times) for way, times in seconds.items()}


if __name__ == "__main__":
    main(tyro.cli(Options))
