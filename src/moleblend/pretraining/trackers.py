"""Where else the log of a pretraining run goes, beside its csv files."""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from moleblend.config import to_dict
from moleblend.pretraining.config import PretrainConfig


def require_trackers(config: PretrainConfig) -> None:
    """Make sure that the trackers a run names are installed.

    Raises:
        ValueError: one is not.
    """
    for name in config.log_to:
        if find_spec(name) is None:
            raise ValueError(f"log_to names {name}, which is not installed: pip install {name}")


def open_trackers(config: PretrainConfig, step: int) -> list[Logger]:
    """Open TensorBoard where it is installed, and what the run names.

    TensorBoard writes into the run folder. The others may send what they are given elsewhere or
    ask for a login, so they have to be named; their own environment variables (WANDB_MODE,
    MLFLOW_TRACKING_URI) say where to.

    Args:
        config: the run.
        step: that it goes on from; TensorBoard hides what was logged after it.
    """
    out = Path(config.out)
    trackers: list[Logger] = []
    if find_spec("tensorboard") is not None:
        purged: dict[str, Any] = {"purge_step": step} if step else {}
        trackers += [TensorBoardLogger(out, name="", version="tensorboard", **purged)]
    if "wandb" in config.log_to:
        trackers += [
            WandbLogger(project="moleblend", name=out.name, group=str(out), save_dir=str(out))
        ]
    if "mlflow" in config.log_to:
        # MLflow no longer writes into plain folders.
        uri = os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{out.resolve()}/mlflow.db")
        trackers += [MLFlowLogger("moleblend", run_name=out.name, tracking_uri=uri)]
    for tracker in trackers:
        if not isinstance(tracker, TensorBoardLogger):
            tracker.log_hyperparams(to_dict(config))
    return trackers
