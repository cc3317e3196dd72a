"""Why a model predicts what it does: what atoms, pairs of atoms and views contribute.

Three accounts of one prediction, each of which adds up.

Atoms: the prediction less the mean of training is shared out by leaving atoms out, as padding is
left out. The Shapley value of an atom is the mean of what it adds to k others, over all k. Of the
many sets of k others one is taken that chemistry suggests, those at most r bonds away, with
r = 0, 1, 2, 4, 8, ... and all; in between what it adds is taken to be linear in k. No chance is in
it. What then is missing of the sum, or too much, all atoms share alike.

Views: blending has taught the model to do without a view, so what a view adds is known by hiding
it. The bond graph and the geometry are the two players of a game that is solved exactly.

Pairs: the same relations, hidden and shown, joined by a straight path along which gradients are
integrated: this shares what the views add out among the pairs of atoms.

A model may read the circular environments of ECFP4 beside its views. An environment is there while
all its atoms are; those of more than one atom belong to the bond graph, and what they add in the
third account is shared alike among the bonds inside.

References:
    Chen et al., ICLR 2019, arXiv:1808.02610 (Shapley values from neighbourhoods); Sundararajan et
    al., ICML 2017, arXiv:1703.01365 (integrated gradients).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64
from torch import Tensor

from moleblend.chem.fingerprints import N_BITS, Environments, environments
from moleblend.chem.molecule import Molecule
from moleblend.data.targets import Target, unscale_outputs
from moleblend.model.batch import Batch, collate, pieces
from moleblend.model.blending import Blend, ShownViews, show
from moleblend.model.heads import Model
from moleblend.model.relations import UNREACHABLE
from moleblend.prediction.inference import n_geometries
from moleblend.prediction.inputs import Row
from moleblend.prediction.predictor import Predictor, Source

VIEW_GROUPS = ("bond graph", "geometry")
"""What `Contributions.views` tells apart: path_length, edge_path, degree; distance, centrality."""

_IS_GEOMETRY = ((False, False, True), (False, True))
"""Which views of a pair and of an atom are geometry, in the order of `Blend`."""

MOST_TARGETS = 4
"""That a page explains without being told which: each has its drawings."""

_PAIRS_AT_ONCE = 60_000
_STEPS = 32


@dataclass(frozen=True, eq=False)
class Contributions:
    """What the prediction for one molecule is made of.

    All but `prediction` is in the unit of the target, or in log-odds where the target is a class.
    Where a logarithm is learnt it is what is explained, `prediction` included, and the unit says
    so. Of an ensemble all are means over its members.
    `start` and all `atoms` sum to `answer`; so do `start`, `kinds` and all `views`; and the `pairs`
    of which the first atom is not behind the second sum to the sum of `views`, as closely as the
    integral is computed.

    Attributes:
        targets: what is predicted.
        prediction: as `Predictor.predict` gives it: for a class the probability.
        answer: the same, for a class as log-odds.
        start: from where contributions count: the mean of the training labels, or even odds.
        atoms: what each atom contributes.
        kinds: what the atoms contribute while nothing is known of how they are related.
        views: what the bond graph, the geometry adds to that (`VIEW_GROUPS`).
        pairs: what is added by the relation of two atoms, the same for (i, j) and (j, i); on the
            diagonal by degree and centrality of the atom itself.
    """

    targets: tuple[Target, ...]
    prediction: Float64[np.ndarray, " t"]
    answer: Float64[np.ndarray, " t"]
    start: Float64[np.ndarray, " t"]
    atoms: Float64[np.ndarray, "n t"]
    kinds: Float64[np.ndarray, " t"]
    views: Float64[np.ndarray, "2 t"]
    pairs: Float64[np.ndarray, "n n t"]


@dataclass(frozen=True, eq=False)
class Explanation:
    """One input row and why the model predicts what it does.

    Attributes:
        row: molecule, status and reason, as `Predictor` sees the row.
        contributions: None where the row cannot be used.
    """

    row: Row
    contributions: Contributions | None


def explain(
    predictor: Predictor,
    source: Source,
    *,
    targets: Sequence[str] = (),
    views: ShownViews | None = None,
    smiles: str | None = None,
    on_progress: Callable[[int, float | None], None] | None = None,
) -> list[Explanation]:
    """Say for every row why the model predicts what it does.

    A molecule of n atoms and diameter d costs up to 2 n (log2 d + 3) predictions, and 32 steps of
    training for each target.

    Args:
        predictor: a fine-tuned model.
        source: SMILES, molecules, or a file of them.
        targets: names of those to explain; all by default.
        views: what of each molecule is used; what the model was trained to see by default.
        smiles: the SMILES column of a file; found by name by default.
        on_progress: called after each row with the number of rows done and the share of the work,
            which grows with the cube of the atoms.

    Returns:
        One record a row, in order.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the model has no such target, or none; a target has several classes, or the
            model reads descriptors beside the views; or as `Predictor.predict` says.
    """
    chosen = choose_targets(predictor, targets)
    _, rows, used = predictor.read(source, views=views, smiles=smiles)
    work = np.cumsum([0 if row.molecule is None else row.molecule.n_atoms**3 for row in rows])
    found = []
    for k, row in enumerate(rows):
        told = None
        if row.molecule is not None:
            each = [
                contributions(member, row.molecule, used, chosen, predictor.device)
                for member in predictor.members
            ]
            told = _mean(each)
        found.append(Explanation(row, told))
        if on_progress is not None:
            on_progress(k + 1, float(work[k] / work[-1]) if work[-1] else 1.0)
    return found


def choose_targets(predictor: Predictor, names: Sequence[str]) -> list[int]:
    """Find targets by name: the place of each among those of the model; all where none is named.

    Raises:
        ValueError: the model has no such target, or none at all; or one that has several classes,
            or the model reads descriptors of whole molecules.
    """
    config = predictor.model.config
    known = [target.name for target in config.targets]
    if not known:
        raise ValueError(
            f"{predictor.path}: the model has no targets: it was pretrained only, "
            "`moleblend train` fine-tunes it"
        )
    for name in names:
        if name not in known:
            raise ValueError(
                f"{predictor.path}: the model has no target {name!r}, it has {', '.join(known)}"
            )
    if "descriptors" in config.features:
        raise ValueError(
            f"{predictor.path}: the model reads descriptors of whole molecules beside the views, "
            "which no atom or pair contributes to alone: it cannot be explained"
        )
    odd = [target.name for target in config.targets if target.kind == "multiclass"]
    if odd:
        raise ValueError(
            f"{predictor.path}: target {odd[0]!r} has several classes, and only values and classes "
            "of 0 and 1 can be explained"
        )
    return [known.index(name) for name in names] or list(range(len(known)))


def _mean(members: Sequence[Contributions]) -> Contributions:
    """Take the mean of what the members of an ensemble say, or what is said of geometries."""
    names = [field.name for field in fields(Contributions) if field.name != "targets"]
    means = {name: np.mean([getattr(member, name) for member in members], 0) for name in names}
    return replace(members[0], **means)


def as_learnt(target: Target) -> Target:
    """Give a target whose values are what is learnt: the logarithm, where it is that."""
    return (
        replace(target, unit=f"log10 {target.unit}".strip(), log10=False)
        if target.log10
        else target
    )


def contributions(
    model: Model,
    molecule: Molecule,
    views: ShownViews,
    targets: Sequence[int],
    device: torch.device | str = "cpu",
) -> Contributions:
    """Share a prediction out among atoms, pairs and views.

    Args:
        model: in evaluation mode, so that nothing is left to chance.
        molecule: of several geometries the mean is taken, as the prediction takes it.
        views: what the model is shown of it.
        targets: places of those to explain among the model's.
        device: where the model is.
    """
    chosen = tuple(as_learnt(model.config.targets[k]) for k in targets)
    known = environments(molecule) if model.config.features else None
    each = []
    for conformer in range(n_geometries(molecule, views)):
        batch = collate([molecule], [conformer]).to(device)
        each.append(_of_geometry(model, batch, show(batch, views), known, targets, chosen))
    found = _mean(each)
    # The mean is taken of what is learnt, before a logit becomes a probability.
    scale = np.array([_scale(target) for target in chosen])
    return replace(
        found, prediction=unscale_outputs(((found.answer - found.start) / scale)[None], chosen)[0]
    )


def _scale(target: Target) -> float:
    return 1.0 if target.kind == "binary" else target.scale


def _of_geometry(
    model: Model,
    batch: Batch,
    shown: Blend,
    known: Environments | None,
    targets: Sequence[int],
    chosen: tuple[Target, ...],
) -> Contributions:
    """Share out what is predicted of one geometry."""
    scale = np.array([_scale(target) for target in chosen])
    start = np.array([0.0 if target.kind == "binary" else target.mean for target in chosen])

    n, device = batch.is_atom.shape[1], batch.is_atom.device
    all_there = torch.ones((1, n), dtype=torch.bool, device=device)
    alone, features = (_counted(known, np.ones((1, n), bool), radius) for radius in (0, 2))
    raw = _answers(model, batch, shown, all_there, features)[:, list(targets)]
    whole = raw[0] * scale
    atoms = _added_by_atoms(model, batch, shown, known)[:, list(targets)] * scale

    # Which views are shown: none, the bond graph, the geometry, both.
    games = [_shown_part(shown, bonds, space) for space in (False, True) for bonds in (False, True)]
    shown_of_all = ("pairs", "atoms", "noise")
    together = Blend(*(torch.cat([getattr(game, name) for game in games]) for name in shown_of_all))
    if features is not None and alone is not None:
        features = torch.cat([alone, features, alone, features])
    there = all_there.expand(4, n)
    answers = _answers(model, batch, together, there, features)[:, list(targets)]
    nothing, bonds, space, both = answers * scale
    of_views = np.stack([bonds - nothing + both - space, space - nothing + both - bonds]) / 2

    return Contributions(
        targets=chosen,
        prediction=unscale_outputs(raw, chosen)[0],
        answer=start + whole,
        start=start,
        atoms=atoms + (whole - atoms.sum(0)) / n,
        kinds=nothing,
        views=of_views,
        pairs=_integrated(model, batch, shown, known, targets) * scale,
    )


def _added_by_atoms(
    model: Model, batch: Batch, shown: Blend, known: Environments | None
) -> Float64[np.ndarray, "n t"]:
    """Take the mean, over the number of other atoms, of what each atom adds to its neighbours.

    phi_i = 1 / (n - 1) times the integral over k from 0 to n - 1 of f(S_k + i) - f(S_k), by the
    trapezoid rule over the balls around i; f of no atoms is the mean of training, 0.
    """
    length = batch.path_length[0].cpu().numpy()
    n = len(length)
    is_joined = length != UNREACHABLE
    radii = [0, *(2**power for power in range(int(length.max()).bit_length()))]
    balls = np.stack([is_joined & (length <= r) for r in radii] + [np.ones((n, n), bool)])
    is_other = ~np.eye(n, dtype=bool)
    sets = np.concatenate([balls, balls & is_other]).reshape(-1, n)
    different, place = np.unique(sets, axis=0, return_inverse=True)
    has_atoms = different.any(1)
    values = np.zeros((len(different), len(model.config.targets)))
    present = torch.from_numpy(different[has_atoms]).to(batch.is_atom.device)
    features = _counted(known, different[has_atoms])
    values[has_atoms] = _answers(model, batch, shown, present, features)
    there, without = values[place].reshape(2, len(balls), n, -1)
    if n == 1:
        return there[0]
    sizes = balls.sum(2, dtype=float)[..., None]
    return np.trapezoid(there - without, sizes, axis=0) / (n - 1)


def _counted(
    known: Environments | None, present: Bool[np.ndarray, "r n"], longest: int = 2
) -> Float32[Tensor, "r f"] | None:
    """Give the model the environments that are there, as `molecule_features` does."""
    if known is None:
        return None
    return torch.from_numpy(np.log1p(known.count(present, longest)).astype(np.float32))


@torch.inference_mode()
def _answers(
    model: Model,
    batch: Batch,
    shown: Blend,
    present: Bool[Tensor, "r n"],
    features: Float32[Tensor, "r f"] | None,
) -> Float64[np.ndarray, "r t"]:
    """Let the model answer for one molecule r times, each time with other atoms or views of it.

    Args:
        model: any.
        batch: the molecule alone.
        shown: r blends, or one for all.
        present: which atoms are there; the others are treated as padding.
        features: what is joined to the head, if the model takes some.
    """
    r, n = present.shape
    # The only molecule stands there r times, without a copy; of blends there may be r already.
    batch = batch.changed(lambda one: one.expand(r, *one.shape[1:]))
    shown = shown.changed(lambda one: one.expand(r, *one.shape[1:]))
    found = []
    for rows in pieces(r, n, _PAIRS_AT_ONCE):
        part = replace(batch.subset(rows), is_atom=present[rows])
        joined = None if features is None else features[rows].to(present.device)
        found.append(model(part, shown.subset(rows), joined).double().cpu().numpy())
    return np.concatenate(found)


def _shown_part(shown: Blend, bonds: bool, space: bool) -> Blend:
    """Hide the bond graph, the geometry, or both."""
    device = shown.atoms.device
    pairs, atoms = (
        torch.tensor([space if is_space else bonds for is_space in kinds], device=device)
        for kinds in _IS_GEOMETRY
    )
    return replace(shown, pairs=shown.pairs & pairs, atoms=shown.atoms & atoms)


def _integrated(
    model: Model,
    batch: Batch,
    shown: Blend,
    known: Environments | None,
    targets: Sequence[int],
) -> Float64[np.ndarray, "n n t"]:
    """Integrate gradients from hidden to shown relations, and fold the two directions of a pair.

    c_ij = sum over heads h of b_ijh times the integral over s from 0 to 1 of dy/db_ijh at s b, by
    Gauss and Legendre's rule; b is the attention bias of the pair, 0 where the pair is hidden.
    """
    encoder, head = model.encoder, model.property_head
    assert head is not None
    nodes, weights = np.polynomial.legendre.leggauss(_STEPS)
    n = batch.atoms.shape[1]
    total = np.zeros((n, n, len(targets)))
    with torch.no_grad():
        ends = []
        for blend in (_shown_part(shown, False, False), shown):
            kernels = encoder.kernels(batch, blend) if blend.shows_3d else None
            tokens = encoder.tokens(batch, blend, kernels)
            ends.append((tokens, encoder.relations(batch, blend, kernels)))
    (tokens, bias), (last_tokens, last_bias) = ends
    more_tokens, more_bias = last_tokens - tokens, last_bias - bias
    alone, all_known = (_counted(known, np.ones((1, n), bool), r) for r in (0, 2))
    of_environments = np.zeros((N_BITS, len(targets)))
    for part in pieces(_STEPS, n, _PAIRS_AT_ONCE):
        s = torch.tensor((nodes[part] + 1) / 2, dtype=bias.dtype, device=bias.device)
        weight = torch.tensor(weights[part] / 2, dtype=bias.dtype, device=bias.device)
        inputs = (tokens + s[:, None, None] * more_tokens).requires_grad_()
        relations = (bias + s[:, None, None, None] * more_bias).requires_grad_()
        given: list[Tensor] = [inputs, relations]
        joined = None
        if alone is not None and all_known is not None:
            first, more = alone.to(bias), (all_known - alone).to(bias)
            joined = (first + s[:, None] * more).requires_grad_()
            given.append(joined)
        is_token = torch.ones(inputs.shape[:2], dtype=torch.bool, device=inputs.device)
        encoded = encoder.transform(inputs, relations, is_token)
        outputs = weight @ head(model.read_out(is_token[:, 1:], encoded), joined)
        for place, target in enumerate(targets):
            of_tokens, of_bias, *of_joined = torch.autograd.grad(
                outputs[target], given, retain_graph=place + 1 < len(targets)
            )
            for gradient in of_joined:
                of_environments[:, place] += (gradient.sum(0) * more[0]).double().cpu().numpy()
            own = (of_tokens.sum(0) * more_tokens[0]).sum(-1)[1:]
            pairs = (of_bias.sum(0) * more_bias[0]).sum(0)[1:, 1:]
            pairs = torch.triu(pairs) + torch.tril(pairs, -1).T  # both directions above
            pairs = pairs + torch.triu(pairs, 1).T + torch.diag(own)
            total[..., place] += pairs.double().cpu().numpy()
    if known is not None:
        is_bond = (batch.path_length[0] == 1).cpu().numpy()
        total += _on_bonds(known, is_bond, of_environments)
    return total


def _on_bonds(
    known: Environments, is_bond: Bool[np.ndarray, "n n"], added: Float64[np.ndarray, "f t"]
) -> Float64[np.ndarray, "n n t"]:
    """Share what the environments of more than one atom add out among the bonds inside them.

    Those that are counted together add alike.
    """
    total = np.zeros((*is_bond.shape, added.shape[1]))
    bits, atoms = known.bits[known.radius > 0], known.atoms[known.radius > 0]
    n_alike = np.bincount(bits, minlength=len(added))
    for bit, inside in zip(bits, atoms, strict=True):
        bonds = is_bond & inside[:, None] & inside
        total[bonds] += added[bit] / n_alike[bit] / (bonds.sum() / 2)
    return total
