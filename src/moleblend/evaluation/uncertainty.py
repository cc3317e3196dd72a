"""Uncertainty of predictions: what is fitted on the validation set, and the output columns.

For regression targets a model has calibrated standard deviations (`calibration.StdCalibration`) and
prediction intervals (`conformal.IntervalCalibration`), for classification targets calibrated
probabilities (`calibration.ProbabilityCalibration`) and prediction sets
(`conformal.SetCalibration`). `Uncertainty.fit` fits all of them, `Uncertainty.output_columns` turns
them into columns of the predictions. The names of the fields of the classes are keys of the header
of a model file.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Float64, Int8

from moleblend.data.targets import Target, exact_labels, output_slices
from moleblend.errors import TableError
from moleblend.evaluation.calibration import ProbabilityCalibration, StdCalibration, by_class
from moleblend.evaluation.conformal import (
    IntervalCalibration,
    SetCalibration,
    format_sets,
    min_molecules,
)

CONFIDENCE = 0.9
"""Default confidence of intervals and sets."""


@dataclass(frozen=True)
class RegressionUncertainty:
    """Uncertainty of a regression target.

    Attributes:
        spread: calibration of the standard deviation of the error.
        intervals: calibration of the prediction intervals; their width is proportional to the
            standard deviation if that depends on the molecule.
    """

    spread: StdCalibration
    intervals: IntervalCalibration

    @classmethod
    def fit(
        cls,
        predicted: Float[np.ndarray, " n"],
        label: Float[np.ndarray, " n"],
        member_std: Float[np.ndarray, " n"] | None = None,
    ) -> "RegressionUncertainty":
        """Fit to validation molecules; arguments and errors as in `StdCalibration.fit`."""
        calibration = StdCalibration.fit(predicted, label, member_std)
        std = calibration.apply(predicted, member_std) if calibration.has_spread else None
        return cls(calibration, IntervalCalibration.fit(predicted, label, std))

    def std_and_interval(
        self,
        predicted: Float[np.ndarray, " n"],
        member_std: Float[np.ndarray, " n"] | None = None,
        confidence: float = CONFIDENCE,
    ) -> tuple[Float64[np.ndarray, " n"], Float64[np.ndarray, " n"], Float64[np.ndarray, " n"]]:
        """Compute the standard deviation of the error, and lower and upper end of the interval.

        Args:
            predicted: in the label's unit, or log10 of it if the model is trained on log10.
            member_std: standard deviation over the members of an ensemble, in the same unit.
            confidence: fraction of the intervals that contain the measured value.

        Returns:
            In the unit of `predicted`; NaN without a prediction.
        """
        std = self.spread.apply(predicted, member_std)
        scale = std if self.spread.has_spread else None
        low, high = self.intervals.predict_intervals(predicted, scale, confidence).T
        return std, low, high

    def output_columns(
        self,
        name: str,
        predicted: Float[np.ndarray, " n"],
        member_std: Float[np.ndarray, " n"] | None = None,
        confidence: float = CONFIDENCE,
    ) -> dict[str, Float64[np.ndarray, " n"]]:
        """Return NAME_std, NAME_low and NAME_high, see `std_and_interval`."""
        values = self.std_and_interval(predicted, member_std, confidence)
        return dict(zip((f"{name}_std", f"{name}_low", f"{name}_high"), values, strict=True))


@dataclass(frozen=True)
class ClassificationUncertainty:
    """Uncertainty of a binary or multi-class target.

    Attributes:
        probability: calibration of the probabilities.
        sets: calibration of the prediction sets, which use uncalibrated probabilities.
    """

    probability: ProbabilityCalibration
    sets: SetCalibration

    @classmethod
    def fit(
        cls, probability: Float[np.ndarray, "n ..."], label: Float[np.ndarray, " n"]
    ) -> "ClassificationUncertainty":
        """Fit to validation molecules; arguments and errors as in `ProbabilityCalibration.fit`."""
        return cls(
            ProbabilityCalibration.fit(probability, label), SetCalibration.fit(probability, label)
        )

    def output_columns(
        self,
        name: str,
        probability: Float[np.ndarray, "n ..."],
        class_names: Sequence[str],
        confidence: float = CONFIDENCE,
    ) -> dict[str, list[str | None]]:
        """Return NAME_set, with entries such as `{inactive, active}`; None without a prediction.

        Args:
            name: of the target.
            probability: uncalibrated, of class 1, or of every class.
            class_names: in the order of their numbers.
            confidence: fraction of the molecules of each class whose set contains that class.
        """
        sets = format_sets(self.sets.predict_sets(probability, confidence), class_names)
        rows = zip(sets, by_class(probability), strict=True)
        return {f"{name}_set": [None if np.isnan(row).any() else text for text, row in rows]}


@dataclass(frozen=True)
class Uncertainty:
    """Uncertainty of all targets of a model; a target with too few molecules is in neither dict.

    Attributes:
        values: of regression targets, by name; on log10 if the model is trained on log10.
        classes: of classification targets, by name.
        notes: sentences about what is missing or limited, and why.
    """

    values: dict[str, RegressionUncertainty] = field(default_factory=dict)
    classes: dict[str, ClassificationUncertainty] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @classmethod
    def fit(
        cls,
        targets: Sequence[Target],
        mean: Float64[np.ndarray, "n o"],
        member_std: Float64[np.ndarray, "n o"] | None,
        labels: Float64[np.ndarray, "n t"],
        censoring: Int8[np.ndarray, "n t"],
    ) -> "Uncertainty":
        """Fit to validation molecules.

        A target has no uncertainty columns if fewer molecules have an exact label than a 90 %
        interval needs (for classes: if no class has as many).

        Args:
            targets: of the model.
            mean: predictions, see `averaging.MemberValues.mean`.
            member_std: standard deviation over the members, see `averaging.MemberValues.std`.
            labels: in the unit of the file, or the number of a class; NaN where missing.
            censoring: +1 true value at least the label, -1 at most, 0 exact.
        """
        values: dict[str, RegressionUncertainty] = {}
        classes: dict[str, ClassificationUncertainty] = {}
        notes: list[str] = []
        labels, n_needed = exact_labels(labels, censoring), min_molecules(CONFIDENCE)
        for k, (target, where) in enumerate(zip(targets, output_slices(targets), strict=True)):
            name, label = target.name, labels[:, k]
            n_labels = int((~np.isnan(label)).sum())
            if target.kind != "regression":
                fitted = ClassificationUncertainty.fit(
                    target.class_probability(mean[:, where]), label
                )
                if max(map(len, fitted.sets.scores)) < n_needed:
                    notes.append(
                        f"{name}: no {name}_set and no calibration, since a set needs {n_needed} "
                        f"labelled validation molecules of a class and there are {n_labels} in all"
                    )
                    continue
                classes[name] = fitted
                limitation = fitted.sets.limitation(name, target.class_names, CONFIDENCE)
                notes += [limitation] if limitation else []
                continue
            predicted, label = (
                target.to_training_scale(mean[:, where.start]),
                target.to_training_scale(label),
            )
            missing = f"{name}: no calibrated {name}_std, {name}_low and {name}_high, since "
            if n_labels < n_needed:
                notes.append(
                    f"{missing}they need {n_needed} labelled validation molecules and there are "
                    f"{n_labels}"
                )
            elif not np.nan_to_num(label - predicted).any():
                notes.append(f"{missing}every validation molecule is predicted without error")
            else:
                std = None if member_std is None else member_std[:, where.start]
                values[name] = RegressionUncertainty.fit(predicted, label, std)
        return cls(values, classes, tuple(notes))

    def check(self, targets: Sequence[Target], n_members: int) -> None:
        """Check that the calibrations fit the targets of a model.

        Args:
            targets: of the model.
            n_members: members of the ensemble.

        Raises:
            TableError: a calibration is of a target that the model does not have, or of another
                kind, or has another number of classes, or needs an ensemble.
        """
        known = {target.name: target for target in targets}
        for name in (*self.values, *self.classes):
            kind = known[name].kind if name in known else "missing"
            if (name in self.values) != (kind == "regression") or kind == "missing":
                what = "regression" if name in self.values else "classification"
                raise TableError(f"target {name!r} is {kind}, but there is a {what} calibration")
        for name, of_values in self.values.items():
            if of_values.spread.has_spread != of_values.intervals.is_normalised:
                raise TableError(f"target {name!r}: standard deviation and intervals do not fit")
            if of_values.spread.has_spread and n_members < 2:
                raise TableError(f"target {name!r}: its calibration needs several members, got one")
        for name, of_classes in self.classes.items():
            n_classes = len(known[name].class_names)
            n_functions = 1 if n_classes == 2 else n_classes
            if len(of_classes.sets.scores) != n_classes or len(
                of_classes.probability.knots
            ) not in (
                0,
                n_functions,
            ):
                raise TableError(f"target {name!r}: expected a calibration of {n_classes} classes")

    def calibrate_probabilities(
        self, targets: Sequence[Target], mean: Float64[np.ndarray, "n o"]
    ) -> Float64[np.ndarray, "n o"]:
        """Return the predictions with calibrated probabilities; regression values are unchanged.

        Args:
            targets: of the model.
            mean: predictions, see `averaging.MemberValues.mean`.
        """
        calibrated = mean.copy()
        for target, where in zip(targets, output_slices(targets), strict=True):
            if target.name in self.classes:
                probability = self.classes[target.name].probability.apply(
                    target.class_probability(mean[:, where])
                )
                calibrated[:, where] = probability.reshape(mean[:, where].shape)
        return calibrated

    def output_columns(
        self,
        target: Target,
        mean: Float64[np.ndarray, "n c"],
        member_std: Float64[np.ndarray, "n c"] | None,
        confidence: float = CONFIDENCE,
    ) -> dict[str, Float64[np.ndarray, " n"] | list[str | None]]:
        """Compute the columns of uncertainty, see `prediction.outputs.target_columns`.

        If the model is trained on log10, NAME_std is the standard deviation of the value to first
        order: value · ln 10 · NAME_log10_std.

        Args:
            target: one of the targets in `fit`.
            mean: its predictions, with uncalibrated probabilities.
            member_std: standard deviation over the members.
            confidence: of the intervals and sets.
        """
        name = target.name
        if name in self.classes:
            probability = target.class_probability(mean)
            return dict(
                self.classes[name].output_columns(name, probability, target.class_names, confidence)
            )
        if name not in self.values:
            return {}
        std, low, high = self.values[name].std_and_interval(
            target.to_training_scale(mean[:, 0]),
            None if member_std is None else member_std[:, 0],
            confidence,
        )
        if not target.log10:
            return {f"{name}_std": std, f"{name}_low": low, f"{name}_high": high}
        with np.errstate(over="ignore"):  # values beyond the range of floats become infinite
            return {
                f"{name}_std": mean[:, 0] * np.log(10) * std,
                f"{name}_log10_std": std,
                f"{name}_low": 10.0**low,
                f"{name}_high": 10.0**high,
            }

    def limitations(self, targets: Sequence[Target], confidence: float) -> list[str]:
        """Return sentences where intervals are infinite, or a class is in every set.

        At the default confidence the list is empty, since `notes` contains these sentences.

        Args:
            targets: of the model.
            confidence: of the intervals and sets.
        """
        if confidence == CONFIDENCE:
            return []
        sentences = []
        for target in targets:
            name = target.name
            if name in self.values:
                sentences.append(self.values[name].intervals.limitation(name, confidence))
            elif name in self.classes:
                sets = self.classes[name].sets
                sentences.append(sets.limitation(name, target.class_names, confidence))
        return [sentence for sentence in sentences if sentence]
