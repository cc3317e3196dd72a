"""Predicted views of molecules: path lengths, bonds and distances of all pairs of atoms."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Int16, UInt8

from moleblend.chem.molecule import Molecule, MoleculeError
from moleblend.chem.parsing import read_smiles
from moleblend.config import check_choice, shown_value
from moleblend.data.containers import read_container
from moleblend.errors import SettingError
from moleblend.model import checkpoint
from moleblend.model.batch import collate
from moleblend.model.blending import ShownViews, show
from moleblend.model.heads import Model
from moleblend.prediction.inference import in_batches

BOND_TYPES = ("single", "double", "triple", "aromatic", "other")
"""Names of the numbers in `PredictedViews.bond_type`."""


@dataclass(frozen=True, eq=False)
class PredictedViews:
    """What a pretrained model predicts of every pair of atoms of one molecule.

    Atoms are in the order of `Molecule.atoms`; `Molecule.source_atoms` gives their places in the
    input.

    Attributes:
        path_length: most probable number of bonds on the shortest path; 0 of an atom to itself. The
            largest number that the model knows (11 by default) means "this long or longer".
        path_probability: its probability; 1 of an atom to itself.
        bond_probability: probability that the two atoms are bonded.
        bond_type: most probable type of the first bond on the path from i to j, a number of
            `BOND_TYPES`; the type of the bond between i and j where they are bonded.
        bond_type_probability: its probability, given that there is such a bond.
        distance: in Å.
    """

    path_length: Int16[np.ndarray, "n n"]
    path_probability: Float32[np.ndarray, "n n"]
    bond_probability: Float32[np.ndarray, "n n"]
    bond_type: UInt8[np.ndarray, "n n"]
    bond_type_probability: Float32[np.ndarray, "n n"]
    distance: Float32[np.ndarray, "n n"]


@torch.inference_mode()
def predict_views(
    molecules: Sequence[str] | Sequence[Molecule],
    show: ShownViews = "2d",
    model: str | Path | Model = "packaged",
) -> list[PredictedViews]:
    """Predict paths, bonds and distances of all pairs of atoms from the views that are shown.

    Args:
        molecules: SMILES or molecules. For `3d` and `both` each needs a geometry, of which the
            first is shown.
        show: the views that the model sees: `2d`, `3d`, or `both`.
        model: a pretrained model, its file, or `packaged` for the one in the package.

    Returns:
        One record for each molecule, in their order.

    Raises:
        MoleculeError: a SMILES cannot be read, or a molecule has no geometry although it is to be
            shown; the message names the molecule.
        SettingError: the model has no pretraining heads, it predicts directions instead of
            distances, or a molecule has more atoms than it takes.
        MissingFileError: there is no such model file.
    """
    check_choice("show", show, ShownViews)
    network = model if isinstance(model, Model) else checkpoint.load(checkpoint.locate(model))
    heads, encoder = network.config.heads, network.config.encoder
    if heads is None:
        raise SettingError(f"{model}: the model has no pretraining heads, so it predicts no views")
    if heads.geometry != "distance":
        raise SettingError(f"{model}: the model predicts directions, distances are needed")
    records = [
        read_smiles(one, features=encoder.features) if isinstance(one, str) else one
        for one in read_container(molecules)
    ]
    for place, molecule in enumerate(records):
        if not isinstance(molecule, Molecule):
            raise MoleculeError(
                f"row {place + 1}: got {shown_value(molecule)}, expected a SMILES or a molecule"
            )
        if show != "2d" and not molecule.n_conformers:
            raise MoleculeError(f"{molecule.id}: no geometry, but show={show!r} needs one")
        if molecule.n_atoms > encoder.max_atoms:
            raise SettingError(
                f"{molecule.id}: {molecule.n_atoms} atoms, the model takes at most "
                f"{encoder.max_atoms}"
            )
    was_training = network.training
    network.eval()
    predicted: dict[int, PredictedViews] = {}
    for places in in_batches([molecule.n_atoms for molecule in records]):
        chosen = [records[place] for place in places]
        predicted |= dict(zip(places, _predict(network, chosen, show), strict=True))
    network.train(was_training)
    return [predicted[place] for place in range(len(records))]


def _predict(model: Model, molecules: list[Molecule], views: ShownViews) -> list[PredictedViews]:
    heads = model.config.heads
    assert heads is not None
    device = next(model.parameters()).device
    batch = collate(molecules).to(device)
    found = model.predict_views(batch, show(batch, views))
    paths = found.path_length.float().softmax(-1)
    paths = (paths + paths.transpose(1, 2)) / 2
    path_probability, path_class = paths.max(-1)
    # The bond classes of the first hop, summed over stereo and conjugation.
    of_types = found.bonds[..., 0, :].float().softmax(-1).unflatten(-1, heads.bond_vocabulary)
    type_probability, bond_type = of_types.sum((-1, -2)).max(-1)
    diagonal = torch.eye(batch.is_atom.shape[1], dtype=torch.bool, device=device)
    distance = found.geometry[..., 0].masked_fill(diagonal, 0.0)
    tensors = (
        (path_class + 1).masked_fill(diagonal, 0).to(torch.int16),
        path_probability.masked_fill(diagonal, 1.0),
        paths[..., 0].masked_fill(diagonal, 0.0),
        bond_type.to(torch.uint8),
        type_probability,
        distance.float(),
    )
    arrays = [tensor.cpu().numpy() for tensor in tensors]
    return [
        PredictedViews(*(array[row, : one.n_atoms, : one.n_atoms].copy() for array in arrays))
        for row, one in enumerate(molecules)
    ]
