"""LightningModule for fine-tuning: the training step, the optimiser, and outputs of the model."""

from collections.abc import Generator
from contextlib import contextmanager

import numpy as np
import pytorch_lightning as pl
import torch
from jaxtyping import Float, Float32, Int8
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.utils.checkpoint import checkpoint as recomputed
from torch.utils.data import DataLoader

from moleblend.chem.molecule import Molecule
from moleblend.data.dataset import MoleculeDataset
from moleblend.errors import TrainingError
from moleblend.finetuning.config import TrainConfig
from moleblend.finetuning.data_loader import make_train_loader
from moleblend.finetuning.loss import property_loss
from moleblend.model.batch import Batch, pieces
from moleblend.model.blending import Blend, ShownViews, show
from moleblend.model.functional import replaying
from moleblend.model.heads import Model
from moleblend.prediction.inference import each_geometry, over_geometries
from moleblend.training import warmup_cosine

_MAX_PAIRS = 2**18
"""Atom pairs whose activations are kept for the backward pass; one molecule may exceed it."""


class FineTuning(pl.LightningModule):
    """LightningModule for fine-tuning.

    Args:
        model: model with its targets.
        config: settings of the run.
        views: what the model sees of each molecule.
        training: the training set.
        seed: seed of the order of batches and the choice of conformers.
        weights: weight of class 1 of each target, see `property_loss`.
        vectors: known molecule vectors of a frozen encoder; new ones are added.
        max_pairs: atom pairs in one forward pass; larger batches are processed in pieces.
        generator: source of the random numbers of dropout; by default seeded with `seed`.
    """

    def __init__(
        self,
        model: Model,
        config: TrainConfig,
        views: ShownViews,
        training: MoleculeDataset,
        *,
        seed: int,
        weights: Float32[Tensor, " t"] | None = None,
        vectors: dict[Molecule, Float32[Tensor, "c d"]] | None = None,
        max_pairs: int = _MAX_PAIRS,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.model, self.config, self.views = model, config, views
        self.training_set, self.seed, self.weights = training, seed, weights
        self.vectors = {} if vectors is None else vectors
        self.max_pairs = max_pairs
        self.generator = generator or torch.Generator().manual_seed(seed)
        if config.freeze:
            model.encoder.requires_grad_(False)

    def training_step(
        self,
        batch: tuple[
            Batch | Tensor, Float32[Tensor, "b f"], Float32[Tensor, "b t"], Int8[Tensor, "b t"]
        ],
        _: int,
    ) -> Float[Tensor, ""]:
        """Compute the loss of a batch."""
        molecules, features, labels, censoring = batch
        output = self._forward(molecules, features)
        loss = property_loss(output, labels, censoring, self.model.config.targets, self.weights)
        if not bool(loss.isfinite()):
            raise self.diverged("the loss")
        return loss

    def train_dataloader(self) -> DataLoader:
        """Make the loader of the training set."""
        return make_train_loader(
            self.training_set,
            self.model.config.targets,
            self.views,
            self.config.batch_size,
            self.seed,
            self._vectors(self.training_set) if self.config.freeze else None,
            generator=self.generator,
        )

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Make AdamW with a linear warm-up and a cosine decay."""
        config = self.config
        optimiser = torch.optim.AdamW(
            _parameter_groups(self.model, config), weight_decay=config.weight_decay, fused=True
        )
        steps_per_epoch = -(-len(self.training_set) // config.batch_size)
        warmup, total = config.warmup_epochs * steps_per_epoch, config.epochs * steps_per_epoch

        def factor(step: int) -> float:
            return warmup_cosine(
                step,
                warmup_steps=warmup,
                decay_start=warmup,
                decay_steps=max(total - warmup, 1),
                offset=1,
            )

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
        return {
            "optimizer": optimiser,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def outputs(self, dataset: MoleculeDataset) -> Float32[np.ndarray, "m o"]:
        """Compute scaled outputs without dropout; means over several geometries."""
        features = torch.from_numpy(dataset.features).to(self.device)
        n_outputs = sum(target.n_outputs for target in self.model.config.targets)
        with _without_dropout(self.model):
            if self.config.freeze:
                return self._outputs_of_vectors(dataset, features).numpy()

            def forward(rows: list[int], batch: Batch, blend: Blend) -> Tensor:
                extra_features = features[rows] if self.model.config.features else None
                return self.model(batch, blend, extra_features)

            return over_geometries(dataset.molecules, self.views, forward, n_outputs, self.device)

    def embeddings(self, dataset: MoleculeDataset) -> Float32[np.ndarray, "m d"]:
        """Compute the vector of each molecule with the present weights, as `predict` does."""
        if self.config.freeze:
            return torch.stack([vectors.mean(0) for vectors in self._vectors(dataset)]).numpy()
        width = self.model.config.encoder.width
        with _without_dropout(self.model):
            return over_geometries(dataset.molecules, self.views, self._embed, width, self.device)

    def diverged(self, what: str) -> FloatingPointError:
        """Make the error for a value that is not finite."""
        return TrainingError(
            f"{what} of epoch {self.current_epoch + 1} is not finite: a learning_rate below "
            f"{self.config.learning_rate:g} may help"
        )

    def _forward(
        self, molecules: Batch | Tensor, features: Float32[Tensor, "b f"]
    ) -> Float[Tensor, "b o"]:
        """Apply the model to a batch of molecules, or its head to molecule vectors."""
        extra_features = features if self.model.config.features else None
        if isinstance(molecules, Tensor):
            assert self.model.property_head is not None
            return self.model.property_head(molecules, extra_features)
        row_sets = list(pieces(*molecules.is_atom.shape, most_pairs=self.max_pairs))
        if not torch.is_grad_enabled() or len(row_sets) == 1:
            return self.model(molecules, show(molecules, self.views), extra_features)
        # Large molecules are processed a few at a time, and once more for their gradients. This
        # bounds the memory and leaves the step unchanged.
        outputs = []
        for rows in row_sets:
            piece = molecules.subset(rows)
            piece_features = None if extra_features is None else extra_features[rows]
            inputs = (piece, show(piece, self.views), piece_features)
            output = recomputed(self.model, *inputs, use_reentrant=False, context_fn=replaying)
            outputs.append(output)
        return torch.cat(outputs)

    @torch.no_grad()
    def _outputs_of_vectors(
        self, dataset: MoleculeDataset, features: Float32[Tensor, "m f"]
    ) -> Float32[Tensor, "m o"]:
        """Apply the head to the molecule vectors of a frozen encoder."""
        vectors = self._vectors(dataset)
        rows = [row for row, geometries in enumerate(vectors) for _ in geometries]
        outputs = self._forward(torch.cat(vectors).to(self.device), features[rows]).cpu()
        by_molecule = outputs.split([len(geometries) for geometries in vectors])
        return torch.stack([geometries.mean(0) for geometries in by_molecule])

    def _vectors(self, dataset: MoleculeDataset) -> list[Float32[Tensor, "c d"]]:
        """Return the vectors of each molecule, one per geometry; each is computed once."""
        new = [molecule for molecule in dataset.molecules if molecule not in self.vectors]
        width = self.model.config.encoder.width
        with _without_dropout(self.model):
            vectors = each_geometry(new, self.views, self._embed, width, self.device)
        self.vectors |= dict(zip(new, vectors, strict=True))
        return [self.vectors[molecule] for molecule in dataset.molecules]

    def _embed(self, _: list[int], batch: Batch, blend: Blend) -> Float[Tensor, "b d"]:
        return self.model.embed(batch, blend)


@contextmanager
def _without_dropout(model: Model) -> Generator[None]:
    """Put a model in evaluation mode inside a `with` block."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def _parameter_groups(model: Model, config: TrainConfig) -> list[dict]:
    """Group the trained weights by learning rate: lower layers have lower rates."""
    n_layers = model.config.encoder.n_layers
    groups: dict[int, list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            path = name.split(".")
            depth = 0 if path[0] == "encoder" else n_layers + 1
            if path[:2] == ["encoder", "layers"]:
                depth = int(path[2]) + 1
            groups.setdefault(depth if config.layer_decay < 1 else 0, []).append(parameter)
    top = max(groups)
    return [
        {"params": parameters, "lr": config.learning_rate * config.layer_decay ** (top - depth)}
        for depth, parameters in groups.items()
    ]
