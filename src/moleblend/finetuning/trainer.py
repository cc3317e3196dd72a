"""Run Lightning to fine-tune one model."""

from dataclasses import dataclass

import pytorch_lightning as pl
from rich.console import Console

from moleblend.data.dataset import MoleculeDataset
from moleblend.finetuning.callbacks import (
    EpochHistory,
    EpochSelection,
    ShouldContinue,
    WeightAverage,
)
from moleblend.finetuning.lightning_module import FineTuning
from moleblend.model.functional import drawing_from
from moleblend.training import exit_as_interrupt, quiet_lightning


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """A model after training, with the weights of the kept epoch.

    Attributes:
        module: holds the model.
        history: its epochs.
    """

    module: FineTuning
    history: EpochHistory


def fit(
    module: FineTuning,
    validation: MoleculeDataset,
    console: Console,
    should_continue: ShouldContinue | None = None,
) -> TrainedModel:
    """Train a model; afterwards it has the weights of the kept epoch.

    Args:
        module: model, settings and training set.
        validation: the validation set.
        console: where each epoch is printed.
        should_continue: called after each epoch; False ends training.

    Raises:
        FloatingPointError: the loss or a prediction is not finite.
        KeyboardInterrupt: Ctrl-C was pressed, or SIGTERM was received.
    """
    config = module.config
    average = WeightAverage(module.model, config.ema) if config.ema else None
    selection = EpochSelection(
        validation,
        console,
        patience=config.patience,
        average=average,
        should_continue=should_continue,
    )
    with quiet_lightning():
        trainer = pl.Trainer(
            accelerator=config.device,
            devices=1,
            max_epochs=config.epochs,
            gradient_clip_val=config.clip_norm,
            callbacks=[selection] if average is None else [average, selection],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        with exit_as_interrupt(), drawing_from(module.generator):
            trainer.fit(module)
    return TrainedModel(module, selection.history())
