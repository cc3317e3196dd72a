"""Model files that were damaged or edited: one sentence that names the file, or the same model."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from moleblend.data.targets import Target
from moleblend.errors import ModelFileError
from moleblend.evaluation.applicability_domain import ApplicabilityDomain
from moleblend.evaluation.uncertainty import Uncertainty
from moleblend.files import to_json
from moleblend.model import checkpoint
from moleblend.model.checkpoint import Card, read_model_file, save
from moleblend.model.encoder_config import EncoderConfig
from moleblend.model.heads import Model, ModelConfig

ENCODER = EncoderConfig(width=8, ffn_width=8, n_layers=1, n_heads=2, n_kernels=4)
TARGETS = (Target("gap", "regression", mean=6.5, scale=1.25), Target("toxic", "binary"))


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A model file with everything that a file can have."""
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    torch.manual_seed(0)
    models = [Model(ModelConfig(encoder=ENCODER, heads=None, targets=TARGETS)) for _ in range(2)]
    rng = np.random.default_rng(0)
    mean = np.stack([rng.normal(size=40), rng.uniform(size=40)], 1)
    labels = np.stack([rng.normal(size=40), np.arange(40) % 2.0], 1)
    std = rng.uniform(0.5, 1, (40, 2))
    uncertainty = Uncertainty.fit(TARGETS, mean, std, labels, np.zeros((40, 2), np.int8))
    domain = ApplicabilityDomain.fit(
        rng.normal(size=(3, 8)),
        ["CC", "CCO", "CN"],
        np.arange(3),
        rng.normal(size=(2, 8)),
        ["CCC", "O"],
    )
    save(models, path, Card(trained_by="train", views="2d"), uncertainty=uncertainty, domain=domain)
    read_model_file(path)
    return path.read_bytes()


def test_every_damage_to_a_model_file_is_noticed(content: bytes, tmp_path: Path) -> None:
    rng, path = random.Random(0), tmp_path / "model.safetensors"
    for _ in range(300):
        damaged = bytearray(content)
        place = rng.randrange(len(damaged))
        match rng.randrange(4):
            case 0:
                damaged[place] ^= 1 << rng.randrange(8)
            case 1:
                damaged[place : place + 64] = bytes(min(64, len(damaged) - place))
            case 2:
                del damaged[place : place + rng.randrange(1, 100)]
            case 3:
                damaged[place:place] = rng.randbytes(rng.randrange(1, 100))
        if damaged == content:
            continue
        path.write_bytes(damaged)
        with pytest.raises(ModelFileError, match=r"^[^\n]*model\.safetensors: [^\n]*$"):
            read_model_file(path)


@pytest.mark.parametrize("read", [checkpoint.load, checkpoint.read_card, checkpoint.read_domain])
def test_every_reader_compares_the_hash(content: bytes, tmp_path: Path, read) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ModelFileError, match="the file is damaged: its content is not that"):
        read(path)


def test_a_hash_under_a_damaged_name_is_no_file_without_a_hash(content, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content.replace(b'"sha256"', b'"sha257"', 1))
    with pytest.raises(ModelFileError, match="unknown entry 'sha257' and no hash"):
        read_model_file(path)


def edit(content: bytes, path: Path, change_tensors=None, **header: str | None) -> None:
    """Write the file without a hash, with other tensors or another header."""
    path.write_bytes(content)
    with safe_open(path, framework="pt") as file:
        metadata = {**file.metadata(), "sha256": None, **header}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if change_tensors is not None:
        change_tensors(tensors)
    save_file(tensors, path, metadata={k: v for k, v in metadata.items() if v is not None})


def test_a_file_of_an_older_version_without_a_hash_is_read(content, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    edit(content, path)
    assert b"sha256" not in path.read_bytes()
    assert len(read_model_file(path).members) == 2


def config(**changes: object) -> str:
    values = checkpoint.to_dict(ModelConfig(encoder=ENCODER, heads=None, targets=TARGETS))
    values["encoder"] |= changes
    return to_json(values)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"members": "x"}, "got members=x, expected a number from 1 to"),
        ({"members": "-1"}, "got members=-1"),
        ({"members": "9" * 5000}, "got members=9"),
        ({"members": "3"}, "the weights do not fit: "),
        ({"config": config(n_layers=2_000_000_000)}, "got n_layers=2000000000, expected a number"),
        ({"config": config(n_layers=10**30)}, "n_layers: got 1000"),
        ({"config": config(width=2**20, n_heads=2**20)}, "does not fit: got shape"),
        ({"config": config(width=2**31 - 1, n_heads=1, ffn_width=2**31 - 1)}, "config: no model"),
        ({"config": config(n_heads=0)}, "got n_heads=0, expected a number of at least 1"),
        ({"config": config(width=-8)}, "got width=-8, expected a number of at least 1"),
        ({"config": config(dropout="NaN").replace('"NaN"', "NaN")}, "damaged in the header (NaN"),
        ({"config": config(dropout="x").replace('"x"', "1e999")}, "dropout: got inf"),
        ({"config": "[" * 100_000}, "config is missing or damaged in the header"),
        ({"config": "1" * 10_000}, "config is missing or damaged in the header"),
        ({"uncertainty": "{}x"}, "uncertainty is missing or damaged"),
        ({"uncertainty": '{"values": {"other": {}}}'}, "uncertainty: values['other']"),
        ({"uncertainty": None, "domain": None}, "but no entry domain in the header"),
        ({"domain": '{"mean": 1}'}, "domain: "),
        ({"card": '{"trained_by": 3}'}, "card: trained_by: got 3, expected a text"),
    ],
)
def test_an_edited_header_gives_one_sentence(
    content: bytes, tmp_path: Path, header: dict[str, str | None], message: str
) -> None:
    path = tmp_path / "model.safetensors"
    edit(content, path, **header)
    with pytest.raises(ModelFileError) as caught:
        read_model_file(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def uncertainty_with(content: bytes, path: Path, change) -> None:
    path.write_bytes(content)
    with safe_open(path, framework="pt") as file:
        values = json.loads(file.metadata()["uncertainty"])
    change(values)
    edit(content, path, uncertainty=json.dumps(values))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda u: u["values"].update(other=u["values"]["gap"]), "target 'other' is missing"),
        (lambda u: u["values"].update(toxic=u["values"]["gap"]), "'toxic' is binary, but there is"),
        (lambda u: u["classes"]["toxic"]["sets"]["scores"].pop(), "a calibration of 2 classes"),
        (lambda u: u["values"]["gap"]["spread"].update(factor=-1), "got factor=-1"),
        (lambda u: u["values"]["gap"]["intervals"]["scores"].reverse(), "scores: expected ascend"),
        (lambda u: u["classes"]["toxic"]["probability"].update(temperature=0), "temperature=0"),
        (lambda u: u["classes"]["toxic"]["probability"].update(method="isotonic"), "method isoton"),
    ],
)
def test_a_calibration_that_does_not_fit_is_refused(
    content: bytes, tmp_path: Path, change, message: str
) -> None:
    path = tmp_path / "model.safetensors"
    uncertainty_with(content, path, change)
    with pytest.raises(ModelFileError, match=f"model.safetensors: uncertainty.*{message}"):
        read_model_file(path)


WEIGHT = "property_head.out.bias"


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (WEIGHT, lambda t: t * torch.nan, f"weight {WEIGHT} is damaged: its numbers are from nan"),
        (WEIGHT, lambda t: t + torch.inf, "to inf, expected numbers between"),
        (WEIGHT, lambda t: t + 1e20, r"to 1e\+20, expected numbers between"),
        (WEIGHT, lambda t: t.half(), "got type torch.float16, expected torch.float32"),
        (WEIGHT, lambda t: t.view(torch.int32), "got type torch.int32, expected torch.float32"),
        (WEIGHT, lambda t: t[:1], r"got shape \(1,\), expected \(2,\)"),
        ("domain.embeddings", lambda t: t.float(), "2 axes of float32, expected 2 of float16"),
        ("domain.embeddings", lambda t: t * torch.nan, "a number is NaN or infinite"),
        ("domain.embeddings", lambda t: t[:, :4].contiguous(), "have 4 numbers, expected 8"),
        ("domain.fingerprints", lambda t: t[:, :9].contiguous(), "fingerprints of 256 bytes"),
        ("domain.rows", lambda t: t - 9, "rows from 0"),
        ("domain.smiles", lambda t: t * 0 + 255, "domain.smiles: not a UTF-8 text"),
    ],
)
def test_tensors_are_checked_without_a_hash(
    content: bytes, tmp_path: Path, name: str, change, message: str
) -> None:
    path = tmp_path / "model.safetensors"

    def change_tensors(tensors: dict[str, torch.Tensor]) -> None:
        tensors[name] = change(tensors[name])

    edit(content, path, change_tensors)
    with pytest.raises(ModelFileError, match=f"model.safetensors: .*{message}"):
        read_model_file(path)


def test_reading_a_model_leaves_the_global_generator_alone(content, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    before = torch.random.get_rng_state()
    read_model_file(path)
    assert torch.equal(torch.random.get_rng_state(), before)
