import errno
import os
import stat
from pathlib import Path

import numpy as np
import pytest

from moleblend.errors import OutputError
from moleblend.files import (
    PartialOutput,
    alone_with,
    cache_folder,
    check_outputs,
    file_sha256,
    partial_output_folder,
    replacing,
    sweep,
    write_json,
)


def test_no_half_file_and_the_old_one_stays(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("old\n")

    def interrupted():
        with replacing(path) as temporary:
            temporary.write_text("half of the new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old\n"
    assert list(tmp_path.iterdir()) == [path]
    with replacing(path) as temporary:
        assert temporary.parent == tmp_path
        temporary.write_text("new\n")
        assert path.read_text() == "old\n"
    assert path.read_text() == "new\n"
    assert list(tmp_path.iterdir()) == [path]


def test_others_may_read_what_the_umask_lets_them(tmp_path):
    path, plain = tmp_path / "new", tmp_path / "plain"
    plain.touch()
    with replacing(path) as temporary:
        temporary.touch()
        temporary.chmod(0o600)  # as safetensors does
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_a_folder_is_not_replaced(tmp_path):
    with pytest.raises(ValueError, match="folder"), replacing(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_one_at_a_time(tmp_path):
    path = tmp_path / "new" / "out.arrow"
    with alone_with(path):
        told = r"out\.arrow: another process is using it"
        with pytest.raises(ValueError, match=told), alone_with(path):
            pass
        with alone_with(tmp_path / "new" / "other.arrow"):
            pass
    (tmp_path / "new" / ".out.arrow.lock").touch()  # left by a process that was killed
    with pytest.raises(KeyError), alone_with(path):
        raise KeyError
    assert not list((tmp_path / "new").iterdir())


def test_what_killed_processes_left_is_swept(tmp_path):
    kept = [".log.csv.lock", ".other.csv.01234567", "log.csv", ".log.csv.0123456g"]
    for name in (*kept, ".log.csv.01234567", ".log.csv.89abcdef"):
        (tmp_path / name).touch()
    sweep(tmp_path, ["log.csv"])
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)


@pytest.fixture
def parts(tmp_path: Path) -> PartialOutput:
    return PartialOutput(tmp_path / "out.csv", "arrow", "run")


def test_what_is_begun_can_be_resumed_as_it_began(parts: PartialOutput) -> None:
    parts.start_or_resume({"model": "a", "rows": 3}, resume=False)
    parts.path(11).touch()
    parts.path(2).touch()
    (parts.folder / ".shard-00012.arrow.ab").touch()  # what a killed process was writing
    assert [path.name for path in parts.finished()] == ["shard-00002.arrow", "shard-00011.arrow"]
    with pytest.raises(ValueError, match="contains an unfinished run: continue it with --resume"):
        parts.start_or_resume({"model": "a", "rows": 3}, resume=False)
    with pytest.raises(ValueError, match="it was started with: model, views; remove the folder"):
        parts.start_or_resume({"model": "b", "rows": 3, "views": "2d"}, resume=True)
    parts.start_or_resume({"model": "a", "rows": 3}, resume=True)
    assert len(list(parts.folder.iterdir())) == 3
    parts.remove()
    assert not parts.folder.exists()
    with pytest.raises(ValueError, match="there is no unfinished run to resume"):
        parts.start_or_resume({}, resume=True)


def test_one_that_left_no_part_is_begun_anew(parts: PartialOutput) -> None:
    parts.start_or_resume({"model": "a"}, resume=False)
    parts.start_or_resume({"model": "b"}, resume=False)
    parts.start_or_resume({"model": "b"}, resume=True)


def test_names_and_hashes(tmp_path: Path) -> None:
    assert partial_output_folder(tmp_path / "a.csv") == tmp_path / ".a.csv.parts"
    (tmp_path / "a").write_bytes(b"abc")
    assert file_sha256(tmp_path / "a").startswith("ba7816bf8f01cfea")


def test_the_users_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "moleblend"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder().parts[-2:] == (".cache", "moleblend")


def test_json_has_no_nan(tmp_path: Path) -> None:
    values = {"a": float("nan"), "b": [1.5, float("-inf")], "c": {"d": (np.float64("inf"), None)}}
    write_json(tmp_path / "x.json", values)
    text = (tmp_path / "x.json").read_text()
    assert text == '{"a": null, "b": [1.5, null], "c": {"d": [null, null]}}\n'


def test_outputs_are_checked_before_the_work(tmp_path: Path) -> None:
    source, other = tmp_path / "in.csv", tmp_path / "other.csv"
    source.write_text("x")
    check_outputs([other, tmp_path / "new" / "deep" / "out.csv"], [source, tmp_path / "missing"])
    link, hard = tmp_path / "link.csv", tmp_path / "hard.csv"
    link.symlink_to(source)
    hard.hardlink_to(source)
    for path in (source, link, hard, tmp_path / "a" / ".." / "in.csv"):
        (tmp_path / "a").mkdir(exist_ok=True)
        with pytest.raises(OutputError, match=r"would overwrite its input .*in\.csv"):
            check_outputs([other, path], [source])
    with pytest.raises(OutputError, match="expected a file, got a folder"):
        check_outputs([tmp_path / "a"], [])
    with pytest.raises(OutputError, match=r"cannot be written, since .*in\.csv is not a folder"):
        check_outputs([source / "out.csv"], [])
    with pytest.raises(OutputError, match="two outputs would have this name"):
        check_outputs([other, other], [])


def test_a_full_disk_is_one_sentence_and_the_old_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("old")

    def write() -> None:
        with replacing(path) as temporary:
            temporary.write_text("new")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OutputError, match=r"t\.csv: cannot be written \(No space left on device\)"):
        write()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
