from dataclasses import replace
from pathlib import Path

import pytest

from moleblend.data.formats import read_table
from moleblend.finetuning import lightning_module
from moleblend.finetuning.run_folder import reserved
from moleblend.finetuning.train import TrainConfig
from tests.helpers.finetuning import run
from tests.helpers.molecules import CHAINS, N_CARBONS, PARTS
from tests.helpers.tables import write


def refused(config: TrainConfig, message: str) -> None:
    """Expect a sentence, and not a trace of a run."""
    with pytest.raises(ValueError, match=message):
        run(config)
    assert not Path(config.out).exists()


def test_tables_that_cannot_be_trained_on(config: TrainConfig) -> None:
    table = Path(config.data)
    refused(
        replace(config, target=("log_p",)),
        r"chains.csv: there is no column 'log_p'; available: 'smiles', 'y', 'set'$",
    )
    refused(replace(config, split="fold"), "got split='fold' .*available: ")
    refused(replace(config, smiles="mol"), "there is no column 'mol'; available: ")
    write(table, smiles=CHAINS, y=[*N_CARBONS[:-1], "high"], set=PARTS)
    write(table, smiles=CHAINS, y=N_CARBONS, set=[*PARTS[:-1], "holdout"])
    refused(
        config,
        r"row 60 \(line 61\): got 'holdout' in column 'set', expected train, valid",
    )
    write(table, smiles=["C1CC", "CC"], y=[1, None], set=["train", "test"])
    refused(config, r"none of the 2 rows is usable; row 1 is invalid \(")
    write(table, smiles=["CC"], y=[1], set=["train"])
    refused(config, r"leaves the validation set empty \(1 usable rows\)$")
    refused(replace(config, split="scaffold"), "scaffold split leaves the train set empty")
    no_test = [
        None if set_name == "test" else y for y, set_name in zip(N_CARBONS, PARTS, strict=True)
    ]
    write(table, smiles=CHAINS, y=no_test, set=PARTS)
    refused(config, "leaves the test set empty")
    table.write_text("smiles,y,set\n")
    refused(config, r"the table has no rows$")


def test_predictions_of_the_same_name_are_refused(config: TrainConfig) -> None:
    write(Path(config.data), smiles=CHAINS, y=N_CARBONS, y_log10=N_CARBONS, set=PARTS)
    message = "targets 'y' and 'y_log10' could both have a column 'y_log10_pred'"
    config = replace(config, target=("y", "y_log10"))
    refused(replace(config, log_scale=("y",)), message)
    assert set(run(config)[0].test) == {"y", "y_log10"}  # y_log10_pred is that of y_log10 alone


def test_two_runs_in_one_folder_and_one_that_cannot_be_written(config: TrainConfig) -> None:
    out = Path(config.out)
    with reserved(out), pytest.raises(ValueError, match="another process is using it"):
        run(config)
    assert not out.exists()
    with pytest.raises(NotADirectoryError):
        run(replace(config, out=str(Path(config.data) / "run")))


def test_a_folder_that_holds_something_else_is_left_alone(config: TrainConfig) -> None:
    out = Path(config.out)
    out.mkdir()
    (out / "state.ckpt").touch()
    with pytest.raises(ValueError, match="holds a pretraining run; use another --out"):
        run(config)
    assert [path.name for path in out.iterdir()] == ["state.ckpt"]
    with pytest.raises(ValueError, match="expected a folder, got a file"):
        run(replace(config, out=config.data))


def test_a_diverging_run_leaves_nothing(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = lightning_module.property_loss
    monkeypatch.setattr(
        lightning_module, "property_loss", lambda *given: original(*given) * float("nan")
    )
    with pytest.raises(FloatingPointError, match=r"the loss of epoch 1 is not finite: a learning_"):
        run(config)
    assert not Path(config.out).exists()


def test_spoiled_weights_are_noticed(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    original = lightning_module.FineTuning.outputs
    monkeypatch.setattr(
        lightning_module.FineTuning, "outputs", lambda *given: original(*given) * float("inf")
    )
    with pytest.raises(FloatingPointError, match="a prediction of epoch 1 is not finite"):
        run(config)
    assert not Path(config.out).exists()


def test_ctrl_c_leaves_nothing(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def pressed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(lightning_module, "property_loss", pressed)
    with pytest.raises(KeyboardInterrupt):
        run(config)
    assert not Path(config.out).exists()


def test_the_source_must_be_a_model(config: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no such model file"):
        run(replace(config, source=str(tmp_path / "none.safetensors")))
    assert read_table(config.data).names == ["smiles", "y", "set"]
    assert not Path(config.out).exists()
