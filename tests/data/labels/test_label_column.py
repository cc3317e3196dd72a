from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from moleblend.data.labels.label_column import read_label_column
from moleblend.data.table import Table

NAN = np.nan


def table(*cells: object, name: str = "y") -> Table:
    return Table(source=Path("assay.csv"), columns=pa.table({name: pa.array(list(cells))}))


def test_decimal_commas_are_told() -> None:
    found = read_label_column(table("1,5", "<0,25", "3", "1,250", "n.d.", "-2,5e-3", "bad"), "y")
    np.testing.assert_equal(found.values, [1.5, 0.25, 3, 1.25, NAN, -0.0025, NAN])
    assert found.censoring.tolist() == [0, -1, 0, 0, 0, 0, 0]
    assert found.problems == {6: "'bad' is no number"}
    assert found.notes == ("'y': its commas are decimal commas, and so it was read",)


def test_plus_is_class_1() -> None:
    for dash in ("-", "\N{EN DASH}"):
        found = read_label_column(table("+", dash, dash, "", "+"), "y")
        assert (found.kind, found.classes) == ("binary", ("-", "+"))
        np.testing.assert_equal(found.values, [1, 0, 0, NAN, 1])


@pytest.mark.parametrize(
    ("cells", "kind", "classes"),
    [(("note", "1", "0", "1"), "binary", ("0", "1")), (("x", "b", "a", "b"), "binary", ("a", "b"))],
)
def test_a_malformed_row_decides_nothing(
    cells: tuple[str, ...], kind: str, classes: tuple[str, ...]
) -> None:
    given = table(*cells)
    flawed = Table(given.source, given.columns, flaws={0: "the row has 4 cells"})
    found = read_label_column(flawed, "y")
    assert (found.kind, found.classes) == (kind, classes)
    assert np.isnan(found.values[0])
    nothing = Table(given.source, given.columns, flaws=dict.fromkeys(range(4), "4 cells"))
    with pytest.raises(ValueError, match="column 'y' has no label, all its cells are empty"):
        read_label_column(nothing, "y")


def test_bounds_and_approximate_values_are_kept_as_such() -> None:
    found = read_label_column(table("5", ">10", "<=0.5", "~3", "n.d."), "y")
    assert found.kind == "regression"
    np.testing.assert_equal(found.values, [5, 10, 0.5, 3, NAN])
    assert found.censoring.tolist() == [0, 1, -1, 0, 0]
    assert found.n_approximate == 1
    assert found.problems == {}


def test_a_bad_cell_costs_itself_alone() -> None:
    found = read_label_column(table("5", "high", "3", "1,5", "4"), "y")
    np.testing.assert_equal(found.values, [5, NAN, 3, NAN, 4])
    assert list(found.problems) == [1, 3]
    assert found.problems[1] == "'high' is no number"


def test_more_bad_cells_than_good_ones_are_refused_in_one_sentence() -> None:
    commas = table("n.d.", "1,500", "2,500", "3,500", "4,500", "5", "6,500", "7,500")
    with pytest.raises(ValueError, match=r"^assay.csv, row 2: column 'y' should hold numbers") as e:
        read_label_column(commas, "y", "regression")
    assert str(e.value).endswith("no separators, and so it is with 6 of 7 cells")
    names = table(*(f"drug {k}" for k in range(30)))
    with pytest.raises(ValueError, match=r"row 1: column 'y' should hold numbers or a few classes"):
        read_label_column(names, "y")
    with pytest.raises(ValueError, match=r"column 'y' has no label, all its cells are empty$"):
        read_label_column(table("", "NA"), "y")
    with pytest.raises(ValueError, match=r"column 'y' holds lists, one label a row was expected$"):
        read_label_column(table([1.0, 2.0]), "y")


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
    found = read_label_column(table(*cells), "y")
    assert found.kind == "binary"
    assert found.values.tolist() == [0, 1, 1, 0]
    assert not found.notes


def test_two_unknown_texts_are_classes_by_the_alphabet_which_is_said() -> None:
    found = read_label_column(table("sticky", "bitter", "bitter", "sticky"), "y")
    assert (found.kind, found.classes) == ("binary", ("bitter", "sticky"))
    assert found.values.tolist() == [1, 0, 0, 1]
    assert "class 1 is 'sticky'" in found.notes[0]


def test_a_doubtful_cell_among_classes_costs_itself_alone() -> None:
    found = read_label_column(table("1", "0", "2", "1"), "y", "binary")
    np.testing.assert_equal(found.values, [1, 0, NAN, 1])
    assert found.problems == {2: "'2' is neither 0 nor 1"}
    with pytest.raises(ValueError, match="is to be binary, but has the labels 'a', 'b', 'c'"):
        read_label_column(table("a", "b", "c", "a"), "y", "binary")


def test_several_classes() -> None:
    found = read_label_column(table("mid", "Low", "high", "low", "mid", "HIGH"), "y")
    assert (found.kind, found.classes) == ("multiclass", ("high", "Low", "mid"))
    assert found.values.tolist() == [2, 1, 0, 1, 2, 0]
    numbers = read_label_column(table("10", "2", "1", "2"), "y", "multiclass")
    assert numbers.classes == ("1", "2", "10")
    assert numbers.values.tolist() == [2, 1, 0, 1]
    with pytest.raises(ValueError, match="has 30 different labels, a multi-class target has 2 to"):
        read_label_column(table(*map(str, range(30))), "y", "multiclass")


def test_numbers_that_are_nearly_alike_are_different_classes() -> None:
    found = read_label_column(table("1000001", "1000002", "1000003", "0.5"), "y", "multiclass")
    assert found.classes == ("0.5", "1000001", "1000002", "1000003")
    assert found.values.tolist() == [1, 2, 3, 0]


def test_two_numbers_are_two_classes_by_order() -> None:
    found = read_label_column(table("-1", "1", "1", "-1.0", ""), "y", "binary")
    assert (found.classes, found.notes) == (("-1", "1"), ("'y': class 1 is 1, class 0 -1",))
    np.testing.assert_equal(found.values, [0, 1, 1, 0, NAN])
    with pytest.raises(ValueError, match="is to be binary, but has the labels 1, 2, 3"):
        read_label_column(table("1", "1", "2", "3"), "y", "binary")
    assert read_label_column(table("0", "0"), "y", "binary").values.tolist() == [0, 0]
    assert "--task binary takes them" in read_label_column(table("-1", "1"), "y").notes[0]


def test_none_among_words_is_missing_which_is_said() -> None:
    found = read_label_column(table("mild", "none", "severe", "mild", "strong"), "y", "multiclass")
    assert found.classes == ("mild", "severe", "strong")
    assert "cells that say none are taken as missing: 1; if that is a class" in found.notes[0]
    assert not read_label_column(table("0", "1", "none"), "y").notes


def test_few_whole_numbers_are_numbers_unless_said_otherwise() -> None:
    found = read_label_column(table(*map(str, [1, 2, 3, 4, 5, 3])), "y")
    assert found.kind == "regression"
    assert "--task multiclass takes them as classes" in found.notes[0]


def test_logarithms_need_positive_values() -> None:
    found = read_label_column(table("10", "0", "-3", "1000", "5"), "y", log10=True)
    np.testing.assert_equal(found.values, [10, NAN, NAN, 1000, 5])
    assert found.problems[2] == "log10 of -3 does not exist"
    with pytest.raises(ValueError, match="holds classes, which have no logarithm"):
        read_label_column(table("0", "1"), "y", "binary", log10=True)


def test_a_span_of_decades_is_pointed_out() -> None:
    wide = table("0.5", "3", "9000", name="IC50 nM")
    (note,) = read_label_column(wide, "IC50 nM").notes
    assert "spans 4.3 decades" in note
    assert "--log-scale 'IC50 nM'" in note
    assert not read_label_column(wide, "IC50 nM", log10=True).notes
    assert not read_label_column(table("0.5", "3", "90"), "y").notes
