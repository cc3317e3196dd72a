"""Files that are whole or not there."""

import os
import secrets
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path


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
    finally:
        temporary.unlink(missing_ok=True)
