"""What trains: the freeze plan, the policy for batch normalisation, and the proof that nothing else moved.

A plan is a rule over `backbone.layers`:

| plan | what trains |
|---|---|
| `none`, `all` | nothing; everything |
| `last:N`, `from:I` | exactly the last N layers; those from index I on |
| `stage:NAME` | that stage and everything after it |
| `match:REGEX` | layers, also those within layers, in whose names the expression is found (`re.search`) |
| a function (Python only) | the layers for which it returns True |

`resolve_plan` makes a `FreezePlan` of it: a value, which can be asked what would train, and changes nothing.
`freeze` writes it into every layer's own flag: a container's flag does not reach its inner layers where it
has the wanted value already. Batch normalisation never trains: its statistics come from millions of images,
a few hundred would only spoil them, and a frozen one stays bit-identical. Layers that surgery put in have
learned nothing yet, so they always train, whatever the plan.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import keras

from regraft.backbones.load import Backbone
from regraft.errors import UsageError, nearest

__all__ = ["FreezePlan", "Guard", "Plan", "Trained", "draws", "freeze", "may_move", "resolve_plan"]

Predicate = Callable[[keras.layers.Layer], bool]
Plan = str | Predicate

_FORMS = "none, all, last:N, from:I, stage:NAME or match:REGEX"
_SHOWN = 6  # layer names in a message


@dataclass(frozen=True)
class Trained:
    """What a plan leaves to train in the backbone: layers with trainable weights, and their parameters."""

    layers: int
    parameters: int

    def __str__(self) -> str:
        return f"{self.layers} layers, {self.parameters:,} parameters"


@dataclass(frozen=True, eq=False)
class FreezePlan:
    """A plan for one backbone, resolved to its layers; what it says does not depend on the layers' flags.

    Attributes:
        layers: those of `backbone.layers` that the plan names, or of which it names a layer within.
        flags: the flag that each layer of the backbone gets, by id; layers within layers have theirs.
        moving: ids of the backbone's weights that train.
        trained: how many layers and parameters that is.
    """

    layers: tuple[keras.layers.Layer, ...]
    flags: Mapping[int, bool]
    moving: frozenset[int]
    trained: Trained

    def __call__(self, layer: keras.layers.Layer) -> bool:
        """Tell whether training changes what a layer does: its weights move, or it draws random numbers.

        A layer of the head answers by its own flag, for no plan is about it.
        """
        return self.flags.get(id(layer), layer.trainable) and (bool(self.weights(layer)) or draws(layer))

    def weights(self, layer: keras.layers.Layer) -> list[keras.Variable]:
        """List the weights of a layer that train."""
        if id(layer) not in self.flags:
            return list(layer.trainable_variables)
        return [weight for weight in layer.variables if id(weight) in self.moving]


def resolve_plan(backbone: Backbone, unfreeze: Plan) -> FreezePlan:
    """Find the layers that a plan trains. Changes nothing.

    Args:
        backbone: from `load_backbone`.
        unfreeze: the plan; see the table above.

    Raises:
        UsageError: the plan asks for layers or stages the backbone does not have, is no regular expression,
            or names only layers without weights that could train.

    Example:
        >>> from regraft.backbones.load import load_backbone
        >>> backbone = load_backbone("vgg16", weights="random", image_size=32)
        >>> [layer.name for layer in resolve_plan(backbone, "match:conv3$").layers]
        ['block3_conv3', 'block4_conv3', 'block5_conv3']
    """
    new = [layer for layer in backbone.layers if layer.name in backbone.new_layers]
    chosen = {id(part) for part in [*_parts(new), *_named(backbone, unfreeze)]}
    inherited = [layer for layer in backbone.layers if layer.name not in backbone.new_layers]
    still = {id(part) for part in _parts(inherited) if _is_batch_norm(part)}
    parts = _parts(backbone.layers)
    flags = {id(part): _holds(part, chosen) and id(part) not in still for part in parts}
    owners = [part for part in parts if id(part) in chosen - still]
    moving = {id(weight): weight for part in owners for weight in part._trainable_variables}
    training = [layer for layer in backbone.layers if any(id(weight) in moving for weight in layer.variables)]
    return FreezePlan(
        layers=tuple(layer for layer in backbone.layers if _holds(layer, chosen)),
        flags=flags,
        moving=frozenset(moving),
        trained=Trained(len(training), sum(math.prod(weight.shape) for weight in moving.values())),
    )


def _holds(layer: keras.layers.Layer, chosen: set[int]) -> bool:
    """Whether a layer is among those chosen, or a layer within it."""
    return any(id(part) in chosen for part in layer._flatten_layers())


def freeze(backbone: Backbone, unfreeze: Plan) -> Trained:
    """Change the backbone's layers: those of the plan train, all others and all batch normalisation do not.

    Compile the model after this, not before: a compiled training step does not see changed flags.

    Args:
        backbone: from `load_backbone`.
        unfreeze: the plan; see `resolve_plan`.

    Raises:
        UsageError: as `resolve_plan`; no flag is changed then.

    Example:
        >>> from regraft.backbones.load import load_backbone
        >>> backbone = load_backbone("vgg16", weights="random", image_size=32)
        >>> print(freeze(backbone, "stage:block5"))
        3 layers, 7,079,424 parameters
    """
    plan = resolve_plan(backbone, unfreeze)
    # Containers first: with TensorFlow, writing the value that a flag has already does nothing, neither to
    # the variables nor to the inner layers; writing another one goes all the way down.
    for part in sorted(_parts(backbone.layers), key=lambda part: not part._layers):
        part.trainable = plan.flags[id(part)]
        for variable in part._trainable_variables:  # those made with `trainable=False` say otherwise
            variable.trainable = id(variable) in plan.moving
    return plan.trained


def draws(layer: keras.layers.Layer) -> bool:
    """Tell whether a layer, or one within it, has random numbers of its own: dropout, noise, augmentation."""
    return any(part._seed_generators for part in layer._flatten_layers())


def may_move(model: keras.Model) -> list[keras.Variable]:
    """The weights that training may change: those that train, and the statistics of layers that train.

    The statistics of a `Normalization` are settings of the network and never move. Snapshots of the best
    epoch take these weights; `Guard` watches all the others.
    """
    found: dict[int, keras.Variable] = {id(weight): weight for weight in model.trainable_weights}
    for layer in model._flatten_layers():
        if layer.trainable and not isinstance(layer, keras.layers.Normalization):
            found |= {id(weight): weight for weight in layer._non_trainable_variables}
    return [weight for weight in model.weights if id(weight) in found]


class Guard:
    """Remembers every weight and statistic of a model that must not move, by a digest of its bytes.

    Args:
        model: its flags say what may move, as `freeze` set them; later changes of the flags do not count.

    Example:
        >>> layer = keras.layers.Dense(1, trainable=False)
        >>> guard = Guard(keras.Sequential([keras.Input((2,)), layer]))
        >>> guard.check()
        >>> _ = layer.bias.assign([1.0])
        >>> guard.check()  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        RuntimeError: Training moved 1 of 2 weights outside its plan, among them ...
    """

    def __init__(self, model: keras.Model) -> None:
        free = {id(weight) for weight in may_move(model)}
        self._held = [(weight, _digest(weight)) for weight in model.weights if id(weight) not in free]

    def check(self) -> None:
        """Compare with what was remembered.

        Raises:
            RuntimeError: a weight outside the plan differs in a bit; that is a defect of regraft.
        """
        moved = [weight.path for weight, digest in self._held if _digest(weight) != digest]
        if moved:
            raise RuntimeError(
                f"Training moved {len(moved)} of {len(self._held)} weights outside its plan, among them "
                f"{moved[0]}. This is a defect of regraft; the model is not to be trusted."
            )


def _digest(weight: keras.Variable) -> bytes:
    return hashlib.blake2b(keras.ops.convert_to_numpy(weight).tobytes(), digest_size=16).digest()


# --- plans -> layers, by id, the layers within them included


def _named(backbone: Backbone, unfreeze: Plan) -> list[keras.layers.Layer]:
    if callable(unfreeze):
        return _matching(backbone, unfreeze, "the function given")
    kind, _, value = unfreeze.partition(":")
    if kind == "match" and value:
        return _matching(backbone, _by_name(value), unfreeze)
    return _parts(backbone.layers[_first(backbone, unfreeze) :])


def _first(backbone: Backbone, unfreeze: str) -> int:
    """Index of the first layer of a plan that goes on to the end; len(layers) where nothing trains."""
    count = len(backbone.layers)
    if unfreeze in ("none", "all"):
        return count if unfreeze == "none" else 0
    kind, _, value = unfreeze.partition(":")
    if kind == "stage":
        return _stage(backbone, value)
    if kind not in ("last", "from") or not value.isdecimal():
        raise UsageError(f"unfreeze: expected {_FORMS}. Received: {unfreeze}.")
    number = int(value)
    if number > count:
        raise UsageError(f"unfreeze: {backbone.name} has {count} layers. Received: {unfreeze}.")
    return count - number if kind == "last" else number


def _stage(backbone: Backbone, name: str) -> int:
    if name in backbone.stages:
        return backbone.stages[name]
    known = ", ".join(backbone.stages) or "none: it is not divided into stages"
    hint = nearest(name, backbone.stages)
    raise UsageError(f"unfreeze: {backbone.name} has no stage {name}.{hint} Its stages: {known}.")


def _by_name(pattern: str) -> Predicate:
    try:
        expression = re.compile(pattern)
    except re.error as fault:
        raise UsageError(f"unfreeze: {pattern} is not a regular expression: {fault}.") from fault
    return lambda layer: expression.search(layer.name) is not None


def _matching(backbone: Backbone, wanted: Predicate, plan: str) -> list[keras.layers.Layer]:
    """What a predicate names; a container that is named brings along what it holds."""
    named = _parts(part for part in _parts(backbone.layers) if wanted(part))
    if any(part._trainable_variables and not _is_batch_norm(part) for part in named):
        return named
    if named:
        found = f"only {_some(named)}, without weights that train (batch normalisation never does)"
    else:
        able = [part for part in _parts(backbone.layers) if part._trainable_variables]
        found = f"none; with weights it has {_some(part for part in able if not _is_batch_norm(part))}"
    raise UsageError(f"unfreeze: expected {plan} to name layers of {backbone.name}. It names {found}.")


def _is_batch_norm(layer: keras.layers.Layer) -> bool:
    return isinstance(layer, keras.layers.BatchNormalization)


def _some(layers: Iterable[keras.layers.Layer]) -> str:
    """A few names, from the first layer to the last."""
    names = [layer.name for layer in layers]
    step = max(1, math.ceil(len(names) / _SHOWN))
    return ", ".join(names[::step]) + (f" and {len(names) - len(names[::step])} more" if step > 1 else "")


def _parts(layers: Iterable[keras.layers.Layer]) -> list[keras.layers.Layer]:
    """Layers and the layers within them, every container before what it holds."""
    return [part for layer in layers for part in layer._flatten_layers()]
