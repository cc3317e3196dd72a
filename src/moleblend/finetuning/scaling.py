"""Scaling of targets and features by the training set, and weights of classes."""

from collections.abc import Sequence

import numpy as np
import torch

from moleblend.chem.descriptors import FEATURES
from moleblend.data.dataset import MoleculeDataset
from moleblend.data.labels.target_detection import TargetColumns
from moleblend.data.targets import Target, output_slices
from moleblend.errors import SettingError
from moleblend.finetuning.config import TrainConfig
from moleblend.model.heads import Model

_MAX_CLASS_WEIGHT = 100


def scale_targets(
    training: MoleculeDataset, target_columns: TargetColumns, config: TrainConfig
) -> tuple[Target, ...]:
    """Scale regression targets by the exact training labels, or by all if the exact are equal."""
    targets = []
    for k, (label_column, unit) in enumerate(
        zip(target_columns.label_columns, target_columns.units, strict=True)
    ):
        labels, is_exact = training.labels[:, k], training.censoring[:, k] == 0
        known = labels[~np.isnan(labels)]
        if not len(known):
            raise SettingError(
                f"{config.data}: target {label_column.name!r} has no label in the training set"
            )
        if label_column.kind != "regression":
            targets.append(
                Target(label_column.name, label_column.kind, classes=label_column.classes)
            )
            continue
        exact = labels[~np.isnan(labels) & is_exact]
        used = exact if len(exact) and np.ptp(exact) > 0 else known
        log10 = label_column.name in config.log_scale
        used = np.log10(used) if log10 else used
        mean, std = float(used.mean()), float(used.std())
        scale = std if std > 0 and np.ptp(used) > 0 else 1.0
        target = Target(label_column.name, "regression", unit, mean, scale, log10)
        targets.append(target)
    return tuple(targets)


def class_weights(training: MoleculeDataset, targets: Sequence[Target]) -> torch.Tensor:
    """Compute the ratio of negatives to positives of each binary target; 1 for other targets."""
    weights = np.ones(len(targets), np.float32)
    for k, target in enumerate(targets):
        n_positive = np.nansum(training.labels[:, k] == 1)
        if target.kind == "binary" and n_positive:
            ratio = np.nansum(training.labels[:, k] == 0) / n_positive
            weights[k] = min(ratio, _MAX_CLASS_WEIGHT)
    return torch.from_numpy(weights)


def scale_features(model: Model, training: MoleculeDataset, config: TrainConfig) -> None:
    """Standardise all features but fingerprint counts by the training set."""
    start = 0
    for kind in config.extra_features:
        columns = slice(start, start := start + FEATURES[kind])
        if kind != "ecfp4" and model.property_head is not None:
            descriptors = torch.from_numpy(training.features[:, columns])
            std = descriptors.std(0, correction=0)
            model.property_head.feature_mean[columns] = descriptors.mean(0)
            model.property_head.feature_scale[columns] = torch.where(std > 0, std, 1)


@torch.no_grad()
def remove_prior_shift(model: Model, weights: torch.Tensor) -> None:
    """Subtract the logarithm of the class weights from the log-odds.

    Training with weight w on class 1 multiplies the odds by w. Without this, probabilities would be
    those of a set in which class 1 is w times as frequent. The ranking does not change.

    Reference:
        Elkan, IJCAI 2001, theorem 2.
    """
    assert model.property_head is not None
    for k, where in enumerate(output_slices(model.config.targets)):
        model.property_head.out.bias[where] -= weights[k].log().to(model.property_head.out.bias)
