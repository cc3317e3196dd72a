"""Members of zip archives."""

import gzip
import zipfile
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from moleblend.errors import MissingFileError, TableError


@contextmanager
def open_member(path: Path, name: str) -> Generator[IO[bytes], None, None]:
    """Open a file inside a zip archive; errors while it is read name the archive.

    Raises:
        MissingFileError: there is no such archive.
        TableError: it has no such member, is damaged, or is not a zip archive.
    """
    if not path.is_file():
        raise MissingFileError(f"{path}: file not found")
    try:
        with zipfile.ZipFile(path) as archive, archive.open(name) as file:
            yield file
    except KeyError as error:
        raise TableError(f"{path}: the archive has no member {name}") from error
    except (zipfile.BadZipFile, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise TableError(f"{path}: damaged, or not a zip archive ({error})") from error
