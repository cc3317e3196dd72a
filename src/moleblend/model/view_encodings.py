"""Encodings of the views: atom features, path lengths, bonds along paths, and distances.

Each encoding of a pair has one channel per attention head, and further channels that pair states
start from, if the encoder has them.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from moleblend.chem.molecule import ATOM_FEATURE_SIZES, BOND_FEATURE_SIZES
from moleblend.model.batch import Batch
from moleblend.model.blending import Blend
from moleblend.model.functional import Gaussians, pair_vectors
from moleblend.model.relations import N_BOND_KINDS, N_HOPS, UNREACHABLE


class AtomEmbedding(nn.Module):
    """Sum of nine feature embeddings, plus the degree embedding where it is shown."""

    starts: Tensor

    def __init__(
        self, width: int, *, most_bonds: int, n_degree_tables: int, masks_features: bool
    ) -> None:
        super().__init__()
        self.most_bonds = most_bonds
        self.features = nn.Embedding(sum(ATOM_FEATURE_SIZES), width)
        self.degrees = nn.ModuleList(
            nn.Embedding(most_bonds + 1, width) for _ in range(n_degree_tables)
        )
        self.virtual = nn.Parameter(torch.zeros(width))
        if masks_features:
            self.masked = nn.Parameter(torch.zeros(width))
        starts = torch.tensor((0, *ATOM_FEATURE_SIZES[:-1])).cumsum(0)
        self.register_buffer("starts", starts, persistent=False)

    def forward(
        self,
        batch: Batch,
        has_degree: Bool[Tensor, "b n"],
        masked: Bool[Tensor, "b n"] | None = None,
    ) -> tuple[Float[Tensor, "b 1 d"], Float[Tensor, "b n d"]]:
        """Embed the virtual node and the atoms."""
        b, n, _ = batch.atoms.shape
        rows = (batch.atoms + self.starts).flatten(0, 1)
        atoms = F.embedding_bag(rows, self.features.weight, mode="sum").view(b, n, -1)
        for table in self.degrees:
            degree = table(batch.degree.clamp(max=self.most_bonds))
            atoms = atoms + degree * has_degree[..., None]
        if masked is not None:
            # All features but the element are hidden, and the degree with them.
            element = self.features(batch.atoms[..., 0]) + self.masked
            atoms = torch.where(masked[..., None], element, atoms)
        return self.virtual.expand(b, 1, -1), atoms


class PathLengthBias(nn.Module):
    """b_ij = table[path length]: one number per channel, 0 where the view is not shown."""

    def __init__(self, n_channels: int, longest_path: int) -> None:
        super().__init__()
        self.longest_path = longest_path
        # Row 0 is "not shown", then lengths 0 to longest_path, then unreachable.
        self.table = nn.Embedding(longest_path + 3, n_channels, padding_idx=0)

    def forward(self, batch: Batch, is_shown: Bool[Tensor, "b n n"]) -> Float[Tensor, "b n n h"]:
        """Look up the bias of each path length."""
        length = batch.path_length.int()
        row = torch.where(
            length == UNREACHABLE, self.longest_path + 1, length.clamp(max=self.longest_path)
        )
        return self.table(torch.where(is_shown, row + 1, 0))


class EdgePathBias(nn.Module):
    """b_ij = (sum over hops h of m_ijh W_h) / path length.

    m is the mean of the bond's three embeddings. There are only 60 kinds of bonds, so m W_h is
    computed once per kind and hop, and looked up.
    """

    def __init__(self, n_channels: int) -> None:
        super().__init__()
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
        # Where there is no path the sum is 0, and is divided by 1.
        return total / batch.path_length.int().clamp(1, n_hops)[..., None]


class GaussianKernels(nn.Module):
    """K Gaussians of a distance that is first scaled and shifted per pair of elements.

    v = (a_i + a'_j) r + (c_i + c'_j), g_k = exp(-((v - mu_k) / s_k)^2 / 2) / (sqrt(2 pi) s_k).
    """

    def __init__(self, n_kernels: int) -> None:
        super().__init__()
        n_elements = ATOM_FEATURE_SIZES[0]
        self.centres = nn.Parameter(torch.zeros(n_kernels))
        self.widths = nn.Parameter(torch.zeros(n_kernels))
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
        """Place the centres evenly over 0 to `longest` Å; the widths equal their spacing."""
        n_kernels = len(self.centres)
        self.centres.copy_(torch.linspace(0, longest, n_kernels))
        self.widths.fill_(longest / max(n_kernels - 1, 1))
        self.scale.fill_(0.5)  # two halves: v is the distance in Å
        self.shift.zero_()
