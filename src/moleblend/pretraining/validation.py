"""What a pretrained model knows: views predicted when shown, hidden, or their modality is."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from csv import DictReader
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int64
from rich.table import Table
from torch import Tensor

from moleblend.model.batch import Batch
from moleblend.model.blending import Blend, BlendConfig, draw_blend, show
from moleblend.model.functional import pair_vectors
from moleblend.model.heads import HeadsConfig, Model, ViewPredictions
from moleblend.model.objectives import bond_classes, path_classes

SHOWN = ("visible", "hidden", "modality hidden")
"""How a view was learnt: shown for the pair itself, as (i, j) or as (j, i), which gives the same
away; other views of the pair shown instead; nothing of the view's modality (2D or 3D) shown of the
whole molecule."""

_DESCRIBED_FROM = {"2d": "visible", "blended": "hidden", "3d": "modality hidden"}

_VIEW_OF = {"path_length": 0, "bonds": 1, "distance": 2, "direction": 2}


def named_metric(metric: str) -> str:
    """Name a metric of a score for a table, with its unit."""
    return {"MAE": "MAE, Å", "R2": "R²"}.get(metric, metric)


@dataclass(frozen=True)
class Score:
    """How well one view is predicted in one situation.

    Attributes:
        view: `path_length`, `bonds`, `distance`, `direction`, or `descriptors` of the molecule.
        shown: one of `SHOWN`; for descriptors, which follow from the bonds, a molecule shown wholly
            in 2D, blended, and wholly in 3D.
        metric: `accuracy`, `MAE` in Å, `cosine`, or `R2`: how much of the variance of the
            descriptors, each scaled to 1, is explained.
        value: the mean over all scored pairs (for bonds: over all bonds on all paths).
        trivial: the same metric of the best table that looks the answer up by how the same pair is
            related in the other modality: 3D by path length, 2D by distance (to 0.1 Å; for bonds
            also by the hop). It is made on the scored pairs themselves, which flatters it; None for
            directions and descriptors. A model has learnt something of a molecule where it is
            better.
        n: number of scored pairs (bonds, descriptors).
    """

    view: str
    shown: str
    metric: str
    value: float
    trivial: float | None
    n: int


@torch.no_grad()
def score_views(
    model: Model, batches: Iterable[Batch], config: BlendConfig, seed: int = 0
) -> list[Score]:
    """Score the predicted views of held-out molecules.

    Molecules are blended with the shares of pretraining, but without noise and none shown whole; a
    hidden modality is scored on the same molecules shown wholly in 2D, or wholly in 3D. The nine
    atom features are always visible: with 3D alone the model still knows how many neighbours and
    hydrogens an atom has, with 2D alone which stereoisomer it is.

    Args:
        model: with pretraining heads; it is put into evaluation mode and back.
        batches: held-out molecules, with their descriptors where the model predicts them.
        config: shares of the blend.
        seed: of the blends; the same seed and batches score the same blends.

    Returns:
        One score per view and situation, in the order of `SHOWN`.

    Raises:
        ValueError: the model has no pretraining heads.
    """
    heads = model.config.heads
    if heads is None:
        raise ValueError("this model has no pretraining heads: it cannot predict views")
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    blended = replace(config, unblended=(0.0, 0.0), noise=0.0)
    tallies: defaultdict[tuple[str, str], _Tally] = defaultdict(_Tally)
    for held_out in batches:
        batch = held_out.to(device)
        for situation in ("blended", "2d", "3d"):
            if situation == "blended":
                blend = draw_blend(batch, blended, generator)
            elif situation == "2d":
                blend = show(batch, "2d")
            else:
                blend = show(batch, "3d")
            views = model.predict_views(batch, blend)
            describer = model.descriptor_head
            if describer and views.descriptors is not None and batch.descriptors is not None:
                expected = describer.scaled(batch.descriptors)
                is_scored = expected.isfinite()
                if situation == "3d":
                    is_scored = is_scored & batch.has_positions[:, None]
                error = (views.descriptors - expected).square()
                parts = (values[is_scored] for values in (error, expected.square(), expected))
                tallies["descriptors", _DESCRIBED_FROM[situation]].add(*parts)
            for view, *compared, is_scored in _compare(views, batch, heads):
                for shown, chosen in _situations(view, situation, batch, blend):
                    counts = is_scored & (chosen[..., None] if is_scored.ndim == 4 else chosen)
                    tallies[view, shown].add(*(values[counts] for values in compared))
    model.train(was_training)
    return [
        tallies[view, shown].score(view, shown)
        for view in ("path_length", "bonds", heads.geometry, "descriptors")
        for shown in SHOWN
        if tallies[view, shown].is_scored(view)
    ]


def _situations(
    view: str, situation: str, batch: Batch, blend: Blend
) -> Iterable[tuple[str, Bool[Tensor, "b n n"]]]:
    """Say which pairs count for which of `SHOWN`."""
    if situation == "blended":
        is_shown = blend.pairs[..., _VIEW_OF[view]]
        is_visible = is_shown | is_shown.transpose(1, 2)
        yield "visible", is_visible
        yield "hidden", ~is_visible
    else:
        hidden = "2d" if view in ("distance", "direction") else "3d"
        # Without a geometry nothing would be shown in 3D at all.
        has_something = batch.has_positions[:, None, None].expand_as(blend.pairs[..., 0])
        yield "modality hidden", has_something & (situation == hidden)


def _compare(
    views: ViewPredictions, batch: Batch, heads: HeadsConfig
) -> Iterable[tuple[str, Float[Tensor, "*s"], Tensor, Int64[Tensor, "*s"], Bool[Tensor, "*s"]]]:
    """Give, per view: each pair's figure, true answer, key to look it up, and whether it counts."""
    vectors = pair_vectors(batch.positions)
    distance = vectors.norm(dim=-1)
    is_scored = batch.is_pair & batch.has_positions[:, None, None]
    tenths = torch.where(is_scored, (distance / 0.1).long(), -1)

    lengths = path_classes(batch, heads.n_path_classes)
    right = (views.path_length.argmax(-1) == lengths).float()
    yield "path_length", right, lengths, tenths, lengths >= 0
    bonds = bond_classes(batch, heads)
    right = (views.bonds.argmax(-1) == bonds).float()
    hops = torch.arange(bonds.shape[-1], device=bonds.device)
    yield "bonds", right, bonds, tenths[..., None] * len(hops) + hops, bonds >= 0
    if heads.geometry == "distance":
        figure = (views.geometry[..., 0] - distance).abs()
    else:
        figure = torch.cosine_similarity(views.geometry, vectors, dim=-1)
    yield heads.geometry, figure, distance, batch.path_length.long(), is_scored


class _Tally:
    """Collects the figures of one view in one situation."""

    def __init__(self) -> None:
        self.figures: list[Tensor] = []
        self.answers: list[Tensor] = []
        self.keys: list[Tensor] = []

    def add(self, figures: Tensor, answers: Tensor, keys: Tensor) -> None:
        self.figures.append(figures.cpu())
        self.answers.append(answers.cpu())
        self.keys.append(keys.cpu())

    @property
    def n(self) -> int:
        return sum(len(figures) for figures in self.figures)

    def is_scored(self, view: str) -> bool:
        """Descriptors that are the same in all molecules have no variance to explain."""
        return self.n > 0 and (view != "descriptors" or any(map(torch.any, self.answers)))

    def score(self, view: str, shown: str) -> Score:
        value = torch.cat(self.figures).double().mean().item()
        answers, keys = torch.cat(self.answers), torch.cat(self.keys)
        if view == "descriptors":  # squared errors, and squares about the mean
            value = 1 - value / answers.double().mean().item()
            return Score(view=view, shown=shown, metric="R2", value=value, trivial=None, n=self.n)
        if view == "distance":
            groups = [answers[keys == key] for key in keys.unique()]
            total = sum((group - group.median()).abs().sum().item() for group in groups)
            trivial, metric = total / self.n, "MAE"
        elif view == "direction":
            trivial, metric = None, "cosine"
        else:
            cases, counts = torch.stack([keys, answers], 1).unique(dim=0, return_counts=True)
            _, group = cases[:, 0].unique(return_inverse=True)
            commonest = torch.zeros(len(cases), dtype=torch.int64)
            commonest.scatter_reduce_(0, group, counts, "amax")
            trivial, metric = commonest.sum().item() / self.n, "accuracy"
        return Score(view=view, shown=shown, metric=metric, value=value, trivial=trivial, n=self.n)


def read_scores(out: Path) -> list[Score]:
    """Read the scores of the last validation."""
    with (out / "validation.csv").open(newline="", encoding="utf-8") as file:
        rows = list(DictReader(file))
    return [
        Score(
            view=row["view"],
            shown=row["shown"],
            metric=row["metric"],
            value=float(row["value"]),
            trivial=float(row["trivial"]) if row["trivial"] else None,
            n=int(row["n"]),
        )
        for row in rows
        if row["step"] == rows[-1]["step"]
    ]


def score_table(scores: Sequence[Score], step: int) -> Table:
    """Set out a validation for the terminal: views by how they were shown."""
    table = Table(
        title=f"step {step:,}, on held-out molecules (look-up)",
        title_justify="left",
        title_style="",
        box=None,
        pad_edge=False,
        padding=(0, 3, 0, 0),
    )
    for column in ("", *SHOWN):
        table.add_column(column, justify="left")
    for view in dict.fromkeys(score.view for score in scores):
        found = {score.shown: score for score in scores if score.view == view}
        metric = named_metric(next(iter(found.values())).metric)
        table.add_row(f"{view} ({metric})", *(_score_cell(found.get(shown)) for shown in SHOWN))
    return table


def _score_cell(score: Score | None) -> str:
    if score is None:
        return "–"
    return f"{score.value:.3f}" + ("" if score.trivial is None else f" ({score.trivial:.3f})")
