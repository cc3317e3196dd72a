"""Pretraining objective (blend, then predict): the losses of all predicted views."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from moleblend.chem.molecule import ATOM_FEATURE_SIZES, BOND_FEATURE_SIZES
from moleblend.config import check_fields, check_finite
from moleblend.errors import SettingError
from moleblend.model.batch import Batch
from moleblend.model.blending import Blend
from moleblend.model.functional import IGNORED, PairCrossEntropy, pair_vectors
from moleblend.model.heads import (
    AtomFeatureHead,
    DescriptorScaler,
    HeadsConfig,
    Model,
    OuterProduct,
)
from moleblend.model.relations import N_BOND_KINDS

_N_MASKED_FEATURES = len(ATOM_FEATURE_SIZES) - 1
_LEAST = 1e-8
"""Smallest denominator of a loss. Where nothing is scored, the error is 0 / `_LEAST` = 0."""


@dataclass(frozen=True)
class ObjectiveConfig:
    """Weights of the losses.

    The defaults are ours; `ObjectiveConfig.published()` are the paper's.

    Attributes:
        path_length: weight of the cross entropy of path lengths.
        bonds: weight of the cross entropy of the bonds along the paths.
        geometry: weight of the distance error in Å, or of 1 - cos of the direction.
        denoising: weight of the noise error.
        descriptors: weight of the error of the molecule's descriptors, in standard deviations, if
            the heads predict them.
        atom_features: weight of the cross entropy of masked atom features, if the heads predict
            them.
        noise_error: `squared`, in units of the noise's variance, so that predicting 0 costs 1; or
            `cosine`, which ignores the length (published).
    """

    path_length: float = 1.0
    bonds: float = 1.0
    geometry: float = 1.0
    denoising: float = 0.5
    descriptors: float = 1.0
    atom_features: float = 1.0
    noise_error: Literal["squared", "cosine"] = "squared"

    def __post_init__(self) -> None:
        """Refuse negative weights."""
        check_fields(self)
        if min(self.weights) < 0:
            raise SettingError(f"got {self}, expected weights of at least 0")
        check_finite(self)

    @property
    def weights(self) -> tuple[float, ...]:
        """Return the weights of all terms."""
        return (
            *(self.path_length, self.bonds, self.geometry, self.denoising),
            *(self.descriptors, self.atom_features),
        )

    def weight(self, term: str) -> float:
        """Return the weight of a term by its name in `Loss.terms`."""
        return getattr(self, "geometry" if term in GEOMETRY_LOSSES else term)

    @classmethod
    def published(cls) -> "ObjectiveConfig":
        """The reference configuration."""
        return cls(path_length=0.1, bonds=0.1, geometry=0.5, denoising=6.0, noise_error="cosine")


@dataclass(frozen=True, eq=False)
class LossTerm:
    """A loss as numerator and denominator, both of which are additive over micro-batches.

    Attributes:
        error: the summed error.
        scored: the denominator: the number of scored pairs, atoms or values, or the summed variance
            of the noise.
    """

    error: Float[Tensor, ""]
    scored: Float[Tensor, ""]

    @property
    def mean(self) -> Float[Tensor, ""]:
        """Return the loss; 0 with gradient 0 where nothing is scored."""
        return self.error / self.scored.clamp(min=_LEAST)


@dataclass(frozen=True, eq=False)
class Loss:
    """A weighted total and its unweighted terms.

    Attributes:
        total: the weighted sum, which training minimises.
        terms: `path_length`, `bonds`, `distance` (Å) or `direction`, `denoising`, and `descriptors`
            and `atom_features` if the heads predict them. A term with nothing to score is 0.
    """

    total: Float[Tensor, ""]
    terms: dict[str, Float[Tensor, ""]]


def blend_then_predict(
    model: Model,
    batch: Batch,
    blend: Blend,
    config: ObjectiveConfig,
    step_denominators: Float[Tensor, " l"] | None = None,
) -> Loss:
    """Predict all views of all pairs from one view of each, and the noise from the noisy positions.

    total = sum over terms of weight * error / denominator. Every pair is scored, whether the
    predicted view was shown or hidden. If the heads include descriptors, they are predicted from
    the molecule's vector (Huber loss).

    Args:
        model: with pretraining heads.
        batch: b molecules; those without positions are scored in the 2D losses only.
        blend: the views that the encoder is shown.
        config: the weights.
        step_denominators: for a micro-batch, the summed `denominators` of all micro-batches of the
            step. Losses and gradients of the micro-batches then add up to those of the large batch.

    Reference:
        Yu et al., ICLR 2024, arXiv:2307.06235, section 3.3.
    """
    heads, chosen = model.require_pair_heads(), model.config.heads
    assert chosen is not None
    encoded = model.encoder(batch, blend)
    if heads.readers is None:
        path_sides, bond_sides = (
            head.sides(encoded.atoms) for head in (heads.path_length, heads.bonds)
        )
        geometry = heads.geometry(encoded.atoms)
    else:
        symmetric, ordered = heads.readers(encoded)
        geometry = heads.readers.distances(symmetric)
    noise = heads.noise(batch, blend, encoded) if bool(batch.has_positions.any()) else None
    descriptor_head, predicted = model.descriptor_head, None
    if descriptor_head is not None:
        predicted = descriptor_head(model.read_out(batch.is_atom, encoded))
    # Exponentials, logarithms and sums over many pairs need the precision of float32.
    with torch.autocast(batch.is_atom.device.type, enabled=False):
        lengths = path_classes(batch, chosen.n_path_classes)[..., None]
        bonds = bond_classes(batch, chosen)
        if heads.readers is None:
            path_term = _cross_entropy(heads.path_length, path_sides, lengths)
            bond_term = _cross_entropy(heads.bonds, bond_sides, bonds)
        else:
            path_term = _cross_entropy_of_pairs(heads.readers.path_length, symmetric, lengths)
            bond_term = _cross_entropy_of_pairs(heads.readers.bonds, ordered, bonds)
        terms = {
            "path_length": path_term,
            "bonds": bond_term,
            chosen.geometry: GEOMETRY_LOSSES[chosen.geometry](geometry.float(), batch),
            "denoising": denoising_loss(noise, batch, blend, config),
        }
        if descriptor_head is not None and predicted is not None:
            expected = descriptor_head.scaled(_descriptors_of(batch))
            terms["descriptors"] = descriptor_loss(predicted.float(), expected)
        if model.atom_head is not None:
            terms["atom_features"] = atom_feature_loss(model.atom_head, encoded.atoms, batch, blend)
        scored = step_denominators
        if scored is None:
            scored = torch.stack([term.scored for term in terms.values()])
        losses = torch.stack([term.error for term in terms.values()]) / scored.clamp(min=_LEAST)
        weights = torch.tensor([config.weight(term) for term in terms], device=losses.device)
        total = (losses * weights).sum()
    return Loss(total=total, terms=dict(zip(terms, losses, strict=True)))


def denominators(
    batch: Batch, blend: Blend, config: ObjectiveConfig, heads: HeadsConfig
) -> Float[Tensor, " l"]:
    """Compute the denominator of each loss, in the order of `Loss.terms`.

    The denominators of micro-batches add up to those of the large batch.
    """
    pairs = _placed_pairs(batch)
    geometry = pairs.sum() if heads.geometry == "distance" else pairs.any(-1).any(-1).sum()
    scored = [
        (path_classes(batch, heads.n_path_classes) != IGNORED).sum(),
        (bond_classes(batch, heads) != IGNORED).sum(),
        geometry,
        _noise_scored(batch, blend, config),
    ]
    if heads.descriptors:
        scored.append(_descriptors_of(batch).isfinite().sum())
    if heads.atom_features:
        scored.append(_masked_atoms(batch, blend).sum() * _N_MASKED_FEATURES)
    return torch.stack([number.float() for number in scored])


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
        distances.append(pair_vectors(batch.positions).norm(dim=-1)[_placed_pairs(batch)])
        descriptors += [_descriptors_of(batch)] if heads.descriptors else []
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


def path_classes(batch: Batch, n_classes: int) -> Int64[Tensor, "b n n"]:
    """Compute the class of each path length: length - 1, capped; -100 where there is no path."""
    length = batch.path_length.long()
    classes = length.clamp(max=n_classes) - 1
    return torch.where(batch.is_pair & (length > 0), classes, IGNORED)


def bond_classes(batch: Batch, heads: HeadsConfig) -> Int64[Tensor, "b n n k"]:
    """Compute the class of each bond on each path; -100 after its end and for unknown bonds.

    With the published vocabulary it is 6 type + 2 stereo + conjugated; a stereo other than Z and E
    then has the class of another bond.
    """
    kind = torch.arange(N_BOND_KINDS, device=batch.edge_path.device)
    _, n_stereo, n_conjugated = BOND_FEATURE_SIZES
    bond_type, stereo = kind // (n_stereo * n_conjugated), kind // n_conjugated % n_stereo
    _, stereos, conjugations = heads.bond_vocabulary
    classes = (bond_type * stereos + stereo) * conjugations + kind % n_conjugated
    classes = torch.where(classes < heads.n_bond_classes, classes, IGNORED)
    classes = F.pad(classes, (1, 0), value=IGNORED)
    return torch.where(batch.is_pair[..., None], classes[batch.edge_path.int()], IGNORED)


def distance_loss(predicted: Float[Tensor, "b n n 1"], batch: Batch) -> LossTerm:
    """Absolute error of the distance without noise in Å, mean over the ordered pairs."""
    distance = pair_vectors(batch.positions).norm(dim=-1)
    return _term((predicted[..., 0] - distance).abs(), _placed_pairs(batch))


def direction_loss(predicted: Float[Tensor, "b n n 3"], batch: Batch) -> LossTerm:
    """1 - cos of the direction without noise: mean over a molecule's pairs, then over molecules."""
    is_scored = _placed_pairs(batch)
    error = 1 - F.cosine_similarity(predicted, pair_vectors(batch.positions), dim=-1, eps=1e-8)
    n_pairs = is_scored.sum((1, 2))
    per_molecule = torch.where(is_scored, error, 0).sum((1, 2)) / n_pairs.clamp(min=1)
    return _term(per_molecule, n_pairs > 0)


GEOMETRY_LOSSES = {"distance": distance_loss, "direction": direction_loss}


def denoising_loss(
    predicted: Float[Tensor, "b n 3"] | None, batch: Batch, blend: Blend, config: ObjectiveConfig
) -> LossTerm:
    """Error of the predicted noise, mean over the atoms with noise that show their centrality."""
    scored = _noise_scored(batch, blend, config)
    if predicted is None:
        return LossTerm(blend.noise.sum() * 0, scored)
    predicted = predicted.float()
    if config.noise_error == "cosine":
        error = 1 - F.cosine_similarity(predicted, blend.noise, dim=-1, eps=1e-8)
    else:
        error = (predicted - blend.noise).square().mean(-1)
    return LossTerm(torch.where(_noisy_atoms(batch, blend), error, 0).sum(), scored)


def descriptor_loss(predicted: Float[Tensor, "b f"], expected: Float[Tensor, "b f"]) -> LossTerm:
    """Huber loss of the scaled descriptors, mean over all known descriptors of the batch."""
    is_known = expected.isfinite()
    # NaN times 0 is NaN, also in the gradient, so unknown descriptors are replaced before.
    known = torch.where(is_known, expected, 0)
    return _term(F.huber_loss(predicted, known, reduction="none"), is_known)


def atom_feature_loss(
    head: AtomFeatureHead, atoms: Float[Tensor, "b n d"], batch: Batch, blend: Blend
) -> LossTerm:
    """Cross entropy of the hidden features, mean over the masked atoms and their features."""
    masked = _masked_atoms(batch, blend)
    logits, features = head(atoms[masked]).float(), batch.atoms[masked]
    blocks = logits.split(ATOM_FEATURE_SIZES[1:], -1)
    errors = [
        F.cross_entropy(block, features[:, 1 + k], reduction="sum")
        for k, block in enumerate(blocks)
    ]
    scored = masked.sum() * _N_MASKED_FEATURES
    return LossTerm(torch.stack(errors).sum(), scored.float())


def _masked_atoms(batch: Batch, blend: Blend) -> Bool[Tensor, "b n"]:
    return torch.zeros_like(batch.is_atom) if blend.masked is None else blend.masked


def _descriptors_of(batch: Batch) -> Float[Tensor, "b f"]:
    if batch.descriptors is None:
        raise SettingError("the heads predict descriptors, but `Batch.descriptors` is None")
    return batch.descriptors


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


def _noise_scored(batch: Batch, blend: Blend, config: ObjectiveConfig) -> Float[Tensor, ""]:
    """Compute the denominator: the number of scored atoms (cosine), or their summed variance."""
    atoms = _noisy_atoms(batch, blend)
    if config.noise_error == "cosine":
        return atoms.sum().float()
    return torch.where(atoms, blend.noise.square().mean(-1), 0).sum()


def _noisy_atoms(batch: Batch, blend: Blend) -> Bool[Tensor, "b n"]:
    has_noise = batch.is_atom & batch.has_positions[:, None] & blend.noise.any(-1)
    return has_noise & blend.atoms[..., 1]


def _placed_pairs(batch: Batch) -> Bool[Tensor, "b n n"]:
    return batch.is_pair & batch.has_positions[:, None, None]


def _term(values: Float[Tensor, "*s"], is_scored: Bool[Tensor, "*s"]) -> LossTerm:
    return LossTerm(torch.where(is_scored, values, 0).sum(), is_scored.sum().float())


def _cross_entropy(
    head: OuterProduct,
    sides: tuple[Float[Tensor, "b n r"], Float[Tensor, "b n r"]],
    classes: Int64[Tensor, "b n n k"],
) -> LossTerm:
    """Cross entropy, mean over the scored (i, j, hop) of the batch."""
    rows, columns = (side.float() for side in sides)
    error = PairCrossEntropy.apply(rows, columns, head.linear.weight, head.linear.bias, classes)
    return LossTerm(error, (classes != IGNORED).sum().float())


def _cross_entropy_of_pairs(
    linear: nn.Linear, hidden: Float[Tensor, "b n n h"], classes: Int64[Tensor, "b n n k"]
) -> LossTerm:
    """Cross entropy of logits that are linear in the hidden vectors of pairs, hop by hop.

    Only the logits that are scored are computed.
    """
    hidden, classes = hidden.float().flatten(0, 2), classes.flatten(0, 2)
    n_hops = classes.shape[-1]
    errors = []
    for hop, (weight, bias) in enumerate(
        zip(linear.weight.chunk(n_hops), linear.bias.chunk(n_hops), strict=True)
    ):
        scored = (classes[:, hop] != IGNORED).nonzero()[:, 0]
        logits = F.linear(hidden.index_select(0, scored), weight, bias)
        errors.append(F.cross_entropy(logits, classes[scored, hop], reduction="sum"))
    return LossTerm(torch.stack(errors).sum(), (classes != IGNORED).sum().float())
