"""Molecules of a page: drawings, and the nearest training molecule of a prediction."""

import base64
from dataclasses import dataclass

from moleblend.chem.drawing import draw_svg
from moleblend.chem.molecule import MoleculeError
from moleblend.evaluation.applicability_domain import DomainScores


@dataclass(frozen=True)
class Drawing:
    """A drawing of a molecule, as an image inside the page.

    Attributes:
        source: data URI of the SVG; empty where the molecule cannot be drawn.
        text: what it shows, for readers who do not see it.
    """

    source: str
    text: str


@dataclass(frozen=True)
class NearestMolecule:
    """The training molecule that is most similar to a predicted one.

    Attributes:
        row: of the training file, counted from 1.
        similarity: Tanimoto similarity (ECFP4).
        smiles: empty if the model file has no SMILES.
        drawing: None without SMILES.
        domain: whether the predicted molecule is in the applicability domain.
    """

    row: int
    similarity: float
    smiles: str
    drawing: Drawing | None
    domain: str


def svg_image(svg: str, text: str) -> Drawing:
    """Embed an `<svg>` element as an image."""
    return Drawing(f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}", text)


def draw_molecule(smiles: str, width: int, height: int) -> Drawing:
    """Draw a molecule. A mol block that RDKit cannot read again gives no drawing, only its text."""
    try:
        return svg_image(draw_svg(smiles, width, height), smiles)
    except MoleculeError:
        return Drawing("", smiles)


def nearest_molecule(scores: DomainScores, place: int) -> NearestMolecule | None:
    """Look up the most similar training molecule; None where the training set is not known."""
    if scores.row[place] < 0:
        return None
    smiles = scores.smiles[place]
    return NearestMolecule(
        row=int(scores.row[place]) + 1,
        similarity=float(scores.similarity[place]),
        smiles=smiles,
        drawing=draw_molecule(smiles, 260, 150) if smiles else None,
        domain=scores.category[place],
    )
