"""A pretraining run: its files, its molecules, and the model that it starts from."""

import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from moleblend.data.store import MoleculeStore, write_store
from moleblend.model import checkpoint
from moleblend.model.blending import BlendConfig
from moleblend.model.encoder_config import EncoderConfig
from moleblend.model.heads import HeadsConfig
from moleblend.model.objectives import ObjectiveConfig
from moleblend.pretraining import pretrain, validator
from moleblend.pretraining.config import PretrainConfig
from tests.helpers.pretraining import (
    N_HELD_OUT,
    N_MOLECULES,
    losses,
    qm9,
    rows_of,
    run_pretraining,
    stop_after,
)
from tests.helpers.runs import TINY


@pytest.fixture
def config(qm9_config: PretrainConfig) -> PretrainConfig:
    return qm9_config


def test_the_files_of_a_run(config: PretrainConfig) -> None:
    result, output = run_pretraining(config)
    out = Path(config.out)
    assert {path.name for path in out.iterdir()} == {
        "config.json",
        "starts.csv",
        "log.csv",
        "validation.csv",
        "state.ckpt",
        "state.before.ckpt",
        "model.safetensors",
    }
    log = rows_of(out / "log.csv")
    assert list(log[0]) == [
        *("step", "learning_rate", "loss"),
        *("path_length", "bonds", "distance", "denoising", "descriptors"),
        "molecules_per_s",
    ]
    assert [int(row["step"]) for row in log] == [4, 8, 12]
    weighting = config.objective
    for row in log:
        total = sum(
            weight * float(row[name])
            for name, weight in (
                ("path_length", weighting.path_length),
                ("bonds", weighting.bonds),
                ("distance", weighting.geometry),
                ("denoising", weighting.denoising),
                ("descriptors", weighting.descriptors),
            )
        )
        assert float(row["loss"]) == pytest.approx(total, rel=1e-5)
    validation = rows_of(out / "validation.csv")
    assert Counter((row["step"], row["view"], row["shown"]) for row in validation) == {
        (step, view, shown): 1
        for step in ("8", "12")
        for view in ("path_length", "bonds", "distance", "descriptors")
        for shown in ("visible", "hidden", "modality hidden")
    }
    assert [score.value for score in result.scores] == [
        float(row["value"]) for row in validation if row["step"] == "12"
    ]
    assert result.molecules_per_s > 0
    assert "12 held out" in output
    card = checkpoint.read_card(result.model)
    assert (card.trained_by, card.views, card.notes["step"]) == ("pretrain", "both", 12)
    assert str(Path(config.out).parent) not in str(card)  # a model file names no folder
    assert str(Path(config.data).parent) not in str(card)
    assert card.data_fingerprint == MoleculeStore(config.data).fingerprint
    stored = json.loads((out / "config.json").read_text())
    assert stored["config"]["schedule"]["batch_size"] == 10


def test_the_loss_goes_down(config: PretrainConfig) -> None:
    schedule = replace(config.schedule, steps=60)
    run_pretraining(
        replace(config, schedule=schedule, log_every=10, validate_every=60, save_every=60)
    )
    log = [float(row["loss"]) for row in rows_of(Path(config.out) / "log.csv")]
    assert log[-1] < 0.7 * log[0]


def test_held_out_molecules_are_never_trained_on(
    config: PretrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Watch which rows of the store a whole run reads, and which molecules it scores."""
    read: list[int] = []
    original = MoleculeStore.__getitem__
    monkeypatch.setattr(
        MoleculeStore,
        "__getitem__",
        lambda self, row: (read.append(int(row)), original(self, row))[1],
    )
    held: list[np.ndarray] = []
    start = validator.Validator.__init__

    def record(self, store, held_out, *rest) -> None:
        start(self, store, held_out, *rest)
        held.append(held_out)
        read.clear()

    monkeypatch.setattr(validator.Validator, "__init__", record)
    run_pretraining(config)
    assert len(set(held[0].tolist())) == N_HELD_OUT
    assert set(read) == set(range(N_MOLECULES)) - set(held[0].tolist())


def test_a_run_starts_from_a_model(config: PretrainConfig, tmp_path: Path) -> None:
    first, _ = run_pretraining(config)
    source, named = checkpoint.load(first.model), tmp_path / "source.safetensors"
    named.write_bytes(first.model.read_bytes())
    second = replace(
        config, out=str(tmp_path / "second"), source=str(named), readout="layers", seed=3
    )
    start, store = pretrain.new_model(second), MoleculeStore(config.data)
    # Other molecules are held out, but the descriptor scaler of the trained head is kept.
    pretrain.fit_descriptor_scaler(start, store, pretrain.hold_out(len(store), second)[0])
    assert start.config.readout == "layers"
    for name, weight in source.state_dict().items():
        assert torch.equal(start.state_dict()[name], weight), name
    stop_after(second, 7)
    result, _ = run_pretraining(second, resume=True)
    uninterrupted, _ = run_pretraining(replace(second, out=str(tmp_path / "uninterrupted")))
    for name, weight in checkpoint.load(uninterrupted.model).state_dict().items():
        assert torch.equal(checkpoint.load(result.model).state_dict()[name], weight), name
    notes = checkpoint.read_card(result.model).notes
    assert notes["config"]["source"] == named.name
    assert notes["source_sha256"] == checkpoint.sha256(first.model)


def test_a_trained_model_gets_a_new_descriptor_head(config: PretrainConfig, tmp_path: Path) -> None:
    first, _ = run_pretraining(replace(config, heads=HeadsConfig(rank=4)))
    source = checkpoint.load(first.model)
    second = replace(config, out=str(tmp_path / "second"), source=str(first.model))
    store = MoleculeStore(config.data)
    held_out, _ = pretrain.hold_out(len(store), second)
    start = pretrain.new_model(second)
    pretrain.fit_descriptor_scaler(start, store, held_out)
    for name, weight in source.state_dict().items():
        assert torch.equal(start.state_dict()[name], weight), name
    assert start.descriptor_head is not None
    assert start.descriptor_head.mean[0] > 10  # the mass of molecules like those held out
    other = replace(second, heads=HeadsConfig(rank=2, descriptors=True))
    unlike = pretrain.new_model(other)
    assert torch.equal(unlike.encoder.norm.weight, source.encoder.norm.weight)


def test_a_source_that_does_not_fit_is_refused(config: PretrainConfig, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no\.safetensors: there is no such model file"):
        run_pretraining(replace(config, source=str(tmp_path / "no.safetensors")))
    first, _ = run_pretraining(config)
    named = tmp_path / "source.safetensors"
    named.write_bytes(first.model.read_bytes())
    wide = replace(config, out=str(tmp_path / "wide"), source=str(named))
    with pytest.raises(ValueError, match="encoder does not fit: got width=16, expected 32"):
        run_pretraining(replace(wide, encoder=replace(TINY, width=32)))
    second = replace(config, out=str(tmp_path / "second"), source=str(named))
    stop_after(second, 7)
    model = checkpoint.load(named)
    checkpoint.save(model, named, checkpoint.Card(trained_by="another run"))
    with pytest.raises(ValueError, match="these differ: the source model"):
        run_pretraining(second, resume=True)


def test_the_published_configuration_trains(config: PretrainConfig, tmp_path: Path) -> None:
    data = tmp_path / "ogb.arrow"
    write_store(qm9("ogb-1", 30), data, features="ogb-1")
    published = replace(
        config,
        data=str(data),
        encoder=EncoderConfig.published(width=16, ffn_width=16, n_layers=1, n_heads=2, n_kernels=8),
        heads=replace(HeadsConfig.published(), rank=4),
        blend=BlendConfig(draw="batch", unblended=(0.0, 0.0)),
        objective=ObjectiveConfig.published(),
    )
    result, _ = run_pretraining(published)
    assert {score.view for score in result.scores} == {"path_length", "bonds", "direction"}
    assert all(math.isfinite(float(row["loss"])) for row in rows_of(Path(config.out) / "log.csv"))


def test_batches_from_another_process_train_the_same(
    config: PretrainConfig, tmp_path: Path
) -> None:
    uninterrupted = replace(config, out=str(tmp_path / "uninterrupted"))
    run_pretraining(uninterrupted)
    run_pretraining(replace(config, n_workers=1))
    assert losses(config) == losses(uninterrupted)
