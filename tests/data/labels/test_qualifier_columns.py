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
QUALIFIERS = ["'>'", "'='", "'<'", "'>='", "", "'~'"]  # as ChEMBL writes them
CENSORING = [1, 0, -1, 1, 0, 0]


def table(columns: dict[str, list]) -> Table:
    given = {name: pa.array(cells) for name, cells in columns.items()}
    return Table(Path("assay.csv"), pa.table({"smiles": ["C"] * 6} | given))


def read(columns: dict[str, list], *targets: str, relation: str = "auto") -> TargetColumns:
    return read_target_columns(table(columns), targets, relation=relation, not_targets=["smiles"])


def test_qualifiers_of_the_only_target_censor_it_and_this_is_reported() -> None:
    columns = {"Standard Relation": QUALIFIERS, "Standard Value": VALUES}
    target_columns = read(columns)
    assert target_columns.relations == {"Standard Value": "Standard Relation"}
    assert target_columns.censoring[:, 0].tolist() == CENSORING
    assert target_columns.values[:, 0].tolist() == [20.5, 10, 30, 45, 65, 55]
    assert target_columns.label_columns[0].n_approximate == 1
    (note,) = target_columns.notes
    assert note == (
        "the qualifiers of 'Standard Value' are read from column 'Standard Relation'; "
        "--relation none ignores it"
    )
    cell_notes = notes_of_cells(table(columns), target_columns.label_columns[0])
    assert "censored labels, such as >10: 3;" in cell_notes[0]


def test_none_ignores_them_and_equal_signs_censor_nothing() -> None:
    target_columns = read({"Relation": QUALIFIERS, "Value": VALUES}, relation="none")
    assert (target_columns.relations, target_columns.notes) == ({}, ())
    assert not target_columns.censoring.any()
    equal = read({"Relation": ["="] * 5 + ["~"], "Value": VALUES})
    assert (equal.relations, equal.notes) == ({}, ())


@pytest.mark.parametrize(
    ("columns", "targets", "why"),
    [
        ({"Ki_relation": QUALIFIERS, "value": VALUES}, (), "its target is ambiguous;"),
        (
            {"sign": QUALIFIERS, "pic50": VALUES},
            (),
            "'pic50' may be a negative logarithm, for which >",
        ),
        (
            {"sign": QUALIFIERS, "op": QUALIFIERS, "Ki": VALUES},
            (),
            "2 such columns may belong to 'Ki'; --rel",
        ),
        (
            {"sign": QUALIFIERS, "Ki": VALUES, "IC50": OTHERS},
            ("Ki", "IC50"),
            "its target is ambiguous",
        ),
        (
            {"sign": QUALIFIERS, "Ki": ["0", "1"] * 3},
            (),
            "'Ki' has classes, which cannot be censored",
        ),
        # A column that is measured too may be the one that is meant.
        ({"relation": QUALIFIERS, "value": OTHERS, "logD": VALUES}, (), "its target is ambiguous"),
        (
            {"IC50_nM": OTHERS, "relation": QUALIFIERS, "logS": VALUES},
            ("logS",),
            "its target is ambiguous",
        ),
    ],
)
def test_ambiguous_qualifiers_are_not_used_which_is_reported(
    columns: dict[str, list], targets: tuple[str, ...], why: str
) -> None:
    target_columns = read(columns, *targets)
    assert target_columns.relations == {}
    assert not target_columns.censoring.any()
    message = f"has qualifiers >, =, <, >=, ~, but is not used: {why}"
    assert sum(message in note for note in target_columns.notes) == list(columns.values()).count(
        QUALIFIERS
    )


def test_names_assign_qualifiers_to_targets() -> None:
    columns = {"IC50": VALUES, "IC50_rel": QUALIFIERS, "Ki": OTHERS, "Ki_rel": QUALIFIERS[::-1]}
    both = read(columns, "IC50", "Ki")
    assert both.relations == {"IC50": "IC50_rel", "Ki": "Ki_rel"}
    assert both.censoring.T.tolist() == [CENSORING, CENSORING[::-1]]
    one = read(columns, "IC50")
    assert one.relations == {"IC50": "IC50_rel"}
    assert len(one.notes) == 1  # what is of Ki alone needs no word
    change = {"IC50": OTHERS, "IC50 relation": QUALIFIERS, "IC50 fold change": VALUES}
    assert not read(change, "IC50 fold change").censoring.any()


def test_a_named_column_is_read_whatever_it_is_called() -> None:
    target_columns = read({"flag": QUALIFIERS, "pIC50": VALUES}, relation="flag")
    assert target_columns.relations == {"pIC50": "flag"}
    assert target_columns.censoring[:, 0].tolist() == CENSORING


@pytest.mark.parametrize(
    "qualifiers", [["gt", "eq", "lt", "ge", None, "eq"], ["&gt;", "=", "&lt;", ">>", "=", "="]]
)
def test_other_spellings_of_qualifiers(qualifiers: list) -> None:
    assert read({"sign": qualifiers, "Ki": VALUES}).censoring[:, 0].tolist() == CENSORING


@pytest.mark.parametrize("relation", ["auto", "sign"])
def test_a_contradicting_or_unknown_qualifier_makes_the_label_missing(relation: str) -> None:
    cells = ["<10", ">20", "30.5", "65", ">55", "~45"]
    columns = {"sign": [">", ">", "approx", "=", None, "~"], "Value": cells}
    target_columns = read(columns, relation=relation)
    np.testing.assert_equal(target_columns.values[:, 0], [NAN, 20, NAN, 65, 55, 45])
    assert target_columns.censoring[:, 0].tolist() == [0, 1, 0, 0, 1, 0]
    assert target_columns.label_columns[0].n_approximate == 1
    assert target_columns.problems(0) == "Value: its cell has the qualifier <, but 'sign' has >"
    assert (
        target_columns.problems(2)
        == "Value: got the qualifier 'approx', expected one such as >, = and <"
    )


def test_impossible_requests_are_refused_in_a_sentence() -> None:
    columns = {"sign": QUALIFIERS, "Ki": VALUES, "IC50": OTHERS, "y": ["0", "1"] * 3}
    with pytest.raises(
        ValueError, match=r"--relation 'sign' needs exactly one regression target, got"
    ):
        read(columns, "Ki", "IC50", relation="sign")
    with pytest.raises(ValueError, match=r"'sign' needs exactly one regression .* 'y' \(binary\)"):
        read(columns, "y", relation="sign")
    with pytest.raises(ValueError, match="no column 'relation'"):
        read(columns, "Ki", relation="relation")
    note = {"note": ["a", "b"] * 3, "Ki": VALUES}
    with pytest.raises(ValueError, match="should hold qualifiers such as >, = and <, got 'a', 'b'"):
        read(note, "Ki", relation="note")
    lists = {"note": [[1.0]] * 6, "Ki": VALUES}
    with pytest.raises(ValueError, match="should hold qualifiers such as >, = and <, got lists"):
        read(lists, "Ki", relation="note")
    other = {"rel": ["="] * 5 + ["<"], "Ki": [f">{value}" for value in VALUES]}
    with pytest.raises(
        ValueError, match=r"row 1: labels of 'Ki' and their qualifiers in 'rel' do not"
    ):
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
    assert note.startswith(
        "the unit of 'Standard Value' is uM according to the flag, but nM according to"
    )
    micro = columns | {
        "Standard Units": ["\N{MICRO SIGN}M", "\N{GREEK SMALL LETTER MU}M", "uM"] * 2
    }
    assert read(micro).units == ("\N{MICRO SIGN}M",)


@pytest.mark.parametrize("units", [(), ("nM",)])
def test_several_units_of_one_target_are_reported(units: tuple[str, ...]) -> None:
    columns = {"Standard Value": VALUES, "Standard Units": ["ug.mL-1", *["nM"] * 4, None]}
    target_columns = read_target_columns(table(columns), ["Standard Value"], units=units)
    assert target_columns.units == (units or ("",))
    (note,) = target_columns.notes
    assert note == (
        "column 'Standard Units' has 2 units for 'Standard Value': nM (4), ug.mL-1 (1). Values "
        "are not converted, so the model mixes them; keep the rows of one unit"
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
def test_units_of_other_columns_are_not_used(columns: dict[str, list], target: str) -> None:
    target_columns = read({"Standard Units": UNITS} | columns, target)
    assert (target_columns.units, target_columns.notes) == (("",), ())


def test_a_column_of_units_with_two_possible_targets_is_not_used() -> None:
    columns = {"IC50": VALUES, "IC50 unit": UNITS, "Ki": OTHERS, "unit": ["uM"] * 6}
    target_columns = read(columns, "IC50", "Ki")
    assert (target_columns.units, target_columns.notes) == (("nM", ""), ())


def test_the_column_of_units_with_the_most_specific_name_is_used() -> None:
    raw = ["uM", "nM"] * 3
    target_columns = read({"standard_value": VALUES, "units": raw, "standard_units": UNITS})
    assert (target_columns.units, target_columns.notes) == (("nM",), ())
