import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from moleblend.evaluation.metrics import best_threshold
from moleblend.finetuning.train import TrainConfig
from moleblend.model import checkpoint
from moleblend.prediction.predictor import Predictor
from tests.helpers.finetuning import are_same, metric_of, rows_of, run, weights
from tests.helpers.molecules import CHAINS, HAS_OXYGEN, N_CARBONS, PARTS
from tests.helpers.runs import TINY
from tests.helpers.tables import write


def test_random_split_follows_the_seed(config: TrainConfig) -> None:
    found = [
        (result, weights(result))
        for seed in (0, 0, 1)
        for result, _ in [run(replace(config, split="random", epochs=1, seed=seed))]
    ]
    (first, kept), (second, same), (other, changed) = found
    assert len(first.table.split.test) == 6
    assert (
        first.table.split.test.tolist()
        == second.table.split.test.tolist()
        != other.table.split.test.tolist()
    )
    assert first.test == second.test
    assert are_same(kept, same)
    assert not are_same(kept, changed)


def test_rows_that_cannot_be_used_keep_their_place(config: TrainConfig) -> None:
    odd = {"invalid": "C1CC", "too_large": "C" * 30, "no_label": "CCCCl"}
    salt = "CC(=O)[O-].[Na+]"
    smiles = [odd["invalid"], CHAINS[0], odd["too_large"], salt, odd["no_label"], *CHAINS[1:]]
    labels = [1.0, N_CARBONS[0], 30.0, 2.0, None, *N_CARBONS[1:]]
    parts = ["train", PARTS[0], "test", "train", "", *PARTS[1:]]
    write(Path(config.data), smiles=smiles, y=labels, set=parts)
    result, output = run(replace(config, encoder=replace(TINY, max_atoms=20)))
    rows = rows_of(result)
    assert [row["row"] for row in rows] == list(range(1, len(smiles) + 1))
    assert [row["status"] for row in rows[:6]] == [
        *("invalid", "ok", "too_large", "ok", "no_label", "ok")
    ]
    assert [row["set"] for row in rows[:5]] == ["", "train", "", "train", ""]
    assert rows[2]["reason"] == "30 atoms, the model takes at most 20"
    assert rows[4]["reason"] == "no target has a label"
    assert rows[0]["reason"]
    assert not rows[1]["reason"]
    assert f"{len(smiles)} rows, {len(smiles) - 3} usable" in output


@pytest.mark.parametrize("kind", ["regression", "binary"])
def test_the_test_set_has_no_influence(config: TrainConfig, kind: str) -> None:
    labels = N_CARBONS if kind == "regression" else HAS_OXYGEN
    write(Path(config.data), smiles=CHAINS, y=labels, set=PARTS)
    first, _ = run(config)
    kept = weights(first)
    other = [1 - y if set_name == "test" else y for y, set_name in zip(labels, PARTS, strict=True)]
    write(Path(config.data), smiles=CHAINS, y=other, set=PARTS)
    second, _ = run(config)
    assert are_same(kept, weights(second))
    assert first.histories[0].epochs == second.histories[0].epochs
    assert first.validation == second.validation
    assert first.test != second.test


@pytest.mark.parametrize("patience", [0, 6])
def test_the_reported_validation_is_that_of_the_epoch_that_is_kept(
    config: TrainConfig, patience: int
) -> None:
    """Of the last one, though another is better; with patience of the best."""
    result, _ = run(replace(config, epochs=6, learning_rate=0.1, patience=patience))
    scores = [epoch["validation"] for epoch in result.histories[0].epochs]
    assert min(scores) < scores[-1]
    kept = min(scores) if patience else scores[-1]
    assert result.kept_epoch == scores.index(kept) + 1
    assert result.settings.epoch_from == ("validation" if patience else "the last")
    in_unit = kept * result.targets[0].scale
    assert result.validation["y"]["RMSE"] == pytest.approx(in_unit, rel=1e-5)


def test_a_validation_set_of_one_class_is_scored_by_its_loss(config: TrainConfig) -> None:
    labels = [0.0 if p == "valid" else y for y, p in zip(HAS_OXYGEN, PARTS, strict=True)]
    write(Path(config.data), smiles=CHAINS, y=labels, set=PARTS)
    result, output = run(replace(config, epochs=3, patience=3))
    assert "the validation set has labels of one class only" in output
    assert result.validation["y"]["ROC-AUC"] is None
    best = min(epoch["validation"] for epoch in result.histories[0].epochs)
    assert result.histories[0].epochs[result.kept_epoch - 1]["validation"] == best


def test_folds_test_every_row_once_and_the_file_holds_all_models(config: TrainConfig) -> None:
    smiles = [f"C1{'C' * n}C1{end}" for n in range(1, 9) for end in ("", "O", "N")]
    labels = [float(s.count("C")) for s in smiles]
    write(Path(config.data), smiles=["nonsense", *smiles], y=[1, *labels])
    result, output = run(replace(config, split="scaffold", folds=4, epochs=2))
    assert "4 folds (scaffold) of 6 molecules, each used once as the test set" in output
    parts = [row["set"] for row in rows_of(result)]
    assert Counter(parts) == {"": 1, **{f"fold {k}": 6 for k in range(1, 5)}}
    assert result.table.split.test.tolist() == list(range(1, 25))
    assert result.predictions.labels[:, 0].tolist() == labels
    errors = [metric_of(one.evaluation.test, "y", "RMSE") for one in result.runs]
    assert result.test["y"]["RMSE"] == pytest.approx(np.mean(errors))
    assert result.test["y"]["n"] == 24
    told_spread = json.loads((Path(config.out) / "metrics.json").read_text())["std"]
    assert (told_spread["over"], told_spread["n"]) == ("folds", 4)
    assert told_spread["test"]["y"]["RMSE"] == {
        "mean": pytest.approx(np.mean(errors)),
        "std": pytest.approx(np.std(errors, ddof=1)),
    }
    # A fold's model, scaled as the file has it, still predicts what it predicted in its test.
    predictor = Predictor(result.model)
    each = [replace_member(predictor, k).predict(smiles) for k in range(4)]
    for k, one in enumerate(result.runs):
        again = np.array(each[k].column("y_pred"))[one.split.test]
        assert again == pytest.approx(one.predictions.test[:, 0], abs=1e-4)
    together = predictor.predict(smiles)
    values = np.stack([np.array(found.column("y_pred")) for found in each])
    assert np.array(together.column("y_pred")) == pytest.approx(values.mean(0))
    # No std over folds is known, so that all rows have the std of all validation errors.
    error = np.concatenate(
        [one.predictions.validation[:, 0] for one in result.runs]
    ) - np.concatenate([np.array(labels)[one.split.validation] for one in result.runs])
    assert np.array(together.column("y_std")) == pytest.approx(np.sqrt((error**2).mean()))


def test_the_threshold_of_all_folds_is_that_of_their_probabilities(config: TrainConfig) -> None:
    write(Path(config.data), smiles=CHAINS, y=HAS_OXYGEN)
    result, _ = run(replace(config, split="random", folds=3))
    rows = np.concatenate([one.split.validation for one in result.runs])
    validated = np.concatenate([one.predictions.validation for one in result.runs])
    right = result.uncertainty.calibrate_probabilities(result.targets, validated)[:, 0]
    expected = best_threshold(right, np.array(HAS_OXYGEN)[rows])
    assert result.targets[0].threshold == expected
    assert checkpoint.load(result.model).config.targets[0].threshold == expected


def replace_member(predictor: Predictor, k: int) -> Predictor:
    """The same file, but only its member k answers."""
    alone = Predictor(predictor.path)
    alone.members = [predictor.members[k]]
    return alone
