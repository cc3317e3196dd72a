"""Pretraining: blend, predict all views, and validate on held-out molecules."""

import io
import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from jaxtyping import Int64
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from rich.console import Console
from rich.progress import Progress
from torch import Tensor
from torch.distributed.fsdp import FullyShardedDataParallel

from moleblend.chem.descriptors import N_FINGERPRINT_BITS, compute_descriptors
from moleblend.config import check_type, from_dict, to_dict
from moleblend.data.build_store import build_store, count_unfinished
from moleblend.data.store import MoleculeStore
from moleblend.environment import peak_mb
from moleblend.errors import SettingError
from moleblend.files import alone_with, check_outputs, sweep, write_json
from moleblend.model import checkpoint
from moleblend.model.batch import Batch
from moleblend.model.blending import Blend
from moleblend.model.compat import upgrade_pretrain_config
from moleblend.model.growth import transfer
from moleblend.model.heads import Model, ModelConfig
from moleblend.model.objectives import CombinedObjective, Loss, MoleculeTargets, constant_losses
from moleblend.pretraining.callbacks import TrainingCallback
from moleblend.pretraining.config import PretrainConfig
from moleblend.pretraining.data_loader import (
    MicroBatch,
    StepDataset,
    StepLoader,
    collate_for_heads,
)
from moleblend.pretraining.labels import LabelTable
from moleblend.pretraining.trackers import open_trackers, require_trackers
from moleblend.pretraining.trainer import first_process_first, make_trainer
from moleblend.pretraining.training_state import BEFORE, LAST, find_state, make_last
from moleblend.pretraining.validation import Score, read_scores, score_table
from moleblend.pretraining.validator import Validator
from moleblend.training import exit_as_interrupt, quiet_lightning

_FEWEST = 5
"""Smallest number of molecules of a run."""

_OUTPUTS = ("config.json", LAST, "log.csv", "validation.csv", "model.safetensors", "report.html")


@dataclass(frozen=True)
class PretrainResult:
    """Result of a run.

    Attributes:
        model: path of the model file.
        scores: scores of the last validation.
        molecules_per_s: speed of training, without validations, since the run was last started; 0
            if the run was finished already.
        peak_mb: peak memory of the process.
        is_first: whether this is the first process of the run, the only one that writes files and
            validates.
    """

    model: Path
    scores: list[Score]
    molecules_per_s: float
    peak_mb: float
    is_first: bool = True


ObjectiveFunction = Callable[[Model, Batch, Blend, torch.Generator], Loss]
"""An objective of a user's own. The generator is the source of all its random choices."""


def pretrain(
    config: PretrainConfig,
    *,
    objective: ObjectiveFunction | None = None,
    resume: bool = False,
    console: Console | None = None,
) -> PretrainResult:
    """Pretrain a model and write a run folder.

    The folder contains `config.json`, `starts.csv` (time, machine and code of each start),
    `log.csv` (loss per view), `validation.csv` (scores on held-out molecules), `state.ckpt` and
    `state.before.ckpt` (saved states to resume from) and `model.safetensors`, the model at the last
    validation.

    With several devices this function is called in one process per device, which torchrun, SLURM or
    Lightning starts. Only the first process writes files and prints.

    Args:
        config: configuration of the run.
        objective: function that computes the loss of a batch, in place of the objectives that
            `config.objective` names. With several micro-batches or devices the loss of a step is
            the mean over its molecules.
        resume: continue from the last saved state that is not damaged. A run that was stopped
            before its first save starts from step 0. A finished run returns its result again.
        console: where progress is shown.

    Raises:
        MissingFileError: the data do not exist.
        SettingError: the folder contains another run, another process uses it, all its states are
            damaged, there are too few molecules, the devices do not exist, or a tracker is not
            installed.
        OSError: a file could not be written; the message names the last saved state.
        TrainingError: the loss or a weight is not finite; the last saved state is kept.
        KeyboardInterrupt: Ctrl-C or SIGTERM. The current step is finished and saved first. A second
            Ctrl-C stops at once; the last saved state is kept.
        WorkerError: the first process ended before this one started.
    """
    check_type("config", config, PretrainConfig)
    trainer = make_trainer(config)
    is_first = trainer.is_global_zero
    console = console or Console(stderr=True)
    if not is_first:
        console = Console(file=io.StringIO())
    out = Path(config.out)
    with ExitStack() as held:
        with first_process_first(trainer):
            if is_first and (out / "config.json").exists() and not resume:
                raise SettingError(
                    f"{out} already contains a run: use --resume to continue it, or another --out"
                )
            if is_first:
                _check_outputs(config)
            require_trackers(config)
            # Before slow work such as building a store.
            source_sha256 = checkpoint.sha256(config.source) if config.source else ""
            model = new_model(config)
            state, damaged = find_state(out)
            for message in damaged:
                console.print(
                    f"{message}: skipped", style="yellow", soft_wrap=True, highlight=False
                )
            step = state.step if state else 0
            data = _find_data(config, console, is_built=state is not None or not is_first)
            store = open_store(data, config)
            held_out, train_rows = hold_out(len(store), config)
            has_constant = is_first and objective is None
            constant = _baseline_losses(store, held_out, config) if has_constant else {}
            is_finished = step == config.schedule.steps
            if is_first:
                _write_config(
                    config, store.fingerprint, constant, step, trainer, source_sha256, resume=resume
                )
            if is_first and not is_finished:
                held.enter_context(alone_with(out / LAST))
                sweep(out, _OUTPUTS)
                if state:
                    make_last(state, out)
        if is_finished:
            console.print(f"{out}: the run is already finished ({step:,} steps)")
            scores = read_scores(out)
            if scores:
                console.print(score_table(scores, step))
            return PretrainResult(out / "model.safetensors", scores, 0.0, peak_mb(), is_first)

        fit_descriptor_scaler(model, store, held_out)
        labels = LabelTable(config.labels) if config.labels else None
        criterion = objective or new_objective(config, labels)
        dataset = StepDataset(
            store,
            train_rows,
            config,
            trainer.global_rank,
            trainer.world_size,
            objective=criterion if isinstance(criterion, CombinedObjective) else None,
            labels=labels,
        )
        validator = Validator(store, held_out, config, source_sha256)
        callback = TrainingCallback(model, dataset, validator, config, console, constant)
        if len(held_out) < config.n_held_out:
            console.print(
                f"--n-held-out is {config.n_held_out:,}, but there are {len(store):,} molecules: "
                f"{len(held_out):,} of them are held out"
            )
        if validator.card.views == "2d":
            console.print(
                "no molecule has a geometry: only the losses of the 2D views are learned; "
                "moleblend data build IN OUT.arrow --conformers 1 computes geometries",
                style="yellow",
                soft_wrap=True,
                highlight=False,
            )
        n_epochs = config.schedule.steps * config.schedule.batch_size / len(train_rows)
        console.print(
            f"{checkpoint.count_parameters(model):,} parameters; {len(train_rows):,} molecules, "
            f"{len(held_out):,} held out; {config.schedule.steps:,} steps, {n_epochs:.1f} epochs"
        )
        held.enter_context(callback.interrupts.handling())
        held.enter_context(quiet_lightning())
        trainer.loggers = open_trackers(config, step)
        run = Pretraining(model, config, dataset, callback, criterion)
        with exit_as_interrupt():
            trainer.fit(run, ckpt_path=out / LAST if state else None, weights_only=True)
    if callback.interrupts.is_interrupted:
        raise KeyboardInterrupt
    return PretrainResult(
        model=out / "model.safetensors",
        scores=callback.scores,
        molecules_per_s=callback.loss_log.molecules_per_s,
        peak_mb=peak_mb(),
        is_first=is_first,
    )


def _check_outputs(config: PretrainConfig) -> None:
    """Refuse a run that would overwrite its data or its source model."""
    built = () if is_store(config) else ("data.arrow", "data.arrow.rejected.csv")
    outputs = [Path(config.out) / name for name in (*_OUTPUTS, BEFORE, "starts.csv", *built)]
    source = [checkpoint.locate(config.source)] if config.source else []
    check_outputs(outputs, [Path(config.data), *source])


class Pretraining(pl.LightningModule):
    """LightningModule of a pretraining run: objective, optimiser and batches."""

    def __init__(
        self,
        model: Model,
        config: PretrainConfig,
        dataset: StepDataset,
        callback: pl.Callback,
        objective: ObjectiveFunction | CombinedObjective,
    ) -> None:
        super().__init__()
        self.model, self.config, self.dataset, self.callback = model, config, dataset, callback
        self.objective = objective
        if config.compile:
            model.encoder.compile(dynamic=True)

    def configure_callbacks(self) -> list[pl.Callback]:
        """Add the callback of the run to the trainer."""
        return [self.callback]

    def training_step(self, micro_batch: MicroBatch, _: int) -> dict[str, Any]:
        """Compute the loss of a micro-batch; its seed is that of dropout."""
        torch.manual_seed(micro_batch.seed)
        batch, blend = micro_batch.batch, micro_batch.blend
        generator = torch.Generator().manual_seed(micro_batch.draw_seed)
        # Lightning averages gradients over micro-batches and processes, but they have to be summed.
        factor = self.dataset.n_micro_batches * micro_batch.is_counted
        if isinstance(self.objective, CombinedObjective):
            scored = self._summed_over_processes(micro_batch.scored)
            loss = self.objective.loss(self.model, batch, blend, generator, scored)
            share = float(micro_batch.is_counted)
        else:
            loss = self.objective(self.model, batch, blend, generator)
            factor, share = factor * micro_batch.fraction, micro_batch.fraction
        losses = {"loss": loss.total.detach(), **{k: v.detach() for k, v in loss.terms.items()}}
        return {
            "loss": loss.total * factor,
            "losses": {name: value * share for name, value in losses.items()},
        }

    def _summed_over_processes(self, scored: dict[str, Tensor] | None) -> dict[str, Tensor] | None:
        if scored is None:
            return None
        total = self.trainer.strategy.reduce(torch.stack(list(scored.values())), reduce_op="sum")
        return dict(zip(scored, total, strict=True))

    def optimizer_step(self, *arguments: Any, **keywords: Any) -> None:  # noqa: ANN401
        """Free the gradients after the step, before the next forward pass needs memory."""
        super().optimizer_step(*arguments, **keywords)
        self.zero_grad()

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the norm of the complete gradient, also if FSDP has sharded it."""
        model = self.trainer.strategy.model
        if isinstance(model, FullyShardedDataParallel):
            model.clip_grad_norm_(gradient_clip_val or 0.0)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW with a linear warm-up and a cosine decay."""
        schedule = self.config.schedule
        optimiser = torch.optim.AdamW(
            [p for p in self.parameters() if p.requires_grad],
            lr=schedule.learning_rate,
            betas=schedule.betas,
            weight_decay=schedule.weight_decay,
            # Fused AdamW unscales fp16 gradients itself, so Lightning cannot clip them.
            fused=self.config.precision == "fp32",
        )
        rate = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: schedule.factor(step))  # noqa: PLW0108 (a bound method would be pickled with the state)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": rate, "interval": "step"}}

    def train_dataloader(self) -> StepLoader:
        """Micro-batches from the current step on."""
        steps = range(self.global_step, self.config.schedule.steps)
        return StepLoader(self.dataset, steps, self.config)


def is_store(config: PretrainConfig) -> bool:
    """Return whether the data are a store, not another file of molecules."""
    if not config.data:
        raise SettingError("no data: --data must name a store or a file of molecules")
    data = Path(config.data)
    return data.suffix == ".arrow" or data.is_dir()


def _find_data(config: PretrainConfig, console: Console, *, is_built: bool) -> Path:
    """Return the path of the store; it is built first if the data are another file."""
    data = Path(config.data)
    if is_store(config):
        return data
    built = Path(config.out) / "data.arrow"
    if not (is_built and built.is_file()):
        with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task(f"building {built}", total=1)
            summary = build_store(
                data,
                built,
                features=config.encoder.features,
                resume=count_unfinished(built) > 0,
                on_progress=lambda _, fraction: bar.update(task, completed=fraction),
            )
        console.print(f"{built}: {summary.n_written:,} of {summary.n_rows:,} rows", soft_wrap=True)
    return built


def open_store(data: Path, config: PretrainConfig) -> MoleculeStore:
    """Open the molecules of a run.

    Raises:
        MissingFileError: the store does not exist.
        SettingError: the file is not a store, or has other features than the encoder.
    """
    store, features = MoleculeStore(data), config.encoder.features
    if store.features != features:
        raise SettingError(
            f"{data}: got a store with features {store.features}, the encoder expects {features}: "
            f"build the store again with --features {features}"
        )
    return store


def hold_out(
    n_molecules: int, config: PretrainConfig
) -> tuple[Int64[np.ndarray, " v"], Int64[np.ndarray, " m"]]:
    """Draw the rows of the held-out molecules; return them and the training rows.

    With fewer molecules than `n_held_out`, a fifth of them is held out.
    """
    if n_molecules < _FEWEST:
        raise SettingError(
            f"{config.data}: got {n_molecules} molecules, expected at least {_FEWEST}: a fifth of "
            "them is held out (--n-held-out)"
        )
    is_small = n_molecules <= config.n_held_out
    n_held_out = n_molecules // 5 if is_small else config.n_held_out
    order = np.random.default_rng(config.seed).permutation(n_molecules)
    return np.sort(order[:n_held_out]), np.sort(order[n_held_out:])


def new_model(config: PretrainConfig) -> Model:
    """Make the model that a run starts from.

    Raises:
        MissingFileError: the source does not exist.
        SettingError: the source is not a model file, or has another encoder.
    """
    torch.manual_seed(config.seed)
    wanted = ModelConfig(encoder=config.encoder, heads=config.heads, readout=config.readout)
    source = checkpoint.load(checkpoint.locate(config.source)) if config.source else None
    return transfer(source, wanted) if source else Model(wanted)


def new_objective(config: PretrainConfig, labels: LabelTable | None) -> CombinedObjective:
    """Make the objectives of a run; the weights of their own layers depend on the seed.

    Raises:
        SettingError: there is a file of labels and no weight for them, or a weight and no file.
    """
    if (labels is not None) != (config.objective.labels > 0):
        raise SettingError(
            f"got labels={config.labels!r} and objective.labels={config.objective.labels:g}, "
            "expected both a file and a weight above 0, or neither"
        )
    torch.manual_seed(config.seed)
    wanted = ModelConfig(encoder=config.encoder, heads=config.heads, readout=config.readout)
    targets, weights = None, config.objective
    if weights.fingerprints > 0 or labels is not None:
        targets = MoleculeTargets(
            config.encoder.width,
            n_bits=N_FINGERPRINT_BITS if weights.fingerprints > 0 else 0,
            label_mean=None if labels is None else torch.from_numpy(labels.mean).float(),
            label_std=None if labels is None else torch.from_numpy(labels.std).float(),
            fingerprints=weights.fingerprints,
            labels=weights.labels,
        )
    return CombinedObjective(config.objective, wanted, targets)


def fit_descriptor_scaler(
    model: Model, store: MoleculeStore, held_out: Int64[np.ndarray, " v"]
) -> None:
    """Fit the descriptor scaler on the held-out molecules, unless it is already fitted."""
    head = model.descriptor_head
    if head is not None and not head.is_fitted:
        described = compute_descriptors([store[int(row)].smiles for row in held_out])
        head.fit(torch.from_numpy(described))


def _baseline_losses(
    store: MoleculeStore, held_out: Int64[np.ndarray, " v"], config: PretrainConfig
) -> dict[str, float]:
    """Losses of the constant baseline on the held-out molecules, if all views are predicted."""
    if config.objective.names != ("blend_then_predict",):
        return {}
    size = config.schedule.batch_size
    chunks = (held_out[k : k + size] for k in range(0, len(held_out), size))
    batches = (
        collate_for_heads([store[int(row)] for row in rows], config.heads) for rows in chunks
    )
    return constant_losses(batches, config.heads, config.objective)


def _write_config(
    config: PretrainConfig,
    fingerprint: str,
    constant: dict[str, float],
    step: int,
    trainer: pl.Trainer,
    source_sha256: str,
    *,
    resume: bool,
) -> None:
    """Write the configuration; a resumed run must have the same one up to the saved step."""
    out, n_processes = Path(config.out), trainer.world_size
    path = out / "config.json"
    if resume and path.is_file():
        stored = json.loads(path.read_text(encoding="utf-8"))
        if not {"config", "data_fingerprint"} <= stored.keys():
            raise SettingError(f"{out} contains no pretraining run that can be resumed")
        before = from_dict(PretrainConfig, upgrade_pretrain_config(stored["config"]), str(path))
        comparable = replace(
            config,
            data=before.data,
            out=before.out,
            device=before.device,
            devices=before.devices,
            nodes=before.nodes,
            n_workers=before.n_workers,
            log_to=before.log_to,
        )
        n_before = stored.get("n_processes", 1)
        if n_before != n_processes:
            raise SettingError(
                f"{out}: got {n_processes} processes, but the run was started with {n_before}; "
                "dropout would differ"
            )
        n_steps = config.schedule.steps
        longer = replace(before, schedule=replace(before.schedule, steps=n_steps))
        is_changed = comparable not in (before, longer) or not all(
            config.schedule.factor(k) == before.schedule.factor(k) for k in range(step + 1)
        )
        is_other_source = stored.get("source_sha256", "") != source_sha256
        if is_changed or is_other_source or stored["data_fingerprint"] != fingerprint:
            then, now = to_dict(before), to_dict(comparable)
            changed = [name for name in then if then[name] != now[name]]
            changed = changed or ["the source model" if is_other_source else "the data"]
            raise SettingError(
                f"{out}: a resumed run needs the same configuration; these differ: "
                f"{', '.join(changed)}"
            )
        if comparable == before:
            return
    out.mkdir(parents=True, exist_ok=True)
    record = {
        "config": to_dict(config),
        "data_fingerprint": fingerprint,
        "constant_losses": constant,
        "n_processes": n_processes,
        **({"source_sha256": source_sha256} if source_sha256 else {}),
    }
    write_json(path, record, indent=2)
