"""Kill a pretraining run with SIGKILL at random times, resume it, and compare the logs.

    OMP_NUM_THREADS=1 python -m benchmarks.robustness.kill_pretraining --work DIR

Pretrains a small model twice on the molecules in the package. The first run is uninterrupted. The
second is killed after random steps and resumed; every second kill happens while a state is being
written. Both `log.csv` (except the speed) and both `validation.csv` must be identical. Draws the
loss curves of both runs to `docs/img/resume.png`.
"""

import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import tyro
from matplotlib.figure import Figure

import moleblend
from benchmarks.results.csv_files import REPOSITORY, read_rows
from moleblend.data.build_store import build_store

_MOLECULES = Path(moleblend.__file__).parent / "assets" / "qm9_2000.parquet"
_RECIPE = """
n_held_out = 100
validate_every = 100
save_every = 10
log_every = 5
device = "cpu"
encoder = {width = 64, ffn_width = 64, n_layers = 2, n_heads = 4, n_kernels = 16}
heads = {rank = 8}
schedule = {steps = 300, batch_size = 16, learning_rate = 2e-3, warmup_steps = 20}
"""
_STEPS = 300
_LOSSES = ("path_length", "bonds", "distance", "denoising")


@dataclass(frozen=True)
class Options:
    """What to run.

    Attributes:
        work: folder for the store and the two runs.
        kills: number of times that the second run is killed.
        seed: random seed of the steps.
        picture: image file of the loss curves.
    """

    work: Path
    kills: int = 4
    seed: int = 0
    picture: Path = REPOSITORY / "docs" / "img" / "resume.png"


def main(options: Options) -> int:
    """Run both, compare and draw."""
    options.work.mkdir(parents=True, exist_ok=True)
    (options.work / "recipe.toml").write_text(_RECIPE)
    if not (options.work / "molecules.arrow").is_file():
        build_store(_MOLECULES, options.work / "molecules.arrow", n_processes=1)
    uninterrupted, killed = options.work / "uninterrupted", options.work / "killed"
    for folder in (uninterrupted, killed):
        if (folder / "config.json").exists():
            raise ValueError(f"{folder} already contains a run")
    subprocess.run(command(options, uninterrupted), check=True)

    rng = random.Random(options.seed)
    steps = sorted(rng.sample(range(15, _STEPS - 15), options.kills))
    kills = [
        kill(options, killed, step, rng, is_saving=bool(k % 2)) for k, step in enumerate(steps)
    ]
    subprocess.run(command(options, killed), check=True)
    is_same = comparable_rows(uninterrupted / "log.csv") == comparable_rows(killed / "log.csv")
    is_same &= comparable_rows(uninterrupted / "validation.csv") == comparable_rows(
        killed / "validation.csv"
    )
    text = ", ".join(f"{step}{' (saving)' if was_saving else ''}" for step, was_saving in kills)
    resumed = [int(row["step"]) for row in read_rows(killed / "starts.csv")[1:]]
    print(f"killed after step {text}; resumed at {resumed}")
    print(f"{len(read_rows(uninterrupted / 'log.csv'))} lines of the log, identical: {is_same}")
    draw(uninterrupted, killed, [step for step, _ in kills], resumed, options.picture)
    return int(not is_same)


def command(options: Options, out: Path) -> list[str]:
    """The command line that starts or resumes a run."""
    recipe, store = options.work / "recipe.toml", options.work / "molecules.arrow"
    pretrain = [sys.executable, "-m", "moleblend.cli.main", "pretrain", str(recipe), "--resume"]
    return [*pretrain, "--data", str(store), "--out", str(out)]


def kill(
    options: Options, out: Path, step: int, rng: random.Random, *, is_saving: bool
) -> tuple[int, bool]:
    """Run until a step is in the log, then to a random time or the next save, and kill.

    Returns:
        The last step in the log, and whether an incomplete state file was left.
    """
    run = subprocess.Popen(command(options, out))
    while last_step(out) < step:
        wait(run, 0.01)
    if is_saving:
        while not has_incomplete_state(out):
            wait(run, 0.0002)
    else:
        wait(run, rng.random())
    run.send_signal(signal.SIGKILL)
    run.wait()
    return last_step(out), has_incomplete_state(out)


def wait(run: subprocess.Popen[bytes], seconds: float) -> None:
    """Wait, and check that the run has not ended."""
    time.sleep(seconds)
    if run.poll() is not None:
        raise ValueError("the run ended before it was killed")


def has_incomplete_state(out: Path) -> bool:
    """Whether a state is being written, or was being written at the kill."""
    return any(out.glob(".state.ckpt." + "[0-9a-f]" * 8))


def last_step(out: Path) -> int:
    """The last step in the log."""
    complete = [row["step"] for row in read_rows(out / "log.csv") if None not in row.values()]
    return int(complete[-1]) if complete else 0


def comparable_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a csv file without the speed."""
    rows = read_rows(path)
    return [{k: v for k, v in row.items() if k != "molecules_per_s"} for row in rows]


def draw(
    uninterrupted: Path, killed: Path, kills: list[int], resumed: list[int], picture: Path
) -> None:
    """Draw the loss curves of both runs on top of each other."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    for axes, name in zip(figure.subplots(2, 2).flat, _LOSSES, strict=True):
        for folder, style in (
            (
                uninterrupted,
                {"color": "#e69f00", "linewidth": 5, "alpha": 0.6, "label": "uninterrupted"},
            ),
            (killed, {"color": "#0072b2", "linewidth": 1, "label": "killed and resumed"}),
        ):
            log = read_rows(folder / "log.csv")
            steps = [int(row["step"]) for row in log]
            axes.plot(steps, [float(row[name]) for row in log], **style)
        for k, step in enumerate(kills):
            axes.axvline(step, color="#c0392b", linewidth=0.8, label=None if k else "killed after")
        for k, step in enumerate(resumed):
            label = None if k else "resumed at"
            axes.axvline(step, color="#8a8f98", linewidth=0.8, linestyle=":", label=label)
        axes.set_title(f"loss: {name.replace('_', ' ')}", fontsize=10, loc="left")
        axes.set_xlabel("step", fontsize=9)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].legend(frameon=False, fontsize=8)
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=150, metadata={"Software": None})


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options)))
