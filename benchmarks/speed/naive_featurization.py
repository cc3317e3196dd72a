"""A naive featurization, for comparison: one pair and one bond at a time, numpy only for tables.

`tests/end_to_end/test_benchmarks.py` checks that its batches equal the package's.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from moleblend.chem.molecule import Molecule
from moleblend.chem.parsing import read_smiles
from moleblend.model.relations import N_HOPS, UNREACHABLE, bond_kinds


@dataclass(frozen=True, eq=False)
class NaiveBatch:
    """The fields of `batch.Batch` that follow from the graph."""

    atoms: Int64[Tensor, "b n 9"]
    is_atom: Bool[Tensor, "b n"]
    path_length: Int64[Tensor, "b n n"]
    edge_path: Int64[Tensor, "b n n k"]


def featurise(smiles: Sequence[str]) -> NaiveBatch:
    """Read SMILES with the published features, compute relations and pad them."""
    return collate([read_smiles(text, features="ogb-1") for text in smiles])


def collate(molecules: Sequence[Molecule]) -> NaiveBatch:
    """Compute the relations of each molecule and pad them."""
    b, n = len(molecules), max(molecule.n_atoms for molecule in molecules)
    atoms = torch.zeros((b, n, 9), dtype=torch.int64)
    is_atom = torch.zeros((b, n), dtype=torch.bool)
    path_length = torch.zeros((b, n, n), dtype=torch.int64)
    edge_path = torch.zeros((b, n, n, N_HOPS), dtype=torch.int64)
    for row, molecule in enumerate(molecules):
        m = molecule.n_atoms
        length, path = relate(molecule)
        atoms[row, :m] = torch.from_numpy(molecule.atoms).long()
        is_atom[row, :m] = True
        path_length[row, :m, :m] = torch.from_numpy(length)
        edge_path[row, :m, :m] = torch.from_numpy(path)
    return NaiveBatch(atoms, is_atom, path_length, edge_path)


def relate(
    molecule: Molecule,
) -> tuple[Int64[np.ndarray, "n n"], Int64[np.ndarray, "n n k"]]:
    """Floyd-Warshall with stored pivots; every path is then expanded from its pivots."""
    n = molecule.n_atoms
    bonds: dict[tuple[int, int], int] = {}
    kinds = bond_kinds(molecule.bond_features).tolist()
    for (i, j), kind in zip(molecule.bonds.tolist(), kinds, strict=True):
        bonds[i, j] = bonds[j, i] = kind + 1
    length = np.full((n, n), n + 1)
    for i, j in bonds:
        length[i, j] = 1
    np.fill_diagonal(length, 0)
    pivots = np.full((n, n), -1)
    for pivot in range(n):
        through = length[:, pivot, None] + length[pivot]
        shorter = through < length
        length[shorter] = through[shorter]
        pivots[shorter] = pivot
    length[length > n] = UNREACHABLE

    def expand(i: int, j: int) -> list[int]:
        pivot = int(pivots[i, j])
        return [bonds[i, j]] if pivot < 0 else expand(i, pivot) + expand(pivot, j)

    path = np.zeros((n, n, N_HOPS), np.int64)
    for i in range(n):
        for j in range(n):
            if length[i, j] > 0:
                first = expand(i, j)[:N_HOPS]
                path[i, j, : len(first)] = first
    return length, path
