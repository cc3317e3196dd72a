"""Configuration of a pretraining run, as a recipe file contains it."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from moleblend.config import check_fields, check_finite
from moleblend.errors import SettingError
from moleblend.model.blending import BlendConfig
from moleblend.model.encoder_config import EncoderConfig
from moleblend.model.heads import HeadsConfig, Readout
from moleblend.model.objectives import ObjectiveConfig
from moleblend.training import warmup_cosine


@dataclass(frozen=True)
class ScheduleConfig:
    """Optimiser, learning rate and batches.

    Attributes:
        steps: optimiser steps of the run.
        batch_size: molecules in a step, over all devices and micro-batches.
        batches: `similar`: molecules of similar size in a batch, drawn anew in each epoch, which
            needs little padding; `random`: random batches, as published.
        learning_rate: learning rate at the end of the warm-up.
        warmup_steps: steps over which the learning rate rises from 0.
        fall_steps: number of last steps, over which the learning rate falls to 0 along a cosine;
            all steps after the warm-up if left out. Before the rate falls, a run may be resumed
            with more or fewer steps.
        betas: betas of Adam.
        weight_decay: decoupled weight decay.
        clip_norm: largest norm of the gradient.
    """

    steps: int = 20_000
    batch_size: int = 64
    batches: Literal["similar", "random"] = "similar"
    learning_rate: float = 5e-4
    warmup_steps: int = 1_000
    fall_steps: int | None = None
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    clip_norm: float = 5.0

    def __post_init__(self) -> None:
        """Check the values."""
        check_fields(self)
        if self.steps < 1 or self.batch_size < 1:
            raise SettingError(
                f"got steps={self.steps} and batch_size={self.batch_size}, expected at least 1"
            )
        if not all(0 <= beta < 1 for beta in self.betas) or self.weight_decay < 0:
            raise SettingError(
                f"got betas={self.betas} and weight_decay={self.weight_decay}, expected betas in "
                "[0, 1) and a weight_decay of at least 0"
            )
        if not 0 <= self.warmup_steps < self.steps:
            raise SettingError(
                f"got warmup_steps={self.warmup_steps}, expected 0 to {self.steps - 1} "
                f"(below steps={self.steps})"
            )
        after = self.steps - self.warmup_steps
        if self.fall_steps is not None and not 1 <= self.fall_steps <= after:
            raise SettingError(
                f"got fall_steps={self.fall_steps}, expected 1 to {after}, the number of steps "
                "after the warm-up"
            )
        if not (self.learning_rate > 0 and self.clip_norm > 0):
            raise SettingError(
                f"got learning_rate={self.learning_rate} and clip_norm={self.clip_norm}, "
                "expected positive numbers"
            )
        check_finite(self)

    def factor(self, step: int) -> float:
        """Compute the factor of the learning rate at a step."""
        decay_steps = self.fall_steps or self.steps - self.warmup_steps
        return warmup_cosine(
            step,
            warmup_steps=self.warmup_steps,
            decay_start=self.steps - decay_steps,
            decay_steps=decay_steps,
        )


@dataclass(frozen=True)
class PretrainConfig:
    """Configuration of a pretraining run.

    Attributes:
        data: a store, or any file of molecules, from which a store is built in the run folder.
        out: the run folder.
        seed: random seed. Every random draw is a function of the seed and the step, so a resumed
            run is identical to an uninterrupted one.
        n_held_out: number of held-out molecules, which are only used for validation.
        validate_every: steps between validations.
        save_every: steps between saved states.
        log_every: steps that a row of `log.csv` averages over.
        n_workers: processes per device that read and pad batches; with 0 the training process does
            it.
        device: `auto`, `cpu` or `cuda`.
        log_to: `wandb`, `mlflow`: experiment trackers. TensorBoard is used if it is installed.
        devices: processes on each machine, one per GPU; `auto` uses all GPUs, or as many as
            torchrun has started.
        nodes: number of machines.
        strategy: `ddp`: each device has the complete model; `fsdp`: the weights are sharded over
            the devices (GPUs only); `auto`: `ddp` with several devices.
        precision: precision of matrix products: `fp32`, `bf16` or `fp16`. Weights, Gaussians and
            losses are always in float32.
        compile: compile the encoder with torch, which takes about a minute at first.
        source: model file to start from, or `packaged` for the packaged model. Its heads are used
            if their configuration is the same. Random weights if left out.
        labels: Parquet file with measured labels of molecules in `data`: a column `smiles`, and one
            column per label. They are predicted if `objective.labels` is above 0.
        readout: molecule vector that predicts the descriptors, see `heads.ModelConfig`. The model
            file stores it, and fine-tuning uses the same.
        accumulate: micro-batches per device and step, computed one after the other. More
            micro-batches need less memory; the step stays the same.
        encoder: configuration of the encoder.
        heads: configuration of the pretraining heads.
        blend: configuration of the blend.
        objective: configuration of the losses.
        schedule: optimiser, learning rate and batches.
    """

    data: str = ""
    out: str = "runs/pretrain"
    seed: int = 0
    n_held_out: int = 2_000
    validate_every: int = 2_000
    save_every: int = 200
    log_every: int = 50
    n_workers: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    log_to: tuple[Literal["wandb", "mlflow"], ...] = ()
    devices: int | Literal["auto"] = 1
    nodes: int = 1
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    compile: bool = False
    source: Annotated[str, tyro.conf.arg(name="from")] = ""
    labels: str = ""
    readout: Readout = "mean"
    accumulate: int = 1
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    heads: HeadsConfig = field(default_factory=HeadsConfig)
    blend: BlendConfig = field(default_factory=BlendConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)

    def __post_init__(self) -> None:
        """Check the values."""
        check_fields(self)
        for name in (
            *("n_held_out", "validate_every", "save_every", "log_every"),
            *("devices", "nodes", "accumulate"),
        ):
            if getattr(self, name) != "auto" and getattr(self, name) < 1:
                raise SettingError(f"got {name}={getattr(self, name)}, expected at least 1")
        if any(self.blend.masked) and not self.encoder.masks_features:
            raise SettingError(
                "blend.masked hides atom features, but encoder.masks_features is false"
            )
        if self.seed < 0 or self.n_workers < 0:
            raise SettingError(
                f"got seed={self.seed} and n_workers={self.n_workers}, expected at least 0"
            )
