"""Pretraining objectives, a file each; all have the form of `loss.Objective`.

`blend_then_predict` is the published one. `masked_view`, `cross_view`, `denoising`,
`transformer_m` and `contrast` are the objectives that it is compared with on the same network.
`combined` makes the objectives that a recipe names and adds them up. `view_losses` and
`molecule_targets` hold the losses that several objectives share.
"""

from moleblend.model.objectives.blend_then_predict import blend_then_predict
from moleblend.model.objectives.combined import OBJECTIVES, CombinedObjective
from moleblend.model.objectives.config import ContrastConfig, MaskedViewConfig, ObjectiveConfig
from moleblend.model.objectives.constant_losses import constant_losses
from moleblend.model.objectives.loss import Loss, LossTerm, Objective
from moleblend.model.objectives.molecule_targets import MoleculeTargets
from moleblend.model.objectives.view_losses import bond_classes, path_classes

__all__ = [
    "OBJECTIVES",
    "CombinedObjective",
    "ContrastConfig",
    "Loss",
    "LossTerm",
    "MaskedViewConfig",
    "MoleculeTargets",
    "Objective",
    "ObjectiveConfig",
    "blend_then_predict",
    "bond_classes",
    "constant_losses",
    "path_classes",
]
