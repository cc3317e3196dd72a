import base64
import re

import numpy as np

from moleblend.data.targets import Target
from moleblend.evaluation.uncertainty import Uncertainty
from moleblend.evaluation.uncertainty_evaluation import estimate_uncertainty, evaluate_uncertainty
from moleblend.reports.uncertainty_section import pictures, sentence

TARGETS = (Target("log<S>", "regression", "mol/L"), Target("toxic", "binary"))


def test_a_page_says_and_draws_what_sureness_is_worth() -> None:
    rng = np.random.default_rng(0)
    mean = np.stack([rng.normal(size=200), rng.random(200)], 1)
    labels = np.stack([mean[:, 0] + rng.normal(size=200), rng.random(200) < mean[:, 1]], 1)
    labels, censoring = labels.astype(np.float64), np.zeros((200, 2), np.int8)
    known = Uncertainty.fit(TARGETS, mean, None, labels, censoring)
    distance = np.arange(200.0)
    uncertainty_metrics = evaluate_uncertainty(
        estimate_uncertainty(known, TARGETS, mean, None, labels, censoring, distance)
    )
    value, toxic = uncertainty_metrics["log<S>"], uncertainty_metrics["toxic"]
    told = sentence(TARGETS[0], value, None)
    assert told.startswith("<p><b>log&lt;S&gt;</b>: the 90% intervals hold the label of ")
    assert f"{value.coverage.observed:.1%} of 200 test molecules (95 % interval" in told
    assert f"median width {value.size:.4g} mol/L" in told
    told = sentence(TARGETS[1], toxic, known.classes["toxic"].probability)
    assert toxic.after is not None
    assert f"expected calibration error is {toxic.after.error:.3f}, before calibration" in told
    assert "Calibration none: cross-validated on 200 validation molecules" in told
    titles = [re.findall('alt="([^"]*)"', text)[0] for text in pictures(TARGETS[0], value)]
    assert titles == ["log&lt;S&gt;: quantiles", "log&lt;S&gt;: the surest molecules"]
    drawn = pictures(TARGETS[1], toxic)
    assert len(drawn) == 2
    svg = base64.b64decode(re.findall('base64,([^"]*)', drawn[0])[0]).decode()
    assert "calibrated" in svg
