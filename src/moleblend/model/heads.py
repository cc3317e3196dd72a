"""What is read off the encoded atoms: relations, noise, properties.

A model is an encoder and its heads.
"""

from dataclasses import dataclass, field, replace
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from moleblend.chem.molecule import ATOM_FEATURE_SIZES, N_DESCRIPTORS
from moleblend.data.targets import Target
from moleblend.model.batch import Batch
from moleblend.model.blending import Blend
from moleblend.model.encoder import Encoded, Encoder, EncoderConfig, initialise
from moleblend.model.functional import Dropout, pair_vectors, softmax
from moleblend.model.pair_states import PairReader
from moleblend.model.relations import N_HOPS


@dataclass(frozen=True)
class HeadsConfig:
    """The heads of pretraining. The defaults are ours; `HeadsConfig.published()` are the paper's.

    Attributes:
        pairs: what the heads of a pair read: its two `atoms` (published), or its state as well, see
            `pair_states`; the encoder then needs a `pair_width`.
        hidden: width of the hidden vector of a pair, where its state is read.
        rank: width of the row and column vectors whose outer product describes a pair.
        n_path_classes: path lengths told apart, the last one is "this long or longer".
        bond_vocabulary: bond types, stereos and conjugations told apart. The published one knows no
            dative bonds, which are then not scored, and no stereo beyond Z and E.
        geometry: what is predicted of a pair in 3D: its `distance` in Å, or its `direction` in the
            frame of the file (published).
        denoising: the noise is read off through one projection for all axes (`equivariant`) or
            through one `per_axis` (published).
        denoising_dropout: on the attention weights of the denoising head.
        atom_features: predict the features of atoms that hide them; not published.
        descriptors: predict `descriptors.compute_descriptors` from the molecule's vector, which no
            other head reads; not published.
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

    @classmethod
    def published(cls) -> "HeadsConfig":
        """The reference configuration."""
        return cls(bond_vocabulary=(4, 3, 2), geometry="direction", denoising="per_axis")

    @property
    def n_bond_classes(self) -> int:
        """Number of bond classes of one hop."""
        types, stereos, conjugated = self.bond_vocabulary
        return types * stereos * conjugated


_FARTHEST = 8.0
"""Standard deviations from the mean to which a descriptor is cut."""

Readout = Literal["mean", "layers", "cls"]


@dataclass(frozen=True)
class ModelConfig:
    """Everything needed to build a model.

    Attributes:
        encoder: sizes and choices of the encoder.
        heads: the pretraining heads; None for a model without them.
        targets: the predicted properties; none before fine-tuning.
        head_dropout: before the last layer of the property head.
        readout: a molecule's vector is the `mean` over its atoms, which pretraining has shaped; the
            mean over its atoms and all `layers`, since the last ones are made for relations of
            pairs; or the virtual node's (`cls`, published), which no published loss reads.
        features: what of `descriptors.FEATURES` is joined to the molecule's vector in the property
            head.
        n_features: how many numbers these are.
    """

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    heads: HeadsConfig | None = field(default_factory=HeadsConfig)
    targets: tuple[Target, ...] = ()
    head_dropout: float = 0.0
    readout: Readout = "mean"
    features: tuple[str, ...] = ()
    n_features: int = 0

    def __post_init__(self) -> None:
        """Refuse heads that read what the encoder does not have."""
        if self.heads and self.heads.pairs == "states":
            if not self.encoder.pair_width:
                raise ValueError("heads that read pair states need an encoder with a pair_width")
            if self.heads.geometry != "distance":
                raise ValueError("heads that read pair states predict distances, not directions")
        if self.heads and self.heads.atom_features and not self.encoder.masks_features:
            raise ValueError("heads that predict atom features need an encoder that masks_features")


@dataclass(frozen=True, eq=False)
class ViewPredictions:
    """Predictions of all views of all pairs.

    Attributes:
        path_length: logits; class c is a path of c + 1 bonds, the last class this long or longer.
        bonds: logits for each of the first k bonds of the path.
        geometry: distance in Å (x = 1) or direction (x = 3).
        noise: the predicted noise in Å, or its direction only; None where no geometry is shown.
        descriptors: of the molecule, scaled; None where the model does not predict them.
        atom_features: logits of every feature of an atom but its element, one block after the other
            (`ATOM_FEATURE_SIZES`); None where the model does not predict them.
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
        describes = config.heads is not None and config.heads.descriptors
        self.descriptor_head = DescriptorHead(config.encoder.width) if describes else None
        asks_atoms = config.heads is not None and config.heads.atom_features
        self.atom_head = AtomFeatureHead(config.encoder.width) if asks_atoms else None
        self.property_head = PropertyHead(config) if config.targets else None

    def forward(
        self, batch: Batch, blend: Blend, features: Float[Tensor, "b f"] | None = None
    ) -> Float[Tensor, "b o"]:
        """Predict the targets: scaled values for regression, logits for classes.

        Args:
            batch: the molecules.
            blend: what is shown of them.
            features: of the molecules, if the model takes some.

        Raises:
            ValueError: the model has no targets.
        """
        if self.property_head is None:
            raise ValueError("this model has no targets: it was pretrained, but not fine-tuned")
        return self.property_head(self.embed(batch, blend), features)

    def embed(self, batch: Batch, blend: Blend) -> Float[Tensor, "b d"]:
        """Give one vector per molecule, from which properties are read."""
        return self.read_out(batch.is_atom, self.encoder(batch, blend))

    def read_out(self, is_atom: Bool[Tensor, "b n"], encoded: Encoded) -> Float[Tensor, "b d"]:
        """Take one vector per molecule from what the encoder gave."""
        if self.config.readout == "cls":
            return encoded.molecule
        atoms = encoded.all_layers if self.config.readout == "layers" else encoded.atoms
        return (atoms * is_atom[..., None]).sum(1) / is_atom.sum(1, keepdim=True)

    def predict_views(self, batch: Batch, blend: Blend) -> ViewPredictions:
        """Predict all views of all pairs from what the blend shows.

        Raises:
            ValueError: the model has no pretraining heads.
        """
        encoded = self.encoder(batch, blend)
        views = self.views_heads()(batch, blend, encoded)
        if self.atom_head is not None:
            views = replace(views, atom_features=self.atom_head(encoded.atoms))
        if self.descriptor_head is None:
            return views
        vectors = self.read_out(batch.is_atom, encoded)
        return replace(views, descriptors=self.descriptor_head(vectors))

    def views_heads(self) -> "PairHeads":
        """Give the heads that predict views.

        Raises:
            ValueError: the model has no pretraining heads.
        """
        if self.pair_heads is None:
            raise ValueError("this model has no pretraining heads")
        return self.pair_heads


class PairHeads(nn.Module):
    """The four pretraining heads."""

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
        """Read all views off the atoms, and off the pairs where they have states."""
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
    """Path length, bonds and distance of a pair, read from its atoms and its state."""

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
        """Give the hidden vectors of pairs: equal for (i, j) and (j, i), and of ordered pairs."""
        assert encoded.pairs is not None
        return (
            self.symmetric(encoded.atoms, encoded.pairs),
            self.ordered(encoded.atoms, encoded.pairs),
        )

    def distances(self, symmetric: Float[Tensor, "b n n k"]) -> Float[Tensor, "b n n 1"]:
        """Distance in Å, never negative; 0 of an atom to itself."""
        # Softplus of 3 is about 3 Å, a usual distance, so that training starts near one.
        distance = F.softplus(self.distance(symmetric) + 3.0)
        n = distance.shape[1]
        return distance * ~torch.eye(n, dtype=torch.bool, device=distance.device)[..., None]


class OuterProduct(nn.Module):
    """Logits of a pair: a linear map of the outer product of two vectors, one of i and one of j.

    The product is bilinear, so it is contracted one side at a time and never stands in memory.
    """

    def __init__(self, width: int, rank: int, n_out: int) -> None:
        super().__init__()
        self.row = nn.Linear(width, rank)
        self.row_norm = nn.LayerNorm(rank, eps=1e-12)
        self.column = nn.Linear(width, rank)
        self.column_norm = nn.LayerNorm(rank, eps=1e-12)
        self.linear = nn.Linear(rank * rank, n_out)

    def forward(self, atoms: Float[Tensor, "b n d"]) -> Float[Tensor, "b n n c"]:
        """Describe every ordered pair of atoms."""
        return self.contract(atoms, self.linear.weight, self.linear.bias)

    def sides(
        self, atoms: Float[Tensor, "b n d"]
    ) -> tuple[Float[Tensor, "b n r"], Float[Tensor, "b n r"]]:
        """Give what an atom is as the first of a pair, and as the second."""
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
        """Predict the direction from i to j; two linear maps in a row are one."""
        weight = self.axes.weight @ self.linear.weight
        bias = self.axes.weight @ self.linear.bias + self.axes.bias
        return self.contract(atoms, weight, bias)


class Distance(OuterProduct):
    """Distance of a pair in Å, the same for (i, j) and (j, i), never negative."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__(width, rank, 1)

    def forward(self, atoms: Float[Tensor, "b n d"]) -> Float[Tensor, "b n n 1"]:
        """Predict the distance of i and j."""
        logit = super().forward(atoms)
        # Softplus of 3 is about 3 Å, a usual distance, so that training starts near one.
        return F.softplus((logit + logit.transpose(1, 2)) / 2 + 3.0)


class Denoising(nn.Module):
    """The noise of an atom as a sum of unit vectors to the others, weighted by one more attention.

    o_ix = sum over heads h and atoms j of a_ijh u_ijx (w_xh . v_jh). With one w for all axes the
    output turns with the molecule; the published head has a w and an offset for each axis.

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
    """Descriptors by the mean and the spread of molecules like those trained on."""

    mean: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(N_DESCRIPTORS))
        self.register_buffer("scale", torch.ones(N_DESCRIPTORS))

    def scaled(self, described: Float[Tensor, "b f"]) -> Float[Tensor, "b f"]:
        """Scale what is to be predicted; the few molecules far out are moved nearer."""
        return ((described - self.mean) / self.scale).clamp(-_FARTHEST, _FARTHEST)

    @property
    def is_fitted(self) -> bool:
        """Whether mean and scale have been set."""
        return bool(self.mean.any())

    @torch.no_grad()
    def fit(self, described: Float[Tensor, "m f"]) -> None:
        """Set mean and scale by the descriptors of some molecules; what never differs keeps 1."""
        is_known = described.isfinite()
        n_known = is_known.sum(0).clamp(min=1)
        known = torch.where(is_known, described, 0).double()
        mean = known.sum(0) / n_known
        spread = (torch.where(is_known, known - mean, 0).square().sum(0) / n_known).sqrt()
        self.mean.copy_(mean)
        self.scale.copy_(torch.where(spread > 1e-6, spread, 1.0))


class DescriptorHead(DescriptorScaler):
    """Linear, GELU, Linear on the molecule's vector: its descriptors, scaled.

    The scaling is to be settled before training.
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
    """Linear, GELU, Linear on an atom's vector: logits of its features but the element."""

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
        self.dropout = nn.Dropout(config.head_dropout)
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
            # Unlike molecules have features far out, which a head trained near 0 cannot judge.
            known = ((features - self.feature_mean) / self.feature_scale).clamp(-5, 5)
            molecule = torch.cat([molecule, known], 1)
        return self.out(self.dropout(F.gelu(self.hidden(molecule))))
