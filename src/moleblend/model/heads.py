"""Heads: predictions of relations, noise and properties from the encoded atoms.

A `Model` is an encoder and its heads.

The file is longer than others because it holds every head that reads the encoder.
"""

from dataclasses import dataclass, field, replace
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from moleblend.chem.descriptors import FEATURES
from moleblend.chem.molecule import ATOM_FEATURE_SIZES, N_DESCRIPTORS
from moleblend.config import check_at_least, check_fields, check_finite, check_rates
from moleblend.data.targets import Target
from moleblend.errors import SettingError
from moleblend.model.batch import Batch
from moleblend.model.blending import Blend
from moleblend.model.encoder import Encoded, Encoder, EncoderConfig, initialise
from moleblend.model.functional import BernoulliDropout, Dropout, pair_vectors, softmax
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


_FARTHEST = 8.0
"""Descriptors are clipped to this number of standard deviations from the mean."""

Readout = Literal["mean", "layers", "cls"]


@dataclass(frozen=True)
class ModelConfig:
    """Configuration of a model.

    Attributes:
        encoder: sizes and settings of the encoder.
        heads: the pretraining heads; None for a model without them.
        targets: the predicted properties; none before fine-tuning.
        head_dropout: rate before the last layer of the property head.
        readout: the molecule's vector: the `mean` over its atoms, which pretraining trains; the
            mean over its atoms and all `layers`, because the last layers are specialised on
            relations of pairs; or the virtual node's vector (`cls`, published), which no published
            loss trains.
        features: kinds of `descriptors.FEATURES` that the property head reads in addition to the
            molecule's vector.
        n_features: number of these features.
    """

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    heads: HeadsConfig | None = field(default_factory=HeadsConfig)
    targets: tuple[Target, ...] = ()
    head_dropout: float = 0.0
    readout: Readout = "mean"
    features: tuple[str, ...] = ()
    n_features: int = 0

    def __post_init__(self) -> None:
        """Refuse heads that read what the encoder does not have, and features without numbers."""
        check_fields(self)
        check_rates(self, "head_dropout")
        if set(self.features) - set(FEATURES) or self.n_features < 0:
            raise SettingError(
                f"got features={self.features} and n_features={self.n_features}, expected kinds of "
                f"{', '.join(FEATURES)} and a number of at least 0"
            )
        names = [target.name for target in self.targets]
        if len(set(names)) != len(names):
            raise SettingError(f"got targets={names}, expected different names")
        if self.heads and self.heads.pairs == "states":
            if not self.encoder.pair_width:
                raise SettingError("heads that read pair states need an encoder with a pair_width")
            if self.heads.geometry != "distance":
                raise SettingError("heads that read pair states predict distances, not directions")
        if self.heads and self.heads.atom_features and not self.encoder.masks_features:
            raise SettingError(
                "heads that predict atom features need an encoder that masks_features"
            )
        check_finite(self)


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


class Model(nn.Module):
    """An encoder and its heads."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config.encoder)
        self.pair_heads = PairHeads(config) if config.heads else None
        has_descriptors = config.heads is not None and config.heads.descriptors
        self.descriptor_head = DescriptorHead(config.encoder.width) if has_descriptors else None
        has_atoms = config.heads is not None and config.heads.atom_features
        self.atom_head = AtomFeatureHead(config.encoder.width) if has_atoms else None
        self.property_head = PropertyHead(config) if config.targets else None

    def forward(
        self, batch: Batch, blend: Blend, features: Float[Tensor, "b f"] | None = None
    ) -> Float[Tensor, "b o"]:
        """Predict the targets: scaled values for regression, logits for classes.

        Args:
            batch: the molecules.
            blend: the views that are shown of them.
            features: molecule features, if the model reads some.

        Raises:
            SettingError: the model has no targets.
        """
        if self.property_head is None:
            raise SettingError("the model has no targets: it was pretrained, but not fine-tuned")
        return self.property_head(self.embed(batch, blend), features)

    def embed(self, batch: Batch, blend: Blend) -> Float[Tensor, "b d"]:
        """Compute one vector per molecule, the input of the property head."""
        return self.read_out(batch.is_atom, self.encoder(batch, blend))

    def read_out(self, is_atom: Bool[Tensor, "b n"], encoded: Encoded) -> Float[Tensor, "b d"]:
        """Reduce the output of the encoder to one vector per molecule."""
        if self.config.readout == "cls":
            return encoded.molecule
        atoms = encoded.all_layers if self.config.readout == "layers" else encoded.atoms
        return (atoms * is_atom[..., None]).sum(1) / is_atom.sum(1, keepdim=True)

    def predict_views(self, batch: Batch, blend: Blend) -> ViewPredictions:
        """Predict all views of all pairs from the views that the blend shows.

        Raises:
            SettingError: the model has no pretraining heads.
        """
        encoded = self.encoder(batch, blend)
        views = self.require_pair_heads()(batch, blend, encoded)
        if self.atom_head is not None:
            views = replace(views, atom_features=self.atom_head(encoded.atoms))
        if self.descriptor_head is None:
            return views
        vectors = self.read_out(batch.is_atom, encoded)
        return replace(views, descriptors=self.descriptor_head(vectors))

    def require_pair_heads(self) -> "PairHeads":
        """Return the pretraining heads.

        Raises:
            SettingError: the model has no pretraining heads.
        """
        if self.pair_heads is None:
            raise SettingError("the model has no pretraining heads")
        return self.pair_heads


class PairHeads(nn.Module):
    """The four pretraining heads: path length, bonds, geometry and noise."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        heads, width = config.heads, config.encoder.width
        assert heads is not None
        self.readers = None
        if heads.pairs == "states":
            self.readers = PairReaders(config)
        else:
            n_bonds = N_HOPS * heads.n_bond_classes
            self.path_length = OuterProduct(width, heads.rank, heads.n_path_classes)
            self.bonds = OuterProduct(width, heads.rank, n_bonds)
            is_distance = heads.geometry == "distance"
            self.geometry = (Distance if is_distance else Direction)(width, heads.rank)
        self.noise = Denoising(config)
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

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        heads, width, pair_width = config.heads, config.encoder.width, config.encoder.pair_width
        assert heads is not None
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

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        heads, width = config.heads, config.encoder.width
        assert heads is not None
        self.n_heads = config.encoder.n_heads
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


class DescriptorScaler(nn.Module):
    """Standardises descriptors by the mean and standard deviation of training molecules."""

    mean: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(N_DESCRIPTORS))
        self.register_buffer("scale", torch.ones(N_DESCRIPTORS))

    def scaled(self, descriptors: Float[Tensor, "b f"]) -> Float[Tensor, "b f"]:
        """Standardise descriptors, and clip outliers."""
        return ((descriptors - self.mean) / self.scale).clamp(-_FARTHEST, _FARTHEST)

    @property
    def is_fitted(self) -> bool:
        """Tell whether mean and scale have been set."""
        return bool(self.mean.any())

    @torch.no_grad()
    def fit(self, descriptors: Float[Tensor, "m f"]) -> None:
        """Set mean and scale from the descriptors of molecules; constant ones have scale 1."""
        is_known = descriptors.isfinite()
        n_known = is_known.sum(0).clamp(min=1)
        known = torch.where(is_known, descriptors, 0).double()
        mean = known.sum(0) / n_known
        std = (torch.where(is_known, known - mean, 0).square().sum(0) / n_known).sqrt()
        self.mean.copy_(mean)
        self.scale.copy_(torch.where(std > 1e-6, std, 1.0))


class DescriptorHead(DescriptorScaler):
    """Linear, GELU, Linear on the molecule's vector: its scaled descriptors.

    Call `fit` before training.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, width)
        self.out = nn.Linear(width, N_DESCRIPTORS)
        initialise(self)

    def forward(self, molecule: Float[Tensor, "b d"]) -> Float[Tensor, "b f"]:
        """Predict (descriptor - mean) / scale."""
        return self.out(F.gelu(self.hidden(molecule)))


class AtomFeatureHead(nn.Module):
    """Linear, GELU, Linear on an atom's vector: logits of its features except the element."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, width)
        self.out = nn.Linear(width, sum(ATOM_FEATURE_SIZES[1:]))
        initialise(self)

    def forward(self, atoms: Float[Tensor, "*s d"]) -> Float[Tensor, "*s a"]:
        """Predict the features of atoms."""
        return self.out(F.gelu(self.hidden(atoms)))


class PropertyHead(nn.Module):
    """Linear, GELU, Linear on the molecule's vector (the published head).

    One number per target, or several for several classes: `output_slices` says which.
    """

    feature_mean: Tensor
    feature_scale: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.encoder.width
        self.hidden = nn.Linear(width + config.n_features, width)
        self.dropout = BernoulliDropout(config.head_dropout)
        self.out = nn.Linear(width, sum(target.n_outputs for target in config.targets))
        initialise(self)
        if config.n_features:
            self.register_buffer("feature_mean", torch.zeros(config.n_features))
            self.register_buffer("feature_scale", torch.ones(config.n_features))

    def forward(
        self, molecule: Float[Tensor, "b d"], features: Float[Tensor, "b f"] | None = None
    ) -> Float[Tensor, "b o"]:
        """Predict the targets: scaled values for regression, logits for classes."""
        if features is not None:
            # Features of dissimilar molecules are clipped, because the head is trained near 0.
            scaled = ((features - self.feature_mean) / self.feature_scale).clamp(-5, 5)
            molecule = torch.cat([molecule, scaled], 1)
        return self.out(self.dropout(F.gelu(self.hidden(molecule))))
