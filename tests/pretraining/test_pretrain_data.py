"""The data of a pretraining run: stores, tables, molecules without geometry."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from moleblend.chem.molecule import Molecule
from moleblend.chem.parsing import read_smiles
from moleblend.data.store import MoleculeStore, write_store
from moleblend.model import checkpoint
from moleblend.pretraining.config import PretrainConfig
from tests.helpers.pretraining import (
    rows_of,
    run_pretraining,
)
from tests.helpers.runs import TINY


@pytest.fixture
def config(qm9_config: PretrainConfig) -> PretrainConfig:
    return qm9_config


def test_features_that_do_not_fit_are_refused(config: PretrainConfig) -> None:
    with pytest.raises(ValueError, match="features cip-1, the encoder expects ogb-1: build"):
        run_pretraining(replace(config, encoder=replace(TINY, features="ogb-1")))
    assert not Path(config.out).exists()


def test_molecules_with_and_without_geometry_train_together(
    config: PretrainConfig, awkward: list[str], molecules: list[Molecule], tmp_path: Path
) -> None:
    data = tmp_path / "mixed.arrow"
    flat = [read_smiles(smiles) for smiles in awkward if len(smiles) < 60]
    write_store([*flat, *molecules[:30]], data, features="cip-1")
    result, _ = run_pretraining(replace(config, data=str(data)))
    views = {"path_length", "bonds", "distance", "descriptors"}
    assert {score.view for score in result.scores} == views
    assert all(math.isfinite(float(row["loss"])) for row in rows_of(Path(config.out) / "log.csv"))


def test_a_store_without_geometry_trains_in_2d(config: PretrainConfig, tmp_path: Path) -> None:
    data = tmp_path / "flat.arrow"
    write_store([read_smiles("C" * n + "O") for n in range(1, 31)], data, features="cip-1")
    result, _ = run_pretraining(replace(config, data=str(data)))
    log = rows_of(Path(config.out) / "log.csv")
    assert {row["distance"] for row in log} == {row["denoising"] for row in log} == {"0.0"}
    assert {score.view for score in result.scores} == {"path_length", "bonds", "descriptors"}
    assert checkpoint.read_card(result.model).views == "2d"


def test_single_atoms_leave_nothing_to_score(config: PretrainConfig, tmp_path: Path) -> None:
    data = tmp_path / "atoms.arrow"
    write_store([read_smiles("C", id=str(k)) for k in range(30)], data, features="cip-1")
    result, _ = run_pretraining(replace(config, data=str(data)))
    assert result.scores == []


def test_a_table_is_built_into_a_store_first(config: PretrainConfig, tmp_path: Path) -> None:
    source = tmp_path / "molecules.smi"
    source.write_text("".join(f"{'C' * n}O\n" for n in range(1, 30)) + "nonsense\n")
    _, output = run_pretraining(replace(config, data=str(source)))
    assert "data.arrow: 29 of 30 rows" in output
    assert len(MoleculeStore(Path(config.out) / "data.arrow")) == 29
    assert (Path(config.out) / "data.arrow.rejected.csv").is_file()


def test_another_table_is_not_mistaken_for_one_built_before(
    config: PretrainConfig, tmp_path: Path
) -> None:
    few, many = tmp_path / "few.smi", tmp_path / "many.smi"
    few.write_text("CO\nCN\n")
    many.write_text("".join(f"{'C' * n}O\n" for n in range(1, 30)))
    with pytest.raises(ValueError, match="got 2 molecules, expected at least 5"):
        run_pretraining(replace(config, data=str(few)))
    run_pretraining(replace(config, data=str(many)))
    assert len(MoleculeStore(Path(config.out) / "data.arrow")) == 29
