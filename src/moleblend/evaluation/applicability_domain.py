"""Applicability domain: how similar a molecule is to the training set."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float16, Float32, Float64, Int64, UInt8

from moleblend.chem.fingerprints import is_readable, nearest_packed, packed_ecfp4
from moleblend.chem.molecule import MoleculeError
from moleblend.errors import ModelFileError, SettingError

IN_DOMAIN = "in domain"
"""Distance and similarity are both within the range of 90 % of the validation molecules.

Domain values describe a molecule relative to the validation set. After a scaffold split the
validation set is far from the training set, and a molecule that resembles no training molecule can
still be `in domain`.
"""

BORDERLINE = "borderline"
"""Distance or similarity is beyond that of 90 % of the validation molecules; see `Thresholds`."""

OUT_OF_DOMAIN = "out of domain"
"""Distance or similarity is beyond that of 99 % of the validation molecules.

With up to 100 validation molecules: beyond that of all of them. Predictions are not reliable.
"""

N_NEIGHBOURS = 5

PREFIX = "domain."
"""Prefix of the tensor names in a model file."""

_BORDERLINE_QUANTILE, _OUT_OF_DOMAIN_QUANTILE = 0.9, 0.99
_ARRAYS = ("embeddings", "fingerprints", "rows")
_KINDS = (np.float16, np.uint8, np.int64)
_N_BYTES = 256
_DISTANCES_AT_ONCE = 2_000_000
_MORE_CANDIDATES = 3


@dataclass(frozen=True)
class Thresholds:
    """Limits between the domain values, as quantiles of the validation molecules.

    The field names are keys of the header of a model file.

    Attributes:
        mean: mean distance of the validation molecules to the training set.
        deviation: standard deviation of these distances.
        edge_distance: 90 % quantile of the distances; larger distances are `BORDERLINE`.
        unlike_distance: 99 % quantile of the distances (the maximum of up to 100 molecules); larger
            distances are `OUT_OF_DOMAIN`.
        edge_similarity: 10 % quantile of the similarities; lower similarities are `BORDERLINE`.
        unlike_similarity: 1 % quantile of the similarities; lower similarities are
            `OUT_OF_DOMAIN`.
        n: number of validation molecules.
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
    """Domain values of molecules; where the embedding is NaN: empty text, NaN and -1.

    Attributes:
        category: `IN_DOMAIN`, `BORDERLINE` or `OUT_OF_DOMAIN`.
        distance: mean Euclidean distance to the five nearest training molecules in the embedding,
            in standard deviations from the mean of the validation molecules.
        similarity: Tanimoto similarity (ECFP4) to the most similar training molecule, 0 to 1.
        row: row of the most similar training molecule in the training file, counted from 0.
        smiles: SMILES of the most similar training molecule; empty if the model file has no SMILES.
    """

    category: list[str]
    distance: Float64[np.ndarray, " n"]
    similarity: Float64[np.ndarray, " n"]
    row: Int64[np.ndarray, " n"]
    smiles: list[str]

    @classmethod
    def unknown(cls, n: int) -> "DomainScores":
        """Return the scores of `n` molecules where there is no training set to compare with."""
        missing = np.full(n, np.nan)
        return cls([""] * n, missing, missing, np.full(n, -1), [""] * n)

    @classmethod
    def concatenate(
        cls, scores: "Sequence[DomainScores]", order: Int64[np.ndarray, " n"]
    ) -> "DomainScores":
        """Concatenate scores, then reorder the molecules.

        Args:
            scores: of several sets of molecules.
            order: position in the concatenation of each molecule of the result.
        """
        category, smiles = (
            [text for one in scores for text in getattr(one, name)]
            for name in ("category", "smiles")
        )
        distance, similarity, row = (
            np.concatenate([getattr(one, name) for one in scores])[order]
            for name in ("distance", "similarity", "row")
        )
        return cls(
            [category[k] for k in order], distance, similarity, row, [smiles[k] for k in order]
        )


@dataclass(frozen=True, eq=False)
class ApplicabilityDomain:
    """The training set as stored in a model file, and the thresholds.

    Attributes:
        embeddings: of the training molecules, in half precision.
        fingerprints: ECFP4 of the training molecules, eight bits in a byte.
        rows: rows of the training molecules in the training file, counted from 0.
        smiles: of the training molecules; None if the model file must not contain them.
        thresholds: limits between the domain values.
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
        """Store the training set and compute the thresholds from the validation set.

        Args:
            embeddings: of the training molecules.
            smiles: of the training molecules.
            rows: rows of the training molecules in the training file, counted from 0.
            validation_embeddings: of the validation molecules.
            validation_smiles: of the validation molecules.
            keep_smiles: whether to store the training SMILES. Without them only the row of the
                nearest training molecule is known. Fingerprints and embeddings are always stored;
                structures can partly be inferred from them.

        Raises:
            SettingError: there are no training molecules or fewer than two validation molecules, or
                an embedding is too large for half precision.
            MoleculeError: RDKit cannot read a SMILES.
        """
        if len(smiles) == 0 or len(validation_smiles) < 2:
            raise SettingError(
                "the applicability domain needs at least 1 training molecule and 2 validation "
                f"molecules, got {len(smiles)} and {len(validation_smiles)}"
            )
        if not np.abs(embeddings).max() <= np.finfo(np.float16).max:
            raise SettingError("a training embedding is NaN or too large for half precision")
        stored, fingerprints = embeddings.astype(np.float16), packed_ecfp4(smiles)
        distance = _mean_distance(validation_embeddings, stored)
        similarity, _ = nearest_packed(packed_ecfp4(validation_smiles), fingerprints)
        thresholds = Thresholds(
            mean=float(distance.mean()),
            deviation=float(distance.std()),
            # An observed value, not an interpolated one: of up to 100 validation molecules none
            # is then beyond the outer threshold.
            edge_distance=float(np.quantile(distance, _BORDERLINE_QUANTILE, method="higher")),
            unlike_distance=float(np.quantile(distance, _OUT_OF_DOMAIN_QUANTILE, method="higher")),
            edge_similarity=float(
                np.quantile(similarity, 1 - _BORDERLINE_QUANTILE, method="lower")
            ),
            unlike_similarity=float(
                np.quantile(similarity, 1 - _OUT_OF_DOMAIN_QUANTILE, method="lower")
            ),
            n=len(distance),
        )
        return cls(stored, fingerprints, rows, tuple(smiles) if keep_smiles else None, thresholds)

    def score(self, embeddings: Float[np.ndarray, "n d"], smiles: Sequence[str]) -> DomainScores:
        """Compute the domain values of molecules.

        The category is the worse of two: that of the distance and that of the similarity. Of
        molecules distributed as the validation molecules, up to 2 % are `OUT_OF_DOMAIN`, and up to
        20 % are `BORDERLINE` or `OUT_OF_DOMAIN`.

        Args:
            embeddings: of the molecules; NaN for a row that is not a molecule.
            smiles: of the molecules; not read where the embedding is NaN.

        Raises:
            MoleculeError: RDKit cannot read a SMILES.
        """
        rows = np.flatnonzero(~np.isnan(embeddings).any(1))
        fingerprints = np.zeros((len(embeddings), self.fingerprints.shape[1]), np.uint8)
        fingerprints[rows] = packed_ecfp4([smiles[k] for k in rows])
        return self.score_fingerprints(embeddings, fingerprints)

    def score_fingerprints(
        self, embeddings: Float[np.ndarray, "n d"], fingerprints: UInt8[np.ndarray, "n 256"]
    ) -> DomainScores:
        """Compute the domain values of molecules whose fingerprints are known, see `score`.

        Args:
            embeddings: of the molecules; NaN for a row that is not a molecule.
            fingerprints: of the molecules, see `fingerprints.packed_ecfp4`; not read where the
                embedding is NaN.
        """
        is_known = ~np.isnan(embeddings).any(1)
        rows = np.flatnonzero(is_known)
        distance, similarity = np.full((2, len(embeddings)), np.nan)
        nearest = np.full(len(embeddings), -1)
        distance[rows] = _mean_distance(embeddings[rows], self.embeddings)
        similarity[rows], nearest[rows] = nearest_packed(fingerprints[rows], self.fingerprints)
        limits = self.thresholds
        grade = np.maximum(
            (distance > limits.edge_distance) * 1 + (distance > limits.unlike_distance),
            (similarity < limits.edge_similarity) * 1 + (similarity < limits.unlike_similarity),
        )
        categories = np.array([IN_DOMAIN, BORDERLINE, OUT_OF_DOMAIN])
        return DomainScores(
            category=np.where(is_known, categories[grade], "").tolist(),
            distance=self._standardised(distance),
            similarity=similarity,
            row=np.where(is_known, self.rows[nearest], -1),
            smiles=["" if self.smiles is None or k < 0 else self.smiles[k] for k in nearest],
        )

    def distance(self, embeddings: Float[np.ndarray, "n d"]) -> Float64[np.ndarray, " n"]:
        """Compute only the `distance` of `score`."""
        return self._standardised(_mean_distance(embeddings, self.embeddings))

    def _standardised(self, distance: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
        return (distance - self.thresholds.mean) / (self.thresholds.deviation or 1.0)

    def tensors(self) -> dict[str, np.ndarray]:
        """Return the arrays that a model file stores; the thresholds are in its header."""
        values = (self.embeddings, self.fingerprints, self.rows)
        arrays = dict(zip(_ARRAYS, values, strict=True))
        if self.smiles is not None:
            arrays["smiles"] = np.frombuffer("\n".join(self.smiles).encode(), np.uint8)
        return {PREFIX + name: values for name, values in arrays.items()}

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, np.ndarray], thresholds: Thresholds
    ) -> "ApplicabilityDomain":
        """Build the domain from the arrays of `tensors` and the thresholds.

        Raises:
            SettingError: an array is missing, or the arrays have different numbers of molecules.
        """
        missing = [PREFIX + name for name in _ARRAYS if PREFIX + name not in tensors]
        if missing:
            raise SettingError(f"the model file lacks {', '.join(missing)}")
        arrays = {name: tensors[PREFIX + name] for name in _ARRAYS}
        for name, kind, n_axes in zip(_ARRAYS, _KINDS, (2, 2, 1), strict=True):
            array = arrays[name]
            if array.dtype != kind or array.ndim != n_axes:
                raise ModelFileError(
                    f"{PREFIX}{name}: got {array.ndim} axes of {array.dtype}, expected {n_axes} of "
                    f"{np.dtype(kind)}"
                )
        embeddings, fingerprints, rows = arrays.values()
        if not (len(rows) and fingerprints.shape[1] == _N_BYTES and rows.min() >= 0):
            raise ModelFileError(
                f"expected at least one training molecule, fingerprints of {_N_BYTES} bytes and "
                f"rows from 0, got {len(rows)} molecules and {fingerprints.shape[1]} bytes"
            )
        if not np.isfinite(embeddings).all():
            raise ModelFileError(f"{PREFIX}embeddings: a number is NaN or infinite")
        text = tensors.get(PREFIX + "smiles")
        try:
            smiles = None if text is None else tuple(text.tobytes().decode().split("\n"))
        except UnicodeDecodeError as error:
            raise ModelFileError(f"{PREFIX}smiles: not a UTF-8 text ({error})") from error
        n_smiles = len(rows) if smiles is None else len(smiles)
        if not len(embeddings) == len(fingerprints) == len(rows) == n_smiles:
            raise SettingError(
                f"the model file has {len(embeddings)} training embeddings, {len(fingerprints)} "
                f"fingerprints, {n_smiles} SMILES and {len(rows)} rows, expected equal numbers"
            )
        return cls(embeddings, fingerprints, rows, smiles, thresholds)


def _mean_distance(
    queries: Float[np.ndarray, "n d"], training: Float16[np.ndarray, "m d"]
) -> Float64[np.ndarray, " n"]:
    """Mean Euclidean distance to the `N_NEIGHBOURS` nearest training molecules (or all, if few)."""
    known = training.astype(np.float32)
    squares, mean = (known**2).sum(1), np.zeros(len(queries))
    n_nearest = min(N_NEIGHBOURS, len(known))
    n_candidates = min(n_nearest + _MORE_CANDIDATES, len(known))
    step = max(_DISTANCES_AT_ONCE // len(known), 1)
    for start in range(0, len(queries), step):
        query = queries[start : start + step].astype(np.float32)
        # By the squares, up to rounding and to the square of the query; then exactly.
        order = squares - 2 * query @ known.T
        candidates = np.argpartition(order, n_candidates - 1, axis=1)[:, :n_candidates]
        difference = query[:, None].astype(np.float64) - known[candidates]
        distance = np.sort(np.sqrt((difference**2).sum(2)), 1)[:, :n_nearest]
        mean[start : start + step] = distance.astype(np.float32).mean(1)
    return mean


def domain_scores(
    domain: ApplicabilityDomain, embeddings: Float32[np.ndarray, "n d"], smiles: Sequence[str]
) -> DomainScores:
    """Compute domain values; unknown for a molecule whose SMILES RDKit cannot read."""
    try:
        return domain.score(embeddings, smiles)
    except MoleculeError:
        readable = embeddings.copy()
        readable[[not is_readable(text) for text in smiles]] = np.nan
        return domain.score(readable, smiles)
