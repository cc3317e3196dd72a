"""The terminal: argument parsing, progress and messages."""

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from functools import partial, wraps
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from moleblend.config import did_you_mean
from moleblend.errors import SettingError
from moleblend.files import check_outputs

Argument = tyro.conf.Positional

CONSOLE = Console(stderr=True)
"""Console for progress and messages. They go to standard error; results go to standard output."""


def call(function: Callable[..., None], command: str, arguments: list[str]) -> None:
    """Parse the arguments of a function from the command line and call it.

    Args:
        function: its signature defines the flags.
        command: name of the command, without `moleblend`.
        arguments: command-line arguments.
    """

    @wraps(function)
    def bind(*args: object, **kwargs: object) -> Callable[[], None]:
        return partial(function, *args, **kwargs)

    parse(bind, command, arguments)()


def parse(kind: Any, command: str, arguments: list[str], **options: Any) -> Any:  # noqa: ANN401
    """Call a function or class with arguments from the command line.

    Raises:
        SystemExit: after --help with code 0; after a wrong argument, which tyro prints, with 2.
    """
    return tyro.cli(kind, prog=f"moleblend {command}", args=arguments, **options)


def print_commands(program: str, commands: Mapping[str, str]) -> None:
    """List commands, each with its purpose."""
    print(f"usage: {program} COMMAND [--help]\n")
    for command, purpose in commands.items():
        print(f"  {command:<10}{purpose}")


def unknown_command(name: str, available: Iterable[str]) -> ValueError:
    """Make the error for an unknown command; it names the closest one and lists all."""
    commands = list(available)
    hint = did_you_mean(name.rpartition(" ")[2], commands)
    return SettingError(f"unknown command {name!r}{hint}; available: {', '.join(commands)}")


@contextmanager
def progress(task_name: str) -> Generator[Callable[[int, float | None], None], None, None]:
    """Show a progress bar; yield the function that updates it.

    The function takes the number of rows done and the fraction done, None if unknown.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[rows]:,} rows"),
        TimeRemainingColumn(),
    )
    is_hidden = not CONSOLE.is_terminal
    with Progress(*columns, console=CONSOLE, transient=True, disable=is_hidden) as bar:
        task = bar.add_task(task_name, total=None, rows=0)

        def update(n_rows: int, fraction: float | None) -> None:
            bar.update(task, rows=n_rows, completed=fraction or 0, total=fraction and 1)

        yield update


def say(text: str) -> None:
    """Print one line without wrapping or markup."""
    CONSOLE.print(text, soft_wrap=True, highlight=False, markup=False)


def say_some(lines: Sequence[str], most: int = 5) -> None:
    """Print the first lines and the number of the others."""
    for line in lines[:most]:
        say(line)
    if len(lines) > most:
        say(f"and {len(lines) - most:,} more")


def check_out(
    out: Path, source: Path, endings: Sequence[str], *, beside: Sequence[Path] = ()
) -> None:
    """Refuse an output file before the work is done.

    Args:
        out: the file that the user has named.
        source: the input.
        endings: of the file.
        beside: further files that will be written.

    Raises:
        SettingError: the name has another ending.
        OutputError: a file cannot be written, or is the input.
    """
    if out.suffix.lower() not in endings:
        raise SettingError(f"{out}: expected an output name that ends in {' or '.join(endings)}")
    check_outputs([out, *beside], [source])
