"""One way to write a molecule: fragments, charges, tautomers, hydrogens, InChIKey. By RDKit.

Every step takes a SMILES and gives a canonical one.
"""

from collections.abc import Callable

from rdkit import Chem
from rdkit.Chem import inchi
from rdkit.Chem.MolStandardize import rdMolStandardize

from moleblend.chem.molecule import MoleculeError
from moleblend.chem.parsing import parse

MOST_TAUTOMERS = 1_000
"""Tautomers, and transformations, after which a molecule is given up."""


def canonical(smiles: str) -> str:
    """Write the canonical SMILES.

    Raises:
        MoleculeError: RDKit refuses the SMILES.
    """
    return Chem.MolToSmiles(parse(smiles))


def largest_fragment(smiles: str) -> str:
    """Keep the largest fragment: organic before inorganic, then most atoms, then heaviest.

    Raises:
        MoleculeError: RDKit refuses the SMILES.

    Example:
        >>> largest_fragment("CC(=O)[O-].[Na+]")
        'CC(=O)[O-]'
    """
    chooser = rdMolStandardize.LargestFragmentChooser(preferOrganic=True)
    return _after(smiles, chooser.choose)


def neutralise(smiles: str) -> str:
    """Remove charges by adding and removing hydrogens, as far as that goes.

    What balances a charge without a hydrogen (nitro, quaternary ammonium, Na+) stays.

    Raises:
        MoleculeError: RDKit refuses the SMILES.

    Example:
        >>> neutralise("CC(=O)[O-]"), neutralise("CC(=O)[O-].[Na+]")
        ('CC(=O)O', 'CC(=O)[O-].[Na+]')
    """
    return _after(smiles, rdMolStandardize.Uncharger().uncharge)


def canonical_tautomer(smiles: str) -> str:
    """Choose one tautomer, by RDKit's rules and scores: the same, whichever was written.

    It need not be the most stable one. Stereo that the chosen tautomer can have is kept, also where
    it could be lost by way of another one: L- and D-alanine stay two molecules.

    Raises:
        MoleculeError: RDKit refuses the SMILES, or there are more than `MOST_TAUTOMERS`, of which
            the choice would depend on how the molecule was written.

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
        found = enumerator.Enumerate(mol)
        if found.status != rdMolStandardize.TautomerEnumeratorStatus.Completed:
            raise MoleculeError(f"{smiles}: it has more than {MOST_TAUTOMERS:,} tautomers")
        return enumerator.PickCanonical(found)

    return _after(smiles, choose)


def explicit_hydrogens(smiles: str) -> str:
    """Write every hydrogen as an atom.

    Raises:
        MoleculeError: RDKit refuses the SMILES.

    Example:
        >>> explicit_hydrogens("C")
        '[H]C([H])([H])[H]'
    """
    return Chem.MolToSmiles(Chem.AddHs(parse(smiles)))


def inchikey(smiles: str) -> str:
    """Give the InChIKey; "" where InChI has none, as for an atom without an element.

    Its first 14 letters are the skeleton: connectivity without stereo, isotopes, charges by
    hydrogen, and with most tautomers as one.

    Raises:
        MoleculeError: RDKit refuses the SMILES.

    Example:
        >>> inchikey("CCO")
        'LFQSCWFLJHTTHZ-UHFFFAOYSA-N'
    """
    return inchi.MolToInchiKey(parse(smiles))


def _after(smiles: str, change: Callable[[Chem.Mol], Chem.Mol]) -> str:
    """Apply one of RDKit's steps; what it says of a failure goes into the error."""
    mol = parse(smiles)
    try:
        # Written and read once more: a change can leave marks that another SMILES would not have.
        return Chem.MolToSmiles(parse(Chem.MolToSmiles(change(mol))))
    except (ValueError, RuntimeError) as error:
        if isinstance(error, MoleculeError):
            raise
        raise MoleculeError(f"{smiles}: RDKit cannot standardise it: {error}") from error
