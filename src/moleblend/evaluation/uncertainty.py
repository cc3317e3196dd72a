"""All that is known of how sure a model's predictions are, as columns beside them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Float64, Int8

from moleblend.data.targets import Target, as_given, class_names, exact, learnt, output_slices
from moleblend.evaluation.calibration import ProbabilityCalibration, SpreadCalibration, by_class
from moleblend.evaluation.conformal import IntervalCalibration, SetCalibration, fewest, in_words

CONFIDENCE = 0.9
"""Of intervals and sets, where nothing else is asked for."""


@dataclass(frozen=True)
class RegressionUncertainty:
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
    ) -> "RegressionUncertainty":
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
class ClassificationUncertainty:
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
    ) -> "ClassificationUncertainty":
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


@dataclass(frozen=True)
class Uncertainty:
    """Of all targets of a model; a target of which too little is known is in neither.

    Attributes:
        values: of regression targets, by name; of logarithms where these are learnt.
        classes: of the others, by name.
        notes: what is missing, and why, in sentences.
    """

    values: dict[str, RegressionUncertainty] = field(default_factory=dict)
    classes: dict[str, ClassificationUncertainty] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @classmethod
    def fit(
        cls,
        targets: Sequence[Target],
        mean: Float64[np.ndarray, "n o"],
        spread: Float64[np.ndarray, "n o"] | None,
        labels: Float64[np.ndarray, "n t"],
        censoring: Int8[np.ndarray, "n t"],
    ) -> "Uncertainty":
        """Fit to validation molecules.

        A target has no columns where fewer molecules are labelled than a 90 % interval needs (for
        classes: than each class needs). A label that is only a bound is none here.

        Args:
            targets: of the model.
            mean: predictions, as `columns.mean_over_members` gives them.
            spread: of the members, as `columns.std_over_members` gives it.
            labels: in the unit of the file, or the number of a class; NaN where missing.
            censoring: 1 or -1 where a label is only a bound.
        """
        values: dict[str, RegressionUncertainty] = {}
        classes: dict[str, ClassificationUncertainty] = {}
        notes: list[str] = []
        labels, needed = exact(labels, censoring), fewest(CONFIDENCE)
        for k, (target, where) in enumerate(zip(targets, output_slices(targets), strict=True)):
            name, label = target.name, labels[:, k]
            n = int((~np.isnan(label)).sum())
            if target.kind != "regression":
                known = ClassificationUncertainty.fit(as_given(target, mean[:, where]), label)
                if max(map(len, known.sets.scores)) < needed:
                    notes.append(
                        f"{name}: no {name}_set and no calibration, since a set needs {needed} "
                        f"labelled validation molecules of a class and there are {n} in all"
                    )
                    continue
                classes[name] = known
                note = known.sets.note(name, class_names(target), CONFIDENCE)
                notes += [note] if note else []
                continue
            predicted, label = learnt(target, mean[:, where.start]), learnt(target, label)
            missing = f"{name}: no calibrated {name}_std, {name}_low and {name}_high, since "
            if n < needed:
                notes.append(
                    f"{missing}they need {needed} labelled validation molecules and there are {n}"
                )
            elif not np.nan_to_num(label - predicted).any():
                notes.append(f"{missing}every validation molecule is predicted without error")
            else:
                found = None if spread is None else spread[:, where.start]
                values[name] = RegressionUncertainty.fit(predicted, label, found)
        return cls(values, classes, tuple(notes))

    def calibrated(
        self, targets: Sequence[Target], mean: Float64[np.ndarray, "n o"]
    ) -> Float64[np.ndarray, "n o"]:
        """Put the probabilities among predictions right; all else stays."""
        fixed = mean.copy()
        for target, where in zip(targets, output_slices(targets), strict=True):
            if target.name in self.classes:
                right = self.classes[target.name].probability.apply(
                    as_given(target, mean[:, where])
                )
                fixed[:, where] = right.reshape(mean[:, where].shape)
        return fixed

    def columns(
        self,
        target: Target,
        mean: Float64[np.ndarray, "n c"],
        spread: Float64[np.ndarray, "n c"] | None,
        confidence: float = CONFIDENCE,
    ) -> dict[str, Float64[np.ndarray, " n"] | list[str | None]]:
        """Give the columns that `names` names.

        Of a learnt logarithm, NAME_std is that of the value to first order: value · ln 10 times
        NAME_log10_std.

        Args:
            target: one of those fitted.
            mean: its predictions, as the model gave them, before `calibrated`.
            spread: of the members.
            confidence: of the intervals and sets.
        """
        name = target.name
        if name in self.classes:
            labels = class_names(target)
            return dict(
                self.classes[name].columns(name, as_given(target, mean), labels, confidence)
            )
        if name not in self.values:
            return {}
        found = None if spread is None else spread[:, 0]
        told = self.values[name].columns(name, learnt(target, mean[:, 0]), found, confidence)
        if not target.log10:
            return dict(told)
        deviation, low, high = told.values()
        with np.errstate(over="ignore"):  # what is beyond a float is infinite
            low, high = 10.0**low, 10.0**high
        in_unit = mean[:, 0] * np.log(10) * deviation
        return dict(zip(self.names(target), (in_unit, deviation, low, high), strict=True))

    def remarks(self, targets: Sequence[Target], confidence: float) -> list[str]:
        """Say where intervals are infinite, or a class is in every set, at another confidence.

        What is so at the usual one stands in `notes`.
        """
        if confidence == CONFIDENCE:
            return []
        found = []
        for target in targets:
            if target.name in self.values:
                found.append(self.values[target.name].intervals.note(target.name, confidence))
            elif target.name in self.classes:
                names = class_names(target)
                found.append(self.classes[target.name].sets.note(target.name, names, confidence))
        return [note for note in found if note]

    def names(self, target: Target) -> list[str]:
        """Name the columns of a target; none where too little is known of it."""
        is_known = target.name in self.classes or target.name in self.values
        return names_where_known(target) if is_known else []


def names_where_known(target: Target) -> list[str]:
    """Name the columns of a target of which enough is known."""
    ends = ["std", *(["log10_std"] if target.log10 else []), "low", "high"]
    return [f"{target.name}_{end}" for end in (ends if target.kind == "regression" else ["set"])]
