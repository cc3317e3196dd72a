"""Learn from molecules seen two ways at once: the 2D bond graph and the 3D geometry.

For every pair of atoms one view is shown (how many bonds apart, which bonds, or how far), and the
model predicts them all (MoleBLEND: Yu et al., ICLR 2024, arXiv:2307.06235).
"""

from importlib import import_module
from importlib.metadata import version
from typing import Any

from moleblend.environment import set_library_defaults

__version__ = version("moleblend")

set_library_defaults()  # before torch is imported

_PUBLIC = {
    "Predictor": "prediction.predictor",
    "embed": "prediction.predictor",
    "MoleBlendRegressor": "estimators",
    "MoleBlendClassifier": "estimators",
    "MoleBlendEmbedder": "estimators",
}

__all__ = ["__version__", *_PUBLIC]  # noqa: PLE0604 (they are strings)


def __getattr__(name: str) -> Any:  # noqa: ANN401
    """Import a public name when it is first asked for: `import moleblend` alone takes no time."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'moleblend' has no attribute {name!r}")
    return getattr(import_module(f"moleblend.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
