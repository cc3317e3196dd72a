from pathlib import Path
from typing import Any

import pytest

from moleblend.finetuning.config import TrainConfig


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
        ({"target": ("y", "y")}, "a target is named twice: y, y"),
        ({"log_scale": ("y", "y")}, "a log_scale is named twice: y, y"),
        ({"target": ("y",), "units": ("eV", "D")}, "1 targets, but 2 units"),
        ({"features": ("ecfp4", "ecfp4")}, "a features is named twice"),
        ({"features": ("none", "ecfp4")}, "features are auto or none, or one or both of ecfp4 and"),
        ({"features": ()}, "features are auto or none, or .*: nothing came"),
        ({"task": ()}, "task needs one value for all targets, or one for each"),
        ({"seeds": 0}, "seeds must be at least 1, 0 came"),
        ({"patience": -1}, "patience must be at least 0, -1 came"),
        ({"folds": 2}, "folds are at least 3, with one seed: 2 folds, 1 seeds came"),
        ({"folds": 5, "seeds": 2}, "folds are at least 3, with one seed: 5 folds, 2 seeds came"),
        ({"folds": 5, "search": 9}, "search and folds do not go together: what chooses settings"),
        ({"layer_decay": 0.0}, r"layer_decay in \(0, 1\]"),
        ({"learning_rate": 0.0}, "learning_rate and clip_norm must be .* 0.0, 5.0 and 1.0 came"),
        ({"head_dropout": 1.0}, r"head_dropout must be in \[0, 1\), 1.0 came"),
        ({"ema": 1.0}, r"ema must be in \[0, 1\), 1.0 came"),
    ],
)
def test_a_run_that_cannot_be_is_refused(changed: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        TrainConfig("assay.csv", **changed)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("pos_weight", "yes", "pos_weight: got 'yes', expected one of 'off', 'on', 'try'"),
        ("task", ("classification",), "task: got 'classification', expected one of 'auto', "),
        ("features", "ecfp4", "features: got 'ecfp4', expected a tuple"),
        ("target", "y", "target: got 'y', expected a tuple"),
    ],
)
def test_a_value_from_python_that_is_none_of_those_listed(
    name: str, value: object, told: str
) -> None:
    config = TrainConfig("assay.csv")
    # Set behind the types, which are checked in tests but not where the package is used.
    object.__setattr__(config, name, value)
    with pytest.raises(ValueError, match=told):
        config.__post_init__()
