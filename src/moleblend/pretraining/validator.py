"""Validation during a pretraining run: scores on held-out molecules, and the model file."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from moleblend.config import to_dict
from moleblend.data.store import MoleculeStore
from moleblend.model import checkpoint
from moleblend.model.heads import Model
from moleblend.pretraining.config import PretrainConfig
from moleblend.pretraining.data_loader import collate_for_heads
from moleblend.pretraining.validation import Score, score_views


class Validator:
    """Scores a model on the held-out molecules, and writes it to the model file.

    Args:
        store: store of the molecules.
        held_out: rows of the held-out molecules.
        config: configuration of the run.
        source_sha256: hash of the model file that the run started from; empty if there is none.
    """

    def __init__(
        self,
        store: MoleculeStore,
        held_out: Int64[np.ndarray, " v"],
        config: PretrainConfig,
        source_sha256: str = "",
    ) -> None:
        self.config = config
        self.molecules = [store[int(row)] for row in held_out]
        self.source_sha256 = source_sha256
        self.card = checkpoint.Card(
            trained_by="pretrain",
            data=Path(config.data).name,
            data_fingerprint=store.fingerprint,
            views="both" if any(molecule.n_conformers for molecule in store) else "2d",
        )

    def score(self, model: Model) -> list[Score]:
        """Score the predicted views; the blends are the same in every validation."""
        size, heads = self.config.schedule.batch_size, self.config.heads
        starts = range(0, len(self.molecules), size)
        batches = (collate_for_heads(self.molecules[k : k + size], heads) for k in starts)
        return score_views(model, batches, self.config.blend, self.config.seed)

    def save_model(self, model: Model, step: int, path: Path) -> None:
        """Write the model file; its header names data, run and source without their folders."""
        config = self.config
        source = Path(config.source).name
        named = replace(config, data=self.card.data, out=Path(config.out).name, source=source)
        notes = {"step": step, "config": to_dict(named)}
        if source:
            notes["source_sha256"] = self.source_sha256
        checkpoint.save(model, path, replace(self.card, notes=notes))
