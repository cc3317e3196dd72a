"""Pretraining runs of some seconds."""

import csv
import io
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from rich.console import Console

from moleblend.chem.molecule import FeatureVersion, Molecule
from moleblend.data.formats import read_table
from moleblend.data.table import read_molecules
from moleblend.model import checkpoint
from moleblend.pretraining.callbacks import TrainingCallback
from moleblend.pretraining.config import PretrainConfig
from moleblend.pretraining.pretrain import PretrainResult, pretrain
from tests.helpers.molecules import QM9

N_MOLECULES, N_HELD_OUT = 60, 12


class StopHereError(Exception):
    """Ends a run like a kill."""


def run(config: PretrainConfig, *, resume: bool = False) -> str:
    """Pretrain; return the console output."""
    return run_pretraining(config, resume=resume)[1]


def run_pretraining(config: PretrainConfig, *, resume: bool = False) -> tuple[PretrainResult, str]:
    """Pretrain; return the result and the console output."""
    output = io.StringIO()
    result = pretrain(config, resume=resume, console=Console(file=output, width=200))
    return result, output.getvalue()


def stop_after(config: PretrainConfig, step: int, *, resume: bool = False) -> None:
    """Run until a step is finished, then end like a kill: nothing more is written."""
    original = TrainingCallback.on_train_batch_end

    def end(self: TrainingCallback, trainer: pl.Trainer, *rest: Any) -> None:
        original(self, trainer, *rest)
        if trainer.global_step == step:
            raise StopHereError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingCallback, "on_train_batch_end", end)
        with pytest.raises(StopHereError):
            run(config, resume=resume)


def qm9(features: FeatureVersion = "cip-1", n: int = N_MOLECULES) -> list[Molecule]:
    """Some molecules of QM9."""
    items = read_molecules(read_table(QM9).piece(100, 100 + n), features=features)
    return [item for item in items if isinstance(item, Molecule)]


def rows_of(path: Path) -> list[dict[str, str]]:
    """The rows of a csv file."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def losses(config: PretrainConfig) -> list[list[str]]:
    """The rows of the log without the speed."""
    rows = rows_of(Path(config.out) / "log.csv")
    return [[cell for name, cell in row.items() if name != "molecules_per_s"] for row in rows]


def weights(config: PretrainConfig) -> dict[str, torch.Tensor]:
    """The weights in the model file."""
    return checkpoint.load(Path(config.out) / "model.safetensors").state_dict()
