"""Identity of a molecule: what must agree for two rows to be the same molecule.

The identity is the canonical SMILES, with isotopes, and what the features of a model do not
represent: groups of stereo centres (a racemate, or one of two enantiomers) and hindered rotation
about a bond (atropisomers). Rows of different identity are never merged, although a model sees no
difference between them.
"""

from rdkit import Chem

from moleblend.chem.featurizer import list_atoms, list_bonds
from moleblend.chem.molecule import MoleculeError

_AXIAL = (Chem.BondStereo.STEREOATROPCW, Chem.BondStereo.STEREOATROPCCW)

_FIELDS = Chem.CXSmilesFields.CX_ENHANCEDSTEREO | Chem.CXSmilesFields.CX_BOND_ATROPISOMER

_ABBREVIATIONS = {89: "acetyl", 59: "propyl"}
"""Elements that drawing programs also write for a group."""

_POLYMERS = {"SRU", "MON", "MER", "COP", "CRO", "MOD", "GRA", "MIX", "FOR", "ANY", "GEN"}
"""Types of substance groups that do not have one composition."""


def read_stereo_groups(mol: Chem.Mol) -> tuple[Chem.Mol, str]:
    """Remove the stereo that features do not represent, and describe it.

    Centres in a group that is mixed (`&`) or unknown (`o`) become unspecified, because a model must
    not give a racemate the prediction of one enantiomer.

    Returns:
        The molecule, and its identity as canonical CXSMILES; "" if the canonical SMILES is the
        identity.

    Reference:
        Enhanced stereo of the CTfile formats (BIOVIA 2020) and of ChemAxon's extended SMILES.
    """
    groups = [
        group
        for group in mol.GetStereoGroups()
        if group.GetGroupType() != Chem.StereoGroupType.STEREO_ABSOLUTE
    ]
    axes = [b for b in list_bonds(mol) if b.GetStereo() in _AXIAL]
    if not groups and not axes:
        return mol, ""
    canonical = Chem.RWMol(mol)
    canonical.RemoveAllConformers()
    canonical.SetStereoGroups(
        [
            Chem.CreateStereoGroup(
                group.GetGroupType(), canonical, [atom.GetIdx() for atom in group.GetAtoms()]
            )
            for group in groups
        ]
    )
    Chem.CanonicalizeEnhancedStereo(canonical)
    identity = Chem.MolToCXSmiles(canonical, Chem.SmilesWriteParams(), _FIELDS)
    plain = Chem.RWMol(mol)
    for group in groups:
        for atom in group.GetAtoms():
            plain.GetAtomWithIdx(atom.GetIdx()).SetChiralTag(Chem.ChiralType.CHI_UNSPECIFIED)
    for bond in axes:
        plain.GetBondWithIdx(bond.GetIdx()).SetStereo(Chem.BondStereo.STEREONONE)
    plain.SetStereoGroups([])
    return plain.GetMol(), identity if "|" in identity else ""


def check_specific(mol: Chem.Mol, name: str) -> None:
    """Refuse a structure that represents many molecules.

    Raises:
        MoleculeError: an atom or bond is a query (a list, any atom, an R group), a part is a
            polymer, or an element is an abbreviation of a group.
    """
    has_query = mol.HasQuery()
    for atom in list_atoms(mol):
        number = atom.GetAtomicNum()
        if number == 0 or (has_query and atom.HasQuery()):
            kind = "an R group or any atom" if number == 0 else "a query or a list"
            raise MoleculeError(
                f"{name}: represents many molecules: atom {atom.GetIdx() + 1} is {kind}"
            )
        if number in _ABBREVIATIONS and atom.GetDegree() == 1 and not atom.GetFormalCharge():
            raise MoleculeError(
                f"{name}: atom {atom.GetIdx() + 1} is {atom.GetSymbol()}, which may be the element "
                f"or mean {_ABBREVIATIONS[number]}; draw the group with its atoms"
            )
    for bond in list_bonds(mol) if has_query else ():
        if bond.HasQuery():
            raise MoleculeError(
                f"{name}: represents many molecules: bond {bond.GetIdx() + 1} is a query bond"
            )
    for group in Chem.GetMolSubstanceGroups(mol):
        kind = group.GetProp("TYPE") if group.HasProp("TYPE") else ""
        if kind in _POLYMERS:
            raise MoleculeError(
                f"{name}: represents many molecules: it has a polymer or mixture ({kind})"
            )
