import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from moleblend.chem.parse_errors import MISSING_WORDS, RdkitErrorCollector
from moleblend.data.formats import read_table
from moleblend.data.labels.cell_values import (
    ColumnValues,
    TableCells,
    is_qualifier,
    may_have_thousands,
    read_column_values,
    read_number,
    read_numbers,
    read_qualifier,
)
from moleblend.data.table import Table
from tests.helpers.tables import write_file

NAN = np.nan


def table(*cells: object, name: str = "y") -> Table:
    return Table(source=Path("assay.csv"), columns=pa.table({name: pa.array(list(cells))}))


def cells_of(*cells: object) -> ColumnValues:
    cells_read = read_column_values(table(*cells), "y")
    assert cells_read is not None
    return cells_read


@pytest.mark.parametrize(
    ("text", "value", "censoring"),
    [
        ("5", 5, 0),
        ("-1.5e3", -1500, 0),
        (".5", 0.5, 0),
        ("\N{MINUS SIGN}2", -2, 0),
        ("=7", 7, 0),
        (">10000", 10000, 1),
        (">= 5", 5, 1),
        ("≥5", 5, 1),
        ("=> 5", 5, 1),
        (">>5", 5, 1),
        ("<0.1", 0.1, -1),
        ("<=0.1", 0.1, -1),
        ("≤ 0.1", 0.1, -1),
        ("~3", 3, 0),
        ("ca. 3", 3, 0),
    ],
)
def test_a_number_and_its_qualifier(text: str, value: float, censoring: int) -> None:
    parsed = read_number(text)
    assert (parsed.value, parsed.censoring, parsed.problem) == (value, censoring, "")
    assert parsed.is_approximate == (text[0] in "~c")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        *((text, "is not a number") for text in ("high", ">", "--5", "TRUE")),
        ("5 nM", "has text after the number, expected only a number"),
        ("1_000", "has text after the number, expected only a number"),
        ("1.5±0.2", "has text after the number, expected only a number"),
        ("inf", "is infinite, expected a finite number"),
        ("1e999", "is outside the range of a 64-bit float"),
        (">0.01e-400", "is outside the range of a 64-bit float"),
        ("=1+1", "is a formula, expected its value"),
        ("2024-01-05", "is a date, expected a number"),
    ],
)
def test_texts_that_are_not_numbers(text: str, why: str) -> None:
    assert read_number(text).problem == f"{text!r} {why}"
    assert np.isnan(read_number(text).value)


def test_a_zero_with_any_exponent_is_zero() -> None:
    assert read_number("0.00e-400").value == 0


@pytest.mark.parametrize("text", ["1,5", "10,000", ">1,5", "-0,3"])
def test_a_comma_is_named(text: str) -> None:
    assert "has a comma, expected a decimal point" in read_number(text).problem


def test_missing_words_and_malformed_rows_are_missing() -> None:
    given = table("1", "n.d.", "NA", "-", "", None, " 2 ", "?", "7")
    flawed = Table(given.source, given.columns, flaws={8: "the row has 1 cells"})
    cells = read_column_values(flawed, "y")
    assert cells is not None
    assert cells.texts == ["1", "2"]
    assert cells.which.tolist() == [0, -1, -1, -1, -1, -1, 1, -1, -1]
    assert read_column_values(table([1.0], None), "y") is None


@pytest.mark.parametrize("word", sorted(MISSING_WORDS))
def test_columns_of_labels_and_of_smiles_have_the_same_missing_words(word: str) -> None:
    assert cells_of("1", word.upper()).texts == ["1"]
    expected = "it is a spreadsheet error" if word[-1] in "!?" and word != "?" else "missing"
    assert expected in RdkitErrorCollector().reason(word.upper())


@pytest.mark.parametrize(
    ("cells", "texts"),
    [
        (("1,5", "<0,25", "3", "-2,5e-3", "bad"), ["1.5", "<0.25", "3", "-2.5e-3", "bad"]),
        (("0,123", "0,456", "1,250"), ["0.123", "0.456", "1.250"]),
    ],
)
def test_decimal_commas_are_points_where_they_can_be_nothing_else(
    cells: tuple[str, ...], texts: list[str]
) -> None:
    values = cells_of(*cells)
    assert values.has_commas
    assert values.texts == texts


@pytest.mark.parametrize(
    "cells",
    [
        ("1,500", "2,250"),  # thousands as well
        ("1,5", "1.5", "2,5"),  # points and commas
        ("1,5", "1,000,000", "2,5"),  # a separator for certain
        ("1,5", "1,000.5", "2,5"),
        ("1,5", "2", "3", "4", "5"),  # may be two numbers
        ("1,500", "2,250", "12,000", "950", "0,5", "700"),  # a slip among thousands
        ("1,500", "2,250", "12,000", "0,5", "7,5"),  # two of five are clear
        ("25,776",) * 60 + ("100",) * 39 + ("7,5",),
        ("a", "b", "c", "1,5"),
    ],
)
def test_other_commas_stay(cells: tuple[str, ...]) -> None:
    values = cells_of(*cells)
    assert not values.has_commas
    assert values.texts == list(dict.fromkeys(cells))


@pytest.mark.parametrize(
    ("cells", "may_be"),
    [
        (("1.500", "20", "350", "12.500"), True),
        (("1.500", "0.5"), False),
        (("0.500", "1.250"), False),
        (("20", "350"), False),
        (("1,500", "0,5"), False),
    ],
)
def test_points_that_may_separate_thousands(cells: tuple[str, ...], *, may_be: bool) -> None:
    assert may_have_thousands(cells_of(*cells)) == may_be


@pytest.mark.parametrize(
    ("cells", "texts"),
    [
        (("+", "-", ""), ["+", "-"]),
        (("+", "\N{EN DASH}", "\N{MINUS SIGN}"), ["+", "-"]),
        (("(+)", "(-)", "'+", "'-"), ["+", "-"]),
        (("++", "+", "-", "--", "NA"), ["++", "+", "-", "--"]),
        (("+", "+/-", "-"), ["+", "+/-", "-"]),
        (("1.5", "-", "--", "\N{EM DASH}"), ["1.5"]),
        (("active", "inactive", "-", "+"), ["active", "inactive", "+"]),
        (("-", "--"), []),
    ],
)
def test_dashes_are_missing_unless_all_other_cells_have_plus(
    cells: tuple[str, ...], texts: list[str]
) -> None:
    assert cells_of(*cells).texts == texts


def test_a_plus_in_a_malformed_row_makes_no_class_of_dashes() -> None:
    given = table("1.5", "-", "+")
    flawed = Table(given.source, given.columns, flaws={2: "the row has 1 cells"})
    cells = read_column_values(flawed, "y")
    assert cells is not None
    assert (cells.texts, cells.which.tolist()) == (["1.5"], [0, -1, -1])


@pytest.mark.parametrize(
    ("qualifier", "censoring", "is_approximate"),
    [(">", 1, False), ("=<", -1, False), ("=", 0, False), ("~", 0, True), ("", 0, False)],
)
def test_a_qualifier_alone(qualifier: str, censoring: int, *, is_approximate: bool) -> None:
    assert read_qualifier(qualifier) == (censoring, is_approximate)
    assert is_qualifier(qualifier) == bool(qualifier)
    assert not is_qualifier(f"{qualifier} 5")


def test_each_column_is_read_once_and_when_it_is_asked_for() -> None:
    table_cells = TableCells(table("1", "2"))
    assert table_cells["y"] is table_cells["y"]
    assert list(table_cells) == ["y"]
    with pytest.raises(ValueError, match="no column 'z'"):
        table_cells["z"]


# --- columns in which every cell must be a number ------------------------------------------------


def test_numbers_and_missing_ones() -> None:
    texts = ["1", " -2.5e1 ", "", "NA", "nan", "None", None, ".5", "n.d.", "-", ">10"]
    expected = [1, -25, *[NAN] * 5, 0.5, NAN, NAN, 10]
    np.testing.assert_array_equal(read_numbers(table(*texts), "y"), expected)
    np.testing.assert_array_equal(read_numbers(table("1,5", "0,25", None), "y"), [1.5, 0.25, NAN])
    np.testing.assert_array_equal(read_numbers(table(1, None, 3), "y"), [1, NAN, 3])
    np.testing.assert_array_equal(read_numbers(table(0.1, NAN, None), "y"), [0.1, NAN, NAN])
    given = Table(Path("t.csv"), pa.table({"y": [1.5, 2.5]}), flaws={0: "the row has 1 cells"})
    np.testing.assert_array_equal(read_numbers(given, "y"), [NAN, 2.5])


@pytest.mark.parametrize(
    ("cell", "problem"),
    [
        ("abc", "'abc' is not a number"),
        ("1,500", "'1,500' has a comma, expected a decimal point and no separators"),
        ("inf", "'inf' is infinite, expected a finite number"),
        (np.inf, "'inf' is infinite"),
    ],
)
def test_a_cell_that_is_not_a_number_is_named_with_its_row(cell: object, problem: str) -> None:
    message = f"assay.csv, row 2: column 'y' should hold numbers, but {problem}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        read_numbers(table(None, cell), "y")


def test_a_column_of_lists_holds_no_numbers() -> None:
    with pytest.raises(ValueError, match="column 'y' holds lists, expected numbers"):
        read_numbers(table([1.0], None), "y")


def test_the_line_of_a_cell_that_is_not_a_number(tmp_path: Path) -> None:
    path = write_file(tmp_path / "t.csv", "smiles,y\nC,1\n\nCC,ten\n")
    with pytest.raises(ValueError, match=r"t\.csv, row 2 \(line 4\): .* but 'ten' is not a number"):
        read_numbers(read_table(path), "y")


def test_numbers_of_malformed_rows_are_missing(tmp_path: Path) -> None:
    given = read_table(write_file(tmp_path / "t.csv", "smiles,name,y\nC,a,1\nC,b,c,2\n"))
    np.testing.assert_array_equal(read_numbers(given, "y"), [1, NAN])
