"""Molecular descriptors and fingerprints as model inputs, and as targets of pretraining.

`molecule_features` are inputs of fine-tuned models and of random forests; none of them may change,
because model files depend on them. `compute_descriptors` are targets of pretraining; the quick ones
of them are the kind `properties` of the inputs: four times as many values as `descriptors` in a
fifth of the time.
"""

from collections.abc import Sequence
from itertools import chain

import numpy as np
from jaxtyping import Float32, Float64, UInt8
from rdkit.Chem import Descriptors, Mol, rdMolDescriptors

from moleblend.chem.fingerprints import N_BITS, count_ecfp4_of, packed_ecfp4_of
from moleblend.chem.molecule import N_DESCRIPTORS, Molecule, MoleculeError
from moleblend.chem.parse_errors import rdkit_refusals
from moleblend.chem.parsing import parse, parse_record

DESCRIPTORS = (
    *("MolWt", "HeavyAtomCount", "MolLogP", "MolMR", "TPSA", "LabuteASA", "FractionCSP3", "qed"),
    *("NumHDonors", "NumHAcceptors", "NumRotatableBonds", "NumHeteroatoms", "NHOHCount", "NOCount"),
    *("RingCount", "NumAromaticRings", "NumAliphaticRings", "NumAromaticHeterocycles"),
    *("NumValenceElectrons", "BalabanJ", "BertzCT", "HallKierAlpha", "Kappa1", "Kappa2", "Kappa3"),
    *("Chi0v", "Chi1v", "Chi2v", "Chi3v", "Chi4v"),
)
"""RDKit's descriptors that a model can read; model files depend on their order."""

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
_SLOW = (
    *("chi2v", "chi3v", "chi4v", "chi2n", "chi3n", "chi4n"),
    *("kappa2", "kappa3", "Phi", "NumRotatableBonds"),
)
"""Properties that would take as long as half of the others; trees are as good without them."""

_QUICK = tuple(name for name in _PROPERTIES if name not in _SLOW)

PROPERTY_NAMES = (
    *_QUICK,
    *(f"MQN{k}" for k in range(1, 43)),
    *(f"SlogP_VSA{k}" for k in range(1, 13)),
    *(f"SMR_VSA{k}" for k in range(1, 11)),
    *(f"PEOE_VSA{k}" for k in range(1, 15)),
)
"""RDKit's names of the properties that a model can read; model files depend on their order."""

FEATURES = {
    "ecfp4": N_BITS,
    "descriptors": len(DESCRIPTORS),
    "properties": len(PROPERTY_NAMES),
}
"""The kinds of molecule features, and the number of values of each."""

_compute_properties = rdMolDescriptors.Properties(_PROPERTIES).ComputeProperties
_compute_quick = rdMolDescriptors.Properties(_QUICK).ComputeProperties


def molecule_features(smiles: Sequence[str], kinds: Sequence[str]) -> Float32[np.ndarray, "n f"]:
    """Compute features of molecules, concatenated in the order of `kinds`.

    Args:
        smiles: the molecules.
        kinds: of `FEATURES`: `ecfp4` is log(1 + count) of each circular environment; `descriptors`
            are `DESCRIPTORS`, `properties` are `PROPERTY_NAMES`, with 0 for a value that RDKit
            cannot compute.

    Raises:
        MoleculeError: a SMILES is invalid.
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

    A molecule that was read immediately before is not parsed again, see `parsing.parse_record`.
    Call this function while iterating over `read_molecules`.

    Args:
        molecule: of any feature version.
        kinds: of `FEATURES`, as in `molecule_features`.

    Returns:
        The row of `molecule_features`, and the row of `fingerprints.packed_ecfp4`.

    Raises:
        MoleculeError: RDKit cannot read the SMILES of the record.
    """
    with rdkit_refusals(molecule.id):
        mol = parse_record(molecule)
        return _features_of(mol, kinds), packed_ecfp4_of(mol)


def _features_of(mol: Mol, kinds: Sequence[str]) -> Float32[np.ndarray, " f"]:
    compute = {
        "ecfp4": lambda mol: np.log1p(count_ecfp4_of(mol)),
        "descriptors": _descriptors_of,
        "properties": _properties_of,
    }
    each = [compute[kind](mol) for kind in kinds]
    return np.concatenate([np.zeros(0), *each]).astype(np.float32)


def _descriptors_of(mol: Mol) -> Float64[np.ndarray, " f"]:
    values = np.array([getattr(Descriptors, name)(mol) for name in DESCRIPTORS], np.float64)
    return np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)


def _properties_of(mol: Mol) -> Float64[np.ndarray, " k"]:
    counts = (compute(mol) for compute in _COUNTS_AND_SURFACES)
    values = np.array([*_compute_quick(mol), *chain.from_iterable(counts)], np.float64)
    return np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)


def compute_descriptors(smiles: Sequence[str]) -> Float32[np.ndarray, "n k"]:
    """Compute the descriptors that pretraining can predict; about 1 ms per molecule.

    They are 43 counts, indices and sums over atoms (size, rings, hydrogen bonds, Crippen's log P
    and refractivity, polar surface, connectivity and shape), 42 molecular quantum numbers, and the
    surface area by log P, refractivity and partial charge of the atoms, in 36 intervals.

    Args:
        smiles: the molecules.

    Returns:
        The descriptors in this order; NaN for a value that RDKit cannot compute, and for all values
        of a molecule whose SMILES is invalid. RDKit counts an atom without a known partial charge,
        such as a metal, as one with the most positive charge.

    Reference:
        Nguyen et al., ChemMedChem 2009, doi:10.1002/cmdc.200900317 (quantum numbers); Labute, J.
        Mol. Graph. Model. 2000, doi:10.1016/S1093-3263(00)00068-1 (surfaces).
    """
    values = np.full((len(smiles), N_DESCRIPTORS), np.nan)
    for row, text in enumerate(smiles):
        try:
            mol = parse(text)
        except MoleculeError:
            continue
        counts = (compute(mol) for compute in _COUNTS_AND_SURFACES)
        values[row] = [*_compute_properties(mol), *chain.from_iterable(counts)]
    values[~np.isfinite(values)] = np.nan
    return values.astype(np.float32)


N_FINGERPRINT_BITS = 1024 + 166
"""Number of bits of `fingerprint_bits`."""


def fingerprint_bits(smiles: Sequence[str]) -> UInt8[np.ndarray, "n k"]:
    """Compute the fingerprint bits that pretraining can predict, 0 or 1.

    They are the ECFP4 bits folded to 1,024, and the 166 public MACCS keys. All bits of a molecule
    whose SMILES is invalid are 0.

    Reference:
        Rogers and Hahn, J. Chem. Inf. Model. 2010, doi:10.1021/ci100050t; Durant et al., J. Chem.
        Inf. Comput. Sci. 2002, doi:10.1021/ci010132r.
    """
    bits = np.zeros((len(smiles), N_FINGERPRINT_BITS), np.uint8)
    for row, text in enumerate(smiles):
        try:
            mol = parse(text)
        except MoleculeError:
            continue
        bits[row, :1024] = count_ecfp4_of(mol).reshape(2, 1024).any(0)
        keys = rdMolDescriptors.GetMACCSKeysFingerprint(mol)
        bits[row, 1024:][np.array(keys.GetOnBits(), int) - 1] = 1
    return bits
