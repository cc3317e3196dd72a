"""Intervals and sets that hold the measured value as often as they promise. By crepes.

The promise holds where new molecules are drawn as the validation molecules were. What is stored are
the scores of the validation molecules, which are plain numbers; crepes is set up from them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64

from moleblend.evaluation.calibration import by_class

# crepes computes with 1 - confidence, in which 1 - 0.9 falls short of 0.1 by a rounding error: of 9
# molecules it would then miss that they suffice for 90 %, and take one score too high in general.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class IntervalCalibration:
    """Split conformal intervals of one regression target.

    Attributes:
        scores: |label - predicted| of each validation molecule with a label, divided by its
            standard deviation if `is_normalised`; ascending.
        is_normalised: intervals are wider where the model is less sure.
    """

    scores: tuple[float, ...]
    is_normalised: bool

    @classmethod
    def fit(
        cls,
        predicted: Float[np.ndarray, " n"],
        label: Float[np.ndarray, " n"],
        deviation: Float[np.ndarray, " n"] | None = None,
    ) -> "IntervalCalibration":
        """Take the scores of validation molecules.

        Args:
            predicted: in the label's unit.
            label: NaN where missing.
            deviation: the standard deviation of each error, where it depends on the molecule.

        Raises:
            ValueError: a deviation is not above 0.

        Reference:
            Papadopoulos et al., ECML 2002 (split); Lei et al., J. Am. Stat. Assoc. 2018,
            arXiv:1604.04173 (and normalised).
        """
        is_known = ~np.isnan(label) & ~np.isnan(predicted)
        error = np.abs(label - predicted)[is_known]
        if deviation is not None:
            if not (deviation[is_known] > 0).all():
                raise ValueError("a standard deviation is not above 0")
            error = error / deviation[is_known]
        return cls(tuple(np.sort(error).tolist()), deviation is not None)

    def intervals(
        self,
        predicted: Float[np.ndarray, " n"],
        deviation: Float[np.ndarray, " n"] | None = None,
        confidence: float = 0.9,
    ) -> Float64[np.ndarray, "n 2"]:
        """Give lower and upper ends, in the label's unit; NaN without a prediction.

        Args:
            predicted: in the label's unit.
            deviation: as in `fit`.
            confidence: share of the intervals that shall hold the measured value.

        Returns:
            From minus to plus infinity where there are too few validation molecules; see `note`.

        Raises:
            ValueError: deviations came without there having been any in `fit`, or the reverse; or
                the confidence is not between 0 and 1.
        """
        check_confidence(confidence)
        if (deviation is not None) != self.is_normalised:
            has = "with" if self.is_normalised else "without"
            raise ValueError(f"the intervals were calibrated {has} standard deviations")
        found = np.full((len(predicted), 2), np.nan)
        is_known = ~np.isnan(predicted)
        if len(self.scores) < fewest(confidence):
            found[is_known] = -np.inf, np.inf
            return found
        from crepes import ConformalRegressor  # brings pandas, which takes a second to import

        known = ConformalRegressor()
        # fit() divides by deviations; these scores are divided already
        ones = np.ones(len(self.scores)) if self.is_normalised else None
        known.fit(np.array(self.scores), sigmas=ones)
        found[is_known] = known.predict_int(
            predicted[is_known].astype(np.float64),
            sigmas=None if deviation is None else deviation[is_known].astype(np.float64),
            confidence=confidence - _ROUNDING,
        )
        return found

    def note(self, name: str, confidence: float = 0.9) -> str:
        """Say in a sentence what is the matter with the intervals; empty if nothing is."""
        if len(self.scores) >= fewest(confidence):
            return ""
        return (
            f"{name}: the {100 * confidence:.10g}% intervals are infinite, since they need "
            f"{fewest(confidence)} labelled validation molecules and there are {len(self.scores)}"
        )


@dataclass(frozen=True)
class SetCalibration:
    """Conformal sets of classes of one target, each class for itself (Mondrian).

    Attributes:
        scores: for each class, 1 - its probability of each validation molecule that is of it;
            ascending.
    """

    scores: tuple[tuple[float, ...], ...]

    @classmethod
    def fit(
        cls, probability: Float[np.ndarray, "n ..."], label: Float[np.ndarray, " n"]
    ) -> "SetCalibration":
        """Take the scores of validation molecules.

        Args:
            probability: of class 1, or of every class.
            label: class numbers from 0; NaN where missing.

        Reference:
            Vovk et al., Algorithmic Learning in a Random World, 2005 (Mondrian by label); Norinder
            et al., J. Chem. Inf. Model. 2014, doi:10.1021/ci5001168 (for molecules).
        """
        classes = by_class(probability)
        scores = []
        for k, column in enumerate(classes.T):
            of_class = 1 - column[(label == k) & ~np.isnan(column)]
            scores.append(tuple(np.sort(of_class).tolist()))
        return cls(tuple(scores))

    def sets(
        self, probability: Float[np.ndarray, "n ..."], confidence: float = 0.9
    ) -> Bool[np.ndarray, "n c"]:
        """Say which classes are in the set of each molecule; none without a prediction.

        A class with too few validation molecules is in every set; see `note`. An empty set means
        that the molecule is like no class; of two classes both mean that it cannot be decided.

        Args:
            probability: as in `fit`.
            confidence: share of the molecules of each class whose set shall hold it.

        Raises:
            ValueError: another number of classes, or the confidence is not between 0 and 1.
        """
        check_confidence(confidence)
        from crepes import ConformalClassifier

        classes = by_class(probability)
        if classes.shape[1] != len(self.scores):
            raise ValueError(f"{len(self.scores)} classes were expected, {classes.shape[1]} came")
        found = np.zeros(classes.shape, bool)
        is_known = ~np.isnan(classes).any(1)
        for k, scores in enumerate(self.scores):
            if len(scores) < fewest(confidence):
                found[is_known, k] = True
                continue
            known = ConformalClassifier().fit(np.array(scores))
            p_value = known.predict_p(1 - classes[is_known, k], smoothing=False)
            found[is_known, k] = p_value > 1 - confidence + _ROUNDING
        return found

    def note(self, name: str, labels: Sequence[str], confidence: float = 0.9) -> str:
        """Say in a sentence what is the matter with the sets; empty if nothing is."""
        few = [
            f"{label} ({len(scores)})"
            for label, scores in zip(labels, self.scores, strict=True)
            if len(scores) < fewest(confidence)
        ]
        if not few:
            return ""
        return (
            f"{name}: every {100 * confidence:.10g}% set holds these classes, since it needs "
            f"{fewest(confidence)} validation molecules of each: {', '.join(few)}"
        )


def fewest(confidence: float) -> int:
    """Count the validation molecules from which an interval is finite: 1 / (1 - confidence) - 1."""
    return int(np.ceil(1 / (1 - confidence) - 1 - _ROUNDING))


def in_words(sets: Bool[np.ndarray, "n c"], labels: Sequence[str]) -> list[str]:
    """Write sets of classes as `{inactive, active}`.

    Example:
        >>> in_words(np.array([[True, True], [False, False]]), ["0", "1"])
        ['{0, 1}', '{}']
    """
    return [
        "{" + ", ".join(label for label, is_in in zip(labels, row, strict=True) if is_in) + "}"
        for row in sets
    ]


def check_confidence(confidence: float) -> None:
    """Refuse what is no confidence.

    Raises:
        ValueError: it is not between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"a confidence lies between 0 and 1, {confidence} came")
