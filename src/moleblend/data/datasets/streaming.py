"""Data sets read in a stream, in constant memory: PCQM4Mv2, and sets of many conformers."""

import codecs
import csv
import gzip
import io
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int64

from moleblend.chem.molecule import FeatureVersion, Molecule
from moleblend.data.datasets.archive import open_member
from moleblend.data.formats import read_pieces
from moleblend.data.sdf import read_sdf
from moleblend.data.table import Rejected, Table, read_molecules
from moleblend.errors import TableError
from moleblend.files import replacing

_ROWS, _SPLIT = "pcqm4m-v2/raw/data.csv.gz", "pcqm4m-v2/split_dict.pt"
_HEADER = ["idx", "smiles", "homolumogap"]
_COLUMNS = pa.schema([("index", pa.int64()), ("smiles", pa.string()), ("gap", pa.float64())])

_ARRAYS = (
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct",
)


def read_pcqm4mv2(path: str | Path, n_rows: int = 50_000) -> Iterator[Table]:
    """Read the molecules of PCQM4Mv2 from the zip archive of OGB, in pieces, in file order.

    Args:
        path: pcqm4m-v2.zip, as published.
        n_rows: number of rows of a piece.

    Yields:
        Tables of `index`, `smiles` and `gap` in eV (null in the test sets).

    Raises:
        MissingFileError: there is no such file.
        TableError: not this archive, or a damaged one; the pieces before the damage are yielded.
    """
    with (
        open_member(Path(path), _ROWS) as packed,
        gzip.open(packed, "rt", encoding="utf-8") as file,
    ):
        rows = csv.reader(file)
        header = next(rows, [])
        if header != _HEADER:
            raise TableError(f"{path}: {_ROWS} has the columns {header}, expected {_HEADER}")
        n_before = 0
        while piece := list(islice(rows, n_rows)):
            yield _piece(Path(path), piece, n_before)
            n_before += len(piece)


def _piece(path: Path, rows: list[list[str]], n_before: int) -> Table:
    try:
        index, smiles, gaps = zip(*rows, strict=True)
        columns = [
            [int(cell) for cell in index],
            smiles,
            [float(cell) if cell else None for cell in gaps],
        ]
    except ValueError as error:
        raise TableError(
            f"{path}: among rows {n_before + 1} to {n_before + len(rows)} of {_ROWS}, one is not "
            f"an index, a SMILES and a gap ({error})"
        ) from error
    return Table(path, pa.table(columns, schema=_COLUMNS), n_before=n_before)


def pcqm4mv2_split(path: str | Path) -> dict[str, Int64[np.ndarray, " m"]]:
    """Read the split of PCQM4Mv2 from the zip archive of OGB, without running code from it.

    Args:
        path: pcqm4m-v2.zip, as published.

    Returns:
        Rows, counted from 0, of each set: train, valid, test-dev, test-challenge.

    Raises:
        MissingFileError: there is no such file.
        TableError: not this archive, a damaged one, or one with a type that could run code.
    """
    import torch

    with open_member(Path(path), _SPLIT) as file:
        data = io.BytesIO(file.read())
    reconstruct = np.empty(0).__reduce__()[0]
    allowed: list[Any] = [(reconstruct, name) for name in _ARRAYS]
    allowed += [np.ndarray, np.dtype, np.dtypes.Int64DType, codecs.encode]
    try:
        with torch.serialization.safe_globals(allowed):
            split = torch.load(data, map_location="cpu", weights_only=True)
        return {name: np.asarray(rows).astype(np.int64) for name, rows in split.items()}
    except Exception as error:  # a damaged or hostile file can fail in any way
        refused = re.search(r"GLOBAL (\S+)", str(error))
        reason = (
            f"it contains the type {refused[1]}, which could run code"
            if refused
            else f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        )
        raise TableError(f"{path}: {_SPLIT} cannot be read ({reason})") from error


def write_pcqm4mv2(path: str | Path, out: Path) -> None:
    """Write PCQM4Mv2 as one Parquet file: the columns of `read_pcqm4mv2`, and `split`.

    Raises:
        MissingFileError: there is no such archive.
        TableError: not this archive, or a damaged one; `out` is not changed.
    """
    split = pcqm4mv2_split(path)
    n_rows = 1 + max(int(rows.max(initial=-1)) for rows in split.values())
    set_of_row = np.full(n_rows, -1)
    for number, rows in enumerate(split.values()):
        set_of_row[rows] = number
    names = pa.array(list(split))
    schema = _COLUMNS.append(pa.field("split", pa.string()))
    with replacing(out) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        for piece in read_pcqm4mv2(path):
            rows = set_of_row[piece.n_before : piece.n_before + len(piece)]
            if len(rows) < len(piece) or (rows < 0).any():
                raise TableError(f"{path}: a row of {_ROWS} is in no set of {_SPLIT}")
            writer.write_table(piece.columns.append_column("split", names.take(pa.array(rows))))


def stream_pcqm4mv2_sdf(path: str | Path) -> Iterator[tuple[int, str]]:
    """Read the geometries of PCQM4Mv2 one by one from inside the archive of OGB.

    Nothing is unpacked to disk, and memory holds one record at a time.

    Args:
        path: pcqm4m-v2-train.sdf.tar.gz, as published (`read_sdf` also reads the .sdf itself).

    Yields:
        The row of `read_pcqm4mv2`, counted from 0, and the mol block for `read_mol_block`.

    Raises:
        MissingFileError: there is no such file.
        TableError: it is damaged; the records before the damage are yielded.
    """
    return ((row, block) for row, (block, _) in enumerate(read_sdf(path)))


def read_conformers(
    path: str | Path, *, features: FeatureVersion = "cip-1"
) -> Iterator[Molecule | Rejected]:
    """Read molecules with several geometries each, one by one.

    Args:
        path: SDF with a record, or Parquet with a row (see `read_molecules`), for each conformer.
            Conformers of one molecule must be adjacent.
        features: version of the atom and bond features.

    Yields:
        A molecule for each run of rows with a geometry and the same canonical SMILES, named after
        the first row; a molecule or `Rejected` for any other row. Another stereoisomer is another
        molecule.

    Raises:
        MissingFileError: there is no such file.
        TableError: it is empty, has another format, or is damaged.
    """
    conformers: list[Molecule] = []
    for piece in read_pieces(path, 1_000):
        for item in read_molecules(piece, features=features):
            if conformers and not (
                isinstance(item, Molecule) and _is_conformer(item, conformers[0])
            ):
                yield _merged(conformers)
                conformers = []
            if isinstance(item, Molecule):
                conformers.append(item)
            else:
                yield item
    if conformers:
        yield _merged(conformers)


def _is_conformer(item: Molecule, first: Molecule) -> bool:
    return item.smiles == first.smiles and item.n_conformers > 0 and first.n_conformers > 0


def _merged(molecules: list[Molecule]) -> Molecule:
    return replace(molecules[0], positions=np.concatenate([one.positions for one in molecules]))
