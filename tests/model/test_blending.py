import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from moleblend.chem.parsing import read_smiles
from moleblend.model.batch import collate
from moleblend.model.blending import VIEWS, BlendConfig, draw_blend, show

N_ATOMS = 30
BLENDED = BlendConfig(unblended=(0.0, 0.0))


def placed(smiles):
    molecule = read_smiles(smiles)
    positions = np.random.default_rng(0).normal(size=(1, molecule.n_atoms, 3))
    return replace(molecule, positions=positions.astype(np.float32))


def chains(n_with, n_without=0, n_atoms=N_ATOMS):
    """A batch of chains, those with positions first."""
    chain = placed("C" * n_atoms)
    return collate([chain] * n_with + [read_smiles("C" * n_atoms)] * n_without)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def assert_probabilities(shown, probabilities):
    """One of the last axis is true everywhere; counts are within 4 sigma of their mean."""
    shown = shown.flatten(0, -2)
    assert (shown.sum(-1) == 1).all()
    n = len(shown)
    for count, p in zip(shown.sum(0).tolist(), probabilities, strict=True):
        assert abs(count - n * p) <= 4 * math.sqrt(n * p * (1 - p)), (count / n, p)


PROBABILITIES = [
    (0.2, 0.2, 0.6),
    (0.7, 0.2, 0.1),
    (0.6, 0.3, 0.1),
    (0.2, 0.7, 0.1),
    (0.1, 0.9, 0.0),
]
PROBABILITIES += [
    (1.0, 0.0, 0.0),
    (0.0, 1.0, 0.0),
    (0.0, 0.0, 1.0),
    (0.0, 0.5, 0.5),
    (0.5, 0.0, 0.5),
]


@pytest.mark.parametrize("draw", ["molecule", "batch"])
@pytest.mark.parametrize("probabilities", PROBABILITIES)
def test_every_pair_and_atom_shows_one_view_with_the_given_probabilities(probabilities, draw):
    atom_probabilities = (1 - probabilities[2], probabilities[2])
    config = replace(
        BLENDED, pair_probabilities=probabilities, atom_probabilities=atom_probabilities, draw=draw
    )
    blend = draw_blend(chains(20), config, generator())
    seen = blend.pairs if draw == "molecule" else blend.pairs[:1]
    assert_probabilities(seen, probabilities)
    assert_probabilities(blend.atoms, atom_probabilities)


def test_the_draw_is_one_per_molecule_or_one_per_batch():
    batch = chains(3)
    per_molecule = draw_blend(batch, BLENDED, generator())
    per_batch = draw_blend(batch, replace(BLENDED, draw="batch"), generator())
    for k in (1, 2):
        # two independent draws agree on 0.2 * 0.2 + 0.2 * 0.2 + 0.6 * 0.6 of the pairs
        agree = (per_molecule.pairs[0] == per_molecule.pairs[k]).all(-1).float().mean()
        assert 0.36 < agree < 0.52
        assert torch.equal(per_batch.pairs[0], per_batch.pairs[k])
        # the published code draws atoms for each molecule, and so do we
        assert not torch.equal(per_batch.atoms[0], per_batch.atoms[k])


def test_pairs_are_drawn_in_each_direction():
    pairs = draw_blend(chains(1), BLENDED, generator()).pairs
    assert not torch.equal(pairs, pairs.transpose(1, 2))


@pytest.mark.parametrize("draw", ["molecule", "batch"])
@pytest.mark.parametrize("probabilities", [(0.2, 0.2, 0.6), (0.05, 0.2, 0.75), (0.0, 0.1, 0.9)])
def test_molecules_without_positions_keep_the_proportion_of_their_2d_views(probabilities, draw):
    config = replace(BLENDED, pair_probabilities=probabilities, draw=draw)
    blend = draw_blend(chains(1, 20), config, generator())
    without = blend.pairs[1:] if draw == "molecule" else blend.pairs[1:2]
    flat = probabilities[0] + probabilities[1]
    assert_probabilities(without, (probabilities[0] / flat, probabilities[1] / flat, 0.0))
    assert_probabilities(blend.atoms[1:], (1.0, 0.0))


def test_a_fraction_of_the_molecules_is_not_blended():
    n = 1000
    batch = chains(n, n, n_atoms=3)
    blend = draw_blend(batch, BlendConfig(unblended=(0.2, 0.3)), generator())
    whole_2d = (blend.pairs == show(batch, "2d").pairs).flatten(1).all(1)
    whole_3d = (blend.pairs == show(batch, "3d").pairs).flatten(1).all(1) & batch.has_positions
    # a blended molecule of nine pairs is never all 2D, since whole 2D shows two views of each
    with_3d = torch.stack([whole_2d, whole_3d, ~whole_2d & ~whole_3d], -1)[:n]
    by_chance = 0.5 * 0.6**9
    assert_probabilities(with_3d, (0.2, 0.3 + by_chance, 0.5 - by_chance))
    assert_probabilities(torch.stack([whole_2d, ~whole_2d], -1)[n:], (0.2, 0.8))
    assert (blend.atoms[whole_2d] == torch.tensor([True, False])).all()
    assert (blend.atoms[whole_3d].sum(-1) == 1).all()
    everything = draw_blend(batch, BlendConfig(unblended=(0.0, 1.0)), generator())
    shown = show(batch, "3d")
    assert torch.equal(everything.pairs[:n], shown.pairs[:n])
    assert torch.equal(everything.atoms[:n], shown.atoms[:n])
    assert (everything.pairs[n:].sum(-1) == 1).all()


@pytest.mark.parametrize(
    ("views", "with_positions", "without"),
    [
        ("2d", (True, True, False), (True, True, False)),
        ("3d", (False, False, True), (False, False, False)),
        ("both", (True, True, True), (True, True, False)),
    ],
)
def test_show_shows_all_of_what_there_is(views, with_positions, without):
    blend = show(chains(1, 1), views)
    assert len(VIEWS) == 3
    for row, expected in enumerate((with_positions, without)):
        assert (blend.pairs[row] == torch.tensor(expected)).all()
        assert (blend.atoms[row] == torch.tensor(expected[1:])).all()
    assert not blend.noise.any()


def test_the_same_seed_gives_the_same_blend_and_another_seed_another():
    batch = chains(2, 1)
    config = BlendConfig(masked=(0.2, 0.5), masked_atoms=0.5)
    first, again, other = (draw_blend(batch, config, generator(k)) for k in (1, 1, 2))
    for field in fields(first):
        tensors = [getattr(blend, field.name) for blend in (first, again, other)]
        assert torch.equal(tensors[0], tensors[1])
        assert not torch.equal(tensors[0], tensors[2])


def test_noise_is_normal_and_only_where_there_is_an_atom_with_a_position():
    batch = collate([placed("C" * 100)] * 50 + [placed("CC"), read_smiles("C" * 100)])
    noise = draw_blend(batch, replace(BLENDED, noise=0.3), generator()).noise
    values = noise[:50].double().flatten() / 0.3
    n = len(values)
    assert abs(values.mean()) < 4 / math.sqrt(n)
    assert abs(values.var() - 1) < 4 * math.sqrt(2 / n)
    assert abs(values.pow(4).mean() - 3) < 4 * math.sqrt(96 / n)  # of a normal one
    assert noise[50, :2].all()
    assert not noise[50, 2:].any()
    assert not noise[51].any()
    assert not draw_blend(batch, replace(BLENDED, noise=0.0), generator()).noise.any()


def test_the_batch_is_not_edited():
    batch, untouched = chains(1, 1), chains(1, 1)
    draw_blend(batch, BlendConfig(), generator())
    for field in fields(batch):
        now, before = getattr(batch, field.name), getattr(untouched, field.name)
        assert now is before is None or torch.equal(now, before)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"pair_probabilities": (0.2, 0.2, 0.5)},
            r"got pair_probabilities=\(0.2, 0.2, 0.5\), expected numbers",
        ),
        ({"pair_probabilities": (-0.2, 0.6, 0.6)}, "got pair_probabilities="),
        ({"pair_probabilities": (math.nan, 0.5, 0.5)}, "got pair_probabilities="),
        ({"atom_probabilities": (0.4, 0.7)}, "got atom_probabilities=.* sum to 1"),
        ({"atom_probabilities": (1.5, -0.5)}, "got atom_probabilities="),
        (
            {"unblended": (0.6, 0.5)},
            "got unblended=.*, expected two fractions that sum to at most 1",
        ),
        ({"unblended": (-0.1, 0.5)}, "got unblended="),
        ({"unblended": (math.nan, 0.5)}, "got unblended="),
        ({"noise": -0.1}, "got noise=-0.1, expected a standard deviation in Å"),
        ({"noise": math.nan}, "got noise=nan, expected a standard deviation in Å"),
        ({"noise": math.inf}, "got noise=inf, expected a standard deviation in Å"),
    ],
)
def test_values_that_are_not_probabilities_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        BlendConfig(**wrong)


@pytest.mark.parametrize(
    "probabilities", [{"pair_probabilities": (0.0, 0.0, 1.0)}, {"atom_probabilities": (0.0, 1.0)}]
)
def test_3d_alone_is_refused_for_a_molecule_without_positions(probabilities):
    config = replace(BLENDED, **probabilities)
    draw_blend(chains(2), config, generator())
    with pytest.raises(
        ValueError, match=r"a molecule has no positions, and with the probabilities .* no 2D view"
    ):
        draw_blend(chains(1, 1), config, generator())


def test_masked_atoms_are_of_the_molecules_that_mask_and_change_nothing_else():
    batch = chains(300, 3, n_atoms=40)
    plain = draw_blend(batch, BlendConfig(), generator())
    blend = draw_blend(batch, BlendConfig(masked=(0.2, 0.5), masked_atoms=0.3), generator())
    assert plain.masked is None
    assert torch.equal(plain.pairs, blend.pairs)
    assert torch.equal(plain.noise, blend.noise)
    assert not blend.masked[~batch.is_atom].any()
    counts = blend.masked[:300].sum(1)
    n_all, n_none = int((counts == 40).sum()), int((counts == 0).sum())
    some = counts[(counts > 0) & (counts < 40)].double()
    assert abs(n_all / 300 - 0.2) < 4 * math.sqrt(0.2 * 0.8 / 300)
    assert abs(n_none / 300 - 0.3) < 4 * math.sqrt(0.3 * 0.7 / 300)
    assert abs(some.mean() / 40 - 0.3) < 4 * math.sqrt(0.3 * 0.7 / 40 / len(some))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"masked": (0.7, 0.4)}, "expected two fractions that sum to at most 1"),
        ({"masked_atoms": 1.5}, "got masked_atoms=1.5, expected a probability"),
    ],
)
def test_masks_that_are_no_probabilities_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        BlendConfig(**options)
