"""Names, meanings and values of the output columns."""

import numpy as np
import pytest

from moleblend.data.targets import Target, class_names, output_slices, unscale_outputs
from moleblend.evaluation.uncertainty import Uncertainty
from moleblend.prediction.outputs import (
    check_names,
    possible_columns,
    result_columns,
    result_names,
    target_columns,
)
from moleblend.trees.averaging import MemberValues

TARGETS = (
    Target("gap", "regression", "eV", mean=7.0, scale=2.0),
    Target("dose", "regression", "nM", log10=True),
    Target("toxic", "binary", classes=("safe", "toxic"), threshold=0.4),
    Target("kind", "multiclass", classes=("a", "b", "c")),
)


@pytest.fixture
def values():
    """Of 2 members and 60 molecules, in the unit of the labels."""
    rng = np.random.default_rng(0)
    width = sum(target.n_outputs for target in TARGETS)
    raw = rng.normal(size=(2, 60, width)).astype(np.float32)
    return np.stack([unscale_outputs(member, TARGETS) for member in raw])


def fitted(values):
    rng = np.random.default_rng(1)
    mean = MemberValues.of_networks(values).mean(TARGETS)
    labels = [
        mean[:, 0] + rng.normal(size=60),
        mean[:, 1] * 10 ** rng.normal(size=60),
        rng.random(60) < mean[:, 2],
        rng.integers(0, 3, 60),
    ]
    labels = np.stack(labels, 1).astype(np.float64)
    std = MemberValues.of_networks(values).std(TARGETS)
    return Uncertainty.fit(TARGETS, mean, std, labels, np.zeros((60, 4), np.int8))


@pytest.mark.parametrize("n_members", [1, 2])
@pytest.mark.parametrize("is_calibrated", [False, True])
def test_names_and_values_agree(values, n_members, is_calibrated):
    uncertainty = fitted(values) if is_calibrated else Uncertainty()
    columns = result_columns(
        MemberValues.of_networks(values[:n_members]), TARGETS, uncertainty, 0.9
    )
    assert list(columns) == result_names(TARGETS, n_members, uncertainty)
    low, high = (columns[f"gap_{end}"] for end in ("low", "high")) if is_calibrated else (0, 0)
    if is_calibrated:
        center = (np.array(low) + np.array(high)) / 2
        np.testing.assert_allclose(center, np.array(columns["gap_pred"]))
        ratio = np.array(columns["dose_std"]) / np.array(columns["dose_log10_std"])
        np.testing.assert_allclose(ratio, np.array(columns["dose_pred"]) * np.log(10))
    assert ("gap_members_std" in columns) == (n_members > 1 and not is_calibrated)
    assert ("kind_members_std" in columns) == (n_members > 1)


def test_the_uncertainty_has_the_names_of_the_columns(values):
    uncertainty, mean = fitted(values), MemberValues.of_networks(values).mean(TARGETS)
    for target, where in zip(TARGETS, output_slices(TARGETS), strict=True):
        given = list(uncertainty.output_columns(target, mean[:, where], None, 0.9))
        listed = [column.name for column in target_columns(target, 1, uncertainty)]
        assert given
        assert listed[-len(given) :] == given


def test_every_column_has_a_meaning_and_values_have_their_unit():
    columns = {column.name: column for target in TARGETS for column in possible_columns(target)}
    assert all(column.meaning for column in columns.values())
    assert {name for name, column in columns.items() if column.unit == "eV"} == {
        *("gap_pred", "gap_members_std", "gap_std", "gap_low", "gap_high")
    }
    assert {name for name, column in columns.items() if column.unit == "log10 nM"} == {
        *("dose_log10_pred", "dose_members_log10_std", "dose_log10_std")
    }
    assert columns["toxic_prob"].meaning == "probability of class toxic"
    assert "above 0.4" in columns["toxic_pred"].meaning
    assert [f"kind_prob_{name}" in columns for name in class_names(TARGETS[3])] == [True] * 3


def test_targets_whose_columns_would_have_the_same_name_are_refused():
    check_names(TARGETS, 2)
    odd = (Target("y", "regression", log10=True), Target("y_log10", "regression"))
    with pytest.raises(ValueError, match="'y' and 'y_log10' could both have a column 'y_log10_"):
        check_names(odd, 1)
    odd = (
        Target("t", "multiclass", classes=("pred", "b")),
        Target("t_prob", "regression"),
    )
    with pytest.raises(ValueError, match="'t' and 't_prob' could both have a column 't_prob_pred'"):
        check_names(odd, 1)
