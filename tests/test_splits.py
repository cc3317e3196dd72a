import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moleblend.molecule import MoleculeError
from moleblend.splits import Split, given_split, random_split, scaffold_split


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
    split = scaffold_split(["C[C@H]1CN1C1CC1", "C[C@@H]1CN1C1CC1"], (0.5, 0.5, 0.0))
    assert split.test.size == 0


def test_scaffold_split_names_the_row():
    with pytest.raises(MoleculeError, match=r"row 1: C1CC.*unclosed ring"):
        scaffold_split(["C", "C1CC"])


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
    with pytest.raises(ValueError, match=r"row 1: .*'tset'"):
        given_split(["train", "tset"])


@pytest.mark.parametrize("fractions", [(0.8, 0.1, 0.2), (0.5, 0.2, 0.2), (1.2, -0.1, -0.1)])
def test_fractions_that_are_no_shares(fractions):
    with pytest.raises(ValueError, match="sum to 1"):
        random_split(10, fractions)
    with pytest.raises(ValueError, match="sum to 1"):
        scaffold_split(["C"], fractions)


def test_a_row_stands_once():
    rows = np.array([0, 1], np.int64)
    with pytest.raises(ValueError, match="row 1 stands"):
        Split(rows, rows[1:], rows[:0])
    with pytest.raises(ValueError, match="start at 0"):
        Split(rows - 1, rows[:0], rows[:0])
