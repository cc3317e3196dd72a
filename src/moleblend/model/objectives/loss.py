"""Losses: terms that are additive over micro-batches, their weighted sum, and objectives."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from moleblend.model.batch import Batch
from moleblend.model.blending import Blend
from moleblend.model.heads import Model

_LEAST = 1e-8
"""Smallest denominator of a loss. Where nothing is scored, the error is 0 / `_LEAST` = 0."""


@dataclass(frozen=True, eq=False)
class LossTerm:
    """A loss as numerator and denominator, both of which are additive over micro-batches.

    Attributes:
        error: the summed error.
        scored: the denominator: the number of scored pairs, atoms, molecules or values, or the
            summed variance of the noise.
    """

    error: Float[Tensor, ""]
    scored: Float[Tensor, ""]

    @classmethod
    def of(cls, values: Float[Tensor, "*s"], is_scored: Bool[Tensor, "*s"]) -> "LossTerm":
        """Sum the scored values and count them."""
        return cls(torch.where(is_scored, values, 0).sum(), is_scored.sum().float())

    @classmethod
    def empty(cls, model: nn.Module) -> "LossTerm":
        """Return a term that scores nothing and whose gradient is 0."""
        nothing = next(model.parameters()).sum() * 0
        return cls(nothing, torch.zeros_like(nothing))

    @property
    def mean(self) -> Float[Tensor, ""]:
        """Return the loss; 0 with gradient 0 where nothing is scored."""
        return self.error / self.scored.clamp(min=_LEAST)


@dataclass(frozen=True, eq=False)
class Loss:
    """A weighted total and its unweighted terms.

    Attributes:
        total: the weighted sum, which training minimises.
        terms: the loss of each term by name. A term with nothing to score is 0.
    """

    total: Float[Tensor, ""]
    terms: dict[str, Float[Tensor, ""]]


def weighted_sum(
    terms: Mapping[str, LossTerm],
    weights: Mapping[str, float],
    step_scored: Mapping[str, Float[Tensor, ""]] | None = None,
) -> Loss:
    """Compute total = sum over terms of weight * error / denominator.

    Args:
        terms: of a batch, or of a micro-batch.
        weights: one for each term.
        step_scored: for a micro-batch, the denominators summed over all micro-batches of the step.
            Losses and gradients of the micro-batches then add up to those of the large batch.
    """
    scored = step_scored or {name: term.scored for name, term in terms.items()}
    losses = {name: term.error / scored[name].clamp(min=_LEAST) for name, term in terms.items()}
    total = torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()
    return Loss(total=total, terms=losses)


class Objective(nn.Module, ABC):
    """What pretraining minimises. Its own layers and buffers are trained, but not published.

    Random draws depend only on the state of the generator and on the places of the molecules in
    the step's batch (`Batch.places`), so that micro-batches draw what the large batch would draw.
    """

    @abstractmethod
    def forward(
        self, model: Model, batch: Batch, blend: Blend, generator: torch.Generator
    ) -> dict[str, LossTerm]:
        """Compute the terms of a batch.

        Args:
            model: the model that is trained.
            batch: b molecules.
            blend: the blend that the run has drawn. Objectives without blending ignore it.
            generator: source of all random choices except dropout.
        """

    @abstractmethod
    def scored(
        self, batch: Batch, blend: Blend, generator: torch.Generator
    ) -> dict[str, Float[Tensor, ""]]:
        """Compute the denominator of each term without the model.

        With the same arguments they are those of the terms of `forward`.
        """

    @property
    @abstractmethod
    def weights(self) -> dict[str, float]:
        """Return the weight of each term."""
