"""Account for the published splits: what stands in two parts, how near test is to train.

    python -m benchmarks.leakage --sets esol bbbp

Writes `benchmarks/leakage.csv`, one row per set of protocol U; a set that is there stays.
"""

import csv
import hashlib
import os
import time
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import tyro

from benchmarks.ledger import append
from moleblend.data.datasets.catalogue import on_protocol_u
from moleblend.data.formats import read_table
from moleblend.data.leakage import leakage
from moleblend.data.splits import read_split

HERE = Path(__file__).parent
KINDS = ("molecule", "skeleton", "scaffold")
PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class Options:
    """What to account for.

    Attributes:
        sets: names of files in unimol_split; muv and its 1.4 thousand million pairs take longest.
        results: the table to append to.
    """

    sets: tuple[str, ...] = on_protocol_u()
    results: Path = HERE / "leakage.csv"


def main(options: Options) -> None:
    """Account for every set that is not in the table yet."""
    folder = os.environ.get("MOLEBLEND_DATA")
    if not folder:
        raise ValueError("MOLEBLEND_DATA must name the folder that holds unimol_split")
    done = set()
    if options.results.is_file():
        with options.results.open(newline="", encoding="utf-8") as file:
            done = {row["dataset"] for row in csv.DictReader(file)}
    for name in options.sets:
        if name in done:
            continue
        started = time.perf_counter()
        data = Path(folder) / "unimol_split" / f"{name}.csv.gz"
        smiles, split, reasons = read_split(read_table(data), "split", smiles="smiles")
        found = leakage(smiles, split)
        row: dict[str, object] = {
            "dataset": name,
            "protocol": "U",
            "split_hash": hashlib.sha256(data.read_bytes()).hexdigest()[:12],
            **{f"rows in {part}": found.n_rows[part] for part in PARTS},
            "rows in no part": len(reasons),
        }
        for kind in KINDS:
            for first, second in combinations(PARTS, 2):
                shared = found.find(kind, first, second)
                row[f"{kind} in {first} and {second}"] = shared.n_shared
                row[f"{kind} in {first} and {second}, rows of {second}"] = len(shared.second)
        for near in found.nearest:
            for quantile, value in near.quantiles.items():
                row[f"{near.part} to train, {quantile}"] = f"{value:.3f}"
        row["seconds"] = f"{time.perf_counter() - started:.0f}"
        append(options.results, row)
        print(name, row["seconds"], "s")


if __name__ == "__main__":
    main(tyro.cli(Options))
