"""Geometries of a molecule: ETKDGv3 and force fields, by RDKit."""

import math
from dataclasses import replace
from time import monotonic

import numpy as np
from jaxtyping import Float64
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers, rdMolAlign

from moleblend.chem.molecule import Molecule, MoleculeError
from moleblend.chem.parsing import written

_MINIMISER_STEPS, _STEPS_BETWEEN_CLOCKS = 200, 50

_MOST_SYMMETRIES = 1000
"""Ways to lay a molecule on itself that are tried for an RMSD: a tert-butyl group alone has six."""

_FRAGMENT_GAP = 3.0
"""Å between the fragments of a salt before minimisation; RDKit embeds all of them in one place."""


class TooSlowError(MoleculeError):
    """A geometry was not found in time; with more time it might be."""


def add_positions(
    molecule: Molecule,
    *,
    seed: int = 0,
    n_conformers: int = 1,
    prune_rms: float = 0.0,
    limit_s: float = 20.0,
) -> Molecule:
    """Compute geometries: ETKDGv3, then at most 200 steps of MMFF94.

    UFF takes over where MMFF94 has no parameters; where UFF has none either, the embedding stays
    as it is. If ETKDGv3 finds nothing it starts once more from random coordinates. The clock can
    only turn an answer into an error, so an answer depends on the molecule and the seed alone.
    It is read inside the embedding and every 50 steps of the minimiser, but not while RDKit sets up
    distance bounds: a second for 600 atoms, hydrogens counted, and growing with their cube. A limit
    that holds there too needs a process of its own: `conformers.ConformerWorker`.

    Args:
        molecule: its stereo is respected; positions it has are replaced.
        seed: at least 0.
        n_conformers: geometries wanted, at least 1.
        prune_rms: of minimised geometries whose heavy atoms lie within this RMSD (Å, symmetry
            counted) of each other only the one of lowest energy is kept; 0 keeps all.
        limit_s: seconds after which to give up.

    Returns:
        The same molecule with `n_conformers` geometries in Å, fewer where some were pruned (then
        those of low energy come first), and their energies where a force field has parameters.

    Raises:
        TooSlowError: no geometry was found in time.
        MoleculeError: none was found at all; or an `ogb-1` record from a mol block whose order no
            SMILES of RDKit has.

    Reference:
        Wang et al., J. Chem. Inf. Model. 2020, doi:10.1021/acs.jcim.0c00025 (ETKDGv3).
    """
    if seed < 0 or n_conformers < 1:
        raise ValueError(f"seed must be >= 0 and n_conformers >= 1, got {seed} and {n_conformers}")
    if not prune_rms >= 0:
        raise ValueError(f"prune_rms must be >= 0 Å, got {prune_rms}")
    deadline = monotonic() + limit_s
    mol, _, recorded = written(molecule)
    mol = Chem.AddHs(mol)
    if not _embed(mol, seed, n_conformers, deadline):
        if monotonic() > deadline:
            raise TooSlowError(f"{molecule.id}: could not be embedded within {limit_s:g} s")
        raise MoleculeError(f"{molecule.id}: could not be embedded: ETKDGv3 finds no geometry")
    _spread_fragments(mol)
    minimised = _minimise(mol, deadline)
    if minimised is None:
        raise TooSlowError(f"{molecule.id}: could not be minimised within {limit_s:g} s")
    energies, force_field = minimised
    kept = list(range(n_conformers))
    if prune_rms > 0 and n_conformers > 1:
        kept = _prune(mol, energies, prune_rms)
    positions = np.stack([conformer.GetPositions()[recorded] for conformer in mol.GetConformers()])
    return replace(
        molecule,
        positions=positions[kept].astype(np.float32),
        energies=None if energies is None else energies[kept].astype(np.float32),
        force_field=force_field,
    )


def _embed(mol: Chem.Mol, seed: int, n_conformers: int, deadline: float) -> bool:
    """Add `n_conformers` conformers to `mol`; say whether that worked."""
    parameters = rdDistGeom.ETKDGv3()
    # RDKit gives conformer i the seed (i + 1) * seed, or seed + i: with small numbers, conformers
    # of one run would be those of another.
    parameters.randomSeed = int(np.random.SeedSequence(seed).generate_state(1)[0] >> 2)
    parameters.enableSequentialRandomSeeds = True
    parameters.numThreads = 1
    for use_random in (False, True):
        remaining = math.ceil(deadline - monotonic())
        if remaining <= 0:
            return False
        parameters.timeout = remaining
        parameters.useRandomCoords = use_random
        rdDistGeom.EmbedMultipleConfs(mol, n_conformers, parameters)
        if mol.GetNumConformers() == n_conformers:
            return True
    return False


def _spread_fragments(mol: Chem.Mol) -> None:
    """Set the fragments of a salt side by side."""
    fragments = Chem.GetMolFrags(mol)
    for conformer in mol.GetConformers():
        positions = conformer.GetPositions()
        right = positions[list(fragments[0]), 0].max()
        for fragment in fragments[1:]:
            rows = list(fragment)
            positions[rows, 0] += right + _FRAGMENT_GAP - positions[rows, 0].min()
            right = positions[rows, 0].max()
        conformer.SetPositions(positions)


def _minimise(
    mol: Chem.Mol, deadline: float
) -> tuple[Float64[np.ndarray, " c"] | None, str] | None:
    """Relax every conformer of `mol` in place.

    Returns:
        Energies in kcal/mol and the force field's name, None and "" where none has parameters;
        None alone if there was no time.
    """
    properties = rdForceFieldHelpers.MMFFGetMoleculeProperties(mol)
    if properties is None and not rdForceFieldHelpers.UFFHasAllMoleculeParams(mol):
        return None, ""
    energies = []
    for conformer in mol.GetConformers():
        options = {"confId": conformer.GetId(), "ignoreInterfragInteractions": False}
        if properties is not None:
            field = rdForceFieldHelpers.MMFFGetMoleculeForceField(mol, properties, **options)
        else:
            field = rdForceFieldHelpers.UFFGetMoleculeForceField(mol, **options)
        field.Initialize()
        for _ in range(0, _MINIMISER_STEPS, _STEPS_BETWEEN_CLOCKS):
            if monotonic() > deadline:
                return None
            if field.Minimize(maxIts=_STEPS_BETWEEN_CLOCKS) == 0:
                break
        energies.append(field.CalcEnergy())
    return np.array(energies), "UFF" if properties is None else "MMFF94"


def _prune(
    mol: Chem.Mol, energies: Float64[np.ndarray, " c"] | None, threshold: float
) -> list[int]:
    """Choose conformers, from low to high energy, none within `threshold` (Å) of one before it."""
    heavy = Chem.RemoveAllHs(mol)
    n_conformers = heavy.GetNumConformers()
    if heavy.GetNumAtoms() == 0:
        return list(range(n_conformers))
    # The RMSD of pairs (1, 0), (2, 0), (2, 1), (3, 0), ... in this order
    found = rdMolAlign.GetAllConformerBestRMS(heavy, maxMatches=_MOST_SYMMETRIES)
    rms = np.zeros((n_conformers, n_conformers))
    rms[np.tril_indices(n_conformers, -1)] = found
    rms += rms.T
    kept: list[int] = []
    order = range(n_conformers) if energies is None else np.argsort(energies, kind="stable")
    for number in order:
        if not kept or rms[number, kept].min() > threshold:
            kept.append(int(number))
    return kept
