import os
import random
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from moleblend.pretraining import training_state as states
from moleblend.pretraining.training_state import (
    BEFORE,
    LAST,
    AtomicCheckpointIO,
    describe_last_state,
    find_state,
    make_last,
)


def content(step: int) -> dict[str, Any]:
    weights = torch.randn(2_000, generator=torch.Generator().manual_seed(step))
    return {"global_step": step, "weights": weights}


def save(folder: Path, *steps: int) -> None:
    for step in steps:
        AtomicCheckpointIO().save_checkpoint(content(step), folder / LAST)


def last_state(folder: Path) -> tuple[str, int] | None:
    state, _ = find_state(folder)
    return state and (state.path.name, state.step)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let no file become larger: a write past it fails half way, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_the_last_two_states_are_kept(tmp_path):
    assert find_state(tmp_path) == (None, [])
    save(tmp_path, 5)
    assert last_state(tmp_path) == (LAST, 5)
    save(tmp_path, 10, 15)
    assert {path.name for path in tmp_path.iterdir()} == {LAST, BEFORE}
    steps = [torch.load(tmp_path / name)["global_step"] for name in (BEFORE, LAST)]
    assert steps == [10, 15]


def test_a_kill_between_the_two_renames_leaves_one(tmp_path, monkeypatch):
    save(tmp_path, 5)
    original = Path.replace

    def killed(self, target):
        if Path(target).name == LAST:
            raise KeyboardInterrupt
        return original(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path, 10)
    assert last_state(tmp_path) == (BEFORE, 5)
    assert [path.name for path in tmp_path.iterdir()] == [BEFORE]


def test_any_corrupt_byte_is_detected_or_harmless(tmp_path):
    save(tmp_path, 5)
    path, good = tmp_path / LAST, content(5)
    complete = path.read_bytes()
    n_detected = 0
    for position in random.Random(0).sample(range(len(complete)), 300):
        corrupt = bytearray(complete)
        corrupt[position] ^= 1 << position % 8
        path.write_bytes(corrupt)
        try:
            assert last_state(tmp_path) == (LAST, 5)
        except ValueError:
            n_detected += 1
        else:  # padding
            assert torch.equal(torch.load(path)["weights"], good["weights"])
    assert n_detected > 250  # of 9,700 bytes, 8,000 are weights


@pytest.mark.parametrize("size", [0, 1, 100, 5_000])
def test_a_truncated_state_is_skipped(tmp_path, size):
    save(tmp_path, 5, 10)
    os.truncate(tmp_path / LAST, size)
    state, damaged = find_state(tmp_path)
    assert state == states.SavedState(tmp_path / BEFORE, 5)
    assert [message.split(": ")[0] for message in damaged] == [str(tmp_path / LAST)]


def test_something_else_is_no_state(tmp_path):
    torch.save({"weights": torch.zeros(3)}, tmp_path / LAST)
    with pytest.raises(ValueError, match=r"state\.ckpt: .*not a saved state of a run"):
        find_state(tmp_path)


def test_a_damaged_state_never_replaces_a_good_one(tmp_path):
    save(tmp_path, 5, 10)
    os.truncate(tmp_path / LAST, 100)
    state, _ = find_state(tmp_path)
    assert state is not None
    make_last(state, tmp_path)
    save(tmp_path, 15)
    os.truncate(tmp_path / LAST, 100)
    assert last_state(tmp_path) == (BEFORE, 5)


def test_a_full_disk_leaves_what_was_there(tmp_path):
    save(tmp_path, 5, 10)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with largest_file(4_000), pytest.raises(OSError, match="File too large"):
        save(tmp_path, 15)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_last_state_is_described(tmp_path):
    assert describe_last_state(tmp_path) == "no state was saved yet"
    save(tmp_path, 5, 1_000)
    text = f"--resume continues from step 1,000 ({tmp_path / LAST})"
    assert describe_last_state(tmp_path) == text
    os.truncate(tmp_path / LAST, 100)
    text = f"--resume continues from step 5 ({tmp_path / BEFORE})"
    assert describe_last_state(tmp_path) == text
    os.truncate(tmp_path / BEFORE, 100)
    assert "there is no other state" in describe_last_state(tmp_path)


def test_the_former_name_of_the_callback_is_read(tmp_path):
    state = content(5) | {"callbacks": {"Journal": {"sums": {"loss": 1.0}, "n_summed": 1}}}
    AtomicCheckpointIO().save_checkpoint(state, tmp_path / LAST)
    loaded = AtomicCheckpointIO().load_checkpoint(tmp_path / LAST, weights_only=True)
    assert loaded["callbacks"] == {"TrainingCallback": {"sums": {"loss": 1.0}, "n_summed": 1}}
    assert loaded["global_step"] == 5
