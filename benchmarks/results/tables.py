"""Write the tables of README.md and of the pages in docs from the result files in this folder.

python -m benchmarks.results.tables          # rewrites the tables between their markers
python -m benchmarks.results.tables --check  # checks the tables; exits with 1 if one is outdated
"""

import math
import statistics
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import get_args

from benchmarks.accuracy.model_comparison import SETS, ModelName
from benchmarks.development.members import BETTER_FOREST
from benchmarks.results.csv_files import REPOSITORY, RESULTS, read_rows
from moleblend.data.datasets.catalogue import Counts, known_datasets
from moleblend.data.datasets.integrity import defects
from moleblend.pretraining.validation import metric_label

README = REPOSITORY / "README.md"
DOCS = REPOSITORY / "docs"


def main(is_check: bool) -> int:
    """Rewrite or check the tables."""
    pages = {
        README: {"properties": properties("U", is_short=True)},
        DOCS / "benchmarks.md": {
            "properties": properties("U"),
            "paired": paired(),
            "members": members(),
            "own splits": properties("H"),
            "costs": costs(),
            "uncertainty": uncertainty(),
            "views": views(),
            "step": step(),
            "featurization": featurization(),
            "stores": build_store(),
        },
        DOCS / "datasets.md": {"sets": datasets(), "counts": dataset_counts()},
        DOCS / "experiment-log.md": {"fine-tuning settings": finetuning_settings()},
        DOCS / "guide" / "data.md": {"leakage": split_leakage()},
        DOCS / "multi-gpu.md": {"threads": thread_waiting()},
    }
    stale = [page for page, tables in pages.items() if not _write(page, tables, is_check)]
    for page in stale:
        print(f"{page.name} is outdated: run python -m benchmarks.results.tables")
    if is_check and not stale:
        print("the tables are up to date")
    return int(bool(stale))


def _write(page: Path, tables: dict[str, str], is_check: bool) -> bool:
    """Write tables between their markers; return whether the page is up to date."""
    text = page.read_text(encoding="utf-8")
    new = text
    for name, table in tables.items():
        before, start, rest = new.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"<!-- end of {name} -->")
        if not (start and end):
            raise ValueError(f"{page}: the markers of the table {name!r} are missing")
        new = before + start + table + end + after
    if is_check:
        return new == text
    page.write_text(new, encoding="utf-8")
    return True


def datasets() -> str:
    """Tabulate the catalogue of data sets."""
    lines = ["| set | what it is | labels | metric | licence |", "|---|---|---|---|---|"]
    for name, known in known_datasets().items():
        labels = f"{known.n_tasks}, {known.task}" if known.task else ""
        lines.append(f"| `{name}` | {known.title} | {labels} | {known.metric} | {known.licence} |")
    return "\n".join(lines) + "\n"


def dataset_counts() -> str:
    """Tabulate the counts of the files and the counts in the literature."""
    lines = [
        "| set | rows | molecules | literature | labels | hash | defects |",
        "|---|--:|--:|--:|--:|---|---|",
    ]
    rows = read_rows(RESULTS / "dataset_counts.csv")
    for row in rows:
        counts = Counts(**{field.name: int(row[field.name]) for field in fields(Counts)})
        n_read = "" if counts.parsed == counts.rows else f" of {counts.parsed:,} read"
        cells = [
            f"`{row['dataset']}`",
            f"{counts.rows:,}",
            f"{counts.valid:,}{n_read}",
            f"{int(row['literature']):,}",
            f"{counts.labels:,}",
            f"{row['hash']} `{row['content_sha256'][:12]}`",
            "; ".join(filter(None, (*defects(counts), row["not_as_known"]))),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + f"\n\nCounted on {rows[0]['date']}.\n"


def views() -> str:
    """Tabulate the last validation of the packaged model: each view by how it was shown."""
    rows = read_rows(RESULTS / "packaged_model" / "validation.csv")
    rows = [row for row in rows if row["step"] == rows[-1]["step"]]
    shown = list(dict.fromkeys(row["shown"] for row in rows))
    lines = ["| | " + " | ".join(shown) + " | lookup baseline |", "|---" * (len(shown) + 2) + "|"]
    for view in dict.fromkeys(row["view"] for row in rows):
        scores = {row["shown"]: row for row in rows if row["view"] == view}
        metric = scores[shown[0]]["metric"]
        unit = metric_label(metric)
        values = " | ".join(f"{float(scores[how]['value']):.3f}" for how in shown)
        lookup = scores[shown[-1]]["lookup_baseline"]
        baseline = f"{float(lookup):.3f}" if lookup else ""
        lines.append(f"| {view.replace('_', ' ')} ({unit}) | {values} | {baseline} |")
    return "\n".join(lines) + "\n"


def properties(protocol: str, *, is_short: bool = False) -> str:
    """Tabulate the fine-tuned models on one protocol: mean and standard deviation over seeds.

    The short table leaves out models trained with the first defaults.
    """
    rows = _model_comparison(protocol)
    if is_short:
        rows = [row for row in rows if not row["model"].endswith("first defaults")]
    return _by_set_and_model(rows, _metric)


def paired() -> str:
    """Tabulate paired differences on protocol U: metric of both, difference and 95 % interval."""
    lines = [
        "| | default | other model | advantage of the default (95 % interval) | seeds |",
        "|---|---|---|---|---|",
    ]
    for row in read_rows(RESULTS / "paired.csv"):
        low, high = float(row["low"]), float(row["high"])
        interval = f"{float(row['advantage']):+.3f} ({low:+.3f} to {high:+.3f})"
        interval = f"**{interval}**" if low * high > 0 else interval
        lines.append(
            f"| {row['dataset'].upper()} ({row['metric']}) | {float(row['value']):.3f} | "
            f"{row['other']} {float(row['value_of_other']):.3f} | {interval} | {row['seeds']} |"
        )
    return "\n".join(lines) + "\n"


def members() -> str:
    """Tabulate the errors of members and averages on development splits, by the better forest's."""
    of_splits: dict[tuple[str, str], dict[tuple[str, str], float]] = {}
    for row in read_rows(RESULTS / "members.csv"):
        place = (row["set"], row["split"])
        of_splits.setdefault((row["setting"], row["member"]), {})[place] = float(row["error"])
    lines = [
        "| network | member | error, by that of the better random forest | lower on |",
        "|---|---|---|---|",
    ]
    for (setting, member), errors in of_splits.items():
        forest = of_splits[setting, BETTER_FOREST]
        if member == BETTER_FOREST:
            continue
        logs = [math.log(errors[place] / forest[place]) for place in forest]
        n_lower = sum(log < 0 for log in logs)
        ratio = math.exp(statistics.mean(logs))
        lines.append(f"| {setting} | {member} | {ratio:.3f} | {n_lower} of {len(logs)} splits |")
    return "\n".join(lines) + "\n"


def costs() -> str:
    """Tabulate the cost of training on protocol U: minutes and peak MB, medians over seeds."""
    rows = _model_comparison("U")
    return _by_set_and_model(rows, _cost)


def _model_comparison(protocol: str) -> list[dict[str, str]]:
    rows = read_rows(RESULTS / "model_comparison.csv")
    return [row for row in rows if row["protocol"] == protocol]


def _by_set_and_model(
    rows: list[dict[str, str]], summarise: Callable[[list[dict[str, str]]], str]
) -> str:
    """Tabulate runs: one line per data set, one column per model."""
    present = {row["model"] for row in rows}
    models = [model for model in get_args(ModelName) if model in present]
    rows = sorted(rows, key=lambda row: SETS.index(row["dataset"]))
    lines = [f"| | {' | '.join(models)} |", "|---" * (len(models) + 1) + "|"]
    for name, metric, unit in dict.fromkeys((r["dataset"], r["metric"], r["unit"]) for r in rows):
        cells = [
            summarise([row for row in rows if (row["dataset"], row["model"]) == (name, model)])
            for model in models
        ]
        label = ", ".join(filter(None, (metric, unit)))
        lines.append(f"| {name.upper()} ({label}) | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _metric(runs: list[dict[str, str]]) -> str:
    values = [float(run["value"]) for run in runs]
    if not values:
        return ""
    std = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{std} ({len(values)})"


def _cost(runs: list[dict[str, str]]) -> str:
    minutes = [float(run["minutes"]) for run in runs]
    memory = [float(run["peak_mb"]) for run in runs if run["peak_mb"]]
    if not minutes:
        return ""
    time = f"{statistics.median(minutes):.1f} min"
    return f"{time}, {statistics.median(memory):,.0f} MB" if memory else time


def finetuning_settings(folder: Path = RESULTS) -> str:
    """Tabulate the relative change in error, in %, of each fine-tuning setting.

    The error is the RMSE, or 1 - ROC-AUC. Each run is compared with the default setting on the same
    split and seed; cells have the mean and its standard error over seeds.
    """
    rows = read_rows(folder / "finetuning_settings.csv")
    sets = list(dict.fromkeys(row["dataset"] for row in rows))
    error = {
        (row["dataset"], row["setting"], row["seed"]): float(row["test"])
        if row["metric"] == "RMSE"
        else 1 - float(row["test"])
        for row in rows
    }
    lines = [f"| | {' | '.join(s.upper() for s in sets)} | mean |", "|---" * (len(sets) + 2) + "|"]
    for setting in dict.fromkeys(row["setting"] for row in rows):
        if setting == "default":
            continue
        cells, means = [], []
        for name in sets:
            changes = [
                100 * (error[name, setting, seed] / error[name, "default", seed] - 1)
                for of, how, seed in error
                if (of, how) == (name, setting) and (name, "default", seed) in error
            ]
            if not changes:
                cells.append("")
                continue
            means.append(statistics.mean(changes))
            standard_error = ""
            if len(changes) > 1:
                standard_error = f" ± {statistics.stdev(changes) / len(changes) ** 0.5:.1f}"
            cells.append(f"{means[-1]:+.1f}{standard_error} ({len(changes)})")
        mean = f"{statistics.mean(means):+.1f}" if means else ""
        lines.append(f"| {setting} | {' | '.join(cells)} | {mean} |")
    return "\n".join(lines) + "\n"


def uncertainty() -> str:
    """Tabulate calibration and coverage of the models on the test sets: means over seeds."""
    rows = read_rows(RESULTS / "uncertainty.csv")
    heads = ("model", "ECE before", "ECE after", "ECE if calibrated", "quantile error")
    heads += ("coverage of 90 %", "classes in a set", "seeds")
    lines = [f"| | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    names = ("ECE_before", "ECE_after", "ECE_after_if_right", "quantile_error", "coverage")
    names += ("mean_set_size",)
    rows.sort(key=lambda row: (row["protocol"] == "H", SETS.index(row["dataset"]), row["model"]))
    for key in dict.fromkeys((row["dataset"], row["protocol"], row["model"]) for row in rows):
        runs = [row for row in rows if (row["dataset"], row["protocol"], row["model"]) == key]
        cells = []
        for name in names:
            values = [float(run[name]) for run in runs if run[name]]
            cells.append(f"{statistics.mean(values):.3f}" if values else "")
        lines.append(
            f"| {key[0].upper()}, {key[1]} | {key[2]} | {' | '.join(cells)} | {len(runs)} |"
        )
    return "\n".join(lines) + "\n"


def split_leakage() -> str:
    """Tabulate what the test set of each published split shares with the training set."""
    lines = [
        "| | train / valid. / test | molecules | skeletons | scaffolds (test rows) | Tanimoto |",
        "|---|---|---|---|---|---|",
    ]
    for row in read_rows(RESULTS / "split_leakage.csv"):
        sizes = " / ".join(
            f"{int(row[f'rows in {name}']):,}" for name in ("train", "validation", "test")
        )
        shared = [row[f"{kind} in train and test"] for kind in ("molecule", "skeleton")]
        scaffolds = row["scaffold in train and test"]
        rows = row["scaffold in train and test, rows of test"]
        median, low, high = (
            f"{float(row[f'test to train, {quantile}']):.2f}"
            for quantile in ("median", "5%", "95%")
        )
        cells = (
            row["dataset"],
            sizes,
            *shared,
            f"{scaffolds} ({rows})",
            f"{median} ({low} to {high})",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def featurization() -> str:
    """Tabulate the speed from SMILES to a batch, with the ratio to the naive implementation."""
    rows = read_rows(RESULTS / "featurization.csv")
    lines = [
        "| molecules/s, one process | " + " | ".join(dict.fromkeys(r["data"] for r in rows)) + " |",
        "|---|--:|--:|",
    ]
    for method in dict.fromkeys(row["method"] for row in rows):
        cells = [
            f"{int(row['molecules_per_s']):,} ({float(row['ratio_to_plain']):.1f}x, "
            f"{float(row['fraction_of_rdkit_parsing']):.0%})"
            for row in rows
            if row["method"] == method
        ]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines) + f"\n\nMeasured on {rows[0]['date']}.\n"


def step() -> str:
    """Tabulate a pretraining step and inference, compared with the naive implementation."""
    rows = read_rows(RESULTS / "step.csv")
    heads = (
        "configuration, data, batch",
        "task",
        "molecules/s",
        "speedup over the naive implementation",
    )
    heads += ("multiple of the matrix-product time", "peak MB", "naive peak MB")
    lines = [f"| {' | '.join(heads)} |", "|---|---|--:|--:|--:|--:|--:|"]
    lines += [
        f"| {row['config']}, {row['data']}, {row['batch']} | {row['task']} "
        f"| {float(row['molecules_per_s']):,.0f} | {float(row['ratio_to_plain']):.2f} "
        f"| {float(row['multiple_of_floor']):.1f} | {row['peak_mb']} | {row['plain_peak_mb']} |"
        for row in rows
    ]
    return "\n".join(lines) + f"\n\nMeasured on {rows[0]['date']}, {rows[0]['threads']} threads.\n"


def build_store() -> str:
    """Tabulate speed, memory and file size of building stores of increasing size."""
    lines = [
        "| rows | conformers | molecules/s | peak memory, MB | bytes per molecule |",
        "|--:|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {int(row['rows']):,} | {row['conformers']} | {int(row['molecules_per_s']):,} "
        f"| {row['peak_mb']} | {row['bytes_per_molecule']} |"
        for row in read_rows(RESULTS / "build_store.csv")
    ]
    return "\n".join(lines) + "\n"


def thread_waiting(folder: Path = RESULTS) -> str:
    """Tabulate the speed of torch's threads by how long they busy-wait for each other."""
    rows = read_rows(folder / "thread_waiting.csv")
    speeds = {(row["setting"], row["busy_cores"]): row for row in rows}
    lines = [
        "| setting | steps/s, idle | embeddings/s, idle | steps/s, one busy core | embeddings/s |",
        "|---|--:|--:|--:|--:|",
    ]
    for setting in dict.fromkeys(setting for setting, _ in speeds):
        cells = [
            f"{float(speeds[setting, n_busy][f'{name}_per_s']):.1f} "
            f"({speeds[setting, n_busy][ratio]}x)"
            for n_busy in ("0", "1")
            for name, ratio in (("steps", "ratio"), ("embeddings", "embedding_ratio"))
        ]
        lines.append(f"| {setting} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
