"""Usage section of a training report: commands and Python code for the trained model."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moleblend.data.targets import Target, class_names
from moleblend.finetuning.config import TrainConfig
from moleblend.prediction.explanation import MOST_TARGETS
from moleblend.reports.html_page import Table

_MEANINGS = {
    "_log10_pred": "predicted log10 of the value, which the model was trained on",
    "_members_log10_std": "standard deviation of log10 over the ensemble members",
    "_members_std": "standard deviation over the ensemble members",
    "_log10_std": "standard deviation of the error of log10",
    "_pred": "prediction in the unit of the labels, or the predicted class",
    "_prob": "probability of class {}",
    "_std": "standard deviation of the error",
    "_low": "lower end of the 90 % prediction interval",
    "_high": "upper end of the 90 % prediction interval",
    "_set": "classes in the 90 % prediction set",
    "domain": "applicability domain: in domain, borderline or out of domain",
    "similarity": "Tanimoto similarity (ECFP4) of the nearest training molecule",
    "nearest": "SMILES of the nearest training molecule",
    "nearest_row": "row of the nearest training molecule in the training file",
}
"""Of the endings of column names."""


@dataclass(frozen=True)
class UsageSection:
    """How to use a model file.

    Attributes:
        shell: commands.
        python: code.
        has_intervals: the model gives intervals or sets of classes.
        not_explained: why `moleblend explain` cannot be used: `descriptors`, `multiclass` or "".
        needs_main_guard: geometries are computed in a separate process.
        columns: meaning of each column of a prediction; None where they are not known.
    """

    shell: str
    python: str
    has_intervals: bool
    not_explained: str
    needs_main_guard: bool
    columns: Table | None


def usage_section(
    model: Path,
    config: TrainConfig,
    targets: Sequence[Target],
    settings: dict[str, Any],
    *,
    has_intervals: bool,
) -> UsageSection:
    """Write commands of the shell and Python code that run with this model as they are.

    Args:
        model: path of the model file.
        config: of the run.
        targets: of the model.
        settings: of the run, see `resolve_settings`.
        has_intervals: the model gives intervals or sets of classes.
    """
    file = shlex.quote(str(model))
    predict = f"moleblend predict {file} molecules.csv predictions.csv"
    shell = [predict, f"{predict} --confidence 0.8"] if has_intervals else [predict]
    not_explained = ""
    if "descriptors" in config.joined:
        not_explained = "descriptors"
    elif any(target.kind == "multiclass" for target in targets):
        not_explained = "multiclass"
    else:
        is_named = len(targets) > MOST_TARGETS
        target = f" --target {shlex.quote(targets[0].name)}" if is_named else ""
        shell.append(f"moleblend explain {file} molecules.csv explanation.html{target}")
    confidence = ", confidence=0.8" if has_intervals else ""
    python = (
        "import pandas\n"
        "from moleblend import Predictor\n\n"
        f"predictor = Predictor({str(model)!r})\n"
        f'table = predictor.predict(["CCO", "c1ccccc1O"]{confidence})   # a pyarrow Table\n'
        'frame = predictor.predict(pandas.read_csv("molecules.csv"))   # a pandas DataFrame\n'
        'vectors = predictor.embed(["CCO", "c1ccccc1O"])   # one vector per molecule\n'
    )
    return UsageSection(
        shell="\n".join(shell),
        python=python,
        has_intervals=has_intervals,
        not_explained=not_explained,
        needs_main_guard=bool(config.conformers),
        columns=_columns(targets, settings.get("prediction_columns", [])),
    )


def _columns(targets: Sequence[Target], names: Sequence[str]) -> Table | None:
    """Explain the columns of predictions; of many targets those of the first."""
    first = targets[0].name
    rows = []
    for name in names:
        is_of_first = name.startswith(f"{first}_")
        if any(name.startswith(f"{target.name}_") for target in targets) and not is_of_first:
            continue
        ending = name.removeprefix(first) if is_of_first else name
        meaning = _MEANINGS.get(ending, "probability of this class" if "_prob_" in ending else "")
        rows.append((name, meaning.format(*class_names(targets[0])[1:2])))
    return Table(("column", "meaning"), rows, is_text=True) if rows else None
