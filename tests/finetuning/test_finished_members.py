"""A run that was stopped, or found the disk full: what it trained is kept, and --resume goes on."""

import json
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from moleblend.errors import MoleblendError, OutputError
from moleblend.files import file_sha256
from moleblend.finetuning import run as run_module
from moleblend.finetuning.train import TrainConfig, train
from tests.helpers.finetuning import run
from tests.helpers.tables import write


class _Killed(BaseException):
    """Stands for a signal that ends the process."""


def files_of(folder: Path) -> dict[str, bytes]:
    names = ("model.safetensors", "log.csv", "rows.csv")
    return {name: (folder / name).read_bytes() for name in names}


@pytest.mark.parametrize(
    "changes", [{"seeds": 3}, {"ensemble": 3}, {"folds": 3, "split": "random"}]
)
def test_a_resumed_run_trains_what_is_missing_and_is_the_same_to_the_byte(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict
) -> None:
    config = replace(config, epochs=1, forest=0, **changes)
    run(replace(config, out=str(tmp_path / "whole" / "run")))
    fit, trained = run_module.fit, []

    def stopped(*arguments: object) -> object:
        if len(trained) == 2:
            raise _Killed
        trained.append(fit(*arguments))
        return trained[-1]

    monkeypatch.setattr(run_module, "fit", stopped)
    with pytest.raises(_Killed):
        run(config)
    with pytest.raises(MoleblendError, match="holds an unfinished run: continue it with --resume"):
        run(config)
    with pytest.raises(MoleblendError, match=r"these settings differ .*: learning_rate; remove"):
        train(replace(config, learning_rate=1e-3), resume=True)
    trained.clear()
    monkeypatch.setattr(run_module, "fit", lambda *arguments: trained.append(1) or fit(*arguments))
    train(config, resume=True)
    assert len(trained) == 1
    assert files_of(config.folder) == files_of(tmp_path / "whole" / "run")
    assert not list(config.folder.glob(".*"))
    with pytest.raises(MoleblendError, match="and no interrupted run"):
        train(config, resume=True)


def test_a_damaged_member_is_one_sentence(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "estimate_uncertainty", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(config)
    (member,) = config.folder.glob(".model.safetensors.parts/shard-*")
    member.write_bytes(member.read_bytes()[:1000])
    with pytest.raises(MoleblendError, match=r"shard-00000.safetensors: damaged, or of another"):
        train(config, resume=True)


def test_every_file_names_its_model_and_an_old_report_is_removed(config: TrainConfig) -> None:
    config.folder.mkdir()
    (config.folder / "report.html").write_text("of an earlier run")
    (config.folder / "notes.txt").write_text("of the user")
    result, _ = run(config)
    for name in ("config.json", "metrics.json", "environment.json"):
        values = json.loads((config.folder / name).read_text())
        assert values["model_sha256"] == file_sha256(result.model)
    assert not (config.folder / "report.html").exists()
    assert (config.folder / "notes.txt").exists()


def test_a_run_that_cannot_write_leaves_the_files_of_the_earlier_run(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(config)
    before = files_of(config.folder)
    from moleblend.finetuning import run_folder

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(run_folder, "write_table", full)
        with pytest.raises(OutputError, match="the trained weights are kept: --resume writes"):
            run(replace(config, seed=1))
    assert files_of(config.folder) == before
    train(replace(config, seed=1), resume=True)
    assert files_of(config.folder) != before
    assert not list(config.folder.glob(".*"))


# A file may not grow beyond a limit: what the process sees of a full disk.
LIMITED = """
import resource, sys
from moleblend.cli.main import main
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("limit", [300, 3_000, 20_000])
def test_a_full_disk_is_one_sentence(config: TrainConfig, tmp_path: Path, limit: int) -> None:
    table = write(
        tmp_path / "t.csv",
        smiles=["C" * (k + 1) for k in range(30)],
        y=[0.5 * k for k in range(30)],
    )
    command = ["train", str(table), "--from", "scratch", "--epochs", "1", "--forest", "0"]
    command += [
        "--target",
        "y",
        "--split",
        "random",
        "--out",
        str(config.folder),
        "--encoder.width",
        "16",
        "--encoder.n-layers",
        "1",
    ]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(limit), *command], capture_output=True, text=True
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "cannot be written" in done.stderr
    assert not (config.folder / "model.safetensors").exists()
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
