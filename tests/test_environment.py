import subprocess

import pytest

from moleblend import environment
from moleblend.environment import code_version, describe_environment


def test_an_environment_is_described_in_words():
    told = describe_environment()
    assert all(told.values())
    assert told["time"].endswith("+00:00")
    assert int(told["threads"]) >= 1


def git(folder, *arguments):
    named = ["-c", "user.name=a", "-c", "user.email=a@b"]
    done = subprocess.run(
        ["git", "-C", str(folder), *named, *arguments], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def test_the_code_is_named_by_its_commit_and_whether_it_was_changed(tmp_path, monkeypatch):
    package = tmp_path / "src" / "package"
    package.mkdir(parents=True)
    (package / "module.py").write_text("1")
    assert code_version(package) == "installed"
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert code_version(package) == commit
    (tmp_path / "notes.txt").write_text("beside the package")
    assert code_version(package) == commit
    (package / "module.py").write_text("2")
    assert code_version(package) == f"{commit}, changed since"

    def missing(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr(environment.subprocess, "run", missing)
    assert code_version(package) == "unknown"


@pytest.mark.parametrize("text", ["model name\t: A Processor\nmodel name\t: A Processor\n", None])
def test_the_processor_has_a_name(text, tmp_path, monkeypatch):
    told = tmp_path / "cpuinfo"
    if text:
        told.write_text(text)
    monkeypatch.setattr(environment, "Path", lambda _: told)
    assert (environment._processor() == "A Processor") == bool(text)
    assert environment._processor()
