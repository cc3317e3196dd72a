"""Pair states tell pairs apart whose atoms are equal, and show nothing that is hidden."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from moleblend.chem.geometry import add_positions
from moleblend.chem.molecule import Molecule
from moleblend.chem.parsing import read_smiles
from moleblend.model.batch import Batch, collate
from moleblend.model.blending import BlendConfig, draw_blend, show
from moleblend.model.encoder import initialise
from moleblend.model.encoder_config import EncoderConfig
from moleblend.model.functional import pair_vectors
from moleblend.model.heads import HeadsConfig, Model, ModelConfig
from moleblend.model.objectives import ObjectiveConfig, blend_then_predict

CONFIG = ModelConfig(
    encoder=EncoderConfig(
        width=32, ffn_width=32, n_layers=2, n_heads=4, n_kernels=16, pair_width=8, max_atoms=64
    ),
    heads=HeadsConfig(pairs="states", hidden=32),
)
SYMMETRIC = {
    "benzene": "c1ccccc1",
    "naphthalene": "c1ccc2ccccc2c1",
    "p-xylene": "Cc1ccc(C)cc1",
    "octane": "CCCCCCCC",
    "cubane": "C12C3C4C1C5C2C3C45",
}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def molecules() -> list[Molecule]:
    return [add_positions(read_smiles(smiles), seed=0) for smiles in SYMMETRIC.values()]


def lively(config: ModelConfig = CONFIG) -> Model:
    torch.manual_seed(0)
    model = Model(config).eval()
    initialise(model, std=0.4)
    model.encoder.kernels.spread()
    return model


@torch.no_grad()
def distances(model: Model, batch: Batch, views) -> torch.Tensor:
    return model.predict_views(batch, show(batch, views)).geometry[..., 0]


def test_from_2d_alone_ortho_meta_and_para_differ_as_the_paths_do() -> None:
    batch = collate([read_smiles(SYMMETRIC["benzene"])])
    predicted = distances(lively(), batch, "2d")[0]
    by_path = [predicted[batch.path_length[0] == k] for k in (1, 2, 3)]
    for same in by_path:  # what a symmetry of the molecule exchanges gets one answer
        assert same.max() - same.min() < 1e-4
    middles = torch.stack([same.mean() for same in by_path])
    assert (middles[:, None] - middles).abs()[~torch.eye(3, dtype=torch.bool)].min() > 1e-2


def test_heads_that_read_atoms_only_cannot() -> None:
    """The fault that pair states repair, kept as long as the published heads are."""
    config = ModelConfig(encoder=replace(CONFIG.encoder, pair_width=0), heads=HeadsConfig(rank=4))
    batch = collate([read_smiles(SYMMETRIC["benzene"])])
    predicted = distances(lively(config), batch, "2d")[0][batch.is_pair[0]]
    assert predicted.max() - predicted.min() < 1e-4


@pytest.mark.parametrize("views", ["2d", "3d", "both"])
def test_symmetric_answers_are_symmetric_and_no_atom_is_away_from_itself(molecules, views) -> None:
    batch = collate(molecules)
    with torch.no_grad():
        found = lively().predict_views(batch, show(batch, views))
    assert torch.equal(found.path_length, found.path_length.transpose(1, 2))
    assert torch.equal(found.geometry, found.geometry.transpose(1, 2))
    assert not found.geometry[..., 0].diagonal(dim1=1, dim2=2).any()
    assert not torch.allclose(found.bonds, found.bonds.transpose(1, 2))


def test_a_hidden_view_changes_nothing(molecules) -> None:
    """With 2D shown the coordinates do not matter, with 3D shown the bonds do not."""
    model, batch = lively(), collate(molecules)
    moved = replace(batch, positions=batch.positions + torch.randn_like(batch.positions))
    assert torch.equal(distances(model, batch, "2d"), distances(model, moved, "2d"))
    other = replace(
        batch,
        path_length=torch.where(batch.path_length > 0, 3, batch.path_length).to(torch.int16),
        edge_path=torch.zeros_like(batch.edge_path),
        degree=torch.ones_like(batch.degree),
    )
    assert torch.equal(distances(model, batch, "3d"), distances(model, other, "3d"))


def test_in_a_blend_a_pair_starts_from_its_shown_view_alone(molecules) -> None:
    model, batch = lively(), collate(molecules)
    blend = draw_blend(
        batch, BlendConfig(unblended=(0.0, 0.0), noise=0.0), torch.Generator().manual_seed(1)
    )
    with torch.no_grad():
        kernels = model.encoder.kernels(batch, blend)
        before = model.encoder.relations(batch, blend, kernels)[:, 4:, 1:, 1:]
        kinds = batch.edge_path.clone()
        kinds[kinds > 0] = 1
        after = model.encoder.relations(replace(batch, edge_path=kinds), blend, kernels)
    is_same = (before == after[:, 4:, 1:, 1:]).all(1)
    assert is_same[~blend.pairs[..., 1]].all()
    assert not is_same[blend.pairs[..., 1] & (batch.path_length > 0)].all()


def test_a_molecule_alone_and_beside_a_larger_one_are_the_same(molecules) -> None:
    model, larger = lively(), add_positions(read_smiles("C" * 20), seed=0)
    alone, both = collate(molecules[:1]), collate([molecules[0], larger])
    n = molecules[0].n_atoms
    for views in ("2d", "3d", "both"):
        expected = distances(model, alone, views)[0]
        torch.testing.assert_close(distances(model, both, views)[0, :n, :n], expected)


def test_heads_and_encoder_have_to_fit() -> None:
    with pytest.raises(ValueError, match="need an encoder with a pair_width"):
        ModelConfig(encoder=EncoderConfig(), heads=HeadsConfig(pairs="states"))
    with pytest.raises(ValueError, match="predict distances, not directions"):
        ModelConfig(CONFIG.encoder, HeadsConfig(pairs="states", geometry="direction"))
    with pytest.raises(ValueError, match="got pair_width=-1, expected 0 or more"):
        EncoderConfig(pair_width=-1)


def test_with_both_views_shown_every_path_and_distance_is_learned(molecules) -> None:
    """On few molecules: what atom vectors cannot hold at any length of training, see above."""
    batch = collate(molecules)
    torch.manual_seed(0)
    still = replace(CONFIG.encoder, attention_dropout=0.0, activation_dropout=0.0)
    still = replace(still, stochastic_depth=0.0)
    model = Model(replace(CONFIG, encoder=still))
    blend = show(batch, "both")
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    rate = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.02, 300)
    for _ in range(300):
        optimiser.zero_grad()
        blend_then_predict(model, batch, blend, ObjectiveConfig(denoising=0.0)).total.backward()
        optimiser.step()
        rate.step()
    with torch.no_grad():
        found = model.eval().predict_views(batch, blend)
    lengths = (found.path_length.argmax(-1) + 1)[batch.is_pair]
    assert torch.equal(lengths, batch.path_length[batch.is_pair].long())
    true = pair_vectors(batch.positions).norm(dim=-1)
    error = (found.geometry[..., 0] - true).abs()[batch.is_pair]
    assert error.max() < 0.1  # Å
    assert np.isfinite(error.numpy()).all()


def test_masked_atoms_show_nothing_but_their_element(molecules) -> None:
    config = replace(
        CONFIG,
        encoder=replace(CONFIG.encoder, masks_features=True),
        heads=replace(CONFIG.heads, atom_features=True),
    )
    model, batch = lively(config), collate(molecules)
    blend = replace(show(batch, "3d"), masked=batch.is_atom)
    others = batch.atoms.clone()
    others[..., 1:] = 0
    changed = replace(batch, atoms=others, degree=torch.zeros_like(batch.degree))
    with torch.no_grad():
        found, same = (model.encoder(one, blend).atoms for one in (batch, changed))
        shown = model.encoder(changed, show(batch, "3d")).atoms
    assert torch.equal(found, same)
    assert not torch.allclose(found, shown)
    with pytest.raises(ValueError, match="need an encoder that masks_features"):
        replace(config, encoder=CONFIG.encoder)
