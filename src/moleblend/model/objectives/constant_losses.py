"""Losses of the best constant prediction, which a trained model must beat."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from moleblend.chem.molecule import ATOM_FEATURE_SIZES
from moleblend.model.batch import Batch
from moleblend.model.functional import IGNORED, pair_vectors
from moleblend.model.heads import DescriptorScaler, HeadsConfig
from moleblend.model.objectives.config import ObjectiveConfig
from moleblend.model.objectives.view_losses import (
    bond_classes,
    descriptors_of,
    path_classes,
    placed_pairs,
)


def constant_losses(
    batches: Iterable[Batch], heads: HeadsConfig, config: ObjectiveConfig
) -> dict[str, float]:
    """Compute each loss of the best constant prediction, the same for every pair.

    A model must reach a lower loss to have learned anything about that view. For classes it is the
    entropy H = -sum p ln p; for distances the mean absolute deviation from the median (Å); for
    directions 1, because each occurs with its opposite; for noise 1, because its mean is 0; for
    descriptors the error of their mean.

    Args:
        batches: of molecules that are similar to the training molecules.
        heads: the predicted classes and geometry.
        config: terms of weight 0 are left out.

    Returns:
        Losses by the names of `Loss.terms`; terms without scored pairs are left out.
    """
    lengths = torch.zeros(heads.n_path_classes, dtype=torch.int64)
    bonds = torch.zeros(heads.n_bond_classes, dtype=torch.int64)
    distances, descriptors, atoms = [torch.zeros(0)], [], []
    for batch in batches:
        lengths += _class_counts(path_classes(batch, heads.n_path_classes), heads.n_path_classes)
        bonds += _class_counts(bond_classes(batch, heads), heads.n_bond_classes)
        distances.append(pair_vectors(batch.positions).norm(dim=-1)[placed_pairs(batch)])
        descriptors += [descriptors_of(batch)] if heads.descriptors else []
        atoms.append(batch.atoms[batch.is_atom][:, 1:])
    distance = torch.cat(distances)
    mean_error = (distance - distance.median()).abs().mean().item() if len(distance) else 0.0
    has_pairs = float(len(distance) > 0)
    constant = {
        "path_length": (config.path_length, _entropy(lengths)),
        "bonds": (config.bonds, _entropy(bonds)),
        heads.geometry: (
            config.geometry,
            mean_error if heads.geometry == "distance" else has_pairs,
        ),
        "denoising": (config.denoising, has_pairs),
    }
    if heads.atom_features:
        entropies = [
            _entropy(_class_counts(column, size))
            for column, size in zip(torch.cat(atoms).T, ATOM_FEATURE_SIZES[1:], strict=True)
        ]
        constant["atom_features"] = (config.atom_features, sum(entropies) / len(entropies))
    if descriptors:
        constant["descriptors"] = (config.descriptors, _constant_huber(torch.cat(descriptors)))
    return {name: loss for name, (weight, loss) in constant.items() if weight and loss}


def _class_counts(classes: Int64[Tensor, "*s"], n_classes: int) -> Int64[Tensor, " c"]:
    return torch.bincount(classes[classes != IGNORED], minlength=n_classes)


def _constant_huber(descriptors: Float[Tensor, "m f"]) -> float:
    """Compute the Huber loss of predicting the mean of the descriptors."""
    scaler = DescriptorScaler()
    scaler.fit(descriptors)
    scaled = scaler.scaled(descriptors)
    known = scaled[scaled.isfinite()]
    return F.huber_loss(torch.zeros_like(known), known).item() if len(known) else 0.0


def _entropy(counts: Int64[Tensor, " c"]) -> float:
    """Compute the entropy of class counts in nats; 0 without counts."""
    fractions = counts[counts > 0].double() / counts.sum()
    return -(fractions * fractions.log()).sum().item()
