import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from moleblend.pretraining.config import PretrainConfig
from moleblend.pretraining.dry_run import dry_run, duration
from tests.helpers.pretraining import run


def test_a_dry_run_estimates_a_run_and_writes_nothing(config: PretrainConfig) -> None:
    before = sorted(Path(config.data).parent.rglob("*"))
    estimate = dry_run(config)
    assert sorted(Path(config.data).parent.rglob("*")) == before
    assert (estimate.n_molecules, estimate.n_held_out, estimate.n_steps) == (24, 6, 6)
    assert (estimate.n_epochs, estimate.n_validations) == (
        2.0,
        2,
    )  # three batches of 8; after 4 and 6
    assert estimate.n_atoms[1] == 7  # six carbons and an oxygen
    assert 1 <= estimate.padding_factor < 7
    assert estimate.seconds == pytest.approx(
        6 * estimate.step_seconds + 2 * estimate.validation_seconds
    )
    assert estimate.molecules_per_s == pytest.approx(8 / estimate.step_seconds)
    assert estimate.peak_mb > 50
    output = run(config)
    assert f"{estimate.n_parameters:,} parameters" in output
    out = Path(config.out)
    for name, size in (("model.safetensors", estimate.model_mb), ("state.ckpt", estimate.state_mb)):
        assert size == pytest.approx((out / name).stat().st_size / 1024**2, abs=0.05)
    file = io.StringIO()
    Console(file=file, width=120).print(estimate.table())
    lines = [line.split()[0] for line in file.getvalue().splitlines()]
    assert lines[:4] == ["molecules", "parameters", "steps", "batches"]
    assert lines[-3:] == ["time", "memory", "files"]


def test_a_dry_run_needs_a_store(config: PretrainConfig) -> None:
    with pytest.raises(ValueError, match=r"molecules\.csv: --dry-run needs a store"):
        dry_run(replace(config, data="molecules.csv"))
    assert dry_run(replace(config, n_held_out=30)).n_held_out == 6


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.123, "0.12 s"), (59.0, "59 s"), (90.0, "2 min"), (7_500.0, "2 h 5 min"), (2e5, "2.3 days")],
)
def test_times_have_one_or_two_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text
