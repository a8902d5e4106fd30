"""`HeadSpec` -> Keras layers; `graft` puts them on a backbone."""

from __future__ import annotations

import keras

from regraft.backbone.load import Backbone
from regraft.errors import UsageError
from regraft.recipe import HeadSpec

__all__ = ["OUTPUT", "graft", "pooled"]

OUTPUT = "head_output"  # name of the Dense layer that answers

_POOL, _DROPOUT = "head_pool", "head_dropout"
_POOLINGS = {"avg": keras.layers.GlobalAveragePooling2D, "max": keras.layers.GlobalMaxPooling2D}


def pooled(backbone: Backbone, head: HeadSpec) -> keras.KerasTensor:
    """The backbone's answer as one vector an image.

    Args:
        backbone: from `load_backbone`.
        head: its pooling, over the feature map; a backbone that gives a vector is taken as it is.

    Returns:
        A symbolic tensor of shape (batch, features), part of the graph of `backbone.model`.
    """
    features = backbone.model.outputs[0]
    if len(features.shape) == 2:
        return features
    return _POOLINGS[head.pooling](name=_POOL)(features)


def graft(
    backbone: Backbone, head: HeadSpec, *, task: str = "multiclass", outputs: int, seed: int = 0
) -> keras.Model:
    """A new head on a backbone: pooling, dropout, one Dense layer.

    Args:
        backbone: from `load_backbone`; its layers become the model's own, not copies.
        head: pooling and dropout.
        task: "multiclass", whose output is a softmax over `outputs` classes.
        outputs: number of classes.
        seed: of the dropout and of the Dense layer's first weights.

    Returns:
        An ordinary Functional `keras.Model`, float RGB pixels (batch, size, size, 3) in 0..255 to
        probabilities (batch, outputs), not compiled.

    Raises:
        UsageError: an unknown task, or a backbone that has a head of regraft's already.

    Example:
        >>> from regraft.backbone.load import load_backbone
        >>> backbone = load_backbone("vgg16", weights="random", image_size=32)
        >>> graft(backbone, HeadSpec(), outputs=10).output_shape
        (None, 10)
    """
    if task != "multiclass":
        raise UsageError(f'task: expected "multiclass". Received: {task!r}.')
    if any(layer.name in (_POOL, _DROPOUT, OUTPUT) for layer in backbone.layers):
        raise UsageError(
            f"{backbone.name} has a head already: it was trained by regraft. Give the backbone by its name, "
            "or the model without its last layers."
        )
    vector = pooled(backbone, head)
    if head.dropout:
        vector = keras.layers.Dropout(head.dropout, seed=seed, name=_DROPOUT)(vector)
    start = keras.initializers.GlorotUniform(seed=seed)
    dense = keras.layers.Dense(
        outputs, activation="softmax", kernel_initializer=start, name=OUTPUT, dtype="float32"
    )
    return keras.Model(backbone.model.inputs[0], dense(vector), name=f"regraft_{backbone.name}")
