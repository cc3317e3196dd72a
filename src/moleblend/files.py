"""Files that are whole or not there, and that one process at a time works on."""

import os
import secrets
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def replacing(path: Path) -> Generator[Path, None, None]:
    """Give a temporary name beside `path` to write to; it gets the name `path` when it is whole.

    If writing fails or is interrupted, `path` stays what it was.
    """
    if path.is_dir():
        raise ValueError(f"{path}: this is a folder, a file is to be written")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode  # what the user's umask allows; safetensors gives less
        yield temporary
        temporary.chmod(mode)
        with temporary.open("rb+") as file:
            # Else a crash of the machine could leave the name without the bytes.
            os.fsync(file.fileno())
        temporary.replace(path)
        if os.name == "posix":  # nor could the bytes be there without the name
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    finally:
        temporary.unlink(missing_ok=True)


def sweep(folder: Path, names: Iterable[str]) -> None:
    """Remove what killed processes left of files of these names that they were replacing."""
    for name in names:
        for temporary in folder.glob(f".{name}.{'[0-9a-f]' * 8}"):
            temporary.unlink()


@contextmanager
def alone_with(path: Path) -> Generator[None, None, None]:
    """Keep other processes from working on `path` meanwhile; `.NAME.lock` beside it says so.

    What a killed process leaves of it holds nobody up.

    Raises:
        ValueError: another process does.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    name = path.with_name(f".{path.name}.lock")
    lock = FileLock(name)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ValueError(f"{path}: another process is working on it") from error
    try:
        yield
    finally:
        name.unlink(missing_ok=True)
        lock.release()
