"""The verbs below `moleblend data`: one function per verb, whose flags come from its signature."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import tyro

from moleblend.engines import Engine
from moleblend.molecule import FeatureVersion
from moleblend.terminal import Argument, call, print_verbs, progress, say

ShardFormatFlag = Literal["arrow", "parquet"]


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
    out: Annotated[Argument[Path], tyro.conf.arg(metavar="OUT")],
    features: FeatureVersion = "cip-1",
    conformers: int = 0,
    seed: int = 0,
    prune_rms: float = 0.0,
    limit_s: float = 20.0,
    cache: Path | None = None,
    no_cache: bool = False,
    smiles: str | None = None,
    shard_rows: int = 16_384,
    shard_format: Annotated[ShardFormatFlag, tyro.conf.arg(name="format")] = "arrow",
    engine: Engine = "processes",
    processes: int | None = None,
    address: str | None = None,
    resume: bool = False,
) -> None:
    """Build a store for pretraining: moleblend data build IN OUT.arrow.

    Args:
        source: csv, tsv, smi, sdf (also .gz) or parquet file of molecules.
        out: the store: OUT.arrow is one file, OUT a folder of shards. OUT.rejected.csv beside it
            accounts for every row that did not make it.
        features: cip-1 (default), or ogb-1 for the published configuration.
        conformers: geometries to compute for each molecule that comes without.
        seed: of the conformers.
        prune_rms: of conformers within this RMSD (in angstrom) one is kept; 0 keeps all.
        limit_s: seconds after which the conformers of one molecule are given up.
        cache: folder of conformers computed before; by default the user's cache folder.
        no_cache: neither use nor keep computed conformers.
        smiles: the SMILES column; found by name by default.
        shard_rows: rows in a shard; what a killed build loses at most.
        shard_format: parquet writes a folder of shards for other tools only.
        engine: processes of this machine, or the workers of Ray (pip install 'moleblend[ray]').
        processes: one for each core by default.
        address: of a Ray cluster; by default Ray is started on this machine.
        resume: go on with a build that was stopped.
    """
    from moleblend.build import build_store, count_unfinished, parts_folder
    from moleblend.conformers import ConformerConfig, cache_folder

    if cache is not None and no_cache:
        raise ValueError(f"either a cache ({cache}) or none, not both")
    wanted = None
    if conformers:
        kept_in = None if no_cache else cache or cache_folder()
        wanted = ConformerConfig(conformers, seed, prune_rms, limit_s, kept_in)
    n_before = count_unfinished(out)
    try:
        with progress(f"reading {source}") as tell:
            account = build_store(
                source,
                out,
                features=features,
                conformers=wanted,
                smiles=smiles,
                shard_rows=shard_rows,
                shard_format=shard_format,
                engine=engine,
                n_processes=processes,
                address=address,
                resume=resume,
                on_progress=tell,
            )
    finally:
        if count_unfinished(out) > n_before:
            say(f"what was built is kept in {parts_folder(out)}: --resume goes on with it")
    for note in account.notes:
        say(note)
    if account.n_resumed:
        say(f"{account.n_resumed:,} of {account.n_shards:,} shards were there already")
    say(
        f"{account.n_written:,} of {account.n_rows:,} rows are in {out}; "
        f"{account.n_rejected:,} rejected, {account.n_flat:,} without the geometry asked "
        f"for: {out}.rejected.csv"
    )


DATA_VERBS: dict[str, tuple[Callable[..., None], str]] = {
    "build": (_build, "build a store of molecules from a file"),
}
"""The verbs and what they are for."""
