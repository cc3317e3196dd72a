"""What a pretraining run would take: a few of its steps on its data, and nothing on the disk."""

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
from moleblend.model import checkpoint
from moleblend.pretraining.config import PretrainConfig
from moleblend.pretraining.data_loader import MicroBatch, StepDataset, StepLoader, batch_of
from moleblend.pretraining.pretrain import (
    Pretraining,
    fit_descriptor_scaler,
    hold_out,
    is_store,
    new_model,
    open_store,
)
from moleblend.pretraining.trainer import make_trainer, quiet_lightning
from moleblend.pretraining.validation import score_views

_N_TIMED = 12
"""Steps that are timed, beside the largest one."""

_N_NEEDED, _LONGEST = 3, 30.0
"""Fewer steps are enough where they take longer than this, in s."""


@dataclass(frozen=True)
class DryRun:
    """What was measured, and what follows for the whole run.

    Attributes:
        n_molecules: to train on.
        n_held_out: to validate on.
        n_parameters: of the model.
        n_steps: of the run.
        n_epochs: how often each molecule is trained on.
        batch_size: molecules in a step.
        n_atoms: the median size of a molecule, and the largest in an epoch.
        padded: pairs of atoms that are computed for each pair that is there.
        step_seconds: the median of the timed steps.
        molecules_per_s: of training alone.
        validation_seconds: of one validation.
        n_validations: in the run.
        peak_mb: largest memory of this process, which has made a step with the largest batch of
            the first epoch and a part of a validation.
        gpu_peak_mb: the same of the GPU; None without one.
        model_mb: size of the model file.
        state_mb: size of a saved state, of which two are kept.
    """

    n_molecules: int
    n_held_out: int
    n_parameters: int
    n_steps: int
    n_epochs: float
    batch_size: int
    n_atoms: tuple[int, int]
    padded: float
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
        """Expected time of the whole run."""
        return self.n_steps * self.step_seconds + self.n_validations * self.validation_seconds

    def table(self) -> Table:
        """Set it out for the terminal."""
        table = Table(show_header=False, box=None, pad_edge=False, padding=(0, 3, 0, 0))
        for name, told in self._lines():
            table.add_row(name, told)
        return table

    def _lines(self) -> Iterable[tuple[str, str]]:
        median, largest = self.n_atoms
        yield "molecules", f"{self.n_molecules:,} to train on, {self.n_held_out:,} held out"
        yield "parameters", f"{self.n_parameters:,}"
        yield "steps", f"{self.n_steps:,}, which are {self.n_epochs:.1f} epochs"
        sizes = f"{self.batch_size} molecules of {median} atoms (median) to {largest}"
        yield "batches", f"{sizes}; {self.padded:.2f} pairs computed for each true one"
        yield (
            "a step",
            f"{self.step_seconds * 1000:.0f} ms, {self.molecules_per_s:,.0f} molecules/s",
        )
        yield (
            "validations",
            f"{self.n_validations} of {duration(self.validation_seconds)} each",
        )
        yield "time", f"about {duration(self.seconds)}, if this machine stays as busy as it is now"
        gpu = "" if self.gpu_peak_mb is None else f", and {self.gpu_peak_mb:,.0f} MB of the GPU"
        yield "memory", f"{self.peak_mb:,.0f} MB{gpu}, the largest batch included"
        yield "files", f"model {self.model_mb:.1f} MB, two states of {self.state_mb:.1f} MB each"


def dry_run(config: PretrainConfig) -> DryRun:
    """Make a few steps of a run, and a part of its validation, on its data and with its trainer.

    Nothing is written. The largest batch of the first epoch comes first: it warms everything up,
    and shows the most memory that a step takes.

    Args:
        config: the run; `out` is not touched.

    Raises:
        FileNotFoundError: the data are not there.
        ValueError: the data are no store, or the run would be refused for another reason.
    """
    if not is_store(config):
        raise ValueError(
            f"{config.data}: --dry-run measures on a store, which is made by: moleblend data build "
            f"{config.data} molecules.arrow"
        )
    store = open_store(Path(config.data), config)
    held_out, train_model = hold_out(len(store), config)
    batches, size = StepDataset(store, train_model, config), config.schedule.batch_size
    n_atoms = store.n_atoms()
    epoch = [batches.rows_of(step) for step in range(math.ceil(len(train_model) / size))]
    pairs = np.array([len(rows) * n_atoms[rows].max() ** 2 for rows in epoch])
    spread = np.linspace(0, len(epoch) - 1, min(_N_TIMED, len(epoch))).astype(int)
    steps = [int(pairs.argmax()), *spread.tolist()]

    model = new_model(config)
    fit_descriptor_scaler(model, store, held_out)
    stopwatch = _Stopwatch()
    with quiet_lightning():
        trainer = make_trainer(config, len(steps))
        loader = StepLoader(batches, steps, config)
        trainer.fit(Pretraining(model, config, batches, stopwatch), loader)
    seconds = np.diff(stopwatch.ends)

    begun = time.perf_counter()
    scored = [store[int(row)] for row in held_out[: 2 * size]]
    chunks = (scored[k : k + size] for k in range(0, len(scored), size))
    score_views(model, (batch_of(chunk, config.heads) for chunk in chunks), config.blend)
    validation_seconds = (time.perf_counter() - begun) * len(held_out) / len(scored)
    is_on_gpu = trainer.strategy.root_device.type == "cuda"
    weights, moments = model.state_dict(), trainer.optimizers[0].state_dict()
    return DryRun(
        n_molecules=len(train_model),
        n_held_out=len(held_out),
        n_parameters=checkpoint.count_parameters(model),
        n_steps=config.schedule.steps,
        n_epochs=config.schedule.steps / len(epoch),
        batch_size=size,
        n_atoms=(int(np.median(n_atoms[train_model])), int(n_atoms[train_model].max())),
        padded=float(pairs.sum() / (n_atoms[train_model] ** 2).sum()),
        step_seconds=float(np.median(seconds)),
        molecules_per_s=len(train_model) / len(epoch) / float(np.median(seconds)),
        validation_seconds=validation_seconds,
        n_validations=math.ceil(config.schedule.steps / config.validate_every),
        peak_mb=peak_mb(),
        gpu_peak_mb=torch.cuda.max_memory_allocated() / 1024**2 if is_on_gpu else None,
        model_mb=_size_mb(weights),
        state_mb=_size_mb([weights, moments]),
    )


class _Stopwatch(pl.Callback):
    """Notes when each step ended, batch making included; it does not wait longer than it must.

    The first step warms up, and is timed by nothing.
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
        """Wait for the losses, as the journal of a run does, and look at the clock."""
        if not batch.ends_step:
            return
        assert isinstance(outputs, Mapping)
        for part in outputs["losses"].values():
            part.item()
        self.ends.append(time.perf_counter())
        if len(self.ends) > _N_NEEDED and self.ends[-1] - self.ends[0] > _LONGEST:
            trainer.should_stop = True


def _size_mb(content: object) -> float:
    """Size of tensors as a file has them."""
    file = io.BytesIO()
    torch.save(content, file)
    return file.tell() / 1024**2


def duration(seconds: float) -> str:
    """Say a time in the two units that matter."""
    if seconds < 60:
        return f"{seconds:.2g} s"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    hours = round(seconds / 3600)
    return f"{minutes // 60} h {minutes % 60} min" if hours < 48 else f"{hours / 24:.1f} days"
