from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from moleblend.cli import main as cli
from moleblend.data.datasets import fetch as datasets
from moleblend.data.datasets.catalogue import Counts, known_datasets
from moleblend.data.datasets.download import DownloadError, Progress
from moleblend.data.datasets.fetch import content_sha256
from tests.helpers.ogb import ogb_zip

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work where ESOL is two molecules, and nothing else is here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MOLEBLEND_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(datasets, "cache_folder", lambda: tmp_path / "cache")
    path = tmp_path / "data" / known_datasets()["esol"].file
    path.parent.mkdir(parents=True)
    path.write_text("smiles,measured log solubility in mols per litre\nC,1\nC1C,2\n")
    known = replace(known_datasets()["esol"], content=content_sha256(path), expected=None)
    monkeypatch.setitem(known_datasets(), "esol", known)
    return tmp_path


def run(capfd: Capture, command: str, code: int = 0) -> tuple[str, str]:
    capfd.readouterr()
    assert cli.main(["data", *command.split()]) == code
    said = capfd.readouterr()
    return said.out, said.err


def test_list(capfd: Capture) -> None:
    out, _ = run(capfd, "list")
    (esol,) = [line for line in out.splitlines() if " esol " in line]
    assert "1,128" in esol
    assert "yes" in esol
    assert out.count(" yes ") == 1
    assert all(f" {name} " in out for name in known_datasets())


def test_show(capfd: Capture, folder: Path) -> None:
    out, _ = run(capfd, "show esol")
    path = folder / "data/moleculenet/delaney-processed.csv"
    assert f"file        {path}\n" in out
    assert "(log mol/L)" in out
    assert out.endswith(
        f"moleblend train {path} --out runs/esol "
        "--target 'measured log solubility in mols per litre'\n"
    )
    out, _ = run(capfd, "show tox21-u")
    assert "not found; expected at" in out
    assert "fetch       moleblend data fetch tox21-u\n" in out
    assert "--split split" in out


def test_the_command_that_show_gives_names_labels_from_the_file(
    capfd: Capture, folder: Path
) -> None:
    path = folder / "data/unimol_split/sider.csv"
    path.parent.mkdir()
    path.write_text("smiles,one,two words,split\n")
    assert run(capfd, "show sider-u")[0].endswith("--target one 'two words'\n")


def test_check(capfd: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    out, _ = run(capfd, "check --processes 1")
    (esol,) = [line for line in out.splitlines() if " esol " in line]
    cells = [cell.strip() for cell in esol.split("│")[1:-1]]
    assert cells == ["esol", "2", "1", "1,128", "2", "ok", "rows that are not molecules: 1"]
    known = replace(known_datasets()["esol"], expected=Counts(rows=2, labels=2, parsed=2, valid=2))
    monkeypatch.setitem(known_datasets(), "esol", known)
    out, err = run(capfd, "check esol --processes 1", code=2)
    assert " esol " in out
    assert err == (
        "moleblend: differences from the catalogue: "
        "esol: valid 1, expected 2; esol: largest 1, expected 0\n"
    )


def test_another_content_is_no_success(capfd: Capture, folder: Path) -> None:
    path = folder / "data/moleculenet/delaney-processed.csv"
    path.write_text(path.read_text().replace("C,1", "C,3"))
    _, err = run(capfd, "check esol --processes 1", code=2)
    assert err == "moleblend: differences from the catalogue: esol: the hash differs\n"


def test_fetch(capfd: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def bring(url: str, path: Path, on_progress: Progress, **_: object) -> None:
        if "SAMPL" not in url:
            raise DownloadError(f"{url} cannot be reached (no route)")
        on_progress(3, None)
        path.write_text("smiles,expt\n")

    monkeypatch.setattr(datasets, "download", bring)
    _, err = run(capfd, "fetch lipo", code=2)
    assert err.count("\n") == 1
    assert "cannot be reached (no route); download Lipophilicity.csv from https://" in err
    known = replace(known_datasets()["freesolv"], content=None)
    monkeypatch.setitem(known_datasets(), "freesolv", known)
    out, err = run(capfd, "fetch freesolv --out there")
    assert out == ""
    assert err == "freesolv is at there/moleculenet/SAMPL.csv\n"


def test_export(capfd: Capture, folder: Path) -> None:
    run(capfd, "export esol esol.parquet")
    assert pq.read_table("esol.parquet").column("smiles").to_pylist() == ["C", "C1C"]
    zipped = folder / "data/pcqm4mv2/pcqm4m-v2.zip"
    zipped.parent.mkdir()
    ogb_zip(zipped)
    run(capfd, "export pcqm4mv2 pcqm.parquet")
    assert pq.read_table("pcqm.parquet").column_names == ["index", "smiles", "gap", "split"]
    assert "output name that ends in" in run(capfd, "export pcqm4mv2 pcqm.csv", code=2)[1]
    assert "data fetch qm9" in run(capfd, "export qm9 qm9.csv", code=2)[1]
    assert not Path("pcqm.csv").exists()


def test_names_that_do_not_exist(capfd: Capture) -> None:
    for command in ("show x", "fetch x", "check x", "export x y.csv"):
        out, err = run(capfd, command, code=2)
        assert out == ""
        assert err.startswith("moleblend: unknown data set 'x'; available: bbbp, tox21")
        assert err.count("\n") == 1
