"""Compare how long torch's threads busy-wait for each other, on an idle and on a busy machine.

    python -m benchmarks.speed.thread_waiting

A thread that has finished its chunk of an operation spins for some milliseconds before it sleeps.
If another program occupies a core, the spinning thread takes the core that the thread it waits for
needs. Each setting runs in a process of its own, which pretrains on and embeds batches of QM9 for
some seconds. Settings take turns. `benchmarks/results/thread_waiting.csv` has medians over rounds.
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

from benchmarks.results.csv_files import RESULTS, write_rows

SETTINGS: dict[str, dict[str, str]] = {
    "PyTorch default": {},
    "sleep immediately": {"OMP_WAIT_POLICY": "PASSIVE"},
    "spin 1,000 times": {"GOMP_SPINCOUNT": "1000"},
    "spin 10,000 times": {"GOMP_SPINCOUNT": "10000"},
    "spin 100,000 times": {"GOMP_SPINCOUNT": "100000"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}


@contextmanager
def busy(n_cores: int) -> Generator[None, None, None]:
    """Keep a number of cores busy with other programs."""
    command = [sys.executable, "-c", "while True: pass"]
    # In sessions of their own, because Linux divides the cores between sessions.
    others = [subprocess.Popen(command, start_new_session=True) for _ in range(n_cores)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def measure(rounds: int, seconds: float, busy_cores: list[int]) -> list[dict[str, object]]:
    """Time all settings in turn; return a row per setting and number of busy cores."""
    rates: dict[tuple[str, int], list[tuple[float, ...]]] = {}
    names = {name for variables in SETTINGS.values() for name in variables}
    outside = {name: value for name, value in os.environ.items() if name not in names}
    command = [
        sys.executable,
        "-m",
        "benchmarks.speed.thread_waiting",
        "--child",
        "--seconds",
        str(seconds),
    ]
    for number in range(rounds):
        for n_busy in busy_cores:
            for setting, variables in SETTINGS.items():
                with busy(n_busy):
                    done = subprocess.run(
                        command, env=outside | variables, check=True, capture_output=True, text=True
                    )
                rates.setdefault((setting, n_busy), []).append(
                    tuple(map(float, done.stdout.split()))
                )
                print(
                    f"round {number + 1}, {n_busy} busy, {setting}: {done.stdout.strip()}",
                    flush=True,
                )
    medians = {
        key: [statistics.median(one) for one in zip(*runs, strict=True)]
        for key, runs in rates.items()
    }
    rows = []
    for (setting, n_busy), (steps, embeddings) in medians.items():
        reference = medians["PyTorch default", n_busy]
        row = {
            "setting": setting,
            "busy_cores": n_busy,
            "steps_per_s": f"{steps:.2f}",
            "ratio": f"{steps / reference[0]:.2f}",
            "embeddings_per_s": f"{embeddings:.2f}",
            "embedding_ratio": f"{embeddings / reference[1]:.2f}",
            "rounds": rounds,
            "cores": os.cpu_count(),
            "date": date.today().isoformat(),
        }
        rows.append(row)
    return rows


def child(seconds: float) -> None:
    """Print how many batches per second are trained on, and how many are embedded."""
    import torch  # before moleblend, which sets GOMP_SPINCOUNT if no waiting policy is set

    from benchmarks.speed.step import read
    from benchmarks.speed.step_memory import Step, embedding
    from moleblend.model.batch import Batch

    batches = read("small, default", "QM9", 6)
    step = Step("small, default", "package")

    def rate(work: Callable[[Batch], object]) -> float:
        work(batches[0])
        began, n_done = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            work(batches[n_done % len(batches)])
            n_done += 1
        return n_done / (time.perf_counter() - began)

    steps = rate(step.run)
    with torch.inference_mode():
        print(steps, rate(embedding(step.model.eval(), "package", "2d")))


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=RESULTS / "thread_waiting.csv")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--child", action="store_true", help="one run, in this process")
    options = parser.parse_args()
    if options.child:
        child(options.seconds)
        return
    rows = measure(options.rounds, options.seconds, options.busy)
    write_rows(options.out, rows)


if __name__ == "__main__":
    main()
