"""Publish the model of a pretraining run in the package, with its model card.

    python -m benchmarks.packaged_model.publish runs/packaged_model/stage2

Writes `src/moleblend/assets/moleblend.safetensors` and `MODEL_CARD.md`, and copies log, validations
and starts of the run to `benchmarks/results/packaged_model`. The run folder is not changed. Refuses
a run that is not finished, whose files belong to different data, or whose data are not those of
`benchmarks/results/packaged_model/skeletons.safetensors`. A test uses that list to show that no
test molecule was trained on. Run `python -m benchmarks.results.tables` afterwards to update the
README.
"""

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tyro

import moleblend
from benchmarks.packaged_model.training_data import SKELETONS, SkeletonList
from benchmarks.results.csv_files import read_rows, write_rows
from moleblend.config import from_dict, to_dict
from moleblend.data.datasets.catalogue import on_protocol_u
from moleblend.model import checkpoint
from moleblend.model.compat import upgrade_pretrain_config
from moleblend.pretraining.config import PretrainConfig

CARD = Path(__file__).parent / "model_card.md"
MAX_BYTES = 25_000_000
DATA = "QM9 and corpus3d, less all that is tested on"


@dataclass(frozen=True)
class Run:
    """The files of a finished pretraining run.

    Attributes:
        model: the model file.
        card: the header of the model file.
        config: configuration of the run.
        starts: rows of `starts.csv`: when and with which code the run was started and resumed.
        log: rows of `log.csv`.
        scores: rows of `validation.csv` of the last step.
    """

    model: Path
    card: checkpoint.Card
    config: PretrainConfig
    starts: list[dict[str, str]]
    log: list[dict[str, str]]
    scores: list[dict[str, str]]

    @property
    def hours(self) -> float:
        """Time spent in training steps, from the speeds in the log."""
        steps = [0, *(int(row["step"]) for row in self.log)]
        speeds = [float(row["molecules_per_s"]) for row in self.log]
        seconds = sum(
            (step - before) * self.config.schedule.batch_size / speed
            for before, step, speed in zip(steps, steps[1:], speeds, strict=False)
        )
        return seconds / 3600


def read_run(folder: Path) -> Run:
    """Read a run folder.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the run is not finished, or its files do not belong together.
    """
    stored = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config = from_dict(
        PretrainConfig, upgrade_pretrain_config(stored["config"]), str(folder / "config.json")
    )
    log, scores, starts = (
        _rows(folder / name) for name in ("log.csv", "validation.csv", "starts.csv")
    )
    path = folder / "model.safetensors"
    model, card = checkpoint.load(path), checkpoint.read_card(path)
    last = {int(rows[-1]["step"]) for rows in (log, scores)}
    if last != {config.schedule.steps}:
        raise ValueError(
            f"{folder}: the run is not finished: got step {last}, expected {config.schedule.steps}"
        )
    if card.data_fingerprint != stored["data_fingerprint"]:
        raise ValueError(f"{folder}: model.safetensors and config.json have different data")
    if not all(bool(weight.isfinite().all()) for weight in model.state_dict().values()):
        raise ValueError(f"{path}: a weight is not finite")
    if model.config.encoder != config.encoder:
        raise ValueError(f"{folder}: model.safetensors and config.json have different encoders")
    scores = [row for row in scores if int(row["step"]) == config.schedule.steps]
    return Run(path, card, config, starts, log, scores)


def publish(folder: Path, assets: Path, skeletons: Path = SKELETONS) -> Path:
    """Write the model of a run and its model card to the package's assets.

    Args:
        folder: the run folder.
        assets: folder that the package loads the model from.
        skeletons: list of the skeletons that were trained on.

    Returns:
        The model file.

    Raises:
        ValueError: see `read_run`; also if the list belongs to other data or the file is too large.
    """
    run, listed = read_run(folder), SkeletonList.read(skeletons)
    if listed.fingerprint != run.card.data_fingerprint:
        raise ValueError(
            f"{skeletons} belongs to data {listed.fingerprint[:16]}, the run to "
            f"{run.card.data_fingerprint[:16]}: "
            "python -m benchmarks.packaged_model.training_data writes a new list"
        )
    if run.model.stat().st_size > MAX_BYTES:
        raise ValueError(
            f"{run.model}: got {run.model.stat().st_size:,} bytes, expected at most {MAX_BYTES:,}"
        )
    out = assets / "moleblend.safetensors"
    config = run.config
    names = {name: Path(getattr(config, name)).name for name in ("data", "out", "source")}
    named = replace(config, **names)
    notes = {"steps": run.config.schedule.steps, "hours": round(run.hours, 1)}
    notes["config"] = to_dict(named)  # without the folders of the machine
    before = first_stage(run)
    if before:
        notes["before"] = before
    card = replace(run.card, data=DATA, notes=run.card.notes | notes)
    checkpoint.save(checkpoint.load(run.model), out, card)
    text = model_card(run, listed, out, before)
    (assets / "MODEL_CARD.md").write_text(text, encoding="utf-8")
    return out


def first_stage(run: Run) -> dict[str, Any]:
    """Describe the training of the model that the run started from; empty for random weights.

    Raises:
        FileNotFoundError: that model file does not exist any more.
        ValueError: that model file has changed.
    """
    if not run.config.source:
        return {}
    source = checkpoint.locate(run.config.source)
    sha256, expected = checkpoint.sha256(source), run.card.notes["source_sha256"]
    if sha256 != expected:
        raise ValueError(f"{source} is {sha256[:12]}, but the run started from {expected[:12]}")
    notes = checkpoint.read_card(source).notes
    batch_size = notes["config"]["schedule"]["batch_size"]
    training = {"steps": notes["steps"], "hours": notes["hours"], "batch_size": batch_size}
    return training | {"sha256": sha256}


def model_card(run: Run, listed: SkeletonList, model: Path, before: dict[str, Any]) -> str:
    """Write the model card in Markdown from the files of the run and the stage before."""
    schedule, encoder = run.config.schedule, run.config.encoder
    losses = [name for name in run.log[-1] if name not in _OTHER_COLUMNS]
    shown = [*run.log[: -1 : max(len(run.log) // 8, 1)], run.log[-1]]
    fields = {
        "data": DATA,
        "megabytes": f"{model.stat().st_size / 1e6:.1f}",
        "parameters": f"{checkpoint.count_parameters(checkpoint.load(model)):,}",
        "encoder": encoder,
        "last": run.starts[-1],
        "starts": ", ".join(
            f"{row['step']} ({row['code'] if row['code'] == 'installed' else row['code'][:7]})"
            for row in run.starts
        ),
        "licence": run.card.licence,
        "fingerprint": run.card.data_fingerprint,
        "trained": f"{len(listed.trained):,}",
        "tested": f"{len(listed.tested):,}",
        "sets": ", ".join(on_protocol_u()),
        "config": run.config,
        "schedule": schedule,
        "stages": _STAGES.format(**before) if before else "From random weights: ",
        "descriptors": _DESCRIPTORS.format(config=run.config)
        if run.config.heads.descriptors
        else "",
        "epochs": f"{schedule.steps * schedule.batch_size / max(len(listed.trained), 1):.1f}",
        "hours": f"{run.hours:.1f}",
        "losses": _table(
            ["step", *losses],
            [[row["step"], *(f"{float(row[k]):.3f}" for k in losses)] for row in shown],
        ),
        "scores": _table(
            ["view", "shown", "metric", "value", "lookup baseline", "pairs"],
            [_score(row) for row in run.scores],
        ),
    }
    return CARD.read_text(encoding="utf-8").format(**fields)


_STAGES = (
    "In two stages. The first had {steps:,} steps of {batch_size} molecules and {hours} hours, "
    "from random weights, with `recipes/packaged_stage1.toml` (SHA-256 of its file `{sha256}`; "
    "log, validations and starts in `benchmarks/results/packaged_model/first`). The second stage, "
    "described below: "
)
_DESCRIPTORS = (
    " The vector of a molecule (readout `{config.readout}`) predicts its 121 descriptors."
)
_OTHER_COLUMNS = ("step", "learning_rate", "molecules_per_s")


_START_COLUMNS = ("step", "time", "moleblend", "code", "python", "torch", "processor", "threads")
"""Columns of `starts.csv` that name no folder of the machine."""


def _score(row: dict[str, str]) -> list[str]:
    lookup = f"{float(row['lookup_baseline']):.3f}" if row["lookup_baseline"] else ""
    value = f"{float(row['value']):.3f}"
    return [row["view"], row["shown"], row["metric"], value, lookup, f"{int(row['n']):,}"]


def _table(names: list[str], rows: list[list[str]]) -> str:
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file")
    rows = read_rows(path)
    if not rows:
        raise ValueError(f"{path}: the file has no rows")
    return rows


def main(folder: tyro.conf.Positional[Path]) -> None:
    """Publish the model of a run.

    Args:
        folder: the run folder.
    """
    out = publish(folder, Path(moleblend.__file__).parent / "assets")
    for name in ("log.csv", "validation.csv"):
        shutil.copyfile(folder / name, SKELETONS.with_name(name))
    starts = [{name: row[name] for name in _START_COLUMNS} for row in _rows(folder / "starts.csv")]
    write_rows(SKELETONS.with_name("starts.csv"), starts)
    print(f"{out}: {out.stat().st_size:,} bytes; model card: {out.with_name('MODEL_CARD.md')}")


if __name__ == "__main__":
    tyro.cli(main)
