"""Runs as pages to read: one HTML file each, with everything in it and nothing fetched.

matplotlib, an extra of the package, is imported when the first figure is drawn and only here.
"""

import base64
import json
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from csv import DictReader
from dataclasses import dataclass, fields
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float64
from sklearn.metrics import roc_curve

from moleblend import checkpoint
from moleblend.blending import Blend
from moleblend.chem import draw_svg
from moleblend.config import to_dict
from moleblend.heads import Target
from moleblend.metrics import Metrics
from moleblend.molecule import BOND_FEATURE_SIZES, Molecule
from moleblend.recovery import SHOWN
from moleblend.relations import relate
from moleblend.tables import replacing
from moleblend.train import TrainResult

_MOST_PLOTS = 6
_BLUE, _ORANGE, _GREEN, _GREY = "#0072b2", "#e69f00", "#009e73", "#8a8f98"
_VIEW_COLOURS = (_BLUE, _ORANGE, _GREEN)
_BOND_SIGNS = ("–", "=", "≡", ":", "→")
"""Of each bond type, the first column of `Molecule.bond_features`."""

_LOG_COLUMNS = ("step", "learning_rate", "loss", "molecules_per_s")
_NAMES = {
    "path_length": "path length",
    "bonds": "bonds on the path",
    "distance": "distance",
    "direction": "direction",
    "denoising": "noise on the positions",
}

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1d2330; background: #fff; margin: 0 auto;
  max-width: 72rem; padding: 1rem 1.2rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 1rem 0 .4rem; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .5rem; padding-top: .7rem; border-top: 1px solid #dfe3e9; }
p { max-width: 44rem; margin: .5rem 0; }
.lead { color: #535b6b; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(16rem, 1fr));
  gap: 1rem 1.2rem; margin: .8rem 0; }
figure { margin: 0; }
figure img { display: block; width: 100%; height: auto; }
figcaption, caption { color: #535b6b; font-size: .85rem; line-height: 1.4; text-align: left; }
caption { caption-side: bottom; padding-top: .4rem; }
.scroll { overflow-x: auto; margin: .8rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; }
th, td { padding: .25rem .9rem .25rem 0; text-align: right; border-bottom: 1px solid #e8ebf0;
  vertical-align: top; }
th { font-weight: 600; border-bottom: 2px solid #c9cfd9; }
th:first-child, td:first-child, .words td, .words th { text-align: left; }
.words td { overflow-wrap: anywhere; }
td small { color: #6b7382; display: block; white-space: nowrap; }
code, pre { font: .88em/1.5 ui-monospace, monospace; background: #f3f5f8; border-radius: 4px; }
code { padding: .1em .3em; overflow-wrap: anywhere; }
pre { padding: .7rem .9rem; overflow-x: auto; }
"""


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


def write_train_report(result: TrainResult, path: Path) -> Path:
    """Write the page of a fine-tuning run.

    Args:
        result: of `train.train`; its model file is there already.
        path: the page.

    Returns:
        The path.

    Raises:
        ValueError: matplotlib is not installed.
    """
    config = result.config
    names = ", ".join(target.name for target in result.targets)
    views = checkpoint.read_card(result.model).views
    start = (
        "random weights" if config.source == "scratch" else f"<code>{escape(config.source)}</code>"
    )
    lead = (
        f"{escape(config.data)}; started from {start}; views: {views}; "
        f"split: {escape(config.split)}."
    )
    kept = (
        "This run read the test part once, after every choice had been made on the validation "
        f"part. The weights are those of epoch {result.best_epoch} of {len(result.history)}, the "
        "best on validation."
    )
    command = f"moleblend predict {shlex.quote(str(result.model))} molecules.csv predictions.csv"
    body = [
        f"<p class='lead'>{lead}</p>",
        "<h2>Result</h2>",
        _metrics_table(result),
        f"<p>{kept}</p>",
        _plots(_target_plots(result)),
        "<h2>Learning</h2>",
        _plots(_learning_plots(result)),
        "<h2>Data</h2>",
        _data_tables(result),
        "<h2>Use the model</h2>",
        "<p>The model is one file. Every row of the input comes back, with a status.</p>",
        f"<pre>{escape(command)}</pre>",
        "<h2>Settings</h2>",
        _settings_table(to_dict(config)),
    ]
    return _write_page(path, f"Fine-tuning: {names}", body)


def write_pretrain_report(folder: Path, path: Path) -> Path:
    """Write the page of a pretraining run from the csv files in its folder.

    Args:
        folder: of the run, which may still go on.
        path: the page.

    Returns:
        The path.

    Raises:
        FileNotFoundError: the folder has no log or no validation yet.
        ValueError: matplotlib is not installed.
    """
    log = _read_csv(folder / "log.csv")
    told = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    speed = np.array([float(row["molecules_per_s"]) for row in log])
    lead = (
        f"{escape(told['config']['data'])}; {int(log[-1]['step']):,} of "
        f"{told['config']['schedule']['steps']:,} steps; {np.median(speed):,.0f} molecules/s."
    )
    plot = _axes("molecules/s", "step", "")
    plot.plot([int(row["step"]) for row in log], speed, color=_GREY)
    plot.set_ylim(bottom=0)
    body = [
        f"<p class='lead'>{lead}</p>",
        "<h2>What was learnt, on held-out molecules</h2>",
        _validation_table(folder),
        _plots(_validation_plots(folder)),
        "<h2>Loss per view</h2>",
        _plots(_loss_plots(folder)),
        "<h2>Speed</h2>",
        _plots([_picture(plot, f"Training alone; the median is {np.median(speed):,.0f}.")]),
        "<h2>Settings</h2>",
        _settings_table(told["config"]),
    ]
    return _write_page(path, "Pretraining by blending", body)


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
        _plots(_comparison_plots(shown)),
        "<h2>One molecule, as the model sees it</h2>",
        "<p>A molecule of the test part. Rows and columns of each table are its atoms, with the "
        "numbers of the drawing.</p>" + _plots(_example_plots(shown.example)),
        "<h2>The molecule you asked about</h2>",
        _typed_part(shown),
        "<h2>What pretraining learnt</h2>",
        _validation_table(shown.pretraining),
        _plots(_validation_plots(shown.pretraining)),
        "<p>While it learns, the loss of each view falls:</p>",
        _plots(_loss_plots(shown.pretraining)),
    ]
    return _write_page(path, "moleblend: a demonstration", body)


# Fine-tuning


def _metrics_table(result: TrainResult) -> str:
    rows = []
    for target in result.targets:
        name = f"{target.name} ({target.unit})" if target.unit else target.name
        test = result.test[target.name]
        constant = _constant_answer(test, result.trivial.get(target.name))
        for metric, value in test.items():
            if metric in ("n", "n_positive"):
                continue
            found = result.validation[target.name][metric]
            told = _number(constant[metric]) if metric in constant else "–"
            rows.append((name, metric, _number(found), _number(value), told, _number(test["n"])))
    head = ("target", "metric", "validation", "test", "constant answer, test", "labels, test")
    note = (
        "The constant answer is the mean of the training labels, or for classes the same "
        "probability for every molecule."
    )
    return _table(head, rows, note)


def _constant_answer(test: Metrics, trivial: Metrics | None) -> Metrics:
    if trivial is not None:
        return trivial
    n, n_positive = test["n"], test["n_positive"]
    if not n or n_positive is None:
        return {}
    share = n_positive / n
    return {"ROC-AUC": 0.5, "average precision": share, "accuracy": max(share, 1 - share)}


def _target_plots(result: TrainResult) -> list[str]:
    """One plot for each of the first targets: predicted over measured, or the ROC curve."""
    pictures = []
    for k, target in enumerate(result.targets[:_MOST_PLOTS]):
        predicted, label = result.predicted[:, k], result.labels[:, k]
        is_known = ~np.isnan(label)
        predicted, label = predicted[is_known], label[is_known]
        if target.kind == "regression" and len(label):
            told = f"{target.name}: MAE {_number(result.test[target.name]['MAE'])} {target.unit}"
            pictures.append(_parity_picture(predicted, label, target, told))
        elif len(np.unique(label)) == 2:
            pictures.append(_roc_picture(predicted, label, result, target))
    return pictures


def _parity_picture(
    predicted: Float64[np.ndarray, " m"],
    label: Float64[np.ndarray, " m"],
    target: Target,
    told: str,
    colour: str = _BLUE,
) -> str:
    unit = f" ({target.unit})" if target.unit else ""
    plot = _axes(told, f"measured{unit}", f"predicted{unit}", height=3.2)
    low, high = min(predicted.min(), label.min()), max(predicted.max(), label.max())
    plot.plot([low, high], [low, high], color=_GREY, linewidth=1)
    plot.axhline(target.mean, color=_GREY, linewidth=1, linestyle=":")
    plot.scatter(label, predicted, s=9, color=colour, alpha=0.5, linewidths=0)
    return _picture(
        plot,
        f"{len(label):,} test molecules. On the line the prediction is right; the dotted line is "
        "the mean of the training labels.",
    )


def _roc_picture(
    probability: Float64[np.ndarray, " m"],
    label: Float64[np.ndarray, " m"],
    result: TrainResult,
    target: Target,
) -> str:
    told = f"{target.name}: ROC-AUC {_number(result.test[target.name]['ROC-AUC'])}"
    plot = _axes(told, "false positive rate", "true positive rate", height=3.2)
    false_positive, true_positive, _ = roc_curve(label, probability)
    plot.plot([0, 1], [0, 1], color=_GREY, linewidth=1, linestyle=":")
    plot.plot(false_positive, true_positive, color=_BLUE)
    positive = f"{int(label.sum()):,} of {len(label):,} test molecules are positive."
    return _picture(plot, f"{positive} The dotted line is guessing.")


def _learning_plots(result: TrainResult) -> list[str]:
    epochs = [epoch["epoch"] for epoch in result.history]
    pictures = []
    for name, title in (("training_loss", "training loss"), ("validation", _figure_name(result))):
        plot = _axes(title, "epoch", "")
        plot.plot(epochs, [epoch[name] for epoch in result.history], color=_BLUE, marker=".")
        plot.axvline(result.best_epoch, color=_GREY, linewidth=1, linestyle=":")
        pictures.append(
            _picture(plot, f"The dotted line is epoch {result.best_epoch}, which was kept.")
        )
    return pictures


def _figure_name(result: TrainResult) -> str:
    """What `TrainResult.history` holds as the validation figure."""
    defined = {
        name
        for metrics in result.validation.values()
        for name, value in metrics.items()
        if value is not None
    }
    if "ROC-AUC" in defined:
        return "validation ROC-AUC − RMSE" if "RMSE" in defined else "validation ROC-AUC"
    return "validation RMSE / deviation" if "RMSE" in defined else "validation loss"


def _data_tables(result: TrainResult) -> str:
    counts = Counter(row.status for row in result.rows)
    reasons: dict[str, list[str]] = {}
    for k, row in enumerate(result.rows):
        if row.reason:
            reasons.setdefault(row.status, []).append(f"row {k + 1}: {row.reason}")
    statuses = [
        (status, f"{count:,}", "; ".join(reasons.get(status, [])[:3]))
        for status, count in counts.most_common()
    ]
    sizes = {part.name: len(getattr(result.parts, part.name)) for part in fields(result.parts)}
    parts = [(name, f"{size:,}") for name, size in sizes.items()]
    return (
        f"<p>{len(result.rows):,} rows, {sum(sizes.values()):,} of them usable. <code>rows.csv"
        "</code> in the run folder says what became of each.</p>"
        + _table(("status", "rows", "first reasons"), statuses, style="words")
        + _table(("part", "molecules"), parts)
    )


# Pretraining


def _validation_table(folder: Path) -> str:
    """The last validation: views by how they were shown."""
    scores = _read_csv(folder / "validation.csv")
    last = {(row["view"], row["shown"]): row for row in scores if row["step"] == scores[-1]["step"]}
    rows = []
    for view in dict.fromkeys(view for view, _ in last):
        cells = []
        for shown in SHOWN:
            score = last.get((view, shown))
            cells.append(_score_cell(score) if score else "–")
        metric = last[view, next(shown for v, shown in last if v == view)]["metric"]
        unit = "MAE, Å" if metric == "MAE" else metric
        rows.append((f"{_NAMES[view]}<small>{unit}</small>", *cells))
    note = (
        "Visible: the pair showed this view. Hidden: it showed another one. Modality hidden: the "
        "molecule showed nothing of its kind (distances from 2D alone, bonds from 3D alone). "
        "Small: what a table gives that looks the answer up by how the same pair is related in the "
        "other modality, made on these very pairs. Accuracy: higher is better; MAE: lower is."
    )
    return _table(("view", *SHOWN), rows, note, is_html=True)


def _score_cell(score: dict[str, str]) -> str:
    trivial = f"<small>look-up {_number(score['trivial'])}</small>" if score["trivial"] else ""
    return f"{_number(score['value'])}{trivial}"


def _validation_plots(folder: Path) -> list[str]:
    scores = _read_csv(folder / "validation.csv")
    pictures = []
    for view in dict.fromkeys(row["view"] for row in scores):
        chosen = [row for row in scores if row["view"] == view]
        unit = "MAE (Å)" if chosen[0]["metric"] == "MAE" else chosen[0]["metric"]
        plot = _axes(f"{_NAMES[view]}: {unit}", "step", "")
        for shown, colour in zip(SHOWN, (_BLUE, _ORANGE, _GREEN), strict=True):
            line = [row for row in chosen if row["shown"] == shown]
            steps, values = [int(row["step"]) for row in line], [float(r["value"]) for r in line]
            plot.plot(steps, values, color=colour, marker=".", label=shown)
        if chosen[0]["trivial"]:
            label = "look-up"
            plot.axhline(float(chosen[0]["trivial"]), color=_GREY, linestyle=":", label=label)
        plot.legend(frameon=False, fontsize=8)
        pictures.append(_picture(plot, "On held-out molecules."))
    return pictures


def _loss_plots(folder: Path) -> list[str]:
    log = _read_csv(folder / "log.csv")
    steps = [int(row["step"]) for row in log]
    pictures = []
    for name in log[0]:
        if name not in _LOG_COLUMNS:
            plot = _axes(f"loss: {_NAMES.get(name, name)}", "step", "")
            plot.plot(steps, [float(row[name]) for row in log], color=_BLUE)
            pictures.append(_picture(plot, f"At the end {_number(log[-1][name])}."))
    return pictures


# The demo


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
    return _table(head, rows, note)


def _test_figures(metrics: Metrics) -> tuple[str, ...]:
    return tuple(f"{metrics[name]:.3f}" for name in ("MAE", "RMSE", "R2"))


def _comparison_plots(shown: Demonstration) -> list[str]:
    target = shown.from_pretrained.targets[0]
    runs = (("pretrained", shown.from_pretrained, _BLUE), ("random", shown.from_random, _ORANGE))
    pictures = []
    for name, run, colour in runs:
        told = f"{name}: MAE {_number(run.test[target.name]['MAE'])} {target.unit}"
        points = run.predicted[:, 0], run.labels[:, 0]
        pictures.append(_parity_picture(*points, target, told, colour))
    plot = _axes(_figure_name(shown.from_random), "epoch", "", height=3.2)
    for name, run, colour in runs:
        epochs = [epoch["epoch"] for epoch in run.history]
        plot.plot(epochs, [epoch["validation"] for epoch in run.history], color=colour, label=name)
    plot.legend(frameon=False, fontsize=8)
    pictures.append(_picture(plot, "Both runs have the same settings; each keeps its best epoch."))
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
        _image(drawing.encode(), f"{molecule.smiles}, whose atoms are numbered", molecule.smiles),
        _matrix("path length", path_length, lengths, "Blues", "Bonds on the shortest path."),
        _matrix(
            "bonds on the path",
            bond.astype(float),
            signs,
            "Oranges",
            "The first bond on the path: – single, = double, ≡ triple, : aromatic. The model sees "
            "up to five.",
            highest=5.0,
        ),
        _matrix("distance (Å)", distance, ångströms, "Greens", "In space, as computed by DFT."),
        _matrix(
            "the blend",
            view.astype(float),
            blended,
            _VIEW_COLOURS,
            f"What the model is shown: path length (blue, {shares[0]} of the pairs), bonds "
            f"(orange, {shares[1]}), distance (green, {shares[2]}); positions carry some noise.",
            highest=2.0,
        ),
        _matrix("true distance (Å)", distance, ångströms, "Greens", "To compare.", highest=highest),
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
        pictures.append(_matrix(title, filled, texts, "Greens", told, highest=highest))
    return pictures


def _typed_part(shown: Demonstration) -> str:
    target = shown.from_pretrained.targets[0]
    picture = _image(
        draw_svg(shown.typed.smiles, 300, 220).encode(), shown.typed.id, shown.typed.id
    )
    rows = [
        ("from the pretrained model", f"{shown.answers[0]:.2f}"),
        ("from random weights", f"{shown.answers[1]:.2f}"),
        ("always the mean", f"{target.mean:.2f}"),
    ]
    table = _table(("", f"predicted {target.name} ({target.unit})"), rows)
    told = (
        "The models were trained with geometries, so one was computed for this molecule: ETKDGv3, "
        "then MMFF94. The training geometries come from DFT, which differs a little."
    )
    warning = f"<p><b>{escape(shown.warning)}</b></p>" if shown.warning else ""
    return f"<p>{told}</p>{warning}{table}{_plots([picture])}"


def _numbered(molecule: Molecule) -> str:
    """Write the SMILES so that its drawing shows the number of each atom, counted from 1."""
    notes = "".join(f":{k}.atomNote.{k + 1}" for k in range(molecule.n_atoms))
    return f"{molecule.smiles} |atomProp{notes}|"


def _one_decimal(values: Float[np.ndarray, "n n"]) -> np.ndarray:
    return np.array([[f"{cell:.1f}" for cell in row] for row in values])


# Figures and tables


def require_matplotlib() -> None:
    """Make sure that figures can be drawn.

    Raises:
        ValueError: matplotlib is not installed.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ModuleNotFoundError as error:
        raise ValueError(
            "the figures of a report need matplotlib: pip install 'moleblend[report]'"
        ) from error


def _axes(title: str, x: str, y: str, *, height: float = 2.5) -> Any:  # noqa: ANN401
    """Begin a figure with one pair of axes (a matplotlib `Axes`: its type may not be there)."""
    require_matplotlib()
    from matplotlib.figure import Figure

    axes = Figure(figsize=(3.4, height), layout="constrained").add_subplot()
    # Names of columns are shown as they are: a dollar sign begins no formula.
    axes.set_title(title, fontsize=10, loc="left", parse_math=False)
    axes.set_xlabel(x, fontsize=9, parse_math=False)
    axes.set_ylabel(y, fontsize=9, parse_math=False)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def _matrix(
    title: str,
    values: Float[np.ndarray, "n n"],
    texts: np.ndarray,
    colours: str | Sequence[str],
    about: str,
    *,
    highest: float | None = None,
) -> str:
    """Draw a value of each pair of atoms, with its text in the cell."""
    axes = _axes(title, "", "", height=3.5)
    from matplotlib.colors import ListedColormap

    shades = colours if isinstance(colours, str) else ListedColormap(colours)
    top = float(values.max()) if highest is None else highest
    axes.imshow(values, cmap=shades, vmin=0, vmax=max(top, 1e-9), alpha=0.75)
    n = len(values)
    size = min(10.0, 70.0 / n)
    for i, j in np.ndindex(n, n):
        axes.text(j, i, texts[i, j], ha="center", va="center", fontsize=size)
    axes.set_xticks(range(n), range(1, n + 1))
    axes.set_yticks(range(n), range(1, n + 1))
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return _picture(axes, about)


def _picture(axes: Any, about: str) -> str:  # noqa: ANN401
    """Finish a figure: an image inside the page, with its caption."""
    import matplotlib

    file = BytesIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context({"svg.hashsalt": "moleblend", "svg.fonttype": "none"}):
        axes.figure.savefig(file, format="svg", metadata=nothing)
    return _image(file.getvalue(), about, axes.get_title(loc="left"))


def _image(svg: bytes, about: str, alternative: str) -> str:
    source = f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"
    return (
        f'<figure><img src="{source}" alt="{escape(alternative)}"/>'
        f"<figcaption>{escape(about)}</figcaption></figure>"
    )


def _plots(pictures: Iterable[str]) -> str:
    return f"<div class='plots'>{''.join(pictures)}</div>"


def _table(
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    note: str = "",
    *,
    style: str = "",
    is_html: bool = False,
) -> str:
    """Write a table; its cells are text, or HTML already."""
    titles = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = ""
    for row in rows:
        cells = "".join(f"<td>{cell if is_html else escape(cell)}</td>" for cell in row)
        body += f"<tr>{cells}</tr>"
    caption = f"<caption>{escape(note)}</caption>" if note else ""
    return (
        f"<div class='scroll'><table class='{style}'>{caption}<thead><tr>{titles}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def _settings_table(settings: dict[str, Any]) -> str:
    table = _table(("setting", "value"), _flat_settings(settings), style="words")
    return f"<details><summary>all settings of the run</summary>{table}</details>"


def _flat_settings(settings: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _flat_settings(value, f"{prefix}{name}.")
        else:
            told = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            yield f"{prefix}{name}", told


def _number(value: float | int | str | None) -> str:
    """Say a number in four digits; the cells of a csv file are text, an empty one is no number."""
    if value is None or value == "":
        return "undefined"
    number = float(value)
    return f"{int(number):,}" if number.is_integer() and abs(number) >= 10 else f"{number:.4g}"


def _read_csv(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file, so the run has nothing to report")
    with path.open(newline="", encoding="utf-8") as file:
        return list(DictReader(file))


def _write_page(path: Path, title: str, body: Iterable[str]) -> Path:
    """Write a page, whole or not at all; it is well-formed XML too."""
    page = (
        "<!DOCTYPE html>\n<html lang='en'><head><meta charset='utf-8'/>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'/>"
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n<body>"
        f"<h1>{escape(title)}</h1>\n" + "\n".join(body) + "</body></html>\n"
    )
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path
