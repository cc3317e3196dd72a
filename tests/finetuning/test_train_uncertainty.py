from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moleblend.evaluation.metrics import binary_metrics
from moleblend.finetuning import run as runs
from moleblend.finetuning.train import TrainConfig
from moleblend.model import checkpoint
from moleblend.prediction.predictor import Predictor
from tests.helpers.finetuning import run
from tests.helpers.molecules import CHAINS, N_CARBONS, PARTS
from tests.helpers.tables import write


def test_predictions_have_uncertainty_columns(config: TrainConfig) -> None:
    result, _ = run(config)
    table = Predictor(result.model).predict(config.data)
    low, high = (np.array(table.column(name)) for name in ("y_low", "y_high"))
    label = np.array(N_CARBONS)
    inside = (low <= label) & (label <= high)
    where = {
        set_name: [k for k, name in enumerate(PARTS) if name == set_name] for set_name in set(PARTS)
    }
    assert inside[where["valid"]].mean() >= 0.9  # it was fitted to these
    metrics = result.uncertainty_metrics["test"]["y"]
    assert metrics.coverage.observed == pytest.approx(inside[where["test"]].mean())
    assert (metrics.coverage.n, metrics.ranked_by) == (12, "distance")  # one model has no spread
    error = np.array(table.column("y_pred")) - label
    deviation = np.sqrt((error[where["valid"]] ** 2).mean())
    assert np.array(table.column("y_std")) == pytest.approx(deviation, rel=1e-4)
    near = table.column("nearest").to_pylist()
    training = {CHAINS[k] for k in where["train"]}
    assert set(near) <= training
    assert all(near[k] == CHAINS[k] for k in where["train"][:8])
    wider = Predictor(result.model).predict(["CCO"], confidence=0.5)
    assert wider.column("y_high")[0].as_py() < high[CHAINS.index("CCO")]
    kept = checkpoint.read_domain(result.model)
    assert kept is not None
    assert kept.rows.tolist() == where["train"]


def test_probabilities_are_calibrated_if_validation_shows_a_bias(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [k % 2 for k in range(len(CHAINS))]
    parts = [("train", "valid", "valid", "valid", "test")[k % 5] for k in range(len(CHAINS))]
    write(Path(config.data), smiles=CHAINS, y=rows, set=parts)
    given = runs.unscale_outputs

    def overconfident(*arguments: Any) -> np.ndarray:
        """An overconfident model."""
        return np.where(given(*arguments) > 0.5, 0.99, 0.01)

    monkeypatch.setattr(runs, "unscale_outputs", overconfident)
    monkeypatch.setattr("moleblend.prediction.predictor.unscale_outputs", overconfident)
    result, _ = run(replace(config, learning_rate=1e-5))
    metrics = result.uncertainty_metrics["validation"]["y"]
    assert metrics.before is not None
    assert metrics.after is not None
    assert metrics.after.error < 0.5 * metrics.before.error
    assert result.predictions.uncalibrated is not None
    own = binary_metrics(result.predictions.uncalibrated[:, 0], result.predictions.labels[:, 0])
    assert result.test["y"]["ROC-AUC"] == own["ROC-AUC"]
    assert result.test["y"]["log loss"] != own["log loss"]
    table = Predictor(result.model).predict(config.data)
    again = np.array(table.column("y_prob"))
    assert again[result.table.split.test] == pytest.approx(result.predictions.predicted[:, 0])
    assert again.max() < 0.9
    assert set(table.column("y_set").to_pylist()) <= {"{}", "{0}", "{1}", "{0, 1}"}


def test_too_few_validation_molecules_give_no_uncertainty_columns(config: TrainConfig) -> None:
    parts = ["valid" if k == 4 else "test" if k > 56 else "train" for k in range(len(CHAINS))]
    write(Path(config.data), smiles=CHAINS, y=N_CARBONS, set=parts)
    result, output = run(config)
    assert result.settings.uncertainty is not None
    notes = result.settings.uncertainty.notes
    assert "they need 9 labelled validation molecules and there are 1" in notes[0]
    assert "needs at least 1 training molecule and 2 validation molecules, got 56 and 1" in notes[1]
    assert all(f"note: {note}" in output for note in notes)
    table = Predictor(result.model).predict(["CCO"])
    assert table.column_names == ["smiles", "status", "reason", "y_pred"]
    assert result.uncertainty_metrics["test"] == {}


def test_training_smiles_can_be_left_out_of_the_file(config: TrainConfig) -> None:
    result, _ = run(replace(config, keep_training_smiles=False))
    assert b"CCCCCCCCCO" not in result.model.read_bytes()
    table = Predictor(result.model).predict([CHAINS[5], "C1CC"])
    assert table.column_names[-3:] == ["domain", "similarity", "nearest_row"]
    assert table.column("nearest_row").to_pylist() == [6, None]
    assert table.column("domain").to_pylist()[1] is None
