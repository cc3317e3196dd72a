"""Validation of a pretrained model: how well it predicts views that are visible or hidden."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from csv import DictReader
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int64
from rich.table import Table
from torch import Tensor

from moleblend.errors import MissingFileError, SettingError
from moleblend.model.batch import Batch
from moleblend.model.blending import Blend, BlendConfig, draw_blend, show
from moleblend.model.compat import upgrade_validation
from moleblend.model.functional import pair_vectors
from moleblend.model.heads import Model
from moleblend.model.objectives import bond_classes, path_classes
from moleblend.model.pair_heads import HeadsConfig, ViewPredictions

SHOWN_AS = ("visible", "hidden", "modality hidden")
"""How the encoder was shown a view of a pair.

`visible`: the pair shows the view, as (i, j) or as (j, i), which contains the same information.
`hidden`: the pair shows other views. `modality hidden`: the complete molecule shows nothing of the
view's modality (2D or 3D).
"""

_DESCRIPTORS_SHOWN_AS = {"2d": "visible", "blended": "hidden", "3d": "modality hidden"}

_VIEW_OF = {"path_length": 0, "bonds": 1, "distance": 2, "direction": 2}


def metric_label(metric: str) -> str:
    """Label of a score's metric in a table, with its unit."""
    return {"MAE": "MAE, Å", "R2": "R²"}.get(metric, metric)


@dataclass(frozen=True)
class Score:
    """How well a model predicts one view, by how it was shown.

    Attributes:
        view: `path_length`, `bonds`, `distance`, `direction`, or `descriptors` of the molecule.
        shown: one of `SHOWN_AS`. For descriptors, which follow from the bonds: a molecule shown
            completely in 2D, blended, or completely in 3D.
        metric: `accuracy`, `MAE` in Å, `cosine`, or `R2`, the explained variance of the
            descriptors, each scaled to a variance of 1.
        value: the mean over all scored pairs (for bonds: over all bonds on all paths).
        lookup_baseline: the same metric of the best lookup table from the same pair's relation in
            the other modality: 3D from the path length, 2D from the distance (in bins of 0.1 Å; for
            bonds also from the hop). The table is fitted on the scored pairs themselves, so it is
            optimistic. None for directions and descriptors. A model that is better has learned
            more than pairwise statistics.
        n: number of scored pairs (bonds, descriptors).
    """

    view: str
    shown: str
    metric: str
    value: float
    lookup_baseline: float | None
    n: int


@torch.no_grad()
def score_views(
    model: Model, batches: Iterable[Batch], config: BlendConfig, seed: int = 0
) -> list[Score]:
    """Score the predicted views of held-out molecules.

    Molecules are blended with the probabilities of pretraining, but without noise, and no molecule
    is shown completely. A hidden modality is scored on the same molecules shown completely in 2D or
    completely in 3D. The nine atom features are always visible. Therefore the model knows the
    number of neighbours and hydrogens of an atom from 3D alone, and the stereoisomer from 2D alone.

    Args:
        model: needs pretraining heads; it is in evaluation mode while it is scored.
        batches: held-out molecules, with descriptors if the model predicts them.
        config: probabilities of the blend.
        seed: random seed of the blends; the same seed and batches give the same blends.

    Returns:
        One score per view and entry of `SHOWN_AS`, in this order.

    Raises:
        SettingError: the model has no pretraining heads.
    """
    heads = model.config.heads
    if heads is None:
        raise SettingError("this model has no pretraining heads: it cannot predict views")
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    rng = torch.Generator().manual_seed(seed)
    blended = replace(config, unblended=(0.0, 0.0), noise=0.0)
    collected: defaultdict[tuple[str, str], _ScoredPairs] = defaultdict(_ScoredPairs)
    for held_out in batches:
        batch = held_out.to(device)
        for situation in ("blended", "2d", "3d"):
            if situation == "blended":
                blend = draw_blend(batch, blended, rng)
            elif situation == "2d":
                blend = show(batch, "2d")
            else:
                blend = show(batch, "3d")
            views = model.predict_views(batch, blend)
            head = model.descriptor_head
            if head and views.descriptors is not None and batch.descriptors is not None:
                expected = head.scaled(batch.descriptors)
                is_scored = expected.isfinite()
                if situation == "3d":
                    is_scored = is_scored & batch.has_positions[:, None]
                error = (views.descriptors - expected).square()
                chosen = (values[is_scored] for values in (error, expected.square(), expected))
                collected["descriptors", _DESCRIPTORS_SHOWN_AS[situation]].add(*chosen)
            for view, *scored, is_scored in _compare(views, batch, heads):
                for shown, is_chosen in _pairs_by_visibility(view, situation, batch, blend):
                    counts = is_scored & (
                        is_chosen[..., None] if is_scored.ndim == 4 else is_chosen
                    )
                    collected[view, shown].add(*(values[counts] for values in scored))
    model.train(was_training)
    return [
        collected[view, shown].score(view, shown)
        for view in ("path_length", "bonds", heads.geometry, "descriptors")
        for shown in SHOWN_AS
        if collected[view, shown].is_scored(view)
    ]


def _pairs_by_visibility(
    view: str, situation: str, batch: Batch, blend: Blend
) -> Iterable[tuple[str, Bool[Tensor, "b n n"]]]:
    """Select the pairs of each entry of `SHOWN_AS`."""
    if situation == "blended":
        is_shown = blend.pairs[..., _VIEW_OF[view]]
        is_visible = is_shown | is_shown.transpose(1, 2)
        yield "visible", is_visible
        yield "hidden", ~is_visible
    else:
        hidden = "2d" if view in ("distance", "direction") else "3d"
        # A molecule without a geometry shows nothing in 3D.
        has_geometry = batch.has_positions[:, None, None].expand_as(blend.pairs[..., 0])
        yield "modality hidden", has_geometry & (situation == hidden)


def _compare(
    views: ViewPredictions, batch: Batch, heads: HeadsConfig
) -> Iterable[tuple[str, Float[Tensor, "*s"], Tensor, Int64[Tensor, "*s"], Bool[Tensor, "*s"]]]:
    """Yield, per view: each pair's metric, true value, lookup key, and whether it is scored."""
    vectors = pair_vectors(batch.positions)
    distance = vectors.norm(dim=-1)
    is_scored = batch.is_pair & batch.has_positions[:, None, None]
    tenths = torch.where(is_scored, (distance / 0.1).long(), -1)

    lengths = path_classes(batch, heads.n_path_classes)
    is_correct = (views.path_length.argmax(-1) == lengths).float()
    yield "path_length", is_correct, lengths, tenths, lengths >= 0
    bonds = bond_classes(batch, heads)
    is_correct = (views.bonds.argmax(-1) == bonds).float()
    hops = torch.arange(bonds.shape[-1], device=bonds.device)
    yield "bonds", is_correct, bonds, tenths[..., None] * len(hops) + hops, bonds >= 0
    if heads.geometry == "distance":
        metric = (views.geometry[..., 0] - distance).abs()
    else:
        metric = torch.cosine_similarity(views.geometry, vectors, dim=-1)
    yield heads.geometry, metric, distance, batch.path_length.long(), is_scored


class _ScoredPairs:
    """Collects the scored pairs of one view, by how it was shown."""

    def __init__(self) -> None:
        self.metrics: list[Tensor] = []
        self.truths: list[Tensor] = []
        self.keys: list[Tensor] = []

    def add(self, metrics: Tensor, truths: Tensor, keys: Tensor) -> None:
        self.metrics.append(metrics.cpu())
        self.truths.append(truths.cpu())
        self.keys.append(keys.cpu())

    @property
    def n(self) -> int:
        return sum(len(metrics) for metrics in self.metrics)

    def is_scored(self, view: str) -> bool:
        """Descriptors that are equal in all molecules have no variance and are not scored."""
        return self.n > 0 and (view != "descriptors" or any(map(torch.any, self.truths)))

    def score(self, view: str, shown: str) -> Score:
        value = torch.cat(self.metrics).double().mean().item()
        truths, keys = torch.cat(self.truths), torch.cat(self.keys)
        if view == "descriptors":  # squared errors, and squares about the mean
            value = 1 - value / truths.double().mean().item()
            metric, baseline = "R2", None
        elif view == "distance":
            groups = [truths[keys == key] for key in keys.unique()]
            total = sum((group - group.median()).abs().sum().item() for group in groups)
            metric, baseline = "MAE", total / self.n
        elif view == "direction":
            metric, baseline = "cosine", None
        else:
            cases, counts = torch.stack([keys, truths], 1).unique(dim=0, return_counts=True)
            _, group = cases[:, 0].unique(return_inverse=True)
            most_common = torch.zeros(len(cases), dtype=torch.int64)
            most_common.scatter_reduce_(0, group, counts, "amax")
            metric, baseline = "accuracy", most_common.sum().item() / self.n
        return Score(
            view=view,
            shown=shown,
            metric=metric,
            value=value,
            lookup_baseline=baseline,
            n=self.n,
        )


def read_validations(path: Path) -> dict[int, list[Score]]:
    """Read the scores of each validation in `validation.csv`, by step.

    Raises:
        MissingFileError: the run has no validation yet.
    """
    if not path.is_file():
        raise MissingFileError(f"{path}: there is no such file; the run has no validation yet")
    validations: dict[int, list[Score]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in map(upgrade_validation, DictReader(file)):
            baseline = row["lookup_baseline"]
            score = Score(
                view=row["view"],
                shown=row["shown"],
                metric=row["metric"],
                value=float(row["value"]),
                lookup_baseline=float(baseline) if baseline else None,
                n=int(row["n"]),
            )
            validations.setdefault(int(row["step"]), []).append(score)
    return validations


def read_scores(out: Path) -> list[Score]:
    """Read the scores of the last validation of a run folder; empty if nothing was scored."""
    validations = read_validations(out / "validation.csv")
    return validations[max(validations)] if validations else []


def score_table(scores: Sequence[Score], step: int) -> Table:
    """Make the table of a validation for the terminal: views by how they were shown."""
    table = Table(
        title=f"step {step:,}, held-out molecules (lookup baseline)",
        title_justify="left",
        title_style="",
        box=None,
        pad_edge=False,
        padding=(0, 3, 0, 0),
    )
    for column in ("", *SHOWN_AS):
        table.add_column(column, justify="left")
    for view in dict.fromkeys(score.view for score in scores):
        by_shown = {score.shown: score for score in scores if score.view == view}
        metric = metric_label(next(iter(by_shown.values())).metric)
        cells = (_format_score(by_shown.get(shown)) for shown in SHOWN_AS)
        table.add_row(f"{view} ({metric})", *cells)
    return table


def _format_score(score: Score | None) -> str:
    if score is None:
        return "–"
    if score.lookup_baseline is None:
        return f"{score.value:.3f}"
    return f"{score.value:.3f} ({score.lookup_baseline:.3f})"
