import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch

from moleblend.chem.parsing import read_smiles
from moleblend.cli import main as cli
from moleblend.cli.data_commands import DATA_COMMANDS
from moleblend.data import build_store as build
from moleblend.data.store import MoleculeStore, write_store
from moleblend.data.targets import Target
from moleblend.model import checkpoint
from moleblend.model.heads import HeadsConfig, Model, ModelConfig
from moleblend.model.integrity import UNKNOWN_HASH, seal
from moleblend.model.objectives import Loss
from moleblend.pretraining import pretrain
from tests.helpers.runs import TINY

CHAINS = ["C" * n + end for n in range(1, 11) for end in ("", "O", "N")]
TINY_FLAGS = "--encoder.width 16 --encoder.ffn-width 16 --encoder.n-layers 1 --encoder.n-heads 2"
RECIPE = """
n_held_out = 5
validate_every = 4
save_every = 2
log_every = 2
device = "cpu"

[encoder]
width = 16
ffn_width = 16
n_layers = 1
n_heads = 2
n_kernels = 8

[heads]
rank = 4

[schedule]
steps = 4
batch_size = 8
warmup_steps = 1
"""

Refuse = Callable[[str], str]
"""Runs a command that must fail, and returns its error."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder with what a user has: a table, a recipe, a model that predicts."""
    monkeypatch.chdir(tmp_path)
    rows = [f"{smiles},{len(smiles)}" for smiles in CHAINS]
    (tmp_path / "chains.csv").write_text("\n".join(["smiles,y", *rows]) + "\n")
    (tmp_path / "recipe.toml").write_text(RECIPE)
    torch.manual_seed(0)
    targets = (Target("y", "regression"),)
    model = Model(ModelConfig(encoder=TINY, heads=None, targets=targets))
    card = checkpoint.Card(trained_by="train", views="2d")
    checkpoint.save(model, tmp_path / "model.safetensors", card)
    return tmp_path


def fails(command: str, folder: Path, capfd: pytest.CaptureFixture[str]) -> str:
    """Run a command that must fail with exit code 2 and change no file; return what it printed."""
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    capfd.readouterr()
    assert cli.main(command.split()) == 2
    printed = capfd.readouterr()
    assert printed.out == ""
    assert "Traceback" not in printed.err
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert after == before
    return printed.err


@pytest.fixture
def refuse(folder: Path, capfd: pytest.CaptureFixture[str]) -> Refuse:
    """Run a command that must fail with one line."""

    def refuse(command: str) -> str:
        error = fails(command, folder, capfd)
        assert error.startswith("moleblend: ")
        assert error.count("\n") == 1
        return error.removeprefix("moleblend: ").rstrip("\n")

    return refuse


@pytest.fixture
def refuse_flags(
    folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Refuse:
    """Run a command whose flags tyro must refuse, in a frame of its own."""
    monkeypatch.setenv("COLUMNS", "200")

    def refuse(command: str) -> str:
        words = fails(command, folder, capfd).replace("│", " ").split()
        return " ".join(words)

    return refuse


def test_from_a_table_to_predictions(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The commands of a newcomer, one after the other."""

    def do(command: str) -> str:
        assert cli.main(command.split()) == 0
        return capfd.readouterr().err

    said = do("data build chains.csv molecules.arrow --processes 1")
    assert "30 of 30 rows are in molecules.arrow; rejected: 0" in said
    assert len(MoleculeStore(folder / "molecules.arrow")) == 30
    said = do("pretrain recipe.toml --data molecules.arrow --out pre --schedule.steps 6")
    assert "25 molecules, 5 held out; 6 steps" in said
    assert "step 6, held-out molecules" in said
    assert "model: pre/model.safetensors" in said
    assert json.loads((folder / "pre/config.json").read_text())["config"]["schedule"]["steps"] == 6
    said = do("pretrain recipe.toml --data molecules.arrow --out pre --schedule.steps 6 --resume")
    assert "the run is already finished (6 steps)" in said
    assert "step 6, held-out molecules" in said
    assert "0 molecules/s" not in said
    said = do(
        "train chains.csv --target y --from pre/model.safetensors --split random --epochs 1 "
        "--out fine --device cpu"
    )
    assert "24 training, 3 validation, 3 test (random split)" in said
    assert (folder / "fine/report.html").is_file()
    assert "test  y  RMSE" in said
    (folder / "new.csv").write_text("id,smiles\n1,CCO\n2,C1CC\n")
    said = do("predict fine/model.safetensors new.csv results/out.csv")
    assert said == "2 rows written to results/out.csv: 1 ok, 1 invalid\n"
    table = pyarrow.csv.read_csv(folder / "results/out.csv")
    assert table.column_names == [
        *("id", "smiles", "status", "reason", "y_pred"),  # 3 validation molecules: no intervals
        *("y_members_std", "domain", "similarity", "nearest"),
    ]
    assert [value is None for value in table.column("y_pred").to_pylist()] == [False, True]
    do("predict fine/model.safetensors new.csv skipped.csv --errors skip")
    assert pyarrow.csv.read_csv(folder / "skipped.csv").num_rows == 1
    do("embed pre/model.safetensors new.csv out.npy")
    assert np.load(folder / "out.npy").shape == (2, 16)
    do("embed fine/model.safetensors new.csv out.parquet --views 2d")
    assert pq.read_table(folder / "out.parquet").column("embedding").null_count == 1


def test_an_explanation(folder: Path, refuse: Refuse, capfd: pytest.CaptureFixture[str]) -> None:
    explain = "explain model.safetensors chains.csv"
    assert cli.main(f"{explain} new/why.html --n 3".split()) == 0
    first = "rows explained: 3, the first of chains.csv (--n)"
    assert capfd.readouterr().err == f"{first}; page: new/why.html, atom table: new/why.csv\n"
    table = pyarrow.csv.read_csv(folder / "new/why.csv")
    assert table.column("row").to_pylist() == [1, 2, 2, 3, 3]
    assert (folder / "new/why.html").read_text().count('class="panel card"') == 3
    assert "expected an output name that ends in .html" in refuse(f"{explain} why.csv")
    assert "would overwrite the input; use another name" in refuse(f"{explain} chains.html")
    assert "no target 'z'; available: y" in refuse(f"{explain} why.html --target z")
    assert "got n_rows=0, expected at least 1" in refuse(f"{explain} why.html --n 0")
    targets = tuple(Target(f"y{k}", "binary") for k in range(5))
    model = Model(ModelConfig(encoder=TINY, heads=None, targets=targets))
    card = checkpoint.Card(trained_by="train", views="2d")
    checkpoint.save(model, folder / "many.safetensors", card)
    many = "explain many.safetensors chains.csv why.html --n 2"
    assert "the model has 5 targets, expected at most 4; choose some with --target" in refuse(many)
    assert cli.main(f"{many} --target y1 y4".split()) == 0


def test_a_build_that_is_stopped_and_resumed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    command = ["data", "build", "chains.csv", "built", "--shard-rows", "10", "--processes", "1"]
    original = build._Shards.write

    def pressed(self: build._Shards, number: int, *rest: object) -> None:
        if number == 2:
            raise KeyboardInterrupt
        original(self, number, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(build._Shards, "write", pressed)
        assert cli.main(command) == 130
    kept = "finished shards are in .built.parts: --resume continues"
    assert capfd.readouterr().err == f"{kept}\nmoleblend: stopped\n"
    assert cli.main(command) == 2
    assert "continue it with --resume, or remove the folder" in capfd.readouterr().err
    assert cli.main([*command, "--resume"]) == 0
    said = capfd.readouterr().err
    assert said.startswith(
        "2 of 3 shards were already finished\n30 of 30 rows are in built; rejected: 0"
    )
    assert len(MoleculeStore(folder / "built")) == 30
    assert not (folder / ".built.parts").exists()
    pretrain = "pretrain recipe.toml --data built --out pre --schedule.steps 2"
    assert cli.main(pretrain.split()) == 0


def test_conformers_are_kept_in_the_users_cache(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    (folder / "two.smi").write_text("CCCCO a\nCC b\n")
    kept = folder / "cache/moleblend/conformers.sqlite"

    def build(out: str, flags: str) -> list[int]:
        assert cli.main(f"data build two.smi {out} {flags}".split()) == 0
        return [molecule.n_conformers for molecule in MoleculeStore(folder / out)]

    assert build("1.arrow", "") == [0, 0]
    assert build("2.arrow", "--conformers 1 --no-cache") == [1, 1]
    assert not kept.exists()
    pruned, one = build("3.arrow", "--conformers 6 --prune-rms 0.2")
    assert 1 < pruned <= 6
    assert one == 1
    assert kept.is_file()
    assert build("4.arrow", "--conformers 1 --cache other") == [1, 1]
    assert (folder / "other/conformers.sqlite").is_file()
    capfd.readouterr()
    assert cli.main(["data", "build", "two.smi", "5.arrow", "--cache", "other", "--no-cache"]) == 2
    assert "got both --cache other and --no-cache, expected one" in capfd.readouterr().err


def test_files_that_are_not_there(refuse: Refuse) -> None:
    missing = "missing.csv: no such file"
    assert refuse("train missing.csv --target y --from scratch --out run") == missing
    assert refuse("predict model.safetensors missing.csv out.csv") == missing
    assert refuse("embed model.safetensors missing.csv out.npy") == missing
    assert refuse("data build missing.csv out.arrow") == missing
    assert refuse("pretrain --data missing.csv --out run") == missing
    assert refuse("pretrain --data no.arrow --out run") == "no.arrow: no such store"
    assert refuse("pretrain no.toml --data x.csv") == "no.toml: no such recipe"
    said = refuse("pretrain recipe.toml --data chains.csv --out run --from no.safetensors")
    assert said == "no.safetensors: there is no such model file"
    no_model = "no.safetensors: there is no such model file"
    assert refuse("predict no.safetensors chains.csv out.csv") == no_model
    assert refuse("train chains.csv --target y --from no.safetensors --out run") == no_model
    assert "no.pt" in refuse("convert no.pt out.safetensors")


def test_empty_files(folder: Path, refuse: Refuse) -> None:
    (folder / "empty.csv").touch()
    empty = "empty.csv: the file is empty"
    assert refuse("train empty.csv --target y --from scratch --out run") == empty
    assert refuse("predict model.safetensors empty.csv out.csv") == empty
    assert refuse("data build empty.csv out.arrow") == empty
    (folder / "empty.arrow").touch()
    assert "empty.arrow" in refuse("pretrain --data empty.arrow --out run")
    (folder / "empty.safetensors").touch()
    assert "truncated" in refuse("predict empty.safetensors chains.csv out.csv")


def test_missing_columns(refuse: Refuse) -> None:
    there = "available: 'smiles', 'y'"
    assert there in refuse("train chains.csv --target z --from scratch --out run")
    assert there in refuse("train chains.csv --target y --from scratch --split fold --out run")
    assert there in refuse("predict model.safetensors chains.csv out.csv --smiles mol")
    assert there in refuse("data build chains.csv out.arrow --smiles mol --processes 1")


def test_a_target_that_is_no_number(folder: Path, refuse: Refuse) -> None:
    (folder / "odd.csv").write_text("smiles,y\nCC,1\nCCC,high\nC,low\n")
    assert refuse("train odd.csv --target y --from scratch --out run") == (
        "odd.csv, row 2 (line 3): column 'y' should hold numbers or a few classes, but 'high' is "
        "not a number (2 of 3 cells are not labels)"
    )


def test_a_target_that_is_not_clear(folder: Path, refuse: Refuse) -> None:
    (folder / "two.csv").write_text("id,smiles,a,b\nx,CC,1.5,2.5\ny,CCC,2.5,0.5\n")
    assert refuse("train two.csv --from scratch") == (
        "two.csv: 2 columns could be the target: 'a', 'b'; select with --target COLUMN ..."
    )


def test_a_broken_sdf_record(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    good = "\n\n\n  1  0  0  0  0  0  0  0  0  0999 V2000\n"
    good += "    0.0000    0.0000    0.0000 C   0  0  0  0  0  0  0  0  0  0  0  0\nM  END\n$$$$\n"
    (folder / "in.sdf").write_text(good + good.replace("  1  0", "  x  0", 1) + good)
    assert cli.main(["predict", "model.safetensors", "in.sdf", "out.csv"]) == 0
    table = pyarrow.csv.read_csv(folder / "out.csv")
    assert table.column("status").to_pylist() == ["ok", "invalid", "ok"]
    assert table.column("reason").to_pylist()[1]
    assert "Traceback" not in capfd.readouterr().err


def test_truncated_files_and_those_of_another_version(folder: Path, refuse: Refuse) -> None:
    write_store([read_smiles(text) for text in CHAINS], folder / "s.arrow", features="cip-1")
    whole = (folder / "s.arrow").read_bytes()
    (folder / "cut.arrow").write_bytes(whole[: len(whole) // 2])
    assert "truncated" in refuse("pretrain recipe.toml --data cut.arrow --out run")
    schema = pa.ipc.open_file(folder / "s.arrow").schema
    newer = schema.with_metadata({**schema.metadata, b"version": b"9"})
    with pa.ipc.new_file(folder / "newer.arrow", newer):
        pass
    said = refuse("pretrain recipe.toml --data newer.arrow --out run")
    assert "got store version 9, expected 2" in said
    model = (folder / "model.safetensors").read_bytes()
    (folder / "cut.safetensors").write_bytes(model[: len(model) // 2])
    for command in (
        "predict cut.safetensors chains.csv out.csv",
        "embed cut.safetensors chains.csv o.npy",
    ):
        assert "truncated" in refuse(command)
    assert "truncated" in refuse("train chains.csv --target y --from cut.safetensors --out run")
    old = model.replace(b'"format_version":"1"', b'"format_version":"0"')
    assert old != model
    (folder / "old.safetensors").write_bytes(old)
    assert "another version" in refuse("predict old.safetensors chains.csv out.csv")


def test_weights_that_do_not_fit(folder: Path, refuse: Refuse) -> None:
    model = (folder / "model.safetensors").read_bytes()
    other = model.replace(b'\\"n_kernels\\": 8', b'\\"n_kernels\\": 9')
    assert other != model
    written = json.loads(model[8 : 8 + int.from_bytes(model[:8], "little")])["__metadata__"]
    other = other.replace(written["sha256"].encode(), UNKNOWN_HASH.encode())
    (folder / "other.safetensors").write_bytes(other)
    seal(folder / "other.safetensors")
    said = refuse("predict other.safetensors chains.csv out.csv")
    assert "does not fit" in said
    assert "got shape" in said
    assert "expected (" in said


def test_recipes_that_are_wrong(folder: Path, refuse: Refuse) -> None:
    run = "pretrain wrong.toml --data chains.csv --out run"
    recipe = folder / "wrong.toml"
    recipe.write_text("stepz = 4\n")
    assert "wrong.toml: unknown name stepz; available: data, out" in refuse(run)
    recipe.write_text("[encoder]\nwidth = 'big'\n")
    assert "encoder.width: got 'big', expected an integer" in refuse(run)
    recipe.write_text("[blend]\npair_probabilities = [0.5, 0.5, 0.5]\n")
    said = refuse(run)
    assert "got pair_probabilities=(0.5, 0.5, 0.5), expected numbers of at least 0 that" in said
    recipe.write_text("[encoder\n")
    assert "wrong.toml: not a valid TOML file" in refuse(run)


def test_flags_that_are_wrong(refuse_flags: Refuse) -> None:
    """tyro refuses them, and names the flag; also values that only a dataclass refuses."""
    error = refuse_flags("pretrain --data chains.csv --blend.pair-probabilities 0.5 0.5 0.5")
    assert "got pair_probabilities=(0.5, 0.5, 0.5), expected numbers of at least 0 that" in error
    assert "moleblend pretrain --help" in error
    assert "warmup_steps" in refuse_flags("pretrain recipe.toml --schedule.warmup-steps 9")
    train = "train chains.csv --target y --from scratch --out run"
    assert "got epochs=0, expected a number of at least 1" in refuse_flags(f"{train} --epochs 0")
    assert "--nothing" in refuse_flags(f"{train} --nothing 3")
    assert "'many'" in refuse_flags(f"{train} --epochs many")
    assert "OUT" in refuse_flags("predict model.safetensors chains.csv")
    assert "4d" in refuse_flags("predict model.safetensors chains.csv out.csv --views 4d")


def test_flags_that_do_not_fit_the_data(refuse: Refuse) -> None:
    said = refuse("train chains.csv --from scratch --out run")
    assert said.endswith("; --split random fills all sets")
    said = refuse("train chains.csv --from scratch --out run --log-scale --target y")
    assert said == "--log-scale: got no value, expected names of targets"
    assert "got views 'both', expected '2d'" in refuse(
        "predict model.safetensors chains.csv out.csv --views both"
    )
    assert refuse("embed chains.csv") == "got 1 file names, expected [MODEL] IN OUT"


def test_commands_that_do_not_exist(refuse: Refuse) -> None:
    available = ", ".join(cli.COMMANDS)
    said = refuse("pretain --data x")
    assert said == (f"unknown command 'pretain' (did you mean 'pretrain'?); available: {available}")
    assert refuse("xyz") == f"unknown command 'xyz'; available: {available}"
    said = refuse("data bild")
    assert said.startswith("unknown command 'data bild' (did you mean 'build'?); available: ")
    assert said.endswith(", ".join(DATA_COMMANDS))


def test_outputs_that_cannot_be(folder: Path, refuse: Refuse) -> None:
    """Refused before the work, not after it."""
    predict = "predict model.safetensors chains.csv"
    assert "ends in .csv or .tsv or .parquet" in refuse(f"{predict} out.txt")
    assert "would overwrite its input" in refuse(f"{predict} ./chains.csv")
    (folder / "folder.csv").mkdir()
    assert "expected a file, got a folder" in refuse(f"{predict} folder.csv")
    assert "ends in .npy or" in refuse("embed model.safetensors chains.csv out")
    assert "must end in .arrow" in refuse("data build chains.csv out.store")
    assert "need a folder" in refuse("data build chains.csv out.arrow --format parquet")
    assert "no unfinished build" in refuse("data build chains.csv out.arrow --resume")
    assert "only engine ray has an address" in refuse(
        "data build chains.csv out.arrow --address 10.0.0.1:6379"
    )
    (folder / "run").mkdir()
    (folder / "run/config.json").write_text("{}")
    occupied = "run already contains a run: use --resume to continue it, or another --out"
    assert refuse("pretrain recipe.toml --data chains.csv --out run") == occupied


def test_a_row_that_must_not_be_wrong(folder: Path, refuse: Refuse) -> None:
    (folder / "odd.csv").write_text("smiles\nCC\nC1CC\n")
    said = refuse("predict model.safetensors odd.csv out.csv --errors raise")
    assert said.startswith("odd.csv: row 2 (line 3): ")


def test_a_model_without_targets(folder: Path, refuse: Refuse) -> None:
    model = Model(ModelConfig(encoder=TINY, heads=HeadsConfig(rank=4)))
    checkpoint.save(model, folder / "pre.safetensors", checkpoint.Card(trained_by="pretrain"))
    assert "has no targets" in refuse("predict pre.safetensors chains.csv out.csv")


def test_a_system_error_is_a_sentence_too(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """What was predicted by then is not lost."""

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", str(folder / "out.csv"))

    command = ["predict", "model.safetensors", "chains.csv", "out.csv"]
    with monkeypatch.context() as patch:
        patch.setattr("moleblend.prediction.screening.write_tables", full)
        assert cli.main(command) == 2
    assert capfd.readouterr().err == f"moleblend: {folder / 'out.csv'}: No space left on device\n"
    assert not (folder / "out.csv").exists()
    assert cli.main([*command, "--resume"]) == 0
    assert "30 rows were written by the interrupted run\n30 rows written" in capfd.readouterr().err


def test_ctrl_c_has_its_own_exit_code(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    original = pretrain.CombinedObjective.loss

    def pressed(*arguments) -> Loss:
        signal.raise_signal(signal.SIGINT)
        return original(*arguments)

    command = ["pretrain", "recipe.toml", "--data", "chains.csv", "--out", "run"]
    with monkeypatch.context() as patch:
        patch.setattr(pretrain.CombinedObjective, "loss", pressed)
        assert cli.main(command) == 130
    said = capfd.readouterr().err
    assert "stopped after step 1; the state is saved: use --resume" in said
    assert said.endswith("moleblend: stopped\n")
    assert (folder / "run/state.ckpt").is_file()
    assert cli.main([*command, "--resume"]) == 0


@pytest.mark.parametrize("command", [*cli.COMMANDS, *(f"data {name}" for name in DATA_COMMANDS)])
def test_help_of_every_command(command: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*command.split(), "--help"]) == 0
    said = capfd.readouterr()
    assert f"moleblend {command}" in said.out
    assert said.err == ""


def test_the_list_of_commands(capfd: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["--help"], ["-h"]):
        assert cli.main(arguments) == 0
        said = capfd.readouterr().out
        assert all(f"\n  {command}" in said for command in cli.COMMANDS)
    assert cli.main(["--version"]) == 0
    assert capfd.readouterr().out.count(".") >= 2


def test_the_package_is_a_command_of_python() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "moleblend", "unknown"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("moleblend: unknown command 'unknown'; available: demo, data")


def test_nobody_else_talks_to_the_terminal(folder: Path) -> None:
    """In a process of its own: Lightning, torch and RDKit say nothing but what we say."""
    script = (
        "import sys; from moleblend.cli.main import main\n"
        "for line in sys.stdin.read().splitlines():\n"
        "    assert main(line.split()) == 0"
    )
    (folder / "odd.csv").write_text("smiles\nC1CC\nCC\n")
    commands = [
        "pretrain recipe.toml --data chains.csv --out pre",
        "train chains.csv --target y --from scratch --split random --epochs 1 --out fine "
        + TINY_FLAGS,
        "predict fine/model.safetensors odd.csv out.csv",
    ]
    done = subprocess.run(
        [sys.executable, "-c", script],
        input="\n".join(commands),
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "COLUMNS": "200"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    ours = (
        "pre/data.arrow: 30 of 30 rows",
        "no molecule has a geometry: only the losses of the 2D views are learned",
        "step",
        "peak",
        "epoch",
        "validation",
        "test",
        "model: ",
    )
    ours += (
        "visible",
        "path_length",
        "bonds",
        "molecules are read",
        "target",
        "note: ",
        "comparison: ",
        "average  ",
    )
    others = [line for line in lines if not line.startswith(ours) and not line[0].isdigit()]
    assert others == []
