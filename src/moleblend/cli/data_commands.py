"""The verbs below `moleblend data`: one function per verb, whose flags come from its signature."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.table import Table as RichTable

from moleblend.chem.molecule import FeatureVersion
from moleblend.cli.dataset_commands import DATASET_VERBS
from moleblend.cli.terminal import (
    SHOWN,
    Argument,
    call,
    check_out,
    print_commands,
    progress,
    say,
    say_some,
)
from moleblend.parallel import Engine

ShardFormatFlag = Literal["arrow", "parquet"]


def data(arguments: list[str]) -> None:
    """Run one of the verbs."""
    if arguments[:1] in ([], ["-h"], ["--help"]):
        print_commands("moleblend data", {verb: about for verb, (_, about) in DATA_VERBS.items()})
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
    from moleblend.chem.conformers import ConformerConfig
    from moleblend.data.build_store import build_store, count_unfinished
    from moleblend.files import cache_folder, partial_output_folder

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
            say(f"what was built is kept in {partial_output_folder(out)}: --resume goes on with it")
    for note in account.notes:
        say(note)
    if account.n_resumed:
        say(f"{account.n_resumed:,} of {account.n_shards:,} shards were there already")
    say(
        f"{account.n_written:,} of {account.n_rows:,} rows are in {out}; "
        f"{account.n_rejected:,} rejected, {account.n_flat:,} without the geometry asked "
        f"for: {out}.rejected.csv"
    )


def _split(
    source: Annotated[Argument[Path], tyro.conf.arg(name="in", metavar="IN")],
    out: Annotated[Argument[Path], tyro.conf.arg(metavar="OUT.csv")],
    by: str,
    folds: int | None = None,
    fractions: tuple[float, float, float] | None = None,
    seed: int = 0,
    column: str = "split",
    smiles: str | None = None,
) -> None:
    """Write a table with a column that says train, validation or test, for train --split COLUMN.

    Args:
        source: csv, tsv, smi, sdf (also .gz) or parquet file of molecules.
        out: csv, tsv or parquet file to write: all rows of IN; those that cannot be split have an
            empty cell, and their reason in the column COLUMN_reason.
        by: scaffold (the largest sets first, nothing random), balanced (scaffolds in random order),
            cluster (Butina on ECFP4), random, or a column whose values stay together.
        folds: write this many columns split_1, split_2, ... instead, one for each fold.
        fractions: of train, validation and test, 0.8 0.1 0.1 if left out.
        seed: of what is random.
        column: name of the new column.
        smiles: the SMILES column; found by name by default.
    """
    from moleblend.data.formats import read_table, write_table
    from moleblend.data.splits import split_table

    check_out(out, source, (".csv", ".tsv", ".parquet"))
    table = read_table(source)
    columns, splits, reasons = split_table(
        table, by, n_folds=folds, fractions=fractions, seed=seed, column=column, smiles=smiles
    )
    write_table(columns, out)
    for note in table.notes:
        say(note)
    for name, split in splits.items():
        sizes = f"{len(split.train):,} train, {len(split.validation):,} validation"
        say(f"{name}: {sizes}, {len(split.test):,} test")
    say_some([f"{table.place(row)} has no part: {text}" for row, text in reasons.items()])
    say(f"{len(table):,} rows are in {out}")


def _leakage(
    source: Annotated[Argument[Path], tyro.conf.arg(name="in", metavar="IN")],
    split: str,
    smiles: str | None = None,
    file: Annotated[Path | None, tyro.conf.arg(name="json", metavar="FILE")] = None,
) -> None:
    """Tell what stands in two parts of a split: molecules, scaffolds, near neighbours.

    Args:
        source: csv, tsv, smi, sdf (also .gz) or parquet file of molecules.
        split: the column that says train, valid or test; a row where it is empty is in no part.
        smiles: the SMILES column; found by name by default.
        file: where all of it goes, with the numbers of the rows, counted from 1.
    """
    from moleblend.data.formats import read_table
    from moleblend.data.leakage import QUANTILES, leakage
    from moleblend.data.splits import read_split
    from moleblend.files import replacing

    table = read_table(source)
    texts, parts, reasons = read_split(table, split, smiles=smiles)
    found = leakage(texts, parts)
    for note in table.notes:
        say(note)
    say_some([f"{table.place(row)} is in no part: {text}" for row, text in reasons.items()])
    say("rows: " + ", ".join(f"{count:,} {name}" for name, count in found.n_rows.items()))
    shared = RichTable(title="the same in two parts (rows of the first + rows of the second)")
    shared.add_column("what")
    cells: dict[str, list[str]] = {}
    for one in found.shared:
        if one.kind == "molecule":
            shared.add_column(" and ".join(one.parts), justify="right")
        told = f"{one.n_shared:,} ({len(one.first):,} + {len(one.second):,})"
        cells.setdefault(one.kind, []).append(told)
    for kind, counts in cells.items():
        shared.add_row(kind, *counts)
    SHOWN.print(shared)
    near = RichTable(title="Tanimoto (ECFP4) to the nearest molecule of train")
    near.add_column("part")
    for heading in QUANTILES:
        near.add_column(heading, justify="right")
    for part in found.nearest:
        near.add_row(part.part, *(f"{value:.2f}" for value in part.quantiles.values()))
    SHOWN.print(near)
    if file is not None:
        with replacing(file) as temporary:
            temporary.write_text(json.dumps(found.to_dict()) + "\n", encoding="utf-8")


def _clean(
    source: Annotated[Argument[Path], tyro.conf.arg(name="in", metavar="IN")],
    out: Annotated[Argument[Path], tyro.conf.arg(metavar="OUT.csv")],
    target: tuple[str, ...] = (),
    largest_fragment: bool = False,
    neutralise: bool = False,
    tautomer: bool = False,
    explicit_hydrogens: bool = False,
    drop_invalid: bool = False,
    duplicates: Literal["off", "keep", "mean", "drop"] = "off",
    tolerance: float = 0.0,
    outliers: float = 0.0,
    smiles: str | None = None,
) -> None:
    """Clean a table: only what is asked for, with an account of every row in OUT.csv.account.csv.

    Args:
        source: csv, tsv, smi, sdf (also .gz) or parquet file of molecules.
        out: csv, tsv or parquet file to write; the geometry of an SDF is lost.
        target: columns of labels, for duplicates and outliers.
        largest_fragment: keep the largest fragment of salts and mixtures.
        neutralise: remove charges by adding and removing hydrogens, where that is possible.
        tautomer: write one tautomer of each molecule.
        explicit_hydrogens: write hydrogens as atoms.
        drop_invalid: leave out rows that are no molecule.
        duplicates: merge rows of the same molecule whose labels agree; where they contradict, keep
            all, take the mean, or drop the labels that contradict (and a molecule without others).
        tolerance: largest difference of two labels that agree.
        outliers: robust z-score (3.5 is usual) above which a label is flagged, never dropped; 0
            flags none.
        smiles: the SMILES column; found by name by default.
    """
    from moleblend.data.cleaning import CleaningConfig, clean
    from moleblend.data.formats import read_table, write_table

    check_out(out, source, (".csv", ".tsv", ".parquet"))
    table = read_table(source)
    config = CleaningConfig(
        largest_fragment=largest_fragment,
        neutralise=neutralise,
        tautomer=tautomer,
        explicit_hydrogens=explicit_hydrogens,
        drop_invalid=drop_invalid,
        duplicates=duplicates,
        tolerance=tolerance,
        outliers=outliers,
    )
    cleaned = clean(table, config, target, smiles=smiles)
    account = out.with_name(f"{out.name}.account.csv")
    write_table(cleaned.account_table(), account)
    write_table(cleaned.columns, out)
    for line in (*table.notes, *cleaned.summary()):
        say(line)
    say(f"the table is {out}, what became of each row {account}")


DATA_VERBS: dict[str, tuple[Callable[..., None], str]] = {
    "build": (_build, "build a store of molecules from a file"),
    "split": (_split, "divide a table into train, validation and test"),
    "leakage": (_leakage, "tell what stands in two parts of a split"),
    "clean": (_clean, "standardise molecules and merge duplicates, with an account"),
    **DATASET_VERBS,
}
"""The verbs and what they are for."""
