"""Weights fitted to labels: the loss, the epochs, and which of them is kept."""

import copy
import logging
import math
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence, Sized
from contextlib import contextmanager

import numpy as np
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int8, Int64
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from rich.console import Console
from torch import Tensor
from torch.utils.checkpoint import checkpoint as recomputed
from torch.utils.data import DataLoader, Sampler

from moleblend.chem.molecule import Molecule
from moleblend.data.dataset import MoleculeDataset
from moleblend.data.targets import Target, output_slices, scale_labels, unscale_outputs
from moleblend.evaluation.metrics import (
    metrics_by_target,
)
from moleblend.finetuning.config import TrainConfig
from moleblend.model.batch import Batch, collate, pieces, shuffled_batches
from moleblend.model.blending import Blend, ShownViews, show
from moleblend.model.heads import Model
from moleblend.prediction.inference import each_geometry, n_geometries, over_geometries

_PAIRS_AT_ONCE = 2**18
"""Pairs of atoms whose states stand in memory for the backward pass; a molecule may have more."""


class FineTuning(pl.LightningModule):
    """Lightning's view of a run; keeps the weights of the last epoch, or of the best one."""

    def __init__(
        self,
        model: Model,
        config: TrainConfig,
        views: ShownViews,
        training: MoleculeDataset,
        validation: MoleculeDataset,
        console: Console,
        *,
        seed: int,
        weights: Float32[Tensor, " t"] | None = None,
        vectors: dict[Molecule, Float32[Tensor, "c d"]] | None = None,
        goes_on: Callable[[int, float], bool] | None = None,
    ) -> None:
        """Prepare a run.

        Args:
            model: with its targets.
            config: of the run.
            views: what is used of each molecule.
            training: what is learnt from.
            validation: what judges each epoch.
            console: where each epoch is told.
            seed: of the order of batches and the choice of conformers.
            weights: see `property_loss`.
            vectors: what a frozen encoder gave for molecules already; more are added.
            goes_on: is told each epoch and the figure of what is kept so far, and ends the run by
                False.
        """
        super().__init__()
        self.model, self.config, self.views = model, config, views
        self.training_set, self.validation_set = training, validation
        self.console, self.seed, self.weights = console, seed, weights
        self.history: list[dict[str, int | float]] = []
        self.losses: list[float] = []
        self.kept_figure, self.kept_epoch = -np.inf, 0
        self.kept_weights = copy.deepcopy(model.state_dict())
        self.mean_weights = copy.deepcopy(model.state_dict()) if config.ema else None
        self.vectors = {} if vectors is None else vectors
        self.goes_on = goes_on
        if config.freeze:
            model.encoder.requires_grad_(False)

    def training_step(
        self,
        batch: tuple[
            Batch | Tensor, Float32[Tensor, "b f"], Float32[Tensor, "b t"], Int8[Tensor, "b t"]
        ],
        _: int,
    ) -> Float[Tensor, ""]:
        """One step on all views that are used."""
        molecules, features, labels, censoring = batch
        output, targets = self._answer(molecules, features), self.model.config.targets
        loss = property_loss(output, labels, censoring, targets, self.weights)
        self.losses.append(loss.item())
        if not np.isfinite(self.losses[-1]):
            raise self._diverged("the loss")
        return loss

    def on_train_batch_end(self, outputs: object, batch: object, batch_idx: int) -> None:  # noqa: ARG002
        """Let the mean of the weights that learn follow them; the others stay what they are."""
        if self.mean_weights is not None:
            for name, weight in self.model.named_parameters():
                if weight.requires_grad:
                    self.mean_weights[name] = torch.lerp(
                        weight.detach(), self.mean_weights[name].to(weight.device), self.config.ema
                    )

    def on_train_epoch_end(self) -> None:
        """Validate; keep the weights; with patience the best ones, and no longer than that."""
        epoch = self.current_epoch + 1
        present = copy.deepcopy(self.model.state_dict()) if self.mean_weights else None
        if self.mean_weights is not None:
            self.model.load_state_dict(self.mean_weights)
        figure, shown, told = self._figure()
        if not self.config.patience or figure > self.kept_figure:
            self.kept_figure, self.kept_epoch = figure, epoch
            self.kept_weights = copy.deepcopy(self.model.state_dict())
        if present is not None:
            self.model.load_state_dict(present)
        loss = float(np.mean(self.losses))
        self.losses = []
        self.history.append({"epoch": epoch, "training_loss": loss, "validation": shown})
        self.console.print(
            f"epoch {epoch}  training loss {loss:.4f}  validation {told}", soft_wrap=True
        )
        is_over = self.goes_on is not None and not self.goes_on(epoch, self.kept_figure)
        if is_over or (self.config.patience and epoch - self.kept_epoch >= self.config.patience):
            self.trainer.should_stop = True

    def on_train_end(self) -> None:
        """Go back to the epoch that is kept."""
        self.model.load_state_dict(self.kept_weights)

    def train_dataloader(self) -> DataLoader:
        """Batches of an epoch; their order and the conformers follow from the seed."""
        part, rng = self.training_set, np.random.default_rng(self.seed)
        labels = torch.from_numpy(scale_labels(part.labels, self.model.config.targets))
        censoring, features = torch.from_numpy(part.censoring), torch.from_numpy(part.features)
        n_atoms = np.array([molecule.n_atoms for molecule in part.molecules], np.int64)
        vectors = self._vectors(part) if self.config.freeze else None

        def gather(places: list[int]) -> tuple[Batch | Tensor, Tensor, Tensor, Tensor]:
            molecules = [part.molecules[place] for place in places]
            conformers = [int(rng.integers(n_geometries(m, self.views))) for m in molecules]
            if vectors is None:
                given = collate(molecules, conformers)
            else:
                given = torch.stack(
                    [vectors[k][c] for k, c in zip(places, conformers, strict=True)]
                )
            return given, features[places], labels[places], censoring[places]

        return DataLoader(
            range(len(part)),  # ty: ignore[invalid-argument-type] (a sequence is all that is needed)
            batch_sampler=_Epochs(n_atoms, self.config.batch_size, rng),
            collate_fn=gather,
        )

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW with a warm-up and a cosine."""
        config = self.config
        optimiser = torch.optim.AdamW(
            _groups(self.model, config), weight_decay=config.weight_decay, fused=True
        )
        steps = -(-len(self.training_set) // config.batch_size)
        warmup, total = config.warmup_epochs * steps, config.epochs * steps

        def factor(step: int) -> float:
            if step < warmup:
                return (step + 1) / (warmup + 1)
            return 0.5 * (1 + np.cos(np.pi * min((step - warmup) / max(total - warmup, 1), 1.0)))

        rate = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": rate, "interval": "step"}}

    def outputs(self, part: MoleculeDataset) -> Float32[np.ndarray, "m o"]:
        """Apply the model without dropout."""
        return self._outputs(part).numpy()

    def _answer(
        self, molecules: Batch | Tensor, features: Float32[Tensor, "b f"]
    ) -> Float[Tensor, "b o"]:
        """Apply the model to a batch, or its head to vectors that are known."""
        joined = features if self.model.config.features else None
        if isinstance(molecules, Tensor):
            assert self.model.property_head is not None
            return self.model.property_head(molecules, joined)
        parts = list(pieces(*molecules.is_atom.shape, most_pairs=_PAIRS_AT_ONCE))
        if not torch.is_grad_enabled() or len(parts) == 1:
            return self.model(molecules, show(molecules, self.views), joined)
        # Of large molecules a few at a time, and once more for their gradients: no more stands in
        # memory, and the step is the same.
        found = []
        for rows in parts:
            part, beside = molecules.subset(rows), None if joined is None else joined[rows]
            given = (part, show(part, self.views), beside)
            found.append(recomputed(self.model, *given, use_reentrant=False))
        return torch.cat(found)

    def _outputs(self, part: MoleculeDataset) -> Float32[Tensor, "m o"]:
        """Apply the model; of several geometries the mean is taken, as in `predict`."""
        features = torch.from_numpy(part.features).to(self.device)
        n_outputs = sum(target.n_outputs for target in self.model.config.targets)
        with _without_dropout(self.model):
            if self.config.freeze:
                return self._of_vectors(part, features)

            def answer(places: list[int], batch: Batch, blend: Blend) -> Tensor:
                joined = features[places] if self.model.config.features else None
                return self.model(batch, blend, joined)

            found = over_geometries(part.molecules, self.views, answer, n_outputs, self.device)
        return torch.from_numpy(found)

    @torch.no_grad()
    def _of_vectors(
        self, part: MoleculeDataset, features: Float32[Tensor, "m f"]
    ) -> Float32[Tensor, "m o"]:
        """Apply the head to vectors that are known."""
        vectors = self._vectors(part)
        places = [place for place, found in enumerate(vectors) for _ in found]
        each = self._answer(torch.cat(vectors).to(self.device), features[places]).cpu()
        return torch.stack([part.mean(0) for part in each.split([len(v) for v in vectors])])

    def embeddings(self, part: MoleculeDataset) -> Float32[np.ndarray, "m d"]:
        """Give the vector of each molecule by the present weights, as `predict` computes it."""
        if self.config.freeze:
            return torch.stack([vectors.mean(0) for vectors in self._vectors(part)]).numpy()
        width = self.model.config.encoder.width
        with _without_dropout(self.model):
            return over_geometries(part.molecules, self.views, self._embed, width, self.device)

    def _vectors(self, part: MoleculeDataset) -> list[Float32[Tensor, "c d"]]:
        """Give the vectors of each molecule, one for each geometry; each is computed once."""
        new = [molecule for molecule in part.molecules if molecule not in self.vectors]
        width = self.model.config.encoder.width
        with _without_dropout(self.model):
            found = each_geometry(new, self.views, self._embed, width, self.device)
        self.vectors |= dict(zip(new, found, strict=True))
        return [self.vectors[molecule] for molecule in part.molecules]

    def _embed(self, _: list[int], batch: Batch, blend: Blend) -> Float[Tensor, "b d"]:
        return self.model.embed(batch, blend)

    def _figure(self) -> tuple[float, float, str]:
        """Judge the present weights on the validation part.

        Returns:
            The figure by which epochs are compared (higher is better), the one that is reported
            (see `runs.Run.histories`), and how to say it.
        """
        targets, part = self.model.config.targets, self.validation_set
        outputs = self._outputs(part)
        if not bool(outputs.isfinite().all()):
            raise self._diverged("a prediction")
        found = metrics_by_target(targets, unscale_outputs(outputs.numpy(), targets), part)
        areas = [m.get("ROC-AUC", m.get("macro ROC-AUC")) for m in found.values()]
        areas = [area for area in areas if area is not None]
        auc = float(np.mean(areas)) if areas else None
        labels = scale_labels(part.labels, targets)
        errors = [
            scaled_rmse(outputs[:, where.start].numpy(), labels[:, k], part.censoring[:, k])
            for k, (target, where) in enumerate(zip(targets, output_slices(targets), strict=True))
            if target.kind == "regression" and not np.isnan(labels[:, k]).all()
        ]
        rmse = float(np.mean(errors)) if errors else None
        told = [f"ROC-AUC {auc:.4f}"] if auc is not None else []
        beside = ", broken bounds counted" if part.censoring.any() else ""
        told += [f"RMSE {rmse:.4f} standard deviations{beside}"] if rmse is not None else []
        if auc is not None:
            figure = auc - (rmse or 0.0)
            return figure, figure, ", ".join(told)
        if rmse is None:  # no target with labels of several classes, so no ROC-AUC
            censoring = torch.from_numpy(part.censoring)
            loss = property_loss(outputs, torch.from_numpy(labels), censoring, targets).item()
            return -loss, loss, f"loss {loss:.4f} (it has labels of one class only)"
        return -rmse, rmse, ", ".join(told)

    def _diverged(self, what: str) -> FloatingPointError:
        return FloatingPointError(
            f"{what} of epoch {self.current_epoch + 1} is not finite: a learning_rate below "
            f"{self.config.learning_rate:g} may help"
        )


@contextmanager
def _without_dropout(model: Model) -> Generator[None]:
    """Let a model answer as it will when it is used."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


class _Epochs(Sampler[list[int]], Sized):
    """New batches of all molecules for every epoch."""

    def __init__(
        self, n_atoms: Int64[np.ndarray, " m"], batch_size: int, rng: np.random.Generator
    ) -> None:
        self.n_atoms, self.batch_size, self.rng = n_atoms, batch_size, rng

    def __iter__(self) -> Iterator[list[int]]:
        batches = shuffled_batches(self.n_atoms, self.batch_size, self.rng)
        return (batch.tolist() for batch in batches)

    def __len__(self) -> int:
        """Number of batches."""
        return math.ceil(len(self.n_atoms) / self.batch_size)


def property_loss(
    output: Float[Tensor, "b o"],
    labels: Float32[Tensor, "b t"],
    censoring: Int8[Tensor, "b t"],
    targets: Sequence[Target],
    weights: Float32[Tensor, " t"] | None = None,
) -> Float[Tensor, ""]:
    """Squared error of scaled values, cross entropy of classes: mean over the labels there are.

    A label that is a bound costs the squared distance to it where the prediction is on the wrong
    side, and nothing on the allowed one (a one-sided, or Tobit-like, squared error).

    Args:
        output: of the model.
        labels: scaled values or numbers of classes; NaN where missing.
        censoring: 1 where the true value is at least the label, -1 where at most, else 0.
        targets: what the outputs are.
        weights: of class 1 of each binary target, for rare ones.
    """
    is_known = ~labels.isnan()
    labels = torch.where(is_known, labels, 0)
    slices = output_slices(targets)
    firsts = output[:, [where.start for where in slices]]
    is_binary = torch.tensor([t.kind == "binary" for t in targets], device=output.device)
    classes = F.binary_cross_entropy_with_logits(
        firsts,
        labels.clamp(0, 1),
        reduction="none",
        pos_weight=None if weights is None else weights.to(output.device),
    )
    gap = firsts - labels
    is_allowed = gap * censoring > 0
    errors = list(torch.where(is_binary, classes, torch.where(is_allowed, 0, gap**2)).unbind(1))
    for k, (target, where) in enumerate(zip(targets, slices, strict=True)):
        if target.kind == "multiclass":
            errors[k] = F.cross_entropy(output[:, where], labels[:, k].long(), reduction="none")
    error = torch.stack(errors, 1)
    return torch.where(is_known, error, 0).sum() / is_known.sum().clamp(min=1)


def scaled_rmse(
    output: Float32[np.ndarray, " m"],
    label: Float32[np.ndarray, " m"],
    bound: Int8[np.ndarray, " m"],
) -> float:
    """RMSE of scaled values by which epochs are compared; a bound counts where it is broken.

    Without its bounds a part that has many would prefer a model that keeps to the middle.
    """
    gap = output.astype(np.float64) - label
    gap = np.where(gap * bound > 0, 0, gap)[~np.isnan(label)]
    return float(np.sqrt((gap**2).mean()))


def fit(run: FineTuning) -> None:
    """Train to the end; the model then has the weights that are kept.

    Raises:
        FloatingPointError: the loss is no longer a number.
        KeyboardInterrupt: Ctrl-C was pressed, or SIGTERM came.
    """
    config = run.config
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


def _groups(model: Model, config: TrainConfig) -> list[dict]:
    """Give the weights that learn with their rates: the lower the layer, the slower."""
    n_layers = model.config.encoder.n_layers
    groups: dict[int, list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parts = name.split(".")
            depth = 0 if parts[0] == "encoder" else n_layers + 1
            if parts[:2] == ["encoder", "layers"]:
                depth = int(parts[2]) + 1
            groups.setdefault(depth if config.layer_decay < 1 else 0, []).append(parameter)
    top = max(groups)
    return [
        {"params": found, "lr": config.learning_rate * config.layer_decay ** (top - depth)}
        for depth, found in groups.items()
    ]
