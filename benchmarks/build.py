"""Speed, memory and size of `moleblend data build` on more and more rows of one file.

    python -m benchmarks.build --source train.csv.gz --rows 10000 100000 1584663

The published figures are of the MOSES SMILES: `moses/dataset/data/train.csv.gz` in the wheel that
`pip download --no-deps molsets==0.3.1` fetches. Appends a row for each size to
`benchmarks/build.csv`; its ratios are those to the first size of the same run. Memory is the
largest sum over all processes of the build of what is resident, read from /proc every 50 ms; pages
that processes share count once for each of them, so it is an upper bound.
"""

import datetime
import itertools
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import tyro

from benchmarks.ledger import append
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
    """What to run.

    Attributes:
        source: file of molecules with at least as many rows as are asked for.
        rows: sizes, the one that others are compared with first.
        smiles: the SMILES column; found by name by default.
        engine: processes or ray.
        processes: of the build.
        conformers: geometries of each molecule; nothing is taken from a cache.
        keep: where the last store and its account are left.
        results: the table to append to.
    """

    source: Path
    rows: tuple[int, ...] = (10_000, 100_000)
    smiles: str | None = None
    engine: str = "processes"
    processes: int = os.cpu_count() or 1
    conformers: int = 0
    keep: Path | None = None
    results: Path = Path(__file__).parent / "build.csv"


def main(options: Options) -> None:
    """Build a store of each size and append what it took."""
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
                raise ValueError(f"{options.source} has {n_written} rows, not {n_rows}")
            del tables
            seconds, peak = measure(command(options, source, out))
            n_molecules, n_bytes = len(MoleculeStore(out)), out.stat().st_size
            if options.keep:
                out.replace(options.keep)
                account = out.with_name(f"{out.name}.rejected.csv")
                account.replace(options.keep.with_name(f"{options.keep.name}.rejected.csv"))
            found = {
                "molecules_per_s": n_molecules / seconds,
                "peak_mb": peak / 1e6,
                "bytes_per_molecule": n_bytes / n_molecules,
            }
        first = first or found
        row = {
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "source": options.source.name,
            "rows": n_written,
            "molecules": n_molecules,
            "engine": options.engine,
            "processes": options.processes,
            "conformers": options.conformers,
            "seconds": f"{seconds:.1f}",
            "molecules_per_s": f"{found['molecules_per_s']:.0f}",
            "speed_ratio": f"{found['molecules_per_s'] / first['molecules_per_s']:.2f}",
            "peak_mb": f"{found['peak_mb']:.0f}",
            "memory_ratio": f"{found['peak_mb'] / first['peak_mb']:.2f}",
            "bytes_per_molecule": f"{found['bytes_per_molecule']:.0f}",
            "commit": commit(),
            "device": f"{os.cpu_count()} cores",
        }
        append(options.results, row)
        print("  ".join(f"{name} {value}" for name, value in row.items()))


def command(options: Options, source: Path, out: Path) -> list[str]:
    """The command line of one build."""
    given = [sys.executable, "-m", "moleblend.cli.main", "data", "build", str(source), str(out)]
    given += ["--engine", options.engine, "--processes", str(options.processes)]
    given += ["--conformers", str(options.conformers), "--no-cache"]
    return given + (["--smiles", options.smiles] if options.smiles else [])


def measure(given: list[str]) -> tuple[float, int]:
    """Run a command; give its seconds and the most bytes its processes had in memory."""
    begin, peak = time.perf_counter(), 0
    with subprocess.Popen(given) as build:
        while build.poll() is None:
            peak = max(peak, resident(build.pid))
            time.sleep(0.05)
    seconds = time.perf_counter() - begin
    if build.returncode:
        raise subprocess.CalledProcessError(build.returncode, given)
    return seconds, peak


def resident(root: int) -> int:
    """Bytes in memory of a process and all that descend from it."""
    parents, sizes = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            # The name in brackets may hold blanks; the parent is the second word after it.
            parents[int(folder.name)] = int(
                (folder / "stat").read_text().rpartition(")")[2].split()[1]
            )
            sizes[int(folder.name)] = int((folder / "statm").read_text().split()[1])
        except (FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            continue
    family, total = [root], 0
    while family:
        process = family.pop()
        total += sizes.get(process, 0)
        family += [child for child, parent in parents.items() if parent == process]
    return total * os.sysconf("SC_PAGE_SIZE")


def commit() -> str:
    """The commit that is measured."""
    told = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return told.stdout.strip()


if __name__ == "__main__":
    main(tyro.cli(Options))
