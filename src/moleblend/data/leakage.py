"""Leakage between the sets of a split: shared molecules and scaffolds, and near neighbours."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float64, Int64

from moleblend.chem.fingerprints import nearest, scaffold
from moleblend.chem.molecule import MoleculeError
from moleblend.chem.standardise import canonical, identity, inchikey
from moleblend.data.splits import Split

Kind = Literal["molecule", "skeleton", "scaffold"]
"""`molecule`: the same identity, see `chem.identity`. `skeleton`: the same first block of the
InChIKey, which stereoisomers, isotopes, protonated forms and most tautomers share. `scaffold`: the
same Bemis-Murcko scaffold with its chirality; all molecules without a ring have the same one."""

QUANTILES = {"5%": 0.05, "25%": 0.25, "median": 0.5, "75%": 0.75, "95%": 0.95, "largest": 1.0}
"""Quantiles of the similarities in a report."""


@dataclass(frozen=True, eq=False)
class Shared:
    """Overlap of two sets.

    Attributes:
        kind: what is compared.
        parts: names of the two sets, in the order train, validation, test.
        n_shared: number of molecules, skeletons or scaffolds in both sets.
        first: rows of the first set with one of them, counted from 0.
        second: rows of the second set with one of them.
    """

    kind: Kind
    parts: tuple[str, str]
    n_shared: int
    first: Int64[np.ndarray, " m"]
    second: Int64[np.ndarray, " k"]


@dataclass(frozen=True, eq=False)
class Nearest:
    """Similarity of a set to the training set.

    Attributes:
        part: `validation` or `test`.
        rows: the rows of the set, counted from 0.
        similarity: Tanimoto (2,048 bits of ECFP4) of each row to the most similar training row.
        train_rows: the most similar training row.
    """

    part: str
    rows: Int64[np.ndarray, " m"]
    similarity: Float64[np.ndarray, " m"]
    train_rows: Int64[np.ndarray, " m"]

    @property
    def quantiles(self) -> dict[str, float]:
        """Quantiles of the similarities; empty for a set without rows."""
        if not len(self.similarity):
            return {}
        values = np.quantile(self.similarity, list(QUANTILES.values()))
        return dict(zip(QUANTILES, map(float, values), strict=True))


@dataclass(frozen=True, eq=False)
class Leakage:
    """Leakage of one split.

    Attributes:
        n_rows: number of rows of each set.
        shared: the overlap for each kind and each pair of sets.
        nearest: similarity of the validation and the test set to the training set.
    """

    n_rows: dict[str, int]
    shared: tuple[Shared, ...]
    nearest: tuple[Nearest, ...]

    def find(self, kind: Kind, first: str, second: str) -> Shared:
        """Return the overlap of two sets for one kind."""
        return next(s for s in self.shared if (s.kind, s.parts) == (kind, (first, second)))

    def to_dict(self) -> dict[str, object]:
        """Return plain values for JSON; rows are counted from 1."""
        shared = [
            {**asdict(s), "first": (s.first + 1).tolist(), "second": (s.second + 1).tolist()}
            for s in self.shared
        ]
        near = [
            {
                "part": n.part,
                "quantiles": n.quantiles,
                "rows": (n.rows + 1).tolist(),
                "similarity": [round(value, 4) for value in n.similarity.tolist()],
                "train_rows": (n.train_rows + 1).tolist(),
            }
            for n in self.nearest
        ]
        return {"n_rows": self.n_rows, "shared": shared, "nearest_in_train": near}


def leakage(smiles: Sequence[str], split: Split) -> Leakage:
    """Find molecules, skeletons and scaffolds in more than one set, and nearest neighbours.

    Molecules are compared without standardisation: two salts of a molecule are different.

    Args:
        smiles: one per row; those of rows in no set are not read.
        split: the sets; without training rows no neighbours are searched.

    Raises:
        MoleculeError: a SMILES is invalid; the message has its row.
        IndexError: the split has rows that `smiles` does not have.
    """
    sets = split.sets()
    keys: dict[int, dict[Kind, str]] = {}
    for row in np.concatenate(list(sets.values())).tolist():
        try:
            text = smiles[row]
            # A molecule without an InChIKey is compared by its SMILES, which is never a key.
            skeleton = inchikey(text)[:14] or canonical(text)
            keys[row] = {
                "molecule": identity(text),
                "skeleton": skeleton,
                "scaffold": scaffold(text),
            }
        except MoleculeError as error:
            raise MoleculeError(f"row {row + 1}: {error}") from error
    shared = []
    for kind in get_args(Kind):
        for pair in combinations(sets, 2):
            each = [{keys[row][kind] for row in sets[name].tolist()} for name in pair]
            both = each[0] & each[1]
            first, second = (
                np.array([r for r in sets[name].tolist() if keys[r][kind] in both], np.int64)
                for name in pair
            )
            shared.append(Shared(kind, pair, len(both), first, second))
    near = []
    for name in ("validation", "test") if len(split.train) else ():
        rows = sets[name]
        similarity, index = nearest(
            [smiles[row] for row in rows], [smiles[row] for row in split.train]
        )
        near.append(Nearest(name, rows, similarity, split.train[index]))
    n_rows = {name: len(rows) for name, rows in sets.items()}
    return Leakage(n_rows, tuple(shared), tuple(near))
