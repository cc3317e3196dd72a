"""Standardisation of molecules: fragments, charges, tautomers, hydrogens, InChIKey.

Each step takes a SMILES and returns a canonical SMILES.
"""

from collections.abc import Callable

from rdkit import Chem
from rdkit.Chem import inchi
from rdkit.Chem.MolStandardize import rdMolStandardize

from moleblend.chem.molecule import MoleculeError
from moleblend.chem.parsing import parse, read_smiles

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
        >>> identity("C[C@H](N)O") == identity("C[C@H](N)O |&1:1|")
        False
    """
    if "|" not in smiles:
        return canonical(smiles)
    record = read_smiles(smiles)
    return record.stereo_identity or record.smiles


def largest_fragment(smiles: str) -> str:
    """Keep the largest fragment: organic before inorganic, then most atoms, then heaviest.

    Raises:
        MoleculeError: the SMILES is invalid, or RDKit cannot standardise it.

    Example:
        >>> largest_fragment("CC(=O)[O-].[Na+]")
        'CC(=O)[O-]'
    """
    chooser = rdMolStandardize.LargestFragmentChooser(preferOrganic=True)
    return _apply(smiles, chooser.choose)


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
