"""The Lightning trainer of a pretraining run: devices, strategy and precision."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from typing import Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins import MixedPrecision
from pytorch_lightning.plugins.environments import LightningEnvironment
from pytorch_lightning.strategies import DDPStrategy, FSDPStrategy, ParallelStrategy, Strategy
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch.distributed.fsdp import MixedPrecision as TorchMixedPrecision

from moleblend.errors import SettingError, WorkerError
from moleblend.model.encoder import Layer
from moleblend.model.heads import Model
from moleblend.pretraining.config import PretrainConfig
from moleblend.pretraining.training_state import AtomicCheckpointIO
from moleblend.training import quiet_lightning

_PRECISIONS: dict[str, Literal["32-true", "bf16-mixed", "16-mixed"]] = {
    "fp32": "32-true",
    "bf16": "bf16-mixed",
    "fp16": "16-mixed",
}


def make_trainer(config: PretrainConfig, n_steps: int | None = None) -> pl.Trainer:
    """Make the Lightning trainer for the devices, strategy and precision of a run.

    Args:
        config: configuration of the run.
        n_steps: number of steps, for a dry run; all steps of the run if left out.

    Raises:
        SettingError: the devices do not exist, or do not support the strategy or precision.
    """
    has_gpu = torch.cuda.is_available()
    if config.device == "cuda" and not has_gpu:
        raise SettingError("got device=cuda, but there is no GPU that torch can use")
    on_gpu = has_gpu and config.device != "cpu"
    n_devices = config.devices
    if n_devices == "auto":
        all_here = torch.cuda.device_count() if on_gpu else 1
        n_devices = int(os.environ.get("LOCAL_WORLD_SIZE", all_here))
    strategy: str | Strategy = "auto"
    if config.strategy == "fsdp":
        if not on_gpu:
            raise SettingError(
                "got strategy=fsdp, which needs GPUs, but there is no GPU that torch can use"
            )
        strategy = fsdp_strategy()
    elif config.strategy == "ddp" or n_devices * config.nodes > 1:
        # A micro-batch without geometry does not use the weights for it.
        strategy = DDPStrategy(find_unused_parameters=True)
    on_cpu = config.device == "cpu" or not (has_gpu or torch.backends.mps.is_available())
    # Lightning would replace fp16 by bf16 on a CPU, although torch supports it.
    is_by_hand = config.precision == "fp16" and on_cpu
    by_hand = [MixedPrecision("16-mixed", "cpu")] if is_by_hand else []
    try:
        with quiet_lightning():
            return pl.Trainer(
                accelerator=config.device,
                devices=n_devices,
                num_nodes=config.nodes,
                strategy=strategy,
                precision=None if by_hand else _PRECISIONS[config.precision],
                plugins=[AtomicCheckpointIO(), *by_hand],
                accumulate_grad_batches=config.accumulate,
                use_distributed_sampler=False,
                max_steps=config.schedule.steps if n_steps is None else n_steps,
                max_epochs=-1,
                gradient_clip_val=config.schedule.clip_norm,
                logger=False,
                log_every_n_steps=1,  # Lightning warns of runs with fewer steps than this
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                limit_val_batches=0,
            )
    except (MisconfigurationException, ValueError) as error:
        raise SettingError(f"{n_devices} devices: {' '.join(str(error).split())}") from error


def fsdp_strategy() -> FSDPStrategy:
    """Shard the weights layer by layer; they stay in float32, as with the other strategies."""
    in_float32 = TorchMixedPrecision(
        param_dtype=torch.float32, reduce_dtype=torch.float32, buffer_dtype=torch.float32
    )
    return FSDPStrategy(
        auto_wrap_policy={Layer}, mixed_precision=in_float32, state_dict_type="full"
    )


def gather_model(model: Model, trainer: pl.Trainer) -> Model:
    """Return the model with all its weights, which FSDP has sharded over the devices."""
    if not isinstance(trainer.strategy, FSDPStrategy):
        return model
    state = trainer.strategy.lightning_module_state_dict()
    gathered = Model(model.config)
    if trainer.is_global_zero:
        # The objective's own weights are not part of the model.
        of_model = {k: v for k, v in state.items() if k.startswith("model.")}
        gathered.load_state_dict({k.removeprefix("model."): v for k, v in of_model.items()})
    return gathered.to(trainer.strategy.root_device)


@contextmanager
def first_process_first(trainer: pl.Trainer) -> Generator[None, None, None]:
    """Run the block in the first process, then in the others."""
    strategy = trainer.strategy
    # Processes that Lightning starts itself come later, in `fit`.
    if isinstance(strategy, ParallelStrategy) and not isinstance(
        strategy.cluster_environment, LightningEnvironment
    ):
        strategy.setup_environment()
    if not trainer.is_global_zero:
        try:
            strategy.barrier()
        except RuntimeError as error:
            raise WorkerError(
                f"process {trainer.global_rank}: the first process ended before this one started"
            ) from error
    yield
    if trainer.is_global_zero:
        strategy.barrier()
