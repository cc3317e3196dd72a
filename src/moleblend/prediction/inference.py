"""A function of a batch applied to many molecules, in each of their geometries."""

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
    """How many geometries a molecule is looked at in; without any, or where none is shown, once."""
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
        views: what is shown of them.
        function: of the places of the molecules of a batch, the batch, and what is shown of it.
        width: of what the function gives.
        device: where batches are put.

    Returns:
        For each molecule a row for each of its `n_geometries`.
    """
    numbers = [n_geometries(molecule, views) for molecule in molecules]
    asked = [(place, k) for place, number in enumerate(numbers) for k in range(number)]
    found = torch.zeros(len(asked), width)
    for chosen in in_batches([molecules[place].n_atoms for place, _ in asked]):
        places, conformers = map(list, zip(*(asked[k] for k in chosen), strict=True))
        batch = collate([molecules[place] for place in places], conformers).to(device)
        found[chosen] = function(places, batch, show(batch, views)).float().cpu()
    return list(found.split(numbers))


def over_geometries(
    molecules: Sequence[Molecule],
    views: ShownViews,
    function: Callable[[list[int], Batch, Blend], Float[Tensor, "b w"]],
    width: int,
    device: torch.device | str,
) -> Float32[np.ndarray, "m w"]:
    """Apply a function to all molecules; of several geometries the mean is taken.

    Arguments as of `each_geometry`.
    """
    means = np.zeros((len(molecules), width), np.float32)
    for row, found in enumerate(each_geometry(molecules, views, function, width, device)):
        means[row] = found.mean(0).numpy()
    return means


def in_batches(n_atoms: Sequence[int]) -> Iterator[list[int]]:
    """Group molecules of similar size, so that little is padded and memory stays bounded.

    Args:
        n_atoms: of each molecule.

    Yields:
        Places of the molecules of a batch.
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
