import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from moleblend.chem.parsing import read_smiles
from moleblend.data.dataset import MoleculeDataset
from moleblend.data.labels.target_detection import read_target_columns
from moleblend.data.splits import Split, random_split
from moleblend.data.table import Table
from moleblend.finetuning.config import TrainConfig
from moleblend.finetuning.resolved_settings import describe_settings, resolve_settings


def decided(labels: list[str], *splits: Split, **flags: Any) -> tuple[dict[str, Any], list[str]]:
    """The choices for a table of one target, and how they are said."""
    columns = pa.table({"smiles": ["C"] * len(labels), "x (nM)": labels, "id": labels})
    table = Table(Path("assay.csv"), columns)
    target_columns = read_target_columns(table, not_targets=["smiles"])
    n = len(labels)
    data = MoleculeDataset(
        [read_smiles("C")] * n,
        target_columns.values,
        target_columns.censoring,
        np.zeros((n, 0), np.float32),
    )
    given = {"features": ("none",), "source": "scratch", **flags}
    config = TrainConfig("assay.csv", split="random", **given)
    choices = resolve_settings(
        config, target_columns, "smiles", "2d", n, data, splits or [random_split(n)]
    )
    return json.loads(json.dumps(choices)), describe_settings(choices, target_columns, table)


def test_every_choice_is_recorded_and_said() -> None:
    labels = [f"{k / 7:.2f}" for k in range(99)] + [">20"]
    choices, said = decided(labels, features=("ecfp4", "descriptors"))
    target = choices["targets"]["x (nM)"]
    assert (target["kind"], target["unit"], target["unit_from"]) == ("regression", "nM", "header")
    assert (target["n_labels"], target["n_bounds"]) == (100, 1)
    assert choices["parts"] == {"train": 80, "validation": 10, "test": 10}
    assert said[:3] == [
        "molecules are read from 'smiles'",
        "no targets: 'id' identifies the rows",
        "target 'x (nM)': regression, unit nM (from the header)",
    ]
    assert said[3].startswith("'x (nM)': censored labels, such as >10: 1; they count only")
    parts = "80 to train, 10 to validate, 10 to test (random split)"
    rest = "views 2d, ecfp4 and descriptors joined; start from scratch"
    assert said[4:] == [f"100 rows, 100 usable: {parts}; {rest}"]
    assert choices["features"] == ["ecfp4", "descriptors"]
    assert decided(labels)[1][4].endswith("views 2d, nothing joined; start from scratch")
    assert (choices["epoch_from"], choices["threshold_from"]) == ("the last", "validation")
    assert decided(labels, patience=5)[0]["epoch_from"] == "validation"


def test_rare_classes_are_pointed_out() -> None:
    _, said = decided(["0"] * 290 + ["1"] * 10)
    (note,) = [line for line in said if line.startswith("note: ")]
    assert "class '1' has" in note
    assert "too few for certain figures; the split does not stratify" in note
    assert not any(line.startswith("note: ") for line in decided(["0", "1"] * 300)[1])


def test_a_class_that_is_not_learnt_is_pointed_out() -> None:
    parts = (np.arange(60), np.arange(60, 80), np.arange(80, 100))
    _, said = decided(["0"] * 60 + ["0", "1"] * 20, Split(*parts))
    assert "note: 'x (nM)': class '1' has no molecule to be learnt from" in said
    turned = Split(parts[1], parts[0], parts[2])
    _, said = decided(["0"] * 60 + ["0", "1"] * 20, Split(*parts), turned)
    assert "note: 'x (nM)': class '1' has no molecule to be learnt from in 1 of 2 folds" in said


def test_labels_from_which_nothing_can_be_learnt_are_pointed_out() -> None:
    assert (
        "note: 'x (nM)': all 100 labels are 2.5: nothing can be learnt" in decided(["2.5"] * 100)[1]
    )
    assert any("all 99 labels are 1" in line for line in decided(["1"] * 99)[1])
    far = decided([f"{k / 7:.2f}" for k in range(50)] + [">900"] * 3)[1]
    assert any("3 bounds lie more than 10 standard deviations from" in line for line in far)
    near = decided([f"{k / 7:.2f}" for k in range(50)] + [">20"] * 3)[1]
    assert not any("standard deviations from" in line for line in near)


def test_a_part_that_leaves_little_to_learn_from_is_pointed_out() -> None:
    numbers = [f"{k / 7:.2f}" for k in range(100)]
    parts = (np.arange(40), np.arange(40, 90), np.arange(90, 100))
    _, said = decided(numbers, Split(*parts))
    assert (
        "note: only 40 of 100 molecules are there to learn from, since the random split" in said[3]
    )


def test_a_frozen_encoder_of_random_weights_is_pointed_out() -> None:
    numbers = [f"{k / 7:.2f}" for k in range(100)]
    assert "frozen encoder has random weights" in " ".join(decided(numbers, freeze=True)[1])
    trained = decided(numbers, freeze=True, source="model.safetensors")[1]
    assert "frozen encoder" not in " ".join(trained)
