"""Growth: start a model from the weights of another, which may have fewer parts."""

from dataclasses import fields, replace

import torch

from moleblend.errors import ModelFileError
from moleblend.model.encoder import Encoder, Layer
from moleblend.model.encoder_config import EncoderConfig
from moleblend.model.heads import HeadsConfig, Model, ModelConfig

GROWING = ("pair_width", "masks_features")
"""Fields of `EncoderConfig` that may be 0 or false in the source and are not in the target."""


_MAY_CHANGE = {
    "dropout",
    "attention_dropout",
    "activation_dropout",
    "stochastic_depth",
    "depth_drops",
    "kernel_start",
    "max_atoms",
}
"""Fields of `EncoderConfig` that do not change the meaning of the weights."""


def transfer(source: Model, config: ModelConfig) -> Model:
    """Build a model with another configuration from the weights of a trained model.

    Args:
        source: its encoder is copied, and its pretraining heads where both models have the same.
        config: of the new model; its encoder may differ from the source's in dropout and limits,
            and may have pair states or masked features that the source's does not have.

    Returns:
        The new model; its other heads are initialised at random.

    Raises:
        ValueError: the weights would not fit, or would have another meaning; the message names
            each field that must not differ.
    """
    wanted, given = config.encoder, source.config.encoder
    differing = [
        f"got {name}={getattr(given, name)!r}, expected {getattr(wanted, name)!r}"
        for name in (field.name for field in fields(EncoderConfig))
        if name not in _MAY_CHANGE
        and getattr(wanted, name) != getattr(given, name)
        and not (name in GROWING and not getattr(given, name))
    ]
    if differing:
        raise ModelFileError(f"the trained encoder does not fit: {'; '.join(differing)}")
    model = Model(config)
    copy_encoder(source.encoder, model.encoder)
    if _have_the_same_pair_heads(config.heads, source.config.heads):
        _copy(source.pair_heads, model.pair_heads)
    _copy(source.descriptor_head, model.descriptor_head)
    _copy(source.atom_head, model.atom_head)
    return model


def _have_the_same_pair_heads(ours: HeadsConfig | None, theirs: HeadsConfig | None) -> bool:
    if not (ours and theirs):
        return False
    free = {
        name: getattr(ours, name) for name in ("descriptors", "atom_features", "denoising_dropout")
    }
    return ours == replace(theirs, **free)


def _copy(source: torch.nn.Module | None, target: torch.nn.Module | None) -> None:
    if source and target:
        target.load_state_dict(source.state_dict())


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
