"""Downloads: resumed after an interruption, verified, and atomic."""

import hashlib
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pooch
import requests
import urllib3

from moleblend.errors import MoleblendError

Progress = Callable[[int, int | None], None]
"""Called repeatedly with the number of bytes present, and the total if the server reports it."""

_TIMEOUT_S = 30
_BLOCK = 1 << 18


class DownloadError(MoleblendError, OSError):
    """A download failed; the message names the file and the reason."""


class InterruptedDownloadError(DownloadError):
    """A download was interrupted; the next attempt continues it."""


def download(
    url: str, path: Path, *, known_hash: str | None, on_progress: Progress | None = None
) -> None:
    """Download a file, unless it is present with the right hash, or no hash is known.

    The bytes of an interrupted download stay in a hidden file in the same folder. The file is named
    after the version that the server reports. The next call continues it if the version is the same
    and the server supports ranges.

    Args:
        url: http or https; or `pypi:NAME==VERSION` for the wheel of a package, downloaded by pip.
            No code from the wheel is installed or run.
        path: path of the downloaded file.
        known_hash: "sha256:..." or "md5:..."; None if none was published.
        on_progress: progress callback, for http and https.

    Raises:
        DownloadError: the file is not available.
        InterruptedDownloadError: the download was interrupted.
        ValueError: the hash differs; the file is deleted.
    """
    pooch.get_logger().setLevel("WARNING")  # this package reports progress and errors itself

    def download_to(url: str, output_file: str, _: object) -> None:
        if url.startswith("pypi:"):
            _download_wheel(url.removeprefix("pypi:"), Path(output_file))
        else:
            _download(url, path, on_progress).replace(output_file)

    downloader: Any = download_to  # pooch passes arguments by position; its type has other names
    pooch.retrieve(url, known_hash, fname=path.name, path=path.parent, downloader=downloader)


def _download(url: str, path: Path, on_progress: Progress | None) -> Path:
    """Download into a hidden file in the folder of `path`; return its name when it is complete."""
    # A range of a compressed transfer would not be a range of the file.
    headers = {"Accept-Encoding": "identity"}
    partial: Path | None = None
    try:
        with requests.Session() as session:
            complete = session.get(url, headers=headers, stream=True, timeout=_TIMEOUT_S)
            complete.raise_for_status()
            stamp = complete.headers.get("ETag") or complete.headers.get("Last-Modified")
            version = hashlib.sha256(f"{url} {stamp}".encode()).hexdigest()[:12]
            partial = path.with_name(f".{path.name}.{version}.part")
            length = complete.headers.get("Content-Length")
            size = None if length is None else int(length)
            n_present = partial.stat().st_size if stamp and partial.exists() else 0
            if size is not None and n_present == size:
                complete.close()
                return partial
            rest, mode = complete, "wb"
            if n_present:
                complete.close()
                headers |= {"Range": f"bytes={n_present}-", "If-Range": str(stamp)}
                rest = session.get(url, headers=headers, stream=True, timeout=_TIMEOUT_S)
                rest.raise_for_status()
                mode = "ab" if rest.status_code == requests.codes.partial_content else "wb"
            with rest, partial.open(mode) as file:
                for block in rest.raw.stream(_BLOCK, decode_content=False):
                    file.write(block)
                    if on_progress:
                        on_progress(file.tell(), size)
    except requests.HTTPError as error:
        raise DownloadError(f"{url}: the server returned {error}") from error
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        if partial is None or not partial.exists():
            raise DownloadError(f"{url} cannot be reached ({_reason(error)})") from error
        raise InterruptedDownloadError(
            f"{url}: interrupted after {partial.stat().st_size:,} bytes ({_reason(error)}); the "
            "same command continues the download"
        ) from error
    return partial


def _reason(error: BaseException) -> str:
    """Return the message of the innermost cause; outer exceptions contain it in nested reprs."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return " ".join(str(error).split()) or type(error).__name__


def _download_wheel(requirement: str, path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        options = ["--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--quiet"]
        command: list[Any] = [sys.executable, "-m", "pip", "download", *options]
        done = subprocess.run(
            [*command, "--dest", folder, requirement], capture_output=True, text=True, check=False
        )
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or len(wheels) != 1:
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            reason = errors[-1] if errors else done.stderr.strip() or "no wheel was downloaded"
            raise DownloadError(f"pip cannot download {requirement} ({reason})")
        wheels[0].replace(path)
