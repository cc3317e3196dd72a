"""How the golden models and their predictions were made.

`model-1` was made by moleblend 0.1.0 on 2026-11-25. `model-2` was made on 2026-12-01 by the code
before its words were changed (commit 0173edd): an ensemble with uncertainty, an applicability
domain and notes under their former names, which `moleblend.model.compat` reads.

python tests/model/golden/make.py

They are never made anew. The test is that later versions read these files and predict these
numbers. A version that cannot read them gets a new `checkpoint.FORMAT_VERSION` and a way to convert
old files.
"""

from pathlib import Path

import numpy as np
import torch

from moleblend.data.formats import write_table
from moleblend.data.targets import Target, unscale_outputs
from moleblend.evaluation.applicability_domain import ApplicabilityDomain
from moleblend.evaluation.uncertainty import Uncertainty
from moleblend.model import checkpoint
from moleblend.model.encoder_config import EncoderConfig
from moleblend.model.heads import HeadsConfig, Model, ModelConfig
from moleblend.prediction.predictor import Predictor
from moleblend.trees.averaging import MemberValues

FOLDER = Path(__file__).parent
SMILES = (
    "CCO",
    "C[C@H](N)C(=O)O",
    "F/C=C/F",
    "[Na+].[Cl-]",
    "Cc1ccc(NC(=O)c2ccc(CN3CCN(C)CC3)cc2)cc1Nc1nccc(-c2cccnc2)n1",
)


def main() -> None:
    """Write the files that are missing."""
    for number, write in enumerate((write_first, write_second), 1):
        path = FOLDER / f"model-{number}.safetensors"
        if not path.exists():
            write(path)


def write_first(path: Path) -> None:
    """Write a model with pretraining heads and two targets."""
    torch.manual_seed(0)
    config = ModelConfig(
        encoder=EncoderConfig(width=16, ffn_width=24, n_layers=2, n_heads=4, n_kernels=8),
        heads=HeadsConfig(rank=4),
        targets=(Target("gap", "regression", "eV", 6.8, 1.3), Target("toxic", "binary")),
    )
    model = random_model(config)
    checkpoint.save(model, path, checkpoint.Card(trained_by="train", data="none", notes={"k": 1}))
    write_table(Predictor(path).predict(list(SMILES), views="2d"), path.with_suffix(".csv"))


def write_second(path: Path) -> None:
    """Write two members with uncertainty of all kinds of targets, a domain and notes."""
    torch.manual_seed(1)
    targets = (
        Target("gap", "regression", "eV", 6.8, 1.3),
        Target("ic50", "regression", "nM", 2.0, 0.5, log10=True),
        Target("toxic", "binary", classes=("inactive", "active"), threshold=0.4),
        Target("colour", "multiclass", classes=("red", "green", "blue")),
    )
    config = ModelConfig(
        encoder=EncoderConfig(width=8, ffn_width=12, n_layers=1, n_heads=2, n_kernels=4),
        heads=None,
        targets=targets,
    )
    members = [random_model(config) for _ in range(2)]

    rng = np.random.default_rng(0)
    n, n_outputs = 60, sum(target.n_outputs for target in targets)
    each = np.stack([unscale_outputs(rng.normal(size=(n, n_outputs)), targets) for _ in members])
    members = MemberValues.of_networks(each)
    mean, std = members.mean(targets), members.std(targets)
    labels = np.stack(
        [
            mean[:, 0] + rng.normal(size=n),
            mean[:, 1] * 10 ** rng.normal(size=n),
            rng.random(n) < mean[:, 2] ** 3,
            (rng.random((n, 1)) > mean[:, 3:].cumsum(1)).sum(1).clip(max=2),
        ],
        1,
    )
    censoring = np.zeros(labels.shape, np.int8)
    uncertainty = Uncertainty.fit(targets, mean, std, labels, censoring)
    assert len(uncertainty.values) == len(uncertainty.classes) == 2
    training = ["C", "CO", "CCN", "CC(N)C(=O)O", "c1ccccc1", "FC=CF"]
    vectors = rng.normal(size=(6, 8)), rng.normal(size=(4, 8))
    domain = ApplicabilityDomain.fit(
        vectors[0], training, np.arange(6), vectors[1], ["CC", "CN", "CCO", "c1ccccc1C"]
    )
    notes = {
        "metrics": {
            "test": {"gap": {"MAE": 0.5}},
            "test_of_predicting_the_training_mean": {"gap": {"MAE": 1.0}},
            "random_forest_on_ecfp4": {"test": {"gap": {"MAE": 0.6}}},
            "choices": {"seed": 0, "sureness": {"notes": []}},
        }
    }
    card = checkpoint.Card(trained_by="train", data="none", views="2d", notes=notes)
    checkpoint.save(members, path, card, uncertainty=uncertainty, domain=domain)
    write_table(Predictor(path).predict(list(SMILES)), path.with_suffix(".csv"))


def random_model(config: ModelConfig) -> Model:
    """Make a model whose weights are larger than at the start, so that all of them matter."""
    model = Model(config)
    for parameter in model.parameters():
        parameter.data.normal_(std=0.3)
    return model


if __name__ == "__main__":
    main()
