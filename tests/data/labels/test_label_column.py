from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from moleblend.data.labels.cell_values import TableCells
from moleblend.data.labels.label_column import LabelColumn, read_label_column
from moleblend.data.table import Table
from moleblend.data.targets import Task

NAN = np.nan


def table(*cells: object, name: str = "y") -> Table:
    return Table(source=Path("assay.csv"), columns=pa.table({name: pa.array(list(cells))}))


def read(given: Table, task: Task = "auto", *, log10: bool = False) -> LabelColumn:
    return read_label_column(TableCells(given), "y", task, log10=log10)


def test_decimal_commas_are_reported() -> None:
    labels = read(table("1,5", "<0,25", "3", "1,250", "n.d.", "-2,5e-3", "bad"))
    np.testing.assert_equal(labels.values, [1.5, 0.25, 3, 1.25, NAN, -0.0025, NAN])
    assert labels.censoring.tolist() == [0, -1, 0, 0, 0, 0, 0]
    assert labels.problems == {6: "'bad' is not a number"}
    assert labels.notes == ("'y': commas are read as decimal commas",)


def test_plus_is_class_1() -> None:
    for dash in ("-", "\N{EN DASH}"):
        labels = read(table("+", dash, dash, "", "+"))
        assert (labels.kind, labels.classes) == ("binary", ("-", "+"))
        np.testing.assert_equal(labels.values, [1, 0, 0, NAN, 1])


@pytest.mark.parametrize(
    ("cells", "kind", "classes"),
    [(("note", "1", "0", "1"), "binary", ("0", "1")), (("x", "b", "a", "b"), "binary", ("a", "b"))],
)
def test_a_malformed_row_decides_nothing(
    cells: tuple[str, ...], kind: str, classes: tuple[str, ...]
) -> None:
    given = table(*cells)
    flawed = Table(given.source, given.columns, flaws={0: "the row has 4 cells"})
    labels = read(flawed)
    assert (labels.kind, labels.classes) == (kind, classes)
    assert np.isnan(labels.values[0])
    nothing = Table(given.source, given.columns, flaws=dict.fromkeys(range(4), "4 cells"))
    with pytest.raises(ValueError, match="column 'y' has no labels, all its cells are empty"):
        read(nothing)


def test_censored_and_approximate_values_are_marked() -> None:
    labels = read(table("5", ">10", "<=0.5", "~3", "n.d."))
    assert labels.kind == "regression"
    np.testing.assert_equal(labels.values, [5, 10, 0.5, 3, NAN])
    assert labels.censoring.tolist() == [0, 1, -1, 0, 0]
    assert labels.n_approximate == 1
    assert labels.problems == {}


def test_a_bad_cell_makes_only_its_own_label_missing() -> None:
    labels = read(table("5", "high", "3", "1,5", "4"))
    np.testing.assert_equal(labels.values, [5, NAN, 3, NAN, 4])
    assert list(labels.problems) == [1, 3]
    assert labels.problems[1] == "'high' is not a number"


def test_more_bad_cells_than_good_ones_are_refused_in_one_sentence() -> None:
    commas = table("n.d.", "1,500", "2,500", "3,500", "4,500", "5", "6,500", "7,500")
    with pytest.raises(ValueError, match=r"^assay.csv, row 2: column 'y' should hold numbers") as e:
        read(commas, "regression")
    assert str(e.value).endswith("no separators (6 of 7 cells are not labels)")
    names = table(*(f"drug {k}" for k in range(30)))
    with pytest.raises(ValueError, match=r"row 1: column 'y' should hold numbers or a few classes"):
        read(names)
    with pytest.raises(ValueError, match=r"column 'y' has no labels, all its cells are empty$"):
        read(table("", "NA"))
    with pytest.raises(
        ValueError, match=r"column 'y' holds lists, expected one label in each row$"
    ):
        read(table([1.0, 2.0]))


@pytest.mark.parametrize(
    "cells",
    [
        ("0", "1", "1.0", "0"),
        ("inactive", "Active", "active", "INACTIVE"),
        ("no", "yes", "Yes", "No"),
        ("false", "TRUE", "True", "False"),
        (False, True, True, False),
        (0, 1, 1, 0),
    ],
)
def test_two_classes(cells: tuple[object, ...]) -> None:
    labels = read(table(*cells))
    assert labels.kind == "binary"
    assert labels.values.tolist() == [0, 1, 1, 0]
    assert not labels.notes


def test_two_unknown_texts_are_classes_in_alphabetical_order_which_is_reported() -> None:
    labels = read(table("sticky", "bitter", "bitter", "sticky"))
    assert (labels.kind, labels.classes) == ("binary", ("bitter", "sticky"))
    assert labels.values.tolist() == [1, 0, 0, 1]
    assert "class 1 is 'sticky'" in labels.notes[0]


def test_an_unknown_class_makes_only_its_own_label_missing() -> None:
    labels = read(table("1", "0", "2", "1"), "binary")
    np.testing.assert_equal(labels.values, [1, 0, NAN, 1])
    assert labels.problems == {2: "'2' is neither 0 nor 1"}
    with pytest.raises(
        ValueError, match="binary target 'y' needs two classes, got the labels 'a', 'b', 'c'"
    ):
        read(table("a", "b", "c", "a"), "binary")


def test_several_classes() -> None:
    labels = read(table("mid", "Low", "high", "low", "mid", "HIGH"))
    assert (labels.kind, labels.classes) == ("multiclass", ("high", "Low", "mid"))
    assert labels.values.tolist() == [2, 1, 0, 1, 2, 0]
    numbers = read(table("10", "2", "1", "2"), "multiclass")
    assert numbers.classes == ("1", "2", "10")
    assert numbers.values.tolist() == [2, 1, 0, 1]
    with pytest.raises(ValueError, match="has 30 distinct labels; a multi-class target has 2 to"):
        read(table(*map(str, range(30))), "multiclass")


def test_numbers_that_are_nearly_alike_are_different_classes() -> None:
    labels = read(table("1000001", "1000002", "1000003", "0.5"), "multiclass")
    assert labels.classes == ("0.5", "1000001", "1000002", "1000003")
    assert labels.values.tolist() == [1, 2, 3, 0]


def test_two_numbers_are_two_classes_by_order() -> None:
    labels = read(table("-1", "1", "1", "-1.0", ""), "binary")
    assert (labels.classes, labels.notes) == (("-1", "1"), ("'y': class 1 is 1, class 0 -1",))
    np.testing.assert_equal(labels.values, [0, 1, 1, 0, NAN])
    with pytest.raises(
        ValueError, match="binary target 'y' needs two classes, got the labels 1, 2, 3"
    ):
        read(table("1", "1", "2", "3"), "binary")
    assert read(table("0", "0"), "binary").values.tolist() == [0, 0]
    assert "--task binary uses them" in read(table("-1", "1")).notes[0]


def test_none_among_words_is_missing_which_is_reported() -> None:
    labels = read(table("mild", "none", "severe", "mild", "strong"), "multiclass")
    assert labels.classes == ("mild", "severe", "strong")
    assert "cells with the word none are read as missing: 1; if none is a class" in labels.notes[0]
    assert not read(table("0", "1", "none")).notes


def test_few_integers_are_numbers_unless_the_task_is_given() -> None:
    labels = read(table(*map(str, [1, 2, 3, 4, 5, 3])))
    assert labels.kind == "regression"
    assert "--task multiclass uses them as classes" in labels.notes[0]


def test_logarithms_need_positive_values() -> None:
    labels = read(table("10", "0", "-3", "1000", "5"), log10=True)
    np.testing.assert_equal(labels.values, [10, NAN, NAN, 1000, 5])
    assert labels.problems[2] == "log10 of -3 is not defined"
    with pytest.raises(ValueError, match="holds classes, which have no logarithm"):
        read(table("0", "1"), "binary", log10=True)


def test_a_span_of_decades_is_pointed_out() -> None:
    wide = table("0.5", "3", "9000", name="IC50 nM")
    (note,) = read_label_column(TableCells(wide), "IC50 nM").notes
    assert "spans 4.3 decades" in note
    assert "--log-scale 'IC50 nM'" in note
    assert not read_label_column(TableCells(wide), "IC50 nM", log10=True).notes
    assert not read(table("0.5", "3", "90")).notes
