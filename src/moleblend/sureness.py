"""All that is known of how sure one target's predictions are, as columns beside them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64

from moleblend.calibration import ProbabilityCalibration, SpreadCalibration, by_class
from moleblend.conformal import IntervalCalibration, SetCalibration, in_words


@dataclass(frozen=True)
class ValueSureness:
    """Of a regression target.

    Attributes:
        spread: gives the standard deviation of each error.
        intervals: hold the measured value; scaled by that deviation where it depends on the
            molecule.
    """

    spread: SpreadCalibration
    intervals: IntervalCalibration

    @classmethod
    def fit(
        cls,
        predicted: Float[np.ndarray, " n"],
        label: Float[np.ndarray, " n"],
        spread: Float[np.ndarray, " n"] | None = None,
    ) -> "ValueSureness":
        """Fit to validation molecules; arguments and errors as of `SpreadCalibration.fit`."""
        calibrated = SpreadCalibration.fit(predicted, label, spread)
        deviation = calibrated.apply(predicted, spread) if calibrated.has_spread else None
        return cls(calibrated, IntervalCalibration.fit(predicted, label, deviation))

    def columns(
        self,
        name: str,
        predicted: Float[np.ndarray, " n"],
        spread: Float[np.ndarray, " n"] | None = None,
        confidence: float = 0.9,
    ) -> dict[str, Float64[np.ndarray, " n"]]:
        """Give NAME_std, NAME_low and NAME_high in the label's unit; NaN without a prediction."""
        deviation = self.spread.apply(predicted, spread)
        scale = deviation if self.spread.has_spread else None
        low, high = self.intervals.intervals(predicted, scale, confidence).T
        return {f"{name}_std": deviation, f"{name}_low": low, f"{name}_high": high}


@dataclass(frozen=True)
class ClassSureness:
    """Of a binary or multi-class target.

    Attributes:
        probability: puts probabilities right.
        sets: of classes; they read probabilities as the model gave them.
    """

    probability: ProbabilityCalibration
    sets: SetCalibration

    @classmethod
    def fit(
        cls, probability: Float[np.ndarray, "n ..."], label: Float[np.ndarray, " n"]
    ) -> "ClassSureness":
        """Fit to validation molecules; arguments and errors as of `ProbabilityCalibration.fit`."""
        return cls(
            ProbabilityCalibration.fit(probability, label), SetCalibration.fit(probability, label)
        )

    def columns(
        self,
        name: str,
        probability: Float[np.ndarray, "n ..."],
        labels: Sequence[str],
        confidence: float = 0.9,
    ) -> dict[str, list[str | None]]:
        """Give NAME_set, such as `{inactive, active}`; None without a prediction.

        Args:
            name: of the target.
            probability: as the model gave it, before `self.probability.apply`.
            labels: names of the classes.
            confidence: share of the molecules of each class whose set shall hold it.
        """
        told = in_words(self.sets.sets(probability, confidence), labels)
        pairs = zip(told, by_class(probability), strict=True)
        return {f"{name}_set": [None if np.isnan(row).any() else words for words, row in pairs]}
