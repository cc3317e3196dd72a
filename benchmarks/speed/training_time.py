"""Time `moleblend train` on 1,000 molecules, from the csv file to the report.

    python -m benchmarks.speed.training_time

Compares the default settings (a trained encoder) with `--freeze` (a frozen one), with one and two
threads. Runs take turns, each in a process of its own. `benchmarks/results/training_time.csv` has
medians over rounds of the command's total time and of the peak memory of its process.
"""

import argparse
import os
import statistics
import sys
import tempfile
from datetime import date
from pathlib import Path

from benchmarks.results.csv_files import RESULTS, write_rows
from benchmarks.speed.commands import run_timed

ROWS = 1000
ENCODERS = {"trained": (), "frozen": ("--freeze",)}
COLUMNS = (
    *("encoder", "threads", "rounds", "seconds_median", "seconds_min", "seconds_max"),
    *("speedup", "peak_mb", "date"),
)


def first_rows(source: Path, out: Path, n_rows: int = ROWS) -> None:
    """Write the header and the first rows of a csv file."""
    with source.open(encoding="utf-8") as read, out.open("w", encoding="utf-8") as written:
        written.writelines(line for line, _ in zip(read, range(n_rows + 1), strict=False))


def measure(
    table: Path, threads: tuple[int, ...], rounds: int, arguments: tuple[str, ...] = ()
) -> list[dict[str, str]]:
    """Time all settings in turn; return a row per setting and number of threads."""
    program = str(Path(sys.executable).with_name("moleblend"))
    runs_of: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for number in range(rounds):
        for n_threads in threads:
            for encoder, flags in ENCODERS.items():
                with tempfile.TemporaryDirectory() as folder:
                    out = str(Path(folder) / "run")
                    command = [program, "train", str(table), *flags, *arguments, "--out", out]
                    taken = run_timed(command, threads=n_threads)
                runs_of.setdefault((encoder, n_threads), []).append(taken)
                text = f"round {number + 1}: {encoder}, {n_threads} threads: {taken[0]:.1f} s"
                print(f"{text}, {taken[1]:.0f} MB", flush=True)
    rows = []
    for (encoder, n_threads), runs in runs_of.items():
        seconds = [run[0] for run in runs]
        reference = statistics.median(run[0] for run in runs_of["trained", n_threads])
        values = (
            encoder,
            n_threads,
            rounds,
            f"{statistics.median(seconds):.1f}",
            f"{min(seconds):.1f}",
            f"{max(seconds):.1f}",
            f"{reference / statistics.median(seconds):.1f}",
            f"{statistics.median(run[1] for run in runs):.0f}",
            date.today().isoformat(),
        )
        rows.append(dict(zip(COLUMNS, map(str, values), strict=True)))
    return rows


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    data = Path(os.environ.get("MOLEBLEND_DATA", "../shared/data"))
    parser.add_argument("--data", type=Path, default=data / "moleculenet" / "Lipophilicity.csv")
    parser.add_argument("--out", type=Path, default=RESULTS / "training_time.csv")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, nargs="+", default=(1, 2))
    parser.add_argument("--rows", type=int, default=ROWS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "assay.csv"
        first_rows(options.data, table, options.rows)
        rows = measure(table, tuple(options.threads), options.rounds)
    write_rows(options.out, rows)


if __name__ == "__main__":
    main()
