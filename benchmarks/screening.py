"""Memory and speed of `moleblend predict`, or `embed`, on more and more rows of one file.

    python -m benchmarks.screening --source train.csv.gz --model MODEL --rows 20000 1000000

Appends a row for each size to `benchmarks/screening.csv`. Memory is measured as in
`benchmarks.build`; its ratio is that to the first size of the same run.
"""

import datetime
import itertools
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from benchmarks.build import commit, measure
from benchmarks.ledger import append
from moleblend.data.formats import read_pieces, write_tables


@dataclass(frozen=True)
class Options:
    """What to run.

    Attributes:
        source: file of molecules with at least as many rows as are asked for.
        model: the model file.
        verb: predict, into a csv file, or embed, into an npy file.
        rows: sizes, the one that others are compared with first.
        processes: of the command.
        results: the table to append to.
    """

    source: Path
    model: Path
    verb: Literal["predict", "embed"] = "predict"
    rows: tuple[int, ...] = (20_000, 100_000)
    processes: int = 1
    results: Path = Path(__file__).parent / "screening.csv"


def main(options: Options) -> None:
    """Answer for each size and append what it took."""
    first, ending = 0.0, {"predict": "csv", "embed": "npy"}[options.verb]
    for n_rows in options.rows:
        with tempfile.TemporaryDirectory() as folder:
            source, out = Path(folder) / "in.csv", Path(folder) / f"out.{ending}"
            pieces = read_pieces(options.source, 1_000)
            tables = (piece.columns for piece in itertools.islice(pieces, n_rows // 1_000))
            write_tables(tables, source)
            given = [sys.executable, "-m", "moleblend.cli.main", options.verb, str(options.model)]
            given += [str(source), str(out), "--views", "2d", "--processes", str(options.processes)]
            seconds, peak = measure(given)
            n_bytes = out.stat().st_size
        first = first or peak
        row = {
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "verb": options.verb,
            "source": options.source.name,
            "rows": n_rows,
            "processes": options.processes,
            "seconds": f"{seconds:.0f}",
            "rows_per_s": f"{n_rows / seconds:.0f}",
            "peak_mb": f"{peak / 1e6:.0f}",
            "memory_ratio": f"{peak / first:.2f}",
            "output_mb": f"{n_bytes / 1e6:.1f}",
            "commit": commit(),
            "device": f"{os.cpu_count()} cores",
        }
        append(options.results, row)
        print("  ".join(f"{name} {value}" for name, value in row.items()))


if __name__ == "__main__":
    main(tyro.cli(Options))
