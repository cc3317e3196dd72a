"""Batches of labelled molecules for fine-tuning."""

import math
from collections.abc import Iterator, Sequence, Sized

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from moleblend.data.dataset import MoleculeDataset
from moleblend.data.targets import Target, scale_labels
from moleblend.model.batch import Batch, collate, shuffled_batches
from moleblend.model.blending import ShownViews
from moleblend.prediction.inference import n_geometries


def make_train_loader(
    training: MoleculeDataset,
    targets: tuple[Target, ...],
    views: ShownViews,
    batch_size: int,
    seed: int,
    vectors: Sequence[Float32[Tensor, "c d"]] | None = None,
    generator: torch.Generator | None = None,
) -> DataLoader:
    """Make the loader of the training set.

    A batch is (molecules, extra features, scaled labels, censoring). The seed decides the order of
    the molecules and, if they have several geometries, which one an epoch uses.

    Args:
        training: the training set.
        targets: targets with their scaling.
        views: what the model sees of each molecule.
        batch_size: molecules in a batch.
        seed: seed of the random choices.
        vectors: molecule vectors of a frozen encoder, one for each geometry. The batch then holds
            these instead of molecules.
        generator: from which the loader of torch draws a number in each epoch.
    """
    rng = np.random.default_rng(seed)
    labels = torch.from_numpy(scale_labels(training.labels, targets))
    censoring = torch.from_numpy(training.censoring)
    features = torch.from_numpy(training.features)
    n_atoms = np.array([molecule.n_atoms for molecule in training.molecules], np.int64)

    def gather(rows: list[int]) -> tuple[Batch | Tensor, Tensor, Tensor, Tensor]:
        molecules = [training.molecules[row] for row in rows]
        conformers = [int(rng.integers(n_geometries(m, views))) for m in molecules]
        if vectors is None:
            inputs = collate(molecules, conformers)
        else:
            inputs = torch.stack([vectors[k][c] for k, c in zip(rows, conformers, strict=True)])
        return inputs, features[rows], labels[rows], censoring[rows]

    return DataLoader(
        range(len(training)),  # ty: ignore[invalid-argument-type] (a sequence is all that is needed)
        batch_sampler=_ShuffledBatches(n_atoms, batch_size, rng),
        collate_fn=gather,
        generator=generator,
    )


class _ShuffledBatches(Sampler[list[int]], Sized):
    """New batches of all molecules in every epoch."""

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
