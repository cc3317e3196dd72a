import numpy as np

from moleblend.data.targets import Target
from moleblend.evaluation.uncertainty import Uncertainty
from moleblend.evaluation.uncertainty_evaluation import estimate_uncertainty, evaluate_uncertainty
from moleblend.reports.html_page import render
from moleblend.reports.uncertainty_section import target_uncertainty, uncertainty_section
from tests.helpers.html import pictures, words

TARGETS = (Target("log<S>", "regression", "mol/L"), Target("toxic", "binary"))


def test_the_section_has_coverage_and_calibration() -> None:
    rng = np.random.default_rng(0)
    mean = np.stack([rng.normal(size=200), rng.random(200)], 1)
    labels = np.stack([mean[:, 0] + rng.normal(size=200), rng.random(200) < mean[:, 1]], 1)
    labels, censoring = labels.astype(np.float64), np.zeros((200, 2), np.int8)
    uncertainty = Uncertainty.fit(TARGETS, mean, None, labels, censoring)
    distance = np.arange(200.0)
    metrics = evaluate_uncertainty(
        estimate_uncertainty(uncertainty, TARGETS, mean, None, labels, censoring, distance)
    )
    value, toxic = metrics["log<S>"], metrics["toxic"]
    section = uncertainty_section(TARGETS, metrics, uncertainty)
    body = render("uncertainty.html", uncertainty=section, uncertainty_notes=["a note"])
    page = f"<main>{body}</main>"
    text = words(page)
    assert "Uncertainty A note. log<S> The 90 % prediction intervals contain the label of " in text
    assert f"{value.coverage.observed * 100:.1f} % of 200 test molecules (95 % interval" in text
    assert f"The median width of the intervals is {value.size:.4g} mol/L." in text
    assert toxic.after is not None
    assert toxic.before is not None
    ece = f"{toxic.after.error:.3f} ({toxic.before.error:.3f} before calibration)"
    assert f"The expected calibration error is {ece}." in text
    assert "Calibration method: none (cross-validated on 200 validation molecules" in text
    plots = pictures(page)
    assert list(plots) == [
        "log<S>: calibration of quantiles",
        "log<S>: error of the most certain molecules",
        "toxic: calibration of probabilities",
        "toxic: error of the most certain molecules",
    ]
    assert "uncalibrated" in plots["toxic: calibration of probabilities"]


def test_a_target_without_labels_says_so() -> None:
    nothing = np.full((3, 1), np.nan)
    uncertainty = Uncertainty.fit(
        TARGETS[:1],
        np.arange(40.0)[:, None],
        None,
        np.arange(40.0)[:, None] + 0.5,
        np.zeros((40, 1), np.int8),
    )
    metrics = evaluate_uncertainty(
        estimate_uncertainty(
            uncertainty,
            TARGETS[:1],
            np.zeros((3, 1)),
            None,
            nothing,
            np.zeros((3, 1), np.int8),
            np.full(3, np.nan),
        )
    )
    section = target_uncertainty(TARGETS[0], metrics["log<S>"], None)
    assert not section.plots
    page = render("uncertainty.html", uncertainty=[section], uncertainty_notes=[])
    assert "There is no labelled test molecule." in words(f"<main>{page}</main>")
