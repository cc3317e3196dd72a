"""csv files of a run that grow row by row and stay valid when the run is killed."""

import io
import os
from csv import DictReader, DictWriter
from pathlib import Path
from typing import Any

from moleblend.files import replacing


def append(path: Path, rows: list[dict[str, Any]]) -> None:
    """Append rows to a csv file, with a header if it is new; on an error no row is added."""
    if not rows:
        return
    size = path.stat().st_size if path.is_file() else 0
    text = io.StringIO()
    writer = DictWriter(text, list(rows[0]))
    if size == 0:
        writer.writeheader()
    writer.writerows(rows)
    try:
        with path.open("ab") as file:
            file.write(text.getvalue().encode())
            file.flush()
            # The rows of a step must be on the disk before its state is saved.
            os.fsync(file.fileno())
    except OSError:
        if path.is_file():
            os.truncate(path, size)
        raise


def cut_after(path: Path, step: int) -> None:
    """Remove the rows of steps that a resumed run repeats, and an incomplete last line."""
    if not path.is_file() or path.stat().st_size == 0:
        return
    with path.open(newline="", encoding="utf-8") as file:
        reader = DictReader(file)
        names = list(reader.fieldnames or ())
        rows = [row for row in reader if None not in row.values()]
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = DictWriter(file, names)
        writer.writeheader()
        writer.writerows(row for row in rows if int(row["step"]) <= step)
