"""No command overwrites its input, by whatever name of its outputs."""

import shutil
from pathlib import Path

import pytest
import torch

from moleblend.cli.main import main
from moleblend.data.targets import Target
from moleblend.model import checkpoint
from moleblend.model.heads import Model, ModelConfig
from tests.helpers.runs import TINY

TEXT = "smiles,y\n" + "".join(f"{'C' * (k + 1)},{k / 2}\n" for k in range(12))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "d"
    folder.mkdir()
    for name in ("rows.csv", "log.csv", "in.csv", "x.csv", "v.npy.rows.csv", "o.csv.account.csv"):
        (folder / name).write_text(TEXT)
    for name in ("s.arrow.rejected.csv", "s.rejected.csv", "validation.csv", "t.json"):
        (folder / name).write_text(TEXT)
    shutil.copy(folder / "in.csv", folder / "data.arrow.rejected.csv")
    torch.manual_seed(0)
    model = Model(ModelConfig(encoder=TINY, heads=None, targets=(Target("y", "regression"),)))
    card = checkpoint.Card(trained_by="train", views="2d")
    for name in ("model.safetensors", "m.safetensors"):
        checkpoint.save(model, folder / name, card)
    return folder


@pytest.mark.parametrize(
    "command",
    [
        "train d/rows.csv --out d",
        "train d/log.csv --out d",
        "train d/in.csv --from d/model.safetensors --out d",
        "train d/in.csv --from d --out d",
        "pretrain --data d/log.csv --out d",
        "pretrain --data d/validation.csv --out d",
        "pretrain --data d/data.arrow.rejected.csv --out d",
        "pretrain --data d/in.csv --from d/model.safetensors --out d",
        "predict d/m.safetensors d/in.csv d/in.csv",
        "predict d/m.safetensors d/in.csv d/../d/in.csv",
        "embed d/m.safetensors d/v.npy.rows.csv d/v.npy",
        "explain d/m.safetensors d/x.csv d/x.html",
        "convert d/m.safetensors d/m.safetensors",
        "data clean d/o.csv.account.csv d/o.csv",
        "data clean d/in.csv d/in.csv",
        "data split d/in.csv d/in.csv --by random",
        "data leakage d/in.csv --split y --json d/in.csv",
        "data build d/s.arrow.rejected.csv d/s.arrow",
        "data build d/s.rejected.csv d/s",
    ],
)
def test_no_command_overwrites_its_input(
    folder: Path, command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder.parent)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    assert main(command.split()) == 2
    text = capsys.readouterr().err
    assert "would overwrite" in text
    assert text.count("\n") == 1
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
