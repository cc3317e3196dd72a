import gzip
import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moleblend.data.datasets import fetch as datasets
from moleblend.data.datasets.catalogue import Dataset, known_datasets
from moleblend.data.datasets.download import DownloadError
from moleblend.data.datasets.fetch import (
    atomisation_energies,
    content_sha256,
    describe_dataset,
    fetch,
    find,
    folders,
    is_here,
    read,
)
from moleblend.data.formats import read_table
from moleblend.data.table import Table


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data folder, and an empty cache."""
    monkeypatch.setenv("MOLEBLEND_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(datasets, "cache_folder", lambda: tmp_path / "cache")
    return tmp_path


# --- descriptions ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", known_datasets())
def test_every_set_is_described_whether_its_file_exists_or_not(here: Path, name: str) -> None:
    description = dict(describe_dataset(name))
    place = here / "data" / known_datasets()[name].file
    assert description["file"] == f"not found; expected at {place}"
    assert description["use"].startswith("moleblend ")
    assert ("hash unknown" in description["content"]) == (known_datasets()[name].content is None)


def test_an_unknown_name_is_answered_with_the_available_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown data set 'qm8'; available: bbbp, .*qm9"):
        find("qm8")


# --- locations ----- ------------------------------------------------------------------------------


def test_the_named_folder_comes_before_the_cache(here: Path) -> None:
    assert not is_here("esol")
    cached = here / "cache/moleculenet/delaney-processed.csv"
    named = here / "data/moleculenet/delaney-processed.csv.gz"
    for path in (cached, named):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"")
        assert find("esol") == path


def test_without_a_named_folder_there_is_the_cache(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MOLEBLEND_DATA")
    assert folders() == [here / "cache"]


def test_a_missing_file_is_reported_with_its_expected_path(here: Path) -> None:
    place = here / "data/moleculenet/BBBP.csv"
    with pytest.raises(
        FileNotFoundError, match="run `moleblend data fetch bbbp`, or put the file at"
    ) as error:
        find("bbbp")
    assert str(error.value).endswith(str(place))
    with pytest.raises(FileNotFoundError, match="make it from its published form"):
        find("geom-drugs")


def test_large_sets_are_no_tables() -> None:
    with pytest.raises(
        ValueError, match=r"moleblend\.data\.datasets\.streaming reads it in pieces"
    ):
        read("pcqm4mv2")


# --- hashes --------------------------------------------------------------------------------------


def test_compression_does_not_change_the_content(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"smiles\nC\n")
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(b"smiles\nC\n", 1))
    (tmp_path / "c.sdf.tar.gz").write_bytes(gzip.compress(b"smiles\nC\n", 1))
    plain = content_sha256(tmp_path / "a.csv")
    assert plain == hashlib.sha256(b"smiles\nC\n").hexdigest()
    assert content_sha256(tmp_path / "b.csv.gz") == plain
    assert content_sha256(tmp_path / "c.sdf.tar.gz") != plain


def test_parquet_is_known_by_its_values(tmp_path: Path) -> None:
    columns: dict[str, Any] = {
        "smiles": pa.array(["C", None, "CC"]),
        "z": pa.array([[6, 1], [], None], pa.list_(pa.uint8())),
        "y": pa.array([0.5, None, 1]),
    }
    table = pa.table(columns)
    path = tmp_path / "t.parquet"
    pq.write_table(table, path)
    known = content_sha256(path)
    pq.write_table(table, path, compression="zstd", row_group_size=1, use_dictionary=False)
    assert content_sha256(path) == known
    others = [
        {**columns, "smiles": pa.array(["C", "", "CC"])},
        {**columns, "z": pa.array([[6], [1], None], pa.list_(pa.uint8()))},
        {**columns, "z": pa.array([[6, 1], [], None], pa.list_(pa.int8()))},
        {**columns, "y": pa.array([0.5, 0, 1])},
        {"smiles": columns["smiles"], "z": columns["z"], "x": columns["y"]},
    ]
    for other in others:
        pq.write_table(pa.table(other), path)
        assert content_sha256(path) != known


# --- fetching ------------------------------------------------------------------------------------


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """What the network holds: contents by address."""
    files: dict[str, bytes] = {}

    def bring(url: str, path: Path, **_: Any) -> None:
        if url not in files:
            raise DownloadError(f"{url} cannot be reached (no route)")
        path.write_bytes(files[url])

    monkeypatch.setattr(datasets, "download", bring)
    return files


def known(monkeypatch: pytest.MonkeyPatch, name: str, **changes: Any) -> Dataset:
    changed = replace(known_datasets()[name], **changes)
    monkeypatch.setitem(known_datasets(), name, changed)
    return changed


def test_a_published_file_is_kept_if_its_hash_is_that_of_the_catalogue(
    here: Path, published: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = known_datasets()["bbbp"].sources[0].url
    published[url] = b"smiles,p_np\nC,1\n"
    with pytest.raises(ValueError, match="is not the bbbp of the catalogue"):
        fetch("bbbp")
    assert not is_here("bbbp")
    (here / "ours.csv").write_bytes(published[url])
    known(monkeypatch, "bbbp", content=content_sha256(here / "ours.csv"))
    path = fetch("bbbp")
    assert path == find("bbbp") == here / "cache/moleculenet/BBBP.csv"
    published.clear()
    assert fetch("bbbp") == path  # it is here already
    assert fetch("bbbp", here / "cache") == path
    path.write_bytes(b"of someone else")
    with pytest.raises(ValueError, match=r"BBBP\.csv is not the bbbp of the catalogue"):
        fetch("bbbp")
    assert path.read_bytes() == b"of someone else"


def test_a_set_with_a_documented_difference_is_kept(
    here: Path, published: dict[str, bytes]
) -> None:
    published[known_datasets()["muv"].sources[0].url] = gzip.compress(b"smiles\nC\n")
    assert fetch("muv", here / "other") == here / "other/moleculenet/muv.csv.gz"


@pytest.mark.usefixtures("here")
def test_published_sets_become_one_table(
    published: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    for source, row in zip(known_datasets()["freesolv-u"].sources, ("C", "CC", "CCC"), strict=True):
        text = f",smiles,labels,masks\n0,{row},[-1.5],[1.0]\n"
        published[source.url] = text.encode()
    with pytest.raises(ValueError, match="is not the freesolv-u of the catalogue"):
        fetch("freesolv-u")
    known(monkeypatch, "freesolv-u", content=None)
    assert fetch("freesolv-u").read_text() == (
        "smiles,expt,split\nC,-1.5,train\nCC,-1.5,valid\nCCC,-1.5,test\n"
    )


@pytest.mark.usefixtures("here")
def test_labels_without_names_get_those_of_the_raw_file(
    published: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    published[known_datasets()["toxcast"].sources[0].url] = gzip.compress(
        b"smiles,p,q\nC,0.0,\nN,1.0,1\n"
    )
    for source in known_datasets()["toxcast-u"].sources:
        published[source.url] = b',smiles,labels,masks\n0,N,"[1, 1]","[1, 1]"\n'
    known(monkeypatch, "toxcast", content=None)
    known(monkeypatch, "toxcast-u", content=None)
    assert fetch("toxcast-u").read_text() == (
        "smiles,p,q,split\nC,0,,train\nN,1,1,valid\nN,1,1,test\n"
    )


@pytest.mark.usefixtures("published")
def test_without_a_network_the_message_says_what_to_put_where(here: Path) -> None:
    with pytest.raises(
        DownloadError, match=r"download BBBP.csv from https://\S+ on a machine"
    ) as error:
        fetch("bbbp")
    assert f"put it at {here / 'cache/moleculenet/BBBP.csv'}" in str(error.value)
    with pytest.raises(DownloadError, match=r"put it at \S+published/moses/molsets-0.3.1-py3-none"):
        fetch("moses")
    with pytest.raises(ValueError, match="geom-drugs cannot be fetched"):
        fetch("geom-drugs")


# --- QM9 -----------------------------------------------------------------------------------------


def test_atomisation_energies_are_zero_for_free_atoms() -> None:
    hartree = 27.211386246
    table = pa.table(
        {
            "atomic_numbers": pa.array([[1], [8, 1, 1], [9]], pa.list_(pa.uint8())),
            "u0": np.array([-0.500273, -76.404702, -99.718730]) * hartree,
            "u298": np.array([-0.498857, -76.401867, -99.717314]) * hartree,
            "h298": np.array([-0.497912, -76.400922, -99.716370]) * hartree,
            "g298": np.array([-0.510927, -76.422349, -99.733544]) * hartree,
        }
    )
    read = atomisation_energies(Table(Path("qm9.parquet"), table)).columns.to_pydict()
    water = (-76.404702 + 75.064579 + 2 * 0.500273) * hartree
    np.testing.assert_allclose(read["u0_atomisation"], [0, water, 0], atol=1e-9)
    for name in ("u298", "h298", "g298"):
        assert read[f"{name}_atomisation"][0] == pytest.approx(0, abs=1e-9)
        # thermal contributions of a water molecule are within 0.2 eV of those of its atoms
        assert read[f"{name}_atomisation"][1] == pytest.approx(water, abs=1.0)


def test_qm9_against_its_statistics(data_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOLEBLEND_DATA", str(data_folder))
    columns = read("qm9").columns
    statistics = read_table(data_folder / "qm9/stats.csv").columns.to_pylist()
    assert len(statistics) == 16
    for row in statistics:
        name = row[""].replace("u0_atomization(derived)", "u0_atomisation")
        values = columns[name].to_numpy()
        assert values.mean() == pytest.approx(float(row["mean"]), rel=1e-9)
        assert values.std() == pytest.approx(float(row["std"]), rel=1e-5)


def test_local_files_have_the_hashes_of_the_catalogue(
    data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but the largest two, which `moleblend data check` reads."""
    monkeypatch.setenv("MOLEBLEND_DATA", str(data_folder))
    sums = {
        line.split()[1]: line.split()[0]
        for line in (data_folder / "moleculenet/SHA256SUMS").read_text().splitlines()
    }
    for name, known in known_datasets().items():
        if known.kind == "table" and name not in ("qm9", "moses"):
            path = find(name)
            assert content_sha256(path) == known.content
            if path.suffix != ".gz":
                assert known.content == sums[path.name]


def test_protocol_u_is_reproduced_from_the_raw_file(data_folder: Path) -> None:
    """The training set of MUV is made from the raw file; the other sets are local."""
    table = read_table(data_folder / "unimol_split/muv.csv.gz")
    rows = np.array(table.column("split").to_pylist()) == "train"
    raw = read_table(data_folder / "moleculenet/muv.csv.gz").column("smiles").to_pylist()
    train = np.array(table.column("smiles").to_pylist())[rows]
    others = set(np.array(table.column("smiles").to_pylist())[~rows].tolist())
    assert [smiles for smiles in raw if smiles not in others] == train.tolist()
