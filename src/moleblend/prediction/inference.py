"""Inference: apply a function of a batch to many molecules, in all their geometries."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from moleblend.chem.molecule import Molecule
from moleblend.model.batch import Batch, collate
from moleblend.model.blending import Blend, ShownViews, show

_PAIRS_AT_ONCE = 60_000
_MOLECULES_AT_ONCE = 64


def n_geometries(molecule: Molecule, views: ShownViews) -> int:
    """Count the geometries to evaluate: 1 without a geometry, or where no geometry is shown."""
    return 1 if views == "2d" else max(molecule.n_conformers, 1)


@torch.inference_mode()
def each_geometry(
    molecules: Sequence[Molecule],
    views: ShownViews,
    function: Callable[[list[int], Batch, Blend], Float[Tensor, "b w"]],
    width: int,
    device: torch.device | str,
) -> list[Float32[Tensor, "c w"]]:
    """Apply a function to every geometry of every molecule.

    Args:
        molecules: any number.
        views: the views that are shown.
        function: of the indices of the molecules in a batch, the batch, and its blend.
        width: number of values that the function gives per molecule.
        device: of the batches.

    Returns:
        For each molecule, one row per geometry (see `n_geometries`).
    """
    numbers = [n_geometries(molecule, views) for molecule in molecules]
    geometries = [(place, k) for place, number in enumerate(numbers) for k in range(number)]
    values = torch.zeros(len(geometries), width)
    for chosen in in_batches([molecules[place].n_atoms for place, _ in geometries]):
        places, conformers = map(list, zip(*(geometries[k] for k in chosen), strict=True))
        batch = collate([molecules[place] for place in places], conformers).to(device)
        values[chosen] = function(places, batch, show(batch, views)).float().cpu()
    return list(values.split(numbers))


def over_geometries(
    molecules: Sequence[Molecule],
    views: ShownViews,
    function: Callable[[list[int], Batch, Blend], Float[Tensor, "b w"]],
    width: int,
    device: torch.device | str,
) -> Float32[np.ndarray, "m w"]:
    """Apply a function to all molecules, averaged over the geometries of each.

    Arguments as of `each_geometry`.
    """
    means = np.zeros((len(molecules), width), np.float32)
    for row, values in enumerate(each_geometry(molecules, views, function, width, device)):
        means[row] = values.mean(0).numpy()
    return means


def in_batches(n_atoms: Sequence[int]) -> Iterator[list[int]]:
    """Group molecules of similar size into batches, to reduce padding and to limit memory.

    Args:
        n_atoms: of each molecule.

    Yields:
        Indices of the molecules of a batch.
    """
    batch: list[int] = []
    for place in np.argsort(n_atoms, kind="stable").tolist():
        is_full = len(batch) == _MOLECULES_AT_ONCE
        if batch and (is_full or (len(batch) + 1) * n_atoms[place] ** 2 > _PAIRS_AT_ONCE):
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch
