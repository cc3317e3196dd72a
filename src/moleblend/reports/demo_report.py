"""Report of the demo: the method, its results, and one molecule as the model sees it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float64

from moleblend.chem.drawing import draw_svg
from moleblend.chem.molecule import BOND_FEATURE_SIZES, Molecule
from moleblend.evaluation.metrics import Metrics
from moleblend.finetuning.train import TrainResult
from moleblend.model.blending import Blend
from moleblend.model.relations import relate
from moleblend.reports.html_page import Table, format_number, write_page
from moleblend.reports.molecules import svg_image
from moleblend.reports.plots import (
    BLUE,
    GREEN,
    ORANGE,
    Plot,
    add_legend,
    draw_matrix,
    finish_plot,
    new_axes,
    or_a_note,
)
from moleblend.reports.pretrain_report import loss_plots, read_validation
from moleblend.reports.train_report import parity_plot, validation_metric

_VIEW_COLOURS = (BLUE, ORANGE, GREEN)

_BOND_SYMBOLS = ("–", "=", "≡", ":", "→")
"""Of each bond type, the first column of `Molecule.bond_features`."""


@dataclass(frozen=True, eq=False)
class Example:
    """A molecule that was in no training set, with predictions of the pretrained model.

    Attributes:
        molecule: with a geometry.
        blend: of this molecule, as it was shown to the model.
        from_2d: distances predicted from the bonds alone, in Å.
        from_blend: distances predicted from the blend, in Å.
    """

    molecule: Molecule
    blend: Blend
    from_2d: Float[np.ndarray, "n n"]
    from_blend: Float[np.ndarray, "n n"]


@dataclass(frozen=True, eq=False)
class Demonstration:
    """What the report of the demo shows.

    Attributes:
        pretraining: folder of the pretraining run.
        n_pretrained_on: its training molecules.
        from_pretrained: the fine-tuning run that starts from the pretrained model.
        from_random: the same run from random weights.
        example: a molecule of the test set.
        typed: the molecule of the user, with a computed geometry.
        answers: its predictions by both models, the pretrained one first.
        warning: why the predictions may be wrong; may be empty.
    """

    pretraining: Path
    n_pretrained_on: int
    from_pretrained: TrainResult
    from_random: TrainResult
    example: Example
    typed: Molecule
    answers: tuple[float, float]
    warning: str


@dataclass(frozen=True)
class Gain:
    """By how much pretraining lowers the test error.

    Attributes:
        mean: difference of the mean absolute errors.
        standard_error: of this mean, over test molecules.
        n: test molecules.
    """

    mean: float
    standard_error: float
    n: int


def write_demo_report(shown: Demonstration, path: Path) -> Path:
    """Write the report of the demo, for readers who are new to the method.

    Args:
        shown: results of the demo.
        path: of the report.

    Returns:
        The path.

    Raises:
        ValueError: matplotlib is not installed.
    """
    run, target = shown.from_pretrained, shown.from_pretrained.targets[0]
    return write_page(
        path,
        "demo_report.html",
        title="moleblend: a demonstration",
        target=target,
        n_pretrained_on=shown.n_pretrained_on,
        n_train=len(run.table.split.train),
        n_validation=len(run.table.split.validation),
        n_test=len(run.table.split.test),
        comparison=_comparison_table(shown),
        gain=_gain(shown),
        comparison_plots=_comparison_plots(shown),
        example=svg_image(
            draw_svg(_numbered(shown.example.molecule), 300, 290), shown.example.molecule.smiles
        ),
        example_plots=_example_plots(shown.example),
        typed=svg_image(draw_svg(shown.typed.smiles, 360, 260), shown.typed.id),
        answers=Table(
            ("model", f"predicted {target.name} ({target.unit})"),
            [
                ("pretrained weights", f"{shown.answers[0]:.2f}"),
                ("random weights", f"{shown.answers[1]:.2f}"),
                ("constant baseline (mean)", f"{target.mean:.2f}"),
            ],
        ),
        warning=shown.warning,
        validation=read_validation(shown.pretraining),
        loss_plots=loss_plots(shown.pretraining),
    )


def _comparison_table(shown: Demonstration) -> Table:
    target = shown.from_pretrained.targets[0]
    rows = []
    for name, run in (
        ("pretrained weights", shown.from_pretrained),
        ("random weights", shown.from_random),
    ):
        validation = run.validation[target.name]["MAE"]
        rows.append((name, f"{validation:.3f}", *_test_cells(run.test[target.name])))
    constant = shown.from_random.evaluation.constant_baseline[target.name]
    rows.append(("constant baseline (mean)", "–", *_test_cells(constant)))
    unit = target.unit
    head = (
        "model",
        f"MAE, validation ({unit})",
        f"MAE, test ({unit})",
        f"RMSE, test ({unit})",
        "R², test",
    )
    return Table(head, rows)


def _test_cells(metrics: Metrics) -> tuple[str, ...]:
    return tuple(f"{metrics[name]:.3f}" for name in ("MAE", "RMSE", "R2"))


def _gain(shown: Demonstration) -> Gain:
    gain = _absolute_errors(shown.from_random) - _absolute_errors(shown.from_pretrained)
    return Gain(float(gain.mean()), float(gain.std(ddof=1) / np.sqrt(len(gain))), len(gain))


def _absolute_errors(run: TrainResult) -> Float64[np.ndarray, " m"]:
    return np.abs(run.predictions.predicted[:, 0] - run.predictions.labels[:, 0])


@or_a_note
def _comparison_plots(shown: Demonstration) -> list[Plot]:
    target = shown.from_pretrained.targets[0]
    runs = (
        ("pretrained weights", shown.from_pretrained, BLUE),
        ("random weights", shown.from_random, ORANGE),
    )
    plots = []
    for name, run, colour in runs:
        title = f"{name}: MAE {format_number(run.test[target.name]['MAE'])} {target.unit}"
        plots.append(
            parity_plot(
                run.predictions.predicted[:, 0], run.predictions.labels[:, 0], target, title, colour
            )
        )
    axes = new_axes("epoch", "", height=3.6)
    for name, run, colour in runs:
        epochs = [epoch["epoch"] for epoch in run.histories[0].epochs]
        axes.plot(
            epochs,
            [epoch["validation"] for epoch in run.histories[0].epochs],
            color=colour,
            label=name,
        )
    add_legend(axes)
    caption = "Both runs have the same settings. Each keeps its best epoch."
    plots.append(finish_plot(axes, validation_metric(shown.from_random), caption))
    return plots


@or_a_note
def _example_plots(example: Example) -> list[Plot]:
    """Draw the views of the molecule, their blend and the predicted distances."""
    molecule = example.molecule
    relations = relate(molecule)
    path_length = relations.path_length.astype(float)
    positions = molecule.positions[0]
    distance = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    _, n_stereo, n_conjugated = BOND_FEATURE_SIZES
    code = relations.edge_path[..., 0].astype(int)  # bond kind + 1, 0 where there is none
    bond = np.where(code > 0, (code - 1) // (n_stereo * n_conjugated) + 1, 0)

    lengths = np.array([[f"{cell:.0f}" for cell in row] for row in path_length])
    symbols = np.array([["", *_BOND_SYMBOLS][cell] for cell in bond.ravel()]).reshape(bond.shape)
    ångströms = _one_decimal(distance)
    view = example.blend.pairs[0].numpy().argmax(-1)
    blended = np.choose(view, [lengths, symbols, ångströms])
    fractions = [f"{np.mean(view == k):.0%}" for k in range(3)]

    highest = float(max(distance.max(), example.from_2d.max(), example.from_blend.max()))
    plots = [
        draw_matrix(
            "path length", path_length, lengths, "Blues", "Number of bonds on the shortest path."
        ),
        draw_matrix(
            "bonds on the path",
            bond.astype(float),
            symbols,
            "Oranges",
            "The first bond on the path: – single, = double, ≡ triple, : aromatic. The model sees "
            "up to five bonds.",
            highest=5.0,
        ),
        draw_matrix(
            "distance (Å)", distance, ångströms, "Greens", "Euclidean distances, from DFT."
        ),
        draw_matrix(
            "the blend",
            view.astype(float),
            blended,
            _VIEW_COLOURS,
            f"The input of the model: path length (blue, {fractions[0]} of the pairs), bonds "
            f"(orange, {fractions[1]}), distance (green, {fractions[2]}). Positions carry noise.",
            highest=2.0,
        ),
        draw_matrix(
            "true distance (Å)", distance, ångströms, "Greens", "For comparison.", highest=highest
        ),
    ]
    is_pair = ~np.eye(len(distance), dtype=bool)  # an atom's distance to itself is not predicted
    for title, predicted, shown in (
        ("predicted from 2D alone (Å)", example.from_2d, "The input had no distances."),
        ("predicted from the blend (Å)", example.from_blend, "The input was the blend above."),
    ):
        error = np.abs(predicted - distance)[is_pair].mean()
        caption = f"{shown} Mean absolute error: {error:.2f} Å."
        filled = np.where(is_pair, predicted, 0.0)
        texts = _one_decimal(filled)
        plots.append(draw_matrix(title, filled, texts, "Greens", caption, highest=highest))
    return plots


def _numbered(molecule: Molecule) -> str:
    """Write the SMILES so that its drawing shows the number of each atom, counted from 1."""
    notes = "".join(f":{k}.atomNote.{k + 1}" for k in range(molecule.n_atoms))
    return f"{molecule.smiles} |atomProp{notes}|"


def _one_decimal(values: Float[np.ndarray, "n n"]) -> np.ndarray:
    return np.array([[f"{cell:.1f}" for cell in row] for row in values])
