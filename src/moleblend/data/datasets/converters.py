"""Files as others publish them, made into one table of a data set each."""

import csv
import gzip
import io
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.csv

from moleblend.chem.molecule import MoleculeError
from moleblend.chem.parsing import read_smiles
from moleblend.data.table import Table

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
"""The properties of QM9: the twelve usual targets, then the rotational constants."""

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

_MOSES_PARTS = ("train", "test", "test_scaffolds")


def moses_table(wheel: Path) -> pa.Table:
    """Read the three parts of MOSES from PyPI's `molsets`, whose code is neither installed nor run.

    Returns:
        `smiles` and `split` (train, test, test_scaffolds), in the order of the files.

    Raises:
        ValueError: not that wheel.
    """
    tables = []
    for part in _MOSES_PARTS:
        data = gzip.decompress(_member(wheel, f"moses/dataset/data/{part}.csv.gz"))
        smiles = pyarrow.csv.read_csv(io.BytesIO(data))["SMILES"]
        tables.append(pa.table({"smiles": smiles, "split": pa.array([part] * len(smiles))}))
    return pa.concat_tables(tables)


def qm9_table(wheel: Path) -> pa.Table:
    """Read QM9 from PyPI's `qm9pack`, whose code is neither installed nor run.

    Returns:
        A row for each molecule that passed the set's own consistency check, ascending in `index`:
        `index`, `smiles`, `atomic_numbers`, `coordinates` (Å, x0 y0 z0 x1 ...; hydrogens are
        included) and the properties, in the units of `QM9_UNITS`.

    Raises:
        ValueError: not that wheel.
    """
    names = ["Index", "SMILES", "Elements", "XYZ_Ang", *_QM9_COLUMNS.values()]
    # One block must hold the longest line, and a line holds all frequencies and coordinates.
    read = pyarrow.csv.ReadOptions(block_size=1 << 24)
    kinds = {column: pa.float64() for column in _QM9_COLUMNS.values()}
    convert = pyarrow.csv.ConvertOptions(include_columns=names, column_types=kinds)
    parts = [
        pyarrow.csv.read_csv(
            io.BytesIO(_member(wheel, f"qm9pack/data/qm9_part{part}.csv")),
            read_options=read,
            convert_options=convert,
        )
        for part in (1, 2, 3)
    ]
    rows = pa.concat_tables(parts).sort_by("Index")
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
    parts: dict[str, Path], tasks: Sequence[str], raw: Table | None = None
) -> pa.Table:
    """Put a set on the published split together from its parts, as MUBen's repository has them.

    Args:
        parts: files with the columns `smiles`, `labels` and `masks` (lists with a place for each
            task) by the name of the part: train, valid, test.
        tasks: names of the labels.
        raw: the raw file, from which train is made if it is not among the parts: its molecules
            whose SMILES no other part has.

    Returns:
        `smiles`, the labels as text (empty where not measured), `split`.

    Raises:
        ValueError: the lists have another length, or there are not all parts.
    """
    rows = [(*row, part) for part, path in parts.items() for row in _read_part(path, len(tasks))]
    if "train" not in parts:
        if raw is None:
            raise ValueError("the part train is missing, and no raw file is given")
        elsewhere = {row[0] for row in rows}
        columns = [raw.column(name).to_pylist() for name in ("smiles", *tasks)]
        train = [
            (smiles, *(cell.removesuffix(".0") for cell in cells), "train")
            for smiles, *cells in zip(*columns, strict=True)
            if smiles not in elsewhere and _is_molecule(smiles)
        ]
        rows = train + rows
    names = ["smiles", *tasks, "split"]
    cells = zip(*rows, strict=True)
    return pa.table([pa.array(column, pa.string()) for column in cells], names=names)


def _read_part(path: Path, n_tasks: int) -> list[tuple[str, ...]]:
    rows = []
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            labels, masks = json.loads(row["labels"]), json.loads(row["masks"])
            if not len(labels) == len(masks) == n_tasks:
                raise ValueError(
                    f"{path}: {row['smiles']} has {len(labels)} labels, {n_tasks} were expected"
                )
            cells = (str(y) if mask else "" for y, mask in zip(labels, masks, strict=True))
            rows.append((row["smiles"], *cells))
    return rows


def _is_molecule(smiles: str) -> bool:
    try:
        read_smiles(smiles, features="ogb-1")  # the version that costs less
    except MoleculeError:
        return False
    return True


def _member(archive: Path, name: str) -> bytes:
    try:
        with zipfile.ZipFile(archive) as file:
            return file.read(name)
    except (KeyError, zipfile.BadZipFile) as error:
        raise ValueError(f"{archive}: there is no {name} in it ({error})") from error
