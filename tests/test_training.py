import logging
import warnings

import pytest

from moleblend.training import exit_as_interrupt, quiet_lightning, warmup_cosine


def test_the_rate_rises_stays_and_falls_to_zero() -> None:
    schedule = {"warmup_steps": 4, "decay_start": 10, "decay_steps": 10}
    factors = [warmup_cosine(step, **schedule) for step in (0, 2, 4, 10, 15, 20, 30)]
    assert factors == pytest.approx([0, 0.5, 1, 1, 0.5, 0, 0])


def test_with_an_offset_the_first_step_learns() -> None:
    schedule = {"warmup_steps": 3, "decay_start": 3, "decay_steps": 4, "offset": 1}
    factors = [warmup_cosine(step, **schedule) for step in range(8)]
    assert factors[:4] == pytest.approx([1 / 4, 2 / 4, 3 / 4, 1])
    assert factors[5] == pytest.approx(0.5)
    assert factors[7] == pytest.approx(0)
    fractional = warmup_cosine(1, warmup_steps=1.5, decay_start=1.5, decay_steps=1, offset=1)
    assert fractional == pytest.approx(2 / 2.5)


def test_lightning_is_quiet_and_other_warnings_are_not() -> None:
    with quiet_lightning():
        warnings.warn("The loader does not have many workers", stacklevel=1)
        with pytest.warns(UserWarning, match="of ours"):
            warnings.warn("of ours", stacklevel=1)
    assert logging.getLogger("pytorch_lightning").level == logging.WARNING


def test_an_exit_of_lightning_is_an_interrupt() -> None:
    with pytest.raises(KeyboardInterrupt), exit_as_interrupt():
        raise SystemExit(1)
    with pytest.raises(ValueError, match="other"), exit_as_interrupt():
        raise ValueError("other")
