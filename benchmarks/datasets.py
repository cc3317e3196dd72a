"""Count every data set that is here, and write `datasets.csv`.

python -m benchmarks.datasets [--processes N]

takes all that `moleblend data list` says are here (MOLEBLEND_DATA, the cache), some minutes.
"""

import argparse
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.ledger import write
from moleblend.data.datasets.catalogue import known_datasets
from moleblend.data.datasets.fetch import content_sha256, find, is_here
from moleblend.data.datasets.integrity import check
from moleblend.files import replacing

OUT = Path(__file__).with_name("datasets.csv")


def main(n_processes: int | None) -> None:
    """Check the sets and write their rows."""
    rows = []
    for name, known in known_datasets().items():
        if not is_here(name):
            print(f"{name} is not here", file=sys.stderr)
            continue
        found = check(name, n_processes=n_processes)
        print(f"{name}: {found.hash}, {found.counts}, {found.differences}", file=sys.stderr)
        rows.append(
            {
                "date": datetime.now(UTC).date().isoformat(),
                "dataset": name,
                "literature": known.literature,
                **asdict(found.counts),
                "hash": found.hash,
                "content_sha256": content_sha256(find(name)),
                "not_as_known": "; ".join(found.differences),
            }
        )
    with replacing(OUT) as temporary:
        write(temporary, rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int)
    main(parser.parse_args().processes)
