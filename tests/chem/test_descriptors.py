import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import Crippen, Descriptors, rdMolDescriptors

from moleblend.chem.descriptors import (
    DESCRIPTORS,
    FEATURES,
    PROPERTY_NAMES,
    compute_descriptors,
    features_and_fingerprint,
    molecule_features,
)
from moleblend.chem.fingerprints import count_ecfp4, packed_ecfp4
from moleblend.chem.molecule import N_DESCRIPTORS, FeatureVersion
from moleblend.chem.parsing import read_mol_block, read_smiles
from tests.helpers.molecules import AWKWARD, DRUGS

ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"


def test_features_that_are_joined_to_a_model():
    found = molecule_features(["CCO", "*CC", "[Na+].[Cl-]"], ["descriptors", "ecfp4"])
    n = len(DESCRIPTORS)
    assert found.shape == (3, n + 2048)
    assert sum(FEATURES.values()) == n + 2048 + len(PROPERTY_NAMES)
    assert np.isfinite(found).all()
    assert found[0, DESCRIPTORS.index("MolWt")] == pytest.approx(46.069, abs=1e-3)
    assert found[0, DESCRIPTORS.index("NumHDonors")] == 1
    np.testing.assert_allclose(found[0, n:], np.log1p(count_ecfp4("CCO")), rtol=1e-6)
    assert molecule_features(["CCO"], []).shape == (1, 0)


def test_properties_are_those_of_rdkit_with_0_where_there_is_no_value() -> None:
    expected = molecule_features([ASPIRIN, "[Na+].[Cl-]"], ["properties"])
    assert np.isfinite(expected).all()
    assert not expected[1].all()
    assert len(set(PROPERTY_NAMES)) == len(PROPERTY_NAMES) == expected.shape[1]
    values = dict(zip(PROPERTY_NAMES, expected[0], strict=True))
    molecule = Chem.MolFromSmiles(ASPIRIN)
    for name in ("CrippenClogP", "tpsa"):
        function = {"CrippenClogP": Crippen.MolLogP, "tpsa": Descriptors.TPSA}[name]
        assert values[name] == pytest.approx(function(molecule), rel=1e-5)
    for name in ("SlogP_VSA2", "SMR_VSA7", "PEOE_VSA1", "PEOE_VSA14"):
        assert values[name] == pytest.approx(
            getattr(Descriptors, name)(molecule), rel=1e-5, abs=1e-6
        )
    assert values["MQN1"] == rdMolDescriptors.MQNs_(molecule)[0]


def test_a_molecule_is_described_by_what_rdkit_computes_one_by_one():
    molecule = Chem.MolFromSmiles(ASPIRIN)
    (found,) = compute_descriptors([ASPIRIN])
    assert found.shape == (N_DESCRIPTORS,)
    assert found.dtype == np.float32
    values = found.astype(float)
    for value in (
        *(Descriptors.ExactMolWt(molecule), Crippen.MolLogP(molecule), Crippen.MolMR(molecule)),
        *(Descriptors.TPSA(molecule), Descriptors.Kappa3(molecule), Descriptors.Chi4v(molecule)),
    ):
        assert np.isclose(values, value, rtol=1e-5).any(), value
    expected = [*rdMolDescriptors.MQNs_(molecule), *rdMolDescriptors.SlogP_VSA_(molecule)]
    expected += [*rdMolDescriptors.SMR_VSA_(molecule), *rdMolDescriptors.PEOE_VSA_(molecule)]
    np.testing.assert_allclose(values[-len(expected) :], expected, rtol=1e-5)


def test_descriptions_do_not_depend_on_how_a_molecule_is_written():
    written = [read_smiles(text).smiles for text in (ASPIRIN, "OC(=O)c1ccccc1OC(C)=O")]
    np.testing.assert_array_equal(*compute_descriptors(written))


def test_what_rdkit_cannot_compute_is_not_known():
    platin, nonsense, empty = compute_descriptors(["Cl[Pt](Cl)(<-N)<-N", "no molecule", "*"])
    assert np.isfinite(platin).all()
    assert platin[-1] > 40  # Å2: platinum has no known charge, and counts as very positive
    assert np.isnan(nonsense).all()
    assert np.isfinite(empty).all()
    assert compute_descriptors([]).shape == (0, N_DESCRIPTORS)


@pytest.mark.parametrize("features", ["cip-1", "ogb-1"])
@pytest.mark.parametrize("smiles", [*AWKWARD, *DRUGS, "OCC", "[CH3:1][CH2:2]O"])
def test_one_parse_gives_the_features_and_the_fingerprint_of_separate_parses(
    smiles: str, features: FeatureVersion
):
    molecule = read_smiles(smiles, features=features)
    kinds = ("ecfp4", "descriptors")
    values, fingerprint = features_and_fingerprint(molecule, kinds)
    np.testing.assert_array_equal(values, molecule_features([molecule.smiles], kinds)[0])
    np.testing.assert_array_equal(fingerprint, packed_ecfp4([molecule.smiles])[0])
    read_smiles("CCCCCC")
    again, same = features_and_fingerprint(molecule, kinds[::-1])
    np.testing.assert_array_equal(again, np.roll(values, len(DESCRIPTORS)))
    np.testing.assert_array_equal(same, fingerprint)
    assert features_and_fingerprint(molecule)[0].shape == (0,)


def test_a_molecule_that_was_just_read_is_not_parsed_again(monkeypatch: pytest.MonkeyPatch):
    parsed: list[str] = []
    read = Chem.MolFromSmiles

    def count(text: str, *parameters: Chem.SmilesParserParams) -> Chem.Mol | None:
        parsed.append(text)
        return read(text, *parameters)

    monkeypatch.setattr(Chem, "MolFromSmiles", count)
    first = read_smiles(ASPIRIN)
    features_and_fingerprint(first, ("ecfp4", "descriptors"))
    assert parsed == [ASPIRIN]
    second = read_smiles("OCC")  # is written as CCO, and read again
    features_and_fingerprint(second, ("ecfp4", "descriptors"))
    assert parsed == [ASPIRIN, "OCC", "CCO"]
    features_and_fingerprint(first, ("ecfp4", "descriptors"))  # another molecule was read since
    assert parsed == [ASPIRIN, "OCC", "CCO", ASPIRIN]


def test_the_fingerprint_of_a_mol_block_is_that_of_its_smiles():
    block = Chem.MolToMolBlock(Chem.MolFromSmiles("OCC"))
    molecule = read_mol_block(block, features="ogb-1")
    _, fingerprint = features_and_fingerprint(molecule)
    np.testing.assert_array_equal(fingerprint, packed_ecfp4(["CCO"])[0])
