"""Figures of merit, with missing labels left out."""

import numpy as np
from jaxtyping import Float
from sklearn.metrics import average_precision_score, roc_auc_score

Metrics = dict[str, float | None]
"""Name of each metric and its value; None where it is not defined."""


def regression_metrics(
    predicted: Float[np.ndarray, " n"], label: Float[np.ndarray, " n"]
) -> Metrics:
    """RMSE and MAE in the label's unit, and R²; labels that are NaN are left out.

    R² is None with fewer than two labels or where all labels are equal, the others without a label.
    """
    predicted, label = _labelled(predicted, label)
    if not len(label):
        return {"RMSE": None, "MAE": None, "R2": None, "n": 0}
    error = predicted - label
    spread = float(((label - label.mean()) ** 2).sum()) if np.ptp(label) > 0 else 0.0
    return {
        "RMSE": float(np.sqrt((error**2).mean())),
        "MAE": float(np.abs(error).mean()),
        "R2": 1 - float((error**2).sum()) / spread if spread > 0 else None,
        "n": len(label),
    }


def binary_metrics(probability: Float[np.ndarray, " n"], label: Float[np.ndarray, " n"]) -> Metrics:
    """ROC-AUC, average precision and accuracy at 0.5; labels that are NaN are left out.

    The first two are None where only one class occurs.
    """
    probability, label = _labelled(probability, label)
    n_positive = int(label.sum())
    has_both = 0 < n_positive < len(label)
    right = (probability > 0.5) == (label > 0.5)
    return {
        "ROC-AUC": float(roc_auc_score(label, probability)) if has_both else None,
        "average precision": float(average_precision_score(label, probability))
        if has_both
        else None,
        "accuracy": float(right.mean()) if len(label) else None,
        "n": len(label),
        "n_positive": n_positive,
    }


def mean_metric(metrics: list[Metrics], name: str) -> float | None:
    """Mean of one metric over the targets for which it is defined; None if there is none."""
    values = [value for target in metrics if (value := target.get(name)) is not None]
    return float(np.mean(values)) if values else None


def _labelled(
    predicted: Float[np.ndarray, " n"], label: Float[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, " m"]]:
    is_known = ~np.isnan(label)
    return predicted[is_known], label[is_known]
