"""Write the run folder of a fine-tuning command."""

import shutil
from collections.abc import Generator, Mapping, Sequence
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
from moleblend.files import alone_with, file_sha256, write_json
from moleblend.finetuning.prediction_table import prediction_table
from moleblend.finetuning.results import TrainResult
from moleblend.model import checkpoint
from moleblend.model.blending import ShownViews
from moleblend.model.heads import Model

_PRIVATE_SETTINGS = ("duplicates", "notes")
"""Settings that name rows and labels of the table; they are left out of the model file."""


RUN_FILES = (
    *("model.safetensors", "config.json", "metrics.json", "environment.json", "log.csv"),
    *("rows.csv", "predictions.csv", "report.html", "search.csv", "search.json"),
)
"""Files of a run folder; the last three are not in every one."""

_NEW = ".new"
"""Folder inside the run folder, for files that are not complete yet."""


@contextmanager
def reserved(folder: Path) -> Generator[None, None, None]:
    """Make a run folder and lock it against other runs; remove it if it stays empty.

    Raises:
        OSError: the folder cannot be written to.
        ValueError: another run uses it.
    """
    is_new = not folder.exists()
    try:
        with alone_with(folder / "model.safetensors"):
            yield
    finally:
        if is_new and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def write_run_folder(
    result: TrainResult,
    target_columns: TargetColumns,
    views: ShownViews,
    environment: Mapping[str, object],
) -> None:
    """Write the run folder.

    All files are written to a folder beside it, the model first. When they are complete, they
    replace those of an earlier run, whose report is removed. The JSON files have the hash of the
    model file.

    Args:
        result: the result.
        target_columns: the targets, with the cells that are not labels.
        views: what the model sees of each molecule.
        environment: code, machine and duration, see `environment.describe_environment`.

    Raises:
        OutputError: the disk is full; the files of an earlier run are unchanged.
    """
    config, out = result.config, result.config.folder / _NEW
    shutil.rmtree(out, ignore_errors=True)
    try:
        _write_files(result, target_columns, views, environment, out)
        (config.folder / "report.html").unlink(missing_ok=True)  # it shows the earlier model
        for path in sorted(out.iterdir()):
            path.replace(config.folder / path.name)
    finally:
        shutil.rmtree(out, ignore_errors=True)


def _write_files(
    result: TrainResult,
    target_columns: TargetColumns,
    views: ShownViews,
    environment: Mapping[str, object],
    out: Path,
) -> None:
    config = result.config
    settings, metrics = result.settings.to_dict(), _metrics(result)
    # A model file may be shared: it has file names without folders, and no single label.
    file_names = {name: Path(getattr(config, name)).name for name in ("data", "out", "source")}
    public = {key: value for key, value in settings.items() if key not in _PRIVATE_SETTINGS}
    card = checkpoint.Card(
        trained_by="train",
        data=file_names["data"],
        data_fingerprint=file_sha256(Path(config.data)),
        views=views,
        notes={
            "conformers": config.conformers,
            "config": to_dict(replace(config, **file_names)),
            "metrics": metrics | {"settings": public | {"source": file_names["source"]}},
        },
    )
    model = out / result.model.name
    kept = result.refitted or result
    checkpoint.save(
        _kept_models(result),
        model,
        card,
        uncertainty=result.uncertainty,
        domain=kept.domain,
        tree_models=kept.tree_models,
    )
    made = {"model_sha256": file_sha256(model)}
    write_json(out / "config.json", to_dict(config) | {"settings": settings} | made, indent=2)
    write_json(out / "metrics.json", metrics | {"settings": settings} | made, indent=2)
    write_json(out / "environment.json", dict(environment) | made, indent=2)
    write_table(pa.Table.from_pylist(_log(result)), out / "log.csv")
    write_table(_row_table(result, target_columns), out / "rows.csv", "row")
    predicted = prediction_table(result, _set_names(result))
    write_table(predicted, out / "predictions.csv", "row")


def _metrics(result: TrainResult) -> dict[str, Any]:
    """Collect the content of metrics.json, without the settings."""
    evaluation = result.evaluation
    sets = {"validation": evaluation.validation, "test": evaluation.test}
    return {
        **sets,
        "constant_baseline": evaluation.constant_baseline,
        "kept_epoch": result.kept_epoch,
        "undefined": {
            set_name: {
                target: why for target, m in metrics.items() if (why := undefined_reasons(m))
            }
            for set_name, metrics in sets.items()
        },
        "uncertainty": {
            set_name: {target: metrics.summary() for target, metrics in by_target.items()}
            for set_name, by_target in result.uncertainty_metrics.items()
        },
        "baseline": baseline_record(
            result.targets,
            result.baseline.forest,
            result.baseline.comparisons,
            result.baseline.note,
        ),
        "members": {
            member.name: {"weights": member.weights, "test": member.test}
            for member in result.members
        },
        "refit": None if result.refitted is None else {"n": result.refitted.n_molecules},
        "std": {
            "over": "folds" if result.config.folds else "seeds",
            "n": len(result.runs),
            **result.statistics,
        },
    }


def _log(result: TrainResult) -> list[dict[str, Any]]:
    """Collect the lines of log.csv: one per epoch of each member of each run."""
    return [
        {"run": k + 1, "member": number + 1, **epoch}
        for k, run in enumerate(result.runs)
        for number, member in enumerate(run.members)
        for epoch in member.history.epochs
    ]


def _row_table(result: TrainResult, target_columns: TargetColumns) -> pa.Table:
    """Make rows.csv: what became of each row of the table."""
    rows = result.table.rows
    same_molecule = result.table.duplicates.others()
    return pa.table(
        {
            "row": pa.array(range(1, len(rows) + 1)),
            "set": pa.array(_set_names(result)),
            "status": pa.array([row.status for row in rows]),
            "reason": pa.array([row.reason for row in rows]),
            "labels": pa.array([target_columns.problems(row) for row in range(len(rows))]),
            "same_molecule": pa.array([same_molecule.get(row, "") for row in range(len(rows))]),
        }
    )


def _set_names(result: TrainResult) -> list[str]:
    """Name the set of each row of the table, or the fold in which it is a test row."""
    split = result.table.split
    names = {int(row): name for name, rows in asdict(split).items() for row in rows}
    if result.config.folds:
        tested = np.sort(np.concatenate([run.split.test for run in result.runs]))
        row_of = dict(zip(tested.tolist(), split.test.tolist(), strict=True))
        names = {
            row_of[int(place)]: f"fold {k + 1}"
            for k, run in enumerate(result.runs)
            for place in run.split.test
        }
    return [names.get(row, "") for row in range(len(result.table.rows))]


def _kept_models(result: TrainResult) -> list[Model]:
    """Return the models of the file: those of the first seed, or of all folds with one scaling."""
    if result.refitted is not None:
        return result.refitted.models
    if not result.config.folds:
        return [member.model for member in result.runs[0].members]
    models = []
    for run in result.runs:
        for member in run.members:
            _rescale(member.model, run.targets, result.targets)
            member.model.config = replace(member.model.config, targets=result.targets)
            models.append(member.model)
    return models


@torch.no_grad()
def _rescale(model: Model, old: Sequence[Target], new: Sequence[Target]) -> None:
    """Change the last layer so that outputs in the new scaling mean the same values."""
    assert model.property_head is not None
    last = model.property_head.out
    for before, after, where in zip(old, new, output_slices(old), strict=True):
        last.weight[where] *= before.scale / after.scale
        last.bias[where] = (last.bias[where] * before.scale + before.mean - after.mean) / (
            after.scale
        )
