"""Count rows, molecules, labels and defects of every available data set.

    python -m benchmarks.accuracy.dataset_counts [--processes N]

Reads all data sets that `moleblend data list` marks as available (in MOLEBLEND_DATA or the cache)
and writes `benchmarks/results/dataset_counts.csv`. This takes some minutes.
"""

import argparse
import sys
from dataclasses import asdict
from datetime import UTC, datetime

from benchmarks.results.csv_files import RESULTS, write_rows
from moleblend.data.datasets.catalogue import known_datasets
from moleblend.data.datasets.fetch import content_sha256, find, is_here
from moleblend.data.datasets.integrity import check
from moleblend.files import replacing

OUT = RESULTS / "dataset_counts.csv"


def main(n_processes: int | None) -> None:
    """Check the data sets and write one row each."""
    rows = []
    for name, known in known_datasets().items():
        if not is_here(name):
            print(f"{name} is not available", file=sys.stderr)
            continue
        checked = check(name, n_processes=n_processes)
        print(f"{name}: {checked.hash}, {checked.counts}, {checked.differences}", file=sys.stderr)
        rows.append(
            {
                "date": datetime.now(UTC).date().isoformat(),
                "dataset": name,
                "literature": known.literature,
                **asdict(checked.counts),
                "hash": checked.hash,
                "content_sha256": content_sha256(find(name)),
                "not_as_known": "; ".join(checked.differences),
            }
        )
    with replacing(OUT) as temporary:
        write_rows(temporary, rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int)
    main(parser.parse_args().processes)
