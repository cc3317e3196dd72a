import base64
import re
import sys
from xml.etree import ElementTree

import numpy as np
import pytest

from moleblend import checkpoint
from moleblend.encoder import EncoderConfig
from moleblend.heads import Model, ModelConfig, Target
from moleblend.metrics import binary_metrics, regression_metrics
from moleblend.predict import Row
from moleblend.report import write_train_report
from moleblend.splits import Split
from moleblend.train import TrainConfig, TrainResult

TARGETS = (
    Target("solubility <log>", "regression", "$\\mol$", mean=1.0, scale=2.0),
    Target("toxic", "binary"),
    Target("one class", "binary"),
)
LABELS = np.array([[1.0, 0, 1], [3.0, 1, 1], [np.nan, 1, 1], [5.0, 0, np.nan]])
PREDICTED = np.array([[1.5, 0.2, 0.9], [3.0, 0.8, 0.9], [9.0, 0.1, 0.9], [4.5, 0.15, 0.9]])


def pictures(page):
    """The text of every image of a page, by its title, after checking that nothing is outside."""
    tree = ElementTree.fromstring(page.read_text())  # raises where it is not well-formed
    found = {}
    for element in tree.iter():
        assert element.tag not in ("script", "link", "iframe", "object")
        assert "href" not in element.attrib
        if element.tag == "style":
            assert not re.search(r"url\(|@import", element.text or "")
        if element.tag == "img":
            kind, _, content = element.attrib["src"].partition(";base64,")
            assert kind == "data:image/svg+xml"
            svg = base64.b64decode(content).decode()
            links = re.findall(r"""(?:href=["']|url\()(.)(.{4})""", svg)
            assert all(first == "#" or first + rest == "data:" for first, rest in links)
            found[element.attrib["alt"]] = svg
        else:
            assert "src" not in element.attrib
    return found


def words(page):
    return " ".join("".join(ElementTree.fromstring(page.read_text()).itertext()).split())


def table_rows(page):
    tree = ElementTree.fromstring(page.read_text())
    return [["".join(cell.itertext()) for cell in row] for row in tree.iter("tr")]


@pytest.fixture
def result(tmp_path):
    """A run whose figures are known."""
    config = TrainConfig(
        data="in & out.csv",
        target=tuple(t.name for t in TARGETS),
        out=str(tmp_path),
        source="scratch",
    )
    encoder = EncoderConfig(width=8, ffn_width=8, n_layers=1, n_heads=2, n_kernels=4)
    model = tmp_path / "my model.safetensors"
    card = checkpoint.Card(trained_by="train", views="2d")
    checkpoint.save(Model(ModelConfig(encoder, None, TARGETS)), model, card)
    metrics = {
        target.name: (regression_metrics if target.kind == "regression" else binary_metrics)(
            PREDICTED[:, k], LABELS[:, k]
        )
        for k, target in enumerate(TARGETS)
    }
    history = [
        {"epoch": 1, "training_loss": 0.9, "validation": 0.5},
        {"epoch": 2, "training_loss": 0.7, "validation": 0.625},
    ]
    rows = [Row(None, "invalid", "a < b is no SMILES"), Row(None, "too_large", "600 atoms")]
    rows += [Row(None, "ok")] * 8
    return TrainResult(
        config=config,
        model=model,
        targets=TARGETS,
        validation=metrics,
        test=metrics,
        trivial={TARGETS[0].name: regression_metrics(np.ones(4), LABELS[:, 0])},
        history=history,
        best_epoch=2,
        parts=Split(np.array([2, 3]), np.array([4, 5]), np.array([6, 7, 8, 9])),
        predicted=PREDICTED,
        labels=LABELS,
        rows=rows,
    )


def test_a_training_page_has_every_figure_beside_the_constant_answer(result, tmp_path):
    page = write_train_report(result, tmp_path / "report.html")
    rows = table_rows(page)
    # |1.5 - 1|, 0, |4.5 - 5|: a third of 1; always 1: 0, 2 and 4
    assert ["solubility <log> ($\\mol$)", "MAE", "0.3333", "0.3333", "2", "3"] in rows
    assert ["toxic", "ROC-AUC", "0.5", "0.5", "0.5", "4"] in rows
    assert ["toxic", "accuracy", "0.75", "0.75", "0.5", "4"] in rows
    assert ["one class", "ROC-AUC", "undefined", "undefined", "0.5", "3"] in rows


def test_a_training_page_accounts_for_the_rows(result, tmp_path):
    page = write_train_report(result, tmp_path / "report.html")
    rows = table_rows(page)
    assert ["ok", "8", ""] in rows
    assert ["invalid", "1", "row 1: a < b is no SMILES"] in rows
    parts = rows.index(["part", "molecules"])
    assert rows[parts + 1 : parts + 4] == [["train", "2"], ["validation", "2"], ["test", "4"]]
    told = words(page)
    assert "10 rows, 8 of them usable" in told
    assert "in & out.csv; started from random weights; views: 2d; split: scaffold" in told
    assert "epoch 2 of 2" in told
    assert f"moleblend predict '{result.model}' molecules.csv predictions.csv" in told


def test_a_training_page_plots_each_target_that_can_be_plotted(result, tmp_path):
    drawn = pictures(write_train_report(result, tmp_path / "report.html"))
    assert list(drawn) == [
        "solubility <log>: MAE 0.3333 $\\mol$",
        "toxic: ROC-AUC 0.5",
        "toxic: PR-AUC 0.75",
        "training loss",
        "validation ROC-AUC − RMSE",
    ]
    parity = drawn["solubility <log>: MAE 0.3333 $\\mol$"]
    assert "measured ($\\mol$)" in parity
    assert (
        len(re.findall("<use ", parity.split("PathCollection")[1].split("</g>\n   </g>")[0])) >= 3
    )


def test_without_matplotlib_one_sentence_says_what_to_install(result, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ValueError, match=r"pip install 'moleblend\[report\]'"):
        write_train_report(result, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()
