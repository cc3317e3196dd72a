import math
from collections import namedtuple
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from moleblend.chem.descriptors import compute_descriptors
from moleblend.chem.geometry import add_positions
from moleblend.chem.molecule import ATOM_FEATURE_SIZES, N_DESCRIPTORS
from moleblend.chem.parsing import read_smiles
from moleblend.model import functional
from moleblend.model.batch import collate
from moleblend.model.blending import BlendConfig, draw_blend
from moleblend.model.encoder import initialise
from moleblend.model.encoder_config import EncoderConfig
from moleblend.model.heads import HeadsConfig, Model, ModelConfig
from moleblend.model.objectives import (
    ObjectiveConfig,
    blend_then_predict,
    bond_classes,
    constant_losses,
    path_classes,
)
from moleblend.model.objectives.view_losses import denoising_loss, distance_loss
from moleblend.model.relations import N_BOND_KINDS, relate
from moleblend.pretraining.data_loader import collate_for_heads

Setting = namedtuple("Setting", "model blend objective")
SETTINGS = {
    "default": Setting(
        ModelConfig(
            encoder=EncoderConfig(width=16, ffn_width=24, n_layers=2, n_heads=4, n_kernels=8),
            heads=HeadsConfig(rank=4),
        ),
        BlendConfig(unblended=(0.0, 0.0)),
        ObjectiveConfig(),
    ),
    "published": Setting(
        ModelConfig(
            encoder=EncoderConfig.published(
                width=16, ffn_width=24, n_layers=2, n_heads=4, n_kernels=8
            ),
            heads=replace(HeadsConfig.published(), rank=4),
        ),
        BlendConfig(unblended=(0.0, 0.0), draw="batch"),
        ObjectiveConfig.published(),
    ),
}
SETTINGS["with descriptors"] = SETTINGS["default"]._replace(
    model=replace(
        SETTINGS["default"].model, heads=HeadsConfig(rank=4, descriptors=True), readout="layers"
    ),
    objective=ObjectiveConfig(descriptors=0.7),
)
SETTINGS["with pair states"] = SETTINGS["default"]._replace(
    model=ModelConfig(
        encoder=replace(SETTINGS["default"].model.encoder, pair_width=6),
        heads=HeadsConfig(pairs="states", hidden=10),
    ),
)
SETTINGS["with masked atoms"] = SETTINGS["with pair states"]._replace(
    model=ModelConfig(
        encoder=replace(SETTINGS["with pair states"].model.encoder, masks_features=True),
        heads=HeadsConfig(pairs="states", hidden=10, atom_features=True, descriptors=True),
    ),
    blend=BlendConfig(unblended=(0.0, 0.0), masked=(0.3, 0.5), masked_atoms=0.5),
    objective=ObjectiveConfig(atom_features=0.6),
)
"""Every test below holds for each of these."""


def lively(config):
    """A model whose weights are large enough that each of them matters."""
    torch.manual_seed(0)
    model = Model(config)
    initialise(model, std=0.6)
    model.encoder.kernels.spread()
    if model.descriptor_head is not None:
        model.descriptor_head.fit(torch.from_numpy(compute_descriptors([m.smiles for m in MIXED])))
    return model


def batched(molecules, setting):
    return collate_for_heads(molecules, setting.model.heads)


@pytest.fixture(autouse=True)
def one_thread():
    """On a busy machine tiny tensors take long where threads wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=SETTINGS)
def setting(request):
    return SETTINGS[request.param]


def placed(smiles):
    molecule = read_smiles(smiles)
    positions = np.random.default_rng(0).normal(scale=2, size=(1, molecule.n_atoms, 3))
    return replace(molecule, positions=positions.astype(np.float32))


MIXED = [placed("CC(=O)[O-].[NH4+]"), read_smiles("F/C=C/F"), placed("C"), placed("C=CC(N)C=O")]
MIXED += [placed("Cl[Pt](Cl)(<-N)<-N"), placed("C" * 14)]


def drawn(batch, config, seed=0):
    return draw_blend(batch, config, torch.Generator().manual_seed(seed))


# --- by hand -------------------------------------------------------------------------------------


def cross_entropy(logits, right):
    return math.log(sum(math.exp(logit) for logit in logits)) - logits[right]


def cosine(a, b):
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def losses_by_hand(molecules, views, blend, setting):
    """All losses, one pair and one atom after the other, in double precision."""
    heads = setting.model.heads
    paths, bonds, geometry, denoising, variances = [], [], [], [], []
    for b, molecule in enumerate(molecules):
        relations = relate(molecule)
        of_this_one = []
        for i, j in np.ndindex(molecule.n_atoms, molecule.n_atoms):
            length = relations.path_length[i, j]
            if length > 0:
                right = min(length, heads.n_path_classes) - 1
                paths.append(cross_entropy(views.path_length[b, i, j].tolist(), right))
            for hop, code in enumerate(relations.edge_path[i, j].tolist()):
                kind, stereo, conjugated = (code - 1) // 12, (code - 1) // 2 % 6, (code - 1) % 2
                right = (kind * heads.bond_vocabulary[1] + stereo) * 2 + conjugated
                if code and right < heads.n_bond_classes:
                    bonds.append(cross_entropy(views.bonds[b, i, j, hop].tolist(), right))
            if i != j and molecule.n_conformers:
                vector = (molecule.positions[0, j] - molecule.positions[0, i]).astype(float)
                predicted = views.geometry[b, i, j].detach().double().numpy()
                if heads.geometry == "distance":
                    geometry.append(abs(predicted[0] - np.linalg.norm(vector)))
                else:
                    of_this_one.append(1 - cosine(predicted, vector))
        if of_this_one:
            geometry.append(np.mean(of_this_one))
        for i in range(molecule.n_atoms):
            if molecule.n_conformers and blend.atoms[b, i, 1]:
                noise = blend.noise[b, i].double().numpy()
                predicted = views.noise[b, i].detach().double().numpy()
                if setting.objective.noise_error == "squared":
                    denoising.append(((predicted - noise) ** 2).sum())
                    variances.append((noise**2).sum())
                else:
                    denoising.append(1 - cosine(predicted, noise))
    scale = np.mean(variances) if variances else 1.0
    expected = {
        "path_length": np.mean(paths),
        "bonds": np.mean(bonds),
        heads.geometry: np.mean(geometry),
        "denoising": np.mean(denoising) / scale,
    }
    if heads.descriptors:
        expected["descriptors"] = descriptors_by_hand(molecules, views)
    if heads.atom_features:
        expected["atom_features"] = atom_features_by_hand(molecules, views, blend)
    return expected


def atom_features_by_hand(molecules, views, blend):
    """Cross entropy of the eight features of masked atoms."""
    errors = []
    for b, molecule in enumerate(molecules):
        for i in range(molecule.n_atoms):
            if blend.masked[b, i]:
                start = 0
                for k, size in enumerate(ATOM_FEATURE_SIZES[1:], 1):
                    logits = views.atom_features[b, i, start : start + size].tolist()
                    errors.append(cross_entropy(logits, molecule.atoms[i, k]))
                    start += size
    assert 0 < len(errors) < 8 * sum(molecule.n_atoms for molecule in molecules)
    return np.mean(errors)


def descriptors_by_hand(molecules, views):
    """Huber's error, of descriptors scaled by those of `MIXED`."""
    known = compute_descriptors([molecule.smiles for molecule in MIXED]).astype(float)
    errors = []
    for b, values in enumerate(compute_descriptors([molecule.smiles for molecule in molecules])):
        for k, value in enumerate(values.astype(float)):
            if not np.isnan(value):
                std = np.nanstd(known[:, k])
                std = std if std > 1e-6 else 1.0
                right = np.clip((value - np.nanmean(known[:, k])) / std, -8, 8)
                off = abs(views.descriptors[b, k].item() - right)
                errors.append(off**2 / 2 if off < 1 else off - 0.5)
    return np.mean(errors)


def test_losses_and_their_total_by_hand(setting):
    model, batch = lively(setting.model).eval(), batched(MIXED, setting)
    blend = drawn(batch, setting.blend)
    loss = blend_then_predict(model, batch, blend, setting.objective)
    expected = losses_by_hand(MIXED, model.predict_views(batch, blend), blend, setting)
    parts = {name: part.item() for name, part in loss.terms.items()}
    assert parts == pytest.approx(expected, rel=1e-5)
    weights = setting.objective
    total = weights.path_length * expected["path_length"] + weights.bonds * expected["bonds"]
    total += weights.geometry * expected[setting.model.heads.geometry]
    total += weights.denoising * expected["denoising"]
    total += weights.descriptors * expected.get("descriptors", 0.0)
    total += weights.atom_features * expected.get("atom_features", 0.0)
    assert loss.total.item() == pytest.approx(total, rel=1e-5)


def test_path_classes_by_hand():
    batch = collate([read_smiles("CCCC.O"), read_smiles("C")])
    assert path_classes(batch, 2)[0].tolist() == [
        [-100, 0, 1, 1, -100],
        [0, -100, 0, 1, -100],
        [1, 0, -100, 0, -100],
        [1, 1, 0, -100, -100],
        [-100, -100, -100, -100, -100],
    ]
    assert (path_classes(batch, 2)[1] == -100).all()


@pytest.mark.parametrize(
    ("smiles", "i", "j", "default", "published"),
    [
        ("CC", 0, 1, 0, 0),
        ("C=C", 0, 1, 12, 6),  # double: type 1
        ("C#C", 0, 1, 24, 12),
        ("c1ccccc1", 0, 1, 37, 19),  # aromatic and conjugated: type 3
        ("F/C=C/F", 1, 2, 16, 10),  # E: stereo 2
        ("[Pt]<-N", 0, 1, 48, -100),  # dative: type 4, unknown to the published vocabulary
    ],
)
def test_bond_classes_by_hand(smiles, i, j, default, published):
    batch = collate([read_smiles(smiles)])
    for heads, expected in ((HeadsConfig(), default), (HeadsConfig.published(), published)):
        classes = bond_classes(batch, heads)[0, i, j].tolist()
        assert classes == [expected, -100, -100, -100, -100]


def test_every_bond_has_a_class_of_its_own_unless_published():
    batch = collate([read_smiles("CC")] * (N_BOND_KINDS + 1))
    batch.edge_path[:, 0, 1, 0] = torch.arange(N_BOND_KINDS + 1)
    assert bond_classes(batch, HeadsConfig())[:, 0, 1, 0].tolist() == [-100, *range(60)]
    published = bond_classes(batch, HeadsConfig.published())[1:, 0, 1, 0]
    for kind, found in enumerate(published.tolist()):
        expected = 6 * (kind // 12) + 2 * (kind // 2 % 6) + kind % 2
        assert found == (expected if expected < 24 else -100)


# --- one contract --------------------------------------------------------------------------------


def test_gradients_reach_every_parameter(setting):
    model, batch = lively(setting.model), batched(MIXED, setting)
    blend_then_predict(
        model, batch, drawn(batch, setting.blend), setting.objective
    ).total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_the_same_seed_gives_the_same_loss_to_the_last_digit(setting):
    model, batch = lively(setting.model).train(), batched(MIXED, setting)

    def total(seed):
        torch.manual_seed(1)
        blend = drawn(batch, setting.blend, seed)
        return blend_then_predict(model, batch, blend, setting.objective).total.item()

    assert total(3) == total(3)
    assert total(3) != total(4)


def test_nothing_that_came_in_is_edited(setting):
    model = lively(setting.model)
    batch, untouched = batched(MIXED, setting), batched(MIXED, setting)
    blend, same_blend = drawn(batch, setting.blend), drawn(batch, setting.blend)
    blend_then_predict(model, batch, blend, setting.objective).total.backward()
    for ours, theirs in ((batch, untouched), (blend, same_blend)):
        for field in fields(ours):
            now, before = getattr(ours, field.name), getattr(theirs, field.name)
            assert now is before is None or torch.equal(now.nan_to_num(), before.nan_to_num())


def test_what_stands_in_padded_places_plays_no_role(setting):
    model, batch = lively(setting.model).eval(), batched(MIXED, setting)
    blend = drawn(batch, setting.blend)
    is_atom, both = batch.is_atom, batch.is_atom[:, :, None] & batch.is_atom[:, None, :]
    other = replace(
        batch,
        atoms=torch.where(is_atom[..., None], batch.atoms, 1),
        degree=torch.where(is_atom, batch.degree, 3),
        path_length=torch.where(both, batch.path_length, 2),
        edge_path=torch.where(both[..., None], batch.edge_path, 7),
        positions=torch.where(is_atom[..., None], batch.positions, 9.0),
    )
    soiled = replace(
        blend,
        pairs=blend.pairs | ~both[..., None],
        atoms=blend.atoms | ~is_atom[..., None],
        noise=torch.where(is_atom[..., None], blend.noise, 1.0),
    )
    clean = blend_then_predict(model, batch, blend, setting.objective)
    dirty = blend_then_predict(model, other, soiled, setting.objective)
    torch.testing.assert_close(dirty.terms, clean.terms, rtol=1e-5, atol=1e-5)


# What the published code crashes on, or turns to NaN (behaviour of items that it cannot represent):
# the molecules, and which of the four losses have nothing to score.
NOTHING_IN_3D = {"geometry", "denoising"}
NO_PAIR = {"path_length", "bonds", "geometry"}
AWKWARD_BATCHES = {
    "without 3D": ([read_smiles("CCO"), read_smiles("CC")], NOTHING_IN_3D),
    "paths of 20 bonds and more": ([placed("C" * 30)], set()),
    "paths of less than 5 bonds only": ([placed("CC"), placed("CCO")], set()),
    "single atoms": ([placed("C"), placed("O")], NO_PAIR),
    "single atoms without 3D": ([read_smiles("C")], NO_PAIR | NOTHING_IN_3D),
    "a salt without bonds": ([placed("[Na+].[Cl-]")], {"path_length", "bonds"}),
    "dative bonds": ([placed("Cl[Pt](Cl)(<-N)<-N")], set()),
    "stereo of an unknown kind": ([placed("CC=NO"), placed("F/C=C\\F")], set()),
}


@pytest.mark.parametrize("case", AWKWARD_BATCHES)
def test_awkward_batches_train(setting, case):
    molecules, empty = AWKWARD_BATCHES[case]
    model, batch = lively(setting.model), batched(molecules, setting)
    blend = drawn(batch, setting.blend)
    blend = replace(blend, atoms=torch.stack([~batch.is_atom, batch.is_atom], -1))
    loss = blend_then_predict(model, batch, blend, setting.objective)
    loss.total.backward()
    if blend.masked is not None and not blend.masked.any():
        empty = empty | {"atom_features"}
    of_geometry = setting.model.heads.geometry
    names = ("geometry" if name == of_geometry else name for name in loss.terms)
    terms = dict(zip(names, loss.terms.values(), strict=True))
    assert {name for name, term in terms.items() if term == 0} == empty
    assert loss.total.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("what", ["atom is drawn in 3D", "noise is added"])
def test_denoising_is_nothing_where_no(setting, what):
    model, batch = lively(setting.model), batched(MIXED, setting)
    blend = drawn(batch, setting.blend)
    if what == "noise is added":
        blend = replace(blend, noise=torch.zeros_like(blend.noise))
    else:
        blend = replace(blend, atoms=torch.stack([batch.is_atom, ~batch.is_atom], -1))
    loss = blend_then_predict(model, batch, blend, setting.objective)
    assert loss.terms["denoising"] == 0
    loss.total.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_an_atom_at_the_origin_is_an_atom(setting):
    """The published code takes it for padding."""
    model, molecule = lively(setting.model).eval(), placed("C=CC(N)C=O")
    losses = []
    for origin in (molecule.positions[:, 2:3], np.ones((1, 1, 3), np.float32)):
        batch = batched([replace(molecule, positions=molecule.positions - origin)], setting)
        blend = drawn(batch, setting.blend)
        losses.append(blend_then_predict(model, batch, blend, setting.objective).terms)
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=1e-4)


def test_a_perfect_answer_costs_nothing_and_no_noise_predicted_costs_one():
    setting = SETTINGS["default"]
    batch = collate(MIXED)
    blend = drawn(batch, setting.blend)

    vectors = batch.positions[:, None] - batch.positions[:, :, None]
    views = lively(setting.model).predict_views(batch, blend)
    right = replace(views, geometry=vectors.norm(dim=-1, keepdim=True), noise=blend.noise)
    assert distance_loss(right.geometry, batch).mean == 0
    assert denoising_loss(right.noise, batch, blend, "squared").mean == 0
    none = replace(right, noise=torch.zeros_like(blend.noise))
    assert denoising_loss(none.noise, batch, blend, "squared").mean.item() == pytest.approx(1)


def test_the_size_of_the_pieces_plays_no_role(setting, monkeypatch):
    model, batch = lively(setting.model).eval(), batched(MIXED, setting)
    blend = drawn(batch, setting.blend)
    found = []
    for n_logits in (2**18, 1):
        monkeypatch.setattr(functional, "_LOGITS_AT_ONCE", n_logits)
        model.zero_grad()
        loss = blend_then_predict(model, batch, blend, setting.objective)
        loss.total.backward()
        found.append([loss.total, *(p.grad for p in model.parameters() if p.grad is not None)])
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)


def test_the_losses_of_a_constant_guess_by_hand():
    # CCO: pairs at 1, 1 and 2 bonds; all three hops and bonds are of one kind
    molecule = replace(
        read_smiles("CCO"), positions=np.array([[[0, 0, 0], [1, 0, 0], [3, 0, 0]]], np.float32)
    )
    batches = [collate([molecule]), collate([molecule, read_smiles("O")])]
    losses = constant_losses(batches, HeadsConfig(), ObjectiveConfig())
    entropy = -(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3))
    # distances of 1, 2 and 3 Å: the median is 2
    assert losses == pytest.approx({"path_length": entropy, "distance": 2 / 3, "denoising": 1})
    flat = [collate([read_smiles("CC=O")])]
    without = ObjectiveConfig(path_length=0.0)
    assert set(constant_losses(flat, HeadsConfig(), without)) == {"bonds"}
    published = constant_losses(batches, HeadsConfig.published(), ObjectiveConfig.published())
    assert published["direction"] == 1


def test_what_guessing_the_mean_of_descriptors_costs():
    heads = HeadsConfig(descriptors=True)
    batches = [
        collate_for_heads([read_smiles(s) for s in pair], heads) for pair in (("C", "CC"), ("O",))
    ]
    described = torch.cat([batch.descriptors for batch in batches]).numpy().astype(float)
    told = constant_losses(batches, heads, ObjectiveConfig())["descriptors"]
    spread = described.std(0)
    off = np.abs(described - described.mean(0)) / np.where(spread > 1e-6, spread, 1)
    assert told == pytest.approx(np.where(off < 1, off**2 / 2, off - 0.5).mean(), rel=1e-4)


def test_what_is_unknown_of_a_molecule_costs_nothing():
    setting = SETTINGS["with descriptors"]
    model, batch = lively(setting.model).eval(), batched(MIXED, setting)
    descriptors = batch.descriptors.clone()
    descriptors[1:, 3:] = math.nan
    blend = drawn(batch, setting.blend)
    loss = blend_then_predict(
        model, replace(batch, descriptors=descriptors), blend, setting.objective
    )
    loss.total.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    off = model.predict_views(batch, blend).descriptors - model.descriptor_head.scaled(descriptors)
    off = off[off.isfinite()].abs()
    assert len(off) == N_DESCRIPTORS + 3 * (len(MIXED) - 1)
    expected = torch.where(off < 1, off**2 / 2, off - 0.5).mean()
    torch.testing.assert_close(loss.terms["descriptors"], expected)


def test_a_batch_without_descriptors_is_refused():
    setting = SETTINGS["with descriptors"]
    batch = collate(MIXED)
    with pytest.raises(ValueError, match=r"but `Batch.descriptors` is None"):
        blend_then_predict(
            lively(setting.model), batch, drawn(batch, setting.blend), setting.objective
        )


def test_negative_weights_are_refused():
    with pytest.raises(ValueError, match="expected weights of at least 0"):
        ObjectiveConfig(bonds=-1.0)


def test_a_tiny_model_learns_sixteen_molecules_by_heart():
    smiles = "CCO CCN CC=O CC#N C1CC1 COC CC(C)O NCC=O C=CC OCCO C1CO1 CNC CCCl FCCF C#CC N#CC=O"
    batch = collate([add_positions(read_smiles(s), seed=0) for s in smiles.split()])
    torch.manual_seed(0)
    encoder = EncoderConfig(width=32, ffn_width=32, n_layers=2, n_heads=4, n_kernels=16)
    model = Model(ModelConfig(encoder=encoder, heads=HeadsConfig(rank=8)))
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    fixed = drawn(batch, BlendConfig(unblended=(0.0, 0.0)), seed=1)

    @torch.no_grad()
    def held():
        return blend_then_predict(model.eval(), batch, fixed, ObjectiveConfig())

    before = held()
    for _ in range(100):
        blend = draw_blend(batch, BlendConfig(), generator)
        optimiser.zero_grad()
        blend_then_predict(model.train(), batch, blend, ObjectiveConfig()).total.backward()
        optimiser.step()
    after = held()
    assert after.total < before.total / 3
    assert after.terms["distance"] < 0.3
    assert after.terms["path_length"] < 0.5
