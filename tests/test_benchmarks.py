"""What the package is compared with computes the same."""

import torch
from conftest import AWKWARD

from benchmarks import plain
from moleblend.batch import collate
from moleblend.chem import read_smiles


def test_the_straightforward_way_gives_the_same_batch():
    smiles = [text for text in AWKWARD if len(text) < 100]
    ours = collate([read_smiles(text, features="ogb-1") for text in smiles])
    theirs = plain.featurise(smiles)
    assert torch.equal(ours.atoms, theirs.atoms)
    assert torch.equal(ours.is_atom, theirs.is_atom)
    assert torch.equal(ours.path_length.long(), theirs.path_length)
    assert torch.equal(ours.edge_path.long(), theirs.edge_path)
