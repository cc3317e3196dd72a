"""Further targets of the molecule's vector: fingerprint bits and measured labels."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from moleblend.errors import SettingError
from moleblend.model.batch import Batch
from moleblend.model.encoder import initialise
from moleblend.model.objectives.loss import LossTerm


class MoleculeTargets(nn.Module):
    """Heads that predict fingerprint bits and labels from the molecule's vector.

    Each is linear, GELU, linear. Bits and binary labels cost their cross entropy; other labels are
    standardised and cost their Huber loss. Unknown labels (NaN) cost nothing.

    Args:
        width: channels of the molecule's vector.
        n_bits: number of fingerprint bits; 0 for none.
        label_std: standard deviation of each label, 0 for a binary label; empty for no labels.
        label_mean: mean of each label.
        fingerprints: weight of the bits.
        labels: weight of the labels.
    """

    label_mean: Tensor
    label_std: Tensor

    def __init__(
        self,
        width: int,
        *,
        n_bits: int = 0,
        label_mean: Float[Tensor, " t"] | None = None,
        label_std: Float[Tensor, " t"] | None = None,
        fingerprints: float = 1.0,
        labels: float = 1.0,
    ) -> None:
        super().__init__()
        self._fingerprints, self._labels = fingerprints, labels
        self.bits = _head(width, n_bits) if n_bits else None
        self.label_values = None
        if label_mean is not None and label_std is not None and len(label_std):
            self.label_values = _head(width, len(label_std))
            self.register_buffer("label_mean", label_mean)
            self.register_buffer("label_std", label_std)
        initialise(self)

    @property
    def weights(self) -> dict[str, float]:
        """Return the weight of each term."""
        weights = {}
        if self.bits is not None:
            weights["fingerprints"] = self._fingerprints
        if self.label_values is not None:
            weights["labels"] = self._labels
        return weights

    def forward(self, molecule: Float[Tensor, "b d"], batch: Batch) -> dict[str, LossTerm]:
        """Compute the terms from the molecule's vector.

        Raises:
            SettingError: the batch has no fingerprints or labels.
        """
        terms = {}
        with torch.autocast(molecule.device.type, enabled=False):
            molecule = molecule.float()
            if self.bits is not None:
                logits, bits = self.bits(molecule), _required(batch.fingerprints, "fingerprints")
                error = F.binary_cross_entropy_with_logits(logits, bits.float(), reduction="none")
                terms["fingerprints"] = LossTerm.of(error, torch.ones_like(bits).bool())
            if self.label_values is not None:
                terms["labels"] = self._label_term(
                    self.label_values(molecule), _required(batch.labels, "labels")
                )
        return terms

    def scored(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Count the bits and the known labels."""
        scored = {}
        if self.bits is not None:
            bits = _required(batch.fingerprints, "fingerprints")
            scored["fingerprints"] = torch.tensor(float(bits.numel()), device=bits.device)
        if self.label_values is not None:
            scored["labels"] = _required(batch.labels, "labels").isfinite().sum().float()
        return scored

    def _label_term(
        self, predicted: Float[Tensor, "b t"], labels: Float[Tensor, "b t"]
    ) -> LossTerm:
        is_known = labels.isfinite()
        known = torch.where(is_known, labels, 0)  # NaN times 0 is NaN, also in the gradient
        is_binary: Bool[Tensor, " t"] = self.label_std == 0
        classes = F.binary_cross_entropy_with_logits(predicted, known.clamp(0, 1), reduction="none")
        scaled = (known - self.label_mean) / torch.where(is_binary, 1, self.label_std)
        values = F.huber_loss(predicted, scaled, reduction="none")
        return LossTerm.of(torch.where(is_binary, classes, values), is_known)


def _head(width: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, n_out))


def _required(values: Tensor | None, name: str) -> Tensor:
    if values is None:
        raise SettingError(f"the objective predicts {name}, but `Batch.{name}` is None")
    return values
