from dataclasses import replace

import numpy as np
import pytest

from moleblend.chem.molecule import (
    ATOM_FEATURE_SIZES,
    ATOM_FEATURES,
    BOND_FEATURE_SIZES,
    BOND_FEATURES,
    MoleculeError,
)
from moleblend.chem.parsing import read_smiles

ETHANOL = read_smiles("CCO", id="ethanol")


def test_counts():
    assert (ETHANOL.n_atoms, ETHANOL.n_conformers) == (3, 0)
    assert read_smiles("C").bonds.shape == (0, 2)
    two = replace(ETHANOL, positions=np.zeros((2, 3, 3), np.float32))
    assert (two.n_atoms, two.n_conformers) == (3, 2)
    assert len(ATOM_FEATURES) == len(ATOM_FEATURE_SIZES)
    assert len(BOND_FEATURES) == len(BOND_FEATURE_SIZES)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {
                "atoms": np.zeros((0, 9), np.uint8),
                "bonds": np.zeros((0, 2), np.int32),
                "bond_features": np.zeros((0, 3), np.uint8),
                "positions": np.zeros((0, 0, 3), np.float32),
                "source_atoms": np.zeros(0, np.int32),
            },
            "ethanol: a molecule needs at least one atom, got none",
        ),
        (
            {"bonds": np.array([[0, 1], [1, 3]], np.int32)},
            "ethanol: a bond refers to atom 3, but there are 3 atoms",
        ),
        (
            {"positions": np.full((1, 3, 3), np.nan, np.float32)},
            "ethanol: positions must be numbers in Å below 100,000",
        ),
        (
            {"positions": np.full((1, 3, 3), np.inf, np.float32)},
            "ethanol: positions must be numbers in Å below 100,000",
        ),
    ],
    ids=["no atoms", "bond to nowhere", "nan", "infinite"],
)
def test_useless_records_are_refused_in_one_sentence(changes, told):
    with pytest.raises(MoleculeError) as caught:
        replace(ETHANOL, **changes)
    assert str(caught.value) == told
