"""How near a molecule is to those that the model learnt from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float16, Float32, Float64, Int64, UInt8
from sklearn.neighbors import NearestNeighbors

from moleblend.chem.fingerprints import is_readable, nearest_packed, packed_ecfp4
from moleblend.chem.molecule import MoleculeError

# What they say is what is measured: after a split by scaffold validation is far from training, and
# a molecule can be as near as that though it resembles nothing there.
LIKE = "as near to training as validation"
EDGE = "further from training than most of validation"
UNLIKE = "further from training than validation: do not rely on it"

N_NEIGHBOURS = 5

PREFIX = "domain."
"""Of the names of its tensors in a model file."""

_EDGE, _UNLIKE = 0.9, 0.99
_ARRAYS = ("embeddings", "fingerprints", "rows")


@dataclass(frozen=True)
class Thresholds:
    """Where the words change: quantiles of the validation molecules, which training did not see.

    Attributes:
        mean: of the distances of validation molecules to the training set.
        deviation: standard deviation of these distances.
        edge_distance: exceeded by at most 10 % of validation molecules; beyond it is the edge.
        unlike_distance: exceeded by at most 1 %, so of up to 100 molecules by none.
        edge_similarity: at most 10 % of validation molecules have less; below it is the edge.
        unlike_similarity: at most 1 % have less.
        n: validation molecules.
    """

    mean: float
    deviation: float
    edge_distance: float
    unlike_distance: float
    edge_similarity: float
    unlike_similarity: float
    n: int


@dataclass(frozen=True, eq=False)
class DomainScores:
    """How near molecules are to the training set; a NaN embedding gives NaN, -1, and empty texts.

    Attributes:
        words: `LIKE`, `EDGE` or `UNLIKE`.
        distance: mean distance to the five nearest training molecules in the embedding, in standard
            deviations from the mean of the validation molecules.
        similarity: Tanimoto similarity (ECFP4) of the training molecule that is most similar.
        row: of that molecule in the training file, counted from 0.
        smiles: of that molecule; empty if the model file has no SMILES.
    """

    words: list[str]
    distance: Float64[np.ndarray, " n"]
    similarity: Float64[np.ndarray, " n"]
    row: Int64[np.ndarray, " n"]
    smiles: list[str]

    @classmethod
    def unknown(cls, n: int) -> "DomainScores":
        """Give what is known of molecules without a training set."""
        nothing = np.full(n, np.nan)
        return cls([""] * n, nothing, nothing, np.full(n, -1), [""] * n)

    @classmethod
    def joined(
        cls, parts: "Sequence[DomainScores]", order: Int64[np.ndarray, " n"]
    ) -> "DomainScores":
        """Put several together; the molecules are then taken in the order that is given."""
        words, smiles = (
            [text for part in parts for text in getattr(part, name)] for name in ("words", "smiles")
        )
        distance, similarity, row = (
            np.concatenate([getattr(part, name) for part in parts])[order]
            for name in ("distance", "similarity", "row")
        )
        return cls([words[k] for k in order], distance, similarity, row, [smiles[k] for k in order])


@dataclass(frozen=True, eq=False)
class ApplicabilityDomain:
    """The training set as a model file keeps it, and the thresholds.

    Attributes:
        embeddings: in half precision.
        fingerprints: ECFP4, eight bits in a byte.
        rows: of the training file, counted from 0.
        smiles: None if they shall not be in the model file.
        thresholds: where the words change.
    """

    embeddings: Float16[np.ndarray, "m d"]
    fingerprints: UInt8[np.ndarray, "m 256"]
    rows: Int64[np.ndarray, " m"]
    smiles: tuple[str, ...] | None
    thresholds: Thresholds

    @classmethod
    def fit(
        cls,
        embeddings: Float[np.ndarray, "m d"],
        smiles: Sequence[str],
        rows: Int64[np.ndarray, " m"],
        validation_embeddings: Float[np.ndarray, "v d"],
        validation_smiles: Sequence[str],
        *,
        keep_smiles: bool = True,
    ) -> "ApplicabilityDomain":
        """Keep the training set, and see how far validation molecules are from it.

        Args:
            embeddings: of the training molecules.
            smiles: of the same.
            rows: of the same in the training file, counted from 0.
            validation_embeddings: of the validation molecules.
            validation_smiles: of the same.
            keep_smiles: without them the nearest training molecule is known by its row only.
                Fingerprints and embeddings stay, and let structures be guessed in part.

        Raises:
            ValueError: there are fewer than two validation molecules or no training molecules, or
                an embedding is too large for half precision.
            MoleculeError: RDKit refuses a SMILES.
        """
        if len(smiles) == 0 or len(validation_smiles) < 2:
            raise ValueError(
                "a training molecule and two validation molecules are needed, "
                f"{len(smiles)} and {len(validation_smiles)} came"
            )
        if not np.abs(embeddings).max() <= np.finfo(np.float16).max:
            raise ValueError("a training embedding is no number, or too large for half precision")
        stored, prints = embeddings.astype(np.float16), packed_ecfp4(smiles)
        distance = _distance(validation_embeddings, stored)
        similarity, _ = nearest_packed(packed_ecfp4(validation_smiles), prints)
        thresholds = Thresholds(
            mean=float(distance.mean()),
            deviation=float(distance.std()),
            # a value that was found: of few validation molecules none is then beyond the last word
            edge_distance=float(np.quantile(distance, _EDGE, method="higher")),
            unlike_distance=float(np.quantile(distance, _UNLIKE, method="higher")),
            edge_similarity=float(np.quantile(similarity, 1 - _EDGE, method="lower")),
            unlike_similarity=float(np.quantile(similarity, 1 - _UNLIKE, method="lower")),
            n=len(distance),
        )
        return cls(stored, prints, rows, tuple(smiles) if keep_smiles else None, thresholds)

    def score(self, embeddings: Float[np.ndarray, "n d"], smiles: Sequence[str]) -> DomainScores:
        """Say how near molecules are to the training set.

        The word is the worse of two: that of the distance, and that of the similarity. Of molecules
        like those of validation, up to 2 in 100 are called `UNLIKE`, and up to 20 at least `EDGE`.

        Args:
            embeddings: of the molecules; NaN for a row that is none.
            smiles: of the same; not read where the embedding is NaN.

        Raises:
            MoleculeError: RDKit refuses a SMILES.
        """
        is_known = ~np.isnan(embeddings).any(1)
        chosen = np.flatnonzero(is_known)
        distance, similarity = np.full((2, len(embeddings)), np.nan)
        place = np.full(len(embeddings), -1)
        distance[chosen] = _distance(embeddings[chosen], self.embeddings)
        similarity[chosen], place[chosen] = nearest_packed(
            packed_ecfp4([smiles[k] for k in chosen]), self.fingerprints
        )
        limits = self.thresholds
        grade = np.maximum(
            (distance > limits.edge_distance) * 1 + (distance > limits.unlike_distance),
            (similarity < limits.edge_similarity) * 1 + (similarity < limits.unlike_similarity),
        )
        words = np.where(is_known, np.array([LIKE, EDGE, UNLIKE])[grade], "")
        known = self.smiles
        return DomainScores(
            words=words.tolist(),
            distance=self._scaled(distance),
            similarity=similarity,
            row=np.where(is_known, self.rows[place], -1),
            smiles=["" if known is None or k < 0 else known[k] for k in place],
        )

    def distance(self, embeddings: Float[np.ndarray, "n d"]) -> Float64[np.ndarray, " n"]:
        """Give the distances of `near` alone."""
        return self._scaled(_distance(embeddings, self.embeddings))

    def _scaled(self, distance: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
        return (distance - self.thresholds.mean) / (self.thresholds.deviation or 1.0)

    def tensors(self) -> dict[str, np.ndarray]:
        """Give the arrays that a model file keeps; the thresholds go into its header."""
        values = (self.embeddings, self.fingerprints, self.rows)
        arrays = dict(zip(_ARRAYS, values, strict=True))
        if self.smiles is not None:
            arrays["smiles"] = np.frombuffer("\n".join(self.smiles).encode(), np.uint8)
        return {PREFIX + name: values for name, values in arrays.items()}

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, np.ndarray], thresholds: Thresholds
    ) -> "ApplicabilityDomain":
        """Make it again from what `tensors` gave, and the thresholds.

        Raises:
            ValueError: an array is missing, or they are not of equally many molecules.
        """
        missing = [PREFIX + name for name in _ARRAYS if PREFIX + name not in tensors]
        if missing:
            raise ValueError(f"the model file lacks {', '.join(missing)}")
        embeddings, fingerprints, rows = (tensors[PREFIX + name] for name in _ARRAYS)
        text = tensors.get(PREFIX + "smiles")
        smiles = None if text is None else tuple(text.tobytes().decode().split("\n"))
        n_smiles = len(rows) if smiles is None else len(smiles)
        if not len(embeddings) == len(fingerprints) == len(rows) == n_smiles:
            raise ValueError(
                f"the model file has {len(embeddings)} training embeddings, {len(fingerprints)} "
                f"fingerprints, {n_smiles} SMILES and {len(rows)} rows, which are to be as many"
            )
        return cls(embeddings, fingerprints, rows, smiles, thresholds)


def _distance(
    asked: Float[np.ndarray, "n d"], known: Float16[np.ndarray, "m d"]
) -> Float64[np.ndarray, " n"]:
    """Mean Euclidean distance to the nearest training molecules, all of them if they are few."""
    if not len(asked):
        return np.zeros(0)
    search = NearestNeighbors(n_neighbors=min(N_NEIGHBOURS, len(known)), algorithm="brute")
    search.fit(known.astype(np.float32))
    distance, _ = search.kneighbors(asked.astype(np.float32))
    return distance.mean(1).astype(np.float64)


def domain_scores(
    domain: ApplicabilityDomain, vectors: Float32[np.ndarray, "n d"], smiles: Sequence[str]
) -> DomainScores:
    """Say how near molecules are, by vector and SMILES; unknown of one that RDKit refuses."""
    try:
        return domain.score(vectors, smiles)
    except MoleculeError:
        known = vectors.copy()
        known[[not is_readable(text) for text in smiles]] = np.nan
        return domain.score(known, smiles)
