"""What trains: the freeze plan, and the policy for batch normalisation.

A plan is a rule over `backbone.layers`. Applying it writes every layer's own flag: a container's flag does
not reach its inner layers where it has the wanted value already. Batch normalisation never trains: its
statistics come from millions of images, a few hundred would only spoil them, and a frozen one stays
bit-identical.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import keras

from regraft.backbone.load import Backbone
from regraft.errors import UsageError, nearest

__all__ = ["Trained", "first_trained", "freeze"]


@dataclass(frozen=True)
class Trained:
    """What a plan leaves to train in the backbone: layers with trainable weights, and their parameters."""

    layers: int
    parameters: int

    def __str__(self) -> str:
        return f"{self.layers} layers, {self.parameters:,} parameters"


def first_trained(backbone: Backbone, unfreeze: str) -> int:
    """Index in `backbone.layers` of the first layer that trains; len(layers) when none does.

    Args:
        backbone: from `load_backbone`.
        unfreeze: "none", "all", "last:N" (exactly the last N layers), "from:I" (from index I on) or
            "stage:NAME" (that stage and everything after it).

    Raises:
        UsageError: the plan asks for layers or stages the backbone does not have.
    """
    count = len(backbone.layers)
    if unfreeze in ("none", "all"):
        return count if unfreeze == "none" else 0
    kind, _, value = unfreeze.partition(":")
    if kind == "stage":
        return _stage(backbone, value)
    if kind not in ("last", "from") or not value.isdecimal():
        raise UsageError(f"unfreeze: expected none, all, last:N, from:I or stage:NAME. Received: {unfreeze}.")
    number = int(value)
    if number > count:
        raise UsageError(f"unfreeze: {backbone.name} has {count} layers. Received: {unfreeze}.")
    return count - number if kind == "last" else number


def freeze(backbone: Backbone, unfreeze: str) -> Trained:
    """Change the backbone's layers: those of the plan train, all others and all batch normalisation do not.

    Compile the model after this, not before: a compiled training step does not see changed flags.

    Args:
        backbone: from `load_backbone`.
        unfreeze: the plan; see `first_trained`.

    Raises:
        UsageError: as `first_trained`; no flag is changed then.

    Example:
        >>> from regraft.backbone.load import load_backbone
        >>> backbone = load_backbone("vgg16", weights="random", image_size=32)
        >>> print(freeze(backbone, "stage:block5"))
        3 layers, 7,079,424 parameters
    """
    first = first_trained(backbone, unfreeze)
    for number, layer in enumerate(backbone.layers):
        for part in layer._flatten_layers():
            _set(part, number >= first)
    parts = [part for layer in backbone.layers for part in layer._flatten_layers()]
    for part in parts:  # a second pass: no container is written after its batch normalisation
        if isinstance(part, keras.layers.BatchNormalization):
            _set(part, False)
    moving = [layer for layer in backbone.layers if layer.trainable_variables]
    parameters = sum(math.prod(variable.shape) for variable in _variables(moving))
    return Trained(len(moving), parameters)


def _set(layer: keras.layers.Layer, trains: bool) -> None:
    """Write a layer's flag and those of its own variables.

    With TensorFlow, writing the value that a flag has already does nothing, neither to the variables nor to
    the inner layers; writing another one goes all the way down. So containers are written before what they
    contain (the order of `_flatten_layers`), and variables are written too: those of a layer that was made
    with `trainable=False` say otherwise.
    """
    layer.trainable = trains
    for variable in layer._trainable_variables:
        variable.trainable = trains


def _stage(backbone: Backbone, name: str) -> int:
    if name in backbone.stages:
        return backbone.stages[name]
    known = ", ".join(backbone.stages) or "none: it is not divided into stages"
    hint = nearest(name, backbone.stages)
    raise UsageError(f"unfreeze: {backbone.name} has no stage {name}.{hint} Its stages: {known}.")


def _variables(layers: Iterable[keras.layers.Layer]) -> list[keras.Variable]:
    found = {id(variable): variable for layer in layers for variable in layer.trainable_variables}
    return list(found.values())
