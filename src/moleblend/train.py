"""Fine-tuning: a table of measured molecules in, a model file with honest test figures out."""

import copy
import hashlib
import json
import logging
import math
import warnings
from collections.abc import Iterator, Sequence, Sized
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pyarrow as pa
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
import tyro
from jaxtyping import Float, Float32, Float64, Int64
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from rich.console import Console
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from moleblend import checkpoint
from moleblend.batch import Batch, collate, shuffled_batches
from moleblend.blending import Views, show
from moleblend.config import to_dict
from moleblend.encoder import EncoderConfig
from moleblend.files import replacing
from moleblend.heads import Model, ModelConfig, Target
from moleblend.metrics import Metrics, binary_metrics, mean_metric, regression_metrics
from moleblend.molecule import Molecule
from moleblend.predict import Row, in_batches, in_units, prepare
from moleblend.splits import SPLITS, Split, given_split
from moleblend.tables import Table, numbers, read_molecules, read_table, write_table


@dataclass(frozen=True)
class TrainConfig:
    """One fine-tuning run.

    Attributes:
        data: table of molecules and measured values (csv, tsv, smi, sdf, parquet; also .gz).
        target: columns to predict; an empty cell is a missing label.
        out: the run folder.
        source: model file to start from, `packaged` for the pretrained model that comes with the
            package, or `scratch` for random weights.
        smiles: the SMILES column; found by name if empty.
        split: `scaffold`, `balanced` (scaffolds in random order), `cluster` (Butina on ECFP4),
            `random`, or a column that says train, valid or test for each row.
        task: `regression`, `binary`, or `auto`: binary if all labels of a target are 0 or 1.
        units: unit of each target, for the record.
        views: what is used of each molecule: `2d`, `3d`, `both`; `auto` is both if any row has a
            geometry.
        conformers: geometries computed for each molecule that comes without; more than one are
            drawn from at random in each epoch.
        epochs: at most.
        patience: epochs without a better validation figure after which training stops.
        batch_size: molecules in a step.
        learning_rate: at the end of the warm-up.
        warmup_epochs: epochs over which the rate rises from 0; then it falls to 0 along a cosine.
        weight_decay: decoupled.
        clip_norm: largest norm of the gradient.
        head_dropout: before the last layer of the property head.
        seed: of everything random.
        device: `auto`, `cpu` or `cuda`.
        encoder: of a model from scratch; with a source it is the source's.
    """

    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    target: tuple[str, ...]
    out: str
    source: Annotated[str, tyro.conf.arg(name="from")] = checkpoint.PACKAGED
    smiles: str = ""
    split: str = "scaffold"
    task: Literal["auto", "regression", "binary"] = "auto"
    units: tuple[str, ...] = ()
    views: Literal["auto", "2d", "3d", "both"] = "auto"
    conformers: int = 0
    epochs: int = 40
    patience: int = 10
    batch_size: int = 32
    learning_rate: float = 2e-4
    warmup_epochs: float = 2.0
    weight_decay: float = 0.01
    clip_norm: float = 5.0
    head_dropout: float = 0.1
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    encoder: EncoderConfig = field(default_factory=EncoderConfig)

    def __post_init__(self) -> None:
        """Refuse what cannot run."""
        if not self.target:
            raise ValueError("no target: --target names one or more columns to predict")
        if len(set(self.target)) != len(self.target):
            raise ValueError(f"a target is named twice: {', '.join(self.target)}")
        if self.units and len(self.units) != len(self.target):
            raise ValueError(
                f"{len(self.target)} targets, but {len(self.units)} units: one for each, or none"
            )
        if min(self.epochs, self.patience, self.batch_size) < 1:
            raise ValueError("epochs, patience and batch_size must be at least 1")
        if min(self.conformers, self.warmup_epochs, self.weight_decay, self.seed) < 0:
            raise ValueError(
                "conformers, warmup_epochs, weight_decay and seed must not be negative"
            )
        if not (self.learning_rate > 0 and self.clip_norm > 0):
            raise ValueError(
                "learning_rate and clip_norm must be positive, "
                f"{self.learning_rate} and {self.clip_norm} came"
            )
        if not 0 <= self.head_dropout < 1:
            raise ValueError(f"head_dropout must be in [0, 1), {self.head_dropout} came")


@dataclass(frozen=True, eq=False)
class TrainResult:
    """What a run found, and what its report shows.

    Attributes:
        config: of the run.
        model: path of the model file.
        targets: with the scaling of the training labels.
        validation: metrics per target on the validation part, of the weights that were kept.
        test: metrics per target on the test part, read once.
        trivial: test metrics of predicting the training mean; only for regression.
        history: per epoch: `epoch`, `training_loss`, and `validation`, the figure that chose the
            epoch: mean ROC-AUC of the binary targets, mean RMSE in standard deviations of the
            regression targets, their difference where there are both; or, where neither is
            defined because only one class occurs, the loss.
        best_epoch: whose weights were kept.
        parts: rows of each part, counted from 0 in the file.
        predicted: for the rows of the test part, in the target's unit or as a probability.
        labels: for the rows of the test part; NaN where missing.
        rows: status and reason of every row of the file.
    """

    config: TrainConfig
    model: Path
    targets: tuple[Target, ...]
    validation: dict[str, Metrics]
    test: dict[str, Metrics]
    trivial: dict[str, Metrics]
    history: list[dict[str, int | float]]
    best_epoch: int
    parts: Split
    predicted: Float64[np.ndarray, "m t"]
    labels: Float64[np.ndarray, "m t"]
    rows: list[Row]


@dataclass(frozen=True, eq=False)
class Labelled:
    """The usable molecules and their labels; NaN where missing."""

    molecules: list[Molecule]
    labels: Float64[np.ndarray, "n t"]

    def __len__(self) -> int:
        """Number of molecules."""
        return len(self.molecules)

    def part(self, chosen: Int64[np.ndarray, " m"]) -> "Labelled":
        """Take some of them."""
        return Labelled([self.molecules[k] for k in chosen], self.labels[chosen])


def train(config: TrainConfig, *, console: Console | None = None) -> TrainResult:
    """Fine-tune a model on a table and leave a run folder.

    The folder holds `model.safetensors`, `metrics.json`, `config.json`, `log.csv` (per epoch) and
    `rows.csv` (part, status and reason of every row of the file); it is written when all is done.
    The test part is read once, after all choices.

    Args:
        config: the run.
        console: where progress is shown.

    Raises:
        FileNotFoundError: the table or the source is not there.
        ValueError: a column is missing, a label is no number, or a part is left without labels.
        FloatingPointError: the loss is no longer a number.
        KeyboardInterrupt: Ctrl-C was pressed, or SIGTERM came; nothing is written then.
    """
    console = console or Console(stderr=True)
    out = Path(config.out)
    _check_out(out)
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device cuda was asked for, but there is no GPU that torch can use")
    is_new = config.source == "scratch"
    source = None if is_new else checkpoint.load(checkpoint.locate(config.source))
    encoder = source.config.encoder if source else config.encoder
    if config.encoder not in (encoder, EncoderConfig()):
        raise ValueError(
            f"{config.source}: its encoder is taken as it is, but other encoder settings came; "
            "leave them out"
        )
    table = read_table(config.data)
    for note in table.notes:
        console.print(note)
    all_labels = np.stack([numbers(table, name) for name in config.target], 1)
    views, rows = _read_rows(table, config, encoder)
    rows = [_with_label(row, label) for row, label in zip(rows, all_labels, strict=True)]
    usable = np.array([k for k, row in enumerate(rows) if row.molecule is not None], np.int64)
    if not len(usable):
        reason = f": the first is {rows[0].status} ({rows[0].reason})" if rows else ""
        raise ValueError(f"{config.data}: none of its {len(rows)} rows can be used{reason}")
    molecules = [row.molecule for row in rows if row.molecule is not None]
    data = Labelled(molecules, all_labels[usable])
    split = _split(table, usable, data, config)
    training, validation, test = map(data.part, (split.train, split.validation, split.test))
    targets = _targets(training, data, config)
    console.print(
        f"{len(rows):,} rows, {len(usable):,} usable: {len(training):,} to train, "
        f"{len(validation):,} to validate, {len(test):,} to test ({config.split} split); "
        f"views {views}; start from {config.source}",
        soft_wrap=True,
    )

    torch.manual_seed(config.seed)
    model_config = ModelConfig(
        encoder=encoder,
        heads=None,
        targets=targets,
        head_dropout=config.head_dropout,
        readout=source.config.readout if source else "mean",
    )
    model = checkpoint.transfer(source, model_config) if source else Model(model_config)
    run = FineTuning(model, config, views, training, validation, console)
    _fit(run, config)

    predicted = run.predict(test)
    means = np.nanmean(training.labels, 0, keepdims=True).repeat(len(test), 0)
    result = TrainResult(
        config=config,
        model=out / "model.safetensors",
        targets=targets,
        validation=_metrics(targets, run.predict(validation), validation.labels),
        test=_metrics(targets, predicted, test.labels),
        trivial={
            target.name: regression_metrics(means[:, k], test.labels[:, k])
            for k, target in enumerate(targets)
            if target.kind == "regression"
        },
        history=run.history,
        best_epoch=run.best_epoch,
        parts=Split(*(usable[part] for part in (split.train, split.validation, split.test))),
        predicted=predicted,
        labels=test.labels,
        rows=rows,
    )
    _write(result, run.model, views)
    return result


class FineTuning(pl.LightningModule):
    """Lightning's view of a run; keeps the weights of the best epoch."""

    def __init__(
        self,
        model: Model,
        config: TrainConfig,
        views: Views,
        training: Labelled,
        validation: Labelled,
        console: Console,
    ) -> None:
        super().__init__()
        self.model, self.config, self.views = model, config, views
        self.training_part, self.validation_part = training, validation
        self.console = console
        self.history: list[dict[str, int | float]] = []
        self.losses: list[float] = []
        self.best_figure, self.best_epoch = -np.inf, 0
        self.best_weights = copy.deepcopy(model.state_dict())

    def training_step(
        self, batch: tuple[Batch, Float32[Tensor, "b t"]], _: int
    ) -> Float[Tensor, ""]:
        """One step on all views that are used."""
        molecules, labels = batch
        loss = property_loss(self.model(molecules, show(molecules, self.views)), labels, self.model)
        self.losses.append(loss.item())
        if not np.isfinite(self.losses[-1]):
            raise self._diverged("the loss")
        return loss

    def on_train_epoch_end(self) -> None:
        """Validate; keep the best weights; stop when nothing gets better."""
        epoch = self.current_epoch + 1
        figure, shown, told = self._figure()
        if figure > self.best_figure:
            self.best_figure, self.best_epoch = figure, epoch
            self.best_weights = copy.deepcopy(self.model.state_dict())
        loss = float(np.mean(self.losses))
        self.losses = []
        self.history.append({"epoch": epoch, "training_loss": loss, "validation": shown})
        self.console.print(
            f"epoch {epoch}  training loss {loss:.4f}  validation {told}", soft_wrap=True
        )
        if epoch - self.best_epoch >= self.config.patience:
            self.trainer.should_stop = True

    def on_train_end(self) -> None:
        """Go back to the best epoch."""
        self.model.load_state_dict(self.best_weights)

    def train_dataloader(self) -> DataLoader:
        """Batches of an epoch; their order and the conformers follow from the seed."""
        part, chance = self.training_part, np.random.default_rng(self.config.seed)
        labels = torch.from_numpy(_scaled(part.labels, self.model.config.targets))
        n_atoms = np.array([molecule.n_atoms for molecule in part.molecules], np.int64)

        def gather(places: list[int]) -> tuple[Batch, Tensor]:
            molecules = [part.molecules[place] for place in places]
            conformers = [int(chance.integers(max(m.n_conformers, 1))) for m in molecules]
            return collate(molecules, conformers), labels[places]

        return DataLoader(
            range(len(part)),  # ty: ignore[invalid-argument-type] (a sequence is all that is needed)
            batch_sampler=_Epochs(n_atoms, self.config.batch_size, chance),
            collate_fn=gather,
        )

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW with a warm-up and a cosine."""
        config = self.config
        optimiser = torch.optim.AdamW(
            self.model.parameters(),
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            fused=True,
        )
        steps = -(-len(self.training_part) // config.batch_size)
        warmup, total = config.warmup_epochs * steps, config.epochs * steps

        def factor(step: int) -> float:
            if step < warmup:
                return (step + 1) / (warmup + 1)
            return 0.5 * (1 + np.cos(np.pi * min((step - warmup) / max(total - warmup, 1), 1.0)))

        rate = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": rate, "interval": "step"}}

    def predict(self, part: Labelled) -> Float64[np.ndarray, "m t"]:
        """Predict in the target's unit, or as a probability."""
        return in_units(self._outputs(part).numpy(), self.model.config.targets)

    @torch.no_grad()
    def _outputs(self, part: Labelled) -> Float32[Tensor, "m t"]:
        """Apply the model without dropout."""
        was_training = self.model.training
        self.model.eval()
        outputs = torch.zeros(len(part), len(self.model.config.targets))
        for places in in_batches([molecule.n_atoms for molecule in part.molecules]):
            batch = collate([part.molecules[place] for place in places]).to(self.device)
            outputs[places] = self.model(batch, show(batch, self.views)).cpu()
        self.model.train(was_training)
        return outputs

    def _figure(self) -> tuple[float, float, str]:
        """Judge the present weights on the validation part.

        Returns:
            The figure by which epochs are compared (higher is better), the one that is reported
            (see `TrainResult.history`), and how to say it.
        """
        targets, part = self.model.config.targets, self.validation_part
        outputs = self._outputs(part)
        if not bool(outputs.isfinite().all()):
            raise self._diverged("a prediction")
        found = _metrics(targets, in_units(outputs.numpy(), targets), part.labels).values()
        auc = mean_metric(list(found), "ROC-AUC")
        errors = [
            rmse / target.scale
            for metrics, target in zip(found, targets, strict=True)
            if (rmse := metrics.get("RMSE")) is not None
        ]
        rmse = float(np.mean(errors)) if errors else None
        told = [f"ROC-AUC {auc:.4f}"] if auc is not None else []
        told += [f"RMSE {rmse:.4f} standard deviations"] if rmse is not None else []
        if auc is not None:
            figure = auc - (rmse or 0.0)
            return figure, figure, ", ".join(told)
        if rmse is None:  # no target with labels of both classes, so no ROC-AUC
            labels = torch.from_numpy(_scaled(part.labels, targets))
            loss = property_loss(outputs, labels, self.model).item()
            return -loss, loss, f"loss {loss:.4f} (it has labels of one class only)"
        return -rmse, rmse, ", ".join(told)

    def _diverged(self, what: str) -> FloatingPointError:
        return FloatingPointError(
            f"{what} of epoch {self.current_epoch + 1} is not finite: a learning_rate below "
            f"{self.config.learning_rate:g} may help"
        )


class _Epochs(Sampler[list[int]], Sized):
    """New batches of all molecules for every epoch."""

    def __init__(
        self, n_atoms: Int64[np.ndarray, " m"], batch_size: int, chance: np.random.Generator
    ) -> None:
        self.n_atoms, self.batch_size, self.chance = n_atoms, batch_size, chance

    def __iter__(self) -> Iterator[list[int]]:
        batches = shuffled_batches(self.n_atoms, self.batch_size, self.chance)
        return (batch.tolist() for batch in batches)

    def __len__(self) -> int:
        """Number of batches."""
        return math.ceil(len(self.n_atoms) / self.batch_size)


def property_loss(
    output: Float[Tensor, "b t"], labels: Float32[Tensor, "b t"], model: Model
) -> Float[Tensor, ""]:
    """Squared error of scaled values, cross entropy of classes: mean over the labels there are."""
    is_known = ~labels.isnan()
    labels = torch.where(is_known, labels, 0)
    is_binary = torch.tensor(
        [t.kind == "binary" for t in model.config.targets], device=output.device
    )
    classes = F.binary_cross_entropy_with_logits(output, labels.clamp(0, 1), reduction="none")
    error = torch.where(is_binary, classes, (output - labels) ** 2)
    return torch.where(is_known, error, 0).sum() / is_known.sum().clamp(min=1)


def _read_rows(
    table: Table, config: TrainConfig, encoder: EncoderConfig
) -> tuple[Views, list[Row]]:
    """Read the molecules and decide what is used of them."""
    items = list(read_molecules(table, smiles=config.smiles or None, features=encoder.features))
    views: Views
    if config.views == "auto":
        has_3d = config.conformers > 0 or any(
            isinstance(item, Molecule) and item.n_conformers for item in items
        )
        views = "both" if has_3d else "2d"
    else:
        views = config.views
    return views, prepare(items, views, encoder.max_atoms, config.conformers)


def _with_label(row: Row, labels: Float64[np.ndarray, " t"]) -> Row:
    """Set a row without any label aside."""
    if row.molecule is not None and np.isnan(labels).all():
        return Row(None, "no_label", "no target has a label")
    return row


def _check_out(out: Path) -> None:
    """Refuse a folder that cannot be written to, before any work is done."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out}: this is a file, a folder was expected")
    if (out / "state.ckpt").exists():
        raise ValueError(f"{out} holds a pretraining run, another --out keeps it whole")


def _split(
    table: Table, usable: Int64[np.ndarray, " n"], data: Labelled, config: TrainConfig
) -> Split:
    """Split the usable rows; every part needs some."""
    if config.split in SPLITS:
        smiles = [molecule.smiles for molecule in data.molecules]
        split = SPLITS[config.split](smiles, (0.8, 0.1, 0.1), config.seed)
    else:
        split = given_split(_named_parts(table, usable, config.split))
    for name in ("train", "validation", "test"):
        if not len(getattr(split, name)):
            raise ValueError(
                f"{config.data}: the {config.split} split leaves no row in the {name} part "
                f"({len(usable)} rows can be used)"
            )
    return split


def _named_parts(table: Table, usable: Int64[np.ndarray, " n"], column: str) -> list[str]:
    """Read the part of each usable row; an error names the row as the file has it."""
    cells = table.column(column).to_pylist()
    names = []
    for row in usable:
        name = "" if cells[row] is None else str(cells[row])
        try:
            given_split([name])
        except ValueError as error:
            raise ValueError(
                f"{table.source}, {table.place(int(row))}: column {column!r} should hold train, "
                f"validation or test, not {name!r}"
            ) from error
        names.append(name)
    return names


def _targets(training: Labelled, data: Labelled, config: TrainConfig) -> tuple[Target, ...]:
    """Decide the kind of each target, and its scaling from the training labels."""
    targets = []
    for k, name in enumerate(config.target):
        known = data.labels[:, k][~np.isnan(data.labels[:, k])]
        seen = training.labels[:, k][~np.isnan(training.labels[:, k])]
        if not len(seen):
            raise ValueError(f"{config.data}: target {name!r} has no label in the training part")
        is_binary = bool(np.isin(known, (0, 1)).all())
        if config.task == "binary" and not is_binary:
            odd = known[~np.isin(known, (0, 1))][0]
            raise ValueError(
                f"{config.data}: target {name!r} is to be binary, but has a label {odd:g}"
            )
        unit = config.units[k] if config.units else ""
        if is_binary and config.task != "regression":
            targets.append(Target(name=name, kind="binary"))
        else:
            scale = float(seen.std()) if np.ptp(seen) > 0 else 1.0
            targets.append(Target(name, "regression", unit, float(seen.mean()), scale))
    return tuple(targets)


def _scaled(
    labels: Float64[np.ndarray, "n t"], targets: Sequence[Target]
) -> Float32[np.ndarray, "n t"]:
    columns = [(labels[:, k] - target.mean) / target.scale for k, target in enumerate(targets)]
    return np.stack(columns, 1).astype(np.float32)


def _metrics(
    targets: Sequence[Target],
    predicted: Float64[np.ndarray, "m t"],
    labels: Float64[np.ndarray, "m t"],
) -> dict[str, Metrics]:
    score = {"binary": binary_metrics, "regression": regression_metrics}
    return {
        target.name: score[target.kind](predicted[:, k], labels[:, k])
        for k, target in enumerate(targets)
    }


def _fit(run: FineTuning, config: TrainConfig) -> None:
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        # Lightning 2.6 asks torch 2.13 in a way that torch has renamed.
        warnings.filterwarnings("ignore", message=".*LeafSpec.*")
        trainer = pl.Trainer(
            accelerator=config.device,
            devices=1,
            max_epochs=config.epochs,
            gradient_clip_val=config.clip_norm,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        try:
            trainer.fit(run)
        except SystemExit as stopped:  # what Lightning makes of Ctrl-C and SIGTERM
            raise KeyboardInterrupt from stopped


def _write(result: TrainResult, model: Model, views: Views) -> None:
    """Write the run folder, the model last."""
    config, out = result.config, Path(result.config.out)
    figures = {
        "validation": result.validation,
        "test": result.test,
        "test_of_predicting_the_training_mean": result.trivial,
        "best_epoch": result.best_epoch,
    }
    part_of = {int(row): name for name, rows in asdict(result.parts).items() for row in rows}
    rows = {
        "row": pa.array(range(1, len(result.rows) + 1)),
        "part": pa.array([part_of.get(k, "") for k in range(len(result.rows))]),
        "status": pa.array([row.status for row in result.rows]),
        "reason": pa.array([row.reason for row in result.rows]),
    }
    with Path(config.data).open("rb") as file:
        fingerprint = hashlib.file_digest(file, "sha256").hexdigest()
    card = checkpoint.Card(
        trained_by="train",
        data=Path(config.data).name,
        data_fingerprint=fingerprint,
        views=views,
        notes={"conformers": config.conformers, "config": to_dict(config), "metrics": figures},
    )
    _write_json(out / "config.json", to_dict(config))
    _write_json(out / "metrics.json", figures)
    write_table(pa.Table.from_pylist(result.history), out / "log.csv")
    write_table(pa.table(rows), out / "rows.csv")
    checkpoint.save(model, result.model, card)


def _write_json(path: Path, values: object) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
