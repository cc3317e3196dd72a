"""The benchmarks: naive implementations compute the same, tables and timings are right."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.accuracy import finetuning_settings, model_comparison
from benchmarks.accuracy.calibration import Predictions, weighted_intervals
from benchmarks.results import tables
from benchmarks.results.csv_files import append_row, read_rows, write_rows
from benchmarks.speed import naive_featurization, naive_model, thread_waiting, training_time
from benchmarks.speed.commands import run_timed
from moleblend.chem.parsing import read_smiles
from moleblend.data.formats import read_table
from moleblend.evaluation.conformal import IntervalCalibration
from moleblend.model.batch import collate
from moleblend.model.blending import BlendConfig, draw_blend
from moleblend.model.encoder import initialise
from moleblend.model.encoder_config import EncoderConfig
from moleblend.model.heads import HeadsConfig, Model, ModelConfig
from moleblend.model.objectives import ObjectiveConfig, blend_then_predict
from tests.helpers.molecules import AWKWARD


def test_the_naive_featurization_gives_the_same_batch():
    smiles = [text for text in AWKWARD if len(text) < 100]
    ours = collate([read_smiles(text, features="ogb-1") for text in smiles])
    naive = naive_featurization.featurise(smiles)
    assert torch.equal(ours.atoms, naive.atoms)
    assert torch.equal(ours.is_atom, naive.is_atom)
    assert torch.equal(ours.path_length.long(), naive.path_length)
    assert torch.equal(ours.edge_path.long(), naive.edge_path)


CONFIGS = {
    "default": ModelConfig(encoder=EncoderConfig(width=16, ffn_width=24, n_layers=2, n_heads=4)),
    "published": ModelConfig(
        encoder=EncoderConfig.published(width=16, ffn_width=24, n_layers=2, n_heads=4),
        heads=HeadsConfig.published(),
        readout="cls",
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_the_naive_model_has_the_same_losses_and_gradients(name):
    torch.manual_seed(0)
    model = Model(CONFIGS[name])
    initialise(model, std=0.3)
    model.encoder.kernels.spread()
    objective = ObjectiveConfig.published() if name == "published" else ObjectiveConfig()
    features = model.config.encoder.features
    molecules = [read_smiles(text, features=features) for text in AWKWARD if len(text) < 40]
    placed = [
        replace(m, positions=np.random.default_rng(k).normal(size=(1, m.n_atoms, 3)).astype("f"))
        for k, m in enumerate(molecules)
    ]
    batch = collate(placed[::2] + molecules[1::2])
    blend = draw_blend(batch, BlendConfig(), torch.Generator().manual_seed(0))
    gradients = []
    for compute in (blend_then_predict, naive_model.blend_then_predict):
        model.eval()  # dropout draws in another order
        model.zero_grad()
        loss = compute(model, batch, blend, objective)
        loss.total.backward()
        gradients.append(
            {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        )
        if compute is blend_then_predict:
            ours = loss
    for name, value in ours.terms.items():
        assert value.item() == pytest.approx(loss.terms[name].item(), rel=1e-5), name
    assert gradients[0].keys() == gradients[1].keys()
    for parameter, gradient in gradients[0].items():
        largest = gradient.abs().max().item()
        difference = (gradient - gradients[1][parameter]).abs().max().item()
        assert difference <= 1e-4 * max(largest, 1e-3), (parameter, difference, largest)


def test_equal_weights_give_split_conformal_intervals():
    rng = np.random.default_rng(0)
    predicted, label = rng.normal(size=(2, 29))
    known = Predictions(predicted[:19], np.ones(19), label[:19], np.full(19, 0.4))
    test = Predictions(predicted[19:], np.ones(10), label[19:], np.full(10, 0.4))
    weighted = weighted_intervals(known, np.ones(19), test, np.ones(10))
    unweighted = IntervalCalibration.fit(predicted[:19], label[:19]).predict_intervals(
        predicted[19:]
    )
    assert weighted == pytest.approx(unweighted)
    far = Predictions(predicted[19:], np.ones(10), label[19:], np.full(10, 1.0))
    assert np.isinf(weighted_intervals(known, np.ones(19), far, np.ones(10))).all()


@pytest.mark.usefixtures("data_folder")
def test_settings_are_chosen_without_any_test_molecule(tmp_path):
    data, targets, is_regression = finetuning_settings.development_table("freesolv", 0, tmp_path)
    rows = read_table(data)
    tested = read_table(model_comparison.prepare("freesolv", "U", tmp_path).test)
    assert not set(rows.column("smiles").to_pylist()) & set(tested.column("smiles").to_pylist())
    assert set(rows.column("split").to_pylist()) == {"train", "valid", "test"}
    assert (targets, is_regression, len(rows)) == (("expt",), True, 642 - len(tested))
    again, _, _ = finetuning_settings.development_table("freesolv", 1, tmp_path)
    assert read_table(again).column("split") != rows.column("split")


def test_a_setting_is_compared_with_the_default_of_its_own_seed(tmp_path):
    lines = [
        "dataset,seed,setting,metric,validation,test",
        "a,0,default,RMSE,9,2.0",
        "a,1,default,RMSE,9,1.0",
        "a,0,new,RMSE,9,1.0",
        "a,1,new,RMSE,9,1.5",
        "a,2,new,RMSE,9,7.0",
        "b,0,default,ROC-AUC,9,0.8",
        "b,0,new,ROC-AUC,9,0.9",
    ]
    (tmp_path / "finetuning_settings.csv").write_text("\n".join(lines) + "\n")
    # -50 % and +50 % with a standard error of 50; 0.2 wrong pairs become 0.1
    assert "| new | +0.0 ± 50.0 (2) | -50.0 (1) | -25.0 |" in tables.finetuning_settings(tmp_path)


def test_training_times_are_medians_of_runs_that_take_turns(tmp_path, monkeypatch):
    source = tmp_path / "source.csv"
    source.write_text("smiles,y\n" + "C,1\n" * 9)
    training_time.first_rows(source, tmp_path / "first.csv", 4)
    assert (tmp_path / "first.csv").read_text() == "smiles,y\n" + "C,1\n" * 4
    seconds = iter([60.0, 10.0, 80.0, 5.0, 70.0, 20.0])
    commands = []

    def run_timed(command, threads):
        commands.append(("--freeze" in command, threads, Path(command[-1]).exists()))
        return next(seconds), 500.0

    monkeypatch.setattr(training_time, "run_timed", run_timed)
    rows = training_time.measure(tmp_path / "first.csv", (2,), 3)
    assert commands == [(False, 2, False), (True, 2, False)] * 3
    columns = ("encoder", "seconds_median", "seconds_min", "seconds_max", "speedup")
    assert [tuple(row[name] for name in columns) for row in rows] == [
        ("trained", "70.0", "60.0", "80.0", "1.0"),
        ("frozen", "10.0", "5.0", "20.0", "7.0"),
    ]


def test_waiting_settings_take_turns_and_are_compared_with_the_default(monkeypatch, tmp_path):
    settings = {"PyTorch default": {}, "other": {"OMP_WAIT_POLICY": "x"}}
    monkeypatch.setattr(thread_waiting, "SETTINGS", settings)
    monkeypatch.setenv("OMP_WAIT_POLICY", "of the shell")
    speeds = iter(["2 10", "4 5", "1 1", "8 1", "4 20", "4 5", "1 1", "8 1"])
    policies = []

    def run(command, env, **_):
        policies.append(env.get("OMP_WAIT_POLICY"))
        return subprocess.CompletedProcess(command, 0, stdout=next(speeds))

    monkeypatch.setattr(thread_waiting.subprocess, "run", run)
    rows = thread_waiting.measure(2, 1.0, [0, 1])
    assert policies == [None, "x"] * 4
    write_rows(tmp_path / "thread_waiting.csv", rows)
    table = tables.thread_waiting(tmp_path)
    assert "| PyTorch default | 3.0 (1.00x) | 15.0 (1.00x) | 1.0 (1.00x) | 1.0 (1.00x) |" in table
    assert "| other | 4.0 (1.33x) | 5.0 (0.33x) | 8.0 (8.00x) | 1.0 (1.00x) |" in table


def test_a_written_file_has_the_columns_of_all_rows(tmp_path):
    write_rows(tmp_path / "table.csv", [{"a": 1}, {"b": 2, "a": 3}])
    assert (tmp_path / "table.csv").read_text() == "a,b\n1,\n3,2\n"


def test_a_timed_command_reports_its_memory_and_its_failure():
    command = [sys.executable, "-c", "x = bytearray(200_000_000)"]
    seconds, peak = run_timed(command, threads=1)
    assert seconds > 0
    assert peak > 200
    with pytest.raises(ChildProcessError, match="failed: 3"):
        run_timed([sys.executable, "-c", "raise SystemExit(3)"], threads=1)


def test_rows_are_appended_below_the_header(tmp_path):
    path = tmp_path / "table.csv"
    assert read_rows(path) == []
    append_row(path, {"a": 1, "b": "x, y"})
    append_row(path, {"a": 2, "b": None})
    assert path.read_text() == 'a,b\n1,"x, y"\n2,\n'
    assert read_rows(path) == [{"a": "1", "b": "x, y"}, {"a": "2", "b": ""}]
