import pickle
import tarfile
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from moleblend.chem.molecule import Molecule
from moleblend.chem.parsing import read_mol_block
from moleblend.data.datasets.streaming import (
    pcqm4mv2_split,
    read_conformers,
    read_pcqm4mv2,
    stream_pcqm4mv2_sdf,
    write_pcqm4mv2,
)
from moleblend.data.formats import read_pieces, read_table
from moleblend.data.sdf import read_sdf
from moleblend.data.table import Rejected
from tests.helpers.ogb import BLOCK, PARTS, ROWS, data_csv, ogb_tar, ogb_zip, split_pt

# --- the zip -------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_rows", [1, 2, 50])
def test_rows_of_the_zip_are_read_in_pieces(tmp_path: Path, n_rows: int) -> None:
    pieces = list(read_pcqm4mv2(ogb_zip(tmp_path / "pcqm4m-v2.zip"), n_rows))
    assert [len(piece) for piece in pieces] == [min(n_rows, 5 - k) for k in range(0, 5, n_rows)]
    assert [piece.n_before for piece in pieces] == list(range(0, 5, n_rows))
    rows = [tuple(row.values()) for piece in pieces for row in piece.columns.to_pylist()]
    assert rows == [(k, s, float(gap) if gap else None) for k, (s, gap) in enumerate(ROWS)]


@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}])
@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_the_sets_are_arrays_or_tensors(tmp_path: Path, kind: Any, options: Any) -> None:
    parts = split_pt({name: kind(rows) for name, rows in PARTS.items()}, **options)
    read = pcqm4mv2_split(ogb_zip(tmp_path / "pcqm4m-v2.zip", parts=parts))
    assert {name: rows.tolist() for name, rows in read.items()} == PARTS
    assert {rows.dtype for rows in read.values()} == {np.dtype(np.int64)}


def test_a_split_written_by_numpy_1(tmp_path: Path) -> None:
    """The published file is older than numpy 2, which has its functions elsewhere."""
    parts = split_pt({"train": np.array([0, 1])}, _use_new_zipfile_serialization=False)
    assert b"numpy._core.multiarray" in parts
    old = parts.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    read = pcqm4mv2_split(ogb_zip(tmp_path / "pcqm4m-v2.zip", parts=old))
    assert read["train"].tolist() == [0, 1]


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_the_split_never_runs_code(tmp_path: Path) -> None:
    trap = tmp_path / "ran"
    parts = split_pt({"train": Evil(trap)})
    pickle.loads(pickle.dumps(Evil(trap)))
    assert trap.exists()  # it would have worked
    trap.unlink()
    with pytest.raises(ValueError, match=r"split_dict.pt cannot be read \(it contains the type"):
        pcqm4mv2_split(ogb_zip(tmp_path / "pcqm4m-v2.zip", parts=parts))
    assert not trap.exists()


def test_wrong_archives_are_refused_in_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "pcqm4m-v2.zip"
    with pytest.raises(FileNotFoundError, match="file not found"):
        next(read_pcqm4mv2(path))
    path.write_bytes(b"PK no zip")
    with pytest.raises(ValueError, match="damaged, or not a zip archive"):
        next(read_pcqm4mv2(path))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("other.csv", "")
    with pytest.raises(ValueError, match=r"has no member pcqm4m-v2/raw/data.csv.gz"):
        next(read_pcqm4mv2(path))
    with pytest.raises(ValueError, match=r"has no member pcqm4m-v2/split_dict.pt"):
        pcqm4mv2_split(path)
    ogb_zip(path, rows=data_csv(header=("smiles", "y", "z")))
    with pytest.raises(ValueError, match=r"has the columns .*, expected"):
        next(read_pcqm4mv2(path))
    ogb_zip(path, rows=data_csv([*ROWS, ("C", "high")]))
    pieces = read_pcqm4mv2(path, 3)
    assert len(next(pieces)) == 3
    with pytest.raises(ValueError, match=r"among rows 4 to 6 .*'high'"):
        next(pieces)
    ogb_zip(path, rows=data_csv(ROWS * 1000)[:-20])
    with pytest.raises(ValueError, match="damaged"):
        list(read_pcqm4mv2(path, 3))
    ogb_zip(path, parts=b"no torch file")
    with pytest.raises(ValueError, match=r"split_dict.pt cannot be read"):
        pcqm4mv2_split(path)


def test_the_zip_becomes_one_table(tmp_path: Path) -> None:
    out = tmp_path / "all.parquet"
    write_pcqm4mv2(ogb_zip(tmp_path / "pcqm4m-v2.zip"), out)
    columns = pq.read_table(out).to_pydict()
    assert columns["smiles"] == [smiles for smiles, _ in ROWS]
    assert columns["split"] == ["train", "train", "test-dev", "valid", "test-challenge"]
    before = out.read_bytes()
    for rows in ([0, 1, 3, 4], [0, 1, 2, 3]):
        parts = split_pt({"train": np.array(rows)})
        with pytest.raises(ValueError, match="is in no set"):
            write_pcqm4mv2(ogb_zip(tmp_path / "odd.zip", parts=parts), out)
    assert out.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"all.parquet", "pcqm4m-v2.zip", "odd.zip"}


# --- the tar -------------------------------------------------------------------------------------


def test_records_of_the_tar_are_rows_of_the_zip(tmp_path: Path) -> None:
    path = ogb_tar(tmp_path / "pcqm4m-v2-train.sdf.tar.gz", 3)
    records = list(stream_pcqm4mv2_sdf(path))
    assert [row for row, _ in records] == [0, 1, 2]
    for row, block in records:
        molecule = read_mol_block(block)
        assert molecule.smiles == "CO"
        assert np.ptp(molecule.positions[0, :, 0]) == pytest.approx(1.4 + row / 10_000)
    assert [path.name for path in tmp_path.iterdir()] == ["pcqm4m-v2-train.sdf.tar.gz"]


def test_the_tar_is_read_as_the_sdf_in_it_is(tmp_path: Path) -> None:
    path = ogb_tar(tmp_path / "a.sdf.tar.gz", 5, name="folder/a.sdf")
    with tarfile.open(path) as archive:
        (tmp_path / "a.sdf").write_bytes(archive.extractfile("folder/a.sdf").read())
    assert list(read_sdf(path)) == list(read_sdf(tmp_path / "a.sdf"))
    assert read_table(path).columns == read_table(tmp_path / "a.sdf").columns
    assert [len(piece) for piece in read_pieces(path, 2)] == [2, 2, 1]


def test_the_tar_is_never_in_memory(tmp_path: Path) -> None:
    peaks = []
    for n_records in (4_000, 4_000, 16_000):  # the first run pays for imports
        path = ogb_tar(tmp_path / f"{n_records}.sdf.tar.gz", n_records)
        tracemalloc.start()
        assert sum(1 for _ in stream_pcqm4mv2_sdf(path)) == n_records
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < 1.2 * peaks[1]


def test_a_broken_tar_gives_the_records_before_the_break(tmp_path: Path) -> None:
    path = ogb_tar(tmp_path / "a.sdf.tar.gz", 20_000)
    path.write_bytes(path.read_bytes()[:-200])
    records = []
    with pytest.raises(ValueError, match="ends too early or is damaged"):
        records.extend(read_sdf(path))
    assert 15_000 < len(records) <= 20_000


def test_a_tar_without_an_sdf(tmp_path: Path) -> None:
    path = ogb_tar(tmp_path / "a.sdf.tar.gz", 1, name="a.mol")
    with pytest.raises(ValueError, match=r"there is no \.sdf file in the archive"):
        list(read_sdf(path))


# --- conformers ----------------------------------------------------------------------------------


def test_adjacent_conformers_are_one_molecule(tmp_path: Path) -> None:
    methanol = [f"methanol{BLOCK.format(row=row)}" for row in range(3)]
    amine = f"amine{BLOCK.format(row=0)}".replace(" O ", " N ")
    broken = "broken\n\n\n"
    blocks = [methanol[0], methanol[1], amine, broken, methanol[2]]
    path = tmp_path / "drugs.sdf"
    path.write_text("".join(f"{block}$$$$\n" for block in blocks))
    first, second, refused, third = list(read_conformers(path))
    assert isinstance(first, Molecule)
    assert isinstance(second, Molecule)
    assert isinstance(third, Molecule)
    assert isinstance(refused, Rejected)
    assert refused.row == 4
    assert [(m.id, m.n_conformers) for m in (first, second, third)] == [
        ("methanol", 2),
        ("amine", 1),
        ("methanol", 1),
    ]
    lengths = np.ptp(first.positions[:, :, 0], axis=1)
    np.testing.assert_allclose(lengths, [1.4, 1.4001], rtol=1e-6)


def test_rows_without_geometry_are_molecules_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "a.smi"
    path.write_text("CO\nCO\n")
    assert [m.n_conformers for m in read_conformers(path) if isinstance(m, Molecule)] == [0, 0]
