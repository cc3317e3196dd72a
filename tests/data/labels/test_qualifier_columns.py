from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from moleblend.data.labels.target_detection import (
    TargetColumns,
    notes_of_cells,
    read_target_columns,
)
from moleblend.data.table import Table

NAN = np.nan
VALUES = ["20.5", "10", "30", "45", "65", "55"]
OTHERS = ["3.5", "1.25", "4.5", "2.5", "9.25", "7.5"]
SIGNS = ["'>'", "'='", "'<'", "'>='", "", "'~'"]  # as ChEMBL writes them
BOUNDS = [1, 0, -1, 1, 0, 0]


def table(columns: dict[str, list]) -> Table:
    given = {name: pa.array(cells) for name, cells in columns.items()}
    return Table(Path("assay.csv"), pa.table({"smiles": ["C"] * 6} | given))


def read(columns: dict[str, list], *targets: str, relation: str = "auto") -> TargetColumns:
    return read_target_columns(table(columns), targets, relation=relation, not_targets=["smiles"])


def test_the_signs_of_the_only_target_are_bounds_and_this_is_told() -> None:
    columns = {"Standard Relation": SIGNS, "Standard Value": VALUES}
    target_columns = read(columns)
    assert target_columns.relations == {"Standard Value": "Standard Relation"}
    assert target_columns.censoring[:, 0].tolist() == BOUNDS
    assert target_columns.values[:, 0].tolist() == [20.5, 10, 30, 45, 65, 55]
    assert target_columns.label_columns[0].n_approximate == 1
    (note,) = target_columns.notes
    assert note == (
        "the signs of bounds of 'Standard Value' are read from column 'Standard Relation'; "
        "--relation none leaves it"
    )
    told = notes_of_cells(table(columns), target_columns.label_columns[0])
    assert "labels that are bounds, such as >10: 3;" in told[0]


def test_none_leaves_them_and_signs_without_bounds_are_nothing() -> None:
    target_columns = read({"Relation": SIGNS, "Value": VALUES}, relation="none")
    assert (target_columns.relations, target_columns.notes) == ({}, ())
    assert not target_columns.censoring.any()
    equal = read({"Relation": ["="] * 5 + ["~"], "Value": VALUES})
    assert (equal.relations, equal.notes) == ({}, ())


@pytest.mark.parametrize(
    ("columns", "targets", "why"),
    [
        ({"Ki_relation": SIGNS, "value": VALUES}, (), "it is not clear of which column it is;"),
        ({"sign": SIGNS, "pic50": VALUES}, (), "'pic50' may be a negative logarithm, and where >"),
        ({"sign": SIGNS, "op": SIGNS, "Ki": VALUES}, (), "2 such columns may be of 'Ki'; --rel"),
        ({"sign": SIGNS, "Ki": VALUES, "IC50": OTHERS}, ("Ki", "IC50"), "it is not clear of which"),
        ({"sign": SIGNS, "Ki": ["0", "1"] * 3}, (), "'Ki' has classes, which have no bounds"),
        # A column that is measured too may be the one that is meant.
        ({"relation": SIGNS, "value": OTHERS, "logD": VALUES}, (), "it is not clear of which"),
        ({"IC50_nM": OTHERS, "relation": SIGNS, "logS": VALUES}, ("logS",), "it is not clear of"),
    ],
)
def test_where_it_is_not_clear_whose_they_are_nothing_is_read_but_told(
    columns: dict[str, list], targets: tuple[str, ...], why: str
) -> None:
    target_columns = read(columns, *targets)
    assert target_columns.relations == {}
    assert not target_columns.censoring.any()
    told = f"says >, =, <, >=, ~, and is not read: {why}"
    assert sum(told in note for note in target_columns.notes) == list(columns.values()).count(SIGNS)


def test_names_say_of_which_column_signs_are() -> None:
    columns = {"IC50": VALUES, "IC50_rel": SIGNS, "Ki": OTHERS, "Ki_rel": SIGNS[::-1]}
    both = read(columns, "IC50", "Ki")
    assert both.relations == {"IC50": "IC50_rel", "Ki": "Ki_rel"}
    assert both.censoring.T.tolist() == [BOUNDS, BOUNDS[::-1]]
    one = read(columns, "IC50")
    assert one.relations == {"IC50": "IC50_rel"}
    assert len(one.notes) == 1  # what is of Ki alone needs no word
    change = {"IC50": OTHERS, "IC50 relation": SIGNS, "IC50 fold change": VALUES}
    assert not read(change, "IC50 fold change").censoring.any()


def test_a_named_column_is_read_whatever_it_is_called() -> None:
    target_columns = read({"flag": SIGNS, "pIC50": VALUES}, relation="flag")
    assert target_columns.relations == {"pIC50": "flag"}
    assert target_columns.censoring[:, 0].tolist() == BOUNDS


@pytest.mark.parametrize(
    "signs", [["gt", "eq", "lt", "ge", None, "eq"], ["&gt;", "=", "&lt;", ">>", "=", "="]]
)
def test_other_ways_to_write_signs(signs: list) -> None:
    assert read({"sign": signs, "Ki": VALUES}).censoring[:, 0].tolist() == BOUNDS


@pytest.mark.parametrize("relation", ["auto", "sign"])
def test_a_cell_that_says_otherwise_or_no_sign_costs_its_label(relation: str) -> None:
    cells = ["<10", ">20", "30.5", "65", ">55", "~45"]
    columns = {"sign": [">", ">", "approx", "=", None, "~"], "Value": cells}
    target_columns = read(columns, relation=relation)
    np.testing.assert_equal(target_columns.values[:, 0], [NAN, 20, NAN, 65, 55, 45])
    assert target_columns.censoring[:, 0].tolist() == [0, 1, 0, 0, 1, 0]
    assert target_columns.label_columns[0].n_approximate == 1
    assert target_columns.problems(0) == "Value: its cell has the sign <, but 'sign' says >"
    assert (
        target_columns.problems(2)
        == "Value: its sign is 'approx', one such as >, = and < was expected"
    )


def test_what_cannot_be_is_refused_in_a_sentence() -> None:
    columns = {"sign": SIGNS, "Ki": VALUES, "IC50": OTHERS, "y": ["0", "1"] * 3}
    with pytest.raises(ValueError, match=r"--relation 'sign' is of one regression target, but the"):
        read(columns, "Ki", "IC50", relation="sign")
    with pytest.raises(ValueError, match=r"'sign' is of one regression .* 'y' \(binary\)"):
        read(columns, "y", relation="sign")
    with pytest.raises(ValueError, match="no column 'relation'"):
        read(columns, "Ki", relation="relation")
    note = {"note": ["a", "b"] * 3, "Ki": VALUES}
    with pytest.raises(ValueError, match="should hold signs such as >, = and <, but has 'a', 'b'"):
        read(note, "Ki", relation="note")
    lists = {"note": [[1.0]] * 6, "Ki": VALUES}
    with pytest.raises(ValueError, match="should hold signs such as >, = and <, but has lists"):
        read(lists, "Ki", relation="note")
    other = {"rel": ["="] * 5 + ["<"], "Ki": [f">{value}" for value in VALUES]}
    with pytest.raises(ValueError, match=r"row 1: the label of 'Ki' and its sign in 'rel' do not"):
        read(other)
    assert read(other, relation="none").censoring[:, 0].tolist() == [1] * 6


UNITS = ["nM"] * 5 + [None]


def test_a_column_of_units_is_that_of_the_only_target() -> None:
    columns = {"Standard Value": VALUES, "Standard Units": UNITS}
    target_columns = read(columns)
    assert (target_columns.units, target_columns.units_from) == (
        ("nM",),
        ("column 'Standard Units'",),
    )
    named = read_target_columns(table(columns), ["Standard Value"], units=["uM"])
    assert (named.units, named.units_from) == (("uM",), ("flag",))
    (note,) = named.notes
    assert note.startswith("'Standard Value' is in uM by the flag, but column 'Standard Units' say")
    micro = columns | {
        "Standard Units": ["\N{MICRO SIGN}M", "\N{GREEK SMALL LETTER MU}M", "uM"] * 2
    }
    assert read(micro).units == ("\N{MICRO SIGN}M",)


@pytest.mark.parametrize("units", [(), ("nM",)])
def test_several_units_of_one_target_are_told(units: tuple[str, ...]) -> None:
    columns = {"Standard Value": VALUES, "Standard Units": ["ug.mL-1", *["nM"] * 4, None]}
    target_columns = read_target_columns(table(columns), ["Standard Value"], units=units)
    assert target_columns.units == (units or ("",))
    (note,) = target_columns.notes
    assert note == (
        "column 'Standard Units' has 2 units for 'Standard Value', nM (4), ug.mL-1 (1): nothing is "
        "converted, so all are learnt as one; keep the rows of one unit"
    )


@pytest.mark.parametrize(
    ("columns", "target"),
    [
        ({"value": VALUES, "Standard Units": UNITS}, "value"),
        ({"Standard Value": OTHERS, "PubChem Standard Value": VALUES}, "PubChem Standard Value"),
        ({"pchembl_value": VALUES, "units": UNITS}, "pchembl_value"),
        ({"logIC50": VALUES, "unit": UNITS}, "logIC50"),
        ({"dose": OTHERS, "Units": UNITS, "logD": VALUES}, "logD"),
    ],
)
def test_units_that_are_not_of_the_target_are_none(columns: dict[str, list], target: str) -> None:
    target_columns = read({"Standard Units": UNITS} | columns, target)
    assert (target_columns.units, target_columns.notes) == (("",), ())


def test_a_column_of_units_is_not_of_the_target_that_no_other_has() -> None:
    columns = {"IC50": VALUES, "IC50 unit": UNITS, "Ki": OTHERS, "unit": ["uM"] * 6}
    target_columns = read(columns, "IC50", "Ki")
    assert (target_columns.units, target_columns.notes) == (("nM", ""), ())


def test_the_column_of_units_whose_name_says_more_is_meant() -> None:
    raw = ["uM", "nM"] * 3
    target_columns = read({"standard_value": VALUES, "units": raw, "standard_units": UNITS})
    assert (target_columns.units, target_columns.notes) == (("nM",), ())
