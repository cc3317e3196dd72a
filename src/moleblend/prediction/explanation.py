"""Explaining predictions: contributions of atoms, views, and pairs of atoms.

Each of the three attributions sums to the prediction minus the base value (mean training label).

Atoms: approximate Shapley values. The Shapley value of atom i is the mean over k of what i adds to
a set of k other atoms. Absent atoms are treated as padding. Of all sets of k atoms only balls
around i are evaluated (the atoms at most r bonds away, r = 0, 1, 2, 4, 8, ... and all atoms);
between two balls the contribution is interpolated linearly in k. This is deterministic. The
remaining difference to the prediction is distributed evenly over the atoms.

Views: exact Shapley values of two players, the bond graph and the geometry. Blending trains the
model on molecules with hidden views, so hiding a view is a valid input.

Pairs: integrated gradients along the straight path from hidden to shown relations. They distribute
the contribution of the views over the pairs of atoms.

A model may average networks and trees. Contributions to the networks are scaled by the weight of
the networks; those to the trees are computed by `tree_explanation` and added.

A network may also read ECFP4 counts. An environment is present while all its atoms are.
Environments of more than one atom belong to the bond graph; their contribution to the pairs is
distributed evenly over the bonds inside the environment.

References:
    Chen et al., ICLR 2019, arXiv:1808.02610 (Shapley values from neighbourhoods); Sundararajan et
    al., ICML 2017, arXiv:1703.01365 (integrated gradients).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64
from scipy.special import expit
from torch import Tensor

from moleblend.chem.fingerprints import N_BITS, Environments, environments
from moleblend.chem.molecule import Molecule
from moleblend.data.targets import Target, unscale_outputs
from moleblend.errors import SettingError
from moleblend.model.batch import Batch, collate, pieces
from moleblend.model.blending import Blend, ShownViews, show
from moleblend.model.heads import Model
from moleblend.model.relations import UNREACHABLE
from moleblend.prediction.inference import n_geometries
from moleblend.prediction.inputs import Row, exclude_not_finite
from moleblend.prediction.predictor import Predictor, Source
from moleblend.prediction.tree_explanation import N_PROPERTIES, explain_trees
from moleblend.trees.averaging import SMALLEST_SHARE

VIEW_GROUPS = ("bond graph", "geometry")
"""Groups of views in `Contributions.views`: path length, edge path and degree; distance and
centrality."""

_IS_GEOMETRY = ((False, False, True), (False, True))
"""Which views of a pair and of an atom are geometry, in the order of `Blend`."""

MOST_TARGETS = 4
"""Largest number of targets that a report explains unless the user names more."""

_PAIRS_AT_ONCE = 60_000
_STEPS = 32


@dataclass(frozen=True, eq=False)
class Contributions:
    """Contributions to the prediction for one molecule.

    Everything except `prediction` is in the unit of the target, or in log-odds for a class. Where
    the model is trained on logarithms, the logarithm is explained, `prediction` included, and the
    unit of the target says so. For an ensemble all values are means over its members.

    `base_value`, all `atoms` and `whole` sum to `output`. So do `base_value`, `unrelated_atoms`,
    all `views` and `trees`. The `pairs` (i, j) with i <= j sum to the sum of `views`, within the
    error of the numerical integration.

    Attributes:
        targets: the explained targets.
        prediction: as `Predictor.predict` gives it; for a class the probability.
        output: the same; for a class the log-odds.
        base_value: value without contributions: the mean training label, or log-odds 0.
        atoms: contribution of each atom.
        unrelated_atoms: contribution of the atoms while all their relations are hidden.
        views: contributions of the bond graph and of the geometry (`VIEW_GROUPS`).
        pairs: contribution of the relation of two atoms, the same for (i, j) and (j, i); on the
            diagonal that of the degree and the centrality of the atom.
        whole: contribution of what the trees read and belongs to no atom: `properties`, and
            circular environments that the molecule does not have.
        trees: contribution of the trees, which is also in `atoms` and `whole`.
        properties: contribution of each property, see `descriptors.PROPERTY_NAMES`.
    """

    targets: tuple[Target, ...]
    prediction: Float64[np.ndarray, " t"]
    output: Float64[np.ndarray, " t"]
    base_value: Float64[np.ndarray, " t"]
    atoms: Float64[np.ndarray, "n t"]
    unrelated_atoms: Float64[np.ndarray, " t"]
    views: Float64[np.ndarray, "2 t"]
    pairs: Float64[np.ndarray, "n n t"]
    whole: Float64[np.ndarray, " t"]
    trees: Float64[np.ndarray, " t"]
    properties: Float64[np.ndarray, "p t"]


@dataclass(frozen=True, eq=False)
class Explanation:
    """One input row and the contributions to its prediction.

    Attributes:
        row: molecule, status and reason, as `Predictor` reads the row.
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
    """Explain the prediction of every row.

    A molecule with n atoms and diameter d costs up to 2 n (log2 d + 3) predictions, and 32 gradient
    computations for each target.

    Args:
        predictor: a fine-tuned model.
        source: SMILES, molecules, or a file of them.
        targets: names of the targets to explain; all by default.
        views: which views of each molecule are used; by default those of training.
        smiles: the SMILES column of a file; by default it is found by its name.
        on_progress: called after each row with the number of finished rows and the fraction of the
            work that is done; the work grows with the third power of the number of atoms.

    Returns:
        One record per row, in order.

    Raises:
        MissingFileError: there is no such file.
        SettingError: the model has no such target, or no target; it has a multi-class target, or it
            reads descriptors; and as for `Predictor.predict`.
    """
    chosen = choose_targets(predictor, targets)
    _, rows, used = predictor.read(source, views=views, smiles=smiles)
    work = np.cumsum([0 if row.molecule is None else row.molecule.n_atoms**3 for row in rows])
    explanations = []
    for k, row in enumerate(rows):
        if row.molecule is None:
            explanations.append(Explanation(row, None))
        else:
            each = [
                contributions(member, row.molecule, used, chosen, predictor.device)
                for member in predictor.members
            ]
            explained = _with_trees(_mean(each), row.molecule, predictor, chosen)
            (usable,) = exclude_not_finite([row], explained.prediction.astype(np.float32)[None])
            explanations.append(Explanation(usable, explained if usable.molecule else None))
        if on_progress is not None:
            on_progress(k + 1, float(work[k] / work[-1]) if work[-1] else 1.0)
    return explanations


def choose_targets(predictor: Predictor, names: Sequence[str]) -> list[int]:
    """Find targets by name.

    Returns:
        The index of each among the targets of the model; all if no name is given.

    Raises:
        SettingError: the model has no such target, or no target; it has a multi-class target, or it
            reads descriptors.
    """
    config = predictor.model.config
    known = [target.name for target in config.targets]
    if not known:
        raise SettingError(
            f"{predictor.path}: the model has no targets: it was pretrained only, "
            "`moleblend train` fine-tunes it"
        )
    for name in names:
        if name not in known:
            raise SettingError(
                f"{predictor.path}: the model has no target {name!r}; available: {', '.join(known)}"
            )
    if {"descriptors", "properties"} & set(config.features):
        raise SettingError(
            f"{predictor.path}: the network reads descriptors of the molecule, which cannot be "
            "attributed to atoms or pairs: its predictions cannot be explained"
        )
    odd = [target.name for target in config.targets if target.kind == "multiclass"]
    if odd:
        raise SettingError(
            f"{predictor.path}: target {odd[0]!r} has several classes; only regression and binary "
            "targets can be explained"
        )
    return [known.index(name) for name in names] or list(range(len(known)))


def _mean(several: Sequence[Contributions]) -> Contributions:
    """Average the contributions of several members or geometries."""
    names = [field.name for field in fields(Contributions) if field.name != "targets"]
    means = {name: np.mean([getattr(one, name) for one in several], 0) for name in names}
    return replace(several[0], **means)


def _with_trees(
    network: Contributions, molecule: Molecule, predictor: Predictor, targets: Sequence[int]
) -> Contributions:
    """Average the contributions to the networks' prediction with those to the trees'."""
    if not predictor.tree_models:
        return network
    known = predictor.model.config.targets
    each = [
        explain_trees(
            [model for model in predictor.tree_models if model.target == known[k].name],
            molecule,
            known[k],
        )
        for k in targets
    ]
    of_trees = {
        model.target: sum(m.weight for m in predictor.tree_models if m.target == model.target)
        for model in predictor.tree_models
    }
    weight = np.array([1 - of_trees.get(known[k].name, 0.0) for k in targets])
    is_class = np.array([known[k].kind == "binary" for k in targets])
    largest = np.where(is_class, np.log(1 / SMALLEST_SHARE - 1), np.inf)  # as in `to_average`
    clipped = np.clip(network.output, -largest, largest)
    ratio = np.divide(
        clipped, network.output, out=np.ones_like(clipped), where=clipped != network.output
    )
    factor = weight * ratio  # the base value of a class is 0
    trees, whole = (
        np.array([one.total for one in each]),
        np.array([one.properties.sum() + one.absent for one in each]),
    )
    base_value = factor * network.base_value + np.array([one.base_value for one in each])
    atoms = factor * network.atoms + np.stack([one.atoms for one in each], 1)
    output = base_value + atoms.sum(0) + whole
    return replace(
        network,
        prediction=np.where(is_class, expit(output), output),
        output=output,
        base_value=base_value,
        atoms=atoms,
        unrelated_atoms=factor * network.unrelated_atoms,
        views=factor * network.views,
        pairs=factor * network.pairs,
        whole=whole,
        trees=trees,
        properties=np.stack([one.properties for one in each], 1),
    )


def explained_target(target: Target) -> Target:
    """Describe what is explained: of a target trained on logarithms, the logarithm."""
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
    """Attribute the prediction for one molecule to atoms, views and pairs.

    Args:
        model: in evaluation mode, so that the result is deterministic.
        molecule: with several geometries, the contributions are averaged over them, as the
            prediction is.
        views: which views of it the model is shown.
        targets: indices of the targets to explain.
        device: of the model.
    """
    chosen = tuple(explained_target(model.config.targets[k]) for k in targets)
    known = environments(molecule) if model.config.features else None
    each = []
    for conformer in range(n_geometries(molecule, views)):
        batch = collate([molecule], [conformer]).to(device)
        each.append(_of_geometry(model, batch, show(batch, views), known, targets, chosen))
    mean = _mean(each)
    # Logits are averaged, not probabilities, as in the prediction.
    scale = np.array([_scale(target) for target in chosen])
    scaled = ((mean.output - mean.base_value) / scale)[None]
    return replace(mean, prediction=unscale_outputs(scaled, chosen)[0])


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
    """Attribute the prediction for one geometry."""
    scale = np.array([_scale(target) for target in chosen])
    base_value = np.array([0.0 if target.kind == "binary" else target.mean for target in chosen])

    n, device = batch.is_atom.shape[1], batch.is_atom.device
    all_atoms = torch.ones((1, n), dtype=torch.bool, device=device)
    single_atoms, features = (_features(known, np.ones((1, n), bool), radius) for radius in (0, 2))
    raw = _outputs(model, batch, shown, all_atoms, features)[:, list(targets)]
    total = raw[0] * scale
    atoms = _shapley_values(model, batch, shown, known)[:, list(targets)] * scale

    # Shown views: none, the bond graph, the geometry, both.
    coalitions = [
        _restrict(shown, bonds=bonds, geometry=geometry)
        for geometry in (False, True)
        for bonds in (False, True)
    ]
    shown_of_all = ("pairs", "atoms", "noise")
    blends = Blend(*(torch.cat([getattr(c, name) for c in coalitions]) for name in shown_of_all))
    if features is not None and single_atoms is not None:
        features = torch.cat([single_atoms, features, single_atoms, features])
    outputs = _outputs(model, batch, blends, all_atoms.expand(4, n), features)[:, list(targets)]
    none, bonds, geometry, both = outputs * scale
    views = np.stack([bonds - none + both - geometry, geometry - none + both - bonds]) / 2

    return Contributions(
        targets=chosen,
        prediction=unscale_outputs(raw, chosen)[0],
        output=base_value + total,
        base_value=base_value,
        atoms=atoms + (total - atoms.sum(0)) / n,
        unrelated_atoms=none,
        views=views,
        pairs=_integrated_gradients(model, batch, shown, known, targets) * scale,
        whole=np.zeros(len(targets)),
        trees=np.zeros(len(targets)),
        properties=np.zeros((N_PROPERTIES, len(targets))),
    )


def _shapley_values(
    model: Model, batch: Batch, shown: Blend, known: Environments | None
) -> Float64[np.ndarray, "n t"]:
    """Approximate the Shapley value of each atom.

    phi_i = 1 / (n - 1) times the integral over k from 0 to n - 1 of f(S_k + i) - f(S_k), by the
    trapezoid rule over the balls S_k around i; f of no atoms is 0, the mean training label.
    """
    length = batch.path_length[0].cpu().numpy()
    n = len(length)
    is_reachable = length != UNREACHABLE
    radii = [0, *(2**power for power in range(int(length.max()).bit_length()))]
    balls = np.stack([is_reachable & (length <= r) for r in radii] + [np.ones((n, n), bool)])
    is_other = ~np.eye(n, dtype=bool)
    sets = np.concatenate([balls, balls & is_other]).reshape(-1, n)
    unique, index = np.unique(sets, axis=0, return_inverse=True)
    has_atoms = unique.any(1)
    values = np.zeros((len(unique), len(model.config.targets)))
    present = torch.from_numpy(unique[has_atoms]).to(batch.is_atom.device)
    features = _features(known, unique[has_atoms])
    values[has_atoms] = _outputs(model, batch, shown, present, features)
    with_atom, without_atom = values[index].reshape(2, len(balls), n, -1)
    if n == 1:
        return with_atom[0]
    sizes = balls.sum(2, dtype=float)[..., None]
    return np.trapezoid(with_atom - without_atom, sizes, axis=0) / (n - 1)


def _features(
    known: Environments | None, present: Bool[np.ndarray, "r n"], largest_radius: int = 2
) -> Float32[Tensor, "r f"] | None:
    """Compute the ECFP4 features of the atoms that are present, as `molecule_features` does."""
    if known is None:
        return None
    return torch.from_numpy(np.log1p(known.count(present, largest_radius)).astype(np.float32))


@torch.inference_mode()
def _outputs(
    model: Model,
    batch: Batch,
    shown: Blend,
    present: Bool[Tensor, "r n"],
    features: Float32[Tensor, "r f"] | None,
) -> Float64[np.ndarray, "r t"]:
    """Run the model r times on one molecule, each time with other atoms or views.

    Args:
        model: any.
        batch: one molecule.
        shown: r blends, or one for all.
        present: which atoms are present; the others are treated as padding.
        features: molecule features, if the model reads some.
    """
    r, n = present.shape
    # The molecule is repeated r times without a copy; blends may be repeated already.
    batch = batch.changed(lambda one: one.expand(r, *one.shape[1:]))
    shown = shown.changed(lambda one: one.expand(r, *one.shape[1:]))
    outputs = []
    for rows in pieces(r, n, _PAIRS_AT_ONCE):
        piece = replace(batch.subset(rows), is_atom=present[rows])
        chosen = None if features is None else features[rows].to(present.device)
        outputs.append(model(piece, shown.subset(rows), chosen).double().cpu().numpy())
    return np.concatenate(outputs)


def _restrict(shown: Blend, *, bonds: bool, geometry: bool) -> Blend:
    """Hide the bond graph, the geometry, or both."""
    device = shown.atoms.device
    pairs, atoms = (
        torch.tensor([geometry if is_geometry else bonds for is_geometry in views], device=device)
        for views in _IS_GEOMETRY
    )
    return replace(shown, pairs=shown.pairs & pairs, atoms=shown.atoms & atoms)


def _integrated_gradients(
    model: Model,
    batch: Batch,
    shown: Blend,
    known: Environments | None,
    targets: Sequence[int],
) -> Float64[np.ndarray, "n n t"]:
    """Integrate gradients from hidden to shown relations; add up both directions of a pair.

    c_ij = sum over heads h of b_ijh times the integral over s from 0 to 1 of dy/db_ijh at s b, by
    Gauss-Legendre quadrature; b is the attention bias of the pair, 0 where the pair is hidden.
    """
    encoder, head = model.encoder, model.property_head
    assert head is not None
    nodes, weights = np.polynomial.legendre.leggauss(_STEPS)
    n = batch.atoms.shape[1]
    total = np.zeros((n, n, len(targets)))
    with torch.no_grad():
        ends = []
        for blend in (_restrict(shown, bonds=False, geometry=False), shown):
            kernels = encoder.kernels(batch, blend) if blend.shows_3d else None
            tokens = encoder.tokens(batch, blend, kernels)
            ends.append((tokens, encoder.relations(batch, blend, kernels)))
    (tokens, bias), (shown_tokens, shown_bias) = ends
    token_change, bias_change = shown_tokens - tokens, shown_bias - bias
    single_atoms, all_features = (_features(known, np.ones((1, n), bool), r) for r in (0, 2))
    of_environments = np.zeros((N_BITS, len(targets)))
    for steps in pieces(_STEPS, n, _PAIRS_AT_ONCE):
        s = torch.tensor((nodes[steps] + 1) / 2, dtype=bias.dtype, device=bias.device)
        weight = torch.tensor(weights[steps] / 2, dtype=bias.dtype, device=bias.device)
        inputs = (tokens + s[:, None, None] * token_change).requires_grad_()
        relations = (bias + s[:, None, None, None] * bias_change).requires_grad_()
        variables: list[Tensor] = [inputs, relations]
        features = None
        if single_atoms is not None and all_features is not None:
            first = single_atoms.to(bias)
            feature_change = (all_features - single_atoms).to(bias)
            features = (first + s[:, None] * feature_change).requires_grad_()
            variables.append(features)
        is_token = torch.ones(inputs.shape[:2], dtype=torch.bool, device=inputs.device)
        encoded = encoder.transform(inputs, relations, is_token)
        outputs = weight @ head(model.read_out(is_token[:, 1:], encoded), features)
        for k, target in enumerate(targets):
            of_tokens, of_bias, *of_features = torch.autograd.grad(
                outputs[target], variables, retain_graph=k + 1 < len(targets)
            )
            for gradient in of_features:
                contribution = gradient.sum(0) * feature_change[0]
                of_environments[:, k] += contribution.double().cpu().numpy()
            own = (of_tokens.sum(0) * token_change[0]).sum(-1)[1:]
            pairs = (of_bias.sum(0) * bias_change[0]).sum(0)[1:, 1:]
            pairs = torch.triu(pairs) + torch.tril(pairs, -1).T  # add (j, i) to (i, j), i < j
            pairs = pairs + torch.triu(pairs, 1).T + torch.diag(own)
            total[..., k] += pairs.double().cpu().numpy()
    if known is not None:
        is_bond = (batch.path_length[0] == 1).cpu().numpy()
        total += _on_bonds(known, is_bond, of_environments)
    return total


def _on_bonds(
    known: Environments, is_bond: Bool[np.ndarray, "n n"], contribution: Float64[np.ndarray, "f t"]
) -> Float64[np.ndarray, "n n t"]:
    """Distribute the contributions of environments of more than one atom over their bonds.

    Environments that are counted in the same bit have equal contributions.
    """
    total = np.zeros((*is_bond.shape, contribution.shape[1]))
    bits, atoms = known.bits[known.radius > 0], known.atoms[known.radius > 0]
    n_equal = np.bincount(bits, minlength=len(contribution))
    for bit, inside in zip(bits, atoms, strict=True):
        bonds = is_bond & inside[:, None] & inside
        total[bonds] += contribution[bit] / n_equal[bit] / (bonds.sum() / 2)
    return total
