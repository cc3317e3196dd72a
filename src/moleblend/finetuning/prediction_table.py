"""The table of test predictions in a run folder."""

import numpy as np
import pyarrow as pa

from moleblend.data.targets import output_slices
from moleblend.evaluation.conformal import format_sets
from moleblend.evaluation.uncertainty_evaluation import ClassificationEstimate, RegressionEstimate
from moleblend.finetuning.results import TrainResult

_SIGNS = {-1: "<=", 0: "", 1: ">="}


def prediction_table(result: TrainResult, set_names: list[str]) -> pa.Table:
    """Make predictions.csv: what was measured and predicted for each test row.

    With folds all usable rows are test rows, each predicted by the models of its fold.

    Args:
        result: of the run.
        set_names: the set, or the fold, of each row of the table.

    Returns:
        Columns `row` (counted from 1), `set`, `smiles`, and for each target: NAME_measured (empty
        where missing), NAME_qualifier if a label is censored, NAME_pred or the probabilities
        NAME_prob, and the 90 % interval NAME_low to NAME_high or set NAME_set, where known.
    """
    tested, predictions = result.table.split.test, result.predictions
    columns: dict[str, pa.Array] = {
        "row": pa.array(tested + 1),
        "set": pa.array([set_names[row] for row in tested]),
        "smiles": pa.array(predictions.smiles),
    }
    for k, (target, where) in enumerate(
        zip(result.targets, output_slices(result.targets), strict=True)
    ):
        name, label = target.name, predictions.labels[:, k]
        predicted, censoring = predictions.predicted[:, where], predictions.censoring[:, k]
        if target.kind == "regression":
            columns[f"{name}_measured"] = pa.array(label, from_pandas=True)
        else:
            names = np.array([*target.class_names, None], object)
            places = np.where(np.isnan(label), len(names) - 1, np.nan_to_num(label)).astype(int)
            columns[f"{name}_measured"] = pa.array(names[places], pa.string())
        if censoring.any():
            columns[f"{name}_qualifier"] = pa.array([_SIGNS[int(sign)] for sign in censoring])
        if target.kind == "multiclass":
            for one, column in zip(target.class_names, predicted.T, strict=True):
                columns[f"{name}_prob_{one}"] = pa.array(column)
        else:
            ending = "pred" if target.kind == "regression" else "prob"
            columns[f"{name}_{ending}"] = pa.array(predicted[:, 0])
        estimate = predictions.estimates.get(name)
        if isinstance(estimate, RegressionEstimate):
            with np.errstate(over="ignore"):  # values beyond the range of floats become infinite
                low, high = target.from_training_scale(estimate.interval).T
            columns[f"{name}_low"], columns[f"{name}_high"] = pa.array(low), pa.array(high)
        elif isinstance(estimate, ClassificationEstimate):
            columns[f"{name}_set"] = pa.array(format_sets(estimate.sets, target.class_names))
    return pa.table(columns)
