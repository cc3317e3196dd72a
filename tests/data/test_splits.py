import math
from collections.abc import Hashable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem

from moleblend.chem.molecule import MoleculeError
from moleblend.cli import main as cli
from moleblend.data.cleaning import CleaningConfig, clean
from moleblend.data.formats import read_table
from moleblend.data.splits import (
    SPLITS,
    Split,
    balanced_scaffold_split,
    cluster_split,
    folds,
    given_split,
    grouped_folds,
    grouped_split,
    random_split,
    read_split,
    scaffold_split,
    scaffolds,
    split_table,
)
from moleblend.data.table import smiles_table

RINGS = [
    *("C1CC1" + "C" * n for n in range(8)),
    *("c1ccccc1" + "C" * n for n in range(5)),
    *("C1CCC1" + "O" * (n % 2) + "C" * n for n in range(4)),
    *("C1" + "C" * n + "1" for n in range(4, 20)),
    *("C" * n for n in range(1, 7)),
]
"""39 molecules in sets of 8, 6, 5, 4 and 16 times 1."""


def flat(lists: list[list[int]]) -> list[int]:
    return [row for rows in lists for row in rows]


def is_whole(groups: Sequence[Hashable], split: Split) -> bool:
    """Whether no group is in two parts."""
    found = [{groups[row] for row in part} for part in parts(split)]
    return not (found[0] & found[1] or found[0] & found[2] or found[1] & found[2])


def parts(split: Split) -> list[list[int]]:
    return [split.train.tolist(), split.validation.tolist(), split.test.tolist()]


def test_scaffold_split_by_hand():
    smiles = [
        "C1CC1",  # 0 cyclopropane, 3 times
        "c1ccccc1",  # 1 benzene, 4 times
        "CC1CC1",
        "Cc1ccccc1",
        "Oc1ccccc1",
        "OC1CC1",
        "Nc1ccccc1",
        "C1CCC1",  # 7 alone
        "CCO",  # 8 and 9 have no ring: one set
        "CCN",
    ]
    # Benzene 4 of room 7, cyclopropane fills it; then no ring fits into the 2 of validation.
    assert parts(scaffold_split(smiles, (0.7, 0.2, 0.1))) == [[0, 1, 2, 3, 4, 5, 6], [8, 9], [7]]
    # Benzene goes to train; cyclopropane finds no room there, the single ring does.
    assert parts(scaffold_split(smiles, (0.5, 0.3, 0.2))) == [[1, 3, 4, 6, 7], [0, 2, 5], [8, 9]]


def test_equal_scaffold_sets_go_by_later_first_row():
    assert parts(scaffold_split(["C1CC1", "C1CCC1", "C1CCCC1"], (1 / 3, 1 / 3, 1 / 3))) == [
        [2],
        [1],
        [0],
    ]


def test_shares_are_not_cut_by_rounding():
    """0.7 + 0.2 of 30 rows is 26.999999999999996 in floating point."""
    rings = [f"C1{'C' * length}1" for length in range(2, 32)]
    assert [len(part) for part in parts(scaffold_split(rings, (0.7, 0.2, 0.1)))] == [21, 6, 3]


def test_scaffold_split_keeps_chirality_apart():
    decalins = ["C1CC[C@H]2CCCC[C@H]2C1", "C1CC[C@H]2CCCC[C@@H]2C1"]
    assert parts(scaffold_split(decalins, (0.5, 0.5, 0.0))) == [[1], [0], []]


@pytest.mark.parametrize("wrong", ["C1CC", "", "  ", None, math.nan])
def test_a_row_without_a_molecule_is_excluded_from_a_scaffold_split(wrong: str | float | None):
    """The other rows are split as without it, and keep their row numbers."""
    smiles: list[str | float | None] = [*RINGS]
    smiles.insert(20, wrong)
    smiles.append(wrong)
    split = scaffold_split(smiles)
    numbers = [row for row in range(len(smiles)) if row not in (20, len(smiles) - 1)]
    expected = scaffold_split(RINGS)
    assert parts(split) == [[numbers[row] for row in rows] for rows in parts(expected)]
    assert split.excluded.tolist() == [20, len(smiles) - 1]
    assert expected.excluded.tolist() == []
    assert [len(rows) for rows in parts(scaffold_split([wrong]))] == [0, 0, 0]


def test_a_row_is_not_both_in_a_set_and_excluded():
    rows = np.arange(2)
    with pytest.raises(ValueError, match="row 1 is in the split more than once"):
        Split(rows, rows[:0], rows[:0], excluded=rows[1:])


def test_other_splits_by_scaffold_name_the_row():
    with pytest.raises(MoleculeError, match=r"row 2: C1CC.*unclosed ring"):
        balanced_scaffold_split(["C", "C1CC"])


@given(st.integers(0, 300), st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_random_split_has_every_row_once(n_rows, seed):
    split = random_split(n_rows, (0.8, 0.1, 0.1), seed)
    assert np.array_equal(np.sort(np.concatenate(parts(split))), np.arange(n_rows))
    assert parts(split) == parts(random_split(n_rows, (0.8, 0.1, 0.1), seed))
    assert abs(len(split.train) - 0.8 * n_rows) <= 0.5


def test_random_split_depends_on_the_seed():
    assert parts(random_split(100, seed=0)) != parts(random_split(100, seed=1))


def test_given_split():
    column = ["train", "valid", "TEST", " val ", "validation", "train"]
    assert parts(given_split(column)) == [[0, 5], [1, 3, 4], [2]]
    with pytest.raises(ValueError, match=r"row 2: .*'tset'"):
        given_split(["train", "tset"])


@pytest.mark.parametrize("fractions", [(0.8, 0.1, 0.2), (0.5, 0.2, 0.2), (1.2, -0.1, -0.1)])
def test_fractions_that_are_no_shares(fractions):
    with pytest.raises(ValueError, match="sum to 1"):
        random_split(10, fractions)
    with pytest.raises(ValueError, match="sum to 1"):
        scaffold_split(["C"], fractions)


def test_a_row_stands_once():
    rows = np.array([0, 1], np.int64)
    with pytest.raises(ValueError, match="row 1 is in the split more than once"):
        Split(rows, rows[1:], rows[:0])
    with pytest.raises(ValueError, match="got row number -1, expected at least 0"):
        Split(rows - 1, rows[:0], rows[:0])


GROUPS = st.lists(st.integers(0, 12), max_size=60)


@given(GROUPS, st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_grouped_split_has_every_row_once_and_cuts_no_group(groups, seed):
    split = grouped_split(groups, (0.6, 0.2, 0.2), seed)
    assert sorted(flat(parts(split))) == list(range(len(groups)))
    assert is_whole(groups, split)
    assert parts(split) == parts(grouped_split(groups, (0.6, 0.2, 0.2), seed))
    assert len(split.train) <= 0.6 * len(groups) + 1e-6


def test_large_groups_come_first():
    """40 rows; validation and test have room for 8 each, so groups of more than 4 are large."""
    groups = [*[0] * 10, *[1] * 9, *range(2, 23)]
    for seed in range(20):
        split = grouped_split(groups, (0.6, 0.2, 0.2), seed)
        assert {0, 1} <= {groups[row] for row in split.train}
    assert len({tuple(grouped_split(groups, seed=seed).test) for seed in range(5)}) == 5


@given(GROUPS, st.integers(3, 6), st.none() | st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_folds_partition_the_rows(groups, n_folds, seed):
    if len(set(groups)) < n_folds:
        with pytest.raises(ValueError, match=f"but {n_folds} folds need"):
            grouped_folds(groups, n_folds, seed)
        return
    found = grouped_folds(groups, n_folds, seed)
    assert len(found) == n_folds
    every = list(range(len(groups)))
    assert sorted(row for split in found for row in split.test.tolist()) == every
    assert sorted(row for split in found for row in split.validation.tolist()) == every
    for split in found:
        assert sorted(flat(parts(split))) == every
        assert is_whole(groups, split)
        assert min(map(len, parts(split))) > 0
    assert [parts(split) for split in found] == [
        parts(split) for split in grouped_folds(groups, n_folds, seed)
    ]


def test_folds_by_hand():
    """Sets of 3, 2, 2, 1: the folds get 3, 2, 2, and the last row goes to the first smallest."""
    found = grouped_folds(["a", "b", "a", "c", "b", "a", "c", "d"], 3, None)
    assert [split.test.tolist() for split in found] == [[0, 2, 5], [3, 6, 7], [1, 4]]
    assert [split.validation.tolist() for split in found] == [[3, 6, 7], [1, 4], [0, 2, 5]]
    assert [split.train.tolist() for split in found] == [[1, 4], [0, 2, 5], [3, 6, 7]]


def test_folds_of_every_kind():
    def tests(kind, seed):
        return [split.test.tolist() for split in folds(kind, RINGS, 3, seed)]

    for kind in SPLITS:
        assert sorted(flat(tests(kind, 0))) == list(range(len(RINGS)))
        assert tests(kind, 0) == tests(kind, 0)
        assert (tests(kind, 0) == tests(kind, 1)) == (kind == "scaffold")
    for kind in ("scaffold", "balanced"):
        assert all(is_whole(scaffolds(RINGS), split) for split in folds(kind, RINGS, 3))
    assert [len(rows) for rows in tests("random", 0)] == [13, 13, 13]
    with pytest.raises(
        ValueError, match="unknown split 'scafold'; available: random, scaffold, balanced, cluster"
    ):
        folds("scafold", RINGS, 3)
    with pytest.raises(ValueError, match="got 2 folds, expected at least 3"):
        folds("random", RINGS, 2)


def test_every_kind_of_split():
    for kind, split in SPLITS.items():
        one, same, other = (split(RINGS, (0.6, 0.2, 0.2), seed) for seed in (0, 0, 1))
        assert sorted(flat(parts(one))) == list(range(len(RINGS)))
        assert parts(one) == parts(same)
        assert (parts(one) == parts(other)) == (kind == "scaffold")
    balanced = balanced_scaffold_split(RINGS, (0.6, 0.2, 0.2), 3)
    assert is_whole(scaffolds(RINGS), balanced)


@given(st.permutations(range(len(RINGS))))
@settings(max_examples=10, deadline=None)
def test_scaffold_sets_do_not_depend_on_the_order(order):
    found = scaffolds([RINGS[k] for k in order])
    assert [found[k] for k in np.argsort(order)] == scaffolds(RINGS)
    sizes = [len(part) for part in parts(scaffold_split([RINGS[k] for k in order]))]
    assert sizes == [len(part) for part in parts(scaffold_split(RINGS))]


def test_near_molecules_stay_together():
    smiles = ["CCCCCCCCO", "CCCCCCCCCO", "CCCCCCCCCCO", *(f"c1ccccc1{x}" for x in "FINO"), "[Na+]"]
    for seed in range(10):
        split = cluster_split(smiles, (0.4, 0.3, 0.3), 0.65, seed)
        assert any({0, 1, 2} <= set(part) for part in parts(split))
    with pytest.raises(ValueError, match="sum to 1"):
        cluster_split(smiles, (0.4, 0.3, 0.4))


ROWS = "smiles,series\n" + "".join(
    f"{text},{'ab'[k % 2] + str(k // 6)}\n" for k, text in enumerate(RINGS)
)


def test_a_table_gets_its_column(tmp_path):
    path = tmp_path / "in.csv"
    path.write_text(ROWS.replace("C1CC1C,", "C1CC,").replace("c1ccccc1,a1", "c1ccccc1,"))
    table = read_table(path)
    columns, splits, reasons = split_table(table, "series", fractions=(0.5, 0.25, 0.25))
    assert set(reasons) == {1, 8}
    assert "unclosed ring" in reasons[1]
    assert reasons[8] == "column 'series' is empty"
    assert columns.column_names == ["smiles", "series", "split", "split_reason"]
    assert columns.num_rows == len(RINGS)
    cells = columns.column("split").to_pylist()
    assert [k for k, cell in enumerate(cells) if cell is None] == [1, 8]
    for part in ("train", "validation", "test"):
        rows = [k for k, cell in enumerate(cells) if cell == part]
        assert rows == getattr(splits["split"], part).tolist()
        assert rows
    assert is_whole(table.column("series").to_pylist(), splits["split"])
    assert [k for k, told in enumerate(columns.column("split_reason").to_pylist()) if told] == [
        1,
        8,
    ]
    known = [k for k in range(len(RINGS)) if k != 1]
    _, splits, _ = split_table(table, "scaffold")
    expected = scaffold_split([RINGS[k] for k in known])
    assert parts(splits["split"]) == [[known[k] for k in part] for part in parts(expected)]


def test_a_split_is_read_back(tmp_path):
    path = tmp_path / "in.csv"
    path.write_text("smiles,part\nOCC,train\nC1CC,test\nCC, Valid\nCCC,\nCO,TEST\n")
    smiles, split, reasons = read_split(read_table(path), "part")
    assert smiles == ["CCO", "", "CC", "CCC", "CO"]
    assert parts(split) == [[0], [2], [4]]
    assert list(reasons) == [1, 3]
    assert reasons[3] == "column 'part' is empty"
    path.write_text("smiles,part\nOCC,train\nCC,tset\n")
    with pytest.raises(
        ValueError, match=r"row 2 \(line 3\): got 'tset' in column 'part', expected"
    ):
        read_split(read_table(path), "part")


def test_the_verb(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.csv").write_text(ROWS.replace("C1CC1C,", "C1CC,"))

    def do(command):
        code = cli.main(["data", "split", *command.split()])
        return code, capfd.readouterr().err

    code, said = do("in.csv out/split.csv --by balanced --seed 4")
    assert code == 0
    assert "row 2 (line 3) is in no set: not a valid SMILES" in said
    lines = (tmp_path / "out/split.csv").read_text().splitlines()
    assert len(lines) == len(RINGS) + 1
    assert lines[0] == "smiles,series,split,split_reason"
    assert lines[2].startswith('C1CC,b0,,"not a valid') or lines[2].startswith("C1CC,b0,,not a")
    code, said = do("in.csv folds.parquet --by cluster --folds 4 --column fold")
    assert code == 0
    table = read_table(tmp_path / "folds.parquet")
    assert table.names[2:] == ["fold_1", "fold_2", "fold_3", "fold_4", "fold_reason"]
    assert "fold_4: " in said
    before = set(tmp_path.rglob("*"))
    for command, told in {
        "in.csv o.csv --by scafold": "there is no column 'scafold'",
        "in.csv o.csv --by random --column series": "a column 'series' already",
        "in.csv o.csv --by random --folds 2": "expected at least 3",
        "in.csv o.csv --by random --folds 3 --fractions 0.8 0.1 0.1": "folds or fractions, not",
        "in.csv o.csv --by random --fractions 0.5 0.5 0.5": "sum to 1",
        "in.csv in.csv --by random": "overwrite",
        "in.csv o.xlsx --by random": "ends in .csv",
    }.items():
        code, said = do(command)
        assert code == 2
        assert told in said
        assert said.count("\n") == 1
    assert set(tmp_path.rglob("*")) == before


def test_an_sdf_gets_smiles(tmp_path):
    block = "\n\n\n  1  0  0  0  0  0  0  0  0  0999 V2000\n"
    block += "    0.0000    0.0000    0.0000 C   0  0  0  0  0  0  0  0  0  0  0  0\nM  END\n$$$$\n"
    (tmp_path / "in.sdf").write_text(block + block.replace("  1  0", "  x  0", 1) + block * 3)
    columns, splits, reasons = split_table(read_table(tmp_path / "in.sdf"), "random")
    assert columns.column("smiles").to_pylist() == ["C", None, "C", "C", "C"]
    assert list(reasons) == [1]
    assert 1 not in flat(parts(splits["split"]))
    assert splits["split"].excluded.tolist() == [1]


def test_an_sdf_is_parsed_once(tmp_path, monkeypatch):
    parsed = []
    read = Chem.MolFromMolBlock

    def count(block, **options):
        parsed.append(block)
        return read(block, **options)

    monkeypatch.setattr(Chem, "MolFromMolBlock", count)
    blocks = [Chem.MolToMolBlock(Chem.MolFromSmiles(smiles)) for smiles in RINGS[:5]]
    (tmp_path / "in.sdf").write_text("".join(f"{block}$$$$\n" for block in blocks))
    table = read_table(tmp_path / "in.sdf")
    split_table(table, "random")
    assert len(parsed) == 5
    clean(table, CleaningConfig())
    assert len(parsed) == 10


def test_bbbp_on_its_scaffolds(data_folder):
    """A real table with rows that are no molecule: all rows come back, sets stay whole."""
    table = read_table(data_folder / "moleculenet/BBBP.csv").piece(0, 700)
    columns, splits, reasons = split_table(table, "scaffold")
    assert columns.num_rows == 700
    assert len(reasons) == 11
    split = splits["split"]
    assert [len(part) for part in parts(split)] == [551, 69, 69]
    smiles = table.column("smiles").to_pylist()
    groups = {row: scaffolds([smiles[row]])[0] for row in flat(parts(split))}
    assert is_whole([groups.get(row, row) for row in range(700)], split)


def test_no_rows():
    columns, splits, _ = split_table(smiles_table([]), "random")
    assert columns.num_rows == 0
    assert parts(splits["split"]) == [[], [], []]
