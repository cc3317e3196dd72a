import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch

from moleblend.data.dataframes import is_frame, smiles_list
from moleblend.data.targets import Target
from moleblend.model import checkpoint
from moleblend.model.heads import Model, ModelConfig
from moleblend.prediction.predictor import Predictor
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
