from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from moleblend.chem.geometry import add_positions
from moleblend.chem.molecule import MoleculeError
from moleblend.chem.parsing import read_smiles
from moleblend.model.encoder import initialise
from moleblend.model.encoder_config import EncoderConfig
from moleblend.model.heads import HeadsConfig, Model, ModelConfig
from moleblend.prediction.views import PredictedViews, predict_views

CONFIGS = {
    "atoms": ModelConfig(
        encoder=EncoderConfig(width=16, ffn_width=16, n_layers=1, n_heads=2, n_kernels=8),
        heads=HeadsConfig(rank=4),
    ),
    "states": ModelConfig(
        encoder=EncoderConfig(
            width=16, ffn_width=16, n_layers=1, n_heads=2, n_kernels=8, pair_width=4
        ),
        heads=HeadsConfig(pairs="states", hidden=8),
    ),
}
SMILES = ["c1ccccc1", "C", "CC(=O)[O-].[NH4+]", "OCC", "C" * 30]


@pytest.fixture(params=CONFIGS)
def model(request) -> Model:
    torch.manual_seed(0)
    model = Model(CONFIGS[request.param])
    initialise(model, std=0.4)
    model.encoder.kernels.spread()
    return model


def assert_equal(one: PredictedViews, other: PredictedViews) -> None:
    for field in fields(PredictedViews):
        ours, theirs = getattr(one, field.name), getattr(other, field.name)
        np.testing.assert_allclose(ours, theirs, atol=1e-5, err_msg=field.name)


def test_every_molecule_has_a_record_in_order_and_as_if_alone(model) -> None:
    found = predict_views(SMILES, model=model)
    assert [len(one.distance) for one in found] == [6, 1, 5, 3, 30]
    for smiles, one in zip(SMILES, found, strict=True):
        assert_equal(one, predict_views([smiles], model=model)[0])


def test_matrices_are_what_they_say(model) -> None:
    for one in predict_views(SMILES, model=model):
        n = len(one.distance)
        off = ~np.eye(n, dtype=bool)
        for matrix in (one.path_length, one.path_probability, one.bond_probability, one.distance):
            assert np.array_equal(matrix, matrix.T)
        assert (one.path_length[off] >= 1).all()
        assert (one.path_length[off] <= 11).all()
        assert (one.distance[off] > 0).all()
        assert not one.path_length[~off].any()
        assert not one.distance[~off].any()
        assert not one.bond_probability[~off].any()
        assert (one.path_probability >= one.bond_probability).all()
        # The path is one bond exactly where that is the most probable length.
        is_bond = one.bond_probability == one.path_probability
        assert np.array_equal(one.path_length[off] == 1, is_bond[off])
        assert (one.bond_type < 5).all()
        assert ((one.bond_type_probability > 0.2 - 1e-6) & (one.bond_type_probability <= 1)).all()


def test_what_is_shown_matters_and_the_mode_of_the_model_does_not(model) -> None:
    molecule = add_positions(read_smiles("CC(=O)Nc1ccccc1"), seed=0)
    distances = [
        predict_views([molecule], show=views, model=model.train())[0].distance
        for views in ("2d", "3d", "both")
    ]
    assert model.training
    assert not np.allclose(distances[0], distances[1])
    assert not np.allclose(distances[1], distances[2])
    assert np.array_equal(
        predict_views([molecule], show="3d", model=model.eval())[0].distance, distances[1]
    )


def test_what_cannot_be_shown_or_predicted_is_one_sentence(model) -> None:
    with pytest.raises(MoleculeError, match=r"^ethanol: no geometry, but show='3d' needs one$"):
        predict_views([read_smiles("OCC", id="ethanol")], show="3d", model=model)
    with pytest.raises(MoleculeError, match="not a valid SMILES"):
        predict_views(["C1CC"], model=model)
    assert predict_views([], model=model) == []
    few = replace(model.config, encoder=replace(model.config.encoder, max_atoms=2))
    with pytest.raises(ValueError, match="CCC: 3 atoms, the model takes at most 2"):
        predict_views(["CCC"], model=Model(few))
    without = Model(ModelConfig(encoder=EncoderConfig(width=16, n_heads=2), heads=None))
    with pytest.raises(ValueError, match="no pretraining heads"):
        predict_views(["C"], model=without)
    with pytest.raises(ValueError, match="predicts directions, distances are needed"):
        predict_views(["C"], model=Model(ModelConfig(heads=HeadsConfig(geometry="direction"))))


def test_the_packaged_model_predicts_bonds_from_the_geometry() -> None:
    molecule = add_positions(read_smiles("CC(=O)OC"), seed=0)
    found = predict_views([molecule], show="3d")[0]
    bonded = {tuple(pair) for pair in np.argwhere(np.triu(found.path_length == 1)).tolist()}
    assert bonded == {tuple(pair) for pair in molecule.bonds.tolist()}
