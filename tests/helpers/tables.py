"""Table files that tests write."""

import gzip
from pathlib import Path
from typing import Any

import pytest

from moleblend.data.table import read_molecules


def write(path: Path, **columns: list) -> Path:
    """Write a csv file; None is an empty cell."""
    cells = zip(*columns.values(), strict=True)
    lines = [",".join(columns)]
    lines += [",".join("" if cell is None else str(cell) for cell in row) for row in cells]
    path.write_text("\n".join(lines) + "\n")
    return path


def read(table, **named) -> list[Any]:
    return list(read_molecules(table, **named))


def reason(function, *arguments, kind=ValueError, **named):
    """The message of the error, which is one sentence."""
    with pytest.raises(kind) as caught:
        function(*arguments, **named)
    text = str(caught.value)
    assert "\n" not in text
    return text


def write_file(path, text, encoding="utf-8"):
    data = text.encode(encoding)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path
