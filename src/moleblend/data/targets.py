"""Targets: what is predicted of a molecule, its classes, and how its labels are scaled."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

import numpy as np
from jaxtyping import Float32, Float64, Int8, Num
from scipy.special import expit, softmax

Kind = Literal["regression", "binary", "multiclass"]


@dataclass(frozen=True)
class Target:
    """One predicted property.

    Attributes:
        name: of the label's column.
        kind: `regression`; `binary` for a label of class 0 or 1; `multiclass` for several classes.
        unit: of a regression label, empty if unknown.
        mean: of the training labels; a regression head predicts (label - mean) / scale.
        scale: standard deviation of the training labels.
        log10: a regression head predicts log10 of the label, of which mean and scale are then.
        classes: what the labels call class 0, 1, ...; a binary target may have none.
        threshold: probability above which a binary target is class 1; chosen on validation.
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
        """Refuse a scale that cannot divide, and classes that are not several."""
        if not self.scale > 0:
            raise ValueError(f"target {self.name}: scale must be positive, {self.scale} came")
        if self.kind == "multiclass" and len(self.classes) < 2:
            raise ValueError(f"target {self.name}: {len(self.classes)} classes came, 2 are needed")

    @property
    def n_outputs(self) -> int:
        """Numbers that the head gives for it: one, or a logit for each of several classes."""
        return len(self.classes) if self.kind == "multiclass" else 1


def output_slices(targets: Sequence[Target]) -> list[slice]:
    """Say where the outputs of each target stand."""
    ends = list(accumulate(target.n_outputs for target in targets))
    return [slice(end - t.n_outputs, end) for end, t in zip(ends, targets, strict=True)]


def unscale_outputs(
    output: Num[np.ndarray, "n o"], targets: Sequence[Target]
) -> Float64[np.ndarray, "n o"]:
    """Turn what a model gives into values in the label's unit, and probabilities of classes.

    A binary target has the probability of class 1, a multi-class one that of each class.
    """
    columns = []
    for target, where in zip(targets, output_slices(targets), strict=True):
        found = output[:, where].astype(np.float64)
        if target.kind == "binary":
            found = expit(found)
        elif target.kind == "multiclass":
            found = softmax(found, 1)
        else:
            found = found * target.scale + target.mean
            # Beyond, the squares that figures are made of would not fit a float.
            found = 10.0 ** found.clip(-100, 100) if target.log10 else found
        columns.append(found)
    return np.concatenate(columns, 1)


def scale_labels(
    labels: Float64[np.ndarray, "n t"], targets: Sequence[Target]
) -> Float32[np.ndarray, "n t"]:
    """Turn labels into what the head is to predict."""
    columns = [
        ((np.log10(labels[:, k]) if target.log10 else labels[:, k]) - target.mean) / target.scale
        for k, target in enumerate(targets)
    ]
    return np.stack(columns, 1).astype(np.float32)


def exact(
    labels: Float64[np.ndarray, "n t"], censoring: Int8[np.ndarray, "n t"]
) -> Float64[np.ndarray, "n t"]:
    """Give the labels without those that are only bounds."""
    return np.where(censoring == 0, labels, np.nan)


def learnt(target: Target, values: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    """Give values of a regression target as it is learnt: as they are, or their logarithms."""
    return np.log10(values) if target.log10 else values


def as_given(
    target: Target, probability: Float64[np.ndarray, "n c"]
) -> Float64[np.ndarray, "n ..."]:
    """Give the probabilities of a target as calibration takes them: of class 1, or of each."""
    return probability[:, 0] if target.kind == "binary" else probability


def class_names(target: Target) -> tuple[str, ...]:
    """Give the names of a target's classes; numbers where they have none."""
    return target.classes or ("0", "1")
