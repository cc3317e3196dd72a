from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from moleblend.cli.main import main
from moleblend.data.store import MoleculeStore
from moleblend.errors import SettingError
from moleblend.model.objectives.config import ObjectiveConfig
from moleblend.pretraining.config import PretrainConfig
from moleblend.pretraining.dry_run import dry_run
from tests.helpers.pretraining import run


def test_a_recipe_asks_for_labels_and_the_command_line_names_the_file(
    config: PretrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    smiles = sorted({molecule.smiles for molecule in MoleculeStore(config.data)})
    table = tmp_path / "labels.parquet"
    pd.DataFrame({"smiles": smiles, "length": [float(len(text)) for text in smiles]}).to_parquet(
        table
    )
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        "n_held_out = 6\nlog_every = 1\ndevice = 'cpu'\n[objective]\nlabels = 1.0\n"
        "[encoder]\nwidth = 8\nffn_width = 8\nn_layers = 1\nn_heads = 2\nn_kernels = 4\n"
        "[heads]\nrank = 2\n[schedule]\nsteps = 2\nbatch_size = 8\nwarmup_steps = 1\n"
    )
    common = ["pretrain", str(recipe), "--data", config.data, "--out", str(tmp_path / "labelled")]
    assert main([*common, "--labels", str(table)]) == 0
    assert "labels" in capsys.readouterr().err
    assert main([*common[:-1], str(tmp_path / "unlabelled")]) != 0
    assert "expected both a file and a weight above 0" in capsys.readouterr().err


def test_a_weight_without_a_file_is_refused(config: PretrainConfig) -> None:
    unlabelled = replace(config, objective=ObjectiveConfig(labels=1.0))
    for command in (run, dry_run):
        with pytest.raises(SettingError, match="both a file and a weight above 0"):
            command(unlabelled)
