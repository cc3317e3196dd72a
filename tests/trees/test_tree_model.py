"""Trees of scikit-learn, copied to arrays: the same predictions, in a model file without pickle."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit
from sklearn.ensemble import (
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)

from moleblend.chem.descriptors import molecule_features
from moleblend.data.targets import Target
from moleblend.errors import ModelFileError
from moleblend.trees.averaging import check_trees
from moleblend.trees.tree_model import LEAF, TreeModel, tree_tensors, trees_from_tensors

SMILES = [ring + "C" * n + end for ring in ("", "c1ccccc1") for n in range(1, 9) for end in "ONF"]
X = molecule_features(SMILES, ("properties",))
MASS = X[:, 0].astype(float)
CLASS = np.arange(len(SMILES)) % 3
VALUE = Target("value", "regression")
BINARY = Target("active", "binary")
SEVERAL = Target("kind", "multiclass", classes=("O", "N", "F"))
PAIR = Target("pair", "multiclass", classes=("a", "b"))
OPTIONS = {"n_estimators": 12, "random_state": 0}


def copied(model: object, target: Target) -> TreeModel:
    return TreeModel.from_sklearn(model, target, ("properties",))


CASES = {
    "forest, value": (RandomForestRegressor(**OPTIONS), VALUE, MASS),
    "forest, binary": (RandomForestClassifier(**OPTIONS), BINARY, CLASS == 1),
    "forest, classes": (RandomForestClassifier(**OPTIONS), SEVERAL, CLASS),
    "boosting, value": (GradientBoostingRegressor(**OPTIONS), VALUE, MASS),
    "boosting, binary": (GradientBoostingClassifier(**OPTIONS), BINARY, CLASS == 1),
    "boosting, classes": (GradientBoostingClassifier(**OPTIONS), SEVERAL, CLASS),
    "boosting, two named classes": (GradientBoostingClassifier(**OPTIONS), PAIR, CLASS == 1),
}


@pytest.mark.parametrize("case", CASES)
def test_the_copy_predicts_what_scikit_learn_predicts(case: str) -> None:
    model, target, y = CASES[case]
    model.fit(X, y)
    if target.kind == "regression":
        expected = model.predict(X)[:, None]
    else:
        expected = model.predict_proba(X)
        expected = expected[:, 1:] if target.kind == "binary" else expected
    assert copied(model, target).predict(X, target) == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_contributions_sum_to_the_prediction(case: str) -> None:
    model, target, y = CASES[case]
    trees = copied(model.fit(X, y), target)
    without, total = trees.contributions(X[5])
    raw = without + total.sum(0)
    if target.kind == "binary" and trees.header.is_boosted:
        raw = expit(raw)
    if target.kind != "multiclass" or not trees.header.is_boosted:
        assert raw == pytest.approx(trees.predict(X[5:6], target)[0], rel=1e-5, abs=1e-6)
    used = np.flatnonzero(np.abs(total).sum(1))
    assert set(used) <= set(trees.feature[trees.feature != LEAF])
    assert np.isclose(
        without, trees.predict(X, target).mean(0), atol=0.2 * np.ptp(y.astype(float))
    ).all() or (trees.header.is_boosted)


def test_classes_that_training_lacks_have_no_votes() -> None:
    trees = copied(RandomForestClassifier(**OPTIONS).fit(X, 2.0 * (CLASS == 1)), SEVERAL)
    assert (trees.predict(X, SEVERAL)[:, 1] == 0).all()
    of_one = copied(RandomForestClassifier(**OPTIONS).fit(X, np.ones(len(X))), BINARY)
    assert (of_one.predict(X, BINARY) == 1).all()


def test_values_are_returned_in_the_unit_of_the_label() -> None:
    trees = copied(RandomForestRegressor(**OPTIONS).fit(X, np.log10(MASS)), VALUE)
    logarithmic = replace(VALUE, log10=True)
    assert trees.predict(X, logarithmic) == pytest.approx(10 ** trees.predict(X, VALUE))


def test_a_file_holds_several_models_and_refuses_damaged_ones() -> None:
    models = [copied(model.fit(X, y), target) for model, target, y in CASES.values()]
    models = [model.with_weight(0.125) for model in models[:4]]
    tensors, headers = tree_tensors(models), [model.header for model in models]
    read = trees_from_tensors(tensors, headers)
    for before, after, (_, target, _) in zip(models, read, CASES.values(), strict=False):
        assert after.header == before.header
        assert (after.predict(X, target) == before.predict(X, target)).all()
    assert trees_from_tensors({}, []) == ()

    def refused(match: str, headers: object = headers, **changed: np.ndarray) -> None:
        with pytest.raises(ModelFileError, match=match):
            trees_from_tensors(tensors | {f"trees.{k}": v for k, v in changed.items()}, headers)

    refused("expected nothing", headers=[])
    refused("of type float64", value=tensors["trees.value"].astype(np.float64))
    refused(
        "more nodes than the header counts",
        feature=np.append(tensors["trees.feature"], np.int16(LEAF)),
    )
    refused("has .* numbers", right=tensors["trees.right"][:-1])
    right = tensors["trees.right"].copy()
    right[0] = 0  # a loop
    refused("damaged", right=right)
    feature = tensors["trees.feature"].copy()
    feature[0] = 500  # there are 111 inputs
    refused("damaged", feature=feature)
    refused("damaged", roots=tensors["trees.roots"] + 10_000_000)
    value = tensors["trees.value"].copy()
    value[3] = np.nan
    refused("damaged", value=value)
    with pytest.raises(ModelFileError, match="got the input 'pixels'"):
        replace(headers[0], inputs=("pixels",))
    with pytest.raises(ModelFileError, match="expected positive numbers and a share"):
        replace(headers[0], weight=1.5)


def test_trees_must_fit_the_targets_of_the_model() -> None:
    trees = copied(RandomForestRegressor(**OPTIONS).fit(X, MASS), VALUE).with_weight(0.7)
    check_trees([trees], [BINARY, VALUE])
    with pytest.raises(ModelFileError, match="no target 'value'"):
        check_trees([trees], [BINARY])
    with pytest.raises(ModelFileError, match="got 1 values of 'value', expected 3"):
        check_trees([trees], [replace(SEVERAL, name="value")])
    with pytest.raises(ModelFileError, match=r"sum to 1\.4, above 1"):
        check_trees([trees, trees], [VALUE])


def test_the_first_trees_of_a_forest_are_a_forest() -> None:
    forest = RandomForestRegressor(**OPTIONS).fit(X, MASS)
    kept = copied(forest, VALUE).first_trees(4)
    expected = np.mean([tree.predict(X) for tree in forest.estimators_[:4]], 0)
    assert kept.predict(X, VALUE)[:, 0] == pytest.approx(expected, rel=1e-5)
    assert kept.header.n_trees == 4
    assert kept.header.n_nodes == len(kept.feature)
    boosted = copied(GradientBoostingRegressor(**OPTIONS).fit(X, MASS), VALUE)
    assert boosted.first_trees(4) is boosted


def test_molecules_alone_and_together_have_the_same_prediction(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trees = copied(RandomForestRegressor(**OPTIONS).fit(X, MASS), VALUE)
    together = trees.predict(X, VALUE)
    monkeypatch.setattr("moleblend.trees.tree_model._PATHS_AT_ONCE", 30)
    assert (trees.predict(X, VALUE) == together).all()
    assert (np.concatenate([trees.predict(x[None], VALUE) for x in X]) == together).all()
