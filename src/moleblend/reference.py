"""Read the published weights: which of our parameters each published one is, and files that hold them."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from moleblend.encoder import EncoderConfig
from moleblend.heads import HeadsConfig, Model, ModelConfig
from moleblend.molecule import ATOM_FEATURE_SIZES, BOND_FEATURE_SIZES
from moleblend.relations import N_HOPS

_SLOT = 512  # rows of the published embedding tables that each feature owns
_UNUSED = re.compile(
    r"encoder\.(lm_output_learned_bias|lm_head_transform_weight\.(weight|bias)"
    r"|layer_norm\.(weight|bias)|embed_out\.weight)"
)


@dataclass(frozen=True, eq=False)
class Slot:
    """One published tensor and the place of ours that holds its used rows.

    Attributes:
        theirs: published name, without the prefix of a whole checkpoint.
        ours: name of our parameter.
        rows: rows of the published tensor that a molecule can reach; all if None.
        place: rows of our parameter; all if None.
    """

    theirs: str
    ours: str
    rows: Tensor | None = None
    place: slice | int | None = None


def from_reference(state: Mapping[str, Tensor]) -> Model:
    """Build a model in the reference configuration from published weights.

    Rows of the published tables that no molecule can reach are left out, and so is its language-model head,
    whose result is never used. Checkpoints of Transformer-M, which have no `blend_` heads, give a model
    without pretraining heads.

    Args:
        state: names and tensors, with or without the prefix `encoder.molecule_encoder.`.

    Raises:
        ValueError: a tensor is missing, unknown, or of another shape; the message names it.

    Reference:
        Yu et al., ICLR 2024, arXiv:2307.06235; the names are those of its released checkpoints.
    """
    named = {name.removeprefix("encoder.molecule_encoder."): tensor for name, tensor in state.items()}
    named = {name: tensor for name, tensor in named.items() if not _UNUSED.fullmatch(name)}
    has_heads = any(name.startswith("blend_") for name in named)
    if not has_heads:
        # Transformer-M's denoising head alone predicts no view of a pair.
        named = {name: tensor for name, tensor in named.items() if not name.startswith("atom_proc.")}
    model = Model(_config(named, has_heads))
    slots = list(reference_slots(model))
    _check_names(named, {slot.theirs for slot in slots})
    ours = dict(model.named_parameters())
    with torch.no_grad():
        for slot in slots:
            place = ours[slot.ours] if slot.place is None else ours[slot.ours][slot.place]
            rows = named[slot.theirs] if slot.rows is None else _rows(named[slot.theirs], slot)
            if rows.numel() != place.numel():
                raise ValueError(
                    f"{slot.theirs}: {tuple(place.shape)} was expected, {tuple(rows.shape)} came"
                )
            place.copy_(rows.reshape(place.shape))
    return model


def to_reference(
    model: Model, shapes: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Lay tensors named and shaped as our parameters out under the published names.

    Args:
        model: in the reference configuration.
        shapes: of the published tensors.
        tensors: parameters or their gradients, by our names.

    Returns:
        The published tensors; rows that no molecule can reach are 0.
    """
    laid = {}
    for slot in reference_slots(model):
        place = tensors[slot.ours] if slot.place is None else tensors[slot.ours][slot.place]
        full = torch.zeros(shapes[slot.theirs])
        if slot.rows is None:
            full = place.reshape(full.shape)
        else:
            full[slot.rows] = place.reshape(len(slot.rows), -1).view_as(full[slot.rows])
        laid[slot.theirs] = full
    return laid


def reference_slots(model: Model) -> Iterable[Slot]:
    """Say which published tensor stands where in a model of the reference configuration."""
    config = model.config.encoder
    width, n_heads = config.width, config.n_heads
    elements = torch.arange(ATOM_FEATURE_SIZES[0])
    atom_rows = _feature_rows(ATOM_FEATURE_SIZES, offset=2)
    yield Slot("atom_feature.atom_encoder.weight", "encoder.atom_embedding.features.weight", atom_rows)
    for k, direction in enumerate(("in", "out")):
        yield Slot(
            f"atom_feature.{direction}_degree_encoder.weight",
            f"encoder.atom_embedding.degrees.{k}.weight",
            torch.arange(config.most_bonds + 1) + 1,
        )
    yield Slot("atom_feature.graph_token.weight", "encoder.atom_embedding.virtual")

    bias = "molecule_attn_bias"
    bond_rows = _feature_rows(BOND_FEATURE_SIZES, offset=3)
    yield Slot(f"{bias}.edge_encoder.weight", "encoder.edge_path_bias.features.weight", bond_rows)
    hop_rows = torch.arange(N_HOPS * n_heads**2)
    yield Slot(f"{bias}.edge_dis_encoder.weight", "encoder.edge_path_bias.hops", hop_rows)
    yield Slot(f"{bias}.spatial_pos_encoder.weight", "encoder.path_length_bias.table.weight")
    yield Slot(f"{bias}.graph_token_virtual_distance.weight", "encoder.virtual_bias")

    kernels = "molecule_3d_bias.gbf"
    yield Slot(f"{kernels}.means.weight", "encoder.kernels.centres")
    yield Slot(f"{kernels}.stds.weight", "encoder.kernels.widths")
    both = torch.cat([elements + 3, elements + _SLOT + 3])
    yield Slot(f"{kernels}.mul.weight", "encoder.kernels.scale", both)
    yield Slot(f"{kernels}.bias.weight", "encoder.kernels.shift", both)
    yield from _linear("molecule_3d_bias.gbf_proj.layer1", "encoder.distance_bias.0")
    yield from _linear("molecule_3d_bias.gbf_proj.layer2", "encoder.distance_bias.2")
    yield from _linear("molecule_3d_bias.edge_proj", "encoder.centrality")

    yield from _linear("emb_layer_norm", "encoder.norm")
    for k in range(config.n_layers):
        theirs, ours = f"layers.{k}", f"encoder.layers.{k}"
        yield from _qkv(f"{theirs}.self_attn", f"{ours}.qkv", width)
        yield from _linear(f"{theirs}.self_attn.out_proj", f"{ours}.out")
        yield from _linear(f"{theirs}.self_attn_layer_norm", f"{ours}.attention_norm")
        yield from _linear(f"{theirs}.fc1", f"{ours}.up")
        yield from _linear(f"{theirs}.fc2", f"{ours}.down")
        yield from _linear(f"{theirs}.final_layer_norm", f"{ours}.ffn_norm")

    if model.pair_heads is None:
        return
    yield from _qkv("atom_proc", "pair_heads.noise.qkv", width)
    yield from _axes("atom_proc", "pair_heads.noise.force")
    for theirs, ours in (("spd", "path_length"), ("edge", "bonds"), ("3d", "geometry")):
        pair, head = f"blend_{theirs}_pred_head.transform_n2_head", f"pair_heads.{ours}"
        for side in ("row", "column"):
            yield from _linear(f"{pair}.{side}_head", f"{head}.{side}")
            yield from _linear(f"{pair}.{side}_LayerNorm", f"{head}.{side}_norm")
    yield from _linear("blend_spd_pred_head.linear", "pair_heads.path_length.linear")
    yield from _linear("blend_edge_pred_head.linear_map_feature", "pair_heads.bonds.linear")
    yield from _linear("blend_3d_pred_head.linear", "pair_heads.geometry.linear")
    yield from _axes("blend_3d_pred_head", "pair_heads.geometry.axes")


def _linear(theirs: str, ours: str) -> Iterable[Slot]:
    for part in ("weight", "bias"):
        yield Slot(f"{theirs}.{part}", f"{ours}.{part}")


def _qkv(theirs: str, ours: str, width: int) -> Iterable[Slot]:
    for k, name in enumerate("qkv"):
        place = slice(k * width, (k + 1) * width)
        for part in ("weight", "bias"):
            yield Slot(f"{theirs}.{name}_proj.{part}", f"{ours}.{part}", place=place)


def _axes(theirs: str, ours: str) -> Iterable[Slot]:
    for axis in range(3):
        for part in ("weight", "bias"):
            yield Slot(f"{theirs}.force_proj{axis + 1}.{part}", f"{ours}.{part}", place=axis)


def _feature_rows(sizes: tuple[int, ...], offset: int) -> Tensor:
    """Rows of a published table that holds one slot per feature."""
    return torch.cat([torch.arange(size) + _SLOT * k + offset for k, size in enumerate(sizes)])


def _rows(tensor: Tensor, slot: Slot) -> Tensor:
    assert slot.rows is not None
    if int(slot.rows.max()) >= len(tensor):
        raise ValueError(
            f"{slot.theirs}: at least {int(slot.rows.max()) + 1} rows were expected, {len(tensor)} came"
        )
    return tensor[slot.rows]


def _config(named: Mapping[str, Tensor], has_heads: bool) -> ModelConfig:
    """Read the sizes off the shapes."""

    def shape(name: str) -> torch.Size:
        if name not in named:
            raise ValueError(f"{name} is missing: these are not weights of MoleBLEND or Transformer-M")
        return named[name].shape

    layers = [re.match(r"layers\.(\d+)\.", name) for name in named]
    encoder = EncoderConfig.published(
        width=shape("emb_layer_norm.weight")[0],
        ffn_width=shape("layers.0.fc1.weight")[0],
        n_layers=1 + max(int(match[1]) for match in layers if match),
        n_heads=shape("molecule_attn_bias.edge_encoder.weight")[1],
        n_kernels=shape("molecule_3d_bias.gbf.means.weight")[1],
    )
    return ModelConfig(encoder=encoder, heads=HeadsConfig.published() if has_heads else None)


def _check_names(found: Mapping[str, Tensor], expected: set[str]) -> None:
    missing = sorted(expected - found.keys())
    unknown = sorted(found.keys() - expected)
    if missing or unknown:
        told = [f"missing {', '.join(missing[:5])}"] if missing else []
        told += [f"unknown {', '.join(unknown[:5])}"] if unknown else []
        raise ValueError(
            f"the published weights do not fit ({len(missing)} missing, {len(unknown)} unknown): "
            + "; ".join(told)
        )


