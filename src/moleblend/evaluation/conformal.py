"""Prediction intervals and prediction sets, by split conformal prediction.

The interval of a regression prediction (columns NAME_low and NAME_high) is computed in
`IntervalCalibration.predict_intervals`: predicted value ± a quantile of the validation scores. A
score is the absolute error of a validation molecule. If the standard deviation of the error depends
on the molecule, scores are divided by it and the quantile is multiplied by it. The set of classes
(column NAME_set) is computed in `SetCalibration.predict_sets`. `uncertainty` calls both for each
target.

At confidence 0.9, 90 % of the intervals contain the measured value, on average over molecules that
are exchangeable with the validation molecules. A model file stores the scores of the validation
molecules; the quantiles and p-values are computed by crepes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64

from moleblend.config import check_type
from moleblend.errors import SettingError
from moleblend.evaluation.calibration import by_class, check_ascending

# crepes computes 1 - confidence, and 1 - 0.9 is less than 0.1 by a rounding error. Without this
# correction 9 molecules would not suffice for 90 %, and otherwise the next higher score would often
# be used.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class IntervalCalibration:
    """Split conformal prediction intervals of one regression target.

    The names of the fields are keys of the header of a model file.

    Attributes:
        scores: |label - predicted| of each labelled validation molecule, divided by its standard
            deviation if `is_normalised`; ascending.
        is_normalised: whether the width of an interval is proportional to the standard deviation.
    """

    scores: tuple[float, ...]
    is_normalised: bool

    def __post_init__(self) -> None:
        """Check the scores."""
        check_ascending("scores", self.scores)

    @classmethod
    def fit(
        cls,
        predicted: Float[np.ndarray, " n"],
        label: Float[np.ndarray, " n"],
        std: Float[np.ndarray, " n"] | None = None,
    ) -> "IntervalCalibration":
        """Compute the scores of the validation molecules.

        Args:
            predicted: in the label's unit.
            label: NaN where missing.
            std: standard deviation of each error, if it depends on the molecule.

        Raises:
            SettingError: a standard deviation is not above 0.

        Reference:
            Papadopoulos et al., ECML 2002 (split); Lei et al., J. Am. Stat. Assoc. 2018,
            arXiv:1604.04173 (and normalised).
        """
        is_known = ~np.isnan(label) & ~np.isnan(predicted)
        error = np.abs(label - predicted)[is_known]
        if std is not None:
            if not (std[is_known] > 0).all():
                raise SettingError("a standard deviation is not above 0")
            error = error / std[is_known]
        return cls(tuple(np.sort(error).tolist()), std is not None)

    def predict_intervals(
        self,
        predicted: Float[np.ndarray, " n"],
        std: Float[np.ndarray, " n"] | None = None,
        confidence: float = 0.9,
    ) -> Float64[np.ndarray, "n 2"]:
        """Compute lower and upper ends, in the label's unit; NaN without a prediction.

        Args:
            predicted: in the label's unit.
            std: as in `fit`.
            confidence: fraction of the intervals that contain the measured value.

        Returns:
            From minus to plus infinity if there are too few validation molecules; see `limitation`.

        Raises:
            SettingError: `std` was given here but not in `fit`, or the reverse; or the confidence
                is not between 0 and 1.
        """
        check_confidence(confidence)
        if (std is not None) != self.is_normalised:
            got, expected = ("no ", "them") if self.is_normalised else ("", "none")
            raise SettingError(
                f"got {got}standard deviations, expected {expected} as in the calibration"
            )
        intervals = np.full((len(predicted), 2), np.nan)
        is_known = ~np.isnan(predicted)
        if len(self.scores) < min_molecules(confidence):
            intervals[is_known] = -np.inf, np.inf
            return intervals
        from crepes import ConformalRegressor  # imports pandas, which takes a second

        regressor = ConformalRegressor()
        # fit() divides by the standard deviations, and these scores are divided already.
        ones = np.ones(len(self.scores)) if self.is_normalised else None
        regressor.fit(np.array(self.scores), sigmas=ones)
        intervals[is_known] = regressor.predict_int(
            predicted[is_known].astype(np.float64),
            sigmas=None if std is None else std[is_known].astype(np.float64),
            confidence=confidence - _ROUNDING,
        )
        return intervals

    def limitation(self, name: str, confidence: float = 0.9) -> str:
        """Return a sentence if the intervals are infinite; empty if they are not.

        Args:
            name: of the target.
            confidence: of the intervals.
        """
        if len(self.scores) >= min_molecules(confidence):
            return ""
        return (
            f"{name}: the {100 * confidence:.10g}% intervals are infinite, since they need "
            f"{min_molecules(confidence)} labelled validation molecules and there are "
            f"{len(self.scores)}"
        )


@dataclass(frozen=True)
class SetCalibration:
    """Conformal prediction sets of one classification target, calibrated by class (Mondrian).

    The name of the field is a key of the header of a model file.

    Attributes:
        scores: for each class, 1 - probability of that class, of each validation molecule of the
            class; ascending.
    """

    scores: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        """Check the scores of each class."""
        for k, of_class in enumerate(self.scores):
            check_ascending(f"scores of class {k}", of_class, highest=1.0)

    @classmethod
    def fit(
        cls, probability: Float[np.ndarray, "n ..."], label: Float[np.ndarray, " n"]
    ) -> "SetCalibration":
        """Compute the scores of the validation molecules.

        Args:
            probability: of class 1, or of every class.
            label: class numbers from 0; NaN where missing.

        Reference:
            Vovk et al., Algorithmic Learning in a Random World, 2005 (Mondrian by label); Norinder
            et al., J. Chem. Inf. Model. 2014, doi:10.1021/ci5001168 (for molecules).
        """
        scores = []
        for k, column in enumerate(by_class(probability).T):
            of_class = 1 - column[(label == k) & ~np.isnan(column)]
            scores.append(tuple(np.sort(of_class).tolist()))
        return cls(tuple(scores))

    def predict_sets(
        self, probability: Float[np.ndarray, "n ..."], confidence: float = 0.9
    ) -> Bool[np.ndarray, "n c"]:
        """Compute which classes are in the set of each molecule; none without a prediction.

        A class with too few validation molecules is in every set; see `limitation`. An empty set
        means that the molecule is unlike the validation molecules of every class. A set of several
        classes means that the model cannot decide between them at this confidence.

        Args:
            probability: as in `fit`.
            confidence: fraction of the molecules of each class whose set contains that class.

        Raises:
            SettingError: the number of classes differs from that in `fit`, or the confidence is not
                between 0 and 1.
        """
        check_confidence(confidence)
        from crepes import ConformalClassifier

        classes = by_class(probability)
        if classes.shape[1] != len(self.scores):
            raise SettingError(
                f"got probabilities of {classes.shape[1]} classes, expected {len(self.scores)} as "
                "in the calibration"
            )
        sets = np.zeros(classes.shape, bool)
        is_known = ~np.isnan(classes).any(1)
        for k, scores in enumerate(self.scores):
            if len(scores) < min_molecules(confidence):
                sets[is_known, k] = True
                continue
            classifier = ConformalClassifier().fit(np.array(scores))
            p_value = classifier.predict_p(1 - classes[is_known, k], smoothing=False)
            sets[is_known, k] = p_value > 1 - confidence + _ROUNDING
        return sets

    def limitation(self, name: str, class_names: Sequence[str], confidence: float = 0.9) -> str:
        """Return a sentence if a class is in every set for lack of molecules; empty if none is.

        Args:
            name: of the target.
            class_names: in the order of their numbers.
            confidence: of the sets.
        """
        rare = [
            f"{class_name} ({len(scores)})"
            for class_name, scores in zip(class_names, self.scores, strict=True)
            if len(scores) < min_molecules(confidence)
        ]
        if not rare:
            return ""
        return (
            f"{name}: every {100 * confidence:.10g}% set contains these classes, since it needs "
            f"{min_molecules(confidence)} validation molecules of each: {', '.join(rare)}"
        )


def min_molecules(confidence: float) -> int:
    """Return the number of validation molecules that an interval needs: 1 / (1 - confidence) - 1.

    With fewer molecules the interval is infinite.
    """
    return int(np.ceil(1 / (1 - confidence) - 1 - _ROUNDING))


def format_sets(sets: Bool[np.ndarray, "n c"], class_names: Sequence[str]) -> list[str]:
    """Write sets of classes as `{inactive, active}`.

    Example:
        >>> format_sets(np.array([[True, True], [False, False]]), ["0", "1"])
        ['{0, 1}', '{}']
    """
    return [
        "{" + ", ".join(name for name, is_in in zip(class_names, row, strict=True) if is_in) + "}"
        for row in sets
    ]


def check_confidence(confidence: float) -> None:
    """Check that a confidence is a probability.

    Raises:
        SettingError: it is not between 0 and 1.
    """
    check_type("confidence", confidence, float)
    if not 0 < confidence < 1:
        raise SettingError(f"got confidence={confidence}, expected a number between 0 and 1")
