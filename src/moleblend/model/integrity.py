"""Integrity of model files: the hash in the header, and checks of header and tensors.

The header entry `sha256` is the hash of the complete file, in which the entry itself is 64 zeros. A
file of an older version has no such entry. The checks of the content hold for both, so that a
header which was edited by hand gives one sentence as well.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moleblend.errors import ModelFileError

HASH = "sha256"
"""Key of the hash in the header."""

UNKNOWN_HASH = "0" * 64
"""Value of the hash in a file that is not sealed yet."""

_HASHED_AT_ONCE = 1 << 24
_UNHASHED_KEYS = frozenset(
    ["format", "format_version", "config", "card", "members", "uncertainty", "sureness", "domain"]
)
"""Keys in the headers of files that older versions wrote, without a hash."""

_LARGEST_WEIGHT = 1e10
"""Outputs of a network with larger weights are not numbers any more."""


def put_in_order(path: Path) -> bytes:
    """Sort the header of a safetensors file, so that the same content always gives the same bytes.

    Returns:
        The sorted header.
    """
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        entries = json.loads(file.read(length))
        text = json.dumps(entries, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        header = text.encode().ljust(length)
        assert len(header) == length, "sorting must not change the length of the header"
        file.seek(8)
        file.write(header)
    return header


def seal(path: Path) -> None:
    """Sort the header of a safetensors file and put the hash of the file into it.

    Args:
        path: a file whose header has the entry `sha256` with the value `UNKNOWN_HASH`.
    """
    header = put_in_order(path)
    digest = _hash(path, UNKNOWN_HASH)
    sealed = header.replace(_entry(UNKNOWN_HASH), _entry(digest), 1)
    with path.open("r+b") as file:
        file.seek(8)
        file.write(sealed)


def check_hash(path: Path, header: Mapping[str, str]) -> None:
    """Compare the content of a model file with the hash in its header.

    Args:
        path: the file.
        header: the metadata of its safetensors header.

    Raises:
        ModelFileError: the content is not that which was written; or there is no hash, but an entry
            that files without a hash do not have.
    """
    written = header.get(HASH)
    if written is None:
        unknown = sorted(set(header) - _UNHASHED_KEYS)
        if unknown:
            raise ModelFileError(
                f"{path}: the file is damaged, or was written by a later version: its header has "
                f"the unknown entry {unknown[0]!r} and no hash"
            )
    elif _hash(path, written) != written:
        raise ModelFileError(
            f"{path}: the file is damaged: its content is not that which was written (the SHA-256 "
            "differs); use another copy, or make it again"
        )


def _entry(digest: str) -> bytes:
    """The entry of the hash as the header has it; inside the card quotes would be escaped."""
    return f'"{HASH}":"{digest}"'.encode()


def _hash(path: Path, written: str) -> str:
    """Compute the hash of a file, in which the written hash counts as `UNKNOWN_HASH`."""
    with path.open("rb") as file:
        start = file.read(8)
        header = file.read(int.from_bytes(start, "little"))
        blank = header.replace(_entry(written), _entry(UNKNOWN_HASH), 1)
        digest = hashlib.sha256(start + blank)
        while content := file.read(_HASHED_AT_ONCE):
            digest.update(content)
    return digest.hexdigest()


def read_json(text: str | None, what: str, *, is_strict: bool = True) -> Any:  # noqa: ANN401
    """Read the JSON of a header entry.

    Args:
        text: the entry; None if it is missing.
        what: file and entry, for the message.
        is_strict: refuse NaN and infinity, which JSON does not have.

    Raises:
        ModelFileError: it is missing, not JSON, or nested too deeply.
    """

    def refuse(constant: str) -> float:
        raise ModelFileError(f"{constant} is not a number")

    try:
        return json.loads(text or "", parse_constant=refuse if is_strict else None)
    except (ValueError, RecursionError) as error:
        message = f"{what} is missing or damaged in the header ({error})"
        raise ModelFileError(message) from error


def check_tensors(
    tensors: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    trained: Iterable[str],
    path: Path,
) -> None:
    """Check shapes, types and values of the tensors of a model file.

    Args:
        tensors: from the file, with the names of `expected`.
        expected: tensors of the same shapes and types; their values are not read.
        trained: names of the weights; the others are buffers, whose values may be large.
        path: of the file, for messages.

    Raises:
        ModelFileError: the message names the tensor, what it is, and what was expected.
    """
    weights = set(trained)
    for name, tensor in tensors.items():
        for what, got, right in (
            ("shape", tuple(tensor.shape), tuple(expected[name].shape)),
            ("type", tensor.dtype, expected[name].dtype),
        ):
            if got != right:
                raise ModelFileError(
                    f"{path}: weight {name} does not fit: got {what} {got}, expected {right}"
                )
        if not tensor.is_floating_point() or not tensor.numel():
            continue
        lowest, highest = (float(value) for value in torch.aminmax(tensor))
        limit = _LARGEST_WEIGHT if name in weights else torch.finfo(tensor.dtype).max
        if not -limit <= lowest <= highest <= limit:
            raise ModelFileError(
                f"{path}: weight {name} is damaged: its numbers are from {lowest:g} to "
                f"{highest:g}, expected numbers between -{limit:g} and {limit:g}"
            )
        if name.endswith("scale") and lowest <= 0 and name not in weights:
            raise ModelFileError(
                f"{path}: weight {name} is damaged: got {lowest:g}, expected numbers above 0"
            )
