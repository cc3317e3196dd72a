import csv
import json

import pytest

from moleblend.reports.pretrain_report import write_pretrain_report
from tests.helpers.html import pictures, table_rows, words


@pytest.fixture
def pretraining(tmp_path):
    """A folder as a pretraining run leaves it."""
    folder = tmp_path / "run"
    folder.mkdir()
    settings = {"data": "molecules.arrow", "schedule": {"steps": 40, "betas": [0.9, 0.99]}}
    record = {
        "config": settings,
        "data_fingerprint": "0123456789abcdef" * 4,
        "constant_losses": {"distance": 0.75},
    }
    (folder / "config.json").write_text(json.dumps(record))
    starts = [{"step": step, "torch": "2.13", "command": f"a<{step}"} for step in (0, 20)]
    write_csv(folder / "starts.csv", starts)
    log = [
        {
            "step": step,
            "learning_rate": 1e-3,
            "loss": 3.0,
            "distance": 0.5 / step,
            "molecules_per_s": 1000.0 + step,
        }
        for step in (10, 20, 30)
    ]
    write_csv(folder / "log.csv", log)
    scores = [
        {
            "step": step,
            "view": view,
            "shown": shown,
            "metric": metric,
            "value": value,
            "lookup_baseline": t,
            "n": 9,
        }
        for step, value in ((15, 0.11), (30, 0.22))
        for view, metric, t in (("path_length", "accuracy", 0.33), ("direction", "cosine", ""))
        for shown in ("visible", "hidden")
    ]
    write_csv(folder / "validation.csv", scores)
    return folder


def write_csv(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_a_pretraining_report_has_the_last_validation(pretraining, tmp_path):
    page = write_pretrain_report(pretraining, tmp_path / "report.html")
    rows = table_rows(page)
    assert rows[0] == ["view", "visible", "hidden", "modality hidden"]
    assert rows[1] == [
        "path lengthaccuracy",
        "0.22lookup baseline 0.33",
        "0.22lookup baseline 0.33",
        "–",
    ]
    assert rows[2] == ["directioncosine", "0.22", "0.22", "–"]
    assert ["schedule.betas", "0.9, 0.99"] in rows
    assert "Progress 30 of 40 steps Speed 1,020 molecules/s" in words(page)
    assert list(pictures(page)) == [
        "path length: accuracy",
        "direction: cosine",
        "loss: distance",
        "learning rate",
        "molecules/s",
    ]


def test_a_pretraining_report_has_the_provenance_of_the_run(pretraining, tmp_path):
    page = write_pretrain_report(pretraining, tmp_path / "report.html")
    rows = table_rows(page)
    assert ["", "from step 0", "from step 20"] in rows
    assert ["data", "0123456789abcdef", "0123456789abcdef"] in rows
    assert ["command", "a<0", "a<20"] in rows
    assert "Resumed at step 20 " in words(page)
    assert "Best constant prediction: 0.75." in words(page)
    loss = pictures(page)["loss: distance"]
    assert "resumed" in loss
    assert "constant baseline" in loss
    for file in ("model.safetensors", "log.csv", "starts.csv"):
        assert any(row[0] == file for row in rows)


def test_a_run_without_recorded_starts_has_a_report_too(pretraining, tmp_path):
    (pretraining / "starts.csv").unlink()
    page = write_pretrain_report(pretraining, tmp_path / "report.html")
    assert "Resumed at" not in words(page)


def test_the_same_run_gives_the_same_report(pretraining, tmp_path):
    first = write_pretrain_report(pretraining, tmp_path / "first.html")
    assert (
        first.read_bytes() == write_pretrain_report(pretraining, tmp_path / "2.html").read_bytes()
    )


def test_a_run_without_a_validation_has_nothing_to_report(pretraining, tmp_path):
    (pretraining / "validation.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"validation\.csv: there is no such file"):
        write_pretrain_report(pretraining, tmp_path / "report.html")
