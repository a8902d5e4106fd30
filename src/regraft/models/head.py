"""A head on a backbone: from a `HeadSpec`, or any Keras layer or model.

Everything is made of plain Keras pieces, so that the saved model opens without regraft.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import keras

from regraft.backbones.graph import activation_of, is_head
from regraft.backbones.load import Backbone
from regraft.errors import UsageError, brief, nearest
from regraft.models.attention import cbam, pool, squeeze_excitation
from regraft.recipe import HeadSpec
from regraft.solvers.decision import OUTPUT
from regraft.tasks import TASKS, Task

__all__ = ["CUSTOM", "UNITS", "graft", "is_head", "is_linear", "over_photos", "pooled"]

UNITS = "head_units"  # name of the layer that puts a regression's answers into the targets' units
CUSTOM = "head_custom"  # name of the Sequential around a user's own head


def is_linear(model: keras.Model) -> bool:
    """Whether the output layer is all that a model's head has to learn, so that a solver can fill it.

    Args:
        model: from `graft`.
    """
    return [layer.name for layer in model.layers if is_head(layer) and layer.weights] == [OUTPUT]


def pooled(backbone: Backbone, head: HeadSpec) -> keras.KerasTensor:
    """What a solver sees: the backbone's answer as one vector an image, by a pooling without weights.

    Args:
        backbone: from `load_backbone`.
        head: its pooling; the average for one that has to be learned (generalised mean, attention). A
            backbone that gives a vector is taken as it is.

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
    """A new head on a backbone.

    Args:
        backbone: from `load_backbone`; its layers become the model's own, not copies.
        head: what to build, or a layer or model that takes the backbone's output (a feature map, mostly) and
            answers the task. It becomes part of the model, not a copy.
        outputs: number of classes, labels or targets; 2 for a binary task.
        task: a name of `regraft.tasks.TASKS`. Its activation is that of the output: probabilities by softmax
            or sigmoid, numbers as they are.
        units: for regression, (scale, offset) a target: the output layer, or the head given, then works in
            these units, as `(target - offset) / scale`, and the model answers in the target's own.
        taps: tensors of the backbone that a linear `HeadSpec` pools, one by one, and puts side by side; none
            for its output.
        seed: of dropout and of every first weight of a `HeadSpec`.

    Returns:
        An ordinary Functional `keras.Model`, float RGB pixels (batch, size, size, 3) in 0..255 to answers
        (batch, units of the task), not compiled.

    Raises:
        UsageError: an unknown task, a head that does not fit the task or the backbone's output, or a backbone
            that has a head of regraft's already.

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
        raise UsageError(f"task: expected {', '.join(TASKS)}. Received: {task!r}.{nearest(str(task), TASKS)}")
    if any(is_head(layer) for layer in backbone.layers):
        raise UsageError(
            f"{backbone.name} has a head already: it was trained by regraft. Give the backbone by its name, "
            "or the model without its last layers."
        )
    features = backbone.model.outputs[0]
    if isinstance(head, HeadSpec):
        tapped = _side_by_side(taps, head) if len(taps) > 1 else features
        answer = _from_spec(tapped, head, TASKS[task], outputs=outputs, seed=seed)
    else:
        answer = _from_layer(features, head, TASKS[task], outputs=outputs)
    if units is not None:
        answer = _in_units(answer, task, units)
    return keras.Model(backbone.model.inputs[0], answer, name=f"regraft_{backbone.name}")


# --- from a HeadSpec


def _from_spec(x: keras.KerasTensor, head: HeadSpec, task: Task, *, outputs: int, seed: int) -> Any:
    seeds = random.Random(seed)
    x = _on_map(x, head, seeds)
    x = _normalize(pool(x, head.pooling, "head_pool"), head, 0)
    for number, width in enumerate(head.hidden, 1):
        start = keras.initializers.HeNormal(seed=seeds.getrandbits(31))
        dense = keras.layers.Dense(
            width, activation="relu", kernel_initializer=start, name=f"head_hidden_{number}"
        )
        x = _normalize(dense(x), head, number)
    if head.dropout:
        x = keras.layers.Dropout(head.dropout, seed=seeds.getrandbits(31), name="head_dropout")(x)
    start = keras.initializers.GlorotUniform(seed=seeds.getrandbits(31))
    return keras.layers.Dense(
        task.units(outputs),
        activation=task.activation,
        kernel_initializer=start,
        name=OUTPUT,
        dtype="float32",
    )(x)


def _side_by_side(taps: Sequence[keras.KerasTensor], head: HeadSpec) -> keras.KerasTensor:
    """One vector of several feature maps."""
    pooled = [pool(tensor, head.pooling, f"head_pool_{number}") for number, tensor in enumerate(taps, 1)]
    return keras.layers.Concatenate(name="head_pool")(pooled)


def _on_map(x: keras.KerasTensor, head: HeadSpec, seeds: random.Random) -> keras.KerasTensor:
    """Attention and convolutions, before pooling."""
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
        # A few hundred images make few steps: Keras' 0.99 would leave the statistics half-way from the start.
        return keras.layers.BatchNormalization(momentum=0.9, name=name)(x)
    if head.normalization == "layer":
        return keras.layers.LayerNormalization(name=name)(x)
    return x


# --- any layer or model


def _from_layer(x: keras.KerasTensor, head: keras.layers.Layer, task: Task, *, outputs: int) -> Any:
    if not isinstance(head, keras.layers.Layer):
        raise UsageError(f"head: expected a HeadSpec, a Keras layer or a model. Received: {head!r}.")
    expected = (x.shape[0], task.units(outputs))
    try:
        answer = keras.Sequential([head], name=CUSTOM)(x)
    except Exception as fault:  # Keras names no type for input that a layer cannot take
        raise UsageError(
            f"head: expected a layer from {x.shape}, the backbone's output, to {expected}. "
            f"{head.name} cannot take it. Keras says: {brief(fault)}"
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
    """Name of the function that makes a head's answers; None where it cannot be seen."""
    if isinstance(layer, keras.Sequential):
        return _last_activation(layer.layers[-1])
    if isinstance(layer, keras.Model):
        operation = layer.outputs[0]._keras_history.operation if getattr(layer, "outputs", None) else None
        return _last_activation(operation) if isinstance(operation, keras.layers.Layer) else None
    return activation_of(layer)


def _in_units(answer: Any, task: str, units: tuple[Sequence[float], Sequence[float]]) -> Any:
    scale, offset = ([float(value) for value in each] for each in units)
    if task != "regression" or not len(scale) == len(offset) == answer.shape[-1]:
        raise UsageError(
            "units: expected a scale and an offset for each target of a regression. "
            f"Received: {len(scale)} and {len(offset)} for {answer.shape[-1]} outputs, {task}."
        )
    return keras.layers.Rescaling(scale, offset, name=UNITS, dtype="float32")(answer)


def over_photos(prefix: keras.Model, head: keras.Model, photos: int) -> keras.Model:
    """The frozen part runs over every image, its tensors are averaged over a sample's, the head answers.

    Args:
        prefix: pixels (batch, size, size, 3) -> dictionary of tensors, in the order of the head's inputs.
        head: those tensors -> answers (batch, units).
        photos: images a sample.

    Returns:
        An ordinary Functional model, RGB pixels 0..255 (batch, photos, size, size, 3) to answers.

    Example:
        >>> image = keras.Input((4, 4, 3))
        >>> mean = keras.Model(image, {"mean": keras.layers.GlobalAveragePooling2D()(image)})
        >>> given = keras.Input((3,))
        >>> both = over_photos(mean, keras.Model(given, keras.layers.Dense(2)(given)), 2)
        >>> both.input_shape, both.output_shape
        ((None, 2, 4, 4, 3), (None, 2))
    """
    shape = prefix.inputs[0].shape[1:]
    pixels = keras.Input((photos, *shape), name="images")
    each = prefix(keras.ops.reshape(pixels, (-1, *shape)))
    means = [
        keras.ops.mean(keras.ops.reshape(tensor, (-1, photos, *tensor.shape[1:])), axis=1)
        for tensor in each.values()
    ]
    return keras.Model(pixels, head(means if len(means) > 1 else means[0]), name="regraft_over_photos")
