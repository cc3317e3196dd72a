import gzip
import os
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from moleblend import build
from moleblend.build import build_store
from moleblend.chem import read_smiles
from moleblend.molecule import MoleculeError
from moleblend.store import MoleculeStore
from moleblend.tables import Rejected

METHANOL = """{title}
  hand

  2  1  0  0  0  0  0  0  0  0999 V2000
    0.0000    0.0000    0.5000 C   0  0  0  0  0  0  0  0  0  0  0  0
    1.4000    0.0000    0.5000 O   0  0  0  0  0  0  0  0  0  0  0  0
  1  2  1  0
M  END
> <y>
1

$$$$
"""


@pytest.fixture
def source(tmp_path):
    """300 rows, five pieces, with three rows that are no molecules."""
    rows = [("C" * (i % 30 + 1), f"m{i + 1}") for i in range(300)]
    rows[4] = ("nonsense", "m5")
    rows[99] = ("", "m100")
    text = "smiles,name\n" + "".join(f"{smiles},{name}\n" for smiles, name in rows)
    path = tmp_path / "in.csv"
    path.write_text(text.replace("m300", "m300,surplus"))
    return path


def account_file(out):
    return pyarrow.csv.read_csv(out.with_name(f"{out.name}.rejected.csv")).to_pylist()


def reason(*arguments, **named):
    with pytest.raises(ValueError, match=r".") as caught:
        build_store(*arguments, **named)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_row_is_accounted_for_in_order(source, tmp_path):
    out = tmp_path / "out.arrow"
    seen = []
    account = build_store(source, out, n_processes=1, on_progress=lambda *n: seen.append(n))
    assert (account.n_rows, account.n_written) == (300, 297)
    assert [(item.row, item.id) for item in account.rejected] == [
        (5, "m5"),
        (100, "m100"),
        (300, "m300"),
    ]
    assert account_file(out) == [
        {"row": item.row, "id": item.id, "reason": item.reason} for item in account.rejected
    ]
    assert account.flat == ()
    assert seen == [(64, 300), (128, 300), (192, 300), (256, 300), (300, 300)]
    store = MoleculeStore(out)
    gone = {item.id for item in account.rejected}
    assert [m.id for m in store] == [f"m{i}" for i in range(1, 301) if f"m{i}" not in gone]
    assert [m.n_atoms for m in store][:6] == [1, 2, 3, 4, 6, 7]


def test_processes_change_nothing(source, tmp_path):
    one, two = tmp_path / "one.arrow", tmp_path / "two.arrow"
    alone = build_store(source, one, n_processes=1, features="ogb-1")
    assert build_store(source, two, n_processes=2, features="ogb-1") == alone
    assert MoleculeStore(one).features == "ogb-1"
    assert MoleculeStore(one).fingerprint == MoleculeStore(two).fingerprint


@pytest.mark.parametrize("name", ["in.sdf", "in.sdf.gz"])
def test_sdf_is_numbered_through(tmp_path, name):
    text = "".join(METHANOL.format(title=f"m{i}") for i in range(1, 131))
    text = text.replace("m100\n  hand", "m100\nbroken")
    data = text.replace("m70\n  hand\n\n  2  1", "m70\n  hand\n\n  9  1").encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    account = build_store(tmp_path / name, tmp_path / "out.arrow", n_processes=1)
    assert (account.n_rows, account.n_written) == (130, 129)
    assert [(item.row, item.id) for item in account.rejected] == [(70, "m70")]
    store = MoleculeStore(tmp_path / "out.arrow")
    assert store[-1].id == "m130"
    assert all(molecule.n_conformers == 1 for molecule in store)


def test_parquet_with_geometry(tmp_path):
    columns = pa.table(
        {
            "smiles": ["O", "CO"],
            "coordinates_mA": pa.array([[0, 0, 0], [0, 0, 0, 1400, 0, 0]], pa.list_(pa.int16())),
        }
    )
    pq.write_table(columns, tmp_path / "in.parquet")
    build_store(tmp_path / "in.parquet", tmp_path / "out.arrow")
    second = MoleculeStore(tmp_path / "out.arrow")[1]
    assert np.ptp(second.positions[0, :, 0]) == np.float32(1.4)


def test_conformers_have_a_seed_for_each_row(tmp_path):
    (tmp_path / "in.smi").write_text("CCO a\nCCO b\n" * 40)

    def positions(name, **named):
        account = build_store(
            tmp_path / "in.smi", tmp_path / name, n_conformers=2, limit_s=60.0, **named
        )
        assert account.flat == ()
        return np.stack([molecule.positions for molecule in MoleculeStore(tmp_path / name)])

    first = positions("1.arrow", n_processes=1)
    assert first.shape == (80, 2, 3, 3)
    assert len(np.unique(first[:, 0].round(4), axis=0)) == 80
    np.testing.assert_array_equal(first, positions("2.arrow", n_processes=2))
    later = positions("3.arrow", n_processes=1, seed=1)
    assert (abs(first - later).max(axis=(1, 2, 3)) > 1e-3).all()


def test_molecules_without_conformers_stay_in_2d(tmp_path, monkeypatch):
    def stubborn(molecule, *, seed, n_conformers, limit_s):
        assert limit_s == 3
        if molecule.id == "b":
            raise MoleculeError("b: could not be embedded")
        shape = (n_conformers, molecule.n_atoms, 3)
        return replace(molecule, positions=np.full(shape, seed % 97, np.float32))

    monkeypatch.setattr(build, "add_positions", stubborn)
    (tmp_path / "in.smi").write_text("CCO a\nCC b\nnonsense c\n")
    out = tmp_path / "out.arrow"
    account = build_store(tmp_path / "in.smi", out, n_conformers=1, limit_s=3.0)
    assert account.flat == (Rejected(2, "b", "2D only: could not be embedded"),)
    assert [item.row for item in account.rejected] == [3]
    assert [line["row"] for line in account_file(out)] == [2, 3]
    assert [molecule.n_conformers for molecule in MoleculeStore(out)] == [1, 0]


def test_nothing_but_the_account_if_no_row_can_be_read(tmp_path):
    (tmp_path / "in.smi").write_text("nonsense a\nblunder b\n")
    out = tmp_path / "out.arrow"
    text = reason(tmp_path / "in.smi", out)
    assert text.startswith(f"none of the 2 rows of {tmp_path / 'in.smi'} could be read, first")
    assert "nonsense" in text
    assert not out.exists()
    assert [line["id"] for line in account_file(out)] == ["a", "b"]
    assert {path.name for path in tmp_path.iterdir()} == {"in.smi", "out.arrow.rejected.csv"}


def test_a_header_alone_is_refused(tmp_path):
    (tmp_path / "in.csv").write_text("smiles\n")
    assert "none of the 0 rows" in reason(tmp_path / "in.csv", tmp_path / "out.arrow")


def test_notes_reach_the_account(tmp_path):
    (tmp_path / "in.csv").write_bytes("smiles,name\nC,Müller\n".encode("latin-1"))
    (note,) = build_store(tmp_path / "in.csv", tmp_path / "out.arrow").notes
    assert "Latin-1" in note


def test_refused_before_anything_is_read(source, tmp_path):
    assert "ends in .arrow" in reason(source, tmp_path / "out.parquet")
    copy = tmp_path / "copy.arrow"
    copy.symlink_to(source)
    assert "overwrite" in reason(source, copy)
    assert "at least one process" in reason(source, tmp_path / "out.arrow", n_processes=0)
    with pytest.raises(FileNotFoundError):
        build_store(tmp_path / "no.csv", tmp_path / "out.arrow")
    assert "'smiles', 'name'" in reason(
        source, tmp_path / "out.arrow", smiles="structure", n_processes=1
    )
    assert not (tmp_path / "out.arrow").exists()


def test_columns_are_checked_in_a_process_too(source, tmp_path):
    text = reason(source, tmp_path / "out.arrow", smiles="structure", n_processes=2)
    assert "'smiles', 'name'" in text


def die(*_, **__):
    os._exit(1)


def test_a_process_that_dies_is_said(source, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "_read_piece", die)
    with pytest.raises(ChildProcessError, match="died"):
        build_store(source, tmp_path / "out.arrow", n_processes=2)
    assert list(tmp_path.iterdir()) == [source]


def test_qm9_geometry_survives(data_folder, tmp_path):
    table = pq.read_table(data_folder / "qm9" / "qm9.parquet").slice(1000, 100)
    pq.write_table(table, tmp_path / "in.parquet")
    account = build_store(tmp_path / "in.parquet", tmp_path / "out.arrow", n_processes=1)
    assert account.n_written == 100
    for molecule, row in zip(MoleculeStore(tmp_path / "out.arrow"), table.to_pylist(), strict=True):
        given = np.array(row["coordinates"], np.float32).reshape(-1, 3)
        np.testing.assert_array_equal(molecule.positions[0], given[molecule.source_atoms])
        elements = np.array(row["atomic_numbers"])[molecule.source_atoms]
        np.testing.assert_array_equal(molecule.atoms[:, 0] + 1, elements)
        assert sorted(read_smiles(row["smiles"]).atoms[:, 0]) == sorted(molecule.atoms[:, 0])
