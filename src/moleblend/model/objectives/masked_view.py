"""One view of a molecule, hidden for some pairs and predicted there."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from moleblend.model.batch import Batch
from moleblend.model.blending import VIEWS, Blend, molecule_generators
from moleblend.model.heads import Model
from moleblend.model.objectives.config import ObjectiveConfig
from moleblend.model.objectives.loss import LossTerm, Objective
from moleblend.model.objectives.view_losses import view_scored, view_terms
from moleblend.model.pair_heads import HeadsConfig


class MaskedView(Objective):
    """Show a single view, hide it for a fraction of the pairs, and predict it for these pairs.

    A pair and its reverse are hidden together. Atoms show their degree with a 2D view, and their 3D
    centrality with the distance. Molecules without a geometry are not scored if the view is the
    distance.

    Args:
        config: the view, the fraction, and the weights of the losses.
        heads: what the model predicts.

    Reference:
        Masked prediction of one view, which the reviewers of MoleBLEND (ICLR 2024) asked for.
    """

    def __init__(self, config: ObjectiveConfig, heads: HeadsConfig) -> None:
        super().__init__()
        self.heads, self.view = heads, config.masked_view.view
        self.fraction = config.masked_view.fraction
        term = {"edge_path": "bonds", "distance": heads.geometry}.get(self.view, self.view)
        self._weights = {term: config.view_weights(heads).get(term, 1.0)}

    def forward(
        self,
        model: Model,
        batch: Batch,
        blend: Blend,  # noqa: ARG002
        generator: torch.Generator,
    ) -> dict[str, LossTerm]:
        """Encode what is left of the view, and score the hidden pairs."""
        shown, hidden = self.hide(batch, generator)
        encoded = model.encoder(batch, shown)
        return view_terms(model, batch, shown, encoded, self._weights, chosen_pairs=hidden)

    def scored(
        self, batch: Batch, blend: Blend, generator: torch.Generator
    ) -> dict[str, Float[Tensor, ""]]:
        """Count the hidden pairs."""
        _, hidden = self.hide(batch, generator)
        return view_scored(batch, blend, self.heads, self._weights, chosen_pairs=hidden)

    @property
    def weights(self) -> dict[str, float]:
        """Return the weight of the predicted view."""
        return self._weights

    def hide(self, batch: Batch, generator: torch.Generator) -> tuple[Blend, Bool[Tensor, "b n n"]]:
        """Draw the hidden pairs, and show the view of the others."""
        b, n = batch.is_atom.shape
        _, own = molecule_generators(batch, generator)
        hidden = torch.zeros(b, n, n, dtype=torch.bool)
        for row, (rng, k) in enumerate(zip(own, batch.is_atom.sum(1).tolist(), strict=True)):
            drawn = (torch.rand(k, k, generator=rng) < self.fraction).triu(1)
            hidden[row, :k, :k] = drawn | drawn.T
        hidden = hidden.to(batch.is_atom.device)
        in_3d = self.view == "distance"
        is_known = batch.has_positions if in_3d else torch.ones_like(batch.has_positions)
        pairs = torch.zeros(b, n, n, 3, dtype=torch.bool, device=hidden.device)
        pairs[..., VIEWS.index(self.view)] = ~hidden & is_known[:, None, None]
        atoms = torch.zeros(b, n, 2, dtype=torch.bool, device=hidden.device)
        atoms[..., int(in_3d)] = is_known[:, None]
        return Blend(pairs, atoms, torch.zeros_like(batch.positions)), hidden
