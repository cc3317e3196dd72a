import csv
import io
import json
import math
import signal
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from rich.console import Console

from moleblend.chem.molecule import FeatureVersion, Molecule
from moleblend.chem.parsing import read_smiles
from moleblend.data.formats import read_table
from moleblend.data.store import MoleculeStore, write_store
from moleblend.data.table import read_molecules
from moleblend.files import alone_with
from moleblend.model import checkpoint
from moleblend.model.blending import BlendConfig
from moleblend.model.encoder import EncoderConfig
from moleblend.model.heads import HeadsConfig
from moleblend.model.objectives import Loss, ObjectiveConfig
from moleblend.pretraining import callbacks, pretrain
from moleblend.pretraining.config import PretrainConfig, ScheduleConfig
from moleblend.pretraining.data_loader import StepDataset
from tests.helpers.molecules import QM9
from tests.helpers.runs import TINY

N_MOLECULES, N_HELD_OUT = 60, 12


class StopHereError(Exception):
    """Stands for anything that ends a run from outside."""


def qm9(features: FeatureVersion = "cip-1", n: int = N_MOLECULES) -> list[Molecule]:
    items = read_molecules(read_table(QM9).piece(100, 100 + n), features=features)
    return [item for item in items if isinstance(item, Molecule)]


@pytest.fixture(scope="session")
def molecules() -> list[Molecule]:
    return qm9()


@pytest.fixture(scope="session")
def store(molecules: list[Molecule], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "molecules.arrow"
    write_store(molecules, path, features="cip-1")
    return path


@pytest.fixture
def config(store: Path, tmp_path: Path) -> PretrainConfig:
    return PretrainConfig(
        data=str(store),
        out=str(tmp_path / "run"),
        n_held_out=N_HELD_OUT,
        validate_every=8,
        save_every=5,
        log_every=4,
        device="cpu",
        encoder=TINY,
        heads=HeadsConfig(rank=4, descriptors=True),
        schedule=ScheduleConfig(steps=12, batch_size=10, warmup_steps=2, learning_rate=5e-3),
    )


def run(config: PretrainConfig, *, resume: bool = False) -> tuple[pretrain.PretrainResult, str]:
    told = io.StringIO()
    result = pretrain.pretrain(config, resume=resume, console=Console(file=told, width=200))
    return result, told.getvalue()


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def losses(config: PretrainConfig) -> list[list[str]]:
    """What the log says, but for the speed."""
    rows = rows_of(Path(config.out) / "log.csv")
    return [[cell for name, cell in row.items() if name != "molecules_per_s"] for row in rows]


def weights(config: PretrainConfig) -> dict[str, torch.Tensor]:
    return checkpoint.load(Path(config.out) / "model.safetensors").state_dict()


def break_off(config: PretrainConfig, step: int, *, resume: bool = False) -> None:
    """Run until a step is all done, then end as a kill would: without another word to the disk."""
    original = callbacks.TrainingCallback.on_train_batch_end

    def end(self: callbacks.TrainingCallback, trainer: pl.Trainer, *rest: Any) -> None:
        original(self, trainer, *rest)
        if trainer.global_step == step:
            raise StopHereError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(callbacks.TrainingCallback, "on_train_batch_end", end)
        with pytest.raises(StopHereError):
            run(config, resume=resume)


def test_what_a_run_leaves_behind(config: PretrainConfig) -> None:
    result, told = run(config)
    out = Path(config.out)
    assert {path.name for path in out.iterdir()} == {
        "config.json",
        "starts.csv",
        "log.csv",
        "validation.csv",
        "state.ckpt",
        "state.before.ckpt",
        "model.safetensors",
    }
    log = rows_of(out / "log.csv")
    assert list(log[0]) == [
        *("step", "learning_rate", "loss"),
        *("path_length", "bonds", "distance", "denoising", "descriptors"),
        "molecules_per_s",
    ]
    assert [int(row["step"]) for row in log] == [4, 8, 12]
    weighting = config.objective
    for row in log:
        total = sum(
            weight * float(row[name])
            for name, weight in (
                ("path_length", weighting.path_length),
                ("bonds", weighting.bonds),
                ("distance", weighting.geometry),
                ("denoising", weighting.denoising),
                ("descriptors", weighting.descriptors),
            )
        )
        assert float(row["loss"]) == pytest.approx(total, rel=1e-5)
    validation = rows_of(out / "validation.csv")
    assert Counter((row["step"], row["view"], row["shown"]) for row in validation) == {
        (step, view, shown): 1
        for step in ("8", "12")
        for view in ("path_length", "bonds", "distance", "descriptors")
        for shown in ("visible", "hidden", "modality hidden")
    }
    assert [score.value for score in result.scores] == [
        float(row["value"]) for row in validation if row["step"] == "12"
    ]
    assert result.molecules_per_s > 0
    assert "12 held out" in told
    card = checkpoint.read_card(result.model)
    assert (card.trained_by, card.views, card.notes["step"]) == ("pretrain", "both", 12)
    assert str(Path(config.out).parent) not in str(card)  # a model file names no folder
    assert str(Path(config.data).parent) not in str(card)
    assert card.data_fingerprint == MoleculeStore(config.data).fingerprint
    told_config = json.loads((out / "config.json").read_text())
    assert told_config["config"]["schedule"]["batch_size"] == 10


def test_the_loss_goes_down(config: PretrainConfig) -> None:
    schedule = replace(config.schedule, steps=60)
    run(replace(config, schedule=schedule, log_every=10, validate_every=60, save_every=60))
    log = [float(row["loss"]) for row in rows_of(Path(config.out) / "log.csv")]
    assert log[-1] < 0.7 * log[0]


def test_held_out_molecules_are_never_trained_on(
    config: PretrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Watch which rows of the store a whole run reads, and which molecules it scores."""
    read: list[int] = []
    original = MoleculeStore.__getitem__
    monkeypatch.setattr(
        MoleculeStore,
        "__getitem__",
        lambda self, row: (read.append(int(row)), original(self, row))[1],
    )
    held: list[np.ndarray] = []
    start = callbacks.TrainingCallback.__init__

    def note(self, a, b, c, held_out, *rest) -> None:
        start(self, a, b, c, held_out, *rest)
        held.append(held_out)
        read.clear()

    monkeypatch.setattr(callbacks.TrainingCallback, "__init__", note)
    run(config)
    assert len(set(held[0].tolist())) == N_HELD_OUT
    assert set(read) == set(range(N_MOLECULES)) - set(held[0].tolist())


@pytest.mark.parametrize("how", ["similar", "random"])
def test_every_molecule_once_per_epoch(config: PretrainConfig, how: Any) -> None:
    config = replace(config, schedule=replace(config.schedule, batches=how))
    store = MoleculeStore(config.data)
    _, train_rows = pretrain.hold_out(len(store), config)
    batches = StepDataset(store, train_rows, config)
    n_steps = math.ceil(len(train_rows) / config.schedule.batch_size)
    epochs = [
        [int(row) for step in range(first, first + n_steps) for row in batches.rows_of(step)]
        for first in (0, n_steps, 2 * n_steps)
    ]
    for rows in epochs:
        assert sorted(rows) == train_rows.tolist()
    assert epochs[0] != epochs[1] != epochs[2]


@pytest.mark.parametrize(("how", "is_similar"), [("similar", True), ("random", False)])
def test_batches_are_of_similar_size_unless_at_random(
    config: PretrainConfig, tmp_path: Path, how: Any, is_similar: bool
) -> None:
    chains = [read_smiles("C" * (1 + k % 20)) for k in range(160)]
    write_store(chains, tmp_path / "chains.arrow", features="cip-1")
    config = replace(config, schedule=replace(config.schedule, batches=how))
    store = MoleculeStore(tmp_path / "chains.arrow")
    batches = StepDataset(store, np.arange(160), config)
    spreads = [np.ptp([store[row].n_atoms for row in batches.rows_of(step)]) for step in range(16)]
    assert (max(spreads) < 4) == is_similar
    assert (min(spreads) > 8) != is_similar


def test_sizes_are_those_of_the_molecules(store: Path, molecules: list[Molecule]) -> None:
    assert MoleculeStore(store).n_atoms().tolist() == [m.n_atoms for m in molecules]


def test_a_batch_depends_on_seed_and_step_alone(config: PretrainConfig) -> None:
    store = MoleculeStore(config.data)
    _, train_rows = pretrain.hold_out(len(store), config)
    first, second = (StepDataset(store, train_rows, config) for _ in range(2))
    list(map(first.rows_of, range(9)))
    assert (first.rows_of(7) == second.rows_of(7)).all()
    other = StepDataset(store, train_rows, replace(config, seed=1))
    assert (first.rows_of(7) != other.rows_of(7)).any()


# Saved at 5 and 10, logged at 4, 8 and 12, validated at 8 and 12: a stop at 6 and at 11 comes
# between a save and the next line of the log, with the sums of steps 5, or 9 and 10, in the state.
@pytest.mark.parametrize("stops", [(6,), (11,), (5, 10), (3, 8)])
def test_a_resumed_run_goes_on_as_if_it_had_never_stopped(
    config: PretrainConfig, stops: tuple[int, ...], tmp_path: Path
) -> None:
    whole = replace(config, out=str(tmp_path / "whole"))
    run(whole)
    for step in stops:
        break_off(config, step, resume=True)
    run(config, resume=True)
    assert losses(config) == losses(whole)
    validations = (rows_of(Path(c.out) / "validation.csv") for c in (config, whole))
    assert next(validations) == next(validations)
    resumed, unbroken = weights(config), weights(whole)
    assert all(torch.equal(resumed[name], unbroken[name]) for name in unbroken)


def test_batches_from_another_process_train_the_same(
    config: PretrainConfig, tmp_path: Path
) -> None:
    whole = replace(config, out=str(tmp_path / "whole"))
    run(whole)
    run(replace(config, n_workers=1))
    assert losses(config) == losses(whole)


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
            run(config)
    half = Path(config.out) / ".state.ckpt.0123abcd"
    half.write_bytes(b"half a st")  # as a killed process leaves it
    _, told = run(config, resume=True)
    assert "resumed at step 5" in told
    assert not half.exists()
    whole = replace(config, out=str(tmp_path / "whole"))
    run(whole)
    assert losses(config) == losses(whole)


def test_a_state_without_sums_can_be_resumed(config: PretrainConfig) -> None:
    """Runs saved before the sums were part of the state."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(callbacks.TrainingCallback, "state_dict", lambda _: {})
        break_off(config, 6)
    run(config, resume=True)
    assert [row[0] for row in losses(config)] == ["4", "8", "12"]


def test_resume_of_a_finished_run_gives_the_same_scores(config: PretrainConfig) -> None:
    first, _ = run(config)
    before = {path: path.read_bytes() for path in Path(config.out).iterdir()}
    again, told = run(config, resume=True)
    assert again.scores == first.scores
    assert again.model == first.model
    assert again.molecules_per_s == 0
    assert "finished" in told
    assert {path: path.read_bytes() for path in Path(config.out).iterdir()} == before


def test_a_folder_has_one_run_at_a_time(config: PretrainConfig) -> None:
    break_off(config, 5)
    before = (Path(config.out) / "log.csv").read_bytes()
    state = Path(config.out) / "state.ckpt"
    with alone_with(state), pytest.raises(ValueError, match="another process"):
        run(config, resume=True)
    assert (Path(config.out) / "log.csv").read_bytes() == before
    run(config, resume=True)


def test_a_run_may_be_made_longer_until_its_rate_falls(
    config: PretrainConfig, tmp_path: Path
) -> None:
    long = replace(config, schedule=replace(config.schedule, fall_steps=4))
    short = replace(long, schedule=replace(long.schedule, steps=8))
    whole = replace(long, out=str(tmp_path / "whole"))
    run(whole)
    break_off(short, 4)  # the rate falls from step 4 on, so that of step 4 itself is whole
    run(long, resume=True)
    assert losses(long) == losses(whole)
    told = json.loads((Path(config.out) / "config.json").read_text())
    assert told["config"]["schedule"]["steps"] == long.schedule.steps
    with pytest.raises(ValueError, match=r"these differ: schedule$"):
        run(replace(long, schedule=replace(long.schedule, steps=20)), resume=True)


def test_resume_refuses_another_run(config: PretrainConfig, tmp_path: Path) -> None:
    break_off(config, 6)
    with pytest.raises(ValueError, match=r"these differ: seed, schedule$"):
        run(
            replace(config, seed=1, schedule=replace(config.schedule, learning_rate=1e-3)),
            resume=True,
        )
    other = tmp_path / "other.arrow"
    write_store(qm9(n=40), other, features="cip-1")
    with pytest.raises(ValueError, match=r"these differ: the data$"):
        run(replace(config, data=str(other)), resume=True)
    # The same molecules elsewhere, and another number of processes, are the same run.
    moved = tmp_path / "moved.arrow"
    moved.write_bytes(Path(config.data).read_bytes())
    run(replace(config, data=str(moved)), resume=True)


def test_a_run_goes_on_from_a_model(config: PretrainConfig, tmp_path: Path) -> None:
    first, _ = run(config)
    source, named = checkpoint.load(first.model), tmp_path / "source.safetensors"
    named.write_bytes(first.model.read_bytes())
    second = replace(
        config, out=str(tmp_path / "second"), source=str(named), readout="layers", seed=3
    )
    begun, store = pretrain.new_model(second), MoleculeStore(config.data)
    # other molecules are held out, but descriptors stay scaled as the head has learnt them
    pretrain.fit_descriptor_scaler(begun, store, pretrain.hold_out(len(store), second)[0])
    assert begun.config.readout == "layers"
    for name, weight in source.state_dict().items():
        assert torch.equal(begun.state_dict()[name], weight), name
    break_off(second, 7)
    result, _ = run(second, resume=True)
    unbroken, _ = run(replace(second, out=str(tmp_path / "unbroken")))
    for name, weight in checkpoint.load(unbroken.model).state_dict().items():
        assert torch.equal(checkpoint.load(result.model).state_dict()[name], weight), name
    notes = checkpoint.read_card(result.model).notes
    assert notes["config"]["source"] == named.name
    assert notes["source_sha256"] == checkpoint.sha256(first.model)


def test_a_model_learns_descriptors_beside_views_that_it_knows(
    config: PretrainConfig, tmp_path: Path
) -> None:
    first, _ = run(replace(config, heads=HeadsConfig(rank=4)))
    source = checkpoint.load(first.model)
    second = replace(config, out=str(tmp_path / "second"), source=str(first.model))
    store = MoleculeStore(config.data)
    held_out, _ = pretrain.hold_out(len(store), second)
    begun = pretrain.new_model(second)
    pretrain.fit_descriptor_scaler(begun, store, held_out)
    for name, weight in source.state_dict().items():
        assert torch.equal(begun.state_dict()[name], weight), name
    assert begun.descriptor_head is not None
    assert begun.descriptor_head.mean[0] > 10  # the mass of molecules like those held out
    other = replace(second, heads=HeadsConfig(rank=2, descriptors=True))
    unlike = pretrain.new_model(other)
    assert torch.equal(unlike.encoder.norm.weight, source.encoder.norm.weight)


def test_a_source_that_cannot_be_gone_on_from(config: PretrainConfig, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no\.safetensors: there is no such model file"):
        run(replace(config, source=str(tmp_path / "no.safetensors")))
    first, _ = run(config)
    named = tmp_path / "source.safetensors"
    named.write_bytes(first.model.read_bytes())
    wide = replace(config, out=str(tmp_path / "wide"), source=str(named))
    with pytest.raises(ValueError, match="the trained encoder does not fit: width 32 was expected"):
        run(replace(wide, encoder=replace(TINY, width=32)))
    second = replace(config, out=str(tmp_path / "second"), source=str(named))
    break_off(second, 7)
    model = checkpoint.load(named)
    checkpoint.save(model, named, checkpoint.Card(trained_by="another run"))
    with pytest.raises(ValueError, match="these differ: the bytes of the source"):
        run(second, resume=True)


def test_an_occupied_folder_is_refused(config: PretrainConfig) -> None:
    break_off(config, 2)  # before anything was saved
    with pytest.raises(ValueError, match="holds a run already: --resume continues it"):
        run(config)
    result, _ = run(config, resume=True)
    assert result.scores


def test_another_kind_of_run_cannot_be_resumed(config: PretrainConfig) -> None:
    folder = Path(config.out)
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="holds no pretraining run"):
        run(config, resume=True)
    assert [path.name for path in folder.iterdir()] == ["config.json"]


def spoil(path: Path) -> None:
    """Flip a bit of the largest weight; elsewhere it could lie in padding and harm nobody."""
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda member: member.file_size)
        weight = archive.read(largest)
    content = bytearray(path.read_bytes())
    content[content.index(weight) + len(weight) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:2000])


@pytest.mark.parametrize("damage", [spoil, cut, Path.unlink])
def test_a_damaged_state_is_passed_over_for_the_one_before(
    config: PretrainConfig, tmp_path: Path, damage: Any
) -> None:
    whole = replace(config, out=str(tmp_path / "whole"))
    run(whole)
    break_off(config, 11)  # saved at 5 and 10
    state = Path(config.out) / "state.ckpt"
    damage(state)
    _, told = run(config, resume=True)
    assert (f"{state}: truncated or damaged" in told) == (damage is not Path.unlink)
    assert "resumed at step 5" in told
    assert losses(config) == losses(whole)
    assert all(torch.equal(a, b) for a, b in zip(*map(_tensors, (config, whole)), strict=True))
    starts = rows_of(Path(config.out) / "starts.csv")
    assert [start["step"] for start in starts] == ["0", "5"]


def _tensors(config: PretrainConfig) -> list[torch.Tensor]:
    return list(weights(config).values())


def test_damaged_states_alone_are_one_sentence(config: PretrainConfig) -> None:
    break_off(config, 11)
    before = {path: path.read_bytes() for path in Path(config.out).glob("*.csv")}
    spoil(Path(config.out) / "state.ckpt")
    cut(Path(config.out) / "state.before.ckpt")
    told = r"state.ckpt: truncated .* and .*state.before.ckpt: truncated .* no other state is there"
    with pytest.raises(ValueError, match=told):
        run(config, resume=True)
    assert {path: path.read_bytes() for path in before} == before


def break_loss(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    original = pretrain.blend_then_predict
    n_calls = iter(range(1, 1000))

    def broken(*arguments) -> Loss:
        loss = original(*arguments)
        return replace(loss, total=loss.total * math.nan) if next(n_calls) == step else loss

    monkeypatch.setattr(pretrain, "blend_then_predict", broken)


def test_a_loss_that_is_no_number_stops_the_run(config: PretrainConfig) -> None:
    with pytest.MonkeyPatch.context() as patch:
        break_loss(7, patch)
        with pytest.raises(FloatingPointError, match="the loss of step 7 is not finite") as caught:
            run(config)
    store = MoleculeStore(config.data)
    _, train_rows = pretrain.hold_out(len(store), config)
    names = [store[int(row)].id for row in StepDataset(store, train_rows, config).rows_of(6)]
    assert f"{', '.join(names[:8])} and 2 more; " in str(caught.value)
    assert str(caught.value).endswith(
        "state.ckpt is whole and has step 5, from which --resume goes on"
    )
    _, told = run(config, resume=True)
    assert "resumed at step 5" in told


def test_weights_that_are_no_numbers_are_never_saved(config: PretrainConfig) -> None:
    """An infinite gradient spoils the weights although the loss was finite."""
    with pytest.MonkeyPatch.context() as patch:
        original = callbacks.TrainingCallback.on_before_backward

        def spoil(self, trainer, pl_module, loss) -> None:
            original(self, trainer, pl_module, loss)
            if trainer.global_step == 9:  # step 10 is saved
                loss.register_hook(lambda gradient: gradient * math.inf)

        patch.setattr(callbacks.TrainingCallback, "on_before_backward", spoil)
        with pytest.raises(FloatingPointError, match="a weight of step 10 is not finite"):
            run(config)
    _, told = run(config, resume=True)
    assert "resumed at step 5" in told


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_finishes_the_step_and_saves(
    config: PretrainConfig, tmp_path: Path, number: signal.Signals
) -> None:
    before = signal.getsignal(number)
    with pytest.MonkeyPatch.context() as patch:
        original = pretrain.blend_then_predict
        n_calls = iter(range(1, 1000))

        def pressed(*arguments) -> Loss:
            if next(n_calls) == 3:
                signal.raise_signal(number)
            return original(*arguments)

        patch.setattr(pretrain, "blend_then_predict", pressed)
        with pytest.raises(KeyboardInterrupt):
            run(config)
    assert signal.getsignal(number) is before
    _, told = run(config, resume=True)
    assert "resumed at step 3" in told
    whole = replace(config, out=str(tmp_path / "whole"))
    run(whole)
    assert losses(config) == losses(whole)


@pytest.fixture
def heard() -> Iterator[None]:
    """Let Ctrl-C act as in a terminal: a job that a shell starts with & ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heard")
def test_a_second_ctrl_c_stops_at_once(config: PretrainConfig) -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.MonkeyPatch.context() as patch:

        def pressed(*_) -> Loss:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            raise AssertionError("the second one did nothing")

        patch.setattr(pretrain, "blend_then_predict", pressed)
        with pytest.raises(KeyboardInterrupt):
            run(config)
    assert signal.getsignal(signal.SIGINT) is before
    assert not (Path(config.out) / "state.ckpt").exists()


def test_the_published_configuration_trains(config: PretrainConfig, tmp_path: Path) -> None:
    data = tmp_path / "ogb.arrow"
    write_store(qm9("ogb-1", 30), data, features="ogb-1")
    published = replace(
        config,
        data=str(data),
        encoder=EncoderConfig.published(width=16, ffn_width=16, n_layers=1, n_heads=2, n_kernels=8),
        heads=replace(HeadsConfig.published(), rank=4),
        blend=BlendConfig(draw="batch", whole=(0.0, 0.0)),
        objective=ObjectiveConfig.published(),
    )
    result, _ = run(published)
    assert {score.view for score in result.scores} == {"path_length", "bonds", "direction"}
    assert all(math.isfinite(float(row["loss"])) for row in rows_of(Path(config.out) / "log.csv"))


def test_features_that_do_not_fit_are_refused(config: PretrainConfig) -> None:
    with pytest.raises(ValueError, match="features ogb-1 were expected, cip-1 found; build"):
        run(replace(config, encoder=replace(TINY, features="ogb-1")))
    assert not Path(config.out).exists()


def test_molecules_without_geometry_train_beside_others(
    config: PretrainConfig, awkward: list[str], molecules: list[Molecule], tmp_path: Path
) -> None:
    data = tmp_path / "mixed.arrow"
    flat = [read_smiles(smiles) for smiles in awkward if len(smiles) < 60]
    write_store([*flat, *molecules[:30]], data, features="cip-1")
    result, _ = run(replace(config, data=str(data)))
    views = {"path_length", "bonds", "distance", "descriptors"}
    assert {score.view for score in result.scores} == views
    assert all(math.isfinite(float(row["loss"])) for row in rows_of(Path(config.out) / "log.csv"))


def test_a_store_without_geometry_trains_in_2d(config: PretrainConfig, tmp_path: Path) -> None:
    data = tmp_path / "flat.arrow"
    write_store([read_smiles("C" * n + "O") for n in range(1, 31)], data, features="cip-1")
    result, _ = run(replace(config, data=str(data)))
    log = rows_of(Path(config.out) / "log.csv")
    assert {row["distance"] for row in log} == {row["denoising"] for row in log} == {"0.0"}
    assert {score.view for score in result.scores} == {"path_length", "bonds", "descriptors"}
    assert checkpoint.read_card(result.model).views == "2d"


def test_single_atoms_leave_nothing_to_score(config: PretrainConfig, tmp_path: Path) -> None:
    data = tmp_path / "atoms.arrow"
    write_store([read_smiles("C", id=str(k)) for k in range(30)], data, features="cip-1")
    result, _ = run(replace(config, data=str(data)))
    assert result.scores == []


def test_a_table_is_built_into_a_store_first(config: PretrainConfig, tmp_path: Path) -> None:
    source = tmp_path / "molecules.smi"
    source.write_text("".join(f"{'C' * n}O\n" for n in range(1, 30)) + "nonsense\n")
    _, told = run(replace(config, data=str(source)))
    assert "29 of 30 rows are in" in told
    assert len(MoleculeStore(Path(config.out) / "data.arrow")) == 29
    assert (Path(config.out) / "data.arrow.rejected.csv").is_file()


def test_another_table_is_not_mistaken_for_one_built_before(
    config: PretrainConfig, tmp_path: Path
) -> None:
    few, many = tmp_path / "few.smi", tmp_path / "many.smi"
    few.write_text("CO\nCN\n")
    many.write_text("".join(f"{'C' * n}O\n" for n in range(1, 30)))
    with pytest.raises(ValueError, match="2 molecules, but 12 are to be held out"):
        run(replace(config, data=str(few)))
    run(replace(config, data=str(many)))
    assert len(MoleculeStore(Path(config.out) / "data.arrow")) == 29


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"n_held_out": 0}, "n_held_out must be at least 1, 0 came"),
        ({"log_every": 0}, "log_every must be at least 1, 0 came"),
        ({"seed": -1}, "seed and n_workers must not be negative, -1 and 0 came"),
    ],
)
def test_a_run_that_cannot_be_is_refused(changed: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        PretrainConfig(**changed)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"steps": 0}, "steps and batch_size must be at least 1, 0 and 64 came"),
        ({"steps": 10, "warmup_steps": 10}, "warmup_steps must be below steps, 10 of 10 came"),
        ({"steps": 2_000, "fall_steps": 1_001}, "fall_steps must be 1 to 1000, the steps after"),
        ({"learning_rate": 0.0}, "learning_rate and clip_norm must be positive, 0.0 and 5.0 came"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(changed: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        ScheduleConfig(**changed)


def test_the_rate_rises_and_falls() -> None:
    schedule = ScheduleConfig(steps=110, warmup_steps=10)
    factors = [schedule.factor(step) for step in (0, 5, 10, 60, 110, 500)]
    assert factors == pytest.approx([0, 0.5, 1, 0.5, 0, 0])
    late = replace(schedule, fall_steps=20)
    factors = [late.factor(step) for step in (5, 10, 60, 90, 100, 110)]
    assert factors == pytest.approx([0.5, 1, 1, 1, 0.5, 0])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_refused(config: PretrainConfig) -> None:
    with pytest.raises(ValueError, match="no GPU that torch can use"):
        run(replace(config, device="cuda"))
    assert not Path(config.out).exists()
