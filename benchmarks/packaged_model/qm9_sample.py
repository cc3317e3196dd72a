"""Make `src/moleblend/assets/qm9_2000.parquet`, the training molecules of `moleblend demo`.

The file is a random sample (seed 0) of the 130,831 molecules of QM9 that passed its consistency
check (Ramakrishnan et al., Scientific Data 1, 140022, 2014; CC0), from PyPI's `qm9pack`.

    python -m pip install --no-deps qm9pack==1.0.3
    python benchmarks/packaged_model/qm9_sample.py src/moleblend/assets/qm9_2000.parquet

writes the file; it is identical byte for byte with pyarrow 26.0, whose version is part of it.
"""

import json
import random
import sys
from importlib.metadata import distribution
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv

N_MOLECULES = 2_000
SEED = 0
EV_PER_HARTREE = 27.211386246
ATOMIC_NUMBERS = {"H": 1, "C": 6, "N": 7, "O": 8, "F": 9}

SCHEMA = pa.schema(
    [
        pa.field("index", pa.int32()),
        pa.field("smiles", pa.string()),
        pa.field("atomic_numbers", pa.list_(pa.uint8())),
        pa.field("coordinates", pa.list_(pa.float32()), metadata={"unit": "angstrom"}),
        pa.field("gap", pa.float64(), metadata={"unit": "eV"}),
    ],
    metadata={
        "source": "QM9, doi:10.1038/sdata.2014.22, from PyPI qm9pack 1.0.3",
        "licence": "CC0-1.0",
        "level_of_theory": "B3LYP/6-31G(2df,p)",
        "sample": f"{N_MOLECULES} rows, random.Random({SEED})",
        "hartree_to_eV": str(EV_PER_HARTREE),
        "coordinates": "flat x0 y0 z0 x1 ..., hydrogens included",
    },
)


def read_qm9() -> pa.Table:
    """Read the needed columns of the three QM9 files in qm9pack."""
    folder = Path(str(distribution("qm9pack").locate_file("qm9pack/data")))
    columns = ["Index", "SMILES", "Elements", "XYZ_Ang", "HOMO_LUMO_gap_au"]
    # One block must hold the longest line, and a line holds all frequencies and coordinates.
    read = csv.ReadOptions(block_size=1 << 24)
    convert = csv.ConvertOptions(include_columns=columns)
    tables = [
        csv.read_csv(folder / f"qm9_part{number}.csv", read_options=read, convert_options=convert)
        for number in (1, 2, 3)
    ]
    return pa.concat_tables(tables).sort_by("Index")


def draw_sample(molecules: pa.Table) -> pa.Table:
    """Draw the sample, rows ascending in `index`, in the columns and units of `SCHEMA`."""
    rows = sorted(random.Random(SEED).sample(range(len(molecules)), N_MOLECULES))
    chosen = molecules.take(rows)
    elements = [json.loads(text.replace("'", '"')) for text in chosen["Elements"].to_pylist()]
    positions = [json.loads(text) for text in chosen["XYZ_Ang"].to_pylist()]
    return pa.table(
        {
            "index": chosen["Index"].cast(pa.int32()),
            "smiles": chosen["SMILES"],
            "atomic_numbers": [[ATOMIC_NUMBERS[symbol] for symbol in atoms] for atoms in elements],
            "coordinates": [[value for point in points for value in point] for points in positions],
            "gap": chosen["HOMO_LUMO_gap_au"].to_numpy() * EV_PER_HARTREE,
        },
        schema=SCHEMA,
    )


def main(path: str) -> None:
    """Write the sample to `path`."""
    pq.write_table(
        draw_sample(read_qm9()),
        path,
        compression="zstd",
        compression_level=19,
        # Bytes of equal weight side by side compress a tenth better, without a dictionary only.
        use_dictionary=False,
        column_encoding={"coordinates.list.element": "BYTE_STREAM_SPLIT"},
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
