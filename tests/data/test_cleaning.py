import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moleblend.chem import standardise
from moleblend.chem.parsing import read_smiles
from moleblend.cli import main as cli
from moleblend.data.cleaning import CleaningConfig, clean, robust_z
from moleblend.data.formats import read_table
from moleblend.data.labels.target_detection import read_target_columns
from moleblend.data.table import Table

MEMORY = Path("memory")
EVERYTHING = CleaningConfig(
    largest_fragment=True, neutralise=True, tautomer=True, explicit_hydrogens=True
)


def table_of(tmp_path, header, *rows) -> Table:
    path = tmp_path / "in.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return read_table(path)


def column(cleaned, name):
    return cleaned.columns.column(name).to_pylist()


def actions(cleaned):
    return [account.action for account in cleaned.account]


def test_nothing_is_done_unasked(tmp_path):
    rows = ["OCC,1", "C1CC,2", "CC(=O)[O-].[Na+],3", "OCC,4", "CC,5,6,7"]
    table = table_of(tmp_path, "smiles,y", *rows)
    cleaned = clean(table, CleaningConfig(), ["y"])
    assert cleaned.columns == table.columns
    assert cleaned.rows.tolist() == [0, 1, 2, 3, 4]
    assert actions(cleaned) == ["unchanged", "invalid", "unchanged", "unchanged", "invalid"]
    assert "unclosed ring" in cleaned.account[1].reason
    assert "4 cells" in cleaned.account[4].reason


@pytest.mark.parametrize(
    ("switch", "smiles", "expected"),
    [
        ("largest_fragment", "CC(=O)[O-].[Na+]", "CC(=O)[O-]"),
        ("neutralise", "CC(=O)[O-]", "CC(=O)O"),
        ("tautomer", "Oc1ccccn1", "O=c1cccc[nH]1"),
        ("explicit_hydrogens", "C", "[H]C([H])([H])[H]"),
    ],
)
def test_one_step_at_a_time(tmp_path, switch, smiles, expected):
    table = table_of(tmp_path, "smiles", smiles, "[H][H]")
    cleaned = clean(table, CleaningConfig(**{switch: True}))
    assert column(cleaned, "smiles") == [expected, "[H][H]"]
    account = cleaned.account[0]
    assert (account.before, account.after, account.reason) == (smiles, expected, switch)
    assert actions(cleaned) == ["changed", "unchanged"]
    assert cleaned.n_steps == {switch: 1}


def test_steps_follow_each_other(tmp_path):
    cleaned = clean(table_of(tmp_path, "smiles", "[O-]c1ccccn1.[Na+]"), EVERYTHING)
    assert read_smiles(column(cleaned, "smiles")[0]).smiles == "O=c1cccc[nH]1"
    assert column(cleaned, "smiles")[0].count("[H]") == 5
    assert cleaned.account[0].reason == "largest_fragment; neutralise; tautomer; explicit_hydrogens"


def test_a_molecule_that_cannot_be_standardised_stays_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(standardise, "MOST_TAUTOMERS", 2)
    table = table_of(tmp_path, "smiles", "O=c1[nH]c(=O)c2[nH]cnc2[nH]1.Cl", "CC.Cl")
    cleaned = clean(table, replace(EVERYTHING, explicit_hydrogens=False))
    assert column(cleaned, "smiles") == ["O=c1[nH]c(=O)c2[nH]cnc2[nH]1.Cl", "CC"]
    assert actions(cleaned) == ["failed", "changed"]
    assert cleaned.account[0].reason == "tautomer: it has more than 2 tautomers"
    assert cleaned.n_steps == {"largest_fragment": 1, "neutralise": 0, "tautomer": 0}


def test_invalid_rows_are_left_out_when_asked(tmp_path):
    table = table_of(tmp_path, "smiles,y", "C1CC,1", "CC,2")
    cleaned = clean(table, CleaningConfig(drop_invalid=True))
    assert column(cleaned, "y") == ["2"]
    assert cleaned.rows.tolist() == [1]
    assert [account.out_row for account in cleaned.account] == [None, 1]
    assert actions(cleaned) == ["invalid", "unchanged"]


DUPLICATES = [
    "CCO,1.0,,a",  # 1: with 3 and 4; z comes from 4
    "CC,7,8,b",
    "OCC,1,,c",
    "C(O)C,,2.50,d",
    "CN,1,5,e",  # 5: with 6; y contradicts, z does not
    "NC,2,5,f",
    "CF,3,,g",  # 7: with 8; y contradicts, and there is no other label
    "FC,4,,h",
    "CCl,,,i",  # 9: with 10; no labels at all
    "ClC,,,j",
]


@pytest.mark.parametrize(
    ("how", "rows", "y", "z"),
    [
        ("keep", [0, 1, 4, 5, 6, 7, 8], ["1.0", "7", "1", "2", "3", "4", ""], "2.50 8 5 5 . . ."),
        ("mean", [0, 1, 4, 6, 8], ["1.0", "7", "1.5", "3.5", ""], "2.50 8 5 . ."),
        ("drop", [0, 1, 4, 8], ["1.0", "7", None, ""], "2.50 8 5 ."),
    ],
)
def test_duplicates(tmp_path, how, rows, y, z):
    table = table_of(tmp_path, "smiles,y,z,name", *DUPLICATES)
    cleaned = clean(table, CleaningConfig(duplicates=how), ["y", "z"])
    assert cleaned.rows.tolist() == rows
    assert column(cleaned, "y") == y
    assert [cell.rstrip("0") if cell else "." for cell in column(cleaned, "z")] == [
        cell.rstrip("0") for cell in z.split()
    ]
    assert column(cleaned, "name") == [table.column("name")[row].as_py() for row in rows]
    assert cleaned.n_contradicting == 2
    account = cleaned.account
    assert [a.row for a in account] == list(range(1, 11))
    assert account[0].action == "changed"
    assert account[0].reason == "z was empty; merged with rows 3, 4"
    assert [a.out_row for a in account] == [
        rows.index(row) + 1 if row in rows else None for row in range(10)
    ]
    assert account[2].reason == "same molecule as row 1"
    told = "y contradicts, row 5: 1, row 6: 2"
    expected = {
        "keep": ("unchanged", told, "unchanged", "unchanged"),
        "mean": ("merged", f"same molecule as row 5; {told}", "changed", "merged"),
        "drop": ("merged", f"same molecule as row 5; {told}", "dropped", "dropped"),
    }[how]
    found = (account[5].action, account[5].reason, account[6].action, account[7].action)
    assert found == expected
    assert (account[8].action, account[9].action) == ("unchanged", "merged")
    assert account[8].reason == "merged with row 10"


def test_labels_agree_within_the_tolerance(tmp_path):
    rows = ["CC,0.9", "CC,1.1", "CO,1", "OC,1.3"]
    table = table_of(tmp_path, "smiles,y", *rows)
    config = CleaningConfig(duplicates="drop", tolerance=0.2)  # 1.1 - 0.9 is a little more
    cleaned = clean(table, config, ["y"])
    assert column(cleaned, "y") == ["0.9"]
    assert clean(table, replace(config, duplicates="mean"), ["y"]).n_contradicting == 1
    assert column(clean(table, replace(config, duplicates="mean"), ["y"]), "y") == ["1", "1.15"]
    assert column(clean(table, replace(config, tolerance=0.1), ["y"]), "y") == []


def test_labels_of_any_size_are_told_apart(tmp_path):
    table = table_of(tmp_path, "smiles,y", "CC,1e-9", "CC,2e-9")
    assert clean(table, CleaningConfig(duplicates="keep"), ["y"]).n_contradicting == 1


def test_duplicates_are_told_after_the_steps(tmp_path):
    table = table_of(tmp_path, "smiles,y", "CC(=O)O,1", "CC(=O)[O-].[Na+],1")
    config = CleaningConfig(duplicates="keep")
    assert len(clean(table, config, ["y"]).rows) == 2
    cleaned = clean(table, replace(config, largest_fragment=True, neutralise=True), ["y"])
    assert column(cleaned, "smiles") == ["CC(=O)O"]
    assert cleaned.account[1].reason == "largest_fragment; neutralise; same molecule as row 1"


def test_classes_have_no_mean(tmp_path):
    table = table_of(tmp_path, "smiles,y,z", "CC,1,3", "CC,0,4", "CO,,", "CO,1,")
    config = CleaningConfig(duplicates="mean")
    with pytest.raises(ValueError, match=r"in\.csv: y contradicts, row 1: 1, row 2: 0; classes"):
        clean(table, config, ["y"])
    assert column(clean(table, replace(config, duplicates="drop"), ["y"]), "y") == ["1"]
    assert column(clean(table, config, ["z"]), "z") == ["3.5", ""]


# --- the labels that train reads -----------------------------------------------------------------

CENSORED = [
    "CCO,>10",  # 1: with 2 and 3; an exact label takes precedence, the mean is that of exact ones
    "OCC,12",
    "C(O)C,13",
    "CC,>5",  # 4: with 5; the larger of two lower limits
    "CC,>20",
    "CN,<8",  # 6: with 7; the smaller of two upper limits
    "NC,<7",
    "CF,>10",  # 8: with 9 and 10; the mean of 5 and 6 contradicts >10
    "FC,5",
    "FC,6",
    "CCl,>1",  # 11: with 12; no cell holds both limits
    "ClC,<9",
    "CBr,n.d.",  # 13: with 14
    "BrC,>3",
]


def test_censored_labels_are_not_averaged_which_is_reported(tmp_path):
    table = table_of(tmp_path, "smiles,y", *CENSORED)
    cleaned = clean(table, CleaningConfig(duplicates="mean"), ["y"])
    assert cleaned.rows.tolist() == [0, 3, 5, 7, 8, 9, 10, 11, 12]
    assert column(cleaned, "y") == ["12.5", ">20", "<7", ">10", "5", "6", ">1", "<9", ">3"]
    reasons = [account.reason for account in cleaned.account]
    conflict = "y contradicts, row 1: ≥10, row 2: 12, row 3: 13"
    assert reasons[0] == (
        "y was ≥10; y: censored labels not used, row 1: ≥10; merged with rows 2, 3; " + conflict
    )
    assert reasons[3] == "y was ≥5; y: censored labels not used, row 4: ≥5; merged with row 5"
    conflict = "y contradicts, row 8: ≥10, row 9: 5, row 10: 6"
    assert reasons[7:10] == [f"{conflict}; not merged, y: censored labels have no mean"] * 3
    assert reasons[10] == "not merged, y: one cell cannot hold a lower and an upper limit"
    assert reasons[12] == "y was empty; merged with row 14"
    summary = cleaned.summary()
    assert "censored labels that are not part of a merged label: 3" in summary
    assert "molecules not merged because of censored labels: 2" in summary
    dropped = clean(table, CleaningConfig(duplicates="drop"), ["y"])
    assert column(dropped, "y") == [">20", "<7", ">1", "<9", ">3"]


def test_qualifiers_beside_a_label_are_read_and_move_with_it(tmp_path):
    rows = [
        "CC,>,10",
        "CC,=,12",
        "CC,=,14",
        "CO,=,",
        "OC,<,7",
        "CN,=,2",
        "NC,=,3",
        "CF,>,9",
        "CF,,1",
    ]
    table = table_of(tmp_path, "smiles,Standard Relation,Standard Value", *rows)
    config = CleaningConfig(duplicates="mean")
    cleaned = clean(table, config, ["Standard Value"])
    assert column(cleaned, "Standard Value") == ["13", "7", "2.5", "9", "1"]
    assert column(cleaned, "Standard Relation") == ["=", "<", "=", ">", ""]
    assert "qualifiers of 'Standard Value' are read from column" in cleaned.notes[0]
    ignored = clean(table, replace(config, relation="none"), ["Standard Value"])
    assert column(ignored, "Standard Value") == ["12", "7", "2.5", "5"]
    assert column(ignored, "Standard Relation") == [">", "=", "=", ">"]


def test_the_mean_of_decimal_commas_has_a_comma(tmp_path):
    rows = ["CC;1,5", "CC;2,25", "CO;0,5", "CN;n.d."]
    table = table_of(tmp_path, "smiles;y", *rows)
    cleaned = clean(table, CleaningConfig(duplicates="mean"), ["y"])
    assert column(cleaned, "y") == ["1,875", "0,5", "n.d."]


def test_a_cell_that_is_not_a_label_stays_and_is_reported(tmp_path):
    table = table_of(tmp_path, "smiles,y", "CC,2", "CO,high", "CN,3", "CF,bad", "FC,4")
    cleaned = clean(table, CleaningConfig(duplicates="mean"), ["y"])
    assert column(cleaned, "y") == ["2", "high", "3", "4"]
    assert cleaned.account[1].reason == "y: 'high' is not a number"
    assert cleaned.account[3].reason == (
        "y: 'bad' is not a number; y was not a label; merged with row 5"
    )


def test_classes_may_be_words_or_truth_values(tmp_path):
    rows = ["CC,active", "CC,inactive", "CO,Active", "OC,active", "CN,inactive"]
    table = table_of(tmp_path, "smiles,y", *rows)
    with pytest.raises(ValueError, match=r"row 1: active, row 2: inactive; classes have no mean"):
        clean(table, CleaningConfig(duplicates="mean"), ["y"])
    cleaned = clean(table, CleaningConfig(duplicates="drop", tolerance=2.0), ["y"])
    assert column(cleaned, "y") == ["Active", "inactive"]
    columns = pa.table({"smiles": ["CC", "CC", "CO"], "y": [None, True, False]})
    cleaned = clean(Table(MEMORY, columns), CleaningConfig(duplicates="mean"), ["y"])
    assert column(cleaned, "y") == [True, False]


@pytest.mark.parametrize(
    "cells",
    [
        [">10", "n.d.", "3", "#N/A", "~4", "bad"],
        ["1,5", "0,25", "not tested", "-", "<2,5", "7,0"],
        ["active", "inactive", "n.t.", "active", "", "inactive"],
    ],
)
def test_train_and_clean_read_the_same_labels(tmp_path, cells):
    """Whatever train reads, clean reads; a clean table is read as the table before."""
    smiles = ["CC", "CO", "CN", "CF", "CCl", "CBr"]
    path = tmp_path / "in.tsv"
    rows = zip(["smiles", *smiles], ["y", *cells], strict=True)
    path.write_text("".join(f"{text}\t{cell}\n" for text, cell in rows))
    table = read_table(path)
    cleaned = clean(table, CleaningConfig(duplicates="mean", outliers=3.5), ["y"])
    before = read_target_columns(table, ["y"])
    after = read_target_columns(Table(MEMORY, cleaned.columns), ["y"])
    np.testing.assert_array_equal(before.values, after.values)
    np.testing.assert_array_equal(before.censoring, after.censoring)
    assert np.isnan(before.values).sum() == sum(
        cell in ("n.d.", "#N/A", "bad", "not tested", "-", "n.t.", "") for cell in cells
    )


def test_censored_labels_and_classes_are_no_outliers(tmp_path):
    values = [*map(str, range(10)), ">1000", "500"]
    table = table_of(tmp_path, "smiles,y", *(f"{'C' * (k + 1)},{v}" for k, v in enumerate(values)))
    cleaned = clean(table, CleaningConfig(outliers=3.5), ["y"])
    assert [account.row for account in cleaned.account if account.reason] == [12]


def test_outliers_are_flagged_and_stay(tmp_path):
    values = [*range(10), 100, ""]
    rows = [f"{'C' * (k + 1)},{v},{v == 3:d},{5 if v else 9}" for k, v in enumerate(values)]
    table = table_of(tmp_path, "smiles,y,active,same", *rows)
    cleaned = clean(table, CleaningConfig(outliers=3.5), ["y", "active", "same"])
    assert cleaned.columns == table.columns
    assert cleaned.n_outliers == {"y": 1, "active": 0, "same": 0}
    flagged = [account.row for account in cleaned.account if account.reason]
    assert flagged == [11]
    # median 5; distances 0 1 1 2 2 3 3 4 4 5 95, median 3
    assert cleaned.account[10].reason == (
        f"y 100 is an outlier, robust z-score {95 / 1.4826 / 3:.1f}"
    )


def test_outliers_are_those_of_the_rows_that_are_left(tmp_path):
    rows = ["N,1000", "N,2000", *(f"{'C' * (k + 1)},{k}" for k in range(9)), "OC,50"]
    table = table_of(tmp_path, "smiles,y", *rows)
    cleaned = clean(table, CleaningConfig(outliers=3.5, duplicates="drop"), ["y"])
    assert cleaned.n_outliers == {"y": 1}
    assert "outlier" in cleaned.account[11].reason
    assert [account.action for account in cleaned.account[:2]] == ["dropped", "dropped"]
    assert "outlier" not in cleaned.account[0].reason


def test_robust_z():
    values = np.array([1.0, 2.0, 3.0, np.nan, 13.0])
    expected = (values - 2.5) / 1.4826  # the median distance from 2.5 is 1 (0.5, 0.5, 1.5, 10.5)
    np.testing.assert_allclose(robust_z(values), expected)
    assert robust_z(np.array([np.nan, np.nan]))[0] != 0
    assert robust_z(np.array([])).shape == (0,)
    assert robust_z(np.array([1.0, 0.0, 0.0, 1.0, 0.0])).tolist() == [0] * 5


@given(
    st.lists(st.tuples(st.sampled_from(["CC", "CO", "OC", "C1", "N"]), st.sampled_from("012 "))),
    st.sampled_from(["off", "keep", "mean", "drop"]),
    st.booleans(),
)
@settings(max_examples=80, deadline=None)
def test_every_row_has_its_account(rows, how, drop_invalid):
    smiles, labels = [row[0] for row in rows], [row[1].strip() for row in rows]
    labels = [label and str(int(label) + 1) for label in labels]
    columns = pa.table(
        {"smiles": pa.array(smiles, pa.string()), "y": pa.array(labels, pa.string())}
    )
    table = Table(MEMORY, columns)
    config = CleaningConfig(duplicates=how, drop_invalid=drop_invalid)
    cleaned = clean(table, config, ["y"])
    assert [account.row for account in cleaned.account] == list(range(1, len(rows) + 1))
    out = {account.out_row: account.row - 1 for account in cleaned.account if account.out_row}
    assert [out[k + 1] for k in range(len(cleaned.rows))] == cleaned.rows.tolist()
    assert column(cleaned, "smiles") == [smiles[row] for row in cleaned.rows]
    if how in ("mean", "drop"):
        left = ["CO" if text == "OC" else text for text in column(cleaned, "smiles")]
        left = [text for text in left if text != "C1"]
        assert len(left) == len(set(left))
    again = clean(Table(MEMORY, cleaned.columns), config, ["y"])
    if how != "drop":  # what is left is clean
        assert again.columns == cleaned.columns


def test_numbers_of_a_parquet_table_stay_numbers():
    columns = pa.table({"smiles": ["CC", "CC", "CO", "OC"], "y": [1, 4, 7, None]})
    cleaned = clean(Table(MEMORY, columns), CleaningConfig(duplicates="mean"), ["y"])
    assert column(cleaned, "y") == [2.5, 7]
    cleaned = clean(Table(MEMORY, columns), CleaningConfig(duplicates="drop"), ["y"])
    assert column(cleaned, "y") == [7]
    assert cleaned.columns.schema.field("y").type == pa.int64()


def test_what_is_refused(tmp_path):
    table = table_of(
        tmp_path, "smiles,y", "CC,1", "CO,high", *(f"{'C' * k}O,n{k}" for k in range(9))
    )
    with pytest.raises(ValueError, match="name at least one target"):
        clean(table, CleaningConfig(duplicates="keep"))
    with pytest.raises(ValueError, match="name at least one target"):
        clean(table, CleaningConfig(outliers=3.5))
    with pytest.raises(ValueError, match=r"row 2 \(line 3\): .* 'high' is not a number \(10 of 11"):
        clean(table, CleaningConfig(), ["y"])
    columns = pa.table({"smiles": ["CC.Cl"], "coordinates": [[0.0] * 9]})
    with pytest.raises(
        ValueError, match=r"column 'coordinates' has values for each atom, .* would not follow"
    ):
        clean(Table(MEMORY, columns), EVERYTHING)
    assert len(clean(Table(MEMORY, columns), CleaningConfig(drop_invalid=True)).account) == 1
    with pytest.raises(ValueError, match="not negative"):
        CleaningConfig(tolerance=-1.0)


def test_the_command(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    rows = ["CC(=O)[O-].[Na+],1", "CC(O)=O,2", "C1CC,3", "CCC,4"]
    table_of(tmp_path, "smiles,y", *rows)
    command = "data clean in.csv out/o.csv --largest-fragment --neutralise --duplicates mean"
    assert cli.main([*command.split(), "--target", "y"]) == 0
    said = capfd.readouterr().err
    assert "rows in the input: 4, in the output: 3" in said
    assert "rows changed by largest_fragment: 1" in said
    assert "molecules with contradicting labels: 1" in said
    assert (tmp_path / "out/o.csv").read_text() == "smiles,y\nCC(=O)O,1.5\nC1CC,3\nCCC,4\n"
    with (tmp_path / "out/o.csv.account.csv").open(newline="") as file:
        account = list(csv.DictReader(file))
    assert list(account[0]) == ["row", "out_row", "action", "before", "after", "reason"]
    assert [row["action"] for row in account] == ["changed", "merged", "invalid", "unchanged"]
    assert [row["out_row"] for row in account] == ["1", "", "2", "3"]
    before = set(tmp_path.rglob("*"))
    for command, told in {
        "in.csv o.csv --duplicates mean": "name at least one target",
        "in.csv o.csv --duplicates mean --target z": "no column 'z'",
        "in.csv in.csv": "overwrite",
        "in.csv o.txt": "ends in",
    }.items():
        assert cli.main(["data", "clean", *command.split()]) == 2
        said = capfd.readouterr().err
        assert told in said
        assert said.count("\n") == 1
    assert cli.main(["data", "clean", *["in.csv", "o.csv", "--duplicates", "first"]]) == 2
    assert "first" in capfd.readouterr().err  # tyro's own error has several lines
    assert set(tmp_path.rglob("*")) == before


def test_bbbp(data_folder):
    """The first 400 rows of a real table: ids of the rows that are left did not slip."""
    whole = read_table(data_folder / "moleculenet/BBBP.csv")
    table = whole.piece(0, 400)
    config = CleaningConfig(largest_fragment=True, neutralise=True, duplicates="drop")
    cleaned = clean(table, config, ["p_np"])
    numbers = table.column("num").to_pylist()
    assert column(cleaned, "num") == [numbers[row] for row in cleaned.rows]
    assert cleaned.account[0].reason == "largest_fragment; p_np contradicts, row 1: 1, row 379: 0"
    assert actions(cleaned).count("invalid") == 3
