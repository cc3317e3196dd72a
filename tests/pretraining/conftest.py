"""A pretraining run of six short steps."""

from pathlib import Path

import pytest

from moleblend.chem.parsing import read_smiles
from moleblend.data.store import write_store
from moleblend.model.encoder import EncoderConfig
from moleblend.model.heads import HeadsConfig
from moleblend.pretraining.config import PretrainConfig, ScheduleConfig

TINY = EncoderConfig(width=8, ffn_width=8, n_layers=1, n_heads=2, n_kernels=4)


@pytest.fixture
def config(tmp_path: Path) -> PretrainConfig:
    """Chains without geometry: a step takes some milliseconds."""
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
