import numpy as np
import pytest

from moleblend.data.targets import Target
from moleblend.evaluation.error_analysis import (
    error_trend,
    extreme_errors,
    prediction_errors,
    scaffold_groups,
)

EXACT = np.zeros(3, np.int8)


def test_errors_by_hand() -> None:
    labels = np.array([1.0, 0.0, np.nan])
    errors = prediction_errors(
        Target("t", "binary"), np.array([[0.8], [0.5], [0.1]]), labels, EXACT
    )
    assert errors == pytest.approx([0.04, 0.25, np.nan], nan_ok=True)
    censoring = np.array([0, 1, 0], np.int8)
    values = np.array([[100.0], [5.0], [3.0]])
    errors = prediction_errors(Target("y", "regression"), values, labels * 10, censoring)
    assert errors == pytest.approx([90, np.nan, np.nan], nan_ok=True)
    errors = prediction_errors(
        Target("y", "regression", log10=True), values, labels * 10, censoring
    )
    assert errors[0] == pytest.approx(1)
    three = Target("c", "multiclass", classes=("a", "b", "c"))
    wrong = np.array([[1.0, 0, 0], [0.5, 0.5, 0], [0, 0, 1]])
    assert prediction_errors(three, wrong, labels, EXACT)[:2] == pytest.approx([1, 0.25])


def test_scaffold_groups_are_compared_with_the_rest() -> None:
    chains = ["C" * n + "O" for n in range(1, 7)]
    rings = ["c1ccccc1" + "C" * n for n in range(6)]
    pyridines = ["c1ccncc1" + "C" * n for n in range(4)]  # too few
    error = np.array([0.0, 0.1] * 3 + [1.0, 1.1] * 3 + [0.5] * 4 + [np.nan])
    groups = scaffold_groups([*chains, *rings, *pyridines, "CCCCCCCCN"], error)
    assert groups.by == "scaffold"
    assert [(group.smiles, group.n) for group in groups.groups] == [("", 6), ("c1ccccc1", 6)]
    without, with_ring = groups.groups
    assert without.error == pytest.approx(0.05)
    assert without.rest == pytest.approx((6 * 1.05 + 4 * 0.5) / 10)
    assert without.standard_error == pytest.approx(np.std(error[:6], ddof=1) / 6**0.5)
    assert (without.difficulty, with_ring.difficulty) == ("easier", "harder")
    same = scaffold_groups([*chains, *rings], np.tile([0.0, 1.0], 6))
    assert [group.difficulty for group in same.groups] == ["", ""]


def test_rings_of_other_elements_share_a_framework() -> None:
    six = ["c1ccccc1", "c1ccncc1", "c1cncnc1", "C1CCCCC1", "C1CCNCC1"]
    five = ["c1ccoc1", "c1cc[nH]c1", "c1ccsc1", "C1CCCC1", "C1CCNC1"]
    groups = scaffold_groups([*six, *five], np.arange(10.0))
    assert groups.by == "framework"
    assert [(group.smiles, group.n) for group in groups.groups] == [
        ("C1CCCCC1", 5),
        ("C1CCCC1", 5),
    ]
    alone = scaffold_groups(["c1ccccc1" + "C" * k for k in range(5)] + five, np.arange(10.0))
    assert alone.by == "framework"  # one scaffold with five members is not enough
    assert scaffold_groups(six[:4], np.arange(4.0)).groups == ()
    assert scaffold_groups(["no smiles"] * 12, np.arange(12.0)).groups == ()


def test_a_trend_has_bins_of_equal_size() -> None:
    quantity = np.r_[np.arange(20.0), np.nan, 20]
    error = np.r_[np.arange(20.0) ** 2, 99, np.nan]
    trend = error_trend(quantity[::-1], error[::-1])
    assert trend is not None
    assert trend.n.tolist() == [10, 10]
    assert trend.median.tolist() == [4.5, 14.5]
    assert trend.error == pytest.approx([28.5, 218.5])
    assert trend.rank_correlation == pytest.approx(1)
    assert error_trend(quantity[:19], error[:19]) is None  # too few for two bins
    assert error_trend(np.ones(20), error[:20]) is None
    flat = error_trend(quantity[:20], np.ones(20))
    assert flat is not None
    assert flat.rank_correlation is None


def test_no_molecule_has_both_a_smallest_and_a_largest_error() -> None:
    error = np.array([5.0, np.nan, 1, 4, 2, 3])
    assert extreme_errors(error, 2) == ([2, 4], [0, 3])
    assert extreme_errors(error, 4) == ([2, 4], [0, 3])
    assert extreme_errors(error[:1], 4) == ([], [])
