"""The page of the demo: the method, its figures, and one molecule as the model sees it."""

from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
from jaxtyping import Float

from moleblend.chem.drawing import draw_svg
from moleblend.chem.molecule import BOND_FEATURE_SIZES, Molecule
from moleblend.evaluation.metrics import Metrics
from moleblend.finetuning.train import TrainResult
from moleblend.model.blending import Blend
from moleblend.model.relations import relate
from moleblend.reports.html_page import (
    BLUE,
    GREEN,
    ORANGE,
    axes_of,
    image,
    matrix,
    number,
    picture,
    plots,
    table,
    write_page,
)
from moleblend.reports.pretrain_report import loss_plots, validation_plots, validation_table
from moleblend.reports.train_report import figure_name, parity_picture

_VIEW_COLOURS = (BLUE, ORANGE, GREEN)

_BOND_SIGNS = ("–", "=", "≡", ":", "→")
"""Of each bond type, the first column of `Molecule.bond_features`."""


@dataclass(frozen=True, eq=False)
class Example:
    """One molecule that no training has seen, and what the pretrained model makes of it.

    Attributes:
        molecule: with a geometry.
        blend: of the molecule alone, as it was shown.
        from_2d: distances predicted from the bonds alone, in Å.
        from_blend: distances predicted from the blend, in Å.
    """

    molecule: Molecule
    blend: Blend
    from_2d: Float[np.ndarray, "n n"]
    from_blend: Float[np.ndarray, "n n"]


@dataclass(frozen=True, eq=False)
class Demonstration:
    """All that the page of the demo shows.

    Attributes:
        pretraining: folder of the pretraining run.
        n_pretrained_on: molecules of it, without those held out.
        from_pretrained: the fine-tuning run from the pretrained model.
        from_random: the same from random weights.
        example: a molecule of the test part.
        typed: the molecule that the user asked about, with the geometry that was computed.
        answers: its predicted value from both models, the pretrained one first.
        warning: what should be known about these answers; may be empty.
    """

    pretraining: Path
    n_pretrained_on: int
    from_pretrained: TrainResult
    from_random: TrainResult
    example: Example
    typed: Molecule
    answers: tuple[float, float]
    warning: str


def write_demo_report(shown: Demonstration, path: Path) -> Path:
    """Write the page of the demo, for someone who sees the method for the first time.

    Args:
        shown: what the demo did.
        path: the page.

    Returns:
        The path.

    Raises:
        ValueError: matplotlib is not installed.
    """
    body = [
        _explanation(shown),
        "<h2>Does pretraining help?</h2>",
        _comparison_table(shown),
        plots(_comparison_plots(shown)),
        "<h2>One molecule, as the model sees it</h2>",
        "<p>A molecule of the test part. Rows and columns of each table are its atoms, with the "
        "numbers of the drawing.</p>" + plots(_example_plots(shown.example)),
        "<h2>The molecule you asked about</h2>",
        _typed_part(shown),
        "<h2>What pretraining learnt</h2>",
        validation_table(shown.pretraining),
        plots(validation_plots(shown.pretraining)),
        "<p>While it learns, the loss of each view falls:</p>",
        plots(loss_plots(shown.pretraining)),
    ]
    return write_page(path, "moleblend: a demonstration", body)


def _explanation(shown: Demonstration) -> str:
    run = shown.from_pretrained
    unit = escape(run.targets[0].unit)
    return f"""
<p class='lead'>Small organic molecules from QM9, and a model pretrained in about a minute.</p>
<p>A molecule can be looked at in two ways: as a drawing (2D), which says what is bonded to what,
and as a body in space (3D), which says how far apart the atoms are. Both can be written as tables
with one cell for each pair of atoms. moleblend uses three such <b>views</b>: the number of bonds on
the shortest path, the kinds of bonds along it, and the distance in Å.</p>
<p><b>Blending</b> draws, for every pair, which of the three views is shown, and hides the other
two. The model sees this mixture and has to give back all views of all pairs: the distance of a pair
of which it saw the bonds, the bonds of a pair of which it saw the distance. That needs structures,
but no measured property. {shown.n_pretrained_on:,} molecules were used so.</p>
<p><b>Fine-tuning</b> then learns a property, here the HOMO-LUMO gap ({unit}, computed by DFT), from
{len(run.parts.train):,} molecules with a label, and {len(run.parts.validation):,} more that decide
which epoch is kept: once from the pretrained weights, once from random ones. The
{len(run.parts.test):,} test molecules were in no training of either kind.</p>
<p>This is a demonstration with one seed, a tiny model and little data. It is no benchmark: another
seed moves the figures.</p>"""


def _comparison_table(shown: Demonstration) -> str:
    rows = []
    target = shown.from_pretrained.targets[0]
    for name, run in (
        ("from the pretrained model", shown.from_pretrained),
        ("from random weights", shown.from_random),
    ):
        test, validation = run.test[target.name], run.validation[target.name]
        rows.append((name, f"{validation['MAE']:.3f}", *_test_figures(test)))
    rows.append(("always the mean", "–", *_test_figures(shown.from_random.trivial[target.name])))
    unit = target.unit
    head = (
        "",
        f"MAE, validation ({unit})",
        f"MAE, test ({unit})",
        f"RMSE, test ({unit})",
        "R², test",
    )
    errors = [
        np.abs(run.predicted[:, 0] - run.labels[:, 0])
        for run in (shown.from_random, shown.from_pretrained)
    ]
    gain = errors[0] - errors[1]
    spread = gain.std(ddof=1) / np.sqrt(len(gain))
    note = (
        f"{target.name}, {len(gain):,} test molecules. Pretraining lowers the test MAE by "
        f"{gain.mean():.3f} ± {spread:.3f} {unit} (standard error over the test molecules; other "
        "seeds and other training molecules would scatter more)."
    )
    return table(head, rows, note)


def _test_figures(metrics: Metrics) -> tuple[str, ...]:
    return tuple(f"{metrics[name]:.3f}" for name in ("MAE", "RMSE", "R2"))


def _comparison_plots(shown: Demonstration) -> list[str]:
    target = shown.from_pretrained.targets[0]
    runs = (("pretrained", shown.from_pretrained, BLUE), ("random", shown.from_random, ORANGE))
    pictures = []
    for name, run, colour in runs:
        told = f"{name}: MAE {number(run.test[target.name]['MAE'])} {target.unit}"
        points = run.predicted[:, 0], run.labels[:, 0]
        pictures.append(parity_picture(*points, target, told, colour))
    plot = axes_of(figure_name(shown.from_random), "epoch", "", height=3.2)
    for name, run, colour in runs:
        epochs = [epoch["epoch"] for epoch in run.history]
        plot.plot(epochs, [epoch["validation"] for epoch in run.history], color=colour, label=name)
    plot.legend(frameon=False, fontsize=8)
    pictures.append(picture(plot, "Both runs have the same settings; each keeps its best epoch."))
    return pictures


def _example_plots(example: Example) -> list[str]:
    """Draw the molecule, its views, the blend of them and the predicted distances."""
    molecule = example.molecule
    relations = relate(molecule)
    path_length = relations.path_length.astype(float)
    positions = molecule.positions[0]
    distance = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    _, n_stereo, n_conjugated = BOND_FEATURE_SIZES
    code = relations.edge_path[..., 0].astype(int)  # bond kind + 1, 0 where there is none
    bond = np.where(code > 0, (code - 1) // (n_stereo * n_conjugated) + 1, 0)

    lengths = np.array([[f"{cell:.0f}" for cell in row] for row in path_length])
    signs = np.array([["", *_BOND_SIGNS][cell] for cell in bond.ravel()]).reshape(bond.shape)
    ångströms = _one_decimal(distance)
    view = example.blend.pairs[0].numpy().argmax(-1)
    blended = np.choose(view, [lengths, signs, ångströms])
    shares = [f"{np.mean(view == k):.0%}" for k in range(3)]

    highest = float(max(distance.max(), example.from_2d.max(), example.from_blend.max()))
    drawing = draw_svg(_numbered(molecule), 300, 260)
    pictures = [
        image(drawing.encode(), f"{molecule.smiles}, whose atoms are numbered", molecule.smiles),
        matrix("path length", path_length, lengths, "Blues", "Bonds on the shortest path."),
        matrix(
            "bonds on the path",
            bond.astype(float),
            signs,
            "Oranges",
            "The first bond on the path: – single, = double, ≡ triple, : aromatic. The model sees "
            "up to five.",
            highest=5.0,
        ),
        matrix("distance (Å)", distance, ångströms, "Greens", "In space, as computed by DFT."),
        matrix(
            "the blend",
            view.astype(float),
            blended,
            _VIEW_COLOURS,
            f"What the model is shown: path length (blue, {shares[0]} of the pairs), bonds "
            f"(orange, {shares[1]}), distance (green, {shares[2]}); positions carry some noise.",
            highest=2.0,
        ),
        matrix("true distance (Å)", distance, ångströms, "Greens", "To compare.", highest=highest),
    ]
    is_pair = ~np.eye(len(distance), dtype=bool)  # an atom's distance to itself is not predicted
    for title, predicted, about in (
        ("predicted from 2D alone (Å)", example.from_2d, "No distance was shown."),
        ("predicted from the blend (Å)", example.from_blend, "The blend above was shown."),
    ):
        error = np.abs(predicted - distance)[is_pair].mean()
        told = f"{about} Off by {error:.2f} Å on average."
        filled = np.where(is_pair, predicted, 0.0)
        texts = _one_decimal(filled)
        pictures.append(matrix(title, filled, texts, "Greens", told, highest=highest))
    return pictures


def _typed_part(shown: Demonstration) -> str:
    target = shown.from_pretrained.targets[0]
    picture = image(draw_svg(shown.typed.smiles, 300, 220).encode(), shown.typed.id, shown.typed.id)
    rows = [
        ("from the pretrained model", f"{shown.answers[0]:.2f}"),
        ("from random weights", f"{shown.answers[1]:.2f}"),
        ("always the mean", f"{target.mean:.2f}"),
    ]
    answers = table(("", f"predicted {target.name} ({target.unit})"), rows)
    told = (
        "The models were trained with geometries, so one was computed for this molecule: ETKDGv3, "
        "then MMFF94. The training geometries come from DFT, which differs a little."
    )
    warning = f"<p><b>{escape(shown.warning)}</b></p>" if shown.warning else ""
    return f"<p>{told}</p>{warning}{answers}{plots([picture])}"


def _numbered(molecule: Molecule) -> str:
    """Write the SMILES so that its drawing shows the number of each atom, counted from 1."""
    notes = "".join(f":{k}.atomNote.{k + 1}" for k in range(molecule.n_atoms))
    return f"{molecule.smiles} |atomProp{notes}|"


def _one_decimal(values: Float[np.ndarray, "n n"]) -> np.ndarray:
    return np.array([[f"{cell:.1f}" for cell in row] for row in values])
