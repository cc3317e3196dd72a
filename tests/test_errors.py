"""The errors of the package: one family, each also the built-in exception that it was before."""

import ast
from pathlib import Path

import pytest

import moleblend
from moleblend import errors
from moleblend.cli import main as cli
from moleblend.cli.main import main

PACKAGE = Path(moleblend.__file__).parent
BUILT_IN = {"ValueError", "OSError", "FileNotFoundError", "FloatingPointError", "ChildProcessError"}


@pytest.mark.parametrize(
    ("name", "built_in"),
    [
        ("MoleculeError", ValueError),
        ("TooLargeError", ValueError),
        ("TableError", ValueError),
        ("SettingError", ValueError),
        ("SettingTypeError", TypeError),
        ("ModelFileError", ValueError),
        ("MissingFileError", FileNotFoundError),
        ("OutputError", OSError),
        ("OutputError", ValueError),
        ("TrainingError", FloatingPointError),
        ("WorkerError", ChildProcessError),
    ],
)
def test_each_error_is_one_of_the_family_and_a_built_in_one(name: str, built_in: type) -> None:
    error = getattr(errors, name)("one sentence")
    assert isinstance(error, moleblend.MoleblendError)
    assert isinstance(error, built_in)
    assert str(error) == "one sentence"


def test_the_package_raises_no_error_for_users_that_is_not_of_the_family() -> None:
    """An error of a library, or of a defect, is then never mistaken for one of ours."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            raised = node.exc if isinstance(node, ast.Raise) else None
            called = raised.func if isinstance(raised, ast.Call) else None
            if isinstance(called, ast.Name) and called.id in BUILT_IN:
                found.append(f"{path.relative_to(PACKAGE)}:{node.lineno}: {called.id}")
    assert not found


def test_the_shell_turns_an_error_into_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "no.safetensors", "no.csv", "out.csv"]) == 2
    text = capsys.readouterr().err
    assert text.startswith("moleblend: ")
    assert text.count("\n") == 1


@pytest.mark.parametrize("is_debugged", [False, True])
def test_the_shell_says_where_to_report_a_defect(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], is_debugged: bool
) -> None:
    def broken(_: list[str]) -> None:
        raise KeyError("weight")

    monkeypatch.setitem(cli.COMMANDS, "demo", broken)
    assert main(["demo", *(["--debug"] * is_debugged)]) == 1
    text = capsys.readouterr().err
    assert "moleblend: KeyError: 'weight'" in text
    assert "this is a defect of moleblend" in text
    assert "please report it in the issue tracker" in text
    assert ("Traceback" in text) == is_debugged
    assert ("--debug shows" in text) != is_debugged


def test_too_little_memory_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(_: list[str]) -> None:
        raise MemoryError

    monkeypatch.setitem(cli.COMMANDS, "demo", full)
    assert main(["demo"]) == 2
    assert "there is not enough memory" in capsys.readouterr().err
