"""A random forest on count-ECFP4: what a learned model has to beat.

python -m benchmarks.forest DATA.csv PREDICTED.csv --kind regression --seed 0
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import tyro
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

from moleblend.fingerprints import count_ecfp4
from moleblend.tables import numbers, read_table, write_table


@dataclass(frozen=True)
class Options:
    """What to train.

    Attributes:
        data: csv with the columns `smiles`, the targets, and `split` (train, val, test).
        out: csv of what is predicted for the test part, one column per target.
        kind: of all targets.
        seed: of the trees.
    """

    data: tyro.conf.Positional[Path]
    out: tyro.conf.Positional[Path]
    kind: Literal["regression", "binary"]
    seed: int = 0


def main(options: Options) -> None:
    """Train 500 trees on 2,048 bits for each target, on the training part, and predict test."""
    table = read_table(options.data)
    parts = np.array(table.column("split").to_pylist())
    x = np.stack([count_ecfp4(smiles) for smiles in table.column("smiles").to_pylist()])
    predicted = {}
    for target in table.columns.column_names:
        if target in ("smiles", "split"):
            continue
        labels = numbers(table, target)
        known = (parts == "train") & ~np.isnan(labels)
        settings = {"n_estimators": 500, "random_state": options.seed, "n_jobs": -1}
        if options.kind == "regression":
            forest = RandomForestRegressor(**settings).fit(x[known], labels[known])
            found = forest.predict(x[parts == "test"])
        else:
            forest = RandomForestClassifier(**settings).fit(x[known], labels[known])
            # A target of one class in train has one column, and no probability of the other.
            found = forest.predict_proba(x[parts == "test"]) @ forest.classes_
        predicted[target] = pa.array(found)
    write_table(pa.table(predicted), options.out)


if __name__ == "__main__":
    main(tyro.cli(Options))
