"""Heads of pairs: path length, bonds, geometry and noise from the encoded atoms."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from moleblend.config import check_at_least, check_fields, check_finite, check_rates
from moleblend.errors import SettingError
from moleblend.model.batch import Batch
from moleblend.model.blending import Blend
from moleblend.model.encoder import Encoded, initialise
from moleblend.model.encoder_config import EncoderConfig
from moleblend.model.functional import Dropout, pair_vectors, softmax
from moleblend.model.pair_states import PairReader
from moleblend.model.relations import N_HOPS


@dataclass(frozen=True)
class HeadsConfig:
    """Settings of the pretraining heads.

    The defaults are ours; `HeadsConfig.published()` are the paper's.

    Attributes:
        pairs: input of the heads of a pair: its two `atoms` (published), or also its state, see
            `pair_states`; the encoder then needs a `pair_width`.
        hidden: width of the hidden vector of a pair, if its state is read.
        rank: width of the row and column vectors whose outer product represents a pair.
        n_path_classes: number of path length classes; the last one is "this long or longer".
        bond_vocabulary: number of bond types, stereos and conjugations that are distinguished. The
            published vocabulary has no dative bonds, which are then not scored, and no stereo other
            than Z and E.
        geometry: the predicted quantity of a pair in 3D: its `distance` in Å, or its `direction`
            in the coordinate system of the file (published).
        denoising: the noise is predicted with one projection for all axes (`equivariant`), or with
            one `per_axis` (published).
        denoising_dropout: rate on the attention weights of the denoising head.
        atom_features: also predict the features that masked atoms hide; not published.
        descriptors: also predict `descriptors.compute_descriptors` from the molecule's vector, the
            only head that reads this vector; not published.
    """

    pairs: Literal["atoms", "states"] = "atoms"
    hidden: int = 64
    rank: int = 32
    n_path_classes: int = 11
    bond_vocabulary: tuple[int, int, int] = (5, 6, 2)
    geometry: Literal["distance", "direction"] = "distance"
    denoising: Literal["equivariant", "per_axis"] = "equivariant"
    denoising_dropout: float = 0.1
    atom_features: bool = False
    descriptors: bool = False

    def __post_init__(self) -> None:
        """Refuse sizes below 1 and rates outside [0, 1)."""
        check_fields(self)
        check_at_least(self, 1, "hidden", "rank", "n_path_classes")
        check_rates(self, "denoising_dropout")
        if min(self.bond_vocabulary) < 1:
            raise SettingError(
                f"got bond_vocabulary={self.bond_vocabulary}, expected numbers of at least 1"
            )
        check_finite(self)

    @classmethod
    def published(cls) -> "HeadsConfig":
        """The reference configuration."""
        return cls(bond_vocabulary=(4, 3, 2), geometry="direction", denoising="per_axis")

    @property
    def n_bond_classes(self) -> int:
        """Return the number of bond classes of one hop."""
        types, stereos, conjugated = self.bond_vocabulary
        return types * stereos * conjugated


@dataclass(frozen=True, eq=False)
class ViewPredictions:
    """Predictions of all views of all pairs.

    Attributes:
        path_length: logits; class c is a path of c + 1 bonds; the last class includes longer paths.
        bonds: logits for each of the first k bonds of the path.
        geometry: distance in Å (x = 1) or direction (x = 3).
        noise: the predicted noise in Å, or its direction only; None if no molecule has a geometry.
        descriptors: of the molecule, scaled; None if the model does not predict them.
        atom_features: logits of every atom feature but the element, one block after the other
            (`ATOM_FEATURE_SIZES`); None if the model does not predict them.
    """

    path_length: Float[Tensor, "b n n p"]
    bonds: Float[Tensor, "b n n k e"]
    geometry: Float[Tensor, "b n n x"]
    noise: Float[Tensor, "b n 3"] | None
    descriptors: Float[Tensor, "b f"] | None = None
    atom_features: Float[Tensor, "b n a"] | None = None


class PairHeads(nn.Module):
    """The four pretraining heads: path length, bonds, geometry and noise."""

    def __init__(self, encoder: EncoderConfig, heads: HeadsConfig) -> None:
        super().__init__()
        width = encoder.width
        self.readers = None
        if heads.pairs == "states":
            self.readers = PairReaders(encoder, heads)
        else:
            n_bonds = N_HOPS * heads.n_bond_classes
            self.path_length = OuterProduct(width, heads.rank, heads.n_path_classes)
            self.bonds = OuterProduct(width, heads.rank, n_bonds)
            is_distance = heads.geometry == "distance"
            self.geometry = (Distance if is_distance else Direction)(width, heads.rank)
        self.noise = Denoising(encoder, heads)
        initialise(self)

    def forward(self, batch: Batch, blend: Blend, encoded: Encoded) -> ViewPredictions:
        """Predict all views from the encoded atoms, and from the pair states if there are any."""
        atoms = encoded.atoms
        has_geometry = bool(batch.has_positions.any())
        if self.readers is not None:
            symmetric, ordered = self.readers(encoded)
            return ViewPredictions(
                path_length=self.readers.path_length(symmetric),
                bonds=self.readers.bonds(ordered).unflatten(-1, (N_HOPS, -1)),
                geometry=self.readers.distances(symmetric),
                noise=self.noise(batch, blend, encoded) if has_geometry else None,
            )
        return ViewPredictions(
            path_length=self.path_length(atoms),
            bonds=self.bonds(atoms).unflatten(-1, (N_HOPS, -1)),
            geometry=self.geometry(atoms),
            noise=self.noise(batch, blend, encoded) if has_geometry else None,
        )


class PairReaders(nn.Module):
    """Path length, bonds and distance of a pair, predicted from its atoms and its state."""

    def __init__(self, encoder: EncoderConfig, heads: HeadsConfig) -> None:
        super().__init__()
        width, pair_width = encoder.width, encoder.pair_width
        self.symmetric = PairReader(width, pair_width, heads.hidden, is_symmetric=True)
        self.ordered = PairReader(width, pair_width, heads.hidden, is_symmetric=False)
        self.path_length = nn.Linear(heads.hidden, heads.n_path_classes)
        self.distance = nn.Linear(heads.hidden, 1)
        self.bonds = nn.Linear(heads.hidden, N_HOPS * heads.n_bond_classes)

    def forward(
        self, encoded: Encoded
    ) -> tuple[Float[Tensor, "b n n k"], Float[Tensor, "b n n k"]]:
        """Compute the hidden vectors of pairs, symmetric in i and j, and ordered."""
        assert encoded.pairs is not None
        return (
            self.symmetric(encoded.atoms, encoded.pairs),
            self.ordered(encoded.atoms, encoded.pairs),
        )

    def distances(self, symmetric: Float[Tensor, "b n n k"]) -> Float[Tensor, "b n n 1"]:
        """Predict the distance in Å, never negative, and 0 of an atom to itself."""
        # Softplus of 3 is about 3 Å, a usual distance, so that training starts near one.
        distance = F.softplus(self.distance(symmetric) + 3.0)
        n = distance.shape[1]
        return distance * ~torch.eye(n, dtype=torch.bool, device=distance.device)[..., None]


class OuterProduct(nn.Module):
    """Logits of a pair: a linear map of the outer product of two vectors, one of i and one of j.

    The map is bilinear. It is contracted one side at a time, so the outer product is never stored.
    """

    def __init__(self, width: int, rank: int, n_out: int) -> None:
        super().__init__()
        self.row = nn.Linear(width, rank)
        self.row_norm = nn.LayerNorm(rank, eps=1e-12)
        self.column = nn.Linear(width, rank)
        self.column_norm = nn.LayerNorm(rank, eps=1e-12)
        self.linear = nn.Linear(rank * rank, n_out)

    def forward(self, atoms: Float[Tensor, "b n d"]) -> Float[Tensor, "b n n c"]:
        """Compute the logits of every ordered pair of atoms."""
        return self.contract(atoms, self.linear.weight, self.linear.bias)

    def sides(
        self, atoms: Float[Tensor, "b n d"]
    ) -> tuple[Float[Tensor, "b n r"], Float[Tensor, "b n r"]]:
        """Compute the vectors of each atom as the first (row) and second (column) of a pair."""
        rows = self.row_norm(F.gelu(self.row(atoms)))
        return rows, self.column_norm(F.gelu(self.column(atoms)))

    def contract(
        self,
        atoms: Float[Tensor, "b n d"],
        weight: Float[Tensor, "c rr"],
        bias: Float[Tensor, " c"],
    ) -> Float[Tensor, "b n n c"]:
        """logits_ijc = sum over a, e of r_ia w_cae c_je + b_c."""
        rows, columns = self.sides(atoms)
        b, n, rank = rows.shape
        # [b n (a c)]: the column side first, for every j
        half = columns @ weight.view(-1, rank, rank).permute(2, 1, 0).flatten(1)
        # [b n n c]
        half = half.view(b, n, rank, -1).transpose(1, 2).flatten(2)
        return (rows @ half).view(b, n, n, -1) + bias


class Direction(OuterProduct):
    """The published 3D head: 256 hidden channels without activation, then three axes."""

    def __init__(self, width: int, rank: int, hidden: int = 256) -> None:
        super().__init__(width, rank, hidden)
        self.axes = nn.Linear(hidden, 3)

    def forward(self, atoms: Float[Tensor, "b n d"]) -> Float[Tensor, "b n n 3"]:
        """Predict the direction from i to j; the two linear maps are merged into one."""
        weight = self.axes.weight @ self.linear.weight
        bias = self.axes.weight @ self.linear.bias + self.axes.bias
        return self.contract(atoms, weight, bias)


class Distance(OuterProduct):
    """Distance of a pair in Å: symmetric and positive."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__(width, rank, 1)

    def forward(self, atoms: Float[Tensor, "b n d"]) -> Float[Tensor, "b n n 1"]:
        """Predict the distance of i and j."""
        logit = super().forward(atoms)
        # Training starts at softplus(3), about 3 Å, a typical distance.
        return F.softplus((logit + logit.transpose(1, 2)) / 2 + 3.0)


class Denoising(nn.Module):
    """Noise of an atom: a sum of unit vectors to the other atoms, weighted by attention.

    o_ix = sum over heads h and atoms j of a_ijh u_ijx (w_xh . v_jh). With one w for all axes the
    output is equivariant to rotations; the published head has a w and an offset for each axis.

    Reference:
        Zaidi et al., ICLR 2023, arXiv:2206.00133 (denoising as pretraining); Luo et al.,
        arXiv:2210.01765.
    """

    def __init__(self, encoder: EncoderConfig, heads: HeadsConfig) -> None:
        super().__init__()
        width = encoder.width
        self.n_heads = encoder.n_heads
        self.qkv = nn.Linear(width, 3 * width)
        per_axis = heads.denoising == "per_axis"
        self.force = nn.Linear(width, 3 if per_axis else 1, bias=per_axis)
        self.dropout = Dropout(heads.denoising_dropout)

    def forward(self, batch: Batch, blend: Blend, encoded: Encoded) -> Float[Tensor, "b n 3"]:
        """Predict the noise of every atom."""
        b, n, _ = encoded.atoms.shape
        q, k, v = self.qkv(encoded.atoms).view(b, n, 3, self.n_heads, -1).permute(2, 0, 3, 1, 4)
        logits = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5 + encoded.pair_bias[:, :, 1:, 1:]
        weights = self.dropout(softmax(logits))  # [b h n n]
        force = self.force.weight.view(-1, self.n_heads, v.shape[-1])  # [x h c]
        pull = torch.einsum("bhjc,xhc->bhjx", v, force)
        strength = torch.einsum("bhij,bhjx->bijx", weights, pull)
        noise = (strength * unit_vectors(batch.positions + blend.noise)).sum(2)
        return noise if self.force.bias is None else noise + self.force.bias


def unit_vectors(positions: Float[Tensor, "b n 3"]) -> Float[Tensor, "b n n 3"]:
    """(p_j - p_i) / (|p_j - p_i| + 1e-5)."""
    vectors = pair_vectors(positions)
    return vectors / (vectors.norm(dim=-1, keepdim=True) + 1e-5)
