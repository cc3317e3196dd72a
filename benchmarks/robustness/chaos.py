"""Chaos: repeat, from a seed, what breaks programs, and count what a user would see.

    python -m benchmarks.robustness.chaos --damage 1000 --kills 50 --full 20

Five kinds of trials:

* damage: bytes of a model file are changed, removed or added; or its header is edited, without its
  hash. Then it predicts.
* kill: a command is killed with SIGKILL at a random moment. Then it is run again, with `--resume`
  where the command has it and refuses to start again, and its outputs are compared with those of a
  run that was not killed.
* full: a command runs on a disk on which no file can grow beyond a random number of bytes.
* setting: an odd value in every field of every configuration, in Python and from JSON.
* object: an odd object in every argument of the public functions.

Outcomes: `right` (the same result as without the disturbance), `sentence` (an error of the package
in one line), `silent` (another result, without a word), `foreign` (an exception of a library or a
defect), and `hang`. The last three must not occur. The counts are appended to
`benchmarks/results/chaos.csv`, and every outcome that must not occur is printed.
"""

import contextlib
import dataclasses
import io
import itertools
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
import tyro
from rich.console import Console
from safetensors import safe_open
from safetensors.torch import save_file

import moleblend
from benchmarks.results.csv_files import RESULTS, append_row
from benchmarks.speed.commands import git_commit
from moleblend.chem.conformers import ConformerConfig
from moleblend.cli.main import main as cli
from moleblend.config import from_dict, to_dict
from moleblend.data.cleaning import CleaningConfig
from moleblend.data.targets import Target
from moleblend.errors import MoleblendError
from moleblend.evaluation.applicability_domain import ApplicabilityDomain
from moleblend.evaluation.uncertainty import Uncertainty
from moleblend.finetuning.train import TrainConfig
from moleblend.model import checkpoint
from moleblend.model.blending import BlendConfig
from moleblend.model.encoder_config import EncoderConfig
from moleblend.model.heads import HeadsConfig, Model, ModelConfig
from moleblend.model.objectives import ObjectiveConfig
from moleblend.prediction.predictor import Predictor
from moleblend.pretraining.config import PretrainConfig, ScheduleConfig

BAD = ("silent", "foreign", "hang")
OUTCOMES = ("sentence", "right", *BAD)

TINY = EncoderConfig(width=16, ffn_width=16, n_layers=1, n_heads=2, n_kernels=8)
TARGETS = (Target("gap", "regression", mean=6.5, scale=1.25), Target("toxic", "binary"))
SMILES = ["CCO", "c1ccccc1O", "CC(=O)Nc1ccc(O)cc1"]


@dataclass(frozen=True)
class Options:
    """Numbers of trials.

    Attributes:
        seed: of all random choices.
        damage: damaged and edited model files.
        kills: killed commands.
        full: commands on a full disk.
        settings: odd values in every setting.
        objects: odd objects in every argument.
        limit_s: seconds after which a trial counts as hanging.
        commands: commands that are killed or find the disk full; all by default.
        results: csv file that the counts are appended to; none without a name.
    """

    seed: int = 0
    damage: int = 1000
    kills: int = 50
    full: int = 20
    settings: bool = True
    objects: bool = True
    limit_s: float = 120.0
    commands: tuple[str, ...] = ()
    results: Path | None = RESULTS / "chaos.csv"


@dataclass(frozen=True)
class Trial:
    """One trial.

    Attributes:
        kind: of the disturbance.
        what: which one exactly, to repeat it.
        outcome: one of `OUTCOMES`.
        detail: the error, or what differs.
    """

    kind: str
    what: str
    outcome: str
    detail: str = ""


class Hang(BaseException):
    """A trial takes too long."""


@contextlib.contextmanager
def limited(seconds: float) -> Generator[None, None, None]:
    """Raise `Hang` after a time."""

    def stop(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def judge(action: Callable[[], bool], seconds: float) -> tuple[str, str]:
    """Run an action; it returns whether its result is right.

    Returns:
        The outcome, and the error.
    """
    try:
        with limited(seconds), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            is_right = action()
    except MoleblendError as error:
        text = str(error)
        return ("foreign" if "\n" in text or not text else "sentence"), text
    except Hang:
        return "hang", ""
    except Exception as error:  # noqa: BLE001 (this is what is counted)
        return "foreign", f"{type(error).__name__}: {str(error)[:200]}"
    return ("right" if is_right else "silent"), ""


# ── damage ──


def write_model(path: Path) -> None:
    """Write a small model file with everything that a file can have."""
    torch.manual_seed(0)
    models = [Model(ModelConfig(encoder=TINY, heads=None, targets=TARGETS)) for _ in range(2)]
    rng = np.random.default_rng(0)
    mean = np.stack([rng.normal(size=40), rng.uniform(size=40)], 1)
    labels = np.stack([rng.normal(size=40), np.arange(40) % 2.0], 1)
    uncertainty = Uncertainty.fit(
        TARGETS, mean, rng.uniform(0.5, 1, (40, 2)), labels, np.zeros((40, 2), np.int8)
    )
    training, validation = rng.normal(size=(3, TINY.width)), rng.normal(size=(2, TINY.width))
    domain = ApplicabilityDomain.fit(
        training, ["CC", "CCO", "CN"], np.arange(3), validation, ["CCC", "O"]
    )
    card = checkpoint.Card(trained_by="train", views="2d")
    checkpoint.save(models, path, card, uncertainty=uncertainty, domain=domain)


def damaged(content: bytes, rng: random.Random) -> tuple[bytes, str]:
    """Change some bytes; half of the places are in the header."""
    data = bytearray(content)
    header = 8 + int.from_bytes(content[:8], "little")
    place = rng.randrange(header if rng.random() < 0.5 else len(data))
    size = rng.choice((1, 8, 64, 1024))
    kind = rng.choice(("flip", "zero", "noise", "remove", "insert", "truncate", "swap"))
    if kind == "flip":
        data[place] ^= 1 << rng.randrange(8)
    elif kind == "zero":
        data[place : place + size] = bytes(len(data[place : place + size]))
    elif kind == "noise":
        data[place : place + size] = rng.randbytes(len(data[place : place + size]))
    elif kind == "remove":
        del data[place : place + size]
    elif kind == "insert":
        data[place:place] = rng.randbytes(size)
    elif kind == "truncate":
        del data[place:]
    else:
        other = rng.randrange(len(data))
        data[place], data[other] = data[other], data[place]
    return bytes(data), f"{kind} of {size} bytes at {place}"


ODD_JSON = (None, -1, 0, 1, 2, 10**30, 1e300, -0.5, "", "x", [], {}, [1], True, "NaN", 1.5)


def paths_of(value: object, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the paths of all values in JSON."""
    yield path
    items: Iterator[tuple[Any, Any]] = iter(())
    if isinstance(value, dict):
        items = iter(value.items())
    elif isinstance(value, list):
        items = iter(list(enumerate(value))[:3])
    for key, one in items:
        yield from paths_of(one, (*path, key))


def edited(source: Path, target: Path, rng: random.Random) -> str:
    """Write the file without a hash, and with one odd value in its header or one odd tensor."""
    with safe_open(source, framework="pt") as file:
        header = dict(file.metadata())
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    del header["sha256"]
    if rng.random() < 0.2:
        name = rng.choice(sorted(tensors))
        change = rng.choice(("half", "double", "int32", "shorter", "nan", "huge", "axis", "remove"))
        tensor = tensors[name]
        tensors[name] = {
            "half": tensor.half,
            "double": tensor.double,
            "int32": tensor.int,
            "shorter": tensor.flatten()[:-1].clone,
            "nan": lambda: tensor * torch.nan,
            "huge": lambda: tensor.float() * 1e30 + 1e30,
            "axis": tensor[None].clone,
            "remove": lambda: tensor,
        }[change]()
        if change == "remove":
            del tensors[name]
        what = f"tensor {name}: {change}"
    else:
        key = rng.choice(["config", "uncertainty", "domain", "card", "members", "format_version"])
        if key in ("members", "format_version"):
            header[key] = str(rng.choice(ODD_JSON))
            what = f"{key}: {header[key]}"
        else:
            value = json.loads(header[key])
            path, odd = rng.choice(list(paths_of(value))), rng.choice(ODD_JSON)
            if path:
                inner = value
                for step in path[:-1]:
                    inner = inner[step]
                inner[path[-1]] = odd
            else:
                value = odd
            header[key] = json.dumps(value)
            what = f"{key}: {'.'.join(map(str, path))} = {odd!r}"
    save_file(tensors, target, header)
    return what


def damage_trials(n: int, rng: random.Random, work: Path, limit_s: float) -> Iterator[Trial]:
    """Damage a model file, then predict with it."""
    source, target = work / "source.safetensors", work / "model.safetensors"
    write_model(source)
    content, expected = source.read_bytes(), Predictor(source).predict(SMILES)

    def predicts_the_same() -> bool:
        return Predictor(target).predict(SMILES).equals(expected)

    def predicts_numbers() -> bool:
        table = Predictor(target).predict(SMILES)
        statuses = table["status"].to_pylist()
        values = [table[name].to_pylist() for name in table.column_names if name.endswith("_pred")]
        return (
            all(
                status != "ok" or all(column[row] is not None for column in values)
                for row, status in enumerate(statuses)
            )
            and np.isfinite([v for v in values[0] if isinstance(v, float)]).all()
        )

    for k in range(n):
        target.unlink(missing_ok=True)
        if k % 4:
            changed, what = damaged(content, rng)
            target.write_bytes(changed)
            yield Trial("damage", what, *judge(predicts_the_same, limit_s))
        else:  # an edit on purpose may be valid: then its numbers must be numbers
            what = edited(source, target, rng)
            yield Trial("damage", what, *judge(predicts_numbers, limit_s))


# ── kills and full disks ──


@dataclass(frozen=True)
class Command:
    """A command whose runs are compared.

    Attributes:
        name: for the table.
        arguments: with names in the work folder.
        outputs: files that it writes.
        resumes: whether it has `--resume`.
    """

    name: str
    arguments: str
    outputs: tuple[str, ...]
    resumes: bool = False


ENCODER = "--encoder.width 16 --encoder.ffn-width 16 --encoder.n-layers 1 --encoder.n-heads 2"
COMMANDS = (
    Command("predict", "predict m.safetensors in.csv out.csv", ("out.csv",), True),
    Command("embed", "embed m.safetensors in.csv out.npy", ("out.npy", "out.npy.rows.csv"), True),
    Command("explain", "explain m.safetensors in.csv out.html --n 3", ("out.csv",)),
    Command("export", "export m.safetensors out.pt2", ()),
    Command(
        "train",
        f"train in.csv --target y --from scratch --out run --epochs 2 --forest 5 --seeds 2 "
        f"--split random --device cpu {ENCODER}",
        ("run/model.safetensors", "run/rows.csv", "run/log.csv"),
        True,
    ),
    Command(
        "pretrain",
        "pretrain recipe.toml --data in.csv --out pre",
        ("pre/model.safetensors",),
        True,
    ),
    Command(
        "data build",
        "data build in.csv out.arrow --shard-rows 20 --processes 1",
        ("out.arrow", "out.arrow.rejected.csv"),
        True,
    ),
    Command("data clean", "data clean in.csv out.csv --neutralise", ("out.csv",)),
    Command("data split", "data split in.csv out.csv --by scaffold", ("out.csv",)),
)
RECIPE = """
n_held_out = 10
validate_every = 4
save_every = 2
log_every = 1
device = "cpu"
[encoder]
width = 16
ffn_width = 16
n_layers = 1
n_heads = 2
n_kernels = 8
[heads]
rank = 4
[schedule]
steps = 8
batch_size = 8
warmup_steps = 2
"""


def prepare(folder: Path) -> None:
    """Write the inputs of all commands."""
    folder.mkdir(parents=True)
    rows = [
        f"{'C' * (k % 12 + 1)}{end},{k / 7:.3f}" for k in range(30) for end in ("O", "N", "C1CC1")
    ]
    (folder / "in.csv").write_text("smiles,y\n" + "\n".join(rows) + "\nC1CC,3\n")
    (folder / "recipe.toml").write_text(RECIPE)
    write_model(folder / "m.safetensors")


def child(folder: Path, arguments: list[str], limit: int | None, message: Path) -> None:
    """Run a command in this process; its messages go to a file in another folder."""
    os.chdir(folder)
    with message.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        code = cli(arguments)
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def start(
    folder: Path, arguments: list[str], message: Path, limit: int | None = None
) -> multiprocessing.Process:
    """Start a command in a process that has imported everything already."""
    context = multiprocessing.get_context("fork")
    process = context.Process(target=child, args=(folder, arguments, limit, message))
    process.start()
    return process  # ty: ignore[invalid-return-type]


def run(
    folder: Path, arguments: list[str], message: Path, limit_s: float, limit: int | None = None
) -> tuple[int | None, str]:
    """Run a command to its end; the exit code is None if it hangs."""
    process = start(folder, arguments, message, limit)
    process.join(limit_s)
    if process.is_alive():
        process.kill()
        process.join()
        return None, ""
    return process.exitcode, message.read_text(errors="replace") if message.exists() else ""


def outputs_of(command: Command, folder: Path) -> dict[str, bytes | None]:
    """Read the outputs; None for one that is not there."""
    paths = {name: folder / name for name in command.outputs}
    return {name: p.read_bytes() if p.exists() else None for name, p in paths.items()}


def of_code(code: int | None, text: str) -> str:
    """Name the outcome of a command that did not succeed."""
    if code is None:
        return "hang"
    is_sentence = code == 2 and "Traceback" not in text and "moleblend: " in text
    return "sentence" if is_sentence else "foreign"


def references(
    work: Path, commands: tuple[Command, ...], limit_s: float
) -> dict[str, tuple[dict[str, bytes | None], float]]:
    """Run each command undisturbed; return its outputs and its seconds."""
    known = {}
    for command in commands:
        folder = work / f"reference-{command.name.replace(' ', '-')}" / "work"
        prepare(folder)
        started = time.perf_counter()
        code, text = run(folder, command.arguments.split(), work / "message.txt", limit_s)
        if code:
            raise RuntimeError(f"{command.name}: {text}")
        known[command.name] = (outputs_of(command, folder), time.perf_counter() - started)
    return known


def kill_trials(
    n: int, rng: random.Random, work: Path, limit_s: float, commands: tuple[Command, ...] = COMMANDS
) -> Iterator[Trial]:
    """Kill a command, run it again, and compare its outputs."""
    known = references(work, commands[:n], limit_s)
    for k in range(n):
        command = commands[k % len(commands)]
        expected, seconds = known[command.name]
        moment = rng.uniform(0, seconds)
        folder = work / f"kill-{k}" / "work"
        prepare(folder)
        arguments, what = command.arguments.split(), f"{command.name} at {moment:.2f} s"
        process = start(folder, arguments, work / "message.txt")
        process.join(moment)
        process.kill()
        process.join()
        left = outputs_of(command, folder)
        incomplete = [
            name for name, content in left.items() if content not in (None, expected[name])
        ]
        # A run of pretraining writes its model at every validation, each time a complete one.
        if incomplete and command.name != "pretrain":
            yield Trial("kill", what, "silent", f"incomplete: {', '.join(incomplete)}")
            continue
        code, text = run(folder, arguments, work / "message.txt", limit_s)
        if code == 2 and command.resumes and "--resume" in text:
            code, text = run(folder, [*arguments, "--resume"], work / "message.txt", limit_s)
        if code != 0:
            yield Trial("kill", what, of_code(code, text), text[-300:])
            continue
        differing = [name for name, c in outputs_of(command, folder).items() if c != expected[name]]
        yield Trial("kill", what, "silent" if differing else "right", ", ".join(differing))
        shutil.rmtree(folder.parent)


def full_trials(
    n: int, rng: random.Random, work: Path, limit_s: float, commands: tuple[Command, ...] = COMMANDS
) -> Iterator[Trial]:
    """Run a command on a full disk."""
    known = references(work, commands[:n], limit_s)
    for k in range(n):
        command = commands[k % len(commands)]
        limit = int(10 ** rng.uniform(0, 6))
        folder = work / f"full-{k}" / "work"
        prepare(folder)
        what = f"{command.name}, {limit:,} bytes"
        arguments = command.arguments.split()
        # What the process says goes to its own file, which must not be full.
        code, text = run(folder, arguments, work / "message.txt", limit_s, max(limit, 4096))
        expected = known[command.name][0]
        if code != 0:
            yield Trial("full", what, of_code(code, text), text[-300:])
        else:
            differing = [n for n, c in outputs_of(command, folder).items() if c != expected[n]]
            yield Trial("full", what, "silent" if differing else "right", ", ".join(differing))
        shutil.rmtree(folder.parent)


# ── odd settings and objects ──

CONFIGS: tuple[Any, ...] = (
    TrainConfig(data="in.csv"),
    PretrainConfig(data="in.csv"),
    ScheduleConfig(),
    EncoderConfig(),
    HeadsConfig(),
    ModelConfig(),
    BlendConfig(),
    ObjectiveConfig(),
    CleaningConfig(),
    ConformerConfig(),
)
ODD: tuple[Any, ...] = (
    *(None, -1, 0, 10**30, 2**63, -(2**63), float("nan"), float("inf"), -float("inf"), 1e308),
    *(True, "", "x", "\0", b"x", [], {}, set(), object(), (), ("x",), (1, 2, 3), [None], len),
    *(np.float64("nan"), np.int64(-5), np.array([1, 2]), torch.zeros(2), pd.NA, Path("x")),
)


def setting_trials(limit_s: float) -> Iterator[Trial]:
    """Put odd values into every field of every configuration."""
    for config in CONFIGS:
        kind = type(config)
        for field, odd in itertools.product(dataclasses.fields(config), ODD):
            what = f"{kind.__name__}.{field.name} = {odd!r}"

            def accepted(config: Any = config, name: str = field.name, odd: Any = odd) -> bool:  # noqa: ANN401
                changed = replace(config, **{name: odd})
                json.dumps(to_dict(changed), allow_nan=False, default=str)
                return True

            yield Trial("setting", what, *judge(accepted, limit_s))

            def read(kind: type = kind, name: str = field.name, odd: Any = odd) -> bool:  # noqa: ANN401
                from_dict(kind, {name: odd}, "recipe")
                return True

            yield Trial("setting", f"{what} (JSON)", *judge(read, limit_s))


def public_calls(model: Path, work: Path) -> dict[str, Callable[[Any], object]]:
    """Return a call of each public function with one argument left open."""
    predictor = Predictor(model)
    good = ["CCO", "CCN", "CCC", "CCCC"]
    regressor = moleblend.MoleBlendRegressor
    quick = {"model": "scratch", "encoder": TINY, "epochs": 1, "device": "cpu"}
    config = TrainConfig(data=str(work / "in.csv"), out=str(work / "run"))
    return {
        "read_smiles(x)": moleblend.read_smiles,
        "embed(x)": lambda x: moleblend.embed(x, model=model),
        "embed(model=x)": lambda x: moleblend.embed(good, model=x),
        "embed(errors=x)": lambda x: moleblend.embed(good, model=model, errors=x),
        "embed(views=x)": lambda x: moleblend.embed(good, model=model, views=x),
        "Predictor(x)": moleblend.Predictor,
        "Predictor(device=x)": lambda x: moleblend.Predictor(model, device=x),
        "predict(x)": predictor.predict,
        "predict(views=x)": lambda x: predictor.predict(good, views=x),
        "predict(errors=x)": lambda x: predictor.predict(good, errors=x),
        "predict(confidence=x)": lambda x: predictor.predict(good, confidence=x),
        "embed_table(x)": predictor.embed_table,
        "load_model(x)": moleblend.load_model,
        "save_model(x, path)": lambda x: moleblend.save_model(x, work / "saved.safetensors"),
        "save_model(model, x)": lambda x: moleblend.save_model(predictor.model, x),
        "predict_views(x)": lambda x: moleblend.predict_views(x, model="packaged"),
        "predict_views(show=x)": lambda x: moleblend.predict_views(good, show=x),
        "predict_views(model=x)": lambda x: moleblend.predict_views(good, model=x),
        "scaffold_split(x)": moleblend.scaffold_split,
        "scaffold_split(fractions=x)": lambda x: moleblend.scaffold_split(good, x),
        "train(x)": lambda x: moleblend.train(x, console=Console(quiet=True)),
        "train(errors=x)": lambda x: moleblend.train(config, errors=x),
        "pretrain(x)": lambda x: moleblend.pretrain(x, console=Console(quiet=True)),
        "fit(x, y)": lambda x: regressor(**quick).fit(x, [1.0, 2.0, 3.0, 4.0]),
        "fit(X, y)": lambda x: regressor(**quick).fit(good, x),
    }


def odd_objects() -> list[Any]:
    """Return objects that are none of what a function expects, and some that nearly are."""
    return [
        *ODD,
        *("CCO", ["CCO", None], ["CCO", 3], ["CCO", float("nan")], (text for text in ["C", "CC"])),
        *(pd.Series(["C", None]), pd.DataFrame({"a": [1]}), pa.table({"smiles": ["C"]})),
        *({"C": 1}, {"C"}, np.array("C"), np.array([["C", "C"]]), 3.5, io.StringIO("C\nCC")),
        *([[1.0]], ["a", "b", "c", "d"], [1.0, float("inf"), 2.0, 1e300], range(4)),
    ]


def object_trials(work: Path, limit_s: float) -> Iterator[Trial]:
    """Give odd objects to every argument of the public functions."""
    folder = work / "objects"
    prepare(folder)
    before = Path.cwd()
    os.chdir(folder)
    try:
        for name in public_calls(folder / "m.safetensors", folder):
            for place in range(len(odd_objects())):
                odd = odd_objects()[place]
                call = public_calls(folder / "m.safetensors", folder)[name]
                outcome, detail = judge(
                    lambda call=call, odd=odd: call(odd) is not Ellipsis, limit_s
                )
                # scikit-learn checks the arguments of its estimators itself, in a sentence.
                if name.startswith("fit(") and detail.startswith(("ValueError: ", "TypeError: ")):
                    outcome = "sentence"
                yield Trial("object", f"{name} with x = {str(odd)[:60]!r}", outcome, detail)
    finally:
        os.chdir(before)


def main(options: Options) -> Counter[tuple[str, str]]:
    """Run all trials, print what must not occur, and append the counts to the csv file."""
    counts: Counter[tuple[str, str]] = Counter()
    with tempfile.TemporaryDirectory(prefix="chaos-") as name:
        work = Path(name)
        rng, limit_s = random.Random(options.seed), options.limit_s
        names = options.commands or tuple(command.name for command in COMMANDS)
        chosen = tuple(command for command in COMMANDS if command.name in names)
        trials: list[Iterator[Trial]] = [
            damage_trials(options.damage, rng, work, limit_s),
            kill_trials(options.kills, rng, work / "kills", limit_s, chosen),
            full_trials(options.full, rng, work / "full", limit_s, chosen),
            setting_trials(limit_s) if options.settings else iter(()),
            object_trials(work, limit_s) if options.objects else iter(()),
        ]
        for folder in ("kills", "full"):
            (work / folder).mkdir()
        for trial in itertools.chain(*trials):
            counts[trial.kind, trial.outcome] += 1
            if trial.outcome in BAD:
                print(f"{trial.outcome}: {trial.kind}, {trial.what}: {trial.detail}", flush=True)
    for kind in dict.fromkeys(kind for kind, _ in counts):
        row = {"kind": kind, **{outcome: counts[kind, outcome] for outcome in OUTCOMES}}
        print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
        if options.results is not None:
            append_row(options.results, {"commit": git_commit(), "seed": options.seed, **row})
    return counts


if __name__ == "__main__":
    found = main(tyro.cli(Options))
    sys.exit(any(outcome in BAD for _, outcome in found))
