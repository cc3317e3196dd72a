"""What users read is in the field's words: README, docs, `--help`, report templates, errors."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "moleblend"

# Patterns that may not come back, each with what is written instead.
NOT_USED = {
    r"sureness": "uncertainty",
    r"\brivals?\b|\bcontests?\b": "baseline, comparison",
    r"\bverdicts?\b": "result, comparison",
    r"\bcomplaints?\b": "parse error",
    r"\brehears\w*": "dry run",
    r"\bverbs?\b": "command",
    r"\blook-?up tables? of\b|\blook-ups?\b": "lookup baseline",
    r"\btrivial\b": "constant baseline",
    r"\bfigures?\b": "metric; a picture is a plot",
    r"\bshares? of\b": "fraction, probability",
    r"\bspreads?\b": "standard deviation",
    r"\bbounds\b": "censored labels",
    r"\b(train|training|valid|validation|test) parts?\b": "set",
    r"\bjudged?\b": "evaluated, compared, chosen",
    r"\blearnt\b": "learned, trained",
    r"\bjoined\b": "extra features, merged",
    r"\bwholly\b": "entirely",
    r"\bput right\b": "calibrated, corrected",
    r"\bbeside\b": "next to, compared with, in addition to",
    r"\bworth\b": "name the effect or its size",
    r"\b(is|are|was|were|be|and) told\b": "reported",
    r"\bstands?\b": "is, are, has",
    r"\bcame\b": "got, was given; of a model: is packaged",
    r"\bchance\b": "random; of a Generator: rng",
}

# Text in which a pattern is meant as it is written.
ALLOWED = {
    "{spread,random}": "a value of --encoder.kernel-start",
    "`spread` over 0 to 10 Å": "the same value, explained",
    "(default: spread)": "the same value",
    "upper bounds": "limits of a measured time",
    "distance bounds": "RDKit's bounds matrix",
    "by chance": "statistics",
}

PRINT_HELP = """
import contextlib, io, json, re
from moleblend.cli.main import main

def help_of(*command):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main([*command, "--help"]) == 0
    return out.getvalue()

def commands_in(text):
    return re.findall(r"^  ([a-z]+)  ", text, re.MULTILINE)

texts = {"": help_of(), "data": help_of("data")}
for name in commands_in(texts[""]):
    texts[name] = help_of(name)
for name in commands_in(texts["data"]):
    texts[f"data {name}"] = help_of("data", name)
print(json.dumps(texts))
"""


def words_not_used(text: str) -> list[str]:
    """List what `NOT_USED` finds in a text, with some context."""
    text = " ".join(re.sub("[│╭╮╰╯─]", " ", text).split())
    for allowed in ALLOWED:
        text = text.replace(allowed, "")
    return [
        f"{match.group()!r} (write: {instead}) in: …{text[max(match.start() - 40, 0) :][:100]}…"
        for pattern, instead in NOT_USED.items()
        for match in re.finditer(pattern, text, re.IGNORECASE)
    ]


def pages() -> list[Path]:
    """List the pages that users read, and the templates of the reports."""
    return [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *sorted((ROOT / "docs").rglob("*.md")),
        *sorted((SOURCE / "reports").rglob("*.html")),
    ]


def messages(source: str) -> list[tuple[int, str]]:
    """List line and text of every string constant in the `raise` statements of a module."""
    return [
        (constant.lineno, constant.value)
        for statement in ast.walk(ast.parse(source))
        if isinstance(statement, ast.Raise)
        for constant in ast.walk(statement)
        if isinstance(constant, ast.Constant) and isinstance(constant.value, str)
    ]


def test_a_word_that_is_not_used_is_found():
    assert words_not_used("of the test parts, as the model stands") == [
        "'test parts' (write: set) in: …of the test parts, as the model stands…",
        "'stands' (write: is, are, has) in: …of the test parts, as the model stands…",
    ]
    assert words_not_used("understanding upper bounds, and standard deviations") == []
    source = 'raise ValueError(f"x={x} and {y} came") from error'
    assert [text for _, text in messages(source)] == ["x=", " and ", " came"]


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_are_in_the_words_of_the_field(page: Path):
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".html":  # the words between the tags of Jinja2 and of HTML
        text = re.sub(r"{{.*?}}|{%.*?%}", " ", text, flags=re.DOTALL)
        text = re.sub(r"<[^>]*>", " ", text)
    wrong = words_not_used(text)
    assert not wrong, "\n".join(wrong)


def test_error_messages_are_in_the_words_of_the_field():
    wrong = [
        f"{path.relative_to(SOURCE)}:{line}: {found}"
        for path in sorted(SOURCE.rglob("*.py"))
        for line, message in messages(path.read_text(encoding="utf-8"))
        for found in words_not_used(message)
    ]
    assert not wrong, "\n".join(wrong)


def test_help_is_in_the_words_of_the_field():
    # In a process without the run-time type checks of the tests, which make the imports slow.
    done = subprocess.run(
        [sys.executable, "-c", PRINT_HELP], capture_output=True, text=True, check=True
    )
    texts = json.loads(done.stdout)
    assert len(texts) >= 18
    assert all("usage" in text for text in texts.values())
    wrong = [f"{name}: {found}" for name, text in texts.items() for found in words_not_used(text)]
    assert not wrong, "\n".join(wrong)


def test_readme_points_to_what_exists():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    links = {link.partition("#")[0] for link in re.findall(r"\]\((?!https?:)([^)]+)\)", text)}
    assert len(links) > 10
    assert [link for link in sorted(links) if not (ROOT / link).exists()] == []
    assert "make demo" in text
    assert "make test" in text
    _, _, rest = text.partition("src/moleblend/\n")
    tree = rest.partition("```")[0]
    inside = re.findall(r"^  ([a-z]+/)", tree, re.MULTILINE) + re.findall(r"\b([a-z]+\.py)\b", tree)
    at_root = re.findall(r"^([a-z]+/)", tree, re.MULTILINE)
    assert [name for name in inside if not (SOURCE / name).exists()] == []
    assert [name for name in at_root if not (ROOT / name).exists()] == []
    packages = {f"{path.parent.name}/" for path in SOURCE.glob("*/__init__.py")}
    assert packages <= set(inside)
