"""Explaining the trees of a model, and joining their explanation to that of the networks.

The prediction of trees is attributed to their inputs along the path of the molecule, see
`TreeModel.contributions`. The contribution of an ECFP4 bit is distributed evenly over the
environments with this bit, and that of an environment over its atoms. Properties of the molecule,
and environments that it does not have, belong to no atom.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64

from moleblend.chem.descriptors import FEATURES, molecule_features
from moleblend.chem.fingerprints import N_BITS, Environments, environments
from moleblend.chem.molecule import Molecule
from moleblend.data.targets import Target
from moleblend.trees.averaging import to_average
from moleblend.trees.tree_model import TreeModel

N_PROPERTIES = FEATURES["properties"]


@dataclass(frozen=True, eq=False)
class TreeContributions:
    """Contributions of the inputs of trees to their share of a prediction.

    `base_value`, all `atoms`, all `properties` and `absent` sum to the share: the prediction of the
    trees in the scale of averages, times their weight.

    Attributes:
        base_value: value without contributions.
        atoms: of the environments of each atom.
        properties: of each property of the molecule, see `descriptors.PROPERTY_NAMES`.
        absent: of the environments that the molecule does not have.
    """

    base_value: float
    atoms: Float64[np.ndarray, " n"]
    properties: Float64[np.ndarray, " p"]
    absent: float

    @property
    def total(self) -> float:
        """The share of the prediction beyond the base value."""
        return float(self.atoms.sum() + self.properties.sum() + self.absent)


def explain_trees(
    models: Sequence[TreeModel], molecule: Molecule, target: Target
) -> TreeContributions:
    """Attribute the share that the trees of one target have in the prediction for a molecule.

    Args:
        models: trees of the target, with their weights; any number.
        molecule: one whose SMILES RDKit reads.
        target: a regression or binary target.

    Raises:
        MoleculeError: RDKit cannot read its SMILES.
    """
    base_value, absent = 0.0, 0.0
    atoms, properties = np.zeros(molecule.n_atoms), np.zeros(N_PROPERTIES)
    known = environments(molecule) if models else None
    for model in models:
        assert known is not None
        x = molecule_features([molecule.smiles], model.inputs)[0]
        without, of_inputs = _in_scale_of_averages(model, x, target)
        base_value += model.weight * without
        start = 0
        for kind in model.inputs:
            part = model.weight * of_inputs[start : start + FEATURES[kind]]
            if kind == "ecfp4":
                of_atoms = _on_atoms(part, known)
                atoms += of_atoms
                absent += float(part.sum() - of_atoms.sum())
            else:
                properties += part
            start += FEATURES[kind]
    return TreeContributions(base_value, atoms, properties, absent)


def _in_scale_of_averages(
    model: TreeModel, x: Float32[np.ndarray, " f"], target: Target
) -> tuple[float, Float64[np.ndarray, " f"]]:
    """Return the base value and contributions in log-odds for a class, else as they are.

    The log-odds are no sum over trees: the contributions to the share of votes are scaled so that
    they sum to the difference of the log-odds.
    """
    without, total = model.contributions(x)
    start, of_inputs = float(without[0]), total[:, 0]
    if target.kind == "regression":
        return start, of_inputs
    end = float(to_average(model.predict(x[None], target), target)[0, 0])
    if not model.header.is_boosted:
        start = float(to_average(without[None], target)[0, 0])
    difference = of_inputs.sum()
    if abs(difference) < np.finfo(np.float32).eps:
        return end, np.zeros(len(x))
    return start, of_inputs * ((end - start) / difference)


def _on_atoms(of_bits: Float64[np.ndarray, " f"], known: Environments) -> Float64[np.ndarray, " n"]:
    """Distribute the contributions of the bits of a molecule over the atoms."""
    n_equal = np.bincount(known.bits, minlength=N_BITS)
    of_each = of_bits[known.bits] / n_equal[known.bits]
    shares = known.atoms / known.atoms.sum(1, keepdims=True)
    return of_each @ shares
