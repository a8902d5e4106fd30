"""Architectural changes: a backbone cut shorter, with a layer replaced, or with a block inserted.

Each operation returns a new `Backbone` and leaves the one it was given as usable as before. Both share
their layers, as `graft` and `cut` do: nothing is copied, what trains in one trains in the other, and a shared
layer's `.output` is that of the network in which it was called first. To have them apart, save and load one.

    backbone = cut_at(load_backbone("resnet50"), "conv4")
    backbone = insert_after(backbone, "conv3", cbam)
    backbone = replace_layer(backbone, "conv1_conv", keras.layers.Conv2D(64, 5, strides=2, name="conv1_conv"))
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import keras

from regraft.backbones.graph import nodes_of
from regraft.backbones.load import Backbone
from regraft.backbones.preprocessing import own_layers
from regraft.errors import UsageError, brief, nearest

__all__ = ["cut_at", "insert_after", "replace_layer"]

Block = Callable[[keras.KerasTensor], keras.KerasTensor]


def cut_at(backbone: Backbone, name: str) -> Backbone:
    """The backbone up to the end of a layer or stage; what comes after it is removed.

    Args:
        backbone: from `load_backbone`, or changed already.
        name: of a layer, or of a stage.

    Raises:
        UsageError: there is no such layer or stage, or what leaves it is not one feature map or vector.

    Example:
        >>> from regraft.backbones.load import load_backbone
        >>> backbone = load_backbone("vgg16", weights="random", image_size=32)
        >>> cut_at(backbone, "block3").model.output_shape
        (None, 4, 4, 256)
    """
    end = _end(backbone, name)
    if len(end.shape) not in (2, 3, 4):
        raise UsageError(
            f"{backbone.name} cannot end at {name}: expected a feature map, tokens or a vector. "
            f"Received: {end.shape}."
        )
    model = keras.Model(backbone.model.inputs[0], end, name=backbone.model.name)
    return _changed(backbone, model, stage="", new=(), note="")


def insert_after(backbone: Backbone, name: str, block: Block) -> Backbone:
    """The backbone with a block put in where a layer or stage ends; whatever used that end uses the block.

    Args:
        backbone: from `load_backbone`, or changed already.
        name: of a layer, or of a stage.
        block: a Keras layer, or a function that calls layers, such as `attention.cbam`. It keeps the shape.

    Returns:
        A backbone whose `new_layers` names the block's layers with weights; they train under every plan.

    Raises:
        UsageError: there is no such layer or stage, the block changes the shape, or a name is taken.

    Example:
        >>> from regraft.models.attention import squeeze_excitation
        >>> from regraft.backbones.load import load_backbone
        >>> backbone = load_backbone("vgg16", weights="random", image_size=32)
        >>> insert_after(backbone, "block4", squeeze_excitation).new_layers
        ('se_reduce', 'se_expand')
    """
    end = _end(backbone, name)
    operation = end._keras_history.operation

    def call(each: Any, *inputs: Any, **options: Any) -> Any:
        given = each(*inputs, **options)
        if each is not operation:
            return given
        made = block(given)
        if getattr(made, "shape", None) != given.shape:
            raise UsageError(
                f"A block after {name} must keep the shape {given.shape}. "
                f"Received: one that makes {getattr(made, 'shape', type(made).__name__)}."
            )
        return made

    model = _rebuilt(backbone, call, f"with a block after {name}")
    known = {id(layer) for layer in backbone.model.layers}
    added = [layer for layer in own_layers(model) if id(layer) not in known]
    new = tuple(layer.name for layer in added if layer.weights)
    words = ", ".join(new) or ", ".join(layer.name for layer in added) or "operations"
    return _changed(
        backbone, model, stage=_stages(backbone).get(name, name), new=new, note=f"after {name} new: {words}"
    )


def replace_layer(backbone: Backbone, name: str, layer: keras.layers.Layer) -> Backbone:
    """The backbone with another layer in a layer's place, for example one with another kernel size.

    Weights whose names and shapes are those of the old layer are taken over (mostly the bias); the others
    start as the layer's initializers say.

    Args:
        backbone: from `load_backbone`, or changed already.
        name: of a layer.
        layer: takes what the old one took. One that has weights already keeps them. Give it the old one's
            name if its stage is to be found again after saving and loading.

    Returns:
        A backbone whose `new_layers` names the layer unless all of its weights were taken over.

    Raises:
        UsageError: there is no such layer, or the network cannot be built with the new one, for example
            because its name is taken.

    Example:
        >>> from regraft.backbones.load import load_backbone
        >>> backbone = load_backbone("vgg16", weights="random", image_size=32)
        >>> wide = keras.layers.Conv2D(64, 5, padding="same", activation="relu", name="block1_conv1")
        >>> replace_layer(backbone, "block1_conv1", wide).weights
        'random (seed 0); block1_conv1 replaced: new kernel, kept bias'
    """
    old = _layer(backbone, name)
    has_own = bool(layer.weights)

    def call(each: Any, *inputs: Any, **options: Any) -> Any:
        return (layer if each is old else each)(*inputs, **options)

    model = _rebuilt(backbone, call, f"with {name} replaced")
    kept = [] if has_own else _take_over(old, layer)
    fresh = [weight for weight in _by_place(layer) if weight not in kept]
    note = f"{name} replaced"
    for word, weights in (("new", fresh), ("kept", kept)):
        note += f"{',' if word == 'kept' and fresh else ':'} {word} {' '.join(weights)}" if weights else ""
    new = (layer.name,) if fresh else ()
    return _changed(backbone, model, stage=_stages(backbone).get(name, name), new=new, note=note)


# --- where a layer or stage ends


def _layer(backbone: Backbone, name: str) -> keras.layers.Layer:
    for layer in backbone.layers:
        if layer.name == name:
            return layer
    names = [layer.name for layer in backbone.layers]
    stages = ", ".join(backbone.stages) or "none"
    raise UsageError(
        f"{backbone.name} has no layer {name}.{nearest(name, [*names, *backbone.stages])} "
        f"It has {len(names)} layers, {names[0]} to {names[-1]}; its stages: {stages}."
    )


def _end(backbone: Backbone, name: str) -> keras.KerasTensor:
    """The one tensor that leaves a layer or stage."""
    if name in backbone.stages and all(layer.name != name for layer in backbone.layers):
        leaving = _leaving(backbone, name)
    else:
        layer = _layer(backbone, name)
        leaving = [
            tensor for node in nodes_of(backbone.model) if node.operation is layer for tensor in node.outputs
        ]
    if len(leaving) != 1:
        makers = ", ".join(tensor._keras_history.operation.name for tensor in leaving)
        raise UsageError(
            f"Expected one tensor to leave {name} of {backbone.name}. Received: {len(leaving)}, made by "
            f"{makers}. Name a layer where the branches have met."
        )
    return leaving[0]


def _leaving(backbone: Backbone, stage: str) -> list[keras.KerasTensor]:
    """The tensors made up to the end of a stage and used after it, or the model's output."""
    later = [start for start in backbone.stages.values() if start > backbone.stages[stage]]
    after = {id(layer) for layer in backbone.layers[min(later) :]} if later else set()
    inside: dict[int, keras.KerasTensor] = {}
    used = {id(backbone.model.outputs[0])}
    for node in nodes_of(backbone.model):
        # An operation that is no layer has no number; it belongs to the last stage that feeds it.
        fed = all(id(tensor) in inside for tensor in node.input_tensors)
        if id(node.operation) not in after and fed:
            inside |= {id(tensor): tensor for tensor in node.outputs}
        else:
            used |= {id(tensor) for tensor in node.input_tensors}
    return [tensor for key, tensor in inside.items() if key in used]


# --- the changed backbone


def _rebuilt(backbone: Backbone, call: Callable[..., Any], words: str) -> keras.Model:
    """The same layers called again, in the order of the graph, by `call`."""
    try:
        model = keras.models.clone_model(backbone.model, clone_function=lambda each: each, call_function=call)
    except UsageError:
        raise
    except Exception as fault:  # Keras names no type for shapes that do not fit, nor for equal names
        raise UsageError(f"{backbone.name} cannot be built {words}. Keras says: {brief(fault)}") from fault
    return model


def _stages(backbone: Backbone) -> dict[str, str]:
    """Name of a layer -> name of its stage."""
    starts = {start: name for name, start in backbone.stages.items()}
    found, stage = {}, ""
    for number, layer in enumerate(backbone.layers):
        stage = starts.get(number, stage)
        found[layer.name] = stage
    return found


def _changed(
    backbone: Backbone, model: keras.Model, *, stage: str, new: tuple[str, ...], note: str
) -> Backbone:
    """The backbone around a changed model; layers it did not have belong to `stage`."""
    layers, stage_of = tuple(own_layers(model)), _stages(backbone)
    starts: dict[str, int] = {}
    for number, layer in enumerate(layers):
        starts.setdefault(stage_of.get(layer.name, stage), number)
    return replace(
        backbone,
        model=model,
        layers=layers,
        stages={name: number for name, number in starts.items() if name},
        weights="; ".join(filter(None, (backbone.weights, note))),
        new_layers=tuple(layer.name for layer in layers if layer.name in (*backbone.new_layers, *new)),
    )


def _take_over(old: keras.layers.Layer, new: keras.layers.Layer) -> list[str]:
    """Copy the weights that fit; their names."""
    source, target = _by_place(old), _by_place(new)
    kept = [place for place in target if place in source and target[place].shape == source[place].shape]
    for place in kept:
        target[place].assign(source[place])
    return kept


def _by_place(layer: keras.layers.Layer) -> dict[str, keras.Variable]:
    """Weights by their path within the layer: "kernel", "bias"."""
    return {weight.path.removeprefix(f"{layer.path}/"): weight for weight in layer.weights}
