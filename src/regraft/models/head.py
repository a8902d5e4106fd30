"""A head on a backbone, from a `HeadSpec` or from any Keras layer or model.

It consists of plain Keras layers and operations, so that the saved model opens without regraft.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Any

import keras

from regraft.backbones.classifier import MODEL_PREFIX, get_activation_name, is_head
from regraft.backbones.graph import find_node, find_operation
from regraft.backbones.load import Backbone
from regraft.errors import UsageError, shorten_error, suggest_nearest
from regraft.models.attention import cbam, pool, squeeze_excitation
from regraft.recipe import HeadSpec
from regraft.solvers.decision import HEAD_OUTPUT
from regraft.tasks import TASKS, Task

__all__ = [
    "CUSTOM",
    "UNITS",
    "build_multi_image_model",
    "drop_units",
    "graft",
    "is_head",
    "is_linear",
    "pool_features",
]

UNITS = "head_units"  # name of the layer that converts a regression's answers to the targets' units
DROPOUT = 0.2  # of a head that is trained by gradient, if nothing else is asked for
CUSTOM = "head_custom"  # name of the Sequential around a user's own head


def is_linear(model: keras.Model) -> bool:
    """Return whether a model's head has weights only in its output layer, so that a solver can fill it.

    Args:
        model: from `graft`.
    """
    return [layer.name for layer in model.layers if is_head(layer) and layer.weights] == [HEAD_OUTPUT]


def pool_features(backbone: Backbone, head: HeadSpec) -> keras.KerasTensor:
    """Pool the backbone's output without weights to one vector for each image, as a solver sees it.

    Args:
        backbone: from `load_backbone`. An output that is a vector stays as it is.
        head: gives the pooling; the average replaces one that is learned (generalised mean, attention).

    Returns:
        A symbolic tensor of shape (batch, features), part of the graph of `backbone.model`.
    """
    pooling = "avg" if head.pooling in ("gem", "attention") else head.pooling
    return pool(backbone.model.outputs[0], pooling, "head_pool")


def graft(
    backbone: Backbone,
    head: HeadSpec | keras.layers.Layer,
    *,
    outputs: int,
    task: str = "multiclass",
    units: tuple[Sequence[float], Sequence[float]] | None = None,
    taps: Sequence[keras.KerasTensor] = (),
    seed: int = 0,
) -> keras.Model:
    """Put a new head on a backbone.

    Args:
        backbone: from `load_backbone`; its layers become the model's own, they are not copied.
        head: what to build, or a layer or model that takes the backbone's output (mostly a feature map) and
            answers the task. Such a layer becomes part of the model, it is not copied.
        outputs: number of classes, labels or targets; 2 for a binary task.
        task: a name of `regraft.tasks.TASKS`, which determines the activation of the output: softmax or
            sigmoid for probabilities, none for numbers.
        units: for regression, the scales and the offsets of the targets: the output layer, or the user's
            head, then works in `(target - offset) / scale`, and the model answers in the target's own units.
        taps: tensors of the backbone that a linear `HeadSpec` pools one by one and concatenates; () for the
            backbone's output.
        seed: the seed of dropout and of every initial weight of a `HeadSpec`.

    Returns:
        An ordinary Functional `keras.Model` from float RGB pixels (batch, size, size, 3) in 0..255 to answers
        (batch, units of the task), not compiled.

    Raises:
        UsageError: the task is unknown, the head does not fit the task or the backbone's output, or the
            backbone already has a head by regraft.

    Example:
        >>> from regraft.backbones.load import load_backbone
        >>> backbone = load_backbone("vgg16", weights="random", image_size=32)
        >>> graft(backbone, HeadSpec(pooling="both", hidden=(64,)), outputs=10).output_shape
        (None, 10)
        >>> own = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(1, "sigmoid")])
        >>> graft(backbone, own, task="binary", outputs=2).output_shape
        (None, 1)
    """
    if task not in TASKS:
        raise UsageError(
            f"task: expected {', '.join(TASKS)}. Received: {task!r}.{suggest_nearest(str(task), TASKS)}"
        )
    if any(is_head(layer) for layer in backbone.layers):
        raise UsageError(
            f"{backbone.name} has a head already: it was trained by regraft. Give the backbone by its name, "
            "or the model without its last layers."
        )
    features = backbone.model.outputs[0]
    if isinstance(head, HeadSpec):
        features = _pool_taps(taps, head) if len(taps) > 1 else next(iter(taps), features)
        dropout = _choose_dropout(head, backbone)
        answer = _apply_spec(features, head, TASKS[task], outputs=outputs, dropout=dropout, seed=seed)
    else:
        answer = _apply_layer(features, head, TASKS[task], outputs=outputs)
    if units is not None:
        answer = _convert_units(answer, task, units)
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", backbone.name)  # what every backend takes as a name
    return keras.Model(backbone.model.inputs[0], answer, name=MODEL_PREFIX + name)


# --- from a HeadSpec


def _choose_dropout(head: HeadSpec, backbone: Backbone) -> float:
    """Return the share that a head drops: none where training starts from a solved head."""
    if head.dropout is not None:
        return head.dropout
    is_solved = head.linear and head.solver != "gradient" and not backbone.new_layers
    return 0.0 if is_solved else DROPOUT


def _apply_spec(
    x: keras.KerasTensor, head: HeadSpec, task: Task, *, outputs: int, dropout: float, seed: int
) -> Any:
    seeds = random.Random(seed)
    x = _apply_map_layers(x, head, seeds)
    x = _normalize(pool(x, head.pooling, "head_pool"), head, 0)
    for number, width in enumerate(head.hidden, 1):
        start = keras.initializers.HeNormal(seed=seeds.getrandbits(31))
        dense = keras.layers.Dense(
            width, activation="relu", kernel_initializer=start, name=f"head_hidden_{number}"
        )
        x = _normalize(dense(x), head, number)
    if dropout:
        x = keras.layers.Dropout(dropout, seed=seeds.getrandbits(31), name="head_dropout")(x)
    start = keras.initializers.GlorotUniform(seed=seeds.getrandbits(31))
    return keras.layers.Dense(
        task.count_units(outputs),
        activation=task.activation,
        kernel_initializer=start,
        name=HEAD_OUTPUT,
        dtype="float32",
    )(x)


def _pool_taps(taps: Sequence[keras.KerasTensor], head: HeadSpec) -> keras.KerasTensor:
    """Pool several feature maps into one vector."""
    vectors = [pool(tensor, head.pooling, f"head_pool_{number}") for number, tensor in enumerate(taps, 1)]
    return keras.layers.Concatenate(name="head_pool")(vectors)


def _apply_map_layers(x: keras.KerasTensor, head: HeadSpec, seeds: random.Random) -> keras.KerasTensor:
    """Apply attention and convolutions, which come before pooling."""
    if (head.attention != "none" or head.convolutions) and len(x.shape) != 4:
        raise UsageError(
            "head: attention and convolutions need a feature map of shape (batch, height, width, channels). "
            f"Received: a backbone that gives {x.shape}."
        )
    if head.attention != "none":
        block = squeeze_excitation if head.attention == "se" else cbam
        x = block(x, name="head_attention", seed=seeds.getrandbits(31))
    for number, filters in enumerate(head.convolutions, 1):
        x = keras.layers.Conv2D(
            filters,
            3,
            padding="same",
            activation="relu",
            kernel_initializer=keras.initializers.HeNormal(seed=seeds.getrandbits(31)),
            name=f"head_convolution_{number}",
        )(x)
    return x


def _normalize(x: keras.KerasTensor, head: HeadSpec, number: int) -> keras.KerasTensor:
    name = f"head_norm_{number}"
    if head.normalization == "batch":
        # With a few hundred images there are few steps: Keras' 0.99 would keep the statistics near their
        # start.
        return keras.layers.BatchNormalization(momentum=0.9, name=name)(x)
    if head.normalization == "layer":
        return keras.layers.LayerNormalization(name=name)(x)
    return x


# --- any layer or model


def _apply_layer(x: keras.KerasTensor, head: keras.layers.Layer, task: Task, *, outputs: int) -> Any:
    if not isinstance(head, keras.layers.Layer):
        raise UsageError(f"head: expected a HeadSpec, a Keras layer or a model. Received: {head!r}.")
    expected = (x.shape[0], task.count_units(outputs))
    try:
        answer = keras.Sequential([head], name=CUSTOM)(x)
    except Exception as fault:  # Keras documents no type for input that a layer cannot take
        raise UsageError(
            f"head: expected a layer from {x.shape}, the backbone's output, to {expected}. "
            f"{head.name} cannot take it. Keras says: {shorten_error(fault)}"
        ) from fault
    received = getattr(answer, "shape", None)
    if received != expected:
        raise UsageError(
            f"head: expected answers of shape {expected} for {outputs} outputs, {task.name}. "
            f"Received: {head.name}, which makes {received} of the backbone's {x.shape}."
        )
    activation = _last_activation(head)
    if task.name != "regression" and activation not in (None, task.activation):
        raise UsageError(
            f"head: expected probabilities by {task.activation}, {task.name}. "
            f"Received: {head.name}, which ends with {activation}."
        )
    return answer


def _last_activation(layer: keras.layers.Layer) -> str | None:
    """Return the name of the activation of a head's output; None where it cannot be seen."""
    if isinstance(layer, keras.Sequential):
        return _last_activation(layer.layers[-1])
    if isinstance(layer, keras.Model):
        operation = find_operation(layer.outputs[0]) if getattr(layer, "outputs", None) else None
        return _last_activation(operation) if isinstance(operation, keras.layers.Layer) else None
    return get_activation_name(layer)


def _convert_units(answer: Any, task: str, units: tuple[Sequence[float], Sequence[float]]) -> Any:
    scale, offset = ([float(value) for value in values] for values in units)
    if task != "regression" or not len(scale) == len(offset) == answer.shape[-1]:
        raise UsageError(
            "units: expected a scale and an offset for each target of a regression. "
            f"Received: {len(scale)} and {len(offset)} for {answer.shape[-1]} outputs, {task}."
        )
    return keras.layers.Rescaling(scale, offset, name=UNITS, dtype="float32")(answer)


def drop_units(network: keras.Model) -> keras.Model:
    """Return a network that answers in standardised numbers, without the layer that gives them their units.

    Such answers keep the digits that float32 has no room for next to a large offset. A network without such a
    last layer is returned as it is.
    """
    node = find_node(network.outputs[0])
    if node.operation.name != UNITS:
        return network
    inputs = network.inputs
    return keras.Model(inputs if len(inputs) > 1 else inputs[0], node.input_tensors[0])


def build_multi_image_model(prefix: keras.Model, head: keras.Model, images: int) -> keras.Model:
    """Build a model for samples of several images: run the prefix on each, average, apply the head.

    Args:
        prefix: a network from pixels (batch, size, size, 3) to a dictionary of tensors, in the order of the
            head's inputs.
        head: a network from those tensors to answers (batch, units).
        images: the number of images in a sample.

    Returns:
        An ordinary Functional model from RGB pixels 0..255 (batch, images, size, size, 3) to answers.

    Example:
        >>> image = keras.Input((4, 4, 3))
        >>> mean = keras.Model(image, {"mean": keras.layers.GlobalAveragePooling2D()(image)})
        >>> vector = keras.Input((3,))
        >>> model = build_multi_image_model(mean, keras.Model(vector, keras.layers.Dense(2)(vector)), 2)
        >>> model.input_shape, model.output_shape
        ((None, 2, 4, 4, 3), (None, 2))
    """
    shape = prefix.inputs[0].shape[1:]
    pixels = keras.Input((images, *shape), name="images")
    tensors = prefix(keras.ops.reshape(pixels, (-1, *shape)))
    means = [
        keras.ops.mean(keras.ops.reshape(tensor, (-1, images, *tensor.shape[1:])), axis=1)
        for tensor in tensors.values()
    ]
    return keras.Model(pixels, head(means if len(means) > 1 else means[0]), name="regraft_over_photos")
