"""Files from the network: resumed where they broke off, checked, whole or not there."""

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

Progress = Callable[[int, int | None], None]
"""Is told now and then how many bytes are there, and of how many if the server says so."""

_TIMEOUT_S = 30
_BLOCK = 1 << 18


class DownloadError(OSError):
    """A file that did not come: one sentence says which, and why."""


def download(
    url: str, path: Path, *, known_hash: str | None, on_progress: Progress | None = None
) -> None:
    """Bring a file; one that is there with the right hash, or with none to check, is not fetched.

    What has come when a download breaks off stays in a hidden file beside `path`, named after the
    version of the file that the server announces; the next call goes on from there, if that is
    still the version and the server can send a part of it.

    Args:
        url: http or https; or `pypi:NAME==VERSION` for the wheel of a package, which pip brings. No
            code from it is installed or run.
        path: where it shall be.
        known_hash: "sha256:..." or "md5:..."; None if nobody published one.
        on_progress: for http and https.

    Raises:
        DownloadError: it cannot be had, or breaks off.
        ValueError: its hash is another one; the file is gone then.
    """
    pooch.get_logger().setLevel("WARNING")  # progress and errors are told by us

    def bring(url: str, output_file: str, _: object) -> None:
        if url.startswith("pypi:"):
            _bring_wheel(url.removeprefix("pypi:"), Path(output_file))
        else:
            _bring(url, path, on_progress).replace(output_file)

    downloader: Any = bring  # pooch calls it by position; its type insists on other names
    pooch.retrieve(url, known_hash, fname=path.name, path=path.parent, downloader=downloader)


def _bring(url: str, path: Path, on_progress: Progress | None) -> Path:
    """Download into a hidden file beside `path`, and give its name when it is whole."""
    # Compressed on the way, a part of a file would not be a part of it.
    headers = {"Accept-Encoding": "identity"}
    partial: Path | None = None
    try:
        with requests.Session() as session:
            whole = session.get(url, headers=headers, stream=True, timeout=_TIMEOUT_S)
            whole.raise_for_status()
            stamp = whole.headers.get("ETag") or whole.headers.get("Last-Modified")
            version = hashlib.sha256(f"{url} {stamp}".encode()).hexdigest()[:12]
            partial = path.with_name(f".{path.name}.{version}.part")
            size = (
                int(whole.headers["Content-Length"]) if "Content-Length" in whole.headers else None
            )
            n_there = partial.stat().st_size if stamp and partial.exists() else 0
            if size is not None and n_there == size:
                whole.close()
                return partial
            rest, mode = whole, "wb"
            if n_there:
                whole.close()
                headers |= {"Range": f"bytes={n_there}-", "If-Range": str(stamp)}
                rest = session.get(url, headers=headers, stream=True, timeout=_TIMEOUT_S)
                rest.raise_for_status()
                mode = "ab" if rest.status_code == requests.codes.partial_content else "wb"
            with rest, partial.open(mode) as file:
                for block in rest.raw.stream(_BLOCK, decode_content=False):
                    file.write(block)
                    if on_progress:
                        on_progress(file.tell(), size)
    except requests.HTTPError as error:
        raise DownloadError(f"{url}: the server answers {error}") from error
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        if partial is None or not partial.exists():
            raise DownloadError(f"{url} cannot be reached ({_reason(error)})") from error
        raise DownloadError(
            f"{url}: broke off after {partial.stat().st_size:,} bytes ({_reason(error)}); the same "
            "command goes on from there"
        ) from error
    return partial


def _reason(error: BaseException) -> str:
    """Name the innermost cause; the outer ones hold it in several layers of repr."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return " ".join(str(error).split()) or type(error).__name__


def _bring_wheel(requirement: str, path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        options = ["--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--quiet"]
        command: list[Any] = [sys.executable, "-m", "pip", "download", *options]
        done = subprocess.run(
            [*command, "--dest", folder, requirement], capture_output=True, text=True, check=False
        )
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or len(wheels) != 1:
            told = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            reason = told[-1] if told else done.stderr.strip() or "no wheel came"
            raise DownloadError(f"pip cannot download {requirement} ({reason})")
        wheels[0].replace(path)
