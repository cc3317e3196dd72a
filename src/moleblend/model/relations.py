"""How two atoms of one molecule are related in 2D: the shortest path, and the bonds along it.

The third relation, the distance, is a function of positions that training perturbs; the encoder
takes it from them (`encoder.pair_vectors`).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int16, Integer, UInt8

from moleblend.chem.molecule import BOND_FEATURE_SIZES, Molecule

N_HOPS = 5
"""Bonds of a path that are kept (the published multi-hop limit)."""

N_BOND_KINDS = BOND_FEATURE_SIZES[0] * BOND_FEATURE_SIZES[1] * BOND_FEATURE_SIZES[2]
"""Number of combinations of the three bond features."""

UNREACHABLE = -1
"""Path length of two atoms that no path joins (the ions of a salt)."""


@dataclass(frozen=True, eq=False)
class Relations:
    """The pairwise 2D views of a molecule, or of b of them.

    Attributes:
        path_length: bonds on the shortest path; 0 for an atom and itself, `UNREACHABLE` where there
            is no path.
        edge_path: the first k bonds on the canonical shortest path from i to j, as bond kind + 1; 0
            past its end.
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
        molecule: any molecule; its positions play no role.
        n_hops: bonds kept of a path.

    Returns:
        The path lengths and the bonds along the paths, as `relate_all` finds them.

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

    Among all shortest paths the canonical one is taken: the one whose largest intermediate atom
    index is smallest, and so on in both halves. It is what Floyd and Warshall's algorithm finds
    when pivots ascend and only a strictly shorter path replaces another.

    Args:
        codes: bond kind + 1 of each pair of atoms, the same for (i, j) and (j, i); 0 where there is
            no bond. An atom without any bond is related to itself alone.
        n_hops: bonds kept of a path.

    Reference:
        Yu et al., ICLR 2024, arXiv:2307.06235 (their SPD and edge relations).
    """
    b, n, _ = codes.shape
    length, step = _shortest(codes)
    path_length = length.astype(np.int16)

    # The bonds of a path after its first are those of the path from its second atom.
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
    """Find the length of each canonical path, and the atom after i on the way from i to j.

    Both stand in one number, [length | tie | next atom], so that one minimum settles them: a way
    through the pivot has its tie bit set while it is compared, and loses to one as short.
    """
    n = codes.shape[1]
    # The longest path has n - 1 bonds, and two of "too far" have to fit.
    kind, atom_bits, too_far = (np.uint16, 8, 63) if n <= 63 else (np.uint32, 16, 16_383)
    if n > too_far:
        raise ValueError(f"at most {too_far:,} atoms can be related, {n:,} came")
    one = kind(1)
    tie, length_bits = one << kind(atom_bits), ~((one << kind(atom_bits + 1)) - one)
    length = np.where(codes > 0, one, kind(too_far))
    length[:, np.arange(n), np.arange(n)] = 0
    key = (length << kind(atom_bits + 1)) | np.arange(n, dtype=kind)

    # The end of a chain lies between no two atoms.
    for pivot in np.flatnonzero(((codes > 0).sum(1) > 1).any(0)):
        onwards = (key[:, pivot] & length_bits) | tie
        np.minimum(key, key[:, :, pivot, None] + onwards[:, None], out=key)
        key &= ~tie
    length = (key >> kind(atom_bits + 1)).astype(np.int32)
    length[length >= too_far] = UNREACHABLE
    return length, (key & (tie - one)).astype(np.intp)
