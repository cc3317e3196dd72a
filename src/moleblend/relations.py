"""How two atoms of one molecule are related in 2D: the shortest path, and the bonds along it.

The third relation, the distance, is a function of positions that training perturbs; the encoder
takes it from them (`encoder.pair_vectors`).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int16, UInt8

from moleblend.molecule import BOND_FEATURE_SIZES, Molecule

N_HOPS = 5
"""Bonds of a path that are kept (the published multi-hop limit)."""

N_BOND_KINDS = BOND_FEATURE_SIZES[0] * BOND_FEATURE_SIZES[1] * BOND_FEATURE_SIZES[2]
"""Number of combinations of the three bond features."""

UNREACHABLE = -1
"""Path length of two atoms that no path joins (the ions of a salt)."""

_FAR = 16_000  # longer than any path; twice this still fits int16


@dataclass(frozen=True, eq=False)
class Relations:
    """The pairwise 2D views of a molecule.

    Attributes:
        path_length: bonds on the shortest path; 0 for an atom and itself, `UNREACHABLE` where there
            is no path.
        edge_path: the first k bonds on the canonical shortest path from i to j, as bond kind + 1; 0
            past its end.
    """

    path_length: Int16[np.ndarray, "n n"]
    edge_path: UInt8[np.ndarray, "n n k"]


def bond_kinds(bond_features: UInt8[np.ndarray, "*m 3"]) -> UInt8[np.ndarray, "*m"]:
    """Number the bonds by their features: 12 type + 2 stereo + conjugated, below `N_BOND_KINDS`."""
    _, n_stereo, n_conjugated = BOND_FEATURE_SIZES
    kind, stereo, conjugated = np.moveaxis(bond_features, -1, 0)
    return (kind * n_stereo + stereo) * n_conjugated + conjugated


def relate(molecule: Molecule, n_hops: int = N_HOPS) -> Relations:
    """Compute the pairwise 2D views of a molecule.

    Among all shortest paths the canonical one is taken: the one whose largest intermediate atom
    index is smallest, and so on in both halves. It is what Floyd and Warshall's algorithm finds
    when pivots ascend and only a strictly shorter path replaces another.

    Args:
        molecule: any molecule; its positions play no role.
        n_hops: bonds kept of a path.

    Returns:
        The path lengths and the bonds along the paths.

    Reference:
        Yu et al., ICLR 2024, arXiv:2307.06235 (their SPD and edge relations).

    Example:
        >>> from moleblend.chem import read_smiles
        >>> relate(read_smiles("CCO")).path_length.tolist()
        [[0, 1, 2], [1, 0, 1], [2, 1, 0]]
    """
    n = molecule.n_atoms
    first, second = molecule.bonds.T
    code = np.zeros((n, n), np.uint8)
    code[first, second] = code[second, first] = bond_kinds(molecule.bond_features) + 1

    length = np.where(code > 0, 1, _FAR).astype(np.int16)
    np.fill_diagonal(length, 0)
    # The next atom on the way from i to j.
    step = np.broadcast_to(np.arange(n, dtype=np.int16), (n, n)).copy()
    # The end of a chain lies between no two atoms.
    for pivot in np.flatnonzero((code > 0).sum(0) > 1):
        through = length[:, pivot, None] + length[pivot]
        i, j = np.nonzero(through < length)
        length[i, j] = through[i, j]
        step[i, j] = step[i, pivot]

    edge_path = np.zeros((n, n, n_hops), np.uint8)
    here = np.broadcast_to(np.arange(n, dtype=np.int16)[:, None], (n, n))
    goal = np.arange(n)
    for hop in range(n_hops):
        there = step[here, goal]
        edge_path[:, :, hop] = code[here, there]  # 0 once the goal is reached, or when it never is
        here = there
    length[length >= _FAR] = UNREACHABLE
    return Relations(path_length=length, edge_path=edge_path)
