import pytest
from rdkit import Chem

from moleblend.chem import standardise
from moleblend.chem.molecule import MoleculeError
from moleblend.chem.standardise import (
    canonical,
    canonical_tautomer,
    explicit_hydrogens,
    inchikey,
    largest_fragment,
    neutralise,
)

STEPS = [largest_fragment, neutralise, canonical_tautomer, explicit_hydrogens]


@pytest.mark.parametrize(
    ("smiles", "expected"),
    [
        ("CC(=O)[O-].[Na+]", "CC(=O)[O-]"),
        ("[Na+].[Cl-]", "[Cl-]"),
        ("Cl.CCN", "CCN"),
        ("[O-]P(=O)([O-])OP(=O)([O-])[O-].CO", "CO"),  # organic before inorganic
        ("CCO", "CCO"),
    ],
)
def test_largest_fragment(smiles, expected):
    assert largest_fragment(smiles) == canonical(expected)


@pytest.mark.parametrize(
    ("smiles", "expected"),
    [
        ("CC(=O)[O-]", "CC(=O)O"),
        ("C[NH3+]", "CN"),
        ("[O-]C(=O)C[NH3+]", "OC(=O)CN"),
        ("C[N+](=O)[O-]", "C[N+](=O)[O-]"),
        ("C[N+](C)(C)C", "C[N+](C)(C)C"),
        ("CC(=O)[O-].[Na+]", "CC(=O)[O-].[Na+]"),
    ],
)
def test_neutralise(smiles, expected):
    assert neutralise(smiles) == canonical(expected)


@pytest.mark.parametrize(
    "same",
    [("Oc1ccccn1", "O=c1cccc[nH]1"), ("CC(O)=CC", "CCC(C)=O"), ("Cc1c[nH]cn1", "Cc1cnc[nH]1")],
)
def test_tautomers_become_one(same):
    assert canonical(same[0]) != canonical(same[1])
    assert canonical_tautomer(same[0]) == canonical_tautomer(same[1])


def test_tautomers_keep_stereo():
    left, right = canonical_tautomer("C[C@H](N)C(=O)O"), canonical_tautomer("C[C@@H](N)C(=O)O")
    assert "@" in left
    assert left != right


def test_too_many_tautomers(monkeypatch):
    monkeypatch.setattr(standardise, "MOST_TAUTOMERS", 2)
    with pytest.raises(MoleculeError, match="more than 2 tautomers"):
        canonical_tautomer("O=c1[nH]c(=O)c2[nH]cnc2[nH]1")


def test_explicit_hydrogens():
    assert explicit_hydrogens("CO").count("[H]") == 4
    assert canonical(explicit_hydrogens("C[C@H](N)O")) == canonical("C[C@H](N)O")


def test_inchikey():
    assert inchikey("OCC") == "LFQSCWFLJHTTHZ-UHFFFAOYSA-N"
    assert inchikey("*CC") == ""
    left, right = inchikey("C[C@H](N)C(=O)O"), inchikey("C[C@@H](N)C(=O)O")
    assert left != right
    assert left[:14] == right[:14]


def test_awkward_molecules_survive_every_step(awkward):
    for smiles in awkward:
        for step in STEPS:
            once = step(smiles)
            assert Chem.MolFromSmiles(once) is not None
            assert step(once) == once


def test_what_is_no_molecule():
    for step in (*STEPS, canonical, inchikey):
        with pytest.raises(MoleculeError, match="unclosed ring"):
            step("C1CC")


def test_what_rdkit_says_of_a_failure():
    def fail(_):
        raise RuntimeError("too odd")

    with pytest.raises(MoleculeError, match="CCO: RDKit cannot standardise it: too odd"):
        standardise._apply("CCO", fail)
