"""Splits by date, and split columns without validation rows."""

import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from moleblend.data.splits import Split, set_columns, split_table, time_split, with_validation
from moleblend.data.table import Table
from moleblend.data.time_split import looks_like_dates, read_dates
from moleblend.errors import TableError


def test_dates_of_many_forms_are_the_same_day() -> None:
    day = datetime.date(2024, 3, 31)
    forms = ["2024-03-31", "31-Mar-2024", "31/03/2024", "2024-03-31T10:00", day, "Mar 31, 2024"]
    assert read_dates(forms).tolist() == [day.toordinal()] * len(forms)
    assert np.isnan(read_dates(["", None])).all()
    assert read_dates(["2019", "2020"]).tolist() == [737060, 737425]
    assert read_dates(["1/31/2024", "2/1/2024"]).tolist() == [738916, 738917]


def test_dates_that_cannot_be_read_name_their_row() -> None:
    with pytest.raises(TableError, match="row 2: got 'soon', expected a date"):
        read_dates(["2024-01-01", "soon"])
    with pytest.raises(TableError, match="may be day/month or month/day"):
        read_dates(["1/2/2024"])
    with pytest.raises(TableError, match="row 1: got '2024-13-01'"):
        read_dates(["2024-13-01"])


def test_columns_that_look_like_dates() -> None:
    assert looks_like_dates(["2024-01-01", None, "2024-02-01"])
    assert not looks_like_dates(["2019", "2020"])  # may be counts
    assert not looks_like_dates(["6.3", "5.1"])
    assert not looks_like_dates([])


def test_the_oldest_rows_train_and_a_day_is_not_divided() -> None:
    days = np.array([5.0, 1, 2, 2, 2, 3, 4, 9, 8, 7])
    split = time_split(days, (0.3, 0.3, 0.4))
    assert split.train.tolist() == [1, 2, 3, 4]
    assert split.validation.tolist() == [5, 6]
    assert split.test.tolist() == [0, 7, 8, 9]


def test_a_table_is_split_by_time() -> None:
    table = Table(
        source=Path("table"),
        columns=pa.table(
            {
                "smiles": ["C" * k for k in range(1, 11)],
                "registered": [f"20{k:02d}-01-01" for k in range(20, 10, -1)],
            }
        ),
    )
    columns, splits, _ = split_table(table, "time", dates="registered")
    assert columns["split"].to_pylist() == ["test", "validation", *["train"] * 8]
    assert len(splits["split"].test) == 1
    with pytest.raises(TableError, match="expected the column of dates"):
        split_table(table, "time")


def test_validation_rows_are_drawn_from_training_by_scaffold() -> None:
    smiles = ["c1ccccc1" + "C" * k for k in range(15)] + ["C1CC1", "C1CCC1", "C1CCCC1", "CC", "CCC"]
    none = np.zeros(0, np.int64)
    split = with_validation(Split(np.arange(19), none, np.array([19])), smiles)
    assert set(split.train) | set(split.validation) == set(range(19))
    assert 0 < len(split.validation) <= 4
    assert not set(split.validation) & set(range(15))  # the large scaffold stays in training
    assert split.test.tolist() == [19]
    assert with_validation(split, smiles) is split


def test_columns_of_sets_are_found() -> None:
    columns = pa.table(
        {"smiles": ["C", "CC"], "part": ["Train", "test"], "y": ["1", "2"], "z": ["test", "test"]}
    )
    assert set_columns(Table(source=Path("table"), columns=columns)) == ["part"]
