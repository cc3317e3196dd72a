import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from moleblend.pretraining.config import PretrainConfig
from moleblend.pretraining.dry_run import dry_run, duration
from tests.helpers.pretraining import run


def test_a_rehearsal_says_what_a_run_takes_and_leaves_nothing(config: PretrainConfig) -> None:
    before = sorted(Path(config.data).parent.rglob("*"))
    told = dry_run(config)
    assert sorted(Path(config.data).parent.rglob("*")) == before
    assert (told.n_molecules, told.n_held_out, told.n_steps) == (24, 6, 6)
    assert (told.n_epochs, told.n_validations) == (2.0, 2)  # three batches of 8; after 4 and 6
    assert told.n_atoms[1] == 7  # six carbons and an oxygen
    assert 1 <= told.padded < 7
    assert told.seconds == pytest.approx(6 * told.step_seconds + 2 * told.validation_seconds)
    assert told.molecules_per_s == pytest.approx(8 / told.step_seconds)
    assert told.peak_mb > 50
    said = run(config)
    assert f"{told.n_parameters:,} parameters" in said
    out = Path(config.out)
    for name, size in (("model.safetensors", told.model_mb), ("state.ckpt", told.state_mb)):
        assert size == pytest.approx((out / name).stat().st_size / 1024**2, abs=0.05)
    file = io.StringIO()
    Console(file=file, width=120).print(told.table())
    lines = [line.split()[0] for line in file.getvalue().splitlines()]
    assert lines[:4] == ["molecules", "parameters", "steps", "batches"]
    assert lines[-3:] == ["time", "memory", "files"]


def test_a_rehearsal_needs_a_store(config: PretrainConfig) -> None:
    with pytest.raises(ValueError, match=r"molecules\.csv: --dry-run measures on a store"):
        dry_run(replace(config, data="molecules.csv"))
    with pytest.raises(ValueError, match="30 molecules, but 30 are to be held out"):
        dry_run(replace(config, n_held_out=30))


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0.123, "0.12 s"), (59.0, "59 s"), (90.0, "2 min"), (7_500.0, "2 h 5 min"), (2e5, "2.3 days")],
)
def test_times_are_said_in_units_that_matter(seconds: float, told: str) -> None:
    assert duration(seconds) == told
