"""SVG drawings of molecules, plain or coloured by the contribution of each atom."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from rdkit.Chem.Draw import rdMolDraw2D

from moleblend.chem.molecule import Molecule
from moleblend.chem.parsing import in_order, parse

LOWER, HIGHER = (0, 114, 178), (230, 159, 0)
"""RGB colours, blue and orange of the Okabe-Ito palette, which suits colour-blind readers."""

_HIGHLIGHT_RADIUS = 0.42
"""Radius of an atom's highlight in units of the drawing (a bond is about 1.5 long)."""

_LONGEST_BOND = 42.0
"""Bond length limit in pixels, so that small molecules are not enlarged."""

_WIDEST_ARC, _NARROWEST_ARC = 3.0, 1.0
"""Line widths in pixels."""


@dataclass(frozen=True)
class Arc:
    """Contribution of a pair of atoms.

    Attributes:
        first: index of an atom in the molecule's record.
        second: index of the other atom.
        value: contribution in the unit of the target.
    """

    first: int
    second: int
    value: float


def draw_svg(smiles: str, width: int, height: int) -> str:
    """Draw a molecule as an `<svg>` element of `width` x `height` pixels, without a background.

    Raises:
        MoleculeError: the SMILES is invalid.
    """
    drawing = rdMolDraw2D.MolDraw2DSVG(width, height)
    drawing.drawOptions().clearBackground = False
    rdMolDraw2D.PrepareAndDrawMolecule(drawing, parse(smiles))
    return _finished(drawing)


def draw_contributions(
    molecule: Molecule,
    contributions: Float[np.ndarray, " n"],
    scale: float,
    *,
    arcs: Sequence[Arc] = (),
    notes: dict[int, str] | None = None,
) -> str:
    """Draw a molecule with atoms highlighted by contribution: orange if positive, blue if negative.

    Args:
        molecule: the molecule.
        contributions: of each atom of the record, in the unit of the target.
        scale: size of a contribution from which the colour is saturated; above 0.
        arcs: drawn as dashed curves, orange or blue; the width is proportional to the value.
        notes: short text next to atoms, by atom index.

    Returns:
        An `<svg>` element without a background; its size grows with the molecule.

    Raises:
        MoleculeError: RDKit cannot read the SMILES in the order of the record.
    """
    mol = in_order(molecule)
    for atom, note in (notes or {}).items():
        mol.GetAtomWithIdx(atom).SetProp("atomNote", note)
    side = int(np.clip(150 + 60 * molecule.n_atoms**0.5, 360, 900))
    drawing = rdMolDraw2D.MolDraw2DSVG(side, int(0.65 * side))
    options = drawing.drawOptions()
    options.clearBackground = False
    options.useBWAtomPalette()  # the only colours are those of the contributions
    options.atomHighlightsAreCircles = True
    options.fillHighlights = True
    options.padding = 0.1
    options.fixedBondLength = _LONGEST_BOND
    options.annotationFontScale = 0.8
    colours = {
        atom: tuple(channel / 255 for channel in shade(float(value), scale))
        for atom, value in enumerate(contributions)
    }
    rdMolDraw2D.PrepareAndDrawMolecule(
        drawing,
        mol,
        highlightAtoms=list(colours),
        highlightAtomColors=colours,
        highlightAtomRadii=dict.fromkeys(colours, _HIGHLIGHT_RADIUS),
        highlightBonds=[],
    )
    coordinates = np.array(
        [[(point := drawing.GetDrawCoords(atom)).x, point.y] for atom in range(mol.GetNumAtoms())]
    )
    curves = _curves(arcs, coordinates)
    return _finished(drawing).replace("</svg>", f"{curves}</svg>")


def shade(value: float, scale: float) -> tuple[int, int, int]:
    """Return red, green and blue (0 to 255) for a value: white at 0, saturated from `scale` on."""
    full = HIGHER if value > 0 else LOWER
    saturation = min(abs(value) / scale, 1.0)
    red, green, blue = (round(255 + saturation * (channel - 255)) for channel in full)
    return red, green, blue


def full_colour(value: float) -> str:
    """Return the saturated colour for the sign of a value, as an HTML colour."""
    red, green, blue = HIGHER if value > 0 else LOWER
    return f"#{red:02x}{green:02x}{blue:02x}"


def _curves(arcs: Sequence[Arc], coordinates: Float[np.ndarray, "n 2"]) -> str:
    """Draw each arc bent away from the centre of the molecule, so that it rarely covers a bond."""
    middle = coordinates.mean(0)
    largest = max((abs(arc.value) for arc in arcs), default=0.0)
    curves = ""
    for arc in arcs:
        begin, end = coordinates[arc.first], coordinates[arc.second]
        along = end - begin
        normal = np.array([-along[1], along[0]])
        if normal @ ((begin + end) / 2 - middle) < 0:
            normal = -normal
        control = (begin + end) / 2 + 0.45 * normal
        width = _NARROWEST_ARC + (_WIDEST_ARC - _NARROWEST_ARC) * abs(arc.value) / largest
        curves += (
            f"<path class='arc' d='M {begin[0]:.1f},{begin[1]:.1f} "
            f"Q {control[0]:.1f},{control[1]:.1f} {end[0]:.1f},{end[1]:.1f}' style='fill:none;"
            f"stroke:{full_colour(arc.value)};stroke-width:{width:.1f};stroke-dasharray:5 4;"
            "stroke-opacity:0.85'/>\n"
        )
    return curves


def _finished(drawing: rdMolDraw2D.MolDraw2DSVG) -> str:
    drawing.FinishDrawing()
    text = drawing.GetDrawingText()
    return text[text.index("<svg") :]
