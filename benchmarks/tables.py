"""Write the tables of README.md and docs/guide.md from the figures beside this file.

python -m benchmarks.tables          # rewrites what stands between the markers
python -m benchmarks.tables --check  # says whether the files are up to date, and exits 1 if not
"""

import csv
import statistics
import sys
from pathlib import Path

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
GUIDE = HERE.parent / "docs" / "guide.md"


def main(is_check: bool) -> int:
    """Rewrite or check the tables."""
    results = [
        rewrite(README, {"views": views(), "properties": properties()}, is_check),
        rewrite(GUIDE, {"leakage": leakage()}, is_check),
    ]
    return int(is_check and not all(results))


def rewrite(path: Path, tables: dict[str, str], is_check: bool) -> bool:
    """Put the tables between their markers, unless it is a check; say whether they stood there."""
    text = path.read_text(encoding="utf-8")
    new = text
    for name, table in tables.items():
        before, start, rest = new.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"<!-- end of {name} -->")
        if not (start and end):
            raise ValueError(f"{path}: the markers of the table {name!r} are missing")
        new = before + start + table + end + after
    if is_check:
        print(
            f"{path.name} is up to date" if new == text else f"{path.name}: run benchmarks.tables"
        )
    else:
        path.write_text(new, encoding="utf-8")
    return new == text


def views() -> str:
    """Tabulate the last validation of the pretraining run: each view in each situation."""
    rows = _read(HERE / "qm9_small" / "validation.csv")
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


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
