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
    ("changed", "message"),
    [
        ({"target": ("y", "y")}, "target has duplicates: y, y"),
        ({"log_scale": ("y", "y")}, "log_scale has duplicates: y, y"),
        ({"target": ("y",), "units": ("eV", "D")}, "got 2 units for 1 targets"),
        ({"features": ("ecfp4", "ecfp4")}, "features has duplicates: ecfp4"),
        (
            {"features": ("none", "ecfp4")},
            "got features=none, ecfp4, expected auto, none, or",
        ),
        ({"features": ()}, "got features=nothing, expected auto"),
        ({"task": ()}, "got no task, expected one value for all targets, or one for"),
        ({"seeds": 0}, "got seeds=0, expected a number of at least 1"),
        ({"patience": -1}, "got patience=-1, expected a number of at least 0"),
        ({"folds": 2}, "got folds=2 and seeds=1, expected at least 3 folds"),
        ({"folds": 5, "seeds": 2}, "got folds=5 and seeds=2, .* and one seed"),
        ({"folds": 5, "search": 9}, "got search=9 and folds=5: they cannot be combined"),
        ({"layer_decay": 0.0}, "got layer_decay=0.0, expected a number above 0 and at most 1"),
        ({"learning_rate": 0.0}, "got learning_rate=0.0, expected a positive number"),
        ({"head_dropout": 1.0}, "got head_dropout=1.0, expected a number from 0 to below 1"),
        ({"ema": 1.0}, "got ema=1.0, expected a number from 0 to below 1"),
    ],
)
def test_a_run_that_cannot_be_is_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig("assay.csv", **changed)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("pos_weight", "yes", "pos_weight: got 'yes', expected one of 'off', 'on', 'try'"),
        ("task", ("classification",), "task: got 'classification', expected one of 'auto', "),
        ("features", "ecfp4", "features: got 'ecfp4', expected a tuple"),
        ("target", "y", "target: got 'y', expected a tuple"),
    ],
)
def test_a_value_from_python_that_is_none_of_those_listed(
    name: str, value: object, message: str
) -> None:
    config = TrainConfig("assay.csv")
    # Set behind the types, which are checked in tests but not where the package is used.
    object.__setattr__(config, name, value)
    with pytest.raises(ValueError, match=message):
        config.__post_init__()
