"""What networks and trees add to each other: errors of members and averages on development splits.

    python -m benchmarks.development.members --epochs 30

For each set of `sets.FINE_TUNED` and each of its four splits a model is trained as by `moleblend
train`: the network from the packaged model, the trees, and the weights on a validation set with the
geometry of the split. The error is the RMSE, or 1 - ROC-AUC, the mean over the tasks that can be
scored. Each row of `results/members.csv` is one set, split, setting and member, so that a run
continues where another stopped. No test row of protocol U takes part.

The table gives the geometric mean over sets and splits of the error divided by that of the better
random forest, by validation, and on how many splits it is lower.
"""

import io
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from rich.console import Console

from benchmarks.development.sets import FEWEST_OF_A_CLASS, FINE_TUNED, N_SPLITS, development_set
from benchmarks.results.csv_files import RESULTS, append_row, read_rows
from moleblend.chem.descriptors import molecule_features
from moleblend.data.dataset import MoleculeDataset
from moleblend.data.labels.label_column import LabelColumn
from moleblend.data.labels.target_detection import TargetColumns
from moleblend.evaluation.metrics import Metrics
from moleblend.finetuning.config import TrainConfig
from moleblend.finetuning.run import Start, train_and_test
from moleblend.finetuning.tree_members import TREE_KINDS
from moleblend.model.checkpoint import load, locate
from moleblend.trees.averaging import feature_columns
from moleblend.trees.training import plan_trees

MEMBERS = RESULTS / "members.csv"
BETTER_FOREST, AVERAGE = "better random forest", "average"


@dataclass(frozen=True)
class Options:
    """What to run.

    Attributes:
        sets: names of development sets.
        splits: numbers of the splits.
        epochs: of the network.
        learning_rate: of the network.
        source: model that the network starts from, or `scratch`.
        results: the csv file.
        table: only print the table.
    """

    sets: tuple[str, ...] = FINE_TUNED
    splits: tuple[int, ...] = tuple(range(N_SPLITS))
    epochs: int = 30
    learning_rate: float = 2e-4
    source: str = "packaged"
    results: Path = MEMBERS
    table: bool = False


def main(options: Options) -> None:
    """Run what the file does not have yet, and print the table."""
    torch.set_num_threads(1)
    setting = f"{options.source}, {options.epochs} epochs, {options.learning_rate:g}"
    for number in options.splits if not options.table else ():
        for name in options.sets:
            done = {(r["set"], r["split"], r["setting"]) for r in read_rows(options.results)}
            if (name, str(number), setting) not in done:
                for row in run(name, number, options):
                    append_row(
                        options.results,
                        {"set": name, "split": number, "setting": setting, **row},
                    )
    print_table(options.results)


def run(name: str, number: int, options: Options) -> list[dict[str, object]]:
    """Train on one split; return the error and the mean weight of each member."""
    data = development_set(name)
    kind = "binary" if data.has_classes else "regression"
    config = TrainConfig(
        data=f"{name}.csv",
        epochs=options.epochs,
        learning_rate=options.learning_rate,
        features=("ecfp4",),
        device="cpu",
    )
    kinds = tuple(dict.fromkeys([*config.extra_features, *TREE_KINDS]))
    features = molecule_features([molecule.smiles for molecule in data.molecules], kinds)
    dataset = MoleculeDataset(
        list(data.molecules),
        data.labels,
        np.zeros(data.labels.shape, np.int8),
        features[:, feature_columns(kinds, config.extra_features)],
        features[:, feature_columns(kinds, TREE_KINDS)],
    )
    split = data.split(number)
    exact = np.zeros(len(dataset), np.int8)
    label_columns = tuple(
        LabelColumn(f"t{k}", kind, (), values, exact, {}) for k, values in enumerate(data.labels.T)
    )
    empty = ("",) * len(label_columns)
    columns = TargetColumns(label_columns, empty, {}, (), {}, empty)
    packaged = load(locate("packaged"))
    source = None if options.source == "scratch" else load(locate(options.source))
    start = Start(source, (source or packaged).config.encoder, "2d", columns)
    plan = plan_trees(config.forest, [kind] * data.labels.shape[1], dataset, [split], 1)
    started = time.process_time()
    console = Console(file=io.StringIO())
    trained = train_and_test(config, number, start, dataset, split, plan, console)
    seconds = time.process_time() - started
    labels = data.labels[split.test]
    of_members = {member.name: member.test for member in trained.member_evaluations}
    of_members |= {BETTER_FOREST: trained.baseline.test, AVERAGE: trained.evaluation.test}
    weights = {member.name: member.weights for member in trained.member_evaluations}
    return [
        {
            "member": member,
            "weight": f"{np.mean(list(weights[member].values())):.3f}" if member in weights else "",
            "error": f"{error(test, labels, has_classes=data.has_classes):.5f}",
            "cpu_s": f"{seconds:.0f}",
        }
        for member, test in of_members.items()
    ]


def error(test: dict[str, Metrics], labels: np.ndarray, *, has_classes: bool) -> float:
    """Average the error over the tasks that can be scored."""
    errors = []
    for k in range(labels.shape[1]):
        known = labels[np.isfinite(labels[:, k]), k]
        if has_classes and np.bincount(known.astype(int), minlength=2).min() < FEWEST_OF_A_CLASS:
            continue
        metrics = test.get(f"t{k}", {})
        value = metrics.get("ROC-AUC" if has_classes else "RMSE")
        if value is not None:
            errors.append(1 - value if has_classes else value)
    return float(np.mean(errors))


def print_table(path: Path) -> None:
    """Print the errors relative to the better random forest, for each setting."""
    errors: dict[str, dict[str, dict[tuple[str, str], float]]] = {}
    seconds: dict[str, list[float]] = {}
    for row in read_rows(path):
        place = (row["set"], row["split"])
        of_setting = errors.setdefault(row["setting"], {})
        of_setting.setdefault(row["member"], {})[place] = float(row["error"])
        if row["member"] == AVERAGE:
            seconds.setdefault(row["setting"], []).append(float(row["cpu_s"]))
    for setting, of_members in errors.items():
        forest = of_members[BETTER_FOREST]
        print(
            f"{setting}: {len(forest)} splits, {np.mean(seconds[setting]):.0f} s of one core each"
        )
        for member, of_places in of_members.items():
            ratios = [np.log(of_places[place] / forest[place]) for place in forest]
            n_better = sum(ratio < 0 for ratio in ratios)
            spread = np.std(ratios, ddof=1) / len(ratios) ** 0.5 if len(ratios) > 1 else np.nan
            print(
                f"  {member:42s} {np.exp(np.mean(ratios)):.3f} (log ± {spread:.3f}), lower on "
                f"{n_better} of {len(ratios)}"
            )


if __name__ == "__main__":
    main(tyro.cli(Options))
