"""Standardisation of molecules: fragments, groups, charges, tautomers, hydrogens, InChIKey.

Each step takes a SMILES and returns a canonical SMILES.
"""

from collections.abc import Callable

from rdkit import Chem
from rdkit.Chem import inchi, rdMolDescriptors
from rdkit.Chem.MolStandardize import rdMolStandardize

from moleblend.chem.counterions import is_counterion
from moleblend.chem.featurizer import list_atoms, list_bonds
from moleblend.chem.molecule import MoleculeError
from moleblend.chem.parsing import parse, read_smiles

_GROUPS = """\
Sulfoxide\t[#6:1][S+;X3:2]([#6:3])[O-:4]>>[#6:1][S+0:2]([#6:3])=[O+0:4]
Phosphine oxide\t[P+;X4:1][O-:2]>>[P+0:1]=[O+0:2]
Azide\t[*:1][N-:2][N+:3]#[N+0:4]>>[*:1][N+0:2]=[N+:3]=[N-:4]
"""
"""Groups that RDKit's transformations leave as they are, or write with charges."""

_METALS = frozenset((3, 11, 19, 37, 55, 12, 20, 38, 56))
"""Atomic numbers of Li, Na, K, Rb, Cs, Mg, Ca, Sr and Ba."""

_BOUND_TO_METALS = frozenset((7, 8, 9, 16, 17, 35, 53))
"""Atomic numbers of atoms to which a bond of such a metal is ionic."""

_SMALL = 5
"""Number of heavy atoms up to which a removed fragment is not mentioned."""

MOST_TAUTOMERS = 1_000
"""Largest number of tautomers, and of transformations, that are enumerated for a molecule."""


def canonical(smiles: str) -> str:
    """Write the canonical SMILES.

    Raises:
        MoleculeError: the SMILES is invalid.
    """
    return Chem.MolToSmiles(parse(smiles))


def identity(smiles: str) -> str:
    """Return what must agree for two rows to be the same molecule, see `chem.identity`.

    Raises:
        MoleculeError: the SMILES or CXSMILES is invalid.

    Example:
        >>> identity("C[C@H]1CO1") == identity("C[C@H]1CO1 |&1:1|")
        False
    """
    if "|" not in smiles:
        return canonical(smiles)
    record = read_smiles(smiles)
    return record.stereo_identity or record.smiles


def largest_fragment(smiles: str) -> str:
    """Keep the parent of a salt or mixture.

    Alkali and alkaline earth metals are disconnected first. Fragments that are known counter-ions
    (`counterions.COUNTERIONS`) go before others. Of the rest, organic fragments are preferred, then
    the most heavy atoms, then the heaviest.

    Raises:
        MoleculeError: the SMILES is invalid, or RDKit cannot standardise it.

    Example:
        >>> largest_fragment("CC(=O)[O-].[Na+]"), largest_fragment("CC(=O)O[Na]")
        ('CC(=O)[O-]', 'CC(=O)[O-]')
    """
    return _apply(smiles, _parent)


def removed_fragments(smiles: str) -> list[str]:
    """List the fragments of more than five heavy atoms that `largest_fragment` removes.

    Raises:
        MoleculeError: the SMILES is invalid, or RDKit cannot standardise it.
    """
    kept = largest_fragment(smiles)
    fragments = [Chem.MolToSmiles(f) for f in Chem.GetMolFrags(_disconnected(parse(smiles)), True)]
    if kept in fragments:
        fragments.remove(kept)
    return [text for text in fragments if parse(text).GetNumHeavyAtoms() > _SMALL]


def normalise(smiles: str) -> str:
    """Write each functional group in one way: `S=O` and not `[S+][O-]`, azides, nitro groups.

    Raises:
        MoleculeError: the SMILES is invalid, or RDKit cannot standardise it.

    Reference:
        RDKit's transformations after MolVS (Matt Swain).
    """

    def change(mol: Chem.Mol) -> Chem.Mol:
        usual = rdMolStandardize.Normalizer().normalize(mol)
        parameters = rdMolStandardize.CleanupParameters()
        return rdMolStandardize.NormalizerFromData(_GROUPS, parameters).normalize(usual)

    return _apply(smiles, change)


def _parent(mol: Chem.Mol) -> Chem.Mol:
    """Choose the parent fragment."""
    fragments = list(Chem.GetMolFrags(_disconnected(mol), asMols=True))
    if len(fragments) == 1:
        return fragments[0]
    others = [fragment for fragment in fragments if not is_counterion(fragment)]

    def rank(fragment: Chem.Mol) -> tuple[bool, int, float, str]:
        is_organic = any(atom.GetAtomicNum() == 6 for atom in list_atoms(fragment))
        weight = rdMolDescriptors.CalcExactMolWt(fragment)
        return is_organic, fragment.GetNumHeavyAtoms(), weight, Chem.MolToSmiles(fragment)

    organic = [fragment for fragment in others if rank(fragment)[0]]
    return max(organic or fragments, key=rank)


def _disconnected(mol: Chem.Mol) -> Chem.Mol:
    """Break bonds of alkali and alkaline earth metals to N, O, F, S and halogens."""
    if not any(atom.GetAtomicNum() in _METALS for atom in list_atoms(mol)):
        return mol
    broken = Chem.RWMol(mol)
    for bond in list_bonds(mol):
        ends = bond.GetBeginAtom(), bond.GetEndAtom()
        for metal, other in (ends, ends[::-1]):
            if metal.GetAtomicNum() in _METALS and other.GetAtomicNum() in _BOUND_TO_METALS:
                i, j = metal.GetIdx(), other.GetIdx()
                broken.RemoveBond(i, j)
                for index, charge in ((i, 1), (j, -1)):
                    atom = broken.GetAtomWithIdx(index)
                    atom.SetFormalCharge(atom.GetFormalCharge() + charge)
                    atom.SetNoImplicit(True)
    Chem.SanitizeMol(broken)
    return broken.GetMol()


def neutralise(smiles: str) -> str:
    """Remove charges by adding and removing hydrogens, where possible.

    Charges that hydrogens cannot remove (nitro, quaternary ammonium, Na+) remain.

    Raises:
        MoleculeError: the SMILES is invalid, or RDKit cannot standardise it.

    Example:
        >>> neutralise("CC(=O)[O-]"), neutralise("CC(=O)[O-].[Na+]")
        ('CC(=O)O', 'CC(=O)[O-].[Na+]')
    """
    return _apply(smiles, rdMolStandardize.Uncharger().uncharge)


def canonical_tautomer(smiles: str) -> str:
    """Return RDKit's canonical tautomer, which is the same for all tautomers of a molecule.

    It is not necessarily the most stable one. Stereo that the canonical tautomer can have is kept,
    even if another tautomer would lose it: L- and D-alanine stay two molecules.

    Raises:
        MoleculeError: the SMILES is invalid, RDKit cannot standardise it, or there are more than
            `MOST_TAUTOMERS` tautomers, whose choice would depend on the input SMILES.

    Example:
        >>> canonical_tautomer("CC(O)=N") == canonical_tautomer("CC(N)=O") == "CC(N)=O"
        True
    """

    def choose(mol: Chem.Mol) -> Chem.Mol:
        enumerator = rdMolStandardize.TautomerEnumerator()
        enumerator.SetMaxTautomers(MOST_TAUTOMERS)
        enumerator.SetMaxTransforms(MOST_TAUTOMERS)
        enumerator.SetRemoveSp3Stereo(False)
        enumerator.SetRemoveBondStereo(False)
        tautomers = enumerator.Enumerate(mol)
        if tautomers.status != rdMolStandardize.TautomerEnumeratorStatus.Completed:
            raise MoleculeError(f"{smiles}: it has more than {MOST_TAUTOMERS:,} tautomers")
        return enumerator.PickCanonical(tautomers)

    return _apply(smiles, choose)


def explicit_hydrogens(smiles: str) -> str:
    """Write every hydrogen as an atom.

    Raises:
        MoleculeError: the SMILES is invalid.

    Example:
        >>> explicit_hydrogens("C")
        '[H]C([H])([H])[H]'
    """
    return Chem.MolToSmiles(Chem.AddHs(parse(smiles)))


def inchikey(smiles: str) -> str:
    """Compute the InChIKey; "" if InChI has none, for example with a dummy atom.

    Its first 14 letters encode the skeleton: connectivity without stereo, isotopes and protonation.
    Most tautomers have the same skeleton.

    Raises:
        MoleculeError: the SMILES is invalid.

    Example:
        >>> inchikey("CCO")
        'LFQSCWFLJHTTHZ-UHFFFAOYSA-N'
    """
    return inchi.MolToInchiKey(parse(smiles))


def _apply(smiles: str, change: Callable[[Chem.Mol], Chem.Mol]) -> str:
    """Apply one of RDKit's steps; a failure becomes a MoleculeError with RDKit's message."""
    mol = parse(smiles)
    try:
        # Written and parsed again: a step can leave marks that a fresh parse does not have.
        return Chem.MolToSmiles(parse(Chem.MolToSmiles(change(mol))))
    except (ValueError, RuntimeError) as error:
        if isinstance(error, MoleculeError):
            raise
        raise MoleculeError(f"{smiles}: RDKit cannot standardise it: {error}") from error
