"""Commands in processes of their own: run time, peak memory, and the commit that is measured."""

import os
import subprocess
import time
from pathlib import Path
from typing import IO


def run_timed(
    command: list[str], output: IO[str] | int = subprocess.DEVNULL, threads: int | None = None
) -> tuple[float, float]:
    """Run a command and measure its time and the peak memory of its process.

    Args:
        command: the program and its arguments.
        output: where standard output and standard error go.
        threads: number of torch threads; taken from the environment if left out.

    Returns:
        Seconds, and peak memory in MB.

    Raises:
        ChildProcessError: the command failed.
    """
    environment = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
    started = time.perf_counter()
    process = subprocess.Popen(
        command, env=os.environ | environment, stdout=output, stderr=subprocess.STDOUT
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise ChildProcessError(f"{' '.join(command)} failed: {process.returncode}")
    return time.perf_counter() - started, usage.ru_maxrss / 1024


def run_with_descendants(command: list[str]) -> tuple[float, int]:
    """Run a command; return its seconds and the peak memory of all its processes in bytes.

    The resident memory of all processes is read from /proc every 50 ms. Pages that processes share
    count once per process, so the peak is an upper bound.
    """
    started, peak = time.perf_counter(), 0
    with subprocess.Popen(command) as process:
        while process.poll() is None:
            peak = max(peak, resident_bytes(process.pid))
            time.sleep(0.05)
    seconds = time.perf_counter() - started
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return seconds, peak


def resident_bytes(root: int) -> int:
    """Resident memory of a process and all its descendants."""
    parents, sizes = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            # The name in brackets may hold blanks; the parent is the second word after it.
            parents[int(folder.name)] = int(
                (folder / "stat").read_text().rpartition(")")[2].split()[1]
            )
            sizes[int(folder.name)] = int((folder / "statm").read_text().split()[1])
        except (FileNotFoundError, ProcessLookupError):  # the process has ended meanwhile
            continue
    family, total = [root], 0
    while family:
        process = family.pop()
        total += sizes.get(process, 0)
        family += [child for child, parent in parents.items() if parent == process]
    return total * os.sysconf("SC_PAGE_SIZE")


def git_commit() -> str:
    """The commit that is measured; `-dirty` marks uncommitted changes."""
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return described.stdout.strip()
