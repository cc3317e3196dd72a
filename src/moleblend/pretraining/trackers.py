"""Experiment trackers of a pretraining run: TensorBoard, Weights & Biases, MLflow."""

import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from moleblend.config import to_dict
from moleblend.errors import SettingError
from moleblend.pretraining.config import PretrainConfig


def require_trackers(config: PretrainConfig) -> None:
    """Check that the trackers in `log_to` are installed.

    Raises:
        SettingError: a tracker is not installed.
    """
    for name in config.log_to:
        if find_spec(name) is None:
            raise SettingError(f"log_to: {name} is not installed: pip install {name}")


def open_trackers(config: PretrainConfig, step: int) -> list[Logger]:
    """Open TensorBoard if it is installed, and the trackers in `log_to`.

    TensorBoard writes to the run folder. The other trackers may upload data or need a login, so
    they are only used if `log_to` lists them. Their environment variables (WANDB_MODE,
    MLFLOW_TRACKING_URI) select the server.

    Args:
        config: configuration of the run.
        step: step that the run resumes at; TensorBoard hides what was logged after it.
    """
    out = Path(config.out)
    trackers: list[Logger] = []
    if find_spec("tensorboard") is not None:
        options: dict[str, Any] = {"purge_step": step} if step else {}
        trackers += [TensorBoardLogger(out, name="", version="tensorboard", **options)]
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


def log_metrics(trainer: pl.Trainer, metrics: Mapping[str, float | int]) -> None:
    """Send the metrics of the current step to all trackers."""
    values = {name: value for name, value in metrics.items() if name != "step"}
    for tracker in trainer.loggers:
        tracker.log_metrics(values, step=trainer.global_step)
