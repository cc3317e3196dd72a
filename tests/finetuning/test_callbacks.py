import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console

from moleblend.chem.parsing import read_smiles
from moleblend.data.dataset import MoleculeDataset
from moleblend.data.targets import Target
from moleblend.finetuning import callbacks
from moleblend.finetuning.callbacks import EpochHistory, WeightAverage
from moleblend.finetuning.config import TrainConfig
from moleblend.finetuning.lightning_module import FineTuning
from moleblend.finetuning.trainer import fit
from moleblend.finetuning.validation import ValidationScore
from moleblend.model.heads import Model, ModelConfig
from tests.helpers.runs import TINY

CONFIG = TrainConfig("x.csv", epochs=30, batch_size=4, learning_rate=1e-2, device="cpu")


def alkanes(n: int, start: int = 1) -> MoleculeDataset:
    molecules = [read_smiles("C" * k) for k in range(start, start + n)]
    labels = np.arange(start, start + n, dtype=float)[:, None]
    censoring, features = np.zeros((n, 1), np.int8), np.zeros((n, 0), np.float32)
    return MoleculeDataset(molecules, labels, censoring, features)


class Scripted:
    """Fine-tuning whose epochs have given scores; the weights of each epoch are noted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, scores: list[float]) -> None:
        self.seen: list[dict[str, torch.Tensor]] = []
        torch.manual_seed(0)
        target = Target("y", "regression", mean=5.0, scale=2.0)
        self.model = Model(ModelConfig(TINY, None, (target,)))

        def score(*_: object) -> ValidationScore:
            self.seen.append({k: v.clone() for k, v in self.model.state_dict().items()})
            value = scores[len(self.seen) - 1]
            return ValidationScore(value, -value, "as given")

        monkeypatch.setattr(callbacks, "score_validation", score)

    def fit(self, config: TrainConfig, **options: object) -> EpochHistory:
        module = FineTuning(self.model, config, "2d", alkanes(12), seed=0)
        return fit(module, alkanes(4, 3), Console(file=io.StringIO()), **options).history

    def has_weights_of(self, epoch: int) -> bool:
        kept = self.model.state_dict()
        return all(torch.equal(kept[name], self.seen[epoch - 1][name]) for name in kept)


def test_early_stopping_goes_back_to_the_best_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Validation is best in epoch 2: its weights are kept, and training ends 3 epochs later."""
    scripted = Scripted(monkeypatch, [-5.0, -1.0, -2.0, -1.0, -4.0, 0.0])
    history = scripted.fit(replace(CONFIG, patience=3))
    assert [epoch["validation"] for epoch in history.epochs] == [5.0, 1.0, 2.0, 1.0, 4.0]
    assert (history.kept_epoch, history.kept_score) == (2, -1.0)
    assert scripted.has_weights_of(2)
    assert not scripted.has_weights_of(5)


def test_scores_that_float32_cannot_tell_apart_are_told_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scripted = Scripted(monkeypatch, [0.5, 0.5 + 1e-12, 0.5])
    history = scripted.fit(replace(CONFIG, epochs=3, patience=3))
    assert history.kept_epoch == 2
    assert scripted.has_weights_of(2)


def test_without_patience_the_last_epoch_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    scripted = Scripted(monkeypatch, [0.9, 0.1, 0.2])
    history = scripted.fit(replace(CONFIG, epochs=3))
    assert (history.kept_epoch, history.kept_score) == (3, 0.2)
    assert scripted.has_weights_of(3)


def test_training_stops_when_the_caller_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    scripted = Scripted(monkeypatch, [0.1, 0.3, 0.2])
    calls: list[tuple[int, float]] = []

    def should_continue(epoch: int, kept_score: float) -> bool:
        calls.append((epoch, kept_score))
        return epoch < 2

    history = scripted.fit(replace(CONFIG, epochs=3), should_continue=should_continue)
    assert len(history.epochs) == 2
    assert calls == [(1, 0.1), (2, 0.3)]


def test_an_average_follows_the_trained_weights_only() -> None:
    """After one update the average has moved by a quarter of the way; frozen weights stay."""
    model = Model(ModelConfig(TINY, None, (Target("y", "regression"),)))
    model.encoder.requires_grad_(False)
    began = {name: weight.clone() for name, weight in model.state_dict().items()}
    average = WeightAverage(model, 0.75)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(1)
    trained = {name: weight.clone() for name, weight in model.state_dict().items()}
    average.on_train_batch_end()
    with average.applied():
        for name, weight in model.named_parameters():
            moved = 0.25 if weight.requires_grad else 0.0
            torch.testing.assert_close(weight.detach(), began[name] + moved)
    assert all(torch.equal(weight, trained[name]) for name, weight in model.state_dict().items())
