import hashlib
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moleblend.data.datasets import fetch as datasets
from moleblend.data.datasets.catalogue import Counts, Source, known_datasets
from moleblend.data.datasets.fetch import content_sha256
from moleblend.data.datasets.integrity import check
from tests.helpers.ogb import BLOCK, ogb_tar, ogb_zip, split_pt


@pytest.fixture
def put(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put a file in the data folder under the name of a set, with what is known of it."""
    monkeypatch.setenv("MOLEBLEND_DATA", str(tmp_path))
    monkeypatch.setattr(datasets, "cache_folder", lambda: tmp_path / "cache")

    def put(name: str, text: str, **changes: Any) -> Path:
        path = tmp_path / changes.get("file", known_datasets()[name].file)
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, newline="")
        if "content" not in changes:
            changes["content"] = content_sha256(path)
        changes = {"expected": None, **changes}
        monkeypatch.setitem(known_datasets(), name, replace(known_datasets()[name], **changes))
        return path

    return put


def test_what_a_table_holds(put: Any) -> None:
    rows = [
        "smiles,measured log solubility in mols per litre",
        "OCC,1.0",  # ethanol three ways, within 0.5 and not
        "CCO ,1.5",
        "",
        "C(O)C,2",
        "CC,1",
        "CC,1.5",
        "FAIL,1",
        "C1CC,1",
        "c1ccccc1,",
    ]
    put("esol", "\r\n".join(rows) + "\r\n")
    result = check("esol", n_processes=1)
    assert result.counts == Counts(
        rows=8,
        labels=7,
        parsed=8,
        valid=6,
        largest=6,
        repeated=3,
        contradicting=1,
        padded=1,
        fails=1,
        blank_lines=1,
    )
    assert result.labels == {"measured log solubility in mols per litre": (7, 0)}
    assert result.hash == "ok"
    assert result.differences == ()
    assert result.defects == (
        "rows that are not molecules: 2",
        "rows with FAIL instead of a SMILES: 1",
        "rows that repeat a molecule: 3",
        "molecules with contradicting labels: 1",
        "SMILES with surrounding blanks: 1",
        "rows before an empty line: 1",
    )


def test_classes_contradict_each_other_where_both_are_known(put: Any) -> None:
    text = "smiles,FDA_APPROVED,CT_TOX\nC,1,0\nC,,0\nN,1,\nN,,0\nO,1,1\nO,1,0\n"
    put("clintox", text, file="moleculenet/clintox.csv")
    result = check("clintox", n_processes=1)
    assert (result.counts.repeated, result.counts.contradicting) == (3, 1)
    assert result.labels == {"FDA_APPROVED": (4, 4), "CT_TOX": (5, 1)}
    assert (result.counts.labels, result.counts.positives) == (9, 5)


def test_differences_from_the_catalogue_are_reported(put: Any) -> None:
    path = put(
        "freesolv", "smiles,expt\nC,1\nN,2\n", expected=Counts(rows=3, labels=2, parsed=2, valid=2)
    )
    assert check("freesolv", n_processes=1).differences == (
        "rows 2, expected 3",
        "largest 1, expected 0",
    )
    path.write_text("smiles,expt\nC,1\nN,3\n")
    assert check("freesolv", n_processes=1).hash == "another content"
    put("freesolv", "smiles,expt\nC,1\n", content=None)
    assert check("freesolv", n_processes=1).hash == "unknown"


def test_progress_is_reported(put: Any) -> None:
    put("freesolv", "smiles,expt\n" + "C,1\n" * 599)
    reports: list[tuple[int, int]] = []
    check("freesolv", n_processes=1, on_progress=lambda *now: reports.append(now))
    assert reports == [(512, 599), (599, 599)]


def test_pcqm4mv2_by_its_published_hash(put: Any) -> None:
    path = put("pcqm4mv2", "", content=None)
    ogb_zip(path)
    result = check("pcqm4mv2", n_processes=1)
    assert result.hash == "another content"
    assert result.counts == Counts(rows=5, labels=3, parsed=1, valid=1, largest=10)
    source = known_datasets()["pcqm4mv2"].sources[0]
    md5 = hashlib.md5(path.read_bytes()).hexdigest()
    put("pcqm4mv2", "", content=None, sources=(Source(source.url, f"md5:{md5}"),))
    ogb_zip(path)
    assert check("pcqm4mv2", n_processes=1).hash == "ok"
    ogb_zip(path, parts=split_pt({"train": np.array([0, 1, 2, 3])}))
    with pytest.raises(ValueError, match=r"split_dict.pt has 4 rows, data.csv.gz 5"):
        check("pcqm4mv2", n_processes=1)


def test_geometries_are_records(put: Any) -> None:
    ogb_tar(put("pcqm4mv2-3d", "", content=None), 3)
    result = check("pcqm4mv2-3d", n_processes=1).counts
    assert result == Counts(rows=3, parsed=3, valid=3, largest=2, repeated=2)
    broken = BLOCK.format(row=0).replace("  1  2  1  0", "  1  9  1  0")
    put("geom-drugs", f"{broken}$$$$\n", content=None, file="geom/drugs.sdf")
    assert check("geom-drugs", n_processes=1).counts == Counts(rows=1, parsed=1)


# --- real files ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bbbp", "clintox", "sider", "bace", "esol", "freesolv"])
def test_small_sets_are_as_in_the_catalogue(
    data_folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Labels of each task as the notes on the files count them; the rest as `expected` says."""
    monkeypatch.setenv("MOLEBLEND_DATA", str(data_folder))
    result = check(name, n_processes=1)
    assert result.hash == "ok"
    assert known_datasets()[name].expected == result.counts
    assert result.differences == ()
    notes = (data_folder / "moleculenet/README.md").read_text()
    counted = re.search(rf"^- {name}: (.* \d+/\d+)$", notes, re.MULTILINE)
    expected = {}
    for task in re.finditer(r"(.+?) (\d+)/(\d+)(?:, |$)", counted[1] if counted else ""):
        expected[task[1]] = (int(task[2]) + int(task[3]), int(task[2]))
    assert bool(expected) == known_datasets()[name].classes
    if expected:
        assert result.labels == expected
