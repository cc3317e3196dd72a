"""Model files: one safetensors file holds the weights, and a JSON header describes them."""

import re
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from moleblend.chem.descriptors import FEATURES
from moleblend.config import PACKAGED, check_type, from_dict, shown_value, to_dict
from moleblend.errors import MissingFileError, ModelFileError, OutputError, SettingTypeError
from moleblend.evaluation.applicability_domain import PREFIX, ApplicabilityDomain, Thresholds
from moleblend.evaluation.uncertainty import Uncertainty
from moleblend.files import check_outputs, file_sha256, replacing, to_json
from moleblend.model.compat import upgrade_card, upgrade_header
from moleblend.model.functional import seeded
from moleblend.model.heads import Model, ModelConfig
from moleblend.model.integrity import HASH, UNKNOWN_HASH, check_hash, check_tensors, read_json, seal
from moleblend.model.published_weights import check_names, from_reference, read_published
from moleblend.trees.averaging import check_trees, count_members
from moleblend.trees.tree_model import PREFIX as TREE_PREFIX
from moleblend.trees.tree_model import TreeHeader, TreeModel, tree_tensors, trees_from_tensors

__all__ = [
    "FORMAT_VERSION",
    "Card",
    "ModelFile",
    "convert",
    "count_parameters",
    "from_reference",
    "load",
    "load_members",
    "load_model",
    "locate",
    "packaged",
    "read_card",
    "read_domain",
    "read_model_file",
    "read_uncertainty",
    "save",
    "save_model",
    "sha256",
]

T = TypeVar("T")

FORMAT_VERSION = 1
"""Increased when earlier files can no longer be read, not even by `compat`."""

_PREFIXES = (PREFIX, TREE_PREFIX)
"""Prefixes of the tensors that are not weights."""

_ASSETS = Path(__file__).parents[1] / "assets"


@dataclass(frozen=True)
class Card:
    """Description of a model file, stored in its header.

    Attributes:
        trained_by: the command or function that made it: `pretrain`, `train`, `convert`, or
            `save_model`.
        data: name of the training data.
        data_fingerprint: hash of the training data.
        views: what the model was trained to see: `2d`, `3d` or `both`.
        licence: of the weights.
        moleblend: version of the package that wrote the file.
        notes: further information, such as the settings and the metrics of training.
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
    tree_models: Sequence[TreeModel] = (),
) -> None:
    """Write a model to one file.

    The file is written under a temporary name and then renamed, so that it is never incomplete.

    Args:
        model: a model, or the members of an ensemble, which must have the same configuration.
        path: of the new file, ending in .safetensors.
        card: description of the model.
        uncertainty: calibrated uncertainty of the predictions.
        domain: the training molecules and the thresholds of the applicability domain.
        tree_models: trees whose predictions are averaged with those of the networks.

    Raises:
        ValueError: the name does not end in .safetensors, or the members of an ensemble differ in
            their configuration.
    """
    check_type("path", path, str | Path)
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ModelFileError(f"{path}: expected a file name that ends in .safetensors")
    members = [model] if isinstance(model, Model) else model
    if not (isinstance(members, Sequence) and members):
        raise SettingTypeError(f"got {shown_value(model)}, expected a model or a list of models")
    for member in members:
        check_type("model", member, Model)
    if any(member.config != members[0].config for member in members):
        raise ModelFileError(f"{path}: the members of an ensemble must have the same configuration")
    header = {
        "format": "moleblend",
        "format_version": str(FORMAT_VERSION),
        "config": to_json(to_dict(members[0].config)),
        "card": to_json(to_dict(card)),
        "members": str(len(members)),
        HASH: UNKNOWN_HASH,
    }
    tensors = {
        f"{_prefix(k)}{name}": tensor.detach().contiguous()
        for k, member in enumerate(members)
        for name, tensor in member.state_dict().items()
    }
    if uncertainty is not None:
        header["uncertainty"] = to_json(to_dict(uncertainty))
    if domain is not None:
        header["domain"] = to_json(to_dict(domain.thresholds))
        arrays = domain.tensors()
        tensors |= {name: torch.from_numpy(values.copy()) for name, values in arrays.items()}
    if tree_models:
        header["trees"] = to_json([to_dict(one.header) for one in tree_models])
        arrays = tree_tensors(tree_models)
        tensors |= {name: torch.from_numpy(values) for name, values in arrays.items()}
    with replacing(path) as temporary:
        try:
            save_file(tensors, temporary, metadata=header)
        except SafetensorError as error:
            raise OutputError(f"{path}: cannot be written ({error})") from error
        seal(temporary)


def save_model(model: Model | Sequence[Model], path: Path | str, card: Card | None = None) -> None:
    """Write a model to a file that `load_model` and `Predictor` read.

    Args:
        model: a model, or the members of an ensemble.
        path: of the new file, ending in .safetensors.
        card: description of the model, such as its training data and licence.

    Raises:
        ValueError: the name does not end in .safetensors, or the members of an ensemble differ in
            their configuration.
    """
    save(model, path, card or Card(trained_by="save_model"))


def load_model(path: Path | str) -> Model:
    """Read a network, ready for prediction (in evaluation mode, on the CPU).

    Args:
        path: a model file, a run folder, or `packaged` for the model that comes with the package.

    Returns:
        The network. Of an ensemble it is the first member; `load_members` gives all. `Predictor`
        averages them with the trees of the file.

    Raises:
        MissingFileError: there is no such file.
        ModelFileError: the file is not a complete model file of this version.
    """
    return load(locate(path))


def load(path: Path | str) -> Model:
    """Read a model file; of an ensemble the first member. Errors as of `load_members`."""
    return load_members(path)[0]


def load_members(path: Path | str) -> list[Model]:
    """Read all members of a model file: one, or several of an ensemble.

    Raises:
        MissingFileError: there is no such file.
        ModelFileError: the file is truncated, damaged, of another kind or version, or a weight does
            not fit the architecture; the message names the weight, its shape and the expected one.
    """
    with _opened(path) as (file, header):
        return _read_members(file, header, Path(path))


def read_card(path: Path | str) -> Card:
    """Read the description of a model file; notes of older files get today's keys (`compat`).

    Raises:
        MissingFileError: there is no such file.
        ModelFileError: the file is truncated, damaged, or of another kind or version.
    """
    with _opened(path) as (_, header):
        return _read_header(Card, header, "card", Path(path))


def read_uncertainty(path: Path | str) -> Uncertainty:
    """Read the calibrated uncertainty of a model's predictions; empty if the file has none.

    Raises:
        MissingFileError: there is no such file.
        ModelFileError: the file is truncated, damaged, or of another kind or version.
    """
    with _opened(path) as (_, header):
        return _read_uncertainty(header, Path(path))


def read_domain(path: Path | str) -> ApplicabilityDomain | None:
    """Read the applicability domain (training molecules, thresholds); None if the file has none.

    Raises:
        MissingFileError: there is no such file.
        ModelFileError: the file is truncated, damaged, of another kind or version, or an array is
            missing.
    """
    with _opened(path) as (file, header):
        return _read_domain(file, header, Path(path))


@dataclass(frozen=True, eq=False)
class ModelFile:
    """The content of a model file.

    Attributes:
        members: one model, or several of an ensemble.
        card: description of the model.
        uncertainty: of its predictions; empty if the file has none.
        domain: the applicability domain; None if the file has none.
        tree_models: trees whose predictions are averaged with those of the networks.
    """

    members: list[Model]
    card: Card
    uncertainty: Uncertainty
    domain: ApplicabilityDomain | None
    tree_models: tuple[TreeModel, ...] = ()


def read_model_file(path: Path | str) -> ModelFile:
    """Read all of a model file, and check that its parts fit each other.

    Raises:
        MissingFileError: there is no such file.
        ModelFileError: the file is truncated, damaged, of another kind or version, or its parts do
            not fit each other.
    """
    path = Path(path)
    with _opened(path) as (file, header):
        read = ModelFile(
            members=_read_members(file, header, path),
            card=_read_header(Card, header, "card", path),
            uncertainty=_read_uncertainty(header, path),
            domain=_read_domain(file, header, path),
            tree_models=_read_trees(file, header, path),
        )
    config = read.members[0].config
    try:
        check_trees(read.tree_models, config.targets)
    except ValueError as error:
        raise ModelFileError(f"{path}: {error}") from error
    n_members = count_members(len(read.members), read.tree_models)
    try:
        read.uncertainty.check(config.targets, n_members)
    except ValueError as error:
        raise ModelFileError(f"{path}: uncertainty: {error}") from error
    if read.domain is not None and read.domain.embeddings.shape[1] != config.encoder.width:
        raise ModelFileError(
            f"{path}: the training embeddings have {read.domain.embeddings.shape[1]} numbers, "
            f"expected {config.encoder.width}, the width of the encoder"
        )
    return read


def packaged() -> Path:
    """Find the pretrained model that comes with the package; its card is in the same folder.

    Raises:
        MissingFileError: this copy of the package comes without one.
    """
    path = _ASSETS / "moleblend.safetensors"
    if not path.is_file():
        raise MissingFileError(
            "this copy of moleblend has no packaged model: give the path of a model file "
            "(`moleblend train --from scratch` starts without one)"
        )
    return path


def locate(name: Path | str) -> Path:
    """Resolve the name of a model: the path of a file or of a run folder, or `packaged`.

    Raises:
        MissingFileError: the name is `packaged`, and this copy of the package has no model.
    """
    check_type("model", name, str | Path)
    path = packaged() if str(name) == PACKAGED else Path(name)
    inside = path / "model.safetensors"
    return inside if inside.is_file() else path


def sha256(name: Path | str) -> str:
    """Compute the SHA-256 of a model file; names as in `locate`.

    Raises:
        MissingFileError: there is no such file.
    """
    path = locate(name)
    if not path.is_file():
        raise MissingFileError(f"{path}: there is no such model file")
    return file_sha256(path)


def convert(source: Path | str, out: Path | str) -> Model:
    """Convert a published checkpoint of MoleBLEND or Transformer-M to a model file.

    Args:
        source: a file that `published_weights.read_published` reads.
        out: the new model file, ending in .safetensors.

    Returns:
        The model, ready for prediction.

    Raises:
        MissingFileError: there is no such checkpoint.
        ValueError: it cannot be read, or its weights do not fit; then no file is written.
    """
    source = Path(source)
    check_outputs([Path(out)], [source])
    published = read_published(source)
    try:
        model = from_reference(published)
    except ValueError as error:
        raise ModelFileError(f"{source}: {error}") from error
    notes = {
        "source": source.name,
        "source_sha256": sha256(source),
        "n_published": sum(tensor.numel() for tensor in published.values()),
        "n_parameters": count_parameters(model),
    }
    save(model, out, Card(trained_by="convert", licence="as published", notes=notes))
    return model.eval()


def count_parameters(model: torch.nn.Module) -> int:
    """Count the trainable parameters (single numbers) of a module."""
    return sum(parameter.numel() for parameter in model.parameters())


def _prefix(member: int) -> str:
    """Give the prefix of the names of a member's weights; the first member has none."""
    return f"members.{member}." if member else ""


def _names(file: safe_open, prefix: str) -> list[str]:
    """List the tensors with a prefix of `_PREFIXES`; without one, all the others: the weights."""
    prefixes = prefix or _PREFIXES
    names = file.keys()
    return [name for name in names if name.startswith(prefixes) == bool(prefix)]


@contextmanager
def _opened(path: Path | str) -> Generator[tuple[safe_open, dict[str, str]], None, None]:
    """Open a model file; yield it and its header, both checked."""
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"{path}: there is no such model file")
    try:
        with safe_open(path, framework="pt") as file:
            stored = file.metadata() or {}
            _check_format(stored, path)
            check_hash(path, stored)
            yield file, upgrade_header(stored)
    except SafetensorError as error:
        raise ModelFileError(f"{path}: not a model file, or truncated ({error})") from error


def _check_format(header: Mapping[str, str], path: Path) -> None:
    if header.get("format") != "moleblend":
        raise ModelFileError(
            f"{path}: a safetensors file, but not a moleblend model; `moleblend convert` reads "
            "published weights"
        )
    if header.get("format_version") != str(FORMAT_VERSION):
        raise ModelFileError(
            f"{path}: written by another version of moleblend: got format "
            f"{header.get('format_version')}, this version ({version('moleblend')}) reads format "
            f"{FORMAT_VERSION}"
        )


def _read_members(file: safe_open, header: dict[str, str], path: Path) -> list[Model]:
    """Read the weights. Everything is compared before a model of the stated size is built."""
    config = _read_header(ModelConfig, header, "config", path)
    tensors = {name: file.get_tensor(name) for name in _names(file, "")}
    text = header["members"]
    n_members = int(text) if re.fullmatch(r"\d{1,6}", text) else 0
    for name, number in (("members", n_members), ("n_layers", config.encoder.n_layers)):
        if not 1 <= number <= len(tensors):
            raise ModelFileError(
                f"{path}: got {name}={text if name == 'members' else number}, expected a number "
                f"from 1 to {len(tensors)}, the number of weights"
            )
    n_features = sum(FEATURES[kind] for kind in config.features)
    if config.n_features != n_features:
        raise ModelFileError(
            f"{path}: got n_features={config.n_features}, expected {n_features} for the features "
            f"{', '.join(config.features) or 'none'}"
        )
    try:
        with torch.device("meta"):  # shapes without memory
            shapes = Model(config)
    except (RuntimeError, OverflowError, TypeError) as error:
        message = f"{path}: config: no model has these sizes ({_first_line(error)})"
        raise ModelFileError(message) from error
    of_one, trained = shapes.state_dict(), [name for name, _ in shapes.named_parameters()]
    prefixes = [_prefix(k) for k in range(n_members)]
    expected = {prefix + name: tensor for prefix in prefixes for name, tensor in of_one.items()}
    try:
        check_names(tensors, expected)
    except ValueError as error:
        raise ModelFileError(f"{path}: {error}") from error
    check_tensors(tensors, expected, [p + name for p in prefixes for name in trained], path)
    models = []
    for prefix in prefixes:
        with seeded(0):  # reading draws no random number of the user
            model = Model(config)
        model.load_state_dict({name: tensors[prefix + name] for name in of_one})
        models.append(model.eval())
    return models


def _read_uncertainty(header: dict[str, str], path: Path) -> Uncertainty:
    if "uncertainty" not in header:
        return Uncertainty()
    return _read_header(Uncertainty, header, "uncertainty", path)


def _read_domain(file: safe_open, header: dict[str, str], path: Path) -> ApplicabilityDomain | None:
    names = _names(file, PREFIX)
    if "domain" not in header:
        if names:
            raise ModelFileError(f"{path}: there is {names[0]}, but no entry domain in the header")
        return None
    thresholds = _read_header(Thresholds, header, "domain", path)
    tensors = {name: file.get_tensor(name).numpy() for name in names}
    try:
        return ApplicabilityDomain.from_tensors(tensors, thresholds)
    except ValueError as error:
        raise ModelFileError(f"{path}: {error}") from error


def _read_trees(file: safe_open, header: dict[str, str], path: Path) -> tuple[TreeModel, ...]:
    tensors = {name: file.get_tensor(name).numpy() for name in _names(file, TREE_PREFIX)}
    if "trees" not in header and not tensors:
        return ()
    entries = read_json(header.get("trees"), f"{path}: trees", is_strict=True)
    if not isinstance(entries, list):
        raise ModelFileError(f"{path}: trees: got {shown_value(entries)}, expected a list")
    try:
        headers = [from_dict(TreeHeader, entry, f"{path}: trees") for entry in entries]
        return trees_from_tensors(tensors, headers)
    except ValueError as error:
        raise ModelFileError(f"{path}: {error}") from error


def _read_header(kind: type[T], header: dict[str, str], key: str, path: Path) -> T:
    """Read one entry of the header; the notes of older cards may have NaN for a metric."""
    is_card = kind is Card
    values = read_json(header.get(key), f"{path}: {key}", is_strict=not is_card)
    try:
        return from_dict(kind, upgrade_card(values) if is_card else values, f"{path}: {key}")
    except ValueError as error:
        raise ModelFileError(str(error)) from error


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
