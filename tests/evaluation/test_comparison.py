import numpy as np
import pytest
import scipy.stats
from sklearn.metrics import roc_auc_score, root_mean_squared_error

from moleblend.chem.parsing import read_smiles
from moleblend.data.dataset import MoleculeDataset
from moleblend.data.targets import Target
from moleblend.evaluation.baseline import BaselineResult
from moleblend.evaluation.comparison import compare_with_baseline, summarise

CHAINS = [read_smiles("C" * n + end) for n in range(1, 11) for end in ("", "O", "N", "F")]
VALUE, TOXIC = Target("y", "regression", "nM"), Target("t", "binary")
SEVERAL = Target("c", "multiclass", classes=("a", "b", "c"))


def labelled(labels, censoring=None):
    """Molecules with labels; which ones does not matter."""
    labels = np.array(labels, np.float64).reshape(len(labels), -1)
    censoring = np.zeros(labels.shape, np.int8) if censoring is None else censoring
    molecules = [CHAINS[k % len(CHAINS)] for k in range(len(labels))]
    return MoleculeDataset(molecules, labels, censoring, np.zeros((len(labels), 0), np.float32))


def compared(target, model, forest, labels):
    baseline = BaselineResult(10, np.array(forest).reshape(len(labels), -1), {target.name: {}}, {})
    values = np.array(model).reshape(len(labels), -1)
    (comparison,) = compare_with_baseline([target], [values], [baseline], [labelled(labels)])
    return comparison


def test_a_difference_is_significant_if_its_interval_excludes_0() -> None:
    rng = np.random.default_rng(1)
    label, noise, other = rng.normal(size=(3, 60))
    won = compared(VALUE, label + 0.1 * noise, label + other, label)
    assert won.model == pytest.approx(np.sqrt((0.01 * noise**2).mean()))
    assert won.forest == pytest.approx(np.sqrt((other**2).mean()))
    assert won.is_significant
    assert won.sentence().startswith("y: the model is better than a random forest: RMSE")
    lost = compared(VALUE, label + other, label + 0.1 * noise, label)
    assert (lost.improvement, lost.low, lost.high) == pytest.approx(
        (-won.improvement, -won.high, -won.low)
    )
    (summary,) = summarise([lost])
    assert summary.is_baseline_better
    assert summary.text.startswith("y: a random forest is better than the model: RMSE")
    assert (
        f"difference {-lost.improvement:.3g} (95 % bootstrap interval {-lost.high:.3g} to "
        f"{-lost.low:.3g}, n = 60)"
    ) in summary.text
    even = compared(VALUE, label + noise, label + 1.02 * other, label)
    assert not even.is_significant
    (summary,) = summarise([even])
    assert not summary.is_baseline_better
    assert "no significant difference between the model and a random forest" in summary.text
    assert "includes 0, n = 60)" in summary.text


def test_equal_predictions_have_a_difference_of_0() -> None:
    label = np.tile([0.0, 1.0], 20)
    predicted = np.random.default_rng(2).random(40)
    tie = compared(TOXIC, predicted, predicted.copy(), label)
    assert "(forest), difference 0 (95 % bootstrap interval 0 to 0 includes 0" in tie.sentence()


def test_the_bootstrap_is_paired() -> None:
    """Molecules differ far more in error than the two models do on each of them."""
    error = np.linspace(-5, 5, 50)
    assert compared(VALUE, error, 1.1 * error, np.zeros(50)).is_significant


@pytest.mark.parametrize("target", [VALUE, TOXIC])
def test_the_interval_is_that_of_scipy(target) -> None:
    rng = np.random.default_rng(3)
    label = rng.normal(size=50) if target is VALUE else np.tile([0.0, 1.0], 25)
    model, forest = label + rng.normal(size=(2, 50))

    def improvement(model, forest, label) -> float:
        if target is TOXIC:
            return roc_auc_score(label, model) - roc_auc_score(label, forest)
        return root_mean_squared_error(label, forest) - root_mean_squared_error(label, model)

    n = 50 if target is VALUE else 25  # molecules, or those of the smaller class
    tail = scipy.stats.norm.cdf(scipy.stats.t.ppf(0.025, n - 1) * np.sqrt(n / (n - 1)))
    expected = scipy.stats.bootstrap(
        (model, forest, label),
        improvement,
        n_resamples=1000,
        paired=True,
        vectorized=False,
        method="percentile",
        confidence_level=1 - 2 * tail,
        rng=np.random.default_rng(0),
    ).confidence_interval
    comparison = compared(target, model, forest, label)
    assert (comparison.low, comparison.high) == pytest.approx((expected.low, expected.high))


def test_roc_auc_is_that_of_scikit_learn_with_ties() -> None:
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 40).astype(float)
    model, forest = rng.integers(0, 4, (2, 40)) / 4
    comparison = compared(TOXIC, model, forest, label)
    assert (comparison.metric, comparison.n) == ("ROC-AUC", 40)
    assert comparison.model == pytest.approx(roc_auc_score(label, model))
    assert comparison.forest == pytest.approx(roc_auc_score(label, forest))
    label = rng.integers(0, 3, 40).astype(float)
    model, forest = rng.dirichlet(np.ones(3), (2, 40))
    comparison = compared(SEVERAL, model, forest, label)
    assert comparison.metric == "macro ROC-AUC"
    assert comparison.model == pytest.approx(roc_auc_score(label, model, multi_class="ovr"))


def test_logarithms_are_compared_where_the_model_is_trained_on_them() -> None:
    label = np.logspace(0, 5, 20)
    comparison = compared(Target("y", "regression", log10=True), 10 * label, 100 * label, label)
    assert (comparison.metric, comparison.model, comparison.forest) == ("RMSE log10", 1, 2)


def test_few_molecules_have_no_interval() -> None:
    few = compared(VALUE, np.zeros(9), np.ones(9), np.zeros(9))
    assert not few.is_significant
    assert "9 test molecules with a label are too few for a bootstrap interval" in few.sentence()


def test_missing_and_censored_labels_are_left_out() -> None:
    labels = np.zeros((12, 1))
    labels[0], censoring = np.nan, np.zeros((12, 1), np.int8)
    censoring[1] = 1
    model = np.zeros((12, 1))
    model[:2] = 99
    baseline = BaselineResult(10, np.ones((12, 1)), {"y": {}}, {})
    (comparison,) = compare_with_baseline(
        [VALUE], [model], [baseline], [labelled(labels, censoring)]
    )
    assert (comparison.model, comparison.forest, comparison.n) == (0, 1, 10)


def test_folds_are_compared_fold_by_fold() -> None:
    baselines = [BaselineResult(10, np.full((10, 1), k), {"y": {}}, {}) for k in (2.0, 4.0)]
    test_sets, model = [labelled(np.zeros(10))] * 2, [np.ones((10, 1))] * 2
    (comparison,) = compare_with_baseline([VALUE], model, baselines, test_sets)
    assert (comparison.model, comparison.forest, comparison.n) == (1, 3, 20)


def test_a_fold_with_one_class_is_left_out() -> None:
    label = np.tile([0.0, 1.0], 10)
    baselines = [BaselineResult(10, np.full((20, 1), 0.5), {"t": {}}, {})] * 2
    test_sets, model = [labelled(label), labelled(np.zeros(20))], [label.reshape(-1, 1)] * 2
    (comparison,) = compare_with_baseline([TOXIC], model, baselines, test_sets)
    assert (comparison.model, comparison.forest, comparison.n) == (1, 0.5, 20)


def test_many_targets_are_summarised_in_one_sentence() -> None:
    label = np.tile([0.0, 1.0], 20)
    right, wrong = label, 1 - label
    won = [compared(TOXIC, right, wrong, label)] * 2
    lost = [compared(TOXIC, wrong, right, label)] * 4
    (summary,) = summarise([*won, *lost])
    assert (
        "of 6 targets, the model is better than a random forest for 2 (2 significantly)"
    ) in summary.text
    assert (
        "the forest is better for 4 (4 significantly, by 95 % bootstrap intervals)" in summary.text
    )
    assert "; mean ROC-AUC 0.3333 (model), 0.6667 (forest)" in summary.text
    assert summary.is_baseline_better


@pytest.mark.slow
@pytest.mark.parametrize(("n", "n_positive"), [(25, 0), (60, 0), (60, 12), (100, 30)])
def test_two_equally_good_models_are_rarely_called_different(n: int, n_positive: int) -> None:
    """The nominal rate is 5 %; the bound allows for 600 trials and for small sets."""
    rng, n_different, n_trials = np.random.default_rng(5), 0, 600
    target = TOXIC if n_positive else VALUE
    for _ in range(n_trials):
        label = (np.arange(n) < n_positive).astype(float) if n_positive else rng.normal(size=n)
        model, forest = (label + rng.normal(size=n) for _ in range(2))
        n_different += compared(target, model, forest, label).is_significant
    assert n_different / n_trials < 0.08


def test_few_molecules_of_a_class_have_no_interval() -> None:
    label = (np.arange(60) < 9).astype(float)
    few = compared(TOXIC, label, 1 - label, label)
    assert few.low is None
    assert "10 of each class" in few.sentence()
    enough = (np.arange(60) < 10).astype(float)
    assert compared(TOXIC, enough, 1 - enough, enough).is_significant
