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

from moleblend.model.encoder_config import EncoderConfig
from moleblend.model.heads import HeadsConfig
from moleblend.pretraining.config import PretrainConfig, ScheduleConfig
from moleblend.pretraining.csv_log import append, cut_after
from moleblend.pretraining.guards import warning_step
from moleblend.pretraining.validation import Score, read_scores, read_validations, score_table
from tests.helpers.pretraining import run

TINY = EncoderConfig(width=8, ffn_width=8, n_layers=1, n_heads=2, n_kernels=4)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], None]:
    """Simulate a full disk from the n-th write of a file with this name on."""

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
    ("name", "n", "last_state"),
    [
        ("log.csv", 1, "no state was saved yet"),
        ("log.csv", 4, "--resume continues from step 2 ("),
        ("validation.csv", 1, "--resume continues from step 2 ("),
        ("model.safetensors", 1, "--resume continues from step 2 ("),
        (".state.ckpt", 1, "no state was saved yet"),
        (".state.ckpt", 3, "--resume continues from step 2 ("),
        (".state.ckpt", 4, "state.before.ckpt)"),
    ],
)
def test_a_full_disk_is_reported_and_nothing_is_lost(
    config: PretrainConfig,
    full_disk: Callable[[str, int], None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    name: str,
    n: int,
    last_state: str,
) -> None:
    full_disk(name, n)
    with pytest.raises(OSError, match=r"cannot be written \(No space left on device\); ") as caught:
        run(config)
    message = str(caught.value)
    assert message.startswith(f"{Path(config.out) / name.removeprefix('.')}: ")
    assert last_state in message
    assert not list(Path(config.out).glob(".*"))  # nothing half-written
    monkeypatch.undo()
    run(config, resume=True)
    uninterrupted = replace(config, out=str(tmp_path / "uninterrupted"))
    run(uninterrupted)
    for table in ("log.csv", "validation.csv"):
        resumed, expected = (rows_of(Path(c.out) / table) for c in (config, uninterrupted))
        for row in (*resumed, *expected):
            row.pop("molecules_per_s", None)
        assert resumed == expected


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
def test_the_step_of_the_warning(steps: int, warmup: int, step: int) -> None:
    assert warning_step(ScheduleConfig(steps=steps, warmup_steps=warmup)) == step


@pytest.mark.parametrize(("learning_rate", "is_warned"), [(1e-9, True), (3e-3, False)])
def test_a_view_that_is_not_learned_is_named_once(
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
    output = run(replace(large, log_every=20, save_every=101, validate_every=101))
    warnings = [line for line in output.splitlines() if line.startswith("warning")]
    if is_warned:
        # lengths of 1 to 6 bonds; all bonds are alike, so that there is nothing to learn of them
        (message,) = warnings
        assert message.startswith("warning at step 100: these losses are not below")
        assert "path_length " in message
        assert "(constant baseline 1." in message
        assert "bonds" not in message
        assert "the learning rate is 1e-09" in message
    else:
        assert warnings == []


def test_every_start_is_recorded(
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


def test_a_validation_is_shown_as_a_table() -> None:
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


@pytest.mark.parametrize("column", ["lookup_baseline", "trivial"])  # the latter until 2026-11
def test_validations_are_read_with_today_and_former_columns(tmp_path: Path, column: str) -> None:
    (tmp_path / "validation.csv").write_text(
        f"step,view,shown,metric,value,{column},n\n"
        "2,bonds,hidden,accuracy,0.5,0.25,9\n4,bonds,hidden,accuracy,0.75,,9\n"
    )
    first = Score("bonds", "hidden", "accuracy", 0.5, 0.25, 9)
    last = Score("bonds", "hidden", "accuracy", 0.75, None, 9)
    assert read_validations(tmp_path / "validation.csv") == {2: [first], 4: [last]}
    assert read_scores(tmp_path) == [last]


def test_a_run_without_a_validation_has_no_scores_to_read(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"validation\.csv: there is no such file"):
        read_scores(tmp_path)
    (tmp_path / "validation.csv").touch()
    assert read_scores(tmp_path) == []
