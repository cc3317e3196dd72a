"""Draw which view of each atom pair the encoder is shown: the B of MoleBLEND."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from moleblend.model.batch import Batch

VIEWS = ("path_length", "edge_path", "distance")
"""The views of a pair, in the order of `Blend.pairs`."""

ShownViews = Literal["2d", "3d", "both"]


@dataclass(frozen=True)
class BlendConfig:
    """How molecules are blended in pretraining.

    Attributes:
        pair_shares: probability of each of `VIEWS` for a pair.
        atom_shares: probability that an atom shows its degree, its 3D centrality.
        draw: one draw of views per `molecule` (default), or one per `batch` (published code).
        whole: share of molecules that are not blended but shown wholly in 2D, wholly in 3D. The
            published recipe has none; with some, pretraining has seen what fine-tuning and recovery
            show.
        noise: standard deviation of the noise added to each coordinate, in Å.
        masked: probability that a molecule hides the features of all its atoms but the element, and
            that it hides those of some; not published. They are predicted back, see
            `objectives.atom_feature_loss`.
        masked_atoms: probability that an atom of a molecule of the second kind hides them.
    """

    pair_shares: tuple[float, float, float] = (0.2, 0.2, 0.6)
    atom_shares: tuple[float, float] = (0.4, 0.6)
    draw: Literal["molecule", "batch"] = "molecule"
    whole: tuple[float, float] = (0.15, 0.15)
    noise: float = 0.2
    masked: tuple[float, float] = (0.0, 0.0)
    masked_atoms: float = 0.3

    def __post_init__(self) -> None:
        """Refuse shares that are not shares."""
        for name, shares in (("pair_shares", self.pair_shares), ("atom_shares", self.atom_shares)):
            if min(shares) < 0 or not math.isclose(sum(shares), 1):
                raise ValueError(
                    f"{name} must be positive and sum to 1, {shares} sum to {sum(shares):g}"
                )
        if not (min(self.whole) >= 0 and sum(self.whole) <= 1):
            raise ValueError(f"whole must be two shares that sum to at most 1, {self.whole} came")
        if not (min(self.masked) >= 0 and sum(self.masked) <= 1):
            raise ValueError(f"masked must be two probabilities of sum <= 1, got {self.masked}")
        if not 0 <= self.masked_atoms <= 1:
            raise ValueError(f"masked_atoms must be a probability, got {self.masked_atoms}")
        if not 0 <= self.noise < math.inf:
            raise ValueError(f"noise is a standard deviation in Å, {self.noise} came")


@dataclass(frozen=True, eq=False)
class Blend:
    """What the encoder is shown of a batch.

    Attributes:
        pairs: the views shown of each ordered pair, in the order of `VIEWS`.
        atoms: whether each atom shows its degree, its 3D centrality.
        noise: what is added to the positions, in Å.
        masked: which atoms hide their features but the element; None where none does.
    """

    pairs: Bool[Tensor, "b n n 3"]
    atoms: Bool[Tensor, "b n 2"]
    noise: Float32[Tensor, "b n 3"]
    masked: Bool[Tensor, "b n"] | None = None

    @property
    def shows_3d(self) -> bool:
        """Whether any pair or atom shows where it is in space."""
        return bool(self.pairs[..., 2].any() | self.atoms[..., 1].any())

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Blend":
        """Move every tensor to a device."""
        return self.changed(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def subset(self, rows: slice) -> "Blend":
        """Take what is shown of some of the molecules."""
        return self.changed(lambda tensor: tensor[rows])

    def changed(self, change: Callable[[Tensor], Tensor]) -> "Blend":
        """Change every tensor."""
        masked = None if self.masked is None else change(self.masked)
        return Blend(change(self.pairs), change(self.atoms), change(self.noise), masked)


def draw_blend(
    batch: Batch,
    config: BlendConfig,
    generator: torch.Generator,
    places: Int64[Tensor, " b"] | None = None,
) -> Blend:
    """Draw a view for every ordered pair (diagonal included) and every atom, and the noise.

    A molecule without positions draws from its 2D views only, in their proportion. What a molecule
    draws depends on its place, not on the molecules beside it or on the padding.

    Args:
        batch: b molecules.
        config: the shares.
        generator: the only source of chance; the same state gives the same blend.
        places: where the molecules stand in a larger batch of which these are a part; the parts,
            each with a generator of the same state, draw what the larger batch would have drawn.

    Raises:
        ValueError: a molecule has no positions and the shares leave nothing else to show.

    Reference:
        Yu et al., ICLR 2024, arXiv:2307.06235, section 3.2.
    """
    b, n = batch.is_atom.shape
    device = batch.is_atom.device
    places = torch.arange(b) if places is None else places
    # One seed for what all molecules share, then one for each place; a longer list of seeds begins
    # like a shorter one.
    n_seeds = 2 + int(places.max())
    seeds = torch.randint(2**32, (n_seeds,), generator=generator, device=generator.device).tolist()
    shared = torch.Generator().manual_seed(seeds[0])
    draws: list[tuple[Tensor, ...]] = []  # for whole molecule, atoms, pairs, noise, masks
    for place, k in zip(places.tolist(), batch.is_atom.sum(1).tolist(), strict=True):
        rng = torch.Generator().manual_seed(seeds[1 + place])
        draws.append(
            (
                *torch.rand(1 + k + k * k, generator=rng).split((1, k, k * k)),
                torch.randn(3 * k, generator=rng).view(k, 3),
                *torch.rand(1 + k, generator=rng).split((1, k)),
            )
        )
    of_whole, of_atoms, of_pairs, of_noise, of_masks, of_masked = (
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
    pair_view = _choose(pair_draw, config.pair_shares, batch.has_positions[:, None, None])
    atom_view = _choose(atom_draw, config.atom_shares, batch.has_positions[:, None])
    pairs = torch.stack([pair_view == view for view in range(3)], -1)
    atoms = torch.stack([atom_view == view for view in range(2)], -1)

    whole = of_whole.to(device)
    in_2d = whole < config.whole[0]
    in_3d = ~in_2d & (whole < sum(config.whole)) & batch.has_positions
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
    """Draw a square of numbers of which each smaller one is the upper left corner."""
    i, j = torch.arange(n)[:, None], torch.arange(n)
    last = torch.maximum(i, j)
    # Row k up to the diagonal, then column k above it, come after the k * k numbers before them.
    order = last**2 + torch.where(i == last, j, last + 1 + i)
    return torch.rand(n * n, generator=generator)[order]


def show(batch: Batch, views: ShownViews) -> Blend:
    """Show all that the molecules have of 2D, of 3D, or of both, without noise or chance."""
    in_2d = torch.full_like(batch.has_positions, views != "3d")
    in_3d = batch.has_positions & (views != "2d")
    b, n = batch.is_atom.shape
    return Blend(
        pairs=torch.stack([in_2d, in_2d, in_3d], -1)[:, None, None].expand(b, n, n, 3),
        atoms=torch.stack([in_2d, in_3d], -1)[:, None].expand(b, n, 2),
        noise=torch.zeros_like(batch.positions),
    )


def _choose(draw: Tensor, shares: tuple[float, ...], has_positions: Tensor) -> Tensor:
    """Turn uniform draws into view numbers; the last view needs positions."""
    flat = sum(shares[:-1])
    if flat == 0 and not bool(has_positions.all()):
        raise ValueError(f"a molecule has no positions, and the shares {shares} show nothing else")
    # Without positions the draw is stretched over the 2D shares alone.
    draw = torch.where(has_positions, draw, draw * flat)
    view = torch.zeros_like(draw, dtype=torch.int64)
    for k in range(len(shares) - 1):
        view += draw >= sum(shares[: k + 1])
    # Rounding may have carried a stretched draw onto the edge.
    return torch.where(has_positions, view, view.clamp(max=len(shares) - 2))
