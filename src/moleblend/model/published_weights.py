"""Published weights: read checkpoints of the authors, and map their tensors to our parameters."""

import pickle
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import EllipsisType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from moleblend.chem.molecule import ATOM_FEATURE_SIZES, BOND_FEATURE_SIZES
from moleblend.errors import MissingFileError, ModelFileError
from moleblend.model.encoder_config import EncoderConfig
from moleblend.model.heads import HeadsConfig, Model, ModelConfig
from moleblend.model.relations import N_HOPS

_SLOT = 512  # rows of the published embedding tables that each feature has
_UNUSED = re.compile(
    r"encoder\.(lm_output_learned_bias|lm_head_transform_weight\.(weight|bias)"
    r"|layer_norm\.(weight|bias)|embed_out\.weight)"
)
_NODES = ("Any", "Boolean", "Bytes", "Enum", "Float", "Integer", "None", "Path", "String")
_IGNORED = (
    "argparse.Namespace",
    "builtins.bool",
    "builtins.dict",
    "builtins.float",
    "builtins.int",
    "builtins.list",
    "builtins.str",
    "collections.defaultdict",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
    "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Metadata",
    "omegaconf.dictconfig.DictConfig",
    "omegaconf.listconfig.ListConfig",
    *(f"omegaconf.nodes.{node}Node" for node in _NODES),
    "typing.Any",
    "typing.Dict",
    "typing.List",
)
"""Types of a training run's arguments and meters. A checkpoint names them; they are not loaded."""


class _Ignored:
    """Replaces every type of `_IGNORED`; it ignores its arguments and its state."""

    def __new__(cls, *_: object) -> "_Ignored":
        return super().__new__(cls)

    def __setstate__(self, _: object) -> None:
        """Ignore the state."""


@dataclass(frozen=True, eq=False)
class Slot:
    """One published tensor, and the slice of our parameter that holds its used rows.

    Attributes:
        theirs: published name, without the prefix of a complete checkpoint.
        ours: name of our parameter.
        rows: rows of the published table that a molecule can use; all if None.
        place: index into our parameter: some rows, all of it (`...`), or all of it as the only row
            of a table (None).
    """

    theirs: str
    ours: str
    rows: Tensor | None = None
    place: slice | EllipsisType | None = ...


def read_published(path: Path | str) -> dict[str, Tensor]:
    """Read the tensors of a downloaded checkpoint; code in the file is never executed.

    Args:
        path: a file written by `torch.save`, in its zip or its older format, with a state dict,
            alone or under the key `model` as fairseq writes it; or a .safetensors file.

    Returns:
        The tensors by their names in the file, in float32.

    Raises:
        MissingFileError: there is no such file.
        ModelFileError: the file is of another kind, truncated, or without weights; or it names a
            type that is not known to be harmless, and the message names that type.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"{path}: there is no such checkpoint")
    loaded = _load_safetensors(path) if path.suffix == ".safetensors" else _load_torch(path)
    state = loaded.get("model", loaded) if isinstance(loaded, Mapping) else None
    tensors = {
        name: tensor.detach().float()
        for name, tensor in (state.items() if isinstance(state, Mapping) else ())
        if isinstance(name, str) and isinstance(tensor, Tensor)
    }
    if not tensors:
        raise ModelFileError(
            f"{path}: got no weights, expected named tensors, alone or under the key `model`"
        )
    return tensors


def from_reference(state: Mapping[str, Tensor]) -> Model:
    """Build a model in the reference configuration from published weights.

    Rows of the published tables that no molecule can use are left out, as is the language-model
    head, whose result is never used. Checkpoints of Transformer-M, which have no `blend_` heads,
    give a model without pretraining heads.

    Args:
        state: names and tensors, with or without the prefix `encoder.molecule_encoder.`.

    Raises:
        ModelFileError: a tensor is missing, unknown, or of another shape; the message names it.

    Reference:
        Yu et al., ICLR 2024, arXiv:2307.06235; the names are those of its released checkpoints.
    """
    named = {
        name.removeprefix("encoder.molecule_encoder."): tensor for name, tensor in state.items()
    }
    named = {name: tensor for name, tensor in named.items() if not _UNUSED.fullmatch(name)}
    has_heads = any(name.startswith("blend_") for name in named)
    if not has_heads:
        # Transformer-M's denoising head alone predicts no view of a pair.
        named = {
            name: tensor for name, tensor in named.items() if not name.startswith("atom_proc.")
        }
    model = Model(_config(named, has_heads))
    slots = list(reference_slots(model))
    check_names(named, {slot.theirs for slot in slots})
    ours = dict(model.named_parameters())
    with torch.no_grad():
        for slot in slots:
            place = ours[slot.ours][slot.place]
            place.copy_(_used(named[slot.theirs], slot, place.shape))
    return model


def to_reference(
    model: Model, shapes: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Convert tensors with our names and shapes to the published names and shapes.

    Args:
        model: in the reference configuration.
        shapes: of the published tensors.
        tensors: parameters or their gradients, by our names.

    Returns:
        The published tensors; rows that no molecule can use are 0.
    """
    published = {}
    for slot in reference_slots(model):
        place = tensors[slot.ours][slot.place]
        full = torch.zeros(shapes[slot.theirs])
        if slot.rows is None:
            full.copy_(place)
        else:
            full[slot.rows] = place.reshape(len(slot.rows), -1)
        published[slot.theirs] = full
    return published


def reference_slots(model: Model) -> Iterable[Slot]:
    """List which published tensor belongs to which parameter, for the reference configuration."""
    config = model.config.encoder
    width, n_heads = config.width, config.n_heads
    elements = torch.arange(ATOM_FEATURE_SIZES[0])
    atom_rows = _feature_rows(ATOM_FEATURE_SIZES, offset=2)
    yield Slot(
        "atom_feature.atom_encoder.weight", "encoder.atom_embedding.features.weight", atom_rows
    )
    for k, direction in enumerate(("in", "out")):
        yield Slot(
            f"atom_feature.{direction}_degree_encoder.weight",
            f"encoder.atom_embedding.degrees.{k}.weight",
            torch.arange(config.most_bonds + 1) + 1,
        )
    yield Slot("atom_feature.graph_token.weight", "encoder.atom_embedding.virtual", place=None)

    bias = "molecule_attn_bias"
    bond_rows = _feature_rows(BOND_FEATURE_SIZES, offset=3)
    yield Slot(f"{bias}.edge_encoder.weight", "encoder.edge_path_bias.features.weight", bond_rows)
    hop_rows = torch.arange(N_HOPS * n_heads**2)
    yield Slot(f"{bias}.edge_dis_encoder.weight", "encoder.edge_path_bias.hops", hop_rows)
    yield Slot(f"{bias}.spatial_pos_encoder.weight", "encoder.path_length_bias.table.weight")
    yield Slot(f"{bias}.graph_token_virtual_distance.weight", "encoder.virtual_bias", place=None)

    kernels = "molecule_3d_bias.gbf"
    yield Slot(f"{kernels}.means.weight", "encoder.kernels.centres", place=None)
    yield Slot(f"{kernels}.stds.weight", "encoder.kernels.widths", place=None)
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
    for kind in ("weight", "bias"):
        yield Slot(f"{theirs}.{kind}", f"{ours}.{kind}")


def _qkv(theirs: str, ours: str, width: int) -> Iterable[Slot]:
    for k, name in enumerate("qkv"):
        place = slice(k * width, (k + 1) * width)
        for kind in ("weight", "bias"):
            yield Slot(f"{theirs}.{name}_proj.{kind}", f"{ours}.{kind}", place=place)


def _axes(theirs: str, ours: str) -> Iterable[Slot]:
    for axis in range(3):
        for kind in ("weight", "bias"):
            yield Slot(
                f"{theirs}.force_proj{axis + 1}.{kind}",
                f"{ours}.{kind}",
                place=slice(axis, axis + 1),
            )


def _feature_rows(sizes: tuple[int, ...], offset: int) -> Tensor:
    """List the used rows of a published table that has one slot per feature."""
    return torch.cat([torch.arange(size) + _SLOT * k + offset for k, size in enumerate(sizes)])


def check_names(names: Iterable[str], expected: Iterable[str]) -> None:
    """Compare the names of weights.

    Raises:
        ModelFileError: names are missing or unknown; the message gives their number and the first
            five.
    """
    missing, unknown = sorted({*expected} - {*names}), sorted({*names} - {*expected})
    problems = [
        f"{len(listed)} {problem} ({', '.join(listed[:5])}{', ...' if len(listed) > 5 else ''})"
        for problem, listed in (("missing", missing), ("unknown", unknown))
        if listed
    ]
    if problems:
        raise ModelFileError(f"the weights do not fit: {' and '.join(problems)}")


def _used(tensor: Tensor, slot: Slot, shape: torch.Size) -> Tensor:
    """Select the used rows of a published tensor, in the shape of our parameter."""
    got = tuple(tensor.shape)
    if slot.rows is None:
        expected, fits = f"shape {tuple(shape)}", got == shape
    else:
        n_rows, n_columns = int(slot.rows.max()) + 1, shape.numel() // len(slot.rows)
        expected = f"{n_columns} columns and at least {n_rows} rows"
        fits = len(got) == 2 and got[0] >= n_rows and got[1] == n_columns
    if not fits:
        raise ModelFileError(f"{slot.theirs} does not fit: got shape {got}, expected {expected}")
    return tensor if slot.rows is None else tensor[slot.rows].view(shape)


def _config(named: Mapping[str, Tensor], has_heads: bool) -> ModelConfig:
    """Read the sizes from vectors, which cannot be transposed; every matrix is checked later."""

    def length(name: str) -> int:
        if name not in named:
            raise ModelFileError(
                f"{name} is missing: these are not weights of MoleBLEND or Transformer-M"
            )
        if named[name].ndim != 1:
            shape = tuple(named[name].shape)
            raise ModelFileError(f"{name} does not fit: got shape {shape}, expected a vector")
        return len(named[name])

    layers = {match[1] for name in named if (match := re.match(r"layers\.(\d+)\.", name))}
    encoder = EncoderConfig.published(
        width=length("emb_layer_norm.weight"),
        ffn_width=length("layers.0.fc1.bias"),
        n_layers=len(layers),
        n_heads=length("molecule_3d_bias.gbf_proj.layer2.bias"),
        n_kernels=length("molecule_3d_bias.gbf_proj.layer1.bias"),
    )
    heads = HeadsConfig.published() if has_heads else None
    return ModelConfig(encoder=encoder, heads=heads, readout="cls")


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ModelFileError(f"{path}: not a safetensors file, or truncated ({error})") from error


def _load_torch(path: Path) -> Any:  # noqa: ANN401 (whatever the file holds)
    """Load with torch's restricted unpickler, which creates tensors and plain containers only."""
    with path.open("rb") as file:
        start = file.read(64)
    # A zip archive, or the number with which the older format begins.
    if not start.startswith((b"PK", pickle.dumps(torch.serialization.MAGIC_NUMBER, protocol=2))):
        raise ModelFileError(f"{path}: not a file written by torch.save")
    try:
        with torch.serialization.safe_globals([(_Ignored, name) for name in _IGNORED]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile file can fail in any way
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if refused:
            raise ModelFileError(
                f"{path}: refused, because it names the type {refused[1]}, which weights do not "
                "need and which could execute code"
            ) from error
        reason = re.split(r"\. |\n", str(error))[0]
        raise ModelFileError(
            f"{path}: truncated or damaged ({type(error).__name__}: {reason})"
        ) from error
