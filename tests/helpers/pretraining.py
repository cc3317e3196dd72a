"""Pretraining runs of some seconds."""

import io

from rich.console import Console

from moleblend.pretraining.config import PretrainConfig
from moleblend.pretraining.pretrain import pretrain


def run(config: PretrainConfig, *, resume: bool = False) -> str:
    output = io.StringIO()
    pretrain(config, resume=resume, console=Console(file=output, width=200))
    return output.getvalue()
