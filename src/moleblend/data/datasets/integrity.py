"""What a data set holds, row by row, against what it should hold."""

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
from moleblend.data.datasets.fetch import ComparisonSummary, compare_hash, dataset, find, read
from moleblend.data.datasets.streaming import pcqm4mv2_split, read_pcqm4mv2
from moleblend.data.formats import read_pieces
from moleblend.data.labels.cell_values import read_numbers
from moleblend.data.table import Table, read_molecules
from moleblend.parallel import map_in_order

_ROWS_IN_A_PIECE = 512
_MOST_PARSED = 200_000

_EVERY_PCQM4MV2 = 19
"""Of its rows every 19th is read as a molecule."""

_LARGE = 200
"""Heavy atoms of a molecule that a model of atom pairs may not take."""

_FAR_APART = 0.5
"""Labels of the same molecule that are further apart contradict each other."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Check:
    """What became of a check.

    Attributes:
        name: of the set.
        path: its file.
        hash: whether the file has the known hash; unknown if none is known.
        counts: what was found.
        labels: cells with a label, and those that are 1 where labels are classes, by task.
        defects: what is wrong with the set, one phrase each.
        surprises: what is not as it should be, one phrase each; none in a set as it is known.
    """

    name: str
    path: Path
    hash: ComparisonSummary
    counts: Counts
    labels: dict[str, tuple[int, int]] = field(default_factory=dict)
    defects: tuple[str, ...] = ()
    surprises: tuple[str, ...] = ()


class _Read(NamedTuple):
    """A row read as a molecule; no SMILES where it is none."""

    smiles: str
    n_atoms: int


def check(
    name: str,
    *,
    n_processes: int | None = None,
    on_progress: Progress | None = None,
) -> Check:
    """Read a data set from its file and count what it holds.

    Every row is read; as molecules, of sets of more than 200,000 rows every so many-th.

    Args:
        name: of the set.
        n_processes: that read molecules; left out, one for each core.
        on_progress: told now and then how many molecules are read, and of how many.

    Raises:
        ValueError: there is no such set, or its file cannot be read.
        FileNotFoundError: it is not here.
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
    verdict = compare_hash(name, path)
    surprises = ["its content is not the known one"] if verdict == "another content" else []
    if known.expected:
        surprises += [
            f"{field.name} {getattr(counts, field.name):,}, expected "
            f"{getattr(known.expected, field.name):,}"
            for field in fields(Counts)
            if getattr(counts, field.name) != getattr(known.expected, field.name)
        ]
    return Check(name, path, verdict, counts, labels, defects(counts), tuple(surprises))


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
        **_judge(molecules, values[rows], known),
        padded=sum(text != text.strip() for text in texts),
        fails=sum(text.strip() == "FAIL" for text in texts),
        blank_lines=sum(end - start > 1 for start, end in pairwise(table.lines or ())),
    )
    return counts, labels


def _count_pcqm4mv2(
    path: Path, n_processes: int, on_progress: Progress | None
) -> tuple[Counts, dict[str, tuple[int, int]]]:
    """Count the rows of the zip; the parts must hold every row once."""
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
        raise ValueError(
            f"{path}: the parts of split_dict.pt hold {len(rows):,} rows, data.csv.gz {n_rows:,}; "
            "every row should be in one part"
        )
    n_chosen = sum(map(len, chosen))
    molecules = _read(iter(chosen), "smiles", n_chosen, n_processes, on_progress)
    counts = Counts(rows=n_rows, labels=n_labels, **_judge(molecules, None, None))
    return counts, {"gap": (n_labels, 0)}


def _count_records(
    path: Path, n_processes: int, on_progress: Progress | None
) -> tuple[Counts, dict[str, tuple[int, int]]]:
    """Count a set of geometries: records of an SDF, or rows of a Parquet file."""
    n_rows = sum(map(len, read_pieces(path, _ROWS_IN_A_PIECE)))
    step = max(-(-n_rows // _MOST_PARSED), 1)
    pieces = enumerate(read_pieces(path, _ROWS_IN_A_PIECE))
    chosen = (piece for k, piece in pieces if k % step == 0)
    molecules = _read(chosen, None, -(-n_rows // step), n_processes, on_progress)
    return Counts(rows=n_rows, **_judge(molecules, None, None)), {}


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


def _judge(
    rows: list[_Read], values: Float64[np.ndarray, "m t"] | None, known: Dataset | None
) -> dict[str, int]:
    """Count molecules: valid ones, and those that come again."""
    found: dict[str, list[int]] = defaultdict(list)
    for row, one in enumerate(rows):
        if one.smiles:
            found[one.smiles].append(row)
    n_valid = sum(map(len, found.values()))
    contradicting = 0
    # With several targets a molecule may come in several geometries.
    if values is not None and known and (known.classes or known.n_tasks == 1):
        most = 0.0 if known.classes else _FAR_APART
        for same in found.values():
            if len(same) > 1:
                highest = np.nanmax(_filled(values[same], -np.inf), axis=0)
                lowest = np.nanmin(_filled(values[same], np.inf), axis=0)
                contradicting += bool((highest - lowest > most).any())
    return {
        "parsed": len(rows),
        "valid": n_valid,
        "largest": max((one.n_atoms for one in rows), default=0),
        "repeated": n_valid - len(found),
        "contradicting": contradicting,
    }


def _filled(values: Float64[np.ndarray, "m t"], by: float) -> Float64[np.ndarray, "m t"]:
    return np.where(np.isnan(values), by, values)


def defects(counts: Counts) -> tuple[str, ...]:
    """Put what is wrong with a set in words, one phrase each."""
    numbers = {
        "rows not read as a molecule": counts.parsed - counts.valid,
        "rows with FAIL for a SMILES": counts.fails,
        "rows that repeat a molecule": counts.repeated,
        "molecules that contradict themselves": counts.contradicting,
        "SMILES with blanks around them": counts.padded,
        "rows before an empty line": counts.blank_lines,
        "heavy atoms of the largest": counts.largest if counts.largest > _LARGE else 0,
    }
    return tuple(f"{words}: {n:,}" for words, n in numbers.items() if n)
