import numpy as np
import pytest

from moleblend.data.targets import Target, scale_labels, unscale_outputs


@pytest.mark.parametrize("log10", [False, True])
def test_outputs_of_standardised_labels_are_the_labels(log10: bool) -> None:
    target = Target("y", "regression", mean=2.0, scale=0.5, log10=log10)
    labels = np.array([100.0, 1000.0])
    expected = [0.0, 2.0] if log10 else [196.0, 1996.0]
    assert target.standardise(labels) == pytest.approx(expected)
    assert target.to_unit(target.standardise(labels)[:, None])[:, 0] == pytest.approx(labels)
    assert target.from_training_scale(target.to_training_scale(labels)) == pytest.approx(labels)


def test_logarithms_out_of_range_stay_finite_when_squared() -> None:
    target = Target("y", "regression", log10=True)
    (value,) = target.to_unit(np.array([[400.0]]))[0]
    assert value == 1e100
    assert np.isfinite(value**2)


def test_outputs_of_classes_are_probabilities() -> None:
    logits = np.log(np.array([[1.0, 2.0, 5.0]]))
    several = Target("c", "multiclass", classes=("a", "b", "c"))
    assert several.to_unit(logits)[0] == pytest.approx([0.125, 0.25, 0.625])
    assert several.class_probability(several.to_unit(logits)).shape == (1, 3)
    binary = Target("b", "binary")
    assert binary.to_unit(np.log([[3.0]]))[0] == pytest.approx([0.75])
    assert binary.class_probability(np.array([[0.75]])).tolist() == [0.75]
    assert (binary.class_names, several.class_names) == (("0", "1"), ("a", "b", "c"))


def test_several_targets_keep_their_columns() -> None:
    targets = (Target("y", "regression", mean=1.0, scale=2.0), Target("b", "binary"))
    labels = np.array([[5.0, 1.0], [np.nan, 0.0]])
    scaled = scale_labels(labels, targets)
    np.testing.assert_array_equal(scaled, np.array([[2.0, 1.0], [np.nan, 0.0]], np.float32))
    assert unscale_outputs(np.zeros((1, 2)), targets).tolist() == [[1.0, 0.5]]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "regression", "scale": 0.0}, "target y: got scale=0.0, expected above 0"),
        ({"kind": "multiclass", "classes": ("a",)}, "target y: got 1 classes, expected at least 2"),
    ],
)
def test_impossible_targets_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Target("y", **values)
