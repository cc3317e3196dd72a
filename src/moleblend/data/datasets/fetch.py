"""Files of the published data sets: where they are, how they are fetched and verified."""

import gzip
import hashlib
import json
import os
import shlex
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pooch
import pyarrow as pa
import pyarrow.parquet as pq

from moleblend.data.datasets.catalogue import Dataset, Source, known_datasets
from moleblend.data.datasets.converters import (
    EV_PER_HARTREE,
    moses_table,
    protocol_u_table,
    qm9_table,
)
from moleblend.data.datasets.download import (
    DownloadError,
    InterruptedDownloadError,
    Progress,
    download,
)
from moleblend.data.formats import read_table, write_table
from moleblend.data.table import Table
from moleblend.errors import MissingFileError, TableError
from moleblend.files import cache_folder, stream_sha256

HashStatus = Literal["ok", "another content", "unknown"]
"""Whether a file has the hash of the catalogue."""

_MOST_NAMED = 30
"""Largest number of labels that a command lists one by one."""

_NEEDS_RAW = ("muv", "sider", "toxcast")
"""Sets whose files of protocol U lack the names of the labels, or the training set."""

_QM9_REFERENCES = {
    "u0": (-0.500273, -37.846772, -54.583861, -75.064579, -99.718730),
    "u298": (-0.498857, -37.845355, -54.582445, -75.063163, -99.717314),
    "h298": (-0.497912, -37.844411, -54.581501, -75.062219, -99.716370),
    "g298": (-0.510927, -37.861317, -54.598897, -75.079532, -99.733544),
}
"""Energies of the free atoms H, C, N, O and F in hartree, at the level of theory of QM9."""


def dataset(name: str) -> Dataset:
    """Return the record of a data set.

    Raises:
        TableError: the name is unknown; the message lists the available ones.
    """
    known = known_datasets()
    if name not in known:
        raise TableError(f"unknown data set {name!r}; available: {', '.join(known)}")
    return known[name]


def folders() -> list[Path]:
    """Return the folders in which data is searched: `MOLEBLEND_DATA` first, then the cache."""
    named = os.environ.get("MOLEBLEND_DATA")
    return [Path(named), cache_folder()] if named else [cache_folder()]


def find(name: str) -> Path:
    """Find the file of a data set.

    Raises:
        TableError: the name is unknown.
        MissingFileError: the file is missing; the message says how to get it.
    """
    known = dataset(name)
    for folder in folders():
        for file in (known.file, *known.also):
            if (folder / file).is_file():
                return folder / file
    get = f"run `moleblend data fetch {name}`"
    if known.kind == "conformers":
        get = "make it from its published form"
    raise MissingFileError(
        f"{name}: file not found; {get}, or put the file at {folders()[0] / known.file}"
    )


def is_here(name: str) -> bool:
    """Whether the file of a data set is in one of the folders."""
    try:
        find(name)
    except FileNotFoundError:
        return False
    return True


def describe_dataset(name: str) -> list[tuple[str, str]]:
    """Describe a data set: contents, sources, location, and a command that uses it.

    Returns:
        Headings and texts.

    Raises:
        TableError: the name is unknown.
    """
    known = dataset(name)
    place = folders()[0] / known.file
    path = find(name) if is_here(name) else place
    rows = [("set", f"{name}: {known.title}")]
    if known.n_tasks:
        units = sorted({(known.units or {}).get(task, "") for task in known.tasks} - {""})
        labels = ", ".join(known.tasks) if known.tasks else f"{known.n_tasks} columns"
        rows.append(("labels", labels + (f" ({', '.join(units)})" if units else "")))
        rows.append(("task", f"{known.task}, {known.metric}"))
    rows += [
        ("columns", known.columns),
        ("split", known.split),
        ("molecules", f"{known.literature:,} according to the literature"),
        ("licence", known.licence),
        ("citation", known.citation),
    ]
    for source in known.sources:
        by_content = known.is_as_published and known.content and not known.differs
        verified = source.hash or ("verified by content" if by_content else "hash unknown")
        rows.append(("source", f"{source.url} ({verified})"))
    content = f"sha256:{known.content}" if known.content else "hash unknown"
    rows.append(("content", f"{content}{'; ' + known.differs if known.differs else ''}"))
    if known.note:
        rows.append(("note", known.note))
    rows.append(("file", str(path) if is_here(name) else f"not found; expected at {place}"))
    if not is_here(name) and known.kind != "conformers":
        rows.append(("fetch", f"moleblend data fetch {name}"))
    rows.append(("use", _command(name, known, path)))
    return rows


def _command(name: str, known: Dataset, path: Path) -> str:
    """Return the command that trains on a set, or builds a store for pretraining."""
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
    """Read a data set that is a table: all rows of the file, unchanged.

    QM9 gets four more columns, see `atomisation_energies`.

    Raises:
        TableError: the name is unknown, or the set can only be streamed.
        MissingFileError: the file is missing.
    """
    known = dataset(name)
    if known.kind != "table":
        raise TableError(
            f"{name} is too large for one table; moleblend.data.datasets.streaming reads it in "
            "pieces"
        )
    table = read_table(find(name))
    return atomisation_energies(table) if name == "qm9" else table


def atomisation_energies(table: Table) -> Table:
    """Add `u0_atomisation`, `u298_atomisation`, `h298_atomisation` and `g298_atomisation` in eV.

    These are the energies of the molecules minus those of their free atoms, published with QM9.

    Args:
        table: the table of QM9.

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
        free_atoms = np.bincount(molecules, weights=of_atom[atoms], minlength=len(table))
        column = pa.array(table.column(name).to_numpy() - free_atoms)
        columns = columns.append_column(f"{name}_atomisation", column)
    return replace(table, columns=columns)


def fetch(name: str, folder: Path | None = None, on_progress: Progress | None = None) -> Path:
    """Download a data set, unless it is present, and verify its hash.

    A set published as several files, or in a package, is converted to one table; the published
    files stay in `published` below the folder.

    Args:
        name: name of the set.
        folder: data folder; by default the user's cache.
        on_progress: called with the bytes present and the total of the current file.

    Returns:
        Path of the file.

    Raises:
        DownloadError: the file is not available; the message says which file to put where.
        TableError: the name is unknown, the set cannot be fetched, or the hash differs (a
            downloaded file is then deleted, an existing one is kept).
    """
    known = dataset(name)
    folder = folder or cache_folder()
    path = folder / known.file
    if known.kind == "conformers":
        raise TableError(
            f"{name} cannot be fetched: {known.note}; put the file made from it, SDF or Parquet, "
            f"at {path}"
        )
    if path.exists():
        if compare_hash(name, path) == "another content" and not known.differs:
            raise TableError(
                f"{path} is not the {name} of the catalogue (the hash differs); move the file away "
                "to fetch the set"
            )
        return path
    convert = _converter(name)
    if convert is None:
        _fetch_source(known.sources[0], path, on_progress)
    else:
        files = {}
        for source in known.sources:
            files[source.name] = folder / "published" / name / source.name
            _fetch_source(source, files[source.name], on_progress)
        raw = name.removesuffix("-u")
        if raw != name and raw in _NEEDS_RAW:
            files["raw"] = fetch(raw, folder, on_progress)
        write_table(convert(files), path)
    if compare_hash(name, path) == "another content" and not known.differs:
        path.unlink()
        raise TableError(
            f"{name}: the file from {known.sources[0].url} is not the {name} of the catalogue (the "
            "hash differs), so it was deleted"
        )
    return path


def compare_hash(name: str, path: Path) -> HashStatus:
    """Compare the hash of a file with the catalogue.

    Returns:
        "unknown" if the catalogue has no hash.
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
    """Hash the content of a file, independent of its compression.

    Returns:
        SHA-256: for .gz, of the uncompressed bytes; for Parquet, of the names, types, lengths and
        values of the columns; for any other file, including archives, of its bytes.
    """
    if path.suffix == ".parquet":
        digest = hashlib.sha256()
        with pq.ParquetFile(path) as file:
            columns = file.read()
        for column in columns.column_names:
            digest.update(f"{column}: {columns.schema.field(column).type}\n".encode())
            for values in _column_bytes(columns.column(column).combine_chunks()):
                digest.update(values)
        return digest.hexdigest()
    opened = gzip.open if path.suffix == ".gz" and path.suffixes[-2:] != [".tar", ".gz"] else open
    with opened(path, "rb") as file:
        return stream_sha256(file)


def _column_bytes(values: pa.Array) -> Iterator[bytes]:
    """Yield the content of a column as bytes."""
    kind = values.type
    if pa.types.is_string(kind):
        yield json.dumps(values.to_pylist()).encode()
        return
    yield values.is_null().to_numpy(zero_copy_only=False).tobytes()
    if pa.types.is_list(kind):
        yield values.value_lengths().fill_null(0).to_numpy(zero_copy_only=False).tobytes()
        yield from _column_bytes(values.flatten())
    else:
        yield values.fill_null(0).to_numpy(zero_copy_only=False).tobytes()


def _fetch_source(source: Source, path: Path, on_progress: Progress | None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        download(source.url, path, known_hash=source.hash, on_progress=on_progress)
    except InterruptedDownloadError:
        raise
    except DownloadError as error:
        raise DownloadError(
            f"{error}; download {source.name} from {source.url} on a machine with network access, "
            f"put it at {path}, and run the command again"
        ) from error


def _converter(name: str) -> Callable[[dict[str, Path]], pa.Table] | None:
    """Return the function that converts the published files of a set to one table, if any."""
    raw = name.removesuffix("-u")
    if raw != name:
        return lambda files: _convert_protocol_u(raw, files)
    return {
        "qm9": lambda files: qm9_table(*files.values()),
        "moses": lambda files: moses_table(*files.values()),
    }.get(name)


def _convert_protocol_u(raw_name: str, files: dict[str, Path]) -> pa.Table:
    raw, known = read_table(files["raw"]) if "raw" in files else None, dataset(raw_name)
    tasks = known.tasks or (known.task_names(raw.names) if raw else ())
    sets = {
        name: files[f"{name}.csv"] for name in ("train", "valid", "test") if f"{name}.csv" in files
    }
    return protocol_u_table(sets, tasks, raw)
