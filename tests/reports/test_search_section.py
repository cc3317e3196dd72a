from dataclasses import replace

from moleblend.finetuning.config import TrainConfig
from moleblend.finetuning.hyperparameter_search import NOTE, Search, Trial
from moleblend.reports.html_page import render
from moleblend.reports.search_section import search_section
from tests.helpers.html import pictures, table_rows, words

TRIALS = (
    Trial(1, {"learning_rate": 2e-4, "features": "none"}, "done", (-0.9, -0.75), 1.0),
    Trial(2, {"learning_rate": 1e-3, "features": "ecfp4"}, "done", (-0.8, -0.5), 1.0),
    Trial(3, {"learning_rate": 1e-5, "features": "ecfp4"}, "stopped", (-0.95,), 1.0),
    Trial(4, {"learning_rate": 1e-2, "features": "none"}, "failed", (), 1.0, "not finite"),
)
SEARCH = Search(TrainConfig("a.csv"), TRIALS, TRIALS[1])


def section(search: Search) -> str:
    return f"<main>{render('search.html', search=search_section(search))}</main>"


def test_the_section_lists_the_trials() -> None:
    page = section(SEARCH)
    text = words(page)
    assert "4 trials on the training and validation sets: 1 stopped early, 1 failed." in text
    assert "Trial 2 is the best, with a validation score of -0.5." in text
    assert "The initial settings (trial 1) have -0.75." in text
    assert NOTE[1:] in text
    assert table_rows(page) == [
        ["trial", "learning_rate", "features", "validation score"],
        ["2", "0.001", "ecfp4", "-0.5"],
        ["1", "0.0002", "none", "-0.75"],
    ]
    plots = pictures(page)
    assert list(plots) == ["validation score of the trials"]
    assert "initial settings" in plots["validation score of the trials"]


def test_the_first_trial_may_have_failed() -> None:
    first = replace(TRIALS[3], number=1)
    page = section(replace(SEARCH, trials=(first, *TRIALS[1:3])))
    assert "The initial settings (trial 1) failed." in words(page)
    assert table_rows(page)[1:] == [
        ["2", "0.001", "ecfp4", "-0.5"],
        ["1", "0.01", "none", "failed"],
    ]
    assert "initial settings" not in pictures(page)["validation score of the trials"]
