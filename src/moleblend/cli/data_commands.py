"""Commands of `moleblend data`: one function each, whose flags come from its signature."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich.table import Table as RichTable

from moleblend.chem.molecule import FeatureVersion
from moleblend.cli.dataset_commands import DATASET_COMMANDS
from moleblend.cli.terminal import (
    CONSOLE,
    Argument,
    call,
    check_out,
    print_commands,
    progress,
    say,
    say_some,
    unknown_command,
)
from moleblend.errors import SettingError
from moleblend.parallel import Engine

if TYPE_CHECKING:
    from moleblend.data.table import Table

ShardFormatFlag = Literal["arrow", "parquet"]


def data(arguments: list[str]) -> None:
    """Run one of the commands."""
    if arguments[:1] in ([], ["-h"], ["--help"]):
        print_commands(
            "moleblend data", {name: about for name, (_, about) in DATA_COMMANDS.items()}
        )
        return
    if arguments[0] not in DATA_COMMANDS:
        raise unknown_command(f"data {arguments[0]}", DATA_COMMANDS)
    function, _ = DATA_COMMANDS[arguments[0]]
    function(arguments[1:])


def _build(arguments: list[str]) -> None:
    from moleblend.chem.conformers import ConformerConfig
    from moleblend.data.build_store import build_store, count_unfinished
    from moleblend.files import cache_folder, partial_output_folder

    @dataclass(frozen=True)
    class Conformers(ConformerConfig):
        """Conformers to compute, if any.

        Attributes:
            n_conformers: geometries to compute for each molecule without geometry; 0 computes none.
            cache: folder of conformers computed before; by default the user's cache folder.
        """

        n_conformers: Annotated[int, tyro.conf.arg(name="conformers")] = 0
        cache: Path | None = None

        def __post_init__(self) -> None:
            """Check the values if conformers are requested."""
            if self.n_conformers:
                super().__post_init__()

    def run(
        source: Annotated[Argument[Path], tyro.conf.arg(name="in", metavar="IN")],
        out: Annotated[Argument[Path], tyro.conf.arg(metavar="OUT")],
        conformers: Annotated[Conformers, tyro.conf.arg(name="")] = Conformers(),
        no_cache: bool = False,
        features: FeatureVersion = "cip-1",
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
            out: the store. OUT.arrow is one file, any other OUT a folder of shards.
                OUT.rejected.csv lists the rows that are not in the store, with the reason.
            conformers: conformers to compute.
            no_cache: neither read nor write computed conformers.
            features: cip-1 (default), or ogb-1 for the published configuration.
            smiles: the SMILES column; detected by name by default.
            shard_rows: rows of a shard; an interrupted build loses at most one shard.
            shard_format: parquet writes a folder of shards, which only other tools read.
            engine: processes of this machine, or the workers of Ray (pip install 'moleblend[ray]').
            processes: number of processes; by default one for each core.
            address: address of a Ray cluster; by default Ray is started on this machine.
            resume: continue an interrupted build.
        """
        if conformers.cache is not None and no_cache:
            raise SettingError(f"got both --cache {conformers.cache} and --no-cache, expected one")
        wanted = None
        if conformers.n_conformers:
            cache = None if no_cache else conformers.cache or cache_folder()
            values: dict[str, Any] = asdict(conformers) | {"cache": cache}
            wanted = ConformerConfig(**values)
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
                say(f"finished shards are in {partial_output_folder(out)}: --resume continues")
        for note in account.notes:
            say(note)
        if account.n_resumed:
            say(f"{account.n_resumed:,} of {account.n_shards:,} shards were already finished")
        say(
            f"{account.n_written:,} of {account.n_rows:,} rows are in {out}; rejected: "
            f"{account.n_rejected:,}; without the geometry that was given or requested: "
            f"{account.n_flat:,} "
            f"(listed in {out}.rejected.csv)"
        )

    call(run, "data build", arguments)


def _geometry_notes(table: "Table", out: Path) -> list[str]:
    """Tell that the geometry of mol blocks is not in a table of SMILES."""
    headers = [block.split("\n", 2)[1:2] for block in table.blocks or ()]
    n_marked = sum(bool(header) and header[0][20:22].upper() == "3D" for header in headers)
    if not n_marked:
        return []
    note = (
        f"{n_marked:,} of {len(headers):,} mol blocks are marked 3D: their coordinates are not in "
        f"{out}, and a model trained on it sees 2D only"
    )
    return [note]


def _split(
    source: Annotated[Argument[Path], tyro.conf.arg(name="in", metavar="IN")],
    out: Annotated[Argument[Path], tyro.conf.arg(metavar="OUT.csv")],
    by: str,
    folds: int | None = None,
    fractions: tuple[float, float, float] | None = None,
    seed: int = 0,
    column: str = "split",
    dates: str = "",
    smiles: str | None = None,
) -> None:
    """Add a column with train, validation or test, for train --split COLUMN.

    Args:
        source: csv, tsv, smi, sdf (also .gz) or parquet file of molecules.
        out: csv, tsv or parquet file to write, with all rows of IN. Rows that cannot be split have
            an empty cell, and a reason in the column COLUMN_reason.
        by: scaffold (largest groups first, deterministic), balanced (scaffolds in random order),
            cluster (Butina on ECFP4), random, time (oldest rows first, with --dates COLUMN), or a
            column whose equal values stay in one set.
        folds: number of folds; writes one column for each, split_1, split_2, ...
        fractions: fractions of train, validation and test; 0.8 0.1 0.1 by default.
        seed: random seed.
        column: name of the new column.
        dates: the column of dates of a split by time.
        smiles: the SMILES column; detected by name by default.
    """
    from moleblend.data.formats import read_table, write_table
    from moleblend.data.splits import SPLITS, split_table
    from moleblend.data.time_split import looks_like_dates

    check_out(out, source, (".csv", ".tsv", ".parquet"))
    table = read_table(source)
    columns, splits, reasons = split_table(
        table,
        by,
        n_folds=folds,
        fractions=fractions,
        seed=seed,
        column=column,
        dates=dates,
        smiles=smiles,
    )
    if by not in (*SPLITS, "time") and looks_like_dates(table.column(by).to_pylist()):
        say(
            f"column {by!r} has dates, and each date is a group of its own here; --by time --dates "
            f"{by!r} trains on the oldest rows and tests on the newest"
        )
    write_table(columns, out)
    for note in (*table.notes, *_geometry_notes(table, out)):
        say(note)
    for name, split in splits.items():
        sizes = f"{len(split.train):,} train, {len(split.validation):,} validation"
        say(f"{name}: {sizes}, {len(split.test):,} test")
    say_some([f"{table.place(row)} is in no set: {text}" for row, text in reasons.items()])
    say(f"{len(table):,} rows are in {out}")


def _leakage(
    source: Annotated[Argument[Path], tyro.conf.arg(name="in", metavar="IN")],
    split: str,
    smiles: str | None = None,
    file: Annotated[Path | None, tyro.conf.arg(name="json", metavar="FILE")] = None,
) -> None:
    """Find molecules, scaffolds and near neighbours shared by two sets of a split.

    Args:
        source: csv, tsv, smi, sdf (also .gz) or parquet file of molecules.
        split: the column with train, valid or test; a row with an empty cell is in no set.
        smiles: the SMILES column; detected by name by default.
        file: JSON file to write, with all row numbers, counted from 1.
    """
    from moleblend.data.formats import read_table
    from moleblend.data.leakage import QUANTILES, leakage
    from moleblend.data.splits import read_split
    from moleblend.files import check_outputs, write_json

    check_outputs([] if file is None else [file], [source])
    table = read_table(source)
    texts, sets, reasons = read_split(table, split, smiles=smiles)
    result = leakage(texts, sets)
    for note in table.notes:
        say(note)
    say_some([f"{table.place(row)} is in no set: {text}" for row, text in reasons.items()])
    say("rows: " + ", ".join(f"{count:,} {name}" for name, count in result.n_rows.items()))
    shared = RichTable(title="shared by two sets (rows of the first + rows of the second)")
    shared.add_column("kind")
    cells: dict[str, list[str]] = {}
    for one in result.shared:
        if one.kind == "molecule":
            shared.add_column(" and ".join(one.parts), justify="right")
        count = f"{one.n_shared:,} ({len(one.first):,} + {len(one.second):,})"
        cells.setdefault(one.kind, []).append(count)
    for kind, counts in cells.items():
        shared.add_row(kind, *counts)
    CONSOLE.print(shared)
    near = RichTable(title="Tanimoto similarity (ECFP4) to the nearest training molecule")
    near.add_column("set")
    for heading in QUANTILES:
        near.add_column(heading, justify="right")
    for part in result.nearest:
        near.add_row(part.part, *(f"{value:.2f}" for value in part.quantiles.values()))
    CONSOLE.print(near)
    if file is not None:
        write_json(file, result.to_dict())


def _clean(arguments: list[str]) -> None:
    from moleblend.data.cleaning import CleaningConfig, clean
    from moleblend.data.formats import read_table, write_table

    no_steps = CleaningConfig()

    def run(
        source: Annotated[Argument[Path], tyro.conf.arg(name="in", metavar="IN")],
        out: Annotated[Argument[Path], tyro.conf.arg(metavar="OUT.csv")],
        target: tuple[str, ...] = (),
        config: Annotated[CleaningConfig, tyro.conf.arg(name="")] = no_steps,
        smiles: str | None = None,
    ) -> None:
        """Clean a table by the requested steps; OUT.csv.account.csv accounts for every row.

        Args:
            source: csv, tsv, smi, sdf (also .gz) or parquet file of molecules.
            out: csv, tsv or parquet file to write; the geometry of an SDF is lost.
            target: columns of labels, required for duplicates and outliers.
            config: the steps.
            smiles: the SMILES column; detected by name by default.
        """
        account = out.with_name(f"{out.name}.account.csv")
        check_out(out, source, (".csv", ".tsv", ".parquet"), beside=[account])
        table = read_table(source)
        cleaned = clean(table, config, target, smiles=smiles)
        accounts = cleaned.account_table()
        write_table(accounts, account, accounts.column_names[0])
        write_table(cleaned.columns, out)
        notes = (*table.notes, *_geometry_notes(table, out), *cleaned.notes)
        for line in (*notes, *cleaned.summary()):
            say(line)
        say(f"the table is in {out}, the account of its rows in {account}")

    call(run, "data clean", arguments)


DATA_COMMANDS: dict[str, tuple[Callable[[list[str]], None], str]] = {
    "build": (_build, "build a store of molecules from a file"),
    "split": (partial(call, _split, "data split"), "split a table into train, validation and test"),
    "leakage": (
        partial(call, _leakage, "data leakage"),
        "find leakage between the sets of a split",
    ),
    "clean": (_clean, "standardise molecules and merge duplicates, with an account"),
    **DATASET_COMMANDS,
}
"""The commands, each with a description."""
