import json

import numpy as np
import pytest

from moleblend.data.duplicates import contradict, find_duplicates
from moleblend.data.splits import Split

SMILES = ["CCO", "OCC", "c1ccccc1", "C(O)C", "C1=CC=CC=C1", "CN"]
ROWS = np.array([0, 2, 3, 5, 8, 9])


def found(labels, censoring=None, classes=(), splits=()):
    values = np.array(labels, np.float64)[:, None]
    signs = np.zeros(len(labels)) if censoring is None else np.array(censoring)
    return find_duplicates(
        SMILES, ROWS, values, signs[:, None].astype(np.int8), {"y": classes}, splits
    )


def test_the_same_molecule_is_found_however_it_is_written() -> None:
    duplicates = found([1.0, 1.0, 2.0, 1.0, 2.0, 3.0])
    assert duplicates.groups == ((0, 2, 5), (3, 8))
    assert duplicates.contradictions == ()
    assert duplicates.sentences() == [
        "duplicate molecules: 2 (in 5 rows); each row is used separately"
    ]
    assert duplicates.others() == {0: "3 6", 2: "1 6", 5: "1 3", 3: "9", 8: "4"}


def test_labels_that_contradict_are_named_with_their_rows_the_widest_first() -> None:
    duplicates = found([1.0, 1.5, 2.0, np.nan, 7.0, 3.0])
    assert [(one.rows, one.labels) for one in duplicates.contradictions] == [
        ((3, 8), ("2", "7")),
        ((0, 2), ("1", "1.5")),
    ]
    told = duplicates.sentences()[1]
    assert (
        "duplicate molecules with different labels: 2 (row 4: 2, row 9: 7; row 1: 1, row 3: 1.5)"
        in told
    )
    record = json.loads(json.dumps(duplicates.to_dict()))
    assert record["contradicting"] == 2
    assert record["first_contradicting"][0] == {"target": "y", "rows": [4, 9], "labels": ["2", "7"]}
    assert found([1, 0, 1, 1, 1, 0], classes=("no", "yes")).contradictions[0].labels == (
        *("yes", "no", "yes"),
    )


@pytest.mark.parametrize(
    ("labels", "censoring", "is_conflict"),
    [
        ([10, 12, 1, 15, 1, 1], [1, 0, 0, 1, 0, 0], True),  # >10, 12 and >15
        ([10, 12, 1, 11, 1, 1], [1, 0, 0, 1, 0, 0], False),  # >10, 12 and >11
        ([10, 12, 1, np.nan, 1, 1], [-1, 0, 0, 0, 0, 0], True),  # <10 and 12
        ([10, 12, 1, np.nan, 1, 1], [-1, -1, 0, 0, 0, 0], False),  # <10 and <12
        ([10, 9, 1, np.nan, 1, 1], [1, -1, 0, 0, 0, 0], True),  # >10 and <9
    ],
)
def test_censored_labels_conflict_with_values_that_they_exclude(
    labels, censoring, is_conflict
) -> None:
    duplicates = found(labels, censoring)
    assert bool(duplicates.contradictions) == is_conflict
    if labels[3] == 15:
        assert duplicates.contradictions[0].labels == ("≥10", "12", "≥15")


def test_rounding_is_no_difference() -> None:
    column = np.array([[0.3], [0.1 + 0.2]])
    assert not contradict(column, column).any()
    assert contradict(np.array([[1.0], [1.4]]), np.array([[1.0], [1.4]]), 0.3).all()
    assert not contradict(np.array([[1.0], [1.4]]), np.array([[1.0], [1.4]]), 0.5).any()


def test_a_molecule_in_two_parts_is_a_leak() -> None:
    split = Split(np.array([0, 4]), np.array([1, 5]), np.array([2, 3]))
    duplicates = found([1.0] * 6, splits=[split])
    assert (duplicates.known_test_rows, duplicates.known_validation_rows) == ((3, 5), (2,))
    told = duplicates.sentences()
    assert (
        "rows of the test set whose molecule is also in the training or validation set" in told[1]
    )
    assert "2 (rows 4, 6)" in told[1]
    assert (
        "rows of the validation set whose molecule is also in the training set: 1 (row 3)"
        in told[2]
    )
    assert duplicates.to_dict()["test_rows_known_before"] == [4, 6]
    chosen_on = Split(np.array([5]), np.array([0, 1, 3]), np.array([2, 4]))
    assert found([1.0] * 6, splits=[chosen_on]).known_test_rows == ()
    chosen_on = Split(np.array([5]), np.array([0, 1, 4]), np.array([2, 3]))
    assert found([1.0] * 6, splits=[chosen_on]).known_test_rows == (3, 5)
    clean = Split(np.array([0, 1, 3]), np.array([5]), np.array([2, 4]))
    assert found([1.0] * 6, splits=[clean]).known_test_rows == ()
