"""Measure leakage in the published splits: shared molecules, and similarity of test to train.

    python -m benchmarks.accuracy.split_leakage --sets esol bbbp

Appends one row per data set of protocol U to `benchmarks/results/split_leakage.csv`. Data sets that
are in the file are not measured again.
"""

import hashlib
import os
import time
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import tyro

from benchmarks.results.csv_files import RESULTS, append_row, read_rows
from moleblend.data.datasets.catalogue import on_protocol_u
from moleblend.data.formats import read_table
from moleblend.data.leakage import leakage
from moleblend.data.splits import read_split

KINDS = ("molecule", "skeleton", "scaffold")
SETS = ("train", "validation", "test")


@dataclass(frozen=True)
class Options:
    """Which data sets to measure.

    Attributes:
        sets: names of files in unimol_split; muv takes longest, with 1.4 billion pairs.
        results: csv file that the rows are appended to.
    """

    sets: tuple[str, ...] = on_protocol_u()
    results: Path = RESULTS / "split_leakage.csv"


def main(options: Options) -> None:
    """Measure every data set that is not in the result file yet."""
    folder = os.environ.get("MOLEBLEND_DATA")
    if not folder:
        raise ValueError("MOLEBLEND_DATA must name the folder that holds unimol_split")
    done = {row["dataset"] for row in read_rows(options.results)}
    for name in options.sets:
        if name in done:
            continue
        started = time.perf_counter()
        data = Path(folder) / "unimol_split" / f"{name}.csv.gz"
        smiles, split, reasons = read_split(read_table(data), "split", smiles="smiles")
        measured = leakage(smiles, split)
        row: dict[str, object] = {
            "dataset": name,
            "protocol": "U",
            "split_hash": hashlib.sha256(data.read_bytes()).hexdigest()[:12],
            **{f"rows in {name}": measured.n_rows[name] for name in SETS},
            "rows in no set": len(reasons),
        }
        for kind in KINDS:
            for first, second in combinations(SETS, 2):
                shared = measured.find(kind, first, second)
                row[f"{kind} in {first} and {second}"] = shared.n_shared
                row[f"{kind} in {first} and {second}, rows of {second}"] = len(shared.second)
        for near in measured.nearest:
            for quantile, value in near.quantiles.items():
                row[f"{near.part} to train, {quantile}"] = f"{value:.3f}"
        row["seconds"] = f"{time.perf_counter() - started:.0f}"
        append_row(options.results, row)
        print(name, row["seconds"], "s")


if __name__ == "__main__":
    main(tyro.cli(Options))
