"""Saved training states: the last two are kept, and a damaged one is detected."""

import io
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from moleblend.errors import ModelFileError
from moleblend.files import replacing
from moleblend.model.compat import upgrade_state

LAST, BEFORE = "state.ckpt", "state.before.ckpt"


@dataclass(frozen=True)
class SavedState:
    """A saved state that is not damaged.

    Attributes:
        path: path of the file.
        step: number of finished steps.
    """

    path: Path
    step: int


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes states atomically and keeps the one before under another name."""

    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        path: str | os.PathLike[str],
        storage_options: object = None,  # noqa: ARG002
    ) -> None:
        """Write a state; once it is complete on the disk, it replaces the last one."""
        last, content = Path(path), io.BytesIO()
        # Through memory: on a full disk torch itself would raise an unclear error.
        torch.save(checkpoint, content)
        with replacing(last) as temporary:
            with temporary.open("wb") as file:
                file.write(content.getbuffer())
                file.flush()
                os.fsync(file.fileno())
            if last.is_file():
                last.replace(last.with_name(BEFORE))

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Any = lambda storage, _: storage,  # noqa: ANN401
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Load a state; former names are translated."""
        return upgrade_state(super().load_checkpoint(path, map_location, weights_only))


def find_state(out: Path) -> tuple[SavedState | None, list[str]]:
    """Find the last saved state that is not damaged.

    Args:
        out: the run folder.

    Returns:
        The state, or None if none was saved yet; and a message for each damaged state.

    Raises:
        ModelFileError: all saved states are damaged.
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
        raise ModelFileError(
            f"{'; '.join(damaged)}; there is no other state to resume from: delete "
            f"{'these files' if len(damaged) > 1 else 'this file'} to restart the run from step 0"
        )
    return None, []


def make_last(state: SavedState, out: Path) -> Path:
    """Rename a state to the last one, so that the next save does not keep a damaged one instead."""
    return state.path.replace(out / LAST)


def describe_last_state(out: Path) -> str:
    """Describe the saved state that a run can be resumed from, for an error message."""
    try:
        state, _ = find_state(out)
    except ValueError as error:
        return str(error)
    if state is None:
        return "no state was saved yet"
    return f"--resume continues from step {state.step:,} ({state.path})"


def _read_step(path: Path) -> int:
    """Read a complete state and return its number of finished steps."""
    try:
        # torch itself never compares the checksums that it writes.
        with zipfile.ZipFile(path) as archive:
            corrupt = archive.testzip()
        if corrupt is None:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)["global_step"]
        reason = f"wrong checksum of {corrupt}"
    except PermissionError:
        raise
    except Exception as error:  # a damaged file can fail in any way
        raise _damaged(path, type(error).__name__) from error
    raise _damaged(path, reason)


def _damaged(path: Path, reason: str) -> ValueError:
    return ModelFileError(f"{path}: damaged, or not a saved state of a run ({reason})")
