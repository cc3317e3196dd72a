"""Run the study of pretraining objectives: the same network, molecules and budget for each.

    python -m benchmarks.study DATA.arrow --labels LABELS.parquet --runs runs/study
    python -m benchmarks.study DATA.arrow --labels LABELS.parquet --runs runs/study --table

A row is a recipe of `recipes/study` and a seed: `moleblend pretrain` from random weights, then
`benchmarks.development.frozen`. Finished rows are skipped and unfinished ones are resumed, so the
command can be stopped at any time. Rows run in the order of `ROWS`, all with one seed before the
next seed. The table has the speed of each recipe beside its gain, so that recipes can be compared
after the same time: run a faster one with more `--steps`.
"""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from benchmarks.development import frozen
from benchmarks.results.csv_files import REPOSITORY, RESULTS, append_row, read_rows

STUDY = RESULTS / "study.csv"
ROWS = (
    *("blend_descriptors", "descriptors", "blend", "masked", "labels", "fingerprints"),
    *("contrast", "denoising", "cross_view", "transformer_m", "no_pair_states"),
    *("blend_contrast", "view_3d_from_2d", "masked_distance", "masked_bonds"),
    *("masked_path_length", "two_views_path_distance", "two_views_bonds_distance"),
    "two_views_path_bonds",
)
"""Recipes, those first whose answer decides the packaged model's recipe."""


@dataclass(frozen=True)
class Options:
    """What to run.

    Attributes:
        data: the store.
        labels: labels of its molecules.
        runs: folder of the runs.
        steps: optimiser steps of a row, of 32 molecules each.
        seeds: number of seeds.
        rows: recipes; all if left out.
        table: only print the table.
        results: the csv file.
    """

    data: tyro.conf.Positional[Path]
    labels: Path
    runs: Path
    steps: int = 1_000
    seeds: int = 2
    rows: tuple[str, ...] = ()
    table: bool = False
    results: Path = STUDY


def main(options: Options) -> None:
    """Run the rows that are missing, and print the table."""
    if not options.table:
        for seed in range(options.seeds):
            for row in options.rows or ROWS:
                run_row(row, seed, options)
    print_table(options.results)


def run_row(row: str, seed: int, options: Options) -> None:
    """Pretrain and evaluate, unless the result is there."""
    done = {(r["row"], r["seed"], r["steps"]) for r in read_rows(options.results)}
    if (row, str(seed), str(options.steps)) in done:
        return
    out = options.runs / f"{row}-{options.steps}-{seed}"
    command = [
        *(sys.executable, "-m", "moleblend", "pretrain"),
        *(str(REPOSITORY / "recipes" / "study" / f"{row}.toml"), "--data", str(options.data)),
        *("--out", str(out), "--seed", str(seed), "--n-held-out", "500", "--resume"),
        *("--schedule.steps", str(options.steps), "--schedule.batch-size", "32"),
        *("--schedule.warmup-steps", "100", "--validate-every", str(options.steps)),
        *("--save-every", "100", "--log-every", "50"),
    ]
    if row == "labels":
        command += ["--labels", str(options.labels)]
    subprocess.run(command, check=True)
    model, developed = out / "model.safetensors", options.runs / "development.csv"
    name = f"{row} {options.steps} {seed}"
    frozen.evaluate(
        {name: frozen.vectors_of(model)},
        frozen.Options(models=(), results=developed),
    )
    errors: dict[str, list[float]] = {}
    for one in read_rows(developed):
        if one["representation"] == name:
            errors.setdefault(one["set"], []).append(float(one["error"]))
    log = read_rows(out / "log.csv")
    speed = float(np.median([float(one["molecules_per_s"]) for one in log]))
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    append_row(
        options.results,
        {
            "row": row,
            "seed": seed,
            "steps": options.steps,
            "molecules_per_s": f"{speed:.1f}",
            "loss": log[-1]["loss"],
            "data": config["data_fingerprint"][:12],
            **{f"error_{one}": f"{np.mean(values):.5f}" for one, values in errors.items()},
        },
    )


def print_table(path: Path) -> None:
    """Print the gain of each row over the random weights of `development.csv`, mean of seeds."""
    random = frozen.random_errors(RESULTS / "development.csv")
    rows: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for one in read_rows(path):
        logs = [np.log(float(one[f"error_{name}"]) / random[name]) for name in random]
        gain = 1 - float(np.exp(np.mean(logs)))
        key = (one["row"], one["steps"])
        rows.setdefault(key, []).append((gain, float(one["molecules_per_s"])))
    print(f"{'recipe':28s} {'molecules':>9s}  gain (seeds)  molecules/s")
    for (row, steps), values in sorted(rows.items(), key=lambda item: -np.mean(item[1], 0)[0]):
        gains = ", ".join(f"{gain:+.3f}" for gain, _ in values)
        mean, speed = np.mean(values, 0)
        print(f"{row:28s} {32 * int(steps):9,d}  {mean:+.3f} ({gains})  {speed:.0f}")


if __name__ == "__main__":
    main(tyro.cli(Options))
