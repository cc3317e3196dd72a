"""Figures of merit, with missing labels left out."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Float64, Int8
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    log_loss,
    matthews_corrcoef,
    roc_auc_score,
)

from moleblend.data.dataset import MoleculeDataset
from moleblend.data.targets import Target, output_slices

Metrics = dict[str, float | None]
"""Name of each metric and its value; None where it is not defined."""


def regression_metrics(
    predicted: Float[np.ndarray, " n"],
    label: Float[np.ndarray, " n"],
    bound: Int8[np.ndarray, " n"] | None = None,
    *,
    log10: bool = False,
) -> Metrics:
    """RMSE and MAE in the label's unit, and R²; labels that are NaN are left out.

    R² is None with fewer than two labels or where all labels are equal, the others without a label.

    Args:
        predicted: in the label's unit.
        label: the measured values.
        bound: 1 where the true value is at least the label, -1 where at most, 0 where it is known.
            Bounds are in no error; where there are any, "bounds respected" is the share of them on
            whose allowed side the prediction lies.
        log10: also give the figures of the logarithms; all values are positive.
    """
    censoring = np.zeros(len(label), np.int8) if bound is None else bound
    is_known = ~np.isnan(label) & (censoring == 0)
    found = _errors(predicted[is_known], label[is_known])
    if log10:
        logarithms = _errors(np.log10(predicted[is_known]), np.log10(label[is_known]))
        found |= {f"{name} log10": value for name, value in logarithms.items()}
    found["n"] = int(is_known.sum())
    is_bound = ~np.isnan(label) & (censoring != 0)
    if is_bound.any():
        beyond = (predicted[is_bound] - label[is_bound]) * censoring[is_bound]
        found |= {"bounds respected": float((beyond >= 0).mean()), "n_bounds": int(is_bound.sum())}
    return found


def binary_metrics(
    probability: Float[np.ndarray, " n"], label: Float[np.ndarray, " n"], threshold: float = 0.5
) -> Metrics:
    """Figures of two classes; labels that are NaN are left out.

    ROC-AUC, PR-AUC (average precision), balanced accuracy and MCC are None where only one class
    occurs.

    Args:
        probability: of class 1.
        label: 0 or 1.
        threshold: probability above which a molecule is counted as class 1.
    """
    is_known = ~np.isnan(label)
    probability, label = probability[is_known], label[is_known]
    n_positive = int(label.sum())
    has_both = 0 < n_positive < len(label)
    chosen = (probability > threshold).astype(float)
    return {
        "ROC-AUC": float(roc_auc_score(label, probability)) if has_both else None,
        "PR-AUC": float(average_precision_score(label, probability)) if has_both else None,
        "balanced accuracy": float(balanced_accuracy_score(label, chosen)) if has_both else None,
        "MCC": float(matthews_corrcoef(label, chosen)) if has_both else None,
        "accuracy": float((chosen == label).mean()) if len(label) else None,
        "log loss": float(log_loss(label, probability, labels=[0, 1])) if len(label) else None,
        "n": len(label),
        "n_positive": n_positive,
    }


def multiclass_metrics(
    probability: Float[np.ndarray, "n c"], label: Float[np.ndarray, " n"]
) -> Metrics:
    """Figures of several classes; labels that are NaN are left out.

    Macro ROC-AUC is the mean over the classes that occur, each against all others; it and balanced
    accuracy (the mean over these classes of the share found) are None where only one occurs.

    Args:
        probability: of each class.
        label: number of the class, from 0.
    """
    is_known = ~np.isnan(label)
    probability, classes = probability[is_known], label[is_known].astype(np.int64)
    occurring = np.unique(classes)
    chosen = probability.argmax(1)
    has_several = len(occurring) > 1
    found = [float((chosen[classes == k] == k).mean()) for k in occurring]
    areas = [roc_auc_score(classes == k, probability[:, k]) for k in occurring if has_several]
    named = np.clip(probability[np.arange(len(classes)), classes], 1e-15, None)
    return {
        "macro ROC-AUC": float(np.mean(areas)) if has_several else None,
        "balanced accuracy": float(np.mean(found)) if has_several else None,
        "accuracy": float((chosen == classes).mean()) if len(classes) else None,
        "log loss": float(-np.log(named).mean()) if len(classes) else None,
        "n": len(classes),
    }


def best_threshold(probability: Float[np.ndarray, " n"], label: Float[np.ndarray, " n"]) -> float:
    """Choose the threshold of two classes with the best MCC, halfway between two probabilities.

    Of equally good ones that nearest to 0.5 is taken; 0.5 where only one class occurs.
    """
    is_known = ~np.isnan(label)
    probability, label = probability[is_known], label[is_known]
    if len(np.unique(label)) < 2:
        return 0.5
    seen = np.unique(probability)
    halfway = (seen[1:] + seen[:-1]) / 2
    # With thousands of molecules the thresholds of hundreds of quantiles are as good as all.
    thresholds = np.unique(
        [0.5, *(np.quantile(halfway, np.linspace(0, 1, 500)) if len(halfway) else [])]
    )
    is_above: Bool[np.ndarray, "k n"] = probability > thresholds[:, None]
    hits, n_above = (is_above * label).sum(1), is_above.sum(1)
    n, n_positive = len(label), label.sum()
    spread = np.sqrt(n_above * (n - n_above) * n_positive * (n - n_positive))
    coefficients = (n * hits - n_above * n_positive) / np.where(spread > 0, spread, 1)
    is_best = coefficients >= coefficients.max() - 1e-12
    best = thresholds[is_best]
    return float(best[np.abs(best - 0.5).argmin()])


def mean_metric(metrics: list[Metrics], name: str) -> float | None:
    """Mean of one metric over the targets for which it is defined; None if there is none."""
    values = [value for target in metrics if (value := target.get(name)) is not None]
    return float(np.mean(values)) if values else None


def why_undefined(metrics: Metrics) -> dict[str, str]:
    """Say for each metric that is None why it is."""
    reason = "only one class occurs" if "log loss" in metrics else "the labels are all equal"
    reason = reason if metrics["n"] else "there is no label"
    return {name: reason for name, value in metrics.items() if value is None}


def _errors(predicted: Float[np.ndarray, " n"], label: Float[np.ndarray, " n"]) -> Metrics:
    if not len(label):
        return {"RMSE": None, "MAE": None, "R2": None}
    error = predicted - label
    spread = float(((label - label.mean()) ** 2).sum()) if np.ptp(label) > 0 else 0.0
    return {
        "RMSE": float(np.sqrt((error**2).mean())),
        "MAE": float(np.abs(error).mean()),
        "R2": 1 - float((error**2).sum()) / spread if spread > 0 else None,
    }


def score(
    targets: Sequence[Target], predicted: Float64[np.ndarray, "m o"], part: MoleculeDataset
) -> dict[str, Metrics]:
    """Compare predictions (see `columns.unscale_outputs`) with the labels, target by target."""
    found = {}
    for k, (target, where) in enumerate(zip(targets, output_slices(targets), strict=True)):
        values, labels = predicted[:, where], part.labels[:, k]
        if target.kind == "regression":
            found[target.name] = regression_metrics(
                values[:, 0], labels, part.censoring[:, k], log10=target.log10
            )
        elif target.kind == "binary":
            found[target.name] = binary_metrics(values[:, 0], labels, target.threshold)
        else:
            found[target.name] = multiclass_metrics(values, labels)
    return found
