"""Baseline: the random forests of a run, as the model is compared with them.

The comparison is in `comparison`; the forests are trained in `trees`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64

from moleblend.data.targets import Target
from moleblend.evaluation.metrics import Metrics


@dataclass(frozen=True, eq=False)
class BaselineResult:
    """The forests of one run: for each target the one that is better on the validation set.

    Attributes:
        n_trees: in each forest; 0 where none was trained.
        predicted: for the test set, see `targets.unscale_outputs`; NaN where a target has no
            forest.
        test: test metrics of the targets that have a forest.
        chosen: for each of these targets what its forest reads, such as `forest on ecfp4`.
        not_trained: for each other target the reason why it has no forest.
        n_censored: censored training labels, which count as their limits; with folds, of all folds
            together.
    """

    n_trees: int = 0
    predicted: Float64[np.ndarray, "m o"] = field(default_factory=lambda: np.zeros((0, 0)))
    test: dict[str, Metrics] = field(default_factory=dict)
    chosen: dict[str, str] = field(default_factory=dict)
    not_trained: dict[str, str] = field(default_factory=dict)
    n_censored: int = 0


def describe_forest(targets: Sequence[Target], baseline: BaselineResult) -> str:
    """Describe how the forests were trained, as far as it concerns these targets."""
    text = (
        "Two random forests are trained on the labels of the same training set, on ECFP4, and on "
        "ECFP4 and properties of RDKit. The model is compared with the one that is better on the "
        "validation set, on the same test set."
    )
    if baseline.n_censored:
        text += " Censored labels count as their limits in its training."
    if any(target.kind == "binary" for target in targets):
        text += " Its classification threshold is chosen on the validation set."
    if any(target.kind != "regression" for target in targets):
        text += " Its probabilities are the votes of its trees, without calibration."
    return text
