"""Commands of `moleblend data` for published data sets."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table as RichTable

from moleblend.cli.terminal import CONSOLE, Argument, call, check_out, say
from moleblend.errors import SettingError


def _list() -> None:
    """List the data sets, and which of them are on this machine: moleblend data list."""
    from moleblend.data.datasets.catalogue import known_datasets
    from moleblend.data.datasets.fetch import is_here

    table = RichTable("set", "molecules", "labels", "description", "here")
    for name, known in known_datasets().items():
        labels = f"{known.n_tasks}, {known.task}" if known.task else ""
        here = "yes" if is_here(name) else ""
        table.add_row(name, f"{known.literature:,}", labels, known.title, here)
    _print(table)


def _show(name: Argument[str]) -> None:
    """Describe a data set and where its file is: moleblend data show NAME.

    Args:
        name: name of the set.
    """
    from moleblend.data.datasets.fetch import describe_dataset

    for key, text in describe_dataset(name):
        print(f"{key:<12}{text}")


def _fetch(name: Argument[str], out: Path | None = None) -> None:
    """Download a data set and verify its hash: moleblend data fetch NAME.

    An interrupted download is continued. Without network access, the error message says which file
    to put where.

    Args:
        name: name of the set.
        out: data folder; by default the user's cache.
    """
    from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

    from moleblend.data.datasets.fetch import fetch

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(
        *columns, console=CONSOLE, transient=True, disable=not CONSOLE.is_terminal
    ) as bar:
        task = bar.add_task(name, total=None)
        path = fetch(name, out, lambda done, size: bar.update(task, completed=done, total=size))
    say(f"{name} is at {path}")


def _check(names: Argument[tuple[str, ...]] = (), processes: int | None = None) -> None:
    """Count the contents of data sets: moleblend data check [NAME ...].

    Args:
        names: names of the sets; by default all sets on this machine.
        processes: number of processes; by default one for each core.
    """
    from rich.progress import Progress

    from moleblend.data.datasets.catalogue import known_datasets
    from moleblend.data.datasets.fetch import dataset, is_here
    from moleblend.data.datasets.integrity import check

    columns = ("set", "rows", "molecules", "literature", "labels", "hash", "defects")
    table = RichTable(*columns)
    differences: list[str] = []
    with Progress(console=CONSOLE, transient=True, disable=not CONSOLE.is_terminal) as bar:
        for name in names or filter(is_here, known_datasets()):
            task = bar.add_task(name, total=None)
            result = check(
                name,
                n_processes=processes,
                on_progress=lambda done, n, task=task: bar.update(task, completed=done, total=n),
            )
            bar.remove_task(task)
            counts = result.counts
            of_parsed = "" if counts.parsed == counts.rows else f" of {counts.parsed:,} parsed"
            table.add_row(
                name,
                f"{counts.rows:,}",
                f"{counts.valid:,}{of_parsed}",
                f"{dataset(name).literature:,}",
                f"{counts.labels:,}",
                result.hash,
                "; ".join(result.defects),
            )
            differences += [f"{name}: {difference}" for difference in result.differences]
    _print(table)
    if differences:
        raise SettingError(f"differences from the catalogue: {'; '.join(differences)}")


def _export(
    name: Argument[str], out: Annotated[Argument[Path], tyro.conf.arg(metavar="OUT")]
) -> None:
    """Write a data set as one table: moleblend data export NAME OUT.

    QM9 gets its atomisation energies, PCQM4Mv2 its split; other tables are not changed.

    Args:
        name: name of the set.
        out: .csv, .tsv or .parquet file to write; .parquet for PCQM4Mv2.
    """
    from moleblend.data.datasets.fetch import find, read
    from moleblend.data.datasets.streaming import write_pcqm4mv2
    from moleblend.data.formats import write_table

    if name == "pcqm4mv2":
        check_out(out, find(name), [".parquet"])
        write_pcqm4mv2(find(name), out)
        return
    check_out(out, find(name), [".csv", ".tsv", ".parquet"])
    write_table(read(name).columns, out)


def _print(table: RichTable) -> None:
    """Print a table; 160 columns wide if the output is not a terminal."""
    is_terminal = Console().is_terminal
    Console(width=None if is_terminal else 160).print(table)


DATASET_COMMANDS: dict[str, tuple[Callable[[list[str]], None], str]] = {
    "list": (partial(call, _list, "data list"), "list the published data sets"),
    "show": (partial(call, _show, "data show"), "describe a data set and where its file is"),
    "fetch": (partial(call, _fetch, "data fetch"), "download a data set"),
    "check": (partial(call, _check, "data check"), "compare data sets with the catalogue"),
    "export": (partial(call, _export, "data export"), "write a data set as one table"),
}
"""The commands, each with a description."""
