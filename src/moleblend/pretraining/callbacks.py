"""What a pretraining run writes down: its log, validations, states and model."""

import signal
import threading
import time
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from jaxtyping import Int64
from pytorch_lightning.strategies import FSDPStrategy
from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text
from torch import Tensor

from moleblend.config import to_dict
from moleblend.data.store import MoleculeStore
from moleblend.environment import describe_environment, peak_mb
from moleblend.model import checkpoint
from moleblend.model.heads import Model
from moleblend.pretraining.config import PretrainConfig, ScheduleConfig
from moleblend.pretraining.csv_log import append, cut_after
from moleblend.pretraining.data_loader import MicroBatch, StepDataset, batch_of
from moleblend.pretraining.training_state import LAST, kept_state
from moleblend.pretraining.validation import Score, score_table, score_views

_LEARNT = 0.995
"""Share of the loss of a constant guess below which a view counts as being learnt."""


@dataclass(frozen=True)
class PretrainResult:
    """What a run leaves behind.

    Attributes:
        model: path of the model file.
        scores: the last validation.
        molecules_per_s: of training alone, since the run was last started; 0 if it was finished.
        peak_mb: largest memory of the process.
        is_first: whether this process is the first of the run's, which alone writes and validates.
    """

    model: Path
    scores: list[Score]
    molecules_per_s: float
    peak_mb: float
    is_first: bool = True


class _Bar(Progress):
    """A progress bar with the losses in a line of their own below it."""

    losses = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        """Give the bar, and the line."""
        yield self.make_tasks_table(self.tasks)
        yield Text(self.losses, overflow="ellipsis", no_wrap=True)


class TrainingCallback(pl.Callback):
    """Writes the log, the validations and the states of a run, and shows progress."""

    def __init__(
        self,
        model: Model,
        batches: StepDataset,
        store: MoleculeStore,
        held_out: Int64[np.ndarray, " v"],
        config: PretrainConfig,
        console: Console,
        constant_losses: Mapping[str, float],
        source_sha256: str = "",
    ) -> None:
        self.model, self.batches = model, batches
        self.constant_losses = constant_losses
        self.is_judged = False
        self.config, self.console = config, console
        self.out = Path(config.out)
        self.held_out = [store[int(row)] for row in held_out]
        self.card = checkpoint.Card(
            trained_by="pretrain",
            data=Path(config.data).name,
            data_fingerprint=store.fingerprint,
            views="both" if any(molecule.n_conformers for molecule in store) else "2d",
        )
        self.source_sha256 = source_sha256
        self.scores: list[Score] = []
        self.is_interrupted = False
        self.sums: dict[str, float] = {}
        self.n_summed = 0
        self.of_step: dict[str, Tensor] = {}
        self.n_molecules, self.n_molecules_run, self.seconds_run = 0, 0, 0.0
        self.bar = _Bar(
            TextColumn("step {task.completed:,.0f}/{task.total:,.0f}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(),
            TextColumn("left"),
            expand=True,
            console=console,
            disable=not console.is_terminal,
        )

    def state_dict(self) -> dict[str, Any]:
        """What the next line of the log needs of the steps before a save."""
        return {"sums": self.sums, "n_summed": self.n_summed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the sums of the steps before the save."""
        self.sums, self.n_summed = state_dict["sums"], state_dict["n_summed"]

    @contextmanager
    def heeding_interrupts(self) -> Generator[None, None, None]:
        """Let Ctrl-C or SIGTERM wait for the end of the step, and a second one act as ever.

        With several processes only the first counts, since what starts them passes it on once more.
        """
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread hears of Ctrl-C
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def note(number: int, _: object) -> None:
            self.is_interrupted = True
            if self.batches.n_ranks == 1:
                signal.signal(number, before[signal.Signals(number)])

        for number in before:
            signal.signal(number, note)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Cut what was written after the resumed step, note this start, and start the clock."""
        for name in ("log.csv", "validation.csv") if trainer.is_global_zero else ():
            with self._writing(self.out / name):
                cut_after(self.out / name, trainer.global_step)
        start = {"step": trainer.global_step, **describe_environment()}
        self._append(trainer, "starts.csv", [start])
        if trainer.global_step:
            self.console.print(f"resumed at step {trainer.global_step:,}")
        total = self.config.schedule.steps
        self.task = self.bar.add_task("", total=total, completed=trainer.global_step, speed="")
        self.bar.start()
        self.clock = time.perf_counter()

    def on_before_backward(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,  # noqa: ARG002
        loss: Tensor,
    ) -> None:
        """Stop before a loss that is no number reaches the weights."""
        if not bool(loss.isfinite()):
            raise self._not_a_number("the loss", trainer.global_step + 1)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,  # noqa: ARG002
        outputs: Tensor | Mapping[str, Any] | None,
        batch: MicroBatch,
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        """Add up the losses; at the end of a step log, validate and save when it is time."""
        step, config = trainer.global_step, self.config
        assert isinstance(outputs, Mapping)
        for name, part in outputs["losses"].items():
            self.of_step[name] = self.of_step.get(name, 0) + part
        if not batch.ends_step:
            return
        # The losses of all processes add up, and who was interrupted tells the others.
        told = torch.stack(
            [*self.of_step.values(), outputs["loss"].new_tensor(self.is_interrupted)]
        )
        *losses, n_interrupted = trainer.strategy.reduce(told, reduce_op="sum").tolist()
        for name, loss in zip(self.of_step, losses, strict=True):
            self.sums[name] = self.sums.get(name, 0.0) + loss
        self.of_step = {}
        self.is_interrupted |= n_interrupted > 0
        self.n_summed += 1
        self.n_molecules += len(self.batches.rows_of(step - 1))
        self.bar.update(self.task, completed=step)
        is_last = step == config.schedule.steps
        is_logged, is_validated, is_saved = (
            step % every == 0 or is_last
            for every in (config.log_every, config.validate_every, config.save_every)
        )
        is_saved |= n_interrupted > 0
        if (is_validated or is_saved) and not all(
            bool(weight.isfinite().all()) for weight in self.model.parameters()
        ):
            raise self._not_a_number("a weight", step)
        if is_logged:
            self._log(trainer)
        if is_validated:
            self._validate(trainer)
        if is_saved:
            with self._writing(self.out / LAST):
                trainer.save_checkpoint(self.out / LAST)
        if n_interrupted:
            self.console.print(f"stopped after step {step:,}, which is saved: --resume goes on")
            trainer.should_stop = True

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Let go of the terminal."""
        self.bar.stop()

    def on_exception(
        self,
        trainer: pl.Trainer,  # noqa: ARG002
        pl_module: pl.LightningModule,  # noqa: ARG002
        exception: BaseException,  # noqa: ARG002
    ) -> None:
        """Let go of the terminal."""
        self.bar.stop()

    def result(self) -> PretrainResult:
        """Say what the run left behind."""
        return PretrainResult(
            model=self.out / "model.safetensors",
            scores=self.scores,
            molecules_per_s=self.n_molecules_run / max(self.seconds_run, 1e-9),
            peak_mb=peak_mb(),
        )

    def _not_a_number(self, what: str, step: int) -> FloatingPointError:
        """Say which molecules came last, and where the run can be taken up."""
        rows = self.batches.rows_of(step - 1)
        names = ", ".join(self.batches.store[int(row)].id for row in rows[:8])
        more = f" and {len(rows) - 8} more" if len(rows) > 8 else ""
        return FloatingPointError(
            f"{what} of step {step} is not finite; its molecules are {names}{more}; "
            f"{kept_state(self.out)}"
        )

    @contextmanager
    def _writing(self, path: Path) -> Generator[None, None, None]:
        """Say of an error of the disk which file it hit, and what is left to go on from."""
        try:
            yield
        except OSError as error:
            told = f"{path}: cannot be written ({error.strerror or error}); {kept_state(self.out)}"
            raise OSError(told) from error

    def _append(self, trainer: pl.Trainer, name: str, rows: list[dict[str, Any]]) -> None:
        """Append rows to a file of the run folder, in the first process."""
        if trainer.is_global_zero:
            with self._writing(self.out / name):
                append(self.out / name, rows)

    def _log(self, trainer: pl.Trainer) -> None:
        """Write the mean losses since the last line."""
        now = time.perf_counter()
        seconds = now - self.clock
        means = {name: total / self.n_summed for name, total in self.sums.items()}
        row = {
            "step": trainer.global_step,
            "learning_rate": trainer.optimizers[0].param_groups[0]["lr"],
            **means,
            "molecules_per_s": self.n_molecules / seconds,
        }
        self._append(trainer, "log.csv", [row])
        _track(trainer, row)
        losses = "  ".join(f"{name} {value:.3f}" for name, value in means.items())
        speed = f"{row['molecules_per_s']:.0f} molecules/s"
        self.bar.losses = losses
        self.bar.update(self.task, speed=speed)
        if not self.console.is_terminal:
            told = f"step {trainer.global_step:,}  {losses}  {speed}"
            self.console.print(told, soft_wrap=True, highlight=False)
        self._judge(trainer.global_step, means, row["learning_rate"])
        self.n_molecules_run += self.n_molecules
        self.seconds_run += seconds
        self.sums, self.n_summed, self.n_molecules = {}, 0, 0
        self.clock = time.perf_counter()

    def _judge(self, step: int, means: Mapping[str, float], learning_rate: float) -> None:
        """Warn once of views whose loss is still that of a constant guess."""
        if self.is_judged or step < judged_at(self.config.schedule):
            return
        self.is_judged = True
        told = [
            f"{name} is {means[name]:.3f}, and a constant guess has {constant:.3f}"
            for name, constant in self.constant_losses.items()
            if means[name] > _LEARNT * constant
        ]
        if told:
            self.console.print(
                f"warning at step {step:,}: the loss of {'; of '.join(told)}: nothing of that has "
                f"been learnt yet, at a learning rate of {learning_rate:g}",
                style="yellow",
                soft_wrap=True,
                highlight=False,
            )

    def _validate(self, trainer: pl.Trainer) -> None:
        """Score the held-out molecules and write the model file, in the first process."""
        started, step = time.perf_counter(), trainer.global_step
        model = self._whole_model(trainer)
        if trainer.is_global_zero:
            size = self.config.schedule.batch_size
            starts = range(0, len(self.held_out), size)
            heads = self.config.heads
            batches = (batch_of(self.held_out[k : k + size], heads) for k in starts)
            self.scores = score_views(model, batches, self.config.blend, self.config.seed)
            rows = [{"step": step, **asdict(score)} for score in self.scores]
            self._append(trainer, "validation.csv", rows)
            _track(trainer, {f"{one.view}, {one.shown}": one.value for one in self.scores})
            # A model file leaves the machine, so it names data and run without their folders.
            source = Path(self.config.source).name
            named = replace(self.config, data=self.card.data, out=self.out.name, source=source)
            notes = {"step": step, "config": to_dict(named)}
            if source:
                notes["source_sha256"] = self.source_sha256
            card = replace(self.card, notes=notes)
            with self._writing(self.out / "model.safetensors"):
                checkpoint.save(model, self.out / "model.safetensors", card)
            if self.scores:
                self.console.print(score_table(self.scores, step))
        self.clock += time.perf_counter() - started  # validation is no training time

    def _whole_model(self, trainer: pl.Trainer) -> Model:
        """Give the model with all its weights, which FSDP has shared out over the devices."""
        if not isinstance(trainer.strategy, FSDPStrategy):
            return self.model
        state = trainer.strategy.lightning_module_state_dict()
        whole = Model(self.model.config)
        if trainer.is_global_zero:
            whole.load_state_dict({k.removeprefix("model."): v for k, v in state.items()})
        return whole.to(trainer.strategy.root_device)


def judged_at(schedule: ScheduleConfig) -> int:
    """Give the step from which a view that has not been learnt is worth a warning.

    A fifth of the steps after the warm-up, but no more than 1,000, when the rate has done something
    and not much time is lost, and no fewer than 100, before which nothing can be told.
    """
    return schedule.warmup_steps + min(max(schedule.steps // 5, 100), 1_000)


def _track(trainer: pl.Trainer, figures: Mapping[str, float | int]) -> None:
    told = {name: value for name, value in figures.items() if name != "step"}
    for tracker in trainer.loggers:
        tracker.log_metrics(told, step=trainer.global_step)
