"""Train a random forest on count-ECFP4, the baseline of the model comparison.

python -m benchmarks.accuracy.random_forest DATA.csv PREDICTED.csv --kind regression --seed 0
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import tyro

from moleblend.data.formats import read_table, write_table
from moleblend.data.labels.cell_values import read_numbers
from moleblend.data.targets import Target
from moleblend.evaluation.baseline import count_matrix, forest_predictions


@dataclass(frozen=True)
class Options:
    """What to train.

    Attributes:
        data: csv file with the columns `smiles`, the targets, and `split` (train, val, test).
        out: csv file for the test predictions, one column per target.
        kind: kind of all targets.
        seed: random seed of the trees.
    """

    data: tyro.conf.Positional[Path]
    out: tyro.conf.Positional[Path]
    kind: Literal["regression", "binary"]
    seed: int = 0


def main(options: Options) -> None:
    """Train 500 trees on 2,048 bits per target and predict the test set."""
    table = read_table(options.data)
    split = np.array(table.column("split").to_pylist())
    x = count_matrix(table.column("smiles").to_pylist())
    train, test = split == "train", split == "test"
    predicted = {}
    for name in table.columns.column_names:
        if name in ("smiles", "split"):
            continue
        labels = read_numbers(table, name)[train]
        target, censoring = Target(name, options.kind), np.zeros(len(labels), np.int8)
        values = forest_predictions(target, x[train], labels, censoring, x[test], seed=options.seed)
        predicted[name] = pa.array(values[:, 0])
    write_table(pa.table(predicted), options.out)


if __name__ == "__main__":
    main(tyro.cli(Options))
