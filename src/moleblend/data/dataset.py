"""Molecules and their labels."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int8, Int64

from moleblend.chem.molecule import Molecule


@dataclass(frozen=True, eq=False)
class MoleculeDataset:
    """Molecules and their labels.

    Attributes:
        molecules: the usable molecules.
        labels: in the unit of the file, or class numbers; NaN if missing.
        censoring: 1 if the true value is at least the label, -1 if at most, else 0.
        features: additional inputs of the property head, see `descriptors.molecule_features`.
        tree_inputs: inputs of trees; None if none are trained.
    """

    molecules: list[Molecule]
    labels: Float64[np.ndarray, "n t"]
    censoring: Int8[np.ndarray, "n t"]
    features: Float32[np.ndarray, "n f"]
    tree_inputs: Float32[np.ndarray, "n g"] | None = None

    def __len__(self) -> int:
        """Number of molecules."""
        return len(self.molecules)

    def subset(self, rows: Int64[np.ndarray, " m"]) -> "MoleculeDataset":
        """Return the molecules of these rows, with their labels and features."""
        molecules = [self.molecules[row] for row in rows]
        inputs = self.tree_inputs
        return MoleculeDataset(
            molecules,
            self.labels[rows],
            self.censoring[rows],
            self.features[rows],
            None if inputs is None else inputs[rows],
        )
