"""Resumed runs are identical to uninterrupted ones; damaged states are skipped."""

import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from moleblend.data.store import write_store
from moleblend.files import alone_with
from moleblend.pretraining import callbacks
from moleblend.pretraining.config import PretrainConfig
from tests.helpers.pretraining import (
    StopHereError,
    losses,
    qm9,
    rows_of,
    run_pretraining,
    stop_after,
    weights,
)


@pytest.fixture
def config(qm9_config: PretrainConfig) -> PretrainConfig:
    return qm9_config


# Saved at 5 and 10, logged at 4, 8 and 12, validated at 8 and 12: a stop at 6 and at 11 comes
# between a save and the next line of the log, with the sums of steps 5, or 9 and 10, in the state.
@pytest.mark.parametrize("stops", [(6,), (11,), (5, 10), (3, 8)])
def test_a_resumed_run_is_identical_to_an_uninterrupted_one(
    config: PretrainConfig, stops: tuple[int, ...], tmp_path: Path
) -> None:
    uninterrupted = replace(config, out=str(tmp_path / "uninterrupted"))
    run_pretraining(uninterrupted)
    for step in stops:
        stop_after(config, step, resume=True)
    run_pretraining(config, resume=True)
    assert losses(config) == losses(uninterrupted)
    validations = (rows_of(Path(c.out) / "validation.csv") for c in (config, uninterrupted))
    assert next(validations) == next(validations)
    resumed, expected = weights(config), weights(uninterrupted)
    assert all(torch.equal(resumed[name], expected[name]) for name in expected)


def test_a_kill_while_saving_keeps_the_last_state(
    config: PretrainConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    save = torch.save

    def torn(content: dict[str, Any], file: Any) -> None:
        if content["global_step"] == 10:
            raise StopHereError
        save(content, file)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", torn)
        with pytest.raises(StopHereError):
            run_pretraining(config)
    half = Path(config.out) / ".state.ckpt.0123abcd"
    half.write_bytes(b"half a st")  # as a killed process leaves it
    _, output = run_pretraining(config, resume=True)
    assert "resumed at step 5" in output
    assert not half.exists()
    uninterrupted = replace(config, out=str(tmp_path / "uninterrupted"))
    run_pretraining(uninterrupted)
    assert losses(config) == losses(uninterrupted)


def test_a_state_without_sums_can_be_resumed(config: PretrainConfig) -> None:
    """Runs saved before the sums were part of the state."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(callbacks.TrainingCallback, "state_dict", lambda _: {})
        stop_after(config, 6)
    run_pretraining(config, resume=True)
    assert [row[0] for row in losses(config)] == ["4", "8", "12"]


def test_resume_of_a_finished_run_gives_the_same_scores(config: PretrainConfig) -> None:
    first, _ = run_pretraining(config)
    before = {path: path.read_bytes() for path in Path(config.out).iterdir()}
    again, output = run_pretraining(config, resume=True)
    assert again.scores == first.scores
    assert again.model == first.model
    assert again.molecules_per_s == 0
    assert "finished" in output
    assert {path: path.read_bytes() for path in Path(config.out).iterdir()} == before


def test_a_folder_has_one_run_at_a_time(config: PretrainConfig) -> None:
    stop_after(config, 5)
    before = (Path(config.out) / "log.csv").read_bytes()
    state = Path(config.out) / "state.ckpt"
    with alone_with(state), pytest.raises(ValueError, match="another process"):
        run_pretraining(config, resume=True)
    assert (Path(config.out) / "log.csv").read_bytes() == before
    run_pretraining(config, resume=True)


def test_a_run_may_be_made_longer_until_its_rate_falls(
    config: PretrainConfig, tmp_path: Path
) -> None:
    long = replace(config, schedule=replace(config.schedule, fall_steps=4))
    short = replace(long, schedule=replace(long.schedule, steps=8))
    uninterrupted = replace(long, out=str(tmp_path / "uninterrupted"))
    run_pretraining(uninterrupted)
    stop_after(short, 4)  # the rate falls from step 4 on, so that of step 4 itself is not reduced
    run_pretraining(long, resume=True)
    assert losses(long) == losses(uninterrupted)
    stored = json.loads((Path(config.out) / "config.json").read_text())
    assert stored["config"]["schedule"]["steps"] == long.schedule.steps
    with pytest.raises(ValueError, match=r"these differ: schedule$"):
        run_pretraining(replace(long, schedule=replace(long.schedule, steps=20)), resume=True)


def test_resume_refuses_another_run(config: PretrainConfig, tmp_path: Path) -> None:
    stop_after(config, 6)
    with pytest.raises(ValueError, match=r"these differ: seed, schedule$"):
        run_pretraining(
            replace(config, seed=1, schedule=replace(config.schedule, learning_rate=1e-3)),
            resume=True,
        )
    other = tmp_path / "other.arrow"
    write_store(qm9(n=40), other, features="cip-1")
    with pytest.raises(ValueError, match=r"these differ: the data$"):
        run_pretraining(replace(config, data=str(other)), resume=True)
    # The same molecules elsewhere, and another number of processes, are the same run.
    moved = tmp_path / "moved.arrow"
    moved.write_bytes(Path(config.data).read_bytes())
    run_pretraining(replace(config, data=str(moved)), resume=True)


def test_an_occupied_folder_is_refused(config: PretrainConfig) -> None:
    stop_after(config, 2)  # before anything was saved
    with pytest.raises(ValueError, match="already contains a run: use --resume to continue it"):
        run_pretraining(config)
    result, _ = run_pretraining(config, resume=True)
    assert result.scores


def test_another_kind_of_run_cannot_be_resumed(config: PretrainConfig) -> None:
    folder = Path(config.out)
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="contains no pretraining run that can be resumed"):
        run_pretraining(config, resume=True)
    assert [path.name for path in folder.iterdir()] == ["config.json"]


def corrupt(path: Path) -> None:
    """Flip a bit of the largest weight; elsewhere it could be in padding without effect."""
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda member: member.file_size)
        weight = archive.read(largest)
    content = bytearray(path.read_bytes())
    content[content.index(weight) + len(weight) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:2000])


@pytest.mark.parametrize("damage", [corrupt, truncate, Path.unlink])
def test_a_damaged_state_is_skipped_for_the_one_before(
    config: PretrainConfig, tmp_path: Path, damage: Any
) -> None:
    uninterrupted = replace(config, out=str(tmp_path / "uninterrupted"))
    run_pretraining(uninterrupted)
    stop_after(config, 11)  # saved at 5 and 10
    state = Path(config.out) / "state.ckpt"
    damage(state)
    _, output = run_pretraining(config, resume=True)
    assert (f"{state}: damaged, or not a saved state" in output) == (damage is not Path.unlink)
    assert "resumed at step 5" in output
    assert losses(config) == losses(uninterrupted)
    assert all(
        torch.equal(a, b) for a, b in zip(*map(_tensors, (config, uninterrupted)), strict=True)
    )
    starts = rows_of(Path(config.out) / "starts.csv")
    assert [start["step"] for start in starts] == ["0", "5"]


def _tensors(config: PretrainConfig) -> list[torch.Tensor]:
    return list(weights(config).values())


def test_only_damaged_states_are_an_error(config: PretrainConfig) -> None:
    stop_after(config, 11)
    before = {path: path.read_bytes() for path in Path(config.out).glob("*.csv")}
    corrupt(Path(config.out) / "state.ckpt")
    truncate(Path(config.out) / "state.before.ckpt")
    message = (
        r"state.ckpt: damaged.*; .*state.before.ckpt: damaged.*; there is no other state .* "
        "delete these files to restart"
    )
    with pytest.raises(ValueError, match=message):
        run_pretraining(config, resume=True)
    assert {path: path.read_bytes() for path in before} == before
