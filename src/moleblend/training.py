"""What pretraining and fine-tuning share: the learning-rate schedule and how Lightning is run."""

import logging
import math
import warnings
from collections.abc import Generator
from contextlib import contextmanager

_IGNORED_WARNINGS = (
    # Batches are made in the training process on purpose: for small molecules that is fastest.
    ".*does not have many workers.*",
    # Lightning 2.6 uses a class that torch 2.13 has renamed.
    ".*LeafSpec.*",
    # With fp16 the first step is skipped if its gradients overflow, which torch reports.
    ".*lr_scheduler.step\\(\\)` before.*",
)


def warmup_cosine(
    step: int,
    *,
    warmup_steps: int | float,
    decay_start: int | float,
    decay_steps: int | float,
    offset: int = 0,
) -> float:
    """Compute the factor of the learning rate: a linear warm-up, a plateau, then a cosine to 0.

    Args:
        step: optimiser step, counted from 0.
        warmup_steps: steps of the warm-up; may be fractional.
        decay_start: step at which the cosine begins; the factor is 1 before it.
        decay_steps: steps over which the cosine falls to 0.
        offset: added to step and length of the warm-up. With 0 the first step has the factor 0, as
            in pretraining; with 1 it has 1 / (warmup_steps + 1), as in fine-tuning.
    """
    if step < warmup_steps:
        return (step + offset) / (warmup_steps + offset)
    progress = min(max((step - decay_start) / decay_steps, 0.0), 1.0)
    return 0.5 * (1 + math.cos(math.pi * progress))


@contextmanager
def quiet_lightning() -> Generator[None, None, None]:
    """Silence the messages of Lightning that do not concern the user."""
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    with warnings.catch_warnings():
        for message in _IGNORED_WARNINGS:
            warnings.filterwarnings("ignore", message=message)
        yield


@contextmanager
def exit_as_interrupt() -> Generator[None, None, None]:
    """Raise KeyboardInterrupt instead of the SystemExit of Lightning after Ctrl-C or SIGTERM."""
    try:
        yield
    except SystemExit as error:
        raise KeyboardInterrupt from error
