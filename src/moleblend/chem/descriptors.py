"""Numbers that describe a whole molecule: joined to a model, or taught to its vector. By RDKit.

They are two sets. `molecule_features` is what a user's model reads; it stays as it is, since model
files rely on it. `compute_descriptors` is what pretraining asks for: four times as many in half
the time.
"""

from collections.abc import Sequence
from itertools import chain

import numpy as np
from jaxtyping import Float32, Float64, UInt8
from rdkit.Chem import Descriptors, Mol, rdMolDescriptors

from moleblend.chem.fingerprints import N_BITS, count_ecfp4_of, packed_ecfp4_of
from moleblend.chem.molecule import N_DESCRIPTORS, Molecule, MoleculeError
from moleblend.chem.parsing import parse, parse_record

DESCRIPTORS = (
    *("MolWt", "HeavyAtomCount", "MolLogP", "MolMR", "TPSA", "LabuteASA", "FractionCSP3", "qed"),
    *("NumHDonors", "NumHAcceptors", "NumRotatableBonds", "NumHeteroatoms", "NHOHCount", "NOCount"),
    *("RingCount", "NumAromaticRings", "NumAliphaticRings", "NumAromaticHeterocycles"),
    *("NumValenceElectrons", "BalabanJ", "BertzCT", "HallKierAlpha", "Kappa1", "Kappa2", "Kappa3"),
    *("Chi0v", "Chi1v", "Chi2v", "Chi3v", "Chi4v"),
)
"""Those of RDKit that are joined to a model, in this order: a model file relies on it."""

FEATURES = {"ecfp4": N_BITS, "descriptors": len(DESCRIPTORS)}
"""What can be joined to a model, and how many numbers it is."""

_PROPERTIES = (
    *("exactmw", "amw", "lipinskiHBA", "lipinskiHBD", "NumRotatableBonds", "NumHBD", "NumHBA"),
    *("NumHeavyAtoms", "NumAtoms", "NumHeteroatoms", "NumAmideBonds", "FractionCSP3", "NumRings"),
    *("NumAromaticRings", "NumAliphaticRings", "NumSaturatedRings", "NumHeterocycles"),
    *("NumAromaticHeterocycles", "NumSaturatedHeterocycles", "NumAliphaticHeterocycles"),
    *("NumSpiroAtoms", "NumBridgeheadAtoms", "NumAtomStereoCenters"),
    *("NumUnspecifiedAtomStereoCenters", "labuteASA", "tpsa", "CrippenClogP", "CrippenMR"),
    *("chi0v", "chi1v", "chi2v", "chi3v", "chi4v", "chi0n", "chi1n", "chi2n", "chi3n", "chi4n"),
    *("hallKierAlpha", "kappa1", "kappa2", "kappa3", "Phi"),
)
_COUNTS_AND_SURFACES = (
    *(rdMolDescriptors.MQNs_, rdMolDescriptors.SlogP_VSA_),
    *(rdMolDescriptors.SMR_VSA_, rdMolDescriptors.PEOE_VSA_),
)
_compute_properties = rdMolDescriptors.Properties(_PROPERTIES).ComputeProperties


def molecule_features(smiles: Sequence[str], kinds: Sequence[str]) -> Float32[np.ndarray, "n f"]:
    """Compute features of molecules side by side.

    Args:
        smiles: the molecules.
        kinds: of `FEATURES`: `ecfp4` is log(1 + count) of each circular environment; `descriptors`
            are `DESCRIPTORS`, of which one that RDKit cannot compute is 0.

    Raises:
        MoleculeError: RDKit refuses a SMILES.
    """
    features = np.zeros((len(smiles), sum(FEATURES[kind] for kind in kinds)), np.float32)
    if kinds:
        for row, text in enumerate(smiles):
            features[row] = _features_of(parse(text), kinds)
    return features


def features_and_fingerprint(
    molecule: Molecule, kinds: Sequence[str] = ()
) -> tuple[Float32[np.ndarray, " f"], UInt8[np.ndarray, " 256"]]:
    """Compute what a model and its applicability domain need, from one parse by RDKit.

    A molecule that was read immediately before is not parsed again at all, see
    `parsing.parse_record`: call this function while iterating over `read_molecules`.

    Args:
        molecule: of any feature version.
        kinds: of `FEATURES`, as in `molecule_features`.

    Returns:
        The row of `molecule_features`, and the row of `fingerprints.packed_ecfp4`.

    Raises:
        MoleculeError: RDKit refuses the SMILES of the record.
    """
    mol = parse_record(molecule)
    return _features_of(mol, kinds), packed_ecfp4_of(mol)


def _features_of(mol: Mol, kinds: Sequence[str]) -> Float32[np.ndarray, " f"]:
    compute = {"ecfp4": lambda mol: np.log1p(count_ecfp4_of(mol)), "descriptors": _descriptors_of}
    each = [compute[kind](mol) for kind in kinds]
    return np.concatenate([np.zeros(0), *each]).astype(np.float32)


def _descriptors_of(mol: Mol) -> Float64[np.ndarray, " f"]:
    values = np.array([getattr(Descriptors, name)(mol) for name in DESCRIPTORS], np.float64)
    return np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)


def compute_descriptors(smiles: Sequence[str]) -> Float32[np.ndarray, "n k"]:
    """Compute what pretraining may ask of a molecule's vector: about 1 ms for each molecule.

    They are 43 counts, indices and sums over atoms (size, rings, hydrogen bonds, Crippen's log P
    and refractivity, polar surface, connectivity and shape), 42 molecular quantum numbers, and the
    surface by log P, refractivity and partial charge of its atoms, in 36 intervals.

    Args:
        smiles: the molecules.

    Returns:
        In this order; NaN where RDKit cannot compute one, and for a molecule whose SMILES it
        refuses. An atom whose partial charge it does not know, as in a metal, it counts as one with
        the most positive charge.

    Reference:
        Nguyen et al., ChemMedChem 2009, doi:10.1002/cmdc.200900317 (quantum numbers); Labute, J.
        Mol. Graph. Model. 2000, doi:10.1016/S1093-3263(00)00068-1 (surfaces).
    """
    found = np.full((len(smiles), N_DESCRIPTORS), np.nan)
    for row, text in enumerate(smiles):
        try:
            molecule = parse(text)
        except MoleculeError:
            continue
        counts = (compute(molecule) for compute in _COUNTS_AND_SURFACES)
        found[row] = [*_compute_properties(molecule), *chain.from_iterable(counts)]
    found[~np.isfinite(found)] = np.nan
    return found.astype(np.float32)
