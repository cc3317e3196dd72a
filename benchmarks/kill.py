"""Kill `moleblend data build` with SIGKILL on the way, resume it, and compare with an unbroken run.

    python -m benchmarks.kill --source train.csv.gz --kills 2

Builds a store twice: once unbroken (or takes one that is there), once killed (all processes of the
build at once) after a third, two thirds, ... of the time that the first took, and resumed. The two
stores and the two accounts of rejected rows have to be the same files. Appends a row to
`benchmarks/kill.csv`.
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

from benchmarks.build import commit
from benchmarks.ledger import append
from moleblend.data.store import MoleculeStore


@dataclass(frozen=True)
class Options:
    """What to run.

    Attributes:
        source: file of molecules.
        work: folder for the two stores.
        whole_seconds: what the unbroken store `work/whole.arrow` took, if it is there already.
        kills: times that the second build is killed.
        arguments: further ones of `moleblend data build`, in one text.
        results: the table to append to.
    """

    source: Path
    work: Path
    whole_seconds: float | None = None
    kills: int = 2
    arguments: str = ""
    results: Path = Path(__file__).parent / "kill.csv"


def main(options: Options) -> int:
    """Build both ways and compare."""
    options.work.mkdir(parents=True, exist_ok=True)
    whole, broken = options.work / "whole.arrow", options.work / "broken.arrow"
    seconds = options.whole_seconds
    if seconds is None:
        begun = time.perf_counter()
        subprocess.run(command(options, whole), check=True)
        seconds = time.perf_counter() - begun
    for k in range(options.kills):
        again = ["--resume"] if k else []
        build = subprocess.Popen(command(options, broken) + again, start_new_session=True)
        time.sleep(seconds / (options.kills + 1))
        if build.poll() is not None:
            raise ValueError(f"the build was over before kill {k + 1}; a larger source is needed")
        os.killpg(build.pid, signal.SIGKILL)
        build.wait()
        print(f"killed for the {k + 1}. time; {left(options.work)} shards are there", flush=True)
    subprocess.run([*command(options, broken), "--resume"], check=True)
    digests = {digest(path) for path in (whole, broken)}
    accounts = {digest(path.with_name(f"{path.name}.rejected.csv")) for path in (whole, broken)}
    row = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "source": options.source.name,
        "arguments": options.arguments,
        "molecules": len(MoleculeStore(whole)),
        "kills": options.kills,
        "stores_equal": len(digests) == 1,
        "accounts_equal": len(accounts) == 1,
        "sha256": min(digests)[:16],
        "seconds_unbroken": f"{seconds:.0f}",
        "commit": commit(),
    }
    append(options.results, row)
    print(row)
    return int(len(digests) > 1 or len(accounts) > 1)


def command(options: Options, out: Path) -> list[str]:
    """The command line of a build."""
    given = [
        sys.executable,
        "-m",
        "moleblend.cli.main",
        "data",
        "build",
        str(options.source),
        str(out),
    ]
    return given + options.arguments.split()


def left(folder: Path) -> int:
    """Count the shards that a killed build has left."""
    return sum(1 for _ in folder.rglob("shard-*.arrow"))


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options)))
