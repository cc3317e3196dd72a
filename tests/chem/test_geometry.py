import itertools

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

from moleblend.chem import geometry
from moleblend.chem.geometry import TooSlowError, add_positions
from moleblend.chem.molecule import MoleculeError
from moleblend.chem.parsing import read_smiles
from moleblend.chem.xyz import read_xyz
from tests.helpers.molecules import DRUGS, key


@pytest.mark.parametrize(
    "smiles", ["C", "[Na+].CC(=O)[O-]", "CCO.Cl", "[H]/N=C(/C)CC", "N[Pt](Cl)(Cl)N", *DRUGS[:2]]
)
@pytest.mark.parametrize("features", ["cip-1", "ogb-1"])
def test_conformers(smiles, features):
    molecule = read_smiles(smiles, features=features)
    placed = add_positions(molecule, seed=5)
    assert placed.positions.shape == (1, molecule.n_atoms, 3)
    assert np.array_equal(placed.positions, add_positions(molecule, seed=5).positions)
    distance = np.linalg.norm(placed.positions[0][:, None] - placed.positions[0][None], axis=-1)
    assert (distance + 9 * np.eye(molecule.n_atoms)).min() > 0.9
    if features == "cip-1" and "[H]" not in smiles:  # stereo read off the geometry is the one asked
        numbers = placed.atoms[:, 0].astype(np.int64) + 1
        assert key(read_xyz(numbers, placed.positions[0], placed.smiles)) == key(molecule)


def test_conformers_are_several_and_differ():
    molecule = read_smiles("CCCCO")
    three = add_positions(molecule, seed=1, n_conformers=3).positions
    assert three.shape == (3, 5, 3)
    assert not np.allclose(three[0], three[1])
    assert not np.array_equal(three[:1], add_positions(molecule, seed=2).positions)


@pytest.mark.parametrize("smiles", ["[La+3].[Cl-].[Cl-].[Cl-]", "CC.[Rn]", "CC(=O)[O-].[Na+]"])
def test_fragments_of_a_salt_lie_apart(smiles):
    """Also where no force field pushes them apart."""
    positions = add_positions(read_smiles(smiles)).positions[0]
    distance = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    assert (distance + 9 * np.eye(len(positions))).min() > 1.2


def test_the_minimiser_reads_the_clock(monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr(geometry, "monotonic", lambda: next(clock))
    with pytest.raises(TooSlowError, match=r"minimised within 2 s"):
        add_positions(read_smiles(DRUGS[0]), limit_s=2.0)


def test_energies_are_those_of_the_force_field():
    """Of MMFF94 where it has parameters, of UFF where only that has them, else unknown."""
    molecule = add_positions(read_smiles("CCCCO"), seed=1, n_conformers=3)
    assert molecule.force_field == "MMFF94"
    mol = Chem.AddHs(Chem.MolFromSmiles("CCCCO"))
    rdDistGeom.EmbedMolecule(mol, randomSeed=1)
    ((_, minimum),) = rdForceFieldHelpers.MMFFOptimizeMoleculeConfs(mol, maxIters=2000)
    assert molecule.energies.dtype == np.float32
    assert molecule.energies.shape == (3,)
    assert (abs(molecule.energies - minimum) < 5).all()  # conformers of butanol, in kcal/mol
    boron = add_positions(read_smiles("CB(O)O"))
    assert (boron.force_field, boron.energies.shape) == ("UFF", (1,))
    assert np.isfinite(boron.energies).all()
    unknown = add_positions(read_smiles("CC.[Rn]"))
    assert (unknown.force_field, unknown.energies) == ("", None)
    assert read_smiles("C").energies is None


def aligned_rms(one, other):
    """RMSD after the best rotation (Kabsch)."""
    one, other = one - one.mean(0), other - other.mean(0)
    u, s, vt = np.linalg.svd(one.T @ other)
    s[-1] *= np.sign(np.linalg.det(u @ vt))
    return np.sqrt(max(((one**2).sum() + (other**2).sum() - 2 * s.sum()) / len(one), 0))


def test_pruned_conformers_differ_and_the_best_is_kept():
    molecule = read_smiles("CC(N)CCO")
    whole = add_positions(molecule, seed=3, n_conformers=12)
    pruned = add_positions(molecule, seed=3, n_conformers=12, prune_rms=0.3)
    assert whole.n_conformers == 12
    assert 1 < pruned.n_conformers < 12
    assert (np.diff(pruned.energies) >= 0).all()
    assert pruned.energies[0] == whole.energies.min()
    for k, (one, energy) in enumerate(zip(pruned.positions, pruned.energies, strict=True)):
        (place,) = np.flatnonzero((whole.positions == one).all((1, 2)))
        assert whole.energies[place] == energy
        assert all(aligned_rms(one, other) > 0.3 for other in pruned.positions[:k])
    for one in whole.positions:  # what is gone is near something that was kept
        assert min(aligned_rms(one, other) for other in pruned.positions) <= 0.3


def test_pruning_counts_symmetry():
    """All geometries of benzene are one, whichever atom is the first."""
    rigid = add_positions(read_smiles("c1ccccc1"), n_conformers=4, prune_rms=0.2)
    assert rigid.n_conformers == 1
    assert add_positions(read_smiles("[H][H]"), n_conformers=2, prune_rms=0.2).n_conformers
    with pytest.raises(ValueError, match="prune_rms"):
        add_positions(read_smiles("C"), prune_rms=-1.0)


def test_conformers_of_small_seeds_do_not_repeat():
    molecule = read_smiles("CCCCO")
    seeds = [add_positions(molecule, seed=s, n_conformers=3).positions for s in (0, 1, 2)]
    all_of_them = np.concatenate(seeds)
    for i, one in enumerate(all_of_them):
        for other in all_of_them[:i]:
            assert not np.array_equal(one, other)


def test_conformers_that_cannot_be_had():
    with pytest.raises(MoleculeError, match="finds no geometry"):
        add_positions(read_smiles("C1C[C@@H]2C[C@@H]1C2"))
    with pytest.raises(TooSlowError, match=r"embedded within 0\.5 s"):
        add_positions(read_smiles("C" * 120), limit_s=0.5)
    with pytest.raises(ValueError, match="n_conformers"):
        add_positions(read_smiles("C"), n_conformers=0)
