"""The estimators: their own promises, and scikit-learn's checks as far as they apply to SMILES."""

# ruff: noqa: N803, N806 (X is what scikit-learn calls it)
import pickle
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import SkipTest

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from sklearn.base import BaseEstimator, clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.validation import validate_data

import moleblend
from moleblend import MoleBlendClassifier, MoleBlendEmbedder, MoleBlendRegressor
from moleblend.chem.molecule import MoleculeError
from moleblend.model import checkpoint
from moleblend.model.heads import Model, ModelConfig
from moleblend.prediction.predictor import Predictor
from tests.helpers.runs import TINY

SMILES = ["C" * k + end for k in range(1, 9) for end in "ONF"]
LENGTHS = np.array([float(len(text)) for text in SMILES])
QUICK = {"model": "scratch", "encoder": TINY, "epochs": 1, "forest": 0, "device": "cpu"}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "moleblend.safetensors"
    model = Model(ModelConfig(encoder=TINY, heads=None))
    for parameter in model.parameters():
        parameter.data.normal_(std=0.3)
    checkpoint.save(model, path, checkpoint.Card(trained_by="pretrain"))
    return path


@pytest.fixture
def packaged(weights: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model that stands in for the one in the package."""
    monkeypatch.setattr(checkpoint, "_ASSETS", weights.parent)
    return weights


def test_a_regressor_learns_and_repeats() -> None:
    ours = MoleBlendRegressor(**QUICK | {"epochs": 40, "learning_rate": 1e-2, "batch_size": 8})
    found = ours.fit(SMILES, LENGTHS).predict(SMILES)
    assert found.shape == (24,)
    assert ours.score(SMILES, LENGTHS) > 0.7
    again = clone(ours).fit(np.array(SMILES), LENGTHS)
    np.testing.assert_array_equal(again.predict(pd.Series(SMILES)), found)


def test_a_regressor_predicts_what_the_command_predicts(tmp_path: Path) -> None:
    ours = MoleBlendRegressor(**QUICK | {"forest": 10}).fit(SMILES, LENGTHS)
    ours.save(tmp_path / "model.safetensors")
    assert checkpoint.read_model_file(tmp_path / "model.safetensors").tree_models
    table = Predictor(tmp_path / "model.safetensors").predict(SMILES)
    np.testing.assert_array_equal(table["y0_pred"].to_numpy(), ours.predict(SMILES))


def test_members_and_a_frozen_encoder(packaged: Path, tmp_path: Path) -> None:
    given = {"epochs": 1, "forest": 0, "device": "cpu"}
    ours = MoleBlendRegressor(**given, freeze=True, ensemble=2).fit(SMILES, LENGTHS)
    ours.save(tmp_path / "model.safetensors")
    first, second = checkpoint.load_members(tmp_path / "model.safetensors")
    source = dict(checkpoint.load(packaged).encoder.named_parameters())
    for member in (first, second):
        for name, weight in member.encoder.named_parameters():
            assert torch.equal(weight, source[name]), name
    assert first.property_head is not None
    assert second.property_head is not None
    assert not torch.equal(first.property_head.out.weight, second.property_head.out.weight)
    moved = MoleBlendRegressor(**given).fit(SMILES, LENGTHS)
    moved.save(tmp_path / "moved.safetensors")
    (alone,) = checkpoint.load_members(tmp_path / "moved.safetensors")
    assert any(not torch.equal(w, source[n]) for n, w in alone.encoder.named_parameters())


def test_scikit_learn_adds_a_logarithm_and_several_labels() -> None:
    logarithm = {"func": np.log10, "inverse_func": lambda value: 10**value}
    ours = TransformedTargetRegressor(MoleBlendRegressor(**QUICK), **logarithm)
    inner = MoleBlendRegressor(**QUICK).fit(SMILES, np.log10(LENGTHS)).predict(SMILES)
    found = ours.fit(SMILES, LENGTHS).predict(SMILES)
    np.testing.assert_allclose(found, 10**inner, rtol=1e-12)

    labels = np.stack([LENGTHS > 4, LENGTHS > 6], axis=1)
    several = MultiOutputClassifier(MoleBlendClassifier(**QUICK)).fit(SMILES, labels)
    alone = MoleBlendClassifier(**QUICK).fit(SMILES, labels[:, 1])
    np.testing.assert_array_equal(several.predict(SMILES)[:, 1], alone.predict(SMILES))
    np.testing.assert_array_equal(several.predict_proba(SMILES)[1], alone.predict_proba(SMILES))


def test_a_pickle_holds_the_model_file_and_nothing_of_torch(tmp_path: Path) -> None:
    ours = MoleBlendRegressor(**QUICK).fit(SMILES, LENGTHS)
    expected = ours.predict(SMILES)
    written = pickle.dumps(ours)
    assert ours.model_file_ in written
    assert b"torch" not in written.replace(ours.model_file_, b"")
    # Loaded here is only what was pickled three lines above; the package itself loads no pickle.
    (tmp_path / "ours.pkl").write_bytes(written)
    program = (
        "import pickle, sys; ours = pickle.load(open(sys.argv[1], 'rb')); "
        "print(*(value.hex() for value in ours.predict(sys.argv[2:]).tolist()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "ours.pkl", *SMILES],
        capture_output=True,
        text=True,
        check=True,
    )
    assert [float.fromhex(value) for value in done.stdout.split()] == expected.tolist()


def test_several_targets_with_missing_labels() -> None:
    y = np.stack([LENGTHS, -LENGTHS], 1)
    y[::3, 0] = np.nan
    y[5] = np.nan
    ours = MoleBlendRegressor(**QUICK).fit(SMILES, y)
    assert ours.predict(SMILES[:4]).shape == (4, 2)
    assert ours.n_outputs_ == 2


@pytest.mark.parametrize(
    "labels", [["low", "high"], [3, 7], [0, 1], [True, False], ["a", "b", "c"]]
)
def test_classes_of_every_kind(labels: list[Any]) -> None:
    y = np.array([labels[k % len(labels)] for k in range(len(SMILES))])
    settings = {"epochs": 30, "learning_rate": 5e-3, "batch_size": 4, "validation_fraction": 0.4}
    ours = MoleBlendClassifier(**QUICK | settings).fit(SMILES, y)
    assert ours.classes_.tolist() == sorted(labels)
    probabilities = ours.predict_proba(SMILES)
    assert probabilities.shape == (24, len(labels))
    np.testing.assert_allclose(probabilities.sum(1), 1)
    np.testing.assert_array_equal(ours.predict(SMILES), ours.classes_[probabilities.argmax(1)])
    if len(labels) == 3:  # the last atom; an epoch is chosen by how well each class is ranked
        assert roc_auc_score(y, probabilities, multi_class="ovr") > 0.8


def test_searches_and_cross_validation() -> None:
    search = GridSearchCV(
        MoleBlendRegressor(**QUICK), {"learning_rate": [1e-9, 1e-2], "epochs": [6]}, cv=2
    )
    search.fit(SMILES, LENGTHS)
    assert search.best_params_ == {"learning_rate": 1e-2, "epochs": 6}
    labels = np.arange(24) % 3 == 2
    scores = cross_val_score(MoleBlendClassifier(**QUICK), np.array(SMILES), labels, cv=2)
    assert scores.shape == (2,)


def test_frames_and_columns() -> None:
    frame = pd.DataFrame({"n": range(24), "structure": SMILES}, index=range(100, 124))
    ours = MoleBlendRegressor(**QUICK).fit(frame, LENGTHS)
    assert ours.feature_names_in_.tolist() == ["n", "structure"]
    expected = ours.predict(SMILES)
    np.testing.assert_array_equal(ours.predict(frame), expected)
    np.testing.assert_array_equal(ours.predict(pl.from_pandas(frame)), expected)
    np.testing.assert_array_equal(ours.predict(np.array(SMILES, object)[:, None]), expected)
    twice = frame.assign(mol=SMILES)
    with pytest.raises(ValueError, match="'structure' and 'mol' may each be the SMILES column"):
        ours.predict(twice)
    np.testing.assert_array_equal(clone(ours).set_params(smiles="mol")._read(twice), SMILES)


@pytest.mark.parametrize(
    ("X", "y", "message"),
    [
        (["CCO", "C1CC"], [1.0, 2.0], "C1CC"),
        (["CCO", 3], [1.0, 2.0], "row 2: got 3, expected a SMILES"),
        ("CCO", [1.0], "got one SMILES, expected a list"),
        ([["CCO", "C"]], [1.0], r"got shape \(1, 2\), expected one SMILES for each molecule"),
        (["CCO", "CC"], [1.0], "inconsistent numbers of samples"),
        (["CCO"], [1.0], "expected at least 2 molecules"),
        ([], [], "expected at least 1 molecule"),
        (["CCO", "CC"], [1.0, np.inf], "infinity"),
        (["CCO", "CC"], [1.0, 1e300], "row 2: got 1e[+]300, expected numbers below 1e[+]30"),
        (["CCO", "CC"], [[1.0, np.nan], [2.0, np.nan]], "y has no label in column 2"),
    ],
)
def test_what_cannot_be_fitted(X: Any, y: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MoleBlendRegressor(**QUICK).fit(X, y)


def test_a_large_scaffold_does_not_fill_the_validation_set() -> None:
    benzenes = ["C" * k + "c1ccccc1" + end for k in range(19) for end in ("", "O", "N", "F", "Cl")]
    others = ["C1CC1", "C1CCC1", "C1CCCC1", "C1CCCCC1", "c1ccncc1"]
    for smiles in (benzenes + others, benzenes[:60] + others * 8, benzenes):
        split = MoleBlendRegressor()._validation(smiles)
        assert 1 <= len(split.validation) <= 20
        rows = np.sort(np.concatenate([split.train, split.validation]))
        assert rows.tolist() == list(range(len(smiles)))


@pytest.mark.parametrize("n", [2, 3, 4])
def test_a_few_molecules_are_enough_to_fit(n: int) -> None:
    assert MoleBlendRegressor(**QUICK).fit(SMILES[:n], LENGTHS[:n]).predict(SMILES).shape == (24,)


def test_a_molecule_that_cannot_be_used_is_an_error_that_names_its_row() -> None:
    smiles = [*SMILES[:10], "C" * 600, *SMILES[10:]]
    message = r"^X and y, row 11: 600 atoms, the model takes at most 512"
    with pytest.raises(MoleculeError, match=message):
        MoleBlendRegressor(**QUICK).fit(smiles, np.arange(25.0))


def test_a_class_without_training_molecules_gets_a_warning() -> None:
    aside = MoleBlendClassifier()._validation(SMILES).validation
    y = np.isin(np.arange(24), aside)
    with pytest.warns(
        UserWarning, match="class .*True.* are in the validation set, so the model cannot"
    ):
        MoleBlendClassifier(**QUICK).fit(SMILES, y)


def test_a_row_that_cannot_be_predicted_is_named() -> None:
    ours = MoleBlendRegressor(**QUICK).fit(SMILES, LENGTHS)
    with pytest.raises(MoleculeError, match="row 2"):
        ours.predict(["CCO", None])


def test_no_model_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "_ASSETS", tmp_path)
    for call in (
        lambda: moleblend.embed(["C"]),
        lambda: MoleBlendRegressor().fit(SMILES, LENGTHS),
        lambda: MoleBlendEmbedder().transform(["C"]),
        lambda: Predictor("packaged"),
    ):
        with pytest.raises(FileNotFoundError, match="this copy of moleblend has no packaged model"):
            call()


@pytest.mark.usefixtures("packaged")
def test_the_packaged_model_is_where_training_starts() -> None:
    settings = {"epochs": 1, "learning_rate": 1e-12, "forest": 0, "device": "cpu"}
    ours = MoleBlendRegressor(**settings).fit(SMILES, LENGTHS)
    found = checkpoint.read_card(checkpoint.packaged())
    assert found.trained_by == "pretrain"
    ours.save(checkpoint.packaged().with_name("fine.safetensors"))
    tuned = checkpoint.load(checkpoint.packaged().with_name("fine.safetensors"))
    start = checkpoint.load(checkpoint.packaged())
    for name, weight in start.encoder.state_dict().items():
        torch.testing.assert_close(tuned.encoder.state_dict()[name], weight, atol=1e-6, rtol=0)


def test_vectors(packaged: Path) -> None:
    vectors = moleblend.embed(SMILES)
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, Predictor(packaged).embed(SMILES))
    with pytest.warns(
        UserWarning, match=r"2 of 3 molecules cannot be used, their vectors are NaN; .* row 2: "
    ):
        some = moleblend.embed(pd.Series(["CCO", "C1CC", None]))
    assert np.isnan(some).any(1).tolist() == [False, True, True]
    with pytest.raises(MoleculeError, match="row 2"):
        moleblend.embed(["CCO", "C1CC"], errors="raise")
    assert moleblend.embed([]).shape == (0, 16)


def test_an_embedder_in_a_pipeline(packaged: Path) -> None:
    pipeline = make_pipeline(MoleBlendEmbedder(), Ridge(1e-3))
    pipeline.fit(SMILES, LENGTHS)
    assert pipeline.score(SMILES, LENGTHS) > 0.9
    frame = pd.DataFrame({"smiles": SMILES[:3]}, index=[5, 6, 7])
    shown = MoleBlendEmbedder(packaged).set_output(transform="pandas").fit_transform(frame)
    assert shown.index.tolist() == [5, 6, 7]
    assert shown.columns.tolist() == [f"e{k}" for k in range(16)]
    shown = MoleBlendEmbedder(packaged).set_output(transform="polars").fit_transform(frame)
    assert isinstance(shown, pl.DataFrame)
    np.testing.assert_array_equal(shown.to_numpy(), moleblend.embed(SMILES[:3]))


def test_public_names() -> None:
    assert {"embed", "Predictor", "MoleBlendRegressor"} <= set(dir(moleblend))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = moleblend.nothing
    program = "import moleblend, sys; print('torch' in sys.modules, 'sklearn' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "False False\n"


class Numeric:
    """Give an estimator of molecules the numbers that scikit-learn's checks are made of.

    A row of numbers becomes a chain of nitrogen, oxygen and carbon atoms, one for the size of each
    number, so that equal rows are equal molecules. What the checks ask of X (its shape, its kind,
    its column names) `validate_data` answers; all else is our own.
    """

    def _read(self, X: Any, *, is_fit: bool = False) -> list[str]:
        X = validate_data(self, X, reset=is_fit, dtype="numeric")
        letters = np.array(list("NOC"))
        return ["C" + "".join(letters[row]) for row in np.digitize(X, [-0.5, 0.5])[:, :12]]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        tags.input_tags.one_d_array = tags.input_tags.string = False
        for kind in (tags.regressor_tags, tags.classifier_tags):
            if kind is not None:
                kind.poor_score = True  # numbers as such are not what a model of molecules learns
        return tags


class NumericRegressor(Numeric, MoleBlendRegressor):
    pass


class NumericClassifier(Numeric, MoleBlendClassifier):
    pass


class NumericEmbedder(Numeric, MoleBlendEmbedder):
    pass


EXPECTED_TO_FAIL = {
    "check_do_not_raise_errors_in_init_or_set_params": "our tests check the types of arguments",
}


@pytest.mark.usefixtures("packaged")
@parametrize_with_checks(
    [NumericRegressor(**QUICK), NumericClassifier(**QUICK), NumericEmbedder()],
    expected_failed_checks=lambda _: EXPECTED_TO_FAIL,
)
def test_the_checks_of_scikit_learn(estimator: BaseEstimator, check: Any) -> None:
    with suppress(SkipTest):  # by which scikit-learn says that a check does not apply
        check(estimator)
