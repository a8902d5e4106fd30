"""A feature map or tokens -> one vector an image, in plain Keras pieces."""

from __future__ import annotations

import keras

from regraft.errors import UsageError

__all__ = ["pool"]

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
