"""From a CSV of 1,000 molecules to the report: the default way and `--freeze`, as a user runs them.

    python -m benchmarks.minutes --out benchmarks/minutes.csv

Each run is a process of its own. The ways take turns, with one and with two threads; medians over
rounds. The time is that of the whole command; the memory is the peak of its process.
"""

import argparse
import os
import statistics
import sys
import tempfile
from datetime import date
from pathlib import Path

from benchmarks.ledger import timed, write

ROWS = 1000
WAYS = {"default": (), "frozen": ("--freeze",)}
COLUMNS = ("way", "threads", "rounds", "seconds", "least", "most", "ratio", "peak_mb", "date")


def first_rows(source: Path, out: Path, n_rows: int = ROWS) -> None:
    """Write the header and the first rows of a csv file."""
    with source.open(encoding="utf-8") as read, out.open("w", encoding="utf-8") as written:
        written.writelines(line for line, _ in zip(read, range(n_rows + 1), strict=False))


def measure(
    table: Path, threads: tuple[int, ...], rounds: int, options: tuple[str, ...] = ()
) -> list[dict[str, str]]:
    """Time all ways in turns and give a row for each and each number of threads."""
    program = str(Path(sys.executable).with_name("moleblend"))
    found: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for number in range(rounds):
        for n_threads in threads:
            for way, flags in WAYS.items():
                with tempfile.TemporaryDirectory() as folder:
                    out = str(Path(folder) / "run")
                    command = [program, "train", str(table), *flags, *options, "--out", out]
                    taken = timed(command, threads=n_threads)
                found.setdefault((way, n_threads), []).append(taken)
                told = f"round {number + 1}: {way}, {n_threads} threads: {taken[0]:.1f} s"
                print(f"{told}, {taken[1]:.0f} MB", flush=True)
    rows = []
    for (way, n_threads), runs in found.items():
        seconds = [run[0] for run in runs]
        usual = statistics.median(run[0] for run in found["default", n_threads])
        values = (
            way,
            n_threads,
            rounds,
            f"{statistics.median(seconds):.1f}",
            f"{min(seconds):.1f}",
            f"{max(seconds):.1f}",
            f"{usual / statistics.median(seconds):.1f}",
            f"{statistics.median(run[1] for run in runs):.0f}",
            date.today().isoformat(),
        )
        rows.append(dict(zip(COLUMNS, map(str, values), strict=True)))
    return rows


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    data = Path(os.environ.get("MOLEBLEND_DATA", "../shared/data"))
    parser.add_argument("--data", type=Path, default=data / "moleculenet" / "Lipophilicity.csv")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/minutes.csv"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, nargs="+", default=(1, 2))
    parser.add_argument("--rows", type=int, default=ROWS)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "assay.csv"
        first_rows(given.data, table, given.rows)
        rows = measure(table, tuple(given.threads), given.rounds)
    write(given.out, rows)


if __name__ == "__main__":
    main()
