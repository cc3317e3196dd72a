"""What makes molecules alike: scaffolds, circular fingerprints, Tanimoto, clusters. By RDKit."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt8, UInt32
from rdkit.Chem import (
    AtomValenceException,
    GetDistanceMatrix,
    Mol,
    MolToSmiles,
    rdFingerprintGenerator,
)
from rdkit.Chem.Scaffolds import MurckoScaffold
from rdkit.DataStructs import (
    BitVectToBinaryText,
    BulkTanimotoSimilarity,
    CreateFromBinaryText,
    ExplicitBitVect,
)

from moleblend.chem.molecule import Molecule, MoleculeError
from moleblend.chem.parsing import in_order, parse

MOST_TO_CLUSTER = 50_000
"""Molecules; every one is compared with every other, so time grows with the square."""

N_BITS = 2048
"""Places that ECFP4 is folded to."""

_ECFP4 = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=N_BITS)


def scaffold(smiles: str) -> str:
    """Return the Bemis-Murcko scaffold with its chirality, as canonical SMILES; "" without a ring.

    Raises:
        MoleculeError: RDKit refuses the SMILES.

    Example:
        >>> scaffold("CC(=O)Oc1ccccc1C(=O)O"), scaffold("CCO")
        ('c1ccccc1', '')
    """
    return MurckoScaffold.MurckoScaffoldSmiles(mol=parse(smiles), includeChirality=True)


def framework(smiles: str) -> str:
    """Return the scaffold as a bare graph: every atom is carbon, every bond single.

    Only rings and the chains between them are left.

    Raises:
        MoleculeError: RDKit refuses the SMILES, or an atom has more bonds than carbon can have.

    Reference:
        Bemis and Murcko, J. Med. Chem. 1996, doi:10.1021/jm9602928 (their graph frameworks).

    Example:
        >>> framework("CC(=O)Oc1ccncc1C(=O)O"), framework("CCO")
        ('C1CCCCC1', '')
    """
    try:
        bare = MurckoScaffold.MakeScaffoldGeneric(MurckoScaffold.GetScaffoldForMol(parse(smiles)))
    except AtomValenceException as error:
        raise MoleculeError(f"{smiles}: a carbon cannot have the bonds of an atom in it") from error
    # What a double bond held to a ring, such as C=O, hangs on it by a single bond now.
    return MolToSmiles(MurckoScaffold.GetScaffoldForMol(bare))


def count_ecfp4(smiles: str, n_bits: int = 2048) -> UInt32[np.ndarray, " n_bits"]:
    """Count the circular environments of radius 2 (ECFP4), folded to `n_bits`.

    Raises:
        MoleculeError: RDKit refuses the SMILES.
    """
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=n_bits)
    return generator.GetCountFingerprintAsNumPy(parse(smiles))


def count_ecfp4_of(mol: Mol) -> UInt32[np.ndarray, " n_bits"]:
    """Count the environments of RDKit's molecule, folded to `N_BITS`."""
    return _ECFP4.GetCountFingerprintAsNumPy(mol)


@dataclass(frozen=True, eq=False)
class Environments:
    """The circular environments that ECFP4 counts in a molecule of n atoms.

    Attributes:
        bits: where each is counted.
        radius: of each, 0 to 2 bonds.
        atoms: which atoms it consists of, in the order of the molecule's record.
    """

    bits: Int64[np.ndarray, " e"]
    radius: Int64[np.ndarray, " e"]
    atoms: Bool[np.ndarray, "e n"]

    def count(self, present: Bool[np.ndarray, "r n"], longest: int = 2) -> Int64[np.ndarray, "r f"]:
        """Count, r times, those of which all atoms are present, up to a radius.

        With all atoms it is `count_ecfp4`.
        """
        is_whole = (~present).astype(np.float32) @ self.atoms.T.astype(np.float32) == 0
        counts = np.zeros((len(present), N_BITS), np.int64)
        rows, which = np.nonzero(is_whole & (self.radius <= longest))
        np.add.at(counts, (rows, self.bits[which]), 1)
        return counts


def environments(molecule: Molecule) -> Environments:
    """Find the environments of a molecule.

    Raises:
        MoleculeError: RDKit refuses its SMILES, or has no order of it that is the record's.
    """
    mol, found = in_order(molecule), rdFingerprintGenerator.AdditionalOutput()
    found.AllocateBitInfoMap()
    _ECFP4.GetCountFingerprint(mol, additionalOutput=found)
    listed = [(b, centre, r) for b, where in found.GetBitInfoMap().items() for centre, r in where]
    bits, centres, radius = np.array(listed, np.int64).reshape(-1, 3).T
    apart = GetDistanceMatrix(mol)
    return Environments(bits, radius, apart[centres] <= radius[:, None])


def nearest(
    smiles: Sequence[str], references: Sequence[str]
) -> tuple[Float64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
    """Find for each molecule the reference that is most similar: Tanimoto on 2,048 bits of ECFP4.

    Memory grows with the number of molecules, not with that of pairs.

    Args:
        smiles: the molecules that ask.
        references: those they are compared with, at least one.

    Returns:
        The similarities, and where the (first) nearest stands in `references`.

    Raises:
        MoleculeError: RDKit refuses a SMILES; the message has its place.
        ValueError: there is nothing to compare with.
    """
    return _nearest(_fingerprints(smiles), _fingerprints(references))


def is_readable(smiles: str) -> bool:
    """Say whether RDKit takes a SMILES; that of a molecule read from coordinates it may refuse."""
    try:
        parse(smiles)
    except MoleculeError:
        return False
    return True


def packed_ecfp4(smiles: Sequence[str]) -> UInt8[np.ndarray, "n 256"]:
    """Give the 2,048 bits of ECFP4 of each molecule, eight in a byte, to be stored.

    Raises:
        MoleculeError: RDKit refuses a SMILES; the message has its place.
    """
    packed = [_packed(bits) for bits in _fingerprints(smiles)]
    return np.stack(packed) if packed else np.zeros((0, N_BITS // 8), np.uint8)


def packed_ecfp4_of(mol: Mol) -> UInt8[np.ndarray, " 256"]:
    """Compute the row of `packed_ecfp4` for RDKit's molecule."""
    return _packed(_ECFP4.GetFingerprint(mol))


def _packed(bits: ExplicitBitVect) -> UInt8[np.ndarray, " 256"]:
    return np.frombuffer(BitVectToBinaryText(bits), np.uint8)


def nearest_packed(
    asked: UInt8[np.ndarray, "n 256"], references: UInt8[np.ndarray, "m 256"]
) -> tuple[Float64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
    """Do what `nearest` does, on stored bits."""
    return _nearest(_unpacked(asked), _unpacked(references))


def _unpacked(packed: UInt8[np.ndarray, "n 256"]) -> list[ExplicitBitVect]:
    return [CreateFromBinaryText(row.tobytes()) for row in packed]


def _nearest(
    asked: list[ExplicitBitVect], known: list[ExplicitBitVect]
) -> tuple[Float64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
    if not known:
        raise ValueError("there is no molecule to compare with")
    similarity, place = np.zeros(len(asked)), np.zeros(len(asked), np.int64)
    for k, bits in enumerate(asked):
        found = BulkTanimotoSimilarity(bits, known)
        similarity[k] = max(found)
        place[k] = found.index(similarity[k])
    return similarity, place


def cluster(smiles: Sequence[str], similarity: float = 0.65) -> Int64[np.ndarray, " n"]:
    """Cluster by Butina's method, on 2,048 bits of ECFP4.

    Of the molecules that are in no cluster yet, the one with the most neighbours among all becomes
    a centre, and takes those of its neighbours that are still free. Equal counts are decided by the
    bits, so the clusters do not depend on the order of the molecules. RDKit's own `ClusterData` is
    the same, but wants the distances of all pairs at once; here memory grows with the number of
    molecules only.

    Args:
        smiles: the molecules, at most `MOST_TO_CLUSTER`.
        similarity: Tanimoto from which two molecules are neighbours, above 0 and at most 1.

    Returns:
        The number of each molecule's cluster, counted from 0 in the order in which they were made.

    Raises:
        MoleculeError: RDKit refuses a SMILES; the message has its place.
        ValueError: too many molecules, or no similarity.

    Reference:
        Butina, J. Chem. Inf. Comput. Sci. 1999, doi:10.1021/ci9803381.
    """
    if not 0 < similarity <= 1:
        raise ValueError(f"similarity must be above 0 and at most 1, {similarity} came")
    if len(smiles) > MOST_TO_CLUSTER:
        raise ValueError(
            f"{len(smiles):,} molecules are too many to cluster, all pairs of at most "
            f"{MOST_TO_CLUSTER:,} are compared"
        )
    given = _fingerprints(smiles)
    order = sorted(range(len(given)), key=lambda k: given[k].ToBinary())
    prints = [given[k] for k in order]
    n_neighbours = np.zeros(len(prints), np.int64)
    for k in range(1, len(prints)):
        near = np.flatnonzero(np.array(BulkTanimotoSimilarity(prints[k], prints[:k])) >= similarity)
        n_neighbours[near] += 1
        n_neighbours[k] += len(near)
    numbers = np.full(len(prints), -1, np.int64)
    n_clusters = 0
    for centre in sorted(range(len(prints)), key=lambda k: (n_neighbours[k], k), reverse=True):
        if numbers[centre] >= 0:
            continue
        if n_neighbours[centre]:
            free = np.flatnonzero(numbers < 0)
            found = BulkTanimotoSimilarity(prints[centre], [prints[k] for k in free])
            numbers[free[np.array(found) >= similarity]] = n_clusters
        numbers[centre] = n_clusters
        n_clusters += 1
    result = np.empty_like(numbers)
    result[order] = numbers
    return result


def _fingerprints(smiles: Sequence[str]) -> list[ExplicitBitVect]:
    prints = []
    for row, text in enumerate(smiles):
        try:
            prints.append(_ECFP4.GetFingerprint(parse(text)))
        except MoleculeError as error:
            raise MoleculeError(f"row {row + 1}: {error}") from error
    return prints
