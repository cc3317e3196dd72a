"""A short run of the chaos command, as a user starts it."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.results.csv_files import read_rows
from benchmarks.robustness.chaos import OUTCOMES

SHORT = [
    *("--damage", "60", "--kills", "1", "--full", "1", "--commands", "data build"),
    *("--no-settings", "--no-objects", "--limit-s", "60"),
]
LONGER = [
    *("--damage", "200", "--kills", "9", "--full", "9", "--no-objects", "--limit-s", "90"),
]


@pytest.mark.parametrize(
    ("options", "kinds"),
    [
        (SHORT, {"damage", "kill", "full"}),
        pytest.param(LONGER, {"damage", "kill", "full", "setting"}, marks=pytest.mark.slow),
    ],
)
def test_nothing_is_silent_foreign_or_hanging(
    options: list[str], kinds: set[str], tmp_path: Path
) -> None:
    results = tmp_path / "chaos.csv"
    command = [sys.executable, "-m", "benchmarks.robustness.chaos", "--results", str(results)]
    done = subprocess.run([*command, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {row["kind"]: row for row in read_rows(results)}
    assert set(rows) == kinds
    for row in rows.values():
        assert [row[name] for name in ("silent", "foreign", "hang")] == ["0", "0", "0"]
        assert sum(int(row[name]) for name in OUTCOMES) > 0
    assert int(rows["damage"]["sentence"]) > 40
