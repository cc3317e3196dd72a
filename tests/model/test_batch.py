from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from moleblend.chem.molecule import MoleculeError
from moleblend.chem.parsing import read_smiles
from moleblend.model.batch import Packing, collate, shuffled_batches
from moleblend.model.relations import relate


def placed(smiles, n_conformers=1, seed=0):
    """A molecule whose geometries are random numbers."""
    molecule = read_smiles(smiles)
    random = np.random.default_rng(seed)
    positions = random.normal(size=(n_conformers, molecule.n_atoms, 3)).astype(np.float32)
    return replace(molecule, positions=positions)


def test_every_molecule_stands_in_its_row_and_padding_is_zero(awkward):
    molecules = [
        read_smiles(smiles) if k % 2 else placed(smiles) for k, smiles in enumerate(awkward)
    ]
    batch = collate(molecules)
    assert len(batch) == len(molecules)
    assert batch.is_atom.sum(1).tolist() == [molecule.n_atoms for molecule in molecules]
    assert batch.has_positions.tolist() == [k % 2 == 0 for k in range(len(molecules))]
    for row, molecule in enumerate(molecules):
        m = molecule.n_atoms
        relations = relate(molecule)
        degree = np.array([(molecule.bonds == atom).sum() for atom in range(m)])
        positions = molecule.positions[0] if molecule.n_conformers else np.zeros((m, 3))
        for name, expected in {
            "atoms": molecule.atoms,
            "degree": degree,
            "path_length": relations.path_length,
            "edge_path": relations.edge_path,
            "positions": positions,
        }.items():
            tensor = getattr(batch, name)[row]
            inside = (slice(m), slice(m)) if name in ("path_length", "edge_path") else slice(m)
            assert (tensor[inside].numpy() == expected).all(), (name, molecule.id)
            tensor = tensor.clone()
            tensor[inside] = 0
            assert not tensor.any(), (name, molecule.id)


def test_pairs_are_of_two_different_atoms():
    batch = collate([read_smiles("CCO"), read_smiles("C")])
    assert batch.is_pair[0].tolist() == [[i != j for j in range(3)] for i in range(3)]
    assert not batch.is_pair[1].any()


def test_hops_are_cut_where_asked():
    molecule = read_smiles("CCCCCC")
    assert collate([molecule], n_hops=2).edge_path.shape == (1, 6, 6, 2)


def test_the_conformer_asked_for_is_taken():
    molecules = [placed("CCO", 3), read_smiles("CC"), placed("CC", 2)]
    first, chosen = collate(molecules), collate(molecules, [2, 0, 1])
    assert (first.positions[0].numpy() == molecules[0].positions[0]).all()
    assert (chosen.positions[0].numpy() == molecules[0].positions[2]).all()
    assert (chosen.positions[2, :2].numpy() == molecules[2].positions[1]).all()
    assert not chosen.positions[1].any()


@pytest.mark.parametrize(
    ("molecules", "conformers", "message"),
    [
        ([], None, "got no molecule, expected at least one"),
        (
            [read_smiles("C"), read_smiles("C", features="ogb-1")],
            None,
            "got molecules with feature versions cip-1 and ogb-1, expected one version",
        ),
        ([placed("CO", 2)], [2], "CO: got conformer=2, expected a number from 0 to 1"),
        ([placed("CO", 2)], [-1], "CO: got conformer=-1, expected a number from 0 to 1"),
    ],
    ids=["none", "two versions", "too high", "negative"],
)
def test_what_cannot_be_a_batch_is_refused(molecules, conformers, message):
    with pytest.raises(MoleculeError) as caught:
        collate(molecules, conformers)
    assert str(caught.value) == message


def test_one_conformer_is_named_per_molecule():
    with pytest.raises(ValueError, match="shorter"):
        collate([placed("CO"), placed("CC")], [0])


def test_the_molecules_are_not_edited():
    molecule, untouched = placed("CCO"), placed("CCO")
    batch = collate([molecule])
    for field in fields(batch):
        if getattr(batch, field.name) is not None:
            getattr(batch, field.name).fill_(True)
    for field in fields(molecule):
        assert np.array_equal(getattr(molecule, field.name), getattr(untouched, field.name))


def test_every_tensor_moves():
    batch = collate([placed("CCO"), read_smiles("C")])
    assert batch.to("meta").descriptors is None
    batch = replace(
        batch,
        descriptors=torch.zeros(2, 3),
        fingerprints=torch.zeros(2, 4, dtype=torch.uint8),
        labels=torch.zeros(2, 5),
        places=torch.arange(2),
    ).to("meta")
    tensors = [getattr(batch, field.name) for field in fields(batch)]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert all(isinstance(tensor, torch.Tensor) for tensor in tensors)


def test_shuffled_batches_are_an_epoch_of_similar_sizes():
    sizes = np.random.default_rng(0).integers(1, 100, 1000)

    def drawn(seed):
        batches = shuffled_batches(sizes, 32, np.random.default_rng(seed))
        return [batch.tolist() for batch in batches]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
    for batches in (drawn(1), drawn(2)):
        assert sorted(place for batch in batches for place in batch) == list(range(1000))
        assert len(batches) == 32
        assert [len(batch) for batch in batches].count(32) == 31
    padded = sum(len(batch) * max(sizes[place] for place in batch) for batch in drawn(1))
    assert padded < 1.1 * sum(sizes)
    (alone,) = shuffled_batches(np.array([3]), 32, np.random.default_rng(0))
    assert alone.tolist() == [0]


def test_packed_rows_are_the_real_ones_and_come_back_with_zeros_between():
    padded = torch.arange(12.0).view(2, 3, 2).requires_grad_()
    packing = Packing.of(torch.tensor([[True, True, False], [True, False, True]]))
    packed = packing.pad(packing.pack(padded))
    assert packing.pack(padded).tolist() == [[0, 1], [2, 3], [6, 7], [10, 11]]
    assert packed.tolist() == [[[0, 1], [2, 3], [0, 0]], [[6, 7], [0, 0], [10, 11]]]
    assert (packing.row.tolist(), packing.column.tolist()) == ([0, 0, 1, 1], [0, 1, 0, 2])
    (3 * packed).sum().backward()
    assert padded.grad.tolist() == [[[3, 3], [3, 3], [0, 0]], [[3, 3], [0, 0], [3, 3]]]
