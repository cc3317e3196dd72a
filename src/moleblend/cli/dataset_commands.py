"""The verbs below `moleblend data` that are about published data sets."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table as RichTable

from moleblend.cli.terminal import SHOWN, Argument, check_out, say


def _list() -> None:
    """List the data sets, and which of them are here: moleblend data list."""
    from moleblend.data.datasets.catalogue import DATASETS
    from moleblend.data.datasets.fetch import is_here

    table = RichTable("set", "molecules", "labels", "what it is", "here")
    for name, known in DATASETS.items():
        labels = f"{known.n_tasks}, {known.task}" if known.task else ""
        here = "yes" if is_here(name) else ""
        table.add_row(name, f"{known.literature:,}", labels, known.title, here)
    _print(table)


def _show(name: Argument[str]) -> None:
    """Say what is known of a data set, and where it lies: moleblend data show NAME.

    Args:
        name: of the set.
    """
    from moleblend.data.datasets.fetch import describe_dataset

    for key, text in describe_dataset(name):
        print(f"{key:<12}{text}")


def _fetch(name: Argument[str], out: Path | None = None) -> None:
    """Download a data set and check its hash: moleblend data fetch NAME.

    What broke off goes on where it stopped. Without a network it says which file to put where.

    Args:
        name: of the set.
        out: the data folder to put it in; the user's cache by default.
    """
    from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

    from moleblend.data.datasets.fetch import fetch

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=SHOWN, transient=True, disable=not SHOWN.is_terminal) as bar:
        task = bar.add_task(name, total=None)
        path = fetch(name, out, lambda done, size: bar.update(task, completed=done, total=size))
    say(f"{name} is at {path}")


def _check(names: Argument[tuple[str, ...]] = (), processes: int | None = None) -> None:
    """Read data sets and count what they hold: moleblend data check [NAME ...].

    Args:
        names: of the sets; without one, all that are here.
        processes: one for each core by default.
    """
    from rich.progress import Progress

    from moleblend.data.datasets.catalogue import DATASETS
    from moleblend.data.datasets.fetch import dataset, is_here
    from moleblend.data.datasets.integrity import check

    columns = ("set", "rows", "molecules", "literature", "labels", "hash", "defects")
    table = RichTable(*columns)
    surprises: list[str] = []
    with Progress(console=SHOWN, transient=True, disable=not SHOWN.is_terminal) as bar:
        for name in names or filter(is_here, DATASETS):
            task = bar.add_task(name, total=None)
            found = check(
                name,
                n_processes=processes,
                on_progress=lambda done, n, task=task: bar.update(task, completed=done, total=n),
            )
            bar.remove_task(task)
            counts = found.counts
            of = "" if counts.parsed == counts.rows else f" of {counts.parsed:,} read"
            table.add_row(
                name,
                f"{counts.rows:,}",
                f"{counts.valid:,}{of}",
                f"{dataset(name).literature:,}",
                f"{counts.labels:,}",
                found.hash,
                "; ".join(found.defects),
            )
            surprises += [f"{name}: {surprise}" for surprise in found.surprises]
    _print(table)
    if surprises:
        raise ValueError(f"not as known: {'; '.join(surprises)}")


def _export(
    name: Argument[str], out: Annotated[Argument[Path], tyro.conf.arg(metavar="OUT")]
) -> None:
    """Write a data set as one table: moleblend data export NAME OUT.

    QM9 gets its atomisation energies, PCQM4Mv2 its parts; other tables are what they are.

    Args:
        name: of the set.
        out: .csv, .tsv or .parquet; .parquet for PCQM4Mv2.
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
    """Print a table, in a pipe as wide as its rows need to be to stay readable."""
    is_terminal = Console().is_terminal
    Console(width=None if is_terminal else 160).print(table)


DATASET_VERBS: dict[str, tuple[Callable[..., None], str]] = {
    "list": (_list, "list the known data sets"),
    "show": (_show, "say what is known of a data set, and where it lies"),
    "fetch": (_fetch, "download a data set"),
    "check": (_check, "count what data sets hold, against what they should hold"),
    "export": (_export, "write a data set as one table"),
}
"""The verbs and what they are for."""
