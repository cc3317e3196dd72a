"""Pretraining: blend, predict all views, and say on held-out molecules what was learnt."""

import json
import logging
import pickle
import platform
import resource
import signal
import sys
import threading
import time
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from csv import DictReader, DictWriter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from jaxtyping import Float, Int64
from pytorch_lightning.loggers import Logger, TensorBoardLogger
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from moleblend import __version__, checkpoint
from moleblend.batch import Batch, collate
from moleblend.blending import draw_blend
from moleblend.build import build_store, count_unfinished
from moleblend.config import from_dict, to_dict
from moleblend.files import alone_with, replacing
from moleblend.heads import Model, ModelConfig
from moleblend.objectives import Loss, blend_then_predict
from moleblend.recipe import PretrainConfig
from moleblend.recovery import Score, score_views
from moleblend.steps import StepBatches, StepLoader, seeded
from moleblend.store import MoleculeStore


@dataclass(frozen=True)
class PretrainResult:
    """What a run leaves behind.

    Attributes:
        model: path of the model file.
        scores: the last validation.
        molecules_per_s: of training alone, since the run was last started; 0 if it was finished.
        peak_mb: largest memory of the process.
    """

    model: Path
    scores: list[Score]
    molecules_per_s: float
    peak_mb: float


def pretrain(
    config: PretrainConfig, *, resume: bool = False, console: Console | None = None
) -> PretrainResult:
    """Pretrain a model and leave a run folder.

    The folder holds `config.json`, `log.csv` (loss per view), `validation.csv` (what was learnt),
    `state.ckpt` (to resume from) and `model.safetensors`, the model as of the last validation.

    Args:
        config: the run.
        resume: go on from the folder's saved state; a run that was stopped before it saved one
            starts anew, and of a finished one the result is given again.
        console: where progress is shown.

    Raises:
        FileNotFoundError: the data are not there.
        ValueError: the folder holds another run, another process works in it, or there are too few
            molecules.
        FloatingPointError: the loss is no longer a number; the last saved state stays.
        KeyboardInterrupt: Ctrl-C was pressed, or SIGTERM came. The step at hand is finished and
            saved first; a second one stops at once, and the last saved state stays.
    """
    console = console or Console(stderr=True)
    out = Path(config.out)
    state = out / "state.ckpt"
    if (out / "config.json").exists() and not resume:
        raise ValueError(
            f"{out} holds a run already: --resume continues it, another --out starts a new one"
        )
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device cuda was asked for, but there is no GPU that torch can use")
    step = _saved_step(state) if state.is_file() else None
    data = _find_data(config, console, is_resumed=step is not None)
    store = MoleculeStore(data)
    features = config.encoder.features
    if store.features != features:
        raise ValueError(
            f"{data}: molecules with features {features} were expected, {store.features} found; "
            f"build the store anew with --features {features}"
        )
    held_out, trained_on = _hold_out(len(store), config)
    _settle_config(config, store.fingerprint, out, step or 0, resume=resume)
    if step == config.schedule.steps:
        console.print(f"{out}: the run is finished, all {step:,} steps were done before")
        return PretrainResult(out / "model.safetensors", _read_scores(out), 0.0, _peak_mb())

    torch.manual_seed(config.seed)
    model_config = ModelConfig(encoder=config.encoder, heads=config.heads)
    run = Pretraining(Model(model_config), config, StepBatches(store, trained_on, config))
    journal = _Journal(run, store, held_out, config, console)
    n_epochs = config.schedule.steps * config.schedule.batch_size / len(trained_on)
    console.print(
        f"{checkpoint.count_parameters(run.model):,} parameters; {len(trained_on):,} molecules, "
        f"{len(held_out):,} held out; {config.schedule.steps:,} steps, {n_epochs:.1f} epochs"
    )
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    with alone_with(state), journal.heeding_interrupts(), warnings.catch_warnings():
        # Batches are made in the training process on purpose: for small molecules that is fastest.
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        # Lightning 2.6 asks torch 2.13 in a way that torch has renamed.
        warnings.filterwarnings("ignore", message=".*LeafSpec.*")
        trainer = pl.Trainer(
            accelerator=config.device,
            devices=1,
            max_steps=config.schedule.steps,
            max_epochs=-1,
            gradient_clip_val=config.schedule.clip_norm,
            callbacks=[journal],
            logger=_tensorboard(out),
            log_every_n_steps=1,  # the journal decides; Lightning warns of runs shorter than this
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            limit_val_batches=0,
        )
        try:
            trainer.fit(run, ckpt_path=None if step is None else state, weights_only=True)
        except SystemExit as stopped:  # what Lightning makes of Ctrl-C and SIGTERM
            raise KeyboardInterrupt from stopped
    if journal.is_interrupted:
        raise KeyboardInterrupt
    return journal.result()


class Pretraining(pl.LightningModule):
    """Lightning's view of a run: draw, objective, log."""

    def __init__(self, model: Model, config: PretrainConfig, batches: "StepBatches") -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.batches = batches
        self.loss: Loss | None = None

    def training_step(self, batch: Batch, _: int) -> Float[Tensor, ""]:
        """One step: every draw of it comes from the seed and the step's number."""
        blend = draw_blend(batch, self.config.blend, seeded(self.config.seed, self.global_step))
        self.loss = blend_then_predict(self.model, batch, blend, self.config.objective)
        return self.loss.total

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Adam with a warm-up and a cosine."""
        schedule = self.config.schedule
        optimiser = torch.optim.AdamW(
            self.model.parameters(),
            lr=schedule.learning_rate,
            betas=schedule.betas,
            weight_decay=schedule.weight_decay,
            fused=True,
        )
        rate = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: schedule.factor(step))  # noqa: PLW0108 (a bound method would be pickled with the state)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": rate, "interval": "step"}}

    def train_dataloader(self) -> StepLoader:
        """Batches from the present step on."""
        return StepLoader(self.batches, self.global_step, self.config)


class _Journal(pl.Callback):
    """Writes the log, the validations and the states of a run, and shows progress."""

    def __init__(
        self,
        run: Pretraining,
        store: MoleculeStore,
        held_out: Int64[np.ndarray, " v"],
        config: PretrainConfig,
        console: Console,
    ) -> None:
        self.run, self.config, self.console = run, config, console
        self.out = Path(config.out)
        self.held_out = [store[int(row)] for row in held_out]
        self.card = checkpoint.Card(
            trained_by="pretrain",
            data=Path(config.data).name,
            data_fingerprint=store.fingerprint,
            views="both" if any(molecule.n_conformers for molecule in store) else "2d",
        )
        self.scores: list[Score] = []
        self.is_interrupted = False
        self.sums: dict[str, float] = {}
        self.n_summed = 0
        self.n_molecules, self.n_molecules_run, self.seconds_run = 0, 0, 0.0
        self.bar = Progress(
            TextColumn("step {task.completed:,.0f}/{task.total:,.0f}"),
            BarColumn(),
            TextColumn("{task.fields[losses]}"),
            TimeRemainingColumn(),
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
        """Let Ctrl-C or SIGTERM wait for the end of the step, and a second one act as ever."""
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread hears of Ctrl-C
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def note(number: int, _: object) -> None:
            self.is_interrupted = True
            signal.signal(number, before[signal.Signals(number)])

        for number in before:
            signal.signal(number, note)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Cut what was written after the resumed step, and start the clock."""
        for name in ("log.csv", "validation.csv"):
            _cut_after(self.out / name, trainer.global_step)
        if trainer.global_step:
            self.console.print(f"resumed at step {trainer.global_step:,}")
        total = self.config.schedule.steps
        self.task = self.bar.add_task("", total=total, completed=trainer.global_step, losses="")
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
        outputs: object,  # noqa: ARG002
        batch: Batch,
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        """Add up the losses; log, validate and save when it is time."""
        step, config = trainer.global_step, self.config
        loss = self.run.loss
        assert loss is not None
        for name, part in {"loss": loss.total, **loss.parts}.items():
            self.sums[name] = self.sums.get(name, 0.0) + part.item()
        self.n_summed += 1
        self.n_molecules += len(batch)
        self.bar.update(self.task, completed=step)
        is_last = step == config.schedule.steps
        is_logged, is_validated, is_saved = (
            step % every == 0 or is_last
            for every in (config.log_every, config.validate_every, config.save_every)
        )
        is_saved |= self.is_interrupted
        if (is_validated or is_saved) and not all(
            bool(weight.isfinite().all()) for weight in self.run.parameters()
        ):
            raise self._not_a_number("a weight", step)
        if is_logged:
            self._log(trainer)
        if is_validated:
            self._validate(step)
        if is_saved:
            # A save interrupted half way must leave the last one whole.
            trainer.save_checkpoint(self.out / "state.tmp")
            (self.out / "state.tmp").replace(self.out / "state.ckpt")
        if self.is_interrupted:
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
            peak_mb=_peak_mb(),
        )

    def _not_a_number(self, what: str, step: int) -> FloatingPointError:
        """Say which molecules came last, and where the run can be taken up."""
        rows = self.run.batches.rows_of(step - 1)
        names = ", ".join(self.run.batches.store[int(row)].id for row in rows[:8])
        more = f" and {len(rows) - 8} more" if len(rows) > 8 else ""
        state = self.out / "state.ckpt"
        saved = f"{state} has an earlier step" if state.is_file() else "no state was saved yet"
        return FloatingPointError(
            f"{what} of step {step} is not finite; its molecules are {names}{more}; {saved}"
        )

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
        _append(self.out / "log.csv", [row])
        if trainer.logger:
            trainer.logger.log_metrics(row, step=trainer.global_step)
        losses = "  ".join(f"{name} {value:.3f}" for name, value in means.items())
        losses += f"  {row['molecules_per_s']:.0f} molecules/s"
        self.bar.update(self.task, losses=losses)
        if not self.console.is_terminal:
            self.console.print(f"step {trainer.global_step}  {losses}", soft_wrap=True)
        self.n_molecules_run += self.n_molecules
        self.seconds_run += seconds
        self.sums, self.n_summed, self.n_molecules = {}, 0, 0
        self.clock = time.perf_counter()

    def _validate(self, step: int) -> None:
        """Score the held-out molecules and write the model file."""
        started = time.perf_counter()
        size = self.config.schedule.batch_size
        batches = (collate(self.held_out[k : k + size]) for k in range(0, len(self.held_out), size))
        self.scores = score_views(self.run.model, batches, self.config.blend, self.config.seed)
        rows = [{"step": step, **asdict(score)} for score in self.scores]
        _append(self.out / "validation.csv", rows)
        card = replace(self.card, notes={"step": step, "config": to_dict(self.config)})
        checkpoint.save(self.run.model, self.out / "model.safetensors", card)
        self.clock += time.perf_counter() - started  # validation is no training time


def _peak_mb() -> float:
    """Largest memory of the process so far, which Linux tells in KiB and macOS in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1024**2


def _saved_step(state: Path) -> int:
    """Read how many steps a saved state has behind it."""
    try:
        return torch.load(state, map_location="cpu", weights_only=True, mmap=True)["global_step"]
    except (RuntimeError, KeyError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"{state}: truncated, or not the saved state of a run") from error


def _find_data(config: PretrainConfig, console: Console, *, is_resumed: bool) -> Path:
    """Give the store to train on, building one first where the data are another file."""
    data = Path(config.data)
    if not config.data:
        raise ValueError("no data: --data names a store or a file of molecules")
    if data.suffix == ".arrow" or data.is_dir():
        return data
    built = Path(config.out) / "data.arrow"
    if not (is_resumed and built.is_file()):
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
    config: PretrainConfig, fingerprint: str, out: Path, step: int, *, resume: bool
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
            n_workers=before.n_workers,
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
        "moleblend": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.platform(),
    }
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


def _read_scores(out: Path) -> list[Score]:
    """Read the scores of the last validation."""
    with (out / "validation.csv").open(newline="", encoding="utf-8") as file:
        rows = list(DictReader(file))
    return [
        Score(
            view=row["view"],
            shown=row["shown"],
            metric=row["metric"],
            value=float(row["value"]),
            trivial=float(row["trivial"]) if row["trivial"] else None,
            n=int(row["n"]),
        )
        for row in rows
        if row["step"] == rows[-1]["step"]
    ]


def _tensorboard(out: Path) -> Logger | bool:
    """Log to TensorBoard too where it is installed."""
    try:
        return TensorBoardLogger(out, name="", version="tensorboard")
    except ModuleNotFoundError:
        return False


def _append(path: Path, rows: list[dict[str, Any]]) -> None:
    """Append rows to a csv file, with a header if it is new."""
    if not rows:
        return
    is_new = not path.is_file() or path.stat().st_size == 0
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = DictWriter(file, list(rows[0]))
        if is_new:
            writer.writeheader()
        writer.writerows(rows)


def _cut_after(path: Path, step: int) -> None:
    """Drop the rows of steps that a resumed run does again; an interrupted last line goes too."""
    if not path.is_file() or path.stat().st_size == 0:
        return
    with path.open(newline="", encoding="utf-8") as file:
        reader = DictReader(file)
        names = list(reader.fieldnames or ())
        rows = [row for row in reader if None not in row.values()]
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = DictWriter(file, names)
        writer.writeheader()
        writer.writerows(row for row in rows if int(row["step"]) <= step)
