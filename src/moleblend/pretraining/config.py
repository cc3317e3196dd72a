"""What a pretraining recipe holds."""

import math
from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from moleblend.model.blending import BlendConfig
from moleblend.model.encoder import EncoderConfig
from moleblend.model.heads import HeadsConfig, Readout
from moleblend.model.objectives import ObjectiveConfig


@dataclass(frozen=True)
class ScheduleConfig:
    """How the weights move.

    Attributes:
        steps: optimiser steps of the whole run.
        batch_size: molecules in a step, over all devices and micro-batches.
        batches: of molecules of `similar` size, drawn anew for each epoch, so that little is padded
            (default); or at `random`, as published.
        learning_rate: at the end of the warm-up.
        warmup_steps: steps over which the rate rises from 0.
        fall_steps: last steps, over which the rate falls to 0 along a cosine; all after the warm-up
            if left out. As long as the rate has not begun to fall, a run may be resumed with more
            or fewer steps.
        betas: of Adam.
        weight_decay: decoupled.
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
        """Refuse a schedule that cannot run."""
        if self.steps < 1 or self.batch_size < 1:
            raise ValueError(
                f"steps and batch_size must be at least 1, {self.steps} and {self.batch_size} came"
            )
        if not 0 <= self.warmup_steps < self.steps:
            raise ValueError(
                f"warmup_steps must be below steps, {self.warmup_steps} of {self.steps} came"
            )
        after = self.steps - self.warmup_steps
        if self.fall_steps is not None and not 1 <= self.fall_steps <= after:
            raise ValueError(
                f"fall_steps must be 1 to {after}, the steps after the warm-up, "
                f"{self.fall_steps} came"
            )
        if not (self.learning_rate > 0 and self.clip_norm > 0):
            raise ValueError(
                "learning_rate and clip_norm must be positive, "
                f"{self.learning_rate} and {self.clip_norm} came"
            )

    def factor(self, step: int) -> float:
        """Share of the learning rate at a step."""
        if step < self.warmup_steps:
            return step / self.warmup_steps
        n_falling = self.fall_steps or self.steps - self.warmup_steps
        fallen = (step - (self.steps - n_falling)) / n_falling
        return 0.5 * (1 + math.cos(math.pi * min(max(fallen, 0.0), 1.0)))


@dataclass(frozen=True)
class PretrainConfig:
    """One pretraining run: what a recipe holds.

    Attributes:
        data: a store, or any file of molecules, of which a store is built in the run folder first.
        out: the run folder.
        seed: of everything random. Every draw is a function of the seed and the step, so that a
            resumed run goes on as if it had never stopped.
        n_held_out: molecules that are never trained on and on which `validation.csv` is made.
        validate_every: steps between validations.
        save_every: steps between saved states.
        log_every: steps that a line of `log.csv` averages over.
        n_workers: processes that read and pad batches, for each device; 0 does it in the training
            process.
        device: `auto`, `cpu` or `cuda`.
        log_to: `wandb`, `mlflow`: where the log goes too. TensorBoard gets it where installed.
        devices: processes on each machine, one per GPU; `auto` takes all GPUs, or as many as
            torchrun has started.
        nodes: machines.
        strategy: each device has the whole model (`ddp`), or they share its weights out (`fsdp`,
            GPUs only); `auto` is `ddp` where there are several devices.
        precision: of the matrix products: `fp32`, or `bf16` or `fp16` while weights, Gaussians and
            losses stay in float32.
        compile: let torch compile the encoder, which takes a minute at first.
        source: model file to go on from, or `packaged` for the one that comes with the package; its
            heads are kept where they are the same. Random weights if left out.
        readout: which vector of a molecule predicts its descriptors, see `heads.ModelConfig`; it is
            noted in the model file, and so fine-tuning reads the same.
        accumulate: micro-batches that a device does one after the other in a step. More of them
            need less memory; the step stays the same.
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
    device: Literal["auto", "cpu", "cuda"] = "auto"
    log_to: tuple[Literal["wandb", "mlflow"], ...] = ()
    devices: int | Literal["auto"] = 1
    nodes: int = 1
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    compile: bool = False
    source: Annotated[str, tyro.conf.arg(name="from")] = ""
    readout: Readout = "mean"
    accumulate: int = 1
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    heads: HeadsConfig = field(default_factory=HeadsConfig)
    blend: BlendConfig = field(default_factory=BlendConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)

    def __post_init__(self) -> None:
        """Refuse counts that count nothing."""
        for name in (
            *("n_held_out", "validate_every", "save_every", "log_every"),
            *("devices", "nodes", "accumulate"),
        ):
            if getattr(self, name) != "auto" and getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, {getattr(self, name)} came")
        if any(self.blend.masked) and not self.encoder.masks_features:
            raise ValueError(
                "blend.masked hides atom features: encoder.masks_features must be true"
            )
        if self.seed < 0 or self.n_workers < 0:
            raise ValueError(
                f"seed and n_workers must not be negative, {self.seed} and {self.n_workers} came"
            )
