"""Check of the data sets: counts of their contents, compared with the catalogue."""

import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from moleblend.chem.molecule import Molecule
from moleblend.data.datasets.catalogue import Counts, Dataset
from moleblend.data.datasets.fetch import HashStatus, compare_hash, dataset, find, read
from moleblend.data.datasets.streaming import pcqm4mv2_split, read_pcqm4mv2
from moleblend.data.formats import read_pieces
from moleblend.data.labels.cell_values import read_numbers
from moleblend.data.table import Table, read_molecules
from moleblend.errors import TableError
from moleblend.parallel import map_in_order

_ROWS_IN_A_PIECE = 512
_MOST_PARSED = 200_000

_EVERY_PCQM4MV2 = 19
"""Every 19th row of PCQM4Mv2 is parsed as a molecule."""

_LARGE = 200
"""Heavy atoms above which a molecule may be too large for a model of atom pairs."""

_CONFLICT_GAP = 0.5
"""Numeric labels of the same molecule that differ by more contradict each other."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Check:
    """Result of the check of a data set.

    Attributes:
        name: name of the set.
        path: its file.
        hash: whether the file has the hash of the catalogue.
        counts: contents of the file.
        labels: number of labels, and of labels equal to 1 where labels are classes, by task.
        defects: known problems of the data, one phrase each.
        differences: differences from the catalogue, one phrase each.
    """

    name: str
    path: Path
    hash: HashStatus
    counts: Counts
    labels: dict[str, tuple[int, int]] = field(default_factory=dict)
    defects: tuple[str, ...] = ()
    differences: tuple[str, ...] = ()


class _Read(NamedTuple):
    """A parsed row; the SMILES is empty if it is not a molecule."""

    smiles: str
    n_atoms: int


def check(
    name: str,
    *,
    n_processes: int | None = None,
    on_progress: Progress | None = None,
) -> Check:
    """Read a data set from its file and count its contents.

    Every row is read. In sets of more than 200,000 rows, a regular sample is parsed as molecules.

    Args:
        name: name of the set.
        n_processes: processes that parse molecules; by default one for each core.
        on_progress: called repeatedly with the number of parsed molecules and the total.

    Raises:
        TableError: the name is unknown, or the file cannot be read.
        MissingFileError: the file is missing.
    """
    known = dataset(name)
    path = find(name)
    n_processes = n_processes or os.cpu_count() or 1
    if known.kind == "table":
        counts, labels = _count_table(known, read(name), n_processes, on_progress)
    elif known.kind == "pcqm4mv2":
        counts, labels = _count_pcqm4mv2(path, n_processes, on_progress)
    else:
        counts, labels = _count_records(path, n_processes, on_progress)
    status = compare_hash(name, path)
    differences = ["the hash differs"] if status == "another content" else []
    if known.expected:
        differences += [
            f"{field.name} {getattr(counts, field.name):,}, expected "
            f"{getattr(known.expected, field.name):,}"
            for field in fields(Counts)
            if getattr(counts, field.name) != getattr(known.expected, field.name)
        ]
    return Check(name, path, status, counts, labels, defects(counts), tuple(differences))


def _count_table(
    known: Dataset, table: Table, n_processes: int, on_progress: Progress | None
) -> tuple[Counts, dict[str, tuple[int, int]]]:
    tasks = known.task_names(table.names)
    values = np.empty((len(table), len(tasks)))
    for column, task in enumerate(tasks):
        values[:, column] = read_numbers(table, task)
    labels = {
        task: (int((~np.isnan(column)).sum()), int((column == 1).sum()) if known.classes else 0)
        for task, column in zip(tasks, values.T, strict=True)
    }
    texts = table.column(known.smiles).to_pylist()
    step = -(-len(table) // _MOST_PARSED)
    rows = np.arange(0, len(table), step)
    chosen = table if step == 1 else Table(table.source, table.columns.take(rows))
    starts = range(0, len(chosen), _ROWS_IN_A_PIECE)
    pieces = (chosen.piece(start, start + _ROWS_IN_A_PIECE) for start in starts)
    molecules = _read(pieces, known.smiles, len(chosen), n_processes, on_progress)
    counts = Counts(
        rows=len(table),
        labels=sum(n for n, _ in labels.values()),
        positives=sum(n for _, n in labels.values()),
        **_count_molecules(molecules, values[rows], known),
        padded=sum(text != text.strip() for text in texts),
        fails=sum(text.strip() == "FAIL" for text in texts),
        blank_lines=sum(end - start > 1 for start, end in pairwise(table.lines or ())),
    )
    return counts, labels


def _count_pcqm4mv2(
    path: Path, n_processes: int, on_progress: Progress | None
) -> tuple[Counts, dict[str, tuple[int, int]]]:
    """Count the rows of the zip archive; every row must be in exactly one set of the split."""
    n_rows = n_labels = 0
    chosen: list[Table] = []
    for piece in read_pcqm4mv2(path):
        first = -n_rows % _EVERY_PCQM4MV2
        chosen.append(
            Table(path, piece.columns.take(np.arange(first, len(piece), _EVERY_PCQM4MV2)))
        )
        n_rows += len(piece)
        n_labels += len(piece) - piece.column("gap").null_count
    rows = np.sort(np.concatenate(list(pcqm4mv2_split(path).values())))
    if not np.array_equal(rows, np.arange(n_rows)):
        raise TableError(
            f"{path}: split_dict.pt has {len(rows):,} rows, data.csv.gz {n_rows:,}; expected each "
            "row in exactly one set"
        )
    n_chosen = sum(map(len, chosen))
    molecules = _read(iter(chosen), "smiles", n_chosen, n_processes, on_progress)
    counts = Counts(rows=n_rows, labels=n_labels, **_count_molecules(molecules, None, None))
    return counts, {"gap": (n_labels, 0)}


def _count_records(
    path: Path, n_processes: int, on_progress: Progress | None
) -> tuple[Counts, dict[str, tuple[int, int]]]:
    """Count geometries: records of an SDF, or rows of a Parquet file."""
    n_rows = sum(map(len, read_pieces(path, _ROWS_IN_A_PIECE)))
    step = max(-(-n_rows // _MOST_PARSED), 1)
    pieces = enumerate(read_pieces(path, _ROWS_IN_A_PIECE))
    chosen = (piece for k, piece in pieces if k % step == 0)
    molecules = _read(chosen, None, -(-n_rows // step), n_processes, on_progress)
    return Counts(rows=n_rows, **_count_molecules(molecules, None, None)), {}


def _read(
    pieces: Iterator[Table],
    smiles: str | None,
    n_rows: int,
    n_processes: int,
    on_progress: Progress | None,
) -> list[_Read]:
    rows: list[_Read] = []
    for piece in map_in_order(partial(_read_piece, smiles=smiles), pieces, n_workers=n_processes):
        rows += piece
        if on_progress:
            on_progress(len(rows), n_rows)
    return rows


def _read_piece(piece: Table, *, smiles: str | None) -> list[_Read]:
    return [
        _Read(item.smiles, item.n_atoms) if isinstance(item, Molecule) else _Read("", 0)
        for item in read_molecules(piece, smiles=smiles)
    ]


def _count_molecules(
    rows: list[_Read], values: Float64[np.ndarray, "m t"] | None, known: Dataset | None
) -> dict[str, int]:
    """Count valid, repeated and contradicting molecules."""
    rows_of_smiles: dict[str, list[int]] = defaultdict(list)
    for row, one in enumerate(rows):
        if one.smiles:
            rows_of_smiles[one.smiles].append(row)
    n_valid = sum(map(len, rows_of_smiles.values()))
    contradicting = 0
    # In sets with several targets, a molecule may have several geometries.
    if values is not None and known and (known.classes or known.n_tasks == 1):
        allowed = 0.0 if known.classes else _CONFLICT_GAP
        for same in rows_of_smiles.values():
            if len(same) > 1:
                highest = np.nanmax(_filled(values[same], -np.inf), axis=0)
                lowest = np.nanmin(_filled(values[same], np.inf), axis=0)
                contradicting += bool((highest - lowest > allowed).any())
    return {
        "parsed": len(rows),
        "valid": n_valid,
        "largest": max((one.n_atoms for one in rows), default=0),
        "repeated": n_valid - len(rows_of_smiles),
        "contradicting": contradicting,
    }


def _filled(values: Float64[np.ndarray, "m t"], by: float) -> Float64[np.ndarray, "m t"]:
    return np.where(np.isnan(values), by, values)


def defects(counts: Counts) -> tuple[str, ...]:
    """Describe the problems of a set, one phrase each."""
    problems = {
        "rows that are not molecules": counts.parsed - counts.valid,
        "rows with FAIL instead of a SMILES": counts.fails,
        "rows that repeat a molecule": counts.repeated,
        "molecules with contradicting labels": counts.contradicting,
        "SMILES with surrounding blanks": counts.padded,
        "rows before an empty line": counts.blank_lines,
        "heavy atoms of the largest molecule": counts.largest if counts.largest > _LARGE else 0,
    }
    return tuple(f"{problem}: {n:,}" for problem, n in problems.items() if n)
