"""The validation score, by which epochs and search trials are compared."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Int8

from moleblend.data.dataset import MoleculeDataset
from moleblend.data.targets import Target, output_slices, scale_labels, unscale_outputs
from moleblend.evaluation.metrics import Metrics, metrics_by_target
from moleblend.finetuning.loss import property_loss


@dataclass(frozen=True)
class ValidationScore:
    """How good the weights of an epoch are on the validation set.

    Attributes:
        value: the score that is compared; higher is better.
        reported: the number in the log: mean ROC-AUC of the classification targets, mean RMSE of
            the regression targets in standard deviations, or ROC-AUC minus RMSE if there are both;
            the loss if neither is defined.
        text: the same in words.
    """

    value: float
    reported: float
    text: str


def score_validation(
    outputs: Float32[np.ndarray, "m o"], validation: MoleculeDataset, targets: tuple[Target, ...]
) -> ValidationScore:
    """Score outputs of a model on the validation set.

    Args:
        outputs: scaled outputs of the model.
        validation: the validation set.
        targets: targets of the outputs.
    """
    labels = scale_labels(validation.labels, targets)
    auc = mean_roc_auc(metrics_by_target(targets, unscale_outputs(outputs, targets), validation))
    errors = [
        scaled_rmse(outputs[:, where.start], labels[:, k], validation.censoring[:, k])
        for k, (target, where) in enumerate(zip(targets, output_slices(targets), strict=True))
        if target.kind == "regression" and not np.isnan(labels[:, k]).all()
    ]
    rmse = float(np.mean(errors)) if errors else None
    texts = [f"ROC-AUC {auc:.4f}"] if auc is not None else []
    if rmse is not None:
        note = ", violated censored labels included" if validation.censoring.any() else ""
        texts.append(f"RMSE {rmse:.4f} standard deviations{note}")
    if auc is not None:
        value = auc - (rmse or 0.0)
        return ValidationScore(value, value, ", ".join(texts))
    if rmse is not None:
        return ValidationScore(-rmse, rmse, ", ".join(texts))
    loss = property_loss(
        torch.from_numpy(outputs),
        torch.from_numpy(labels),
        torch.from_numpy(validation.censoring),
        targets,
    ).item()
    text = f"loss {loss:.4f} (the validation set has labels of one class only)"
    return ValidationScore(-loss, loss, text)


def mean_roc_auc(metrics: Mapping[str, Metrics]) -> float | None:
    """Average the (macro) ROC-AUC over the classification targets for which it is defined."""
    areas = [one.get("ROC-AUC", one.get("macro ROC-AUC")) for one in metrics.values()]
    known = [area for area in areas if area is not None]
    return float(np.mean(known)) if known else None


def scaled_rmse(
    output: Float32[np.ndarray, " m"],
    label: Float32[np.ndarray, " m"],
    censoring: Int8[np.ndarray, " m"],
) -> float:
    """Compute the RMSE of scaled values; a censored label counts where it is violated.

    Without the censored labels, a set that has many of them would favour a model that predicts
    values near the mean.
    """
    gap = output.astype(np.float64) - label
    gap = np.where(gap * censoring > 0, 0, gap)[~np.isnan(label)]
    return float(np.sqrt((gap**2).mean()))
