"""What the training part gives away: the same molecules, scaffolds and neighbours in two parts."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from itertools import combinations
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float64, Int64

from moleblend.chem.fingerprints import nearest, scaffold
from moleblend.chem.molecule import MoleculeError
from moleblend.chem.standardise import canonical, inchikey
from moleblend.data.splits import Split

Kind = Literal["molecule", "skeleton", "scaffold"]
"""`molecule`: the same canonical SMILES; `skeleton`: the same first block of the InChIKey, so also
stereoisomers, isotopes, protonated forms and most tautomers; `scaffold`: the same Bemis-Murcko
scaffold with its chirality, for which all molecules without a ring are one."""

QUANTILES = {"5%": 0.05, "25%": 0.25, "median": 0.5, "75%": 0.75, "95%": 0.95, "largest": 1.0}
"""Those of the similarities that are told."""


@dataclass(frozen=True, eq=False)
class Shared:
    """What two parts have in common.

    Attributes:
        kind: what counts as the same.
        parts: the two parts; train before validation before test.
        n_shared: molecules, skeletons or scaffolds that stand in both.
        first: rows of the first part that have one of them, counted from 0.
        second: rows of the second part.
    """

    kind: Kind
    parts: tuple[str, str]
    n_shared: int
    first: Int64[np.ndarray, " m"]
    second: Int64[np.ndarray, " k"]


@dataclass(frozen=True, eq=False)
class Nearest:
    """How near a part is to train.

    Attributes:
        part: validation or test.
        rows: its rows, counted from 0.
        similarity: Tanimoto (2,048 bits of ECFP4) of each to the most similar row of train.
        train_rows: that row.
    """

    part: str
    rows: Int64[np.ndarray, " m"]
    similarity: Float64[np.ndarray, " m"]
    train_rows: Int64[np.ndarray, " m"]

    @property
    def quantiles(self) -> dict[str, float]:
        """How the similarities are spread; empty for a part without rows."""
        if not len(self.similarity):
            return {}
        found = np.quantile(self.similarity, list(QUANTILES.values()))
        return dict(zip(QUANTILES, map(float, found), strict=True))


@dataclass(frozen=True, eq=False)
class Leakage:
    """The account of one split.

    Attributes:
        n_rows: of each part.
        shared: for each kind and each two parts.
        nearest: of validation and test.
    """

    n_rows: dict[str, int]
    shared: tuple[Shared, ...]
    nearest: tuple[Nearest, ...]

    def find(self, kind: Kind, first: str, second: str) -> Shared:
        """Give what two parts share of one kind."""
        return next(s for s in self.shared if (s.kind, s.parts) == (kind, (first, second)))

    def to_dict(self) -> dict[str, object]:
        """The same as lists and numbers, for JSON; rows are counted from 1, as in a file."""
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
    """Find what stands in two parts of a split.

    Molecules are compared as they are written: other salts of a molecule count as others.

    Args:
        smiles: one per row; those of rows in no part are not read.
        split: the parts; there is nothing to be near to if train is empty.

    Raises:
        MoleculeError: a SMILES that cannot be read; the message names its row (from 0).
        IndexError: the split has rows that `smiles` has not.
    """
    parts = {part.name: getattr(split, part.name) for part in fields(split)}
    names: dict[int, dict[Kind, str]] = {}
    for row in np.concatenate(list(parts.values())).tolist():
        try:
            text = smiles[row]
            # A molecule without InChIKey is told by its SMILES, which no key looks like.
            skeleton = inchikey(text)[:14] or canonical(text)
            names[row] = {
                "molecule": canonical(text),
                "skeleton": skeleton,
                "scaffold": scaffold(text),
            }
        except MoleculeError as error:
            raise MoleculeError(f"row {row + 1}: {error}") from error
    shared = []
    for kind in get_args(Kind):
        for pair in combinations(parts, 2):
            found = [{names[row][kind] for row in parts[name].tolist()} for name in pair]
            both = found[0] & found[1]
            first, second = (
                np.array([r for r in parts[name].tolist() if names[r][kind] in both], np.int64)
                for name in pair
            )
            shared.append(Shared(kind, pair, len(both), first, second))
    near = []
    for part in ("validation", "test") if len(split.train) else ():
        rows = parts[part]
        similarity, place = nearest(
            [smiles[row] for row in rows], [smiles[row] for row in split.train]
        )
        near.append(Nearest(part, rows, similarity, split.train[place]))
    n_rows = {name: len(rows) for name, rows in parts.items()}
    return Leakage(n_rows, tuple(shared), tuple(near))
