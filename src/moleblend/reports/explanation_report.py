"""Explanations to look at: a page with a card for each row, a table with a row for each atom."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Float64

from moleblend.chem.drawing import Arc, draw_contributions, draw_svg, full_colour
from moleblend.chem.featurizer import element_symbols
from moleblend.chem.molecule import Molecule, MoleculeError
from moleblend.data.formats import write_table
from moleblend.data.table import Table
from moleblend.data.targets import Target
from moleblend.evaluation.applicability_domain import DomainScores
from moleblend.model.relations import UNREACHABLE, relate
from moleblend.prediction.explanation import VIEW_GROUPS, Contributions, Explanation
from moleblend.reports.html_page import image, write_page

_MOST_ARCS, _MOST_WORDS = 4, 3

_WORTH_A_WORD, _WORTH_A_CURVE = 0.1, 0.5
"""Of the largest contribution of an atom, of a pair; smaller ones are not named."""

_MINUS = "−"


@dataclass(frozen=True, eq=False)
class Explained:
    """Rows of a file and why a model predicts what it does for them.

    Attributes:
        model: the model file.
        table: the rows.
        targets: what is explained.
        explanations: one for each row.
        has_more: the file has more rows than these.
        scores: of the rows to the training set; None where the model file has none.
    """

    model: Path
    table: Table
    targets: tuple[Target, ...]
    explanations: Sequence[Explanation]
    has_more: bool = False
    scores: DomainScores | None = None


def write_explanation_report(explained: Explained, path: Path) -> Path:
    """Write the page: how to read it, then a card for each row, in order.

    Args:
        explained: what is shown.
        path: the page.

    Returns:
        The path.
    """
    scales = [_scale(explained, k) for k in range(len(explained.targets))]
    cards = (
        _card(
            explanation,
            explained.table.place(row),
            explained.targets,
            scales,
            "" if explained.scores is None else _nearest(explained.scores, row),
        )
        for row, explanation in enumerate(explained.explanations)
    )
    names = ", ".join(target.name for target in explained.targets)
    return write_page(path, f"Why: {names}", [_introduction(explained), *cards])


def write_atom_table(explained: Explained, path: Path) -> Path:
    """Write the contributions as csv, a row for each atom; an unusable row has one without atom.

    Columns: `row`, `status`, `reason`, `atom` (its number in the input, hydrogens counted; both
    from 1), `element`, and per target NAME_contribution.
    """
    rows: list[int] = []
    statuses: list[str] = []
    reasons: list[str] = []
    atoms: list[int | None] = []
    elements: list[str] = []
    values: list[np.ndarray] = []
    for k, explanation in enumerate(explained.explanations):
        molecule, found = explanation.row.molecule, explanation.contributions
        if molecule is None or found is None:
            atoms.append(None)
            elements.append("")
            values.append(np.full((1, len(explained.targets)), np.nan))
        else:
            order = np.argsort(molecule.source_atoms)
            atoms += (molecule.source_atoms[order] + 1).tolist()
            elements += [element_symbols(molecule)[atom] for atom in order]
            values.append(found.atoms[order])
        n_new = len(values[-1])
        rows += [explained.table.n_before + k + 1] * n_new
        statuses += [explanation.row.status] * n_new
        reasons += [explanation.row.reason] * n_new
    columns: dict[str, pa.Array] = {
        "row": pa.array(rows, pa.int64()),
        "status": pa.array(statuses, pa.string()),
        "reason": pa.array(reasons, pa.string()),
        "atom": pa.array(atoms, pa.int64()),
        "element": pa.array(elements, pa.string()),
    }
    every = np.concatenate([np.zeros((0, len(explained.targets))), *values])
    for target, column in zip(explained.targets, every.T, strict=True):
        columns[f"{target.name}_contribution"] = pa.array(column, from_pandas=True)
    write_table(pa.table(columns), path)
    return path


def _introduction(explained: Explained) -> str:
    units = [f" ({_unit(target)})" if _unit(target) else "" for target in explained.targets]
    told = [
        escape(f"{target.name}{unit}")
        for target, unit in zip(explained.targets, units, strict=True)
    ]
    n = len(explained.explanations)
    rows = f"{'the first ' if explained.has_more else ''}{n:,} row{'' if n == 1 else 's'}"
    return (
        f"<p class='lead'>Model {escape(str(explained.model))}; {rows} of "
        f"{escape(str(explained.table.source))}; {', '.join(told)}.</p>"
        "<p><b>Atoms.</b> Orange atoms raise the prediction, blue ones lower it; their "
        "contributions, hydrogens with the atom that carries them, sum to the prediction less the "
        "mean of the training labels (for a class, to its log-odds). The scale is the same in all "
        "drawings of a target; one atom in twenty lies beyond it. Numbers are those of the atoms "
        "in the input, counted from 1.</p>"
        "<p><b>Views.</b> The bars lead from that mean to the prediction: what the atoms give "
        "while the model sees no relation between them, and what the bond graph and the geometry "
        "add (to the bond graph belong the circular environments of a model that reads ECFP4). "
        "Dashed curves join the pairs of atoms whose relation adds most; one pair mostly adds "
        "little, so curves have a scale of their own below the drawing.</p>"
        "<p>This is what the model relies on, not what nature does: a contribution is as good as "
        "the model.</p>"
    )


def _scale(explained: Explained, target: int) -> float:
    """A contribution that only one atom in twenty exceeds, so that one outlier pales nothing."""
    sizes = [
        np.abs(explanation.contributions.atoms[:, target])
        for explanation in explained.explanations
        if explanation.contributions is not None
    ]
    return max(float(np.quantile(np.concatenate(sizes), 0.95)), 1e-9) if sizes else 1.0


def _card(
    explanation: Explanation,
    place: str,
    targets: Sequence[Target],
    scales: Sequence[float],
    nearest: str,
) -> str:
    """One row: what it is, then for each target its drawing, bars and words."""
    row, found = explanation.row, explanation.contributions
    if row.molecule is None or found is None:
        about = f"<p><b>{escape(row.status)}</b>: {escape(row.reason)}</p>"
        return f"<section class='card'><h2>{escape(place)}</h2>{about}</section>"
    name = "" if row.molecule.id in place else f" · {escape(row.molecule.id)}"
    body = f"<h2>{escape(place)}{name}</h2><p><code>{escape(row.molecule.smiles)}</code></p>"
    if row.reason:
        body += f"<p class='lead'>{escape(row.status)}: {escape(row.reason)}</p>"
    for k, scale in enumerate(scales):
        heading = f"<h3>{escape(targets[k].name)}: {_answer(found, k)}</h3>"
        drawing = _drawing(row.molecule, found, k, scale)
        about = _bars(found, k) + _words(row.molecule, found, k)
        body += f"{heading}<div class='beside'>{drawing}<div>{about}{nearest}</div></div>"
    return f"<section class='card'>{body}</section>"


def _nearest(scores: DomainScores, row: int) -> str:
    """Show the training molecule that is most similar, and say how near all of them are."""
    words, smiles = scores.category[row], scores.smiles[row]
    if not words:
        return ""
    which = f"<code>{escape(smiles)}</code>" if smiles else f"row {scores.row[row] + 1}"
    drawn = ""
    if smiles:
        svg = draw_svg(smiles, 260, 150)
        drawn = image(svg.encode(), "", f"nearest training molecule: {smiles}")
    return (
        f"<p><b>Nearest training molecule:</b> {which}, similarity "
        f"{scores.similarity[row]:.2f}. This molecule is {escape(words)}.</p>"
        f"<div class='nearest'>{drawn}</div>"
    )


def _answer(found: Contributions, k: int) -> str:
    """Say the prediction with its unit."""
    value, target = float(found.prediction[k]), found.targets[k]
    if target.kind == "binary":
        return f"probability {value:.3f} (log-odds {_signed(float(found.answer[k]))})"
    return f"{_plain(value)} {escape(target.unit)}".strip()


def _drawing(molecule: Molecule, found: Contributions, k: int, scale: float) -> str:
    arcs = [Arc(i, j, value) for i, j, value in _strong_pairs(found, k)]
    named = {*_strong_atoms(found, k), *(atom for arc in arcs for atom in (arc.first, arc.second))}
    notes = {atom: str(molecule.source_atoms[atom] + 1) for atom in named}
    try:
        svg = draw_contributions(molecule, found.atoms[:, k], scale, arcs=arcs, notes=notes)
    except MoleculeError as error:
        return f"<p>{escape(str(error))}, so it is not drawn.</p>"
    alternative = f"{molecule.smiles}, atoms coloured by contribution"
    unit = escape(_unit(found.targets[k]))
    colours = f"{full_colour(-1.0)}, #fff, {full_colour(1.0)}"
    legend = (
        f"<div class='scale'><div style='background: linear-gradient(90deg, {colours})'></div>"
        f"<p><span>{_signed(-scale)}</span><span>0</span><span>{_signed(scale)} {unit}</span></p>"
        "</div>"
    )
    widest = f"The widest curve is {_signed(arcs[0].value)} {unit}." if arcs else ""
    return f"<div>{image(svg.encode(), '', alternative)}{legend}<small>{widest}</small></div>"


def _bars(found: Contributions, k: int) -> str:
    """Lead from the mean of training to the prediction, one bar for each part."""
    target = found.targets[k]
    names = ("atoms, unrelated", *VIEW_GROUPS)
    steps = [float(found.kinds[k]), *found.views[:, k].tolist()]
    begin, end = float(found.start[k]), float(found.answer[k])
    levels = (begin + np.cumsum([0.0, *steps])).tolist()
    lowest, highest = min(levels), max(levels)
    left, right, line = 128.0, 290.0, 22

    def x(level: float) -> float:
        return left + (right - left) * (level - lowest) / max(highest - lowest, 1e-9)

    start = "even odds" if target.kind == "binary" else "training mean"
    texts = [(start, begin, begin, _plain(begin))]
    for name, value, before in zip(names, steps, levels, strict=False):
        texts.append((name, before, before + value, _signed(value)))
    texts.append(("prediction", end, end, _plain(end)))
    body = ""
    for row, (name, first, last, text) in enumerate(texts):
        y = row * line
        is_level = row in (0, len(texts) - 1)
        colour = "currentColor" if is_level else full_colour(last - first)
        width = 2.0 if is_level else max(abs(x(last) - x(first)), 1.0)
        body += (
            f"<text x='0' y='{y + 15}'>{escape(name)}</text>"
            f"<rect x='{min(x(first), x(last)):.1f}' y='{y + 4}' width='{width:.1f}' height='14' "
            f"fill='{colour}'/>"
            f"<text x='400' y='{y + 15}' text-anchor='end'>{text}</text>"
        )
    told = ", ".join(f"{name} {text}" for name, _, _, text in texts)
    height = len(texts) * line
    unit = f"in {escape(_unit(target))}" if _unit(target) else ""
    return (
        f"<figure><svg class='bars' viewBox='0 0 400 {height}' role='img'><title>{escape(told)}"
        f"</title>{body}</svg><figcaption>{unit}</figcaption></figure>"
    )


def _words(molecule: Molecule, found: Contributions, k: int) -> str:
    symbols = element_symbols(molecule)

    def name(atom: int) -> str:
        return f"{symbols[atom]}{molecule.source_atoms[atom] + 1}"

    values = found.atoms[:, k]
    strong = _strong_atoms(found, k)
    told = ""
    for verb, sign in (("Raise it", 1), ("Lower it", -1)):
        atoms = [f"{name(i)} {_signed(float(values[i]))}" for i in strong if sign * values[i] > 0]
        if atoms:
            told += f"<p><b>{verb}:</b> {', '.join(atoms)}</p>"
    lengths = relate(molecule).path_length
    pairs = []
    for i, j, value in _strong_pairs(found, k):
        n_bonds = int(lengths[i, j])
        apart = "not joined" if n_bonds == UNREACHABLE else f"{n_bonds} bonds apart"
        apart = "bonded" if n_bonds == 1 else apart
        pairs.append(f"{name(i)} and {name(j)} {_signed(value)} ({apart})")
    return told + (f"<p><b>Pairs:</b> {'; '.join(pairs)}</p>" if pairs else "")


def _strong_atoms(found: Contributions, k: int) -> list[int]:
    """The atoms that raise most and those that lower most, the strongest first."""
    values = found.atoms[:, k]
    least = _WORTH_A_WORD * np.abs(values).max()
    return sorted(
        (
            atom
            for sign in (1, -1)
            for atom in _strongest(np.maximum(sign * values, 0), least, _MOST_WORDS)
        ),
        key=lambda atom: -abs(values[atom]),
    )


def _strong_pairs(found: Contributions, k: int) -> list[tuple[int, int, float]]:
    """The pairs of different atoms whose relation contributes most, the strongest first."""
    first, second = np.triu_indices(len(found.atoms), 1)
    values = found.pairs[first, second, k]
    sizes = np.abs(values)
    chosen = _strongest(sizes, _WORTH_A_CURVE * sizes.max(initial=0.0), _MOST_ARCS)
    return [(int(first[p]), int(second[p]), float(values[p])) for p in chosen]


def _strongest(sizes: Float64[np.ndarray, " m"], least: float, most: int) -> list[int]:
    """Find the places of the largest sizes, at most so many, none below the least or 0."""
    order = np.argsort(-sizes, kind="stable")[:most]
    return [int(place) for place in order if sizes[place] >= least and sizes[place] > 0]


def _unit(target: Target) -> str:
    return "log-odds" if target.kind == "binary" else target.unit


def _signed(value: float) -> str:
    return ("+" if value > 0 else "") + _plain(value)


def _plain(value: float) -> str:
    """Say a number in three digits, with a true minus sign."""
    return f"{value:#.3g}".rstrip(".").replace("-", _MINUS) if value else "0"
