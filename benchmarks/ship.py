"""Put the model of a pretraining run into the package, with its card.

    python -m benchmarks.ship runs/interim/vectors

Refuses a run that is not finished, whose files belong to different data, or whose data are not
those of `benchmarks/packaged/skeletons.safetensors`, by which a test shows that nothing that is
tested on was trained on. Writes `src/moleblend/assets/moleblend.safetensors` and `MODEL_CARD.md`
beside it, and keeps log, validations and starts of the run in `benchmarks/packaged`; the run folder
stays as it is. `python -m benchmarks.tables` then writes the README's table.
"""

import csv
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tyro

import moleblend
from benchmarks.interim import LIST, SkeletonList
from benchmarks.ledger import write
from moleblend.config import from_dict, to_dict
from moleblend.data.datasets.catalogue import on_protocol_u
from moleblend.model import checkpoint
from moleblend.model.compat import upgrade_pretrain_config
from moleblend.pretraining.config import PretrainConfig

CARD = Path(__file__).parent / "model_card.md"
MOST_BYTES = 25_000_000
DATA = "QM9 and corpus3d, less all that is tested on"


@dataclass(frozen=True)
class Run:
    """What the folder of a finished pretraining run says.

    Attributes:
        model: the model file.
        card: what the model file says of itself.
        config: of the run.
        starts: rows of `starts.csv`: when and with what code it was started and resumed.
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
        """Time in training steps, from the speeds in the log."""
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
    told = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config = from_dict(
        PretrainConfig, upgrade_pretrain_config(told["config"]), str(folder / "config.json")
    )
    log, scores, starts = (
        _rows(folder / name) for name in ("log.csv", "validation.csv", "starts.csv")
    )
    model = folder / "model.safetensors"
    found, card = checkpoint.load(model), checkpoint.read_card(model)
    last = {int(rows[-1]["step"]) for rows in (log, scores)}
    if last != {config.schedule.steps}:
        raise ValueError(f"{folder}: the run has {config.schedule.steps} steps, but is at {last}")
    if card.data_fingerprint != told["data_fingerprint"]:
        raise ValueError(f"{folder}: model.safetensors and config.json have different data")
    if not all(bool(weight.isfinite().all()) for weight in found.state_dict().values()):
        raise ValueError(f"{model}: a weight is not finite")
    if found.config.encoder != config.encoder:
        raise ValueError(f"{folder}: model.safetensors and config.json have different encoders")
    scores = [row for row in scores if int(row["step"]) == config.schedule.steps]
    return Run(model, card, config, starts, log, scores)


def ship(folder: Path, weights: Path, skeletons: Path = LIST) -> Path:
    """Write the model of a run and its card to the folder of the package's model.

    Args:
        folder: of the run.
        weights: folder that the package looks into.
        skeletons: list of what was trained on.

    Returns:
        The model file.

    Raises:
        ValueError: see `read_run`; also if the list is of other data or the file is too large.
    """
    run, listed = read_run(folder), SkeletonList.read(skeletons)
    if listed.fingerprint != run.card.data_fingerprint:
        raise ValueError(
            f"{skeletons} is of data {listed.fingerprint[:16]}, the run of "
            f"{run.card.data_fingerprint[:16]}: python -m benchmarks.interim writes it anew"
        )
    if run.model.stat().st_size > MOST_BYTES:
        raise ValueError(f"{run.model}: {run.model.stat().st_size:,} bytes, at most {MOST_BYTES:,}")
    out = weights / "moleblend.safetensors"
    config = run.config
    places = {name: Path(getattr(config, name)).name for name in ("data", "out", "source")}
    named = replace(config, **places)
    notes = {"steps": run.config.schedule.steps, "hours": round(run.hours, 1)}
    notes["config"] = to_dict(named)  # without the folders of the machine
    before = first_part(run)
    if before:
        notes["before"] = before
    card = replace(run.card, data=DATA, notes=run.card.notes | notes)
    checkpoint.save(checkpoint.load(run.model), out, card)
    text = model_card(run, listed, out, before)
    (weights / "MODEL_CARD.md").write_text(text, encoding="utf-8")
    return out


def first_part(run: Run) -> dict[str, Any]:
    """Say what the model has behind it that a run went on from; nothing for one from scratch.

    Raises:
        FileNotFoundError: that model is not there any more.
        ValueError: it is another one.
    """
    if not run.config.source:
        return {}
    source = checkpoint.locate(run.config.source)
    sha256, expected = checkpoint.sha256(source), run.card.notes["source_sha256"]
    if sha256 != expected:
        raise ValueError(f"{source} is {sha256[:12]}, but the run went on from {expected[:12]}")
    notes = checkpoint.read_card(source).notes
    batch_size = notes["config"]["schedule"]["batch_size"]
    told = {"steps": notes["steps"], "hours": notes["hours"], "batch_size": batch_size}
    return told | {"sha256": sha256}


def model_card(run: Run, listed: SkeletonList, model: Path, before: dict[str, Any]) -> str:
    """Say in Markdown what the model is, from the files of its run and what it went on from."""
    schedule, encoder = run.config.schedule, run.config.encoder
    losses = [name for name in run.log[-1] if name not in _NO_LOSS]
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
        "begins": _BEGINS.format(**before) if before else "From random weights: ",
        "taught": _TAUGHT.format(config=run.config) if run.config.heads.descriptors else "",
        "shows": f"{schedule.steps * schedule.batch_size / max(len(listed.trained), 1):.1f}",
        "hours": f"{run.hours:.1f}",
        "losses": _table(
            ["step", *losses],
            [[row["step"], *(f"{float(row[k]):.3f}" for k in losses)] for row in shown],
        ),
        "scores": _table(
            ["view", "shown", "metric", "value", "trivial", "pairs"],
            [_score(row) for row in run.scores],
        ),
    }
    return CARD.read_text(encoding="utf-8").format(**fields)


_BEGINS = (
    "In two parts. The first had {steps:,} steps of {batch_size} molecules and {hours} hours, from "
    "random weights, by `recipes/interim.toml` (SHA-256 of its file `{sha256}`; log, validations "
    "and starts in `benchmarks/packaged/first`). The second, which all that follows is about: "
)
_TAUGHT = " The vector of a molecule (readout `{config.readout}`) predicts its 121 descriptors."
_NO_LOSS = ("step", "learning_rate", "molecules_per_s")


_OF_ANYWHERE = ("step", "time", "moleblend", "code", "python", "torch", "processor", "threads")
"""What `starts.csv` says that is not of one machine's folders."""


def _score(row: dict[str, str]) -> list[str]:
    trivial = f"{float(row['trivial']):.3f}" if row["trivial"] else ""
    value = f"{float(row['value']):.3f}"
    return [row["view"], row["shown"], row["metric"], value, trivial, f"{int(row['n']):,}"]


def _table(names: list[str], rows: list[list[str]]) -> str:
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        raise ValueError(f"{path}: no row")
    return rows


def main(folder: tyro.conf.Positional[Path]) -> None:
    """Ship the model of a run.

    Args:
        folder: of the run.
    """
    out = ship(folder, Path(moleblend.__file__).parent / "assets")
    for name in ("log.csv", "validation.csv"):
        shutil.copyfile(folder / name, LIST.with_name(name))
    starts = [{name: row[name] for name in _OF_ANYWHERE} for row in _rows(folder / "starts.csv")]
    write(LIST.with_name("starts.csv"), starts)
    print(f"{out}: {out.stat().st_size:,} bytes; read {out.with_name('MODEL_CARD.md')}")


if __name__ == "__main__":
    tyro.cli(main)
