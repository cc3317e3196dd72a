"""Targets: the properties that a model predicts, their classes and the scaling of their labels."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

import numpy as np
from jaxtyping import Float32, Float64, Int8, Num

from moleblend.errors import TableError

Kind = Literal["regression", "binary", "multiclass"]
Task = Literal["auto", "regression", "binary", "multiclass"]
"""What a user asks for; `auto` is decided by the labels."""


@dataclass(frozen=True)
class Target:
    """One predicted property.

    Attributes:
        name: name of the label column.
        kind: `regression`; `binary` for classes 0 and 1; `multiclass` for several classes.
        unit: unit of a regression label; empty if unknown.
        mean: mean of the training labels; a regression head predicts (label - mean) / scale.
        scale: standard deviation of the training labels.
        log10: the regression head predicts log10 of the label; `mean` and `scale` are those of the
            logarithms.
        classes: names of classes 0, 1, ...; may be empty for a binary target.
        threshold: probability above which a binary prediction is class 1; chosen on the validation
            set.
    """

    name: str
    kind: Kind
    unit: str = ""
    mean: float = 0.0
    scale: float = 1.0
    log10: bool = False
    classes: tuple[str, ...] = ()
    threshold: float = 0.5

    def __post_init__(self) -> None:
        """Check that the scale is positive and that a multi-class target has several classes."""
        if not self.name:
            raise TableError("a target has no name")
        if not 0 < self.scale < math.inf:
            raise TableError(f"target {self.name}: got scale={self.scale}, expected above 0")
        if not (math.isfinite(self.mean) and math.isfinite(self.threshold)):
            raise TableError(
                f"target {self.name}: got mean={self.mean} and threshold={self.threshold}, "
                "expected finite numbers"
            )
        if self.kind == "multiclass" and len(self.classes) < 2:
            raise TableError(
                f"target {self.name}: got {len(self.classes)} classes, expected at least 2"
            )

    @property
    def n_outputs(self) -> int:
        """Number of outputs of the head: one, or a logit for each of several classes."""
        return len(self.classes) if self.kind == "multiclass" else 1

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes; "0" and "1" for a binary target without names."""
        return self.classes or ("0", "1")

    def to_training_scale(self, values: Float64[np.ndarray, "..."]) -> Float64[np.ndarray, "..."]:
        """Convert values in the label's unit to those that the model is trained on.

        These are the logarithms if `log10` is set, else the values themselves.
        """
        return np.log10(values) if self.log10 else values

    def from_training_scale(self, values: Float64[np.ndarray, "..."]) -> Float64[np.ndarray, "..."]:
        """Convert values of `to_training_scale` back to the label's unit."""
        return 10.0**values if self.log10 else values

    def standardise(self, labels: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
        """Convert labels to the training targets of the head, with `mean` and `scale`."""
        return (self.to_training_scale(labels) - self.mean) / self.scale

    def to_unit(self, outputs: Num[np.ndarray, "n o"]) -> Float64[np.ndarray, "n o"]:
        """Convert the outputs of the head to predictions.

        Returns:
            Values in the label's unit; for a binary target the probability of class 1; for a
            multi-class target the probability of each class.
        """
        from scipy.special import expit, softmax  # takes 0.3 s, which no help needs

        values = outputs.astype(np.float64)
        if self.kind == "binary":
            return expit(values)
        if self.kind == "multiclass":
            return softmax(values, 1)
        values = values * self.scale + self.mean
        # Beyond this range, the squared errors of metrics would not fit into a float.
        return self.from_training_scale(values.clip(-100, 100)) if self.log10 else values

    def class_probability(
        self, probability: Float64[np.ndarray, "n c"]
    ) -> Float64[np.ndarray, "n ..."]:
        """Return the probabilities as calibration reads them: of class 1 if binary, else of all."""
        return probability[:, 0] if self.kind == "binary" else probability


def output_slices(targets: Sequence[Target]) -> list[slice]:
    """Return the columns of each target in the outputs of a model."""
    ends = list(accumulate(target.n_outputs for target in targets))
    return [slice(end - t.n_outputs, end) for end, t in zip(ends, targets, strict=True)]


def unscale_outputs(
    output: Num[np.ndarray, "n o"], targets: Sequence[Target]
) -> Float64[np.ndarray, "n o"]:
    """Apply `Target.to_unit` to the outputs of each target."""
    slices = zip(targets, output_slices(targets), strict=True)
    return np.concatenate([target.to_unit(output[:, columns]) for target, columns in slices], 1)


def scale_labels(
    labels: Float64[np.ndarray, "n t"], targets: Sequence[Target]
) -> Float32[np.ndarray, "n t"]:
    """Apply `Target.standardise` to the labels of each target."""
    columns = [target.standardise(labels[:, k]) for k, target in enumerate(targets)]
    return np.stack(columns, 1).astype(np.float32)


def exact_labels(
    labels: Float64[np.ndarray, "n t"], censoring: Int8[np.ndarray, "n t"]
) -> Float64[np.ndarray, "n t"]:
    """Return the labels, with NaN for the censored ones."""
    return np.where(censoring == 0, labels, np.nan)


def class_names(target: Target) -> tuple[str, ...]:
    """Return `Target.class_names`."""
    return target.class_names
