from dataclasses import replace

import pytest

from moleblend.data.targets import Target
from moleblend.evaluation.applicability_domain import IN_DOMAIN, OUT_OF_DOMAIN
from moleblend.evaluation.comparison import Comparison
from moleblend.evaluation.uncertainty_evaluation import UncertaintyMetrics
from moleblend.evaluation.uncertainty_metrics import Coverage, QuantileCurve, Reliability
from moleblend.reports.html_page import render
from moleblend.reports.summary_section import DataFacts, summarise_run
from tests.helpers.html import words

VALUE, TOXIC = Target("log<S>", "regression", "mol/L"), Target("toxic", "binary")
CLEAN = DataFacts(
    n_training_labels=500,
    n_conflicts=0,
    n_known_test_rows=0,
    n_unusable_rows=0,
    n_unreadable_cells=0,
    domain=[IN_DOMAIN] * 9,
)
BETTER = Comparison(
    "log<S>", "random forest on ecfp4", "RMSE", "mol/L", 0.5, 0.8, 0.3, 0.1, 0.5, 100
)
QUANTILES = QuantileCurve((0.5,), (0.5,), 0.0, 100)


def metrics(r2=0.8, n=100):
    return {"RMSE": 0.5, "MAE": 0.4, "R2": r2, "n": n}


def coverage(observed, low, high, n=100, **curves):
    return UncertaintyMetrics(
        Coverage(0.9, observed, low, high, n), 1.0, "distance", None, **curves
    )


def summary(**changes):
    given = {
        "targets": [VALUE],
        "test": {"log<S>": metrics()},
        "constant": {"log<S>": {"RMSE": 1.1}},
        "comparisons": [BETTER],
        "uncertainty": {"log<S>": coverage(0.91, 0.84, 0.95, quantiles=QUANTILES)},
        "data": CLEAN,
    }
    return summarise_run(**(given | changes), epochs=6, still_improving=False)


def text_of(one):
    return words(f"<main>{render('summary.html', summary=one)}</main>")


def test_a_good_run_is_good_everywhere():
    one = summary()
    states = (one.accuracy_state, one.baseline_state, one.coverage_state, one.next_steps.state)
    assert states == ("good",) * 4
    text = text_of(one)
    assert "RMSE 0.5 mol/L R² 0.80: the model explains 80 % of the variance" in text
    assert "(random forest), 1.1 mol/L (constant baseline). Advantage of the model: 0.3" in text
    assert "(95 % bootstrap interval 0.1 to 0.5, n = 100)" in text
    assert "91 % coverage" in text
    assert "● good" in text
    assert "These checks found no problem." in text


@pytest.mark.parametrize(
    ("test", "state"),
    [
        (metrics(0.5), "good"),
        (metrics(0.49), "check"),
        (metrics(0.8, 49), "check"),
        (metrics(0.0), "problem"),
        (metrics(None), "unknown"),
    ],
)
def test_accuracy_is_called_good_by_r2_and_number_of_labels(test, state):
    assert summary(test={"log<S>": test}).accuracy_state == state


def test_classes_are_called_good_by_their_roc_auc():
    for area, state in ((0.7, "good"), (0.6, "check"), (0.5, "problem")):
        one = summary(
            targets=[TOXIC],
            test={"toxic": {"ROC-AUC": area, "PR-AUC": 0.4, "n": 100}},
            constant={},
            uncertainty={},
        )
        assert one.accuracy_state == state
        assert one.coverage_state == "unknown"
        assert f"ROC-AUC {area:g}" in text_of(one)


def test_the_baseline_is_judged_by_significant_differences():
    worse = replace(BETTER, improvement=-0.3, low=-0.5, high=-0.1)
    equal = replace(BETTER, low=-0.1)
    for comparisons, state, text in (
        ([worse], "problem", "A random forest is significantly better."),
        ([equal], "check", "A random forest is about as good."),
        ([BETTER, equal], "good", "These checks found no problem."),
        ([], "unknown", "No random forest"),
    ):
        one = summary(comparisons=comparisons)
        assert one.baseline_state == state
        assert text in text_of(one)


def test_uncertainty_is_judged_by_coverage_calibration_and_labels():
    right = Reliability((0.5,), (0.5,), (100,), 0.03, 0.04, 0.08, 100)
    wrong = replace(right, error=0.09)
    for result, state in (
        (coverage(0.85, 0.77, 0.91), "good"),
        (coverage(0.82, 0.73, 0.89), "check"),
        (coverage(0.6, 0.5, 0.7), "problem"),
        (coverage(0.91, 0.8, 0.97, n=40), "check"),
        (coverage(None, 0.0, 1.0, n=0), "unknown"),
        (coverage(0.91, 0.84, 0.95, before=right, after=right), "good"),
        (coverage(0.91, 0.84, 0.95, before=right, after=wrong), "check"),
    ):
        one = summary(uncertainty={"log<S>": result})
        assert one.coverage_state == state
        is_miscalibrated = "Probabilities are miscalibrated" in text_of(one)
        assert is_miscalibrated == (result.after is wrong)


@pytest.mark.parametrize(
    ("fact", "state", "text"),
    [
        ({"n_training_labels": 120}, "check", "Few training labels (120)."),
        ({"n_conflicts": 1}, "check", "Conflicting labels (1 molecule)."),
        ({"n_known_test_rows": 3}, "problem", "The molecules of 3 test rows are also in"),
        ({"n_unusable_rows": 2}, "check", "2 rows were not used."),
        ({"n_unreadable_cells": 1}, "check", "1 label cell is not readable."),
        (
            {"domain": [IN_DOMAIN] * 3 + [OUT_OF_DOMAIN, ""]},
            "check",
            "25 % of the test molecules are out of",
        ),
        ({"domain": [IN_DOMAIN] * 9 + [OUT_OF_DOMAIN]}, "good", "These checks found no problem."),
    ],
)
def test_next_steps_follow_from_facts(fact, state, text):
    one = summary(data=replace(CLEAN, **fact))
    assert one.next_steps.state == state
    assert text in text_of(one)


def test_many_targets_are_summed_up():
    targets = [Target(f"t{k}", "binary") for k in range(5)]
    test = {f"t{k}": {"ROC-AUC": 0.6 + 0.1 * k, "PR-AUC": 0.4, "n": 100} for k in range(5)}
    comparisons = [replace(BETTER, target=f"t{k}") for k in range(5)]
    one = summary(targets=targets, test=test, constant={}, comparisons=comparisons, uncertainty={})
    assert one.accuracy_state == "good"
    text = text_of(one)
    assert "ROC-AUC 0.800 mean over 5 targets" in text
    assert "5 better, 0 worse of 5 targets" in text
