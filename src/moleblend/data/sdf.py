"""The records of SDF files, one after the other, broken ones included."""

import gzip
import io
import re
import tarfile
import zlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

_FIELD = re.compile(r">.*<.*>")


def read_sdf(path: str | Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Read the records of an SDF file one after the other, broken ones included.

    Args:
        path: .sdf, .sdf.gz, or .sdf.tar.gz, whose first .sdf file is read from inside the archive.

    Yields:
        Each record's mol block as it stands there, for `read_mol_block`, and its data fields. A
        file that ends in the middle of a record gives that piece as its last record.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the gzip stream is broken; all records before the break have been given. Or
            there is no .sdf file in the archive.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such SDF file")
    lines: list[str] = []
    broken: Exception | None = None
    try:
        with _open_sdf(path) as file:
            for line in file:
                if line.rstrip() == "$$$$":
                    yield _split_record(lines)
                    lines = []
                else:
                    lines.append(line.rstrip("\n"))
    except (EOFError, OSError, tarfile.TarError, zlib.error) as error:
        broken = error
    if any(line.strip() for line in lines):
        yield _split_record(lines)
    if broken is not None:
        raise ValueError(f"{path}: the compressed file ends too early or is damaged ({broken})")


@contextmanager
def _open_sdf(path: Path) -> Generator[TextIO, None, None]:
    """Open the text of an SDF file; nothing is unpacked but what is being read."""
    if not path.name.lower().endswith(".tar.gz"):
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(path, "rt", encoding="utf-8", errors="backslashreplace") as file:
            yield file
        return
    with tarfile.open(path, "r|gz") as archive:
        found = (item for item in archive if item.isfile() and item.name.endswith(".sdf"))
        member = next(found, None)
        raw = archive.extractfile(member) if member else None
        if raw is None:
            raise ValueError(f"{path}: there is no .sdf file in the archive")
        forward = io.BufferedReader(_Forward(raw))
        with io.TextIOWrapper(forward, encoding="utf-8", errors="backslashreplace") as file:
            yield file


class _Forward(io.RawIOBase):
    """A file inside a tar that streams by; on Python 3.11 it fails when asked if it can seek."""

    def __init__(self, file: Any) -> None:  # noqa: ANN401 (what tarfile gives is no IO[bytes])
        self._file = file

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 (whatever holds bytes)
        """Read the next bytes."""
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def _split_record(lines: list[str]) -> tuple[str, dict[str, str]]:
    """Split a record's lines at `M  END`, or where that is missing at the first data field."""
    end = next((row + 1 for row, line in enumerate(lines) if line.startswith("M  END")), None)
    fields = [row for row, line in enumerate(lines) if row >= (end or 0) and _FIELD.match(line)]
    if end is None:
        end = fields[0] if fields else len(lines)
    properties = {}
    for first, last in zip(fields, [*fields[1:], len(lines)], strict=False):
        name = lines[first].partition("<")[2].rpartition(">")[0]
        properties[name] = "\n".join(lines[first + 1 : last]).strip("\n")
    return "\n".join(lines[:end]) + "\n", properties
