"""Numbers that describe a whole molecule: joined to a model, or taught to its vector. By RDKit.

They are two sets. `molecule_features` is what a user's model reads; it stays as it is, since model
files rely on it. `compute_descriptors` is what pretraining asks for: four times as many in half
the time.
"""

from collections.abc import Sequence
from itertools import chain

import numpy as np
from jaxtyping import Float32, Float64
from rdkit.Chem import Descriptors, rdMolDescriptors

from moleblend.chem.fingerprints import N_BITS, count_ecfp4
from moleblend.chem.molecule import N_DESCRIPTORS, MoleculeError
from moleblend.chem.parsing import parse

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
    compute = {"ecfp4": lambda text: np.log1p(count_ecfp4(text)), "descriptors": _descriptors}
    found = np.zeros((len(smiles), sum(FEATURES[kind] for kind in kinds)), np.float32)
    for row, text in enumerate(smiles):
        if kinds:
            found[row] = np.concatenate([compute[kind](text) for kind in kinds])
    return found


def _descriptors(smiles: str) -> Float64[np.ndarray, " f"]:
    molecule = parse(smiles)
    values = np.array([getattr(Descriptors, name)(molecule) for name in DESCRIPTORS], np.float64)
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
