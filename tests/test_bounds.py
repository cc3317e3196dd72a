from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from moleblend.assay import Assay, notes_of_cells, read_assay
from moleblend.rows import Table

NAN = np.nan
VALUES = ["20.5", "10", "30", "45", "65", "55"]
SIGNS = ["'>'", "'='", "'<'", "'>='", "", "'~'"]  # as ChEMBL writes them


def read(relation: str = "auto", *targets: str, **columns: list) -> Assay:
    given = {name.replace("__", " "): pa.array(cells) for name, cells in columns.items()}
    table = Table(Path("assay.csv"), pa.table({"smiles": ["C"] * 6} | given))
    return read_assay(table, targets, relation=relation, not_targets=["smiles"])


def test_the_signs_of_the_only_target_are_bounds_and_this_is_told() -> None:
    assay = read(Standard__Relation=SIGNS, Standard__Value=VALUES)
    assert assay.relation == "Standard Relation"
    assert assay.bounds[:, 0].tolist() == [1, 0, -1, 1, 0, 0]
    assert assay.values[:, 0].tolist() == [20.5, 10, 30, 45, 65, 55]
    assert assay.measurements[0].n_approximate == 1
    (note,) = assay.notes
    assert note == (
        "the signs of bounds of 'Standard Value' are read from column 'Standard Relation'; "
        "--relation none leaves it"
    )
    table = Table(Path("assay.csv"), pa.table({"smiles": ["C"] * 6}))
    assert (
        "labels that are bounds, such as >10: 3;" in notes_of_cells(table, assay.measurements[0])[0]
    )


def test_none_leaves_them_and_signs_without_bounds_are_nothing() -> None:
    assay = read("none", Relation=SIGNS, Value=VALUES)
    assert (assay.relation, assay.notes) == ("", ())
    assert not assay.bounds.any()
    equal = read(Relation=["="] * 5 + ["~"], Value=VALUES)
    assert (equal.relation, equal.notes) == ("", ())


@pytest.mark.parametrize(
    ("columns", "targets", "why"),
    [
        ({"Ki_relation": SIGNS, "value": VALUES}, (), "its name is not of 'value'; --relation"),
        ({"sign": SIGNS, "pIC50": VALUES}, (), "'pIC50' may be a negative logarithm, and where >"),
        ({"sign": SIGNS, "op": SIGNS, "Ki": VALUES}, (), "there are several such columns"),
        (
            {"sign": SIGNS, "Ki": VALUES, "IC50": VALUES},
            ("Ki", "IC50"),
            "it is one for several targets; write the sign into the cells",
        ),
    ],
)
def test_where_it_is_not_clear_whose_they_are_nothing_is_read_but_told(
    columns: dict[str, list], targets: tuple[str, ...], why: str
) -> None:
    assay = read("auto", *targets, **columns)
    assert assay.relation == ""
    assert not assay.bounds.any()
    assert f"says >, =, <, >=, ~, but is not read: {why}" in assay.notes[0]


def test_a_named_column_is_read_whatever_it_is_called() -> None:
    assay = read("flag", flag=SIGNS, pIC50=VALUES)
    assert assay.relation == "flag"
    assert assay.bounds[:, 0].tolist() == [1, 0, -1, 1, 0, 0]


def test_a_cell_that_says_otherwise_or_no_sign_costs_its_label() -> None:
    cells = ["<10", ">20", "30.5", "65", ">55", "45"]
    assay = read("flag", flag=[">", ">", "?!", "=", None, "="], Value=cells)
    np.testing.assert_equal(assay.values[:, 0], [NAN, 20, NAN, 65, 55, 45])
    assert assay.bounds[:, 0].tolist() == [0, 1, 0, 0, 1, 0]
    assert assay.problems(0) == "Value: its cell has the sign <, but 'flag' says >"
    assert assay.problems(2) == "Value: its sign is '?!', one such as >, = and < was expected"


def test_what_cannot_be_is_refused_in_a_sentence() -> None:
    with pytest.raises(ValueError, match=r"--relation 'sign' is of one regression target, but the"):
        read("sign", "Ki", "IC50", sign=SIGNS, Ki=VALUES, IC50=VALUES)
    with pytest.raises(ValueError, match=r"'sign' is of one regression .* 'y' \(binary\)"):
        read("sign", sign=SIGNS, y=["0", "1"] * 3)
    with pytest.raises(ValueError, match="no column 'relation'"):
        read("relation", Ki=VALUES)
    with pytest.raises(ValueError, match="should hold signs such as >, = and <, but says 'a', 'b'"):
        read("note", "Ki", note=["a", "b"] * 3, Ki=VALUES)
