import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moleblend.finetuning.train import TrainConfig
from moleblend.model import checkpoint
from moleblend.prediction.predictor import Predictor
from tests.helpers.finetuning import metric_of, rows_of, run
from tests.helpers.molecules import CHAINS, HAS_OXYGEN, N_CARBONS, PARTS
from tests.helpers.tables import write


def test_labels_are_scaled_and_the_scaling_undone(config: TrainConfig) -> None:
    """Labels far from 0 and 1 are learned, too, and predicted in their own unit."""
    table = Path(config.data)
    far = [5000 + 300 * n for n in N_CARBONS]
    write(table, smiles=CHAINS, y=far, set=PARTS)
    result, _ = run(replace(config, epochs=25))
    training = [label for label, set_name in zip(far, PARTS, strict=True) if set_name == "train"]
    target = result.targets[0]
    assert (target.mean, target.scale) == pytest.approx((np.mean(training), np.std(training)))
    assert checkpoint.load(result.model).config.targets == result.targets
    assert result.histories[0].epochs[0]["training_loss"] < 3  # of scaled labels
    assert metric_of(result.test, "y", "RMSE") < 0.5 * metric_of(
        result.evaluation.constant_baseline, "y", "RMSE"
    )
    test_labels = [label for label, set_name in zip(far, PARTS, strict=True) if set_name == "test"]
    by_hand = np.sqrt(np.mean((np.mean(training) - np.array(test_labels)) ** 2))
    assert result.evaluation.constant_baseline["y"]["RMSE"] == pytest.approx(by_hand)
    error = result.predictions.predicted[:, 0] - test_labels
    assert result.test["y"]["MAE"] == pytest.approx(np.abs(error).mean())


def test_two_targets_with_different_units(config: TrainConfig) -> None:
    thousands = [1000 * n for n in N_CARBONS]
    write(Path(config.data), smiles=CHAINS, y=N_CARBONS, z=thousands, set=PARTS)
    result, _ = run(replace(config, target=("y", "z"), units=("", "mg"), epochs=20))
    assert [target.unit for target in result.targets] == ["", "mg"]
    assert result.targets[1].scale == pytest.approx(1000 * result.targets[0].scale)
    for name in ("y", "z"):
        assert metric_of(result.test, name, "RMSE") < 0.7 * metric_of(
            result.evaluation.constant_baseline, name, "RMSE"
        )


def test_binary(config: TrainConfig) -> None:
    write(Path(config.data), smiles=CHAINS, y=HAS_OXYGEN, set=PARTS)
    result, output = run(replace(config, epochs=15, patience=15))
    assert result.targets[0].kind == "binary"
    assert metric_of(result.test, "y", "ROC-AUC") > 0.9
    assert result.evaluation.constant_baseline == {}
    assert ((result.predictions.predicted > 0) & (result.predictions.predicted < 1)).all()
    assert "validation ROC-AUC" in output
    table = Predictor(result.model).predict(["CCO", "CCC"])
    output = ["y_pred", "y_prob", "y_set", "domain", "similarity", "nearest"]
    assert table.column_names == ["smiles", "status", "reason", *output]
    best = max(epoch["validation"] for epoch in result.histories[0].epochs)
    assert result.validation["y"]["ROC-AUC"] == pytest.approx(best)


def test_binary_by_order(config: TrainConfig) -> None:
    with pytest.raises(
        ValueError, match="binary target 'y' needs two classes, got the labels 1, 2, 3, 4, 5"
    ):
        run(replace(config, task=("binary",)))
    write(Path(config.data), smiles=CHAINS, y=HAS_OXYGEN, set=PARTS)
    result, _ = run(replace(config, task=("regression",), epochs=1))
    assert result.targets[0].kind == "regression"


def test_multi_label_with_missing_cells(config: TrainConfig) -> None:
    has_n = [float("N" in smiles) for smiles in CHAINS]
    with_gaps = [None if k % 3 == 0 else label for k, label in enumerate(HAS_OXYGEN)]
    write(Path(config.data), smiles=CHAINS, o=with_gaps, n=has_n, set=PARTS)
    result, _ = run(replace(config, target=("o", "n")))
    known = [label for label, set_name in zip(with_gaps, PARTS, strict=True) if set_name == "test"]
    assert result.test["o"]["n"] == sum(label is not None for label in known) < 12
    assert result.test["n"]["n"] == 12
    assert np.isnan(result.predictions.labels).sum() == sum(label is None for label in known)


def test_both_kinds_of_target_together(config: TrainConfig) -> None:
    write(Path(config.data), smiles=CHAINS, y=N_CARBONS, o=HAS_OXYGEN, set=PARTS)
    result, output = run(replace(config, target=("y", "o"), patience=10))
    assert [target.kind for target in result.targets] == ["regression", "binary"]
    assert "ROC-AUC" in output
    assert "standard deviations" in output
    rmse = metric_of(result.validation, "y", "RMSE") / result.targets[0].scale
    best = result.histories[0].epochs[result.kept_epoch - 1]["validation"]
    assert best == pytest.approx(metric_of(result.validation, "o", "ROC-AUC") - rmse, abs=1e-5)
    assert best == max(epoch["validation"] for epoch in result.histories[0].epochs)


def test_equal_labels_can_be_trained_on(config: TrainConfig) -> None:
    write(Path(config.data), smiles=CHAINS, y=[0.1] * len(CHAINS), set=PARTS)
    result, _ = run(config)
    assert result.targets[0].scale == 1.0
    assert result.test["y"]["R2"] is None


def test_equal_exact_labels_are_scaled_with_the_censored_labels(config: TrainConfig) -> None:
    labels = [5 if k % 2 else ">10000" for k in range(len(CHAINS))]
    write(Path(config.data), smiles=CHAINS, y=labels, set=PARTS)
    result, _ = run(config)
    assert result.targets[0].scale == pytest.approx(9995 / 2, rel=0.1)


def test_bad_cells_are_left_out_and_censored_labels_are_learned(
    config: TrainConfig,
) -> None:
    """Long chains are only known to have more than 9 carbons."""
    cells: list[Any] = [">9" if y > 9 else y for y in N_CARBONS]
    cells[0], cells[5], cells[6] = "tiny", "n.d.", "~2"
    write(Path(config.data), smiles=CHAINS, y=cells, set=PARTS)
    result, output = run(replace(config, epochs=12))
    rows = rows_of(result)
    assert [rows[k]["status"] for k in (0, 5, 6)] == ["no_label", "no_label", "ok"]
    assert rows[0]["labels"] == "y: 'tiny' is not a number"
    assert "the first is in row 1 (line 2): 'tiny' is not a number" in output
    assert "'y': censored labels, such as >10: 24;" in output
    assert "'y': approximate labels (~): 1;" in output
    known = [y for y in N_CARBONS[1:] if y <= 9]
    test = result.test["y"]
    n_censored = sum(PARTS[k] == "test" for k, y in enumerate(N_CARBONS) if y > 9)
    assert test["n_censored"] == n_censored
    assert test["n"] == 12 - n_censored
    assert 0 <= metric_of(result.test, "y", "censored labels respected") <= 1
    # Exact labels alone scale the target.
    assert result.targets[0].mean < np.mean(known) + 0.5
    assert result.settings.targets["y"].n_censored == 24
    assert result.predictions.censoring is not None
    assert (result.predictions.censoring[:, 0] == 1).sum() == n_censored


def test_a_logarithm_is_learned_and_inverted(config: TrainConfig) -> None:
    decades = [float(f"{10 ** (y / 2):.4g}") for y in N_CARBONS]
    write(Path(config.data), smiles=CHAINS, y=decades, set=PARTS)
    _, hinted = run(replace(config, epochs=1))
    assert "--log-scale y trains on its logarithm" in hinted
    result, output = run(replace(config, log_scale=("y",), epochs=12))
    assert "on a log10 scale" in output
    target = result.targets[0]
    training = [y for y, set_name in zip(decades, PARTS, strict=True) if set_name == "train"]
    assert target.log10
    assert target.mean == pytest.approx(np.log10(training).mean())
    assert metric_of(result.test, "y", "RMSE log10") < metric_of(
        result.evaluation.constant_baseline, "y", "RMSE log10"
    )
    predicted = result.predictions.predicted[:, 0]
    error = np.log10(predicted) - np.log10(result.predictions.labels[:, 0])
    assert result.test["y"]["RMSE log10"] == pytest.approx(np.sqrt((error**2).mean()))
    table = Predictor(result.model).predict(config.data)
    given, logarithm = (np.array(table.column(f"y_{end}")) for end in ("pred", "log10_pred"))
    assert given[result.table.split.test] == pytest.approx(
        result.predictions.predicted[:, 0], rel=1e-4
    )
    assert logarithm == pytest.approx(np.log10(given))


def test_several_classes_and_a_number(config: TrainConfig) -> None:
    kinds = [{"O": "alcohol", "N": "amine", "F": "fluoride"}.get(s[-1], "alkane") for s in CHAINS]
    kinds[3] = ""
    write(Path(config.data), smiles=CHAINS, kind=kinds, y=N_CARBONS, set=PARTS)
    result, output = run(replace(config, target=("kind", "y"), epochs=15))
    assert [target.kind for target in result.targets] == ["multiclass", "regression"]
    assert "target 'kind': multi-class (alcohol, alkane, amine, fluoride)" in output
    assert metric_of(result.test, "kind", "macro ROC-AUC") > 0.6
    assert result.predictions.predicted.shape == (12, 5)
    table = Predictor(result.model).predict(["CCO", "nonsense"])
    shares = [f"kind_prob_{name}" for name in ("alcohol", "alkane", "amine", "fluoride")]
    assert table.column_names[3:] == [
        *("kind_pred", *shares),  # 12 validation molecules of four classes are too few for sets
        *("y_pred", "y_std", "y_low", "y_high", "domain", "similarity", "nearest"),
    ]
    values = [table.column(name)[0].as_py() for name in shares]
    assert sum(values) == pytest.approx(1)
    named = table.column("kind_pred").to_pylist()
    assert named == [("alcohol", "alkane", "amine", "fluoride")[int(np.argmax(values))], None]


def test_texts_are_classes_and_the_threshold_is_chosen_on_validation(config: TrainConfig) -> None:
    words = ["active" if y else "inactive" for y in HAS_OXYGEN]
    write(Path(config.data), smiles=CHAINS, y=words, set=PARTS)
    result, output = run(replace(config, epochs=5))
    target = result.targets[0]
    assert (target.kind, target.classes) == ("binary", ("inactive", "active"))
    assert (
        "'y': class 'active' has 3 molecules in the validation set and 3 in the test set, too few"
        in output
    )
    chosen = (result.predictions.predicted[:, 0] > target.threshold) == (
        result.predictions.labels[:, 0] == 1
    )
    assert result.test["y"]["accuracy"] == pytest.approx(chosen.mean())
    assert checkpoint.load(result.model).config.targets[0].threshold == target.threshold
    assert result.settings.targets["y"].threshold == target.threshold


@pytest.mark.parametrize("sentinel", [1e30, -1e300, 1.7e308])
def test_numbers_that_no_label_has_are_named_and_left_out(
    config: TrainConfig, sentinel: float
) -> None:
    labels = [sentinel if k == 7 else n for k, n in enumerate(N_CARBONS)]
    write(Path(config.data), smiles=CHAINS, y=labels, set=PARTS)
    result, _ = run(config)
    assert "is not below 1e+30" in rows_of(result)[7]["labels"]
    assert rows_of(result)[7]["status"] == "no_label"
    assert max(N_CARBONS) > result.targets[0].scale > 0
    text = (config.folder / "metrics.json").read_text()
    json.loads(text, parse_constant=pytest.fail)


def test_a_column_of_nothing_but_such_numbers_is_refused(config: TrainConfig) -> None:
    write(Path(config.data), smiles=CHAINS, y=[1e200 + n * 1e199 for n in N_CARBONS], set=PARTS)
    with pytest.raises(ValueError, match=r"row 1 .*column 'y' should hold numbers, but"):
        run(config)


def test_labels_whose_squares_vanish_need_another_unit(config: TrainConfig) -> None:
    write(Path(config.data), smiles=CHAINS, y=[1e-300 * n for n in N_CARBONS], set=PARTS)
    with pytest.raises(ValueError, match=r"column 'y' differ by 1[.]4e-299 at most"):
        run(config)
    result, _ = run(replace(config, log_scale=("y",)))
    assert Predictor(result.model).predict(["CCO"])["status"].to_pylist() == ["ok"]


@pytest.mark.parametrize("unit", [1e-90, 1e29, 1 + 1e-15])
def test_very_small_and_very_large_labels_have_a_finite_scale(
    config: TrainConfig, unit: float
) -> None:
    labels = [unit * n / 100 for n in N_CARBONS]
    if unit > 1 > unit - 1e-10:  # labels that differ in their last digits only
        labels = [1 + 1e-15 * n for n in N_CARBONS]
    write(Path(config.data), smiles=CHAINS, y=labels, set=PARTS)
    result, _ = run(config)
    assert 0 < result.targets[0].scale < 1e30
    table = Predictor(result.model).predict(["CCO"])
    assert table["status"].to_pylist() == ["ok"]
    assert np.isfinite(table["y_pred"].to_pylist()).all()
    json.loads((config.folder / "metrics.json").read_text(), parse_constant=pytest.fail)
