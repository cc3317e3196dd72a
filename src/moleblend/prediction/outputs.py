"""What models give, in the unit of the labels and as named columns."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from jaxtyping import Float64

from moleblend.data.targets import Target, class_names, output_slices
from moleblend.evaluation.applicability_domain import ApplicabilityDomain, DomainScores
from moleblend.evaluation.uncertainty import Uncertainty, possible_column_names


def mean_over_members(
    values: Float64[np.ndarray, "m n o"], targets: Sequence[Target]
) -> Float64[np.ndarray, "n o"]:
    """Mean of the members' values (of `unscale_outputs`); of logarithms where these are learnt."""
    mean = values.mean(0)
    for target, where in zip(targets, output_slices(targets), strict=True):
        if target.log10:
            mean[:, where] = 10.0 ** np.log10(values[..., where]).mean(0)
    return mean


def std_over_members(
    values: Float64[np.ndarray, "m n o"], targets: Sequence[Target]
) -> Float64[np.ndarray, "n o"] | None:
    """Standard deviation of what `mean_over_members` is the mean of; None of a single member."""
    if len(values) == 1:
        return None
    spread = values.std(0)
    for target, where in zip(targets, output_slices(targets), strict=True):
        if target.log10:
            spread[:, where] = np.log10(values[..., where]).std(0)
    return spread


def result_names(
    targets: Sequence[Target], n_members: int = 1, uncertainty: Uncertainty | None = None
) -> list[str]:
    """Name the columns of predictions.

    NAME_pred has a value in the label's unit, the likeliest of several classes, or of two that on
    whose side of the threshold the molecule is; NAME_log10_pred the logarithm where it is learnt;
    NAME_prob the probability of class 1, NAME_prob_CLASS that of one of several classes. Where the
    model file knows how sure a value is, NAME_std is the standard deviation of its error and
    NAME_low and NAME_high bound it; NAME_set has the classes that cannot be excluded. Else, and for
    classes, NAME_members_std of an ensemble is the standard deviation of the members (of the
    probability of the class that is named, for several classes), which says nothing of the error.
    NAME_log10_std and NAME_members_log10_std are those of the logarithms.
    """
    names, known = [], uncertainty or Uncertainty()
    for target in targets:
        ends = ["pred", "prob"] if target.kind == "binary" else ["pred"]
        if target.kind == "multiclass":
            ends += [f"prob_{label}" for label in target.classes]
        ends += ["log10_pred"] if target.log10 else []
        if n_members > 1 and target.name not in known.values:
            ends += ["members_std", "members_log10_std"] if target.log10 else ["members_std"]
        names += [f"{target.name}_{end}" for end in ends] + known.column_names(target)
    return names


def check_names(targets: Sequence[Target], n_members: int) -> None:
    """Refuse targets whose predictions would stand in columns of the same name.

    What will be known of sureness is not known yet, so columns for both cases count.

    Raises:
        ValueError: the message names both, and the column.
    """
    owners: dict[str, str] = {}
    for target in targets:
        for column in (*result_names([target], n_members), *possible_column_names(target)):
            owner = owners.setdefault(column, target.name)
            if owner != target.name:
                raise ValueError(
                    f"predictions of the targets {owner!r} and {target.name!r} could both be named "
                    f"{column!r}: one of the columns needs another name"
                )


def result_columns(
    values: Float64[np.ndarray, "m n o"],
    targets: Sequence[Target],
    uncertainty: Uncertainty,
    confidence: float,
) -> dict[str, pa.Array]:
    """Make the columns that `result_names` names."""
    raw, spreads = mean_over_members(values, targets), std_over_members(values, targets)
    means = uncertainty.calibrate_probabilities(targets, raw)
    columns: list[pa.Array] = []
    for target, where in zip(targets, output_slices(targets), strict=True):
        mean, each = means[:, where], values[..., where]
        spread = each.std(0)
        if target.kind != "regression":
            several = target.kind == "multiclass"
            chosen = mean.argmax(1) if several else (mean[:, 0] > target.threshold).astype(int)
            names = np.array(class_names(target), object)[chosen]
            columns.append(pa.array(names, pa.string(), mask=np.isnan(mean[:, 0])))
            spread = np.take_along_axis(spread, chosen[:, None], 1) if several else spread
        columns += [pa.array(column, from_pandas=True) for column in mean.T]
        if target.log10:
            columns.append(pa.array(np.log10(mean[:, 0]), from_pandas=True))
        if len(values) > 1 and target.name not in uncertainty.values:
            columns.append(pa.array(spread[:, 0], from_pandas=True))
            if target.log10:
                columns.append(pa.array(np.log10(each).std(0)[:, 0], from_pandas=True))
        found = None if spreads is None else spreads[:, where]
        told = uncertainty.output_columns(target, raw[:, where], found, confidence)
        columns += [pa.array(column, from_pandas=True) for column in told.values()]
    return dict(zip(result_names(targets, len(values), uncertainty), columns, strict=True))


def domain_names(domain: ApplicabilityDomain | None) -> list[str]:
    """Name the columns that say how near the training set is; none where the file has none.

    `domain` is one of the values in `applicability_domain`, such as `in domain`. `similarity` is
    the Tanimoto similarity (ECFP4) to the most similar training molecule. `nearest` is the SMILES
    of that molecule; if the model file has no SMILES, `nearest_row` is its row in the training
    file, counted from 1.
    """
    if domain is None:
        return []
    return ["domain", "similarity", "nearest_row" if domain.smiles is None else "nearest"]


def domain_columns(domain: ApplicabilityDomain, scores: DomainScores) -> dict[str, pa.Array]:
    """Make the columns that `domain_names` names."""
    is_unknown = np.isnan(scores.similarity)
    nearest = scores.row + 1 if domain.smiles is None else np.array(scores.smiles, object)
    columns = (np.array(scores.category, object), scores.similarity, nearest)
    kinds = (pa.string(), pa.float64(), pa.int64() if domain.smiles is None else pa.string())
    told = [pa.array(c, kind, mask=is_unknown) for c, kind in zip(columns, kinds, strict=True)]
    return dict(zip(domain_names(domain), told, strict=True))
