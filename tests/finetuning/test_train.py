import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch
from safetensors import safe_open

from moleblend.files import file_sha256
from moleblend.finetuning.train import TrainConfig
from moleblend.model import checkpoint
from moleblend.model.checkpoint import Card
from moleblend.model.encoder_config import EncoderConfig
from moleblend.model.heads import HeadsConfig, Model, ModelConfig
from tests.helpers.finetuning import are_same, check_saved_model, rows_of, run, weights
from tests.helpers.molecules import CHAINS, N_CARBONS, PARTS, QM9
from tests.helpers.runs import TINY
from tests.helpers.tables import write


def test_what_a_run_leaves_behind(config: TrainConfig, table: Path) -> None:
    result, output = run(replace(config, units=("carbons",)))
    out = Path(config.out)
    assert {path.name for path in out.iterdir()} == {
        "model.safetensors",
        "metrics.json",
        "config.json",
        "environment.json",
        "log.csv",
        "rows.csv",
        "predictions.csv",
    }
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics == {
        "validation": result.validation,
        "test": result.test,
        "constant_baseline": result.evaluation.constant_baseline,
        "kept_epoch": result.kept_epoch,
        "undefined": {"validation": {}, "test": {}},
        "uncertainty": {
            set_name: {"y": of_target["y"].summary()}
            for set_name, of_target in result.uncertainty_metrics.items()
        },
        "baseline": metrics["baseline"],
        "members": {
            member.name: {"weights": member.weights, "test": member.test}
            for member in result.members
        },
        "model_sha256": file_sha256(result.model),
        "refit": None,
        "std": {"over": "seeds", "n": 1},
        "settings": json.loads(json.dumps(result.settings.to_dict())),
    }
    assert metrics["baseline"]["test"] == result.baseline.forest.test
    assert list(metrics["test"]["y"]) == ["RMSE", "MAE", "R2", "n"]
    saved_config = json.loads((out / "config.json").read_text())
    assert (saved_config["target"], saved_config["settings"]) == (["y"], metrics["settings"])
    environment = json.loads((out / "environment.json").read_text())
    assert {"time", "code", "python", "torch", "machine", "command"} < set(environment)
    assert 0 < environment["seconds"] < 300
    log = pa.csv.read_csv(out / "log.csv")
    assert log.column_names == ["run", "member", "epoch", "training_loss", "validation"]
    expected = [{"run": 1, "member": 1, **epoch} for epoch in result.histories[0].epochs]
    assert log.to_pylist() == [pytest.approx(epoch) for epoch in expected]
    assert Counter(row["set"] for row in rows_of(result)) == {
        "train": 36,
        "validation": 12,
        "test": 12,
    }
    card = checkpoint.read_card(result.model)
    assert (card.trained_by, card.data, card.views) == ("train", "chains.csv", "2d")
    assert len(card.data_fingerprint) == 64
    assert checkpoint.load(result.model).config.targets[0].unit == "carbons"
    assert "36 training, 12 validation, 12 test (set split)" in output
    assert [entry.name for entry in table.parent.iterdir() if entry.is_file()] == ["chains.csv"]


def test_the_saved_model_predicts_the_test_rows_as_the_run_did(config: TrainConfig) -> None:
    result, _ = run(config)
    check_saved_model(result, tolerance=1e-5)
    assert result.predictions.labels[:, 0].tolist() == [
        N_CARBONS[row] for row in result.table.split.test
    ]


def test_a_model_file_names_no_folder(config: TrainConfig) -> None:
    start = str(run(replace(config, epochs=1))[0].model)
    again = replace(config, epochs=1, source=start, encoder=EncoderConfig(), out=config.out + "2")
    result, _ = run(again)
    with safe_open(result.model, framework="pt") as file:
        header = json.dumps(file.metadata())
    assert Path(start).name in header
    assert str(Path(start).parent) not in header
    assert str(Path(config.data).parent) not in header


def test_no_single_label_is_in_the_model_file(config: TrainConfig) -> None:
    """Not of molecules that contradict each other either, which the run folder names."""
    labels = [12.3456, *N_CARBONS[1:], 65.4321]
    parts = ["train", *PARTS[1:], "train"]
    write(Path(config.data), smiles=[*CHAINS, CHAINS[0]], y=labels, set=parts)
    result, output = run(replace(config, epochs=1))
    metrics = Path(config.out, "metrics.json").read_text()
    with safe_open(result.model, framework="pt") as file:
        card = file.metadata()["card"]
    for label in ("12.3456", "65.4321"):
        assert label in output
        assert label in metrics
        assert label not in card


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
    with pytest.raises(ValueError, match="got encoder settings that differ from those"):
        run(replace(slow, encoder=replace(TINY, dropout=0.3)))


def test_from_a_model_with_the_published_features(config: TrainConfig, tmp_path: Path) -> None:
    published = EncoderConfig.published(width=16, ffn_width=16, n_layers=1, n_heads=2, n_kernels=8)
    path = tmp_path / "converted.safetensors"
    model = Model(ModelConfig(encoder=published, heads=None, readout="cls"))
    checkpoint.save(model, path, Card(trained_by="convert"))
    result, _ = run(replace(config, source=str(path), encoder=EncoderConfig(), epochs=1))
    molecules = [row.molecule for row in result.table.rows]
    assert {molecule.features for molecule in molecules if molecule} == {"ogb-1"}
    tuned = checkpoint.load(result.model)
    assert (tuned.config.encoder.features, tuned.config.readout) == ("ogb-1", "cls")
    check_saved_model(result, tolerance=1e-5)


def test_the_readout_is_that_of_the_settings(config: TrainConfig) -> None:
    encoder = replace(TINY, n_layers=2)
    result, _ = run(replace(config, encoder=encoder, readout="layers", epochs=1))
    assert checkpoint.load(result.model).config.readout == "layers"
    check_saved_model(result, tolerance=1e-5)
    # A source's is kept where nothing else is asked for.
    source = replace(config, source=str(result.model), out=f"{config.out}-2", epochs=1)
    again, _ = run(replace(source, encoder=EncoderConfig()))
    assert checkpoint.load(again.model).config.readout == "layers"


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
        assert [row.status for row in result.table.rows] == ["ok"] * 29 + [last]
    assert are_same(*trained) == (used == "2d")


def test_an_sdf_has_its_labels_and_its_geometry(config: TrainConfig, tmp_path: Path) -> None:
    head = f"\n{' ' * 20}3D\n\n  2  1  0  0  0  0  0  0  0  0999 V2000\n"
    block = head + "{}  1  2  1  0\nM  END\n"
    atoms = "{:10.4f}    0.0000    0.0000 {:3} 0  0  0  0  0  0  0  0  0  0  0  0\n"
    records = [
        block.format(atoms.format(0, "C") + atoms.format(1.1 + 0.02 * k, "O"))
        + f"> <y>\n{k}\n\n> <set>\n{PARTS[k]}\n\n$$$$\n"
        for k in range(15)
    ]
    path = tmp_path / "molecules.sdf"
    path.write_text("".join(records))
    result, output = run(replace(config, data=str(path)))
    assert "views: both" in output
    assert result.predictions.labels[:, 0].tolist() == [4, 9, 14]
    assert all(row.molecule and row.molecule.n_conformers for row in result.table.rows)


@pytest.mark.parametrize("freeze", [False, True])
def test_conformers_are_computed_for_training_and_prediction(
    config: TrainConfig, freeze: bool
) -> None:
    write(Path(config.data), smiles=CHAINS[:20], y=N_CARBONS[:20], set=PARTS[:20])
    result, output = run(replace(config, conformers=2, epochs=1, freeze=freeze))
    assert "views: both" in output
    assert all(row.molecule and row.molecule.n_conformers == 2 for row in result.table.rows)
    check_saved_model(result, tolerance=1e-5)


def test_extra_features_need_no_flag_to_predict(config: TrainConfig) -> None:
    result, _ = run(replace(config, features=("ecfp4", "descriptors"), freeze=True))
    kept = checkpoint.load(result.model)
    assert kept.property_head is not None
    assert kept.property_head.hidden.in_features == 16 + 2048 + 30
    assert kept.property_head.feature_scale[2048:].max() > 1  # descriptors are standardised
    check_saved_model(result, tolerance=1e-4)


def test_a_table_alone_is_enough(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Target and folder are detected, reported and recorded; the folder is not overwritten."""
    monkeypatch.chdir(tmp_path)
    identifiers = [f"mol-{k}" for k in range(len(CHAINS))]
    write(Path(config.data), id=identifiers, smiles=CHAINS, carbons=N_CARBONS)
    alone = TrainConfig(
        config.data, source="scratch", split="random", epochs=1, encoder=TINY, device="cpu"
    )
    result, output = run(alone)
    assert result.model == Path("runs/chains/model.safetensors")
    assert result.model.is_file()
    assert [target.name for target in result.targets] == ["carbons"]
    assert "target 'carbons': regression" in output
    assert "no targets: 'id' identifies the rows" in output
    settings = json.loads(Path("runs/chains/metrics.json").read_text())["settings"]
    assert settings["targets_from"] == "detection"
    assert settings["left_out"] == {"id": "identifies the rows"}
    with pytest.raises(ValueError, match="runs/chains already exists; choose another"):
        run(alone)
