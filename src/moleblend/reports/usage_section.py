"""Usage section of a training report: commands and Python code for the trained model."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from moleblend.data.targets import Target
from moleblend.evaluation.applicability_domain import ApplicabilityDomain
from moleblend.finetuning.config import TrainConfig
from moleblend.prediction.explanation import MOST_TARGETS
from moleblend.prediction.outputs import domain_output_columns, possible_columns
from moleblend.reports.html_page import Table


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
    prediction_columns: Sequence[str],
    domain: ApplicabilityDomain | None,
    *,
    has_intervals: bool,
) -> UsageSection:
    """Write commands of the shell and Python code that run with this model as they are.

    Args:
        model: path of the model file.
        config: of the run.
        targets: of the model.
        prediction_columns: columns that `predict` adds to a table.
        domain: applicability domain of the model; None if there is none.
        has_intervals: the model gives intervals or sets of classes.
    """
    file = shlex.quote(str(model))
    predict = f"moleblend predict {file} molecules.csv predictions.csv"
    shell = [predict, f"{predict} --confidence 0.8"] if has_intervals else [predict]
    not_explained = ""
    if {"descriptors", "properties"} & set(config.extra_features):
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
        columns=_columns(targets, domain, prediction_columns),
    )


def _columns(
    targets: Sequence[Target], domain: ApplicabilityDomain | None, names: Sequence[str]
) -> Table | None:
    """List name, meaning and unit of the output columns; of many targets those of the first."""
    columns = [*possible_columns(targets[0]), *domain_output_columns(domain)]
    rows = [
        (column.name, column.meaning, column.unit) for column in columns if column.name in names
    ]
    return Table(("column", "meaning", "unit"), rows, is_text=True) if rows else None
