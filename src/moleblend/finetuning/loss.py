"""The loss of labelled targets."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int8
from torch import Tensor

from moleblend.data.targets import Target, output_slices


def property_loss(
    output: Float[Tensor, "b o"],
    labels: Float32[Tensor, "b t"],
    censoring: Int8[Tensor, "b t"],
    targets: Sequence[Target],
    weights: Float32[Tensor, " t"] | None = None,
) -> Float[Tensor, ""]:
    """Compute the squared error of scaled values and the cross entropy of classes.

    The loss is the mean over all labels that are present. A censored label has a one-sided
    (Tobit-like) squared error: 0 where the prediction satisfies it, else the squared distance.

    Args:
        output: outputs of the model.
        labels: scaled values or class numbers; NaN where missing.
        censoring: 1 where the true value is at least the label, -1 where at most, 0 where exact.
        targets: targets of the outputs.
        weights: weight of class 1 of each binary target.
    """
    is_known = ~labels.isnan()
    labels = torch.where(is_known, labels, 0)
    slices = output_slices(targets)
    first_outputs = output[:, [where.start for where in slices]]
    is_binary = torch.tensor([t.kind == "binary" for t in targets], device=output.device)
    cross_entropy = F.binary_cross_entropy_with_logits(
        first_outputs,
        labels.clamp(0, 1),
        reduction="none",
        pos_weight=None if weights is None else weights.to(output.device),
    )
    gap = first_outputs - labels
    is_satisfied = gap * censoring > 0
    squared_error = torch.where(is_satisfied, 0, gap**2)
    errors = list(torch.where(is_binary, cross_entropy, squared_error).unbind(1))
    for k, (target, where) in enumerate(zip(targets, slices, strict=True)):
        if target.kind == "multiclass":
            errors[k] = F.cross_entropy(output[:, where], labels[:, k].long(), reduction="none")
    error = torch.stack(errors, 1)
    return torch.where(is_known, error, 0).sum() / is_known.sum().clamp(min=1)
