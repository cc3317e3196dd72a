"""Geometries of a molecule from RDKit: ETKDGv3 and force fields."""

import math
from dataclasses import replace
from time import monotonic

import numpy as np
from jaxtyping import Float64
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers, rdMolAlign

from moleblend.chem.molecule import Molecule, MoleculeError
from moleblend.chem.parsing import parse_in_order
from moleblend.errors import SettingError

_MINIMISER_STEPS, _STEPS_BETWEEN_TIME_CHECKS = 200, 50

_MOST_SYMMETRIES = 1000
"""Largest number of symmetry mappings per RMSD; a tert-butyl group alone has six."""

_FRAGMENT_GAP = 3.0
"""Å between the fragments of a salt before minimisation; RDKit embeds them on top of each other."""


class TooSlowError(MoleculeError):
    """No geometry was found within the time limit; a longer limit may help."""


def add_positions(
    molecule: Molecule,
    *,
    seed: int = 0,
    n_conformers: int = 1,
    prune_rms: float = 0.0,
    limit_s: float = 20.0,
) -> Molecule:
    """Compute geometries: ETKDGv3, then at most 200 steps of MMFF94.

    UFF is used if MMFF94 has no parameters; if UFF has none either, the embedding is not minimised.
    If ETKDGv3 finds no geometry, it is repeated from random coordinates, and then without RDKit's
    knowledge of flat groups, which N-sulfinylamines and some bridged rings do not fit. The time
    limit can only turn a result into an error, so the result depends on the molecule and the seed
    alone. The time is checked inside the embedding and every 50 steps of the minimiser, but not
    while RDKit sets up the distance bounds. That takes a second for 600 atoms with hydrogens, and
    grows with their cube. A strict limit needs a separate process: `conformers.ConformerWorker`.

    Args:
        molecule: its stereo is respected; existing positions are replaced.
        seed: at least 0.
        n_conformers: number of geometries, at least 1.
        prune_rms: of minimised geometries with a heavy-atom RMSD (Å, with symmetry) within this
            value only the one of lowest energy is kept; 0 keeps all.
        limit_s: time limit in seconds.

    Returns:
        The same molecule with `n_conformers` geometries in Å, and their energies if a force field
        has parameters. With pruning there may be fewer, in the order of their energies.

    Raises:
        TooSlowError: no geometry was found within the time limit.
        MoleculeError: no geometry was found; or the molecule is an `ogb-1` record of a mol block,
            and RDKit cannot write a SMILES with its order of atoms.

    Reference:
        Wang et al., J. Chem. Inf. Model. 2020, doi:10.1021/acs.jcim.0c00025 (ETKDGv3).
    """
    if seed < 0 or n_conformers < 1:
        raise SettingError(
            f"got seed={seed} and n_conformers={n_conformers}, expected seed >= 0 and "
            "n_conformers >= 1"
        )
    if not prune_rms >= 0:
        raise SettingError(f"got prune_rms={prune_rms}, expected at least 0 Å")
    deadline = monotonic() + limit_s
    mol, _, recorded = parse_in_order(molecule)
    mol = Chem.AddHs(mol)
    if not _embed(mol, seed, n_conformers, deadline):
        if monotonic() > deadline:
            raise TooSlowError(f"{molecule.id}: could not be embedded within {limit_s:g} s")
        raise MoleculeError(f"{molecule.id}: could not be embedded: ETKDGv3 finds no geometry")
    _separate_fragments(mol)
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
    """Add `n_conformers` conformers to `mol`; return whether it succeeded."""
    parameters = rdDistGeom.ETKDGv3()
    # RDKit uses the seed (i + 1) * seed, or seed + i, for conformer i. With small seeds, runs with
    # different seeds would share conformers.
    parameters.randomSeed = int(np.random.SeedSequence(seed).generate_state(1)[0] >> 2)
    parameters.enableSequentialRandomSeeds = True
    parameters.numThreads = 1
    for use_random, use_knowledge in ((False, True), (True, True), (True, False)):
        remaining = math.ceil(deadline - monotonic())
        if remaining <= 0:
            return False
        parameters.timeout = remaining
        parameters.useRandomCoords = use_random
        parameters.useBasicKnowledge = use_knowledge
        rdDistGeom.EmbedMultipleConfs(mol, n_conformers, parameters)
        if mol.GetNumConformers() == n_conformers:
            return True
    return False


def _separate_fragments(mol: Chem.Mol) -> None:
    """Move the fragments of a salt apart, along the x axis."""
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
    """Minimise every conformer of `mol` in place.

    Returns:
        Energies in kcal/mol and the name of the force field; None and "" if no force field has
        parameters; None instead of the tuple if the time limit was reached.
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
        for _ in range(0, _MINIMISER_STEPS, _STEPS_BETWEEN_TIME_CHECKS):
            if monotonic() > deadline:
                return None
            if field.Minimize(maxIts=_STEPS_BETWEEN_TIME_CHECKS) == 0:
                break
        energies.append(field.CalcEnergy())
    return np.array(energies), "UFF" if properties is None else "MMFF94"


def _prune(
    mol: Chem.Mol, energies: Float64[np.ndarray, " c"] | None, threshold: float
) -> list[int]:
    """Select conformers by energy; none is within `threshold` (Å) of one selected before it."""
    heavy = Chem.RemoveAllHs(mol)
    n_conformers = heavy.GetNumConformers()
    if heavy.GetNumAtoms() == 0:
        return list(range(n_conformers))
    # The RMSD of pairs (1, 0), (2, 0), (2, 1), (3, 0), ... in this order
    pairwise = rdMolAlign.GetAllConformerBestRMS(heavy, maxMatches=_MOST_SYMMETRIES)
    rms = np.zeros((n_conformers, n_conformers))
    rms[np.tril_indices(n_conformers, -1)] = pairwise
    rms += rms.T
    kept: list[int] = []
    order = range(n_conformers) if energies is None else np.argsort(energies, kind="stable")
    for number in order:
        if not kept or rms[number, kept].min() > threshold:
            kept.append(int(number))
    return kept
