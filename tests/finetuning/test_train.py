import io
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console
from safetensors import safe_open

from moleblend.data.formats import read_table
from moleblend.evaluation.metrics import Metrics, best_threshold, binary_metrics
from moleblend.finetuning import lightning_module as finetuning
from moleblend.finetuning import run as runs
from moleblend.finetuning import train
from moleblend.finetuning.run_folder import reserved
from moleblend.finetuning.train import TrainConfig, TrainResult
from moleblend.model import checkpoint
from moleblend.model.checkpoint import Card
from moleblend.model.encoder import EncoderConfig
from moleblend.model.heads import HeadsConfig, Model, ModelConfig
from moleblend.prediction.predictor import Predictor
from tests.helpers.molecules import CHAINS, HAS_OXYGEN, N_CARBONS, PARTS, QM9
from tests.helpers.runs import TINY
from tests.helpers.tables import write


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write(tmp_path / "chains.csv", smiles=CHAINS, y=N_CARBONS, part=PARTS)


@pytest.fixture
def config(table: Path, tmp_path: Path) -> TrainConfig:
    return TrainConfig(
        data=str(table),
        target=("y",),
        out=str(tmp_path / "run"),
        source="scratch",
        split="part",
        epochs=2,
        batch_size=16,
        learning_rate=5e-3,
        forest=10,
        device="cpu",
        encoder=TINY,
    )


def run(config: TrainConfig) -> tuple[TrainResult, str]:
    told = io.StringIO()
    return train.train(config, console=Console(file=told, width=200)), told.getvalue()


def weights(result: TrainResult) -> dict[str, torch.Tensor]:
    """Read the weights now: the next run in the same folder replaces them."""
    return checkpoint.load(result.model).state_dict()


def are_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def figure(metrics: dict[str, Metrics], target: str, name: str) -> float:
    value = metrics[target][name]
    assert value is not None
    return value


def rows_of(result: TrainResult) -> list[dict[str, Any]]:
    return pa.csv.read_csv(Path(result.config.out) / "rows.csv").to_pylist()


def test_what_a_run_leaves_behind(config: TrainConfig, table: Path) -> None:
    result, told = run(replace(config, units=("carbons",)))
    out = Path(config.out)
    assert {path.name for path in out.iterdir()} == {
        "model.safetensors",
        "metrics.json",
        "config.json",
        "log.csv",
        "rows.csv",
    }
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics == {
        "validation": result.validation,
        "test": result.test,
        "test_of_predicting_the_training_mean": result.trivial,
        "kept_epoch": result.kept_epoch,
        "undefined": {"validation": {}, "test": {}},
        "uncertainty": {
            part: {"y": found["y"].summary()} for part, found in result.uncertainty_metrics.items()
        },
        "random_forest_on_ecfp4": metrics["random_forest_on_ecfp4"],
        "spread": {"over": "seeds", "n": 1},
        "choices": result.choices,
    }
    assert metrics["random_forest_on_ecfp4"]["test"] == result.baseline.test
    assert list(metrics["test"]["y"]) == ["RMSE", "MAE", "R2", "n"]
    told_config = json.loads((out / "config.json").read_text())
    assert (told_config["target"], told_config["choices"]) == (["y"], result.choices)
    log = pa.csv.read_csv(out / "log.csv")
    assert log.column_names == ["run", "member", "epoch", "training_loss", "validation"]
    expected = [{"run": 1, "member": 1, **epoch} for epoch in result.history]
    assert log.to_pylist() == [pytest.approx(epoch) for epoch in expected]
    assert Counter(row["part"] for row in rows_of(result)) == {
        "train": 36,
        "validation": 12,
        "test": 12,
    }
    card = checkpoint.read_card(result.model)
    assert (card.trained_by, card.data, card.views) == ("train", "chains.csv", "2d")
    assert len(card.data_fingerprint) == 64
    assert checkpoint.load(result.model).config.targets[0].unit == "carbons"
    assert "36 to train, 12 to validate, 12 to test (part split)" in told
    assert [entry.name for entry in table.parent.iterdir() if entry.is_file()] == ["chains.csv"]


def test_labels_are_scaled_and_the_scaling_undone(config: TrainConfig) -> None:
    """Labels far from 0 and 1 are learnt all the same, and predicted in their own unit."""
    table = Path(config.data)
    far = [5000 + 300 * n for n in N_CARBONS]
    write(table, smiles=CHAINS, y=far, part=PARTS)
    result, _ = run(replace(config, epochs=25))
    training = [label for label, part in zip(far, PARTS, strict=True) if part == "train"]
    target = result.targets[0]
    assert (target.mean, target.scale) == pytest.approx((np.mean(training), np.std(training)))
    assert checkpoint.load(result.model).config.targets == result.targets
    assert result.history[0]["training_loss"] < 3  # of scaled labels
    assert figure(result.test, "y", "RMSE") < 0.5 * figure(result.trivial, "y", "RMSE")
    judged = [label for label, part in zip(far, PARTS, strict=True) if part == "test"]
    by_hand = np.sqrt(np.mean((np.mean(training) - np.array(judged)) ** 2))
    assert result.trivial["y"]["RMSE"] == pytest.approx(by_hand)
    error = result.predicted[:, 0] - judged
    assert result.test["y"]["MAE"] == pytest.approx(np.abs(error).mean())


def test_the_saved_model_predicts_what_was_judged(config: TrainConfig) -> None:
    result, _ = run(config)
    table = Predictor(result.model).predict(config.data)
    again = np.array(table.column("y_pred"))[result.parts.test]
    assert again == pytest.approx(result.predicted[:, 0], abs=1e-5)
    assert result.labels[:, 0].tolist() == [N_CARBONS[row] for row in result.parts.test]


def test_two_targets_with_different_units(config: TrainConfig) -> None:
    thousands = [1000 * n for n in N_CARBONS]
    write(Path(config.data), smiles=CHAINS, y=N_CARBONS, z=thousands, part=PARTS)
    result, _ = run(replace(config, target=("y", "z"), units=("", "mg"), epochs=20))
    assert [target.unit for target in result.targets] == ["", "mg"]
    assert result.targets[1].scale == pytest.approx(1000 * result.targets[0].scale)
    for name in ("y", "z"):
        assert figure(result.test, name, "RMSE") < 0.7 * figure(result.trivial, name, "RMSE")


def test_a_model_file_names_no_folder(config: TrainConfig) -> None:
    start = str(run(replace(config, epochs=1))[0].model)
    again = replace(config, epochs=1, source=start, encoder=EncoderConfig(), out=config.out + "2")
    result, _ = run(again)
    with safe_open(result.model, framework="pt") as file:
        header = json.dumps(file.metadata())
    assert Path(start).name in header
    assert str(Path(start).parent) not in header
    assert str(Path(config.data).parent) not in header


def test_binary(config: TrainConfig) -> None:
    write(Path(config.data), smiles=CHAINS, y=HAS_OXYGEN, part=PARTS)
    result, told = run(replace(config, epochs=15, patience=15))
    assert result.targets[0].kind == "binary"
    assert figure(result.test, "y", "ROC-AUC") > 0.9
    assert result.trivial == {}
    assert ((result.predicted > 0) & (result.predicted < 1)).all()
    assert "validation ROC-AUC" in told
    table = Predictor(result.model).predict(["CCO", "CCC"])
    told = ["y_pred", "y_prob", "y_set", "domain", "similarity", "nearest"]
    assert table.column_names == ["smiles", "status", "reason", *told]
    best = max(epoch["validation"] for epoch in result.history)
    assert result.validation["y"]["ROC-AUC"] == pytest.approx(best)


def test_binary_by_order(config: TrainConfig) -> None:
    with pytest.raises(
        ValueError, match="column 'y' is to be binary, but has the labels 1, 2, 3, 4, 5"
    ):
        run(replace(config, task=("binary",)))
    write(Path(config.data), smiles=CHAINS, y=HAS_OXYGEN, part=PARTS)
    result, _ = run(replace(config, task=("regression",), epochs=1))
    assert result.targets[0].kind == "regression"


def test_multi_label_with_missing_cells(config: TrainConfig) -> None:
    has_n = [float("N" in smiles) for smiles in CHAINS]
    with_gaps = [None if k % 3 == 0 else label for k, label in enumerate(HAS_OXYGEN)]
    write(Path(config.data), smiles=CHAINS, o=with_gaps, n=has_n, part=PARTS)
    result, _ = run(replace(config, target=("o", "n")))
    known = [label for label, part in zip(with_gaps, PARTS, strict=True) if part == "test"]
    assert result.test["o"]["n"] == sum(label is not None for label in known) < 12
    assert result.test["n"]["n"] == 12
    assert np.isnan(result.labels).sum() == sum(label is None for label in known)


def test_random_split_follows_the_seed(config: TrainConfig) -> None:
    found = [
        (result, weights(result))
        for seed in (0, 0, 1)
        for result, _ in [run(replace(config, split="random", epochs=1, seed=seed))]
    ]
    (first, kept), (second, same), (other, changed) = found
    assert len(first.parts.test) == 6
    assert first.parts.test.tolist() == second.parts.test.tolist() != other.parts.test.tolist()
    assert first.test == second.test
    assert are_same(kept, same)
    assert not are_same(kept, changed)


def test_rows_that_cannot_be_used_keep_their_place(config: TrainConfig) -> None:
    odd = {"invalid": "C1CC", "too_large": "C" * 30, "no_label": "CCCCl"}
    salt = "CC(=O)[O-].[Na+]"
    smiles = [odd["invalid"], CHAINS[0], odd["too_large"], salt, odd["no_label"], *CHAINS[1:]]
    labels = [1.0, N_CARBONS[0], 30.0, 2.0, None, *N_CARBONS[1:]]
    parts = ["train", PARTS[0], "test", "train", "", *PARTS[1:]]
    write(Path(config.data), smiles=smiles, y=labels, part=parts)
    result, told = run(replace(config, encoder=replace(TINY, max_atoms=20)))
    rows = rows_of(result)
    assert [row["row"] for row in rows] == list(range(1, len(smiles) + 1))
    assert [row["status"] for row in rows[:6]] == [
        *("invalid", "ok", "too_large", "ok", "no_label", "ok")
    ]
    assert [row["part"] for row in rows[:5]] == ["", "train", "", "train", ""]
    assert rows[2]["reason"] == "30 atoms, the model takes at most 20"
    assert rows[4]["reason"] == "no target has a label"
    assert rows[0]["reason"]
    assert not rows[1]["reason"]
    assert f"{len(smiles)} rows, {len(smiles) - 3} usable" in told


def test_early_stopping_goes_back_to_the_best_epoch(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Validation is best in epoch 2: its weights are kept, and training ends 3 epochs later."""
    original = finetuning.FineTuning._figure
    seen: list[dict[str, torch.Tensor]] = []

    def judge(self: finetuning.FineTuning) -> tuple[float, float, str]:
        original(self)
        seen.append({k: v.clone() for k, v in self.model.state_dict().items()})
        value = [-5.0, -1.0, -2.0, -1.0, -4.0, 0.0][len(seen) - 1]
        return value, -value, "as told"

    monkeypatch.setattr(finetuning.FineTuning, "_figure", judge)
    result, _ = run(replace(config, epochs=30, patience=3))
    assert len(result.history) == 5
    assert result.kept_epoch == 2
    kept = weights(result)
    assert all(torch.equal(kept[name], seen[1][name]) for name in kept)
    assert not all(torch.equal(kept[name], seen[4][name]) for name in kept)


@pytest.mark.parametrize("patience", [0, 6])
def test_the_reported_validation_is_that_of_the_epoch_that_is_kept(
    config: TrainConfig, patience: int
) -> None:
    """Of the last one, though another is better; with patience of the best."""
    result, _ = run(replace(config, epochs=6, learning_rate=0.1, patience=patience))
    figures = [epoch["validation"] for epoch in result.history]
    assert min(figures) < figures[-1]
    kept = min(figures) if patience else figures[-1]
    assert result.kept_epoch == figures.index(kept) + 1
    assert result.choices["epoch_from"] == ("validation" if patience else "the last")
    in_unit = kept * result.targets[0].scale
    assert result.validation["y"]["RMSE"] == pytest.approx(in_unit, rel=1e-5)


@pytest.mark.parametrize("kind", ["regression", "binary"])
def test_the_test_part_has_no_influence(config: TrainConfig, kind: str) -> None:
    labels = N_CARBONS if kind == "regression" else HAS_OXYGEN
    write(Path(config.data), smiles=CHAINS, y=labels, part=PARTS)
    first, _ = run(config)
    kept = weights(first)
    other = [1 - y if part == "test" else y for y, part in zip(labels, PARTS, strict=True)]
    write(Path(config.data), smiles=CHAINS, y=other, part=PARTS)
    second, _ = run(config)
    assert are_same(kept, weights(second))
    assert first.history == second.history
    assert first.validation == second.validation
    assert first.test != second.test


def test_from_a_pretrained_file(config: TrainConfig, tmp_path: Path) -> None:
    torch.manual_seed(7)
    source = Model(ModelConfig(encoder=TINY, heads=HeadsConfig(rank=4)))
    path = tmp_path / "pretrained.safetensors"
    checkpoint.save(source, path, Card(trained_by="pretrain"))
    slow = replace(config, source=str(path), learning_rate=1e-12, epochs=1, encoder=EncoderConfig())
    tuned, _ = run(slow)
    kept = checkpoint.load(tuned.model)
    assert kept.config.encoder == TINY
    assert kept.config.heads is None
    for name, weight in source.encoder.state_dict().items():
        torch.testing.assert_close(kept.encoder.state_dict()[name], weight)
    scratch, _ = run(replace(slow, source="scratch", encoder=TINY))
    fresh = checkpoint.load(scratch.model).encoder.state_dict()
    assert not torch.allclose(
        fresh["distance_bias.0.weight"], source.encoder.state_dict()["distance_bias.0.weight"]
    )
    with pytest.raises(ValueError, match="its encoder is taken as it is, but other encoder sett"):
        run(replace(slow, encoder=replace(TINY, dropout=0.3)))


def test_no_single_label_is_in_the_model_file(config: TrainConfig) -> None:
    """Not of molecules that contradict each other either, which the run folder names."""
    labels = [12.3456, *N_CARBONS[1:], 65.4321]
    parts = ["train", *PARTS[1:], "train"]
    write(Path(config.data), smiles=[*CHAINS, CHAINS[0]], y=labels, part=parts)
    result, told = run(replace(config, epochs=1))
    figures = Path(config.out, "metrics.json").read_text()
    with safe_open(result.model, framework="pt") as file:
        card = file.metadata()["card"]
    for label in ("12.3456", "65.4321"):
        assert label in told
        assert label in figures
        assert label not in card


def test_the_read_out_is_the_one_asked_for(config: TrainConfig) -> None:
    encoder = replace(TINY, n_layers=2)
    result, _ = run(replace(config, encoder=encoder, readout="layers", epochs=1))
    assert checkpoint.load(result.model).config.readout == "layers"
    table = Predictor(result.model).predict(config.data)
    again = np.array(table.column("y_pred"))[result.parts.test]
    assert again == pytest.approx(result.predicted[:, 0], abs=1e-5)
    # A source's is kept where nothing else is asked for.
    source = replace(config, source=str(result.model), out=f"{config.out}-2", epochs=1)
    again, _ = run(replace(source, encoder=EncoderConfig()))
    assert checkpoint.load(again.model).config.readout == "layers"


def test_from_a_model_with_the_published_features(config: TrainConfig, tmp_path: Path) -> None:
    published = EncoderConfig.published(width=16, ffn_width=16, n_layers=1, n_heads=2, n_kernels=8)
    path = tmp_path / "converted.safetensors"
    model = Model(ModelConfig(encoder=published, heads=None, readout="cls"))
    checkpoint.save(model, path, Card(trained_by="convert"))
    result, _ = run(replace(config, source=str(path), encoder=EncoderConfig(), epochs=1))
    molecules = [row.molecule for row in result.rows]
    assert {molecule.features for molecule in molecules if molecule} == {"ogb-1"}
    tuned = checkpoint.load(result.model)
    assert (tuned.config.encoder.features, tuned.config.readout) == ("ogb-1", "cls")
    table = Predictor(result.model).predict(config.data)
    again = np.array(table.column("y_pred"))[result.parts.test]
    assert again == pytest.approx(result.predicted[:, 0], abs=1e-5)


@pytest.mark.parametrize(
    ("views", "used"), [("auto", "both"), ("2d", "2d"), ("3d", "3d"), ("both", "both")]
)
def test_views_of_a_table_with_geometry(
    config: TrainConfig, tmp_path: Path, views: Any, used: str
) -> None:
    table = pq.read_table(QM9).slice(0, 30)
    where = table.column_names.index("coordinates")
    geometries = table.column("coordinates").to_pylist()
    path = tmp_path / "qm9.parquet"
    config = replace(config, data=str(path), target=("gap",), split="random", views=views, epochs=1)
    trained = []
    for stretch in (1, 1.05):
        lists = [[stretch * x for x in row] for row in geometries[:-1]]
        column = pa.array([*lists, None], pa.list_(pa.float32()))
        pq.write_table(table.set_column(where, "coordinates", column), path)
        result, _ = run(config)
        trained.append(weights(result))
        assert checkpoint.read_card(result.model).views == used
        last = {"2d": "ok", "3d": "no_3d", "both": "ok_2d_only"}[used]
        assert [row.status for row in result.rows] == ["ok"] * 29 + [last]
    assert are_same(*trained) == (used == "2d")


def test_an_sdf_has_its_labels_and_its_geometry(config: TrainConfig, tmp_path: Path) -> None:
    head = f"\n{' ' * 20}3D\n\n  2  1  0  0  0  0  0  0  0  0999 V2000\n"
    block = head + "{}  1  2  1  0\nM  END\n"
    atoms = "{:10.4f}    0.0000    0.0000 {:3} 0  0  0  0  0  0  0  0  0  0  0  0\n"
    records = [
        block.format(atoms.format(0, "C") + atoms.format(1.1 + 0.02 * k, "O"))
        + f"> <y>\n{k}\n\n> <part>\n{PARTS[k]}\n\n$$$$\n"
        for k in range(15)
    ]
    path = tmp_path / "molecules.sdf"
    path.write_text("".join(records))
    result, told = run(replace(config, data=str(path)))
    assert "views both" in told
    assert result.labels[:, 0].tolist() == [4, 9, 14]
    assert all(row.molecule and row.molecule.n_conformers for row in result.rows)


@pytest.mark.parametrize("freeze", [False, True])
def test_conformers_are_computed_for_training_and_prediction(
    config: TrainConfig, freeze: bool
) -> None:
    write(Path(config.data), smiles=CHAINS[:20], y=N_CARBONS[:20], part=PARTS[:20])
    result, told = run(replace(config, conformers=2, epochs=1, freeze=freeze))
    assert "views both" in told
    assert all(row.molecule and row.molecule.n_conformers == 2 for row in result.rows)
    table = Predictor(result.model).predict(config.data)
    again = np.array(table.column("y_pred"))[result.parts.test]
    assert again == pytest.approx(result.predicted[:, 0], abs=1e-5)


def test_a_validation_part_of_one_class_is_judged_by_its_loss(config: TrainConfig) -> None:
    labels = [0.0 if p == "valid" else y for y, p in zip(HAS_OXYGEN, PARTS, strict=True)]
    write(Path(config.data), smiles=CHAINS, y=labels, part=PARTS)
    result, told = run(replace(config, epochs=3, patience=3))
    assert "it has labels of one class only" in told
    assert result.validation["y"]["ROC-AUC"] is None
    best = min(epoch["validation"] for epoch in result.history)
    assert result.history[result.kept_epoch - 1]["validation"] == best


def test_both_kinds_of_target_together(config: TrainConfig) -> None:
    write(Path(config.data), smiles=CHAINS, y=N_CARBONS, o=HAS_OXYGEN, part=PARTS)
    result, told = run(replace(config, target=("y", "o"), patience=10))
    assert [target.kind for target in result.targets] == ["regression", "binary"]
    assert "ROC-AUC" in told
    assert "standard deviations" in told
    rmse = figure(result.validation, "y", "RMSE") / result.targets[0].scale
    best = result.history[result.kept_epoch - 1]["validation"]
    assert best == pytest.approx(figure(result.validation, "o", "ROC-AUC") - rmse, abs=1e-5)
    assert best == max(epoch["validation"] for epoch in result.history)


def test_equal_labels_train_all_the_same(config: TrainConfig) -> None:
    write(Path(config.data), smiles=CHAINS, y=[0.1] * len(CHAINS), part=PARTS)
    result, _ = run(config)
    assert result.targets[0].scale == 1.0
    assert result.test["y"]["R2"] is None


def refused(config: TrainConfig, told: str) -> None:
    """Expect a sentence, and not a trace of a run."""
    with pytest.raises(ValueError, match=told):
        run(config)
    assert not Path(config.out).exists()


def test_tables_that_cannot_be_trained_on(config: TrainConfig) -> None:
    table = Path(config.data)
    refused(
        replace(config, target=("log_p",)),
        r"chains.csv: there is no column 'log_p'; its columns are 'smiles', 'y', 'part'$",
    )
    refused(replace(config, split="fold"), "there is no column 'fold'; its columns are")
    refused(replace(config, smiles="mol"), "there is no column 'mol'; its columns are")
    write(table, smiles=CHAINS, y=[*N_CARBONS[:-1], "high"], part=PARTS)
    write(table, smiles=CHAINS, y=N_CARBONS, part=[*PARTS[:-1], "holdout"])
    refused(config, r"row 60 \(line 61\): column 'part' should hold train, .* not 'holdout'$")
    write(table, smiles=["C1CC", "CC"], y=[1, None], part=["train", "test"])
    refused(config, r"none of its 2 rows can be used: the first is invalid \(")
    write(table, smiles=["CC"], y=[1], part=["train"])
    refused(config, r"leaves no row in the validation part \(1 rows can be used\)$")
    refused(replace(config, split="scaffold"), "scaffold split leaves no row in the train part")
    no_test = [None if part == "test" else y for y, part in zip(N_CARBONS, PARTS, strict=True)]
    write(table, smiles=CHAINS, y=no_test, part=PARTS)
    refused(config, "leaves no row in the test part")
    no_train = [None if part == "train" else y for y, part in zip(N_CARBONS, PARTS, strict=True)]
    write(table, smiles=CHAINS, y=no_train, z=N_CARBONS, part=PARTS)
    refused(replace(config, target=("y", "z")), "target 'y' has no label in the training part$")
    table.write_text("smiles,y,part\n")
    refused(config, r"none of its 0 rows can be used$")


def test_predictions_of_the_same_name_are_refused(config: TrainConfig) -> None:
    write(Path(config.data), smiles=CHAINS, y=N_CARBONS, y_log10=N_CARBONS, part=PARTS)
    told = "targets 'y' and 'y_log10' could both be named 'y_log10_pred'"
    config = replace(config, target=("y", "y_log10"))
    refused(replace(config, log_scale=("y",)), told)
    assert set(run(config)[0].test) == {"y", "y_log10"}  # y_log10_pred is that of y_log10 alone


def test_labels_that_are_all_equal_are_scaled_by_the_bounds(config: TrainConfig) -> None:
    labels = [5 if k % 2 else ">10000" for k in range(len(CHAINS))]
    write(Path(config.data), smiles=CHAINS, y=labels, part=PARTS)
    result, _ = run(config)
    assert result.targets[0].scale == pytest.approx(9995 / 2, rel=0.1)


def test_two_runs_in_one_folder_and_one_that_cannot_be_written(config: TrainConfig) -> None:
    out = Path(config.out)
    with reserved(out), pytest.raises(ValueError, match="another process is working on it"):
        run(config)
    assert not out.exists()
    with pytest.raises(NotADirectoryError):
        run(replace(config, out=str(Path(config.data) / "run")))


def test_a_folder_that_holds_something_else_is_left_alone(config: TrainConfig) -> None:
    out = Path(config.out)
    out.mkdir()
    (out / "state.ckpt").touch()
    with pytest.raises(ValueError, match="holds a pretraining run, another --out keeps it whole"):
        run(config)
    assert [path.name for path in out.iterdir()] == ["state.ckpt"]
    with pytest.raises(ValueError, match="this is a file, a folder was expected"):
        run(replace(config, out=config.data))


def test_a_diverging_run_leaves_nothing(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = finetuning.property_loss
    monkeypatch.setattr(finetuning, "property_loss", lambda *given: original(*given) * float("nan"))
    with pytest.raises(FloatingPointError, match=r"the loss of epoch 1 is not finite: a learning_"):
        run(config)
    assert not Path(config.out).exists()


def test_spoiled_weights_are_noticed(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    original = finetuning.FineTuning._outputs
    monkeypatch.setattr(
        finetuning.FineTuning, "_outputs", lambda *given: original(*given) * torch.inf
    )
    with pytest.raises(FloatingPointError, match="a prediction of epoch 1 is not finite"):
        run(config)
    assert not Path(config.out).exists()


def test_ctrl_c_leaves_nothing(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def pressed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(finetuning, "property_loss", pressed)
    with pytest.raises(KeyboardInterrupt):
        run(config)
    assert not Path(config.out).exists()


def test_the_source_must_be_a_model(config: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no such model file"):
        run(replace(config, source=str(tmp_path / "none.safetensors")))
    assert read_table(config.data).names == ["smiles", "y", "part"]
    assert not Path(config.out).exists()


def test_a_table_alone_is_enough(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No target and no folder are named: both are found, said, recorded, and not overwritten."""
    monkeypatch.chdir(tmp_path)
    identifiers = [f"mol-{k}" for k in range(len(CHAINS))]
    write(Path(config.data), id=identifiers, smiles=CHAINS, carbons=N_CARBONS)
    alone = TrainConfig(
        config.data, source="scratch", split="random", epochs=1, encoder=TINY, device="cpu"
    )
    result, told = run(alone)
    assert result.model == Path("runs/chains/model.safetensors")
    assert result.model.is_file()
    assert [target.name for target in result.targets] == ["carbons"]
    assert "target 'carbons': regression" in told
    assert "no targets: 'id' names or numbers the rows" in told
    choices = json.loads(Path("runs/chains/metrics.json").read_text())["choices"]
    assert choices["targets_from"] == "the columns that look measured"
    assert choices["left_out"] == {"id": "names or numbers the rows"}
    with pytest.raises(ValueError, match="runs/chains is there already; --out names another"):
        run(alone)


def test_bad_cells_cost_themselves_and_bounds_are_learnt_as_bounds(config: TrainConfig) -> None:
    """Long chains are only known to have more than 9 carbons."""
    cells: list[Any] = [">9" if y > 9 else y for y in N_CARBONS]
    cells[0], cells[5], cells[6] = "tiny", "n.d.", "~2"
    write(Path(config.data), smiles=CHAINS, y=cells, part=PARTS)
    result, told = run(replace(config, epochs=12))
    rows = rows_of(result)
    assert [rows[k]["status"] for k in (0, 5, 6)] == ["no_label", "no_label", "ok"]
    assert rows[0]["labels"] == "y: 'tiny' is no number"
    assert "the first is in row 1 (line 2): 'tiny' is no number" in told
    assert "'y': labels that are bounds, such as >10: 24;" in told
    assert "'y': labels that are approximate (~): 1;" in told
    known = [y for y in N_CARBONS[1:] if y <= 9]
    test = result.test["y"]
    n_censored = sum(PARTS[k] == "test" for k, y in enumerate(N_CARBONS) if y > 9)
    assert test["n_censored"] == n_censored
    assert test["n"] == 12 - n_censored
    assert 0 <= figure(result.test, "y", "censored labels respected") <= 1
    # Exact labels alone scale the target.
    assert result.targets[0].mean < np.mean(known) + 0.5
    assert result.choices["targets"]["y"]["n_bounds"] == 24
    assert result.censoring is not None
    assert (result.censoring[:, 0] == 1).sum() == n_censored


def test_a_logarithm_is_learnt_and_given_back(config: TrainConfig) -> None:
    decades = [float(f"{10 ** (y / 2):.4g}") for y in N_CARBONS]
    write(Path(config.data), smiles=CHAINS, y=decades, part=PARTS)
    _, hinted = run(replace(config, epochs=1))
    assert "--log-scale y learns its logarithm" in hinted
    result, told = run(replace(config, log_scale=("y",), epochs=12))
    assert "its log10 is learnt" in told
    target = result.targets[0]
    training = [y for y, part in zip(decades, PARTS, strict=True) if part == "train"]
    assert target.log10
    assert target.mean == pytest.approx(np.log10(training).mean())
    assert figure(result.test, "y", "RMSE log10") < figure(result.trivial, "y", "RMSE log10")
    error = np.log10(result.predicted[:, 0]) - np.log10(result.labels[:, 0])
    assert result.test["y"]["RMSE log10"] == pytest.approx(np.sqrt((error**2).mean()))
    table = Predictor(result.model).predict(config.data)
    given, logarithm = (np.array(table.column(f"y_{end}")) for end in ("pred", "log10_pred"))
    assert given[result.parts.test] == pytest.approx(result.predicted[:, 0], rel=1e-4)
    assert logarithm == pytest.approx(np.log10(given))


def test_several_classes_beside_a_number(config: TrainConfig) -> None:
    kinds = [{"O": "alcohol", "N": "amine", "F": "fluoride"}.get(s[-1], "alkane") for s in CHAINS]
    kinds[3] = ""
    write(Path(config.data), smiles=CHAINS, kind=kinds, y=N_CARBONS, part=PARTS)
    result, told = run(replace(config, target=("kind", "y"), epochs=15))
    assert [target.kind for target in result.targets] == ["multiclass", "regression"]
    assert "target 'kind': multi-class (alcohol, alkane, amine, fluoride)" in told
    assert figure(result.test, "kind", "macro ROC-AUC") > 0.6
    assert result.predicted.shape == (12, 5)
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


def test_words_are_classes_and_the_threshold_is_that_of_validation(config: TrainConfig) -> None:
    words = ["active" if y else "inactive" for y in HAS_OXYGEN]
    write(Path(config.data), smiles=CHAINS, y=words, part=PARTS)
    result, told = run(replace(config, epochs=5))
    target = result.targets[0]
    assert (target.kind, target.classes) == ("binary", ("inactive", "active"))
    assert "'y': class 'active' has 3 molecules in validation and 3 in test, too few" in told
    chosen = (result.predicted[:, 0] > target.threshold) == (result.labels[:, 0] == 1)
    assert result.test["y"]["accuracy"] == pytest.approx(chosen.mean())
    assert checkpoint.load(result.model).config.targets[0].threshold == target.threshold
    assert result.choices["targets"]["y"]["threshold"] == target.threshold


def test_folds_test_every_row_once_and_the_file_holds_all_models(config: TrainConfig) -> None:
    smiles = [f"C1{'C' * n}C1{end}" for n in range(1, 9) for end in ("", "O", "N")]
    labels = [float(s.count("C")) for s in smiles]
    write(Path(config.data), smiles=["nonsense", *smiles], y=[1, *labels])
    result, told = run(replace(config, split="scaffold", folds=4, epochs=2))
    assert "4 folds (scaffold) of 6 each, tested once and used to validate once" in told
    parts = [row["part"] for row in rows_of(result)]
    assert Counter(parts) == {"": 1, **{f"fold {k}": 6 for k in range(1, 5)}}
    assert result.parts.test.tolist() == list(range(1, 25))
    assert result.labels[:, 0].tolist() == labels
    errors = [figure(one.test, "y", "RMSE") for one in result.runs]
    assert result.test["y"]["RMSE"] == pytest.approx(np.mean(errors))
    assert result.test["y"]["n"] == 24
    told_spread = json.loads((Path(config.out) / "metrics.json").read_text())["spread"]
    assert (told_spread["over"], told_spread["n"]) == ("folds", 4)
    assert told_spread["test"]["y"]["RMSE"] == {
        "mean": pytest.approx(np.mean(errors)),
        "sd": pytest.approx(np.std(errors, ddof=1)),
    }
    # A fold's model, scaled as the file has it, still says what it said in its test.
    predictor = Predictor(result.model)
    each = [replace_member(predictor, k).predict(smiles) for k in range(4)]
    for k, one in enumerate(result.runs):
        again = np.array(each[k].column("y_pred"))[one.parts.test]
        assert again == pytest.approx(one.predicted[:, 0], abs=1e-4)
    together = predictor.predict(smiles)
    values = np.stack([np.array(found.column("y_pred")) for found in each])
    assert np.array(together.column("y_pred")) == pytest.approx(values.mean(0))
    # No fold has a spread over folds, so one deviation stands for all, from all validation parts.
    error = np.concatenate([one.judged[:, 0] for one in result.runs]) - np.concatenate(
        [np.array(labels)[one.parts.validation] for one in result.runs]
    )
    assert np.array(together.column("y_std")) == pytest.approx(np.sqrt((error**2).mean()))


def test_the_threshold_of_all_folds_is_that_of_their_probabilities(config: TrainConfig) -> None:
    write(Path(config.data), smiles=CHAINS, y=HAS_OXYGEN)
    result, _ = run(replace(config, split="random", folds=3))
    rows = np.concatenate([one.parts.validation for one in result.runs])
    judged = np.concatenate([one.judged for one in result.runs])
    right = result.uncertainty.calibrate_probabilities(result.targets, judged)[:, 0]
    expected = best_threshold(right, np.array(HAS_OXYGEN)[rows])
    assert result.targets[0].threshold == expected
    assert checkpoint.load(result.model).config.targets[0].threshold == expected


def replace_member(predictor: Predictor, k: int) -> Predictor:
    """The same file, but only its member k answers."""
    alone = Predictor(predictor.path)
    alone.members = [predictor.members[k]]
    return alone


def test_seeds_and_members(config: TrainConfig) -> None:
    first, _ = run(config)
    kept = weights(first)
    second, _ = run(replace(config, seed=1))
    pair, _ = run(replace(config, seeds=2))
    assert are_same(kept, weights(pair))
    assert pair.test == first.test
    errors = [figure(one.test, "y", "RMSE") for one in (first, second)]
    assert pair.spread["test"]["y"]["RMSE"]["mean"] == pytest.approx(np.mean(errors))
    ensemble, _ = run(replace(config, ensemble=2))
    members = checkpoint.load_members(ensemble.model)
    assert are_same(kept, members[0].state_dict())
    mean = (first.predicted + second.predicted) / 2
    assert ensemble.predicted == pytest.approx(mean, abs=1e-6)
    table = Predictor(ensemble.model).predict(config.data)
    again = np.array(table.column("y_pred"))[ensemble.parts.test]
    assert again == pytest.approx(mean[:, 0], abs=1e-5)
    assert table.column_names[-7:-3] == ["y_pred", "y_std", "y_low", "y_high"]
    log = pa.csv.read_csv(Path(config.out) / "log.csv")
    assert log.column("member").to_pylist() == [1, 1, 2, 2]


def test_joined_features_need_no_flag_to_predict(config: TrainConfig) -> None:
    result, _ = run(replace(config, features=("ecfp4", "descriptors"), freeze=True))
    kept = checkpoint.load(result.model)
    assert kept.property_head is not None
    assert kept.property_head.hidden.in_features == 16 + 2048 + 30
    assert kept.property_head.feature_scale[2048:].max() > 1  # descriptors are standardised
    table = Predictor(result.model).predict(config.data)
    again = np.array(table.column("y_pred"))[result.parts.test]
    assert again == pytest.approx(result.predicted[:, 0], abs=1e-4)


@pytest.mark.parametrize("is_new", [False, True])
def test_frozen_vectors_are_computed_once_for_all_members(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, is_new: bool
) -> None:
    """But each member from random weights has an encoder of its own."""
    given = replace(config, freeze=True, ensemble=2)
    if not is_new:
        start = str(run(replace(config, epochs=1))[0].model)
        given = replace(given, source=start, encoder=EncoderConfig(), out=config.out + "2")
    original, counts = finetuning.each_geometry, []

    def counted(molecules: list, *others: Any) -> list[torch.Tensor]:
        counts.append(len(molecules))
        return original(molecules, *others)

    monkeypatch.setattr(finetuning, "each_geometry", counted)
    result, _ = run(given)
    assert sum(counts) == (2 if is_new else 1) * len(CHAINS)
    table = Predictor(result.model).predict(config.data)
    again = np.array(table.column("y_pred"))[result.parts.test]
    assert again == pytest.approx(result.predicted[:, 0], abs=1e-4)


def test_weights_of_class_1_are_kept_where_they_help_on_validation(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(Path(config.data), smiles=CHAINS, y=HAS_OXYGEN, part=PARTS)
    original = finetuning.FineTuning._figure

    def judge(self: finetuning.FineTuning) -> tuple[float, float, str]:
        value = original(self)[0] - (9.0 if self.weights is None else 0.0)
        return value, value, "as told"

    monkeypatch.setattr(finetuning.FineTuning, "_figure", judge)
    result, told = run(replace(config, pos_weight="try"))
    assert result.runs[0].is_weighted
    assert result.choices["pos_weight"]
    assert "weights of class 1, judged on validation: without" in told
    assert not run(replace(config, pos_weight="off"))[0].runs[0].is_weighted


def test_a_model_says_how_sure_it_is(config: TrainConfig) -> None:
    result, _ = run(config)
    table = Predictor(result.model).predict(config.data)
    low, high = (np.array(table.column(name)) for name in ("y_low", "y_high"))
    label = np.array(N_CARBONS)
    inside = (low <= label) & (label <= high)
    where = {part: [k for k, name in enumerate(PARTS) if name == part] for part in set(PARTS)}
    assert inside[where["valid"]].mean() >= 0.9  # it was fitted to these
    told = result.uncertainty_metrics["test"]["y"]
    assert told.coverage.observed == pytest.approx(inside[where["test"]].mean())
    assert (told.coverage.n, told.ranked_by) == (12, "distance")  # one model has no spread
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


def test_probabilities_are_put_right_where_validation_shows_that_they_are_wrong(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [k % 2 for k in range(len(CHAINS))]
    parts = [("train", "valid", "valid", "valid", "test")[k % 5] for k in range(len(CHAINS))]
    write(Path(config.data), smiles=CHAINS, y=rows, part=parts)
    given = runs.unscale_outputs

    def boastful(*arguments: Any) -> np.ndarray:
        """A model that is sure of what it cannot know."""
        return np.where(given(*arguments) > 0.5, 0.99, 0.01)

    monkeypatch.setattr(runs, "unscale_outputs", boastful)
    monkeypatch.setattr("moleblend.prediction.predictor.unscale_outputs", boastful)
    result, _ = run(replace(config, learning_rate=1e-5))
    told = result.uncertainty_metrics["validation"]["y"]
    assert told.before is not None
    assert told.after is not None
    assert told.after.error < 0.5 * told.before.error
    assert result.raw is not None
    own = binary_metrics(result.raw[:, 0], result.labels[:, 0])
    assert result.test["y"]["ROC-AUC"] == own["ROC-AUC"]
    assert result.test["y"]["log loss"] != own["log loss"]
    table = Predictor(result.model).predict(config.data)
    again = np.array(table.column("y_prob"))
    assert again[result.parts.test] == pytest.approx(result.predicted[:, 0])
    assert again.max() < 0.9
    assert set(table.column("y_set").to_pylist()) <= {"{}", "{0}", "{1}", "{0, 1}"}


def test_too_few_validation_molecules_leave_the_columns_out(config: TrainConfig) -> None:
    parts = ["valid" if k == 4 else "test" if k > 56 else "train" for k in range(len(CHAINS))]
    write(Path(config.data), smiles=CHAINS, y=N_CARBONS, part=parts)
    result, told = run(config)
    notes = result.choices["sureness"]["notes"]
    assert "they need 9 labelled validation molecules and there are 1" in notes[0]
    assert "needs at least 1 training molecule and 2 validation molecules, got 56 and 1" in notes[1]
    assert all(f"note: {note}" in told for note in notes)
    table = Predictor(result.model).predict(["CCO"])
    assert table.column_names == ["smiles", "status", "reason", "y_pred"]
    assert result.uncertainty_metrics["test"] == {}


def test_training_molecules_may_stay_out_of_the_file(config: TrainConfig) -> None:
    result, _ = run(replace(config, keep_training_smiles=False))
    assert b"CCCCCCCCCO" not in result.model.read_bytes()
    table = Predictor(result.model).predict([CHAINS[5], "C1CC"])
    assert table.column_names[-3:] == ["domain", "similarity", "nearest_row"]
    assert table.column("nearest_row").to_pylist() == [6, None]
    assert table.column("domain").to_pylist()[1] is None
