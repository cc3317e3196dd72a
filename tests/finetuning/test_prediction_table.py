import numpy as np
import pandas as pd
import pytest

from moleblend.prediction.predictor import Predictor
from tests.helpers.molecules import CHAINS, N_CARBONS, PARTS
from tests.helpers.runs import trained
from tests.helpers.tables import write


def test_the_run_folder_holds_what_was_measured_and_predicted(tmp_path) -> None:
    kinds = ["abc"[k % 3] for k in range(len(CHAINS))]
    values = [f">{n}" if n == 5 else str(n) for n in N_CARBONS]
    dose = [10.0 ** (n / 4) for n in N_CARBONS]
    toxic = ["yes" if "N" in text else "no" for text in CHAINS]
    toxic[-1] = ""  # a test row
    write(tmp_path / "table.csv", smiles=CHAINS, y=values, dose=dose, t=toxic, c=kinds, set=PARTS)
    result, _, _ = trained(
        tmp_path,
        split="set",
        target=("y", "dose", "t", "c"),
        task=("regression", "regression", "binary", "multiclass"),
        log_scale=("dose",),
    )
    table = pd.read_csv(tmp_path / "run/predictions.csv", keep_default_na=False)
    rows = table["row"].to_numpy() - 1
    assert rows.tolist() == [k for k, name in enumerate(PARTS) if name == "test"]
    assert set(table["set"]) == {"test"}
    assert table["y_measured"].tolist() == [N_CARBONS[k] for k in rows]
    assert table["y_qualifier"].tolist() == [">=" if N_CARBONS[k] == 5 else "" for k in rows]
    assert table["t_measured"].tolist() == [toxic[k] for k in rows]
    assert table["c_measured"].tolist() == [kinds[k] for k in rows]
    expected = Predictor(result.model).predict([CHAINS[k] for k in rows]).to_pandas()
    for name in ("y_pred", "dose_pred", "t_prob", "c_prob_a", "c_prob_c", "y_low", "dose_high"):
        if name in expected:
            assert table[name].to_numpy(float) == pytest.approx(expected[name].to_numpy(), rel=1e-4)
    for name in ("t_set", "c_set"):
        if name in expected:
            assert table[name].tolist() == expected[name].tolist()


def test_with_folds_every_usable_row_is_predicted_once(tmp_path) -> None:
    write(tmp_path / "table.csv", smiles=["no molecule", *CHAINS], row=[1, *N_CARBONS])
    _, _, metrics = trained(tmp_path, split="random", folds=3, target=("row",))
    table = pd.read_csv(tmp_path / "run/predictions.csv")
    assert table["row"].tolist() == list(range(2, len(CHAINS) + 2))
    assert set(table["set"]) == {"fold 1", "fold 2", "fold 3"}
    errors = table["row_pred"] - table["row_measured"]
    by_fold = np.sqrt((errors**2).groupby(table["set"]).mean())
    assert by_fold.mean() == pytest.approx(metrics["test"]["row"]["RMSE"])
