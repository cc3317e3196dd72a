from pathlib import Path
from typing import Any

import pytest

from moleblend.settings import TrainConfig


@pytest.mark.parametrize(
    ("data", "out", "folder"),
    [
        ("assay.csv", "", "runs/assay"),
        ("data/assay.v2.csv.gz", "", "runs/assay.v2"),
        ("qm9.sdf.tar.gz", "", "runs/qm9"),
        ("assay.csv", "here", "here"),
    ],
)
def test_the_run_folder_follows_from_the_table(data: str, out: str, folder: str) -> None:
    assert TrainConfig(data, out=out).folder == Path(folder)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"log_scale": ("y", "y")}, "a log_scale is named twice: y, y"),
        ({"features": ("ecfp4", "ecfp4")}, "a features is named twice"),
        ({"features": ("none", "ecfp4")}, "features are auto or none, or one or both of ecfp4 and"),
        ({"features": ()}, "features are auto or none, or .*: nothing came"),
        ({"task": ()}, "task needs one value for all targets, or one for each"),
        ({"seeds": 0}, "epochs, batch_size, seeds and ensemble must be at least 1"),
        ({"patience": -1}, "conformers, forest, patience, .* must not be negative"),
        ({"folds": 2}, "folds are at least 3, with one seed: 2 folds, 1 seeds came"),
        ({"folds": 5, "seeds": 2}, "folds are at least 3, with one seed: 5 folds, 2 seeds came"),
        ({"folds": 5, "search": 9}, "search and folds do not go together: what chooses settings"),
        ({"layer_decay": 0.0}, r"layer_decay in \(0, 1\]"),
        ({"ema": 1.0}, r"ema must be in \[0, 1\), 1.0 came"),
    ],
)
def test_a_run_that_cannot_be_is_refused(changed: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        TrainConfig("assay.csv", **changed)
