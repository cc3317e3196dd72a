"""The model: an encoder and its heads for pairs, atoms and the molecule."""

from dataclasses import dataclass, field, replace
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from moleblend.chem.descriptors import FEATURES
from moleblend.chem.molecule import ATOM_FEATURE_SIZES, N_DESCRIPTORS
from moleblend.config import check_fields, check_finite, check_rates
from moleblend.data.targets import Target
from moleblend.errors import SettingError
from moleblend.model.batch import Batch
from moleblend.model.blending import Blend
from moleblend.model.encoder import Encoded, Encoder, initialise
from moleblend.model.encoder_config import EncoderConfig
from moleblend.model.functional import BernoulliDropout
from moleblend.model.pair_heads import HeadsConfig, PairHeads, ViewPredictions

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


class Model(nn.Module):
    """An encoder and its heads."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config.encoder)
        self.pair_heads = PairHeads(config.encoder, config.heads) if config.heads else None
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
