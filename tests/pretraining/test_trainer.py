"""Pretraining shared out over processes and micro-batches, in less than 32 bits, and compiled.

Where processes are needed, two of them run here on the CPU, which torchrun starts.
"""

import csv
import io
import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch.distributed.fsdp import ShardingStrategy

from moleblend.chem.molecule import Molecule
from moleblend.chem.parsing import read_smiles
from moleblend.config import from_dict, to_dict
from moleblend.data.formats import read_table
from moleblend.data.store import MoleculeStore, write_store
from moleblend.data.table import read_molecules
from moleblend.model import checkpoint
from moleblend.model.batch import collate
from moleblend.model.blending import BlendConfig, draw_blend
from moleblend.model.encoder import Layer
from moleblend.model.encoder_config import EncoderConfig
from moleblend.model.heads import HeadsConfig, Model, ModelConfig
from moleblend.model.objectives import CombinedObjective, ObjectiveConfig, blend_then_predict
from moleblend.pretraining import pretrain
from moleblend.pretraining import trainer as devices
from moleblend.pretraining.config import PretrainConfig, ScheduleConfig
from moleblend.pretraining.data_loader import MicroBatch, StepDataset, StepLoader
from tests.helpers.molecules import QM9

STILL = {"attention_dropout": 0.0, "activation_dropout": 0.0, "stochastic_depth": 0.0}
TINY = EncoderConfig(width=16, ffn_width=16, n_layers=1, n_heads=2, n_kernels=8, **STILL)
# The last of the 5 batches of an epoch has one molecule, less than one for each process.
N_MOLECULES, N_HELD_OUT = 60, 19


def qm9(n: int = N_MOLECULES) -> list[Molecule]:
    items = read_molecules(read_table(QM9).piece(100, 100 + n))
    return [item for item in items if isinstance(item, Molecule)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> MoleculeStore:
    """QM9, with some molecules that have no geometry."""
    path = tmp_path_factory.mktemp("store") / "molecules.arrow"
    flat = [read_smiles(smiles) for smiles in ("C", "CCO", "[Na+].[Cl-]", "CC(=O)[O-].[NH4+]")]
    write_store([*qm9(N_MOLECULES - 4), *flat], path, features="cip-1")
    return MoleculeStore(path)


@pytest.fixture(scope="module")
def config(store: MoleculeStore, tmp_path_factory: pytest.TempPathFactory) -> PretrainConfig:
    """Without dropout, the only random draw that depends on the micro-batches."""
    return PretrainConfig(
        data=str(store.path),
        out=str(tmp_path_factory.mktemp("runs") / "alone"),
        n_held_out=N_HELD_OUT,
        validate_every=8,
        save_every=5,
        log_every=1,
        device="cpu",
        encoder=TINY,
        heads=HeadsConfig(rank=4, denoising_dropout=0.0, descriptors=True),
        schedule=ScheduleConfig(steps=12, batch_size=10, warmup_steps=2, learning_rate=5e-3),
    )


def with_dropout(config: PretrainConfig) -> PretrainConfig:
    return replace(config, encoder=replace(TINY, attention_dropout=0.1, stochastic_depth=0.1))


def elsewhere(config: PretrainConfig, name: str, **changed: Any) -> PretrainConfig:
    return replace(config, out=str(Path(config.out).with_name(name)), **changed)


def run(config: PretrainConfig, *, resume: bool = False) -> PretrainConfig:
    pretrain.pretrain(config, resume=resume, console=Console(file=io.StringIO()))
    return config


@pytest.fixture(scope="module")
def alone(config: PretrainConfig) -> PretrainConfig:
    return run(config)


def flags(config: PretrainConfig) -> list[str]:
    """Command-line flags of a configuration."""
    return flags_of(to_dict(config), "")


def flags_of(values: dict[str, Any], group: str) -> list[str]:
    """Command-line flags of a group of settings."""
    arguments = []
    for name, value in values.items():
        key = f"{group}{name}".replace("_", "-")
        if name == "source":  # its flag is --from, and none of these runs has one
            continue
        if isinstance(value, dict):
            arguments += flags_of(value, f"{key}.")
        elif isinstance(value, bool):
            before, _, last = key.rpartition(".")
            off = f"--{before}.no-{last}" if before else f"--no-{last}"
            arguments.append(f"--{key}" if value else off)
        else:
            listed = value if isinstance(value, (list, tuple)) else [value]
            arguments += [f"--{key}", *map(str, listed)]
    return arguments


def torchrun(
    config: PretrainConfig, *more: str, patch: str = "", n: int = 2
) -> subprocess.CompletedProcess[str]:
    """Run the command in `n` processes; `patch` is Python code that each of them runs before."""
    program = Path(config.out).with_name("program.py")
    program.write_text(
        f"import os, signal, sys\nfrom moleblend.cli import main as cli\n"
        f"from moleblend.pretraining import callbacks, pretrain\n{patch}\n"
        "if __name__ == '__main__':\n    sys.exit(cli.main())\n"
    )
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n))
    return subprocess.run(
        [sys.executable, *launcher, str(program), "pretrain", *flags(config), *more],
        capture_output=True,
        text=True,
        timeout=280,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
    )


def rows_of(config: PretrainConfig, name: str = "log.csv") -> list[dict[str, str]]:
    with (Path(config.out) / name).open(newline="") as file:
        return [
            {key: cell for key, cell in row.items() if key != "molecules_per_s"}
            for row in csv.DictReader(file)
        ]


def numbers(config: PretrainConfig) -> list[list[float]]:
    return [[float(cell) for cell in row.values()] for row in rows_of(config)]


def weights(config: PretrainConfig) -> dict[str, torch.Tensor]:
    return checkpoint.load(Path(config.out) / "model.safetensors").state_dict()


def assert_same_run(ours: PretrainConfig, other: PretrainConfig) -> None:
    """Up to float32 rounding: losses of each step to 1e-5, weights after the last to 1e-3.

    Adam divides by the size of a gradient, so weights whose gradient is hardly more than rounding
    differ by more than the losses.
    """
    assert [row["step"] for row in rows_of(ours)] == [str(k) for k in range(1, 13)]
    np.testing.assert_allclose(numbers(ours), numbers(other), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(weights(ours), weights(other), rtol=1e-3, atol=1e-3)
    assert len(rows_of(ours, "validation.csv")) == len(rows_of(other, "validation.csv"))


def test_two_processes_train_as_one_does(alone: PretrainConfig) -> None:
    both = elsewhere(alone, "both", devices=2, accumulate=2)
    done = torchrun(both)
    assert done.returncode == 0, done.stderr[-2000:]
    assert_same_run(both, alone)
    output = done.stdout + done.stderr
    assert output.count("step 12 ") == 1  # only the first process prints
    assert json.loads((Path(both.out) / "config.json").read_text())["n_processes"] == 2
    with pytest.raises(
        ValueError, match="got 1 processes, but the run was started with 2; dropout"
    ):
        run(replace(both, devices=1), resume=True)


@pytest.mark.parametrize("accumulate", [3, 11])
def test_micro_batches_train_as_the_whole_batch_does(
    alone: PretrainConfig, accumulate: int
) -> None:
    assert_same_run(run(elsewhere(alone, f"micro {accumulate}", accumulate=accumulate)), alone)


KILLED = """
on_batch_end = callbacks.TrainingCallback.on_train_batch_end
def kill(self, trainer, *rest):
    on_batch_end(self, trainer, *rest)
    if trainer.global_step == 7 and trainer.global_rank == 1:
        os._exit(9)
callbacks.TrainingCallback.on_train_batch_end = kill
"""
PRESSED = """
predict, n_calls = pretrain.CombinedObjective.loss, iter(range(1, 100))
def pressed(*arguments):
    if next(n_calls) == 3 and os.environ["RANK"] == "1":
        signal.raise_signal(signal.SIGINT)
    return predict(*arguments)
pretrain.CombinedObjective.loss = pressed
"""


def test_killed_and_interrupted_processes_resume_to_the_last_digit(config: PretrainConfig) -> None:
    uninterrupted = with_dropout(elsewhere(config, "uninterrupted", devices=2))
    first = torchrun(uninterrupted)
    assert first.returncode == 0, first.stderr[-3000:]
    killed = elsewhere(uninterrupted, "killed")
    assert torchrun(killed, patch=KILLED).returncode != 0
    stopped = torchrun(killed, "--resume", patch=PRESSED)
    assert "resumed at step 5" in stopped.stderr
    assert "stopped after step 8; the state is saved" in stopped.stderr
    done = torchrun(killed, "--resume")
    assert "resumed at step 8" in done.stderr
    assert rows_of(killed) == rows_of(uninterrupted)
    assert rows_of(killed, "validation.csv") == rows_of(uninterrupted, "validation.csv")
    ours, expected = weights(killed), weights(uninterrupted)
    assert all(torch.equal(ours[name], expected[name]) for name in expected)


def test_an_occupied_folder_is_refused_by_all_processes(alone: PretrainConfig) -> None:
    before = {path: path.read_bytes() for path in Path(alone.out).iterdir()}
    done = torchrun(replace(alone, devices=2))
    assert done.returncode != 0
    assert "already contains a run" in done.stderr
    assert {path: path.read_bytes() for path in Path(alone.out).iterdir()} == before


SLURM = {"SLURM_NTASKS": "2", "SLURM_JOB_NAME": "pretrain", "SLURM_JOB_ID": "15001"}


def test_slurm_and_lightning_start_processes_too(alone: PretrainConfig) -> None:
    """What torchrun does, SLURM's variables do, and Lightning itself without either."""
    command = [sys.executable, "-m", "moleblend.cli.main", "pretrain"]
    here = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment = {**here, **SLURM, "SLURM_NODELIST": "localhost", "SLURM_NTASKS_PER_NODE": "2"}
    by_slurm, by_lightning = (elsewhere(alone, name, devices=2) for name in ("slurm", "lightning"))
    tasks = [
        subprocess.Popen(
            [*command, *flags(by_slurm)],
            env={
                **environment,
                "SLURM_PROCID": str(k),
                "SLURM_LOCALID": str(k),
                "SLURM_NODEID": "0",
            },
            stderr=subprocess.DEVNULL,
        )
        for k in range(2)
    ]
    assert [task.wait(250) for task in tasks] == [0, 0]
    assert_same_run(by_slurm, alone)
    assert subprocess.run([*command, *flags(by_lightning)], env=here, timeout=250).returncode == 0
    assert rows_of(by_lightning) == rows_of(by_slurm)


@pytest.mark.parametrize("how", ["similar", "random"])
@pytest.mark.parametrize(("n_ranks", "accumulate"), [(2, 1), (3, 2), (1, 4)])
def test_every_molecule_once_per_epoch_over_all_micro_batches(
    store: MoleculeStore, config: PretrainConfig, how: Any, n_ranks: int, accumulate: int
) -> None:
    schedule = replace(config.schedule, batches=how)
    config = replace(config, accumulate=accumulate, schedule=schedule)
    rows = np.arange(19, 60)
    objective = CombinedObjective(
        config.objective, ModelConfig(encoder=config.encoder, heads=config.heads)
    )
    ranks = [
        StepDataset(store, rows, config, rank, n_ranks, objective=objective)
        for rank in range(n_ranks)
    ]
    seen = [
        dataset.rows_of(step)[position]
        for step in range(5)
        for dataset in ranks
        for positions in dataset.positions_of(step)
        for position in positions
    ]
    assert sorted(seen) == rows.tolist()
    for step in range(5):
        sizes = [sum(map(len, dataset.positions_of(step))) for dataset in ranks]
        assert max(sizes) - min(sizes) <= accumulate
        assert all(len(dataset.positions_of(step)) == accumulate for dataset in ranks)


def micro_batches_of(
    store: MoleculeStore, config: PretrainConfig, step: int, n_ranks: int, accumulate: int
) -> list[tuple[MicroBatch, np.ndarray]]:
    config, rows = replace(config, accumulate=accumulate), np.arange(60)
    objective = CombinedObjective(
        config.objective, ModelConfig(encoder=config.encoder, heads=config.heads)
    )
    ranks = [
        StepDataset(store, rows, config, rank, n_ranks, objective=objective)
        for rank in range(n_ranks)
    ]
    return [
        pair
        for dataset in ranks
        for pair in zip(dataset[step], dataset.positions_of(step), strict=True)
    ]


@pytest.mark.parametrize("draw", ["molecule", "batch"])
def test_random_draws_of_a_molecule_depend_on_its_position_alone(
    store: MoleculeStore, config: PretrainConfig, draw: Any
) -> None:
    config = replace(config, blend=BlendConfig(draw=draw))
    [(complete, order)] = micro_batches_of(store, config, 2, 1, 1)
    for one, positions in micro_batches_of(store, config, 2, 2, 2):
        n = one.batch.is_atom.shape[1]
        for row, position in enumerate(positions):
            there = order.tolist().index(position)
            k = int(one.batch.is_atom[row].sum())
            assert torch.equal(one.batch.positions[row], complete.batch.positions[there, :n])
            assert torch.equal(one.blend.noise[row], complete.blend.noise[there, :n])
            assert torch.equal(one.blend.atoms[row, :k], complete.blend.atoms[there, :k])
            assert torch.equal(one.blend.pairs[row, :k, :k], complete.blend.pairs[there, :k, :k])
    assert complete.blend.noise.any()


def test_conformers_are_drawn_evenly_and_by_position(
    tmp_path: Path, config: PretrainConfig
) -> None:
    [molecule] = [m for m in qm9(8) if m.n_atoms > 4][:1]
    many = replace(molecule, positions=np.stack([molecule.positions[0] + k for k in range(4)]))
    write_store([many] * 60, tmp_path / "many.arrow", features="cip-1")
    store = MoleculeStore(tmp_path / "many.arrow")
    shift = many.positions[0, 0, 0]
    drawn: dict[int, list[int]] = {}
    for n_ranks in (1, 2):
        drawn[n_ranks] = []
        for step in range(6):
            by_position = {
                int(position): round(float(one.batch.positions[row, 0, 0] - shift))
                for one, positions in micro_batches_of(store, config, step, n_ranks, 1)
                for row, position in enumerate(positions)
            }
            drawn[n_ranks] += [by_position[position] for position in sorted(by_position)]
    assert drawn[1] == drawn[2]
    assert set(drawn[1]) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("heads", "objective"),
    [
        (HeadsConfig(rank=4, denoising_dropout=0.0), ObjectiveConfig()),
        (HeadsConfig(rank=4, denoising_dropout=0.0, descriptors=True), ObjectiveConfig()),
        (
            replace(HeadsConfig.published(), rank=4, denoising_dropout=0.0),
            ObjectiveConfig.published(),
        ),
    ],
    ids=["default", "with descriptors", "published"],
)
def test_losses_and_gradients_of_micro_batches_add_up(
    store: MoleculeStore, config: PretrainConfig, heads: HeadsConfig, objective: ObjectiveConfig
) -> None:
    """Each loss has its own denominator: to 1e-5 of the largest gradient of a weight."""
    torch.manual_seed(0)
    model = Model(ModelConfig(encoder=TINY, heads=heads))
    config = replace(config, heads=heads, objective=objective)

    combined = CombinedObjective(objective, model.config)

    def gradients(ones: list[MicroBatch]) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
        counted = [one for one in ones if one.is_counted]
        counts = [combined.scored(one.batch, one.blend, torch.Generator()) for one in counted]
        total = {name: torch.stack([count[name] for count in counts]).sum() for name in counts[0]}
        model.zero_grad()
        losses: dict[str, float] = {}
        for one in counted:
            loss = combined.loss(model, one.batch, one.blend, torch.Generator(), total)
            loss.total.backward()
            for name, value in loss.terms.items():
                losses[name] = losses.get(name, 0.0) + value.item()
        named = model.named_parameters()
        return losses, {k: p.grad.clone() for k, p in named if p.grad is not None}

    complete_losses, complete = gradients(
        [one for one, _ in micro_batches_of(store, config, 1, 1, 1)]
    )
    losses, added = gradients([one for one, _ in micro_batches_of(store, config, 1, 3, 2)])
    assert losses == pytest.approx(complete_losses, rel=1e-5)
    assert added.keys() == complete.keys()
    for name, gradient in complete.items():
        scale = gradient.abs().max().item()
        torch.testing.assert_close(added[name], gradient, rtol=0, atol=1e-5 * scale + 1e-8)


def test_a_repeated_molecule_does_not_count(store: MoleculeStore, config: PretrainConfig) -> None:
    single = replace(config, schedule=replace(config.schedule, batch_size=1))
    counted, repeated = (one for one, _ in micro_batches_of(store, single, 0, 2, 1))
    assert (counted.is_counted, repeated.is_counted) == (True, False)
    assert counted.scored is not None
    assert repeated.scored is not None
    assert any(counted.scored.values())
    assert not any(repeated.scored.values())


def test_the_loader_has_all_micro_batches_of_the_remaining_steps(
    store: MoleculeStore, config: PretrainConfig
) -> None:
    config = replace(config, accumulate=3)
    loader = StepLoader(StepDataset(store, np.arange(60), config), range(10, 12), config)
    assert [one.ends_step for one in loader] == 2 * [False, False, True]
    assert (
        len(loader) == 36
    )  # of the complete run, because Lightning continues to count from the tenth step


def test_bf16_and_fp16_are_near_float32(store: MoleculeStore, config: PretrainConfig) -> None:
    """Losses within 0.5 %, the whole gradient within 5 % (bf16) and 1 % (fp16) of float32's."""
    torch.manual_seed(0)
    wide = replace(TINY, width=64, ffn_width=64, n_layers=3, n_heads=4, n_kernels=32)
    model = Model(ModelConfig(encoder=wide, heads=HeadsConfig(rank=16, denoising_dropout=0.0)))
    [(one, _)] = micro_batches_of(store, config, 0, 1, 1)

    def step(dtype: torch.dtype | None) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        model.zero_grad()
        with torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
            loss = blend_then_predict(model, one.batch, one.blend, config.objective)
        loss.total.backward()
        grads = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        return loss.terms, torch.cat(grads)

    exact, gradient = step(None)
    for dtype, tolerance in ((torch.bfloat16, 0.05), (torch.float16, 0.01)):
        losses, near = step(dtype)
        assert {value.dtype for value in losses.values()} == {near.dtype} == {torch.float32}
        for name, value in losses.items():
            assert value.item() == pytest.approx(exact[name].item(), rel=5e-3)
            assert value.item() != exact[name].item()
        assert 0 < (near - gradient).norm() < tolerance * gradient.norm()


def test_gaussians_stay_in_float32(store: MoleculeStore) -> None:
    model = Model(ModelConfig(encoder=TINY, heads=HeadsConfig(rank=4)))
    batch = collate([store[0], store[1]])
    blend = draw_blend(batch, BlendConfig(), torch.Generator().manual_seed(0))
    exact = model.encoder.kernels(batch, blend)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        kernels = model.encoder.kernels(batch, blend)
        bias = model.encoder(batch, blend).pair_bias
    assert torch.equal(kernels, exact)
    assert bias.dtype == torch.float32


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_runs_in_half_precision_learn_and_resume_to_the_last_digit(
    config: PretrainConfig, precision: Any
) -> None:
    """With fp16 the scale of the loss is in the state, and moves: it doubles every three steps."""
    changed: dict[str, Any] = {"precision": precision, "save_every": 5}
    scaled = devices.MixedPrecision

    def quick(*arguments: str) -> devices.MixedPrecision:
        scaler = torch.amp.GradScaler("cpu", init_scale=256.0, growth_interval=3)
        return scaled(*arguments, scaler=scaler)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, "MixedPrecision", quick)
        uninterrupted = run(
            with_dropout(elsewhere(config, f"uninterrupted {precision}", **changed))
        )
        killed = elsewhere(uninterrupted, f"killed {precision}")
        with pytest.MonkeyPatch.context() as breaking:
            breaking.setattr(pretrain.CombinedObjective, "loss", failing(7))
            with pytest.raises(FloatingPointError):
                run(killed)
        run(killed, resume=True)
    assert rows_of(killed) == rows_of(uninterrupted)
    losses = [float(row["loss"]) for row in rows_of(uninterrupted)]
    assert losses[-1] < losses[0]
    state = torch.load(Path(uninterrupted.out) / "state.ckpt", weights_only=True)
    if precision == "fp16":
        assert state["MixedPrecision"]["scale"] == 256.0 * 2**4


def failing(n: int) -> Any:
    original, n_calls = pretrain.CombinedObjective.loss, iter(range(1, 100))

    def fail(*arguments: Any) -> Any:
        loss = original(*arguments)
        return replace(loss, total=loss.total * math.nan) if next(n_calls) == n else loss

    return fail


@pytest.mark.slow
def test_compiled_training_gives_the_same_losses(alone: PretrainConfig) -> None:
    short = replace(alone.schedule, steps=3)
    compiled = elsewhere(alone, "compiled", compile=True, schedule=short, validate_every=3)
    done = torchrun(compiled, n=1)
    assert done.returncode == 0, done.stderr[-2000:]
    ours, eager = numbers(compiled), numbers(alone)[:3]
    # The rate of a shorter run falls earlier, but not within its warm-up of two steps.
    np.testing.assert_allclose([row[2:] for row in ours], [row[2:] for row in eager], rtol=1e-4)


def test_fsdp_is_set_up_for_float32_weights_layer_by_layer() -> None:
    strategy = devices.fsdp_strategy()
    assert strategy.sharding_strategy is ShardingStrategy.FULL_SHARD
    assert strategy._state_dict_type == "full"
    assert strategy.mixed_precision is not None
    assert strategy.mixed_precision.param_dtype is torch.float32
    policy = strategy.kwargs["auto_wrap_policy"]
    assert policy._module_classes == {Layer}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_fsdp_without_a_gpu_is_refused(config: PretrainConfig) -> None:
    with pytest.raises(ValueError, match="got strategy=fsdp, which needs GPUs"):
        run(elsewhere(config, "fsdp", strategy="fsdp"))
    assert not Path(config.out).with_name("fsdp").exists()


def test_devices_are_a_number_or_auto() -> None:
    assert from_dict(PretrainConfig, {"devices": "auto"}, "recipe").devices == "auto"
    assert from_dict(PretrainConfig, {"devices": 4}, "recipe").devices == 4
    with pytest.raises(ValueError, match="devices: got 'all', expected an integer or 'auto'"):
        from_dict(PretrainConfig, {"devices": "all"}, "recipe")
    for name in ("devices", "nodes", "accumulate"):
        with pytest.raises(ValueError, match=f"got {name}=0, expected at least 1"):
            PretrainConfig(**{name: 0})
    trainer = devices.make_trainer(PretrainConfig(device="cpu", devices="auto"))
    assert trainer.world_size == 1
