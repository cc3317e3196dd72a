"""Growth: copy the weights of an encoder into one that also has pair states or masked features."""

import torch

from moleblend.model.encoder import Encoder, Layer

GROWING = ("pair_width", "masks_features")
"""Fields of `EncoderConfig` that may be 0 or false in the source and are not in the target."""


@torch.no_grad()
def copy_encoder(source: Encoder, target: Encoder) -> None:
    """Copy the weights, so that the target computes what the source computes.

    The additional channels of a target with pair states keep their initial weights. The attention
    bias that the target reads from its pair states starts at 0, and so do the weights from the
    additional channels to the attention bias.

    Args:
        source: a trained encoder.
        target: an encoder of the same configuration except for `GROWING`, dropout and limits.

    Raises:
        KeyError: the source has a weight that the target does not have.
    """
    n_heads, weights = source.config.n_heads, target.state_dict()
    for name, value in source.state_dict().items():
        wanted = weights[name]
        if wanted.shape == value.shape:
            wanted.copy_(value)
        else:  # one channel per attention head, then those of the pair states
            wanted[tuple(slice(size) for size in value.shape)] = value
    if target.config.pair_width and not source.config.pair_width:
        target.edge_path_bias.hops[:, n_heads:, :n_heads] = 0
        for layer in target.layers:
            if isinstance(layer, Layer) and layer.pair_update is not None:
                layer.pair_update.bias.weight.zero_()
