from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from moleblend.chem.descriptors import compute_descriptors
from moleblend.chem.parsing import read_smiles
from moleblend.model.batch import collate
from moleblend.model.blending import BlendConfig, show
from moleblend.model.encoder_config import EncoderConfig
from moleblend.model.functional import pair_vectors
from moleblend.model.heads import Model, ModelConfig
from moleblend.model.objectives import bond_classes, path_classes
from moleblend.model.pair_heads import HeadsConfig, ViewPredictions
from moleblend.model.relations import relate
from moleblend.pretraining.data_loader import collate_for_heads
from moleblend.pretraining.validation import SHOWN_AS, score_views

ENCODER = EncoderConfig(width=16, ffn_width=24, n_layers=1, n_heads=4, n_kernels=8)
HEADS = {"distance": HeadsConfig(rank=4), "direction": replace(HeadsConfig.published(), rank=4)}


def placed(smiles):
    molecule = read_smiles(smiles)
    positions = np.random.default_rng(0).normal(scale=2, size=(1, molecule.n_atoms, 3))
    return replace(molecule, positions=positions.astype(np.float32))


MOLECULES = [placed("CC(=O)[O-].[NH4+]"), read_smiles("FC=CC"), placed("C"), placed("C=CC(N)C=O")]
MOLECULES += [read_smiles("O"), placed("Cl[Pt](Cl)(<-N)<-N"), placed("C" * 14)]


def batches():
    return [collate(MOLECULES[:3]), collate(MOLECULES[3:])]


def model_with(heads):
    torch.manual_seed(0)
    return Model(ModelConfig(encoder=ENCODER, heads=heads))


def truth(batch, heads):
    """What a perfect model predicts."""
    vectors = pair_vectors(batch.positions)
    is_distance = heads.geometry == "distance"
    lengths, bonds = path_classes(batch, heads.n_path_classes), bond_classes(batch, heads)
    return ViewPredictions(
        path_length=F.one_hot(lengths.clamp(min=0), heads.n_path_classes).float(),
        bonds=F.one_hot(bonds.clamp(min=0), heads.n_bond_classes).float(),
        geometry=vectors.norm(dim=-1, keepdim=True) if is_distance else vectors,
        noise=None,
    )


class Doctored(Model):
    """Predicts what a function returns, and records the blends."""

    def __init__(self, heads, answer):
        super().__init__(ModelConfig(encoder=ENCODER, heads=heads))
        self.answer = answer
        self.blends = []

    def predict_views(self, batch, blend):
        self.blends.append(blend)
        return self.answer(batch, blend)


@pytest.fixture(params=HEADS)
def heads(request):
    return HEADS[request.param]


def by_name(scores):
    return {(score.view, score.shown): score for score in scores}


def test_the_truth_scores_best(heads):
    model = Doctored(heads, lambda batch, _: truth(batch, heads))
    scores = score_views(model, batches(), BlendConfig())
    views = ("path_length", "bonds", heads.geometry)
    assert [(s.view, s.shown) for s in scores] == [
        (view, how) for view in views for how in SHOWN_AS
    ]
    for score in scores:
        metric = {"distance": "MAE", "direction": "cosine"}.get(score.view, "accuracy")
        assert score.metric == metric
        assert score.value == pytest.approx(0 if metric == "MAE" else 1, abs=1e-6)


def test_a_model_that_only_copies_scores_where_the_answer_is_visible_and_nowhere_else(heads):
    def copy(batch, blend):
        right = truth(batch, heads)
        either_way = blend.pairs | blend.pairs.transpose(1, 2)
        path_length, bonds, geometry = either_way.unsqueeze(-2).unbind(-1)  # each [b n n 1]
        off = right.geometry + 1 if heads.geometry == "distance" else -right.geometry
        return ViewPredictions(
            path_length=torch.where(path_length, right.path_length, -right.path_length),
            bonds=torch.where(bonds[..., None], right.bonds, -right.bonds),
            geometry=torch.where(geometry, right.geometry, off),
            noise=None,
        )

    model = Doctored(heads, copy)
    for score in score_views(model, batches(), BlendConfig()):
        is_visible = score.shown == "visible"
        wrong = {"accuracy": 0.0, "MAE": 1.0, "cosine": -1.0}[score.metric]
        right = 0.0 if score.metric == "MAE" else 1.0
        assert score.value == pytest.approx(right if is_visible else wrong, abs=1e-5), score


def test_what_is_shown(heads):
    """Blended; then completely in 2D; then completely in 3D; never with noise."""
    model = Doctored(heads, lambda batch, _: truth(batch, heads))
    score_views(model, batches(), BlendConfig(unblended=(0.5, 0.5)))
    shown = [model.blends[k::3] for k in range(3)]
    for batch, blended, flat, solid in zip(batches(), *shown, strict=True):
        assert (blended.pairs.sum(-1) == 1).all()
        assert (blended.atoms.sum(-1) == 1).all()
        assert not blended.noise.any()
        assert (flat.pairs == torch.tensor([True, True, False])).all()
        assert (flat.atoms == torch.tensor([True, False])).all()
        assert not solid.pairs[..., :2].any()
        assert not solid.atoms[..., 0].any()
        assert solid.pairs[batch.has_positions][..., 2].all()
        assert not flat.noise.any()
        assert not solid.noise.any()


def lookup_metric(cases, answer):
    """Metric of the best lookup table from key to answer."""
    groups = defaultdict(list)
    for key, value in cases:
        groups[key].append(value)
    return sum(answer(np.array(values)) for values in groups.values()) / len(cases)


def test_counts_and_lookup_baselines_by_hand(heads):
    model = Doctored(heads, lambda batch, _: truth(batch, heads))
    scores = by_name(score_views(model, batches(), BlendConfig()))
    stereos = heads.bond_vocabulary[1]
    n_blended = Counter()
    cases = {"path_length": [], "bonds": [], heads.geometry: []}  # (key, answer)
    for molecule in MOLECULES:
        relations = relate(molecule)
        for i, j in np.ndindex(molecule.n_atoms, molecule.n_atoms):
            if i == j:
                continue
            length = int(relations.path_length[i, j])
            kinds = [(hop, code - 1) for hop, code in enumerate(relations.edge_path[i, j]) if code]
            classes = [(h, 2 * (k // 12 * stereos + k // 2 % 6) + k % 2) for h, k in kinds]
            kinds = [(h, c) for h, c in classes if c < heads.n_bond_classes]
            n_blended["path_length"] += length > 0
            n_blended["bonds"] += len(kinds)
            for places in molecule.positions:
                n_blended[heads.geometry] += 1
                distance = np.linalg.norm(places[i] - places[j])
                tenth = int(distance / np.float32(0.1))
                cases[heads.geometry].append((length, distance))
                cases["bonds"] += [((tenth, hop), kind) for hop, kind in kinds]
                if length > 0:
                    cases["path_length"].append((tenth, min(length, 11)))
    for view, examples in cases.items():
        n = sum(scores[view, how].n for how in ("visible", "hidden"))
        assert n == n_blended[view]
        hidden = scores[view, "modality hidden"]
        assert hidden.n == len(examples)
        if view == "direction":
            assert hidden.lookup_baseline is None
        elif view == "distance":
            # torch's median is the lower of two, which costs no more than the mean of both
            best = lookup_metric(examples, lambda values: np.abs(values - np.median(values)).sum())
            assert hidden.lookup_baseline == pytest.approx(best, rel=1e-5)
        else:
            best = lookup_metric(
                examples, lambda values: np.unique(values, return_counts=True)[1].max()
            )
            assert hidden.lookup_baseline == pytest.approx(best)


def test_descriptors_are_scored_by_hand():
    heads = HeadsConfig(rank=4, descriptors=True)
    model = model_with(heads)
    described = torch.from_numpy(compute_descriptors([molecule.smiles for molecule in MOLECULES]))
    model.descriptor_head.fit(described)
    given = [collate_for_heads(MOLECULES[:3], heads), collate_for_heads(MOLECULES[3:], heads)]
    scores = by_name(score_views(model, given, BlendConfig()))
    for shown, views, is_scored in (
        ("visible", "2d", lambda _: True),
        ("modality hidden", "3d", lambda molecule: molecule.n_conformers > 0),
    ):
        errors, squares = [], []
        for molecule in filter(is_scored, MOLECULES):
            batch = collate_for_heads([molecule], heads)
            with torch.no_grad():
                predicted = model.eval().predict_views(batch, show(batch, views)).descriptors[0]
            right = model.descriptor_head.scaled(batch.descriptors)[0]
            known = right.isfinite()
            errors += ((predicted - right)[known] ** 2).tolist()
            squares += (right[known] ** 2).tolist()
        score = scores["descriptors", shown]
        assert (score.metric, score.lookup_baseline, score.n) == ("R2", None, len(errors))
        assert score.value == pytest.approx(1 - sum(errors) / sum(squares), abs=1e-4)
    assert scores["descriptors", "hidden"].n == scores["descriptors", "visible"].n


def test_what_no_molecule_has_is_not_scored():
    model = model_with(HEADS["distance"])
    flat = [collate([read_smiles("CCCCOCCN"), read_smiles("C")])]
    assert set(by_name(score_views(model, flat, BlendConfig()))) == {
        (view, shown) for view in ("path_length", "bonds") for shown in ("visible", "hidden")
    }
    assert score_views(model, [], BlendConfig()) == []


def test_a_seed_repeats():
    model = model_with(HEADS["distance"])
    first, again, other = (score_views(model, batches(), BlendConfig(), k) for k in (0, 0, 1))
    assert first == again
    assert first != other
    # a molecule that is shown completely has no random draws
    complete = [by_name(scores)["distance", "modality hidden"] for scores in (first, other)]
    assert complete[0] == complete[1]


@pytest.mark.parametrize("is_training", [True, False])
def test_the_model_is_left_as_it_was(is_training):
    model = model_with(HEADS["distance"]).train(is_training)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    score_views(model, batches(), BlendConfig())
    assert model.training == is_training
    assert all(module.training == is_training for module in model.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_model_without_pretraining_heads_is_refused():
    with pytest.raises(ValueError, match="has no pretraining heads: it cannot predict views"):
        score_views(model_with(None), batches(), BlendConfig())
