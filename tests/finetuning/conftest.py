"""Fixtures of the tests of fine-tuning."""

from pathlib import Path

import pytest

from moleblend.finetuning.train import TrainConfig
from tests.helpers.molecules import CHAINS, N_CARBONS, PARTS
from tests.helpers.runs import TINY
from tests.helpers.tables import write


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write(tmp_path / "chains.csv", smiles=CHAINS, y=N_CARBONS, set=PARTS)


@pytest.fixture
def config(table: Path, tmp_path: Path) -> TrainConfig:
    return TrainConfig(
        data=str(table),
        target=("y",),
        out=str(tmp_path / "run"),
        source="scratch",
        split="set",
        epochs=2,
        batch_size=16,
        learning_rate=5e-3,
        forest=10,
        members="network",
        device="cpu",
        encoder=TINY,
    )
