"""Atomic writing of files, locks, output in resumable shards, file hashes and the cache folder.

A file or shard gets its final name only when it is complete. Shards that a killed process left
behind can therefore be used.
"""

import errno
import hashlib
import io
import json
import math
import os
import secrets
import shutil
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from moleblend.errors import NotAFolderError, OutputError, ReadOnlyError

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


@contextmanager
def replacing(path: Path) -> Generator[Path, None, None]:
    """Yield a temporary file in the folder of `path`; it replaces `path` when it is complete.

    If writing fails or is interrupted, `path` is not changed.

    Raises:
        OutputError: `path` is a folder, or the disk is full or broken.
    """
    if path.is_dir():
        raise OutputError(f"{path}: this is a folder, expected a file to write")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode  # as the user's umask allows; safetensors restricts it
        yield temporary
        temporary.chmod(mode)
        with temporary.open("rb+") as file:
            # Without this, a crash of the machine could leave the name without the content.
            os.fsync(file.fileno())
        temporary.replace(path)
        if os.name == "posix":  # the same for the content without the name
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        # The system names no file, or the temporary one.
        raise OutputError(f"{path}: cannot be written ({os.strerror(error.errno)})") from error
    finally:
        temporary.unlink(missing_ok=True)


def to_json(values: object, indent: int | None = None) -> str:
    """Format values as strict JSON, which has no NaN and no infinity: both become null."""
    return json.dumps(_without_nan(values), indent=indent, allow_nan=False)


def write_json(path: Path, values: object, indent: int | None = None) -> None:
    """Write values atomically as strict JSON, see `to_json`."""
    with replacing(path) as temporary:
        temporary.write_text(to_json(values, indent) + "\n", encoding="utf-8")


def _without_nan(values: object) -> object:
    if isinstance(values, dict):
        return {key: _without_nan(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [_without_nan(value) for value in values]
    return None if isinstance(values, float) and not math.isfinite(values) else values


def check_outputs(outputs: Iterable[Path], inputs: Iterable[Path | str]) -> None:
    """Check all names that will be written, before the work.

    Args:
        outputs: files to write, also those beside the one that the user has named.
        inputs: files that are read; names of files that do not exist are ignored.

    Raises:
        OutputError: an output is an input (also by another name of the same file), another output,
            a folder, or in a place that cannot be written to.
    """
    read = [path for path in map(Path, inputs) if path.exists()]
    written: list[Path] = []
    for path in outputs:
        if path in written:
            raise OutputError(f"{path}: two outputs would have this name; use another name")
        written.append(path)
        if path.is_dir():
            raise OutputError(f"{path}: expected a file, got a folder")
        for source in read if path.exists() else ():
            if path.samefile(source):
                raise OutputError(f"{path}: the output would overwrite its input {source}")
        place = next(parent for parent in path.absolute().parents if parent.exists())
        if not place.is_dir():
            raise NotAFolderError(f"{path}: cannot be written, since {place} is not a folder")
        if not os.access(place, os.W_OK):
            raise ReadOnlyError(f"{path}: cannot be written, since {place} is read-only")


def sweep(folder: Path, names: Iterable[str]) -> None:
    """Remove the temporary files of `replacing` that killed processes left for these names."""
    for name in names:
        for temporary in folder.glob(f".{name}.{'[0-9a-f]' * 8}"):
            temporary.unlink()


@contextmanager
def alone_with(path: Path) -> Generator[None, None, None]:
    """Lock `path` against other processes, with the file `.NAME.lock` in the same folder.

    The lock file of a killed process does not block others.

    Raises:
        OutputError: another process holds the lock.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    name = path.with_name(f".{path.name}.lock")
    lock = FileLock(name)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise OutputError(f"{path}: another process is using it") from error
    try:
        yield
    finally:
        name.unlink(missing_ok=True)
        lock.release()


class PartialOutput:
    """The folder `.OUT.parts` with the finished shards of an output, `shard-00000.ENDING` etc.

    Args:
        out: the final output file.
        ending: file ending of the shards.
        what: name of the operation in error messages.
    """

    def __init__(self, out: Path, ending: str, what: str) -> None:
        self.folder = partial_output_folder(out)
        self._ending, self._what = ending, what

    def path(self, number: int) -> Path:
        """Return the path of a finished shard."""
        return self.folder / f"shard-{number:05}.{self._ending}"

    def finished(self) -> list[Path]:
        """List the finished shards, in order."""
        return sorted(self.folder.glob(f"shard-*.{self._ending}"))

    def start_or_resume(self, origin: dict[str, object], *, resume: bool) -> None:
        """Start a new output, or check that an unfinished one can be resumed.

        Args:
            origin: everything that the shards depend on, as JSON values.
            resume: continue with the existing shards.

        Raises:
            OutputError: there is nothing to resume, or it was started with another `origin`; or
                there is an unfinished output and `resume` is false.
        """
        path = self.folder / "origin.json"
        stored = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
        if resume:
            if stored is None:
                raise OutputError(f"{self.folder}: there is no unfinished {self._what} to resume")
            changed = [
                name for name in {**stored, **origin} if stored.get(name) != origin.get(name)
            ]
            if changed:
                raise OutputError(
                    f"{self.folder}: cannot resume the {self._what}, because these settings differ "
                    f"from those it was started with: {', '.join(changed)}; remove the folder to "
                    "start again"
                )
            for temporary in self.folder.glob(".*"):  # incomplete files of a killed process
                temporary.unlink()
            return
        if any(self.folder.glob("shard-*")):
            raise OutputError(
                f"{self.folder} contains an unfinished {self._what}: continue it with --resume, or "
                "remove the folder to start again"
            )
        self.remove()
        write_json(path, origin, indent=1)

    def remove(self) -> None:
        """Remove the folder with all shards."""
        shutil.rmtree(self.folder, ignore_errors=True)


def partial_output_folder(out: Path) -> Path:
    """Return the folder that holds the shards of a file until it is complete."""
    return out.with_name(f".{out.name}.parts")


def file_sha256(path: Path) -> str:
    """Compute the SHA-256 of the bytes of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return stream_sha256(file)


def stream_sha256(stream: io.BufferedIOBase) -> str:
    """Compute the SHA-256 of the remaining bytes of an open file, as hexadecimal digits."""
    return hashlib.file_digest(stream, "sha256").hexdigest()


def cache_folder() -> Path:
    """Return the user's cache folder: `moleblend` in `$XDG_CACHE_HOME`, by default in `~/.cache`.

    It holds conformers and downloaded data sets, the same on all platforms.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "moleblend"
