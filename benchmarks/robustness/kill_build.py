"""Kill `moleblend data build` with SIGKILL, resume it, and compare with an uninterrupted build.

    python -m benchmarks.robustness.kill_build --source train.csv.gz --work DIR --kills 2

Builds a store twice. The first build is uninterrupted (an existing store can be used instead). The
second is killed, all its processes at once, at equal intervals of the time that the first took, and
resumed. The two stores and the two files of rejected rows must be identical. Appends a row to
`benchmarks/results/kill_build.csv`.
"""

import datetime
import hashlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import tyro

from benchmarks.results.csv_files import RESULTS, append_row
from benchmarks.speed.commands import git_commit
from moleblend.data.store import MoleculeStore


@dataclass(frozen=True)
class Options:
    """What to run.

    Attributes:
        source: file of molecules.
        work: folder for the two stores.
        first_seconds: build time of the store `work/uninterrupted.arrow`, if it exists already.
        kills: number of times that the second build is killed.
        arguments: further arguments of `moleblend data build`, in one string.
        results: csv file that the row is appended to.
    """

    source: Path
    work: Path
    first_seconds: float | None = None
    kills: int = 2
    arguments: str = ""
    results: Path = RESULTS / "kill_build.csv"


def main(options: Options) -> int:
    """Build both ways and compare."""
    options.work.mkdir(parents=True, exist_ok=True)
    uninterrupted = options.work / "uninterrupted.arrow"
    killed = options.work / "killed.arrow"
    seconds = options.first_seconds
    if seconds is None:
        started = time.perf_counter()
        subprocess.run(command(options, uninterrupted), check=True)
        seconds = time.perf_counter() - started
    for k in range(options.kills):
        resume = ["--resume"] if k else []
        build = subprocess.Popen(command(options, killed) + resume, start_new_session=True)
        time.sleep(seconds / (options.kills + 1))
        if build.poll() is not None:
            raise ValueError(f"the build ended before kill {k + 1}: use a larger --source")
        os.killpg(build.pid, signal.SIGKILL)
        build.wait()
        print(f"kill {k + 1}: {count_shards(options.work)} shards are left", flush=True)
    subprocess.run([*command(options, killed), "--resume"], check=True)
    digests = {digest(path) for path in (uninterrupted, killed)}
    rejected = {
        digest(path.with_name(f"{path.name}.rejected.csv")) for path in (uninterrupted, killed)
    }
    row = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "source": options.source.name,
        "arguments": options.arguments,
        "molecules": len(MoleculeStore(uninterrupted)),
        "kills": options.kills,
        "stores_equal": len(digests) == 1,
        "rejected_files_equal": len(rejected) == 1,
        "sha256": min(digests)[:16],
        "seconds_uninterrupted": f"{seconds:.0f}",
        "commit": git_commit(),
    }
    append_row(options.results, row)
    print(row)
    return int(len(digests) > 1 or len(rejected) > 1)


def command(options: Options, out: Path) -> list[str]:
    """The command line of a build."""
    build = [
        sys.executable,
        "-m",
        "moleblend.cli.main",
        "data",
        "build",
        str(options.source),
        str(out),
    ]
    return build + options.arguments.split()


def count_shards(folder: Path) -> int:
    """Count the shards that a killed build has left."""
    return sum(1 for _ in folder.rglob("shard-*.arrow"))


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options)))
