import io

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch

from moleblend.chem.parsing import read_smiles
from moleblend.data.dataframes import is_frame, smiles_list
from moleblend.data.targets import Target
from moleblend.errors import MoleblendError, SettingError
from moleblend.model import checkpoint
from moleblend.model.heads import Model, ModelConfig
from moleblend.prediction.predictor import Predictor, embed
from tests.helpers.runs import TINY

COLUMNS = {"n": [1, 2, 3], "smiles": ["CCO", "C1CC", None], "day": ["a", None, "c"]}


@pytest.fixture
def predictor(tmp_path):
    torch.manual_seed(0)
    model = Model(ModelConfig(encoder=TINY, heads=None, targets=(Target("gap", "regression"),)))
    path = tmp_path / "model.safetensors"
    checkpoint.save(model, path, checkpoint.Card(trained_by="train", views="2d"))
    return Predictor(path)


def test_a_pandas_frame_comes_back_with_its_index_and_its_kinds(predictor):
    frame = pd.DataFrame(COLUMNS, index=["x", "y", "y"]).astype({"n": "Int8"})
    found = predictor.predict(frame)
    pd.testing.assert_frame_equal(found[list(COLUMNS)], frame)
    assert found.columns.tolist() == ["n", "smiles", "day", "status", "reason", "gap_pred"]
    assert found["status"].tolist() == ["ok", "invalid", "invalid"]
    assert found["gap_pred"].isna().tolist() == [False, True, True]
    skipped = predictor.predict(frame, errors="skip")
    assert skipped.index.tolist() == ["x"]
    assert skipped["gap_pred"].tolist() == predictor.predict(["CCO"])["gap_pred"].to_pylist()


def test_a_polars_frame_comes_back_as_one(predictor):
    frame = pl.DataFrame(COLUMNS)
    found = predictor.predict(frame)
    assert found.select(list(COLUMNS)).equals(frame)
    assert found["status"].to_list() == ["ok", "invalid", "invalid"]
    assert found["gap_pred"].null_count() == 2
    assert predictor.predict(frame, errors="skip").height == 1
    assert predictor.embed(frame).shape == (3, 16)


def test_frames_that_cannot_be_read(predictor):
    with pytest.raises(ValueError, match="no column is called 'smiles'"):
        predictor.predict(pd.DataFrame({"text": ["C"]}))
    with pytest.raises(ValueError, match="got the column name 0"):
        predictor.predict(pd.DataFrame([["C"]]))
    with pytest.raises(ValueError, match="has mixed types"):
        predictor.predict(pd.DataFrame({"smiles": ["C", 1]}))
    with pytest.raises(ValueError, match="already has a column 'status'"):
        predictor.predict(pd.DataFrame({"smiles": ["C"], "status": ["x"]}))


@pytest.mark.parametrize(
    "molecules",
    [
        ["C", None],
        ("C", float("nan")),
        np.array(["C", ""]),
        np.array([["C"], [None]], object),
        pd.Series(["C", pd.NA]),
        pd.Series(["C", None], dtype="string"),
        pl.Series(["C", None]),
        pd.DataFrame({0: ["C", ""]}).rename(columns={0: "any"}),
        pl.DataFrame({"n": [1, 2], "Smiles": ["C", None]}),
    ],
)
def test_smiles_in_whatever_they_come(molecules):
    assert smiles_list(molecules) == ["C", ""]


def test_what_is_no_frame():
    assert not any(map(is_frame, (["C"], "C", np.zeros(2), pd.Series(["C"]), pa.table({"a": [1]}))))
    assert is_frame(pd.DataFrame())
    assert is_frame(pl.DataFrame())


CONTAINERS = {
    "generator": lambda items: (item for item in items),
    "map": lambda items: map(str, items),
    "iterator": iter,
    "dict values": lambda items: dict(enumerate(items)).values(),
    "tuple": tuple,
    "array": np.array,
    "series": pd.Series,
    "polars": pl.Series,
    "arrow": pa.array,
    "chunks": lambda items: pa.chunked_array([items[:1], items[1:]]),
    "file": lambda items: io.StringIO("\n".join(items)),
}


@pytest.mark.parametrize("kind", CONTAINERS)
def test_every_container_with_an_order_gives_all_its_rows(predictor, kind):
    items = ["CCO", "C1CC", "CC"]
    expected = predictor.predict(items).drop_columns("smiles")
    made = CONTAINERS[kind]
    assert predictor.predict(made(items)).drop_columns("smiles").equals(expected)
    assert np.isfinite(predictor.embed(made(items))[:, 0]).tolist() == [True, False, True]


@pytest.mark.parametrize("missing", [None, float("nan"), np.nan, pd.NA, pd.NaT, np.float32("nan")])
def test_a_missing_molecule_is_an_invalid_row_as_in_a_data_frame(predictor, missing):
    for source in (["CC", missing], pd.Series(["CC", missing], dtype=object)):
        found = predictor.predict(source)
        assert found["status"].to_pylist() == ["ok", "invalid"]
        assert found["reason"].to_pylist()[1]
    found = predictor.predict([read_smiles("CC"), missing])
    assert found["status"].to_pylist() == ["ok", "invalid"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"CC": 1}, "got a dict, expected a list of molecules"),
        ({"CC"}, "got a set, which has no order"),
        (b"CC", "got a bytes, expected a list"),
        (5, "got a int, expected a list"),
        (None, "got a NoneType, expected a list"),
        (read_smiles("CC"), "got a Molecule, expected a list"),
        (np.array("CC"), r"got shape \(\)"),
        (np.array([["CC", "C"]]), r"got shape \(1, 2\)"),
        (["CC", 5], "row 2: got 5, expected a SMILES"),
        (["CC", b"C"], "row 2: got b'C'"),
        (["CC", ["C"]], "row 2: got "),
        ([read_smiles("CC"), 5], "row 2: got 5 among molecules"),
    ],
)
def test_other_objects_are_refused_in_a_sentence(predictor, source, message):
    for use in (predictor.predict, predictor.embed):
        with pytest.raises(MoleblendError, match=message):
            use(source)


@pytest.mark.parametrize("value", ["ignore", "KEEP", None, 1, ["keep"], np.array([1, 2])])
@pytest.mark.usefixtures("without_shape_checks")
def test_an_unknown_choice_is_refused(predictor, value):
    for use in (predictor.predict, predictor.embed, predictor.embed_table, embed):
        with pytest.raises(SettingError, match=r"errors: got .* expected one of 'keep'"):
            use(["CC"], errors=value)
    if value is not None:
        with pytest.raises(SettingError, match="views: got "):
            predictor.predict(["CC"], views=value)
        with pytest.raises(SettingError, match="device: got "):
            Predictor(predictor.path, device=value)


def test_an_arrow_table_is_read_like_a_data_frame(predictor):
    found = predictor.predict(pa.table(COLUMNS))
    assert found["status"].to_pylist() == ["ok", "invalid", "invalid"]
    assert found.column_names[:3] == list(COLUMNS)
