"""Blending: draw which view of each atom pair the encoder is shown (the B of MoleBLEND)."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float32
from torch import Tensor

from moleblend.config import check_fields, check_finite
from moleblend.errors import SettingError
from moleblend.model.batch import Batch

VIEWS = ("path_length", "edge_path", "distance")
"""The views of a pair, in the order of `Blend.pairs`."""

ShownViews = Literal["2d", "3d", "both"]


@dataclass(frozen=True)
class BlendConfig:
    """Settings of blending in pretraining.

    Attributes:
        pair_probabilities: probability of each of `VIEWS` for a pair.
        atom_probabilities: probability that an atom shows its degree, and its 3D centrality.
        draw: one draw of views per `molecule` (default), or one per `batch` (published code).
        unblended: fractions of the molecules that show all of 2D and nothing else, and all of 3D
            and nothing else. Fine-tuning and validation show molecules in this way. The published
            recipe has 0 and 0.
        noise: standard deviation of the noise added to each coordinate, in Å.
        masked: fractions of the molecules that hide all features but the element of all atoms, and
            of some atoms. The objective predicts hidden features, see
            `objectives.atom_feature_loss`. The published recipe has 0 and 0.
        masked_atoms: probability that an atom of a molecule of the second kind is masked.
    """

    pair_probabilities: tuple[float, float, float] = (0.2, 0.2, 0.6)
    atom_probabilities: tuple[float, float] = (0.4, 0.6)
    draw: Literal["molecule", "batch"] = "molecule"
    unblended: tuple[float, float] = (0.15, 0.15)
    noise: float = 0.2
    masked: tuple[float, float] = (0.0, 0.0)
    masked_atoms: float = 0.3

    def __post_init__(self) -> None:
        """Refuse values that are not probabilities, fractions, or a standard deviation."""
        check_fields(self)
        for name in ("pair_probabilities", "atom_probabilities"):
            values = getattr(self, name)
            if min(values) < 0 or not math.isclose(sum(values), 1):
                raise SettingError(
                    f"got {name}={values}, expected numbers of at least 0 that sum to 1"
                )
        if not (min(self.unblended) >= 0 and sum(self.unblended) <= 1):
            raise SettingError(
                f"got unblended={self.unblended}, expected two fractions that sum to at most 1"
            )
        if not (min(self.masked) >= 0 and sum(self.masked) <= 1):
            raise SettingError(
                f"got masked={self.masked}, expected two fractions that sum to at most 1"
            )
        if not 0 <= self.masked_atoms <= 1:
            raise SettingError(f"got masked_atoms={self.masked_atoms}, expected a probability")
        if not 0 <= self.noise < math.inf:
            raise SettingError(f"got noise={self.noise}, expected a standard deviation in Å")
        check_finite(self)


@dataclass(frozen=True, eq=False)
class Blend:
    """The views of a batch that the encoder is shown.

    Attributes:
        pairs: which views of each ordered pair are shown, in the order of `VIEWS`.
        atoms: whether each atom shows its degree, and its 3D centrality.
        noise: added to the positions, in Å.
        masked: atoms that hide all features but the element; None if no atom is masked.
    """

    pairs: Bool[Tensor, "b n n 3"]
    atoms: Bool[Tensor, "b n 2"]
    noise: Float32[Tensor, "b n 3"]
    masked: Bool[Tensor, "b n"] | None = None

    @property
    def shows_3d(self) -> bool:
        """Tell whether any pair shows its distance, or any atom its 3D centrality."""
        return bool(self.pairs[..., 2].any() | self.atoms[..., 1].any())

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Blend":
        """Move every tensor to a device."""
        return self.changed(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def subset(self, rows: slice) -> "Blend":
        """Select some of the molecules."""
        return self.changed(lambda tensor: tensor[rows])

    def changed(self, change: Callable[[Tensor], Tensor]) -> "Blend":
        """Apply a function to every tensor."""
        masked = None if self.masked is None else change(self.masked)
        return Blend(change(self.pairs), change(self.atoms), change(self.noise), masked)


def molecule_generators(
    batch: Batch, generator: torch.Generator
) -> tuple[torch.Generator, list[torch.Generator]]:
    """Make a generator for draws that all molecules share, and one for each molecule.

    They depend on the state of the generator and on the places of the molecules in the batch of the
    complete training step (`Batch.places`), not on other molecules or on padding. Micro-batches of
    a step, each with a generator in the same state, then draw what the complete batch would draw.
    Call it once per step: how far it advances the generator depends on the places.
    """
    places = torch.arange(len(batch)) if batch.places is None else batch.places
    # A longer list of seeds starts with the shorter one.
    n_seeds = 2 + int(places.max())
    seeds = torch.randint(2**32, (n_seeds,), generator=generator, device=generator.device).tolist()
    shared = torch.Generator().manual_seed(seeds[0])
    return shared, [torch.Generator().manual_seed(seeds[1 + k]) for k in places.tolist()]


def draw_blend(batch: Batch, config: BlendConfig, generator: torch.Generator) -> Blend:
    """Draw a view for every ordered pair (diagonal included) and every atom, and the noise.

    A molecule without positions draws from its 2D views only, in proportion to their probabilities.
    The draw of a molecule depends on its place, see `molecule_generators`.

    Args:
        batch: b molecules.
        config: the probabilities.
        generator: source of all random choices; the same state gives the same blend.

    Raises:
        SettingError: a molecule has no positions, and the 2D views have probability 0.

    Reference:
        Yu et al., ICLR 2024, arXiv:2307.06235, section 3.2.
    """
    b, n = batch.is_atom.shape
    device = batch.is_atom.device
    shared, own = molecule_generators(batch, generator)
    draws: list[tuple[Tensor, ...]] = []  # for unblended, atoms, pairs, noise, masks
    for rng, k in zip(own, batch.is_atom.sum(1).tolist(), strict=True):
        draws.append(
            (
                *torch.rand(1 + k + k * k, generator=rng).split((1, k, k * k)),
                torch.randn(3 * k, generator=rng).view(k, 3),
                *torch.rand(1 + k, generator=rng).split((1, k)),
            )
        )
    of_molecules, of_atoms, of_pairs, of_noise, of_masks, of_masked = (
        torch.cat(draw) for draw in zip(*draws, strict=True)
    )

    def padded(drawn: Tensor, is_real: Bool[Tensor, "*s"]) -> Tensor:
        full = drawn.new_zeros(*is_real.shape, *drawn.shape[1:], device=device)
        full[is_real] = drawn.to(device)
        return full

    both = batch.is_atom[:, :, None] & batch.is_atom[:, None, :]
    is_shared = config.draw == "batch"
    pair_draw = (
        _square(n, shared).to(device).expand(b, n, n) if is_shared else padded(of_pairs, both)
    )
    atom_draw = padded(of_atoms, batch.is_atom)
    pair_view = _choose(pair_draw, config.pair_probabilities, batch.has_positions[:, None, None])
    atom_view = _choose(atom_draw, config.atom_probabilities, batch.has_positions[:, None])
    pairs = torch.stack([pair_view == view for view in range(3)], -1)
    atoms = torch.stack([atom_view == view for view in range(2)], -1)

    molecule_draw = of_molecules.to(device)
    in_2d = molecule_draw < config.unblended[0]
    in_3d = ~in_2d & (molecule_draw < sum(config.unblended)) & batch.has_positions
    for chosen, views in ((in_2d, "2d"), (in_3d, "3d")):
        shown = show(batch, views)
        pairs = torch.where(chosen[:, None, None, None], shown.pairs, pairs)
        atoms = torch.where(chosen[:, None, None], shown.atoms, atoms)

    noise = padded(of_noise, batch.is_atom) * batch.has_positions[:, None, None]
    masked = None
    if any(config.masked):
        mask = of_masks.to(device)
        of_all = (mask < config.masked[0])[:, None]
        of_some = (mask < sum(config.masked))[:, None]
        drawn = padded(of_masked, batch.is_atom) < config.masked_atoms
        masked = batch.is_atom & (of_all | of_some & drawn)
    return Blend(pairs=pairs, atoms=atoms, noise=config.noise * noise, masked=masked)


def _square(n: int, generator: torch.Generator) -> Float32[Tensor, "n n"]:
    """Draw a square of uniform numbers; a smaller square is the upper left corner of a larger."""
    i, j = torch.arange(n)[:, None], torch.arange(n)
    last = torch.maximum(i, j)
    # Row k up to the diagonal, then column k above it, follow after k * k numbers.
    order = last**2 + torch.where(i == last, j, last + 1 + i)
    return torch.rand(n * n, generator=generator)[order]


def show(batch: Batch, views: ShownViews) -> Blend:
    """Show all 2D views of the molecules, all 3D views, or both, without noise."""
    in_2d = torch.full_like(batch.has_positions, views != "3d")
    in_3d = batch.has_positions & (views != "2d")
    b, n = batch.is_atom.shape
    return Blend(
        pairs=torch.stack([in_2d, in_2d, in_3d], -1)[:, None, None].expand(b, n, n, 3),
        atoms=torch.stack([in_2d, in_3d], -1)[:, None].expand(b, n, 2),
        noise=torch.zeros_like(batch.positions),
    )


def _choose(draw: Tensor, probabilities: tuple[float, ...], has_positions: Tensor) -> Tensor:
    """Turn uniform draws into view numbers; the last view needs positions."""
    in_2d = sum(probabilities[:-1])
    if in_2d == 0 and not bool(has_positions.all()):
        raise SettingError(
            f"a molecule has no positions, and with the probabilities {probabilities} no 2D view "
            "is shown"
        )
    # Without positions the draw is rescaled to the probability of the 2D views.
    draw = torch.where(has_positions, draw, draw * in_2d)
    view = torch.zeros_like(draw, dtype=torch.int64)
    for k in range(len(probabilities) - 1):
        view += draw >= sum(probabilities[: k + 1])
    # A rescaled draw may have been rounded up to the limit.
    return torch.where(has_positions, view, view.clamp(max=len(probabilities) - 2))
