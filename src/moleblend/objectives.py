"""The losses of pretraining: blend, then predict every view."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from moleblend.batch import Batch
from moleblend.blending import Blend
from moleblend.encoder import pair_vectors
from moleblend.heads import HeadsConfig, Model, Views
from moleblend.molecule import BOND_FEATURE_SIZES
from moleblend.relations import N_BOND_KINDS

_IGNORED = -100


@dataclass(frozen=True)
class ObjectiveConfig:
    """Weights of the four losses.

    The defaults are ours; `ObjectiveConfig.published()` are the paper's.

    Attributes:
        path_length: weight of the cross entropy of path lengths.
        bonds: weight of the cross entropy of the bonds along the paths.
        geometry: weight of the distance error in Å, or of 1 - cos of the direction.
        denoising: weight of the noise error.
        noise_error: `squared`, in units of the noise's variance, so that predicting nothing costs
            1; or `cosine`, which ignores length (published).
    """

    path_length: float = 1.0
    bonds: float = 1.0
    geometry: float = 1.0
    denoising: float = 0.5
    noise_error: Literal["squared", "cosine"] = "squared"

    def __post_init__(self) -> None:
        """Refuse negative weights."""
        if min(self.path_length, self.bonds, self.geometry, self.denoising) < 0:
            raise ValueError(f"weights of losses must not be negative: {self}")

    @classmethod
    def published(cls) -> "ObjectiveConfig":
        """The reference configuration."""
        return cls(path_length=0.1, bonds=0.1, geometry=0.5, denoising=6.0, noise_error="cosine")


@dataclass(frozen=True, eq=False)
class Loss:
    """A weighted total and its unweighted parts.

    Attributes:
        total: what is minimised.
        parts: `path_length`, `bonds`, `distance` (Å) or `direction`, `denoising`; a part that no
            pair or atom of the batch takes part in is 0.
    """

    total: Float[Tensor, ""]
    parts: dict[str, Float[Tensor, ""]]


def blend_then_predict(model: Model, batch: Batch, blend: Blend, config: ObjectiveConfig) -> Loss:
    """Predict all views of all pairs from one view of each, and the noise from the noisy positions.

    Every pair counts, whether its answer was shown, hidden or blended.

    Args:
        model: with pretraining heads.
        batch: b molecules; those without positions take part in the 2D losses only.
        blend: what the encoder is shown.
        config: the weights.

    Reference:
        Yu et al., ICLR 2024, arXiv:2307.06235, section 3.3.
    """
    heads = model.config.heads
    views = model.predict_views(batch, blend)
    assert heads is not None
    weighted = {
        "path_length": (config.path_length, path_length_loss(views, batch)),
        "bonds": (config.bonds, bonds_loss(views, batch, heads)),
        heads.geometry: (config.geometry, GEOMETRY_LOSSES[heads.geometry](views, batch)),
        "denoising": (config.denoising, denoising_loss(views, batch, blend, config)),
    }
    total = torch.stack([weight * part for weight, part in weighted.values()]).sum()
    return Loss(total=total, parts={name: part for name, (_, part) in weighted.items()})


def constant_losses(
    batches: Iterable[Batch], heads: HeadsConfig, config: ObjectiveConfig
) -> dict[str, float]:
    """Give the loss of each part for the best answer that is the same for every pair.

    A model whose loss is no lower has learnt nothing of that view. It is the entropy of the
    classes, H = -sum p ln p; for distances the mean deviation from their median (Å); 1 for
    directions, which come in opposite pairs, and for noise, which has no direction of its own.

    Args:
        batches: of molecules like those trained on.
        heads: which classes and which geometry are predicted.
        config: parts of weight 0 are left out.

    Returns:
        By the names of `Loss.parts`; parts that no pair takes part in are left out.
    """
    lengths = torch.zeros(heads.n_path_classes, dtype=torch.int64)
    bonds = torch.zeros(heads.n_bond_classes, dtype=torch.int64)
    distances = [torch.zeros(0)]
    for batch in batches:
        lengths += _counted(path_classes(batch, heads.n_path_classes), heads.n_path_classes)
        bonds += _counted(bond_classes(batch, heads), heads.n_bond_classes)
        is_scored = batch.is_pair & batch.has_positions[:, None, None]
        distances.append(pair_vectors(batch.positions).norm(dim=-1)[is_scored])
    distance = torch.cat(distances)
    spread = (distance - distance.median()).abs().mean().item() if len(distance) else 0.0
    has_pairs = float(len(distance) > 0)
    constant = {
        "path_length": (config.path_length, _entropy(lengths)),
        "bonds": (config.bonds, _entropy(bonds)),
        heads.geometry: (config.geometry, spread if heads.geometry == "distance" else has_pairs),
        "denoising": (config.denoising, has_pairs),
    }
    return {name: loss for name, (weight, loss) in constant.items() if weight and loss}


def path_classes(batch: Batch, n_classes: int) -> Int64[Tensor, "b n n"]:
    """Class of each path length: length - 1, the last one for all longer; -100 where none is."""
    length = batch.path_length.long()
    classes = length.clamp(max=n_classes) - 1
    return torch.where(batch.is_pair & (length > 0), classes, _IGNORED)


def bond_classes(batch: Batch, heads: HeadsConfig) -> Int64[Tensor, "b n n k"]:
    """Class of each bond on each path; -100 past its end and for bonds beyond the last class.

    With the published vocabulary it is 6 type + 2 stereo + conjugated, in which a stereo beyond Z
    and E has the class of another bond.
    """
    kind = torch.arange(N_BOND_KINDS, device=batch.edge_path.device)
    _, n_stereo, n_conjugated = BOND_FEATURE_SIZES
    bond_type, stereo = kind // (n_stereo * n_conjugated), kind // n_conjugated % n_stereo
    _, stereos, conjugations = heads.bond_vocabulary
    classes = (bond_type * stereos + stereo) * conjugations + kind % n_conjugated
    classes = torch.where(classes < heads.n_bond_classes, classes, _IGNORED)
    classes = F.pad(classes, (1, 0), value=_IGNORED)
    return torch.where(batch.is_pair[..., None], classes[batch.edge_path.int()], _IGNORED)


def path_length_loss(views: Views, batch: Batch) -> Float[Tensor, ""]:
    """Cross entropy, mean over the ordered connected pairs of the batch."""
    return _cross_entropy(views.path_length, path_classes(batch, views.path_length.shape[-1]))


def bonds_loss(views: Views, batch: Batch, heads: HeadsConfig) -> Float[Tensor, ""]:
    """Cross entropy, mean over all (i, j, hop) of the batch that have a bond."""
    return _cross_entropy(views.bonds, bond_classes(batch, heads))


def distance_loss(views: Views, batch: Batch) -> Float[Tensor, ""]:
    """Absolute error of the distance without noise in Å, mean over the ordered pairs."""
    is_scored = batch.is_pair & batch.has_positions[:, None, None]
    distance = pair_vectors(batch.positions).norm(dim=-1)
    return _mean((views.geometry[..., 0] - distance).abs(), is_scored)


def direction_loss(views: Views, batch: Batch) -> Float[Tensor, ""]:
    """1 - cos of the direction without noise: mean over a molecule's pairs, then over molecules."""
    is_scored = batch.is_pair & batch.has_positions[:, None, None]
    error = 1 - F.cosine_similarity(views.geometry, pair_vectors(batch.positions), dim=-1, eps=1e-8)
    n_pairs = is_scored.sum((1, 2))
    per_molecule = torch.where(is_scored, error, 0).sum((1, 2)) / n_pairs.clamp(min=1)
    return _mean(per_molecule, n_pairs > 0)


GEOMETRY_LOSSES = {"distance": distance_loss, "direction": direction_loss}


def denoising_loss(
    views: Views, batch: Batch, blend: Blend, config: ObjectiveConfig
) -> Float[Tensor, ""]:
    """Error of the predicted noise, mean over atoms that have some and show their centrality."""
    has_noise = batch.is_atom & batch.has_positions[:, None] & blend.noise.any(-1)
    is_scored = has_noise & blend.atoms[..., 1]
    if views.noise is None:
        return blend.noise.sum() * 0
    if config.noise_error == "cosine":
        error = 1 - F.cosine_similarity(views.noise, blend.noise, dim=-1, eps=1e-8)
        return _mean(error, is_scored)
    variance = _mean(blend.noise.square().mean(-1), is_scored)
    return _mean((views.noise - blend.noise).square().mean(-1), is_scored) / variance.clamp(
        min=1e-8
    )


def _counted(classes: Int64[Tensor, "*s"], n_classes: int) -> Int64[Tensor, " c"]:
    return torch.bincount(classes[classes != _IGNORED], minlength=n_classes)


def _entropy(counts: Int64[Tensor, " c"]) -> float:
    """Entropy of classes that came so often, in nats; 0 where none came."""
    shares = counts[counts > 0].double() / counts.sum()
    return -(shares * shares.log()).sum().item()


def _mean(values: Float[Tensor, "*s"], is_scored: Bool[Tensor, "*s"]) -> Float[Tensor, ""]:
    """Mean over what is scored; 0, with a gradient of 0, where nothing is."""
    return torch.where(is_scored, values, 0).sum() / is_scored.sum().clamp(min=1)


def _cross_entropy(
    logits: Float[Tensor, "*s c"], classes: Int64[Tensor, "*s"]
) -> Float[Tensor, ""]:
    """Cross entropy over the scored places only; 0 where there are none."""
    is_scored = classes != _IGNORED
    total = F.cross_entropy(logits[is_scored], classes[is_scored], reduction="sum")
    return total / is_scored.sum().clamp(min=1)
