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


def resolved(labels: list[str], *splits: Split, **flags: Any) -> tuple[dict[str, Any], list[str]]:
    """The settings for a table of one target, as in the JSON file, and their description."""
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
    settings = resolve_settings(
        config, target_columns, "smiles", "2d", n, data, splits or [random_split(n)]
    )
    sentences = describe_settings(settings, target_columns, table)
    return json.loads(json.dumps(settings.to_dict())), sentences


def test_every_setting_is_recorded_and_described() -> None:
    labels = [f"{k / 7:.2f}" for k in range(99)] + [">20"]
    settings, sentences = resolved(labels, features=("ecfp4", "descriptors"))
    target = settings["targets"]["x (nM)"]
    assert (target["kind"], target["unit"], target["unit_from"]) == ("regression", "nM", "header")
    assert (target["n_labels"], target["n_censored"]) == (100, 1)
    assert settings["set_sizes"] == {"train": 80, "validation": 10, "test": 10}
    assert sentences[:3] == [
        "molecules are read from 'smiles'",
        "no targets: 'id' identifies the rows",
        "target 'x (nM)': regression, unit nM (from the header)",
    ]
    assert sentences[3].startswith("'x (nM)': censored labels, such as >10: 1; they count only")
    parts = "80 training, 10 validation, 10 test (random split)"
    rest = "views: 2d; extra features: ecfp4 and descriptors; model: scratch"
    assert sentences[4:] == [f"100 rows, 100 usable: {parts}; {rest}"]
    assert settings["features"] == ["ecfp4", "descriptors"]
    assert resolved(labels)[1][4].endswith("views: 2d; extra features: none; model: scratch")
    assert (settings["epoch_from"], settings["threshold_from"]) == ("the last", "validation")
    assert resolved(labels, patience=5)[0]["epoch_from"] == "validation"


def test_rare_classes_get_a_note() -> None:
    _, sentences = resolved(["0"] * 290 + ["1"] * 10)
    (note,) = [line for line in sentences if line.startswith("note: ")]
    assert "class '1' has" in note
    assert "too few for precise metrics; the split is not stratified" in note
    assert not any(line.startswith("note: ") for line in resolved(["0", "1"] * 300)[1])


def test_a_class_without_training_molecules_gets_a_note() -> None:
    parts = (np.arange(60), np.arange(60, 80), np.arange(80, 100))
    _, sentences = resolved(["0"] * 60 + ["0", "1"] * 20, Split(*parts))
    assert "note: 'x (nM)': class '1' has no molecule in the training set" in sentences
    turned = Split(parts[1], parts[0], parts[2])
    _, sentences = resolved(["0"] * 60 + ["0", "1"] * 20, Split(*parts), turned)
    assert (
        "note: 'x (nM)': class '1' has no molecule in the training set in 1 of 2 folds" in sentences
    )


def test_labels_that_a_model_cannot_learn_from_get_a_note() -> None:
    assert (
        "note: 'x (nM)': all 100 labels are 2.5; a model cannot learn from them"
        in resolved(["2.5"] * 100)[1]
    )
    assert any("all 99 labels are 1" in line for line in resolved(["1"] * 99)[1])
    far = resolved([f"{k / 7:.2f}" for k in range(50)] + [">900"] * 3)[1]
    assert any(
        "3 censored labels are more than 10 standard deviations from" in line for line in far
    )
    near = resolved([f"{k / 7:.2f}" for k in range(50)] + [">20"] * 3)[1]
    assert not any("standard deviations from" in line for line in near)


def test_a_small_training_set_gets_a_note() -> None:
    numbers = [f"{k / 7:.2f}" for k in range(100)]
    parts = (np.arange(40), np.arange(40, 90), np.arange(90, 100))
    _, sentences = resolved(numbers, Split(*parts))
    assert (
        "note: the training set has only 40 of 100 molecules, since the random split"
        in sentences[3]
    )


def test_a_frozen_encoder_of_random_weights_gets_a_note() -> None:
    numbers = [f"{k / 7:.2f}" for k in range(100)]
    assert "frozen encoder has random weights" in " ".join(resolved(numbers, freeze=True)[1])
    trained = resolved(numbers, freeze=True, source="model.safetensors")[1]
    assert "frozen encoder" not in " ".join(trained)
