"""Model files: what is saved is what is loaded, and every damaged file gives one sentence."""

import json
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from moleblend.chem.parsing import read_smiles
from moleblend.data.targets import Target
from moleblend.evaluation.applicability_domain import ApplicabilityDomain
from moleblend.evaluation.uncertainty import Uncertainty
from moleblend.model import checkpoint
from moleblend.model.batch import collate
from moleblend.model.blending import show
from moleblend.model.checkpoint import (
    Card,
    count_parameters,
    load,
    load_model,
    read_card,
    save,
    save_model,
)
from moleblend.model.encoder_config import EncoderConfig
from moleblend.model.growth import transfer
from moleblend.model.heads import Model, ModelConfig

ENCODER = EncoderConfig(width=8, ffn_width=12, n_layers=2, n_heads=2, n_kernels=4)
GAP = Target("gap", "regression", unit="eV", mean=6.5, scale=1.25)
CARD = Card(
    trained_by="train",
    data="qm9",
    data_fingerprint="3f2a",
    views="2d",
    licence="CC0-1.0",
    notes={"epochs": 3, "splits": [1, 2], "by": None},
)
SMILES = "CC(=O)Oc1ccccc1C(=O)O"


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Model(ModelConfig(encoder=ENCODER, targets=(GAP, Target("toxic", "binary")))).eval()


@pytest.fixture
def path(model, tmp_path):
    path = tmp_path / "model.safetensors"
    save(model, path, CARD)
    return path


def predict(model):
    batch = collate([read_smiles(SMILES)])
    with torch.no_grad():
        return model(batch, show(batch, "both"))


def rewrite(path, change_tensors=None, **header):
    """Write a model file again with other tensors or another header, as one without a hash."""
    with safe_open(path, framework="pt") as file:
        metadata = {**file.metadata(), "sha256": None, **header}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if change_tensors is not None:
        change_tensors(tensors)
    save_file(tensors, path, metadata={k: v for k, v in metadata.items() if v is not None})


def assert_refused(path, sentence):
    with pytest.raises(ValueError, match=f"^{re.escape(f'{path}: {sentence}')}[^\n]*$"):
        load(path)


# ── what is saved is what is loaded ──


def test_round_trip(model, path):
    loaded = load(path)
    assert loaded.config == model.config
    assert not loaded.training
    assert torch.equal(predict(loaded), predict(model))
    assert read_card(path) == CARD


def test_the_same_model_is_the_same_file(model, path, tmp_path):
    """Whatever its texts: safetensors writes the entries of its header in any order."""
    odd = replace(CARD, data='µ "quoted" \\ Å\n\x01')
    files = [tmp_path / f"{k}.safetensors" for k in range(4)]
    for file in files:
        save(model, file, odd)
    assert len({file.read_bytes() for file in files}) == 1
    assert read_card(files[0]) == odd
    assert path.read_bytes() != files[0].read_bytes()


def test_the_public_functions_write_and_read_a_model(model, tmp_path, monkeypatch):
    path = tmp_path / "run" / "model.safetensors"
    save_model(model.train(), path)
    loaded = load_model(path.parent)  # a run folder
    assert not loaded.training
    assert torch.equal(predict(loaded), predict(model.eval()))
    assert read_card(path).trained_by == "save_model"
    save_model([model, Model(model.config)], path, CARD)
    assert read_card(path) == CARD
    assert len(checkpoint.load_members(path)) == 2
    monkeypatch.setattr(checkpoint, "_ASSETS", tmp_path)
    save_model(model, tmp_path / "moleblend.safetensors")
    assert torch.equal(predict(load_model("packaged")), predict(model))


def test_a_model_without_heads_or_targets(tmp_path):
    model = Model(ModelConfig(encoder=ENCODER, heads=None))
    save(model, tmp_path / "bare.safetensors", Card(trained_by="pretrain"))
    loaded = load(tmp_path / "bare.safetensors")
    assert loaded.config == model.config
    assert loaded.pair_heads is None
    assert loaded.property_head is None


def test_another_process_computes_the_same(model, path):
    program = f"""
import torch
from moleblend.model.batch import collate
from moleblend.model.blending import show
from moleblend.model.checkpoint import load
from moleblend.chem.parsing import read_smiles
batch = collate([read_smiles({SMILES!r})])
with torch.no_grad():
    print(load({str(path)!r})(batch, show(batch, "both")).tolist())
"""
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert json.loads(result.stdout) == predict(model).tolist()


def test_every_kept_number_is_counted():
    assert count_parameters(torch.nn.Linear(3, 2)) == 8


# ── writing ──


def test_a_failing_save_leaves_the_old_file_and_nothing_else(model, path, monkeypatch):
    old = path.read_bytes()

    def run_out_of_space(tensors, filename, metadata):
        save_file(tensors, filename, metadata=metadata)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", run_out_of_space)
    for name in ("model.safetensors", "new.safetensors"):
        with pytest.raises(OSError, match="No space left"):
            save(model, path.with_name(name), Card(trained_by="pretrain"))
    assert path.read_bytes() == old
    assert list(path.parent.iterdir()) == [path]


def test_a_save_replaces_the_old_file_and_makes_folders(model, path):
    save(model, path, Card(trained_by="pretrain"))
    assert read_card(path).trained_by == "pretrain"
    deep = path.parent / "runs" / "first" / "model.safetensors"
    save(model, deep, CARD)
    assert read_card(deep) == CARD


def test_a_model_file_is_named_as_one(model, tmp_path):
    with pytest.raises(ValueError, match=r"ends in \.safetensors"):
        save(model, tmp_path / "model.pt", CARD)
    assert list(tmp_path.iterdir()) == []


# ── files that cannot be used ──


@pytest.mark.parametrize("read", [load, read_card])
def test_a_file_that_is_not_there(read, tmp_path):
    for place in (tmp_path / "absent.safetensors", tmp_path):
        with pytest.raises(FileNotFoundError, match="there is no such model file"):
            read(place)


@pytest.mark.parametrize("read", [load, read_card])
@pytest.mark.parametrize("fraction", [0.0, 0.0001, 0.01, 0.5, 0.9999])
def test_a_truncated_file(read, path, fraction):
    content = path.read_bytes()
    path.write_bytes(content[: int(fraction * len(content))])
    with pytest.raises(ValueError, match=r"^[^\n]*not a model file, or truncated[^\n]*$"):
        read(path)


def test_a_file_of_another_kind(path):
    path.write_text("smiles,y\nCCO,1\n" * 100)
    assert_refused(path, "not a model file, or truncated (")


@pytest.mark.parametrize("kind", [None, "pt"])
def test_a_safetensors_file_that_is_not_ours(path, kind):
    rewrite(path, format=kind)
    assert_refused(path, "a safetensors file, but not a moleblend model")


def test_a_safetensors_file_without_a_header(tmp_path):
    path = tmp_path / "published.safetensors"
    save_file({"weight": torch.zeros(2)}, path)
    assert_refused(path, "a safetensors file, but not a moleblend model")


@pytest.mark.parametrize("number", [None, "0", "2"])
def test_a_file_of_another_version(path, number):
    rewrite(path, format_version=number)
    assert_refused(path, f"written by another version of moleblend: got format {number}, this")
    with pytest.raises(
        ValueError, match=rf"got format {number}, this version \([^)]*\) reads format 1$"
    ):
        read_card(path)


@pytest.mark.parametrize("text", [None, "", '{"encoder": {"width"'])
def test_a_damaged_header(path, text):
    rewrite(path, config=text, card=text)
    assert_refused(path, "config is missing or damaged in the header (")
    with pytest.raises(ValueError, match="card is missing or damaged in the header"):
        read_card(path)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ([], "got [], expected a table"),
        ({"encodr": {}}, "unknown name encodr; available: encoder, heads, targets"),
        (
            {"encoder": {"width": 9, "n_heads": 2}},
            "encoder: got width=9 and n_heads=2, expected width to be a multiple of n_heads",
        ),
        (
            {"encoder": {"features": "ogb-9"}},
            "encoder.features: got 'ogb-9', expected one of 'cip-1', 'ogb-1'",
        ),
        (
            {"targets": [{"name": "gap", "kind": "regression", "scale": 0}]},
            "targets[0]: target gap: got scale=0.0, expected above 0",
        ),
        (
            {"heads": {"bond_vocabulary": [5, 4]}},
            "heads.bond_vocabulary: got [5, 4], expected 3 values",
        ),
    ],
)
def test_a_header_that_describes_no_model(path, config, sentence):
    rewrite(path, config=json.dumps(config))
    assert_refused(path, f"config: {sentence}")


def test_a_card_of_other_fields(path):
    rewrite(path, card=json.dumps({"trained_by": "train", "mood": "good"}))
    with pytest.raises(ValueError, match=r"card: unknown name mood; available: trained_by, data"):
        read_card(path)


def test_weights_of_another_shape(path):
    def transpose(tensors):
        tensors["encoder.layers.1.up.weight"] = tensors["encoder.layers.1.up.weight"].T.contiguous()

    rewrite(path, transpose)
    assert_refused(
        path,
        "weight encoder.layers.1.up.weight does not fit: got shape (8, 12), expected (12, 8)",
    )


def test_weights_of_other_names(path):
    def rename(tensors):
        tensors["encoder.norm.wait"] = tensors.pop("encoder.norm.weight")

    rewrite(path, rename)
    assert_refused(
        path,
        "the weights do not fit: 1 missing (encoder.norm.weight) and 1 unknown (encoder.norm.wait)",
    )


# ── on the encoder of another ──


def test_transfer_to_other_heads_takes_the_encoder_and_nothing_else(model):
    encoder = replace(ENCODER, dropout=0.2, stochastic_depth=0.0, max_atoms=64)
    target = Target("mu", "regression")
    new = transfer(model, ModelConfig(encoder=encoder, heads=None, targets=(target,)))
    assert new.config.encoder.dropout == 0.2
    theirs, ours = model.encoder.state_dict(), new.encoder.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert new.config.targets == (target,)
    assert new.pair_heads is None
    with torch.no_grad():  # a copy: training the new model leaves the source as it is
        new.encoder.norm.weight.zero_()
    assert bool(model.encoder.norm.weight.any())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"width": 16}, "got width=8, expected 16"),
        ({"n_layers": 3}, "got n_layers=2, expected 3"),
        ({"n_heads": 4, "n_kernels": 8}, "got n_heads=2, expected 4; got n_kernels=4, expected 8"),
        ({"longest_path": 30}, "got longest_path=20, expected 30"),
        # the weights would fit, but mean something else
        ({"features": "ogb-1"}, "got features='cip-1', expected 'ogb-1'"),
        ({"centrality_scale": 1.0}, "got centrality_scale=0.01, expected 1.0"),
    ],
)
def test_transfer_refuses_another_encoder(model, change, sentence):
    config = ModelConfig(encoder=replace(ENCODER, **change))
    pattern = f"^the trained encoder does not fit: {re.escape(sentence)}"
    with pytest.raises(ValueError, match=pattern):
        transfer(model, config)


def test_members_of_an_ensemble_share_a_file(tmp_path):
    members = [Model(ModelConfig(encoder=ENCODER, heads=None, targets=(GAP,))) for _ in range(3)]
    path = tmp_path / "three.safetensors"
    checkpoint.save(members, path, Card(trained_by="train"))
    found = checkpoint.load_members(path)
    for one, other in zip(members, found, strict=True):
        for name, weight in one.state_dict().items():
            assert torch.equal(weight, other.state_dict()[name])
    assert torch.equal(checkpoint.load(path).encoder.virtual_bias, members[0].encoder.virtual_bias)
    other = Model(ModelConfig(encoder=ENCODER, heads=None))
    with pytest.raises(
        ValueError, match="the members of an ensemble must have the same configuration"
    ):
        checkpoint.save([members[0], other], path, Card(trained_by="train"))


# ── uncertainty and applicability domain ──


def test_uncertainty_and_domain_are_in_the_file_and_not_among_the_weights(model, path):
    rng = np.random.default_rng(0)
    label, predicted = rng.normal(size=(2, 40, 1))
    targets = (Target("y", "regression"),)
    known = Uncertainty.fit(targets, predicted, None, label, np.zeros((40, 1), np.int8))
    vectors, smiles = rng.normal(size=(4, 16)), ["CCO", "CCN", "C", "c1ccccc1"]
    domain = ApplicabilityDomain.fit(vectors, smiles, np.arange(4), vectors, smiles)
    checkpoint.save(model, path, Card(trained_by="train"))
    assert (checkpoint.read_uncertainty(path), checkpoint.read_domain(path)) == (
        Uncertainty(),
        None,
    )
    checkpoint.save(model, path, Card(trained_by="train"), uncertainty=known, domain=domain)
    again = checkpoint.load(path).state_dict()
    assert all(torch.equal(again[name], value) for name, value in model.state_dict().items())
    assert checkpoint.read_uncertainty(path) == known
    found = checkpoint.read_domain(path)
    assert (found.smiles, found.thresholds) == (domain.smiles, domain.thresholds)
    assert np.array_equal(found.embeddings, domain.embeddings)
