from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from moleblend.chem.fingerprints import environments
from moleblend.chem.geometry import add_positions
from moleblend.chem.molecule import Molecule
from moleblend.chem.parsing import read_mol_block, read_smiles
from moleblend.data.targets import Target
from moleblend.model import checkpoint
from moleblend.model.batch import collate
from moleblend.model.blending import show
from moleblend.model.encoder_config import EncoderConfig
from moleblend.model.heads import HeadsConfig, Model, ModelConfig
from moleblend.prediction.explanation import Contributions, explain
from moleblend.prediction.predictor import Predictor
from tests.helpers.molecules import AWKWARD

TINY = EncoderConfig(
    width=16,
    ffn_width=16,
    n_layers=2,
    n_heads=2,
    n_kernels=8,
    centrality_scale=0.3,
    max_atoms=40,
)
TARGETS = (
    Target("gap", "regression", "eV", mean=7.0, scale=2.0),
    Target("toxic", "binary"),
)

Make = Callable[..., Predictor]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def make(
        views: str = "both", change: Callable[[Model], None] | None = None, **config: object
    ) -> Predictor:
        torch.manual_seed(0)
        config = {"encoder": TINY, "heads": None, "targets": TARGETS, **config}
        model = Model(ModelConfig(**config))
        for parameter in model.parameters():  # larger than they start, so that all inputs matter
            parameter.data.normal_(std=0.5)
        model.encoder.kernels.spread()
        if change is not None:
            change(model)
        path = tmp_path / "model.safetensors"
        checkpoint.save(model, path, checkpoint.Card(trained_by="train", views=views))
        return Predictor(path, device="cpu")

    return make


def one(predictor: Predictor, molecule: Molecule, **options: object) -> Contributions:
    (found,) = explain(predictor, [molecule], **options)
    assert found.contributions is not None
    return found.contributions


def placed(smiles: str) -> Molecule:
    return add_positions(read_smiles(smiles), seed=0)


def upper(pairs: np.ndarray) -> np.ndarray:
    """The sum over pairs, each once, and the atoms themselves."""
    return np.triu(pairs.transpose(2, 0, 1)).sum((1, 2))


READS_ECFP4 = {"features": ("ecfp4",), "n_features": 2048}


@pytest.mark.parametrize("config", [{}, {"readout": "layers"}, {"readout": "cls"}, READS_ECFP4])
@pytest.mark.parametrize("smiles", ["C", "CO", "CC(=O)Nc1ccc(O)cc1", "[Na+].[Cl-]"])
def test_every_attribution_adds_up(make: Make, smiles: str, config: dict) -> None:
    found = one(make(**config), placed(smiles))
    assert found.base_value.tolist() == [7.0, 0.0]
    assert found.base_value + found.atoms.sum(0) == pytest.approx(found.output, abs=1e-6)
    by_views = found.base_value + found.unrelated_atoms + found.views.sum(0)
    assert by_views == pytest.approx(found.output, abs=2e-6)
    assert upper(found.pairs) == pytest.approx(found.views.sum(0), abs=2e-4)
    assert np.abs(found.views).max() > 1e-3
    np.testing.assert_array_equal(found.pairs, found.pairs.transpose(1, 0, 2))


def test_the_prediction_is_that_of_predict(make: Make) -> None:
    predictor = make()
    smiles = ["CCO", "c1ccccc1N"]
    table = predictor.predict(smiles)
    for row, found in enumerate(explain(predictor, smiles)):
        predicted = [table.column(name)[row].as_py() for name in ("gap_pred", "toxic_prob")]
        assert found.contributions is not None
        assert found.contributions.prediction == pytest.approx(predicted, abs=1e-5)
        gap, odds = found.contributions.output
        assert [gap, 1 / (1 + np.exp(-odds))] == pytest.approx(predicted, abs=1e-5)


def test_of_several_geometries_the_mean_is_explained(make: Make) -> None:
    predictor = make()
    near = replace(placed("CC(=O)NC"), energies=None)
    far = replace(near, positions=near.positions * np.float32(1.4))
    both = replace(near, positions=np.concatenate([near.positions, far.positions]))
    found, parts = one(predictor, both), [one(predictor, near), one(predictor, far)]
    assert np.abs(parts[0].atoms - parts[1].atoms).max() > 1e-3
    for name in ("output", "atoms", "unrelated_atoms", "views", "pairs"):
        mean = np.mean([getattr(part, name) for part in parts], 0)
        np.testing.assert_allclose(getattr(found, name), mean, atol=1e-5)
    table = predictor.predict([both])
    predicted = [table.column(name)[0].as_py() for name in ("gap_pred", "toxic_prob")]
    assert found.prediction == pytest.approx(predicted, abs=1e-5)


def test_atoms_by_hand(make: Make) -> None:
    """What an atom gives alone and what is lost without it, by predicting such molecules."""
    predictor = make("2d")
    whole, (c, o) = read_smiles("CO"), (0, 1)
    found = one(predictor, whole).atoms[:, 0]

    def output(atom: int) -> float:
        """The model's output for one atom with the features that it has in methanol."""
        alone = Molecule(
            atoms=whole.atoms[[atom]],
            bonds=whole.bonds[:0],
            bond_features=whole.bond_features[:0],
            positions=whole.positions[:, [atom]],
            id="alone",
            smiles="C",
            source_atoms=whole.source_atoms[[atom]],
        )
        batch = collate([alone])
        batch = replace(batch, degree=torch.ones_like(batch.degree))  # its bond is not forgotten
        with torch.inference_mode():
            return float(predictor.model(batch, show(batch, "2d"))[0, 0]) * 2

    both = float(one(predictor, whole).output[0]) - 7
    first = (output(c) + both - output(o)) / 2
    second = (output(o) + both - output(c)) / 2
    rest = (both - first - second) / 2
    assert found == pytest.approx([first + rest, second + rest], abs=1e-5)


def blind(model: Model) -> None:
    """Let the head see the fingerprint alone, and return a weighted sum of it."""
    head, width = model.property_head, model.config.encoder.width
    assert head is not None
    head.hidden.weight.data[:, :width] = 0
    head.hidden.bias.data.fill_(30.0)  # far to the right GELU is straight
    head.out.bias.data = -head.out.weight.data.sum(1) * 30


def test_environments_by_hand(make: Make) -> None:
    """Ethanol, and a model that is a sum over its six environments."""
    predictor = make("2d", blind, **READS_ECFP4)
    molecule = read_smiles("CCO")
    head, known = predictor.model.property_head, environments(molecule)
    assert head is not None
    assert sorted(known.radius.tolist()) == [0, 0, 0, 1, 1, 1]
    with torch.no_grad():
        weights = (head.out.weight @ head.hidden.weight)[0, 16:].numpy() * 2 * np.log(2)
    assert len(set(known.bits)) == 6  # each counted once
    contribution = {
        (r, frozenset(np.flatnonzero(inside))): weights[bit]
        for bit, r, inside in zip(known.bits, known.radius, known.atoms, strict=True)
    }
    single = [contribution[0, frozenset([k])] for k in range(3)]
    left, middle, right = (
        contribution[1, frozenset(atoms)] for atoms in ((0, 1), (0, 1, 2), (1, 2))
    )
    found = one(predictor, molecule)
    assert found.output[0] - 7 == pytest.approx(sum(contribution.values()), abs=1e-3)
    assert found.unrelated_atoms[0] == pytest.approx(sum(single), abs=1e-3)
    assert found.views[:, 0] == pytest.approx([left + middle + right, 0], abs=1e-3)
    pairs = found.pairs[..., 0]
    assert pairs[0, 1] == pairs[1, 0] == pytest.approx(left + middle / 2, abs=1e-3)
    assert pairs[1, 2] == pytest.approx(right + middle / 2, abs=1e-3)
    assert pairs[0, 2] == pytest.approx(0, abs=1e-4)
    # C-C is there in a ball of C alone never, of both and of all: 0, 1 and 1 of it, and C-O alike
    # for O; the trapezoid rule makes 3/4 of that, and the same of C-C-O for both
    difference = single[0] - single[2] + 0.75 * (left - right)
    assert found.atoms[0, 0] - found.atoms[2, 0] == pytest.approx(difference, abs=1e-3)


def test_a_model_that_reads_environments_is_explained_as_it_predicts(make: Make) -> None:
    predictor = make(**READS_ECFP4)
    table = predictor.predict(["CC(=O)Nc1ccccc1O"])
    (found,) = explain(predictor, ["CC(=O)Nc1ccccc1O"])
    predicted = [table.column(name)[0].as_py() for name in ("gap_pred", "toxic_prob")]
    assert found.contributions.prediction == pytest.approx(predicted, abs=1e-5)


def test_equivalent_atoms_contribute_equally(make: Make) -> None:
    benzene = one(make("2d"), read_smiles("c1ccccc1"))
    assert np.ptp(benzene.atoms, axis=0) == pytest.approx([0, 0], abs=1e-5)
    # ortho, meta, para: the same wherever they stand in the ring
    for k in (1, 2, 3):
        alike = [benzene.pairs[i, (i + k) % 6, 0] for i in range(6)]
        assert alike == pytest.approx([alike[0]] * 6, abs=1e-5)
    phenol = one(make("2d"), read_smiles("Oc1ccccc1"))  # the record: O, C, then round the ring
    assert phenol.atoms[2] == pytest.approx(phenol.atoms[6], abs=1e-5)
    assert abs(phenol.atoms[2, 0] - phenol.atoms[4, 0]) > 1e-4


def test_the_order_of_atoms_does_not_matter(make: Make) -> None:
    encoder = EncoderConfig(**{**vars(TINY), "features": "ogb-1"})
    predictor = make(encoder=encoder)
    molecule = add_positions(read_smiles("CC(=O)NCCS", features="ogb-1"), seed=0)
    order = np.random.default_rng(0).permutation(molecule.n_atoms)
    place = np.argsort(order)
    moved = Molecule(
        atoms=molecule.atoms[order],
        bonds=np.sort(place[molecule.bonds], 1).astype(np.int32),
        bond_features=molecule.bond_features,
        positions=molecule.positions[:, order],
        id=molecule.id,
        smiles=molecule.smiles,
        source_atoms=molecule.source_atoms[order],
        features="ogb-1",
    )
    before, after = one(predictor, molecule), one(predictor, moved)
    assert after.atoms == pytest.approx(before.atoms[order], abs=1e-5)
    assert after.pairs == pytest.approx(before.pairs[order][:, order], abs=1e-5)
    assert after.views == pytest.approx(before.views, abs=1e-5)


def test_alone_as_among_others(make: Make) -> None:
    predictor = make()
    molecules = [placed(smiles) for smiles in ("CCO", "CC(=O)Nc1ccc(O)cc1", "C#N")]
    for molecule, found in zip(molecules, explain(predictor, molecules), strict=True):
        alone = one(predictor, molecule)
        assert found.contributions is not None
        for name in ("atoms", "views", "pairs", "output"):
            assert getattr(found.contributions, name) == pytest.approx(
                getattr(alone, name), abs=1e-6
            ), name


def test_pieces_that_fit_into_memory_change_nothing(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor, molecule = make(), placed("CC(=O)NC")
    whole = one(predictor, molecule)
    monkeypatch.setattr("moleblend.prediction.explanation._PAIRS_AT_ONCE", 60)
    pieces = one(predictor, molecule)
    for name in ("atoms", "views", "pairs", "output"):
        assert getattr(pieces, name) == pytest.approx(getattr(whole, name), abs=1e-5), name


def forget_geometry(model: Model) -> None:
    model.encoder.distance_bias[2].weight.data.zero_()
    model.encoder.distance_bias[2].bias.data.zero_()
    model.encoder.centrality.weight.data.zero_()
    model.encoder.centrality.bias.data.zero_()


def forget_bonds(model: Model) -> None:
    model.encoder.path_length_bias.table.weight.data.zero_()
    model.encoder.edge_path_bias.hops.data.zero_()
    for table in model.encoder.atom_embedding.degrees:
        table.weight.data.zero_()


@pytest.mark.parametrize(("forget", "silent"), [(forget_geometry, 1), (forget_bonds, 0)])
def test_a_view_that_the_model_is_blind_to_has_no_share(make: Make, forget, silent: int) -> None:
    molecule = placed("CC(=O)NC")
    found = one(make(change=forget), molecule)
    assert found.views[silent] == pytest.approx([0, 0], abs=1e-5)
    assert np.abs(found.views[1 - silent]).max() > 1e-3
    seen = one(make(), molecule)
    assert np.abs(seen.views[silent]).max() > 1e-3


def test_a_model_that_sees_no_relation_has_no_pairs(make: Make) -> None:
    def forget(model: Model) -> None:
        forget_bonds(model)
        forget_geometry(model)

    found = one(make(change=forget), placed("CC(=O)NC"))
    assert np.abs(found.pairs).max() == 0
    assert np.ptp(found.atoms[:, 0]) > 1e-3


def test_views_that_are_not_used_have_no_share(make: Make) -> None:
    molecule = placed("CCO")
    for views, silent in (("2d", 1), ("3d", 0)):
        found = one(make(), molecule, views=views)
        assert found.views[silent] == pytest.approx([0, 0], abs=1e-6)
        assert np.abs(found.views[1 - silent]).max() > 1e-4
    flat = one(make(), read_smiles("CCO"))
    assert flat.views[1] == pytest.approx([0, 0], abs=1e-6)


def test_random_weights_give_other_contributions(make: Make) -> None:
    """Adebayo et al., NeurIPS 2018: what does not depend on the weights explains no model."""
    molecule = read_smiles("CC(=O)Nc1ccc(O)cc1")
    first = one(make("2d"), molecule).atoms[:, 0]

    def other(model: Model) -> None:
        torch.manual_seed(1)
        for parameter in model.parameters():
            parameter.data.normal_(std=0.5)

    second = one(make("2d", change=other), molecule).atoms[:, 0]
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.9


def test_every_row_comes_back(make: Make) -> None:
    awkward = ["CCO", "nonsense", "", "C" * 41, *AWKWARD]
    found = explain(make("2d"), awkward)
    assert len(found) == len(awkward)
    assert [row.row.status for row in found[:4]] == ["ok", "invalid", "invalid", "too_large"]
    for explanation in found:
        is_usable = explanation.row.molecule is not None
        assert is_usable == (explanation.contributions is not None)
        if explanation.contributions is not None:
            assert np.isfinite(explanation.contributions.atoms).all()
            assert np.isfinite(explanation.contributions.pairs).all()


def test_progress_follows_the_work(make: Make) -> None:
    """Of four atoms cubed, none, and two: 64 and 8 of 72."""
    progress: list[tuple[int, float | None]] = []
    explain(make("2d"), ["CCCC", "nonsense", "CC"], on_progress=lambda *a: progress.append(a))
    assert progress == [(1, pytest.approx(64 / 72)), (2, pytest.approx(64 / 72)), (3, 1.0)]
    progress.clear()
    explain(make("2d"), ["nonsense"], on_progress=lambda *a: progress.append(a))
    assert progress == [(1, 1.0)]


def test_targets_are_chosen_by_name(make: Make) -> None:
    predictor, molecule = make(), placed("CCO")
    every, chosen = one(predictor, molecule), one(predictor, molecule, targets=["toxic"])
    assert [target.name for target in chosen.targets] == ["toxic"]
    for name in ("atoms", "views", "pairs", "prediction"):
        assert getattr(chosen, name)[..., 0] == pytest.approx(getattr(every, name)[..., 1])
    with pytest.raises(ValueError, match="has no target 'taste'; available: gap, toxic"):
        explain(predictor, [molecule], targets=["taste"])


def test_a_model_without_targets_has_nothing_to_explain(make: Make) -> None:
    predictor = make(targets=(), heads=HeadsConfig(rank=4))
    with pytest.raises(ValueError, match="no targets: it was pretrained only, `moleblend train`"):
        explain(predictor, ["CC"])


def test_an_ensemble_is_explained_by_all_its_members(make: Make, tmp_path: Path) -> None:
    path, molecule = tmp_path / "both.safetensors", placed("CC(=O)N")
    members = []
    for scale in (1.0, 0.5):
        predictor = make(
            change=lambda model, scale=scale: model.encoder.norm.weight.data.mul_(scale)
        )
        members.append((predictor.model, one(predictor, molecule)))
    card = checkpoint.Card(trained_by="train", views="both")
    checkpoint.save([model for model, _ in members], path, card)
    ensemble = Predictor(path, device="cpu")
    found, (first, second) = (
        one(ensemble, molecule),
        (contributions for _, contributions in members),
    )
    assert not np.allclose(first.atoms, second.atoms)
    assert found.atoms == pytest.approx((first.atoms + second.atoms) / 2)
    table = ensemble.predict([molecule])
    predicted = [table[name][0].as_py() for name in ("gap_pred", "toxic_prob")]
    assert found.prediction == pytest.approx(predicted, rel=1e-5)


def test_the_logarithm_is_explained_where_the_model_is_trained_on_it(make: Make) -> None:
    target = Target("IC50", "regression", "nM", mean=2.0, scale=0.7, log10=True)
    predictor, molecule = make(targets=(target,)), placed("CCO")
    found = one(predictor, molecule)
    assert found.targets[0].unit == "log10 nM"
    expected = predictor.predict([molecule])["IC50_log10_pred"][0].as_py()
    assert found.prediction[0] == pytest.approx(expected, rel=1e-5)
    assert found.base_value + found.atoms.sum(0) == pytest.approx(found.prediction, rel=1e-5)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"features": ("descriptors",), "n_features": 30}, "reads descriptors of the molecule"),
        ({"targets": (Target("taste", "multiclass", classes=("a", "b")),)}, "has several classes"),
    ],
)
def test_what_cannot_be_explained_is_refused(make: Make, config: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        explain(make(**config), ["CC"])


def test_contributions_are_in_the_order_of_the_record(make: Make) -> None:
    """An SDF with hydrogens, its heavy atoms in another order than that of the SMILES."""
    block = "\n\n\n  4  3  0  0  0  0  0  0  0  0999 V2000\n"
    rows = (("H", -0.9), ("O", 0.0), ("C", 1.4), ("C", 2.9))
    for element, x in rows:
        block += f"{x:10.4f}{0.3 * x * x:10.4f}{0.1:10.4f} {element:3}" + " 0" * 12 + "\n"
    block += "  1  2  1  0\n  2  3  1  0\n  3  4  1  0\nM  END\n"
    molecule = read_mol_block(block)
    assert molecule.source_atoms.tolist() == [3, 2, 1]
    predictor = make("2d")
    assert one(predictor, molecule).atoms == pytest.approx(
        one(predictor, read_smiles("CCO")).atoms, abs=1e-6
    )
