"""Architectural changes: a backbone cut shorter, with a layer replaced, or with a block inserted.

Each operation returns a new `Backbone` and leaves the original usable. Both share their layers, as with
`graft` and `cut`: nothing is copied, a layer that trains in one trains in the other, and its `.output` is
that of the network in which it was called first. To separate the two, save and load one of them.

    backbone = cut_at(load_backbone("resnet50"), "conv4")
    backbone = insert_after(backbone, "conv3", cbam)
    backbone = replace_layer(backbone, "conv1_conv", keras.layers.Conv2D(64, 5, strides=2, name="conv1_conv"))
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import keras

from regraft.backbones.graph import find_descendants, find_operation, list_nodes
from regraft.backbones.load import Backbone
from regraft.backbones.preprocessing import list_own_layers
from regraft.errors import UsageError, shorten_error, suggest_nearest

__all__ = ["cut_at", "insert_after", "replace_layer"]

Block = Callable[[keras.KerasTensor], keras.KerasTensor]


def cut_at(backbone: Backbone, name: str) -> Backbone:
    """Return the backbone up to the end of a layer or stage.

    Args:
        backbone: from `load_backbone` or one of these operations.
        name: the name of a layer or of a stage.

    Raises:
        UsageError: there is no such layer or stage, or its output is not one feature map, tokens or vector.

    Example:
        >>> from regraft.backbones.load import load_backbone
        >>> backbone = load_backbone("vgg16", weights="random", image_size=32)
        >>> cut_at(backbone, "block3").model.output_shape
        (None, 4, 4, 256)
    """
    end = _find_end(backbone, name)
    if len(end.shape) not in (2, 3, 4):
        raise UsageError(
            f"{backbone.name} cannot end at {name}: expected a feature map, tokens or a vector. "
            f"Received: {end.shape}."
        )
    model = keras.Model(backbone.model.inputs[0], end, name=backbone.model.name)
    return _make_backbone(backbone, model, stage="", new=(), note="")


def insert_after(backbone: Backbone, name: str, block: Block) -> Backbone:
    """Return the backbone with a block inserted after a layer or stage, whose output now passes through it.

    Args:
        backbone: from `load_backbone` or one of these operations.
        name: the name of a layer or of a stage.
        block: a Keras layer, or a function that calls layers, such as `attention.cbam`. It must keep the
            shape.

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
    last = find_operation(_find_end(backbone, name))

    def call(operation: Any, *inputs: Any, **options: Any) -> Any:
        output = operation(*inputs, **options)
        if operation is not last:
            return output
        result = block(output)
        if getattr(result, "shape", None) != output.shape:
            raise UsageError(
                f"A block after {name} must keep the shape {output.shape}. "
                f"Received: one that makes {getattr(result, 'shape', type(result).__name__)}."
            )
        return result

    model = _rebuild(backbone, call, f"with a block after {name}")
    old = {id(layer) for layer in backbone.model.layers}
    added = [layer for layer in list_own_layers(model) if id(layer) not in old]
    new = tuple(layer.name for layer in added if layer.weights)
    names = ", ".join(new) or ", ".join(layer.name for layer in added) or "operations"
    stage = _map_layers_to_stages(backbone).get(name, name)
    return _make_backbone(backbone, model, stage=stage, new=new, note=f"after {name} new: {names}")


def replace_layer(backbone: Backbone, name: str, layer: keras.layers.Layer) -> Backbone:
    """Return the backbone with a layer replaced, for example by one with another kernel size.

    Weights with the names and shapes of the old layer's (mostly the bias) are copied from it; the others
    start from the new layer's initializers.

    Args:
        backbone: from `load_backbone` or one of these operations.
        name: the name of a layer.
        layer: the new layer, for the same input. If it has weights already, it keeps them. Give it the old
            layer's name if its stage is to be recognised after saving and loading.

    Returns:
        A backbone whose `new_layers` names the layer unless all of its weights were copied.

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
    old = _find_layer(backbone, name)
    has_weights = bool(layer.weights)

    def call(operation: Any, *inputs: Any, **options: Any) -> Any:
        return (layer if operation is old else operation)(*inputs, **options)

    model = _rebuild(backbone, call, f"with {name} replaced")
    copied = [] if has_weights else _copy_fitting_weights(old, layer)
    untrained = [weight for weight in _map_weights(layer) if weight not in copied]
    lists = {"new": untrained, "kept": copied}
    note = ", ".join(f"{word} {' '.join(weights)}" for word, weights in lists.items() if weights)
    return _make_backbone(
        backbone,
        model,
        stage=_map_layers_to_stages(backbone).get(name, name),
        new=(layer.name,) if untrained else (),
        note=f"{name} replaced" + (f": {note}" if note else ""),
    )


# --- the end of a layer or stage


def _find_layer(backbone: Backbone, name: str) -> keras.layers.Layer:
    for layer in backbone.layers:
        if layer.name == name:
            return layer
    names = [layer.name for layer in backbone.layers]
    stages = ", ".join(backbone.stages) or "none"
    raise UsageError(
        f"{backbone.name} has no layer {name}.{suggest_nearest(name, [*names, *backbone.stages])} "
        f"It has {len(names)} layers, {names[0]} to {names[-1]}; its stages: {stages}."
    )


def _find_end(backbone: Backbone, name: str) -> keras.KerasTensor:
    """Return the one tensor that leaves a layer or stage."""
    if name in backbone.stages and all(layer.name != name for layer in backbone.layers):
        leaving = _find_leaving(backbone, name)
    else:
        layer = _find_layer(backbone, name)
        leaving = [
            tensor
            for node in list_nodes(backbone.model)
            if node.operation is layer
            for tensor in node.outputs
        ]
    if len(leaving) != 1:
        makers = ", ".join(find_operation(tensor).name for tensor in leaving)
        raise UsageError(
            f"Expected one tensor to leave {name} of {backbone.name}. Received: {len(leaving)}, made by "
            f"{makers}. Name a layer where the branches have met."
        )
    return leaving[0]


def _find_leaving(backbone: Backbone, stage: str) -> list[keras.KerasTensor]:
    """Return the tensors made up to the end of a stage and used after it, or the model's output."""
    later = [start for start in backbone.stages.values() if start > backbone.stages[stage]]
    nodes = list_nodes(backbone.model)
    # An operation that is not a layer has no index; it belongs to the last stage that feeds it.
    after = find_descendants(nodes, {id(layer) for layer in backbone.layers[min(later) :]} if later else ())
    after_ids = {id(node) for node in after}
    used = {id(tensor) for node in after for tensor in node.input_tensors} | {id(backbone.model.outputs[0])}
    before = [node for node in nodes if id(node) not in after_ids]
    return [tensor for node in before for tensor in node.outputs if id(tensor) in used]


# --- the changed backbone


def _rebuild(backbone: Backbone, call: Callable[..., Any], change: str) -> keras.Model:
    """Call the same layers again by `call`, in the order of the graph."""
    try:
        return keras.models.clone_model(
            backbone.model, clone_function=lambda operation: operation, call_function=call
        )
    except UsageError:
        raise
    except Exception as fault:  # Keras documents no type for shapes that do not fit, nor for equal names
        raise UsageError(
            f"{backbone.name} cannot be built {change}. Keras says: {shorten_error(fault)}"
        ) from fault


def _map_layers_to_stages(backbone: Backbone) -> dict[str, str]:
    """Return the stage of each layer, by name."""
    starts = {start: name for name, start in backbone.stages.items()}
    stages, stage = {}, ""
    for number, layer in enumerate(backbone.layers):
        stage = starts.get(number, stage)
        stages[layer.name] = stage
    return stages


def _make_backbone(
    backbone: Backbone, model: keras.Model, *, stage: str, new: tuple[str, ...], note: str
) -> Backbone:
    """Return the backbone around a changed model; layers that it did not have belong to `stage`."""
    layers, old_stages = tuple(list_own_layers(model)), _map_layers_to_stages(backbone)
    starts: dict[str, int] = {}
    for number, layer in enumerate(layers):
        starts.setdefault(old_stages.get(layer.name, stage), number)
    return replace(
        backbone,
        model=model,
        layers=layers,
        stages={name: number for name, number in starts.items() if name},
        weights="; ".join(filter(None, (backbone.weights, note))),
        new_layers=tuple(layer.name for layer in layers if layer.name in (*backbone.new_layers, *new)),
    )


def _copy_fitting_weights(old: keras.layers.Layer, new: keras.layers.Layer) -> list[str]:
    """Copy the weights whose names and shapes fit; return the names."""
    source, target = _map_weights(old), _map_weights(new)
    fitting = [name for name in target if name in source and target[name].shape == source[name].shape]
    for name in fitting:
        target[name].assign(source[name])
    return fitting


def _map_weights(layer: keras.layers.Layer) -> dict[str, keras.Variable]:
    """Return a layer's weights by their path within it: "kernel", "bias"."""
    return {weight.path.removeprefix(f"{layer.path}/"): weight for weight in layer.weights}
