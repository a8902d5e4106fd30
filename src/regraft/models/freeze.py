"""Freezing: the freeze plan, the policy for batch normalisation, and the check that frozen weights stay.

A plan is a rule over `backbone.layers`:

| plan | what trains |
|---|---|
| `none`, `all` | nothing; everything |
| `last:N`, `from:I` | the last N layers; the layers from index I on |
| `stage:NAME` | that stage and everything after it |
| `match:REGEX` | layers, also those within layers, whose names match the expression (`re.search`) |
| a function (Python only) | the layers for which it returns True |

`resolve_plan` turns it into a `FreezePlan`: a value that tells what would train, and changes nothing.
`freeze`
writes it into the flag of every layer: setting a container's flag does not reach its inner layers where it
has that value already. Batch normalisation never trains: its statistics come from millions of images, which a
few hundred would only spoil, and a frozen one stays bit-identical. Layers added by surgery are untrained, so
they always train, whatever the plan.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import keras

from regraft.backbones.graph import (
    flatten_layers,
    has_layers_within,
    has_random_numbers,
    list_own_statistics,
    list_own_weights,
)
from regraft.backbones.load import Backbone
from regraft.errors import UsageError, suggest_nearest

__all__ = [
    "FreezePlan",
    "FrozenWeightsGuard",
    "Plan",
    "Predicate",
    "TrainableCount",
    "freeze",
    "list_mutable_weights",
    "resolve_plan",
]

Predicate = Callable[[keras.layers.Layer], bool]
Plan = str | Predicate

_FORMS = "none, all, last:N, from:I, stage:NAME or match:REGEX"
_SHOWN = 6  # layer names in a message


@dataclass(frozen=True)
class TrainableCount:
    """How much of the backbone trains: layers with weights that train, and the parameters of these."""

    layers: int
    parameters: int

    def __str__(self) -> str:
        return f"{self.layers} layers, {self.parameters:,} parameters"


@dataclass(frozen=True, eq=False)
class FreezePlan:
    """A plan for one backbone, resolved to its layers; it does not depend on the layers' flags.

    Attributes:
        layers: the layers of `backbone.layers` that the plan names, or within which it names one.
        flags: the flag that each layer of the backbone and each layer within gets, by id.
        weight_ids: ids of the backbone's weights that train.
        count: how many layers and parameters that is.
    """

    layers: tuple[keras.layers.Layer, ...]
    flags: Mapping[int, bool]
    weight_ids: frozenset[int]
    count: TrainableCount

    def __call__(self, layer: keras.layers.Layer) -> bool:
        """Return whether training changes what a layer does: its weights train, or it draws random numbers.

        For a layer of the head its own flag counts, since plans are about the backbone.
        """
        has_flag = self.flags.get(id(layer), layer.trainable)
        return has_flag and (bool(self.list_weights(layer)) or has_random_numbers(layer))

    def list_weights(self, layer: keras.layers.Layer) -> list[keras.Variable]:
        """Return the weights of a layer that train."""
        if id(layer) not in self.flags:
            return list(layer.trainable_variables)
        return [weight for weight in layer.variables if id(weight) in self.weight_ids]


def resolve_plan(backbone: Backbone, unfreeze: Plan) -> FreezePlan:
    """Find the layers that a plan trains; change nothing.

    Args:
        backbone: from `load_backbone`.
        unfreeze: the plan; see the table above.

    Raises:
        UsageError: the plan names layers or stages that the backbone does not have, its regular expression is
            not one, or it names only layers without weights that could train.

    Example:
        >>> from regraft.backbones.load import load_backbone
        >>> backbone = load_backbone("vgg16", weights="random", image_size=32)
        >>> [layer.name for layer in resolve_plan(backbone, "match:conv3$").layers]
        ['block3_conv3', 'block4_conv3', 'block5_conv3']
    """
    new = [layer for layer in backbone.layers if layer.name in backbone.new_layers]
    chosen = {id(layer) for layer in [*_list_layers(new), *_find_layers(backbone, unfreeze)]}
    inherited = [layer for layer in backbone.layers if layer.name not in backbone.new_layers]
    frozen_norms = {id(layer) for layer in _list_layers(inherited) if _is_batch_norm(layer)}
    layers = _list_layers(backbone.layers)
    flags = {id(layer): _holds(layer, chosen) and id(layer) not in frozen_norms for layer in layers}
    owners = [layer for layer in layers if id(layer) in chosen - frozen_norms]
    weights = {id(weight): weight for layer in owners for weight in list_own_weights(layer)}
    training = [
        layer for layer in backbone.layers if any(id(weight) in weights for weight in layer.variables)
    ]
    return FreezePlan(
        layers=tuple(layer for layer in backbone.layers if _holds(layer, chosen)),
        flags=flags,
        weight_ids=frozenset(weights),
        count=TrainableCount(len(training), sum(math.prod(weight.shape) for weight in weights.values())),
    )


def _holds(layer: keras.layers.Layer, chosen: set[int]) -> bool:
    """Return whether a layer, or one within it, is among the chosen ones."""
    return any(id(inner) in chosen for inner in flatten_layers(layer))


def freeze(backbone: Backbone, unfreeze: Plan) -> TrainableCount:
    """Change the flags of the backbone's layers: those of the plan train, all others do not.

    Compile the model after this, not before: a compiled training step does not see changed flags.

    Args:
        backbone: from `load_backbone`.
        unfreeze: the plan; see `resolve_plan`.

    Raises:
        UsageError: as `resolve_plan`; then no flag changes.

    Example:
        >>> from regraft.backbones.load import load_backbone
        >>> backbone = load_backbone("vgg16", weights="random", image_size=32)
        >>> print(freeze(backbone, "stage:block5"))
        3 layers, 7,079,424 parameters
    """
    plan = resolve_plan(backbone, unfreeze)
    # Containers first: with TensorFlow, writing the value that a flag has already does nothing, neither to
    # the variables nor to the inner layers; writing another one goes all the way down.
    for layer in sorted(_list_layers(backbone.layers), key=lambda layer: not has_layers_within(layer)):
        layer.trainable = plan.flags[id(layer)]
        for variable in list_own_weights(layer):  # one that was made with `trainable=False` ignores the layer
            variable.trainable = id(variable) in plan.weight_ids
    return plan.count


def list_mutable_weights(model: keras.Model) -> list[keras.Variable]:
    """Return the weights that training may change: those that train, and the statistics of layers that train.

    The statistics of a `Normalization` are settings of the network and never change. Snapshots of the best
    epoch contain these weights; `FrozenWeightsGuard` watches all others.
    """
    mutable = {id(weight) for weight in model.trainable_weights}
    for layer in flatten_layers(model):
        if layer.trainable and not isinstance(layer, keras.layers.Normalization):
            mutable |= {id(weight) for weight in list_own_statistics(layer)}
    return [weight for weight in model.weights if id(weight) in mutable]


class FrozenWeightsGuard:
    """A check that frozen weights and statistics stay as they are, by a digest of the bytes of each.

    Args:
        model: the model, whose flags, as `freeze` set them, tell what may change; later changes of the flags
            do not count.

    Example:
        >>> layer = keras.layers.Dense(1, trainable=False)
        >>> guard = FrozenWeightsGuard(keras.Sequential([keras.Input((2,)), layer]))
        >>> guard.check()
        >>> _ = layer.bias.assign([1.0])
        >>> guard.check()  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        RuntimeError: Training changed 1 of 2 weights outside its plan, among them ...
    """

    def __init__(self, model: keras.Model) -> None:
        mutable = {id(weight) for weight in list_mutable_weights(model)}
        self._digests = [(weight, _digest(weight)) for weight in model.weights if id(weight) not in mutable]

    def check(self) -> None:
        """Compare every weight outside the plan with its digest.

        Raises:
            RuntimeError: one of them differs in a bit, which is a defect of regraft.
        """
        changed = [weight.path for weight, digest in self._digests if _digest(weight) != digest]
        if changed:
            raise RuntimeError(
                f"Training changed {len(changed)} of {len(self._digests)} weights outside its plan, among "
                f"them {changed[0]}. This is a defect of regraft; do not use the model."
            )


def _digest(weight: keras.Variable) -> bytes:
    return hashlib.blake2b(keras.ops.convert_to_numpy(weight).tobytes(), digest_size=16).digest()


# --- from plans to layers, with the layers within them


def _find_layers(backbone: Backbone, unfreeze: Plan) -> list[keras.layers.Layer]:
    if callable(unfreeze):
        return _find_matching(backbone, unfreeze, "the function given")
    kind, _, value = unfreeze.partition(":")
    if kind == "match" and value:
        return _find_matching(backbone, _make_name_test(value), unfreeze)
    return _list_layers(backbone.layers[_find_first(backbone, unfreeze) :])


def _find_first(backbone: Backbone, unfreeze: str) -> int:
    """Return the index of the first layer of a plan up to the end; len(layers) where nothing trains."""
    count = len(backbone.layers)
    if unfreeze in ("none", "all"):
        return count if unfreeze == "none" else 0
    kind, _, value = unfreeze.partition(":")
    if kind == "stage":
        return _find_stage(backbone, value)
    if kind not in ("last", "from") or not value.isdecimal():
        raise UsageError(f"unfreeze: expected {_FORMS}. Received: {unfreeze}.")
    number = int(value)
    if number > count:
        raise UsageError(f"unfreeze: {backbone.name} has {count} layers. Received: {unfreeze}.")
    return count - number if kind == "last" else number


def _find_stage(backbone: Backbone, name: str) -> int:
    if name in backbone.stages:
        return backbone.stages[name]
    stages = ", ".join(backbone.stages) or "none: it is not divided into stages"
    hint = suggest_nearest(name, backbone.stages)
    raise UsageError(f"unfreeze: {backbone.name} has no stage {name}.{hint} Its stages: {stages}.")


def _make_name_test(pattern: str) -> Predicate:
    try:
        expression = re.compile(pattern)
    except re.error as fault:
        raise UsageError(f"unfreeze: {pattern} is not a regular expression: {fault}.") from fault
    return lambda layer: expression.search(layer.name) is not None


def _find_matching(backbone: Backbone, predicate: Predicate, plan: str) -> list[keras.layers.Layer]:
    """Return the layers for which a predicate is true, and the layers within them."""

    def can_train(layer: keras.layers.Layer) -> bool:
        return bool(list_own_weights(layer)) and not _is_batch_norm(layer)

    layers = _list_layers(backbone.layers)
    named = _list_layers(layer for layer in layers if predicate(layer))
    if any(map(can_train, named)):
        return named
    if named:
        received = f"only {_list_names(named)}, without weights that train (batch normalisation never does)"
    else:
        received = f"none; with weights it has {_list_names(filter(can_train, layers))}"
    raise UsageError(f"unfreeze: expected {plan} to name layers of {backbone.name}. It names {received}.")


def _is_batch_norm(layer: keras.layers.Layer) -> bool:
    return isinstance(layer, keras.layers.BatchNormalization)


def _list_names(layers: Iterable[keras.layers.Layer]) -> str:
    """Return a few names, spread from the first layer to the last."""
    names = [layer.name for layer in layers]
    step = max(1, math.ceil(len(names) / _SHOWN))
    return ", ".join(names[::step]) + (f" and {len(names) - len(names[::step])} more" if step > 1 else "")


def _list_layers(layers: Iterable[keras.layers.Layer]) -> list[keras.layers.Layer]:
    """Return layers and the layers within them, each container before its contents."""
    return [inner for layer in layers for inner in flatten_layers(layer)]
