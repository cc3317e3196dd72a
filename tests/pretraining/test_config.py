"""Configurations that are refused, and the learning rate schedule."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from moleblend.pretraining.config import PretrainConfig, ScheduleConfig
from tests.helpers.pretraining import (
    run_pretraining,
)


@pytest.fixture
def config(qm9_config: PretrainConfig) -> PretrainConfig:
    return qm9_config


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"n_held_out": 0}, "got n_held_out=0, expected at least 1"),
        ({"log_every": 0}, "got log_every=0, expected at least 1"),
        ({"seed": -1}, "got seed=-1 and n_workers=0, expected at least 0"),
    ],
)
def test_a_wrong_configuration_is_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PretrainConfig(**changed)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"steps": 0}, "got steps=0 and batch_size=64, expected at least 1"),
        ({"steps": 10, "warmup_steps": 10}, "got warmup_steps=10, expected 0 to 9 .below steps=10"),
        (
            {"steps": 2_000, "fall_steps": 1_001},
            "got fall_steps=1001, expected 1 to 1000, the number of",
        ),
        ({"learning_rate": 0.0}, "got learning_rate=0.0 and clip_norm=5.0, expected positive"),
    ],
)
def test_a_wrong_schedule_is_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ScheduleConfig(**changed)


def test_the_rate_rises_and_falls() -> None:
    schedule = ScheduleConfig(steps=110, warmup_steps=10)
    factors = [schedule.factor(step) for step in (0, 5, 10, 60, 110, 500)]
    assert factors == pytest.approx([0, 0.5, 1, 0.5, 0, 0])
    late = replace(schedule, fall_steps=20)
    factors = [late.factor(step) for step in (5, 10, 60, 90, 100, 110)]
    assert factors == pytest.approx([0.5, 1, 1, 1, 0.5, 0])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_refused(config: PretrainConfig) -> None:
    with pytest.raises(ValueError, match="no GPU that torch can use"):
        run_pretraining(replace(config, device="cuda"))
    assert not Path(config.out).exists()
