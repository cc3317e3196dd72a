import io
import json
import sys
from xml.etree import ElementTree

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console

from moleblend.chem.molecule import MoleculeError
from moleblend.chem.parsing import read_smiles
from moleblend.data.store import MoleculeStore
from moleblend.demo import DEFAULT_SMILES, DemoConfig, ask_molecule, demo, training_differs
from moleblend.model import checkpoint
from moleblend.model.batch import collate
from moleblend.model.blending import show
from moleblend.model.encoder_config import EncoderConfig
from moleblend.pretraining.config import ScheduleConfig
from tests.helpers.html import pictures, table_rows, words

TINY = DemoConfig(
    n_molecules=120,
    n_train=30,
    n_validation=20,
    n_test=40,
    n_held_out=10,
    epochs=2,
    encoder=EncoderConfig(width=16, ffn_width=16, n_layers=1, n_heads=2, n_kernels=8),
    schedule=ScheduleConfig(steps=6, batch_size=16, warmup_steps=2),
)


@pytest.fixture(scope="module")
def told():
    return io.StringIO()


@pytest.fixture(scope="module")
def out(tmp_path_factory, told):
    """The folder of one demo, over an earlier one and beside a file that is not ours."""
    out = tmp_path_factory.mktemp("runs") / "demo"
    (out / "pretrain").mkdir(parents=True)
    (out / "pretrain" / "state.ckpt").write_text("of an earlier demo")
    (out / "demo.json").write_text("{}")
    (out / "mine.txt").write_text("keep me")
    page = demo(out, "CCO", console=Console(file=told, width=200), config=TINY)
    assert page == out / "report.html"
    return out


def test_the_demo_leaves_its_folders_and_what_is_not_its_own(out):
    names = {path.name for path in out.iterdir()}
    runs = {"data", "pretrain", "from_pretrained", "from_random"}
    assert names == runs | {"demo.json", "report.html", "mine.txt"}
    assert (out / "from_random" / "model.safetensors").is_file()


def test_no_test_molecule_was_pretrained_on(out):
    labels = pq.read_table(out / "data" / "labels.parquet")
    sets = np.array(labels["set"].to_pylist())
    counts = [int((sets == name).sum()) for name in ("train", "validation", "test")]
    assert counts == [30, 20, 40]
    seen = set(pq.read_table(out / "data" / "pretrain.parquet")["index"].to_pylist())
    index = np.array(labels["index"].to_pylist())
    assert len(seen) == len(MoleculeStore(out / "data" / "pretrain.arrow")) == 80
    assert not seen & set(index[sets == "test"].tolist())
    assert set(index[sets == "train"].tolist()) <= seen


def test_both_runs_differ_in_their_start_alone(out):
    settings = [
        json.loads((out / name / "config.json").read_text())
        for name in ("from_pretrained", "from_random")
    ]
    names = settings[0].keys() - {"model_sha256"}
    differing = [name for name in names if settings[0][name] != settings[1][name]]
    assert sorted(differing) == ["out", "settings", "source"]  # the settings have the source
    assert settings[1]["source"] == "scratch"


def test_the_metrics_are_the_same_everywhere(out, told):
    record = json.loads((out / "demo.json").read_text())
    for name in ("from_pretrained", "from_random"):
        metrics = json.loads((out / name / "metrics.json").read_text())
        assert record["test"][name] == metrics["test"]["gap"]
        assert f"{metrics['test']['gap']['MAE']:.3f}" in told.getvalue()
    constant = metrics["constant_baseline"]["gap"]
    assert record["test"]["mean"] == constant
    last = next(
        row
        for row in table_rows(out / "report.html")
        if row[0].startswith("constant baseline") and len(row) == 5
    )
    assert last == [
        "constant baseline (mean)",
        "–",
        *(f"{constant[k]:.3f}" for k in ("MAE", "RMSE", "R2")),
    ]
    assert str(out / "report.html") in told.getvalue()


def test_the_page_shows_the_views_of_a_molecule_it_never_saw(out):
    drawn = pictures(out / "report.html")
    page = words(out / "report.html")
    assert "70 molecules were used." in page
    assert "predicted gap (eV)" in page
    distance = numbers(drawn["true distance (Å)"])
    n = round(len(distance) ** 0.5)
    distance = np.array(distance).reshape(n, n)
    assert (distance == distance.T).all()
    assert (np.diag(distance) == 0).all()
    path_length = np.array(numbers(drawn["path length"])).reshape(n, n)
    assert (path_length == 1).sum() >= 2 * (n - 1)
    assert ((distance > 1.0) & (distance < 1.7))[path_length == 1].all()

    smiles = page.partition("numbered as in the drawing. ")[2].split()[0]
    batch = collate([read_smiles(smiles)])  # it has no geometry that could leak in
    model = checkpoint.load(out / "pretrain" / "model.safetensors").eval()
    with torch.inference_mode():
        expected = model.predict_views(batch, show(batch, "2d")).geometry[0, :, :, 0].numpy()
    predicted = np.array(numbers(drawn["predicted from 2D alone (Å)"])).reshape(n, n)
    np.testing.assert_allclose(predicted, expected * (1 - np.eye(n)), atol=0.051)


def numbers(svg):
    """The numbers in the cells of a matrix, row by row."""
    tree = ElementTree.fromstring(svg)
    texts = [element.text for element in tree.iter("{http://www.w3.org/2000/svg}text")]
    n = next(k for k in range(3, 10) if texts[k] != str(k + 1))
    cells = texts[2 * n : 2 * n + n * n]
    assert len(cells) == n * n
    return [float(cell or "") for cell in cells]


def test_folders_that_no_demo_wrote_are_not_removed(tmp_path):
    (tmp_path / "data").mkdir()
    with pytest.raises(ValueError, match="already has data, which no demo wrote"):
        demo(tmp_path, "CCO", console=Console(quiet=True), config=TINY)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_typed_text_that_is_no_molecule_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(MoleculeError, match="nonsense: not a valid SMILES"):
        demo(tmp_path / "demo", "nonsense", console=Console(quiet=True), config=TINY)
    assert not (tmp_path / "demo").exists()


def test_without_matplotlib_no_work_is_begun(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ValueError, match="need matplotlib"):
        demo(tmp_path / "demo", "CCO", console=Console(quiet=True), config=TINY)
    assert not (tmp_path / "demo").exists()


def test_a_molecule_unlike_the_training_data_is_marked():
    assert training_differs(read_smiles("CCO")) == ""
    assert "10 heavy atoms" in training_differs(read_smiles("C" * 10))
    assert "elements other than C, N, O and F" in training_differs(read_smiles("CCl"))


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("typed", "expected"),
    [("CCN\n", "CCN"), ("nonsense\n\n", DEFAULT_SMILES), ("", DEFAULT_SMILES)],
)
def test_a_terminal_is_asked_until_it_names_a_molecule(monkeypatch, typed, expected):
    monkeypatch.setattr(sys, "stdin", Terminal(typed))
    shown = io.StringIO()
    molecule = ask_molecule(Console(file=shown))
    assert molecule.id == expected
    assert molecule.n_conformers == 1
    assert ("not a valid SMILES" in shown.getvalue()) == typed.startswith("nonsense")


def test_without_a_terminal_nobody_is_asked(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("CCN\n"))
    assert ask_molecule(Console(quiet=True)).id == DEFAULT_SMILES
