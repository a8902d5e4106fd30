"""Attention on a feature map, and pooling, in plain Keras pieces: for a head, or to insert into a backbone.

The attention blocks multiply the features by gates. Here a gate is `2 sigmoid(z)` with z = 0 at first, in
place of the papers' `sigmoid(z)`: so a new block changes nothing until it has learned something, and the
pre-trained layers behind it get what they were trained on. (Gates around one half would halve it.)
"""

from __future__ import annotations

import random

import keras

from regraft.errors import UsageError

__all__ = ["cbam", "pool", "squeeze_excitation"]

_SPATIAL_KERNEL = 7  # places a side; the best of those tried in the paper


def squeeze_excitation(
    features: keras.KerasTensor, *, name: str = "se", ratio: int = 16, seed: int = 0
) -> keras.KerasTensor:
    """A gate for each channel, from the channels' means (Hu, Shen and Sun 2018, arXiv:1709.01507).

    Args:
        features: feature map, (batch, height, width, channels).
        name: first part of its layers' names.
        ratio: channels for each unit of the narrow layer in between.
        seed: of the weights.

    Returns:
        The features times their gates; the shape of `features`.

    Raises:
        UsageError: `features` is no feature map.

    Example:
        >>> squeeze_excitation(keras.Input((7, 7, 64))).shape
        (None, 7, 7, 64)
    """
    _check_map(features, "squeeze-and-excitation")
    reduce, expand = _channel_layers(features.shape[-1], name=name, ratio=ratio, seed=seed)
    mean = keras.layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_squeeze")(features)
    return _gated(features, expand(reduce(mean)), f"{name}_channel")


def cbam(
    features: keras.KerasTensor, *, name: str = "cbam", ratio: int = 16, seed: int = 0
) -> keras.KerasTensor:
    """A gate for each channel, then one for each place (Woo et al. 2018, arXiv:1807.06521).

    The channels' gates come from their means and their maxima, through the same two layers; those of the
    places from mean and maximum over the channels, through a 7x7 convolution.

    Args:
        features: feature map, (batch, height, width, channels).
        name: first part of its layers' names.
        ratio: channels for each unit of the narrow layer in between.
        seed: of the weights.

    Returns:
        The features times their gates; the shape of `features`.

    Raises:
        UsageError: `features` is no feature map.

    Example:
        >>> cbam(keras.Input((7, 7, 64))).shape
        (None, 7, 7, 64)
    """
    _check_map(features, "CBAM")
    reduce, expand = _channel_layers(features.shape[-1], name=name, ratio=ratio, seed=seed)
    mean = keras.layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_mean")(features)
    most = keras.layers.GlobalMaxPooling2D(keepdims=True, name=f"{name}_max")(features)
    both = keras.layers.Add(name=f"{name}_channel_sum")([expand(reduce(mean)), expand(reduce(most))])
    features = _gated(features, both, f"{name}_channel")
    mean = keras.ops.mean(features, axis=-1, keepdims=True)
    most = keras.ops.max(features, axis=-1, keepdims=True)
    places = keras.layers.Concatenate(name=f"{name}_places")([mean, most])
    # Zeros at first: a gate of one everywhere, and the gradient of the kernel is not zero.
    convolution = keras.layers.Conv2D(
        1,
        _SPATIAL_KERNEL,
        padding="same",
        use_bias=False,
        kernel_initializer="zeros",
        name=f"{name}_convolution",
    )
    return _gated(features, convolution(places), f"{name}_place")


def _channel_layers(
    channels: int, *, name: str, ratio: int, seed: int
) -> tuple[keras.layers.Layer, keras.layers.Layer]:
    start = keras.initializers.HeNormal(seed=random.Random(seed).getrandbits(31))
    units = max(1, channels // ratio)
    reduce = keras.layers.Dense(units, activation="relu", kernel_initializer=start, name=f"{name}_reduce")
    expand = keras.layers.Dense(channels, kernel_initializer="zeros", name=f"{name}_expand")
    return reduce, expand


def _gated(features: keras.KerasTensor, scores: keras.KerasTensor, name: str) -> keras.KerasTensor:
    gate = keras.layers.Activation("sigmoid", name=f"{name}_sigmoid")(scores)
    gate = keras.layers.Rescaling(2.0, name=f"{name}_gate")(gate)
    return keras.layers.Multiply(name=f"{name}_scaled")([features, gate])


def _check_map(features: keras.KerasTensor, what: str) -> None:
    if len(features.shape) != 4:
        raise UsageError(
            f"{what} needs a feature map of shape (batch, height, width, channels). "
            f"Received: {features.shape}."
        )


_POOLINGS = {  # by rank of the features, then by name
    4: {"avg": keras.layers.GlobalAveragePooling2D, "max": keras.layers.GlobalMaxPooling2D},
    3: {"avg": keras.layers.GlobalAveragePooling1D, "max": keras.layers.GlobalMaxPooling1D},
}
_GEM_START, _GEM_FLOOR = 3.0, 1e-6  # exponent and smallest feature, as in the paper


def pool(x: keras.KerasTensor, pooling: str, name: str) -> keras.KerasTensor:
    """One vector an image, of whatever a backbone gives.

    Args:
        x: feature map (batch, height, width, channels), tokens (batch, tokens, channels), or a vector
            (batch, channels), which is taken as it is.
        pooling: "avg", "max", "both" (one after the other: twice the channels), "gem" (generalised mean, of
            a feature map only) or "attention".
        name: of the layer that pools; the layers around it have names that begin with it.

    Raises:
        UsageError: the generalised mean of something else than a feature map.

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
        pair = [pool(x, each, f"{name}_{each}") for each in ("avg", "max")]
        return keras.layers.Concatenate(name=name)(pair)
    if pooling == "gem":
        return _generalized_mean(x, name)
    if pooling == "attention":
        return _attended(x, name)
    return _POOLINGS[rank][pooling](name=name)(x)


def _generalized_mean(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    """`mean(x^p)^(1/p)` over the places, p learned (Radenovic et al. 2018, arXiv:1711.02512).

    Features below the floor count as the floor. p is the kernel of a Dense layer that sees the number one:
    Keras has no plain layer that holds a single weight.
    """
    x = keras.layers.ReLU(name=f"{name}_positive")(x)  # a layer, by whose name the pooling is told to begin
    one = keras.ops.ones_like(x[:, :1, 0, 0])
    exponent = keras.layers.Dense(
        1, use_bias=False, kernel_initializer=keras.initializers.Constant(_GEM_START), name=f"{name}_p"
    )(one)
    powers = keras.ops.power(keras.ops.maximum(x, _GEM_FLOOR), keras.ops.reshape(exponent, (-1, 1, 1, 1)))
    mean = keras.layers.GlobalAveragePooling2D(name=name)(powers)
    return keras.ops.power(mean, 1.0 / exponent)


def _attended(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    """Mean over the places, weighed by a softmax of one score each; the plain mean at first."""
    channels = x.shape[-1]
    places = keras.layers.Reshape((-1, channels), name=f"{name}_places")(x)
    scores = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros", name=f"{name}_scores")(places)
    shares = keras.layers.Softmax(axis=1, name=f"{name}_shares")(scores)
    mean = keras.layers.Dot(axes=(1, 1), name=f"{name}_mean")([shares, places])
    return keras.layers.Reshape((channels,), name=name)(mean)
