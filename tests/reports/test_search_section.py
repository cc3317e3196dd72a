import base64
import re
from dataclasses import replace

from moleblend.finetuning.config import TrainConfig
from moleblend.finetuning.hyperparameter_search import NOTE, Search, Trial
from moleblend.reports.search_section import search_part

TRIALS = (
    Trial(1, {"learning_rate": 2e-4, "features": "none"}, "done", (-0.9, -0.75), 1.0),
    Trial(2, {"learning_rate": 1e-3, "features": "ecfp4"}, "done", (-0.8, -0.5), 1.0),
    Trial(3, {"learning_rate": 1e-5, "features": "ecfp4"}, "stopped", (-0.95,), 1.0),
    Trial(4, {"learning_rate": 1e-2, "features": "none"}, "failed", (), 1.0, "not finite"),
)
FOUND = Search(TrainConfig("a.csv"), TRIALS, TRIALS[1])


def rows(page: str) -> list[list[str]]:
    return [re.findall("<td>(.*?)</td>", row) for row in re.findall("<tr>(.*?)</tr>", page)][1:]


def pictures(page: str) -> dict[str, str]:
    found = re.findall('base64,([^"]*)" alt="([^"]*)"', page)
    return {title: base64.b64decode(text).decode() for text, title in found}


def test_a_page_says_what_was_tried() -> None:
    page = "".join(search_part(FOUND))
    assert "4 trials on the training and the validation part, of which 1 were stopped" in page
    assert "1 failed. Trial 2 is the best, with -0.5; the settings that came (trial 1) have" in page
    assert NOTE[1:40].replace("'", "&#x27;") in page
    assert rows(page) == [["2", "0.001", "ecfp4", "-0.5"], ["1", "0.0002", "none", "-0.75"]]
    drawn = pictures(page)
    assert list(drawn) == ["validation figure"]
    assert "settings that came" in drawn["validation figure"]


def test_a_page_with_a_first_trial_that_failed() -> None:
    first = replace(TRIALS[3], number=1)
    page = "".join(search_part(replace(FOUND, trials=(first, *TRIALS[1:3]))))
    assert "the settings that came (trial 1) have nothing, since it failed" in page
    assert rows(page) == [["2", "0.001", "ecfp4", "-0.5"], ["1", "0.01", "none", "failed"]]
    assert "settings that came" not in pictures(page)["validation figure"]
