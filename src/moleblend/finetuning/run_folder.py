"""The folder that a fine-tuning run leaves."""

import hashlib
import json
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from moleblend.config import to_dict
from moleblend.data.formats import write_table
from moleblend.data.labels.target_detection import TargetColumns
from moleblend.data.targets import Target, output_slices
from moleblend.evaluation.comparison import baseline_record
from moleblend.evaluation.metrics import undefined_reasons
from moleblend.files import alone_with, replacing
from moleblend.finetuning.results import TrainResult
from moleblend.model import checkpoint
from moleblend.model.blending import ShownViews
from moleblend.model.heads import Model
from moleblend.prediction.outputs import domain_names, result_names


@contextmanager
def reserved(folder: Path) -> Generator[None, None, None]:
    """Keep a run folder for one run, made now so that it is known that it can be.

    A new one in which nothing was left is removed.

    Raises:
        OSError: it cannot be written to.
        ValueError: another run has it.
    """
    is_new = not folder.exists()
    try:
        with alone_with(folder / "model.safetensors"):
            yield
    finally:
        if is_new and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def write_run_folder(result: TrainResult, target_columns: TargetColumns, views: ShownViews) -> None:
    """Write the run folder, the model last."""
    config, out = result.config, result.config.folder
    figures: dict[str, Any] = {
        "validation": result.validation,
        "test": result.test,
        "test_of_predicting_the_training_mean": result.trivial,
        "kept_epoch": result.kept_epoch,
        "undefined": {
            part: {target: why for target, m in found.items() if (why := undefined_reasons(m))}
            for part, found in (("validation", result.validation), ("test", result.test))
        },
        "uncertainty": {
            part: {
                name: uncertainty_metrics.summary() for name, uncertainty_metrics in found.items()
            }
            for part, found in result.uncertainty_metrics.items()
        },
        "random_forest_on_ecfp4": baseline_record(
            result.targets, result.baseline, result.comparisons, result.forest_note
        ),
        "spread": {
            "over": "folds" if config.folds else "seeds",
            "n": len(result.runs),
            **result.spread,
        },
        "choices": result.choices,
    }
    n_rows, same = len(result.rows), result.duplicates.others()
    rows = {
        "row": pa.array(range(1, n_rows + 1)),
        "part": pa.array(_part_names(result)),
        "status": pa.array([row.status for row in result.rows]),
        "reason": pa.array([row.reason for row in result.rows]),
        "labels": pa.array([target_columns.problems(row) for row in range(n_rows)]),
        "same_molecule": pa.array([same.get(row, "") for row in range(n_rows)]),
    }
    log = [
        {"run": k + 1, "member": member + 1, **epoch}
        for k, run in enumerate(result.runs)
        for member, history in enumerate(run.histories)
        for epoch in history
    ]
    with Path(config.data).open("rb") as file:
        fingerprint = hashlib.file_digest(file, "sha256").hexdigest()
    members = _kept_models(result)
    names = result_names(result.targets, len(members), result.uncertainty)
    figures["choices"]["prediction_columns"] = names + domain_names(result.domain)
    # A model file leaves the machine: it names files without their folders, and no single label.
    named = {name: Path(getattr(config, name)).name for name in ("data", "out", "source")}
    choices = result.choices | {"source": named["source"]}
    choices = {key: told for key, told in choices.items() if key not in ("repeats", "notes")}
    notes = {
        "conformers": config.conformers,
        "config": to_dict(replace(config, **named)),
        "metrics": figures | {"choices": choices},
    }
    card = checkpoint.Card(
        trained_by="train",
        data=named["data"],
        data_fingerprint=fingerprint,
        views=views,
        notes=notes,
    )
    _write_json(out / "config.json", to_dict(config) | {"choices": result.choices})
    _write_json(out / "metrics.json", figures)
    write_table(pa.Table.from_pylist(log), out / "log.csv")
    write_table(pa.table(rows), out / "rows.csv")
    checkpoint.save(
        members, result.model, card, uncertainty=result.uncertainty, domain=result.domain
    )


def _kept_models(result: TrainResult) -> list[Model]:
    """Give the members of the model file: of the first seed, or of all folds in one scaling."""
    if not result.config.folds:
        return list(result.runs[0].models)
    members = []
    for run in result.runs:
        for model in run.models:
            _rescale(model, run.targets, result.targets)
            model.config = replace(model.config, targets=result.targets)
            members.append(model)
    return members


@torch.no_grad()
def _rescale(model: Model, found: Sequence[Target], wanted: Sequence[Target]) -> None:
    """Change the last layer so that the outputs, scaled otherwise, mean the same values."""
    assert model.property_head is not None
    last = model.property_head.out
    for old, new, where in zip(found, wanted, output_slices(found), strict=True):
        last.weight[where] *= old.scale / new.scale
        last.bias[where] = (last.bias[where] * old.scale + old.mean - new.mean) / new.scale


def _part_names(result: TrainResult) -> list[str]:
    """Say of each row of the file in which part, or in the test part of which fold, it is."""
    part_of = {int(row): name for name, rows in asdict(result.parts).items() for row in rows}
    if result.config.folds:
        tested = np.sort(np.concatenate([run.parts.test for run in result.runs]))
        where = dict(zip(tested.tolist(), result.parts.test.tolist(), strict=True))
        part_of = {
            where[int(place)]: f"fold {k + 1}"
            for k, run in enumerate(result.runs)
            for place in run.parts.test
        }
    return [part_of.get(row, "") for row in range(len(result.rows))]


def _write_json(path: Path, values: object) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
