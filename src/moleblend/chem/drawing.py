"""Molecules as SVG pictures, by RDKit: as they are, or coloured by what each atom contributes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from rdkit.Chem.Draw import rdMolDraw2D

from moleblend.chem.molecule import Molecule
from moleblend.chem.parsing import in_order, parse

LOWER, HIGHER = (0, 114, 178), (230, 159, 0)
"""Blue and orange of Okabe and Ito, which colour-blind eyes tell apart; white lies between."""

_SPOT = 0.42
"""Radius of an atom's spot in units of the drawing (a bond is about 1.5 long)."""

_LONGEST_BOND = 42.0
"""Pixels; a small molecule does not fill its picture."""

_WIDEST_ARC, _NARROWEST_ARC = 3.0, 1.0
"""Pixels."""


@dataclass(frozen=True)
class Arc:
    """What the relation of two atoms contributes.

    Attributes:
        first: atom of the molecule's record, counted from 0.
        second: another one.
        value: in the unit of the target.
    """

    first: int
    second: int
    value: float


def draw_svg(smiles: str, width: int, height: int) -> str:
    """Draw a molecule as an `<svg>` element of `width` x `height` pixels on no background.

    Raises:
        MoleculeError: RDKit refuses the SMILES.
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
    """Draw a molecule whose atoms lie on spots: orange where they raise, blue where they lower.

    Args:
        molecule: its record gives atoms their order.
        contributions: of each atom, in the unit of the target.
        scale: contributions of this size and more have the full colour; above 0.
        arcs: drawn as dashed curves, orange or blue, the widest for the largest of them.
        notes: short text beside atoms.

    Returns:
        An `<svg>` element on no background, larger for larger molecules.

    Raises:
        MoleculeError: RDKit cannot lay the record's SMILES on the record.
    """
    mol = in_order(molecule)
    for atom, note in (notes or {}).items():
        mol.GetAtomWithIdx(atom).SetProp("atomNote", note)
    side = int(np.clip(150 + 60 * molecule.n_atoms**0.5, 360, 900))
    drawing = rdMolDraw2D.MolDraw2DSVG(side, int(0.65 * side))
    options = drawing.drawOptions()
    options.clearBackground = False
    options.useBWAtomPalette()  # the colour of an atom is that of its contribution
    options.atomHighlightsAreCircles = True
    options.fillHighlights = True
    options.padding = 0.1
    options.fixedBondLength = _LONGEST_BOND
    options.annotationFontScale = 0.8
    colours = {
        atom: tuple(part / 255 for part in shade(float(value), scale))
        for atom, value in enumerate(contributions)
    }
    rdMolDraw2D.PrepareAndDrawMolecule(
        drawing,
        mol,
        highlightAtoms=list(colours),
        highlightAtomColors=colours,
        highlightAtomRadii=dict.fromkeys(colours, _SPOT),
        highlightBonds=[],
    )
    places = np.array(
        [[(point := drawing.GetDrawCoords(atom)).x, point.y] for atom in range(mol.GetNumAtoms())]
    )
    curves = _curves(arcs, places)
    return _finished(drawing).replace("</svg>", f"{curves}</svg>")


def shade(value: float, scale: float) -> tuple[int, int, int]:
    """Give red, green and blue (0 to 255) of a value: white at 0, the full colour at `scale`."""
    full = HIGHER if value > 0 else LOWER
    share = min(abs(value) / scale, 1.0)
    red, green, blue = (round(255 + share * (part - 255)) for part in full)
    return red, green, blue


def full_colour(value: float) -> str:
    """Give the full colour of a value's sign, as a page writes it."""
    red, green, blue = HIGHER if value > 0 else LOWER
    return f"#{red:02x}{green:02x}{blue:02x}"


def _curves(arcs: Sequence[Arc], places: Float[np.ndarray, "n 2"]) -> str:
    """Bend each arc away from the middle of the molecule, so that it seldom covers a bond."""
    middle = places.mean(0)
    largest = max((abs(arc.value) for arc in arcs), default=0.0)
    curves = ""
    for arc in arcs:
        begin, end = places[arc.first], places[arc.second]
        along = end - begin
        aside = np.array([-along[1], along[0]])
        if aside @ ((begin + end) / 2 - middle) < 0:
            aside = -aside
        bent = (begin + end) / 2 + 0.45 * aside
        width = _NARROWEST_ARC + (_WIDEST_ARC - _NARROWEST_ARC) * abs(arc.value) / largest
        curves += (
            f"<path class='arc' d='M {begin[0]:.1f},{begin[1]:.1f} Q {bent[0]:.1f},{bent[1]:.1f} "
            f"{end[0]:.1f},{end[1]:.1f}' style='fill:none;"
            f"stroke:{full_colour(arc.value)};stroke-width:{width:.1f};stroke-dasharray:5 4;"
            "stroke-opacity:0.85'/>\n"
        )
    return curves


def _finished(drawing: rdMolDraw2D.MolDraw2DSVG) -> str:
    drawing.FinishDrawing()
    text = drawing.GetDrawingText()
    return text[text.index("<svg") :]
