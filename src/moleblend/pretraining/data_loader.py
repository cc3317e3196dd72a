"""The batch and the chance of every step of a run: functions of the seed and the step alone."""

import math
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from moleblend.chem.descriptors import compute_descriptors
from moleblend.chem.molecule import Molecule
from moleblend.data.store import MoleculeStore
from moleblend.model.batch import Batch, collate, shuffled_batches
from moleblend.model.blending import Blend, draw_blend
from moleblend.model.heads import HeadsConfig
from moleblend.model.objectives import denominators
from moleblend.pretraining.config import PretrainConfig


@dataclass(frozen=True, eq=False)
class MicroBatch:
    """What one process computes at once of a step: its part of one micro-batch.

    Attributes:
        batch: molecules of the step.
        blend: what the encoder is shown of them.
        seed: of dropout.
        scored: summed `denominators` of all shares that this process has of the step; None where
            the share is the whole step.
        is_own: False where there were fewer molecules than shares. This one has borrowed a molecule
            then, so that all processes do the same, and its loss does not count.
        ends_step: whether the weights move after it.
    """

    batch: Batch
    blend: Blend
    seed: int
    scored: Float[Tensor, " l"] | None
    is_own: bool
    ends_step: bool

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "MicroBatch":
        """Move every tensor to a device."""
        return replace(
            self,
            batch=self.batch.to(device, non_blocking),
            blend=self.blend.to(device, non_blocking),
            scored=None if self.scored is None else self.scored.to(device),
        )


class StepDataset(Dataset):
    """The batch of every step of a run: a function of the seed and the step alone.

    Each epoch has every molecule once, in batches drawn anew; one of them may be smaller. A step is
    shared out over processes and micro-batches. What is drawn for a molecule depends on its place
    in the whole batch of the step; dropout alone depends on the share.

    Args:
        store: of the molecules.
        rows: of the store that are trained on.
        config: of the run.
        rank: number of this process.
        n_ranks: number of processes.
    """

    def __init__(
        self,
        store: MoleculeStore,
        rows: Int64[np.ndarray, " m"],
        config: PretrainConfig,
        rank: int = 0,
        n_ranks: int = 1,
    ) -> None:
        self.store, self.rows, self.config = store, rows, config
        self.rank, self.n_ranks = rank, n_ranks
        self._n_atoms = store.n_atoms()
        # Batches at random are batches of molecules that all count as of one size.
        is_similar = config.schedule.batches == "similar"
        self._sizes = self._n_atoms[rows] if is_similar else np.zeros_like(rows)
        self._epoch, self._batches = -1, []

    @property
    def n_shares(self) -> int:
        """Number of parts in which a step is computed."""
        return self.n_ranks * self.config.accumulate

    def rows_of(self, step: int) -> Int64[np.ndarray, " b"]:
        """Give the rows of the store that a step trains on, over all its shares."""
        batch_size = self.config.schedule.batch_size
        epoch, place = divmod(step, math.ceil(len(self.rows) / batch_size))
        if epoch != self._epoch:
            rng = np.random.default_rng((self.config.seed, epoch))
            self._batches = shuffled_batches(self._sizes, batch_size, rng)
            self._epoch = epoch
        return self.rows[self._batches[place]]

    def places_of(self, step: int) -> list[Int64[np.ndarray, " k"]]:
        """Share the places of a step's batch out: for each micro-batch, those of this process.

        A micro-batch has molecules of similar size, and they are dealt out in turn, so that little
        is padded and no process waits long for another.
        """
        order = np.argsort(self._n_atoms[self.rows_of(step)], kind="stable")
        pieces = np.array_split(order, self.config.accumulate)
        return [piece[self.rank :: self.n_ranks] for piece in pieces]

    def __getitem__(self, index: int) -> list[MicroBatch]:
        rows, seed = self.rows_of(index), self.config.seed
        conformer_draws = np.random.default_rng((seed, index)).random(len(rows))
        drawn, *dropped = np.random.SeedSequence((seed, index)).generate_state(1 + self.n_shares)
        shares = []
        for number, own in enumerate(self.places_of(index)):
            places = own if len(own) else np.zeros(1, np.int64)
            molecules = [self.store[int(row)] for row in rows[places]]
            n_conformers = np.array([max(molecule.n_conformers, 1) for molecule in molecules])
            conformers = (conformer_draws[places] * n_conformers).astype(int)
            batch = batch_of(molecules, self.config.heads, conformers.tolist())
            rng = torch.Generator().manual_seed(int(drawn))
            shares.append(
                MicroBatch(
                    batch=batch,
                    blend=draw_blend(batch, self.config.blend, rng, torch.from_numpy(places)),
                    seed=int(dropped[self.rank * self.config.accumulate + number]),
                    scored=None,
                    is_own=len(own) > 0,
                    ends_step=number == self.config.accumulate - 1,
                )
            )
        return shares if self.n_shares == 1 else self._with_sums(shares)

    def _with_sums(self, shares: list[MicroBatch]) -> list[MicroBatch]:
        """Tell each share what is scored in all of them."""
        objective, heads = self.config.objective, self.config.heads
        scored = [denominators(s.batch, s.blend, objective, heads) * s.is_own for s in shares]
        total = torch.stack(scored).sum(0)
        return [replace(share, scored=total) for share in shares]


def batch_of(
    molecules: Sequence[Molecule], heads: HeadsConfig, conformers: Sequence[int] | None = None
) -> Batch:
    """Collate molecules, with their descriptors where the heads predict them."""
    batch = collate(molecules, conformers)
    if not heads.descriptors:
        return batch
    described = compute_descriptors([molecule.smiles for molecule in molecules])
    return replace(batch, descriptors=torch.from_numpy(described))


class StepLoader:
    """Loads the shares of some steps, those still to do; its length is that of the whole run.

    Lightning may resume it in the middle: the step says all, so it has no state of its own.

    Args:
        batches: of the run.
        steps: their numbers.
        config: of the run.
    """

    def __init__(self, batches: StepDataset, steps: Sequence[int], config: PretrainConfig) -> None:
        self.n_shares = config.schedule.steps * config.accumulate
        self.steps = DataLoader(
            batches,
            batch_size=None,
            sampler=steps,
            num_workers=config.n_workers,
            worker_init_fn=_leave_interrupts_to_the_trainer,
        )

    def __iter__(self) -> Iterator[MicroBatch]:
        for shares in self.steps:
            yield from shares

    def __len__(self) -> int:
        return self.n_shares

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the shares of a step depend on the step alone."""
        return {}

    def load_state_dict(self, _: dict[str, Any]) -> None:
        """Nothing to do."""


def _leave_interrupts_to_the_trainer(_: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
