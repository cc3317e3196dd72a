"""Sizes and settings of the encoder; without torch, so that commands show their help at once."""

from dataclasses import dataclass
from typing import Literal

from moleblend.chem.molecule import FeatureVersion
from moleblend.config import check_at_least, check_fields, check_finite, check_rates
from moleblend.errors import SettingError


@dataclass(frozen=True)
class EncoderConfig:
    """Sizes and settings of the encoder.

    The defaults are ours; `EncoderConfig.published()` are the paper's.

    Attributes:
        width: channels of an atom's vector (C).
        ffn_width: channels inside the feed-forward network (F).
        n_layers: number of transformer layers (L).
        n_heads: number of attention heads (H); `width` is a multiple of it.
        n_kernels: number of Gaussians that encode a distance (K).
        pair_width: number of channels of the state of each pair of atoms, see `pair_states`; 0 for
            none (published).
        masks_features: atoms may hide all features but the element, see `BlendConfig.masked`.
        longest_path: longer paths have the same encoding as this path length.
        most_bonds: atoms with more bonds have the same encoding as this number of bonds.
        n_degree_tables: number of degree embeddings that are added; the published code has one for
            "in" and one for "out".
        centrality_scale: factor of the 3D centrality.
        dropout: rate on embeddings and on each branch of a layer.
        attention_dropout: rate on attention weights.
        activation_dropout: rate inside the feed-forward network.
        stochastic_depth: rate in the last layer; it grows linearly from 0 in the first layer.
        depth_drops: stochastic depth drops the branch of a `molecule` (default), or of the same
            `token` in all molecules of the batch, in place of ordinary dropout (published code).
        kernel_start: Gaussian centres are initialised evenly over 0 to 10 Å (`spread`), or at
            `random` as all other weights.
        features: version of the atom and bond features.
        max_atoms: prediction refuses molecules with more atoms.
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
        """Refuse sizes that do not fit each other and rates outside [0, 1)."""
        check_fields(self)
        sizes = ("width", "ffn_width", "n_layers", "n_heads", "n_kernels", "n_degree_tables")
        check_at_least(self, 1, *sizes, "longest_path", "most_bonds", "max_atoms")
        if self.width % self.n_heads:
            raise SettingError(
                f"got width={self.width} and n_heads={self.n_heads}, expected width to be a "
                "multiple of n_heads"
            )
        if self.pair_width < 0:
            raise SettingError(f"got pair_width={self.pair_width}, expected 0 or more")
        rates = ("dropout", "attention_dropout", "activation_dropout", "stochastic_depth")
        check_rates(self, *rates)
        check_finite(self)

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
        """Configure the encoder of the published code, by default in the published size."""
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
