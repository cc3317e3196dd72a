"""What makes two rows the same molecule, and structures that represent many."""

import pytest
from rdkit import Chem

from moleblend.chem.counterions import COUNTERIONS, is_counterion
from moleblend.chem.molecule import MoleculeError
from moleblend.chem.parsing import read_mol_block, read_smiles
from moleblend.chem.standardise import (
    identity,
    largest_fragment,
    normalise,
    removed_fragments,
)

PURE, MIRROR = "C[C@H]1CN(C(C)=O)CCO1", "C[C@@H]1CN(C(C)=O)CCO1"


def v3000(smiles: str) -> str:
    return Chem.MolToMolBlock(Chem.MolFromSmiles(smiles), forceV3000=True)


def test_racemate_one_of_two_and_pure_are_three_molecules() -> None:
    forms = [PURE, f"{PURE} |&1:1|", f"{PURE} |o1:1|", "CC1CN(C(C)=O)CCO1"]
    assert len({identity(text) for text in forms}) == 4
    # A racemate is the same molecule, whichever enantiomer is drawn.
    assert identity(f"{PURE} |&1:1|") == identity(f"{MIRROR} |&1:1|")
    assert identity(f"{PURE} |a:1|") == identity(PURE)


@pytest.mark.parametrize("group", ["&1:1", "o1:1"])
def test_grouped_centres_count_as_unspecified(group: str) -> None:
    record = read_smiles(f"{PURE} |{group}|")
    assert record.smiles == read_smiles("CC1CN(C(C)=O)CCO1").smiles
    assert record.stereo_identity
    assert not read_smiles(PURE).stereo_identity
    from_block = read_mol_block(v3000(f"{PURE} |{group}|"))
    assert from_block.stereo_identity == record.stereo_identity
    assert from_block.smiles == record.smiles


def test_a_centre_outside_the_group_keeps_its_label() -> None:
    record = read_smiles("C[C@H](F)C[C@H](Cl)O |&1:1|")
    assert record.smiles.count("[C@") == 1


def test_atropisomers_are_two_molecules() -> None:
    biaryl = "CCc1cccc(C(F)(F)F)c1-c1c(C)cccc1Cl"
    up, down = f"{biaryl} |wU:11.10|", f"{biaryl} |wD:11.10|"
    assert len({identity(up), identity(down), identity(biaryl)}) == 3
    assert read_smiles(up).smiles == read_smiles(biaryl).smiles


@pytest.mark.parametrize(
    ("smiles", "words"),
    [
        ("*c1ccccc1 |$_R1;;;;;;$|", "R group"),
        ("c1ccccc1[Pr] |$;;;;;;$|", "propyl"),
    ],
)
def test_extended_smiles_that_stand_for_many(smiles: str, words: str) -> None:
    with pytest.raises(MoleculeError, match=words):
        read_smiles(smiles)


def test_mol_blocks_that_stand_for_many() -> None:
    block = Chem.MolToMolBlock(Chem.MolFromSmiles("Cc1ccccc1"))
    lines = block.split("\n")
    end = lines.index("M  END")
    listed = [*lines[:end], "M  ALS   1  2 F N   O   ", *lines[end:]]
    for text, words in (
        ("\n".join(listed), "represents many molecules: atom 1"),
        (block.replace(" C   0", " R#  0", 1), "R group"),
        (block.replace("  1  2  1  0", "  1  2  8  0"), "query bond"),
        (block.replace(" C   0", " Ac  0", 1), "acetyl"),
    ):
        with pytest.raises(MoleculeError, match=words):
            read_mol_block(text)


def test_the_parent_of_a_salt() -> None:
    meglumine, drug = "CNC[C@H](O)[C@@H](O)[C@H](O)[C@H](O)CO", "O=C(O)c1ccc(Cl)cc1"
    assert largest_fragment(f"{meglumine}.{drug}") == drug
    assert removed_fragments(f"{meglumine}.{drug}") == [read_smiles(meglumine).smiles]
    assert largest_fragment("CC(=O)O[Na]") == largest_fragment("CC(=O)[O-].[Na+]") == "CC(=O)[O-]"
    assert removed_fragments("CC(=O)[O-].[Na+]") == []
    # Of two counter-ions the larger is the parent.
    assert largest_fragment("C[N+](C)(C)CCO.O=C([O-])c1ccccc1O") == "O=C([O-])c1ccccc1O"
    assert largest_fragment("CCCCCCCC.CC(C)c1ccccc1O") == "CC(C)c1ccccc1O"


@pytest.mark.parametrize("name", COUNTERIONS)
def test_counterions_are_known_in_any_state(name: str) -> None:
    mol = Chem.MolFromSmiles(COUNTERIONS[name])
    assert is_counterion(mol)


def test_charged_counterions_are_known() -> None:
    for smiles in ("CC(=O)[O-]", "CS(=O)(=O)[O-]", "CC[NH2+]CC", "OC(=O)/C=C/C(=O)[O-]"):
        assert is_counterion(Chem.MolFromSmiles(smiles))
    assert not is_counterion(Chem.MolFromSmiles("CCO"))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("CS(C)=O", "C[S+](C)[O-]"),
        ("CP(C)(C)=O", "C[P+](C)(C)[O-]"),
        ("CN=[N+]=[N-]", "C[N-][N+]#N"),
        ("CN(=O)=O", "C[N+](=O)[O-]"),
    ],
)
def test_a_group_is_written_in_one_way(one: str, other: str) -> None:
    assert normalise(one) == normalise(other)
    assert "[S+]" not in normalise(other)
