"""Measure memory and speed of `moleblend predict`, or `embed`, on increasing numbers of rows.

    python -m benchmarks.speed.screening --source train.csv.gz --model MODEL --rows 20000 1000000

Appends one row per size to `benchmarks/results/screening.csv`. Memory is measured as in
`benchmarks.speed.build_store`. Ratios are relative to the first size of the same run.
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

from benchmarks.results.csv_files import RESULTS, append_row
from benchmarks.speed.commands import git_commit, run_with_descendants
from moleblend.data.formats import read_pieces, write_tables


@dataclass(frozen=True)
class Options:
    """What to run.

    Attributes:
        source: file of molecules with at least as many rows as the largest size.
        model: the model file.
        command: predict, into a csv file, or embed, into an npy file.
        rows: sizes; ratios are relative to the first.
        processes: number of processes of the command.
        results: csv file that the rows are appended to.
    """

    source: Path
    model: Path
    command: Literal["predict", "embed"] = "predict"
    rows: tuple[int, ...] = (20_000, 100_000)
    processes: int = 1
    results: Path = RESULTS / "screening.csv"


def main(options: Options) -> None:
    """Run the command for each size and append time and memory."""
    first, ending = 0.0, {"predict": "csv", "embed": "npy"}[options.command]
    for n_rows in options.rows:
        with tempfile.TemporaryDirectory() as folder:
            source, out = Path(folder) / "in.csv", Path(folder) / f"out.{ending}"
            pieces = read_pieces(options.source, 1_000)
            tables = (piece.columns for piece in itertools.islice(pieces, n_rows // 1_000))
            write_tables(tables, source)
            arguments = [
                sys.executable,
                "-m",
                "moleblend.cli.main",
                options.command,
                str(options.model),
            ]
            arguments += [
                str(source),
                str(out),
                "--views",
                "2d",
                "--processes",
                str(options.processes),
            ]
            seconds, peak = run_with_descendants(arguments)
            n_bytes = out.stat().st_size
        first = first or peak
        row = {
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "command": options.command,
            "source": options.source.name,
            "rows": n_rows,
            "processes": options.processes,
            "seconds": f"{seconds:.0f}",
            "rows_per_s": f"{n_rows / seconds:.0f}",
            "peak_mb": f"{peak / 1e6:.0f}",
            "memory_ratio": f"{peak / first:.2f}",
            "output_mb": f"{n_bytes / 1e6:.1f}",
            "commit": git_commit(),
            "device": f"{os.cpu_count()} cores",
        }
        append_row(options.results, row)
        print("  ".join(f"{name} {value}" for name, value in row.items()))


if __name__ == "__main__":
    main(tyro.cli(Options))
