"""The verbs below `moleblend data`: one function per verb, whose flags come from its signature."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import tyro

from moleblend.molecule import FeatureVersion
from moleblend.terminal import SHOWN, Argument, call, print_verbs, say


def data(arguments: list[str]) -> None:
    """Run one of the verbs."""
    if arguments[:1] in ([], ["-h"], ["--help"]):
        print_verbs("moleblend data", {verb: about for verb, (_, about) in DATA_VERBS.items()})
        return
    if arguments[0] not in DATA_VERBS:
        raise ValueError(
            f"there is no 'data {arguments[0]}'; the verbs are {', '.join(DATA_VERBS)}"
        )
    function, _ = DATA_VERBS[arguments[0]]
    call(function, f"data {arguments[0]}", arguments[1:])


def _build(
    source: Annotated[Argument[Path], tyro.conf.arg(name="in", metavar="IN")],
    out: Annotated[Argument[Path], tyro.conf.arg(metavar="OUT.arrow")],
    features: FeatureVersion = "cip-1",
    processes: int | None = None,
    conformers: int = 0,
    seed: int = 0,
    smiles: str | None = None,
    limit_s: float = 20.0,
) -> None:
    """Build a store for pretraining: moleblend data build IN OUT.arrow.

    Args:
        source: csv, tsv, smi, sdf (also .gz) or parquet file of molecules.
        out: the store; OUT.rejected.csv beside it accounts for every row that did not make it.
        features: cip-1 (default), or ogb-1 for the published configuration.
        processes: one for each core by default.
        conformers: geometries to compute for each molecule that comes without.
        seed: of the conformers.
        smiles: the SMILES column; found by name by default.
        limit_s: seconds after which the conformers of one molecule are given up.
    """
    from rich.progress import Progress

    from moleblend.build import build_store

    with Progress(console=SHOWN, transient=True, disable=not SHOWN.is_terminal) as bar:
        task = bar.add_task(f"reading {source}", total=None)
        account = build_store(
            source,
            out,
            features=features,
            n_processes=processes,
            n_conformers=conformers,
            seed=seed,
            smiles=smiles,
            limit_s=limit_s,
            on_progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    for note in account.notes:
        say(note)
    say(
        f"{account.n_written:,} of {account.n_rows:,} rows are in {out}; "
        f"{len(account.rejected):,} rejected, {len(account.flat):,} without the geometry asked "
        f"for: {out}.rejected.csv"
    )


DATA_VERBS: dict[str, tuple[Callable[..., None], str]] = {
    "build": (_build, "build a store of molecules from a file"),
}
"""The verbs and what they are for."""
