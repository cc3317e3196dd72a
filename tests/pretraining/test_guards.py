"""A run stops before a loss or a weight that is not finite is saved."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from moleblend.data.store import MoleculeStore
from moleblend.model.objectives import Loss
from moleblend.pretraining import callbacks, pretrain
from moleblend.pretraining.config import PretrainConfig
from moleblend.pretraining.data_loader import StepDataset
from tests.helpers.pretraining import (
    run_pretraining,
)


@pytest.fixture
def config(qm9_config: PretrainConfig) -> PretrainConfig:
    return qm9_config


def break_loss(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    original = pretrain.CombinedObjective.loss
    n_calls = iter(range(1, 1000))

    def broken(*arguments) -> Loss:
        loss = original(*arguments)
        return replace(loss, total=loss.total * math.nan) if next(n_calls) == step else loss

    monkeypatch.setattr(pretrain.CombinedObjective, "loss", broken)


def test_a_loss_that_is_not_finite_stops_the_run(config: PretrainConfig) -> None:
    with pytest.MonkeyPatch.context() as patch:
        break_loss(7, patch)
        with pytest.raises(FloatingPointError, match="the loss of step 7 is not finite") as caught:
            run_pretraining(config)
    store = MoleculeStore(config.data)
    _, train_rows = pretrain.hold_out(len(store), config)
    names = [store[int(row)].id for row in StepDataset(store, train_rows, config).rows_of(6)]
    assert f"{', '.join(names[:8])} and 2 more; " in str(caught.value)
    state = Path(config.out) / "state.ckpt"
    assert str(caught.value).endswith(f"; --resume continues from step 5 ({state})")
    _, output = run_pretraining(config, resume=True)
    assert "resumed at step 5" in output


def test_weights_that_are_not_finite_are_never_saved(config: PretrainConfig) -> None:
    """An infinite gradient makes the weights infinite although the loss was finite."""
    with pytest.MonkeyPatch.context() as patch:
        original = callbacks.TrainingCallback.on_before_backward

        def corrupt(self, trainer, pl_module, loss) -> None:
            original(self, trainer, pl_module, loss)
            if trainer.global_step == 9:  # step 10 is saved
                loss.register_hook(lambda gradient: gradient * math.inf)

        patch.setattr(callbacks.TrainingCallback, "on_before_backward", corrupt)
        with pytest.raises(FloatingPointError, match="a weight of step 10 is not finite"):
            run_pretraining(config)
    _, output = run_pretraining(config, resume=True)
    assert "resumed at step 5" in output
