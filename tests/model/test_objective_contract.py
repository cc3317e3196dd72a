"""One contract that every objective keeps, and a small plain version of each formula."""

import copy
import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from moleblend.chem.descriptors import compute_descriptors, fingerprint_bits
from moleblend.chem.parsing import read_smiles
from moleblend.model.batch import Batch, collate
from moleblend.model.blending import Blend, BlendConfig, draw_blend, molecule_generators, show
from moleblend.model.encoder import initialise
from moleblend.model.encoder_config import EncoderConfig
from moleblend.model.heads import Model, ModelConfig
from moleblend.model.objectives import (
    OBJECTIVES,
    CombinedObjective,
    ContrastConfig,
    MaskedViewConfig,
    MoleculeTargets,
    ObjectiveConfig,
)
from moleblend.model.objectives.contrast import Contrast
from moleblend.model.objectives.denoising import draw_noise
from moleblend.model.objectives.masked_view import MaskedView
from moleblend.model.objectives.transformer_m import TransformerM
from moleblend.model.pair_heads import HeadsConfig

ENCODER = EncoderConfig(width=16, ffn_width=24, n_layers=2, n_heads=4, n_kernels=8)
MODEL = ModelConfig(encoder=ENCODER, heads=HeadsConfig(rank=4, descriptors=True))
N_LABELS = 3

CONFIGS = {name: ObjectiveConfig(names=(name,)) for name in OBJECTIVES}
CONFIGS |= {
    f"masked_view of {view}": ObjectiveConfig(
        names=("masked_view",), masked_view=MaskedViewConfig(view=view, fraction=0.4)
    )
    for view in ("edge_path", "distance")
}
CONFIGS["contrast and reconstruction"] = ObjectiveConfig(
    names=("contrast",), contrast=ContrastConfig(reconstruction=0.5)
)
CONFIGS["with molecule targets"] = ObjectiveConfig(fingerprints=0.7, labels=0.4)
CONFIGS["a sum"] = ObjectiveConfig(names=("blend_then_predict", "contrast", "denoising"))


def placed(smiles: str):
    molecule = read_smiles(smiles)
    positions = np.random.default_rng(0).normal(scale=2, size=(1, molecule.n_atoms, 3))
    return replace(molecule, positions=positions.astype(np.float32))


MOLECULES = [placed("CC(=O)[O-].[NH4+]"), read_smiles("F/C=C/F"), placed("C"), placed("C=CC(N)C=O")]
MOLECULES += [placed("Cl[Pt](Cl)(<-N)<-N"), placed("C" * 14)]
FLAT = [read_smiles("CCO"), read_smiles("CC")]


def batch_of(molecules, places=None) -> Batch:
    smiles = [molecule.smiles for molecule in molecules]
    labels = [
        [1.0, math.nan, 2.5 + k] for k in (range(len(molecules)) if places is None else places)
    ]
    return replace(
        collate(molecules),
        descriptors=torch.from_numpy(compute_descriptors(smiles)),
        fingerprints=torch.from_numpy(fingerprint_bits(smiles)),
        labels=torch.tensor(labels),
        places=None if places is None else torch.tensor(places),
    )


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def blend_of(batch: Batch) -> Blend:
    return draw_blend(batch, BlendConfig(unblended=(0.0, 0.0)), seeded())


@pytest.fixture(params=CONFIGS)
def objective(request: pytest.FixtureRequest) -> CombinedObjective:
    torch.manual_seed(1)
    config, targets = CONFIGS[request.param], None
    if config.labels:
        targets = MoleculeTargets(
            ENCODER.width,
            n_bits=1190,
            label_mean=torch.tensor([0.0, 0.0, 2.0]),
            label_std=torch.tensor([0.0, 0.0, 1.5]),
            fingerprints=config.fingerprints,
            labels=config.labels,
        )
    made = CombinedObjective(config, MODEL, targets)
    initialise(made, std=0.5)
    return made


@pytest.fixture
def model() -> Model:
    torch.manual_seed(0)
    model = Model(MODEL)
    initialise(model, std=0.6)
    model.encoder.kernels.spread()
    assert model.descriptor_head is not None
    smiles = [molecule.smiles for molecule in MOLECULES]
    model.descriptor_head.fit(torch.from_numpy(compute_descriptors(smiles)))
    return model.eval()


def test_nothing_that_came_in_is_edited(objective: CombinedObjective, model: Model) -> None:
    batch, untouched = batch_of(MOLECULES), batch_of(MOLECULES)
    blend, same_blend = blend_of(batch), blend_of(batch)
    objective.loss(model, batch, blend, seeded()).total.backward()
    for ours, theirs in ((batch, untouched), (blend, same_blend)):
        for field in fields(ours):
            now, before = getattr(ours, field.name), getattr(theirs, field.name)
            assert now is before is None or torch.equal(now.nan_to_num(), before.nan_to_num())


@pytest.mark.parametrize("molecules", [MOLECULES, FLAT, MOLECULES[2:3]], ids=["all", "2D", "one"])
def test_losses_and_gradients_are_finite(
    objective: CombinedObjective, model: Model, molecules: list
) -> None:
    batch = batch_of(molecules)
    loss = objective.loss(model, batch, blend_of(batch), seeded())
    assert loss.total.isfinite()
    assert loss.terms.keys() == objective.weights.keys()
    loss.total.backward()
    trained = [*model.parameters(), *objective.parameters()]
    assert all(p.grad is None or p.grad.isfinite().all() for p in trained)


def test_gradients_reach_the_encoder_and_the_own_layers(
    objective: CombinedObjective, model: Model
) -> None:
    batch = batch_of(MOLECULES)
    objective.loss(model, batch, blend_of(batch), seeded()).total.backward()
    for name, parameter in (
        *model.encoder.layers.named_parameters(),
        *objective.named_parameters(),
    ):
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_the_same_seed_gives_the_same_loss(objective: CombinedObjective, model: Model) -> None:
    batch = batch_of(MOLECULES)
    blend = blend_of(batch)

    def total(seed: int) -> float:
        torch.manual_seed(1)
        return objective.loss(model.train(), batch, blend, seeded(seed)).total.item()

    assert total(3) == total(3)


def test_denominators_are_known_without_the_model(
    objective: CombinedObjective, model: Model
) -> None:
    batch = batch_of(MOLECULES)
    blend = blend_of(batch)
    terms = objective(model, batch, blend, seeded(4))
    scored = objective.scored(batch, blend, seeded(4))
    assert scored.keys() == terms.keys()
    for name, term in terms.items():
        torch.testing.assert_close(scored[name], term.scored.detach())


def test_terms_add_up_over_micro_batches(objective: CombinedObjective, model: Model) -> None:
    """A term that compares molecules (contrast) adds up over its own micro-batches only."""
    complete = batch_of(MOLECULES)
    blend = blend_of(complete)
    halves = [batch_of(MOLECULES[:3], [0, 1, 2]), batch_of(MOLECULES[3:], [3, 4, 5])]
    blends = [draw_blend(half, BlendConfig(unblended=(0.0, 0.0)), seeded()) for half in halves]
    scored = objective.scored(complete, blend, seeded(2))
    whole = objective.loss(model, complete, blend, seeded(2)).terms
    summed = dict.fromkeys(scored, 0.0)
    for half, half_blend in zip(halves, blends, strict=True):
        for name, value in objective.loss(model, half, half_blend, seeded(2), scored).terms.items():
            summed[name] += value.item()
    for name, value in whole.items():
        if not name.endswith("contrast"):
            assert summed[name] == pytest.approx(value.item(), rel=1e-4), name


# --- formulas ------------------------------------------------------------------------------------


def test_contrast_by_its_formula(model: Model) -> None:
    torch.manual_seed(2)
    objective = Contrast(ContrastConfig(temperature=0.3, width=5, reconstruction=1.0), 16)
    initialise(objective, std=0.5)
    batch = batch_of(MOLECULES)
    terms = objective(model, batch, blend_of(batch), seeded())
    with_3d = collate([m for m in MOLECULES if m.n_conformers])
    flat, solid = (model.embed(with_3d, show(with_3d, views)).detach() for views in ("2d", "3d"))
    u = objective.project_2d(flat).detach().double().numpy()
    v = objective.project_3d(solid).detach().double().numpy()
    similarity = np.array(
        [[a @ b / np.linalg.norm(a) / np.linalg.norm(b) / 0.3 for b in v] for a in u]
    )
    losses = []
    for i in range(len(u)):
        own = math.exp(similarity[i, i])
        losses += [-math.log(own / np.exp(similarity[i]).sum())]
        losses += [-math.log(own / np.exp(similarity[:, i]).sum())]
    assert terms["contrast"].mean.item() == pytest.approx(np.mean(losses), rel=1e-4)
    errors = ((objective.to_3d(flat) - solid) ** 2).mean() + (
        (objective.to_2d(solid) - flat) ** 2
    ).mean()
    assert terms["reconstruction"].mean.item() == pytest.approx(errors.item() / 2, rel=1e-4)


def test_denoising_by_its_formula(model: Model) -> None:
    config = ObjectiveConfig(names=("denoising",), noise_3d=0.04)
    batch = collate([m for m in MOLECULES if m.n_conformers])
    loss = CombinedObjective(config, MODEL).loss(model, batch, blend_of(batch), seeded(5))
    noise = draw_noise(batch, 0.04, molecule_generators(batch, seeded(5))[1])
    assert noise[batch.is_atom].std().item() == pytest.approx(0.04, rel=0.2)
    shown = replace(show(batch, "3d"), noise=noise)
    predicted = model.predict_views(batch, shown).noise
    real = batch.is_atom
    expected = (predicted - noise)[real].square().sum() / noise[real].square().sum()
    assert loss.terms["denoising"].item() == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("view", ["path_length", "edge_path", "distance"])
def test_a_masked_view_scores_hidden_pairs_only(view: str) -> None:
    config = ObjectiveConfig(masked_view=MaskedViewConfig(view=view, fraction=0.4))
    batch = batch_of(MOLECULES)
    shown, hidden = MaskedView(config, MODEL.heads).hide(batch, seeded())
    index = ("path_length", "edge_path", "distance").index(view)
    assert not shown.pairs[..., [k for k in range(3) if k != index]].any()
    assert not (shown.pairs[..., index] & hidden).any()
    assert torch.equal(hidden, hidden.transpose(1, 2))
    fraction = hidden[batch.is_pair].float().mean().item()
    assert fraction == pytest.approx(0.4, abs=0.12)


def test_transformer_m_draws_the_published_mixture() -> None:
    batch = batch_of([placed("CCO")] * 400 + FLAT)
    blend = TransformerM.draw(batch, seeded())
    shows_2d, shows_3d = (blend.pairs[:, 0, 1, k] for k in (0, 2))
    n = 400
    assert (shows_2d & ~shows_3d)[:n].float().mean().item() == pytest.approx(0.2, abs=0.06)
    assert (~shows_2d & shows_3d)[:n].float().mean().item() == pytest.approx(0.6, abs=0.08)
    assert shows_2d[n:].all()
    assert not shows_3d[n:].any()
    assert not blend.noise[shows_2d].any()
    assert blend.noise[~shows_2d].any()


def test_molecule_targets_by_their_formulas() -> None:
    torch.manual_seed(0)
    targets = MoleculeTargets(
        4,
        n_bits=1190,
        label_mean=torch.tensor([0.0, 0.0, 2.0]),
        label_std=torch.tensor([0.0, 0.0, 1.5]),
    )
    initialise(targets, std=0.7)
    batch, vectors = batch_of(MOLECULES), torch.randn(len(MOLECULES), 4)
    terms = targets(vectors, batch)
    probability = torch.sigmoid(targets.bits(vectors)).double()
    bits = batch.fingerprints.double()
    expected = -(bits * probability.log() + (1 - bits) * (1 - probability).log()).mean()
    assert terms["fingerprints"].mean.item() == pytest.approx(expected.item(), rel=1e-4)
    predicted = targets.label_values(vectors).double()
    errors = []
    for k in range(len(MOLECULES)):
        errors.append(-math.log(1 / (1 + math.exp(-predicted[k, 0].item()))))
        off = abs(predicted[k, 2].item() - (2.5 + k - 2.0) / 1.5)
        errors.append(off**2 / 2 if off < 1 else off - 0.5)
    assert terms["labels"].mean.item() == pytest.approx(np.mean(errors), rel=1e-4)


def test_an_objective_without_a_loss_is_refused() -> None:
    with pytest.raises(ValueError, match="the objective cross_view has no loss"):
        CombinedObjective(
            ObjectiveConfig(names=("cross_view",), geometry=0.0, path_length=0.0, bonds=0.0), MODEL
        )
    with pytest.raises(ValueError, match="expected different objectives"):
        ObjectiveConfig(names=("denoising", "denoising"))


def test_a_sum_is_the_sum(model: Model) -> None:
    batch = batch_of(MOLECULES)
    blend = blend_of(batch)
    names = ("cross_view", "denoising")
    together = CombinedObjective(ObjectiveConfig(names=names), MODEL)
    total = together.loss(model, batch, blend, seeded(1)).total.item()
    alone = [
        CombinedObjective(ObjectiveConfig(names=(name,)), MODEL)
        .loss(model, batch, blend, seeded(1))
        .total.item()
        for name in names
    ]
    assert total == pytest.approx(sum(alone), rel=1e-5)
    assert copy.deepcopy(together).weights == together.weights
