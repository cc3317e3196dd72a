from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
import torch

from moleblend.finetuning import lightning_module
from moleblend.finetuning import run as runs
from moleblend.finetuning.train import TrainConfig
from moleblend.finetuning.trainer import TrainedModel
from moleblend.model import checkpoint
from moleblend.model.encoder_config import EncoderConfig
from moleblend.prediction.predictor import Predictor
from tests.helpers.finetuning import are_same, check_saved_model, metric_of, run, weights
from tests.helpers.molecules import CHAINS, HAS_OXYGEN, PARTS
from tests.helpers.tables import write


def test_seeds_and_members(config: TrainConfig) -> None:
    first, _ = run(config)
    kept = weights(first)
    second, _ = run(replace(config, seed=1))
    pair, _ = run(replace(config, seeds=2))
    assert are_same(kept, weights(pair))
    assert pair.test == first.test
    errors = [metric_of(one.test, "y", "RMSE") for one in (first, second)]
    assert pair.statistics["test"]["y"]["RMSE"]["mean"] == pytest.approx(np.mean(errors))
    ensemble, _ = run(replace(config, ensemble=2))
    members = checkpoint.load_members(ensemble.model)
    assert are_same(kept, members[0].state_dict())
    mean = (first.predictions.predicted + second.predictions.predicted) / 2
    assert ensemble.predictions.predicted == pytest.approx(mean, abs=1e-6)
    table = Predictor(ensemble.model).predict(config.data)
    again = np.array(table.column("y_pred"))[ensemble.table.split.test]
    assert again == pytest.approx(mean[:, 0], abs=1e-5)
    assert table.column_names[-7:-3] == ["y_pred", "y_std", "y_low", "y_high"]
    log = pa.csv.read_csv(Path(config.out) / "log.csv")
    assert log.column("member").to_pylist() == [1, 1, 2, 2]


@pytest.mark.parametrize("is_new", [False, True])
def test_frozen_vectors_are_computed_once_for_all_members(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, is_new: bool
) -> None:
    """But each member from random weights has an encoder of its own."""
    given = replace(config, freeze=True, ensemble=2)
    if not is_new:
        start = str(run(replace(config, epochs=1))[0].model)
        given = replace(given, source=start, encoder=EncoderConfig(), out=config.out + "2")
    original, counts = lightning_module.each_geometry, []

    def counted(molecules: list, *others: Any) -> list[torch.Tensor]:
        counts.append(len(molecules))
        return original(molecules, *others)

    monkeypatch.setattr(lightning_module, "each_geometry", counted)
    result, _ = run(given)
    assert sum(counts) == (2 if is_new else 1) * len(CHAINS)
    check_saved_model(result, tolerance=1e-4)


def test_class_weights_are_kept_if_they_help_on_validation(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(Path(config.data), smiles=CHAINS, y=HAS_OXYGEN, set=PARTS)
    original = runs.fit

    def fit(module: lightning_module.FineTuning, *others: Any) -> TrainedModel:
        """Train; without weights of class 1 the score is lower."""
        trained = original(module, *others)
        score = trained.history.kept_score - (9.0 if module.weights is None else 0.0)
        return replace(trained, history=replace(trained.history, kept_score=score))

    monkeypatch.setattr(runs, "fit", fit)
    result, output = run(replace(config, pos_weight="try"))
    assert result.runs[0].uses_class_weights
    assert result.settings.pos_weight
    assert "validation score by class weights: without" in output
    assert not run(replace(config, pos_weight="off"))[0].runs[0].uses_class_weights


def test_class_weights_do_not_shift_the_probabilities(config, tmp_path: Path) -> None:
    """With a weight of 19 on 5 % of the molecules, the mean probability would be near one half."""
    smiles = [f"{'C' * (1 + k % 40)}{'O' if k % 20 == 0 else 'N'}" for k in range(400)]
    labels = [float(k % 20 == 0) for k in range(400)]
    sets = ["test" if k % 5 == 1 else "valid" if k % 5 == 2 else "train" for k in range(400)]
    table = write(tmp_path / "rare.csv", smiles=smiles, t=labels, set=sets)
    config = replace(config, data=str(table), target=("t",), features=("none",), epochs=8)
    config = replace(config, learning_rate=1e-2)
    shifted, _ = run(replace(config, pos_weight="on"))
    plain, _ = run(replace(config, pos_weight="off"))
    on, off = (one.predictions.uncalibrated.mean() for one in (shifted, plain))
    assert off < 0.1
    assert on < 0.1
    assert shifted.runs[0].uses_class_weights
