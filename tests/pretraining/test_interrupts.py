"""Ctrl-C and SIGTERM during a run."""

import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from moleblend.model.objectives import Loss
from moleblend.pretraining import pretrain
from moleblend.pretraining.config import PretrainConfig
from tests.helpers.pretraining import (
    losses,
    run_pretraining,
)


@pytest.fixture
def config(qm9_config: PretrainConfig) -> PretrainConfig:
    return qm9_config


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_finishes_the_step_and_saves(
    config: PretrainConfig, tmp_path: Path, number: signal.Signals
) -> None:
    before = signal.getsignal(number)
    with pytest.MonkeyPatch.context() as patch:
        original = pretrain.CombinedObjective.loss
        n_calls = iter(range(1, 1000))

        def pressed(*arguments) -> Loss:
            if next(n_calls) == 3:
                signal.raise_signal(number)
            return original(*arguments)

        patch.setattr(pretrain.CombinedObjective, "loss", pressed)
        with pytest.raises(KeyboardInterrupt):
            run_pretraining(config)
    assert signal.getsignal(number) is before
    _, output = run_pretraining(config, resume=True)
    assert "resumed at step 3" in output
    uninterrupted = replace(config, out=str(tmp_path / "uninterrupted"))
    run_pretraining(uninterrupted)
    assert losses(config) == losses(uninterrupted)


@pytest.fixture
def default_sigint() -> Iterator[None]:
    """Handle Ctrl-C as in a terminal: a background job of a shell ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("default_sigint")
def test_a_second_ctrl_c_stops_at_once(config: PretrainConfig) -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.MonkeyPatch.context() as patch:

        def pressed(*_) -> Loss:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            raise AssertionError("the second signal had no effect")

        patch.setattr(pretrain.CombinedObjective, "loss", pressed)
        with pytest.raises(KeyboardInterrupt):
            run_pretraining(config)
    assert signal.getsignal(signal.SIGINT) is before
    assert not (Path(config.out) / "state.ckpt").exists()
