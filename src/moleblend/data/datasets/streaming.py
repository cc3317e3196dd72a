"""Data sets that are read as they pass by, never whole: PCQM4Mv2, and many conformers each."""

import codecs
import csv
import gzip
import io
import re
import zipfile
import zlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int64

from moleblend.chem.molecule import FeatureVersion, Molecule
from moleblend.data.formats import read_pieces
from moleblend.data.sdf import read_sdf
from moleblend.data.table import Rejected, Table, read_molecules
from moleblend.files import replacing

_ROWS, _SPLIT = "pcqm4m-v2/raw/data.csv.gz", "pcqm4m-v2/split_dict.pt"
_HEADER = ["idx", "smiles", "homolumogap"]
_COLUMNS = pa.schema([("index", pa.int64()), ("smiles", pa.string()), ("gap", pa.float64())])

_ARRAYS = (
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct",
)


def read_pcqm4mv2(path: str | Path, n_rows: int = 50_000) -> Iterator[Table]:
    """Read the molecules of PCQM4Mv2 from the zip of OGB, in pieces, in the order of the file.

    Args:
        path: pcqm4m-v2.zip, as published.
        n_rows: rows of a piece.

    Yields:
        Tables of `index`, `smiles` and `gap` in eV (null for the test parts).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: another file, or a damaged one; all pieces before the damage have been given.
    """
    with _member(Path(path), _ROWS) as packed, gzip.open(packed, "rt", encoding="utf-8") as file:
        rows = csv.reader(file)
        header = next(rows, [])
        if header != _HEADER:
            raise ValueError(f"{path}: {_ROWS} should have the columns {_HEADER}, not {header}")
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
        raise ValueError(
            f"{path}: a row from {n_before + 1} to {n_before + len(rows)} of {_ROWS} is not an "
            f"index, a SMILES and a gap ({error})"
        ) from error
    return Table(path, pa.table(columns, schema=_COLUMNS), n_before=n_before)


def pcqm4mv2_split(path: str | Path) -> dict[str, Int64[np.ndarray, " m"]]:
    """Read the parts of PCQM4Mv2 from the zip of OGB, without running code from it.

    Args:
        path: pcqm4m-v2.zip, as published.

    Returns:
        Rows, counted from 0, by part: train, valid, test-dev, test-challenge.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: another file, a damaged one, or one that names a type which could run code.
    """
    import torch

    with _member(Path(path), _SPLIT) as file:
        data = io.BytesIO(file.read())
    reconstruct = np.empty(0).__reduce__()[0]
    harmless: list[Any] = [(reconstruct, name) for name in _ARRAYS]
    harmless += [np.ndarray, np.dtype, np.dtypes.Int64DType, codecs.encode]
    try:
        with torch.serialization.safe_globals(harmless):
            parts = torch.load(data, map_location="cpu", weights_only=True)
        return {name: np.asarray(rows).astype(np.int64) for name, rows in parts.items()}
    except Exception as error:  # a damaged or hostile file can fail in any way
        refused = re.search(r"GLOBAL (\S+)", str(error))
        reason = (
            f"it names the type {refused[1]}, which could run code"
            if refused
            else f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        )
        raise ValueError(f"{path}: {_SPLIT} cannot be read ({reason})") from error


def write_pcqm4mv2(path: str | Path, out: Path) -> None:
    """Write PCQM4Mv2 as one Parquet file: what `read_pcqm4mv2` gives, and the part as `split`.

    Raises:
        FileNotFoundError: there is no such zip.
        ValueError: another file, or a damaged one; `out` stays what it was.
    """
    parts = pcqm4mv2_split(path)
    n_rows = 1 + max(int(rows.max(initial=-1)) for rows in parts.values())
    part_of = np.full(n_rows, -1)
    for number, rows in enumerate(parts.values()):
        part_of[rows] = number
    names = pa.array(list(parts))
    schema = _COLUMNS.append(pa.field("split", pa.string()))
    with replacing(out) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        for piece in read_pcqm4mv2(path):
            rows = part_of[piece.n_before : piece.n_before + len(piece)]
            if len(rows) < len(piece) or (rows < 0).any():
                raise ValueError(f"{path}: a row of {_ROWS} is in no part of {_SPLIT}")
            writer.write_table(piece.columns.append_column("split", names.take(pa.array(rows))))


def stream_pcqm4mv2_sdf(path: str | Path) -> Iterator[tuple[int, str]]:
    """Read the geometries of PCQM4Mv2 one after the other from inside the archive of OGB.

    Nothing is unpacked to the disk, and one record at a time is in memory.

    Args:
        path: pcqm4m-v2-train.sdf.tar.gz, as published (`read_sdf` takes the .sdf alone as well).

    Yields:
        The row of `read_pcqm4mv2`, counted from 0, and the mol block for `read_mol_block`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged; all records before the damage have been given.
    """
    return ((row, block) for row, (block, _) in enumerate(read_sdf(path)))


def read_conformers(
    path: str | Path, *, features: FeatureVersion = "cip-1"
) -> Iterator[Molecule | Rejected]:
    """Read molecules with several geometries each, one after the other.

    Args:
        path: SDF with a record, or Parquet with a row (see `read_molecules`), for each conformer.
            Those of a molecule stand together.
        features: the version of the features.

    Yields:
        A molecule for each run of rows that have a geometry and the same canonical SMILES, under
        the name of the first; a molecule or `Rejected` for any other row. A conformer of the other
        stereoisomer is a molecule of its own.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is empty, of another kind, or damaged.
    """
    kept: list[Molecule] = []
    for piece in read_pieces(path, 1_000):
        for item in read_molecules(piece, features=features):
            if kept and not (isinstance(item, Molecule) and _is_conformer(item, kept[0])):
                yield _joined(kept)
                kept = []
            if isinstance(item, Molecule):
                kept.append(item)
            else:
                yield item
    if kept:
        yield _joined(kept)


def _is_conformer(item: Molecule, first: Molecule) -> bool:
    return item.smiles == first.smiles and item.n_conformers > 0 and first.n_conformers > 0


def _joined(molecules: list[Molecule]) -> Molecule:
    return replace(molecules[0], positions=np.concatenate([one.positions for one in molecules]))


@contextmanager
def _member(path: Path, name: str) -> Generator[IO[bytes], None, None]:
    """Open a file inside a zip; what goes wrong while it is read becomes a sentence."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file")
    try:
        with zipfile.ZipFile(path) as archive, archive.open(name) as file:
            yield file
    except KeyError as error:
        raise ValueError(f"{path}: there is no {name} in the zip") from error
    except (zipfile.BadZipFile, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path}: damaged, or not a zip file ({error})") from error
