"""The batch and the chance of every step of a run: functions of the seed and the step alone."""

import math
import signal
from collections.abc import Iterator, Sized
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch.utils.data import DataLoader, Dataset, Sampler

from moleblend.batch import Batch, collate, shuffled_batches
from moleblend.recipe import PretrainConfig
from moleblend.store import MoleculeStore


def seeded(seed: int, step: int) -> torch.Generator:
    """Give the generator of a step, and set torch's own (for dropout) from the same numbers."""
    drawn, dropped = np.random.SeedSequence((seed, step)).generate_state(2)
    torch.manual_seed(int(dropped))
    return torch.Generator().manual_seed(int(drawn))


class StepBatches(Dataset):
    """The batch of every step of a run: a function of the seed and the step alone.

    Each epoch has every molecule once, in batches drawn anew; one of them may be smaller.
    """

    def __init__(
        self, store: MoleculeStore, rows: Int64[np.ndarray, " m"], config: PretrainConfig
    ) -> None:
        self.store, self.rows, self.seed = store, rows, config.seed
        self.batch_size = config.schedule.batch_size
        # Batches at random are batches of molecules that all count as of one size.
        is_similar = config.schedule.batches == "similar"
        self._sizes = store.n_atoms()[rows] if is_similar else np.zeros_like(rows)
        self._epoch, self._batches = -1, []

    def rows_of(self, step: int) -> Int64[np.ndarray, " b"]:
        """Give the rows of the store that a step trains on."""
        epoch, place = divmod(step, math.ceil(len(self.rows) / self.batch_size))
        if epoch != self._epoch:
            chance = np.random.default_rng((self.seed, epoch))
            self._batches = shuffled_batches(self._sizes, self.batch_size, chance)
            self._epoch = epoch
        return self.rows[self._batches[place]]

    def __getitem__(self, index: int) -> Batch:
        molecules = [self.store[int(row)] for row in self.rows_of(index)]
        chance = np.random.default_rng((self.seed, index))
        conformers = [int(chance.integers(max(m.n_conformers, 1))) for m in molecules]
        return collate(molecules, conformers)


class _StepsFrom(Sampler[int], Sized):
    """Steps from the first one still to do; its length is that of the whole run."""

    def __init__(self, first: int, n_steps: int) -> None:
        self.first, self.n_steps = first, n_steps

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.first, self.n_steps))

    def __len__(self) -> int:
        return self.n_steps


class StepLoader(DataLoader):
    """Loads the batches of the steps still to do.

    Lightning may resume it in the middle: the step says all, so it has no state of its own.

    Args:
        batches: of the run.
        first: the first step still to do.
        config: of the run.
    """

    def __init__(self, batches: StepBatches, first: int, config: PretrainConfig) -> None:
        super().__init__(
            batches,
            batch_size=None,
            sampler=_StepsFrom(first, config.schedule.steps),
            num_workers=config.n_workers,
            worker_init_fn=_leave_interrupts_to_the_trainer,
        )

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the batch of a step depends on the step alone."""
        return {}

    def load_state_dict(self, _: dict[str, Any]) -> None:
        """Nothing to do."""


def _leave_interrupts_to_the_trainer(_: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
