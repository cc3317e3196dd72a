"""Conversion of published files into one table for each data set."""

import csv
import gzip
import io
import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.csv

from moleblend.chem.parsing import count_atoms
from moleblend.data.datasets.archive import open_member
from moleblend.data.table import Table
from moleblend.errors import TableError

EV_PER_HARTREE = 27.211386246
"""CODATA 2018."""

QM9_UNITS = {
    "mu": "D",
    "alpha": "a0^3",
    "homo": "eV",
    "lumo": "eV",
    "gap": "eV",
    "r2": "a0^2",
    "zpve": "eV",
    "u0": "eV",
    "u298": "eV",
    "h298": "eV",
    "g298": "eV",
    "cv": "cal/mol/K",
    "A": "GHz",
    "B": "GHz",
    "C": "GHz",
}
"""Units of the properties of QM9: the twelve usual targets, then the rotational constants."""

_QM9_COLUMNS = {
    "mu": "Dipole_debye",
    "alpha": "Polarizability_bohr3",
    "homo": "HOMO_au",
    "lumo": "LUMO_au",
    "gap": "HOMO_LUMO_gap_au",
    "r2": "R2_bohr2",
    "zpve": "ZPVE_au",
    "u0": "InternalEnergy_0K_au",
    "u298": "InternalEnergy_298K_au",
    "h298": "Enthalphy_298K_au",
    "g298": "GibbsFreeEnergy_298K_au",
    "cv": "Heatcapacity_Cv_cal_mol_K",
    "A": "RotA_GHz",
    "B": "RotB_GHz",
    "C": "RotC_GHz",
}
_ATOMIC_NUMBERS = {"H": 1, "C": 6, "N": 7, "O": 8, "F": 9}

_MOSES_SETS = ("train", "test", "test_scaffolds")


def moses_table(wheel: Path) -> pa.Table:
    """Read the three sets of MOSES from the PyPI wheel `molsets`, without running its code.

    Returns:
        `smiles` and `split` (train, test, test_scaffolds), in the order of the files.

    Raises:
        MissingFileError: there is no such file.
        TableError: not this wheel.
    """
    tables = []
    for name in _MOSES_SETS:
        with open_member(wheel, f"moses/dataset/data/{name}.csv.gz") as file:
            data = gzip.decompress(file.read())
        smiles = pyarrow.csv.read_csv(io.BytesIO(data))["SMILES"]
        tables.append(pa.table({"smiles": smiles, "split": pa.array([name] * len(smiles))}))
    return pa.concat_tables(tables)


def qm9_table(wheel: Path) -> pa.Table:
    """Read QM9 from the PyPI wheel `qm9pack`, without running its code.

    Returns:
        A row for each molecule that passed the consistency check of QM9, in ascending order of
        `index`. Columns: `index`, `smiles`, `atomic_numbers`, `coordinates` (Å, x0 y0 z0 x1 ...,
        with hydrogens), and the properties in the units of `QM9_UNITS`.

    Raises:
        MissingFileError: there is no such file.
        TableError: not this wheel.
    """
    names = ["Index", "SMILES", "Elements", "XYZ_Ang", *_QM9_COLUMNS.values()]
    # A block must hold the longest line, which contains all frequencies and coordinates.
    read = pyarrow.csv.ReadOptions(block_size=1 << 24)
    kinds = {column: pa.float64() for column in _QM9_COLUMNS.values()}
    convert = pyarrow.csv.ConvertOptions(include_columns=names, column_types=kinds)
    tables = []
    for number in (1, 2, 3):
        with open_member(wheel, f"qm9pack/data/qm9_part{number}.csv") as file:
            data = io.BytesIO(file.read())
        tables.append(pyarrow.csv.read_csv(data, read_options=read, convert_options=convert))
    rows = pa.concat_tables(tables).sort_by("Index")
    numbers = [
        [_ATOMIC_NUMBERS[symbol] for symbol in json.loads(text.replace("'", '"'))]
        for text in rows["Elements"].to_pylist()
    ]
    positions = [
        [float(number) for number in text.replace("[", "").replace("]", "").split(",")]
        for text in rows["XYZ_Ang"].to_pylist()
    ]
    columns = {
        "index": rows["Index"].cast(pa.int32()),
        "smiles": rows["SMILES"],
        "atomic_numbers": pa.array(numbers, pa.list_(pa.uint8())),
        "coordinates": pa.array(positions, pa.list_(pa.float32())),
    }
    for name, unit in QM9_UNITS.items():
        values = rows[_QM9_COLUMNS[name]].to_numpy()
        columns[name] = pa.array(values * EV_PER_HARTREE if unit == "eV" else values)
    return pa.table(columns)


def protocol_u_table(
    files: dict[str, Path], tasks: Sequence[str], raw: Table | None = None
) -> pa.Table:
    """Combine the training, validation and test set of protocol U, as published by MUBen.

    Args:
        files: files with the columns `smiles`, `labels` and `masks` (lists with one value for each
            task), by the name of the set: train, valid, test.
        tasks: names of the labels.
        raw: the raw file. If `files` has no training set, it consists of the molecules of the raw
            file whose SMILES are in no other set.

    Returns:
        `smiles`, the labels as text (empty where not measured), `split`.

    Raises:
        TableError: the lists have another length, or the training set is missing.
    """
    rows = [(*row, name) for name, path in files.items() for row in _read_set(path, len(tasks))]
    if "train" not in files:
        if raw is None:
            raise TableError("the training set is missing, and no raw file is given")
        elsewhere = {row[0] for row in rows}
        columns = [raw.column(name).to_pylist() for name in ("smiles", *tasks)]
        train = [
            (smiles, *(cell.removesuffix(".0") for cell in cells), "train")
            for smiles, *cells in zip(*columns, strict=True)
            if smiles not in elsewhere and count_atoms(smiles) > 0
        ]
        rows = train + rows
    names = ["smiles", *tasks, "split"]
    cells = zip(*rows, strict=True)
    return pa.table([pa.array(column, pa.string()) for column in cells], names=names)


def _read_set(path: Path, n_tasks: int) -> list[tuple[str, ...]]:
    rows = []
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            labels, masks = json.loads(row["labels"]), json.loads(row["masks"])
            if not len(labels) == len(masks) == n_tasks:
                raise TableError(
                    f"{path}: {row['smiles']} has {len(labels)} labels, expected {n_tasks}"
                )
            cells = (str(y) if mask else "" for y, mask in zip(labels, masks, strict=True))
            rows.append((row["smiles"], *cells))
    return rows
