"""Pretraining: blend, predict all views, and say on held-out molecules what was learnt."""

import io
import json
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from jaxtyping import Int64
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from rich.console import Console
from rich.progress import Progress
from torch.distributed.fsdp import FullyShardedDataParallel

from moleblend.chem.descriptors import compute_descriptors
from moleblend.config import from_dict, to_dict
from moleblend.data.build_store import build_store, count_unfinished
from moleblend.data.store import MoleculeStore
from moleblend.environment import peak_mb
from moleblend.files import alone_with, replacing, sweep
from moleblend.model import checkpoint
from moleblend.model.compat import upgrade_pretrain_config
from moleblend.model.heads import Model, ModelConfig
from moleblend.model.objectives import blend_then_predict, constant_losses
from moleblend.pretraining.callbacks import PretrainResult, TrainingCallback
from moleblend.pretraining.config import PretrainConfig
from moleblend.pretraining.data_loader import MicroBatch, StepDataset, StepLoader, batch_of
from moleblend.pretraining.trackers import open_trackers, require_trackers
from moleblend.pretraining.trainer import first_process_first, make_trainer, quiet_lightning
from moleblend.pretraining.training_state import LAST, find_state, settle_state
from moleblend.pretraining.validation import read_scores, score_table

_WRITTEN = ("config.json", LAST, "log.csv", "validation.csv", "model.safetensors", "report.html")


def pretrain(
    config: PretrainConfig, *, resume: bool = False, console: Console | None = None
) -> PretrainResult:
    """Pretrain a model and leave a run folder.

    The folder holds `config.json`, `starts.csv` (when, where and with what code it was started and
    resumed), `log.csv` (loss per view), `validation.csv` (what was learnt), `state.ckpt` and
    `state.before.ckpt` (to resume from) and `model.safetensors`, the model as of the last
    validation.

    With several devices this is called in a process for each, which torchrun, SLURM or Lightning
    starts; the first of them alone writes and speaks.

    Args:
        config: the run.
        resume: go on from the folder's last saved state that is whole; a run that was stopped
            before it saved one starts anew, and of a finished one the result is given again.
        console: where progress is shown.

    Raises:
        FileNotFoundError: the data are not there.
        ValueError: the folder holds another run, another process works in it, its states are all
            damaged, there are too few molecules, the devices are not there, or a tracker is not
            installed.
        OSError: a file could not be written; the message says what is left to go on from.
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
    with ExitStack() as held:
        with first_process_first(trainer):
            if is_first and (out / "config.json").exists() and not resume:
                raise ValueError(
                    f"{out} holds a run already: --resume continues it, "
                    "another --out starts a new one"
                )
            require_trackers(config)
            # Before anything that takes long, as a store to be built.
            source_sha256 = checkpoint.sha256(config.source) if config.source else ""
            model = new_model(config)
            state, damaged = find_state(out)
            for sentence in damaged:
                console.print(
                    f"{sentence}: passed over", style="yellow", soft_wrap=True, highlight=False
                )
            step = state.step if state else 0
            data = _find_data(config, console, is_built=state is not None or not is_first)
            store = open_store(data, config)
            held_out, train_model = hold_out(len(store), config)
            constant = _constant_losses(store, held_out, config) if is_first else {}
            is_finished = step == config.schedule.steps
            if is_first:
                _settle_config(
                    config, store.fingerprint, constant, step, trainer, source_sha256, resume=resume
                )
            if is_first and not is_finished:
                held.enter_context(alone_with(out / LAST))
                sweep(out, _WRITTEN)
                if state:
                    settle_state(state, out)
        if is_finished:
            console.print(f"{out}: the run is finished, all {step:,} steps were done before")
            scores = read_scores(out)
            if scores:
                console.print(score_table(scores, step))
            return PretrainResult(out / "model.safetensors", scores, 0.0, peak_mb(), is_first)

        fit_descriptor_scaler(model, store, held_out)
        batches = StepDataset(store, train_model, config, trainer.global_rank, trainer.world_size)
        journal = TrainingCallback(
            model, batches, store, held_out, config, console, constant, source_sha256
        )
        n_epochs = config.schedule.steps * config.schedule.batch_size / len(train_model)
        console.print(
            f"{checkpoint.count_parameters(model):,} parameters; {len(train_model):,} molecules, "
            f"{len(held_out):,} held out; {config.schedule.steps:,} steps, {n_epochs:.1f} epochs"
        )
        held.enter_context(journal.heeding_interrupts())
        held.enter_context(quiet_lightning())
        trainer.loggers = open_trackers(config, step)
        run = Pretraining(model, config, batches, journal)
        try:
            trainer.fit(run, ckpt_path=out / LAST if state else None, weights_only=True)
        except SystemExit as stopped:  # what Lightning makes of Ctrl-C and SIGTERM
            raise KeyboardInterrupt from stopped
    if journal.is_interrupted:
        raise KeyboardInterrupt
    return replace(journal.result(), is_first=is_first)


class Pretraining(pl.LightningModule):
    """Lightning's view of a run: draw, objective, log."""

    def __init__(
        self, model: Model, config: PretrainConfig, batches: StepDataset, callback: pl.Callback
    ) -> None:
        super().__init__()
        self.model, self.config, self.batches, self.callback = model, config, batches, callback
        if config.compile:
            model.encoder.compile(dynamic=True)

    def configure_callbacks(self) -> list[pl.Callback]:
        """Let the journal follow the run."""
        return [self.callback]

    def training_step(self, share: MicroBatch, _: int) -> dict[str, Any]:
        """One share of a step: every draw of it comes from the seed and the step's number."""
        torch.manual_seed(share.seed)
        joined = share.scored
        if joined is not None:
            joined = self.trainer.strategy.reduce(joined.clone(), reduce_op="sum")
        loss = blend_then_predict(
            self.model, share.batch, share.blend, self.config.objective, joined
        )
        losses = {"loss": loss.total.detach(), **{k: v.detach() for k, v in loss.terms.items()}}
        # Gradients of micro-batches and of processes are averaged; those of shares are to be added.
        return {
            "loss": loss.total * (self.batches.n_shares * share.is_own),
            "losses": {name: part * share.is_own for name, part in losses.items()},
        }

    def optimizer_step(self, *arguments: Any, **named: Any) -> None:  # noqa: ANN401
        """Let the gradients go as soon as they are used; else they stay for the next forward."""
        super().optimizer_step(*arguments, **named)
        self.zero_grad()

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
            # The fused one undoes the scaling of fp16 itself, so Lightning refuses to clip it.
            fused=self.config.precision == "fp32",
        )
        rate = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: schedule.factor(step))  # noqa: PLW0108 (a bound method would be pickled with the state)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": rate, "interval": "step"}}

    def train_dataloader(self) -> StepLoader:
        """Batches from the present step on."""
        steps = range(self.global_step, self.config.schedule.steps)
        return StepLoader(self.batches, steps, self.config)


def is_store(config: PretrainConfig) -> bool:
    """Say whether the data are a store already."""
    if not config.data:
        raise ValueError("no data: --data names a store or a file of molecules")
    data = Path(config.data)
    return data.suffix == ".arrow" or data.is_dir()


def _find_data(config: PretrainConfig, console: Console, *, is_built: bool) -> Path:
    """Give the store to train on, building one first where the data are another file."""
    data = Path(config.data)
    if is_store(config):
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


def open_store(data: Path, config: PretrainConfig) -> MoleculeStore:
    """Open the molecules of a run.

    Raises:
        FileNotFoundError: they are not there.
        ValueError: they are no store, or have other features than the encoder.
    """
    store, features = MoleculeStore(data), config.encoder.features
    if store.features != features:
        raise ValueError(
            f"{data}: molecules with features {features} were expected, {store.features} found; "
            f"build the store anew with --features {features}"
        )
    return store


def hold_out(
    n_molecules: int, config: PretrainConfig
) -> tuple[Int64[np.ndarray, " v"], Int64[np.ndarray, " m"]]:
    """Draw the rows of the held-out molecules, and give them and all others."""
    if n_molecules <= config.n_held_out:
        raise ValueError(
            f"{config.data}: {n_molecules} molecules, but {config.n_held_out} are to be held out; "
            "a smaller n_held_out leaves some to train on"
        )
    order = np.random.default_rng(config.seed).permutation(n_molecules)
    return np.sort(order[: config.n_held_out]), np.sort(order[config.n_held_out :])


def new_model(config: PretrainConfig) -> Model:
    """Make the model that a run begins with.

    Raises:
        FileNotFoundError: there is no such source.
        ValueError: the source is no model file, or its encoder is another one.
    """
    torch.manual_seed(config.seed)
    wanted = ModelConfig(encoder=config.encoder, heads=config.heads, readout=config.readout)
    source = checkpoint.load(checkpoint.locate(config.source)) if config.source else None
    return checkpoint.transfer(source, wanted) if source else Model(wanted)


def fit_descriptor_scaler(
    model: Model, store: MoleculeStore, held_out: Int64[np.ndarray, " v"]
) -> None:
    """Scale the descriptors that a model learns by those held out, if no run before has done so."""
    head = model.descriptor_head
    if head is not None and not head.is_fitted:
        described = compute_descriptors([store[int(row)].smiles for row in held_out])
        head.fit(torch.from_numpy(described))


def _constant_losses(
    store: MoleculeStore, held_out: Int64[np.ndarray, " v"], config: PretrainConfig
) -> dict[str, float]:
    """Give the losses of a constant guess, on the held-out molecules."""
    size = config.schedule.batch_size
    chunks = (held_out[k : k + size] for k in range(0, len(held_out), size))
    batches = (batch_of([store[int(row)] for row in rows], config.heads) for rows in chunks)
    return constant_losses(batches, config.heads, config.objective)


def _settle_config(
    config: PretrainConfig,
    fingerprint: str,
    constant: dict[str, float],
    step: int,
    trainer: pl.Trainer,
    source_sha256: str,
    *,
    resume: bool,
) -> None:
    """Write the configuration; that of a resumed run has to be the same up to the saved step."""
    out, n_processes = Path(config.out), trainer.world_size
    path = out / "config.json"
    if resume and path.is_file():
        told = json.loads(path.read_text(encoding="utf-8"))
        if not {"config", "data_fingerprint"} <= told.keys():
            raise ValueError(f"{out} holds no pretraining run that could be resumed")
        before = from_dict(PretrainConfig, upgrade_pretrain_config(told["config"]), str(path))
        same_place = replace(
            config,
            data=before.data,
            out=before.out,
            device=before.device,
            devices=before.devices,
            nodes=before.nodes,
            n_workers=before.n_workers,
            log_to=before.log_to,
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
        is_other_source = told.get("source_sha256", "") != source_sha256
        if is_changed or is_other_source or told["data_fingerprint"] != fingerprint:
            then, now = to_dict(before), to_dict(same_place)
            changed = [name for name in then if then[name] != now[name]]
            changed = changed or ["the bytes of the source" if is_other_source else "the data"]
            raise ValueError(
                f"{out}: a resumed run goes on as it began, but these differ: {', '.join(changed)}"
            )
        if same_place == before:
            return
    out.mkdir(parents=True, exist_ok=True)
    told = {
        "config": to_dict(config),
        "data_fingerprint": fingerprint,
        "constant_losses": constant,
        "n_processes": n_processes,
        **({"source_sha256": source_sha256} if source_sha256 else {}),
    }
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
