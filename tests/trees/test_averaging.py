"""Averages of networks and trees, and the weights that validation molecules give them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, logit
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

from moleblend.chem.descriptors import molecule_features
from moleblend.data.targets import Target
from moleblend.trees.averaging import (
    MemberValues,
    count_members,
    feature_columns,
    feature_kinds,
    fit_weights,
    from_average,
    to_average,
)
from moleblend.trees.tree_model import TreeModel

VALUE, LOG = Target("value", "regression"), Target("log", "regression", log10=True)
BINARY = Target("active", "binary")
SEVERAL = Target("kind", "multiclass", classes=("a", "b", "c"))
SMILES = ["C" * n + end for n in range(1, 9) for end in "ONF"]
KINDS = ("descriptors", "ecfp4", "properties")
X = molecule_features(SMILES, KINDS)


def forest(target: Target, y: np.ndarray, inputs: tuple[str, ...], weight: float) -> TreeModel:
    kind = RandomForestRegressor if target.kind == "regression" else RandomForestClassifier
    model = kind(n_estimators=5, random_state=0).fit(molecule_features(SMILES, inputs), y)
    return TreeModel.from_sklearn(model, target, inputs).with_weight(weight)


def test_values_and_log_odds_are_averaged_with_the_weights() -> None:
    rng = np.random.default_rng(0)
    targets = (VALUE, BINARY, LOG)
    networks = np.stack([rng.normal(size=24), rng.uniform(size=24), 10 ** rng.normal(size=24)], 1)
    y, c = np.arange(24.0), np.arange(24) % 2
    trees = [
        forest(VALUE, y, ("ecfp4", "properties"), 0.25),
        forest(VALUE, y, ("properties",), 0.35),
        forest(BINARY, c, ("ecfp4",), 0.5),
    ]
    members = MemberValues.of(networks[None], trees, X, KINDS, targets)
    mean, std = members.mean(targets), members.std(targets)
    first, second, third = (
        model.predict(molecule_features(SMILES, model.inputs), target)[:, 0]
        for model, target in zip(trees, (VALUE, VALUE, BINARY), strict=True)
    )
    assert mean[:, 0] == pytest.approx(0.4 * networks[:, 0] + 0.25 * first + 0.35 * second)
    odds = logit(np.clip(np.stack([networks[:, 1], third]), 2e-3, 1 - 2e-3)).mean(0)
    assert mean[:, 1] == pytest.approx(expit(odds))
    assert mean[:, 2] == pytest.approx(networks[:, 2])  # no trees
    assert std is not None
    assert std[:, 2] == pytest.approx(0, abs=1e-6)
    each = np.stack([networks[:, 0], first, second])
    deviation = np.sqrt(np.average((each - mean[:, 0]) ** 2, axis=0, weights=(0.4, 0.25, 0.35)))
    assert std[:, 0] == pytest.approx(deviation)
    assert count_members(1, trees) == 3


def test_a_model_without_trees_averages_probabilities() -> None:
    networks = np.array([[[0.1], [0.5]], [[0.3], [0.9]]])
    members = MemberValues.of(networks, (), np.zeros((2, 0), np.float32), (), (BINARY,))
    assert members.mean((BINARY,)).ravel() == pytest.approx([0.2, 0.7])
    assert MemberValues.of_networks(networks[:1]).std((BINARY,)) is None


def test_rows_that_cannot_be_used_stay_unknown() -> None:
    networks = np.arange(24.0)[None, :, None].copy()
    networks[0, 3] = np.nan
    trees = [forest(VALUE, np.arange(24.0), ("ecfp4",), 0.5)]
    mean = MemberValues.of(networks, trees, X, KINDS, (VALUE,)).mean((VALUE,))
    assert np.flatnonzero(np.isnan(mean[:, 0])).tolist() == [3]


@given(st.integers(0, 10_000), st.sampled_from([VALUE, BINARY, SEVERAL]), st.integers(1, 60))
def test_weights_are_shares_and_a_few_molecules_leave_the_prior(
    seed: int, target: Target, n: int
) -> None:
    rng = np.random.default_rng(seed)
    values = rng.uniform(0.01, 1, (3, n, target.n_outputs))
    if target.kind == "multiclass":
        values /= values.sum(2, keepdims=True)
    label = rng.integers(0, max(target.n_outputs, 2), n).astype(float)
    prior = np.array([0.5, 0.3, 0.2])
    weights = fit_weights(values, prior, label, target)
    assert (weights >= 0).all()
    assert weights.sum() == pytest.approx(1)
    if n < 10:
        assert (weights == prior).all()


def test_a_member_that_is_far_behind_on_many_molecules_has_no_weight() -> None:
    rng = np.random.default_rng(0)
    label = rng.normal(size=200)
    good, bad = label + 0.3 * rng.normal(size=200), rng.normal(size=200)
    prior = np.array([0.5, 0.5])
    weights = fit_weights(np.stack([good, bad])[..., None], prior, label, VALUE)
    assert weights[1] < 0.1
    equal = fit_weights(np.stack([good, good])[..., None], prior, label, VALUE)
    assert equal == pytest.approx(prior, abs=1e-3)
    classes = (label > 0).astype(float)
    good, bad = expit(2 * label), np.full(200, 0.5) + 0.3 * rng.uniform(-1, 1, 200)
    weights = fit_weights(np.stack([good, bad])[..., None], prior, classes, BINARY)
    assert weights[0] > 0.5


def test_a_member_that_is_too_sure_of_itself_does_not_outweigh_the_others() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=300)
    label = (rng.uniform(size=300) < expit(logits)).astype(float)
    prior = np.array([0.5, 0.5])
    honest, sure = expit(logits), expit(20 * logits)
    weights = fit_weights(np.stack([honest, sure])[..., None], prior, label, BINARY)
    # What counts is weight times log-odds: the second has about 6 times those of the first.
    assert weights[1] < 0.3


@given(st.floats(0.01, 0.99))
def test_the_scale_of_averages_is_reversible(share: float) -> None:
    values = np.array([[share]])
    for target in (VALUE, LOG, BINARY):
        assert from_average(to_average(values, target), target) == pytest.approx(values)
    classes = np.array([[share / 2, share / 2, 1 - share]])
    assert from_average(to_average(classes, SEVERAL), SEVERAL) == pytest.approx(classes)


def test_columns_of_features_are_found_by_kind() -> None:
    for wanted in (("ecfp4",), ("properties",), ("ecfp4", "properties"), ("properties", "ecfp4")):
        found = X[:, feature_columns(KINDS, wanted)]
        assert (found == molecule_features(SMILES, wanted)).all()
    trees = [forest(VALUE, np.arange(24.0), ("ecfp4", "properties"), 0.5)]
    assert feature_kinds(("descriptors",), trees) == ("descriptors", "ecfp4", "properties")
