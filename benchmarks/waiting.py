"""How torch's threads should wait for each other: on a quiet machine, and beside a busy core.

    python -m benchmarks.waiting --out benchmarks/waiting.csv

A thread that has done its part of an operation looks again and again whether the others have, for
some milliseconds, before it sleeps. Where another program holds one core, it looks in vain, and
takes the core that the thread it waits for could have. Each way is a process of its own that
pretrains, and embeds, batches of QM9 for some seconds; ways take turns; medians over rounds.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

from benchmarks.ledger import write

WAYS: dict[str, dict[str, str]] = {
    "as torch has it": {},
    "sleep at once": {"OMP_WAIT_POLICY": "PASSIVE"},
    "look 1,000 times": {"GOMP_SPINCOUNT": "1000"},
    "look 10,000 times": {"GOMP_SPINCOUNT": "10000"},
    "look 100,000 times": {"GOMP_SPINCOUNT": "100000"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}


@contextmanager
def busy(n_cores: int) -> Generator[None, None, None]:
    """Keep so many cores busy with other programs."""
    command = [sys.executable, "-c", "while True: pass"]
    # in sessions of their own, as Linux shares out its cores by session
    others = [subprocess.Popen(command, start_new_session=True) for _ in range(n_cores)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def measure(rounds: int, seconds: float, busy_cores: list[int]) -> list[dict[str, object]]:
    """Time all ways in turns and give a row for each and each number of busy cores."""
    found: dict[tuple[str, int], list[tuple[float, ...]]] = {}
    names = {name for told in WAYS.values() for name in told}
    outside = {name: value for name, value in os.environ.items() if name not in names}
    command = [sys.executable, "-m", "benchmarks.waiting", "--child", "--seconds", str(seconds)]
    for number in range(rounds):
        for n_busy in busy_cores:
            for way, told in WAYS.items():
                with busy(n_busy):
                    done = subprocess.run(
                        command, env=outside | told, check=True, capture_output=True, text=True
                    )
                found.setdefault((way, n_busy), []).append(tuple(map(float, done.stdout.split())))
                print(
                    f"round {number + 1}, {n_busy} busy, {way}: {done.stdout.strip()}", flush=True
                )
    middle = {
        key: [statistics.median(one) for one in zip(*runs, strict=True)]
        for key, runs in found.items()
    }
    rows = []
    for (way, n_busy), (steps, embeddings) in middle.items():
        usual = middle["as torch has it", n_busy]
        row = {
            "way": way,
            "busy_cores": n_busy,
            "steps_per_s": f"{steps:.2f}",
            "ratio": f"{steps / usual[0]:.2f}",
            "embeddings_per_s": f"{embeddings:.2f}",
            "embedding_ratio": f"{embeddings / usual[1]:.2f}",
            "rounds": rounds,
            "cores": os.cpu_count(),
            "date": date.today().isoformat(),
        }
        rows.append(row)
    return rows


def child(seconds: float) -> None:
    """Print how many batches a second are pretrained on, and how many are embedded."""
    import torch  # before moleblend, which says how its threads wait where nobody has

    from benchmarks.one_step import Step, embedding
    from benchmarks.step import read
    from moleblend.model.batch import Batch

    batches = read("small, default", "QM9", 6)
    step = Step("small, default", "ours")

    def rate(work: Callable[[Batch], object]) -> float:
        work(batches[0])
        began, n_done = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            work(batches[n_done % len(batches)])
            n_done += 1
        return n_done / (time.perf_counter() - began)

    steps = rate(step.run)
    with torch.inference_mode():
        print(steps, rate(embedding(step.model.eval(), "ours", "2d")))


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/waiting.csv"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--child", action="store_true", help="one run, in this process")
    given = parser.parse_args()
    if given.child:
        child(given.seconds)
        return
    rows = measure(given.rounds, given.seconds, given.busy)
    write(given.out, rows)


if __name__ == "__main__":
    main()
