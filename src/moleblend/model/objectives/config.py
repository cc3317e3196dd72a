"""Configuration of the pretraining objectives."""

from dataclasses import dataclass, field
from typing import Literal

from moleblend.config import check_fields, check_finite
from moleblend.errors import SettingError
from moleblend.model.heads import HeadsConfig

ObjectiveName = Literal[
    "blend_then_predict",
    "masked_view",
    "cross_view",
    "view_3d_from_2d",
    "denoising",
    "transformer_m",
    "contrast",
]


@dataclass(frozen=True)
class MaskedViewConfig:
    """Settings of `masked_view`.

    Attributes:
        view: the only view that is shown and predicted.
        fraction: fraction of the pairs that hide it.
    """

    view: Literal["path_length", "edge_path", "distance"] = "path_length"
    fraction: float = 0.15

    def __post_init__(self) -> None:
        """Check the values."""
        check_fields(self)
        if not 0 < self.fraction <= 1:
            raise SettingError(f"got fraction={self.fraction}, expected a number in (0, 1]")


@dataclass(frozen=True)
class ContrastConfig:
    """Settings of `contrast`.

    Attributes:
        temperature: of the similarities.
        width: channels of the projected vectors.
        weight: weight of the contrastive loss.
        reconstruction: weight of the error of one view's vector predicted from the other's.
    """

    temperature: float = 0.1
    width: int = 128
    weight: float = 1.0
    reconstruction: float = 0.0

    def __post_init__(self) -> None:
        """Check the values."""
        check_fields(self)
        if self.temperature <= 0 or self.width < 1:
            raise SettingError(
                f"got temperature={self.temperature} and width={self.width}, expected positive "
                "numbers"
            )


@dataclass(frozen=True)
class ObjectiveConfig:
    """The objectives of a run, the weights of their losses, and their settings.

    The defaults are ours; `ObjectiveConfig.published()` are the paper's. A loss of weight 0 is not
    computed.

    Attributes:
        names: the objectives; the loss is their sum. See `objectives.OBJECTIVES`.
        path_length: weight of the cross entropy of path lengths.
        bonds: weight of the cross entropy of the bonds along the paths.
        geometry: weight of the distance error in Å, or of 1 - cos of the direction.
        denoising: weight of the noise error.
        descriptors: weight of the error of the molecule's descriptors, in standard deviations, if
            the heads predict them.
        atom_features: weight of the cross entropy of masked atom features, if the heads predict
            them.
        fingerprints: weight of the cross entropy of the fingerprint bits of the molecule, which are
            predicted from its vector.
        labels: weight of the loss of the measured labels of the molecule, which are predicted from
            its vector.
        noise_error: `squared`, in units of the noise's variance, so that predicting 0 costs 1; or
            `cosine`, which ignores the length (published).
        noise_3d: standard deviation of the noise of `denoising`, in Å.
        masked_view: settings of the objective of this name.
        contrast: settings of the objective of this name.
    """

    names: tuple[ObjectiveName, ...] = ("blend_then_predict",)
    path_length: float = 1.0
    bonds: float = 1.0
    geometry: float = 1.0
    denoising: float = 0.5
    descriptors: float = 1.0
    atom_features: float = 1.0
    fingerprints: float = 0.0
    labels: float = 0.0
    noise_error: Literal["squared", "cosine"] = "squared"
    noise_3d: float = 0.04
    masked_view: MaskedViewConfig = field(default_factory=MaskedViewConfig)
    contrast: ContrastConfig = field(default_factory=ContrastConfig)

    def __post_init__(self) -> None:
        """Refuse negative weights, and objectives that are missing or given twice."""
        check_fields(self)
        weights = (
            *(self.path_length, self.bonds, self.geometry, self.denoising, self.descriptors),
            *(self.atom_features, self.fingerprints, self.labels),
        )
        if min(weights) < 0:
            raise SettingError(f"got {self}, expected weights of at least 0")
        if not self.names or len(set(self.names)) < len(self.names):
            raise SettingError(f"got names={self.names}, expected different objectives")
        if self.noise_3d <= 0:
            raise SettingError(f"got noise_3d={self.noise_3d}, expected a standard deviation in Å")
        check_finite(self)

    @classmethod
    def published(cls) -> "ObjectiveConfig":
        """The reference configuration."""
        return cls(path_length=0.1, bonds=0.1, geometry=0.5, denoising=6.0, noise_error="cosine")

    def view_weights(self, heads: HeadsConfig) -> dict[str, float]:
        """Return the positive weights of the terms that the heads predict, by term."""
        weights = {
            "path_length": self.path_length,
            "bonds": self.bonds,
            heads.geometry: self.geometry,
            "denoising": self.denoising,
        }
        if heads.descriptors:
            weights["descriptors"] = self.descriptors
        if heads.atom_features:
            weights["atom_features"] = self.atom_features
        return {term: weight for term, weight in weights.items() if weight > 0}
