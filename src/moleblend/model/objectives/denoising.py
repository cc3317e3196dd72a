"""Denoising of 3D: the noise of slightly displaced atoms is predicted, and nothing else."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from moleblend.model.batch import Batch
from moleblend.model.blending import Blend, molecule_generators, show
from moleblend.model.heads import Model
from moleblend.model.objectives.config import ObjectiveConfig
from moleblend.model.objectives.loss import LossTerm, Objective
from moleblend.model.objectives.view_losses import view_scored, view_terms
from moleblend.model.pair_heads import HeadsConfig


class Denoising(Objective):
    """Show all of 3D with noise, and predict the noise of every atom.

    The loss is the squared error in units of the noise's variance. Molecules without a geometry are
    left out. The predicted vector is the one of the model's noise head: a sum of unit vectors to
    the other atoms, weighted by attention.

    Args:
        config: `noise_3d` and the weight of `denoising`.
        heads: what the model predicts.

    Reference:
        Zaidi et al., ICLR 2023, arXiv:2206.00133 (0.04 Å for an equivariant network).
    """

    def __init__(self, config: ObjectiveConfig, heads: HeadsConfig) -> None:
        super().__init__()
        self.heads, self.std, self._weight = heads, config.noise_3d, config.denoising or 1.0

    def forward(
        self,
        model: Model,
        batch: Batch,
        blend: Blend,  # noqa: ARG002
        generator: torch.Generator,
    ) -> dict[str, LossTerm]:
        """Encode the displaced atoms."""
        placed = batch.with_geometry()
        if placed is None:
            return {"denoising": LossTerm.empty(model)}
        shown = self._shown(placed, generator)
        return view_terms(model, placed, shown, model.encoder(placed, shown), self.weights)

    def scored(
        self,
        batch: Batch,
        blend: Blend,  # noqa: ARG002
        generator: torch.Generator,
    ) -> dict[str, Float[Tensor, ""]]:
        """Sum the variance of the noise."""
        placed = batch.with_geometry()
        if placed is None:
            return {"denoising": torch.zeros((), device=batch.is_atom.device)}
        shown = self._shown(placed, generator)
        return view_scored(placed, shown, self.heads, self.weights)

    @property
    def weights(self) -> dict[str, float]:
        """Return the weight of the noise error."""
        return {"denoising": self._weight}

    def _shown(self, batch: Batch, generator: torch.Generator) -> Blend:
        _, own = molecule_generators(batch, generator)
        return replace(show(batch, "3d"), noise=draw_noise(batch, self.std, own))


def draw_noise(
    batch: Batch, std: float, generators: Sequence[torch.Generator]
) -> Float32[Tensor, "b n 3"]:
    """Draw normal noise for every atom in Å, with one generator per molecule; 0 for padding."""
    noise = torch.zeros_like(batch.positions)
    for row, (rng, k) in enumerate(zip(generators, batch.is_atom.sum(1).tolist(), strict=True)):
        noise[row, :k] = std * torch.randn(k, 3, generator=rng).to(noise.device)
    return noise
