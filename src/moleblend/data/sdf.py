"""Streaming of the records of SDF files, including invalid ones."""

import gzip
import io
import re
import tarfile
import zlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from moleblend.errors import MissingFileError, TableError

LONGEST_LINE = 1 << 25
"""Characters of the longest line, and of the longest record of several lines."""

_FIELD = re.compile(r">.*<.*>")


def read_sdf(path: str | Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Read the records of an SDF file one after the other, including invalid ones.

    Args:
        path: .sdf, .sdf.gz, or .sdf.tar.gz, of which the first .sdf file in the archive is read.

    Yields:
        The unchanged mol block of each record, for `read_mol_block`, and its data fields. If a file
        ends inside a record, the incomplete record is the last one.

    Raises:
        MissingFileError: there is no such file.
        TableError: the gzip stream is damaged (after all records before the damage), or there is no
            .sdf file in the archive.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"{path}: no such SDF file")
    lines: list[str] = []
    damage: Exception | None = None
    try:
        with _open_sdf(path) as file:
            n_characters = 0
            for line in bounded_lines(file, path):
                n_characters = 0 if line.rstrip() == "$$$$" else n_characters + len(line)
                if n_characters > LONGEST_LINE:
                    raise TableError(
                        f"{path}: a record has more than {LONGEST_LINE:,} characters without $$$$"
                    )
                if line.rstrip() == "$$$$":
                    yield _split_record(lines)
                    lines = []
                else:
                    lines.append(line.rstrip("\n"))
    except (EOFError, OSError, tarfile.TarError, zlib.error) as error:
        damage = error
    if any(line.strip() for line in lines):
        yield _split_record(lines)
    if damage is not None:
        raise TableError(f"{path}: the compressed file is truncated or damaged ({damage})")


def bounded_lines(file: io.TextIOBase, path: Path) -> Iterator[str]:
    """Yield the lines of a text file; a line without end must not fill the memory.

    Raises:
        TableError: a line has more than `LONGEST_LINE` characters.
    """
    number = 1
    while line := file.readline(LONGEST_LINE + 1):
        if len(line) > LONGEST_LINE:
            raise TableError(f"{path}, line {number}: more than {LONGEST_LINE:,} characters")
        yield line
        number += 1


@contextmanager
def _open_sdf(path: Path) -> Generator[io.TextIOBase, None, None]:
    """Open the text of an SDF file for streaming; nothing is unpacked to disk."""
    if not path.name.lower().endswith(".tar.gz"):
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(path, "rt", encoding="utf-8", errors="backslashreplace") as file:
            yield file
        return
    with tarfile.open(path, "r|gz") as archive:
        members = (item for item in archive if item.isfile() and item.name.endswith(".sdf"))
        member = next(members, None)
        raw = archive.extractfile(member) if member else None
        if raw is None:
            raise TableError(f"{path}: there is no .sdf file in the archive")
        stream = io.BufferedReader(_ForwardOnly(raw))
        with io.TextIOWrapper(stream, encoding="utf-8", errors="backslashreplace") as file:
            yield file


class _ForwardOnly(io.RawIOBase):
    """A member of a streamed tar file, whose `seekable` fails on Python 3.11."""

    def __init__(self, file: Any) -> None:  # noqa: ANN401 (tarfile's reader is not an IO[bytes])
        self._file = file

    def readable(self) -> bool:
        """Return that the file can be read."""
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 (any writable buffer)
        """Read the next bytes."""
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def _split_record(lines: list[str]) -> tuple[str, dict[str, str]]:
    """Split the lines of a record at `M  END`, or at the first data field if that is missing."""
    end = next((row + 1 for row, line in enumerate(lines) if line.startswith("M  END")), None)
    fields = [row for row, line in enumerate(lines) if row >= (end or 0) and _FIELD.match(line)]
    if end is None:
        end = fields[0] if fields else len(lines)
    properties = {}
    for first, last in zip(fields, [*fields[1:], len(lines)], strict=False):
        name = lines[first].partition("<")[2].rpartition(">")[0]
        properties[name] = "\n".join(lines[first + 1 : last]).strip("\n")
    return "\n".join(lines[:end]) + "\n", properties
