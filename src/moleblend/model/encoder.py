"""Encoder: a transformer over atoms whose attention bias is the blend of the pair views."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from moleblend.model.batch import Batch, Packing
from moleblend.model.blending import Blend
from moleblend.model.encoder_config import EncoderConfig
from moleblend.model.functional import Dropout, dropout, softmax, uniform_like
from moleblend.model.pair_states import PairUpdate
from moleblend.model.view_encodings import (
    AtomEmbedding,
    EdgePathBias,
    GaussianKernels,
    PathLengthBias,
)


@dataclass(frozen=True, eq=False)
class Encoded:
    """The output of the encoder for a batch.

    Attributes:
        atoms: one vector per atom, from the last layer.
        all_layers: one vector per atom, the mean over the outputs of all layers.
        molecule: one vector per molecule, the state of the virtual node (CLS).
        pair_bias: the blended attention bias, virtual node first; -inf in columns of padding.
        pairs: one vector per ordered pair; None for an encoder without pair states.
    """

    atoms: Float[Tensor, "b n d"]
    all_layers: Float[Tensor, "b n d"]
    molecule: Float[Tensor, "b d"]
    pair_bias: Float[Tensor, "b h t t"]
    pairs: Float[Tensor, "b n n c"] | None = None


class Encoder(nn.Module):
    """Transformer over atoms whose attention bias is the blend of the pair views.

    Reference:
        Yu et al., ICLR 2024, arXiv:2307.06235, section 3; the 3D channel after Transformer-M,
        Luo et al., ICLR 2023, arXiv:2210.01765.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        n_channels = config.n_heads + config.pair_width
        self.atom_embedding = AtomEmbedding(
            config.width,
            most_bonds=config.most_bonds,
            n_degree_tables=config.n_degree_tables,
            masks_features=config.masks_features,
        )
        self.path_length_bias = PathLengthBias(n_channels, config.longest_path)
        self.edge_path_bias = EdgePathBias(n_channels)
        self.kernels = GaussianKernels(config.n_kernels)
        self.distance_bias = nn.Sequential(
            nn.Linear(config.n_kernels, config.n_kernels),
            nn.GELU(),
            nn.Linear(config.n_kernels, n_channels),
        )
        self.centrality = nn.Linear(config.n_kernels, config.width)
        self.virtual_bias = nn.Parameter(torch.zeros(config.n_heads))
        self.norm = nn.LayerNorm(config.width)
        self.dropout = Dropout(config.dropout)
        rates = torch.linspace(0, config.stochastic_depth, config.n_layers, device="cpu").tolist()
        self.layers = nn.ModuleList(Layer(config, rate) for rate in rates)
        initialise(self)
        if config.kernel_start == "spread":
            self.kernels.spread()

    def forward(self, batch: Batch, blend: Blend) -> Encoded:
        """Encode the views of a batch that the blend shows."""
        return self.encode(batch, blend, shows_3d=blend.shows_3d)

    def encode(self, batch: Batch, blend: Blend, *, shows_3d: bool) -> Encoded:
        """Encode a batch; `shows_3d` is given, so that a graph can be exported."""
        # [b n n k] Gaussians of the (noisy) distances; None if no geometry is shown
        kernels = self.kernels(batch, blend) if shows_3d else None
        # [b h+c n+1 n+1] one view per pair, the virtual node first
        relations = self.relations(batch, blend, kernels)
        # [b n+1 d] atom features, and degree or centrality
        tokens = self.tokens(batch, blend, kernels)
        return self.transform(tokens, relations, F.pad(batch.is_atom, (1, 0), value=True))

    def transform(
        self,
        tokens: Float[Tensor, "b t d"],
        relations: Float[Tensor, "b hc t t"],
        is_token: Bool[Tensor, "b t"],
    ) -> Encoded:
        """Apply the layers to the tokens; padding is skipped, and its result is 0.

        Args:
            tokens: the virtual node and the atoms.
            relations: output of `Encoder.relations`.
            is_token: real tokens, not padding.
        """
        bias, pairs, is_pair = relations, None, None
        if self.config.pair_width:
            bias = relations[:, : self.config.n_heads]
            is_atom = is_token[:, 1:]
            is_pair = is_atom[:, :, None] & is_atom[:, None, :]
            # [b n n c] the pair states start from the blended views
            pairs = relations[:, self.config.n_heads :, 1:, 1:].permute(0, 2, 3, 1)
        packing = Packing.of(is_token)
        states = self.dropout(self.norm(packing.pack(tokens)))
        total = torch.zeros_like(states)
        for layer in self.layers:
            states, pairs = layer(states, bias, packing, pairs, is_pair)
            total = total + states
        last, mean = packing.pad(states), packing.pad(total / len(self.layers))
        return Encoded(
            atoms=last[:, 1:],
            all_layers=mean[:, 1:],
            molecule=last[:, 0],
            pair_bias=bias,
            pairs=pairs,
        )

    def relations(
        self, batch: Batch, blend: Blend, kernels: Float[Tensor, "b n n k"] | None
    ) -> Float[Tensor, "b hc t t"]:
        """Blend the three views of each pair into its attention bias and its initial pair state.

        The first h channels are the bias of the heads, -inf in columns of padding. The other c
        channels are the initial pair states, 0 for the virtual node.

        b_ij = SPD bias + edge bias + distance bias, of which each pair shows one (blended) or
        several (not blended).
        """
        n_heads = self.config.n_heads
        path_length, edge_path, distance = blend.pairs.unbind(-1)
        bias = self.path_length_bias(batch, path_length) + self.edge_path_bias(batch, edge_path)
        if kernels is not None:
            bias = bias + self.distance_bias(kernels) * distance[..., None]

        # The virtual node has one learned bias per head for every token, itself included.
        bias = F.pad(bias.permute(0, 3, 1, 2), (1, 0, 1, 0))
        touches = torch.ones(bias.shape[-2:], dtype=bias.dtype, device=bias.device)
        touches[1:, 1:] = 0
        padding = F.pad(~batch.is_atom, (1, 0))
        bias, states = bias[:, :n_heads], bias[:, n_heads:]
        bias = bias + self.virtual_bias[:, None, None] * touches
        bias = bias.masked_fill(padding[:, None, None, :], -math.inf)
        return torch.cat([bias, states], 1) if self.config.pair_width else bias

    def tokens(
        self, batch: Batch, blend: Blend, kernels: Float[Tensor, "b n n k"] | None
    ) -> Float[Tensor, "b t d"]:
        """Embed the virtual node and the atoms."""
        has_degree, has_centrality = blend.atoms.unbind(-1)
        virtual, atoms = self.atom_embedding(batch, has_degree, blend.masked)
        if kernels is not None:
            # The sum includes the atom itself, but no padding.
            summed = (batch.is_atom[:, None, None].to(kernels.dtype) @ kernels)[:, :, 0]
            centrality = self.config.centrality_scale * self.centrality(summed)
            atoms = atoms + centrality * has_centrality[..., None]
        return torch.cat([virtual, atoms], 1)


class Layer(nn.Module):
    """Post-LN transformer layer whose attention weights are biased."""

    def __init__(self, config: EncoderConfig, depth_rate: float) -> None:
        super().__init__()
        width = config.width
        self.n_heads = config.n_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.attention_norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, config.ffn_width)
        self.down = nn.Linear(config.ffn_width, width)
        self.ffn_norm = nn.LayerNorm(width)
        self.attention_dropout = config.attention_dropout
        self.activation_dropout = Dropout(config.activation_dropout)
        self.drops_tokens = config.depth_drops == "token"
        self.depth_rate = depth_rate
        # The published code drops tokens, not channels, wherever the depth rate is not 0.
        self.dropout = Dropout(0.0 if self.drops_tokens and depth_rate > 0 else config.dropout)
        self.pair_update = (
            PairUpdate(config.pair_width, config.n_heads) if config.pair_width else None
        )

    def forward(
        self,
        tokens: Float[Tensor, "m d"],
        bias: Float[Tensor, "b h t t"],
        packing: Packing,
        pairs: Float[Tensor, "b n n c"] | None = None,
        is_pair: Bool[Tensor, "b n n"] | None = None,
    ) -> tuple[Float[Tensor, "m d"], Float[Tensor, "b n n c"] | None]:
        """Apply biased attention and the feed-forward network; update the pair states."""
        qkv = packing.pad(self.qkv(tokens))
        if self.pair_update is None or pairs is None or is_pair is None:
            mixed = self.attend(qkv, bias)
        else:
            scores = self.scores(qkv)
            mixed = self.mix(scores + bias + self.pair_update.attention_bias(pairs), qkv)
            pairs = self.pair_update(pairs, scores[:, :, 1:, 1:], is_pair)
        mixed = packing.pack(mixed)
        tokens = self.attention_norm(tokens + self.drop(self.out(mixed), packing))
        inner = self.activation_dropout(F.gelu(self.up(tokens)))
        return self.ffn_norm(tokens + self.drop(self.down(inner), packing)), pairs

    def scores(self, qkv: Float[Tensor, "b t qkv"]) -> Float[Tensor, "b h t t"]:
        """Attention scores q k^T / sqrt(d / h) of every head, without the bias."""
        b, t, _ = qkv.shape
        q, k, _ = qkv.view(b, t, 3, self.n_heads, -1).permute(2, 0, 3, 1, 4)
        return (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)

    def mix(
        self, logits: Float[Tensor, "b h t t"], qkv: Float[Tensor, "b t qkv"]
    ) -> Float[Tensor, "b t d"]:
        """softmax(logits) v of every head."""
        b, t, _ = qkv.shape
        v = qkv.view(b, t, 3, self.n_heads, -1).permute(2, 0, 3, 1, 4)[2]
        rate = self.attention_dropout if self.training else 0.0
        return (dropout(softmax(logits), rate) @ v).transpose(1, 2).flatten(2)

    def attend(
        self, qkv: Float[Tensor, "b t qkv"], bias: Float[Tensor, "b h t t"]
    ) -> Float[Tensor, "b t d"]:
        """softmax(q k^T / sqrt(d / h) + bias) v, per head."""
        b, t, _ = qkv.shape
        q, k, v = qkv.view(b, t, 3, self.n_heads, -1).permute(2, 0, 3, 1, 4)
        rate = self.attention_dropout if self.training else 0.0
        if bias.is_cuda:
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=rate)
        else:
            # On a CPU torch has no fused kernel for a trainable bias or dropout, and its kernel for
            # inference is slower than this.
            logits = torch.add(bias, q @ k.transpose(-1, -2), alpha=q.shape[-1] ** -0.5)
            mixed = dropout(softmax(logits), rate) @ v
        return mixed.transpose(1, 2).flatten(2)

    def drop(self, branch: Float[Tensor, "m d"], packing: Packing) -> Float[Tensor, "m d"]:
        """Apply ordinary dropout and stochastic depth."""
        branch = self.dropout(branch)
        if not self.training or self.depth_rate == 0:
            return branch
        n_molecules, n_tokens = packing.is_real.shape
        n, group = (n_tokens, packing.column) if self.drops_tokens else (n_molecules, packing.row)
        kept = uniform_like(branch.new_empty(n)) >= self.depth_rate
        return branch * (kept / (1 - self.depth_rate))[group, None]


@torch.no_grad()
def initialise(module: nn.Module, std: float = 0.02) -> None:
    """Initialise weights at N(0, std), biases and "not shown" rows at 0, LayerNorm at 1 and 0.

    This is the published initialisation (its `apply_init`), Gaussian kernels included.
    """
    for submodule in module.modules():
        for name, parameter in submodule.named_parameters(recurse=False):
            if isinstance(submodule, nn.LayerNorm):
                parameter.fill_(1.0 if name == "weight" else 0.0)
            elif isinstance(submodule, nn.Linear) and name == "bias":
                parameter.zero_()
            else:
                parameter.normal_(0.0, std)
                if isinstance(submodule, nn.Embedding) and submodule.padding_idx is not None:
                    parameter[submodule.padding_idx].zero_()
