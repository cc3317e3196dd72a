"""Contrast of 2D and 3D: a molecule's two vectors are more alike than those of two molecules."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from moleblend.model.batch import Batch
from moleblend.model.blending import Blend, show
from moleblend.model.encoder import initialise
from moleblend.model.heads import Model
from moleblend.model.objectives.config import ContrastConfig
from moleblend.model.objectives.loss import LossTerm, Objective


class Contrast(Objective):
    """Encode each molecule in 2D and in 3D, and find the partner among the molecules of the batch.

    loss = mean over molecules i of (l(u_i, v) + l(v_i, u)) / 2, where
    l(u_i, v) = -log(exp(cos(u_i, v_i) / T) / sum over j of exp(cos(u_i, v_j) / T)), and u and v are
    the projected vectors of 2D and 3D. The other molecules are those of the same micro-batch.
    Molecules without a geometry are left out; a molecule alone costs 0.

    With a weight on `reconstruction`, the vector of each view is also predicted from the other's:
    the squared error, without a gradient to the target.

    Args:
        config: temperature, width of the projections, and weights.
        width: channels of the molecule's vector.

    Reference:
        3D InfoMax, Stärk et al., ICML 2022, arXiv:2110.04126; GraphMVP, Liu et al., ICLR 2022,
        arXiv:2110.07728 (also the reconstruction).
    """

    def __init__(self, config: ContrastConfig, width: int) -> None:
        super().__init__()
        self.config = config
        self.project_2d, self.project_3d = (
            nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, config.width))
            for _ in range(2)
        )
        self.to_3d = self.to_2d = None
        if config.reconstruction:
            self.to_3d, self.to_2d = (
                nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
                for _ in range(2)
            )
        initialise(self)

    def forward(
        self,
        model: Model,
        batch: Batch,
        blend: Blend,  # noqa: ARG002
        generator: torch.Generator,  # noqa: ARG002
    ) -> dict[str, LossTerm]:
        """Encode the molecules twice."""
        placed = batch.with_geometry()
        if placed is None:
            return {name: LossTerm.empty(model) for name in self.weights}
        flat, solid = (model.embed(placed, show(placed, views)).float() for views in ("2d", "3d"))
        n = torch.tensor(float(len(placed)), device=flat.device)
        with torch.autocast(flat.device.type, enabled=False):
            terms = {"contrast": LossTerm(self._contrast(flat, solid) * n, n)}
            if self.to_3d is not None and self.to_2d is not None:
                errors = [
                    (self.to_3d(flat) - solid.detach()).square().mean(1),
                    (self.to_2d(solid) - flat.detach()).square().mean(1),
                ]
                terms["reconstruction"] = LossTerm(torch.stack(errors).mean(0).sum(), n)
        return terms

    def scored(
        self,
        batch: Batch,
        blend: Blend,  # noqa: ARG002
        generator: torch.Generator,  # noqa: ARG002
    ) -> dict[str, Float[Tensor, ""]]:
        """Count the molecules with a geometry."""
        return {name: batch.has_positions.sum().float() for name in self.weights}

    @property
    def weights(self) -> dict[str, float]:
        """Return the weight of each term."""
        weights = {"contrast": self.config.weight, "reconstruction": self.config.reconstruction}
        return {name: weight for name, weight in weights.items() if weight > 0}

    def _contrast(self, flat: Float[Tensor, "b d"], solid: Float[Tensor, "b d"]) -> Tensor:
        u = F.normalize(self.project_2d(flat), dim=1)
        v = F.normalize(self.project_3d(solid), dim=1)
        similarity = u @ v.T / self.config.temperature
        partner = torch.arange(len(u), device=u.device)
        both = F.cross_entropy(similarity, partner) + F.cross_entropy(similarity.T, partner)
        return both / 2
