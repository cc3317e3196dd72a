"""Learn from molecules seen two ways at once: the 2D bond graph and the 3D geometry.

For every pair of atoms one view is shown (path length, bonds on the path, or distance), and the
model predicts all of them (MoleBLEND: Yu et al., ICLR 2024, arXiv:2307.06235).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from moleblend.environment import VERSION, set_library_defaults

if TYPE_CHECKING:
    from moleblend.chem.parsing import read_smiles
    from moleblend.data.splits import scaffold_split
    from moleblend.errors import (
        MissingFileError,
        ModelFileError,
        MoleblendError,
        MoleculeError,
        OutputError,
        SettingError,
        TableError,
        TooLargeError,
        TrainingError,
        WorkerError,
    )
    from moleblend.estimators import MoleBlendClassifier, MoleBlendEmbedder, MoleBlendRegressor
    from moleblend.finetuning.train import train
    from moleblend.model.checkpoint import load_model, save_model
    from moleblend.prediction.predictor import Predictor, embed
    from moleblend.prediction.views import predict_views
    from moleblend.pretraining.pretrain import pretrain

__version__ = VERSION

__all__ = [
    "MissingFileError",
    "ModelFileError",
    "MoleBlendClassifier",
    "MoleBlendEmbedder",
    "MoleBlendRegressor",
    "MoleblendError",
    "MoleculeError",
    "OutputError",
    "Predictor",
    "SettingError",
    "TableError",
    "TooLargeError",
    "TrainingError",
    "WorkerError",
    "__version__",
    "embed",
    "load_model",
    "predict_views",
    "pretrain",
    "read_smiles",
    "save_model",
    "scaffold_split",
    "train",
]

set_library_defaults()  # before torch is imported

_MODULES = {
    "MoleBlendClassifier": "estimators",
    "MoleBlendEmbedder": "estimators",
    "MoleBlendRegressor": "estimators",
    "MissingFileError": "errors",
    "ModelFileError": "errors",
    "MoleblendError": "errors",
    "MoleculeError": "errors",
    "OutputError": "errors",
    "SettingError": "errors",
    "TableError": "errors",
    "TooLargeError": "errors",
    "TrainingError": "errors",
    "WorkerError": "errors",
    "Predictor": "prediction.predictor",
    "embed": "prediction.predictor",
    "load_model": "model.checkpoint",
    "predict_views": "prediction.views",
    "pretrain": "pretraining.pretrain",
    "read_smiles": "chem.parsing",
    "save_model": "model.checkpoint",
    "scaffold_split": "data.splits",
    "train": "finetuning.train",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401
    """Import a public name on first use, so that `import moleblend` stays fast."""
    if name not in _MODULES:
        raise AttributeError(f"module 'moleblend' has no attribute {name!r}")
    return getattr(import_module(f"moleblend.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
