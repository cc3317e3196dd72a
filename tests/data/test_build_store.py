import gzip
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from moleblend.chem.conformers import ConformerConfig
from moleblend.chem.geometry import add_positions
from moleblend.chem.parsing import read_smiles
from moleblend.data import build_store as build
from moleblend.data.build_store import BuildAccount, build_store, count_unfinished
from moleblend.data.store import MoleculeStore
from moleblend.files import alone_with

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


def reason(*arguments, kind=ValueError, **named):
    with pytest.raises(kind, match=r".") as caught:
        build_store(*arguments, **named)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def contents(folder):
    """The bytes of every file of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_every_row_is_accounted_for_in_order(source, tmp_path):
    out = tmp_path / "out.arrow"
    account = build_store(source, out, n_processes=1)
    assert account == BuildAccount(300, 297, 3, 0, n_shards=1, n_resumed=0, notes=())
    assert [(line["row"], line["id"]) for line in account_file(out)] == [
        (5, "m5"),
        (100, "m100"),
        (300, "m300"),
    ]
    assert account_file(out)[2]["reason"] == "the row has 3 cells, the header has 2"
    store = MoleculeStore(out)
    gone = {5, 100, 300}
    assert [m.id for m in store] == [f"m{i}" for i in range(1, 301) if i not in gone]
    assert [m.n_atoms for m in store][:6] == [1, 2, 3, 4, 6, 7]
    assert {path.name for path in tmp_path.iterdir()} == {
        "in.csv",
        "out.arrow",
        "out.arrow.rejected.csv",
    }


@pytest.mark.usefixtures("ray_here")
def test_neither_processes_nor_ray_change_anything(source, tmp_path):
    options = {"features": "ogb-1", "shard_rows": 64}
    alone = build_store(source, tmp_path / "one", n_processes=1, **options)
    expected = contents(tmp_path / "one")
    assert sorted(expected) == [*(f"shard-{k:05}.arrow" for k in range(5)), "store.json"]
    assert MoleculeStore(tmp_path / "one").features == "ogb-1"
    assert build_store(source, tmp_path / "two", n_processes=2, **options) == alone
    assert contents(tmp_path / "two") == expected
    assert build_store(source, tmp_path / "ray", engine="ray", **options) == alone
    assert contents(tmp_path / "ray") == expected
    rejected = (tmp_path / "one.rejected.csv").read_bytes()
    assert (tmp_path / "ray.rejected.csv").read_bytes() == rejected


def test_a_file_and_a_folder_are_the_same_store(source, tmp_path):
    build_store(source, tmp_path / "file.arrow", n_processes=1, shard_rows=130)
    build_store(source, tmp_path / "folder", n_processes=1, shard_rows=70)
    build_store(source, tmp_path / "whole.arrow", n_processes=1)
    one, other = MoleculeStore(tmp_path / "file.arrow"), MoleculeStore(tmp_path / "folder")
    assert len(one) == len(other) == 297
    assert (
        one.fingerprint == other.fingerprint == MoleculeStore(tmp_path / "whole.arrow").fingerprint
    )
    for a, b in zip(one, other, strict=True):
        assert (a.id, a.smiles) == (b.id, b.smiles)
        np.testing.assert_array_equal(a.bonds, b.bonds)


def test_progress_is_told(source, tmp_path):
    seen = []
    build_store(
        source,
        tmp_path / "out",
        n_processes=1,
        shard_rows=70,
        on_progress=lambda *told: seen.append(told),
    )
    assert [rows for rows, _ in seen] == [70, 140, 210, 280, 300]
    shares = [share for _, share in seen]
    assert shares == sorted(shares)
    assert shares[-1] == 1


@pytest.mark.parametrize("name", ["in.sdf", "in.sdf.gz"])
def test_sdf_is_numbered_through(tmp_path, name):
    text = "".join(METHANOL.format(title=f"m{i}") for i in range(1, 131))
    text = text.replace("m100\n  hand", "m100\nbroken")
    data = text.replace("m70\n  hand\n\n  2  1", "m70\n  hand\n\n  9  1").encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    out = tmp_path / "out.arrow"
    account = build_store(tmp_path / name, out, n_processes=1, shard_rows=40)
    assert (account.n_rows, account.n_written) == (130, 129)
    assert [(line["row"], line["id"]) for line in account_file(out)] == [(70, "m70")]
    store = MoleculeStore(out)
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


# --- conformers ----------------------------------------------------------------------------------


def test_conformers_depend_on_the_molecule_and_the_seed_alone(tmp_path):
    (tmp_path / "in.smi").write_text("CCO a\nCCCO b\n" * 40)
    (tmp_path / "other.smi").write_text("C\nCCCO b\n")
    wanted = ConformerConfig(n_conformers=2, seed=3, limit_s=60.0)

    def build(source, name, **named):
        account = build_store(tmp_path / source, tmp_path / name, conformers=wanted, **named)
        assert account.n_flat == 0
        return MoleculeStore(tmp_path / name)

    first = build("in.smi", "1.arrow", n_processes=1)
    assert first.fingerprint == build("in.smi", "2.arrow", n_processes=2).fingerprint
    expected = add_positions(read_smiles("CCCO"), seed=3, n_conformers=2)
    for molecule in (first[1], first[79], build("other.smi", "3.arrow")[1]):
        np.testing.assert_array_equal(molecule.positions, expected.positions)
        np.testing.assert_array_equal(molecule.energies, expected.energies)
        assert molecule.force_field == "MMFF94"


def test_molecules_without_conformers_stay_in_2d(tmp_path):
    (tmp_path / "in.smi").write_text(
        "CCO a\nC1C[C@@H]2C[C@@H]1C2 b\nnonsense c\n" + "C" * 400 + " d\n"
    )
    out = tmp_path / "out.arrow"
    wanted = ConformerConfig(n_conformers=1, limit_s=1.0)
    account = build_store(tmp_path / "in.smi", out, conformers=wanted)
    assert (account.n_written, account.n_rejected, account.n_flat) == (3, 1, 2)
    lines = account_file(out)
    assert [line["row"] for line in lines] == [2, 3, 4]
    assert lines[0]["reason"] == "2D only: could not be embedded: ETKDGv3 finds no geometry"
    assert lines[2]["reason"] == "2D only: no geometry within 1 s"
    assert [molecule.n_conformers for molecule in MoleculeStore(out)] == [1, 0, 0]


def test_a_second_build_finds_conformers_in_the_cache(tmp_path, monkeypatch):
    (tmp_path / "in.smi").write_text("CCO a\nCCC b\n")
    wanted = ConformerConfig(cache=tmp_path / "cache")
    build_store(tmp_path / "in.smi", tmp_path / "1.arrow", conformers=wanted)

    def compute(*_):
        raise AssertionError("this was computed before")

    monkeypatch.setattr("moleblend.chem.conformers.ConformerWorker.add_positions", compute)
    build_store(tmp_path / "in.smi", tmp_path / "2.arrow", conformers=wanted)
    first, second = (MoleculeStore(tmp_path / f"{k}.arrow") for k in (1, 2))
    assert first.fingerprint == second.fingerprint
    with pytest.raises(AssertionError):
        build_store(
            tmp_path / "in.smi",
            tmp_path / "3.arrow",
            conformers=ConformerConfig(seed=1, cache=tmp_path / "cache"),
        )


# --- stopped and resumed -------------------------------------------------------------------------


def stopped(after):
    """A function for `on_progress` that stops the build."""

    def stop(n_rows, _):
        if n_rows >= after:
            raise KeyboardInterrupt

    return stop


def test_a_stopped_build_goes_on_with_the_missing_shards(source, tmp_path):
    options = {"n_processes": 1, "shard_rows": 40}
    build_store(source, tmp_path / "unbroken", **options)
    out, parts = tmp_path / "out", tmp_path / ".out.parts"
    with pytest.raises(KeyboardInterrupt):
        build_store(source, out, **options, on_progress=stopped(170))
    assert not out.exists()
    assert count_unfinished(out) == 4
    whole = {path: path.stat().st_mtime_ns for path in parts.glob("shard-*")}
    (parts / ".shard-00004.arrow.1234abcd").write_text("what a killed build leaves")
    assert "unfinished build: continue it with --resume" in reason(source, out, **options)
    (parts / "shard-00001.arrow").unlink()
    with pytest.raises(KeyboardInterrupt):
        build_store(source, out, **options, resume=True, on_progress=stopped(210))
    assert count_unfinished(out) == 5
    for path, modified in whole.items():
        assert path.stat().st_mtime_ns == modified or "00001" in path.name
    account = build_store(source, out, **options, resume=True)
    assert (account.n_rows, account.n_rejected, account.n_shards, account.n_resumed) == (
        300,
        3,
        8,
        5,
    )
    assert contents(out) == contents(tmp_path / "unbroken")
    assert account_file(out) == account_file(tmp_path / "unbroken")
    assert not parts.exists()
    assert "no unfinished build" in reason(source, tmp_path / "other", resume=True)


def test_a_resumed_build_goes_on_as_it_began(tmp_path):
    source, out = tmp_path / "in.smi", tmp_path / "out.arrow"
    source.write_text("".join(f"{'C' * (i % 4 + 1)} m{i}\n" for i in range(150)))
    options = {"n_processes": 1, "shard_rows": 40, "conformers": ConformerConfig(limit_s=60.0)}
    with pytest.raises(KeyboardInterrupt):
        build_store(source, out, **options, on_progress=stopped(100))
    before = contents(tmp_path / ".out.arrow.parts")
    for changed, name in [
        ({"shard_rows": 41}, "shard_rows"),
        ({"features": "ogb-1"}, "features"),
        ({"conformers": ConformerConfig(limit_s=60.0, seed=1)}, "conformers.seed"),
        ({"conformers": None}, "conformers.n_conformers"),
    ]:
        text = reason(source, out, **{**options, **changed}, resume=True)
        assert f"it was started with: {name}" in text
    source.write_text(source.read_text().replace(" m7\n", " m8\n"))
    assert "it was started with: source; remove the folder" in reason(
        source, out, **options, resume=True
    )
    assert contents(tmp_path / ".out.arrow.parts") == before


def test_nothing_is_left_of_a_build_that_had_no_whole_shard(source, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        build_store(source, tmp_path / "out", n_processes=1, on_progress=stopped(1))
    assert list(tmp_path.iterdir()) == [source]


def test_killed_twice_and_resumed_is_the_unbroken_build(tmp_path):
    """With SIGKILL, at whatever moment that is."""
    source = tmp_path / "in.csv"
    rows = [f"{'C' * (i % 9 + 1)}O,m{i}\n" for i in range(4_000)]
    rows[1_400] = "nonsense,x\n"
    source.write_text("smiles,name\n" + "".join(rows))
    command = [sys.executable, "-m", "moleblend.cli.main", "data", "build", str(source)]
    options = ["--shard-rows", "200", "--processes", "2"]
    out, counts = tmp_path / "out.arrow", []
    for k in range(2):
        resume = ["--resume"] if k else []
        with subprocess.Popen(
            [*command, str(out), *options, *resume], stderr=subprocess.DEVNULL
        ) as build:
            deadline = time.monotonic() + 60
            while count_unfinished(out) < 4 * (k + 1):
                assert build.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.005)
            build.send_signal(signal.SIGKILL)
        assert not out.exists()
        counts.append(count_unfinished(out))
    assert 4 <= counts[0] <= counts[1] < 20
    end = subprocess.run([*command, str(out), *options, "--resume"], capture_output=True, text=True)
    assert end.returncode == 0
    assert "of 20 shards were already finished" in end.stderr
    assert "3,999 of 4,000 rows" in end.stderr
    unbroken = tmp_path / "unbroken.arrow"
    build_store(source, unbroken, shard_rows=200, n_processes=1)
    assert out.read_bytes() == unbroken.read_bytes()
    assert account_file(out) == account_file(unbroken)
    assert not (tmp_path / ".out.arrow.parts").exists()


# --- other tools ---------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["arrow", "parquet"])
def test_duckdb_polars_and_datasets_read_the_shards(tmp_path, ending):
    (tmp_path / "in.smi").write_text("".join(f"{'C' * (i % 9 + 1)}O m{i}\n" for i in range(50)))
    build_store(
        tmp_path / "in.smi",
        tmp_path / "out",
        shard_rows=20,
        shard_format=ending,
        conformers=ConformerConfig(),
    )
    shards = sorted((tmp_path / "out").glob("shard-*"))
    assert [path.suffix for path in shards] == [f".{ending}"] * 3
    polars = pytest.importorskip("polars")
    read = polars.read_ipc if ending == "arrow" else polars.read_parquet
    frame = polars.concat([read(path) for path in shards])
    assert frame["id"].to_list() == [f"m{i}" for i in range(50)]
    assert frame["atoms"].list.len().to_list()[:2] == [18, 27]
    assert frame["energies"].list.len().to_list() == [1] * 50
    duckdb = pytest.importorskip("duckdb")
    if ending == "arrow":  # through pyarrow, as DuckDB has no Arrow reader without an extension
        shard = pa.ipc.open_file(pa.memory_map(str(shards[1]))).read_all()  # noqa: F841
        asked = "SELECT id, len(atoms) / 9, len(positions) / 3 FROM shard LIMIT 1"
    else:
        asked = f"SELECT id, len(atoms) / 9, len(positions) / 3 FROM '{shards[1]}' LIMIT 1"
    assert duckdb.sql(asked).fetchall() == [("m20", 4, 4)]
    datasets = pytest.importorskip("datasets")
    loaded = datasets.load_dataset(
        ending, data_files=[str(path) for path in shards], cache_dir=str(tmp_path / "hf")
    )["train"]
    assert loaded.num_rows == 50
    assert loaded[21]["smiles"] == "CCCCO"
    assert len(loaded[21]["bonds"]) == 2 * 4
    if ending == "parquet":
        with pytest.raises(ValueError, match="shards are Parquet"):
            MoleculeStore(tmp_path / "out")
    else:
        assert len(MoleculeStore(shards[2])) == 10  # a shard is a store of its own


# --- refused -------------------------------------------------------------------------------------


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
    assert "must end in .arrow" in reason(source, tmp_path / "out.parquet")
    assert "need a folder" in reason(source, tmp_path / "out.arrow", shard_format="parquet")
    copy = tmp_path / "copy.arrow"
    copy.symlink_to(source)
    assert "overwrite" in reason(source, copy)
    assert "expected at least 1" in reason(source, tmp_path / "out.arrow", n_processes=0)
    assert "got shard_rows=0, expected at least 1" in reason(
        source, tmp_path / "out.arrow", shard_rows=0
    )
    reason(tmp_path / "no.csv", tmp_path / "out.arrow", kind=FileNotFoundError)
    assert "'smiles', 'name'" in reason(
        source, tmp_path / "out.arrow", smiles="structure", n_processes=1
    )
    (tmp_path / "folder").mkdir()
    assert "already a folder with this name" in reason(source, tmp_path / "folder")
    assert {path.name for path in tmp_path.iterdir()} == {"in.csv", "copy.arrow", "folder"}


def test_damage_in_a_later_row_costs_that_row(tmp_path):
    (tmp_path / "in.csv").write_text("smiles,name\n" + "C,a\n" * 9 + 'C,"b\nCC,c\n')
    out = tmp_path / "out.arrow"
    account = build_store(tmp_path / "in.csv", out, n_processes=1)
    assert (account.n_rows, account.n_written) == (11, 10)
    (row,) = account_file(out)
    assert row["row"] == 10
    assert row["reason"].startswith("cannot be read: ")


def test_columns_are_checked_in_a_process_too(source, tmp_path):
    text = reason(source, tmp_path / "out", smiles="structure", n_processes=2, shard_rows=50)
    assert "'smiles', 'name'" in text


def die(*_, **__):
    os._exit(1)


def test_a_process_that_dies_is_said(source, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "_read_piece", die)
    with pytest.raises(ChildProcessError, match="died"):
        build_store(source, tmp_path / "out.arrow", n_processes=2, shard_rows=50)
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


def test_two_builds_of_one_store(source, tmp_path):
    """The second would remove what the first is writing."""
    out = tmp_path / "out.arrow"
    with alone_with(out):
        assert "another process is using it" in reason(source, out)
        assert "another process is using it" in reason(source, out, resume=True)
    assert not out.exists()
    build_store(source, out, n_processes=1)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".out")]
