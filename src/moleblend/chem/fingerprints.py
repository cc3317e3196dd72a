"""Similarity of molecules: scaffolds, circular fingerprints, Tanimoto, Butina clusters."""

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
from moleblend.errors import SettingError

MOST_TO_CLUSTER = 50_000
"""Largest number of molecules to cluster: all pairs are compared, so time grows quadratically."""

N_BITS = 2048
"""Length of the folded ECFP4 fingerprint."""

_ECFP4 = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=N_BITS)


def scaffold(smiles: str) -> str:
    """Return the Bemis-Murcko scaffold with its chirality, as canonical SMILES; "" without a ring.

    Raises:
        MoleculeError: the SMILES is invalid.

    Example:
        >>> scaffold("CC(=O)Oc1ccccc1C(=O)O"), scaffold("CCO")
        ('c1ccccc1', '')
    """
    mol = parse(smiles)
    # RDKit removes the atoms of a chain one after the other, in cubic time.
    if mol.GetRingInfo().NumRings() == 0:
        return ""
    return MurckoScaffold.MurckoScaffoldSmiles(mol=mol, includeChirality=True)


def framework(smiles: str) -> str:
    """Return the generic scaffold: every atom is carbon, and every bond is single.

    It consists of the rings and the chains between them.

    Raises:
        MoleculeError: the SMILES is invalid, or an atom has more bonds than carbon can have.

    Reference:
        Bemis and Murcko, J. Med. Chem. 1996, doi:10.1021/jm9602928 (their graph frameworks).

    Example:
        >>> framework("CC(=O)Oc1ccncc1C(=O)O"), framework("CCO")
        ('C1CCCCC1', '')
    """
    try:
        bare = MurckoScaffold.MakeScaffoldGeneric(MurckoScaffold.GetScaffoldForMol(parse(smiles)))
    except AtomValenceException as error:
        raise MoleculeError(
            f"{smiles}: no generic scaffold, an atom has more bonds than carbon can have"
        ) from error
    # A group with a double bond to a ring, such as C=O, is a single-bonded side chain now.
    return MolToSmiles(MurckoScaffold.GetScaffoldForMol(bare))


def count_ecfp4(smiles: str, n_bits: int = 2048) -> UInt32[np.ndarray, " n_bits"]:
    """Count the circular environments up to radius 2 (ECFP4), folded to `n_bits`.

    Raises:
        MoleculeError: the SMILES is invalid.
    """
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=n_bits)
    return generator.GetCountFingerprintAsNumPy(parse(smiles))


def count_ecfp4_of(mol: Mol) -> UInt32[np.ndarray, " n_bits"]:
    """Compute `count_ecfp4` of an RDKit molecule."""
    return _ECFP4.GetCountFingerprintAsNumPy(mol)


@dataclass(frozen=True, eq=False)
class Environments:
    """The circular environments that ECFP4 counts in a molecule of n atoms.

    Attributes:
        bits: the fingerprint bit of each environment.
        radius: of each environment, 0 to 2 bonds.
        atoms: the atoms of each environment, in the order of the molecule's record.
    """

    bits: Int64[np.ndarray, " e"]
    radius: Int64[np.ndarray, " e"]
    atoms: Bool[np.ndarray, "e n"]

    def count(self, present: Bool[np.ndarray, "r n"], longest: int = 2) -> Int64[np.ndarray, "r f"]:
        """Count the environments whose atoms are all present, for r selections of atoms.

        With all atoms present the result is that of `count_ecfp4`.

        Args:
            present: the selections.
            longest: the largest radius that is counted.
        """
        is_complete = (~present).astype(np.float32) @ self.atoms.T.astype(np.float32) == 0
        counts = np.zeros((len(present), N_BITS), np.int64)
        rows, which = np.nonzero(is_complete & (self.radius <= longest))
        np.add.at(counts, (rows, self.bits[which]), 1)
        return counts


def environments(molecule: Molecule) -> Environments:
    """Find the environments of a molecule.

    Raises:
        MoleculeError: RDKit cannot read its SMILES in the order of the record.
    """
    mol, output = in_order(molecule), rdFingerprintGenerator.AdditionalOutput()
    output.AllocateBitInfoMap()
    _ECFP4.GetCountFingerprint(mol, additionalOutput=output)
    rows = [
        (bit, centre, r) for bit, where in output.GetBitInfoMap().items() for centre, r in where
    ]
    bits, centres, radius = np.array(rows, np.int64).reshape(-1, 3).T
    distances = GetDistanceMatrix(mol)
    return Environments(bits, radius, distances[centres] <= radius[:, None])


def nearest(
    smiles: Sequence[str], references: Sequence[str]
) -> tuple[Float64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
    """Find the most similar reference of each molecule: Tanimoto on 2,048 bits of ECFP4.

    Memory grows with the number of molecules, not with the number of pairs.

    Args:
        smiles: the query molecules.
        references: at least one molecule.

    Returns:
        The similarities, and the index in `references` of the (first) most similar one.

    Raises:
        MoleculeError: a SMILES is invalid; the message has its row.
        SettingError: there are no references.
    """
    return _nearest(_fingerprints(smiles), _fingerprints(references))


def is_readable(smiles: str) -> bool:
    """Check whether RDKit can read a SMILES; for molecules from mol blocks it may fail."""
    try:
        parse(smiles)
    except MoleculeError:
        return False
    return True


def packed_ecfp4(smiles: Sequence[str]) -> UInt8[np.ndarray, "n 256"]:
    """Compute the 2,048 bits of ECFP4 of each molecule, packed into bytes for storage.

    Raises:
        MoleculeError: a SMILES is invalid; the message has its row.
    """
    packed = [_packed(bits) for bits in _fingerprints(smiles)]
    return np.stack(packed) if packed else np.zeros((0, N_BITS // 8), np.uint8)


def packed_ecfp4_of(mol: Mol) -> UInt8[np.ndarray, " 256"]:
    """Compute the row of `packed_ecfp4` of an RDKit molecule."""
    return _packed(_ECFP4.GetFingerprint(mol))


def _packed(bits: ExplicitBitVect) -> UInt8[np.ndarray, " 256"]:
    return np.frombuffer(BitVectToBinaryText(bits), np.uint8)


def nearest_packed(
    queries: UInt8[np.ndarray, "n 256"], references: UInt8[np.ndarray, "m 256"]
) -> tuple[Float64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
    """Find the most similar references as `nearest` does, from packed fingerprints."""
    return _nearest(_unpacked(queries), _unpacked(references))


def _unpacked(packed: UInt8[np.ndarray, "n 256"]) -> list[ExplicitBitVect]:
    return [CreateFromBinaryText(row.tobytes()) for row in packed]


def _nearest(
    queries: list[ExplicitBitVect], references: list[ExplicitBitVect]
) -> tuple[Float64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
    if not references:
        raise SettingError("expected at least one reference molecule, got none")
    similarity, index = np.zeros(len(queries)), np.zeros(len(queries), np.int64)
    for k, bits in enumerate(queries):
        similarities = BulkTanimotoSimilarity(bits, references)
        similarity[k] = max(similarities)
        index[k] = similarities.index(similarity[k])
    return similarity, index


def cluster(smiles: Sequence[str], similarity: float = 0.65) -> Int64[np.ndarray, " n"]:
    """Cluster molecules by Butina's method, on 2,048 bits of ECFP4.

    Among the molecules that are not in a cluster yet, the one with the most neighbours (counted
    among all molecules) becomes a centre. Its neighbours that are not in a cluster yet join it.
    Ties are broken by the fingerprint, so the clusters do not depend on the order of the molecules.
    RDKit's `ClusterData` uses the same method but needs the distances of all pairs in memory; here
    memory grows with the number of molecules only.

    Args:
        smiles: at most `MOST_TO_CLUSTER` molecules.
        similarity: smallest Tanimoto similarity of neighbours, above 0 and at most 1.

    Returns:
        The cluster number of each molecule, counted from 0 in the order of creation.

    Raises:
        MoleculeError: a SMILES is invalid; the message has its row.
        SettingError: there are too many molecules, or the similarity is out of range.

    Reference:
        Butina, J. Chem. Inf. Comput. Sci. 1999, doi:10.1021/ci9803381.
    """
    if not 0 < similarity <= 1:
        raise SettingError(f"got similarity={similarity}, expected above 0 and at most 1")
    if len(smiles) > MOST_TO_CLUSTER:
        raise SettingError(
            f"got {len(smiles):,} molecules to cluster, at most {MOST_TO_CLUSTER:,} are possible, "
            "because all pairs are compared"
        )
    unsorted = _fingerprints(smiles)
    order = sorted(range(len(unsorted)), key=lambda k: unsorted[k].ToBinary())
    bits = [unsorted[k] for k in order]
    n_neighbours = np.zeros(len(bits), np.int64)
    for k in range(1, len(bits)):
        near = np.flatnonzero(np.array(BulkTanimotoSimilarity(bits[k], bits[:k])) >= similarity)
        n_neighbours[near] += 1
        n_neighbours[k] += len(near)
    numbers = np.full(len(bits), -1, np.int64)
    n_clusters = 0
    for centre in sorted(range(len(bits)), key=lambda k: (n_neighbours[k], k), reverse=True):
        if numbers[centre] >= 0:
            continue
        if n_neighbours[centre]:
            free = np.flatnonzero(numbers < 0)
            similarities = BulkTanimotoSimilarity(bits[centre], [bits[k] for k in free])
            numbers[free[np.array(similarities) >= similarity]] = n_clusters
        numbers[centre] = n_clusters
        n_clusters += 1
    result = np.empty_like(numbers)
    result[order] = numbers
    return result


def _fingerprints(smiles: Sequence[str]) -> list[ExplicitBitVect]:
    fingerprints = []
    for row, text in enumerate(smiles):
        try:
            fingerprints.append(_ECFP4.GetFingerprint(parse(text)))
        except MoleculeError as error:
            raise MoleculeError(f"row {row + 1}: {error}") from error
    return fingerprints
