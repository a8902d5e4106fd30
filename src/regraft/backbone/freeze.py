"""What trains: the freeze plan, and the policy for batch normalisation.

A plan is a rule over `backbone.layers`. Applying it writes every layer's own flag: a container's flag does
not reach layers whose state it believes to know already. Batch normalisation never trains: its statistics
come from millions of images, a few hundred would only spoil them, and a frozen one stays bit-identical.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
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
    kind, _, value = unfreeze.partition(":")
    if kind in ("none", "all"):
        return count if kind == "none" else 0
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

    Raises:
        UsageError: as `first_trained`.
    """
    first = first_trained(backbone, unfreeze)
    for number, layer in enumerate(backbone.layers):
        for inner in _with_inner(layer):
            inner.trainable = number >= first and not isinstance(inner, keras.layers.BatchNormalization)
    moving = [layer for layer in backbone.layers if layer.trainable_variables]
    parameters = sum(math.prod(variable.shape) for variable in _variables(moving))
    return Trained(len(moving), parameters)


def _stage(backbone: Backbone, name: str) -> int:
    if name in backbone.stages:
        return backbone.stages[name]
    known = ", ".join(backbone.stages) or "none: it is not divided into stages"
    hint = nearest(name, backbone.stages)
    raise UsageError(f"unfreeze: {backbone.name} has no stage {name}.{hint} Its stages: {known}.")


def _with_inner(layer: keras.layers.Layer) -> Iterator[keras.layers.Layer]:
    """A layer's inner layers, deepest first, then itself: a container's flag goes down when it is written."""
    yield from reversed(list(layer._flatten_layers(include_self=False)))
    yield layer


def _variables(layers: Iterable[keras.layers.Layer]) -> list[keras.Variable]:
    found = {id(variable): variable for layer in layers for variable in layer.trainable_variables}
    return list(found.values())
