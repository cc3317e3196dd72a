"""Molecules that several tests use."""

from pathlib import Path

import moleblend
from moleblend.chem.molecule import Molecule

AWKWARD = [
    "C",  # one atom, no bond
    "[H][H]",  # nothing but hydrogen
    "[H+]",  # a proton
    "[Na+].[Cl-]",  # no bond at all, two unreachable atoms
    "CC(=O)[O-].[NH4+]",  # unreachable pairs beside bonded ones
    "[2H]C([2H])([2H])O",  # isotopes that RDKit keeps as atoms
    "C[C@H](N)C(=O)O",  # R or S
    "F/C=C/F",  # E or Z
    "Cl[Pt](Cl)(<-N)<-N",  # dative bonds
    "[CH]12[CH]3[CH]4[CH]5[CH]1[Fe]23451678[CH]2[CH]1[CH]6[CH]7[CH]82",  # ferrocene: ten bonds
    "[CH3]",  # a radical
    "C[N+](=O)[O-]",  # a zwitterion
    "C" * 60,  # paths longer than any table of lengths
    "C" * 210,
    "Cc1ccc(NC(=O)c2ccc(CN3CCN(C)CC3)cc2)cc1Nc1nccc(-c2cccnc2)n1",  # imatinib
    "*CC",  # an atom without an element
]
"""SMILES that RDKit reads and that naive code fails on."""


QM9 = Path(moleblend.__file__).parent / "assets" / "qm9_2000.parquet"
CHAINS = ["C" * n + end for n in range(1, 16) for end in ("", "O", "N", "F")]
N_CARBONS = [float(smiles.count("C")) for smiles in CHAINS]
HAS_OXYGEN = [float("O" in smiles) for smiles in CHAINS]
# Every third row judges or chooses, as the column of a given split has it.
PARTS = [("train", "train", "train", "valid", "test")[k % 5] for k in range(len(CHAINS))]


DRUGS = [
    "CC(C)c1nc(N(C)S(C)(=O)=O)nc(-c2ccc(F)cc2)c1/C=C/[C@@H](O)C[C@@H](O)CC(=O)O",
    "C[C@]12CC[C@H]3[C@@H](CC[C@@H]4C[C@@H](O)CC[C@]34C)[C@@H]1CCC2=O",
    "OC[C@H]1O[C@H](O)[C@H](O)[C@@H](O)[C@@H]1O",
    "C[C@@H](O)[C@@H](O)[C@H](C)O",  # pseudo-asymmetric
    "C[C@H]1CC[C@@H](C)CC1",  # ring stereo without R or S
    "CC/C(C)=C(/[C@H](C)O)[C@@H](C)O",  # a double bond that only R and S decide
    "C/N=C(\\[H])C(F)(F)Cl",
    "[H]/N=C(/C)CC",
    "C[S@](=O)CC",
    "Oc1cccc2ncccc12",
    "O=c1[nH]cnc2nc[nH]c12",
    "C[N+](C)(C)CC([O-])=O",
    "[13CH3][C@H](C)O",
]


def key(molecule: Molecule) -> tuple[str, bytes, bytes, bytes]:
    """Everything of a record that must not depend on how the molecule was written."""
    return (
        molecule.smiles,
        molecule.atoms.tobytes(),
        molecule.bonds.tobytes(),
        molecule.bond_features.tobytes(),
    )
