import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from moleblend.chem.molecule import N_DESCRIPTORS
from moleblend.chem.parsing import read_smiles
from moleblend.data.targets import Target
from moleblend.model.batch import collate
from moleblend.model.blending import Blend, BlendConfig, draw_blend, show
from moleblend.model.encoder import initialise
from moleblend.model.encoder_config import EncoderConfig
from moleblend.model.heads import DescriptorHead, Model, ModelConfig
from moleblend.model.pair_heads import Direction, Distance, HeadsConfig, OuterProduct, unit_vectors

TARGETS = (Target("gap", "regression", unit="eV", mean=5.0, scale=2.0), Target("toxic", "binary"))
CONFIGS = {
    "default": ModelConfig(
        encoder=EncoderConfig(width=16, ffn_width=24, n_layers=1, n_heads=4, n_kernels=8),
        heads=HeadsConfig(rank=4),
        targets=TARGETS,
        head_dropout=0.5,
    ),
    "published": ModelConfig(
        encoder=EncoderConfig.published(width=16, ffn_width=24, n_layers=1, n_heads=4, n_kernels=8),
        heads=replace(HeadsConfig.published(), rank=4),
        targets=TARGETS,
        readout="cls",
    ),
}


def lively(config):
    """A model in evaluation mode, whose weights are large enough that each of them matters."""
    torch.manual_seed(0)
    model = Model(config)
    initialise(model, std=0.6)
    model.encoder.kernels.spread()
    return model.eval()


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture(params=CONFIGS)
def model(request):
    return lively(CONFIGS[request.param])


def placed(smiles):
    molecule = read_smiles(smiles)
    positions = np.random.default_rng(0).normal(scale=2, size=(1, molecule.n_atoms, 3))
    return replace(molecule, positions=positions.astype(np.float32))


def drawn(batch):
    return draw_blend(batch, BlendConfig(), torch.Generator().manual_seed(0))


MIXED = collate([placed("CC(N)C=O"), read_smiles("CC"), placed("C"), placed("[Na+].[Cl-]")])


def outer_product(head, atoms):
    """Row and column vectors, and their outer product as it would stand: [b n n rank^2]."""
    rows = head.row_norm(F.gelu(head.row(atoms)))
    columns = head.column_norm(F.gelu(head.column(atoms)))
    return (rows[:, :, None, :, None] * columns[:, None, :, None, :]).flatten(3)


@pytest.mark.parametrize("head", [OuterProduct(8, 4, 7), Distance(8, 4), Direction(8, 4, hidden=9)])
def test_pair_heads_are_linear_maps_of_the_outer_product(head):
    initialise(head, std=0.6)
    atoms = torch.randn(2, 5, 8)
    expected = head.linear(outer_product(head, atoms))
    if isinstance(head, Direction):
        expected = head.axes(expected)
    elif isinstance(head, Distance):
        expected = F.softplus((expected + expected.transpose(1, 2)) / 2 + 3)
    torch.testing.assert_close(head(atoms), expected, rtol=1e-4, atol=1e-5)


def test_distances_are_symmetric_and_positive():
    head = Distance(8, 4)
    initialise(head, std=3.0)
    distance = head(torch.randn(3, 6, 8))
    torch.testing.assert_close(distance, distance.transpose(1, 2), rtol=1e-6, atol=0)
    assert (distance >= 0).all()
    assert distance.max() > 10  # the weights are large enough for logits of either sign
    assert distance.min() < 1


def test_distances_start_near_an_ordinary_one():
    with torch.no_grad():
        distances = Model(ModelConfig()).eval().predict_views(MIXED, drawn(MIXED)).geometry
    assert 0.5 < distances.min() < distances.max() < 6


def test_noise_is_a_weighted_sum_of_directions(model):
    batch, blend = MIXED, drawn(MIXED)
    encoded = model.encoder(batch, blend)
    head = model.pair_heads.noise
    q, k, v = (part.unflatten(-1, (4, 4)) for part in head.qkv(encoded.atoms).chunk(3, -1))
    logits = torch.einsum("bihc,bjhc->bhij", q, k) / 2 + encoded.pair_bias[:, :, 1:, 1:]
    vectors = unit_vectors(batch.positions + blend.noise)
    seen = torch.einsum("bhij,bijx,bjhc->bixhc", logits.softmax(-1), vectors, v).flatten(3)
    weight = head.force.weight.expand(3, -1)  # one row for all axes, or one for each
    expected = torch.einsum("bixd,xd->bix", seen, weight)
    if head.force.bias is not None:
        expected = expected + head.force.bias
    torch.testing.assert_close(head(batch, blend, encoded), expected, rtol=1e-4, atol=1e-5)


def test_unit_vectors_point_from_i_to_j():
    vectors = unit_vectors(torch.tensor([[[0.0, 0, 0], [0, 3, 4]]]))
    torch.testing.assert_close(vectors[0, 0, 1], torch.tensor([0, 0.6, 0.8]))
    torch.testing.assert_close(vectors[0, 1, 0], torch.tensor([0, -0.6, -0.8]))
    assert not vectors[0, [0, 1], [0, 1]].any()


@pytest.mark.parametrize("mirror", [1, -1])
@pytest.mark.parametrize(("name", "is_equivariant"), [("default", True), ("published", False)])
def test_only_the_default_noise_turns_with_the_molecule(name, is_equivariant, mirror):
    model, blend = lively(CONFIGS[name]), drawn(MIXED)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1))).Q
    turn = turn * turn.det() * mirror
    moved = replace(MIXED, positions=MIXED.positions @ turn + torch.tensor([1.0, -2.0, 3.0]))
    straight = model.predict_views(MIXED, blend)
    turned = model.predict_views(moved, replace(blend, noise=blend.noise @ turn))
    is_atom = MIXED.is_atom & MIXED.has_positions[:, None]
    difference = (turned.noise - straight.noise @ turn)[is_atom].abs().max()
    assert (difference < 1e-4) == is_equivariant
    assert difference < 1e-4 or difference > 0.1
    shifted = replace(MIXED, positions=MIXED.positions + 1.0)
    noise = model.predict_views(shifted, blend).noise
    torch.testing.assert_close(noise[is_atom], straight.noise[is_atom], rtol=0, atol=1e-4)


def test_all_views_have_their_shape_and_are_finite(model):
    blend = drawn(MIXED)
    views = model.predict_views(MIXED, blend)
    heads = model.config.heads
    n_out = 1 if heads.geometry == "distance" else 3
    assert views.path_length.shape == (4, 5, 5, heads.n_path_classes)
    assert views.bonds.shape == (4, 5, 5, 5, 60 if n_out == 1 else 24)
    assert views.geometry.shape == (4, 5, 5, n_out)
    assert views.descriptors is None
    for name in ("path_length", "bonds", "geometry", "noise"):
        assert getattr(views, name).isfinite().all()
    flat = collate([read_smiles("CC")])
    assert model.predict_views(flat, drawn(flat)).noise is None


@pytest.mark.parametrize("readout", ["mean", "layers", "cls"])
def test_descriptors_are_read_off_the_vector_that_properties_are_read_off(readout):
    config = replace(
        CONFIGS["default"], heads=HeadsConfig(rank=4, descriptors=True), readout=readout
    )
    model, blend = lively(config), drawn(MIXED)
    expected = model.descriptor_head(model.embed(MIXED, blend))
    assert expected.shape == (4, N_DESCRIPTORS)
    torch.testing.assert_close(model.predict_views(MIXED, blend).descriptors, expected)


def test_descriptors_are_scaled_by_those_that_are_known():
    head = DescriptorHead(4)
    descriptors = torch.zeros(3, N_DESCRIPTORS)
    descriptors[:, 0] = torch.tensor([1.0, 3.0, math.nan])
    descriptors[:, 1] = 5.0
    descriptors[:, 2] = math.nan
    head.fit(descriptors)
    scaled = head.scaled(descriptors)
    torch.testing.assert_close(scaled[:, 0], torch.tensor([-1.0, 1.0, math.nan]), equal_nan=True)
    assert not scaled[:, 1].any()  # the same in all: no error, and no division by 0
    assert scaled[:, 2].isnan().all()
    assert head.scaled(torch.full((1, N_DESCRIPTORS), 1e9))[0, 0] == 8


def test_batched_views_equal_those_of_a_molecule_alone(model):
    salt = collate([placed("[Na+].[Cl-]")])
    blend = drawn(MIXED)
    shown = Blend(
        pairs=blend.pairs[3:, :2, :2], atoms=blend.atoms[3:, :2], noise=blend.noise[3:, :2]
    )
    together, alone = model.predict_views(MIXED, blend), model.predict_views(salt, shown)
    for name in ("path_length", "bonds", "geometry", "noise"):
        one, padded = getattr(alone, name)[0], getattr(together, name)[3]
        inside = padded[:2] if name == "noise" else padded[:2, :2]
        torch.testing.assert_close(one, inside, rtol=2e-5, atol=5e-5)


def test_properties_are_read_off_the_molecule(model):
    """Off the mean over its atoms, or off its virtual node: whichever, padding is no part of it."""
    blend, head = show(MIXED, "both"), model.property_head
    encoded = model.encoder(MIXED, blend)
    molecules = encoded.molecule
    if model.config.readout == "mean":
        rows = zip(encoded.atoms, MIXED.is_atom, strict=True)
        molecules = torch.stack([atoms[is_atom].mean(0) for atoms, is_atom in rows])
    torch.testing.assert_close(model.embed(MIXED, blend), molecules)
    expected = head.out(F.gelu(head.hidden(molecules)))
    torch.testing.assert_close(model(MIXED, blend), expected)
    assert expected.shape == (4, 2)


def test_a_read_out_of_all_layers_is_their_mean():
    """Each layer's states by themselves: those of a model that ends there."""
    config = CONFIGS["default"]
    encoder = replace(config.encoder, n_layers=3)
    whole = lively(replace(config, encoder=encoder, readout="layers"))
    blend = show(MIXED, "both")
    found = []
    for n_layers in (1, 2, 3):
        encoder = replace(config.encoder, n_layers=n_layers)
        short = Model(replace(config, encoder=encoder, heads=None)).eval()
        short.load_state_dict(whole.state_dict(), strict=False)
        found.append(short.embed(MIXED, blend))
    assert not torch.allclose(found[0], found[2], atol=1e-2)
    torch.testing.assert_close(whole.embed(MIXED, blend), torch.stack(found).mean(0))


def test_what_a_model_was_not_built_for_is_refused_in_one_sentence():
    config = CONFIGS["default"]
    without_targets = Model(replace(config, targets=()))
    with pytest.raises(ValueError, match="has no targets: it was pretrained, but not fine-tuned"):
        without_targets(MIXED, drawn(MIXED))
    without_heads = Model(replace(config, heads=None))
    with pytest.raises(ValueError, match="the model has no pretraining heads"):
        without_heads.predict_views(MIXED, drawn(MIXED))
    assert without_heads(MIXED, drawn(MIXED)).shape == (4, 2)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan")])
def test_labels_cannot_be_scaled_by_nothing(scale):
    with pytest.raises(ValueError, match=f"target gap: got scale={scale}, expected above 0"):
        Target("gap", "regression", scale=scale)
