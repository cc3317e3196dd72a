import hashlib
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from moleblend.data.datasets.download import DownloadError, InterruptedDownloadError, download

CONTENT = bytes(range(256)) * 4096
SHA256 = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"


class Server(ThreadingHTTPServer):
    """Serves CONTENT on the machine itself; a test says when it breaks off."""

    content = CONTENT
    etag: str | None = '"1"'
    ranges = True
    breaks_after: int | None = None
    asked: list[str | None]
    sent: list[int]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/data.bin"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        if self.path != "/data.bin":
            self.send_error(404)
            return
        wanted = self.headers["Range"]
        server.asked.append(wanted)
        start = 0
        if wanted and server.ranges and self.headers["If-Range"] == server.etag:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        self.send_response(206 if start else 200)
        if server.etag:
            self.send_header("ETag", server.etag)
        body = server.content[start:]
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        server.sent.append(len(body[: server.breaks_after]))
        with suppress(BrokenPipeError, ConnectionResetError):  # whoever asked has seen enough
            self.wfile.write(body[: server.breaks_after])

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server(("127.0.0.1", 0), Handler)
    server.asked, server.sent = [], []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def hidden(folder: Path) -> list[Path]:
    return list(folder.glob(".*"))


def test_a_file_is_complete_and_not_fetched_twice(tmp_path: Path, server: Server) -> None:
    path = tmp_path / "new" / "data.bin"
    reports: list[tuple[int, int | None]] = []
    download(server.url, path, known_hash=SHA256, on_progress=lambda *now: reports.append(now))
    assert path.read_bytes() == CONTENT
    assert reports[-1] == (len(CONTENT), len(CONTENT))
    assert [n for n, _ in reports] == sorted(n for n, _ in reports)
    assert not hidden(path.parent)
    download(server.url, path, known_hash=SHA256)
    download(server.url, path, known_hash=None)
    assert server.asked == [None]


@pytest.mark.parametrize("known_hash", [SHA256, None])
def test_an_interrupted_download_continues(
    tmp_path: Path, server: Server, known_hash: str | None
) -> None:
    path = tmp_path / "data.bin"
    server.breaks_after = 300_000
    with pytest.raises(InterruptedDownloadError, match="interrupted after 300,000 bytes"):
        download(server.url, path, known_hash=known_hash)
    assert not path.exists()
    server.breaks_after = None
    download(server.url, path, known_hash=known_hash)
    assert path.read_bytes() == CONTENT
    assert server.asked == [None, None, "bytes=300000-"]
    assert server.sent[-1] == len(CONTENT) - 300_000
    assert not hidden(tmp_path)


def test_all_bytes_may_be_present_already(tmp_path: Path, server: Server) -> None:
    server.breaks_after = 300_000
    with pytest.raises(DownloadError):
        download(server.url, tmp_path / "data.bin", known_hash=None)
    (partial,) = hidden(tmp_path)
    partial.write_bytes(CONTENT)
    download(server.url, tmp_path / "data.bin", known_hash=SHA256)
    assert (tmp_path / "data.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("change", ["another version", "no ranges", "no version"])
def test_bytes_of_two_versions_are_never_combined(
    tmp_path: Path, server: Server, change: str
) -> None:
    path = tmp_path / "data.bin"
    server.breaks_after = 300_000
    if change == "no version":
        server.etag = None
    with pytest.raises(DownloadError):
        download(server.url, path, known_hash=None)
    server.breaks_after = None
    server.content = CONTENT[::-1]
    if change == "another version":
        server.etag = '"2"'
    server.ranges = change != "no ranges"
    download(server.url, path, known_hash=None)
    assert path.read_bytes() == CONTENT[::-1]
    if change in ("another version", "no version"):
        assert server.asked == [None, None]


def test_a_wrong_hash_leaves_nothing(tmp_path: Path, server: Server) -> None:
    server.content = b"something else"
    with pytest.raises(ValueError, match="does not match the known hash"):
        download(server.url, tmp_path / "data.bin", known_hash=SHA256)
    assert not list(tmp_path.iterdir())


def test_an_unavailable_file_is_reported_in_a_sentence(tmp_path: Path, server: Server) -> None:
    with pytest.raises(DownloadError, match="the server returned 404"):
        download(server.url + "x", tmp_path / "data.bin", known_hash=None)
    with pytest.raises(DownloadError, match=r":9/x cannot be reached \(.*\)$") as caught:
        download("http://127.0.0.1:9/x", tmp_path / "data.bin", known_hash=None)
    assert "object at 0x" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_wheel_is_downloaded_by_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def pip(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        if command[-1] != "tool==1":
            stderr = "ERROR: a\nERROR: No matching distribution found for x==2\n[notice] b\n"
            return subprocess.CompletedProcess(command, 1, "", stderr)
        folder = Path(command[command.index("--dest") + 1])
        (folder / "tool-1-py3-none-any.whl").write_bytes(CONTENT)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", pip)
    download("pypi:tool==1", tmp_path / "tool.whl", known_hash=SHA256)
    assert (tmp_path / "tool.whl").read_bytes() == CONTENT
    assert {"--no-deps", "--only-binary=:all:"} <= set(asked[0])  # else pip would run setup.py
    with pytest.raises(DownloadError, match="No matching distribution found for x==2"):
        download("pypi:x==2", tmp_path / "x.whl", known_hash=None)
    assert [path.name for path in tmp_path.iterdir()] == ["tool.whl"]
