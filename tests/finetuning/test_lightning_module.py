import io
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console

from moleblend.chem.parsing import read_smiles
from moleblend.data.dataset import MoleculeDataset
from moleblend.data.targets import Target, scale_labels
from moleblend.evaluation.metrics import metrics_by_target
from moleblend.finetuning.config import TrainConfig
from moleblend.finetuning.lightning_module import FineTuning
from moleblend.finetuning.loss import property_loss
from moleblend.finetuning.trainer import fit
from moleblend.finetuning.validation import mean_roc_auc, scaled_rmse, score_validation
from moleblend.model.batch import Batch, collate
from moleblend.model.encoder_config import EncoderConfig
from moleblend.model.heads import Model, ModelConfig

NAN = float("nan")
TINY = EncoderConfig(width=16, ffn_width=16, n_layers=2, n_heads=2, n_kernels=8)
NUMBER = Target("r", "regression")
CLASSES = Target("m", "multiclass", classes=("a", "b", "c"))


def loss_of(
    output: Sequence[Sequence[float]],
    labels: Sequence[Sequence[float]],
    targets: Sequence[Target],
    censoring: Sequence[Sequence[int]] | None = None,
    weights: torch.Tensor | None = None,
) -> tuple[float, list]:
    """The loss and its gradient."""
    given = torch.tensor(output, requires_grad=True)
    known = torch.tensor(labels)
    given_censoring = torch.zeros(known.shape) if censoring is None else torch.tensor(censoring)
    loss = property_loss(given, known, given_censoring.to(torch.int8), targets, weights)
    loss.backward()
    assert given.grad is not None
    return loss.item(), given.grad.tolist()


def test_a_missing_label_has_no_gradient() -> None:
    targets = (NUMBER, Target("b", "binary"))
    loss, slope = loss_of([[1.0, 0.0], [3.0, 2.0]], [[2.0, 1.0], [NAN, NAN]], targets)
    assert loss == pytest.approx(((1 - 2) ** 2 + np.log(2)) / 2)
    assert slope[1] == [0, 0]
    assert loss_of([[1.0, 0.0]], [[NAN, NAN]], targets)[0] == 0


def test_a_censored_label_costs_only_on_the_wrong_side() -> None:
    """More than 2: 1 is wrong by 1, 5 is allowed. Less than 2: 5 is wrong by 3, 1 is allowed."""
    output, labels = [[1.0], [5.0], [5.0], [1.0]], [[2.0]] * 4
    loss, slope = loss_of(output, labels, [NUMBER], [[1], [1], [-1], [-1]])
    assert loss == pytest.approx((1 + 0 + 9 + 0) / 4)
    assert [row[0] for row in slope] == pytest.approx([-0.5, 0, 1.5, 0])


def test_violated_censored_labels_count_in_the_rmse() -> None:
    output, label = np.array([1, 5, 5, 1, 9], "f4"), np.array([2, 2, 2, 2, NAN], "f4")
    found = scaled_rmse(output, label, np.array([1, 1, -1, 0, 0], np.int8))
    assert found == pytest.approx(np.sqrt((1 + 0 + 9 + 1) / 4))


def test_several_classes_by_hand() -> None:
    logits, labels = [[0.3, 1.0, 2.0, 0.0], [0.3, 1.0, 2.0, 0.0]], [[0.3, 1.0], [0.3, NAN]]
    loss, slope = loss_of(logits, labels, (NUMBER, CLASSES))
    share = np.exp([1.0, 2.0, 0.0]) / np.exp([1.0, 2.0, 0.0]).sum()
    assert loss == pytest.approx(-np.log(share[1]) / 3)
    assert slope[0][1:] == pytest.approx((share - [0, 1, 0]) / 3)
    assert slope[1] == [0, 0, 0, 0]


def test_rare_positives_weigh_more_where_this_is_asked() -> None:
    logits, labels = [[0.0], [0.0]], [[1.0], [0.0]]
    target = [Target("b", "binary")]
    assert loss_of(logits, labels, target)[0] == pytest.approx(np.log(2))
    weighted, _ = loss_of(logits, labels, target, weights=torch.tensor([3.0]))
    assert weighted == pytest.approx((3 + 1) / 2 * np.log(2))


def test_labels_are_scaled_after_their_logarithm() -> None:
    targets = (Target("a", "regression", mean=2.0, scale=0.5, log10=True), Target("b", "binary"))
    found = scale_labels(np.array([[1000.0, 1.0], [NAN, 0.0]]), targets)
    np.testing.assert_allclose(found, [[2, 1], [NAN, 0]])


def alkanes(n: int, start: int = 1) -> MoleculeDataset:
    molecules = [read_smiles("C" * k) for k in range(start, start + n)]
    labels = np.arange(start, start + n, dtype=float)[:, None]
    return MoleculeDataset(
        molecules, labels, np.zeros((n, 1), np.int8), np.zeros((n, 0), np.float32)
    )


VALIDATION = alkanes(4, 3)


def tuned(config: TrainConfig) -> tuple[FineTuning, dict[str, torch.Tensor]]:
    """A run that is over, and the weights that it began with."""
    torch.manual_seed(0)
    target = Target("y", "regression", mean=5.0, scale=2.0)
    model = Model(ModelConfig(TINY, None, (target,)))
    began = {name: weight.clone() for name, weight in model.state_dict().items()}
    module = FineTuning(model, config, "2d", alkanes(12), seed=0)
    fit(module, VALIDATION, Console(file=io.StringIO()))
    return module, began


CONFIG = TrainConfig("x.csv", epochs=3, batch_size=4, learning_rate=1e-2, device="cpu")


def moved(run: FineTuning, began: dict[str, torch.Tensor], prefix: str) -> float:
    return max(
        float((weight - began[name]).abs().max())
        for name, weight in run.model.state_dict().items()
        if name.startswith(prefix)
    )


def test_large_molecules_are_computed_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same gradients, for any number of pairs at once; dropout is left out."""
    molecules = [read_smiles("C" * n) for n in (9, 10, 11, 12, 12)]
    config = TrainConfig("x.csv", features=("ecfp4",))
    encoder = replace(TINY, attention_dropout=0.0, activation_dropout=0.0, stochastic_depth=0.0)
    torch.manual_seed(0)
    model = Model(
        ModelConfig(
            encoder=encoder, heads=None, targets=(NUMBER,), features=("ecfp4",), n_features=3
        )
    ).train()
    labels = np.arange(5.0)[:, None]
    features = np.random.default_rng(0).random((5, 3)).astype(np.float32)
    dataset = MoleculeDataset(molecules, labels, np.zeros((5, 1), np.int8), features)
    found, sizes, forward = [], [], Model.forward

    def noted(self: Model, batch: Batch, *rest: object) -> torch.Tensor:
        sizes.append(len(batch))
        return forward(self, batch, *rest)

    monkeypatch.setattr(Model, "forward", noted)
    for n_pairs in (2**18, 2 * 144, 1):
        run = FineTuning(model, config, "2d", dataset, seed=0, max_pairs=n_pairs)
        model.zero_grad()
        known = torch.from_numpy(labels).float(), torch.from_numpy(dataset.censoring)
        batch = (collate(molecules), torch.from_numpy(features), *known)
        loss = run.training_step(batch, 0)
        loss.backward()
        found.append([loss, *(p.grad.clone() for p in model.parameters() if p.grad is not None)])
    # each piece twice: forward, and once more for its gradients
    assert {n: sizes.count(n) for n in (5, 2, 1)} == {5: 1, 2: 4, 1: 2 + 10}
    torch.testing.assert_close(found[1], found[0])
    torch.testing.assert_close(found[2], found[0])


def test_a_frozen_encoder_stays_and_the_head_learns() -> None:
    run, began = tuned(replace(CONFIG, freeze=True))
    assert moved(run, began, "encoder") == 0
    assert moved(run, began, "property_head") > 1e-3
    known = run.outputs(VALIDATION)
    run.config = replace(run.config, freeze=False)
    np.testing.assert_allclose(run.outputs(VALIDATION), known, atol=1e-5)
    assert moved(*tuned(CONFIG), "encoder") > 1e-3


def test_the_mean_of_the_weights_is_what_is_kept() -> None:
    """A mean that hardly follows has not moved, however fast the weights learn."""
    assert moved(*tuned(replace(CONFIG, ema=0.999999)), "property_head") < 1e-3
    assert moved(*tuned(replace(CONFIG, ema=0.1)), "property_head") > 3e-3


def test_a_mean_of_the_weights_leaves_a_frozen_encoder() -> None:
    run, began = tuned(replace(CONFIG, freeze=True, ema=0.5))
    assert moved(run, began, "encoder") == 0
    assert moved(run, began, "property_head") > 1e-3


def test_lower_layers_learn_more_slowly() -> None:
    run, _ = tuned(replace(CONFIG, epochs=1))
    rates = [group["initial_lr"] for group in run.configure_optimizers()["optimizer"].param_groups]
    assert rates == [pytest.approx(1e-2)]
    run.config = replace(CONFIG, layer_decay=0.5)
    groups = run.configure_optimizers()["optimizer"].param_groups
    of = {id(weight): group["initial_lr"] for group in groups for weight in group["params"]}
    rate = {name: of[id(weight)] for name, weight in run.model.named_parameters()}
    assert rate["property_head.out.weight"] == pytest.approx(1e-2)
    assert rate["encoder.layers.1.qkv.weight"] == pytest.approx(5e-3)
    assert rate["encoder.layers.0.qkv.weight"] == pytest.approx(2.5e-3)
    assert rate["encoder.norm.weight"] == pytest.approx(1.25e-3)


def test_every_target_of_classes_counts_once() -> None:
    areas = {"a": {"ROC-AUC": 0.9}, "b": {"ROC-AUC": 0.8}, "m": {"macro ROC-AUC": 0.4}, "c": {}}
    assert mean_roc_auc(areas) == pytest.approx(0.7)
    assert mean_roc_auc({"c": {}, "d": {"ROC-AUC": None}}) is None


def test_the_score_of_classes_and_values_is_their_difference() -> None:
    """The class is ranked right (1); the value is 1 and 3 standard deviations off."""
    targets = (Target("r", "regression", mean=10.0, scale=2.0), Target("b", "binary"))
    molecules = [read_smiles("C"), read_smiles("CC")]
    labels, censoring = np.array([[10.0, 0], [12.0, 1]]), np.zeros((2, 2), np.int8)
    dataset = MoleculeDataset(molecules, labels, censoring, np.zeros((2, 0), "f4"))
    outputs = np.array([[1.0, -1.0], [4.0, 1.0]], "f4")
    found = score_validation(outputs, dataset, targets)
    assert found.value == found.reported == pytest.approx(1 - np.sqrt((1 + 9) / 2))
    assert found.text == f"ROC-AUC 1.0000, RMSE {np.sqrt(5):.4f} standard deviations"


def test_each_kind_of_target_has_its_metrics() -> None:
    targets = (NUMBER, Target("b", "binary", threshold=0.2), CLASSES)
    predicted = np.array([[1.0, 0.3, 0.1, 0.8, 0.1], [3.0, 0.1, 0.7, 0.2, 0.1]])
    labels, censoring = (
        np.array([[2.0, 1, 1], [2.0, 0, 1]]),
        np.array([[0, 0, 0], [1, 0, 0]], np.int8),
    )
    molecules = [read_smiles("C"), read_smiles("CC")]
    found = metrics_by_target(
        targets, predicted, MoleculeDataset(molecules, labels, censoring, np.zeros((2, 0), "f4"))
    )
    number = found["r"]
    assert (number["RMSE"], number["n"], number["censored labels respected"]) == (1, 1, 1)
    assert (found["b"]["accuracy"], found["b"]["ROC-AUC"]) == (1, 1)
    assert (found["m"]["accuracy"], found["m"]["macro ROC-AUC"]) == (0.5, None)
