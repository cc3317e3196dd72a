"""Write the tables of README.md, docs/guide.md and docs/datasets.md from the figures here.

python -m benchmarks.tables          # rewrites what stands between the markers
python -m benchmarks.tables --check  # says whether the pages are up to date, and exits 1 if not
"""

import csv
import statistics
import sys
from dataclasses import fields
from pathlib import Path

from moleblend.catalogue import DATASETS, Counts
from moleblend.inventory import defects

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
GUIDE = HERE.parent / "docs" / "guide.md"
PAGE = HERE.parent / "docs" / "datasets.md"


def main(is_check: bool) -> int:
    """Rewrite or check the tables."""
    pages = {
        README: {
            "views": views(),
            "properties": properties(),
            "step": step(),
            "featurise": featurise(),
            "build": build(),
        },
        GUIDE: {"leakage": leakage()},
        PAGE: {"sets": sets(), "counts": counts()},
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
    for name, known in DATASETS.items():
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
        unit = f"{metric}, Å" if metric == "MAE" else metric
        told = " | ".join(f"{float(scores[how]['value']):.3f}" for how in shown)
        trivial = float(scores[shown[-1]]["trivial"])
        lines.append(f"| {view.replace('_', ' ')} ({unit}) | {told} | {trivial:.3f} |")
    return "\n".join(lines) + "\n"


def properties() -> str:
    """Tabulate the fine-tuned models: mean and standard deviation over seeds."""
    rows = _read(HERE / "results.csv")
    sets = list(dict.fromkeys((row["dataset"], row["metric"], row["unit"]) for row in rows))
    heads = [
        f"{name.upper()} ({', '.join(filter(None, (metric, unit)))})" for name, metric, unit in sets
    ]
    lines = ["| | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for model in dict.fromkeys(row["model"] for row in rows):
        cells = []
        for name, _, _ in sets:
            values = [
                float(row["value"])
                for row in rows
                if (row["dataset"], row["model"]) == (name, model)
            ]
            spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.3f}{spread} ({len(values)})" if values else "")
        lines.append(f"| {model} | " + " | ".join(cells) + " |")
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


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
