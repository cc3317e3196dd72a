import csv
import errno
import io
import os
import resource
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from moleblend.model.encoder import EncoderConfig
from moleblend.model.heads import HeadsConfig
from moleblend.pretraining.callbacks import judged_at
from moleblend.pretraining.config import PretrainConfig, ScheduleConfig
from moleblend.pretraining.csv_log import append, cut_after
from moleblend.pretraining.validation import Score, score_table
from tests.helpers.pretraining import run

TINY = EncoderConfig(width=8, ffn_width=8, n_layers=1, n_heads=2, n_kernels=4)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], None]:
    """Let the disk be full from the n-th time on that a file of a name reaches it."""

    def fill(name: str, n: int) -> None:
        original, count = os.fsync, iter(range(1, 1000))

        def refuse(descriptor: int) -> None:
            if name in str(Path(f"/proc/self/fd/{descriptor}").readlink()) and next(count) >= n:
                raise OSError(errno.ENOSPC, "No space left on device")
            original(descriptor)

        monkeypatch.setattr(os, "fsync", refuse)

    return fill


# Lines come every step, states at 2, 4 and 6, validations and models at 4 and 6.
@pytest.mark.parametrize(
    ("name", "n", "kept"),
    [
        ("log.csv", 1, "no state was saved yet"),
        ("log.csv", 4, "state.ckpt is whole and has step 2, from which --resume goes on"),
        ("validation.csv", 1, "state.ckpt is whole and has step 2, from which --resume goes on"),
        ("model.safetensors", 1, "state.ckpt is whole and has step 2, from which"),
        (".state.ckpt", 1, "no state was saved yet"),
        (".state.ckpt", 3, "state.ckpt is whole and has step 2, from which --resume goes on"),
        (".state.ckpt", 4, "state.before.ckpt is whole and has step 2, from which"),
    ],
)
def test_a_full_disk_is_one_sentence_and_nothing_is_lost(
    config: PretrainConfig,
    full_disk: Callable[[str, int], None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    name: str,
    n: int,
    kept: str,
) -> None:
    full_disk(name, n)
    with pytest.raises(OSError, match=r"cannot be written \(No space left on device\); ") as caught:
        run(config)
    told = str(caught.value)
    assert told.startswith(f"{Path(config.out) / name.removeprefix('.')}: ")
    assert kept in told
    assert not list(Path(config.out).glob(".*"))  # nothing half-written
    monkeypatch.undo()
    run(config, resume=True)
    whole = replace(config, out=str(tmp_path / "whole"))
    run(whole)
    for table in ("log.csv", "validation.csv"):
        resumed, unbroken = (rows_of(Path(c.out) / table) for c in (config, whole))
        for row in (*resumed, *unbroken):
            row.pop("molecules_per_s", None)
        assert resumed == unbroken


def test_rows_are_appended_all_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    append(path, [])
    assert not path.exists()
    append(path, [{"step": 1, "loss": 0.5}])
    before = path.read_bytes()
    assert before == b"step,loss\r\n1,0.5\r\n"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            append(path, [{"step": step, "loss": 0.25} for step in range(2, 20)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before


def test_a_log_is_cut_to_a_step(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    cut_after(path, 3)
    assert not path.exists()
    path.write_text("step,loss\n2,0.5\n4,0.25\n6,0.")
    cut_after(path, 4)
    assert rows_of(path) == [{"step": "2", "loss": "0.5"}, {"step": "4", "loss": "0.25"}]
    path.write_text("step,loss\n2,0.5\n4")  # killed in the middle of a line
    cut_after(path, 4)
    assert rows_of(path) == [{"step": "2", "loss": "0.5"}]


@pytest.mark.parametrize(
    ("steps", "warmup", "step"), [(800, 50, 210), (20_000, 1_000, 2_000), (300, 20, 120)]
)
def test_when_a_view_is_judged(steps: int, warmup: int, step: int) -> None:
    assert judged_at(ScheduleConfig(steps=steps, warmup_steps=warmup)) == step


@pytest.mark.parametrize(("learning_rate", "is_warned"), [(1e-9, True), (3e-3, False)])
def test_a_view_that_is_not_learnt_is_named_once(
    config: PretrainConfig, learning_rate: float, is_warned: bool
) -> None:
    schedule = ScheduleConfig(
        steps=101, batch_size=4, warmup_steps=0, learning_rate=learning_rate, fall_steps=1
    )
    large = replace(
        config,
        encoder=replace(TINY, width=32, ffn_width=32),
        heads=HeadsConfig(rank=8),
        schedule=schedule,
    )
    told = run(replace(large, log_every=20, save_every=101, validate_every=101))
    warnings = [line for line in told.splitlines() if line.startswith("warning")]
    if is_warned:
        # lengths of 1 to 6 bonds; all bonds are alike, so that there is nothing to learn of them
        (sentence,) = warnings
        assert "warning at step 100: the loss of path_length is " in sentence
        assert ", and a constant guess has 1." in sentence
        assert "bonds" not in sentence
        assert "at a learning rate of 1e-09" in sentence
    else:
        assert warnings == []


def test_every_start_is_noted(
    config: PretrainConfig,
    full_disk: Callable[[str, int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    full_disk("log.csv", 4)
    with pytest.raises(OSError, match=r"log\.csv"):
        run(config)
    monkeypatch.undo()
    run(config, resume=True)
    starts = rows_of(Path(config.out) / "starts.csv")
    assert [start["step"] for start in starts] == ["0", "2"]
    for name in ("time", "moleblend", "code", "python", "torch", "processor", "command"):
        assert all(start[name] for start in starts)


def test_validations_are_said_in_a_small_table() -> None:
    scores = [
        Score("path_length", "visible", "accuracy", 0.9876, 0.5, 10),
        Score("path_length", "modality hidden", "accuracy", 0.75, 0.25, 10),
        Score("direction", "hidden", "cosine", 0.125, None, 10),
    ]
    file = io.StringIO()
    Console(file=file, width=80).print(score_table(scores, 2_000))
    lines = [line.split() for line in file.getvalue().splitlines()]
    assert lines[0][:2] == ["step", "2,000,"]
    assert lines[1] == ["visible", "hidden", "modality", "hidden"]
    assert lines[2] == ["path_length", "(accuracy)", "0.988", "(0.500)", "–", "0.750", "(0.250)"]
    assert lines[3] == ["direction", "(cosine)", "–", "0.125", "–"]
