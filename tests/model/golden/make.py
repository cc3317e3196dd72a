"""How the golden model and its predictions were made, by moleblend 0.1.0 on 2026-11-25.

python tests/model/golden/make.py

They are never made anew: that later versions read this file and find these numbers is the test. A
version that cannot has a new `checkpoint.FORMAT_VERSION`, and needs a way to bring old files over.
"""

from pathlib import Path

import torch

from moleblend.data.formats import write_table
from moleblend.data.targets import Target
from moleblend.model import checkpoint
from moleblend.model.encoder import EncoderConfig
from moleblend.model.heads import HeadsConfig, Model, ModelConfig
from moleblend.prediction.predictor import Predictor

FOLDER = Path(__file__).parent
SMILES = (
    "CCO",
    "C[C@H](N)C(=O)O",
    "F/C=C/F",
    "[Na+].[Cl-]",
    "Cc1ccc(NC(=O)c2ccc(CN3CCN(C)CC3)cc2)cc1Nc1nccc(-c2cccnc2)n1",
)


def main() -> None:
    """Write both files."""
    path = FOLDER / "model-1.safetensors"
    if path.exists():
        raise FileExistsError(f"{path} is kept as it is")
    torch.manual_seed(0)
    config = ModelConfig(
        encoder=EncoderConfig(width=16, ffn_width=24, n_layers=2, n_heads=4, n_kernels=8),
        heads=HeadsConfig(rank=4),
        targets=(Target("gap", "regression", "eV", 6.8, 1.3), Target("toxic", "binary")),
    )
    model = Model(config)
    for parameter in model.parameters():  # larger than they start, so that all of them matter
        parameter.data.normal_(std=0.3)
    checkpoint.save(model, path, checkpoint.Card(trained_by="train", data="none", notes={"k": 1}))
    write_table(Predictor(path).predict(list(SMILES), views="2d"), FOLDER / "model-1.csv")


if __name__ == "__main__":
    main()
