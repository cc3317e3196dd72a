"""What the tests of fine-tuning share: a run, its weights, its metrics and its rows."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
import torch
from rich.console import Console

from moleblend.evaluation.metrics import Metrics
from moleblend.finetuning.train import TrainConfig, TrainResult, train
from moleblend.model import checkpoint
from moleblend.prediction.predictor import Predictor


def run(config: TrainConfig) -> tuple[TrainResult, str]:
    """Train; return the result and the console output."""
    output = io.StringIO()
    return train(config, console=Console(file=output, width=200)), output.getvalue()


def weights(result: TrainResult) -> dict[str, torch.Tensor]:
    """Read the weights now: the next run in the same folder replaces them."""
    return checkpoint.load(result.model).state_dict()


def are_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Compare weights exactly."""
    return all(torch.equal(one[name], other[name]) for name in one)


def metric_of(metrics: dict[str, Metrics], target: str, name: str) -> float:
    """Return a metric that must be defined."""
    value = metrics[target][name]
    assert value is not None
    return value


def rows_of(result: TrainResult) -> list[dict[str, Any]]:
    """Read rows.csv."""
    return pa.csv.read_csv(Path(result.config.out) / "rows.csv").to_pylist()


def check_saved_model(result: TrainResult, *, tolerance: float) -> None:
    """Check that the model file predicts y of the test rows as the run did."""
    table = Predictor(result.model).predict(result.config.data)
    predicted = np.array(table.column("y_pred"))[result.table.split.test]
    assert predicted == pytest.approx(result.predictions.predicted[:, 0], abs=tolerance)
