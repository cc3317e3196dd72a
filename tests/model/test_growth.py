"""An encoder that grows computes what it computed before."""

from dataclasses import replace

import pytest
import torch

from moleblend.chem.geometry import add_positions
from moleblend.chem.parsing import read_smiles
from moleblend.model.batch import collate
from moleblend.model.blending import BlendConfig, draw_blend
from moleblend.model.encoder import initialise
from moleblend.model.encoder_config import EncoderConfig
from moleblend.model.growth import transfer
from moleblend.model.heads import Model, ModelConfig

SMALL = EncoderConfig(width=16, ffn_width=24, n_layers=2, n_heads=4, n_kernels=8)


def test_a_grown_encoder_gives_the_same_vectors() -> None:
    torch.manual_seed(0)
    source = Model(ModelConfig(encoder=SMALL)).eval()
    initialise(source, std=0.5)
    grown = transfer(
        source, ModelConfig(encoder=replace(SMALL, pair_width=6, masks_features=True))
    ).eval()
    batch = collate([add_positions(read_smiles(s), seed=0) for s in ("CC(=O)Oc1ccccc1", "C=CF")])
    blend = draw_blend(batch, BlendConfig(), torch.Generator().manual_seed(0))
    before, after = source.encoder(batch, blend), grown.encoder(batch, blend)
    torch.testing.assert_close(after.atoms, before.atoms, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(after.molecule, before.molecule, rtol=1e-5, atol=1e-5)
    assert after.pairs is not None
    assert after.pairs.any()


def test_an_encoder_does_not_shrink() -> None:
    source = Model(ModelConfig(encoder=replace(SMALL, pair_width=6)))
    with pytest.raises(ValueError, match="got pair_width=6, expected 0"):
        transfer(source, ModelConfig(encoder=SMALL))
