"""Measure speed, memory and file size of `moleblend data build` on increasing numbers of rows.

    python -m benchmarks.speed.build_store --source train.csv.gz --rows 10000 100000 1584663

The results in the repository are of the MOSES SMILES: `moses/dataset/data/train.csv.gz` in the
wheel that `pip download --no-deps molsets==0.3.1` fetches. Appends one row per size to
`benchmarks/results/build_store.csv`. Ratios are relative to the first size of the same run. Memory
is the peak of the resident memory summed over all processes of the build (an upper bound, see
`commands.run_with_descendants`).
"""

import datetime
import itertools
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import tyro

from benchmarks.results.csv_files import RESULTS, append_row
from benchmarks.speed.commands import git_commit, run_with_descendants
from moleblend.data.formats import read_pieces, write_tables
from moleblend.data.store import MoleculeStore

FIELDS = (
    "date",
    "source",
    "rows",
    "molecules",
    "engine",
    "processes",
    "conformers",
    "seconds",
    "molecules_per_s",
    "speed_ratio",
    "peak_mb",
    "memory_ratio",
    "bytes_per_molecule",
    "commit",
    "device",
)


@dataclass(frozen=True)
class Options:
    """What to build.

    Attributes:
        source: file of molecules with at least as many rows as the largest size.
        rows: sizes; ratios are relative to the first.
        smiles: the SMILES column; found by name by default.
        engine: processes or ray.
        processes: number of processes of the build.
        conformers: conformers per molecule; the conformer cache is not used.
        keep: path where the last store and its file of rejected rows are kept.
        results: csv file that the rows are appended to.
    """

    source: Path
    rows: tuple[int, ...] = (10_000, 100_000)
    smiles: str | None = None
    engine: str = "processes"
    processes: int = os.cpu_count() or 1
    conformers: int = 0
    keep: Path | None = None
    results: Path = RESULTS / "build_store.csv"


def main(options: Options) -> None:
    """Build a store of each size and append time, memory and file size."""
    first: dict[str, float] = {}
    for n_rows in options.rows:
        with tempfile.TemporaryDirectory(dir=options.source.resolve().parent) as folder:
            source, out = Path(folder) / "in.csv", Path(folder) / "out.arrow"
            pieces = read_pieces(options.source, min(n_rows, 10_000))
            needed = -(-n_rows // min(n_rows, 10_000))
            tables = [piece.columns for piece in itertools.islice(pieces, needed)]
            write_tables(tables, source)
            n_written = sum(map(len, tables))
            if n_written < n_rows:
                raise ValueError(
                    f"{options.source}: got {n_written} rows, expected at least {n_rows}"
                )
            del tables
            seconds, peak = run_with_descendants(command(options, source, out))
            n_molecules, n_bytes = len(MoleculeStore(out)), out.stat().st_size
            if options.keep:
                out.replace(options.keep)
                rejected = out.with_name(f"{out.name}.rejected.csv")
                rejected.replace(options.keep.with_name(f"{options.keep.name}.rejected.csv"))
            measured = {
                "molecules_per_s": n_molecules / seconds,
                "peak_mb": peak / 1e6,
                "bytes_per_molecule": n_bytes / n_molecules,
            }
        first = first or measured
        row = {
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "source": options.source.name,
            "rows": n_written,
            "molecules": n_molecules,
            "engine": options.engine,
            "processes": options.processes,
            "conformers": options.conformers,
            "seconds": f"{seconds:.1f}",
            "molecules_per_s": f"{measured['molecules_per_s']:.0f}",
            "speed_ratio": f"{measured['molecules_per_s'] / first['molecules_per_s']:.2f}",
            "peak_mb": f"{measured['peak_mb']:.0f}",
            "memory_ratio": f"{measured['peak_mb'] / first['peak_mb']:.2f}",
            "bytes_per_molecule": f"{measured['bytes_per_molecule']:.0f}",
            "commit": git_commit(),
            "device": f"{os.cpu_count()} cores",
        }
        append_row(options.results, row)
        print("  ".join(f"{name} {value}" for name, value in row.items()))


def command(options: Options, source: Path, out: Path) -> list[str]:
    """The command line of one build."""
    given = [sys.executable, "-m", "moleblend.cli.main", "data", "build", str(source), str(out)]
    given += ["--engine", options.engine, "--processes", str(options.processes)]
    given += ["--conformers", str(options.conformers), "--no-cache"]
    return given + (["--smiles", options.smiles] if options.smiles else [])


if __name__ == "__main__":
    main(tyro.cli(Options))
