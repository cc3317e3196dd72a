"""Explanations of models that average networks and trees."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import expit
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier

from moleblend.chem.descriptors import PROPERTY_NAMES, molecule_features
from moleblend.chem.fingerprints import environments
from moleblend.chem.parsing import read_smiles
from moleblend.data.targets import Target
from moleblend.model import checkpoint
from moleblend.model.heads import Model, ModelConfig
from moleblend.prediction.explanation import explain
from moleblend.prediction.predictor import Predictor
from moleblend.prediction.tree_explanation import N_PROPERTIES, explain_trees
from moleblend.reports.explanation_report import Explained, write_explanation_report
from moleblend.trees.training import METHODS, train_tree_model
from moleblend.trees.tree_model import TreeModel
from tests.helpers.runs import TINY

SMILES = ["C" * n + end for n in range(1, 10) for end in ("O", "N", "c1ccccc1")]
N = np.array([float(len(text)) for text in SMILES])
VALUE = Target("value", "regression", "eV", mean=7.0, scale=2.0)
LOG = Target("dose", "regression", "nM", mean=1.0, scale=0.5, log10=True)
BINARY = Target("toxic", "binary")


def trained(target: Target, labels: np.ndarray, weights: tuple[float, ...]) -> list[TreeModel]:
    return [
        train_tree_model(
            target, method, molecule_features(SMILES, method.inputs), labels, n_trees=8
        ).with_weight(weight)
        for method, weight in zip(METHODS, weights, strict=False)
    ]


TREES = [
    *trained(VALUE, N, (0.3, 0.2, 0.1)),
    *trained(LOG, 10 ** (N / 10), (0.5,)),
    *trained(BINARY, (np.arange(len(SMILES)) % 3 == 2).astype(float), (0.2, 0.3)),
]


@pytest.fixture
def predictor(tmp_path: Path) -> Predictor:
    torch.manual_seed(0)
    model = Model(ModelConfig(encoder=TINY, heads=None, targets=(VALUE, LOG, BINARY)))
    for parameter in model.parameters():
        parameter.data.normal_(std=0.5)
    path = tmp_path / "model.safetensors"
    card = checkpoint.Card(trained_by="train", views="2d")
    checkpoint.save(model, path, card, tree_models=TREES)
    return Predictor(path, device="cpu")


@pytest.mark.parametrize("smiles", ["C", "CCCCN", "CCCc1ccccc1", "[Na+].[Cl-]"])
def test_contributions_add_up_to_the_prediction_of_the_average(
    predictor: Predictor, smiles: str
) -> None:
    (found,) = explain(predictor, [smiles])
    table = predictor.predict([smiles])
    one = found.contributions
    assert one is not None
    right = [table[name][0].as_py() for name in ("value_pred", "dose_log10_pred", "toxic_prob")]
    assert one.prediction == pytest.approx(right, rel=1e-4)
    assert one.base_value + one.atoms.sum(0) + one.whole == pytest.approx(one.output)
    by_views = one.base_value + one.unrelated_atoms + one.views.sum(0) + one.trees
    assert by_views == pytest.approx(one.output, abs=1e-5)
    assert expit(one.output[2]) == pytest.approx(one.prediction[2])
    assert np.abs(one.properties).sum(0).all()


def test_trees_are_explained_by_the_inputs_that_they_read() -> None:
    molecule = read_smiles("CCCCc1ccccc1")
    (boosting, forest, baseline), (target,) = trained(VALUE, N, (0.3, 0.2, 0.1)), [VALUE]
    for model in (boosting, forest, baseline):
        found = explain_trees([model], molecule, target)
        x = molecule_features([molecule.smiles], model.inputs)
        right = model.weight * model.predict(x, target)[0, 0]
        assert found.base_value + found.total == pytest.approx(right, rel=1e-5)
    assert not found.properties.any()  # the last reads ECFP4 alone
    assert found.atoms.any()
    assert len(found.properties) == N_PROPERTIES == len(PROPERTY_NAMES)


def test_an_environment_counts_with_its_atoms() -> None:
    molecule = read_smiles("CCCCc1ccccc1")
    known = environments(molecule)
    x = molecule_features([molecule.smiles], ("ecfp4",))[0]
    is_ring = (np.arange(len(SMILES)) % 3 == 2).astype(float)
    model = trained(VALUE, is_ring, (0.0, 0.0, 1.0))[2]  # whether there is a ring
    found = explain_trees([model], molecule, VALUE)
    of_bits = model.contributions(x)[1][:, 0]
    expected = np.zeros(molecule.n_atoms)
    for bit in np.flatnonzero(x):
        rows = np.flatnonzero(known.bits == bit)
        for row in rows:
            expected[known.atoms[row]] += of_bits[bit] / len(rows) / known.atoms[row].sum()
    assert found.atoms == pytest.approx(expected)
    assert found.absent == pytest.approx(of_bits[x == 0].sum())
    in_ring = molecule.atoms[:, 0] > 0
    aromatic = np.array([symbol == "c" for symbol in "CCCCcccccc"])
    assert in_ring.all()
    assert found.atoms[aromatic].sum() > found.atoms[~aromatic].sum()


def test_log_odds_of_trees_add_up_even_where_all_agree() -> None:
    molecule, labels = read_smiles("CCCN"), (np.arange(len(SMILES)) % 3 == 2).astype(float)
    x = molecule_features(SMILES, ("properties",))
    for classifier in (
        RandomForestClassifier(4, random_state=0),
        GradientBoostingClassifier(n_estimators=100, learning_rate=0.5),
        RandomForestClassifier(1, max_depth=1, max_features=1, random_state=0),
    ):
        model = TreeModel.from_sklearn(classifier.fit(x, labels), BINARY, ("properties",))
        model = model.with_weight(0.5)
        share = model.predict(molecule_features([molecule.smiles], ("properties",)), BINARY)
        share = np.clip(share[0, 0], 2e-3, 1 - 2e-3)
        found = explain_trees([model], molecule, BINARY)
        right = 0.5 * np.log(share / (1 - share))
        assert found.base_value + found.total == pytest.approx(right, abs=1e-5)


def test_without_trees_nothing_is_explained_by_them() -> None:
    found = explain_trees([], read_smiles("CCO"), VALUE)
    assert (found.base_value, found.total) == (0.0, 0.0)


def test_the_page_names_the_trees_and_the_strongest_properties(
    predictor: Predictor, tmp_path: Path
) -> None:
    table, _, _ = predictor.read(["CCCc1ccccc1"])
    targets = tuple(replace(target) for target in (VALUE, LOG, BINARY))
    explained = Explained(
        model=predictor.path,
        table=table,
        targets=targets,
        explanations=explain(predictor, ["CCCc1ccccc1"]),
    )
    page = write_explanation_report(explained, tmp_path / "page.html").read_text()
    assert "trees" in page
    assert "The molecule as a whole:" in page
    assert any(name in page for name in PROPERTY_NAMES)
