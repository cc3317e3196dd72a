"""Batches and random draws of every training step, which depend only on the seed and the step."""

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

from moleblend.chem.descriptors import compute_descriptors, fingerprint_bits
from moleblend.chem.molecule import Molecule
from moleblend.data.store import MoleculeStore
from moleblend.model.batch import Batch, collate, shuffled_batches
from moleblend.model.blending import Blend, draw_blend
from moleblend.model.heads import HeadsConfig
from moleblend.model.objectives import Objective
from moleblend.pretraining.config import PretrainConfig
from moleblend.pretraining.labels import LabelTable


@dataclass(frozen=True, eq=False)
class MicroBatch:
    """The molecules of a step that one process computes at once.

    Attributes:
        batch: the molecules.
        blend: the views that the encoder is shown.
        seed: random seed of dropout.
        draw_seed: random seed of the objective's draws, the same for all micro-batches of a step.
        fraction: fraction of the molecules of the step.
        scored: `Objective.scored`, summed over all micro-batches of this process in the step; None
            if the micro-batch is the complete step.
        is_counted: whether its loss counts. With fewer molecules than micro-batches, some
            micro-batches repeat a molecule, so that all processes do the same; their loss does not
            count.
        ends_step: whether the weights are updated after it.
    """

    batch: Batch
    blend: Blend
    seed: int
    draw_seed: int
    fraction: float
    scored: dict[str, Float[Tensor, ""]] | None
    is_counted: bool
    ends_step: bool

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "MicroBatch":
        """Move every tensor to a device."""
        return replace(
            self,
            batch=self.batch.to(device, non_blocking),
            blend=self.blend.to(device, non_blocking),
            scored=self.scored and {name: n.to(device) for name, n in self.scored.items()},
        )


class StepDataset(Dataset):
    """The micro-batches of every training step, as a function of the seed and the step alone.

    Each epoch has every molecule once, in newly drawn batches; one batch may be smaller. The batch
    of a step is divided over processes and micro-batches. The random draws of a molecule depend on
    its position in the complete batch of the step; only dropout depends on the micro-batch.

    Args:
        store: store of the molecules.
        rows: rows of the store that are trained on.
        config: configuration of the run.
        rank: number of this process.
        n_ranks: number of processes.
        objective: counts what the micro-batches of a step score; None if the step is not divided,
            or if the objective is a function.
        labels: measured labels of molecules; None if no objective predicts them.
    """

    def __init__(
        self,
        store: MoleculeStore,
        rows: Int64[np.ndarray, " m"],
        config: PretrainConfig,
        rank: int = 0,
        n_ranks: int = 1,
        *,
        objective: Objective | None = None,
        labels: LabelTable | None = None,
    ) -> None:
        self.store, self.rows, self.config = store, rows, config
        self.objective, self.labels = objective, labels
        self.rank, self.n_ranks = rank, n_ranks
        self._n_atoms = store.n_atoms()
        # For random batches all molecules get the same size.
        is_similar = config.schedule.batches == "similar"
        self._sizes = self._n_atoms[rows] if is_similar else np.zeros_like(rows)
        self._epoch, self._batches = -1, []

    @property
    def n_micro_batches(self) -> int:
        """Number of micro-batches of a step, over all processes."""
        return self.n_ranks * self.config.accumulate

    def rows_of(self, step: int) -> Int64[np.ndarray, " b"]:
        """Rows of the store that a step trains on, over all processes."""
        batch_size = self.config.schedule.batch_size
        epoch, number = divmod(step, math.ceil(len(self.rows) / batch_size))
        if epoch != self._epoch:
            rng = np.random.default_rng((self.config.seed, epoch))
            self._batches = shuffled_batches(self._sizes, batch_size, rng)
            self._epoch = epoch
        return self.rows[self._batches[number]]

    def positions_of(self, step: int) -> list[Int64[np.ndarray, " k"]]:
        """Positions in a step's batch that this process computes, for each micro-batch.

        A micro-batch has molecules of similar size, and processes take them in turn. This keeps
        padding small and the work of processes equal.
        """
        order = np.argsort(self._n_atoms[self.rows_of(step)], kind="stable")
        chunks = np.array_split(order, self.config.accumulate)
        return [chunk[self.rank :: self.n_ranks] for chunk in chunks]

    def __getitem__(self, index: int) -> list[MicroBatch]:
        rows, seed = self.rows_of(index), self.config.seed
        conformer_draws = np.random.default_rng((seed, index)).random(len(rows))
        seeds = np.random.SeedSequence((seed, index)).generate_state(1 + self.n_micro_batches)
        blend_seed, *dropout_seeds = seeds
        micro_batches = []
        for number, own in enumerate(self.positions_of(index)):
            positions = own if len(own) else np.zeros(1, np.int64)
            molecules = [self.store[int(row)] for row in rows[positions]]
            n_conformers = np.array([max(molecule.n_conformers, 1) for molecule in molecules])
            conformers = (conformer_draws[positions] * n_conformers).astype(int)
            batch = collate_for_heads(molecules, self.config.heads, conformers.tolist())
            batch = self._with_targets(batch, molecules)
            if self.n_micro_batches > 1:
                batch = replace(batch, places=torch.from_numpy(positions))
            rng = torch.Generator().manual_seed(int(blend_seed))
            micro_batches.append(
                MicroBatch(
                    batch=batch,
                    blend=draw_blend(batch, self.config.blend, rng),
                    seed=int(dropout_seeds[self.rank * self.config.accumulate + number]),
                    draw_seed=int(blend_seed),
                    fraction=len(own) / len(rows),
                    scored=None,
                    is_counted=len(own) > 0,
                    ends_step=number == self.config.accumulate - 1,
                )
            )
        is_divided = self.n_micro_batches > 1 and self.objective is not None
        return self._with_scored(micro_batches) if is_divided else micro_batches

    def _with_targets(self, batch: Batch, molecules: Sequence[Molecule]) -> Batch:
        """Add the fingerprints and labels that the objective predicts."""
        if self.config.objective.fingerprints > 0:
            bits = fingerprint_bits([molecule.smiles for molecule in molecules])
            batch = replace(batch, fingerprints=torch.from_numpy(bits))
        if self.labels is not None:
            labels = self.labels.of([molecule.smiles for molecule in molecules])
            batch = replace(batch, labels=torch.from_numpy(labels))
        return batch

    def _with_scored(self, micro_batches: list[MicroBatch]) -> list[MicroBatch]:
        """Give each micro-batch the denominators of the losses, summed over all of them."""
        assert self.objective is not None
        total: dict[str, Tensor] = {}
        for one in micro_batches:
            rng = torch.Generator().manual_seed(one.draw_seed)
            for name, scored in self.objective.scored(one.batch, one.blend, rng).items():
                total[name] = total.get(name, 0) + scored * one.is_counted
        return [replace(one, scored=total) for one in micro_batches]


def collate_for_heads(
    molecules: Sequence[Molecule], heads: HeadsConfig, conformers: Sequence[int] | None = None
) -> Batch:
    """Collate molecules; descriptors are included if the heads predict them."""
    batch = collate(molecules, conformers)
    if not heads.descriptors:
        return batch
    described = compute_descriptors([molecule.smiles for molecule in molecules])
    return replace(batch, descriptors=torch.from_numpy(described))


class StepLoader:
    """Loads the micro-batches of the remaining steps; its length is that of the complete run.

    It has no state that Lightning would have to restore: a micro-batch depends on the step alone.

    Args:
        dataset: the batches of the run.
        steps: numbers of the remaining steps.
        config: configuration of the run.
    """

    def __init__(self, dataset: StepDataset, steps: Sequence[int], config: PretrainConfig) -> None:
        self.n_micro_batches = config.schedule.steps * config.accumulate
        self.steps = DataLoader(
            dataset,
            batch_size=None,
            sampler=steps,
            num_workers=config.n_workers,
            worker_init_fn=_leave_interrupts_to_the_trainer,
        )

    def __iter__(self) -> Iterator[MicroBatch]:
        for micro_batches in self.steps:
            yield from micro_batches

    def __len__(self) -> int:
        return self.n_micro_batches

    def state_dict(self) -> dict[str, Any]:
        """Empty: micro-batches depend on the step alone."""
        return {}

    def load_state_dict(self, _: dict[str, Any]) -> None:
        """Nothing to do."""


def _leave_interrupts_to_the_trainer(_: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
