"""Callbacks of fine-tuning: the average of the weights, and the choice of the epoch to keep.

Lightning has callbacks for both, which do not fit here. `WeightAveraging` starts from the weights
after the first step instead of the initial ones, and copies the whole module with its data.
`ModelCheckpoint` writes each kept epoch to disk. `EarlyStopping` compares scores in float32, so
that close scores become ties. These callbacks keep the weights in memory and compare in float64.
"""

import copy
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from rich.console import Console
from torch import Tensor

from moleblend.data.dataset import MoleculeDataset
from moleblend.finetuning.lightning_module import FineTuning
from moleblend.finetuning.validation import score_validation
from moleblend.model.heads import Model

ShouldContinue = Callable[[int, float], bool]
"""Gets the epoch and the score of the kept weights; returns whether training continues."""


@dataclass(frozen=True)
class EpochHistory:
    """The epochs of one training, and which one was kept.

    Attributes:
        epochs: `epoch`, `training_loss` and `validation` of each epoch, see
            `ValidationScore.reported`.
        kept_epoch: epoch of the kept weights, counted from 1.
        kept_score: its validation score; higher is better.
    """

    epochs: tuple[dict[str, int | float], ...]
    kept_epoch: int
    kept_score: float


class WeightAverage(pl.Callback):
    """Exponential moving average of the trained weights; other weights keep their values.

    Args:
        model: model before training.
        decay: weight of the old average in an update.
    """

    def __init__(self, model: Model, decay: float) -> None:
        self._model, self._decay = model, decay
        self._average = copy.deepcopy(model.state_dict())

    def on_train_batch_end(self, *_: object, **__: object) -> None:
        """Update the average after an optimiser step."""
        for name, weight in self._model.named_parameters():
            if weight.requires_grad:
                self._average[name] = torch.lerp(
                    weight.detach(), self._average[name].to(weight.device), self._decay
                )

    @contextmanager
    def applied(self) -> Generator[None, None, None]:
        """Give the model the averaged weights inside a `with` block."""
        trained = copy.deepcopy(self._model.state_dict())
        self._model.load_state_dict(self._average)
        try:
            yield
        finally:
            self._model.load_state_dict(trained)


class EpochSelection(pl.Callback):
    """Validates each epoch, keeps the weights of the last or the best one, and stops training.

    Args:
        validation: the validation set.
        console: where each epoch is printed.
        patience: epochs without a better score after which training stops; the best epoch is kept.
            0 keeps the last epoch.
        average: average of the weights, which is validated and kept instead of the weights.
        should_continue: called after each epoch; False ends training.
    """

    def __init__(
        self,
        validation: MoleculeDataset,
        console: Console,
        *,
        patience: int = 0,
        average: WeightAverage | None = None,
        should_continue: ShouldContinue | None = None,
    ) -> None:
        self._validation, self._console = validation, console
        self._patience, self._average = patience, average
        self._should_continue = should_continue
        self._epochs: list[dict[str, int | float]] = []
        self._kept_epoch, self._kept_score = 0, -np.inf
        self._kept_weights: dict[str, Tensor] = {}
        self._losses: list[float] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Keep the initial weights until an epoch is kept."""
        assert isinstance(pl_module, FineTuning)
        self._kept_weights = copy.deepcopy(pl_module.model.state_dict())

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,  # noqa: ARG002
        pl_module: pl.LightningModule,  # noqa: ARG002
        outputs: Tensor | Mapping[str, Any] | None,
        batch: object,  # noqa: ARG002
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        """Collect the loss of a step."""
        assert isinstance(outputs, Mapping)
        self._losses.append(outputs["loss"].item())

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Validate, keep the weights if they are better or no patience is set, and maybe stop."""
        assert isinstance(pl_module, FineTuning)
        epoch = trainer.current_epoch + 1
        with self._average.applied() if self._average else nullcontext():
            outputs = pl_module.outputs(self._validation)
            if not np.isfinite(outputs).all():
                raise pl_module.diverged("a prediction")
            score = score_validation(outputs, self._validation, pl_module.model.config.targets)
            if not self._patience or score.value > self._kept_score:
                self._kept_epoch, self._kept_score = epoch, score.value
                self._kept_weights = copy.deepcopy(pl_module.model.state_dict())
        loss = float(np.mean(self._losses))
        self._losses = []
        self._epochs.append({"epoch": epoch, "training_loss": loss, "validation": score.reported})
        self._console.print(
            f"epoch {epoch}  training loss {loss:.4f}  validation {score.text}", soft_wrap=True
        )
        is_stopped = self._should_continue is not None and not self._should_continue(
            epoch, self._kept_score
        )
        if is_stopped or (self._patience and epoch - self._kept_epoch >= self._patience):
            trainer.should_stop = True

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Load the weights of the kept epoch."""
        assert isinstance(pl_module, FineTuning)
        pl_module.model.load_state_dict(self._kept_weights)

    def history(self) -> EpochHistory:
        """Return the epochs so far."""
        return EpochHistory(tuple(self._epochs), self._kept_epoch, self._kept_score)
