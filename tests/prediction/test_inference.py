from dataclasses import replace

import numpy as np
import torch

from moleblend.chem.parsing import read_smiles
from moleblend.model.batch import Batch
from moleblend.model.blending import Blend
from moleblend.prediction.inference import each_geometry, in_batches, n_geometries, over_geometries


def placed(smiles: str, *heights: float):
    """A molecule whose geometries lie at these heights; without any, it has none."""
    molecule = read_smiles(smiles)
    positions = [np.full((molecule.n_atoms, 3), height, np.float32) for height in heights]
    return replace(molecule, positions=np.stack(positions)) if heights else molecule


MOLECULES = [placed("CCO", 1.0, 3.0), placed("C"), placed("CC", 5.0), placed("CCCC", 2.0, 4.0, 9.0)]


def height(places: list[int], batch: Batch, _: Blend) -> torch.Tensor:
    """Which molecule it is, and how high its first atom lies."""
    return torch.stack([torch.tensor(places).float(), batch.positions[:, 0, 2]], 1)


def test_every_geometry_of_every_molecule_is_looked_at_in_its_place() -> None:
    found = each_geometry(MOLECULES, "both", height, 2, "cpu")
    expected = [[[0, 1], [0, 3]], [[1, 0]], [[2, 5]], [[3, 2], [3, 4], [3, 9]]]
    assert [one.tolist() for one in found] == expected
    means = over_geometries(MOLECULES, "both", height, 2, "cpu")
    assert means.tolist() == [[0, 2], [1, 0], [2, 5], [3, 5]]


def test_where_no_geometry_is_shown_one_look_is_enough() -> None:
    assert [n_geometries(molecule, "2d") for molecule in MOLECULES] == [1, 1, 1, 1]
    assert [n_geometries(molecule, "3d") for molecule in MOLECULES] == [2, 1, 1, 3]
    assert [len(one) for one in each_geometry(MOLECULES, "2d", height, 2, "cpu")] == [1, 1, 1, 1]


def test_no_molecule_is_no_answer() -> None:
    assert each_geometry([], "both", height, 2, "cpu") == []
    assert over_geometries([], "both", height, 2, "cpu").shape == (0, 2)


def test_batches_hold_every_molecule_once_and_stay_small() -> None:
    sizes = np.random.default_rng(0).integers(1, 300, 400).tolist()
    sizes.append(1000)
    batches = list(in_batches(sizes))
    assert sorted(place for batch in batches for place in batch) == list(range(401))
    for batch in batches:
        largest = max(sizes[place] for place in batch)
        assert len(batch) == 1 or len(batch) * largest**2 <= 60_000
        assert len(batch) <= 64
    assert list(in_batches([])) == []
