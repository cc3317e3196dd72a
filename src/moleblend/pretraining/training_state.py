"""The saved states of a run: the last two, each whole, and the last good one found again."""

import io
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from moleblend.files import replacing

LAST, BEFORE = "state.ckpt", "state.before.ckpt"


@dataclass(frozen=True)
class SavedState:
    """A saved state that was found whole.

    Attributes:
        path: of the file.
        step: how many steps it has behind it.
    """

    path: Path
    step: int


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a state beside the last one, which is kept under another name."""

    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        path: str | os.PathLike[str],
        storage_options: object = None,  # noqa: ARG002
    ) -> None:
        """Write a state; the one before the last goes when it is whole on the disk."""
        last, content = Path(path), io.BytesIO()
        # Through memory: torch itself would say of a full disk that a position is unexpected.
        torch.save(checkpoint, content)
        with replacing(last) as temporary:
            with temporary.open("wb") as file:
                file.write(content.getbuffer())
                file.flush()
                os.fsync(file.fileno())
            if last.is_file():
                last.replace(last.with_name(BEFORE))


def find_state(out: Path) -> tuple[SavedState | None, list[str]]:
    """Find the last state of a run that is whole.

    Args:
        out: the run folder.

    Returns:
        The state, None where none was saved yet; and a sentence for each damaged one passed over.

    Raises:
        ValueError: there are states, but all are damaged.
    """
    damaged: list[str] = []
    for path in (out / LAST, out / BEFORE):
        if not path.is_file():
            continue
        try:
            return SavedState(path, _read_step(path)), damaged
        except ValueError as error:
            damaged.append(str(error))
    if damaged:
        raise ValueError(
            f"{' and '.join(damaged)}; no other state is there to resume from: without "
            f"{'them' if len(damaged) > 1 else 'it'} the run begins anew"
        )
    return None, []


def settle_state(state: SavedState, out: Path) -> Path:
    """Give a state the name of the last one, so that no save keeps a damaged one instead of it."""
    return state.path.replace(out / LAST)


def kept_state(out: Path) -> str:
    """Say in half a sentence which state a run that ends now has left."""
    try:
        state, _ = find_state(out)
    except ValueError as error:
        return str(error)
    if state is None:
        return "no state was saved yet"
    return f"{state.path} is whole and has step {state.step:,}, from which --resume goes on"


def _read_step(path: Path) -> int:
    """Read a state through, and how many steps it has behind it."""
    try:
        # torch itself never compares the checksums that it writes.
        with zipfile.ZipFile(path) as archive:
            spoilt = archive.testzip()
        if spoilt is None:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)["global_step"]
        reason = f"the checksum of {spoilt} is wrong"
    except PermissionError:
        raise
    except Exception as error:  # a damaged file can fail in any way
        raise _damaged(path, type(error).__name__) from error
    raise _damaged(path, reason)


def _damaged(path: Path, reason: str) -> ValueError:
    return ValueError(f"{path}: truncated or damaged, or not the saved state of a run ({reason})")
