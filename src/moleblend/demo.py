"""The end-to-end demo on 2,000 molecules that come with the package."""

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
from moleblend.errors import SettingError
from moleblend.files import write_json
from moleblend.finetuning.train import TrainConfig, TrainResult, train
from moleblend.model import checkpoint
from moleblend.model.batch import collate
from moleblend.model.blending import draw_blend, show
from moleblend.model.encoder_config import EncoderConfig
from moleblend.prediction.predictor import Predictor
from moleblend.pretraining.config import PretrainConfig, ScheduleConfig
from moleblend.pretraining.pretrain import PretrainResult, pretrain
from moleblend.reports.demo_report import Demonstration, Example, write_demo_report
from moleblend.reports.plots import require_matplotlib

DEFAULT_SMILES = "OCc1ccco1"
"""Molecule to predict if the user gives none: furfuryl alcohol."""

_FOLDERS = ("data", "pretrain", "from_pretrained", "from_random")
_RECORD = "demo.json"
_QM9_ELEMENTS = (6, 7, 8, 9)
_QM9_ATOMS = 9


@dataclass(frozen=True)
class DemoConfig:
    """Sizes of the demo, which were chosen on the validation set.

    Attributes:
        n_molecules: number of included molecules to use.
        n_train: labelled molecules in the training set.
        n_validation: labelled molecules in the validation set, which select the epoch.
        n_test: molecules in the test set, which neither pretraining nor fine-tuning uses.
        n_held_out: molecules that validate pretraining; they are not test molecules.
        epochs: epochs of fine-tuning.
        batch_size: batch size of fine-tuning.
        learning_rate: learning rate of fine-tuning.
        seed: seed of all random choices.
        encoder: encoder of both models.
        schedule: schedule of pretraining.
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
    """Pretrain, fine-tune, predict, and write a report.

    `out` gets the folders data, pretrain, from_pretrained and from_random, the metrics in
    demo.json, and report.html. Those of an earlier demo are replaced.

    Args:
        out: the output folder.
        smiles: molecule to predict. By default the user is asked at a terminal; else it is
            `DEFAULT_SMILES`.
        console: where progress and the result are printed.
        config: sizes; the default takes two to three minutes on two cores.

    Returns:
        The path of the report.

    Raises:
        SettingError: `out` has folders of these names that no demo wrote, or matplotlib is missing.
        MoleculeError: `smiles` cannot be parsed, or no geometry can be computed for it.
    """
    config = config or DemoConfig()
    require_matplotlib()  # before the work, not after it
    typed = ask_molecule(console) if smiles is None else _with_geometry(smiles)
    _clear(out, config)

    console.rule("1. molecules")
    table = _read_molecules(config.n_molecules)
    example = _write_data(table, out, config)
    store = out / "data" / "pretrain.arrow"
    build_store(store.with_suffix(".parquet"), store, n_processes=1)
    console.print(
        f"{len(table):,} molecules of QM9 with geometry; {config.n_test:,} of them are the test set"
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
    predictions = tuple(
        Predictor(run.model, device="cpu").predict([typed])[f"{gap}_pred"][0].as_py()
        for run in runs
    )
    demonstration = Demonstration(
        pretraining=out / "pretrain",
        n_pretrained_on=len(table) - config.n_test - config.n_held_out,
        from_pretrained=runs[0],
        from_random=runs[1],
        example=_predict_distances(example, pretrained, pretraining),
        typed=typed,
        answers=predictions,
        warning=training_differs(typed),
    )
    _write_record(out, config, metrics=_metrics(demonstration))
    report = write_demo_report(demonstration, out / "report.html")
    _print_result(demonstration, console)
    console.print(f"report: {report}", soft_wrap=True)
    return report


def ask_molecule(console: Console) -> Molecule:
    """Ask the user for a SMILES until it can be parsed.

    Returns:
        The molecule with a computed geometry; the default without input or without a terminal.
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
    """Read a SMILES and compute a geometry, as the models are trained with geometries."""
    return add_positions(read_smiles(smiles))


def _clear(out: Path, config: DemoConfig) -> None:
    """Remove the files of an earlier demo, and no others."""
    existing = [name for name in _FOLDERS if (out / name).exists()]
    if existing and not (out / _RECORD).is_file():
        raise SettingError(
            f"{out} already has {', '.join(existing)}, which no demo wrote; choose another --out"
        )
    _write_record(out, config, metrics=None)
    (out / "report.html").unlink(missing_ok=True)
    for name in existing:
        shutil.rmtree(out / name)


def _read_molecules(n_molecules: int) -> Table:
    with as_file(files("moleblend") / "assets" / "qm9_2000.parquet") as path:
        return read_table(path).piece(0, n_molecules)


def _write_data(table: Table, out: Path, config: DemoConfig) -> Molecule:
    """Write the tables of both trainings; return a test molecule for the report."""
    order = np.random.default_rng(config.seed).permutation(len(table))
    sizes = (config.n_test, config.n_validation, config.n_train)
    test, validation, train, _ = np.split(order, np.cumsum(sizes))
    write_table(_rows(table.columns, order[config.n_test :]), out / "data" / "pretrain.parquet")
    labelled = pa.concat_tables(
        _rows(table.columns, rows).append_column("set", pa.array([name] * len(rows)))
        for name, rows in (("train", train), ("validation", validation), ("test", test))
    )
    write_table(labelled, out / "data" / "labels.parquet")
    unseen = Table(source=table.source, columns=_rows(table.columns, test))
    # RDKit draws explicit hydrogens, which the molecule lacks, so that atom numbers would differ.
    return _most_varied(
        item
        for item in read_molecules(unseen)
        if isinstance(item, Molecule) and "[H]" not in item.smiles
    )


def _rows(columns: pa.Table, rows: Int64[np.ndarray, " m"]) -> pa.Table:
    return columns.take(np.sort(rows))


def _most_varied(molecules: Iterable[Molecule]) -> Molecule:
    """Return the molecule with the most kinds of bonds, then of elements, then the most atoms."""

    def variety(molecule: Molecule) -> tuple[int, int, int]:
        kinds = len(np.unique(molecule.bond_features[:, 0]))
        return kinds, len(np.unique(molecule.atoms[:, 0])), molecule.n_atoms

    return max(molecules, key=variety)


def _fine_tune(
    out: Path, name: str, source: str, config: DemoConfig, console: Console
) -> TrainResult:
    """Fine-tune on the HOMO-LUMO gap; the two runs differ in their source model only."""
    return train(
        TrainConfig(
            data=str(out / "data" / "labels.parquet"),
            target=("gap",),
            units=("eV",),
            out=str(out / name),
            source=source,
            split="set",
            task=("regression",),
            views="both",
            features=("none",),  # the runs compare encoders
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
def _predict_distances(
    molecule: Molecule, pretrained: PretrainResult, config: PretrainConfig
) -> Example:
    """Predict the distances of a molecule with the pretrained model."""
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
    """Warn if a molecule is unlike all training molecules; empty if it is not."""
    reasons = []
    if typed.n_atoms > _QM9_ATOMS:
        reasons.append(
            f"{typed.n_atoms} heavy atoms (training molecules have at most {_QM9_ATOMS})"
        )
    if set((typed.atoms[:, 0] + 1).tolist()) - set(_QM9_ELEMENTS):
        reasons.append("elements other than C, N, O and F")
    return (
        f"These predictions are not reliable: the molecule has {', and '.join(reasons)}."
        if reasons
        else ""
    )


def _metrics(shown: Demonstration) -> dict[str, object]:
    gap = shown.from_random.targets[0].name
    return {
        "from_pretrained": shown.from_pretrained.test[gap],
        "from_random": shown.from_random.test[gap],
        "mean": shown.from_random.evaluation.constant_baseline[gap],
        "typed": {"smiles": shown.typed.id, "predicted": shown.answers},
    }


def _write_record(out: Path, config: DemoConfig, metrics: dict[str, object] | None) -> None:
    """Write demo.json, which marks the folder as one of a demo; the metrics follow at the end."""
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / _RECORD, {"config": to_dict(config), "test": metrics}, indent=2)


def _print_result(shown: Demonstration, console: Console) -> None:
    target = shown.from_random.targets[0]
    runs = (
        ("from the pretrained model", shown.from_pretrained.test, f"{shown.answers[0]:.2f}"),
        ("from random weights", shown.from_random.test, f"{shown.answers[1]:.2f}"),
        (
            "constant baseline (training mean)",
            shown.from_random.evaluation.constant_baseline,
            f"{target.mean:.2f}",
        ),
    )
    table = RichTable(title=f"{target.name}, in {target.unit}")
    table.add_column("")
    for title in ("MAE, test", "test molecules", f"prediction for {shown.typed.id}"):
        table.add_column(title, justify="right")
    for name, by_target, prediction in runs:
        metrics = by_target[target.name]
        table.add_row(name, f"{metrics['MAE']:.3f}", f"{metrics['n']:,}", prediction)
    console.print(table)
    console.print(
        "This is one seed of a tiny model: a demonstration, not a benchmark. The geometry of "
        f"{shown.typed.id} was computed with ETKDGv3 and MMFF94.",
        soft_wrap=True,
        markup=False,
    )
    if shown.warning:
        console.print(shown.warning, style="yellow", markup=False)
