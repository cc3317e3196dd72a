"""The published objective: predict all views of all pairs from one view of each."""

import torch
from jaxtyping import Float
from torch import Tensor

from moleblend.model.batch import Batch
from moleblend.model.blending import Blend
from moleblend.model.heads import Model
from moleblend.model.objectives.config import ObjectiveConfig
from moleblend.model.objectives.loss import Loss, LossTerm, Objective, weighted_sum
from moleblend.model.objectives.molecule_targets import MoleculeTargets
from moleblend.model.objectives.view_losses import view_scored, view_terms
from moleblend.model.pair_heads import HeadsConfig


def blend_then_predict(model: Model, batch: Batch, blend: Blend, config: ObjectiveConfig) -> Loss:
    """Predict all views of all pairs from one view of each, and the noise from the noisy positions.

    Every pair is scored, whether the predicted view was shown or hidden. If the heads include
    descriptors, they are predicted from the molecule's vector (Huber loss).

    Args:
        model: with pretraining heads.
        batch: b molecules; those without positions are scored in the 2D losses only.
        blend: the views that the encoder is shown.
        config: the weights.

    Reference:
        Yu et al., ICLR 2024, arXiv:2307.06235, section 3.3.
    """
    heads = model.config.heads or HeadsConfig()
    weights = config.view_weights(heads)
    encoded = model.encoder(batch, blend)
    terms = view_terms(model, batch, blend, encoded, weights, config.noise_error)
    return weighted_sum(terms, weights)


class BlendThenPredict(Objective):
    """`blend_then_predict`, and optional targets of the molecule's vector.

    Args:
        config: the weights.
        heads: what the model predicts.
        targets: further targets of the molecule's vector; None for none.
    """

    def __init__(
        self, config: ObjectiveConfig, heads: HeadsConfig, targets: MoleculeTargets | None = None
    ) -> None:
        super().__init__()
        self.config, self.heads, self.targets = config, heads, targets

    def forward(
        self,
        model: Model,
        batch: Batch,
        blend: Blend,
        generator: torch.Generator,  # noqa: ARG002
    ) -> dict[str, LossTerm]:
        """Encode the blend once and compute all terms."""
        encoded = model.encoder(batch, blend)
        views = self.config.view_weights(self.heads)
        terms = view_terms(model, batch, blend, encoded, views, self.config.noise_error)
        if self.targets is not None:
            terms |= self.targets(model.read_out(batch.is_atom, encoded), batch)
        return terms

    def scored(
        self,
        batch: Batch,
        blend: Blend,
        generator: torch.Generator,  # noqa: ARG002
    ) -> dict[str, Float[Tensor, ""]]:
        """Count what the terms score."""
        views = self.config.view_weights(self.heads)
        scored = view_scored(batch, blend, self.heads, views, self.config.noise_error)
        return scored if self.targets is None else scored | self.targets.scored(batch)

    @property
    def weights(self) -> dict[str, float]:
        """Return the weights of the views and of the molecule's targets."""
        weights = self.config.view_weights(self.heads)
        return weights if self.targets is None else weights | self.targets.weights
