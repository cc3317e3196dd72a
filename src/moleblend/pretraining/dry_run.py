"""Estimate time and memory of a pretraining run from a few of its steps; writes nothing."""

import io
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from rich.table import Table
from torch import Tensor

from moleblend.environment import peak_mb
from moleblend.errors import SettingError
from moleblend.model import checkpoint
from moleblend.pretraining.config import PretrainConfig
from moleblend.pretraining.data_loader import MicroBatch, StepDataset, StepLoader, collate_for_heads
from moleblend.pretraining.labels import LabelTable
from moleblend.pretraining.pretrain import (
    Pretraining,
    fit_descriptor_scaler,
    hold_out,
    is_store,
    new_model,
    new_objective,
    open_store,
)
from moleblend.pretraining.trainer import make_trainer
from moleblend.pretraining.validation import score_views
from moleblend.training import quiet_lightning

_N_TIMED = 12
"""Number of timed steps, in addition to the step with the largest batch."""

_MIN_TIMED, _MAX_SECONDS = 3, 30.0
"""After this many seconds, this number of timed steps is enough."""


@dataclass(frozen=True)
class DryRun:
    """Measurements of a dry run, and estimates for the complete run.

    Attributes:
        n_molecules: number of training molecules.
        n_held_out: number of held-out molecules.
        n_parameters: number of parameters of the model.
        n_steps: number of steps of the run.
        n_epochs: number of epochs of the run.
        batch_size: molecules in a step.
        n_atoms: median and largest number of atoms of the training molecules.
        padding_factor: computed pairs of atoms, padding included, per real pair.
        step_seconds: median time of a step.
        molecules_per_s: speed of training, without validations.
        validation_seconds: time of one validation.
        n_validations: number of validations in the run.
        peak_mb: peak memory of this process, after a step with the largest batch of the first epoch
            and a part of a validation.
        gpu_peak_mb: peak memory of the GPU; None without a GPU.
        model_mb: size of the model file.
        state_mb: size of a saved state; two are kept.
    """

    n_molecules: int
    n_held_out: int
    n_parameters: int
    n_steps: int
    n_epochs: float
    batch_size: int
    n_atoms: tuple[int, int]
    padding_factor: float
    step_seconds: float
    molecules_per_s: float
    validation_seconds: float
    n_validations: int
    peak_mb: float
    gpu_peak_mb: float | None
    model_mb: float
    state_mb: float

    @property
    def seconds(self) -> float:
        """Expected time of the complete run."""
        return self.n_steps * self.step_seconds + self.n_validations * self.validation_seconds

    def table(self) -> Table:
        """Make the table for the terminal."""
        table = Table(show_header=False, box=None, pad_edge=False, padding=(0, 3, 0, 0))
        for name, text in self._rows():
            table.add_row(name, text)
        return table

    def _rows(self) -> Iterable[tuple[str, str]]:
        median, largest = self.n_atoms
        yield "molecules", f"{self.n_molecules:,} to train on, {self.n_held_out:,} held out"
        yield "parameters", f"{self.n_parameters:,}"
        yield "steps", f"{self.n_steps:,} ({self.n_epochs:.1f} epochs)"
        sizes = f"{self.batch_size} molecules of {median} atoms (median) to {largest}"
        yield "batches", f"{sizes}; {self.padding_factor:.2f} computed pairs per real pair"
        yield (
            "a step",
            f"{self.step_seconds * 1000:.0f} ms, {self.molecules_per_s:,.0f} molecules/s",
        )
        yield (
            "validations",
            f"{self.n_validations} of {duration(self.validation_seconds)} each",
        )
        yield "time", f"about {duration(self.seconds)} at the present load of this machine"
        gpu = "" if self.gpu_peak_mb is None else f" and {self.gpu_peak_mb:,.0f} MB of the GPU"
        yield "memory", f"{self.peak_mb:,.0f} MB{gpu}, with the largest batch"
        yield "files", f"model {self.model_mb:.1f} MB, two states of {self.state_mb:.1f} MB each"


def dry_run(config: PretrainConfig) -> DryRun:
    """Do a few steps of a run and a part of its validation, with its data and its trainer.

    Nothing is written. The largest batch of the first epoch comes first. It is the warm-up and
    shows the peak memory of a step.

    Args:
        config: configuration of the run; `out` is not used.

    Raises:
        MissingFileError: the data do not exist.
        SettingError: the data are not a store, or the run would be refused for another reason.
    """
    if not is_store(config):
        raise SettingError(
            f"{config.data}: --dry-run needs a store; make one with: moleblend data build "
            f"{config.data} molecules.arrow"
        )
    store = open_store(Path(config.data), config)
    held_out, train_rows = hold_out(len(store), config)
    labels = LabelTable(config.labels) if config.labels else None
    objective = new_objective(config, labels)
    dataset = StepDataset(store, train_rows, config, objective=objective, labels=labels)
    size = config.schedule.batch_size
    n_atoms = store.n_atoms()
    epoch = [dataset.rows_of(step) for step in range(math.ceil(len(train_rows) / size))]
    pairs = np.array([len(rows) * n_atoms[rows].max() ** 2 for rows in epoch])
    evenly = np.linspace(0, len(epoch) - 1, min(_N_TIMED, len(epoch))).astype(int)
    steps = [int(pairs.argmax()), *evenly.tolist()]

    model = new_model(config)
    fit_descriptor_scaler(model, store, held_out)
    stopwatch = _Stopwatch()
    with quiet_lightning():
        trainer = make_trainer(config, len(steps))
        loader = StepLoader(dataset, steps, config)
        trainer.fit(Pretraining(model, config, dataset, stopwatch, objective), loader)
    seconds = np.diff(stopwatch.ends)

    started = time.perf_counter()
    scored = [store[int(row)] for row in held_out[: 2 * size]]
    chunks = (scored[k : k + size] for k in range(0, len(scored), size))
    score_views(model, (collate_for_heads(chunk, config.heads) for chunk in chunks), config.blend)
    validation_seconds = (time.perf_counter() - started) * len(held_out) / len(scored)
    is_on_gpu = trainer.strategy.root_device.type == "cuda"
    weights, moments = model.state_dict(), trainer.optimizers[0].state_dict()
    return DryRun(
        n_molecules=len(train_rows),
        n_held_out=len(held_out),
        n_parameters=checkpoint.count_parameters(model),
        n_steps=config.schedule.steps,
        n_epochs=config.schedule.steps / len(epoch),
        batch_size=size,
        n_atoms=(int(np.median(n_atoms[train_rows])), int(n_atoms[train_rows].max())),
        padding_factor=float(pairs.sum() / (n_atoms[train_rows] ** 2).sum()),
        step_seconds=float(np.median(seconds)),
        molecules_per_s=len(train_rows) / len(epoch) / float(np.median(seconds)),
        validation_seconds=validation_seconds,
        n_validations=math.ceil(config.schedule.steps / config.validate_every),
        peak_mb=peak_mb(),
        gpu_peak_mb=torch.cuda.max_memory_allocated() / 1024**2 if is_on_gpu else None,
        model_mb=_size_mb(weights),
        state_mb=_size_mb([weights, moments]),
    )


class _Stopwatch(pl.Callback):
    """Records the end of each step, the time for making batches included.

    The first step is the warm-up and is not timed.
    """

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,  # noqa: ARG002
        outputs: Tensor | Mapping[str, Any] | None,
        batch: MicroBatch,
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        """Wait for the losses, as the callback of a run does, and record the time."""
        if not batch.ends_step:
            return
        assert isinstance(outputs, Mapping)
        for loss in outputs["losses"].values():
            loss.item()
        self.ends.append(time.perf_counter())
        if len(self.ends) > _MIN_TIMED and self.ends[-1] - self.ends[0] > _MAX_SECONDS:
            trainer.should_stop = True


def _size_mb(content: object) -> float:
    """Size of tensors in a file, in MB."""
    file = io.BytesIO()
    torch.save(content, file)
    return file.tell() / 1024**2


def duration(seconds: float) -> str:
    """Format a time with one or two units."""
    if seconds < 60:
        return f"{seconds:.2g} s"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    hours = round(seconds / 3600)
    return f"{minutes // 60} h {minutes % 60} min" if hours < 48 else f"{hours / 24:.1f} days"
