"""One safetensors file is the whole model: weights, and a JSON header that says what they are."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from moleblend.config import from_dict, to_dict
from moleblend.evaluation.applicability_domain import PREFIX, ApplicabilityDomain, Thresholds
from moleblend.evaluation.uncertainty import Uncertainty
from moleblend.files import replacing
from moleblend.model.encoder import EncoderConfig
from moleblend.model.heads import HeadsConfig, Model, ModelConfig
from moleblend.model.published_weights import check_names, from_reference, read_published

__all__ = [
    "FORMAT_VERSION",
    "Card",
    "convert",
    "count_parameters",
    "from_reference",
    "load",
    "load_members",
    "locate",
    "packaged",
    "read_card",
    "read_domain",
    "read_uncertainty",
    "save",
    "sha256",
    "transfer",
]

T = TypeVar("T")

FORMAT_VERSION = 1
"""Counted up when files written before can no longer be read as they are."""

PACKAGED = "packaged"
"""How the model that comes with the package is named where a path could stand."""

_ASSETS = Path(__file__).parents[1] / "assets"

_MAY_CHANGE = {
    "dropout",
    "attention_dropout",
    "activation_dropout",
    "stochastic_depth",
    "depth_drops",
    "kernel_start",
    "max_atoms",
}
"""Choices of an encoder that leave the meaning of its weights as it is."""


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


def save(
    model: Model | Sequence[Model],
    path: Path | str,
    card: Card,
    *,
    uncertainty: Uncertainty | None = None,
    domain: ApplicabilityDomain | None = None,
) -> None:
    """Write a model to one file: to a temporary name first, so that the file is whole or not there.

    Args:
        model: any model, or the members of an ensemble, which have one configuration.
        path: of the new file, ending in .safetensors.
        card: what the file shall say of itself.
        uncertainty: how sure its predictions are.
        domain: the molecules that it learnt from.

    Raises:
        ValueError: the name does not end in .safetensors.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: the name of a model file ends in .safetensors")
    members = [model] if isinstance(model, Model) else list(model)
    if any(member.config != members[0].config for member in members):
        raise ValueError(f"{path}: the members of an ensemble need one configuration")
    header = {
        "format": "moleblend",
        "format_version": str(FORMAT_VERSION),
        "config": json.dumps(to_dict(members[0].config)),
        "card": json.dumps(to_dict(card)),
        "members": str(len(members)),
    }
    tensors = {
        f"{_prefix(k)}{name}": tensor.detach().contiguous()
        for k, member in enumerate(members)
        for name, tensor in member.state_dict().items()
    }
    if uncertainty is not None:
        header["sureness"] = json.dumps(to_dict(uncertainty))
    if domain is not None:
        header["domain"] = json.dumps(to_dict(domain.thresholds))
        found = domain.tensors()
        tensors |= {name: torch.from_numpy(values.copy()) for name, values in found.items()}
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata=header)
        put_in_order(temporary)


def put_in_order(path: Path) -> None:
    """Sort the header, whose entries safetensors writes in any order: one model is one file."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        entries = json.loads(file.read(length))
        text = json.dumps(entries, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        header = text.encode().ljust(length)
        assert len(header) == length, "the header is written as safetensors writes it"
        file.seek(8)
        file.write(header)


def load(path: Path | str) -> Model:
    """Read a model file, of an ensemble the first member. Raises what `load_members` raises."""
    return load_members(path)[0]


def load_members(path: Path | str) -> list[Model]:
    """Read all members of a model file, mostly one; every weight must fit.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is truncated, of another kind or version, or a weight does not fit the
            architecture; the message says which, what was expected and what was found.
    """
    path = Path(path)
    with _open(path) as file:
        config = _read_header(ModelConfig, file.metadata(), "config", path)
        tensors = {name: file.get_tensor(name) for name in _names(file, of_domain=False)}
        n_members = int((file.metadata() or {}).get("members", "1"))
    models = [Model(config) for _ in range(n_members)]
    expected = {
        f"{_prefix(k)}{name}": tensor
        for k, model in enumerate(models)
        for name, tensor in model.state_dict().items()
    }
    try:
        check_names(tensors, expected)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            wanted, found = tuple(expected[name].shape), tuple(tensor.shape)
            raise ValueError(
                f"{path}: weight {name} does not fit: {wanted} was expected, {found} found"
            )
    for k, model in enumerate(models):
        model.load_state_dict({name: tensors[f"{_prefix(k)}{name}"] for name in model.state_dict()})
        model.eval()
    return models


def read_card(path: Path | str) -> Card:
    """Read what a model file says of itself.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is truncated, or of another kind or version.
    """
    path = Path(path)
    with _open(path) as file:
        return _read_header(Card, file.metadata(), "card", path)


def read_uncertainty(path: Path | str) -> Uncertainty:
    """Read how sure a model's predictions are; of an older file nothing is known.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is truncated, or of another kind or version.
    """
    path = Path(path)
    with _open(path) as file:
        metadata = file.metadata() or {}
        if "sureness" not in metadata:
            return Uncertainty()
        return _read_header(Uncertainty, metadata, "sureness", path)


def read_domain(path: Path | str) -> ApplicabilityDomain | None:
    """Read the molecules that a model learnt from; None if the file has none.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is truncated, of another kind or version, or lacks a part of them.
    """
    path = Path(path)
    with _open(path) as file:
        metadata = file.metadata() or {}
        if "domain" not in metadata:
            return None
        thresholds = _read_header(Thresholds, metadata, "domain", path)
        tensors = {name: file.get_tensor(name).numpy() for name in _names(file, of_domain=True)}
    try:
        return ApplicabilityDomain.from_tensors(tensors, thresholds)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def packaged() -> Path:
    """Find the pretrained model that comes with the package; its card lies beside it.

    Raises:
        FileNotFoundError: this copy of the package comes without one.
    """
    path = _ASSETS / "moleblend.safetensors"
    if not path.is_file():
        raise FileNotFoundError(
            "no pretrained model comes with this copy of moleblend: give the path of a model file "
            "(`moleblend train --from scratch` starts without one)"
        )
    return path


def locate(name: Path | str) -> Path:
    """Give the path of a model file that is named by its path or its run folder, or as `packaged`.

    Raises:
        FileNotFoundError: `packaged` was asked for, and there is none.
    """
    path = packaged() if str(name) == PACKAGED else Path(name)
    inside = path / "model.safetensors"
    return inside if inside.is_file() else path


def sha256(name: Path | str) -> str:
    """Give the hash of a file that is named by its path, or as `packaged`.

    Raises:
        FileNotFoundError: there is no such file.
    """
    path = locate(name)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such model file")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def convert(source: Path | str, out: Path | str) -> Model:
    """Turn a downloaded checkpoint of MoleBLEND or Transformer-M into a model file.

    Args:
        source: what `reference.read_published` reads.
        out: the new model file, ending in .safetensors.

    Returns:
        The model, ready for prediction.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ValueError: it cannot be read, or its weights do not fit; nothing is written then.
    """
    source = Path(source)
    published = read_published(source)
    try:
        model = from_reference(published)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    notes = {
        "source": source.name,
        "source_sha256": sha256(source),
        "n_published": sum(tensor.numel() for tensor in published.values()),
        "n_parameters": count_parameters(model),
    }
    save(model, out, Card(trained_by="convert", licence="as published", notes=notes))
    return model.eval()


def transfer(source: Model, config: ModelConfig) -> Model:
    """Build a model of another configuration on the weights of a trained one.

    Args:
        source: whose encoder is taken, and whose pretraining heads where they are the same.
        config: of the new model; its encoder may differ from the source's in dropout and limits.

    Returns:
        The new model; its other heads start at random.

    Raises:
        ValueError: the weights would not fit, or would mean something else; the message names each
            field that must not differ.
    """
    wanted, found = config.encoder, source.config.encoder
    differing = [
        f"{name} {getattr(wanted, name)!r} was expected, {getattr(found, name)!r} found"
        for name in (field.name for field in fields(EncoderConfig))
        if name not in _MAY_CHANGE and getattr(wanted, name) != getattr(found, name)
    ]
    if differing:
        raise ValueError(f"the trained encoder does not fit: {'; '.join(differing)}")
    model = Model(config)
    model.encoder.load_state_dict(source.encoder.state_dict())
    if _have_the_same_pair_heads(config.heads, source.config.heads):
        _copy(source.pair_heads, model.pair_heads)
    _copy(source.descriptor_head, model.descriptor_head)
    _copy(source.atom_head, model.atom_head)
    return model


def _have_the_same_pair_heads(ours: HeadsConfig | None, theirs: HeadsConfig | None) -> bool:
    if not (ours and theirs):
        return False
    free = {
        name: getattr(ours, name) for name in ("descriptors", "atom_features", "denoising_dropout")
    }
    return ours == replace(theirs, **free)


def _copy(source: torch.nn.Module | None, target: torch.nn.Module | None) -> None:
    if source and target:
        target.load_state_dict(source.state_dict())


def count_parameters(model: torch.nn.Module) -> int:
    """Number of trained numbers."""
    return sum(parameter.numel() for parameter in model.parameters())


def _prefix(member: int) -> str:
    """What stands before the names of a member's weights; the first is as a model alone."""
    return f"members.{member}." if member else ""


def _names(file: safe_open, *, of_domain: bool) -> list[str]:
    """Name the tensors of the training molecules, or all the others: the weights."""
    return [name for name in file.keys() if name.startswith(PREFIX) == of_domain]  # noqa: SIM118 (no mapping)


def _open(path: Path) -> safe_open:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such model file")
    try:
        return safe_open(path, framework="pt")
    except SafetensorError as error:
        raise ValueError(f"{path}: not a model file, or cut short ({error})") from error


def _read_header(kind: type[T], metadata: dict[str, str] | None, part: str, path: Path) -> T:
    """Read one part of the header, once the header is one of ours."""
    found = metadata or {}
    if found.get("format") != "moleblend":
        raise ValueError(
            f"{path}: a safetensors file, but not a moleblend model; published weights are read by "
            "`moleblend convert`"
        )
    if found.get("format_version") != str(FORMAT_VERSION):
        raise ValueError(
            f"{path}: written by another version of moleblend: this one ({version('moleblend')}) "
            f"reads format {FORMAT_VERSION}, {found.get('format_version')} found"
        )
    try:
        values = json.loads(found.get(part, ""))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: {part} in its header is missing or damaged ({error})") from error
    return from_dict(kind, values, f"{path}: {part}")
