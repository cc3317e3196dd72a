"""Train a random forest on count-ECFP4, the baseline of the model comparison.

python -m benchmarks.accuracy.random_forest DATA.csv PREDICTED.csv --kind regression --seed 0

The forest has scikit-learn's defaults and 500 trees. `--descriptors` adds the 111 properties of
RDKit that moleblend's trees read.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import tyro
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

from moleblend.chem.descriptors import molecule_features
from moleblend.data.formats import read_table, write_table
from moleblend.data.labels.cell_values import read_numbers


@dataclass(frozen=True)
class Options:
    """What to train.

    Attributes:
        data: csv file with the columns `smiles`, the targets, and `split` (train, val, test).
        out: csv file for the test predictions, one column per target.
        kind: kind of all targets.
        seed: random seed of the trees.
        descriptors: add properties of RDKit.
    """

    data: tyro.conf.Positional[Path]
    out: tyro.conf.Positional[Path]
    kind: Literal["regression", "binary"]
    seed: int = 0
    descriptors: bool = False


def main(options: Options) -> None:
    """Train 500 trees per target and predict the test set."""
    table = read_table(options.data)
    split = np.array(table.column("split").to_pylist())
    kinds = ("ecfp4", "properties") if options.descriptors else ("ecfp4",)
    x = molecule_features(table.column("smiles").to_pylist(), kinds)
    train, test = split == "train", split == "test"
    predicted = {}
    for name in table.columns.column_names:
        if name in ("smiles", "split"):
            continue
        labels = read_numbers(table, name)
        known = train & np.isfinite(labels)
        forest_class = (
            RandomForestRegressor if options.kind == "regression" else RandomForestClassifier
        )
        forest = forest_class(n_estimators=500, random_state=options.seed, n_jobs=-1)
        forest.fit(x[known], labels[known])
        if options.kind == "regression":
            values = forest.predict(x[test])
        else:  # a single class in training gives a single column
            values = forest.predict_proba(x[test]) @ forest.classes_
        predicted[name] = pa.array(values)
    write_table(pa.table(predicted), options.out)


if __name__ == "__main__":
    main(tyro.cli(Options))
