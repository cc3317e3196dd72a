"""Pretraining runs of some seconds."""

import io

from rich.console import Console

from moleblend.pretraining.config import PretrainConfig
from moleblend.pretraining.pretrain import pretrain


def run(config: PretrainConfig, *, resume: bool = False) -> str:
    told = io.StringIO()
    pretrain(config, resume=resume, console=Console(file=told, width=200))
    return told.getvalue()
