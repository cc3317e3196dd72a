"""Random numbers of a fit are its own: threads do not disturb each other, nor the user."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from moleblend.chem.parsing import read_smiles
from moleblend.data.dataset import MoleculeDataset
from moleblend.data.targets import Target
from moleblend.finetuning.lightning_module import FineTuning
from moleblend.finetuning.train import TrainConfig, train
from moleblend.model.batch import collate
from moleblend.model.encoder_config import EncoderConfig
from moleblend.model.functional import (
    BernoulliDropout,
    drawing_from,
    seeded,
    uniform_like,
)
from moleblend.model.heads import Model, ModelConfig
from tests.helpers.finetuning import are_same, weights
from tests.helpers.runs import TINY

DROPS = replace(TINY, dropout=0.1, attention_dropout=0.2, stochastic_depth=0.2, n_layers=2)


def fit(config: TrainConfig, folder: Path, seed: int) -> dict[str, torch.Tensor]:
    return weights(train(replace(config, out=str(folder / str(seed)), seed=seed)))


def test_fits_in_threads_give_the_models_of_fits_one_after_the_other(
    config: TrainConfig, tmp_path: Path
) -> None:
    config = replace(config, encoder=DROPS, head_dropout=0.3, forest=0)
    alone = [fit(config, tmp_path / "alone", seed) for seed in (0, 1)]
    barrier = threading.Barrier(2)

    def together(seed: int) -> dict[str, torch.Tensor]:
        barrier.wait()
        return fit(config, tmp_path / "together", seed)

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(together, (0, 1)))
    assert not are_same(*alone)
    for one, other in zip(alone, results, strict=True):
        assert are_same(one, other)


def test_a_fit_leaves_the_global_generator_alone(config: TrainConfig) -> None:
    before = torch.random.get_rng_state()
    train(replace(config, encoder=DROPS, head_dropout=0.3))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_numbers_are_those_of_the_global_generator() -> None:
    """Models that were trained before are reproduced."""
    values = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(1)).transpose(0, 2)
    generator = torch.Generator().manual_seed(5)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        expected = [torch.rand_like(values), F.dropout(values, 0.3)]
    with drawing_from(generator):
        assert torch.equal(uniform_like(values), expected[0])
        assert torch.equal(BernoulliDropout(0.3)(values), expected[1])


def test_seeded_continues_after_the_initialisation() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        expected = torch.nn.Linear(3, 4).weight, torch.rand(5)
    with seeded(3) as generator:
        weight = torch.nn.Linear(3, 4).weight
    assert torch.equal(weight, expected[0])
    assert torch.equal(torch.rand(5, generator=generator), expected[1])


@pytest.mark.parametrize("seed", [0, 7])
def test_pieces_repeat_their_dropout_for_the_gradients(config: TrainConfig, seed: int) -> None:
    molecules = [read_smiles("C" * n) for n in (3, 3, 3)]
    labels = np.zeros((3, 1))
    data = MoleculeDataset(
        molecules, labels, np.zeros((3, 1), np.int8), np.zeros((3, 0), np.float32)
    )
    encoder = EncoderConfig(width=8, ffn_width=8, n_layers=1, n_heads=2, n_kernels=4, dropout=0.5)
    with seeded(seed):
        model = Model(
            ModelConfig(encoder=encoder, heads=None, targets=(Target("y", "regression"),))
        )
    module = FineTuning(model, config, "2d", data, seed=seed, max_pairs=9)
    whole = FineTuning(model, config, "2d", data, seed=seed)
    batch, none = collate(molecules), torch.zeros(3, 0)
    thirds = [slice(k, k + 1) for k in range(3)]
    gradients = []
    for in_pieces in (True, False):
        model.zero_grad()
        with drawing_from(torch.Generator().manual_seed(seed)):
            if in_pieces:
                output = module._forward(batch, none)
            else:
                output = torch.cat(
                    [whole._forward(batch.subset(rows), none[:1]) for rows in thirds]
                )
            output.square().sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    for ours, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, expected)
