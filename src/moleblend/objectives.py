"""The losses of pretraining: blend, then predict every view."""

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
_LEAST = 1e-8
"""Where nothing was scored the error is 0, and is divided by this."""


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
class Part:
    """A loss as the two sums whose quotient it is, both of which add up over parts of a batch.

    Attributes:
        error: the summed error.
        scored: what divides it: how many were scored, or how much noise there was.
    """

    error: Float[Tensor, ""]
    scored: Float[Tensor, ""]

    @property
    def mean(self) -> Float[Tensor, ""]:
        """The loss; 0, with a gradient of 0, where nothing is scored."""
        return self.error / self.scored.clamp(min=_LEAST)


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


def blend_then_predict(
    model: Model,
    batch: Batch,
    blend: Blend,
    config: ObjectiveConfig,
    joined: Float[Tensor, " 4"] | None = None,
) -> Loss:
    """Predict all views of all pairs from one view of each, and the noise from the noisy positions.

    Every pair counts, whether its answer was shown, hidden or blended.

    Args:
        model: with pretraining heads.
        batch: b molecules; those without positions take part in the 2D losses only.
        blend: what the encoder is shown.
        config: the weights.
        joined: where the batch is a part of a larger one, the summed `denominators` of its parts.
            The losses of the parts, and their gradients, then add up to those of the larger batch.

    Reference:
        Yu et al., ICLR 2024, arXiv:2307.06235, section 3.3.
    """
    heads = model.config.heads
    views = model.predict_views(batch, blend)
    assert heads is not None
    # Exponents, logarithms and sums over many pairs want all the digits of float32.
    with torch.autocast(batch.is_atom.device.type, enabled=False):
        views = in_float32(views)
        parts = {
            "path_length": path_length_loss(views, batch),
            "bonds": bonds_loss(views, batch, heads),
            heads.geometry: GEOMETRY_LOSSES[heads.geometry](views, batch),
            "denoising": denoising_loss(views, batch, blend, config),
        }
        scored = torch.stack([part.scored for part in parts.values()]) if joined is None else joined
        losses = torch.stack([part.error for part in parts.values()]) / scored.clamp(min=_LEAST)
        weights = (config.path_length, config.bonds, config.geometry, config.denoising)
        total = (losses * torch.tensor(weights, device=losses.device)).sum()
    return Loss(total=total, parts=dict(zip(parts, losses, strict=True)))


def denominators(
    batch: Batch, blend: Blend, config: ObjectiveConfig, heads: HeadsConfig
) -> Float[Tensor, " 4"]:
    """What divides each loss, in the order of `Loss.parts`.

    Those of the parts of a batch add up to those of the batch.
    """
    pairs = _placed_pairs(batch)
    geometry = pairs.sum() if heads.geometry == "distance" else pairs.any(-1).any(-1).sum()
    scored = (
        (path_classes(batch, heads.n_path_classes) != _IGNORED).sum(),
        (bond_classes(batch, heads) != _IGNORED).sum(),
        geometry,
        _noise_scored(batch, blend, config),
    )
    return torch.stack([part.float() for part in scored])


def in_float32(views: Views) -> Views:
    """Give predictions that autocast may have left in half precision in float32."""
    noise = None if views.noise is None else views.noise.float()
    return Views(views.path_length.float(), views.bonds.float(), views.geometry.float(), noise)


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


def path_length_loss(views: Views, batch: Batch) -> Part:
    """Cross entropy, mean over the ordered connected pairs of the batch."""
    return _cross_entropy(views.path_length, path_classes(batch, views.path_length.shape[-1]))


def bonds_loss(views: Views, batch: Batch, heads: HeadsConfig) -> Part:
    """Cross entropy, mean over all (i, j, hop) of the batch that have a bond."""
    return _cross_entropy(views.bonds, bond_classes(batch, heads))


def distance_loss(views: Views, batch: Batch) -> Part:
    """Absolute error of the distance without noise in Å, mean over the ordered pairs."""
    distance = pair_vectors(batch.positions).norm(dim=-1)
    return _part((views.geometry[..., 0] - distance).abs(), _placed_pairs(batch))


def direction_loss(views: Views, batch: Batch) -> Part:
    """1 - cos of the direction without noise: mean over a molecule's pairs, then over molecules."""
    is_scored = _placed_pairs(batch)
    error = 1 - F.cosine_similarity(views.geometry, pair_vectors(batch.positions), dim=-1, eps=1e-8)
    n_pairs = is_scored.sum((1, 2))
    per_molecule = torch.where(is_scored, error, 0).sum((1, 2)) / n_pairs.clamp(min=1)
    return _part(per_molecule, n_pairs > 0)


GEOMETRY_LOSSES = {"distance": distance_loss, "direction": direction_loss}


def denoising_loss(views: Views, batch: Batch, blend: Blend, config: ObjectiveConfig) -> Part:
    """Error of the predicted noise, mean over atoms that have some and show their centrality."""
    scored = _noise_scored(batch, blend, config)
    if views.noise is None:
        return Part(blend.noise.sum() * 0, scored)
    if config.noise_error == "cosine":
        error = 1 - F.cosine_similarity(views.noise, blend.noise, dim=-1, eps=1e-8)
    else:
        error = (views.noise - blend.noise).square().mean(-1)
    return Part(torch.where(_noisy_atoms(batch, blend), error, 0).sum(), scored)


def _noise_scored(batch: Batch, blend: Blend, config: ObjectiveConfig) -> Float[Tensor, ""]:
    """Number of scored atoms for the cosine; their summed variance for the squared error."""
    atoms = _noisy_atoms(batch, blend)
    if config.noise_error == "cosine":
        return atoms.sum().float()
    return torch.where(atoms, blend.noise.square().mean(-1), 0).sum()


def _noisy_atoms(batch: Batch, blend: Blend) -> Bool[Tensor, "b n"]:
    has_noise = batch.is_atom & batch.has_positions[:, None] & blend.noise.any(-1)
    return has_noise & blend.atoms[..., 1]


def _placed_pairs(batch: Batch) -> Bool[Tensor, "b n n"]:
    return batch.is_pair & batch.has_positions[:, None, None]


def _part(values: Float[Tensor, "*s"], is_scored: Bool[Tensor, "*s"]) -> Part:
    return Part(torch.where(is_scored, values, 0).sum(), is_scored.sum().float())


def _cross_entropy(logits: Float[Tensor, "*s c"], classes: Int64[Tensor, "*s"]) -> Part:
    """Cross entropy over the scored places only."""
    is_scored = classes != _IGNORED
    error = F.cross_entropy(logits[is_scored], classes[is_scored], reduction="sum")
    return Part(error, is_scored.sum().float())
