import re

import numpy as np
import pytest

from moleblend.chem.drawing import Arc, draw_contributions, draw_svg, shade
from moleblend.chem.geometry import add_positions
from moleblend.chem.parsing import read_mol_block, read_smiles

SPOT = re.compile(r"<ellipse cx='([\d.]+)' cy='([\d.]+)'[^>]*fill:(#[0-9A-F]{6})")


def spots(svg: str) -> list[str]:
    """The colours of the spots, in the order of the record's atoms."""
    return [colour.lower() for _, _, colour in SPOT.findall(svg)]


def test_drawing():
    svg = draw_svg("c1ccccc1O", 200, 150)
    assert svg.startswith("<svg")
    assert "width='200px'" in svg
    assert "<rect" not in svg


def test_white_at_nothing_and_the_full_colour_at_the_scale():
    assert shade(0.0, 2.0) == (255, 255, 255)
    assert shade(2.0, 2.0) == shade(9.0, 2.0) == (230, 159, 0)
    assert shade(-2.0, 2.0) == (0, 114, 178)
    up, down = shade(1.0, 2.0), shade(-1.0, 2.0)
    assert up == (242, 207, 128)
    assert down == (128, 184, 216)


def test_each_atom_has_its_colour():
    molecule = read_smiles("OCC")  # the record says CCO
    svg = draw_contributions(molecule, np.array([0.0, -1.0, 1.0]), 1.0)
    assert spots(svg) == ["#ffffff", "#0072b2", "#e69f00"]
    x = [float(place) for place, _, _ in SPOT.findall(svg)]
    assert x == sorted(x)  # RDKit lays a chain from left to right


@pytest.mark.parametrize("smiles", ["[H]/N=C(/C)CC", "[Na+].[O-]C(=O)c1ccccc1", "[H+]", "C" * 100])
def test_awkward_molecules_are_drawn(smiles):
    molecule = read_smiles(smiles)
    svg = draw_contributions(molecule, np.ones(molecule.n_atoms), 1.0)
    assert spots(svg) == ["#e69f00"] * molecule.n_atoms


def test_arcs_join_their_atoms():
    molecule = read_smiles("CCO")
    arcs = [Arc(0, 2, -0.5), Arc(1, 2, 0.1)]
    svg = draw_contributions(molecule, np.zeros(3), 1.0, arcs=arcs, notes={2: "O3"})
    found = re.findall(r"class='arc' d='M ([\d.]+),([\d.]+) Q [^ ]+ ([\d.]+),([\d.]+)'", svg)
    places = [(float(x), float(y)) for x, y, _ in SPOT.findall(svg)]
    for arc, (x1, y1, x2, y2) in zip(arcs, found, strict=True):
        assert (float(x1), float(y1)) == pytest.approx(places[arc.first], abs=0.2)
        assert (float(x2), float(y2)) == pytest.approx(places[arc.second], abs=0.2)
    widths = [float(width) for width in re.findall(r"stroke-width:([\d.]+);stroke-dasharray", svg)]
    assert widths[0] > widths[1]
    assert "stroke:#0072b2" in svg
    assert "class='note'" in svg


def test_hydrogens_of_a_mol_block_are_not_drawn():
    block = "\n\n\n  3  2  0  0  0  0  0  0  0  0999 V2000\n"
    for element, x in (("H", 0.0), ("O", 0.96), ("H", 1.3)):
        block += f"{x:10.4f}{x / 2:10.4f}{0.1:10.4f} {element:3}" + " 0" * 12 + "\n"
    molecule = read_mol_block(block + "  1  2  1  0\n  2  3  1  0\nM  END\n")
    assert molecule.source_atoms.tolist() == [1]
    assert spots(draw_contributions(molecule, np.array([-1.0]), 1.0)) == ["#0072b2"]


def test_positions_do_not_change_a_drawing():
    flat = read_smiles("CC(=O)Nc1ccc(O)cc1")
    values = np.linspace(-1, 1, flat.n_atoms)
    placed = add_positions(flat, seed=0)
    assert draw_contributions(flat, values, 1.0) == draw_contributions(placed, values, 1.0)
