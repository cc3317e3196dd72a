"""Metrics of predictions; missing labels are left out.

`metrics_by_target` computes them for all targets; training, the baseline and the run folder use it.
The metrics of a target depend on its kind.

| kind | metric | unit | definition |
| --- | --- | --- | --- |
| regression | RMSE | label's | square root of the mean squared error |
| regression | MAE | label's | mean absolute error |
| regression | R2 | none | 1 - Σ error² / Σ (label - mean label)² |
| regression | RMSE log10, MAE log10, R2 log10 | log10 | the same, of log10 of the values |
| regression | censored labels respected | fraction | see `regression_metrics` |
| binary | ROC-AUC | none | area under the ROC curve |
| binary | PR-AUC | none | average precision of class 1 |
| binary | balanced accuracy | fraction | mean recall of the two classes, at the threshold |
| binary | MCC | none | Matthews correlation coefficient, at the threshold |
| binary | accuracy | fraction | correct classes, at the threshold |
| multi-class | macro ROC-AUC | none | mean ROC-AUC of each class that occurs against the others |
| multi-class | balanced accuracy | fraction | mean recall of the classes that occur |
| multi-class | accuracy | fraction | correct classes, where the most probable one is predicted |
| both | log loss | nats | mean of -ln of the probability of the true class |
| all | n | labels | exact labels, on which the metrics are computed |
| regression | n_censored | labels | labels with a qualifier, such as `>10` |
| binary | n_positive | labels | labels of class 1 |
"""

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
"""Value of each metric by its name; None where the metric is not defined."""


def metrics_by_target(
    targets: Sequence[Target], predicted: Float64[np.ndarray, "m o"], data: MoleculeDataset
) -> dict[str, Metrics]:
    """Compute the metrics of each target.

    Args:
        targets: of the model.
        predicted: values in the label's unit and probabilities, see `targets.unscale_outputs`.
        data: the same molecules with their labels.

    Returns:
        The metrics of each target by its name, as `target_metrics` gives them.
    """
    return {
        target.name: target_metrics(
            target, predicted[:, where], data.labels[:, k], data.censoring[:, k]
        )
        for k, (target, where) in enumerate(zip(targets, output_slices(targets), strict=True))
    }


def target_metrics(
    target: Target,
    predicted: Float64[np.ndarray, "m c"],
    label: Float64[np.ndarray, " m"],
    censoring: Int8[np.ndarray, " m"],
) -> Metrics:
    """Compute the metrics of one target, by its kind.

    Args:
        target: gives the kind, `log10`, and the threshold of a binary target.
        predicted: one column of values in the label's unit or of probabilities of class 1, or a
            column for each of several classes.
        label: in the unit of the file, or the number of the class; NaN where missing.
        censoring: +1 true value at least the label, -1 at most, 0 exact.
    """
    if target.kind == "regression":
        return regression_metrics(predicted[:, 0], label, censoring, log10=target.log10)
    if target.kind == "binary":
        return binary_metrics(predicted[:, 0], label, target.threshold)
    return multiclass_metrics(predicted, label)


def main_metric(target: Target) -> str:
    """Name the metric by which models are compared."""
    if target.kind == "regression":
        return "RMSE log10" if target.log10 else "RMSE"
    return "ROC-AUC" if target.kind == "binary" else "macro ROC-AUC"


def regression_metrics(
    predicted: Float[np.ndarray, " n"],
    label: Float[np.ndarray, " n"],
    censoring: Int8[np.ndarray, " n"] | None = None,
    *,
    log10: bool = False,
) -> Metrics:
    """Compute RMSE and MAE in the label's unit, and R²; labels that are NaN are left out.

    All are None without an exact label; R² also where all labels are equal.

    Args:
        predicted: in the label's unit.
        label: the measured values.
        censoring: +1 true value at least the label, -1 at most, 0 exact; None if all are exact.
            Errors are computed on exact labels only. If any label is censored, "censored labels
            respected" is the fraction of these for which the prediction is on the side that the
            qualifier allows.
        log10: whether to add the metrics of log10 of the values, which must be positive.
    """
    censoring = np.zeros(len(label), np.int8) if censoring is None else censoring
    is_exact = ~np.isnan(label) & (censoring == 0)
    metrics = _errors(predicted[is_exact], label[is_exact])
    if log10:
        logarithms = _errors(np.log10(predicted[is_exact]), np.log10(label[is_exact]))
        metrics |= {f"{name} log10": value for name, value in logarithms.items()}
    metrics["n"] = int(is_exact.sum())
    is_censored = ~np.isnan(label) & (censoring != 0)
    if is_censored.any():
        excess = (predicted[is_censored] - label[is_censored]) * censoring[is_censored]
        metrics["censored labels respected"] = float((excess >= 0).mean())
        metrics["n_censored"] = int(is_censored.sum())
    return metrics


def binary_metrics(
    probability: Float[np.ndarray, " n"], label: Float[np.ndarray, " n"], threshold: float = 0.5
) -> Metrics:
    """Compute the metrics of two classes; labels that are NaN are left out.

    ROC-AUC, PR-AUC, balanced accuracy and MCC are None where only one class occurs. The others are
    None without a label.

    Args:
        probability: of class 1.
        label: 0 or 1.
        threshold: a molecule is assigned class 1 if its probability is greater.
    """
    is_known = ~np.isnan(label)
    probability, label = probability[is_known], label[is_known]
    n_positive = int(label.sum())
    has_both = 0 < n_positive < len(label)
    predicted = (probability > threshold).astype(float)
    return {
        "ROC-AUC": float(roc_auc_score(label, probability)) if has_both else None,
        "PR-AUC": float(average_precision_score(label, probability)) if has_both else None,
        "balanced accuracy": float(balanced_accuracy_score(label, predicted)) if has_both else None,
        "MCC": float(matthews_corrcoef(label, predicted)) if has_both else None,
        "accuracy": float((predicted == label).mean()) if len(label) else None,
        "log loss": float(log_loss(label, probability, labels=[0, 1])) if len(label) else None,
        "n": len(label),
        "n_positive": n_positive,
    }


def multiclass_metrics(
    probability: Float[np.ndarray, "n c"], label: Float[np.ndarray, " n"]
) -> Metrics:
    """Compute the metrics of several classes; labels that are NaN are left out.

    Macro ROC-AUC and balanced accuracy are means over the classes that occur, and None where only
    one occurs. The others are None without a label.

    Args:
        probability: of each class.
        label: number of the class, from 0.
    """
    is_known = ~np.isnan(label)
    probability, label_class = probability[is_known], label[is_known].astype(np.int64)
    occurring = np.unique(label_class)
    predicted = probability.argmax(1)
    has_several = len(occurring) > 1
    recalls = [float((predicted[label_class == k] == k).mean()) for k in occurring]
    areas = [roc_auc_score(label_class == k, probability[:, k]) for k in occurring if has_several]
    of_true = np.clip(probability[np.arange(len(label_class)), label_class], 1e-15, None)
    return {
        "macro ROC-AUC": float(np.mean(areas)) if has_several else None,
        "balanced accuracy": float(np.mean(recalls)) if has_several else None,
        "accuracy": float((predicted == label_class).mean()) if len(label_class) else None,
        "log loss": float(-np.log(of_true).mean()) if len(label_class) else None,
        "n": len(label_class),
    }


def best_threshold(probability: Float[np.ndarray, " n"], label: Float[np.ndarray, " n"]) -> float:
    """Choose the threshold of a binary target with the highest MCC.

    Candidates are 0.5 and the midpoints between neighbouring probabilities (500 quantiles of these
    if there are more). Of equally good candidates the one nearest to 0.5 is returned; 0.5 if only
    one class occurs.

    Args:
        probability: of class 1.
        label: 0 or 1; NaN where missing.
    """
    is_known = ~np.isnan(label)
    probability, label = probability[is_known], label[is_known]
    if len(np.unique(label)) < 2:
        return 0.5
    distinct = np.unique(probability)
    midpoints = (distinct[1:] + distinct[:-1]) / 2
    # Quantiles bound the cost for thousands of molecules.
    thresholds = np.unique(
        [0.5, *(np.quantile(midpoints, np.linspace(0, 1, 500)) if len(midpoints) else [])]
    )
    is_above: Bool[np.ndarray, "k n"] = probability > thresholds[:, None]
    n_true_positive, n_above = (is_above * label).sum(1), is_above.sum(1)
    n, n_positive = len(label), label.sum()
    norm = np.sqrt(n_above * (n - n_above) * n_positive * (n - n_positive))
    mcc = (n * n_true_positive - n_above * n_positive) / np.where(norm > 0, norm, 1)
    best = thresholds[mcc >= mcc.max() - 1e-12]
    return float(best[np.abs(best - 0.5).argmin()])


def mean_metric(metrics: list[Metrics], name: str) -> float | None:
    """Compute the mean of one metric over the targets where it is defined; None if there is none.

    Args:
        metrics: of each target.
        name: of the metric.
    """
    values = [value for target in metrics if (value := target.get(name)) is not None]
    return float(np.mean(values)) if values else None


def undefined_reasons(metrics: Metrics) -> dict[str, str]:
    """Return the reason why it is not defined for each metric that is None."""
    reason = "only one class occurs" if "log loss" in metrics else "all labels are equal"
    reason = reason if metrics["n"] else "there is no label"
    return {name: reason for name, value in metrics.items() if value is None}


def _errors(predicted: Float[np.ndarray, " n"], label: Float[np.ndarray, " n"]) -> Metrics:
    if not len(label):
        return {"RMSE": None, "MAE": None, "R2": None}
    error = predicted - label
    total = float(((label - label.mean()) ** 2).sum()) if np.ptp(label) > 0 else 0.0
    return {
        "RMSE": float(np.sqrt((error**2).mean())),
        "MAE": float(np.abs(error).mean()),
        "R2": 1 - float((error**2).sum()) / total if total > 0 else None,
    }
