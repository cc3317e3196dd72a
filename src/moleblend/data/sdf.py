"""Streaming of the records of SDF files, including invalid ones."""

import codecs
import gzip
import io
import re
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from moleblend.errors import MissingFileError, TableError

LONGEST_LINE = 1 << 25
"""Characters of the longest line, and of the longest record of several lines."""

ENCODING, LATIN_1 = "utf-8-sig", "moleblend-latin-1"
"""Encoding of text files, and the name of the handler of bytes that are not UTF-8."""

_FIELD = re.compile(r">.*<.*>")


def _as_latin_1(error: UnicodeError) -> tuple[str, int]:
    """Decode the bytes that are not UTF-8 as Latin-1; valid UTF-8 is not changed."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return error.object[error.start : error.end].decode("latin-1"), error.end


codecs.register_error(LATIN_1, _as_latin_1)


def read_sdf(path: str | Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Read the records of an SDF file one after the other, including invalid ones.

    Args:
        path: .sdf, .sdf.gz, or .sdf.tar.gz, of which all .sdf and .sdf.gz files are read in their
            order. Bytes that are not UTF-8 are read as Latin-1.

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
        for file in _open_files(path):
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
            if any(line.strip() for line in lines):
                yield _split_record(lines)
            lines = []
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


def _open_files(path: Path) -> Iterator[io.TextIOBase]:
    """Open the SDF files at a path one after the other; nothing is unpacked to disk."""
    if not path.name.lower().endswith(".tar.gz"):
        opened = gzip.open if path.suffix.lower() == ".gz" else open
        with opened(path, "rt", encoding=ENCODING, errors=LATIN_1) as file:
            yield file
        return
    n_files = 0
    with tarfile.open(path, "r|gz") as archive:
        for member in archive:
            name = member.name.lower()
            raw = archive.extractfile(member) if member.isfile() else None
            if raw is None or _is_resource_fork(name) or not name.endswith((".sdf", ".sdf.gz")):
                continue
            n_files += 1
            stream: io.BufferedIOBase = io.BufferedReader(_ForwardOnly(raw))
            if name.endswith(".gz"):
                stream = gzip.GzipFile(fileobj=stream)
            with io.TextIOWrapper(stream, encoding=ENCODING, errors=LATIN_1) as file:
                yield file
    if not n_files:
        raise TableError(f"{path}: there is no .sdf file in the archive")


def _is_resource_fork(name: str) -> bool:
    """Tell whether a file of an archive holds metadata of macOS."""
    return name.startswith("__macosx/") or name.rpartition("/")[2].startswith("._")


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
