"""Molecules and their labels."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int8, Int64

from moleblend.chem.molecule import Molecule


@dataclass(frozen=True, eq=False)
class MoleculeDataset:
    """Molecules and their labels.

    Attributes:
        molecules: those that can be used.
        labels: in the unit of the file, or the number of a class; NaN where missing.
        censoring: 1 where the true value is at least the label, -1 where at most, else 0.
        features: what is joined to the property head, see `descriptors.molecule_features`.
    """

    molecules: list[Molecule]
    labels: Float64[np.ndarray, "n t"]
    censoring: Int8[np.ndarray, "n t"]
    features: Float32[np.ndarray, "n f"]

    def __len__(self) -> int:
        """Number of molecules."""
        return len(self.molecules)

    def subset(self, chosen: Int64[np.ndarray, " m"]) -> "MoleculeDataset":
        """Take some of them."""
        molecules = [self.molecules[k] for k in chosen]
        return MoleculeDataset(
            molecules, self.labels[chosen], self.censoring[chosen], self.features[chosen]
        )
