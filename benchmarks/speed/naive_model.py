"""A naive implementation of the model and its losses, for comparison.

It takes the parameters of a `heads.Model` and follows the equations literally: three embeddings for
every bond on every path, explicit softmax, [b n n r*r] outer products, one linear map after the
other. `tests/end_to_end/test_benchmarks.py` checks that losses and gradients equal the model's.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from moleblend.chem.molecule import ATOM_FEATURE_SIZES, BOND_FEATURE_SIZES
from moleblend.model.batch import Batch
from moleblend.model.blending import Blend
from moleblend.model.encoder import Encoded, Encoder, Layer
from moleblend.model.functional import pair_vectors
from moleblend.model.heads import Model
from moleblend.model.objectives import Loss, ObjectiveConfig, bond_classes, path_classes
from moleblend.model.objectives.view_losses import GEOMETRY_LOSSES, denoising_loss
from moleblend.model.pair_heads import (
    Denoising,
    Direction,
    Distance,
    OuterProduct,
    ViewPredictions,
    unit_vectors,
)
from moleblend.model.relations import UNREACHABLE


def blend_then_predict(model: Model, batch: Batch, blend: Blend, config: ObjectiveConfig) -> Loss:
    """Compute what `objectives.blend_then_predict` computes."""
    heads, pair_heads = model.config.heads, model.pair_heads
    assert heads is not None
    assert pair_heads is not None
    encoded = encode(model.encoder, batch, blend)
    atoms = encoded.atoms
    views = ViewPredictions(
        path_length=outer_product(pair_heads.path_length, atoms),
        bonds=outer_product(pair_heads.bonds, atoms).unflatten(-1, (5, -1)),
        geometry=geometry(pair_heads.geometry, atoms),
        noise=denoise(pair_heads.noise, batch, blend, encoded)
        if bool(batch.has_positions.any())
        else None,
    )
    lengths = path_classes(batch, views.path_length.shape[-1])
    bonds = bond_classes(batch, heads)
    terms = {
        "path_length": (config.path_length, cross_entropy(views.path_length, lengths)),
        "bonds": (config.bonds, cross_entropy(views.bonds, bonds)),
        heads.geometry: (
            config.geometry,
            GEOMETRY_LOSSES[heads.geometry](views.geometry, batch).mean,
        ),
        "denoising": (
            config.denoising,
            denoising_loss(views.noise, batch, blend, config.noise_error).mean,
        ),
    }
    total = torch.stack([weight * term for weight, term in terms.values()]).sum()
    return Loss(total=total, terms={name: term for name, (_, term) in terms.items()})


def encode(encoder: Encoder, batch: Batch, blend: Blend) -> Encoded:
    """Compute the encoder equation by equation."""
    config = encoder.config
    shown_path, shown_edge, shown_distance = blend.pairs.unbind(-1)
    # [b n n k] Gaussians
    distance = pair_vectors(batch.positions + blend.noise).norm(dim=-1)
    elements, kernels = batch.atoms[..., 0], encoder.kernels
    scale = kernels.scale[0][elements][:, :, None] + kernels.scale[1][elements][:, None]
    shift = kernels.shift[0][elements][:, :, None] + kernels.shift[1][elements][:, None]
    width = kernels.widths.abs() + 0.01
    value = (scale * distance + shift)[..., None]
    gaussians = torch.exp(-0.5 * ((value - kernels.centres) / width) ** 2)
    gaussians = gaussians / (math.sqrt(2 * 3.14159) * width)

    # [b n n h] the three biases, masked to the pairs that show them
    bias = encoder.distance_bias(gaussians) * shown_distance[..., None]
    length = batch.path_length.long()
    row = torch.where(
        length == UNREACHABLE, config.longest_path + 1, length.clamp(max=config.longest_path)
    )
    path = encoder.path_length_bias.table.weight[row + 1]
    bias = bias + path * shown_path[..., None]
    bias = bias + edge_path_bias(encoder, batch) * shown_edge[..., None]
    bias = F.pad(bias.permute(0, 3, 1, 2), (1, 0, 1, 0))
    touches = torch.ones(bias.shape[-2:])
    touches[1:, 1:] = 0
    bias = bias + encoder.virtual_bias[:, None, None] * touches
    bias = bias.masked_fill(F.pad(~batch.is_atom, (1, 0))[:, None, None, :], -math.inf)

    # [b n+1 d]
    embedding = encoder.atom_embedding
    starts = torch.tensor((0, *ATOM_FEATURE_SIZES[:-1])).cumsum(0)
    atoms = embedding.features(batch.atoms + starts).sum(2)
    for table in embedding.degrees:
        degree = table(batch.degree.clamp(max=config.most_bonds))
        atoms = atoms + degree * blend.atoms[..., :1]
    seen = (gaussians * batch.is_atom[:, None, :, None]).sum(2)
    atoms = atoms + config.centrality_scale * encoder.centrality(seen) * blend.atoms[..., 1:]
    tokens = torch.cat([embedding.virtual.expand(len(batch), 1, -1), atoms], 1)
    tokens = F.dropout(encoder.norm(tokens), config.dropout, encoder.training)
    states = []
    for layer in encoder.layers:
        assert isinstance(layer, Layer)
        tokens = layer.attention_norm(tokens + drop(layer, attend(layer, tokens, bias)))
        inner = F.dropout(F.gelu(layer.up(tokens)), layer.activation_dropout.p, layer.training)
        tokens = layer.ffn_norm(tokens + drop(layer, layer.down(inner)))
        states.append(tokens)
    mean = torch.stack(states).mean(0)
    return Encoded(
        atoms=tokens[:, 1:], all_layers=mean[:, 1:], molecule=tokens[:, 0], pair_bias=bias
    )


def edge_path_bias(encoder: Encoder, batch: Batch) -> Float[Tensor, "b n n h"]:
    """Embed the three features of every bond on every path, and map each hop."""
    edge = encoder.edge_path_bias
    types, stereos, conjugated = BOND_FEATURE_SIZES
    kind = batch.edge_path.long() - 1
    features = torch.stack(
        [
            kind // (stereos * conjugated),
            types + kind // conjugated % stereos,
            types + stereos + kind % conjugated,
        ],
        -1,
    )
    # [b n n k 3 h]
    embedded = edge.features(features.clamp(min=0)) * (kind >= 0)[..., None, None]
    total = torch.einsum("bijkh,khg->bijg", embedded.mean(-2), edge.hops)
    return total / batch.path_length.clamp(1, kind.shape[-1])[..., None]


def attend(
    layer: Layer, tokens: Float[Tensor, "b t d"], bias: Float[Tensor, "b h t t"]
) -> Float[Tensor, "b t d"]:
    """softmax(q k^T / sqrt(d / h) + bias) v, with the attention weights in memory."""
    b, t, d = tokens.shape
    matrices, biases = layer.qkv.weight.chunk(3), layer.qkv.bias.chunk(3)
    q, k, v = (
        F.linear(tokens, matrix, offset).view(b, t, layer.n_heads, -1).transpose(1, 2)
        for matrix, offset in zip(matrices, biases, strict=True)
    )
    logits = q @ k.transpose(-1, -2) / math.sqrt(d / layer.n_heads) + bias
    weights = F.dropout(logits.softmax(-1), layer.attention_dropout, layer.training)
    return layer.out((weights @ v).transpose(1, 2).reshape(b, t, d))


def drop(layer: Layer, branch: Float[Tensor, "b t d"]) -> Float[Tensor, "b t d"]:
    """Drop channels, then tokens or molecules."""
    branch = F.dropout(branch, layer.dropout.p, layer.training)
    if not layer.training or layer.depth_rate == 0:
        return branch
    b, t, _ = branch.shape
    kept = torch.rand((1, t, 1) if layer.drops_tokens else (b, 1, 1)) >= layer.depth_rate
    return branch * kept / (1 - layer.depth_rate)


def outer_product(head: OuterProduct, atoms: Float[Tensor, "b n d"]) -> Float[Tensor, "b n n c"]:
    """Linear map of the outer product r_i (x) c_j, which is kept in memory."""
    rows = head.row_norm(F.gelu(head.row(atoms)))
    columns = head.column_norm(F.gelu(head.column(atoms)))
    product = rows[:, :, None, :, None] * columns[:, None, :, None, :]
    return head.linear(product.flatten(-2))


def geometry(head: Distance | Direction, atoms: Float[Tensor, "b n d"]) -> Float[Tensor, "b n n x"]:
    """Distance in Å, or direction through 256 channels."""
    out = outer_product(head, atoms)
    if isinstance(head, Direction):
        return head.axes(out)
    return F.softplus((out + out.transpose(1, 2)) / 2 + 3.0)


def denoise(
    head: Denoising, batch: Batch, blend: Blend, encoded: Encoded
) -> Float[Tensor, "b n 3"]:
    """Sum a_ij u_ij v_j axis by axis, then project."""
    b, n, d = encoded.atoms.shape
    q, k, v = (
        chunk.view(b, n, head.n_heads, -1).transpose(1, 2)
        for chunk in head.qkv(encoded.atoms).chunk(3, -1)
    )
    logits = q @ k.transpose(-1, -2) / math.sqrt(d / head.n_heads)
    weights = (logits + encoded.pair_bias[:, :, 1:, 1:]).softmax(-1)
    weights = F.dropout(weights, head.dropout.p, head.training)
    vectors = unit_vectors(batch.positions + blend.noise)
    axes = []
    for axis in range(3):
        mixed = (weights * vectors[:, None, :, :, axis]) @ v
        weight = head.force.weight[min(axis, len(head.force.weight) - 1)]
        out = mixed.transpose(1, 2).reshape(b, n, d) @ weight
        axes.append(out if head.force.bias is None else out + head.force.bias[axis])
    return torch.stack(axes, -1)


def cross_entropy(logits: Float[Tensor, "*s c"], classes: Tensor) -> Float[Tensor, ""]:
    """Mean over the entries that have a class; 0 if there are none."""
    total = F.cross_entropy(logits.flatten(0, -2), classes.flatten(), reduction="sum")
    return total / (classes >= 0).sum().clamp(min=1)
