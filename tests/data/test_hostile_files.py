"""Files that change, have no line ends, or hold types and texts that programs stumble over."""

import csv
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moleblend.chem import parsing
from moleblend.data import delimited_rows, sdf
from moleblend.data.formats import read_pieces, read_table, without_formula, write_table
from moleblend.data.table import Rejected, plain_columns, read_molecules
from moleblend.errors import TableError

ROWS = [f"{'C' * (k + 1)},{k}" for k in range(9)]
RECORD = "\n  x\n\n  0  0  0  0  0  0  0  0  0  0999 V2000\nM  END\n$$$$\n"


def write(path: Path) -> None:
    if path.suffix == ".parquet":
        table = pa.table({"smiles": [row.split(",")[0] for row in ROWS]})
        pq.write_table(table, path, row_group_size=2)
    elif path.suffix == ".sdf":
        path.write_text(RECORD * 9)
    else:
        path.write_text("\n".join(["smiles,n", *ROWS, ""]))


@pytest.mark.parametrize("name", ["in.csv", "in.smi", "in.sdf", "in.parquet"])
def test_a_source_that_changes_while_it_is_read_is_said(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    write(path)
    assert sum(map(len, read_pieces(path, 2))) >= 9
    pieces = read_pieces(path, 2)
    next(pieces)
    with path.open("ab") as file:
        file.write(b"C,1\n")
    with pytest.raises(TableError, match=r"in\.[a-z]+: "):
        list(pieces)
    write(path)
    pieces = read_pieces(path, 2)
    next(pieces)
    os.utime(path, ns=(1, 1))  # replaced by a file of the same size
    with pytest.raises(TableError, match="the file was changed while it was read"):
        list(pieces)


@pytest.mark.parametrize("ending", ["csv", "tsv", "smi", "sdf"])
def test_a_line_without_end_does_not_fill_the_memory(
    tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sdf, "LONGEST_LINE", 1000)
    path = tmp_path / f"in.{ending}"
    path.write_text("smiles\n" + "C" * 1001 + "\n")
    with pytest.raises(TableError, match=r"line 2: more than 1,000 characters"):
        read_table(path)


def test_a_record_without_end_does_not_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sdf, "LONGEST_LINE", 1000)
    monkeypatch.setattr(delimited_rows, "LONGEST_LINE", 1000)
    path = tmp_path / "in.sdf"
    path.write_text("C\n" * 2000)
    with pytest.raises(TableError, match="a record has more than 1,000 characters"):
        read_table(path)
    path = tmp_path / "in.csv"
    path.write_text("smiles,n\n" + '"C\n",' * 500 + "\nCC,1\n")
    table = read_table(path)
    assert "more than 1,000 characters" in table.flaws[0]
    assert table.columns["smiles"].to_pylist()[-1] == "CC"


@pytest.mark.parametrize(
    ("kind", "plain"),
    [
        (pa.string_view(), pa.string()),
        (pa.binary_view(), pa.binary()),
        (pa.list_(pa.string_view()), pa.list_(pa.string())),
        (pa.list_view(pa.float64()), pa.list_(pa.float64())),
        (pa.list_(pa.float32()), pa.list_(pa.float32())),
        (pa.large_string(), pa.large_string()),
        (pa.dictionary(pa.int32(), pa.string()), pa.dictionary(pa.int32(), pa.string())),
    ],
)
def test_views_of_arrow_become_plain_types(kind: pa.DataType, plain: pa.DataType) -> None:
    assert plain_columns(pa.table({"a": pa.array([None], kind)})).schema.field("a").type == plain


def test_string_views_in_a_parquet_file_are_texts(tmp_path: Path) -> None:
    path = tmp_path / "in.parquet"
    pq.write_table(pa.table({"smiles": pa.array(["CC", None], pa.string_view())}), path)
    for table in (read_table(path), next(read_pieces(path, 1))):
        assert table.columns["smiles"].type == pa.string()
        assert not isinstance(next(iter(read_molecules(table))), Rejected)


@pytest.mark.parametrize("error", [ValueError, RuntimeError])
def test_an_exception_of_rdkit_is_that_of_one_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    """RDKit finds some problems only when it uses a molecule."""
    label = parsing.atom_rows

    def refuse(mol: object, *args: object, **kwargs: object) -> object:
        if mol.GetNumAtoms() == 3:  # ty: ignore[unresolved-attribute]
            raise error("Invariant Violation\n\tbad")
        return label(mol, *args, **kwargs)

    monkeypatch.setattr(parsing, "atom_rows", refuse)
    path = tmp_path / "in.smi"
    path.write_text("CC\nCCO\nCCN C\nO\n")
    items = list(read_molecules(read_table(path)))
    assert [isinstance(item, Rejected) for item in items] == [False, True, True, False]
    assert items[1].reason == "RDKit cannot use the molecule: Invariant Violation bad"


@pytest.mark.parametrize(
    ("cell", "written"),
    [
        ("=1+1", "'=1+1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("+cmd|' /C x'!A0", "'+cmd|' /C x'!A0"),
        ("-2+3", "'-2+3"),
        ("\t=1", "'\t=1"),
        *((same, same) for same in ("+", "-", "", "-1.5e-3", "+2", "-inf", "a=1", None, -1.5, 3)),
    ],
)
def test_a_text_of_ours_is_no_formula(cell: object, written: object) -> None:
    assert without_formula(cell) == written


def test_only_columns_of_ours_are_changed(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    table = pa.table({"=given": ["=1+1"], "status": ["ok"], "=1+1_pred": ["=x()"]})
    write_table(table, path, "status")
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [["=given", "status", "'=1+1_pred"], ["=1+1", "ok", "'=x()"]]
    write_table(table, tmp_path / "out.parquet", "status")
    assert pq.read_table(tmp_path / "out.parquet").equals(table)
