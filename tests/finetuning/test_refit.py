import json

import numpy as np
import pytest

from moleblend.errors import SettingError
from moleblend.finetuning.config import TrainConfig
from moleblend.model.checkpoint import read_model_file
from moleblend.prediction.predictor import Predictor
from moleblend.reports.train_report import write_train_report
from tests.helpers.molecules import CHAINS, N_CARBONS, PARTS
from tests.helpers.runs import trained
from tests.helpers.tables import write


def test_the_file_is_trained_on_all_rows_and_the_figures_are_of_the_model_before(tmp_path) -> None:
    write(tmp_path / "table.csv", smiles=["nothing", *CHAINS], y=[1, *N_CARBONS], set=["", *PARTS])
    flags = {"split": "set", "target": ("y",), "members": "both", "epochs": 3}
    before, _, of_before = trained(tmp_path, **flags)
    file_before = read_model_file(before.model)
    result, said, metrics = trained(tmp_path, **flags, refit=True)
    assert f"trained again on all {len(CHAINS)} labelled molecules" in said
    assert metrics["test"] == of_before["test"]
    assert metrics["refit"] == {"n": len(CHAINS)}
    file = read_model_file(result.model)
    assert file.uncertainty == file_before.uncertainty
    assert [model.weight for model in file.tree_models] == pytest.approx(
        [model.weight for model in file_before.tree_models]
    )
    assert file.domain.rows.tolist() == list(range(1, len(CHAINS) + 1))
    test_rows = [k for k, name in enumerate(PARTS) if name == "test"]
    output = Predictor(result.model).predict([CHAINS[k] for k in test_rows])
    assert output["similarity"].to_pylist() == [1.0] * len(test_rows)  # they are training molecules
    errors = np.array(output["y_pred"]) - np.array(N_CARBONS)[test_rows]
    assert np.sqrt((errors**2).mean()) < metrics["test"]["y"]["RMSE"]
    report = write_train_report(result, tmp_path / "report.html").read_text()
    assert "trained again on all" in report
    card = json.dumps(file.card.notes["metrics"]["refit"])
    assert card == json.dumps({"n": len(CHAINS)})


def test_folds_have_nothing_to_refit() -> None:
    with pytest.raises(SettingError, match="the models of all folds together have seen every row"):
        TrainConfig(data="table.csv", folds=5, refit=True)
