"""Explanations of predictions: a report with a card for each row, a table with one row per atom."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Float64

from moleblend.chem.descriptors import PROPERTY_NAMES
from moleblend.chem.drawing import Arc, draw_contributions, full_colour
from moleblend.chem.featurizer import element_symbols
from moleblend.chem.molecule import Molecule, MoleculeError
from moleblend.data.formats import write_table
from moleblend.data.table import Table
from moleblend.data.targets import Target
from moleblend.evaluation.applicability_domain import DomainScores
from moleblend.model.relations import UNREACHABLE, relate
from moleblend.prediction.explanation import VIEW_GROUPS, Contributions, Explanation
from moleblend.reports.html_page import in_parentheses, write_page
from moleblend.reports.molecules import Drawing, NearestMolecule, nearest_molecule, svg_image

_MOST_ARCS, _MOST_ATOMS_NAMED = 4, 3

_FRACTION_NAMED, _FRACTION_DRAWN = 0.1, 0.5
_MOST_PROPERTIES = 4
"""Of the largest contribution of an atom, of a pair. Smaller ones are not named or drawn."""

_MINUS = "−"

_BARS_LEFT, _BARS_RIGHT, _BAR_HEIGHT = 128.0, 290.0, 22


@dataclass(frozen=True, eq=False)
class Explained:
    """Rows of a file with the explanations of their predictions.

    Attributes:
        model: the model file.
        table: the rows.
        targets: that are explained.
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


@dataclass(frozen=True)
class Bar:
    """A bar of the chart that leads from the training mean to the prediction.

    Attributes:
        name: of the contribution.
        text: its value.
        x: left end.
        y: of the row.
        width: of the bar.
        colour: of the bar.
    """

    name: str
    text: str
    x: float
    y: int
    width: float
    colour: str


@dataclass(frozen=True)
class ContributionDrawing:
    """A molecule whose atoms are coloured by their contributions.

    Attributes:
        drawing: None where the molecule cannot be drawn.
        error: why not.
        scale: contribution with the full colour.
        widest: contribution of the pair with the widest curve; empty without curves.
    """

    drawing: Drawing | None
    error: str
    scale: str
    widest: str


@dataclass(frozen=True)
class TargetExplanation:
    """The explanation of one prediction.

    Attributes:
        name: of the target.
        is_binary: contributions are to the log-odds.
        prediction: value or probability, formatted.
        log_odds: of a binary target, formatted.
        unit: of the prediction.
        contribution_unit: of the contributions.
        coloured: the molecule.
        bars: from the training mean to the prediction.
        raising: atoms that raise the prediction most, formatted.
        lowering: atoms that lower it most.
        pairs: pairs of atoms that contribute most.
        whole: contribution of what belongs to no atom, formatted; empty without trees.
        properties: properties of the molecule that contribute most to the trees.
    """

    name: str
    is_binary: bool
    prediction: str
    log_odds: str
    unit: str
    contribution_unit: str
    coloured: ContributionDrawing
    bars: list[Bar]
    raising: list[str]
    lowering: list[str]
    pairs: list[str]
    whole: str
    properties: list[str]


@dataclass(frozen=True)
class ExplanationCard:
    """A row of the file.

    Attributes:
        place: where the row is in the file.
        id: of the molecule, where the place does not name it.
        smiles: empty where there is no molecule.
        status: of the row.
        reason: for the status; may be empty.
        targets: explanations; none where there is no molecule.
        nearest: the most similar training molecule; None where it is not known.
    """

    place: str
    id: str
    smiles: str
    status: str
    reason: str
    targets: list[TargetExplanation]
    nearest: NearestMolecule | None


def write_explanation_report(explained: Explained, path: Path) -> Path:
    """Write the report: how to read it, then a card for each row, in order.

    Args:
        explained: rows and explanations.
        path: of the report.

    Returns:
        The path.
    """
    scales = [_scale(explained, k) for k in range(len(explained.targets))]
    targets = explained.targets
    return write_page(
        path,
        "explanation_report.html",
        title=f"Explanations: {', '.join(target.name for target in targets)}",
        model=str(explained.model),
        source=str(explained.table.source),
        n_rows=len(explained.explanations),
        has_more=explained.has_more,
        targets=[target.name + in_parentheses(_contribution_unit(target)) for target in targets],
        lower=full_colour(-1.0),
        higher=full_colour(1.0),
        cards=[
            _card(explanation, explained, row, scales)
            for row, explanation in enumerate(explained.explanations)
        ],
    )


def write_atom_table(explained: Explained, path: Path) -> Path:
    """Write the contributions as csv, one row for each atom; an unusable row has one without atom.

    Columns: `row`, `status`, `reason`, `atom` (its number in the input, hydrogens included),
    `element`, and NAME_contribution for each target. Rows and atoms are counted from 1.
    """
    rows: list[int] = []
    statuses: list[str] = []
    reasons: list[str] = []
    atoms: list[int | None] = []
    elements: list[str] = []
    values: list[np.ndarray] = []
    for k, explanation in enumerate(explained.explanations):
        molecule, contributions = explanation.row.molecule, explanation.contributions
        if molecule is None or contributions is None:
            atoms.append(None)
            elements.append("")
            values.append(np.full((1, len(explained.targets)), np.nan))
        else:
            order = np.argsort(molecule.source_atoms)
            atoms += (molecule.source_atoms[order] + 1).tolist()
            elements += [element_symbols(molecule)[atom] for atom in order]
            values.append(contributions.atoms[order])
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
    all_values = np.concatenate([np.zeros((0, len(explained.targets))), *values])
    for target, column in zip(explained.targets, all_values.T, strict=True):
        columns[f"{target.name}_contribution"] = pa.array(column, from_pandas=True)
    write_table(pa.table(columns), path, "row")
    return path


def _scale(explained: Explained, target: int) -> float:
    """The 95 % quantile of absolute contributions, so that one outlier does not fade all others."""
    sizes = [
        np.abs(explanation.contributions.atoms[:, target])
        for explanation in explained.explanations
        if explanation.contributions is not None
    ]
    return max(float(np.quantile(np.concatenate(sizes), 0.95)), 1e-9) if sizes else 1.0


def _card(
    explanation: Explanation, explained: Explained, row: int, scales: Sequence[float]
) -> ExplanationCard:
    molecule, contributions = explanation.row.molecule, explanation.contributions
    place = explained.table.place(row)
    targets: list[TargetExplanation] = []
    nearest = None
    if molecule is not None and contributions is not None:
        targets = [
            _target_explanation(molecule, contributions, k, scale) for k, scale in enumerate(scales)
        ]
        if explained.scores is not None:
            nearest = nearest_molecule(explained.scores, row)
    return ExplanationCard(
        place=place,
        id="" if molecule is None or molecule.id in place else molecule.id,
        smiles=molecule.smiles if molecule is not None and targets else "",
        status=explanation.row.status,
        reason=explanation.row.reason,
        targets=targets,
        nearest=nearest,
    )


def _target_explanation(
    molecule: Molecule, contributions: Contributions, k: int, scale: float
) -> TargetExplanation:
    target = contributions.targets[k]
    value, is_binary = float(contributions.prediction[k]), target.kind == "binary"
    values, strong = contributions.atoms[:, k], _strong_atoms(contributions, k)
    names = _atom_names(molecule)
    raising, lowering = (
        [f"{names[i]} {_signed(float(values[i]))}" for i in strong if sign * values[i] > 0]
        for sign in (1, -1)
    )
    return TargetExplanation(
        name=target.name,
        is_binary=is_binary,
        prediction=f"{value:.3f}" if is_binary else _plain(value),
        log_odds=_signed(float(contributions.output[k])) if is_binary else "",
        unit=target.unit,
        contribution_unit=_contribution_unit(target),
        coloured=_coloured(molecule, contributions, k, scale),
        bars=_bars(contributions, k),
        raising=raising,
        lowering=lowering,
        pairs=_pairs(molecule, contributions, k, names),
        whole=_signed(float(contributions.whole[k])) if contributions.trees.any() else "",
        properties=_strong_properties(contributions, k),
    )


def _coloured(
    molecule: Molecule, contributions: Contributions, k: int, scale: float
) -> ContributionDrawing:
    arcs = [Arc(i, j, value) for i, j, value in _strong_pairs(contributions, k)]
    named = {
        *_strong_atoms(contributions, k),
        *(atom for arc in arcs for atom in (arc.first, arc.second)),
    }
    notes = {atom: str(molecule.source_atoms[atom] + 1) for atom in named}
    drawing, problem = None, ""
    try:
        svg = draw_contributions(molecule, contributions.atoms[:, k], scale, arcs=arcs, notes=notes)
        drawing = svg_image(svg, f"{molecule.smiles}, atoms coloured by contribution")
    except MoleculeError as error:
        problem = str(error)
    widest = _signed(arcs[0].value) if arcs else ""
    return ContributionDrawing(drawing, problem, _plain(scale), widest)


def _bars(contributions: Contributions, k: int) -> list[Bar]:
    """Lead from the training mean to the prediction, one bar for each contribution."""
    is_binary = contributions.targets[k].kind == "binary"
    steps = [float(contributions.unrelated_atoms[k]), *contributions.views[:, k].tolist()]
    names = ["atoms, unrelated", *VIEW_GROUPS]
    has_trees = bool(contributions.trees.any())
    if has_trees:
        steps, names = [*steps, float(contributions.trees[k])], [*names, "trees"]
    begin, end = float(contributions.base_value[k]), float(contributions.output[k])
    levels = (begin + np.cumsum([0.0, *steps])).tolist()
    lowest, highest = min(levels), max(levels)

    def x(level: float) -> float:
        fraction = (level - lowest) / max(highest - lowest, 1e-9)
        return _BARS_LEFT + (_BARS_RIGHT - _BARS_LEFT) * fraction

    def level_bar(name: str, level: float, row: int) -> Bar:
        return Bar(name, _plain(level), x(level), row * _BAR_HEIGHT, 2.0, "currentColor")

    start = "even odds" if is_binary else "training mean"
    bars = [level_bar("base value" if has_trees else start, begin, 0)]
    for row, (name, step, level) in enumerate(zip(names, steps, levels, strict=False), 1):
        ends = x(level), x(level + step)
        width = max(abs(ends[1] - ends[0]), 1.0)
        colour = full_colour(step)
        bars.append(Bar(name, _signed(step), min(ends), row * _BAR_HEIGHT, width, colour))
    return [*bars, level_bar("prediction", end, len(bars))]


def _atom_names(molecule: Molecule) -> list[str]:
    """Element and number in the input, counted from 1, of each atom."""
    symbols = element_symbols(molecule)
    numbers = molecule.source_atoms + 1
    return [f"{symbol}{number}" for symbol, number in zip(symbols, numbers, strict=True)]


def _pairs(
    molecule: Molecule, contributions: Contributions, k: int, names: Sequence[str]
) -> list[str]:
    """Format the pairs of atoms that contribute most, with the number of bonds between them."""
    lengths = relate(molecule).path_length
    pairs = []
    for i, j, value in _strong_pairs(contributions, k):
        n_bonds = int(lengths[i, j])
        apart = "not connected" if n_bonds == UNREACHABLE else f"{n_bonds} bonds apart"
        apart = "bonded" if n_bonds == 1 else apart
        pairs.append(f"{names[i]} and {names[j]} {_signed(value)} ({apart})")
    return pairs


def _strong_properties(contributions: Contributions, k: int) -> list[str]:
    """Format the properties of the molecule that contribute most."""
    values = contributions.properties[:, k]
    strongest = np.argsort(-np.abs(values))[:_MOST_PROPERTIES]
    least = _FRACTION_NAMED * np.abs(values).max()
    return [
        f"{PROPERTY_NAMES[place]} {_signed(float(values[place]))}"
        for place in strongest
        if abs(values[place]) > max(least, 1e-9)
    ]


def _strong_atoms(contributions: Contributions, k: int) -> list[int]:
    """Atoms that raise or lower the prediction most, the strongest first."""
    values = contributions.atoms[:, k]
    least = _FRACTION_NAMED * np.abs(values).max()
    return sorted(
        (
            atom
            for sign in (1, -1)
            for atom in _strongest(np.maximum(sign * values, 0), least, _MOST_ATOMS_NAMED)
        ),
        key=lambda atom: -abs(values[atom]),
    )


def _strong_pairs(contributions: Contributions, k: int) -> list[tuple[int, int, float]]:
    """Pairs of different atoms whose relation contributes most, the strongest first."""
    first, second = np.triu_indices(len(contributions.atoms), 1)
    values = contributions.pairs[first, second, k]
    sizes = np.abs(values)
    chosen = _strongest(sizes, _FRACTION_DRAWN * sizes.max(initial=0.0), _MOST_ARCS)
    return [(int(first[p]), int(second[p]), float(values[p])) for p in chosen]


def _strongest(sizes: Float64[np.ndarray, " m"], least: float, most: int) -> list[int]:
    """Find the places of the largest sizes: at most `most`, none below `least`, none that is 0."""
    order = np.argsort(-sizes, kind="stable")[:most]
    return [int(place) for place in order if sizes[place] >= least and sizes[place] > 0]


def _contribution_unit(target: Target) -> str:
    return "log-odds" if target.kind == "binary" else target.unit


def _signed(value: float) -> str:
    return ("+" if value > 0 else "") + _plain(value)


def _plain(value: float) -> str:
    """Format a number with three digits and a minus sign."""
    return f"{value:#.3g}".rstrip(".").replace("-", _MINUS) if value else "0"
