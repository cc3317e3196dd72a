import re
import sys
from dataclasses import replace

import numpy as np
import pytest

from moleblend.data.duplicates import Duplicates, find_duplicates
from moleblend.data.splits import Split
from moleblend.data.targets import Target
from moleblend.evaluation.applicability_domain import IN_DOMAIN, DomainScores
from moleblend.evaluation.baseline import BaselineResult
from moleblend.evaluation.comparison import Comparison
from moleblend.evaluation.metrics import binary_metrics, regression_metrics
from moleblend.evaluation.uncertainty import Uncertainty
from moleblend.finetuning.callbacks import EpochHistory
from moleblend.finetuning.resolved_settings import ResolvedSettings, TargetSettings
from moleblend.finetuning.results import (
    BaselineComparison,
    LabelledPredictions,
    TableSummary,
)
from moleblend.finetuning.run import Evaluation
from moleblend.finetuning.train import TrainConfig, TrainResult
from moleblend.model import checkpoint
from moleblend.model.encoder_config import EncoderConfig
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
SETTINGS = ResolvedSettings(
    smiles="smiles",
    targets={},
    targets_from="flag",
    left_out={},
    qualifiers={},
    n_rows=10,
    n_usable=8,
    split="scaffold",
    folds=0,
    set_sizes={"train": 2, "validation": 2, "test": 4},
    fold_sizes=(),
    views="2d",
    source="scratch",
    features=(),
    freeze=False,
    seeds=1,
    ensemble=1,
    epoch_from="the last",
    threshold_from="validation",
    notes=(),
)
PREDICTED = np.array([[1.5, 0.2, 0.9], [3.0, 0.8, 0.9], [9.0, 0.1, 0.9], [4.5, 0.15, 0.9]])


@pytest.fixture
def result(tmp_path):
    """A run whose metrics are known."""
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
    split = Split(np.array([2, 3]), np.array([4, 5]), np.array([6, 7, 8, 9]))
    constant = {TARGETS[0].name: regression_metrics(np.ones(4), LABELS[:, 0])}
    return TrainResult(
        config=config,
        settings=SETTINGS,
        model=model,
        targets=TARGETS,
        uncertainty=Uncertainty(),
        domain=None,
        evaluation=Evaluation(metrics, metrics, constant),
        uncertainty_metrics={},
        statistics={},
        predictions=LabelledPredictions(
            smiles=(),
            labels=LABELS,
            censoring=np.zeros(LABELS.shape, np.int8),
            predicted=PREDICTED,
            uncalibrated=PREDICTED,
            estimates={},
            domain_scores=DomainScores.unknown(0),
        ),
        baseline=BaselineComparison(BaselineResult(), (), ""),
        table=TableSummary(rows, np.full((10, 3), np.nan), split, Duplicates()),
        histories=(EpochHistory(tuple(history), 2, 0.625),),
    )


def test_a_training_report_compares_every_metric_with_the_constant_baseline(result, tmp_path):
    page = write_train_report(result, tmp_path / "report.html")
    rows = table_rows(page)
    # |1.5 - 1|, 0, |4.5 - 5|: a third of 1; always 1: 0, 2 and 4
    assert ["solubility <log> ($\\mol$)", "MAE", "0.3333", "0.3333", "2", "3"] in rows
    assert ["toxic", "ROC-AUC", "0.5", "0.5", "0.5", "4"] in rows
    assert ["toxic", "accuracy", "0.75", "0.75", "0.5", "4"] in rows
    assert ["one class", "ROC-AUC", "undefined", "undefined", "0.5", "3"] in rows


def test_a_training_report_accounts_for_the_rows(result, tmp_path):
    page = write_train_report(result, tmp_path / "report.html")
    rows = table_rows(page)
    assert ["ok", "8", ""] in rows
    assert ["invalid", "1", "row 1: a < b is no SMILES"] in rows
    sets = rows.index(["set", "molecules"])
    assert rows[sets + 1 : sets + 4] == [["train", "2"], ["validation", "2"], ["test", "4"]]
    text = words(page)
    assert "10 rows, 8 of them usable" in text
    assert "Data in & out.csv Initial weights random Views 2d" in text
    assert "Features none Split scaffold Test molecules 4" in text
    assert "epoch 2 of 2" in text
    assert f"moleblend predict '{result.model}' molecules.csv predictions.csv" in text


def test_a_training_report_says_whether_validation_still_improves(result, tmp_path):
    for last, is_improving in ((0.625, True), (0.502, False), (0.4, False)):
        first, second = result.histories[0].epochs
        history = EpochHistory((first, second | {"validation": last}), 2, last)
        page = write_train_report(replace(result, histories=(history,)), tmp_path / "report.html")
        assert ("Validation still improved in the last epoch." in words(page)) == is_improving


def test_a_training_report_plots_each_target_that_can_be_plotted(result, tmp_path):
    plots = pictures(write_train_report(result, tmp_path / "report.html"))
    assert list(plots) == [
        "solubility <log>: MAE 0.3333 $\\mol$",
        "toxic: ROC-AUC 0.5",
        "toxic: PR-AUC 0.75",
        "training loss",
        "validation ROC-AUC − RMSE",
    ]
    parity = plots["solubility <log>: MAE 0.3333 $\\mol$"]
    assert "measured ($\\mol$)" in parity
    assert parity.split("PathCollection")[1].split("matplotlib.axis")[0].count("use ") == 3


COMPARISON = Comparison(
    "toxic", "random forest on ecfp4", "ROC-AUC", "", 0.5, 0.75, -0.25, -0.4, -0.1, 40
)


def test_a_training_report_compares_with_the_random_forest(result, tmp_path):
    forest = regression_metrics(np.array([1.0, 2, 3, 4]), LABELS[:, 0])
    predicted = np.array([[1.0, 0.1, 0], [2, 0.9, 0], [3, 0.9, 0], [4, 0.2, 0]])
    baseline = BaselineResult(
        7,
        predicted,
        {TARGETS[0].name: forest, "toxic": binary_metrics(predicted[:, 1], LABELS[:, 1])},
        not_trained={"one class": "of a reason"},
    )
    shown = replace(result, baseline=BaselineComparison(baseline, (COMPARISON,), "fewer trees"))
    page = write_train_report(shown, tmp_path / "report.html")
    rows = table_rows(page)
    assert rows[0][4] == "random forest, test"
    # 0, 1 and 1 off
    assert ["solubility <log> ($\\mol$)", "MAE", "0.3333", "0.3333", "0.6667", "2", "3"] in rows
    assert ["toxic", "ROC-AUC", "0.5", "0.5", "1", "0.5", "4"] in rows
    assert ["one class", "accuracy", "1", "1", "–", "1", "3"] in rows
    text = words(page)
    assert "toxic: a random forest on ecfp4 is better than the model: ROC-AUC 0.5" in text
    assert 'class="warning"' in page.read_text()
    assert "Fewer trees." in text
    assert "No random forest for one class: of a reason." in text
    assert "The random forest has 7 trees" in text
    assert "random forest" in pictures(page)["toxic: ROC-AUC 0.5"]
    won = replace(COMPARISON, improvement=0.25, low=0.1, high=0.4)
    shown = replace(shown, baseline=replace(shown.baseline, comparisons=(won,)))
    page = write_train_report(shown, tmp_path / "2.html")
    assert "toxic: the model is better" in words(page)
    assert 'class="warning"' not in page.read_text()


def with_test_molecules(result, smiles):
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
    predictions = LabelledPredictions(
        smiles=tuple(smiles),
        labels=labels,
        censoring=np.zeros(labels.shape, np.int8),
        predicted=predicted,
        uncalibrated=predicted,
        estimates={},
        domain_scores=near,
    )
    split = replace(result.table.split, test=np.arange(n) + 1000)
    return replace(result, predictions=predictions, table=replace(result.table, split=split))


def test_a_training_report_analyses_errors(result, tmp_path):
    smiles = ["c1ccccc1" + "C" * k for k in range(10)] + ["N" + "C" * k for k in range(10)]
    page = write_train_report(with_test_molecules(result, smiles), tmp_path / "report.html")
    rows = table_rows(page)
    assert ["", "10", "12.5 ± 0.96", "5.5", "harder"] in rows  # 8 to 17 letters, or 1 to 10
    assert ["no ring", "10", "5.5 ± 0.96", "12.5", "easier"] in rows
    plots = pictures(page)
    for name in ("solubility <log>", "toxic", "one class"):
        assert f"{name}: error by similarity" in plots
        assert f"{name}: error by distance" in plots
    assert "c1ccccc1CCCCCCCCC" in plots
    text = words(page)
    assert "Largest errors ($\\mol$) row 1010 measured 1 predicted 18 nearest training" in text
    nearest = "nearest training molecule: row 111, similarity 1.00 CC"
    assert f"row 1011 measured 1 predicted 2 {nearest}" in text
    assert "20 test molecules in 2 bins of 10" in text
    assert "predicted 0 with probability 0.50" in text


def test_too_few_test_molecules_say_so(result, tmp_path):
    few = with_test_molecules(result, ["CCO", "CCN", "c1ccccc1", "CO"])
    text = words(write_train_report(few, tmp_path / "report.html"))
    assert "No group of test molecules has 5 members" in text
    assert "There are too few test molecules to plot errors over the distance to the" in text
    unknown = DomainScores.unknown(4)
    lost = replace(few, predictions=replace(few.predictions, domain_scores=unknown))
    text = words(write_train_report(lost, tmp_path / "2.html"))
    assert "The distance to the training set is not known" in text
    assert "nearest training molecule" not in text
    assert "Error analysis" not in words(write_train_report(result, tmp_path / "3.html"))


def test_a_training_molecule_is_named_by_its_row_alone_where_none_is_kept(result, tmp_path):
    kept = with_test_molecules(result, ["CCO", "CCN", "c1ccccc1", "CO"])
    scores = replace(kept.predictions.domain_scores, smiles=[""] * 4)
    hidden = replace(kept, predictions=replace(kept.predictions, domain_scores=scores))
    assert "<code>CC</code>" in write_train_report(kept, tmp_path / "1.html").read_text()
    page = write_train_report(hidden, tmp_path / "2.html")
    assert "<code>CC</code>" not in page.read_text()
    assert "nearest training molecule: row 101" in words(page)


def test_every_run_has_its_learning_curve(tmp_path):
    write(tmp_path / "table.csv", smiles=CHAINS, y=N_CARBONS, set=PARTS)
    for flags, n_thin, text in (
        ({"split": "set"}, 0, "The dotted line marks the kept epoch"),
        ({"split": "set", "seeds": 2}, 1, "Thick line: the first of 2 seeds; the dotted line"),
        (
            {"split": "random", "folds": 3, "ensemble": 2},
            5,
            "Thick line: the first of 2 members of 3 folds",
        ),
    ):
        result, _, _ = trained(tmp_path, **flags)
        page = write_train_report(result, tmp_path / "report.html")
        assert len(re.findall("stroke-width: 0.7", pictures(page)["training loss"])) == n_thin
        assert text in words(page)
        folds = flags.get("folds")
        sizes = {"test": len(CHAINS)} if folds else {name: PARTS.count(name) for name in set(PARTS)}
        table = [row for row in table_rows(page) if row[0] in ("train", "validation", "test")]
        assert [int(row[1]) for row in table if len(row) == 2] == [
            sizes[key] for key in ("train", "valid", "test") if key in sizes
        ]
        assert ("3 folds: each fold is the test set once" in words(page)) == bool(folds)


def test_a_training_report_shows_the_labels_of_each_set(result, tmp_path):
    measured = np.full((10, 3), np.nan)
    measured[2:, 0] = np.arange(8.0)
    measured[2:, 1] = [0, 0, 0, 1, 0, 1, 1, 1]
    settings = replace(
        result.settings,
        targets={
            target.name: TargetSettings(
                kind=target.kind,
                unit=target.unit,
                unit_from="",
                log10=False,
                classes=(),
                n_labels=8,
                n_censored=1,
                n_approximate=0,
                n_bad_cells=2,
            )
            for target in TARGETS
        },
    )
    shown = replace(result, table=replace(result.table, labels=measured), settings=settings)
    page = write_train_report(shown, tmp_path / "report.html")
    rows = table_rows(page)
    assert ["toxic", "binary", "8", "1", "0", "2"] in rows
    assert ["toxic", "1", "0 (0.0%)", "1 (50.0%)", "3 (75.0%)"] in rows
    assert "train 2 labels, mean 0.5; validation 2 labels, mean 2.5; test 4 labels" in words(page)
    assert "solubility <log>: labels" in pictures(page)


def test_a_training_report_names_molecules_that_repeat(result, tmp_path):
    duplicates = find_duplicates(
        ["CO", "OC"],
        np.array([2, 6]),
        np.array([[1.0], [2.0]]),
        np.zeros((2, 1), np.int8),
        {"toxic": ()},
        [Split(np.array([0]), np.array([], np.int64), np.array([1]))],
    )
    text = words(
        write_train_report(
            replace(result, table=replace(result.table, duplicates=duplicates)),
            tmp_path / "report.html",
        )
    )
    assert "Duplicate molecules: 1 (in 2 rows)" in text
    assert "'toxic': duplicate molecules with different labels: 1 (row 3: 1, row 7: 2)" in text
    assert "Rows of the test set whose molecule is also in the training or validation set" in text


def test_without_matplotlib_one_sentence_says_what_to_install(result, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ValueError, match=r"pip install 'moleblend\[report\]'"):
        write_train_report(result, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()
