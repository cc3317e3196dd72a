"""What the benchmarks share: tables, whole or grown by a row a run, and timed commands."""

import csv
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO


def rows_of(path: Path) -> list[dict[str, str]]:
    """Read a table; it has no rows where there is none yet."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def append(path: Path, row: Mapping[str, object]) -> None:
    """Append a row, after a header where the table is new."""
    is_new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(row), lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerow(row)


def write(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Write a whole table; a row that lacks a column has an empty cell there."""
    names = dict.fromkeys(name for row in rows for name in row)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(names), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def timed(
    command: list[str], output: IO[str] | int = subprocess.DEVNULL, threads: int | None = None
) -> tuple[float, float]:
    """Run a command in a process of its own.

    Args:
        command: with its arguments.
        output: where what it says goes.
        threads: of torch; as the environment has it by default.

    Returns:
        Seconds, and the peak of its memory in MB.

    Raises:
        ChildProcessError: it failed.
    """
    told = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
    began = time.perf_counter()
    process = subprocess.Popen(
        command, env=os.environ | told, stdout=output, stderr=subprocess.STDOUT
    )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise ChildProcessError(f"{' '.join(command)} failed: {process.returncode}")
    return time.perf_counter() - began, used.ru_maxrss / 1024
