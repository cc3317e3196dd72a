"""Pairwise 2D views of a molecule: the shortest path between two atoms, and the bonds along it.

The third view, the distance, is computed in the encoder (`functional.pair_vectors`), because
training adds noise to the positions.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int16, Integer, UInt8

from moleblend.chem.molecule import BOND_FEATURE_SIZES, Molecule
from moleblend.errors import SettingError

N_HOPS = 5
"""Number of bonds of a path that are kept (the published multi-hop limit)."""

N_BOND_KINDS = BOND_FEATURE_SIZES[0] * BOND_FEATURE_SIZES[1] * BOND_FEATURE_SIZES[2]
"""Number of combinations of the three bond features."""

UNREACHABLE = -1
"""Path length of two atoms that are not connected (the ions of a salt)."""


@dataclass(frozen=True, eq=False)
class Relations:
    """The pairwise 2D views of a molecule, or of b of them.

    Attributes:
        path_length: number of bonds on the shortest path (the paper's SPD); 0 for an atom and
            itself, `UNREACHABLE` where there is no path.
        edge_path: the first k bonds on the canonical shortest path from i to j, as bond kind + 1; 0
            after its end.
    """

    path_length: Int16[np.ndarray, "*b n n"]
    edge_path: UInt8[np.ndarray, "*b n n k"]


def bond_kinds(bond_features: UInt8[np.ndarray, "*m 3"]) -> UInt8[np.ndarray, "*m"]:
    """Number the bonds by their features: 12 type + 2 stereo + conjugated, below `N_BOND_KINDS`."""
    _, n_stereo, n_conjugated = BOND_FEATURE_SIZES
    kind, stereo, conjugated = np.moveaxis(bond_features, -1, 0)
    return (kind * n_stereo + stereo) * n_conjugated + conjugated


def relate(molecule: Molecule, n_hops: int = N_HOPS) -> Relations:
    """Compute the pairwise 2D views of a molecule.

    Args:
        molecule: any molecule; its positions are not used.
        n_hops: number of bonds of a path that are kept.

    Returns:
        The path lengths and the bonds along the paths, see `relate_all`.

    Example:
        >>> from moleblend.chem.parsing import read_smiles
        >>> relate(read_smiles("CCO")).path_length.tolist()
        [[0, 1, 2], [1, 0, 1], [2, 1, 0]]
    """
    first, second = molecule.bonds.T
    codes = np.zeros((1, molecule.n_atoms, molecule.n_atoms), np.uint8)
    codes[0, first, second] = codes[0, second, first] = bond_kinds(molecule.bond_features) + 1
    relations = relate_all(codes, n_hops)
    return Relations(relations.path_length[0], relations.edge_path[0])


def relate_all(codes: UInt8[np.ndarray, "b n n"], n_hops: int = N_HOPS) -> Relations:
    """Compute the pairwise 2D views of b graphs at once.

    Of several shortest paths the canonical one is used: its largest intermediate atom index is the
    smallest possible, and the same holds recursively for both halves. The Floyd-Warshall algorithm
    finds this path when pivots ascend and only a strictly shorter path replaces another.

    Args:
        codes: bond kind + 1 of each pair of atoms, the same for (i, j) and (j, i); 0 where there is
            no bond. An atom without bonds has a path to itself only.
        n_hops: number of bonds of a path that are kept.

    Reference:
        Yu et al., ICLR 2024, arXiv:2307.06235 (their SPD and edge relations).
    """
    b, n, _ = codes.shape
    length, step = _shortest(codes)
    path_length = length.astype(np.int16)

    # After its first bond, a path continues as the path from its second atom.
    row = n * np.arange(b * n).reshape(b, n, 1)
    bond = codes.reshape(-1).take(row + step)
    follow = n * (n * np.arange(b).reshape(b, 1, 1) + step) + np.arange(n)
    edge_path = np.empty((b, n, n, n_hops), np.uint8)
    for hop in range(n_hops):
        edge_path[..., hop] = bond
        bond = bond.reshape(-1).take(follow)
    return Relations(path_length=path_length, edge_path=edge_path)


def _shortest(
    codes: UInt8[np.ndarray, "b n n"],
) -> tuple[Integer[np.ndarray, "b n n"], Integer[np.ndarray, "b n n"]]:
    """Find the length of each canonical path, and the atom after i on the path from i to j.

    Both are packed into one integer, [length | tie | next atom], so that one minimum decides both.
    A path through the pivot has its tie bit set during the comparison, so it loses to an existing
    path of the same length.
    """
    n = codes.shape[1]
    # The longest path has n - 1 bonds, and the sum of two "too far" must not overflow.
    kind, atom_bits, too_far = (np.uint16, 8, 63) if n <= 63 else (np.uint32, 16, 16_383)
    if n > too_far:
        raise SettingError(f"got a molecule with {n:,} atoms, expected at most {too_far:,}")
    one = kind(1)
    tie, length_bits = one << kind(atom_bits), ~((one << kind(atom_bits + 1)) - one)
    length = np.where(codes > 0, one, kind(too_far))
    length[:, np.arange(n), np.arange(n)] = 0
    key = (length << kind(atom_bits + 1)) | np.arange(n, dtype=kind)

    # An atom with fewer than two bonds is not an intermediate atom of any path.
    for pivot in np.flatnonzero(((codes > 0).sum(1) > 1).any(0)):
        onwards = (key[:, pivot] & length_bits) | tie
        np.minimum(key, key[:, :, pivot, None] + onwards[:, None], out=key)
        key &= ~tie
    length = (key >> kind(atom_bits + 1)).astype(np.int32)
    length[length >= too_far] = UNREACHABLE
    return length, (key & (tie - one)).astype(np.intp)
