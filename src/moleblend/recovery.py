"""What a pretrained model knows: views predicted when shown, hidden, or their modality is."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from moleblend.batch import Batch
from moleblend.blending import Blend, BlendConfig, draw_blend, show
from moleblend.encoder import pair_vectors
from moleblend.heads import HeadsConfig, Model, Views
from moleblend.objectives import bond_classes, path_classes

SHOWN = ("visible", "hidden", "modality hidden")
"""How a view was learnt: shown for the pair itself, as (i, j) or as (j, i), which gives the same
away; other views of the pair shown instead; nothing of the view's modality (2D or 3D) shown of the
whole molecule."""

_VIEW_OF = {"path_length": 0, "bonds": 1, "distance": 2, "direction": 2}


@dataclass(frozen=True)
class Score:
    """How well one view is predicted in one situation.

    Attributes:
        view: `path_length`, `bonds`, `distance` or `direction`.
        shown: one of `SHOWN`.
        metric: `accuracy`, `MAE` in Å, or `cosine`.
        value: the mean over all scored pairs (for bonds: over all bonds on all paths).
        trivial: the same metric of the best constant answer; None for directions.
        n: number of scored pairs (bonds).
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

    Blended molecules are drawn as in pretraining, noise included, but none is shown whole; a hidden
    modality is scored on the same molecules shown wholly in 2D, or wholly in 3D without noise.

    Args:
        model: with pretraining heads; it is put into evaluation mode and back.
        batches: held-out molecules.
        config: shares and noise of the blend.
        seed: of the blends; the same seed scores the same blends.

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
    blended = replace(config, whole=(0.0, 0.0))
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
            for view, right, answers, is_scored in _compare(views, batch, heads):
                for shown, chosen in _situations(view, situation, batch, blend):
                    counts = is_scored & (chosen[..., None] if is_scored.ndim == 4 else chosen)
                    tallies[view, shown].add(right[counts], answers[counts])
    model.train(was_training)
    return [
        tallies[view, shown].score(view, shown)
        for view in ("path_length", "bonds", heads.geometry)
        for shown in SHOWN
        if tallies[view, shown].n
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
    views: Views, batch: Batch, heads: HeadsConfig
) -> Iterable[tuple[str, Float[Tensor, "*s"], Tensor, Bool[Tensor, "*s"]]]:
    """Give, per view, the figure of each pair, the true answer, and which pairs count."""
    lengths = path_classes(batch, heads.n_path_classes)
    yield "path_length", (views.path_length.argmax(-1) == lengths).float(), lengths, lengths >= 0
    bonds = bond_classes(batch, heads)
    yield "bonds", (views.bonds.argmax(-1) == bonds).float(), bonds, bonds >= 0
    is_scored = batch.is_pair & batch.has_positions[:, None, None]
    vectors = pair_vectors(batch.positions)
    distance = vectors.norm(dim=-1)
    if heads.geometry == "distance":
        yield "distance", (views.geometry[..., 0] - distance).abs(), distance, is_scored
    else:
        cosine = torch.cosine_similarity(views.geometry, vectors, dim=-1)
        yield "direction", cosine, distance, is_scored


class _Tally:
    """Collects the figures of one view in one situation."""

    def __init__(self) -> None:
        self.figures: list[Tensor] = []
        self.answers: list[Tensor] = []

    def add(self, figures: Tensor, answers: Tensor) -> None:
        self.figures.append(figures.cpu())
        self.answers.append(answers.cpu())

    @property
    def n(self) -> int:
        return sum(len(figures) for figures in self.figures)

    def score(self, view: str, shown: str) -> Score:
        value = torch.cat(self.figures).double().mean().item()
        answers = torch.cat(self.answers)
        if view == "distance":
            trivial, metric = (answers - answers.median()).abs().mean().item(), "MAE"
        elif view == "direction":
            trivial, metric = None, "cosine"
        else:
            trivial, metric = (answers.bincount().max() / len(answers)).item(), "accuracy"
        return Score(view=view, shown=shown, metric=metric, value=value, trivial=trivial, n=self.n)
