"""Kill a pretraining run with SIGKILL at random moments, resume it, compare with an unbroken one.

    OMP_NUM_THREADS=1 python -m benchmarks.resume --work DIR

Pretrains a small model twice on the molecules in the package: once unbroken, once killed after
random steps, every second time as soon as a state is being written, and resumed. The two `log.csv`
(but for the speed) and the two `validation.csv` have to be the same to the last digit. Draws both
curves on top of each other to `docs/img/resume.png`.
"""

import csv
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
_PARTS = ("path_length", "bonds", "distance", "denoising")


@dataclass(frozen=True)
class Options:
    """What to run.

    Attributes:
        work: folder for the store and the two runs.
        kills: how often the second run is killed.
        seed: of the moments.
        picture: where the curves are drawn.
    """

    work: Path
    kills: int = 4
    seed: int = 0
    picture: Path = Path(__file__).parent.parent / "docs" / "img" / "resume.png"


def main(options: Options) -> int:
    """Run both ways, compare and draw."""
    options.work.mkdir(parents=True, exist_ok=True)
    (options.work / "recipe.toml").write_text(_RECIPE)
    if not (options.work / "molecules.arrow").is_file():
        build_store(_MOLECULES, options.work / "molecules.arrow", n_processes=1)
    whole, broken = options.work / "whole", options.work / "broken"
    for folder in (whole, broken):
        if (folder / "config.json").exists():
            raise ValueError(f"{folder} holds a run already")
    subprocess.run(command(options, whole), check=True)

    rng = random.Random(options.seed)
    moments = sorted(rng.sample(range(15, _STEPS - 15), options.kills))
    kills = [
        kill(options, broken, step, rng, is_saving=bool(k % 2)) for k, step in enumerate(moments)
    ]
    subprocess.run(command(options, broken), check=True)
    is_same = figures(whole / "log.csv") == figures(broken / "log.csv")
    is_same &= figures(whole / "validation.csv") == figures(broken / "validation.csv")
    told = ", ".join(f"{step}{' (saving)' if was_saving else ''}" for step, was_saving in kills)
    resumed = [int(row["step"]) for row in rows(broken / "starts.csv")[1:]]
    print(f"killed after step {told}; resumed at {resumed}")
    print(f"{len(rows(whole / 'log.csv'))} lines of the log, the same to the last digit: {is_same}")
    draw(whole, broken, [step for step, _ in kills], resumed, options.picture)
    return int(not is_same)


def command(options: Options, out: Path) -> list[str]:
    """The command line of a run: it begins, or goes on."""
    recipe, store = options.work / "recipe.toml", options.work / "molecules.arrow"
    given = [sys.executable, "-m", "moleblend.cli.main", "pretrain", str(recipe), "--resume"]
    return [*given, "--data", str(store), "--out", str(out)]


def kill(
    options: Options, out: Path, step: int, rng: random.Random, *, is_saving: bool
) -> tuple[int, bool]:
    """Run until a step is in the log, and on to a random moment or the next save, and kill.

    Returns:
        The last step in the log, and whether a half-written state was left.
    """
    run = subprocess.Popen(command(options, out))
    while last_step(out) < step:
        wait(run, 0.01)
    if is_saving:
        while not half_written(out):
            wait(run, 0.0002)
    else:
        wait(run, rng.random())
    run.send_signal(signal.SIGKILL)
    run.wait()
    return last_step(out), half_written(out)


def wait(run: subprocess.Popen[bytes], seconds: float) -> None:
    """Wait a moment for a run that has to go on meanwhile."""
    time.sleep(seconds)
    if run.poll() is not None:
        raise ValueError("the run was over before it was killed")


def half_written(out: Path) -> bool:
    """Whether a state is being written, or was when the run was killed."""
    return any(out.glob(".state.ckpt." + "[0-9a-f]" * 8))


def last_step(out: Path) -> int:
    """The last step in the log."""
    known = rows(out / "log.csv") if (out / "log.csv").is_file() else []
    whole = [row["step"] for row in known if None not in row.values()]
    return int(whole[-1]) if whole else 0


def rows(path: Path) -> list[dict[str, str]]:
    """The rows of a csv file."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def figures(path: Path) -> list[dict[str, str]]:
    """What a csv file says, but for the speed."""
    kept = rows(path)
    return [{k: v for k, v in row.items() if k != "molecules_per_s"} for row in kept]


def draw(whole: Path, broken: Path, killed: list[int], resumed: list[int], picture: Path) -> None:
    """Draw the curves of both runs on top of each other."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    for axes, part in zip(figure.subplots(2, 2).flat, _PARTS, strict=True):
        for folder, style in (
            (whole, {"color": "#e69f00", "linewidth": 5, "alpha": 0.6, "label": "unbroken"}),
            (broken, {"color": "#0072b2", "linewidth": 1, "label": "killed and resumed"}),
        ):
            log = rows(folder / "log.csv")
            steps = [int(row["step"]) for row in log]
            axes.plot(steps, [float(row[part]) for row in log], **style)
        for k, step in enumerate(killed):
            axes.axvline(step, color="#c0392b", linewidth=0.8, label=None if k else "killed after")
        for k, step in enumerate(resumed):
            told = None if k else "resumed at"
            axes.axvline(step, color="#8a8f98", linewidth=0.8, linestyle=":", label=told)
        axes.set_title(f"loss: {part.replace('_', ' ')}", fontsize=10, loc="left")
        axes.set_xlabel("step", fontsize=9)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].legend(frameon=False, fontsize=8)
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=150, metadata={"Software": None})


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options)))
