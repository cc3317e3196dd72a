"""The batches of every step."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moleblend.chem.molecule import Molecule
from moleblend.chem.parsing import read_smiles
from moleblend.data.store import MoleculeStore, write_store
from moleblend.pretraining import pretrain
from moleblend.pretraining.config import PretrainConfig
from moleblend.pretraining.data_loader import StepDataset


@pytest.fixture
def config(qm9_config: PretrainConfig) -> PretrainConfig:
    return qm9_config


@pytest.mark.parametrize("how", ["similar", "random"])
def test_every_molecule_once_per_epoch(config: PretrainConfig, how: Any) -> None:
    config = replace(config, schedule=replace(config.schedule, batches=how))
    store = MoleculeStore(config.data)
    _, train_rows = pretrain.hold_out(len(store), config)
    dataset = StepDataset(store, train_rows, config)
    n_steps = math.ceil(len(train_rows) / config.schedule.batch_size)
    epochs = [
        [int(row) for step in range(first, first + n_steps) for row in dataset.rows_of(step)]
        for first in (0, n_steps, 2 * n_steps)
    ]
    for rows in epochs:
        assert sorted(rows) == train_rows.tolist()
    assert epochs[0] != epochs[1] != epochs[2]


@pytest.mark.parametrize(("how", "is_similar"), [("similar", True), ("random", False)])
def test_batches_are_of_similar_size_unless_at_random(
    config: PretrainConfig, tmp_path: Path, how: Any, is_similar: bool
) -> None:
    chains = [read_smiles("C" * (1 + k % 20)) for k in range(160)]
    write_store(chains, tmp_path / "chains.arrow", features="cip-1")
    config = replace(config, schedule=replace(config.schedule, batches=how))
    store = MoleculeStore(tmp_path / "chains.arrow")
    dataset = StepDataset(store, np.arange(160), config)
    ranges = [np.ptp([store[row].n_atoms for row in dataset.rows_of(step)]) for step in range(16)]
    assert (max(ranges) < 4) == is_similar
    assert (min(ranges) > 8) != is_similar


def test_sizes_are_those_of_the_molecules(store: Path, molecules: list[Molecule]) -> None:
    assert MoleculeStore(store).n_atoms().tolist() == [m.n_atoms for m in molecules]


def test_a_batch_depends_on_seed_and_step_alone(config: PretrainConfig) -> None:
    store = MoleculeStore(config.data)
    _, train_rows = pretrain.hold_out(len(store), config)
    first, second = (StepDataset(store, train_rows, config) for _ in range(2))
    list(map(first.rows_of, range(9)))
    assert (first.rows_of(7) == second.rows_of(7)).all()
    other = StepDataset(store, train_rows, replace(config, seed=1))
    assert (first.rows_of(7) != other.rows_of(7)).any()
