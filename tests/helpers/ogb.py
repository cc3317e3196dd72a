"""Files in the layout of OGB's PCQM4Mv2."""

import csv
import gzip
import io
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROWS = [("O=C1[N]c2ccccc2[N]1", "3.0477"), ("CCO", "7.1"), ("CC", ""), ("C,C", "1e1"), ("N", "")]
PARTS = {"train": [0, 1], "valid": [3], "test-dev": [2], "test-challenge": [4]}
BLOCK = """
     RDKit          3D

  2  1  0  0  0  0  0  0  0  0999 V2000
    0.0000    0.0000    0.5000 C   0  0  0  0  0  0  0  0  0  0  0  0
    1.4{row:03d}    0.0000    0.5000 O   0  0  0  0  0  0  0  0  0  0  0  0
  1  2  1  0
M  END
"""


def data_csv(rows=ROWS, header=("idx", "smiles", "homolumogap")) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows((k, *row) for k, row in enumerate(rows))
    return gzip.compress(text.getvalue().encode(), mtime=0)


def split_pt(parts: Any, **options: Any) -> bytes:
    data = io.BytesIO()
    torch.save(parts, data, **options)
    return data.getvalue()


def ogb_zip(path: Path, rows=None, parts=None) -> Path:
    """Write a zip in the layout of OGB's."""
    arrays = {name: np.array(part) for name, part in PARTS.items()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (
            ("RELEASE_v1.txt", ""),
            ("raw/data.csv.gz", rows or data_csv()),
            ("split_dict.pt", parts or split_pt(arrays)),
        ):  # a ZipInfo has no time of day, so that the same content has the same hash
            archive.writestr(zipfile.ZipInfo(f"pcqm4m-v2/{name}"), content)
    return path


def ogb_tar(path: Path, n_records: int, name: str = "pcqm4m-v2-train.sdf") -> Path:
    """Write a tar in the layout of OGB's."""
    text = "".join(f"{BLOCK.format(row=row % 1000)}$$$$\n" for row in range(n_records)).encode()
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(text)
        archive.addfile(member, io.BytesIO(text))
    return path
