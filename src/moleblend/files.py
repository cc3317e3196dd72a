"""Files that are whole or not there, that one process at a time works on, or made part by part.

A part gets its name only when it is whole, so what a killed process leaves is as good as new.
"""

import hashlib
import json
import os
import secrets
import shutil
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


class PartialOutput:
    """The folder `.OUT.parts`, with `shard-00000.ENDING` and so on.

    Args:
        out: the file that is to be.
        ending: of each part.
        what: makes the parts; errors name it.
    """

    def __init__(self, out: Path, ending: str, what: str) -> None:
        self.folder = partial_output_folder(out)
        self._ending, self._what = ending, what

    def path(self, number: int) -> Path:
        """Where a part is once it is whole."""
        return self.folder / f"shard-{number:05}.{self._ending}"

    def finished(self) -> list[Path]:
        """Those that are there, in order."""
        return sorted(self.folder.glob(f"shard-*.{self._ending}"))

    def start_or_resume(self, origin: dict[str, object], *, resume: bool) -> None:
        """Begin, or check that what is resumed goes on as it began.

        Args:
            origin: all that the parts are a function of, as JSON knows it.
            resume: go on with the parts that are there.

        Raises:
            ValueError: nothing is there to be resumed, it began otherwise, or it is there and
                `resume` false.
        """
        path = self.folder / "origin.json"
        told = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
        if resume:
            if told is None:
                raise ValueError(
                    f"{self.folder}: there is no unfinished {self._what} to be resumed"
                )
            changed = [name for name in {**told, **origin} if told.get(name) != origin.get(name)]
            if changed:
                raise ValueError(
                    f"{self.folder}: a resumed {self._what} goes on as it began, but these differ: "
                    f"{', '.join(changed)}; remove the folder to begin anew"
                )
            for stray in self.folder.glob(".*"):  # what was being written when the process died
                stray.unlink()
            return
        if any(self.folder.glob("shard-*")):
            raise ValueError(
                f"{self.folder} holds an unfinished {self._what}: --resume goes on with it, "
                "removing the folder begins anew"
            )
        self.remove()
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(origin, indent=1) + "\n", encoding="utf-8")

    def remove(self) -> None:
        """Forget all parts."""
        shutil.rmtree(self.folder, ignore_errors=True)


def partial_output_folder(out: Path) -> Path:
    """The folder that holds the parts of a file until it is whole."""
    return out.with_name(f".{out.name}.parts")


def file_sha256(path: Path) -> str:
    """SHA-256 of the bytes of a file, by which it is known again."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
