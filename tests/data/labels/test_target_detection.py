from pathlib import Path

import pyarrow as pa
import pytest

from moleblend.data.formats import read_table
from moleblend.data.labels.cell_values import TableCells
from moleblend.data.labels.target_detection import find_targets, notes_of_cells, read_target_columns
from moleblend.data.table import Table, find_smiles_column
from moleblend.errors import TableError

N = 12
VALUES = [f"{0.37 * k + 1 / (k + 1):.3f}" for k in range(N)]
LABELS = [str(k % 2) for k in range(N)]


def table(**columns: list) -> Table:
    given = {"smiles": ["C"] * N} | columns
    columns = {name.replace("__", " "): pa.array(cells) for name, cells in given.items()}
    return Table(source=Path("assay.csv"), columns=pa.table(columns))


def find(given: Table) -> tuple[tuple[str, ...], dict[str, str], list[str]]:
    return find_targets(TableCells(given), ["smiles"])


def targets_of(given: Table) -> tuple[str, ...]:
    return find(given)[0]


def test_one_candidate_is_taken_and_the_others_have_a_reason() -> None:
    given = table(
        ID=[str(100 - k) for k in range(N)],
        entry=[str(k + 1) for k in range(N)],
        day=[f"2024-01-{k + 1:02}" for k in range(N)],
        Molecular__Weight=VALUES,
        cLogP=VALUES,
        remark=[f"see page {k}" for k in range(N)],
        thousands=[f"{k + 1},500" for k in range(N)],
        nothing=[None] * N,
        y_pred=VALUES,
        HeavyAtomCount=[str(k // 2) for k in range(N)],
        value=VALUES,
    )
    targets, left_out, _ = find(given)
    assert targets == ("value",)
    assert left_out == {
        "ID": "identifies the rows",
        "entry": "numbers the rows",
        "day": "is a date",
        "Molecular Weight": "has the name of a computed property",
        "cLogP": "has the name of a computed property",
        "remark": "is text",
        "thousands": "has a comma, expected a decimal point and no separators",
        "nothing": "is empty",
        "y_pred": "has the name of a computed property",
        "HeavyAtomCount": "has the name of a computed property",
    }


def test_words_alone_are_classes_and_qualifiers_alone_are_reported() -> None:
    words = ["low", "mid", "high"] * 4
    targets, _, notes = find(table(tox=words))
    assert (targets, notes) == (
        ("tox",),
        ["'tox' is text with few distinct values, which are used as classes"],
    )
    assert targets_of(table(tox=words, logS=VALUES)) == ("logS",)
    with pytest.raises(ValueError, match="no column looks measured"):
        find(table(tox=words, group=words))
    qualifiers = table(sign=[">", "="] * 6, IC50=VALUES)
    targets, left_out, _ = find(qualifiers)
    assert (targets, left_out) == (("IC50",), {"sign": "holds qualifiers such as > and <"})
    for named in ((), ("IC50",)):
        target_columns = read_target_columns(qualifiers, named, not_targets=["smiles"])
        assert target_columns.relations == {"IC50": "sign"}
        assert target_columns.censoring[:, 0].tolist() == [1, 0] * 6
        assert sum("read from column 'sign'" in note for note in target_columns.notes) == 1


@pytest.mark.parametrize(
    "name", ["id", "CID", "mol_id", "Compound ID", "index", "Row Number", "no"]
)
def test_an_identifier_is_never_taken(name: str) -> None:
    with pytest.raises(ValueError, match=r"no column looks measured \(.*identifies the rows"):
        find(table(**{name: VALUES}))


def test_all_binary_columns_are_taken() -> None:
    words = ["active" if k % 3 else "inactive" for k in range(N)]
    assert targets_of(table(a=LABELS, b=[None, *LABELS[1:]], c=words)) == ("a", "b", "c")


def test_the_only_measured_name_is_selected_and_this_is_reported() -> None:
    targets, left_out, notes = find(table(dose=VALUES, pIC50=VALUES))
    assert targets == ("pIC50",)
    assert left_out == {"dose": "has a name that does not show that it was measured"}
    assert "'dose' could be targets too" in notes[0]


def test_a_column_may_be_called_none_or_auto() -> None:
    for name in ("none", "auto"):
        assert targets_of(table(**{name: VALUES})) == (name,)
        assert (
            read_target_columns(table(**{name: VALUES}), qualifier=name).label_columns[0].name
            == name
        )


def test_several_candidates_are_listed_with_the_flag() -> None:
    with pytest.raises(ValueError, match="2 columns could be the target: 'a', 'b'; select with"):
        targets_of(table(a=VALUES, b=VALUES))
    both = table(Ki=VALUES, IC50=VALUES, shade=VALUES)
    with pytest.raises(
        ValueError, match=r"3 columns .* 'Ki', 'IC50' \(and 1 with less specific names"
    ):
        targets_of(both)
    with pytest.raises(ValueError, match="2 columns could be the target: 'active', 'activity'; "):
        targets_of(table(active=LABELS, activity=VALUES))


def test_a_column_of_set_names_is_not_a_target_but_is_reported() -> None:
    set_names = ["train", "valid", "test"] * (N // 3)
    targets, left_out, notes = find(table(fold=set_names, value=VALUES))
    assert targets == ("value",)
    assert left_out == {"fold": "holds the words train, valid and test"}
    assert "--split fold uses it as the split" in notes[0]


def test_units_kinds_and_cells_of_several_targets() -> None:
    given = table(a__nM=[*VALUES[:-2], ">10", "bad"], b=LABELS)
    target_columns = read_target_columns(given, ["a nM", "b"])
    assert target_columns.units == ("nM", "")
    assert [m.kind for m in target_columns.label_columns] == ["regression", "binary"]
    assert target_columns.values.shape == (N, 2)
    assert target_columns.censoring[:, 0].tolist() == [0] * 10 + [1, 0]
    assert target_columns.problems(N - 1) == "a nM: 'bad' is not a number"
    cell_notes = notes_of_cells(given, target_columns.label_columns[0])
    assert "censored labels, such as >10: 1;" in cell_notes[0]
    assert f"the first is in row {N}: 'bad' is not a number" in cell_notes[1]
    assert read_target_columns(given, ["a nM", "b"], units=["M", ""]).units == ("M", "")
    kinds = read_target_columns(
        given, ["a nM", "b"], tasks=["regression", "regression"]
    ).label_columns
    assert [m.kind for m in kinds] == ["regression", "regression"]
    with pytest.raises(ValueError, match="got 3 tasks for 2 targets, expected one for each"):
        read_target_columns(given, ["a nM", "b"], tasks=["auto"] * 3)
    with pytest.raises(ValueError, match="--log-scale: 'c' is not a target; targets: 'b'"):
        read_target_columns(given, ["b"], log_scale=["c"])


def test_a_point_may_separate_thousands_where_others_have_decimal_commas() -> None:
    points = ["1.500", "20", "350", "12.500"] * 3
    commas = [f"{k},5" for k in range(N)]
    (note,) = read_target_columns(table(IC50=points, other=commas), ["IC50"]).notes
    assert note == (
        "'IC50': 1.500 is read with a decimal point, but 'other' has decimal commas; if the value "
        "is 1500, write it without a point"
    )
    assert not read_target_columns(table(IC50=points, other=VALUES), ["IC50"]).notes


@pytest.mark.parametrize(
    ("file", "n_targets", "first", "kind"),
    [
        ("BBBP.csv", 1, "p_np", "binary"),
        ("delaney-processed.csv", 1, "measured log solubility in mols per litre", "regression"),
        ("SAMPL.csv", 1, "expt", "regression"),
        ("Lipophilicity.csv", 1, "exp", "regression"),
        ("clintox.csv.gz", 2, "FDA_APPROVED", "binary"),
        ("sider.csv.gz", 27, "Hepatobiliary disorders", "binary"),
        ("tox21.csv.gz", 12, "NR-AR", "binary"),
    ],
)
def test_raw_published_files(
    data_folder: Path, file: str, n_targets: int, first: str, kind: str
) -> None:
    given = read_table(data_folder / "moleculenet" / file)
    target_columns = read_target_columns(given, not_targets=[find_smiles_column(given)])
    assert len(target_columns.label_columns) == n_targets
    assert (target_columns.label_columns[0].name, target_columns.label_columns[0].kind) == (
        first,
        kind,
    )
    assert {m.kind for m in target_columns.label_columns} == {kind}
    assert not any(m.problems for m in target_columns.label_columns)


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"target": ["EGFR", "HER2"] * 4, "value": [f"{k}.5" for k in range(8)]}, ("value",)),
        (
            {"mean": [f"{k}.5" for k in range(8)], "mean_sd": [f"0.{k}" for k in range(8)]},
            ("mean",),
        ),
        ({"target": [str(k * k) for k in (3, 1, 2, 5, 4, 9, 7, 8)]}, ("target",)),
    ],
    ids=["proteins", "errors", "numbers called target"],
)
def test_columns_that_name_what_was_tested_are_no_targets(columns, expected):
    table = Table(Path("in.csv"), pa.table({"smiles": ["C" * k for k in range(1, 9)], **columns}))
    found = read_target_columns(table, not_targets=["smiles"])
    assert tuple(column.name for column in found.label_columns) == expected


def test_numbers_of_proteins_are_asked_for():
    columns = {"target": [str(3000 + k) for k in range(8)], "v": [f"{9 - k}.5" for k in range(8)]}
    columns["target"][0] = "4000"
    table = Table(Path("in.csv"), pa.table({"smiles": ["C" * k for k in range(1, 9)], **columns}))
    with pytest.raises(TableError, match="'target', 'v'; select with --target"):
        read_target_columns(table, not_targets=["smiles"])


def test_columns_without_anything_to_learn_are_left_out_in_one_go():
    columns = {
        "a": list("01010101"),
        "b": ["1"] * 8,
        "c": [""] * 8,
        "passed": ["True"] * 8,
        "d": list("00110011"),
    }
    table = Table(Path("in.csv"), pa.table({"smiles": ["C" * k for k in range(1, 9)], **columns}))
    found = read_target_columns(table, not_targets=["smiles"])
    assert [column.name for column in found.label_columns] == ["a", "d"]
    assert found.left_out["b"] == found.left_out["passed"] == "has one value only"
    named = read_target_columns(table, ["a", "b", "c", "d"], units=["", "x", "y", ""])
    assert [column.name for column in named.label_columns] == ["a", "d"]
    assert "2 columns are left out: 'b' has one value only; 'c' has no labels" in named.notes
    with pytest.raises(TableError, match="column 'passed' has one value only, there is nothing"):
        read_target_columns(table, ["passed"])


@pytest.mark.parametrize(
    ("types", "is_mixed"),
    [(["Ki", "IC50"], True), (["IC50", "IC50"], False), (["Ki", "B"], False)],
)
def test_types_of_measurement_in_one_column_are_mentioned(types, is_mixed):
    columns = {"type": types * 4, "pIC50": [f"{k}.5" for k in range(8)]}
    table = Table(Path("in.csv"), pa.table({"smiles": ["C" * k for k in range(1, 9)], **columns}))
    found = read_target_columns(table, not_targets=["smiles"])
    text = "column 'type' names several types of measurement: Ki (4 rows), IC50 (4 rows)"
    assert any(note.startswith(text) for note in found.notes) == is_mixed
