from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from moleblend.data.labels.cell_values import (
    ColumnValues,
    is_sign,
    may_have_thousands,
    read_column_values,
    read_number,
    read_sign,
)
from moleblend.data.table import Table

NAN = np.nan


def table(*cells: object, name: str = "y") -> Table:
    return Table(source=Path("assay.csv"), columns=pa.table({name: pa.array(list(cells))}))


def cells_of(*cells: object) -> ColumnValues:
    found = read_column_values(table(*cells), "y")
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("text", "value", "bound"),
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
def test_a_number_and_its_sign(text: str, value: float, bound: int) -> None:
    found = read_number(text)
    assert (found.value, found.bound, found.problem) == (value, bound, "")
    assert found.is_approximate == (text[0] in "~c")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        *((text, "is no number") for text in ("high", ">", "--5", "TRUE")),
        ("5 nM", "goes on after the number, a number alone was expected"),
        ("1_000", "goes on after the number, a number alone was expected"),
        ("1.5±0.2", "goes on after the number, a number alone was expected"),
        ("inf", "is infinite, a finite number was expected"),
        ("1e999", "is beyond the numbers that can be computed with"),
        (">0.01e-400", "is beyond the numbers that can be computed with"),
        ("=1+1", "is a formula, its value was expected"),
        ("2024-01-05", "is a date, a number was expected"),
    ],
)
def test_what_is_no_number(text: str, why: str) -> None:
    assert read_number(text).problem == f"{text!r} {why}"
    assert np.isnan(read_number(text).value)


def test_a_zero_with_any_exponent_is_zero() -> None:
    assert read_number("0.00e-400").value == 0


@pytest.mark.parametrize("text", ["1,5", "10,000", ">1,5", "-0,3"])
def test_a_comma_is_named(text: str) -> None:
    assert "has a comma: a number has a decimal point" in read_number(text).problem


def test_missing_words_and_malformed_rows_are_missing() -> None:
    given = table("1", "n.d.", "NA", "-", "", None, " 2 ", "?", "7")
    flawed = Table(given.source, given.columns, flaws={8: "the row has 1 cells"})
    cells = read_column_values(flawed, "y")
    assert cells is not None
    assert cells.texts == ["1", "2"]
    assert cells.which.tolist() == [0, -1, -1, -1, -1, -1, 1, -1, -1]
    assert read_column_values(table([1.0], None), "y") is None


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
    found = cells_of(*cells)
    assert found.has_commas
    assert found.texts == texts


@pytest.mark.parametrize(
    "cells",
    [
        ("1,500", "2,250"),  # thousands as well
        ("1,5", "1.5", "2,5"),  # both signs
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
    found = cells_of(*cells)
    assert not found.has_commas
    assert found.texts == list(dict.fromkeys(cells))


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
def test_dashes_are_missing_but_beside_plus_alone(cells: tuple[str, ...], texts: list[str]) -> None:
    assert cells_of(*cells).texts == texts


def test_a_plus_in_a_malformed_row_makes_no_class_of_dashes() -> None:
    given = table("1.5", "-", "+")
    flawed = Table(given.source, given.columns, flaws={2: "the row has 1 cells"})
    found = read_column_values(flawed, "y")
    assert found is not None
    assert (found.texts, found.which.tolist()) == (["1.5"], [0, -1, -1])


@pytest.mark.parametrize(
    ("sign", "bound", "is_approximate"),
    [(">", 1, False), ("=<", -1, False), ("=", 0, False), ("~", 0, True), ("", 0, False)],
)
def test_a_sign_alone(sign: str, bound: int, *, is_approximate: bool) -> None:
    assert read_sign(sign) == (bound, is_approximate)
    assert is_sign(sign) == bool(sign)
    assert not is_sign(f"{sign} 5")
