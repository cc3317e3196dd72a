"""Small models, and runs of some seconds."""

import io
import json
from pathlib import Path

from rich.console import Console

from moleblend.finetuning.results import TrainResult
from moleblend.finetuning.train import TrainConfig, train
from moleblend.model.encoder_config import EncoderConfig

TINY = EncoderConfig(width=16, ffn_width=16, n_layers=1, n_heads=2, n_kernels=8)


def trained(tmp_path: Path, **flags) -> tuple[TrainResult, str, dict]:
    """Train a network on what is in the table; also give what was said and metrics.json."""
    told = io.StringIO()
    settings = {"epochs": 1, "batch_size": 16, "forest": 10, "members": "network"}
    settings |= {"device": "cpu", "encoder": TINY}
    config = TrainConfig(
        data=str(tmp_path / "table.csv"),
        source="scratch",
        out=str(tmp_path / "run"),
        **(settings | flags),
    )
    result = train(config, console=Console(file=told, width=200))
    return result, told.getvalue(), json.loads((tmp_path / "run/metrics.json").read_text())
