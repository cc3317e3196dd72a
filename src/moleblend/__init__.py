"""Learn from molecules seen two ways at once: the 2D bond graph and the 3D geometry.

For every pair of atoms one view is shown (how many bonds apart, which bonds, or how far), and the
model predicts them all (MoleBLEND: Yu et al., ICLR 2024, arXiv:2307.06235).
"""

import os
from importlib import import_module
from importlib.metadata import version
from typing import Any

__version__ = version("moleblend")

# Threads of torch look for each other before they sleep, by default so long that beside one busy
# core of two pretraining is forty times slower than on one thread; 1,000 looks cost 5 % at most on
# a quiet machine (benchmarks/results/thread_waiting.csv). OpenMP reads this once, when torch is
# imported.
if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
    os.environ["GOMP_SPINCOUNT"] = "1000"

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
