"""Complete views without blending: one is shown, the other is predicted."""

import torch
from jaxtyping import Float
from torch import Tensor

from moleblend.model.batch import Batch
from moleblend.model.blending import Blend, show
from moleblend.model.heads import Model
from moleblend.model.objectives.config import ObjectiveConfig
from moleblend.model.objectives.loss import LossTerm, Objective
from moleblend.model.objectives.view_losses import view_scored, view_terms
from moleblend.model.pair_heads import HeadsConfig


class CrossView(Objective):
    """Show all of 2D and predict 3D; optionally also show all of 3D and predict 2D.

    Molecules without a geometry are left out. With both directions the others are encoded twice.

    Args:
        config: the weights of the views.
        heads: what the model predicts.
        both: also predict 2D from 3D.

    Reference:
        Asked for by the reviewers of MoleBLEND (ICLR 2024). Generating 3D from 2D: Liu et al.,
        ICLR 2022, arXiv:2110.07728, in the space of coordinates; here in that of distances.
    """

    def __init__(self, config: ObjectiveConfig, heads: HeadsConfig, *, both: bool = True) -> None:
        super().__init__()
        self.heads = heads
        weights = config.view_weights(heads)
        self._from_2d = {k: w for k, w in weights.items() if k == heads.geometry}
        self._from_3d = {k: w for k, w in weights.items() if both and k in ("path_length", "bonds")}

    def forward(
        self,
        model: Model,
        batch: Batch,
        blend: Blend,  # noqa: ARG002
        generator: torch.Generator,  # noqa: ARG002
    ) -> dict[str, LossTerm]:
        """Encode the molecules once for each direction."""
        placed = batch.with_geometry()
        if placed is None:
            return {name: LossTerm.empty(model) for name in self.weights}
        terms = {}
        if self._from_2d:
            shown = show(placed, "2d")
            encoded = model.encoder(placed, shown)
            terms |= view_terms(model, placed, shown, encoded, self._from_2d)
        if self._from_3d:
            shown = show(placed, "3d")
            encoded = model.encoder(placed, shown)
            terms |= view_terms(model, placed, shown, encoded, self._from_3d)
        return terms

    def scored(
        self,
        batch: Batch,
        blend: Blend,
        generator: torch.Generator,  # noqa: ARG002
    ) -> dict[str, Float[Tensor, ""]]:
        """Count what the terms score."""
        placed = batch.with_geometry()
        if placed is None:
            return {name: torch.zeros((), device=batch.is_atom.device) for name in self.weights}
        return view_scored(placed, blend, self.heads, self.weights)

    @property
    def weights(self) -> dict[str, float]:
        """Return the weight of each term."""
        return self._from_2d | self._from_3d
