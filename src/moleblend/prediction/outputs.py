"""Output columns: the name, meaning and unit of each, and its values in the unit of the labels.

This is the only module that names the columns of predictions. Reports take their meaning from here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from moleblend.data.targets import Target, class_names, output_slices
from moleblend.errors import SettingError
from moleblend.evaluation.applicability_domain import ApplicabilityDomain, DomainScores
from moleblend.evaluation.uncertainty import Uncertainty
from moleblend.trees.averaging import MemberValues


@dataclass(frozen=True)
class OutputColumn:
    """A column of predictions.

    Attributes:
        name: of the column.
        meaning: of its values, as text for a reader.
        unit: of its values; empty where they are text or their unit is unknown.
    """

    name: str
    meaning: str
    unit: str = ""


def target_columns(
    target: Target, n_members: int = 1, uncertainty: Uncertainty | None = None
) -> list[OutputColumn]:
    """Describe the columns of one target, in their order.

    Args:
        target: any.
        n_members: members of the ensemble.
        uncertainty: of the model. A target that it covers has columns of calibrated uncertainty. A
            regression target that it does not cover has the standard deviation of the members.
    """
    known = uncertainty or Uncertainty()
    columns = _prediction_columns(target)
    if n_members > 1 and target.name not in known.values:
        columns += _member_columns(target)
    if target.name in known.values or target.name in known.classes:
        columns += _uncertainty_columns(target)
    return columns


def possible_columns(target: Target) -> list[OutputColumn]:
    """Describe all columns that a target can have, with an ensemble and with uncertainty."""
    return [*_prediction_columns(target), *_member_columns(target), *_uncertainty_columns(target)]


def domain_output_columns(domain: ApplicabilityDomain | None) -> list[OutputColumn]:
    """Describe the columns of the applicability domain; none where the model file has none."""
    if domain is None:
        return []
    return [
        OutputColumn(
            "domain",
            "applicability domain by distance and similarity to the training set: in domain, "
            "borderline, or out of domain",
        ),
        OutputColumn(
            "similarity", "Tanimoto similarity (ECFP4) of the most similar training molecule"
        ),
        OutputColumn("nearest_row", "row of that molecule in the training file, counted from 1")
        if domain.smiles is None
        else OutputColumn("nearest", "SMILES of that molecule"),
    ]


def _prediction_columns(target: Target) -> list[OutputColumn]:
    name, names = target.name, class_names(target)
    if target.kind == "regression":
        columns = [OutputColumn(f"{name}_pred", "predicted value", target.unit)]
        if target.log10:
            meaning = "decimal logarithm of the predicted value; the model is trained on it"
            columns.append(OutputColumn(f"{name}_log10_pred", meaning, _log_unit(target)))
        return columns
    if target.kind == "binary":
        return [
            OutputColumn(
                f"{name}_pred",
                f"predicted class: {names[1]} if its probability is above {target.threshold:g}",
            ),
            OutputColumn(f"{name}_prob", f"probability of class {names[1]}"),
        ]
    return [
        OutputColumn(f"{name}_pred", "predicted class: the most probable one"),
        *(OutputColumn(f"{name}_prob_{one}", f"probability of class {one}") for one in names),
    ]


def _member_columns(target: Target) -> list[OutputColumn]:
    of_what = f"probability of class {class_names(target)[-1]}"
    if target.kind != "binary":
        is_value = target.kind == "regression"
        of_what = "value" if is_value else "probability of the predicted class"
    columns = [
        OutputColumn(
            f"{target.name}_members_std",
            f"standard deviation of the {of_what} over the members of the ensemble; "
            "it is not calibrated to the error",
            target.unit,
        )
    ]
    if target.log10:
        meaning = "standard deviation of the logarithm over the members of the ensemble"
        columns.append(OutputColumn(f"{target.name}_members_log10_std", meaning, _log_unit(target)))
    return columns


def _uncertainty_columns(target: Target) -> list[OutputColumn]:
    name, unit = target.name, target.unit
    if target.kind != "regression":
        meaning = (
            "set of classes that contains the true class with the chosen confidence (default 90 %)"
        )
        return [OutputColumn(f"{name}_set", meaning)]
    columns = [OutputColumn(f"{name}_std", "calibrated standard deviation of the error", unit)]
    if target.log10:
        meaning = "calibrated standard deviation of the error of the logarithm"
        columns.append(OutputColumn(f"{name}_log10_std", meaning, _log_unit(target)))
    return [
        *columns,
        OutputColumn(
            f"{name}_low",
            "lower end of the prediction interval, which contains the true value with the chosen "
            "confidence (default 90 %)",
            unit,
        ),
        OutputColumn(f"{name}_high", "upper end of the prediction interval", unit),
    ]


def _log_unit(target: Target) -> str:
    return f"log10 {target.unit}".strip()


def result_names(
    targets: Sequence[Target], n_members: int = 1, uncertainty: Uncertainty | None = None
) -> list[str]:
    """List the names of the columns of all targets, see `target_columns`."""
    return [
        column.name
        for target in targets
        for column in target_columns(target, n_members, uncertainty)
    ]


def domain_names(domain: ApplicabilityDomain | None) -> list[str]:
    """List the names of the columns of the applicability domain."""
    return [column.name for column in domain_output_columns(domain)]


def check_names(targets: Sequence[Target], n_members: int) -> None:
    """Refuse targets whose predictions would have columns with the same name.

    Before training it is not known for which targets the uncertainty can be calibrated, so columns
    with and without uncertainty are checked.

    Args:
        targets: of the model.
        n_members: members of the ensemble.

    Raises:
        SettingError: the message names both targets and the column.
    """
    owners: dict[str, str] = {}
    for target in targets:
        columns = [*target_columns(target, n_members), *_uncertainty_columns(target)]
        for column in columns:
            owner = owners.setdefault(column.name, target.name)
            if owner != target.name:
                raise SettingError(
                    f"predictions of the targets {owner!r} and {target.name!r} could both have a "
                    f"column {column.name!r}: rename one of the two target columns"
                )


def result_columns(
    members: MemberValues,
    targets: Sequence[Target],
    uncertainty: Uncertainty,
    confidence: float,
) -> dict[str, pa.Array]:
    """Compute the columns that `result_names` lists.

    Args:
        members: predictions of the members.
        targets: of the model.
        uncertainty: of the model.
        confidence: of the intervals and sets, between 0 and 1.
    """
    raw, stds = members.mean(targets), members.std(targets)
    means = uncertainty.calibrate_probabilities(targets, raw)
    columns: list[pa.Array] = []
    for target, where in zip(targets, output_slices(targets), strict=True):
        mean, each = means[:, where], members.of_target(where)
        std = each.std_of(each.values)
        if target.kind != "regression":
            is_multiclass = target.kind == "multiclass"
            chosen = (
                mean.argmax(1) if is_multiclass else (mean[:, 0] > target.threshold).astype(int)
            )
            names = np.array(class_names(target), object)[chosen]
            columns.append(pa.array(names, pa.string(), mask=np.isnan(mean[:, 0])))
            std = np.take_along_axis(std, chosen[:, None], 1) if is_multiclass else std
        columns += [pa.array(column, from_pandas=True) for column in mean.T]
        if target.log10:
            columns.append(pa.array(np.log10(mean[:, 0]), from_pandas=True))
        n_members = len(members.values)
        if n_members > 1 and target.name not in uncertainty.values:
            columns.append(pa.array(std[:, 0], from_pandas=True))
            if target.log10:
                of_log = each.std_of(np.log10(each.values))[:, 0]
                columns.append(pa.array(of_log, from_pandas=True))
        used = None if stds is None else stds[:, where]
        calibrated = uncertainty.output_columns(target, raw[:, where], used, confidence)
        columns += [pa.array(column, from_pandas=True) for column in calibrated.values()]
    names = result_names(targets, len(members.values), uncertainty)
    return dict(zip(names, columns, strict=True))


def domain_columns(domain: ApplicabilityDomain, scores: DomainScores) -> dict[str, pa.Array]:
    """Compute the columns that `domain_names` lists; null where a row cannot be used."""
    is_unknown = np.isnan(scores.similarity)
    nearest = scores.row + 1 if domain.smiles is None else np.array(scores.smiles, object)
    values = (np.array(scores.category, object), scores.similarity, nearest)
    kinds = (pa.string(), pa.float64(), pa.int64() if domain.smiles is None else pa.string())
    columns = [pa.array(c, kind, mask=is_unknown) for c, kind in zip(values, kinds, strict=True)]
    return dict(zip(domain_names(domain), columns, strict=True))
