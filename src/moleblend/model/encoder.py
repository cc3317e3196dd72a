"""The model: atoms and their blended relations in, one vector per atom and per molecule out."""

import math
import os
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from moleblend.chem.molecule import ATOM_FEATURE_SIZES, BOND_FEATURE_SIZES, FeatureVersion
from moleblend.model.batch import Batch, Packing
from moleblend.model.blending import Blend
from moleblend.model.functional import Dropout, Gaussians, dropout, pair_vectors, softmax
from moleblend.model.pair_states import PairUpdate
from moleblend.model.relations import N_BOND_KINDS, N_HOPS, UNREACHABLE

# oneDNN keeps a compiled GELU for every number of atoms in a batch that it has met, up to 1,024 of
# them. They outlive their batch and lie scattered over the heap, which glibc then can neither give
# back nor use as a whole, so memory grew by a fifth over 80,000 predictions; with 64 it still grew.
# A batch needs a few, and to compile one takes a tenth of a millisecond. oneDNN reads this when the
# first GELU is computed.
if "DNNL_PRIMITIVE_CACHE_CAPACITY" not in os.environ:  # its former name, which is read too
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "8")


@dataclass(frozen=True)
class EncoderConfig:
    """Sizes and choices of the encoder.

    The defaults are ours; `EncoderConfig.published()` are the paper's.

    Attributes:
        width: channels of an atom's vector (C).
        ffn_width: channels inside the feed-forward part (F).
        n_layers: transformer layers (L).
        n_heads: attention heads (H); `width` is a multiple of it.
        n_kernels: Gaussians that encode a distance (K).
        pair_width: channels of the state of each pair of atoms, see `pair_states`; 0 for none, as
            published.
        masks_features: atoms may hide their features but the element, see `BlendConfig.masked`.
        longest_path: paths longer than this share its encoding.
        most_bonds: atoms with more neighbours share its encoding.
        n_degree_tables: degree embeddings that are added; the published code has an "in" and an
            "out" one.
        centrality_scale: factor on the 3D centrality.
        dropout: on embeddings and on each branch of a layer.
        attention_dropout: on attention weights.
        activation_dropout: inside the feed-forward part.
        stochastic_depth: rate in the last layer, growing from 0 in the first.
        depth_drops: a whole `molecule`'s branch (default), or the same `token` in all molecules of
            the batch instead of ordinary dropout (published code).
        kernel_start: Gaussian centres start `spread` over 0 to 10 Å, or at `random` as everything
            else.
        features: the version of the atom and bond features.
        max_atoms: molecules with more atoms are refused by prediction, never cut.
    """

    width: int = 256
    ffn_width: int = 256
    n_layers: int = 6
    n_heads: int = 8
    n_kernels: int = 64
    pair_width: int = 0
    masks_features: bool = False
    longest_path: int = 20
    most_bonds: int = 12
    n_degree_tables: int = 1
    centrality_scale: float = 0.01
    dropout: float = 0.0
    attention_dropout: float = 0.1
    activation_dropout: float = 0.1
    stochastic_depth: float = 0.1
    depth_drops: Literal["molecule", "token"] = "molecule"
    kernel_start: Literal["spread", "random"] = "spread"
    features: FeatureVersion = "cip-1"
    max_atoms: int = 512

    def __post_init__(self) -> None:
        """Refuse sizes that do not fit each other and rates that are not rates."""
        if self.width % self.n_heads:
            raise ValueError(
                f"width must be a multiple of n_heads: {self.width} and {self.n_heads} came"
            )
        if self.pair_width < 0:
            raise ValueError(f"pair_width must be 0 or more, got {self.pair_width}")
        for name in ("dropout", "attention_dropout", "activation_dropout", "stochastic_depth"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), {getattr(self, name)} came")

    @classmethod
    def published(
        cls,
        *,
        width: int = 768,
        ffn_width: int = 768,
        n_layers: int = 12,
        n_heads: int = 32,
        n_kernels: int = 128,
    ) -> "EncoderConfig":
        """The reference configuration: what the published code computes, at its size or another."""
        return cls(
            width=width,
            ffn_width=ffn_width,
            n_layers=n_layers,
            n_heads=n_heads,
            n_kernels=n_kernels,
            longest_path=509,
            most_bonds=510,
            n_degree_tables=2,
            depth_drops="token",
            kernel_start="random",
            features="ogb-1",
            max_atoms=512,
        )


@dataclass(frozen=True, eq=False)
class Encoded:
    """What the encoder makes of a batch.

    Attributes:
        atoms: one vector per atom.
        all_layers: the same, the mean over what each layer gave.
        molecule: one vector per molecule, the state of the virtual node (CLS).
        pair_bias: the blended attention bias, virtual node first; -inf in columns of padding.
        pairs: one vector per ordered pair; None of an encoder without pair states.
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
        self.atom_embedding = AtomEmbedding(config)
        self.path_length_bias = PathLengthBias(config)
        self.edge_path_bias = EdgePathBias(config)
        self.kernels = GaussianKernels(config)
        self.distance_bias = nn.Sequential(
            nn.Linear(config.n_kernels, config.n_kernels),
            nn.GELU(),
            nn.Linear(config.n_kernels, config.n_heads + config.pair_width),
        )
        self.centrality = nn.Linear(config.n_kernels, config.width)
        self.virtual_bias = nn.Parameter(torch.zeros(config.n_heads))
        self.norm = nn.LayerNorm(config.width)
        self.dropout = Dropout(config.dropout)
        rates = torch.linspace(0, config.stochastic_depth, config.n_layers).tolist()
        self.layers = nn.ModuleList(Layer(config, rate) for rate in rates)
        initialise(self)
        if config.kernel_start == "spread":
            self.kernels.spread()

    def forward(self, batch: Batch, blend: Blend) -> Encoded:
        """Encode what the blend shows of a batch."""
        return self.encode(batch, blend, shows_3d=blend.shows_3d)

    def encode(self, batch: Batch, blend: Blend, *, shows_3d: bool) -> Encoded:
        """Encode where it is known whether anybody shows a geometry: nothing asks for values."""
        # [b n n k] Gaussians of the (noisy) distances; none where nobody shows a geometry
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
        """Send the tokens through the layers; what is padding is left out, and 0 in the end.

        Args:
            tokens: the virtual node and the atoms.
            relations: see `relations`.
            is_token: what is no padding.
        """
        bias, pairs, is_pair = relations, None, None
        if self.config.pair_width:
            bias = relations[:, : self.config.n_heads]
            is_atom = is_token[:, 1:]
            is_pair = is_atom[:, :, None] & is_atom[:, None, :]
            # [b n n c] the views of the pairs, from which their states start
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
        """Blend the three views of each pair: its attention bias, then where its state starts.

        The first h channels are the bias of the heads, -inf in columns of padding; the other c are
        the start of the pair states, 0 for the virtual node.
        """
        n_heads = self.config.n_heads
        path_length, edge_path, distance = blend.pairs.unbind(-1)
        bias = self.path_length_bias(batch, path_length) + self.edge_path_bias(batch, edge_path)
        if kernels is not None:
            bias = bias + self.distance_bias(kernels) * distance[..., None]

        # The virtual node is related to every token, itself included: one learned number per head.
        bias = F.pad(bias.permute(0, 3, 1, 2), (1, 0, 1, 0))
        touches = torch.ones(bias.shape[-2:], dtype=bias.dtype, device=bias.device)
        touches[1:, 1:] = 0
        padding = F.pad(~batch.is_atom, (1, 0))
        bias, starts = bias[:, :n_heads], bias[:, n_heads:]
        bias = bias + self.virtual_bias[:, None, None] * touches
        bias = bias.masked_fill(padding[:, None, None, :], -math.inf)
        return torch.cat([bias, starts], 1) if self.config.pair_width else bias

    def tokens(
        self, batch: Batch, blend: Blend, kernels: Float[Tensor, "b n n k"] | None
    ) -> Float[Tensor, "b t d"]:
        """Embed the virtual node and the atoms."""
        has_degree, has_centrality = blend.atoms.unbind(-1)
        virtual, atoms = self.atom_embedding(batch, has_degree, blend.masked)
        if kernels is not None:
            # The sum runs over real atoms, the atom itself included.
            seen = (batch.is_atom[:, None, None].to(kernels.dtype) @ kernels)[:, :, 0]
            centrality = self.config.centrality_scale * self.centrality(seen)
            atoms = atoms + centrality * has_centrality[..., None]
        return torch.cat([virtual, atoms], 1)


class AtomEmbedding(nn.Module):
    """Sum of nine feature embeddings, plus the degree embedding where it is shown."""

    starts: Tensor

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.most_bonds = config.most_bonds
        self.features = nn.Embedding(sum(ATOM_FEATURE_SIZES), config.width)
        self.degrees = nn.ModuleList(
            nn.Embedding(config.most_bonds + 1, config.width) for _ in range(config.n_degree_tables)
        )
        self.virtual = nn.Parameter(torch.zeros(config.width))
        if config.masks_features:
            self.masked = nn.Parameter(torch.zeros(config.width))
        starts = torch.tensor((0, *ATOM_FEATURE_SIZES[:-1])).cumsum(0)
        self.register_buffer("starts", starts, persistent=False)

    def forward(
        self,
        batch: Batch,
        has_degree: Bool[Tensor, "b n"],
        masked: Bool[Tensor, "b n"] | None = None,
    ) -> tuple[Float[Tensor, "b 1 d"], Float[Tensor, "b n d"]]:
        """Give the virtual node's vector and those of the atoms."""
        b, n, _ = batch.atoms.shape
        rows = (batch.atoms + self.starts).flatten(0, 1)
        atoms = F.embedding_bag(rows, self.features.weight, mode="sum").view(b, n, -1)
        for table in self.degrees:
            degree = table(batch.degree.clamp(max=self.most_bonds))
            atoms = atoms + degree * has_degree[..., None]
        if masked is not None:
            # Its features, its degree among them, are hidden but for the element.
            element = self.features(batch.atoms[..., 0]) + self.masked
            atoms = torch.where(masked[..., None], element, atoms)
        return self.virtual.expand(b, 1, -1), atoms


class PathLengthBias(nn.Module):
    """b_ij = table[path length]: one number per channel, 0 where the view is not shown."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.longest_path = config.longest_path
        # Row 0 is "not shown", then lengths 0 to longest_path, then unreachable.
        n_channels = config.n_heads + config.pair_width
        self.table = nn.Embedding(config.longest_path + 3, n_channels, padding_idx=0)

    def forward(self, batch: Batch, is_shown: Bool[Tensor, "b n n"]) -> Float[Tensor, "b n n h"]:
        """Look the path lengths up."""
        length = batch.path_length.int()
        row = torch.where(
            length == UNREACHABLE, self.longest_path + 1, length.clamp(max=self.longest_path)
        )
        return self.table(torch.where(is_shown, row + 1, 0))


class EdgePathBias(nn.Module):
    """b_ij = (sum over hops h of m_ijh W_h) / path length.

    m is the mean of the bond's three embeddings. There are few kinds of bonds, so m W_h is computed
    once per kind and hop, and looked up.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        n_channels = config.n_heads + config.pair_width
        self.features = nn.Embedding(sum(BOND_FEATURE_SIZES), n_channels)
        self.hops = nn.Parameter(torch.zeros(N_HOPS, n_channels, n_channels))
        types, stereos, conjugated = BOND_FEATURE_SIZES
        kinds = torch.cartesian_prod(
            torch.arange(types),
            types + torch.arange(stereos),
            types + stereos + torch.arange(conjugated),
        )
        self.register_buffer("kinds", kinds, persistent=False)

    def forward(self, batch: Batch, is_shown: Bool[Tensor, "b n n"]) -> Float[Tensor, "b n n h"]:
        """Sum the encodings of the bonds along each path."""
        b, n, _, n_hops = batch.edge_path.shape
        kinds = self.features(self.kinds).mean(1)  # [60 h]
        # [hops * 61, h], a zero row per hop
        table = F.pad(kinds @ self.hops, (0, 0, 1, 0)).flatten(0, 1)
        start = (N_BOND_KINDS + 1) * torch.arange(n_hops, device=table.device, dtype=torch.int32)
        rows = torch.where(is_shown[..., None], batch.edge_path, 0).int() + start
        total = F.embedding_bag(rows.view(-1, n_hops), table, mode="sum").view(b, n, n, -1)
        # Where no path exists there is nothing to divide.
        return total / batch.path_length.int().clamp(1, n_hops)[..., None]


class GaussianKernels(nn.Module):
    """K Gaussians of a distance that is first scaled and shifted per pair of elements.

    v = (a_i + a'_j) r + (c_i + c'_j), g_k = exp(-((v - mu_k) / s_k)^2 / 2) / (sqrt(2 pi) s_k).
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        n_elements = ATOM_FEATURE_SIZES[0]
        self.centres = nn.Parameter(torch.zeros(config.n_kernels))
        self.widths = nn.Parameter(torch.zeros(config.n_kernels))
        self.scale = nn.Parameter(torch.zeros(2, n_elements))
        self.shift = nn.Parameter(torch.zeros(2, n_elements))

    def forward(self, batch: Batch, blend: Blend) -> Float[Tensor, "b n n k"]:
        """Encode the distances of all pairs."""
        distance = pair_vectors(batch.positions + blend.noise).norm(dim=-1)
        elements = batch.atoms[..., 0]
        scale = self.scale[0][elements][:, :, None] + self.scale[1][elements][:, None, :]
        shift = self.shift[0][elements][:, :, None] + self.shift[1][elements][:, None, :]
        return Gaussians.apply(scale * distance + shift, self.centres, self.widths.abs() + 0.01)

    @torch.no_grad()
    def spread(self, longest: float = 10.0) -> None:
        """Place the centres evenly over 0 to `longest` Å, each as wide as their spacing."""
        n_kernels = len(self.centres)
        self.centres.copy_(torch.linspace(0, longest, n_kernels))
        self.widths.fill_(longest / max(n_kernels - 1, 1))
        self.scale.fill_(0.5)  # two halves: v is the distance in Å
        self.shift.zero_()


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
        """Attend along the biased pairs, then transform each token; update the pair states."""
        qkv = packing.pad(self.qkv(tokens))
        if self.pair_update is None or pairs is None or is_pair is None:
            mixed = self.attend(qkv, bias)
        else:
            scores = self.scores(qkv)
            weights = scores + bias + self.pair_update.attention_bias(pairs)
            mixed = self.mix(weights, qkv)
            pairs = self.pair_update(pairs, scores[:, :, 1:, 1:], is_pair)
        mixed = packing.pack(mixed)
        tokens = self.attention_norm(tokens + self.drop(self.out(mixed), packing))
        inner = self.activation_dropout(F.gelu(self.up(tokens)))
        return self.ffn_norm(tokens + self.drop(self.down(inner), packing)), pairs

    def scores(self, qkv: Float[Tensor, "b t qkv"]) -> Float[Tensor, "b h t t"]:
        """Attention scores q k^T / sqrt(d / h) of every head, without their bias."""
        b, t, _ = qkv.shape
        q, k, _ = qkv.view(b, t, 3, self.n_heads, -1).permute(2, 0, 3, 1, 4)
        return (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)

    def mix(
        self, logits: Float[Tensor, "b h t t"], qkv: Float[Tensor, "b t qkv"]
    ) -> Float[Tensor, "b t d"]:
        """softmax(logits) v, per head."""
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
            # On a CPU torch has no fused kernel for a bias that learns or for dropout, and the one
            # that it has for inference takes longer than this.
            logits = torch.add(bias, q @ k.transpose(-1, -2), alpha=q.shape[-1] ** -0.5)
            mixed = dropout(softmax(logits), rate) @ v
        return mixed.transpose(1, 2).flatten(2)

    def drop(self, branch: Float[Tensor, "m d"], packing: Packing) -> Float[Tensor, "m d"]:
        """Ordinary dropout and stochastic depth."""
        branch = self.dropout(branch)
        if not self.training or self.depth_rate == 0:
            return branch
        n_molecules, n_tokens = packing.is_real.shape
        n, group = (n_tokens, packing.column) if self.drops_tokens else (n_molecules, packing.row)
        kept = torch.rand(n, device=branch.device) >= self.depth_rate
        return branch * (kept / (1 - self.depth_rate))[group, None]


@torch.no_grad()
def initialise(module: nn.Module, std: float = 0.02) -> None:
    """Start every weight at N(0, std), biases and "not shown" rows at 0, LayerNorm at 1 and 0.

    This is the published start (its `apply_init`), Gaussian kernels included.
    """
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            if isinstance(part, nn.LayerNorm):
                parameter.fill_(1.0 if name == "weight" else 0.0)
            elif isinstance(part, nn.Linear) and name == "bias":
                parameter.zero_()
            else:
                parameter.normal_(0.0, std)
                if isinstance(part, nn.Embedding) and part.padding_idx is not None:
                    parameter[part.padding_idx].zero_()
