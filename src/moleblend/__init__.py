"""Learn from molecules seen two ways at once: the 2D bond graph and the 3D geometry.

For every pair of atoms one view is shown (how many bonds apart, which bonds, or how far), and the
model predicts them all (MoleBLEND: Yu et al., ICLR 2024, arXiv:2307.06235).
"""

from importlib.metadata import version

__version__ = version("moleblend")

__all__ = ["__version__"]
