import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem
from rdkit.Chem import rdFingerprintGenerator
from rdkit.DataStructs import TanimotoSimilarity
from rdkit.ML.Cluster import Butina

from moleblend.chem import fingerprints
from moleblend.chem.fingerprints import (
    cluster,
    count_ecfp4,
    environments,
    nearest,
    scaffold,
)
from moleblend.chem.molecule import MoleculeError
from moleblend.chem.parsing import read_smiles
from tests.helpers.molecules import AWKWARD

CIS, TRANS = "C1CC[C@H]2CCCC[C@H]2C1", "C1CC[C@H]2CCCC[C@@H]2C1"
MIXED = [
    *(f"{'C' * n}O" for n in range(1, 9)),
    *(f"c1ccccc1{'C' * n}" for n in range(6)),
    *(f"c1ccccc1{'C' * n}N" for n in range(6)),
    *(f"O=C(NC1CC1){'C' * n}" for n in range(6)),
    "CCO",
    "OCC",
    "[Na+].[Cl-]",
    "*CC",
]


def prints(smiles):
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    return [generator.GetFingerprint(Chem.MolFromSmiles(text)) for text in smiles]


def as_sets(numbers):
    return {frozenset(np.flatnonzero(numbers == k).tolist()) for k in set(numbers.tolist())}


def test_scaffold():
    assert scaffold("CCO") == ""
    assert scaffold("OC1CC1CC") == "C1CC1"
    assert scaffold(CIS) != scaffold(TRANS)  # chirality is kept
    with pytest.raises(MoleculeError, match="unclosed ring"):
        scaffold("C1CC")


def test_counts():
    counts = count_ecfp4("CCCC", n_bits=512)
    assert counts.shape == (512,)
    assert counts.sum() == 9  # 4 of radius 0, 4 of radius 1, and 1 that is all of butane
    assert counts.max() == 2


def test_nearest_is_the_best_of_all_pairs():
    asked, references = MIXED[::2], MIXED[1::2]
    similarity, place = nearest(asked, references)
    pairs = np.array(
        [[TanimotoSimilarity(a, b) for b in prints(references)] for a in prints(asked)]
    )
    assert np.array_equal(similarity, pairs.max(1))
    assert np.array_equal(place, pairs.argmax(1))
    assert similarity[asked.index("CCO")] == 1  # OCC is among the references
    assert nearest([], references)[0].shape == (0,)
    with pytest.raises(ValueError, match="at least one reference molecule"):
        nearest(asked, [])
    with pytest.raises(MoleculeError, match=r"row 2: C1CC.*unclosed ring"):
        nearest(["C", "C1CC"], references)


@pytest.mark.parametrize("similarity", [0.31, 0.52, 0.71, 0.99])
def test_clusters_are_those_of_rdkit(similarity):
    """In the order in which equal counts are decided as RDKit decides them."""
    smiles = sorted(MIXED, key=lambda text: prints([text])[0].ToBinary())
    bits = prints(smiles)
    distances = [
        1 - TanimotoSimilarity(bits[i], bits[j]) for i in range(len(bits)) for j in range(i)
    ]
    expected = Butina.ClusterData(distances, len(bits), 1 - similarity, isDistData=True)
    found = cluster(smiles, similarity)
    assert as_sets(found) == {frozenset(rows) for rows in expected}
    assert 1 < found.max() + 1 < len(smiles)
    for k, rows in enumerate(expected):
        assert found[rows[0]] == k


@given(st.permutations(range(len(MIXED))))
@settings(max_examples=10, deadline=None)
def test_clusters_do_not_depend_on_the_order(order):
    found = cluster([MIXED[k] for k in order], 0.5)
    assert found.tolist() == cluster(MIXED, 0.5)[list(order)].tolist()


def test_what_is_not_clustered(monkeypatch):
    with pytest.raises(ValueError, match=r"got similarity=1\.5, expected above 0 and at most 1"):
        cluster(["C"], 1.5)
    monkeypatch.setattr(fingerprints, "MOST_TO_CLUSTER", 3)
    with pytest.raises(ValueError, match=r"got 4 molecules to cluster, at most 3"):
        cluster(["C"] * 4)
    assert cluster([]).shape == (0,)


@pytest.mark.parametrize("features", ["cip-1", "ogb-1"])
@pytest.mark.parametrize("smiles", AWKWARD)
def test_environments_are_those_that_are_counted(smiles: str, features: str) -> None:
    molecule = read_smiles(smiles, features=features)
    found = environments(molecule)
    everything = np.ones((1, molecule.n_atoms), bool)
    np.testing.assert_array_equal(found.count(everything)[0], count_ecfp4(molecule.smiles))
    assert found.count(~everything).sum() == 0
    alone = np.eye(molecule.n_atoms, dtype=bool)
    # with one atom alone there is what has no other: itself, and where it has no bond nothing else
    assert (found.count(alone, longest=0).sum(1) == 1).all()


def test_an_environment_is_gone_with_any_of_its_atoms() -> None:
    found = environments(read_smiles("CCO"))
    assert found.count(np.array([[True, True, False]])).sum() == 3  # C, C, and CC
    assert found.count(np.array([[True, False, True]])).sum() == 2
