from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pytorch_lightning.loggers import Logger

from moleblend.pretraining import trackers
from moleblend.pretraining.config import PretrainConfig
from moleblend.pretraining.trackers import open_trackers, require_trackers
from tests.helpers.pretraining import run


class Remembering(Logger):
    """Replaces a logger of Lightning whose package may not be installed."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__()
        self.given, self.named = given, named
        self.hyperparams: dict[str, Any] = {}
        self.logged: list[tuple[int | None, set[str]]] = []
        OPENED.append(self)

    name, version = "remembering", "0"

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.logged.append((step, set(metrics)))

    def log_hyperparams(self, params: dict[str, Any], *_, **__) -> None:
        self.hyperparams.update(params)


OPENED: list[Remembering] = []


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names of packages that are taken to be installed."""
    names: set[str] = set()
    monkeypatch.setattr(trackers, "find_spec", lambda name: name if name in names else None)
    for logger in ("TensorBoardLogger", "WandbLogger", "MLFlowLogger"):
        kind = type(logger, (Remembering,), {})
        monkeypatch.setattr(trackers, logger, kind)
    OPENED.clear()
    return names


def test_tensorboard_gets_the_log_where_it_is_installed(
    config: PretrainConfig, installed: set[str]
) -> None:
    installed.add("tensorboard")
    run(config)
    (tracker,) = OPENED
    assert tracker.given == (Path(config.out),)
    assert tracker.named == {"name": "", "version": "tensorboard"}
    names = [names for step, names in tracker.logged if step == 4]
    assert {"loss", "path_length", "learning_rate", "molecules_per_s"} <= names[0]
    assert "path_length, visible" in names[1]
    assert "step" not in names[0]


def test_after_a_resume_tensorboard_hides_what_is_done_again(
    config: PretrainConfig, installed: set[str]
) -> None:
    installed.add("tensorboard")
    (tracker,) = open_trackers(config, 4)
    assert isinstance(tracker, Remembering)
    assert tracker.named["purge_step"] == 4


def test_nothing_is_sent_anywhere_unless_it_is_named(
    config: PretrainConfig, installed: set[str]
) -> None:
    installed.update({"wandb", "mlflow"})
    assert open_trackers(config, 0) == []
    require_trackers(replace(config, log_to=("wandb", "mlflow")))
    opened = open_trackers(replace(config, log_to=("wandb", "mlflow")), 0)
    assert [type(tracker).__name__ for tracker in opened] == ["WandbLogger", "MLFlowLogger"]
    assert all(tracker.hyperparams["schedule"]["steps"] == 6 for tracker in OPENED)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_named_one_that_is_missing_is_one_sentence(config: PretrainConfig, name: Any) -> None:
    message = f"log_to: {name} is not installed: pip install {name}"
    with pytest.raises(ValueError, match=message):
        run(replace(config, log_to=(name,)))
    assert not Path(config.out).exists()
