"""The Lightning callback of a pretraining run: what happens after each step, and in which order."""

import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from rich.console import Console
from torch import Tensor

from moleblend.environment import describe_environment
from moleblend.errors import OutputError
from moleblend.model.heads import Model
from moleblend.pretraining.config import PretrainConfig
from moleblend.pretraining.csv_log import append, cut_after
from moleblend.pretraining.data_loader import MicroBatch, StepDataset
from moleblend.pretraining.guards import FiniteGuard, UnlearnedViewWarning
from moleblend.pretraining.interrupts import InterruptHandler
from moleblend.pretraining.loss_log import LossLog
from moleblend.pretraining.progress import TrainingProgress
from moleblend.pretraining.trackers import log_metrics
from moleblend.pretraining.trainer import gather_model
from moleblend.pretraining.training_state import LAST, describe_last_state
from moleblend.pretraining.validation import Score, score_table
from moleblend.pretraining.validator import Validator


class TrainingCallback(pl.Callback):
    """Logs, validates, saves and stops a run; each of these is a class of its own.

    After each step, in this order: add up the losses, show the progress, check the weights, write a
    row of the log, validate and write the model file, save the state, and stop if interrupted.

    Args:
        model: the model that is trained.
        dataset: the batches of the run.
        validator: scores the held-out molecules and writes the model file.
        config: configuration of the run.
        console: where progress is shown.
        constant_losses: loss of the constant baseline for each view.

    Attributes:
        scores: scores of the last validation.
        loss_log: mean losses and speed.
        interrupts: whether the run was interrupted.
    """

    def __init__(
        self,
        model: Model,
        dataset: StepDataset,
        validator: Validator,
        config: PretrainConfig,
        console: Console,
        constant_losses: Mapping[str, float],
    ) -> None:
        self.model, self.dataset, self.config, self.console = model, dataset, config, console
        self.out = Path(config.out)
        self.loss_log, self.progress = LossLog(), TrainingProgress(console)
        self.validator = validator
        self.finite = FiniteGuard(dataset, self.out)
        self.unlearned = UnlearnedViewWarning(constant_losses, config.schedule, console)
        self.interrupts = InterruptHandler(dataset.n_ranks)
        self.scores: list[Score] = []
        self._losses_of_step: dict[str, Tensor] = {}

    def state_dict(self) -> dict[str, Any]:
        """The losses since the last row of the log."""
        return self.loss_log.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the losses since the last row of the log."""
        self.loss_log.load_state_dict(state_dict)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Remove log rows after the resumed step, record this start, and start the clock."""
        for name in ("log.csv", "validation.csv") if trainer.is_global_zero else ():
            with self._writing(self.out / name):
                cut_after(self.out / name, trainer.global_step)
        start = {"step": trainer.global_step, **describe_environment()}
        self._append(trainer, "starts.csv", [start])
        if trainer.global_step:
            self.console.print(f"resumed at step {trainer.global_step:,}")
        self.progress.start(trainer.global_step, self.config.schedule.steps)
        self.loss_log.start_clock()

    def on_before_backward(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,  # noqa: ARG002
        loss: Tensor,
    ) -> None:
        """Stop before a loss that is not finite reaches the weights."""
        self.finite.check_loss(loss, trainer.global_step + 1)

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
        for name, loss in outputs["losses"].items():
            self._losses_of_step[name] = self._losses_of_step.get(name, 0) + loss
        if not batch.ends_step:
            return
        is_interrupted = self._finish_step(trainer, outputs["loss"])
        self.progress.advance(step)
        is_last = step == config.schedule.steps
        is_logged, is_validated, is_saved = (
            step % every == 0 or is_last
            for every in (config.log_every, config.validate_every, config.save_every)
        )
        is_saved |= is_interrupted
        if is_validated or is_saved:
            self.finite.check_weights(self.model, step)
        if is_logged:
            self._log(trainer)
        if is_validated:
            self._validate(trainer)
        if is_saved:
            with self._writing(self.out / LAST):
                trainer.save_checkpoint(self.out / LAST)
        if is_interrupted:
            self.console.print(f"stopped after step {step:,}; the state is saved: use --resume")
            trainer.should_stop = True

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Release the terminal."""
        self.progress.stop()

    def on_exception(
        self,
        trainer: pl.Trainer,  # noqa: ARG002
        pl_module: pl.LightningModule,  # noqa: ARG002
        exception: BaseException,  # noqa: ARG002
    ) -> None:
        """Release the terminal."""
        self.progress.stop()

    def _finish_step(self, trainer: pl.Trainer, loss: Tensor) -> bool:
        """Sum the losses over all processes; return whether any process was interrupted."""
        interrupted = loss.new_tensor(self.interrupts.is_interrupted)
        values = torch.stack([*self._losses_of_step.values(), interrupted])
        *losses, n_interrupted = trainer.strategy.reduce(values, reduce_op="sum").tolist()
        n_molecules = len(self.dataset.rows_of(trainer.global_step - 1))
        self.loss_log.add(dict(zip(self._losses_of_step, losses, strict=True)), n_molecules)
        self._losses_of_step = {}
        self.interrupts.is_interrupted |= n_interrupted > 0
        return n_interrupted > 0

    def _log(self, trainer: pl.Trainer) -> None:
        """Write the mean losses and the speed since the last row, and show them."""
        step, rate = trainer.global_step, trainer.optimizers[0].param_groups[0]["lr"]
        means, speed = self.loss_log.next_row()
        row = {"step": step, "learning_rate": rate, **means, "molecules_per_s": speed}
        self._append(trainer, "log.csv", [row])
        log_metrics(trainer, row)
        self.progress.report(step, means, speed)
        self.unlearned.check(step, means, rate)
        self.loss_log.start_clock()

    def _validate(self, trainer: pl.Trainer) -> None:
        """Score the held-out molecules and write the model file, in the first process."""
        started, step = time.perf_counter(), trainer.global_step
        model = gather_model(self.model, trainer)
        if trainer.is_global_zero:
            self.scores = self.validator.score(model)
            rows = [{"step": step, **asdict(score)} for score in self.scores]
            self._append(trainer, "validation.csv", rows)
            log_metrics(trainer, {f"{one.view}, {one.shown}": one.value for one in self.scores})
            path = self.out / "model.safetensors"
            with self._writing(path):
                self.validator.save_model(model, step, path)
            if self.scores:
                self.console.print(score_table(self.scores, step))
        self.loss_log.exclude(time.perf_counter() - started)

    @contextmanager
    def _writing(self, path: Path) -> Generator[None, None, None]:
        """Add the file and the last saved state to the message of an operating system error."""
        try:
            yield
        except OSError as error:
            cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
            reason = cause.strerror or cause
            message = f"{path}: cannot be written ({reason}); {describe_last_state(self.out)}"
            raise OutputError(message) from error

    def _append(self, trainer: pl.Trainer, name: str, rows: list[dict[str, Any]]) -> None:
        """Append rows to a csv file of the run folder, in the first process."""
        if trainer.is_global_zero:
            with self._writing(self.out / name):
                append(self.out / name, rows)
