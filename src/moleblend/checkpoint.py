"""One safetensors file is the whole model: weights, and a JSON header that says what they are."""

import json
import os
import struct
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from moleblend.config import from_dict, to_dict
from moleblend.heads import Model, ModelConfig
from moleblend.reference import from_reference

__all__ = ["FORMAT_VERSION", "Card", "from_reference", "load", "read_card", "save", "transfer"]

FORMAT_VERSION = 1
"""Raised when a file of an older kind can no longer be read as it is."""


@dataclass(frozen=True)
class Card:
    """What a model file says of itself beside its architecture.

    Attributes:
        trained_by: `pretrain`, `train` or `convert`.
        data: name of the training data.
        data_fingerprint: hash of the training data.
        views: what the model was trained to see: `2d`, `3d` or `both`.
        licence: of the weights.
        moleblend: version of the package that wrote the file.
        notes: anything else worth knowing.
    """

    trained_by: str
    data: str = ""
    data_fingerprint: str = ""
    views: str = "both"
    licence: str = "Apache-2.0"
    moleblend: str = field(default_factory=lambda: version("moleblend"))
    notes: dict[str, Any] = field(default_factory=dict)


def save(model: Model, path: Path | str, card: Card) -> None:
    """Write a model to one file: to a temporary name first, so that the file is whole or not there.

    Args:
        model: any model.
        path: of the new file, ending in .safetensors.
        card: what the file shall say of itself.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    header = {
        "format": "moleblend",
        "format_version": str(FORMAT_VERSION),
        "config": json.dumps(to_dict(model.config)),
        "card": json.dumps(asdict(card)),
    }
    tensors = {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        save_file(tensors, temporary, metadata=header)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def load(path: Path | str) -> Model:
    """Read a model file; every weight must fit.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is truncated, of another kind or version, or a weight does not fit the
            architecture; the message says which, what was expected and what was found.
    """
    path = Path(path)
    with _open(path) as file:
        header = _header(file.metadata(), path)
        config = from_dict(ModelConfig, json.loads(header["config"]), f"{path}: config")
        model = Model(config)
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    expected = model.state_dict()
    missing, unknown = sorted(expected.keys() - tensors), sorted(tensors.keys() - expected)
    if missing or unknown:
        raise ValueError(f"{path}: the weights do not fit: missing {missing[:5]}, unknown {unknown[:5]}")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            wanted, came = tuple(expected[name].shape), tuple(tensor.shape)
            raise ValueError(f"{path}: weight {name} does not fit: {wanted} was expected, {came} found")
    model.load_state_dict(tensors)
    return model.eval()


def read_card(path: Path | str) -> Card:
    """Read what a model file says of itself.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is truncated, or of another kind or version.
    """
    path = Path(path)
    with _open(path) as file:
        return from_dict(Card, json.loads(_header(file.metadata(), path)["card"]), f"{path}: card")


def transfer(source: Model, config: ModelConfig) -> Model:
    """Build a model of another configuration on the encoder of a trained one.

    Args:
        source: whose encoder is taken.
        config: of the new model; sizes of its encoder must be those of the source.

    Returns:
        The new model; its heads start at random.
    """
    model = Model(config)
    model.encoder.load_state_dict(source.encoder.state_dict())
    return model


def _open(path: Path) -> safe_open:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such model file")
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, struct.error, OSError) as error:
        raise ValueError(f"{path}: not a model file, or cut short ({error})") from error


def _header(metadata: dict[str, str] | None, path: Path) -> dict[str, str]:
    found = metadata or {}
    if found.get("format") != "moleblend":
        raise ValueError(
            f"{path}: a safetensors file, but not a moleblend model; published weights are read by "
            "`moleblend convert`"
        )
    if found.get("format_version") != str(FORMAT_VERSION):
        raise ValueError(
            f"{path}: format version {FORMAT_VERSION} was expected, {found.get('format_version')} found; "
            f"the file was written by another version of moleblend, {version('moleblend')} reads it not"
        )
    return found


def count_parameters(model: torch.nn.Module) -> int:
    """Number of trained numbers."""
    return sum(parameter.numel() for parameter in model.parameters())
