import json

import numpy as np
import pytest

from moleblend.config import from_dict, to_dict
from moleblend.data.targets import Target
from moleblend.evaluation.uncertainty import (
    ClassificationUncertainty,
    RegressionUncertainty,
    Uncertainty,
)

NAN = np.nan


@pytest.mark.parametrize("is_ensemble", [True, False])
def test_intervals_cover_the_values(*, is_ensemble: bool) -> None:
    rng = np.random.default_rng(0)
    member_std = rng.uniform(0.3, 3, 4000)
    predicted = rng.normal(size=4000)
    label = predicted + 2 * member_std * rng.normal(size=4000)
    used = member_std if is_ensemble else None
    of_validation = member_std[:1000] if is_ensemble else None
    uncertainty = RegressionUncertainty.fit(predicted[:1000], label[:1000], of_validation)
    assert uncertainty.spread.has_spread is uncertainty.intervals.is_normalised is is_ensemble
    predicted[-1] = NAN
    columns = uncertainty.output_columns("logD", predicted, used)
    assert list(columns) == ["logD_std", "logD_low", "logD_high"]
    assert all(np.isnan(values[-1]) for values in columns.values())
    inside = (columns["logD_low"] <= label) & (label <= columns["logD_high"])
    assert inside[1000:-1].mean() == pytest.approx(0.9, abs=0.03)
    assert bool(np.ptp(columns["logD_std"][:-1]) > 1) is is_ensemble


def test_columns_of_classes() -> None:
    rng = np.random.default_rng(1)
    probability = rng.random(500)
    label = (rng.random(500) < probability).astype(np.float64)
    uncertainty = ClassificationUncertainty.fit(probability, label)
    columns = uncertainty.output_columns("toxic", np.array([0.001, 0.5, 0.999, NAN]), ["no", "yes"])
    assert columns == {"toxic_set": ["{no}", "{no, yes}", "{yes}", None]}


def test_a_confidence_that_needs_more_molecules_is_reported() -> None:
    targets = (Target("logD", "regression"), Target("toxic", "binary"), Target("new", "binary"))
    rng = np.random.default_rng(4)
    labels = np.stack([rng.normal(size=40), np.arange(40) % 2, np.full(40, NAN)], 1)
    mean = np.concatenate([rng.normal(size=(40, 1)), rng.random((40, 2))], 1)
    uncertainty = Uncertainty.fit(targets, mean, None, labels, np.zeros((40, 3), np.int8))
    assert uncertainty.limitations(targets, 0.9) == []  # `notes` has those of 90 %
    assert uncertainty.limitations(targets, 0.95) == []  # 19 molecules are enough
    of_value, of_class = uncertainty.limitations(targets, 0.99)
    assert of_value.startswith("logD: the 99% intervals are infinite, since they need 99 labelled")
    assert of_class.endswith("it needs 99 validation molecules of each: 0 (20), 1 (20)")


def test_no_molecules_give_no_probabilities() -> None:
    targets = (Target("toxic", "binary"), Target("kind", "multiclass", classes=("a", "b", "c")))
    rng = np.random.default_rng(3)
    mean = np.concatenate([rng.random((60, 1)), rng.dirichlet(np.ones(3), 60)], 1)
    labels = np.stack([rng.integers(2, size=60), rng.integers(3, size=60)], 1).astype(float)
    uncertainty = Uncertainty.fit(targets, mean, None, labels, np.zeros((60, 2), np.int8))
    assert set(uncertainty.classes) == {"toxic", "kind"}
    assert uncertainty.calibrate_probabilities(targets, mean[:0]).shape == (0, 4)
    assert uncertainty.calibrate_probabilities(targets, mean).shape == (60, 4)


def test_uncertainty_is_read_from_json() -> None:
    rng = np.random.default_rng(2)
    value = RegressionUncertainty.fit(rng.normal(size=40), rng.normal(size=40))
    classes = ClassificationUncertainty.fit(
        rng.random(40), (rng.random(40) < 0.5).astype(np.float64)
    )
    for uncertainty in (value, classes):
        assert (
            from_dict(type(uncertainty), json.loads(json.dumps(to_dict(uncertainty))), "header")
            == uncertainty
        )
