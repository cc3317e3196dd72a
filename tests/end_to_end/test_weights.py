"""The packaged model, and that it was trained on no test molecule."""

import json
import os
import random
import re
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.packaged_model import training_data
from benchmarks.packaged_model.publish import publish
from benchmarks.packaged_model.training_data import SKELETONS, SkeletonList, hashed, skeleton
from benchmarks.results.csv_files import REPOSITORY
from moleblend.chem.parsing import read_smiles
from moleblend.config import to_dict
from moleblend.data.datasets.catalogue import on_protocol_u
from moleblend.data.datasets.fetch import read
from moleblend.data.splits import scaffold_split
from moleblend.data.store import MoleculeStore, write_store
from moleblend.data.table import Rejected, read_molecules, smiles_table
from moleblend.model import checkpoint
from moleblend.model.heads import HeadsConfig, Model, ModelConfig
from moleblend.pretraining.config import PretrainConfig, ScheduleConfig
from tests.helpers.runs import TINY

SMALL = ("bace", "esol", "freesolv")


@pytest.fixture(scope="module")
def listed() -> SkeletonList:
    return SkeletonList.read()


def test_nothing_that_is_tested_on_was_trained_on(listed: SkeletonList) -> None:
    assert len(np.intersect1d(listed.trained, listed.tested)) == 0
    assert len(listed.trained) > 100_000
    assert len(listed.tested) > 30_000


def readable(smiles: list[str]) -> list[str]:
    """Canonical SMILES of the rows that can be parsed."""
    items = read_molecules(smiles_table(smiles))
    return [item.smiles for item in items if not isinstance(item, Rejected)]


@pytest.mark.usefixtures("data_folder")
def test_the_list_is_that_of_the_published_splits(listed: SkeletonList) -> None:
    """Molecules of every set, drawn from protocol U, are in the right list."""
    rng = random.Random(0)
    for name in on_protocol_u():
        columns = read(f"{name}-u").columns.select(["smiles", "split"]).to_pylist()
        held = [row["smiles"] for row in columns if row["split"] != "train"]
        others = [row["smiles"] for row in columns if row["split"] == "train"]
        drawn = hashed(map(skeleton, readable(rng.sample(held, 50))))
        assert np.isin(drawn, listed.tested).all(), name
        assert not np.isin(drawn, listed.trained).any(), name
        drawn = hashed(map(skeleton, readable(rng.sample(others, 50))))
        assert not np.isin(drawn, listed.tested).all(), name


@pytest.mark.usefixtures("data_folder")
@pytest.mark.parametrize("name", SMALL)
def test_the_list_has_our_own_splits_of_the_small_sets(name: str, listed: SkeletonList) -> None:
    items = read_molecules(read(name))
    raw = [row.smiles for row in items if not isinstance(row, Rejected)]
    split = scaffold_split(raw)
    drawn = hashed(skeleton(raw[row]) for rows in (split.validation, split.test) for row in rows)
    assert np.isin(drawn, listed.tested).all()
    assert not np.isin(drawn, listed.trained).any()


@pytest.mark.usefixtures("data_folder")
def test_the_list_is_of_the_sets_as_they_are(listed: SkeletonList) -> None:
    assert training_data.contents() == listed.contents


def test_the_packaged_model_is_of_the_listed_data(listed: SkeletonList) -> None:
    try:
        path = checkpoint.packaged()
    except FileNotFoundError:
        return  # another test fails if there is no packaged model
    card = checkpoint.read_card(path)
    assert card.trained_by == "pretrain"
    assert card.data_fingerprint == listed.fingerprint
    assert f"`{listed.fingerprint}`" in path.with_name("MODEL_CARD.md").read_text()
    assert path.stat().st_size <= 25_000_000
    checkpoint.load(path)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.usefixtures("data_folder")
def test_the_list_made_anew(listed: SkeletonList) -> None:
    np.testing.assert_array_equal(hashed(training_data.tested_skeletons()), listed.tested)
    store = Path(os.environ.get("MOLEBLEND_PACKAGED_STORE", "runs/packaged_model/data.arrow"))
    if (
        store.is_file()
    ):  # 250,000 molecules, which `python -m benchmarks.packaged_model.training_data` makes
        found = MoleculeStore(store)
        assert found.fingerprint == listed.fingerprint
        np.testing.assert_array_equal(hashed(training_data.skeletons_of(found)), listed.trained)


def test_a_skeleton_forgets_salt_and_stereo_and_no_more() -> None:
    names = ["C[C@H](N)C(=O)O", "C[C@@H](N)C(=O)O", "CC(N)C(=O)O.Cl", "CC(N)C(=O)[O-].[Na+]"]
    assert len(hashed(map(skeleton, names))) == 1
    assert len(hashed(map(skeleton, ["CCO", "CCN", "CCO"]))) == 2


def test_a_list_that_shares_a_skeleton_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "data.arrow"
    write_store([read_smiles(text) for text in ("CCO", "CCN")], store, features="cip-1")
    monkeypatch.setattr(
        training_data, "skeletons_of", lambda store: [skeleton(m.smiles) for m in store]
    )
    monkeypatch.setattr(training_data, "contents", lambda: {"esol": "00"})
    monkeypatch.setattr(training_data, "tested_skeletons", lambda: {skeleton("CCN")})
    with pytest.raises(ValueError, match="1 of its skeletons are tested on"):
        training_data.main(store, tmp_path / "list.safetensors")
    assert not (tmp_path / "list.safetensors").exists()
    monkeypatch.setattr(training_data, "tested_skeletons", lambda: {skeleton("CCC")})
    training_data.main(store, tmp_path / "list.safetensors")
    made = SkeletonList.read(tmp_path / "list.safetensors")
    assert made.contents == {"esol": "00"}
    assert made.fingerprint == MoleculeStore(store).fingerprint
    np.testing.assert_array_equal(made.trained, hashed(map(skeleton, ("CCO", "CCN"))))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder as a finished run of ten steps leaves it, and the list of its data."""
    folder = tmp_path / "run"
    torch.manual_seed(0)
    model = Model(ModelConfig(encoder=TINY, heads=HeadsConfig(rank=4)))
    card = checkpoint.Card(trained_by="pretrain", data="data.arrow", data_fingerprint="ab" * 32)
    checkpoint.save(model, folder / "model.safetensors", card)
    config = PretrainConfig(
        data="x", encoder=TINY, schedule=ScheduleConfig(steps=10, warmup_steps=1)
    )
    stored = {"config": to_dict(config), "data_fingerprint": "ab" * 32}
    (folder / "starts.csv").write_text(
        "step,moleblend,code,python,torch,processor,threads\n0,0.1.0,abcdef01,3.11,2.13.0,a CPU,2\n"
    )
    (folder / "config.json").write_text(json.dumps(stored))
    (folder / "log.csv").write_text(
        "step,learning_rate,loss,path_length,molecules_per_s\n5,1e-4,7.2,2.2,100\n10,1e-4,4.6,1.8,50\n"
    )
    (folder / "validation.csv").write_text(
        "step,view,shown,metric,value,lookup_baseline,n\n5,bonds,hidden,accuracy,0.5,0.4,9\n"
        "10,bonds,hidden,accuracy,0.875,,1234\n"
    )
    names = hashed(["a", "b"]), hashed(["c"])
    SkeletonList("ab" * 32, {"esol": "00"}, *names).write(tmp_path / "list.safetensors")
    return folder


def test_a_run_becomes_the_packaged_model(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = publish(run, tmp_path / "weights", tmp_path / "list.safetensors")
    monkeypatch.setattr(checkpoint, "_ASSETS", tmp_path / "weights")
    assert checkpoint.packaged() == checkpoint.locate("packaged") == out
    before, after = checkpoint.load(run / "model.safetensors"), checkpoint.load(out)
    assert after.config == before.config
    for name, weight in before.state_dict().items():
        assert torch.equal(weight, after.state_dict()[name])
    card = checkpoint.read_card(out)
    assert (card.data_fingerprint, card.notes["steps"]) == ("ab" * 32, 10)
    text = (tmp_path / "weights" / "MODEL_CARD.md").read_text()
    assert "ab" * 32 in text
    assert "| bonds | hidden | accuracy | 0.875 |  | 1,234 |" in text
    assert "0.500" not in text  # the validation of an earlier step
    assert "| 10 | 4.600 | 1.800 |" in text
    assert "2 different skeletons" in text
    for licence in ("CC0", "MIT"):
        assert f"| {licence} |" in text


def test_a_run_in_two_stages_describes_both(run: Path, tmp_path: Path) -> None:
    first = publish(run, tmp_path / "first", tmp_path / "list.safetensors")
    stored = json.loads((run / "config.json").read_text())
    stored["config"] |= {"source": str(first), "readout": "layers"}
    stored["config"]["heads"]["descriptors"] = True
    (run / "config.json").write_text(json.dumps(stored))
    model, digest = checkpoint.load(run / "model.safetensors"), checkpoint.sha256(first)
    card = checkpoint.read_card(run / "model.safetensors")
    for source_sha256 in ("00" * 32, digest):
        notes = {"source_sha256": source_sha256}
        checkpoint.save(model, run / "model.safetensors", replace(card, notes=notes))
        if source_sha256 != digest:
            with pytest.raises(ValueError, match="but the run started from 000000000000"):
                publish(run, tmp_path / "weights", tmp_path / "list.safetensors")
    out = publish(run, tmp_path / "weights", tmp_path / "list.safetensors")
    notes = checkpoint.read_card(out).notes
    assert notes["before"] == {"steps": 10, "hours": 0.0, "batch_size": 64, "sha256": digest}
    assert notes["config"]["source"] == first.name
    text = out.with_name("MODEL_CARD.md").read_text()
    assert "The first had 10 steps of 64 molecules and 0.0 hours, from random weights" in text
    assert digest in text
    assert "(readout `layers`) predicts its 121 descriptors" in text


def cut_log(run: Path) -> None:
    (run / "log.csv").write_text("step,loss,molecules_per_s\n5,7,100\n")


def change_data(run: Path) -> None:
    text = (run / "config.json").read_text()
    (run / "config.json").write_text(text.replace("ab" * 32, "cd" * 32))


def change_list(run: Path) -> None:
    path = run.parent / "list.safetensors"
    listed = SkeletonList.read(path)
    SkeletonList("cd" * 32, listed.contents, listed.trained, listed.tested).write(path)


def spoil(run: Path) -> None:
    model = checkpoint.load(run / "model.safetensors")
    next(model.parameters()).data.fill_(torch.nan)
    checkpoint.save(
        model, run / "model.safetensors", checkpoint.read_card(run / "model.safetensors")
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (cut_log, "the run is not finished: got step"),
        (change_data, "model.safetensors and config.json have different data"),
        (change_list, "belongs to data cdcdcdcdcdcdcdcd, the run to abababababababab"),
        (spoil, "weight encoder.virtual_bias is damaged"),
    ],
)
def test_a_run_that_cannot_be_published(
    change: Callable[[Path], None], message: str, run: Path, tmp_path: Path
) -> None:
    change(run)
    with pytest.raises(ValueError, match=re.escape(message)):
        publish(run, tmp_path / "weights", tmp_path / "list.safetensors")
    assert not (tmp_path / "weights").exists()


def test_the_wheel_has_what_is_in_the_folder_and_not_the_list() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    assert "assets/*" in project["tool"]["setuptools"]["package-data"]["moleblend"]
    assert SKELETONS.stat().st_size <= 2_000_000
    assert "src" not in SKELETONS.relative_to(REPOSITORY).parts
