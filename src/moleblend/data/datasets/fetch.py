"""The data sets as files: where they lie here, how they come, which of them are the known ones."""

import gzip
import hashlib
import json
import os
import shlex
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pooch
import pyarrow as pa
import pyarrow.parquet as pq

from moleblend.data.datasets.catalogue import DATASETS, NEEDS_RAW, Dataset, Source
from moleblend.data.datasets.converters import (
    EV_PER_HARTREE,
    moses_table,
    protocol_u_table,
    qm9_table,
)
from moleblend.data.datasets.download import DownloadError, Progress, download
from moleblend.data.formats import read_table, write_table
from moleblend.data.table import Table
from moleblend.files import cache_folder, stream_sha256

ComparisonSummary = Literal["ok", "another content", "unknown"]
"""Whether a file has the hash that is known of it."""

_MOST_NAMED = 30
"""Labels that a command names one by one."""

_QM9_REFERENCES = {
    "u0": (-0.500273, -37.846772, -54.583861, -75.064579, -99.718730),
    "u298": (-0.498857, -37.845355, -54.582445, -75.063163, -99.717314),
    "h298": (-0.497912, -37.844411, -54.581501, -75.062219, -99.716370),
    "g298": (-0.510927, -37.861317, -54.598897, -75.079532, -99.733544),
}
"""Energies of the free atoms H, C, N, O and F in hartree, at the level of the set."""


def dataset(name: str) -> Dataset:
    """Give a data set.

    Raises:
        ValueError: there is none of that name; the message names those that exist.
    """
    if name not in DATASETS:
        raise ValueError(f"there is no data set {name!r}; there are {', '.join(DATASETS)}")
    return DATASETS[name]


def folders() -> list[Path]:
    """Give the folders in which data is looked for: `MOLEBLEND_DATA` first, then the cache."""
    named = os.environ.get("MOLEBLEND_DATA")
    return [Path(named), cache_folder()] if named else [cache_folder()]


def find(name: str) -> Path:
    """Find the file of a data set.

    Raises:
        ValueError: there is no such set.
        FileNotFoundError: it is not here; the message says how to get it and where to put it.
    """
    wanted = dataset(name)
    for folder in folders():
        for file in (wanted.file, *wanted.also):
            if (folder / file).is_file():
                return folder / file
    get = f"`moleblend data fetch {name}` brings it"
    if wanted.kind == "conformers":
        get = "it has to be made from its published form"
    raise FileNotFoundError(f"{name} is not here: {get}, or put it at {folders()[0] / wanted.file}")


def is_here(name: str) -> bool:
    """Say whether the file of a data set lies in one of the folders."""
    try:
        find(name)
    except FileNotFoundError:
        return False
    return True


def describe_dataset(name: str) -> list[tuple[str, str]]:
    """Tell what is known of a data set, where it lies or belongs, and how to use it.

    Returns:
        Headings and texts.

    Raises:
        ValueError: there is no such set.
    """
    known = dataset(name)
    place = folders()[0] / known.file
    path = find(name) if is_here(name) else place
    rows = [("set", f"{name}: {known.title}")]
    if known.n_tasks:
        units = sorted({(known.units or {}).get(task, "") for task in known.tasks} - {""})
        told = ", ".join(known.tasks) if known.tasks else f"{known.n_tasks} columns"
        rows.append(("labels", told + (f" ({', '.join(units)})" if units else "")))
        rows.append(("task", f"{known.task}, {known.metric}"))
    rows += [
        ("columns", known.columns),
        ("split", known.split),
        ("molecules", f"{known.literature:,} in the literature"),
        ("licence", known.licence),
        ("citation", known.citation),
    ]
    for source in known.sources:
        by_content = known.is_as_published and known.content and not known.differs
        told = source.hash or ("known by its content" if by_content else "hash not known")
        rows.append(("source", f"{source.url} ({told})"))
    hash_told = f"sha256:{known.content}" if known.content else "hash not known"
    rows.append(("content", f"{hash_told}{', but ' + known.differs if known.differs else ''}"))
    if known.note:
        rows.append(("note", known.note))
    rows.append(("file", str(path) if is_here(name) else f"not here; it belongs at {place}"))
    if not is_here(name) and known.kind != "conformers":
        rows.append(("fetch", f"moleblend data fetch {name}"))
    rows.append(("use", _command(name, known, path)))
    return rows


def _command(name: str, known: Dataset, path: Path) -> str:
    """Give the command that trains on a set, or makes a store of it for pretraining."""
    if known.kind == "pcqm4mv2":
        return f"moleblend data export {name} {name}.parquet"
    if not known.n_tasks:
        return f"moleblend data build {shlex.quote(str(path))} {name}.arrow"
    smiles = "" if known.smiles == "smiles" else f" --smiles {known.smiles}"
    tasks = known.tasks
    if not tasks and known.n_tasks <= _MOST_NAMED and is_here(name):
        tasks = known.task_names(read_table(path).names)
    targets = " ".join(map(shlex.quote, tasks)) or f"LABEL ... ({known.n_tasks} columns)"
    split = " --split split" if "`split`" in known.split else ""
    return (
        f"moleblend train {shlex.quote(str(path))}{smiles}{split} --out runs/{name} "
        f"--target {targets}"
    )


def read(name: str) -> Table:
    """Read a data set that is a table: its rows as they stand in the file, none dropped.

    QM9 gets four columns more: see `atomisation_energies`.

    Raises:
        ValueError: there is no such set, or it is one to be streamed.
        FileNotFoundError: it is not here.
    """
    wanted = dataset(name)
    if wanted.kind != "table":
        raise ValueError(
            f"{name} is too large for a table; moleblend.data.datasets.streaming reads it in pieces"
        )
    table = read_table(find(name))
    return atomisation_energies(table) if name == "qm9" else table


def atomisation_energies(table: Table) -> Table:
    """Add `u0_atomisation`, `u298_atomisation`, `h298_atomisation` and `g298_atomisation` in eV.

    They are the energies of the molecules minus those of the free atoms, which come with QM9.

    Args:
        table: QM9.

    Reference:
        Ramakrishnan et al., Sci. Data 2014, doi:10.1038/sdata.2014.22 (their atomref.txt).
    """
    elements = table.column("atomic_numbers").combine_chunks()
    atoms = elements.flatten().to_numpy()
    molecules = np.repeat(np.arange(len(table)), elements.value_lengths().to_numpy())
    columns = table.columns
    for name, energies in _QM9_REFERENCES.items():
        of_atom = np.zeros(10)
        of_atom[[1, 6, 7, 8, 9]] = np.array(energies) * EV_PER_HARTREE
        free = np.bincount(molecules, weights=of_atom[atoms], minlength=len(table))
        column = pa.array(table.column(name).to_numpy() - free)
        columns = columns.append_column(f"{name}_atomisation", column)
    return replace(table, columns=columns)


def fetch(name: str, folder: Path | None = None, on_progress: Progress | None = None) -> Path:
    """Bring a data set, unless it is there, and check it.

    What was published in several files, or in a package, becomes one table; the files are kept in
    `published` below the folder.

    Args:
        name: of the set.
        folder: the user's cache, by default.
        on_progress: told how many bytes of the present file are there, and of how many.

    Returns:
        Where it is.

    Raises:
        DownloadError: it cannot be had; the message says which file to put where.
        ValueError: there is no such set, it cannot be fetched, or its content is not what it
            should be (what was fetched is gone then, what was there before is not).
    """
    wanted = dataset(name)
    folder = folder or cache_folder()
    path = folder / wanted.file
    if wanted.kind == "conformers":
        raise ValueError(
            f"{name} is not fetched: {wanted.note}; what is made of it, as SDF or Parquet, belongs "
            f"at {path}"
        )
    if path.exists():
        if compare_hash(name, path) == "another content" and not wanted.differs:
            raise ValueError(
                f"{path} is not the {name} that moleblend knows (another hash); move it away to "
                "fetch that"
            )
        return path
    make = _MAKERS.get(name)
    if make is None:
        _bring(wanted.sources[0], path, on_progress)
    else:
        parts = {}
        for source in wanted.sources:
            parts[source.name] = folder / "published" / name / source.name
            _bring(source, parts[source.name], on_progress)
        raw = name.removesuffix("-u")
        if raw != name and raw in NEEDS_RAW:
            parts["raw"] = fetch(raw, folder, on_progress)
        write_table(make(parts), path)
    if compare_hash(name, path) == "another content" and not wanted.differs:
        path.unlink()
        raise ValueError(
            f"{name}: what came from {wanted.sources[0].url} is not the {name} that moleblend "
            "knows (another hash), so it was not kept"
        )
    return path


def compare_hash(name: str, path: Path) -> ComparisonSummary:
    """Compare a file with what is known of a data set.

    Returns:
        "unknown" if no hash is known.
    """
    known = dataset(name)
    if known.content:
        return "ok" if content_sha256(path) == known.content else "another content"
    published = known.sources[0].hash
    if known.is_as_published and published:
        kind, _, expected = published.partition(":")
        return "ok" if pooch.file_hash(str(path), kind) == expected else "another content"
    return "unknown"


def content_sha256(path: Path) -> str:
    """Hash what a file holds, whichever program compressed it.

    Returns:
        SHA-256 of the uncompressed bytes of a .gz; for Parquet, of names, types, lengths and values
        of the columns; for any other file, an archive too, of its bytes.
    """
    if path.suffix == ".parquet":
        digest = hashlib.sha256()
        with pq.ParquetFile(path) as file:
            columns = file.read()
        for column in columns.column_names:
            digest.update(f"{column}: {columns.schema.field(column).type}\n".encode())
            for values in _parts(columns.column(column).combine_chunks()):
                digest.update(values)
        return digest.hexdigest()
    opened = gzip.open if path.suffix == ".gz" and path.suffixes[-2:] != [".tar", ".gz"] else open
    with opened(path, "rb") as file:
        return stream_sha256(file)


def _parts(values: pa.Array) -> Iterator[bytes]:
    """Give what a column holds as bytes."""
    kind = values.type
    if pa.types.is_string(kind):
        yield json.dumps(values.to_pylist()).encode()
        return
    yield values.is_null().to_numpy(zero_copy_only=False).tobytes()
    if pa.types.is_list(kind):
        yield values.value_lengths().fill_null(0).to_numpy(zero_copy_only=False).tobytes()
        yield from _parts(values.flatten())
    else:
        yield values.fill_null(0).to_numpy(zero_copy_only=False).tobytes()


def _bring(source: Source, path: Path, on_progress: Progress | None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        download(source.url, path, known_hash=source.hash, on_progress=on_progress)
    except DownloadError as error:
        if "goes on from there" in str(error):
            raise
        raise DownloadError(
            f"{error}; get {source.name} from {source.url} where there is a network, put it at "
            f"{path}, and run this again"
        ) from error


def _protocol_u(name: str, parts: dict[str, Path]) -> pa.Table:
    raw = read_table(parts["raw"]) if "raw" in parts else None
    tasks = DATASETS[name].tasks or (DATASETS[name].task_names(raw.names) if raw else ())
    files = {
        part: parts[f"{part}.csv"] for part in ("train", "valid", "test") if f"{part}.csv" in parts
    }
    return protocol_u_table(files, tasks, raw)


_MAKERS: dict[str, Callable[[dict[str, Path]], pa.Table]] = {
    **{f"{name}-u": partial(_protocol_u, name) for name in DATASETS if f"{name}-u" in DATASETS},
    "qm9": lambda parts: qm9_table(*parts.values()),
    "moses": lambda parts: moses_table(*parts.values()),
}
"""How the sets that are published otherwise become one table."""
