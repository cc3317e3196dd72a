"""The terminal: where things are said, and how a verb's flags are filled."""

import io
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, redirect_stderr
from functools import partial, wraps
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

Argument = tyro.conf.Positional

SHOWN = Console(stderr=True)
"""Where progress and sentences go, so that standard output stays free for results."""


def call(function: Callable[..., None], verb: str, arguments: list[str]) -> None:
    """Fill the function's arguments from the command line and call it."""

    @wraps(function)
    def prepared(*args: object, **kwargs: object) -> Callable[[], None]:
        return partial(function, *args, **kwargs)

    parse(prepared, verb, arguments)()


def parse(kind: Any, verb: str, arguments: list[str], **options: Any) -> Any:  # noqa: ANN401
    """Call something with arguments from the command line.

    Raises:
        ValueError: they are wrong. tyro says so in a framed block, the first part of which says
            what is wrong and becomes the sentence.
    """
    told = io.StringIO()
    try:
        with redirect_stderr(told):
            return tyro.cli(kind, prog=f"moleblend {verb}", args=arguments, **options)
    except SystemExit as end:
        if not end.code:
            raise
        lines = [line.strip("│ ") for line in told.getvalue().splitlines() if line[:1] == "│"]
        n_first = next((k for k, line in enumerate(lines) if line.startswith("──")), len(lines))
        sentence = " ".join(lines[:n_first])
        raise ValueError(f"{sentence} (see moleblend {verb} --help)") from end


def print_commands(command: str, verbs: dict[str, str]) -> None:
    """List the verbs of a command, each with what it is for."""
    print(f"usage: {command} VERB [--help]\n")
    for verb, about in verbs.items():
        print(f"  {verb:<10}{about}")


@contextmanager
def progress(what: str) -> Generator[Callable[[int, float | None], None], None, None]:
    """Show how far the work is; give the function that is told rows and the share that is done."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[rows]:,} rows"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=SHOWN, transient=True, disable=not SHOWN.is_terminal) as bar:
        task = bar.add_task(what, total=None, rows=0)

        def tell(n_rows: int, share: float | None) -> None:
            bar.update(task, rows=n_rows, completed=share or 0, total=share and 1)

        yield tell


def say(text: str) -> None:
    """Print one line as it is."""
    SHOWN.print(text, soft_wrap=True, highlight=False, markup=False)


def say_some(lines: Sequence[str], most: int = 5) -> None:
    """Print the first lines, and how many there are more."""
    for line in lines[:most]:
        say(line)
    if len(lines) > most:
        say(f"and {len(lines) - most:,} more")


def check_out(out: Path, source: Path, endings: Sequence[str]) -> None:
    """Refuse a file that cannot be written before the work is done, not after it."""
    if out.suffix.lower() not in endings:
        raise ValueError(f"{out}: the name of the output ends in {' or '.join(endings)}")
    if out.resolve() == source.resolve():
        raise ValueError(f"{out}: the output would overwrite its input")
    if out.is_dir():
        raise ValueError(f"{out}: this is a folder, a file is to be written")
