"""Write the tables of README.md and of pages in docs from the figures here.

python -m benchmarks.tables          # rewrites what stands between the markers
python -m benchmarks.tables --check  # says whether the pages are up to date, and exits 1 if not
"""

import csv
import statistics
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import get_args

from benchmarks.compare import SETS, ModelName
from moleblend.data.datasets.catalogue import Counts, known_datasets
from moleblend.data.datasets.integrity import defects
from moleblend.pretraining.validation import named_metric

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
GUIDE = HERE.parent / "docs" / "guide.md"
DECISIONS = HERE.parent / "docs" / "decisions.md"
RESULTS = HERE.parent / "docs" / "results.md"
PAGE = HERE.parent / "docs" / "datasets.md"
SCALE = HERE.parent / "docs" / "scale.md"


def main(is_check: bool) -> int:
    """Rewrite or check the tables."""
    pages = {
        README: {
            "views": views(),
            "properties": properties("U", is_short=True),
            "step": step(),
            "featurise": featurise(),
            "build": build(),
        },
        GUIDE: {"leakage": leakage()},
        DECISIONS: {"defaults": defaults()},
        RESULTS: {
            "properties": properties("U"),
            "own splits": properties("H"),
            "costs": costs(),
            "sureness": uncertainty(),
        },
        PAGE: {"sets": sets(), "counts": counts()},
        SCALE: {"waiting": waiting()},
    }
    stale = [page for page, tables in pages.items() if not _write(page, tables, is_check)]
    for page in stale:
        print(f"{page.name}: run benchmarks.tables")
    if is_check and not stale:
        print("the tables are up to date")
    return int(bool(stale))


def _write(page: Path, tables: dict[str, str], is_check: bool) -> bool:
    """Put tables between their markers; say whether the page is up to date."""
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


def sets() -> str:
    """Tabulate what is known of the data sets."""
    lines = ["| set | what it is | labels | metric | licence |", "|---|---|---|---|---|"]
    for name, known in known_datasets().items():
        labels = f"{known.n_tasks}, {known.task}" if known.task else ""
        lines.append(f"| `{name}` | {known.title} | {labels} | {known.metric} | {known.licence} |")
    return "\n".join(lines) + "\n"


def counts() -> str:
    """Tabulate what the files hold against the counts of the literature."""
    lines = [
        "| set | rows | molecules | literature | labels | hash | defects |",
        "|---|--:|--:|--:|--:|---|---|",
    ]
    rows = _read(HERE / "datasets.csv")
    for row in rows:
        found = Counts(**{field.name: int(row[field.name]) for field in fields(Counts)})
        wrong = defects(found)
        part = "" if found.parsed == found.rows else f" of {found.parsed:,} read"
        cells = [
            f"`{row['dataset']}`",
            f"{found.rows:,}",
            f"{found.valid:,}{part}",
            f"{int(row['literature']):,}",
            f"{found.labels:,}",
            f"{row['hash']} `{row['content_sha256'][:12]}`",
            "; ".join(filter(None, (*wrong, row["not_as_known"]))),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + f"\n\nCounted on {rows[0]['date']}.\n"


def views() -> str:
    """Tabulate the last validation of the packaged model: each view in each situation."""
    rows = _read(HERE / "packaged" / "validation.csv")
    rows = [row for row in rows if row["step"] == rows[-1]["step"]]
    shown = list(dict.fromkeys(row["shown"] for row in rows))
    lines = ["| | " + " | ".join(shown) + " | look-up |", "|---" * (len(shown) + 2) + "|"]
    for view in dict.fromkeys(row["view"] for row in rows):
        scores = {row["shown"]: row for row in rows if row["view"] == view}
        metric = scores[shown[0]]["metric"]
        unit = named_metric(metric)
        told = " | ".join(f"{float(scores[how]['value']):.3f}" for how in shown)
        trivial = scores[shown[-1]]["trivial"]
        known = f"{float(trivial):.3f}" if trivial else ""
        lines.append(f"| {view.replace('_', ' ')} ({unit}) | {told} | {known} |")
    return "\n".join(lines) + "\n"


def properties(protocol: str, *, is_short: bool = False) -> str:
    """Tabulate the fine-tuned models on one protocol: mean and standard deviation over seeds.

    The short table leaves out what was trained by the first defaults.
    """
    rows = [row for row in _read(HERE / "results.csv") if row["protocol"] == protocol]
    if is_short:
        rows = [row for row in rows if not row["model"].endswith("first defaults")]
    return _by_set_and_model(rows, _figure)


def costs() -> str:
    """Tabulate what a training took, protocol U: minutes and MB of memory, medians over seeds."""
    rows = [row for row in _read(HERE / "results.csv") if row["protocol"] == "U"]
    return _by_set_and_model(rows, _cost)


def _by_set_and_model(
    rows: list[dict[str, str]], tell: Callable[[list[dict[str, str]]], str]
) -> str:
    """Tabulate runs, a line for each set and a column for each model."""
    known = {row["model"] for row in rows}
    models = [model for model in get_args(ModelName) if model in known]
    rows = sorted(rows, key=lambda row: SETS.index(row["dataset"]))
    lines = [f"| | {' | '.join(models)} |", "|---" * (len(models) + 1) + "|"]
    for name, metric, unit in dict.fromkeys((r["dataset"], r["metric"], r["unit"]) for r in rows):
        cells = [
            tell([row for row in rows if (row["dataset"], row["model"]) == (name, model)])
            for model in models
        ]
        told = ", ".join(filter(None, (metric, unit)))
        lines.append(f"| {name.upper()} ({told}) | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _figure(runs: list[dict[str, str]]) -> str:
    values = [float(run["value"]) for run in runs]
    if not values:
        return ""
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{spread} ({len(values)})"


def _cost(runs: list[dict[str, str]]) -> str:
    minutes = [float(run["minutes"]) for run in runs]
    memory = [float(run["peak_mb"]) for run in runs if run["peak_mb"]]
    if not minutes:
        return ""
    told = f"{statistics.median(minutes):.1f} min"
    return f"{told}, {statistics.median(memory):,.0f} MB" if memory else told


def defaults() -> str:
    """Tabulate what each way of fine-tuning changes: its error over that of the default, in %.

    The error is the RMSE, or 1 - ROC-AUC; the mean and its standard error over seeds, each with the
    default of the same split and seed.
    """
    rows = _read(HERE / "defaults.csv")
    sets = list(dict.fromkeys(row["dataset"] for row in rows))
    error = {
        (row["dataset"], row["way"], row["seed"]): float(row["test"])
        if row["metric"] == "RMSE"
        else 1 - float(row["test"])
        for row in rows
    }
    lines = [f"| | {' | '.join(s.upper() for s in sets)} | mean |", "|---" * (len(sets) + 2) + "|"]
    for way in dict.fromkeys(row["way"] for row in rows):
        if way == "default":
            continue
        cells, means = [], []
        for name in sets:
            changes = [
                100 * (error[name, way, seed] / error[name, "default", seed] - 1)
                for of, how, seed in error
                if (of, how) == (name, way) and (name, "default", seed) in error
            ]
            if not changes:
                cells.append("")
                continue
            means.append(statistics.mean(changes))
            spread = ""
            if len(changes) > 1:
                spread = f" ± {statistics.stdev(changes) / len(changes) ** 0.5:.1f}"
            cells.append(f"{means[-1]:+.1f}{spread} ({len(changes)})")
        told = f"{statistics.mean(means):+.1f}" if means else ""
        lines.append(f"| {way} | {' | '.join(cells)} | {told} |")
    return "\n".join(lines) + "\n"


def uncertainty() -> str:
    """Tabulate how sure the models were, on the test parts: means over seeds."""
    rows = _read(HERE / "sureness.csv")
    heads = ("model", "ECE before", "ECE after", "ECE of right ones", "quantile error")
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


def leakage() -> str:
    """Tabulate what the test part of each published split shares with train."""
    lines = [
        "| | train / valid. / test | molecules | skeletons | scaffolds (test rows) | Tanimoto |",
        "|---|---|---|---|---|---|",
    ]
    for row in _read(HERE / "leakage.csv"):
        sizes = " / ".join(
            f"{int(row[f'rows in {part}']):,}" for part in ("train", "validation", "test")
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


def featurise() -> str:
    """Tabulate the way from SMILES to a batch, beside the straightforward one."""
    rows = _read(HERE / "featurise.csv")
    lines = [
        "| molecules/s, one process | " + " | ".join(dict.fromkeys(r["data"] for r in rows)) + " |",
        "|---|--:|--:|",
    ]
    for way in dict.fromkeys(row["way"] for row in rows):
        cells = [
            f"{int(row['molecules_per_s']):,} ({float(row['ratio_to_plain']):.1f}x, "
            f"{float(row['share_of_rdkit_parsing']):.0%})"
            for row in rows
            if row["way"] == way
        ]
        lines.append(f"| {way} | {' | '.join(cells)} |")
    return "\n".join(lines) + f"\n\nMeasured on {rows[0]['date']}.\n"


def step() -> str:
    """Tabulate a pretraining step and inference beside the straightforward way."""
    rows = _read(HERE / "step.csv")
    heads = (
        "configuration, data, batch",
        "what",
        "molecules/s",
        "ratio to the straightforward way",
    )
    heads += ("multiple of the floor", "peak MB", "straightforward")
    lines = [f"| {' | '.join(heads)} |", "|---|---|--:|--:|--:|--:|--:|"]
    lines += [
        f"| {row['config']}, {row['data']}, {row['batch']} | {row['what']} "
        f"| {float(row['molecules_per_s']):,.0f} | {float(row['ratio_to_plain']):.2f} "
        f"| {float(row['multiple_of_floor']):.1f} | {row['peak_mb']} | {row['plain_peak_mb']} |"
        for row in rows
    ]
    return "\n".join(lines) + f"\n\nMeasured on {rows[0]['date']}, {rows[0]['threads']} threads.\n"


def build() -> str:
    """Tabulate what building stores of more and more molecules takes."""
    lines = [
        "| rows | conformers | molecules/s | peak memory, MB | bytes per molecule |",
        "|--:|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {int(row['rows']):,} | {row['conformers']} | {int(row['molecules_per_s']):,} "
        f"| {row['peak_mb']} | {row['bytes_per_molecule']} |"
        for row in _read(HERE / "build.csv")
    ]
    return "\n".join(lines) + "\n"


def waiting() -> str:
    """Tabulate how fast torch's threads are when they look for each other longer or shorter."""
    found = {(row["way"], row["busy_cores"]): row for row in _read(HERE / "waiting.csv")}
    lines = [
        "| threads | steps/s, quiet | embeddings/s, quiet | steps/s, a core busy | embeddings/s |",
        "|---|--:|--:|--:|--:|",
    ]
    for way in dict.fromkeys(way for way, _ in found):
        cells = [
            f"{float(found[way, n_busy][name + '_per_s']):.1f} ({found[way, n_busy][ratio]}x)"
            for n_busy in ("0", "1")
            for name, ratio in (("steps", "ratio"), ("embeddings", "embedding_ratio"))
        ]
        lines.append(f"| {way} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
