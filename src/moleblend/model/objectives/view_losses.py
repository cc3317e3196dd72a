"""Losses of predicted views: path length, bonds, geometry, noise, and features of atoms."""

from collections.abc import Callable, Collection
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from moleblend.chem.molecule import ATOM_FEATURE_SIZES, BOND_FEATURE_SIZES
from moleblend.errors import SettingError
from moleblend.model.batch import Batch
from moleblend.model.blending import Blend
from moleblend.model.encoder import Encoded
from moleblend.model.functional import IGNORED, PairCrossEntropy, pair_vectors
from moleblend.model.heads import AtomFeatureHead, Model
from moleblend.model.objectives.loss import LossTerm
from moleblend.model.pair_heads import HeadsConfig, OuterProduct
from moleblend.model.relations import N_BOND_KINDS

_N_MASKED_FEATURES = len(ATOM_FEATURE_SIZES) - 1

NoiseError = Literal["squared", "cosine"]


def view_terms(
    model: Model,
    batch: Batch,
    blend: Blend,
    encoded: Encoded,
    terms: Collection[str],
    noise_error: NoiseError = "squared",
    chosen_pairs: Bool[Tensor, "b n n"] | None = None,
) -> dict[str, LossTerm]:
    """Compute the losses of predicted views from the encoded atoms.

    Args:
        model: with pretraining heads.
        batch: b molecules; those without positions are scored in the 2D losses only.
        blend: the views that the encoder was shown.
        encoded: output of the encoder.
        terms: names of the losses: `path_length`, `bonds`, `distance` or `direction`, `denoising`,
            `descriptors`, `atom_features`.
        noise_error: error of the noise, see `ObjectiveConfig`.
        chosen_pairs: pairs that are scored; all if left out, whether the predicted view was shown
            or hidden.

    Raises:
        SettingError: the model has no pretraining heads, or the batch has no descriptors.
    """
    heads, chosen = model.require_pair_heads(), model.config.heads
    assert chosen is not None
    predicts_noise = "denoising" in terms and bool(batch.has_positions.any())
    noise = heads.noise(batch, blend, encoded) if predicts_noise else None
    descriptor_head, descriptors = model.descriptor_head, None
    if descriptor_head is not None and "descriptors" in terms:
        descriptors = descriptor_head(model.read_out(batch.is_atom, encoded))
    compute_pairs = _pair_terms(model, batch, encoded, terms, chosen_pairs)
    # Exponentials, logarithms and sums over many pairs need the precision of float32.
    with torch.autocast(batch.is_atom.device.type, enabled=False):
        losses = compute_pairs()
        if "denoising" in terms:
            losses["denoising"] = denoising_loss(noise, batch, blend, noise_error)
        if descriptor_head is not None and descriptors is not None:
            expected = descriptor_head.scaled(descriptors_of(batch))
            losses["descriptors"] = descriptor_loss(descriptors.float(), expected)
        if model.atom_head is not None and "atom_features" in terms:
            losses["atom_features"] = atom_feature_loss(
                model.atom_head, encoded.atoms, batch, blend
            )
    return losses


def _pair_terms(
    model: Model,
    batch: Batch,
    encoded: Encoded,
    terms: Collection[str],
    chosen_pairs: Bool[Tensor, "b n n"] | None,
) -> Callable[[], dict[str, LossTerm]]:
    """Apply the heads of pairs, and return the function that computes their losses."""
    heads, chosen = model.require_pair_heads(), model.config.heads
    assert chosen is not None
    predicts_geometry = chosen.geometry in terms
    geometry = None

    if heads.readers is None:
        sides = {
            term: head.sides(encoded.atoms)
            for term, head in (("path_length", heads.path_length), ("bonds", heads.bonds))
            if term in terms
        }
        if predicts_geometry:
            geometry = heads.geometry(encoded.atoms)

        def cross_entropy(term: str, classes: Int64[Tensor, "b n n k"]) -> LossTerm:
            return _cross_entropy(getattr(heads, term), sides[term], classes)
    else:
        readers = heads.readers
        symmetric, ordered = readers(encoded)
        if predicts_geometry:
            geometry = readers.distances(symmetric)

        def cross_entropy(term: str, classes: Int64[Tensor, "b n n k"]) -> LossTerm:
            hidden = symmetric if term == "path_length" else ordered
            return _cross_entropy_of_pairs(getattr(readers, term), hidden, classes)

    def losses() -> dict[str, LossTerm]:
        computed = {}
        if "path_length" in terms:
            classes = path_classes(batch, chosen.n_path_classes, chosen_pairs)[..., None]
            computed["path_length"] = cross_entropy("path_length", classes)
        if "bonds" in terms:
            computed["bonds"] = cross_entropy("bonds", bond_classes(batch, chosen, chosen_pairs))
        if geometry is not None:
            compute = GEOMETRY_LOSSES[chosen.geometry]
            computed[chosen.geometry] = compute(geometry.float(), batch, chosen_pairs)
        return computed

    return losses


def view_scored(
    batch: Batch,
    blend: Blend,
    heads: HeadsConfig,
    terms: Collection[str],
    noise_error: NoiseError = "squared",
    chosen_pairs: Bool[Tensor, "b n n"] | None = None,
) -> dict[str, Float[Tensor, ""]]:
    """Compute the denominators of `view_terms` without the model."""

    def count(term: str) -> Tensor:
        match term:
            case "path_length":
                classes = path_classes(batch, heads.n_path_classes, chosen_pairs)
                return (classes != IGNORED).sum()
            case "bonds":
                return (bond_classes(batch, heads, chosen_pairs) != IGNORED).sum()
            case "distance":
                return placed_pairs(batch, chosen_pairs).sum()
            case "direction":
                return placed_pairs(batch, chosen_pairs).any(-1).any(-1).sum()
            case "denoising":
                return _noise_scored(batch, blend, noise_error)
            case "descriptors":
                return descriptors_of(batch).isfinite().sum()
            case "atom_features":
                return _masked_atoms(batch, blend).sum() * _N_MASKED_FEATURES
            case _:
                raise SettingError(f"got the loss {term!r}, expected a loss of a predicted view")

    return {term: count(term).float() for term in terms}


def path_classes(
    batch: Batch, n_classes: int, chosen_pairs: Bool[Tensor, "b n n"] | None = None
) -> Int64[Tensor, "b n n"]:
    """Compute the class of each path length: length - 1, capped; -100 where there is no path."""
    length = batch.path_length.long()
    classes = length.clamp(max=n_classes) - 1
    return torch.where(_pairs(batch, chosen_pairs) & (length > 0), classes, IGNORED)


def bond_classes(
    batch: Batch, heads: HeadsConfig, chosen_pairs: Bool[Tensor, "b n n"] | None = None
) -> Int64[Tensor, "b n n k"]:
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
    is_scored = _pairs(batch, chosen_pairs)[..., None]
    return torch.where(is_scored, classes[batch.edge_path.int()], IGNORED)


def distance_loss(
    predicted: Float[Tensor, "b n n 1"],
    batch: Batch,
    chosen_pairs: Bool[Tensor, "b n n"] | None = None,
) -> LossTerm:
    """Absolute error of the distance without noise in Å, mean over the ordered pairs."""
    distance = pair_vectors(batch.positions).norm(dim=-1)
    return LossTerm.of((predicted[..., 0] - distance).abs(), placed_pairs(batch, chosen_pairs))


def direction_loss(
    predicted: Float[Tensor, "b n n 3"],
    batch: Batch,
    chosen_pairs: Bool[Tensor, "b n n"] | None = None,
) -> LossTerm:
    """1 - cos of the direction without noise: mean over a molecule's pairs, then over molecules."""
    is_scored = placed_pairs(batch, chosen_pairs)
    error = 1 - F.cosine_similarity(predicted, pair_vectors(batch.positions), dim=-1, eps=1e-8)
    n_pairs = is_scored.sum((1, 2))
    per_molecule = torch.where(is_scored, error, 0).sum((1, 2)) / n_pairs.clamp(min=1)
    return LossTerm.of(per_molecule, n_pairs > 0)


GEOMETRY_LOSSES = {"distance": distance_loss, "direction": direction_loss}


def denoising_loss(
    predicted: Float[Tensor, "b n 3"] | None, batch: Batch, blend: Blend, noise_error: NoiseError
) -> LossTerm:
    """Error of the predicted noise, mean over the atoms with noise that show their centrality."""
    scored = _noise_scored(batch, blend, noise_error)
    if predicted is None:
        return LossTerm(blend.noise.sum() * 0, scored)
    predicted = predicted.float()
    if noise_error == "cosine":
        error = 1 - F.cosine_similarity(predicted, blend.noise, dim=-1, eps=1e-8)
    else:
        error = (predicted - blend.noise).square().mean(-1)
    return LossTerm(torch.where(_noisy_atoms(batch, blend), error, 0).sum(), scored)


def descriptor_loss(predicted: Float[Tensor, "b f"], expected: Float[Tensor, "b f"]) -> LossTerm:
    """Huber loss of the scaled descriptors, mean over all known descriptors of the batch."""
    is_known = expected.isfinite()
    # NaN times 0 is NaN, also in the gradient, so unknown descriptors are replaced before.
    known = torch.where(is_known, expected, 0)
    return LossTerm.of(F.huber_loss(predicted, known, reduction="none"), is_known)


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


def descriptors_of(batch: Batch) -> Float[Tensor, "b f"]:
    """Return the descriptors of a batch.

    Raises:
        SettingError: the batch has none.
    """
    if batch.descriptors is None:
        raise SettingError("the heads predict descriptors, but `Batch.descriptors` is None")
    return batch.descriptors


def _noise_scored(batch: Batch, blend: Blend, noise_error: NoiseError) -> Float[Tensor, ""]:
    """Compute the denominator: the number of scored atoms (cosine), or their summed variance."""
    atoms = _noisy_atoms(batch, blend)
    if noise_error == "cosine":
        return atoms.sum().float()
    return torch.where(atoms, blend.noise.square().mean(-1), 0).sum()


def _noisy_atoms(batch: Batch, blend: Blend) -> Bool[Tensor, "b n"]:
    has_noise = batch.is_atom & batch.has_positions[:, None] & blend.noise.any(-1)
    return has_noise & blend.atoms[..., 1]


def _pairs(batch: Batch, chosen: Bool[Tensor, "b n n"] | None) -> Bool[Tensor, "b n n"]:
    return batch.is_pair if chosen is None else batch.is_pair & chosen


def placed_pairs(
    batch: Batch, chosen: Bool[Tensor, "b n n"] | None = None
) -> Bool[Tensor, "b n n"]:
    """Tell which pairs, or which of the chosen ones, have a distance."""
    return _pairs(batch, chosen) & batch.has_positions[:, None, None]


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
