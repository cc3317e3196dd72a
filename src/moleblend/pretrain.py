"""Pretraining: blend, predict all views, and say on held-out molecules what was learnt."""

import json
import logging
import math
import platform
import resource
import time
import warnings
from collections.abc import Iterator, Sized
from csv import DictReader, DictWriter
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from jaxtyping import Float, Int64
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from moleblend import __version__, checkpoint
from moleblend.batch import Batch, collate
from moleblend.blending import BlendConfig, draw_blend
from moleblend.build import build_store
from moleblend.config import from_dict, to_dict
from moleblend.encoder import EncoderConfig
from moleblend.heads import HeadsConfig, Model, ModelConfig
from moleblend.objectives import Loss, ObjectiveConfig, blend_then_predict
from moleblend.recovery import Score, score_views
from moleblend.store import MoleculeStore


@dataclass(frozen=True)
class ScheduleConfig:
    """How the weights move.

    Attributes:
        steps: optimiser steps of the whole run.
        batch_size: molecules in a step.
        learning_rate: at the end of the warm-up.
        warmup_steps: steps over which the rate rises from 0; then it falls to 0 along a cosine.
        betas: of Adam.
        weight_decay: decoupled.
        clip_norm: largest norm of the gradient.
    """

    steps: int = 20_000
    batch_size: int = 64
    learning_rate: float = 5e-4
    warmup_steps: int = 1_000
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    clip_norm: float = 5.0

    def __post_init__(self) -> None:
        """Refuse a schedule that cannot run."""
        if self.steps < 1 or self.batch_size < 1:
            raise ValueError(
                f"steps and batch_size must be at least 1, {self.steps} and {self.batch_size} came"
            )
        if not 0 <= self.warmup_steps < self.steps:
            raise ValueError(
                f"warmup_steps must be below steps, {self.warmup_steps} of {self.steps} came"
            )

    def factor(self, step: int) -> float:
        """Share of the learning rate at a step."""
        if step < self.warmup_steps:
            return step / self.warmup_steps
        done = (step - self.warmup_steps) / (self.steps - self.warmup_steps)
        return 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


@dataclass(frozen=True)
class PretrainConfig:
    """One pretraining run: what a recipe holds.

    Attributes:
        data: a store, or any file of molecules, of which a store is built in the run folder first.
        out: the run folder.
        seed: of everything random. Every draw is a function of the seed and the step, so that a resumed
            run goes on as if it had never stopped.
        n_held_out: molecules that are never trained on and on which `validation.csv` is made.
        validate_every: steps between validations.
        save_every: steps between saved states.
        log_every: steps that a line of `log.csv` averages over.
        n_workers: processes that read and pad batches; 0 does it in the training process.
        device: `auto`, `cpu` or `cuda`.
        encoder: sizes and choices of the encoder.
        heads: the pretraining heads.
        blend: what is shown.
        objective: what is minimised.
        schedule: how the weights move.
    """

    data: str = ""
    out: str = "runs/pretrain"
    seed: int = 0
    n_held_out: int = 2_000
    validate_every: int = 2_000
    save_every: int = 200
    log_every: int = 50
    n_workers: int = 0
    device: str = "auto"
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    heads: HeadsConfig = field(default_factory=HeadsConfig)
    blend: BlendConfig = field(default_factory=BlendConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)


@dataclass(frozen=True)
class PretrainResult:
    """What a run leaves behind.

    Attributes:
        model: path of the model file.
        scores: the last validation.
        molecules_per_s: of training alone, since the run was last started.
        peak_mb: largest memory of the process.
    """

    model: Path
    scores: list[Score]
    molecules_per_s: float
    peak_mb: float


def pretrain(
    config: PretrainConfig, *, resume: bool = False, console: Console | None = None
) -> PretrainResult:
    """Pretrain a model and leave a run folder.

    The folder holds `config.json`, `log.csv` (loss per view), `validation.csv` (what was learnt),
    `state.ckpt` (to resume from) and `model.safetensors`, the model as of the last validation.

    Args:
        config: the run.
        resume: go on from the folder's saved state; starts anew where there is none.
        console: where progress is shown.

    Raises:
        FileNotFoundError: the data are not there.
        ValueError: the folder holds another run, or there are too few molecules.
        FloatingPointError: the loss is no longer a number.
    """
    console = console or Console(stderr=True)
    out = Path(config.out)
    state = out / "state.ckpt"
    if state.is_file() and not resume:
        raise ValueError(
            f"{out} holds a run already: --resume continues it, another --out starts a new one"
        )
    data = _find_data(config, console)
    store = MoleculeStore(data)
    if store.features != config.encoder.features:
        raise ValueError(
            f"{data}: molecules with features {config.encoder.features} were expected, "
            f"{store.features} found; build the store anew with --features {config.encoder.features}"
        )
    held_out, trained_on = _hold_out(len(store), config)
    _settle_config(config, store.fingerprint, out, is_resumed=state.is_file())

    torch.manual_seed(config.seed)
    model_config = ModelConfig(encoder=config.encoder, heads=config.heads)
    run = Pretraining(Model(model_config), config, StepBatches(store, trained_on, config))
    journal = _Journal(run, store, held_out, config, console)
    n_epochs = config.schedule.steps * config.schedule.batch_size / len(trained_on)
    console.print(
        f"{checkpoint.count_parameters(run.model):,} parameters; {len(trained_on):,} molecules, "
        f"{len(held_out):,} held out; {config.schedule.steps:,} steps, {n_epochs:.1f} epochs"
    )
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    trainer = pl.Trainer(
        accelerator=config.device,
        devices=1,
        max_steps=config.schedule.steps,
        max_epochs=-1,
        gradient_clip_val=config.schedule.clip_norm,
        callbacks=[journal],
        logger=_tensorboard(out),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    )
    with warnings.catch_warnings():
        # Batches are made in the training process on purpose: for small molecules that is fastest.
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        trainer.fit(run, ckpt_path=state if state.is_file() else None, weights_only=True)
    return journal.result()


class Pretraining(pl.LightningModule):
    """Lightning's view of a run: draw, objective, log."""

    def __init__(self, model: Model, config: PretrainConfig, batches: "StepBatches") -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.batches = batches
        self.loss: Loss | None = None

    def training_step(self, batch: Batch, _: int) -> Float[Tensor, ""]:
        """One step: every draw of it comes from the seed and the step's number."""
        blend = draw_blend(batch, self.config.blend, seeded(self.config.seed, self.global_step))
        self.loss = blend_then_predict(self.model, batch, blend, self.config.objective)
        return self.loss.total

    def configure_optimizers(self) -> dict[str, Any]:
        """Adam with a warm-up and a cosine."""
        schedule = self.config.schedule
        optimiser = torch.optim.AdamW(
            self.model.parameters(),
            lr=schedule.learning_rate,
            betas=schedule.betas,
            weight_decay=schedule.weight_decay,
        )
        rate = torch.optim.lr_scheduler.LambdaLR(optimiser, schedule.factor)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": rate, "interval": "step"}}

    def train_dataloader(self) -> "StepLoader":
        """Batches from the present step on."""
        steps = _StepsFrom(self.global_step, self.config.schedule.steps)
        n_workers = self.config.n_workers
        return StepLoader(self.batches, batch_size=None, sampler=steps, num_workers=n_workers)


def seeded(seed: int, step: int) -> torch.Generator:
    """Give the generator of a step, and set torch's own (for dropout) from the same numbers."""
    drawn, dropped = np.random.SeedSequence((seed, step)).generate_state(2)
    torch.manual_seed(int(dropped))
    return torch.Generator().manual_seed(int(drawn))


class StepBatches(Dataset):
    """The batch of every step of a run: a function of the seed and the step alone.

    Each epoch is a new permutation of all molecules; its last batch may be smaller.
    """

    def __init__(
        self, store: MoleculeStore, rows: Int64[np.ndarray, " m"], config: PretrainConfig
    ) -> None:
        self.store, self.rows, self.seed = store, rows, config.seed
        self.batch_size = config.schedule.batch_size
        self._epoch, self._order = -1, rows

    def rows_of(self, step: int) -> Int64[np.ndarray, " b"]:
        """Give the rows of the store that a step trains on."""
        epoch, place = divmod(step, math.ceil(len(self.rows) / self.batch_size))
        if epoch != self._epoch:
            shuffled = np.random.default_rng((self.seed, epoch)).permutation(self.rows)
            self._epoch, self._order = epoch, shuffled
        return self._order[place * self.batch_size : (place + 1) * self.batch_size]

    def __getitem__(self, step: int) -> Batch:
        molecules = [self.store[int(row)] for row in self.rows_of(step)]
        chance = np.random.default_rng((self.seed, step))
        conformers = [int(chance.integers(max(m.n_conformers, 1))) for m in molecules]
        return collate(molecules, conformers)


class _StepsFrom(Sampler[int], Sized):
    """Steps from the first one still to do; its length is that of the whole run."""

    def __init__(self, first: int, n_steps: int) -> None:
        self.first, self.n_steps = first, n_steps

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.first, self.n_steps))

    def __len__(self) -> int:
        return self.n_steps


class StepLoader(DataLoader):
    """A loader that Lightning may resume in the middle: the step says all, so it has no state."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the batch of a step depends on the step alone."""
        return {}

    def load_state_dict(self, _: dict[str, Any]) -> None:
        """Nothing to do."""


class _Journal(pl.Callback):
    """Writes the log, the validations and the states of a run, and shows progress."""

    def __init__(
        self,
        run: Pretraining,
        store: MoleculeStore,
        held_out: Int64[np.ndarray, " v"],
        config: PretrainConfig,
        console: Console,
    ) -> None:
        self.run, self.config, self.console = run, config, console
        self.out = Path(config.out)
        self.held_out = [store[int(row)] for row in held_out]
        self.fingerprint = store.fingerprint
        self.scores: list[Score] = []
        self.sums: dict[str, float] = {}
        self.n_molecules, self.n_molecules_run, self.seconds_run = 0, 0, 0.0
        self.bar = Progress(
            TextColumn("step {task.completed:,.0f}/{task.total:,.0f}"),
            BarColumn(),
            TextColumn("{task.fields[losses]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )

    def on_train_start(self, trainer: pl.Trainer, _: pl.LightningModule) -> None:
        """Cut what was written after the resumed step, and start the clock."""
        for name in ("log.csv", "validation.csv"):
            _cut_after(self.out / name, trainer.global_step)
        if trainer.global_step:
            self.console.print(f"resumed at step {trainer.global_step:,}")
        total = self.config.schedule.steps
        self.task = self.bar.add_task("", total=total, completed=trainer.global_step, losses="")
        self.bar.start()
        self.clock = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, _: pl.LightningModule, __: object, batch: Batch, ___: int
    ) -> None:
        """Add up the losses; log, validate and save when it is time."""
        step, config = trainer.global_step, self.config
        loss = self.run.loss
        assert loss is not None
        for name, part in {"loss": loss.total, **loss.parts}.items():
            self.sums[name] = self.sums.get(name, 0.0) + part.item()
        self.n_molecules += len(batch)
        is_last = step == config.schedule.steps
        self.bar.update(self.task, completed=step)
        if not math.isfinite(self.sums["loss"]):
            rows = self.run.batches.rows_of(step - 1)
            names = ", ".join(self.run.batches.store[int(row)].id for row in rows[:8])
            raise FloatingPointError(
                f"the loss of step {step} is not a number; molecules: {names} ...; "
                f"the state of an earlier step is in {self.out / 'state.ckpt'}"
            )
        if step % config.log_every == 0 or is_last:
            self._log(trainer, (step - 1) % config.log_every + 1)
        if step % config.validate_every == 0 or is_last:
            self._validate(step)
        if step % config.save_every == 0 or is_last:
            # A save interrupted half way must leave the last one whole.
            trainer.save_checkpoint(self.out / "state.tmp")
            (self.out / "state.tmp").replace(self.out / "state.ckpt")

    def on_train_end(self, *_: object) -> None:
        """Let go of the terminal."""
        self.bar.stop()

    def on_exception(self, *_: object) -> None:
        """Let go of the terminal."""
        self.bar.stop()

    def result(self) -> PretrainResult:
        """Say what the run left behind."""
        return PretrainResult(
            model=self.out / "model.safetensors",
            scores=self.scores,
            molecules_per_s=self.n_molecules_run / max(self.seconds_run, 1e-9),
            peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        )

    def _log(self, trainer: pl.Trainer, n_steps: int) -> None:
        """Write the mean losses since the last line."""
        now = time.perf_counter()
        seconds = now - self.clock
        means = {name: total / n_steps for name, total in self.sums.items()}
        row = {
            "step": trainer.global_step,
            "learning_rate": trainer.optimizers[0].param_groups[0]["lr"],
            **means,
            "molecules_per_s": self.n_molecules / seconds,
        }
        _append(self.out / "log.csv", [row])
        if trainer.logger:
            trainer.logger.log_metrics(row, step=trainer.global_step)
        losses = "  ".join(f"{name} {value:.3f}" for name, value in means.items())
        losses += f"  {row['molecules_per_s']:.0f} molecules/s"
        self.bar.update(self.task, losses=losses)
        if not self.console.is_terminal:
            self.console.print(f"step {trainer.global_step}  {losses}", soft_wrap=True)
        self.n_molecules_run += self.n_molecules
        self.seconds_run += seconds
        self.sums, self.n_molecules, self.clock = {}, 0, time.perf_counter()

    def _validate(self, step: int) -> None:
        """Score the held-out molecules and write the model file."""
        started = time.perf_counter()
        size = self.config.schedule.batch_size
        batches = (
            collate(self.held_out[k : k + size]) for k in range(0, len(self.held_out), size)
        )
        self.scores = score_views(self.run.model, batches, self.config.blend, self.config.seed)
        rows = [{"step": step, **asdict(score)} for score in self.scores]
        _append(self.out / "validation.csv", rows)
        card = checkpoint.Card(
            trained_by="pretrain",
            data=Path(self.config.data).name,
            data_fingerprint=self.fingerprint,
            notes={"step": step, "config": to_dict(self.config)},
        )
        checkpoint.save(self.run.model, self.out / "model.safetensors", card)
        self.clock += time.perf_counter() - started  # validation is no training time


def _find_data(config: PretrainConfig, console: Console) -> Path:
    """Give the store to train on, building one first where the data are another file."""
    data = Path(config.data)
    if not config.data:
        raise ValueError("no data: --data names a store or a file of molecules")
    if data.suffix == ".arrow":
        return data
    built = Path(config.out) / "data.arrow"
    if not built.is_file():
        console.print(f"building {built} from {data}")
        built.parent.mkdir(parents=True, exist_ok=True)
        account = build_store(data, built, features=config.encoder.features)
        console.print(f"{account.n_written:,} of {account.n_rows:,} rows can be used")
    return built


def _hold_out(
    n_molecules: int, config: PretrainConfig
) -> tuple[Int64[np.ndarray, " v"], Int64[np.ndarray, " m"]]:
    """Draw the held-out molecules."""
    if n_molecules <= config.n_held_out:
        raise ValueError(
            f"{config.data}: {n_molecules} molecules, but {config.n_held_out} are to be held out; "
            "a smaller n_held_out leaves some to train on"
        )
    order = np.random.default_rng(config.seed).permutation(n_molecules)
    return np.sort(order[: config.n_held_out]), np.sort(order[config.n_held_out :])


def _settle_config(
    config: PretrainConfig, fingerprint: str, out: Path, *, is_resumed: bool
) -> None:
    """Write the configuration, or check that a resumed run goes on with the same one."""
    path = out / "config.json"
    if not is_resumed:
        out.mkdir(parents=True, exist_ok=True)
        told = {
            "config": to_dict(config),
            "data_fingerprint": fingerprint,
            "moleblend": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "machine": platform.platform(),
        }
        path.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
        return
    told = json.loads(path.read_text(encoding="utf-8"))
    before = from_dict(PretrainConfig, told["config"], str(path))
    same_place = replace(config, data=before.data, out=before.out, device=before.device)
    same_place = replace(same_place, n_workers=before.n_workers)
    if same_place != before or told["data_fingerprint"] != fingerprint:
        then, now = to_dict(before), to_dict(same_place)
        changed = [name for name in then if then[name] != now[name]] or ["the data"]
        raise ValueError(
            f"{out}: a resumed run goes on as it began, but these differ: {', '.join(changed)}"
        )


def _tensorboard(out: Path) -> "pl.loggers.Logger | bool":
    """Log to TensorBoard too where it is installed."""
    try:
        return pl.loggers.TensorBoardLogger(out, name="", version="tensorboard")
    except ModuleNotFoundError:
        return False


def _append(path: Path, rows: list[dict[str, Any]]) -> None:
    """Append rows to a csv file, with a header if it is new."""
    is_new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = DictWriter(file, list(rows[0]))
        if is_new:
            writer.writeheader()
        writer.writerows(rows)


def _cut_after(path: Path, step: int) -> None:
    """Drop the rows of steps that a resumed run does again; an interrupted last line goes too."""
    if not path.is_file():
        return
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in DictReader(file) if None not in row.values()]
    path.unlink()
    if kept := [row for row in rows if int(row["step"]) <= step]:
        _append(path, kept)
