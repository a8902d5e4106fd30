"""Attention on a feature map, and pooling, in plain Keras layers: for a head, or to insert into a backbone.

The attention blocks multiply the features by gates. Here a gate is `2 sigmoid(z)` with z = 0 at first,
instead of the papers' `sigmoid(z)`. So a new block changes nothing until it has learned something, and the
pre-trained layers after it get the input that they were trained on. (Gates of one half would halve it.)
"""

from __future__ import annotations

import random

import keras

from regraft.errors import UsageError

__all__ = ["cbam", "pool", "squeeze_excitation"]

_SPATIAL_KERNEL = 7  # positions a side; the best of the paper's sizes


def squeeze_excitation(
    features: keras.KerasTensor, *, name: str = "se", ratio: int = 16, seed: int = 0
) -> keras.KerasTensor:
    """Apply a gate to each channel, from the channels' means (Hu, Shen and Sun 2018, arXiv:1709.01507).

    Args:
        features: feature map, (batch, height, width, channels).
        name: the prefix of its layers' names.
        ratio: channels for each unit of the narrow layer in between.
        seed: the seed of the weights.

    Returns:
        The features times their gates; the shape of `features`.

    Raises:
        UsageError: `features` is not a feature map.

    Example:
        >>> squeeze_excitation(keras.Input((7, 7, 64))).shape
        (None, 7, 7, 64)
    """
    _check_map(features, "squeeze-and-excitation")
    reduce, expand = _make_channel_layers(features.shape[-1], name=name, ratio=ratio, seed=seed)
    mean = keras.layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_squeeze")(features)
    return _apply_gates(features, expand(reduce(mean)), f"{name}_channel")


def cbam(
    features: keras.KerasTensor, *, name: str = "cbam", ratio: int = 16, seed: int = 0
) -> keras.KerasTensor:
    """Apply a gate to each channel, then one to each position (Woo et al. 2018, arXiv:1807.06521).

    The gates of the channels come from their means and maxima, through the same two layers; the gates of the
    positions from the mean and maximum over the channels, through a 7x7 convolution.

    Args:
        features: feature map, (batch, height, width, channels).
        name: the prefix of its layers' names.
        ratio: channels for each unit of the narrow layer in between.
        seed: the seed of the weights.

    Returns:
        The features times their gates; the shape of `features`.

    Raises:
        UsageError: `features` is not a feature map.

    Example:
        >>> cbam(keras.Input((7, 7, 64))).shape
        (None, 7, 7, 64)
    """
    _check_map(features, "CBAM")
    reduce, expand = _make_channel_layers(features.shape[-1], name=name, ratio=ratio, seed=seed)
    mean = keras.layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_mean")(features)
    maximum = keras.layers.GlobalMaxPooling2D(keepdims=True, name=f"{name}_max")(features)
    both = keras.layers.Add(name=f"{name}_channel_sum")([expand(reduce(mean)), expand(reduce(maximum))])
    features = _apply_gates(features, both, f"{name}_channel")
    mean = keras.ops.mean(features, axis=-1, keepdims=True)
    maximum = keras.ops.max(features, axis=-1, keepdims=True)
    positions = keras.layers.Concatenate(name=f"{name}_places")([mean, maximum])
    # A kernel of zeros makes every gate one, and its gradient is not zero.
    convolution = keras.layers.Conv2D(
        1,
        _SPATIAL_KERNEL,
        padding="same",
        use_bias=False,
        kernel_initializer="zeros",
        name=f"{name}_convolution",
    )
    return _apply_gates(features, convolution(positions), f"{name}_place")


def _make_channel_layers(
    channels: int, *, name: str, ratio: int, seed: int
) -> tuple[keras.layers.Layer, keras.layers.Layer]:
    initializer = keras.initializers.HeNormal(seed=random.Random(seed).getrandbits(31))
    units = max(1, channels // ratio)
    reduce = keras.layers.Dense(
        units, activation="relu", kernel_initializer=initializer, name=f"{name}_reduce"
    )
    expand = keras.layers.Dense(channels, kernel_initializer="zeros", name=f"{name}_expand")
    return reduce, expand


def _apply_gates(features: keras.KerasTensor, scores: keras.KerasTensor, name: str) -> keras.KerasTensor:
    gate = keras.layers.Activation("sigmoid", name=f"{name}_sigmoid")(scores)
    gate = keras.layers.Rescaling(2.0, name=f"{name}_gate")(gate)
    return keras.layers.Multiply(name=f"{name}_scaled")([features, gate])


def _check_map(features: keras.KerasTensor, block: str) -> None:
    if len(features.shape) != 4:
        raise UsageError(
            f"{block} needs a feature map of shape (batch, height, width, channels). "
            f"Received: {features.shape}."
        )


_POOLINGS = {  # by the rank of the features and by name
    4: {"avg": keras.layers.GlobalAveragePooling2D, "max": keras.layers.GlobalMaxPooling2D},
    3: {"avg": keras.layers.GlobalAveragePooling1D, "max": keras.layers.GlobalMaxPooling1D},
}
_GEM_START, _GEM_FLOOR = 3.0, 1e-6  # exponent and smallest feature, as in the paper


def pool(x: keras.KerasTensor, pooling: str, name: str) -> keras.KerasTensor:
    """Pool a backbone's output to one vector for each image.

    Args:
        x: feature map (batch, height, width, channels), tokens (batch, tokens, channels), or a vector
            (batch, channels), which stays as it is.
        pooling: "avg", "max", "both" (average and maximum: twice the channels), "gem" (generalised mean, only
            of a feature map) or "attention".
        name: the name of the layer that pools, with which the names of the layers around it begin.

    Raises:
        UsageError: the generalised mean is asked of anything but a feature map.

    Example:
        >>> pool(keras.Input((7, 7, 64)), "both", "pool").shape
        (None, 128)
    """
    rank = len(x.shape)
    if pooling == "gem" and rank != 4:
        raise UsageError(
            "head.pooling: the generalised mean needs a feature map of shape (batch, height, width, "
            f"channels). Received: a backbone that gives {x.shape}."
        )
    if rank == 2:
        return x
    if pooling == "both":
        pair = [pool(x, kind, f"{name}_{kind}") for kind in ("avg", "max")]
        return keras.layers.Concatenate(name=name)(pair)
    if pooling == "gem":
        return _pool_by_generalised_mean(x, name)
    if pooling == "attention":
        return _pool_by_attention(x, name)
    return _POOLINGS[rank][pooling](name=name)(x)


def _pool_by_generalised_mean(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    """Return `mean(x^p)^(1/p)` over the positions, p learned (Radenovic et al. 2018, arXiv:1711.02512).

    Features below the floor are raised to it. p is the kernel of a Dense layer whose input is the number one,
    since Keras has no plain layer that holds a single weight.
    """
    x = keras.layers.ReLU(name=f"{name}_positive")(x)  # a layer whose name marks where the head begins
    one = keras.ops.ones_like(x[:, :1, 0, 0])
    exponent = keras.layers.Dense(
        1, use_bias=False, kernel_initializer=keras.initializers.Constant(_GEM_START), name=f"{name}_p"
    )(one)
    powers = keras.ops.power(keras.ops.maximum(x, _GEM_FLOOR), keras.ops.reshape(exponent, (-1, 1, 1, 1)))
    mean = keras.layers.GlobalAveragePooling2D(name=name)(powers)
    return keras.ops.power(mean, 1.0 / exponent)


def _pool_by_attention(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    """Return the mean over the positions, weighted by a softmax of their scores; at first the plain mean."""
    channels = x.shape[-1]
    positions = keras.layers.Reshape((-1, channels), name=f"{name}_places")(x)
    scores = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros", name=f"{name}_scores")(
        positions
    )
    shares = keras.layers.Softmax(axis=1, name=f"{name}_shares")(scores)
    mean = keras.layers.Dot(axes=(1, 1), name=f"{name}_mean")([shares, positions])
    return keras.layers.Reshape((channels,), name=name)(mean)
