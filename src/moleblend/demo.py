"""The whole method on 2,000 molecules that come with the package, in a few minutes."""

import json
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Int64
from rich.console import Console
from rich.table import Table as RichTable

from moleblend.chem.geometry import add_positions
from moleblend.chem.molecule import Molecule, MoleculeError
from moleblend.chem.parsing import read_smiles
from moleblend.config import to_dict
from moleblend.data.build_store import build_store
from moleblend.data.formats import read_table, write_table
from moleblend.data.table import Table, read_molecules
from moleblend.finetuning.train import TrainConfig, TrainResult, train
from moleblend.model import checkpoint
from moleblend.model.batch import collate
from moleblend.model.blending import draw_blend, show
from moleblend.model.encoder import EncoderConfig
from moleblend.prediction.predictor import Predictor
from moleblend.pretraining.config import PretrainConfig, ScheduleConfig
from moleblend.pretraining.pretrain import PretrainResult, pretrain
from moleblend.reports.demo_report import Demonstration, Example, write_demo_report
from moleblend.reports.plots import require_matplotlib

DEFAULT_SMILES = "OCc1ccco1"
"""Predicted where the user names no molecule: furfuryl alcohol."""

_FOLDERS = ("data", "pretrain", "from_pretrained", "from_random")
_NOTE = "demo.json"
_QM9_ELEMENTS = (6, 7, 8, 9)
_QM9_ATOMS = 9


@dataclass(frozen=True)
class DemoConfig:
    """Sizes of the demo. They were chosen on the validation part.

    Attributes:
        n_molecules: how many of the embedded molecules are used.
        n_train: molecules with a label to fine-tune on.
        n_validation: molecules with a label that decide on the epoch.
        n_test: molecules that no training sees.
        n_held_out: molecules on which pretraining is scored; none of the test part is among them.
        epochs: of fine-tuning.
        batch_size: of fine-tuning.
        learning_rate: of fine-tuning.
        seed: of everything random.
        encoder: of both models.
        schedule: of pretraining.
    """

    n_molecules: int = 2_000
    n_train: int = 300
    n_validation: int = 100
    n_test: int = 400
    n_held_out: int = 200
    epochs: int = 30
    batch_size: int = 16
    learning_rate: float = 1e-3
    seed: int = 0
    encoder: EncoderConfig = field(
        default_factory=lambda: EncoderConfig(width=128, ffn_width=128, n_layers=4, n_kernels=32)
    )
    schedule: ScheduleConfig = field(
        default_factory=lambda: ScheduleConfig(
            steps=800, batch_size=32, learning_rate=1e-3, warmup_steps=50
        )
    )


def demo(
    out: Path, smiles: str | None, *, console: Console, config: DemoConfig | None = None
) -> Path:
    """Pretrain, fine-tune, predict, and write a page about it.

    `out` gets the folders data, pretrain, from_pretrained and from_random, the file demo.json with
    the figures, and report.html. Those of an earlier demo are replaced.

    Args:
        out: the folder.
        smiles: a molecule to predict; asked for at a terminal, else `DEFAULT_SMILES`.
        console: where progress and the result are shown.
        config: sizes; the default takes two to three minutes on two cores.

    Returns:
        The path of the page.

    Raises:
        ValueError: `out` has folders of these names that no demo wrote, or matplotlib is missing.
        MoleculeError: `smiles` is no molecule, or no geometry is found for it.
    """
    config = config or DemoConfig()
    require_matplotlib()  # now rather than after the work is done
    typed = ask_molecule(console) if smiles is None else _with_geometry(smiles)
    _clear(out, config)

    console.rule("1. molecules")
    table = _embedded(config.n_molecules)
    example = _write_data(table, out, config)
    store = out / "data" / "pretrain.arrow"
    build_store(store.with_suffix(".parquet"), store, n_processes=1)
    console.print(
        f"{len(table):,} molecules of QM9 with geometry, {config.n_test:,} of them only to test"
    )

    console.rule("2. pretraining by blending")
    pretraining = PretrainConfig(
        data=str(store),
        out=str(out / "pretrain"),
        seed=config.seed,
        n_held_out=config.n_held_out,
        validate_every=max(config.schedule.steps // 5, 1),
        save_every=config.schedule.steps,
        log_every=max(config.schedule.steps // 40, 1),
        device="cpu",
        encoder=config.encoder,
        schedule=config.schedule,
    )
    pretrained = pretrain(pretraining, console=console)

    console.rule("3. fine-tuning: from the pretrained model, and from random weights")
    runs = tuple(
        _fine_tune(out, name, source, config, console)
        for name, source in (("from_pretrained", str(pretrained.model)), ("from_random", "scratch"))
    )

    console.rule("4. result")
    gap = runs[0].targets[0].name
    answers = tuple(
        Predictor(run.model, device="cpu").predict([typed])[f"{gap}_pred"][0].as_py()
        for run in runs
    )
    shown = Demonstration(
        pretraining=out / "pretrain",
        n_pretrained_on=len(table) - config.n_test - config.n_held_out,
        from_pretrained=runs[0],
        from_random=runs[1],
        example=_example(example, pretrained, pretraining),
        typed=typed,
        answers=answers,
        warning=training_differs(typed),
    )
    _write_note(out, config, figures=_figures(shown))
    report = write_demo_report(shown, out / "report.html")
    _print_result(shown, console)
    console.print(f"the report is {report}", soft_wrap=True)
    return report


def ask_molecule(console: Console) -> Molecule:
    """Let the user type a SMILES, until it is one; nothing typed, or no terminal: the default.

    Returns:
        The molecule with a computed geometry.
    """
    while sys.stdin.isatty():
        try:
            typed = console.input(f"SMILES of a molecule to predict \\[{DEFAULT_SMILES}]: ")
        except EOFError:
            console.print()
            break
        try:
            return _with_geometry(typed.strip() or DEFAULT_SMILES)
        except MoleculeError as error:
            console.print(str(error), style="red", markup=False)
    return _with_geometry(DEFAULT_SMILES)


def _with_geometry(smiles: str) -> Molecule:
    """The models are trained with geometries, so the typed molecule gets one too."""
    return add_positions(read_smiles(smiles))


def _clear(out: Path, config: DemoConfig) -> None:
    """Remove what an earlier demo wrote, and nothing else."""
    note = out / _NOTE
    there = [name for name in _FOLDERS if (out / name).exists()]
    if there and not note.is_file():
        raise ValueError(
            f"{out} has {', '.join(there)} already, which no demo wrote; another --out is needed"
        )
    _write_note(out, config, figures=None)
    (out / "report.html").unlink(missing_ok=True)
    for name in there:
        shutil.rmtree(out / name)


def _embedded(n_molecules: int) -> Table:
    with as_file(files("moleblend") / "assets" / "qm9_2000.parquet") as path:
        return read_table(path).piece(0, n_molecules)


def _write_data(table: Table, out: Path, config: DemoConfig) -> Molecule:
    """Write what is pretrained on and what has labels; give a molecule of the test part to show."""
    order = np.random.default_rng(config.seed).permutation(len(table))
    sizes = (config.n_test, config.n_validation, config.n_train)
    test, validation, train, _ = np.split(order, np.cumsum(sizes))
    write_table(_rows(table.columns, order[config.n_test :]), out / "data" / "pretrain.parquet")
    labelled = pa.concat_tables(
        _rows(table.columns, part).append_column("part", pa.array([name] * len(part)))
        for name, part in (("train", train), ("validation", validation), ("test", test))
    )
    write_table(labelled, out / "data" / "labels.parquet")
    unseen = Table(source=table.source, columns=_rows(table.columns, test))
    # A hydrogen written in the SMILES is drawn, but not in the record: the numbers would differ.
    return _most_varied(
        item
        for item in read_molecules(unseen)
        if isinstance(item, Molecule) and "[H]" not in item.smiles
    )


def _rows(columns: pa.Table, rows: Int64[np.ndarray, " m"]) -> pa.Table:
    return columns.take(np.sort(rows))


def _most_varied(molecules: Iterable[Molecule]) -> Molecule:
    """Give the molecule with the most kinds of bonds, elements and atoms."""

    def variety(molecule: Molecule) -> tuple[int, int, int]:
        kinds = len(np.unique(molecule.bond_features[:, 0]))
        return kinds, len(np.unique(molecule.atoms[:, 0])), molecule.n_atoms

    return max(molecules, key=variety)


def _fine_tune(
    out: Path, name: str, source: str, config: DemoConfig, console: Console
) -> TrainResult:
    """Train on the gap; both runs differ in their source alone."""
    return train(
        TrainConfig(
            data=str(out / "data" / "labels.parquet"),
            target=("gap",),
            units=("eV",),
            out=str(out / name),
            source=source,
            split="part",
            task=("regression",),
            views="both",
            features=("none",),  # what the two are compared for is the encoder
            epochs=config.epochs,
            patience=config.epochs,
            batch_size=config.batch_size,
            learning_rate=config.learning_rate,
            seed=config.seed,
            device="cpu",
            forest=0,
            encoder=config.encoder,
        ),
        console=console,
    )


@torch.inference_mode()
def _example(molecule: Molecule, pretrained: PretrainResult, config: PretrainConfig) -> Example:
    """Let the pretrained model fill in the distances of a molecule."""
    model = checkpoint.load(pretrained.model)
    batch = collate([molecule])
    blended = replace(config.blend, unblended=(0.0, 0.0))
    blend = draw_blend(batch, blended, torch.Generator().manual_seed(config.seed))
    from_2d, from_blend = (
        model.predict_views(batch, seen).geometry[0, :, :, 0].numpy()
        for seen in (show(batch, "2d"), blend)
    )
    return Example(molecule=molecule, blend=blend, from_2d=from_2d, from_blend=from_blend)


def training_differs(typed: Molecule) -> str:
    """Say where a molecule is unlike all that the models have seen."""
    reasons = []
    if typed.n_atoms > _QM9_ATOMS:
        reasons.append(f"{typed.n_atoms} heavy atoms, the training molecules at most {_QM9_ATOMS}")
    if set((typed.atoms[:, 0] + 1).tolist()) - set(_QM9_ELEMENTS):
        reasons.append("elements beyond C, N, O and F")
    return (
        f"Do not trust these figures: the molecule has {', and '.join(reasons)}." if reasons else ""
    )


def _figures(shown: Demonstration) -> dict[str, object]:
    gap = shown.from_random.targets[0].name
    return {
        "from_pretrained": shown.from_pretrained.test[gap],
        "from_random": shown.from_random.test[gap],
        "mean": shown.from_random.trivial[gap],
        "typed": {"smiles": shown.typed.id, "predicted": shown.answers},
    }


def _write_note(out: Path, config: DemoConfig, figures: dict[str, object] | None) -> None:
    """Mark the folder as one of ours, with the figures once they are known."""
    out.mkdir(parents=True, exist_ok=True)
    told = json.dumps({"config": to_dict(config), "test": figures}, indent=2)
    (out / _NOTE).write_text(told + "\n", encoding="utf-8")


def _print_result(shown: Demonstration, console: Console) -> None:
    target = shown.from_random.targets[0]
    runs = (
        ("from the pretrained model", shown.from_pretrained.test, f"{shown.answers[0]:.2f}"),
        ("from random weights", shown.from_random.test, f"{shown.answers[1]:.2f}"),
        ("always the mean", shown.from_random.trivial, f"{target.mean:.2f}"),
    )
    table = RichTable(title=f"{target.name}, in {target.unit}")
    table.add_column("")
    for title in ("MAE, test", "test molecules", f"predicted for {shown.typed.id}"):
        table.add_column(title, justify="right")
    for name, metrics, answer in runs:
        figures = metrics[target.name]
        table.add_row(name, f"{figures['MAE']:.3f}", f"{figures['n']:,}", answer)
    console.print(table)
    console.print(
        "One seed of a tiny model: a demonstration, no benchmark. The geometry of "
        f"{shown.typed.id} was computed (ETKDGv3 and MMFF94).",
        soft_wrap=True,
        markup=False,
    )
    if shown.warning:
        console.print(shown.warning, style="yellow", markup=False)
