import math
import os
import subprocess
import sys
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from moleblend.chem.molecule import ATOM_FEATURE_SIZES, BOND_FEATURE_SIZES
from moleblend.chem.parsing import read_smiles
from moleblend.model.batch import Packing, collate
from moleblend.model.blending import BlendConfig, draw_blend, show
from moleblend.model.encoder import Encoder, Layer, initialise
from moleblend.model.encoder_config import EncoderConfig
from moleblend.model.functional import Dropout, Gaussians, dropout, softmax
from moleblend.model.relations import UNREACHABLE, bond_kinds

CONFIGS = {
    "default": EncoderConfig(width=16, ffn_width=24, n_layers=2, n_heads=4, n_kernels=8),
    "published": EncoderConfig.published(
        width=16, ffn_width=24, n_layers=2, n_heads=4, n_kernels=8
    ),
    "pair states": EncoderConfig(
        width=16, ffn_width=24, n_layers=2, n_heads=4, n_kernels=8, pair_width=6
    ),
}
SMALL = ["CC(=O)[O-].[NH4+]", "C", "Cl[Pt](Cl)(<-N)<-N", "c1ccc2[nH]ccc2c1", "F/C=C/F", "C" * 9]
PAIR_FIELDS = ("path_length", "edge_path", "pairs")


def lively(config):
    """An encoder in evaluation mode, whose weights are large enough that each of them matters."""
    torch.manual_seed(0)
    encoder = Encoder(config)
    initialise(encoder, std=0.6)
    kernels = encoder.kernels
    kernels.spread()
    with torch.no_grad():
        kernels.scale.add_(0.1 * torch.randn_like(kernels.scale))
        kernels.shift.add_(0.1 * torch.randn_like(kernels.shift))
        kernels.widths[::2] *= -1  # training may carry a width below 0
    return encoder.eval()


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture(params=CONFIGS)
def encoder(request):
    return lively(CONFIGS[request.param])


def placed(smiles, seed=0):
    molecule = read_smiles(smiles)
    positions = np.random.default_rng(seed).normal(scale=2, size=(1, molecule.n_atoms, 3))
    return replace(molecule, positions=positions.astype(np.float32))


def small_batch():
    """Molecules of many sizes, every second one without positions."""
    return collate(
        [read_smiles(s) if k % 2 else placed(s) for k, s in enumerate(SMALL)]
        + [placed(s) if k % 2 else read_smiles(s) for k, s in enumerate(SMALL)]
    )


def drawn(batch, seed=0):
    config = BlendConfig(unblended=(0.1, 0.1))
    return draw_blend(batch, config, torch.Generator().manual_seed(seed))


def select(record, rows, atoms):
    """These molecules of a batch or blend, with these atoms in this order."""
    chosen = {}
    for field in fields(record):
        if getattr(record, field.name) is None:
            continue
        tensor = getattr(record, field.name)[rows]
        if tensor.ndim > 1:
            tensor = tensor[:, atoms]
        chosen[field.name] = tensor[:, :, atoms] if field.name in PAIR_FIELDS else tensor
    return type(record)(**chosen)


def assert_same(ours, theirs, tolerance=2e-5):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)


# --- by hand -------------------------------------------------------------------------------------


def test_path_length_bias_is_a_row_of_the_table_per_length():
    config = replace(CONFIGS["default"], longest_path=4)
    bias = lively(config).path_length_bias
    batch = collate([read_smiles("CCCCCCC.O")])
    is_shown = torch.rand(1, 8, 8) < 0.7
    out = bias(batch, is_shown)
    lengths = batch.path_length[0].tolist()
    assert {-1, 4, 5, 6} <= {length for row in lengths for length in row}
    for i, j in np.ndindex(8, 8):
        row = 4 + 2 if lengths[i][j] == UNREACHABLE else min(lengths[i][j], 4) + 1
        expected = bias.table.weight[row] if is_shown[0, i, j] else torch.zeros(4)
        assert torch.equal(out[0, i, j], expected)


def test_edge_path_bias_is_the_mean_over_the_path_of_what_each_hop_makes_of_its_bond(encoder):
    molecule = read_smiles("CC=CC(=O)NCCC#N.O")
    bias, batch = encoder.edge_path_bias, collate([molecule])
    n = molecule.n_atoms
    is_shown = torch.rand(1, n, n) < 0.7
    out = bias(batch, is_shown)
    kinds, features = bond_kinds(molecule.bond_features), molecule.bond_features
    features_of = {kind + 1: row for kind, row in zip(kinds, features, strict=True)}
    starts = np.cumsum([0, *BOND_FEATURE_SIZES[:-1]])
    for i, j in np.ndindex(n, n):
        expected = torch.zeros(bias.hops.shape[-1])
        codes = [code for code in batch.edge_path[0, i, j].tolist() if code]
        for hop, code in enumerate(codes):
            bond = bias.features.weight[features_of[code] + starts].mean(0)
            expected = expected + bond @ bias.hops[hop] / len(codes)
        assert_same(out[0, i, j], expected * is_shown[0, i, j], 1e-6)


def test_kernels_are_gaussians_of_the_noisy_distance(encoder):
    kernels, batch = encoder.kernels, collate([placed("CN=O")])
    blend = replace(show(batch, "both"), noise=torch.randn(1, 3, 3))
    out = kernels(batch, blend)[0]
    places = (batch.positions + blend.noise)[0]
    elements = batch.atoms[0, :, 0].tolist()
    for i, j in np.ndindex(3, 3):
        distance = math.dist(places[i], places[j])
        scale = kernels.scale[0, elements[i]] + kernels.scale[1, elements[j]]
        shift = kernels.shift[0, elements[i]] + kernels.shift[1, elements[j]]
        width = kernels.widths.abs() + 0.01
        offset = (scale * distance + shift - kernels.centres) / width
        expected = (-(offset**2) / 2).exp() / (math.sqrt(2 * 3.14159) * width)
        assert_same(out[i, j], expected, 1e-6)


def test_each_pair_is_biased_by_the_views_it_shows_and_the_virtual_node_by_its_own(encoder):
    batch = small_batch()
    blend = drawn(batch)
    kernels = encoder.kernels(batch, blend)
    everything = torch.ones_like(blend.pairs[..., 0])
    views = (
        encoder.path_length_bias(batch, everything),
        encoder.edge_path_bias(batch, everything),
        encoder.distance_bias(kernels),
    )
    expected = sum(view * blend.pairs[..., k, None] for k, view in enumerate(views))
    bias, n_heads = encoder(batch, blend).pair_bias, encoder.config.n_heads
    starts = encoder.relations(batch, blend, kernels)[:, n_heads:]
    assert_same(starts[:, :, 1:, 1:], expected[..., n_heads:].permute(0, 3, 1, 2), 1e-6)
    assert not starts[:, :, 0].any()
    assert not starts[..., 0].any()
    expected = expected[..., :n_heads]
    seen = batch.is_atom[:, None, None, :].expand_as(bias[:, :, 1:, 1:])
    assert_same(bias[:, :, 1:, 1:][seen], expected.permute(0, 3, 1, 2)[seen], 1e-6)
    assert (bias[:, :, 1:, 1:][~seen] == -math.inf).all()
    assert (bias[:, :, :, 0] == encoder.virtual_bias[:, None]).all()
    from_virtual = torch.where(batch.is_atom[:, None], encoder.virtual_bias[:, None], -math.inf)
    assert torch.equal(bias[:, :, 0, 1:], from_virtual)


def test_tokens_are_sums_of_embeddings_and_centrality(encoder):
    batch = small_batch()
    blend = drawn(batch)
    kernels = encoder.kernels(batch, blend)
    tokens = encoder.tokens(batch, blend, kernels)
    embedding = encoder.atom_embedding
    starts = torch.tensor([0, *ATOM_FEATURE_SIZES[:-1]]).cumsum(0)
    assert (tokens[:, 0] == embedding.virtual).all()
    for b, i in batch.is_atom.nonzero().tolist():
        expected = embedding.features.weight[batch.atoms[b, i] + starts].sum(0)
        if blend.atoms[b, i, 0]:
            expected = expected + sum(
                table.weight[batch.degree[b, i]] for table in embedding.degrees
            )
        if blend.atoms[b, i, 1]:
            seen = kernels[b, i][batch.is_atom[b]].sum(0)
            expected = expected + encoder.config.centrality_scale * encoder.centrality(seen)
        assert_same(tokens[b, i + 1], expected, 1e-5)


def test_a_layer_attends_then_transforms(encoder):
    layer = encoder.layers[0]
    tokens, bias = torch.randn(2, 5, 16), torch.randn(2, 4, 5, 5)
    bias[1, :, :, 3:] = -math.inf
    is_token = torch.ones(2, 5, dtype=torch.bool)
    is_token[1, 3:] = False
    packing = Packing.of(is_token)
    q, k, v = (part.unflatten(-1, (4, 4)) for part in layer.qkv(tokens).chunk(3, -1))
    weights = (torch.einsum("bihc,bjhc->bhij", q, k) / 2 + bias).softmax(-1)
    mixed = torch.einsum("bhij,bjhc->bihc", weights, v).flatten(2)
    middle = layer.attention_norm(tokens + layer.out(mixed))
    expected = layer.ffn_norm(middle + layer.down(F.gelu(layer.up(middle))))
    assert_same(layer(tokens[is_token], bias, packing)[0], expected[is_token])
    bias.requires_grad_()
    assert_same(layer(tokens[is_token], bias, packing)[0], expected[is_token])


# --- properties ----------------------------------------------------------------------------------


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 10_000))
@pytest.mark.parametrize("name", CONFIGS)
def test_the_order_of_tensors_plays_no_role(name, seed):
    """Any order, in which padding may stand between atoms."""
    encoder, batch = lively(CONFIGS[name]), small_batch()
    blend = drawn(batch, seed)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(batch.is_atom.shape[1]))
    every = slice(None)
    straight = encoder(batch, blend)
    permuted = encoder(select(batch, every, order), select(blend, every, order))
    assert_same(permuted.molecule, straight.molecule)
    is_atom = batch.is_atom[:, order]
    assert_same(permuted.atoms[is_atom], straight.atoms[:, order][is_atom])


@pytest.mark.parametrize("views", ["2d", "3d", "both"])
@pytest.mark.parametrize(
    "smiles", ["CC(C)(O)CN", "Cc1cc[nH]c1", "OC1CC1C(F)Cl", "CC(=O)[O-].[NH4+]"]
)
def test_atom_order_plays_no_role_where_shortest_paths_are_unique(encoder, smiles, views):
    molecule = placed(smiles)
    order = np.random.default_rng(1).permutation(molecule.n_atoms)
    permuted = replace(
        molecule,
        atoms=molecule.atoms[order],
        bonds=np.argsort(order)[molecule.bonds].astype(np.int32),
        positions=molecule.positions[:, order],
    )
    batch, other = collate([molecule]), collate([permuted])
    straight = encoder(batch, show(batch, views))
    turned = encoder(other, show(other, views))
    assert_same(turned.molecule, straight.molecule)
    assert_same(turned.atoms, straight.atoms[:, order])
    assert not torch.allclose(turned.atoms, straight.atoms, atol=0.01)


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 10_000))
@pytest.mark.parametrize("name", CONFIGS)
def test_turning_mirroring_and_moving_a_molecule_plays_no_role(name, seed):
    encoder, batch = lively(CONFIGS[name]), small_batch()
    blend = drawn(batch, seed)
    random = torch.Generator().manual_seed(seed)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=random)).Q
    moved = replace(batch, positions=batch.positions @ turn + torch.randn(3, generator=random))
    turned = encoder(moved, replace(blend, noise=blend.noise @ turn))
    straight = encoder(batch, blend)
    assert_same(turned.molecule, straight.molecule, 5e-5)
    assert_same(turned.atoms[batch.is_atom], straight.atoms[batch.is_atom], 5e-5)
    # Not because geometry is ignored: where it is shown, its size matters.
    stretched = replace(batch, positions=1.3 * batch.positions)
    wide = encoder(stretched, show(stretched, "both")).molecule
    assert (wide - encoder(batch, show(batch, "both")).molecule).abs().max() > 0.02


def test_batched_equals_alone(encoder):
    batch = small_batch()
    blend = drawn(batch)
    together = encoder(batch, blend)
    for row in range(len(batch)):
        rows, atoms = slice(row, row + 1), batch.is_atom[row].nonzero()[:, 0]
        alone = encoder(select(batch, rows, atoms), select(blend, rows, atoms))
        assert_same(alone.molecule[0], together.molecule[row])
        assert_same(alone.atoms[0], together.atoms[row, atoms])


def test_centrality_is_shown_where_no_pair_shows_its_distance(encoder):
    """Alone as in a batch in which another molecule does show distances."""
    batch = collate([placed("CO"), placed("CCN")])
    flat, solid = show(batch, "2d"), show(batch, "3d")
    first = torch.tensor([True, False])
    mixed = replace(
        flat,
        pairs=torch.where(first[:, None, None, None], flat.pairs, solid.pairs),
        atoms=solid.atoms,
    )
    together = encoder(batch, mixed).molecule[0]
    rows, atoms = slice(0, 1), slice(0, 2)
    assert_same(
        encoder(select(batch, rows, atoms), select(mixed, rows, atoms)).molecule[0], together
    )
    assert not torch.allclose(encoder(batch, flat).molecule[0], together, atol=1e-3)


def test_what_stands_in_padded_places_plays_no_role(encoder):
    batch = small_batch()
    blend = drawn(batch)
    both = batch.is_atom[:, :, None] & batch.is_atom[:, None, :]

    def soil(record, **garbage):
        soiled = {}
        for name, values in garbage.items():
            clean = getattr(record, name)
            kept = both if name in PAIR_FIELDS else batch.is_atom
            kept = kept.view(kept.shape + (1,) * (clean.ndim - kept.ndim))
            soiled[name] = torch.where(kept, clean, values.expand_as(clean).to(clean.dtype))
        return replace(record, **soiled)

    other = soil(
        batch,
        atoms=torch.ones(1),
        degree=torch.tensor(3),
        path_length=torch.tensor(2),
        edge_path=torch.tensor(7),
        positions=torch.randn(batch.positions.shape),
    )
    seen = torch.rand(blend.pairs.shape) < 0.5
    noise = torch.randn(blend.noise.shape)
    soiled = soil(blend, pairs=seen, atoms=seen[:, 0, :, :2], noise=noise)
    clean, dirty = encoder(batch, blend), encoder(other, soiled)
    assert_same(dirty.molecule, clean.molecule)
    assert_same(dirty.atoms[batch.is_atom], clean.atoms[batch.is_atom])


def test_the_same_input_gives_the_same_output_to_the_last_digit(encoder):
    batch = small_batch()
    blend = drawn(batch)
    assert torch.equal(encoder(batch, blend).molecule, encoder(batch, blend).molecule)


@pytest.mark.parametrize("name", CONFIGS)
def test_awkward_molecules_stay_finite(name, awkward):
    """As weights start, with and without positions in one batch, trained and not."""
    encoder = Encoder(CONFIGS[name])
    for is_training in (False, True):
        molecules = [
            placed(s) if k % 2 == is_training else read_smiles(s) for k, s in enumerate(awkward)
        ]
        batch = collate(molecules)
        encoded = encoder.train(is_training)(batch, drawn(batch))
        assert encoded.molecule.isfinite().all()
        assert encoded.atoms.isfinite().all()
    read = encoded.molecule.square().sum()
    if encoded.pairs is not None:  # the last update serves those who read the pairs
        assert encoded.pairs.isfinite().all()
        read = read + encoded.pairs[batch.is_pair].square().sum()
    read.backward()
    for parameter in encoder.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()


# --- randomness and initialisation ---------------------------------------------------------------


@pytest.mark.parametrize("drops", ["molecule", "token"])
def test_stochastic_depth_drops_what_it_says(drops):
    config = replace(CONFIGS["default"], depth_drops=drops, dropout=0.0)
    layer = Layer(config, 0.25).train()
    torch.manual_seed(0)
    packing = Packing.of(torch.ones(400, 300, dtype=torch.bool))
    branch = layer.drop(torch.ones(400 * 300, 3), packing).view(400, 300, 3)
    shown = branch[:, :1, :1] if drops == "molecule" else branch[:1, :, :1]
    assert torch.equal(branch, shown.expand_as(branch))
    assert set(shown.unique().tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    n = shown.numel()
    assert abs((shown == 0).sum() - 0.25 * n) < 4 * math.sqrt(n * 0.25 * 0.75)
    ones = torch.ones(400 * 300, 2)
    assert torch.equal(layer.eval().drop(ones, packing), ones)


@pytest.mark.parametrize(
    ("drops", "rate", "has_dropout"),
    [("molecule", 0.0, True), ("molecule", 0.1, True), ("token", 0.0, True), ("token", 0.1, False)],
)
def test_only_the_published_stochastic_depth_replaces_dropout(drops, rate, has_dropout):
    layer = Layer(replace(CONFIGS["default"], depth_drops=drops, dropout=0.5), rate).train()
    packing = Packing.of(torch.ones(50, 20, dtype=torch.bool))
    channels = layer.drop(torch.ones(50 * 20, 16), packing)
    kept = channels[channels.any(1)]
    assert (kept == 0).any() == has_dropout


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5])
def test_dropout_keeps_the_mean_and_drops_its_fraction(rate):
    torch.manual_seed(0)
    values = torch.ones(200_000, requires_grad=True)
    kept = dropout(values, rate)
    assert set(kept.unique().tolist()) <= {0.0, torch.tensor(1 / (1 - rate)).item()}
    std = math.sqrt(len(values) * rate * (1 - rate))
    assert abs((kept == 0).sum() - rate * len(values)) <= 4 * std
    kept.sum().backward()
    assert torch.equal(values.grad, kept.detach())
    assert torch.equal(Dropout(rate).eval()(values), values)


@pytest.mark.parametrize("n", [1, 9, 16, 17])
def test_softmax_of_few_and_many_columns(n):
    logits = torch.randn(3, n, dtype=torch.float64, requires_grad=True)
    assert_same(softmax(logits), logits.softmax(-1))
    assert torch.autograd.gradcheck(softmax, logits)


def test_gaussians_have_the_gradients_of_their_formula():
    torch.manual_seed(0)
    value = torch.randn(2, 3, 3, dtype=torch.float64, requires_grad=True)
    centres, widths = torch.linspace(-1, 1, 4).double(), torch.linspace(0.3, 0.9, 4).double()
    assert torch.autograd.gradcheck(
        Gaussians.apply, (value, centres.requires_grad_(), widths.requires_grad_())
    )


def test_depth_rates_grow_from_zero_in_the_first_layer():
    encoder = Encoder(replace(CONFIGS["default"], n_layers=3, stochastic_depth=0.2))
    assert [layer.depth_rate for layer in encoder.layers] == pytest.approx([0.0, 0.1, 0.2])


def test_weights_start_as_published_and_kernels_as_asked():
    torch.manual_seed(0)
    for config, is_spread in ((EncoderConfig(), True), (EncoderConfig.published(), False)):
        encoder = Encoder(replace(config, n_layers=1))
        for path, part in encoder.named_modules():
            for name, parameter in part.named_parameters(recurse=False):
                values = parameter.detach()
                if isinstance(part, nn.LayerNorm):
                    assert (values == (name == "weight")).all()
                elif name == "bias":
                    assert not values.any()
                elif path == "kernels" and is_spread:
                    continue
                else:
                    if isinstance(part, nn.Embedding) and part.padding_idx is not None:
                        assert not values[part.padding_idx].any()
                        values = values[1:]
                    sigma = 0.02 / math.sqrt(values.numel())
                    assert abs(values.mean()) < 4 * sigma, (path, name)
                    assert abs(values.std() - 0.02) < 4 * sigma, (path, name)
    kernels = Encoder(CONFIGS["default"]).kernels
    assert kernels.centres.tolist() == pytest.approx([10 * k / 7 for k in range(8)])
    assert (kernels.widths == 10 / 7).all()
    assert (kernels.scale == 0.5).all()
    assert not kernels.shift.any()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"n_heads": 7}, "got width=256 and n_heads=7, expected width to be a multiple of n_heads"),
        ({"dropout": 1.0}, r"got dropout=1.0, expected a rate in \[0, 1\)"),
        ({"stochastic_depth": -0.1}, r"got stochastic_depth=-0.1, expected a rate in \[0, 1\)"),
        (
            {"attention_dropout": math.nan},
            r"got attention_dropout=nan, expected a rate in \[0, 1\)",
        ),
    ],
)
def test_sizes_and_rates_that_do_not_fit_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        EncoderConfig(**wrong)


def test_onednn_keeps_few_compiled_operations() -> None:
    """Otherwise memory grows by compiled GELUs of 1,024 shapes; a setting of the user is kept."""
    script = (
        "import moleblend.model.encoder, torch\n"
        "for n in [*range(1000, 1010), 1000]: torch.nn.functional.gelu(torch.zeros(n, 256))\n"
    )

    capacity = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"

    def last_primitive(**settings: str) -> str:
        kept = {name: value for name, value in os.environ.items() if name != capacity}
        ran = subprocess.run(
            [sys.executable, "-c", script],
            env={**kept, "ONEDNN_VERBOSE": "2", "OMP_NUM_THREADS": "1", **settings},
            capture_output=True,
            text=True,
            check=True,
        )
        return [line for line in ran.stdout.splitlines() if "create:" in line][-1]

    assert "cache_miss" in last_primitive()
    assert "cache_hit" in last_primitive(**{capacity: "1024"})
