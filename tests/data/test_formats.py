import gzip
import tracemalloc
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moleblend.chem.molecule import Molecule
from moleblend.chem.parsing import read_smiles
from moleblend.data.formats import read_pieces, read_table, write_table
from moleblend.data.labels.cell_values import read_numbers
from moleblend.data.store import write_store
from moleblend.data.table import Rejected, find_smiles_column, read_molecules
from moleblend.errors import TableError
from tests.helpers.tables import read, reason, write_file

METHANOL = """methanol
  hand

  2  1  0  0  0  0  0  0  0  0999 V2000
    0.0000    0.0000    0.5000 C   0  0  0  0  0  0  0  0  0  0  0  0
    1.4000    0.0000    0.5000 O   0  0  0  0  0  0  0  0  0  0  0  0
  1  2  1  0
M  END
"""
BROKEN = METHANOL.replace("methanol", "broken").replace("  1  2  1  0", "  1  9  1  0")


def record(block, **properties):
    fields = "".join(f"> <{name}>\n{value}\n\n" for name, value in properties.items())
    return f"{block}{fields}$$$$\n"


def cells(table):
    return [tuple(row.values()) for row in table.columns.to_pylist()]


# --- reading -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.CSV"])
def test_cells_of_a_csv_are_the_strings_of_the_file(tmp_path, name):
    path = write_file(tmp_path / name, 'smiles,y,note\nC , 007,"a ""b"",\nc"\nCC,NA,\n')
    table = read_table(path)
    assert table.names == ["smiles", "y", "note"]
    assert cells(table) == [("C ", " 007", 'a "b",\nc'), ("CC", "NA", "")]
    assert table.lines == (2, 4)
    assert len(table) == 2


def test_byte_order_mark_line_ends_and_blank_lines_do_not_reach_the_cells(tmp_path):
    path = tmp_path / "hiv.csv"
    path.write_bytes(b"\xef\xbb\xbfsmiles,y\r\n\nC,1\r\n\nCC,0\r\n\n  \r\n\n")
    table = read_table(path)
    assert table.names == ["smiles", "y"]
    assert cells(table) == [("C", "1"), ("CC", "0")]
    assert table.lines == (3, 5)
    assert table.notes == ()


def test_tab_separated(tmp_path):
    table = read_table(write_file(tmp_path / "t.tsv", "smiles\tname\nC\ta,b\n"))
    assert cells(table) == [("C", "a,b")]


@pytest.mark.parametrize(("sign", "told"), [(";", "semicolons"), ("\t", "tabs")])
def test_a_csv_of_a_spreadsheet_that_separates_otherwise(tmp_path, sign, told):
    text = f'"Name"{sign}Smiles{sign}y\r\nx, "z{sign}C{sign}1,5\r\n'
    table = read_table(write_file(tmp_path / "t.csv", text, "utf-8-sig"))
    assert table.names == ["Name", "Smiles", "y"]
    assert cells(table) == [('x, "z', "C", "1,5")]
    assert f"read with {told} as delimiters" in table.notes[0]
    alone = read_table(write_file(tmp_path / "alone.csv", f'"a{sign}b"\nC\n'))
    assert (alone.names, alone.notes) == ([f"a{sign}b"], ())


def test_ragged_rows_stay_and_say_so(tmp_path):
    table = read_table(write_file(tmp_path / "t.csv", "smiles,y\nC,1\nCC\nCCC,1,2\nCCCC,4,\n"))
    assert cells(table) == [("C", "1"), ("CC", ""), ("CCC", "1"), ("CCCC", "4")]
    assert table.flaws == {
        1: "the row has 1 cell, the header has 2",
        2: "the row has 3 cells, the header has 2",
    }
    items = read(table)
    assert [isinstance(item, Molecule) for item in items] == [True, False, False, True]
    assert items[2] == Rejected(3, "row 3", "the row has 3 cells, the header has 2")


def test_latin_1_is_read_and_noted(tmp_path):
    path = write_file(tmp_path / "t.csv", "smiles,name\nC,Müller\n", encoding="latin-1")
    table = read_table(path)
    assert cells(table) == [("C", "Müller")]
    assert table.notes == (
        f"{path} is not UTF-8 from line 2 on; invalid bytes are read as Latin-1",
    )


def test_one_latin_1_letter_leaves_the_others_as_they_are(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes("smiles,y\nC,≥5\nCC,".encode() + b"5 \xb5M\n" + "C,3 µM\n".encode())
    table = read_table(path)
    assert cells(table) == [("C", "≥5"), ("CC", "5 µM"), ("C", "3 µM")]
    assert "from line 3 on" in table.notes[0]


def test_utf_16_is_refused(tmp_path):
    path = write_file(tmp_path / "t.tsv", "smiles\ty\nC\t1\n", encoding="utf-16")
    assert reason(read_table, path) == f"{path}: the text is UTF-16; save it as UTF-8"


def test_smi_has_no_header(tmp_path):
    table = read_table(write_file(tmp_path / "t.smi", "CC\tan ethane \n\n C\n"))
    assert table.names == ["smiles", "name"]
    assert cells(table) == [("CC", "an ethane"), ("C", "")]
    assert table.lines == (1, 3)
    assert [item.id for item in read(table)] == ["an ethane", "row 2"]


@pytest.mark.parametrize("name", ["t.sdf", "t.sdf.gz"])
def test_sdf_keeps_broken_records_and_every_property(tmp_path, name):
    text = record(METHANOL, y="1.5") + record(BROKEN, note="x") + record(METHANOL, y="2")
    table = read_table(write_file(tmp_path / name, text))
    assert table.columns.to_pylist() == [
        {"name": "methanol", "y": "1.5", "note": None},
        {"name": "broken", "y": None, "note": "x"},
        {"name": "methanol", "y": "2", "note": None},
    ]
    np.testing.assert_array_equal(read_numbers(table, "y"), [1.5, np.nan, 2])
    first, second, third = read(table)
    assert isinstance(second, Rejected)
    assert (second.row, second.id) == (2, "broken")
    assert first.id == third.id == "methanol"
    np.testing.assert_allclose(first.positions[0, :, 2], 0.5)


def test_parquet_keeps_types(tmp_path):
    columns = pa.table({"smiles": ["C"], "y": pa.array([1], pa.int8()), "v": [[1.5, 2]]})
    pq.write_table(columns, tmp_path / "t.parquet")
    assert read_table(tmp_path / "t.parquet").columns.equals(columns)


AWKWARD_FILES = {
    "ragged.csv": b"smiles,y\nC,1\nCC\n\nCCC,1,2\n  \nCCCC,4,\nO,5\nN,6\n",
    "quoted.csv": b"\xef\xbb\xbfsmiles,note\r\n"
    b'C,"a\r\n\r\nb"\r\n\r\nCC,"x ""y"",z"\rN,\r\nO,1\nS,2',
    "no rows.csv": b"smiles,y\n",
    "latin.tsv": "smiles\tname\nC\tMüller\nCC\ta\nCCC\tb\n".encode("latin-1"),
    "lines.smi": b"CC\tan ethane \n\n C\r\nO  water\n\t\nN\rS x y z",
    "blocks.sdf": "".join(
        record(block, **named)
        for block, named in [(METHANOL, {"y": 1}), (BROKEN, {}), (METHANOL, {"y": 2, "z": 3})] * 2
    ).encode(),
}


@pytest.mark.parametrize("n_rows", [1, 2, 3, 5, 100])
@pytest.mark.parametrize("name", [*AWKWARD_FILES, "ragged.csv.gz", "lines.smi.gz", "blocks.sdf.gz"])
def test_pieces_are_the_table(tmp_path, name, n_rows):
    data = AWKWARD_FILES[name.removesuffix(".gz")]
    path = tmp_path / name
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    assert_pieces_are_the_table(path, n_rows)


def assert_pieces_are_the_table(path, n_rows):
    whole = read_table(path)
    pieces = list(read_pieces(path, n_rows))
    assert [len(piece) for piece in pieces[:-1]] == [n_rows] * (len(pieces) - 1)
    assert 0 < len(pieces[-1]) <= n_rows or len(whole) == 0
    seen = 0
    for piece in pieces:
        assert piece.n_before == seen
        assert piece.notes == whole.notes
        same = whole.piece(seen, seen + len(piece))
        assert (piece.flaws, piece.lines, piece.blocks) == (same.flaws, same.lines, same.blocks)
        assert piece.columns.equals(same.columns)
        seen += len(piece)
    assert seen == len(whole)
    shares = [piece.share_read for piece in pieces]
    assert shares == sorted(shares)
    assert len(whole) == 0 or shares[-1] == 1.0


@pytest.mark.parametrize("n_rows", [1, 4, 7, 100])
def test_pieces_of_parquet_cross_row_groups(tmp_path, n_rows):
    columns = pa.table(
        {
            "smiles": pa.array(["C", None, "CC"] * 7).dictionary_encode(),
            "v": pa.array([[1.5, 2], None, []] * 7, pa.list_(pa.float32())),
        }
    )
    pq.write_table(columns, tmp_path / "t.parquet", row_group_size=6)
    assert_pieces_are_the_table(tmp_path / "t.parquet", n_rows)
    pq.write_table(columns.slice(0, 0), tmp_path / "t.parquet")
    assert_pieces_are_the_table(tmp_path / "t.parquet", n_rows)


cell_texts = st.text(st.sampled_from('C1 ,"\n\r\t\u00e9\ufeff'), max_size=6)


@settings(deadline=None)  # the disk sets the pace
@given(text=cell_texts, n_rows=st.integers(1, 3), encoding=st.sampled_from(["utf-8", "latin-1"]))
@pytest.mark.parametrize("ending", [".csv", ".smi"])
def test_pieces_of_any_text_are_the_table(tmp_path_factory, ending, text, n_rows, encoding):
    path = tmp_path_factory.mktemp("any") / f"t{ending}"
    path.write_bytes(text.encode(encoding, errors="replace"))
    try:
        read_table(path)
    except ValueError as error:
        refused = str(error)
    else:
        assert_pieces_are_the_table(path, n_rows)
        return
    assert reason(lambda: list(read_pieces(path, n_rows))) == refused


def test_only_a_piece_is_in_memory(tmp_path):
    path = write_file(tmp_path / "t.csv", "smiles,y\n" + "CCCCCCCCCC,1234567890\n" * 100_000)
    pieces = read_pieces(path, 100)
    next(pieces)
    tracemalloc.start()
    for _ in range(300):
        next(pieces)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 500_000 < path.stat().st_size


def test_a_file_that_ends_too_early_is_refused_before_a_row_is_given(tmp_path):
    path = tmp_path / "t.sdf.gz"
    random = np.random.default_rng(0)  # else all would be packed into one block
    records = [record(METHANOL) + random.bytes(300).hex() + "\n" for _ in range(200)]
    path.write_bytes(gzip.compress("".join(records).encode())[:-9])
    assert "is truncated or damaged" in reason(next, read_pieces(path, 40))
    assert "expected at least 1" in reason(read_pieces, path, 0)


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("t.csv", b"", "t.csv: the file is empty"),
        ("t.csv", b"\n \n", "t.csv: the file is empty"),
        ("t.sdf", b"", "t.sdf: the file is empty"),
        ("t.csv.gz", gzip.compress(b""), "t.csv.gz: the file is empty"),
        (
            "t.csv.gz",
            gzip.compress(b"smiles\nC\n" * 99)[:-9],
            "the gzip file is truncated or damaged",
        ),
        ("t.csv.gz", b"smiles\nC\n", "the gzip file is truncated or damaged"),
        ("t.sdf.gz", gzip.compress(record(METHANOL).encode() * 99)[:-9], "t.sdf.gz"),
        ("t.parquet", b"smiles\nC\n", "not a Parquet file"),
        ("t.xlsx", b"PK", "save a sheet as .csv"),
        ("t.parquet.gz", b"PK", "unknown ending"),
        ("table", b"C", "unknown ending"),
    ],
    # Names of their own: gzip writes the time into its bytes, and every worker has to see the
    # same test names.
    ids=[
        "empty csv",
        "blank csv",
        "empty sdf",
        "empty csv.gz",
        "truncated csv.gz",
        "csv called gz",
        "truncated sdf.gz",
        "csv called parquet",
        "Excel",
        "parquet.gz",
        "no ending",
    ],
)
def test_unreadable_files(tmp_path, name, data, expected):
    path = tmp_path / name
    path.write_bytes(data)
    assert expected in reason(read_table, path)


def test_truncated_parquet(tmp_path):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"y": np.arange(1000)}), path)
    path.write_bytes(path.read_bytes()[:-20])
    assert "truncated" in reason(read_table, path)


def test_missing_file_and_folder(tmp_path):
    assert "no such file" in reason(read_table, tmp_path / "no.csv", kind=FileNotFoundError)
    (tmp_path / "folder.csv").mkdir()
    assert "folder" in reason(read_table, tmp_path / "folder.csv")


# --- writing -------------------------------------------------------------------------------------

texts = st.text(st.characters(codec="utf-8", exclude_characters="\x00\ufeff"))


@settings(deadline=None)  # the disk sets the pace
@given(rows=st.lists(st.tuples(texts, texts), min_size=1))
@pytest.mark.parametrize("ending", [".csv", ".tsv", ".parquet"])
def test_written_cells_come_back(tmp_path_factory, ending, rows):
    path = tmp_path_factory.mktemp("round") / f"t{ending}"
    columns = pa.table({"smiles": [row[0] for row in rows], "y": [row[1] for row in rows]})
    write_table(columns, path)
    assert read_table(path).columns.to_pydict() == columns.to_pydict()


def test_text_of_written_cells(tmp_path):
    columns = pa.table(
        {
            "x": pa.array([0.1, None], pa.float32()),
            "y": [1 / 3, 1e-9],
            "n": [1, None],
            "v": [[1.5, 2.0], None],
        }
    )
    write_table(columns, tmp_path / "new" / "t.csv")
    assert (tmp_path / "new" / "t.csv").read_bytes() == (
        b'x,y,n,v\n0.1,0.3333333333333333,1,"[1.5, 2.0]"\n,1e-09,,\n'
    )


def test_what_cannot_be_written(tmp_path):
    columns = pa.table({"x": [1]})
    assert ".csv, .tsv and .parquet" in reason(write_table, columns, tmp_path / "t.xlsx")
    (tmp_path / "folder.csv").mkdir()
    assert "folder" in reason(write_table, columns, tmp_path / "folder.csv")


# --- real files ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "n_rows", "smiles", "label", "n_missing"),
    [
        ("moleculenet/HIV.csv.gz", 41_127, "smiles", "HIV_active", 0),
        ("moleculenet/bace.csv.gz", 1_513, "mol", "pIC50", 0),
        ("moleculenet/delaney-processed.csv", 1_128, "smiles", None, 0),
        ("moleculenet/tox21.csv.gz", 7_831, "smiles", "NR-AR", 566),
    ],
)
def test_moleculenet_files(data_folder, name, n_rows, smiles, label, n_missing):
    table = read_table(data_folder / name)
    assert len(table) == n_rows
    assert not table.flaws
    assert find_smiles_column(table) == smiles
    if label:
        assert np.isnan(read_numbers(table, label)).sum() == n_missing


@pytest.mark.parametrize("n_rows", [1, 2, None])
def test_an_unclosed_quote_costs_one_row(tmp_path, n_rows):
    """It would take all rows behind it into one cell."""
    text = 'smiles,y\nC,1\n"CC,2\nCCC,3\n"C",4\n"a\nb",5\n"C"C,6\nCN,7\n'
    path = write_file(tmp_path / "t.csv", text)
    tables = list(read_pieces(path, n_rows))
    rows = [row for table in tables for row in cells(table)]
    assert rows == [
        ("C", "1"),
        ('"CC,2', ""),
        ("CCC", "3"),
        ("C", "4"),
        ("a\nb", "5"),
        ('"C"C,6', ""),
        ("CN", "7"),
    ]
    assert [line for table in tables for line in table.lines or ()] == [2, 3, 4, 5, 6, 8, 9]
    flaws = {t.n_before + row: text for t in tables for row, text in t.flaws.items()}
    assert flaws.keys() == {1, 5}
    assert all(flaw.startswith("cannot be read: ") for flaw in flaws.values())
    items = [item for table in tables for item in read_molecules(table)]
    assert [type(item) for item in items].count(Rejected) == 3  # and a SMILES of two lines


def test_a_header_that_cannot_be_read(tmp_path):
    text = reason(read_table, write_file(tmp_path / "t.csv", '"smiles,y\nC,1\n'))
    assert text.startswith(f"{tmp_path / 't.csv'}, line 1: cannot be read: ")


def test_quotes_of_a_file_with_tabs_are_part_of_the_cells(tmp_path) -> None:
    path = tmp_path / "in.tsv"
    rows = ["smiles\tname\ty", 'C\t5"-methyl\t1', 'CC\t"a" b\t2', 'CCC\t"whole ""cell"""\t3']
    rows += ['CCCC\t"open\t4', 'CCCCC\tclose"\t5', "CCCCCC\tlast\t6"]
    path.write_text("\n".join(rows) + "\n")
    table = read_table(path)
    names = ['5"-methyl', '"a" b', 'whole "cell"', '"open', 'close"', "last"]
    assert table.column("name").to_pylist() == names
    assert table.column("y").to_pylist() == list("123456")
    assert not table.flaws


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("smiles;solubility, mg/L\nC;5,3\nCC;6,1\n", ["smiles", "solubility, mg/L"]),
        ("smiles;y (pH 7,4);z\nC;5.3;1\nCC;6.1;2\n", ["smiles", "y (pH 7,4)", "z"]),
        ("smiles\ty, %\nC\t1\nCC\t2\n", ["smiles", "y, %"]),
        ('smiles,name,y\nC,"a;b",1\nCC,"c;d",2\n', ["smiles", "name", "y"]),
    ],
)
def test_the_delimiter_is_judged_by_several_lines(tmp_path, text: str, names: list[str]) -> None:
    path = tmp_path / "in.csv"
    path.write_text(text)
    assert read_table(path).names == names


@pytest.mark.parametrize("ending", [".smi", ".cxsmiles"])
def test_the_extension_belongs_to_the_smiles(tmp_path, ending: str) -> None:
    path = tmp_path / f"in{ending}"
    path.write_text("C[C@H](F)O |&1:1| first one\nCC second\nCCC\n")
    table = read_table(path)
    assert table.column("smiles").to_pylist() == ["C[C@H](F)O |&1:1|", "CC", "CCC"]
    assert table.column("name").to_pylist() == ["first one", "second", ""]
    path.write_text("SMILES\tid\tMW\nC[C@H](F)O |&1:1|\tZ1\t64\n")
    assert read_table(path).names == ["SMILES", "id", "MW"]


@pytest.mark.parametrize("n_rows", [None, 2])
def test_stores_are_read_back_with_their_geometry(tmp_path, n_rows):
    two = np.arange(6, dtype=np.float32).reshape(1, 2, 3)
    molecules = [
        replace(read_smiles("CCO", id="a"), positions=np.ones((2, 3, 3), np.float32)),
        read_smiles("C", id="b"),
        replace(read_smiles("OC", id="c"), positions=two),
    ]
    path = tmp_path / "in.arrow"
    write_store(molecules, path, features="cip-1", batch_size=2)
    pieces = list(read_pieces(path, n_rows))
    assert [len(piece) for piece in pieces] == ([3] if n_rows is None else [2, 1])
    columns = pa.concat_tables([piece.columns for piece in pieces])
    assert columns.column("name").to_pylist() == ["a", "b", "c"]
    assert columns.column("smiles").to_pylist() == ["CCO", "C", "CO"]
    assert columns.column("coordinates").to_pylist() == [[1.0] * 9, None, [0, 1, 2, 3, 4, 5]]
    pq.write_table(pa.ipc.open_file(path).read_all(), tmp_path / "shard.parquet")
    assert read_table(tmp_path / "shard.parquet").columns.equals(columns.combine_chunks())
    (tmp_path / "bad.arrow").write_bytes(b"no")
    with pytest.raises(TableError, match="not an Arrow file"):
        read_table(tmp_path / "bad.arrow")
