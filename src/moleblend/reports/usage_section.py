"""How to use a model that was trained, for the page of its training: commands that run."""

import shlex
from html import escape

from moleblend.finetuning.train import TrainResult
from moleblend.prediction.explanation import MOST_TARGETS
from moleblend.prediction.outputs import domain_output_columns, possible_columns
from moleblend.reports.html_page import table


def usage_part(result: TrainResult) -> list[str]:
    """Show the commands of the shell and of Python for this model."""
    model = str(result.model)
    quoted, texts = shlex.quote(model), []
    shell = [f"moleblend predict {quoted} molecules.csv predictions.csv"]
    is_sure = bool(result.uncertainty.values or result.uncertainty.classes)
    if is_sure:
        shell.append(f"{shell[0]} --confidence 0.8")
        texts.append("A lower confidence than 0.9 gives narrower intervals and smaller sets.")
    named = ""
    if len(result.targets) > MOST_TARGETS:
        named = f" --target {shlex.quote(result.targets[0].name)}"
    if "descriptors" in result.config.joined:
        texts.append("explain cannot speak for a model that reads descriptors.")
    elif any(target.kind == "multiclass" for target in result.targets):
        texts.append("explain cannot speak for targets of several classes.")
    else:
        shell.append(f"moleblend explain {quoted} molecules.csv why.html{named}")
    if result.config.conformers:
        texts.append(
            "Geometries are computed in a process of their own, so a script of yours needs "
            'if __name__ == "__main__": around what follows its imports.'
        )
    confidence = ", confidence=0.8" if is_sure else ""
    python = (
        "import pandas\n"
        "from moleblend import Predictor\n\n"
        f"predictor = Predictor({model!r})\n"
        f'table = predictor.predict(["CCO", "c1ccccc1O"]{confidence})   # a pyarrow Table\n'
        'frame = predictor.predict(pandas.read_csv("molecules.csv"))   # a data frame comes back\n'
        'vectors = predictor.embed(["CCO", "c1ccccc1O"])   # one vector per molecule\n'
    )
    return [
        "<h2>Use the model</h2>",
        "<p>The model is one file. Every row of the input comes back, with a status.</p>",
        f"<pre>{escape(chr(10).join(shell))}</pre>",
        "<p>In Python (pandas, or polars, is needed for the data frame alone):</p>",
        f"<pre>{escape(python)}</pre>",
        *(f"<p>{escape(text)}</p>" for text in texts),
        _columns(result),
    ]


def _columns(result: TrainResult) -> str:
    """List name, meaning and unit of the output columns; of many targets those of the first."""
    names = result.choices.get("prediction_columns", [])
    described = [*possible_columns(result.targets[0]), *domain_output_columns(result.domain)]
    rows = [
        (column.name, column.meaning, column.unit) for column in described if column.name in names
    ]
    return table(("column", "meaning", "unit"), rows, style="words") if rows else ""
