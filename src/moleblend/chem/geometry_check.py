"""Decide whether the coordinates of a molecule are a geometry in Å, before they are used.

Files say so themselves (`2D` or `3D` in the header of a mol block), but often wrongly: drawings are
exported with `3D`, geometries of flat molecules without it, and coordinates in bohr. The decision
is made from the coordinates, the bonds and the hydrogens, and it is the same for every format.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Float64, Integer
from rdkit import Chem

from moleblend.chem.featurizer import list_atoms, list_bonds

_RADII = np.array([Chem.GetPeriodicTable().GetRcovalent(max(k, 1)) for k in range(119)])
"""Covalent radii in Å (Cordero et al., Dalton Trans. 2008, doi:10.1039/b801115j)."""

_ORDER_FACTORS = ((1.0, 1.5, 2.0, 3.0), (1.0, 0.92, 0.87, 0.79))
"""Bond orders, and the length of such a bond divided by that of a single bond."""

_FLAT = 0.05
"""Largest distance of an atom from the plane of a flat molecule, in Å after scaling."""

_LEAST_RATIO, _LARGEST_RATIO = 0.7, 1.35
"""Range of the median distance to the nearest atom / sum of covalent radii, in Å. It is smallest
for chains of triple bonds without hydrogens (0.78)."""

_UNITS = {"bohr": 1 / 0.529177, "nm": 0.1, "pm": 100.0}
"""Units that are mistaken for Å: what a length of 1 Å is in the unit."""

_CLASH = 0.4
"""Smallest plausible distance of two atoms, divided by the sum of their covalent radii."""

_LENGTH_ERROR, _PATTERN_ERROR = 0.065, 0.09
"""Largest mean deviation of the bonds of a flat geometry from the expected lengths: as they are if
all have one length, and after scaling if they differ."""

_UNIFORM, _MOST, _VARIED = 0.005, 0.6, 0.03
"""A drawing has one length for all bonds, whatever their order: at least `_MOST` of its bonds are
within `_UNIFORM` of the median, although the standard deviation / mean of their expected lengths is
above `_VARIED`."""

_WIDEST_COSINE = float(np.cos(np.radians(118)))
"""Of the widest plausible angle at a tetrahedral carbon; drawings have 120 degrees."""

Kind = Literal["geometry", "drawing", "refused", "none"]


@dataclass(frozen=True)
class GeometryCheck:
    """What the coordinates of a molecule are.

    Attributes:
        kind: a `geometry` in Å; a 2D `drawing`; `refused`, coordinates that are neither; or `none`,
            without coordinates.
        reason: why they are not a geometry, as a clause for messages; empty for `geometry`.
        ratio: median distance to the nearest atom / sum of covalent radii.
    """

    kind: Kind
    reason: str = ""
    ratio: float = 1.0


def check_geometry(
    mol: Chem.Mol, positions: Float[np.ndarray, "n 3"], *, has_wedges: bool | None = None
) -> GeometryCheck:
    """Decide what the coordinates of a molecule are.

    A flat molecule is a drawing if a bond is drawn as a wedge, if an atom with four neighbours or a
    tetrahedral atom with three lies in the plane of its neighbours, or if its bond lengths are
    not those of its bonds. Other coordinates are in Å if the distance of an atom to its nearest
    neighbour, divided by the sum of their covalent radii, is 0.7 to 1.35 (median over atoms).

    Args:
        mol: sanitised; explicit hydrogens, if any, have positions too.
        positions: of all atoms of `mol`.
        has_wedges: whether the input marks bonds as wedges; by default, whether the mol block does
            that `mol` was read from.
    """
    n_atoms, positions = len(positions), np.asarray(positions, np.float64)
    if n_atoms == 0 or (n_atoms > 1 and not (positions != positions[0]).any()):
        return GeometryCheck("none", "no geometry in the input")
    if mol.GetNumBonds() == 0:
        return GeometryCheck("geometry")
    numbers = np.array([atom.GetAtomicNum() for atom in list_atoms(mol)])
    ratios = _ratios(numbers, positions)
    nearest = np.sort(ratios.min(1))
    ratio = float(nearest[n_atoms // 2])
    if ratio > 0 and _is_flat(positions, _FLAT * ratio):
        reason = _drawing_reason(mol, positions, _RADII[numbers], has_wedges=has_wedges)
        if reason:
            return GeometryCheck("drawing", f"the coordinates are a 2D drawing: {reason}", ratio)
    if not _LEAST_RATIO <= ratio <= _LARGEST_RATIO:
        return GeometryCheck("refused", _unit_reason(ratio), ratio or 1.0)
    if nearest[0] < _CLASH:
        i, j = np.unravel_index(int(ratios.argmin()), ratios.shape)
        apart = float(np.linalg.norm(positions[i] - positions[j]))
        return GeometryCheck("refused", f"atoms {i + 1} and {j + 1} are {apart:.2f} Å apart")
    return GeometryCheck("geometry")


def unit_problem(numbers: Integer[np.ndarray, " n"], positions: Float[np.ndarray, "n 3"]) -> str:
    """Return why coordinates of unknown bonds are in a known unit other than Å; or empty."""
    if len(positions) < 2:
        return ""
    ratio = float(np.sort(_ratios(numbers, positions).min(1))[len(positions) // 2])
    is_in_angstrom = _LEAST_RATIO <= ratio <= _LARGEST_RATIO
    return "" if is_in_angstrom or not _likely_unit(ratio) else _unit_reason(ratio)


def _ratios(
    numbers: Integer[np.ndarray, " n"], positions: Float[np.ndarray, "n 3"]
) -> Float64[np.ndarray, "n n"]:
    """Distances divided by the sums of covalent radii; infinite for an atom and itself."""
    radii, square = _RADII[numbers], (positions**2).sum(1)
    squares = square[:, None] + square - 2 * (positions @ positions.T)
    ratios = np.sqrt(np.maximum(squares, 0)) / (radii[:, None] + radii)
    ratios.flat[:: len(radii) + 1] = np.inf
    return ratios


def _is_flat(positions: Float[np.ndarray, "n 3"], tolerance: float) -> bool:
    """Check whether all atoms are within a distance of one plane."""
    if len(positions) < 4:
        return True
    centred = positions - positions.sum(0) / len(positions)
    scatter = centred.T @ centred
    # The product of the three eigenvalues; quick for the usual case.
    a, b, c, d, e, f = scatter[0, 0], *scatter[0, 1:], scatter[1, 1], scatter[1, 2], scatter[2, 2]
    determinant = a * (d * f - e * e) - b * (b * f - c * e) + c * (b * e - c * d)
    if determinant > len(positions) * tolerance**2 * (a + d + f) ** 2 / 4:
        return False  # the smallest eigenvalue is above n tolerance^2
    normal = np.linalg.eigh(scatter)[1][:, 0]
    return bool(np.abs(centred @ normal).max() <= tolerance)


def _drawing_reason(
    mol: Chem.Mol,
    positions: Float[np.ndarray, "n 3"],
    radii: Float64[np.ndarray, " n"],
    *,
    has_wedges: bool | None,
) -> str:
    """Return why flat coordinates are a drawing; empty for a flat geometry."""
    if _has_wedges(mol) if has_wedges is None else has_wedges:
        return "bonds are drawn as wedges"
    for atom in list_atoms(mol):
        if _cannot_be_flat(atom, positions):
            return f"atom {atom.GetIdx() + 1} ({atom.GetSymbol()}) lies in the plane of its bonds"
    orders = np.triu(Chem.GetAdjacencyMatrix(mol, useBO=True))
    i, j = np.nonzero(orders)
    lengths = np.linalg.norm(positions[i] - positions[j], axis=1)
    expected = (radii[i] + radii[j]) * np.interp(orders[i, j], *_ORDER_FACTORS)
    if len(lengths) == 1:  # nothing shows a drawing, and H2, F2 and others have unusual lengths
        return ""
    is_usual = np.abs(lengths / np.median(lengths) - 1) < _UNIFORM
    usual = expected[is_usual]
    if is_usual.mean() >= _MOST and usual.std() / usual.mean() > _VARIED:
        is_drawing = True
    elif is_usual.all():
        is_drawing = np.abs(lengths / expected - 1).mean() > _LENGTH_ERROR
    else:
        scaled = lengths / np.median(lengths / expected)
        is_drawing = np.abs(scaled / expected - 1).mean() > _PATTERN_ERROR
    return "its bond lengths are not those of its bonds" if is_drawing else ""


def has_all_hydrogens(mol: Chem.Mol) -> bool:
    """Tell whether all hydrogens of a molecule are atoms."""
    return all(atom.GetTotalNumHs() == 0 for atom in list_atoms(mol))


def _cannot_be_flat(atom: Chem.Atom, positions: Float[np.ndarray, "n 3"]) -> bool:
    """Check for an atom of a flat molecule whose bonds cannot be in one plane as they are."""
    if atom.GetHybridization() != Chem.HybridizationType.SP3 or atom.GetDegree() < 2:
        return False
    if atom.GetDegree() == 2:  # the angle of a zigzag or of a regular hexagon
        if atom.GetAtomicNum() != 6:
            return False
        i, j = (other.GetIdx() for other in atom.GetNeighbors())
        here = positions[atom.GetIdx()]
        u, v = positions[i] - here, positions[j] - here
        cosine = (u @ v) / max(float(np.linalg.norm(u) * np.linalg.norm(v)), 1e-9)
        return bool(cosine < _WIDEST_COSINE)
    return atom.GetTotalDegree() > 3 or atom.GetAtomicNum() in (15, 16, 33)


def _likely_unit(ratio: float) -> str:
    """Name the unit in which bonds have this length, in Å; empty if there is none."""
    for unit, factor in _UNITS.items():
        if _LEAST_RATIO <= ratio / factor <= _LARGEST_RATIO:
            return unit
    return ""


def _unit_reason(ratio: float) -> str:
    """Describe coordinates in another unit."""
    unit = _likely_unit(ratio)
    reason = f"bonds are {ratio:.3g} times as long as expected in Å"
    return f"{reason}; the unit is probably {unit}" if unit else reason


def _has_wedges(mol: Chem.Mol) -> bool:
    """Tell whether a bond of the mol block is drawn as a wedge, hashed or wavy."""
    return any(
        bond.HasProp(name) and bond.GetProp(name) not in ("", "0")
        for bond in list_bonds(mol)
        if bond.GetBondTypeAsDouble() == 1
        for name in ("_MolFileBondStereo", "_MolFileBondCfg")
    )
