import re
import sys
from dataclasses import replace

import numpy as np
import pytest

from moleblend.data.duplicates import find_duplicates
from moleblend.data.splits import Split
from moleblend.data.targets import Target
from moleblend.evaluation.applicability_domain import IN_DOMAIN, DomainScores
from moleblend.evaluation.baseline import BaselineResult
from moleblend.evaluation.comparison import Comparison
from moleblend.evaluation.metrics import binary_metrics, regression_metrics
from moleblend.finetuning.train import TrainConfig, TrainResult
from moleblend.model import checkpoint
from moleblend.model.encoder import EncoderConfig
from moleblend.model.heads import Model, ModelConfig
from moleblend.prediction.inputs import Row
from moleblend.reports.train_report import write_train_report
from tests.helpers.html import pictures, table_rows, words
from tests.helpers.molecules import CHAINS, N_CARBONS, PARTS
from tests.helpers.runs import trained
from tests.helpers.tables import write

TARGETS = (
    Target("solubility <log>", "regression", "$\\mol$", mean=1.0, scale=2.0),
    Target("toxic", "binary"),
    Target("one class", "binary"),
)
LABELS = np.array([[1.0, 0, 1], [3.0, 1, 1], [np.nan, 1, 1], [5.0, 0, np.nan]])
PREDICTED = np.array([[1.5, 0.2, 0.9], [3.0, 0.8, 0.9], [9.0, 0.1, 0.9], [4.5, 0.15, 0.9]])


@pytest.fixture
def result(tmp_path):
    """A run whose figures are known."""
    config = TrainConfig(
        features=("none",),
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
        kept_epoch=2,
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


CONTEST = Comparison("toxic", "ROC-AUC", "", 0.5, 0.75, -0.25, -0.4, -0.1, 40)


def test_the_forest_stands_beside_the_model(result, tmp_path):
    forest = regression_metrics(np.array([1.0, 2, 3, 4]), LABELS[:, 0])
    predicted = np.array([[1.0, 0.1, 0], [2, 0.9, 0], [3, 0.9, 0], [4, 0.2, 0]])
    baseline = BaselineResult(
        7,
        predicted,
        {TARGETS[0].name: forest, "toxic": binary_metrics(predicted[:, 1], LABELS[:, 1])},
        {"one class": "of a reason"},
    )
    shown = replace(result, baseline=baseline, comparisons=(CONTEST,), forest_note="fewer trees")
    page = write_train_report(shown, tmp_path / "report.html")
    rows = table_rows(page)
    assert rows[0][4] == "random forest, test"
    # 0, 1 and 1 off
    assert ["solubility <log> ($\\mol$)", "MAE", "0.3333", "0.3333", "0.6667", "2", "3"] in rows
    assert ["toxic", "ROC-AUC", "0.5", "0.5", "1", "0.5", "4"] in rows
    assert ["one class", "accuracy", "1", "1", "–", "1", "3"] in rows
    told = words(page)
    assert "toxic: a random forest on ECFP4 is better than the model: ROC-AUC 0.5" in told
    assert "class='warning'" in page.read_text()
    assert "Fewer trees." in told
    assert "one class: no forest, since of a reason." in told
    assert "The random forest has 7 trees" in told
    assert "random forest" in pictures(page)["toxic: ROC-AUC 0.5"]
    won = replace(CONTEST, improvement=0.25, low=0.1, high=0.4)
    page = write_train_report(replace(shown, comparisons=(won,)), tmp_path / "2.html")
    assert "toxic: the model is better" in words(page)
    assert "class='warning'" not in page.read_text()


def spread_out(result, smiles, **changes):
    """The same run with more test molecules, whose prediction is off by how long they are."""
    n = len(smiles)
    error = np.array([float(len(text)) for text in smiles])
    labels = np.stack([np.ones(n), np.arange(n) % 2, np.ones(n)], 1)
    predicted = np.stack([1 + error, np.full(n, 0.5), np.ones(n)], 1)
    near = DomainScores(
        [IN_DOMAIN] * n,
        error,
        1 / error,
        np.arange(n) + 100,
        ["CC" if k else "" for k in range(n)],
    )
    return replace(
        result,
        smiles=tuple(smiles),
        labels=labels,
        predicted=predicted,
        scores=near,
        parts=replace(result.parts, test=np.arange(n) + 1000),
        **changes,
    )


def test_a_training_page_says_where_the_errors_are(result, tmp_path):
    smiles = ["c1ccccc1" + "C" * k for k in range(10)] + ["N" + "C" * k for k in range(10)]
    page = write_train_report(spread_out(result, smiles), tmp_path / "report.html")
    rows = table_rows(page)
    assert ["", "10", "12.5 ± 0.96", "5.5", "harder"] in rows  # 8 to 17 letters, or 1 to 10
    assert ["no ring", "10", "5.5 ± 0.96", "12.5", "easier"] in rows
    drawn = pictures(page)
    for name in ("solubility <log>", "toxic", "one class"):
        assert f"{name}: error by similarity" in drawn
        assert f"{name}: error by distance" in drawn
    assert "c1ccccc1CCCCCCCCC" in drawn
    told = words(page)
    assert "Worst predicted ($\\mol$)row 1010measured 1predicted 18nearest in training" in told
    assert "row 1011measured 1predicted 2nearest in training: row 111, similarity 1.00CC" in told
    assert "20 test molecules in 2 bins of 10" in told
    assert "predicted 0 with probability 0.50" in told


def test_too_few_test_molecules_say_so(result, tmp_path):
    few = spread_out(result, ["CCO", "CCN", "c1ccccc1", "CO"])
    told = words(write_train_report(few, tmp_path / "report.html"))
    assert "No family of test molecules has 5 members" in told
    assert "There are too few test molecules to draw errors along their distance to" in told
    lost = replace(few, scores=DomainScores.unknown(4))
    told = words(write_train_report(lost, tmp_path / "2.html"))
    assert "The distance to the training set is not known" in told
    assert "nearest in training" not in told
    assert "Where it errs" not in words(write_train_report(result, tmp_path / "3.html"))


def test_a_training_molecule_is_named_by_its_row_alone_where_none_is_kept(result, tmp_path):
    kept = spread_out(result, ["CCO", "CCN", "c1ccccc1", "CO"])
    hidden = replace(kept, scores=replace(kept.scores, smiles=[""] * 4))
    assert "<code>CC</code>" in write_train_report(kept, tmp_path / "1.html").read_text()
    page = write_train_report(hidden, tmp_path / "2.html")
    assert "<code>CC</code>" not in page.read_text()
    assert "nearest in training: row 101" in words(page)


def test_every_run_has_its_learning_curve(tmp_path):
    write(tmp_path / "table.csv", smiles=CHAINS, y=N_CARBONS, part=PARTS)
    for flags, n_thin, told in (
        ({"split": "part"}, 0, "The dotted line is epoch"),
        ({"split": "part", "seeds": 2}, 1, "Thick: the first of 2 seeds, with its epoch"),
        ({"split": "random", "folds": 3, "ensemble": 2}, 5, "Thick: the first of 2 members of 3"),
    ):
        result, _, _ = trained(tmp_path, **flags)
        page = write_train_report(result, tmp_path / "report.html")
        assert len(re.findall("stroke-width: 0.7", pictures(page)["training loss"])) == n_thin
        assert told in words(page)
        folds = flags.get("folds")
        parts = {"test": len(CHAINS)} if folds else {name: PARTS.count(name) for name in set(PARTS)}
        table = [row for row in table_rows(page) if row[0] in ("train", "validation", "test")]
        assert [int(row[1]) for row in table if len(row) == 2] == [
            parts[key] for key in ("train", "valid", "test") if key in parts
        ]
        assert ("In 3 folds; each is tested once" in words(page)) == bool(folds)


def test_a_training_page_shows_the_labels_of_each_part(result, tmp_path):
    measured = np.full((10, 3), np.nan)
    measured[2:, 0] = np.arange(8.0)
    measured[2:, 1] = [0, 0, 0, 1, 0, 1, 1, 1]
    told = {"n_labels": 8, "n_bounds": 1, "n_bad_cells": 2}
    choices = {"targets": {target.name: told for target in TARGETS}}
    shown = replace(result, measured=measured, choices=choices)
    page = write_train_report(shown, tmp_path / "report.html")
    rows = table_rows(page)
    assert ["toxic", "binary", "8", "1", "0", "2"] in rows
    assert ["toxic", "1", "0 (0.0%)", "1 (50.0%)", "3 (75.0%)"] in rows
    assert "train 2 labels, mean 0.5; validation 2 labels, mean 2.5; test 4 labels" in words(page)
    assert "solubility <log>: labels" in pictures(page)


def test_a_training_page_names_molecules_that_repeat(result, tmp_path):
    duplicates = find_duplicates(
        ["CO", "OC"],
        np.array([2, 6]),
        np.array([[1.0], [2.0]]),
        np.zeros((2, 1), np.int8),
        {"toxic": ()},
        [Split(np.array([0]), np.array([], np.int64), np.array([1]))],
    )
    told = words(
        write_train_report(replace(result, duplicates=duplicates), tmp_path / "report.html")
    )
    assert "Molecules that stand in several rows: 1 (in 2 rows)" in told
    assert "'toxic': molecules whose labels differ from row to row: 1 (row 3: 1, row 7: 2)" in told
    assert "Rows of test whose molecule is also in train" in told


def test_without_matplotlib_one_sentence_says_what_to_install(result, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ValueError, match=r"pip install 'moleblend\[report\]'"):
        write_train_report(result, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()
