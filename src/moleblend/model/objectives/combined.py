"""The objectives of a run by name, and their sum."""

from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from moleblend.errors import SettingError
from moleblend.model.batch import Batch
from moleblend.model.blending import Blend
from moleblend.model.heads import Model, ModelConfig
from moleblend.model.objectives.blend_then_predict import BlendThenPredict
from moleblend.model.objectives.config import ObjectiveConfig
from moleblend.model.objectives.contrast import Contrast
from moleblend.model.objectives.cross_view import CrossView
from moleblend.model.objectives.denoising import Denoising
from moleblend.model.objectives.loss import Loss, LossTerm, Objective, weighted_sum
from moleblend.model.objectives.masked_view import MaskedView
from moleblend.model.objectives.molecule_targets import MoleculeTargets
from moleblend.model.objectives.transformer_m import TransformerM
from moleblend.model.pair_heads import HeadsConfig

_Value = TypeVar("_Value")
Make = Callable[[ObjectiveConfig, ModelConfig, MoleculeTargets | None], Objective]


def _heads(model: ModelConfig) -> HeadsConfig:
    if model.heads is None:
        raise SettingError("the model has no pretraining heads")
    return model.heads


OBJECTIVES: dict[str, Make] = {
    "blend_then_predict": lambda config, model, targets: BlendThenPredict(
        config, _heads(model), targets
    ),
    "masked_view": lambda config, model, _: MaskedView(config, _heads(model)),
    "cross_view": lambda config, model, _: CrossView(config, _heads(model)),
    "view_3d_from_2d": lambda config, model, _: CrossView(config, _heads(model), both=False),
    "denoising": lambda config, model, _: Denoising(config, _heads(model)),
    "transformer_m": lambda config, model, targets: TransformerM(config, _heads(model), targets),
    "contrast": lambda config, model, _: Contrast(config.contrast, model.encoder.width),
}
"""How each objective is made. Only the first of a run predicts the targets of the molecule."""


class CombinedObjective(Objective):
    """The sum of the objectives that a configuration names.

    With more than one, terms are named `objective/term`.

    Args:
        config: names and weights.
        model: configuration of the model that is trained.
        targets: further targets of the molecule's vector, predicted by the first objective.

    Raises:
        SettingError: the model has no pretraining heads, or an objective has no term with a weight.
    """

    def __init__(
        self, config: ObjectiveConfig, model: ModelConfig, targets: MoleculeTargets | None = None
    ) -> None:
        super().__init__()
        self.objectives = nn.ModuleDict(
            {
                name: OBJECTIVES[name](config, model, None if k else targets)
                for k, name in enumerate(config.names)
            }
        )
        empty = [name for name, objective in self._named() if not objective.weights]
        if empty:
            raise SettingError(f"the objective {empty[0]} has no loss with a weight above 0")

    def forward(
        self, model: Model, batch: Batch, blend: Blend, generator: torch.Generator
    ) -> dict[str, LossTerm]:
        """Compute the terms of all objectives."""
        state = generator.get_state()
        terms = {}
        for name, objective in self._named():
            generator.set_state(state)
            terms |= self._prefixed(name, objective(model, batch, blend, generator))
        return terms

    def scored(
        self, batch: Batch, blend: Blend, generator: torch.Generator
    ) -> dict[str, Float[Tensor, ""]]:
        """Compute the denominators of the terms of all objectives."""
        state = generator.get_state()
        scored = {}
        for name, objective in self._named():
            generator.set_state(state)
            scored |= self._prefixed(name, objective.scored(batch, blend, generator))
        return scored

    @property
    def weights(self) -> dict[str, float]:
        """Return the weights of the terms of all objectives."""
        weights = {}
        for name, objective in self._named():
            weights |= self._prefixed(name, objective.weights)
        return weights

    def loss(
        self,
        model: Model,
        batch: Batch,
        blend: Blend,
        generator: torch.Generator,
        step_scored: Mapping[str, Float[Tensor, ""]] | None = None,
    ) -> Loss:
        """Compute the weighted sum of all terms, see `weighted_sum`."""
        return weighted_sum(self(model, batch, blend, generator), self.weights, step_scored)

    def _named(self) -> list[tuple[str, Objective]]:
        return [
            (name, objective)
            for name, objective in self.objectives.items()
            if isinstance(objective, Objective)
        ]

    def _prefixed(self, name: str, values: Mapping[str, _Value]) -> dict[str, _Value]:
        if len(self.objectives) == 1:
            return dict(values)
        return {f"{name}/{term}": value for term, value in values.items()}
