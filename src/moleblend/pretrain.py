"""Pretraining: blend, predict all views, and say on held-out molecules what was learnt."""

import io
import json
import logging
import os
import pickle
import platform
import warnings
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytorch_lightning as pl
import torch
from jaxtyping import Int64
from pytorch_lightning.plugins import MixedPrecision
from pytorch_lightning.plugins.environments import LightningEnvironment
from pytorch_lightning.strategies import DDPStrategy, FSDPStrategy, ParallelStrategy, Strategy
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from rich.console import Console
from rich.progress import Progress
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.fsdp import MixedPrecision as TorchMixedPrecision

from moleblend import __version__, checkpoint
from moleblend.build import build_store, count_unfinished
from moleblend.config import from_dict, to_dict
from moleblend.encoder import Layer
from moleblend.files import alone_with, replacing
from moleblend.heads import Model, ModelConfig
from moleblend.journal import Journal, PretrainResult, peak_mb, read_scores, tensorboard
from moleblend.objectives import blend_then_predict
from moleblend.recipe import PretrainConfig
from moleblend.steps import Share, StepBatches, StepLoader
from moleblend.store import MoleculeStore

_PRECISIONS: dict[str, Literal["32-true", "bf16-mixed", "16-mixed"]] = {
    "fp32": "32-true",
    "bf16": "bf16-mixed",
    "fp16": "16-mixed",
}


def pretrain(
    config: PretrainConfig, *, resume: bool = False, console: Console | None = None
) -> PretrainResult:
    """Pretrain a model and leave a run folder.

    The folder holds `config.json`, `log.csv` (loss per view), `validation.csv` (what was learnt),
    `state.ckpt` (to resume from) and `model.safetensors`, the model as of the last validation.

    With several devices this is called in a process for each, which torchrun, SLURM or Lightning
    starts; the first of them alone writes and speaks.

    Args:
        config: the run.
        resume: go on from the folder's saved state; a run that was stopped before it saved one
            starts anew, and of a finished one the result is given again.
        console: where progress is shown.

    Raises:
        FileNotFoundError: the data are not there.
        ValueError: the folder holds another run, another process works in it, there are too few
            molecules, or the devices are not there.
        FloatingPointError: the loss is no longer a number; the last saved state stays.
        KeyboardInterrupt: Ctrl-C was pressed, or SIGTERM came. The step at hand is finished and
            saved first; a second one stops at once, and the last saved state stays.
        ChildProcessError: the first process ended before this one could begin.
    """
    trainer = make_trainer(config)
    is_first = trainer.is_global_zero
    console = console or Console(stderr=True)
    if not is_first:
        console = Console(file=io.StringIO())
    out = Path(config.out)
    state = out / "state.ckpt"
    with _first_process_first(trainer):
        if is_first and (out / "config.json").exists() and not resume:
            raise ValueError(
                f"{out} holds a run already: --resume continues it, another --out starts a new one"
            )
        step = _saved_step(state) if state.is_file() else None
        data = _find_data(config, console, is_built=step is not None or not is_first)
        store = MoleculeStore(data)
        features = config.encoder.features
        if store.features != features:
            raise ValueError(
                f"{data}: molecules with features {features} were expected, {store.features} "
                f"found; build the store anew with --features {features}"
            )
        held_out, trained_on = _hold_out(len(store), config)
        if is_first:
            _settle_config(
                config, store.fingerprint, out, step or 0, trainer.world_size, resume=resume
            )
    if step == config.schedule.steps:
        console.print(f"{out}: the run is finished, all {step:,} steps were done before")
        return PretrainResult(
            out / "model.safetensors", read_scores(out), 0.0, peak_mb(), is_first=is_first
        )

    torch.manual_seed(config.seed)
    model_config = ModelConfig(encoder=config.encoder, heads=config.heads)
    batches = StepBatches(store, trained_on, config, trainer.global_rank, trainer.world_size)
    model = Model(model_config)
    journal = Journal(model, batches, store, held_out, config, console)
    run = Pretraining(model, config, batches, journal)
    n_epochs = config.schedule.steps * config.schedule.batch_size / len(trained_on)
    console.print(
        f"{checkpoint.count_parameters(model):,} parameters; {len(trained_on):,} molecules, "
        f"{len(held_out):,} held out; {config.schedule.steps:,} steps, {n_epochs:.1f} epochs"
    )
    with (
        alone_with(state) if is_first else nullcontext(),
        journal.heeding_interrupts(),
        warnings.catch_warnings(),
    ):
        # Batches are made in the training process on purpose: for small molecules that is fastest.
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        # Lightning 2.6 asks torch 2.13 in a way that torch has renamed.
        warnings.filterwarnings("ignore", message=".*LeafSpec.*")
        # With fp16 a first step whose gradients overflow is left out, and torch wonders.
        warnings.filterwarnings("ignore", message=".*lr_scheduler.step\\(\\)` before.*")
        try:
            trainer.fit(run, ckpt_path=None if step is None else state, weights_only=True)
        except SystemExit as stopped:  # what Lightning makes of Ctrl-C and SIGTERM
            raise KeyboardInterrupt from stopped
    if journal.is_interrupted:
        raise KeyboardInterrupt
    return replace(journal.result(), is_first=is_first)


def make_trainer(config: PretrainConfig) -> pl.Trainer:
    """Make Lightning's trainer for the devices, strategy and precision of a run.

    Raises:
        ValueError: the devices are not there, or cannot do what is asked of them.
    """
    has_gpu = torch.cuda.is_available()
    if config.device == "cuda" and not has_gpu:
        raise ValueError("device cuda was asked for, but there is no GPU that torch can use")
    on_gpu = has_gpu and config.device != "cpu"
    n_devices = config.devices
    if n_devices == "auto":
        all_here = torch.cuda.device_count() if on_gpu else 1
        n_devices = int(os.environ.get("LOCAL_WORLD_SIZE", all_here))
    strategy: str | Strategy = "auto"
    if config.strategy == "fsdp":
        if not on_gpu:
            raise ValueError("strategy fsdp needs GPUs, and there is none that torch can use")
        strategy = shared_out()
    elif config.strategy == "ddp" or n_devices * config.nodes > 1:
        # A share without geometry leaves the weights for it alone.
        strategy = DDPStrategy(find_unused_parameters=True)
    on_cpu = config.device == "cpu" or not (has_gpu or torch.backends.mps.is_available())
    # Lightning would make bf16 of fp16 on a CPU, though torch can do it.
    by_hand = config.precision == "fp16" and on_cpu
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    try:
        return pl.Trainer(
            accelerator=config.device,
            devices=n_devices,
            num_nodes=config.nodes,
            strategy=strategy,
            precision=None if by_hand else _PRECISIONS[config.precision],
            plugins=[MixedPrecision("16-mixed", "cpu")] if by_hand else None,
            accumulate_grad_batches=config.accumulate,
            use_distributed_sampler=False,
            max_steps=config.schedule.steps,
            max_epochs=-1,
            gradient_clip_val=config.schedule.clip_norm,
            logger=tensorboard(Path(config.out)),
            log_every_n_steps=1,  # the journal decides; Lightning warns of runs shorter than this
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            limit_val_batches=0,
        )
    except (MisconfigurationException, ValueError) as error:
        raise ValueError(f"{n_devices} devices: {' '.join(str(error).split())}") from error


def shared_out() -> FSDPStrategy:
    """Share the weights out layer by layer; they stay in float32, as under autocast elsewhere."""
    in_float32 = TorchMixedPrecision(
        param_dtype=torch.float32, reduce_dtype=torch.float32, buffer_dtype=torch.float32
    )
    return FSDPStrategy(
        auto_wrap_policy={Layer}, mixed_precision=in_float32, state_dict_type="full"
    )


class Pretraining(pl.LightningModule):
    """Lightning's view of a run: draw, objective, log."""

    def __init__(
        self, model: Model, config: PretrainConfig, batches: StepBatches, journal: Journal
    ) -> None:
        super().__init__()
        self.model, self.config, self.batches, self.journal = model, config, batches, journal
        if config.compile:
            assert model.pair_heads is not None
            model.encoder.compile(dynamic=True)
            model.pair_heads.compile(dynamic=True)

    def configure_callbacks(self) -> list[pl.Callback]:
        """Let the journal follow the run."""
        return [self.journal]

    def training_step(self, share: Share, _: int) -> dict[str, Any]:
        """One share of a step: every draw of it comes from the seed and the step's number."""
        torch.manual_seed(share.seed)
        joined = share.scored
        if joined is not None:
            joined = self.trainer.strategy.reduce(joined.clone(), reduce_op="sum")
        loss = blend_then_predict(
            self.model, share.batch, share.blend, self.config.objective, joined
        )
        losses = {"loss": loss.total.detach(), **{k: v.detach() for k, v in loss.parts.items()}}
        # Gradients of micro-batches and of processes are averaged; those of shares are to be added.
        return {
            "loss": loss.total * (self.batches.n_shares * share.is_own),
            "losses": {name: part * share.is_own for name, part in losses.items()},
        }

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the norm of the whole gradient, of which FSDP has a part on each device."""
        model = self.trainer.strategy.model
        if isinstance(model, FullyShardedDataParallel):
            model.clip_grad_norm_(gradient_clip_val or 0.0)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Adam with a warm-up and a cosine."""
        schedule = self.config.schedule
        optimiser = torch.optim.AdamW(
            self.model.parameters(),
            lr=schedule.learning_rate,
            betas=schedule.betas,
            weight_decay=schedule.weight_decay,
            # The fused one undoes the scaling of fp16 itself, after the norm is clipped.
            fused=self.config.precision != "fp16",
        )
        rate = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: schedule.factor(step))  # noqa: PLW0108 (a bound method would be pickled with the state)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": rate, "interval": "step"}}

    def train_dataloader(self) -> StepLoader:
        """Batches from the present step on."""
        return StepLoader(self.batches, self.global_step, self.config)


@contextmanager
def _first_process_first(trainer: pl.Trainer) -> Generator[None, None, None]:
    """Let the other processes do what follows when the first has done it."""
    strategy = trainer.strategy
    # Those that Lightning starts itself come later, when it fits.
    if isinstance(strategy, ParallelStrategy) and not isinstance(
        strategy.cluster_environment, LightningEnvironment
    ):
        strategy.setup_environment()
    if not trainer.is_global_zero:
        try:
            strategy.barrier()
        except RuntimeError as error:
            raise ChildProcessError(
                f"process {trainer.global_rank}: the first process ended before this one began"
            ) from error
    yield
    if trainer.is_global_zero:
        strategy.barrier()


def _saved_step(state: Path) -> int:
    """Read how many steps a saved state has behind it."""
    try:
        return torch.load(state, map_location="cpu", weights_only=True, mmap=True)["global_step"]
    except (RuntimeError, KeyError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"{state}: truncated, or not the saved state of a run") from error


def _find_data(config: PretrainConfig, console: Console, *, is_built: bool) -> Path:
    """Give the store to train on, building one first where the data are another file."""
    data = Path(config.data)
    if not config.data:
        raise ValueError("no data: --data names a store or a file of molecules")
    if data.suffix == ".arrow" or data.is_dir():
        return data
    built = Path(config.out) / "data.arrow"
    if not (is_built and built.is_file()):
        with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task(f"building {built}", total=1)
            account = build_store(
                data,
                built,
                features=config.encoder.features,
                resume=count_unfinished(built) > 0,
                on_progress=lambda _, share: bar.update(task, completed=share),
            )
        console.print(
            f"{account.n_written:,} of {account.n_rows:,} rows are in {built}", soft_wrap=True
        )
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
    config: PretrainConfig,
    fingerprint: str,
    out: Path,
    step: int,
    n_processes: int,
    *,
    resume: bool,
) -> None:
    """Write the configuration; that of a resumed run has to be the same up to the saved step."""
    path = out / "config.json"
    if resume and path.is_file():
        told = json.loads(path.read_text(encoding="utf-8"))
        if not {"config", "data_fingerprint"} <= told.keys():
            raise ValueError(f"{out} holds no pretraining run that could be resumed")
        before = from_dict(PretrainConfig, told["config"], str(path))
        same_place = replace(
            config,
            data=before.data,
            out=before.out,
            device=before.device,
            devices=before.devices,
            nodes=before.nodes,
            n_workers=before.n_workers,
        )
        n_before = told.get("n_processes", 1)
        if n_before != n_processes:
            raise ValueError(
                f"{out}: a resumed run goes on as it began, with {n_before} processes, but there "
                f"are {n_processes}; dropout would differ"
            )
        n_steps = config.schedule.steps
        longer = replace(before, schedule=replace(before.schedule, steps=n_steps))
        is_changed = same_place not in (before, longer) or not all(
            config.schedule.factor(k) == before.schedule.factor(k) for k in range(step + 1)
        )
        if is_changed or told["data_fingerprint"] != fingerprint:
            then, now = to_dict(before), to_dict(same_place)
            changed = [name for name in then if then[name] != now[name]] or ["the data"]
            raise ValueError(
                f"{out}: a resumed run goes on as it began, but these differ: {', '.join(changed)}"
            )
        if same_place == before:
            return
    out.mkdir(parents=True, exist_ok=True)
    told = {
        "config": to_dict(config),
        "data_fingerprint": fingerprint,
        "n_processes": n_processes,
        "moleblend": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.platform(),
    }
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
