from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem
from scipy.sparse.csgraph import shortest_path

from moleblend.chem.molecule import BOND_FEATURE_SIZES, Molecule
from moleblend.chem.parsing import read_smiles
from moleblend.model.relations import (
    N_BOND_KINDS,
    N_HOPS,
    UNREACHABLE,
    bond_kinds,
    relate,
    relate_all,
)
from tests.helpers.molecules import AWKWARD


def graph(n, bonds, bond_features=None):
    """A record of any graph, chemical or not."""
    bonds = np.array(bonds, np.int32).reshape(-1, 2)
    if bond_features is None:
        bond_features = np.zeros((len(bonds), 3))
    return Molecule(
        atoms=np.zeros((n, 9), np.uint8),
        bonds=bonds,
        bond_features=np.array(bond_features, np.uint8).reshape(-1, 3),
        positions=np.zeros((0, n, 3), np.float32),
        id="graph",
        smiles="",
        source_atoms=np.arange(n, dtype=np.int32),
    )


@st.composite
def graphs(draw, most_atoms):
    """Random graphs, from loose atoms to far more bonds than chemistry has."""
    n = draw(st.integers(1, most_atoms))
    pairs = [(i, j) for i in range(n) for j in range(i)]
    bonds = draw(st.lists(st.sampled_from(pairs), unique=True, max_size=3 * n)) if pairs else []
    values = st.tuples(*(st.integers(0, size - 1) for size in BOND_FEATURE_SIZES))
    features = draw(st.lists(values, min_size=len(bonds), max_size=len(bonds)))
    return graph(n, bonds, features)


def lengths_by_scipy(molecule):
    adjacency = np.zeros((molecule.n_atoms, molecule.n_atoms))
    adjacency[tuple(molecule.bonds.T)] = 1
    lengths = shortest_path(adjacency, directed=False, unweighted=True)
    return np.where(np.isinf(lengths), UNREACHABLE, lengths)


def shortest_paths(lengths, start, end):
    """Every shortest path, atom by atom, slowly."""
    if start == end:
        return [[end]]
    return [
        [start, *rest]
        for step in np.flatnonzero(lengths[start] == 1)
        if lengths[step, end] == lengths[start, end] - 1
        for rest in shortest_paths(lengths, step, end)
    ]


def canonical_path(lengths, start, end):
    """Of all shortest paths the one whose largest atom between is smallest; so in both halves."""
    if lengths[start, end] <= 1:
        return [start] if start == end else [start, end]
    pivot = min(max(path[1:-1]) for path in shortest_paths(lengths, start, end))
    return canonical_path(lengths, start, pivot)[:-1] + canonical_path(lengths, pivot, end)


def bonds_on(molecule, path, n_hops):
    """Bond kinds + 1 along a path, zeros past its end."""
    code = {}
    for (i, j), kind in zip(molecule.bonds, bond_kinds(molecule.bond_features), strict=True):
        code[i, j] = code[j, i] = kind + 1
    steps = [code[pair] for pair in pairwise(path)]
    return (steps + [0] * n_hops)[:n_hops]


@pytest.mark.parametrize("smiles", AWKWARD)
def test_path_lengths_of_awkward_molecules_are_those_of_scipy_and_rdkit(smiles):
    molecule = read_smiles(smiles)
    lengths = relate(molecule).path_length
    assert (lengths == lengths_by_scipy(molecule)).all()
    rdkit = Chem.GetDistanceMatrix(Chem.MolFromSmiles(molecule.smiles))
    assert (lengths == np.where(rdkit > 1e6, UNREACHABLE, rdkit)).all()


@settings(max_examples=100, deadline=None)
@given(graphs(most_atoms=20))
def test_path_lengths_of_any_graph_are_those_of_scipy(molecule):
    assert (relate(molecule).path_length == lengths_by_scipy(molecule)).all()


@settings(max_examples=60, deadline=None)
@given(graphs(most_atoms=9), st.integers(1, 6))
def test_the_path_is_the_canonical_one(molecule, n_hops):
    lengths = lengths_by_scipy(molecule)
    edge_path = relate(molecule, n_hops).edge_path
    path = cache(lambda i, j: canonical_path(lengths, i, j))
    for i, j in np.ndindex(lengths.shape):
        expected = [0] * n_hops
        if lengths[i, j] != UNREACHABLE:
            expected = bonds_on(molecule, path(i, j), n_hops)
        assert edge_path[i, j].tolist() == expected, (i, j)


def test_bond_kinds_number_every_combination_once():
    sizes = BOND_FEATURE_SIZES
    every = np.array(list(np.ndindex(*sizes)), np.uint8)
    assert bond_kinds(every).tolist() == list(range(N_BOND_KINDS))
    assert bond_kinds(np.array([[1, 2, 0]], np.uint8)).tolist() == [16]  # 12 + 2 * 2


def test_edge_path_by_hand():
    # 0 -single- 1 =double, conjugated= 2, a 3 that is bonded to nothing
    molecule = graph(4, [(1, 0), (1, 2)], [(0, 0, 0), (1, 0, 1)])
    single, double = 0 + 1, 12 + 1 + 1
    relations = relate(molecule)
    assert relations.edge_path.shape == (4, 4, N_HOPS)
    assert relations.edge_path[0, 2].tolist() == [single, double, 0, 0, 0]
    assert relations.edge_path[2, 0].tolist() == [double, single, 0, 0, 0]
    assert relations.edge_path[1, 0].tolist() == [single, 0, 0, 0, 0]
    assert not relations.edge_path[range(4), range(4)].any()
    assert not relations.edge_path[3].any()
    assert not relations.edge_path[:, 3].any()
    assert relations.path_length[3].tolist() == [UNREACHABLE, UNREACHABLE, UNREACHABLE, 0]


def test_of_two_ways_round_a_ring_the_lower_atom_is_taken():
    # a square 0-1-2-3: from 0 to 2 over 1, not over 3; from 1 to 3 over 0, not over 2
    molecule = graph(4, [(0, 1), (1, 2), (2, 3), (3, 0)], [(t, 0, 0) for t in range(4)])
    edge_path = relate(molecule, 2).edge_path
    assert edge_path[0, 2].tolist() == [1, 13]
    assert edge_path[1, 3].tolist() == [1, 37]


def test_the_first_hops_of_a_long_chain_are_kept():
    n = 210
    molecule = graph(n, [(i, i + 1) for i in range(n - 1)], [(i % 4, 0, 0) for i in range(n - 1)])
    relations = relate(molecule)
    there = np.arange(n)
    assert (relations.path_length == abs(there[:, None] - there)).all()
    assert relations.edge_path[0, n - 1].tolist() == [1, 13, 25, 37, 1]
    assert relations.edge_path[n - 1, 0].tolist() == [12 * (i % 4) + 1 for i in range(208, 203, -1)]


@settings(max_examples=40, deadline=None)
@given(st.lists(graphs(most_atoms=12), min_size=1, max_size=4), st.sampled_from([12, 63, 64, 90]))
def test_many_at_once_and_padded_equals_alone(molecules, n):
    """Beyond 63 atoms lengths and steps stand in wider numbers; nothing else may change."""
    codes = np.zeros((len(molecules), n, n), np.uint8)
    for code, molecule in zip(codes, molecules, strict=True):
        i, j = molecule.bonds.T
        code[i, j] = code[j, i] = bond_kinds(molecule.bond_features) + 1
    together = relate_all(codes, 3)
    for k, molecule in enumerate(molecules):
        m, alone = molecule.n_atoms, relate(molecule, 3)
        assert (together.path_length[k, :m, :m] == alone.path_length).all()
        assert (together.edge_path[k, :m, :m] == alone.edge_path).all()
        assert not together.edge_path[k, m:].any()


def test_a_chain_as_long_as_the_narrow_numbers_reach():
    for n in (62, 63, 64, 65):
        molecule = graph(n, [(i, i + 1) for i in range(n - 1)])
        there = np.arange(n)
        assert (relate(molecule).path_length == abs(there[:, None] - there)).all()
