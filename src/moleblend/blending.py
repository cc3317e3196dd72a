"""Draw which view of each atom pair the encoder is shown: the B of MoleBLEND."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float32
from torch import Tensor

from moleblend.batch import Batch

VIEWS = ("path_length", "edge_path", "distance")
"""The views of a pair, in the order of `Blend.pairs`."""

Views = Literal["2d", "3d", "both"]


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
    """

    pair_shares: tuple[float, float, float] = (0.2, 0.2, 0.6)
    atom_shares: tuple[float, float] = (0.4, 0.6)
    draw: Literal["molecule", "batch"] = "molecule"
    whole: tuple[float, float] = (0.15, 0.15)
    noise: float = 0.2

    def __post_init__(self) -> None:
        """Refuse shares that are not shares."""
        for name, shares in (("pair_shares", self.pair_shares), ("atom_shares", self.atom_shares)):
            if min(shares) < 0 or not math.isclose(sum(shares), 1):
                raise ValueError(
                    f"{name} must be positive and sum to 1, {shares} sum to {sum(shares):g}"
                )
        if not (min(self.whole) >= 0 and sum(self.whole) <= 1):
            raise ValueError(f"whole must be two shares that sum to at most 1, {self.whole} came")
        if not 0 <= self.noise < math.inf:
            raise ValueError(f"noise is a standard deviation in Å, {self.noise} came")


@dataclass(frozen=True, eq=False)
class Blend:
    """What the encoder is shown of a batch.

    Attributes:
        pairs: the views shown of each ordered pair, in the order of `VIEWS`.
        atoms: whether each atom shows its degree, its 3D centrality.
        noise: what is added to the positions, in Å.
    """

    pairs: Bool[Tensor, "b n n 3"]
    atoms: Bool[Tensor, "b n 2"]
    noise: Float32[Tensor, "b n 3"]


def draw_blend(batch: Batch, config: BlendConfig, generator: torch.Generator) -> Blend:
    """Draw a view for every ordered pair (diagonal included) and every atom, and the noise.

    A molecule without positions draws from its 2D views only, in their proportion.

    Args:
        batch: b molecules.
        config: the shares.
        generator: the only source of chance; the same state gives the same blend.

    Raises:
        ValueError: a molecule has no positions and the shares leave nothing else to show.

    Reference:
        Yu et al., ICLR 2024, arXiv:2307.06235, section 3.2.
    """
    b, n = batch.is_atom.shape
    device = batch.is_atom.device

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, device=generator.device).to(device)

    pair_draw = uniform(n, n).expand(b, n, n) if config.draw == "batch" else uniform(b, n, n)
    pair_view = _choose(pair_draw, config.pair_shares, batch.has_positions[:, None, None])
    atom_view = _choose(uniform(b, n), config.atom_shares, batch.has_positions[:, None])
    pairs = torch.stack([pair_view == view for view in range(3)], -1)
    atoms = torch.stack([atom_view == view for view in range(2)], -1)

    whole = uniform(b)
    in_2d = whole < config.whole[0]
    in_3d = ~in_2d & (whole < sum(config.whole)) & batch.has_positions
    for chosen, views in ((in_2d, "2d"), (in_3d, "3d")):
        shown = show(batch, views)
        pairs = torch.where(chosen[:, None, None, None], shown.pairs, pairs)
        atoms = torch.where(chosen[:, None, None], shown.atoms, atoms)

    noise = torch.randn((b, n, 3), generator=generator, device=generator.device).to(device)
    has_noise = (batch.is_atom & batch.has_positions[:, None])[:, :, None]
    return Blend(pairs=pairs, atoms=atoms, noise=config.noise * noise * has_noise)


def show(batch: Batch, views: Views) -> Blend:
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
