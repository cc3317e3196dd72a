"""Transformer-M: each molecule shows 2D, 3D or both, and predicts labels and noise."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from moleblend.model.batch import Batch
from moleblend.model.blending import Blend, molecule_generators, show
from moleblend.model.heads import Model
from moleblend.model.objectives.config import ObjectiveConfig
from moleblend.model.objectives.denoising import draw_noise
from moleblend.model.objectives.loss import LossTerm, Objective
from moleblend.model.objectives.molecule_targets import MoleculeTargets
from moleblend.model.objectives.view_losses import view_scored, view_terms
from moleblend.model.pair_heads import HeadsConfig

FRACTION_2D, FRACTION_3D = 0.2, 0.6
"""Published fractions of molecules that show 2D only and 3D only; the others show both."""

NOISE = 0.2
"""Published standard deviation of the noise, in Å."""


class TransformerM(Objective):
    """Draw a mode for each molecule; predict its labels, and the noise if it shows 3D only.

    The published labels are those of PCQM4Mv2. Here they are the run's labels and the descriptors,
    if the run predicts them; without either only the noise is predicted.

    Args:
        config: the weights of `denoising` and `descriptors`.
        heads: what the model predicts.
        targets: labels and other targets of the molecule's vector; None for none.

    Reference:
        Luo et al., ICLR 2023, arXiv:2210.01765.
    """

    def __init__(
        self, config: ObjectiveConfig, heads: HeadsConfig, targets: MoleculeTargets | None = None
    ) -> None:
        super().__init__()
        self.heads, self.targets = heads, targets
        weights = config.view_weights(heads)
        self._views = {
            "denoising": config.denoising or 1.0,
            **{name: weight for name, weight in weights.items() if name == "descriptors"},
        }

    def forward(
        self,
        model: Model,
        batch: Batch,
        blend: Blend,  # noqa: ARG002
        generator: torch.Generator,
    ) -> dict[str, LossTerm]:
        """Encode every molecule in its mode."""
        shown = self.draw(batch, generator)
        encoded = model.encoder(batch, shown)
        terms = view_terms(model, batch, shown, encoded, self._views, "cosine")
        if self.targets is not None:
            terms |= self.targets(model.read_out(batch.is_atom, encoded), batch)
        return terms

    def scored(
        self,
        batch: Batch,
        blend: Blend,  # noqa: ARG002
        generator: torch.Generator,
    ) -> dict[str, Float[Tensor, ""]]:
        """Count what the terms score."""
        shown = self.draw(batch, generator)
        scored = view_scored(batch, shown, self.heads, self._views, "cosine")
        return scored if self.targets is None else scored | self.targets.scored(batch)

    @property
    def weights(self) -> dict[str, float]:
        """Return the weight of each term."""
        return self._views if self.targets is None else self._views | self.targets.weights

    @staticmethod
    def draw(batch: Batch, generator: torch.Generator) -> Blend:
        """Draw the modes; molecules without a geometry show 2D, and only 3D alone has noise."""
        _, own = molecule_generators(batch, generator)
        noise = draw_noise(batch, NOISE, own)
        mode = torch.cat([torch.rand(1, generator=rng) for rng in own]).to(noise.device)
        in_3d = batch.has_positions & (mode >= FRACTION_2D) & (mode < FRACTION_2D + FRACTION_3D)
        in_2d = ~batch.has_positions | (mode < FRACTION_2D)
        blend = show(batch, "both")
        for chosen, views in ((in_2d, "2d"), (in_3d, "3d")):
            shown = show(batch, views)
            blend = Blend(
                pairs=torch.where(chosen[:, None, None, None], shown.pairs, blend.pairs),
                atoms=torch.where(chosen[:, None, None], shown.atoms, blend.atoms),
                noise=blend.noise,
            )
        return replace(blend, noise=noise * in_3d[:, None, None])
