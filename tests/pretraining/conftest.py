"""Configurations of short pretraining runs."""

from pathlib import Path

import pytest

from moleblend.chem.molecule import Molecule
from moleblend.chem.parsing import read_smiles
from moleblend.data.store import write_store
from moleblend.model.encoder_config import EncoderConfig
from moleblend.model.heads import HeadsConfig
from moleblend.pretraining.config import PretrainConfig, ScheduleConfig
from tests.helpers import runs
from tests.helpers.pretraining import N_HELD_OUT, qm9

TINY = EncoderConfig(width=8, ffn_width=8, n_layers=1, n_heads=2, n_kernels=4)


@pytest.fixture
def config(tmp_path: Path) -> PretrainConfig:
    """Six steps on chains without geometry: a step takes some milliseconds."""
    chains = [read_smiles("C" * (1 + k % 6) + "O", id=str(k)) for k in range(30)]
    write_store(chains, tmp_path / "chains.arrow", features="cip-1")
    return PretrainConfig(
        data=str(tmp_path / "chains.arrow"),
        out=str(tmp_path / "run"),
        n_held_out=6,
        validate_every=4,
        save_every=2,
        log_every=1,
        device="cpu",
        encoder=TINY,
        heads=HeadsConfig(rank=2),
        schedule=ScheduleConfig(steps=6, batch_size=8, warmup_steps=1, learning_rate=1e-2),
    )


@pytest.fixture(scope="session")
def molecules() -> list[Molecule]:
    return qm9()


@pytest.fixture(scope="session")
def store(molecules: list[Molecule], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "molecules.arrow"
    write_store(molecules, path, features="cip-1")
    return path


@pytest.fixture
def qm9_config(store: Path, tmp_path: Path) -> PretrainConfig:
    """Twelve steps on molecules of QM9 with geometry."""
    return PretrainConfig(
        data=str(store),
        out=str(tmp_path / "run"),
        n_held_out=N_HELD_OUT,
        validate_every=8,
        save_every=5,
        log_every=4,
        device="cpu",
        encoder=runs.TINY,
        heads=HeadsConfig(rank=4, descriptors=True),
        schedule=ScheduleConfig(steps=12, batch_size=10, warmup_steps=2, learning_rate=5e-3),
    )
