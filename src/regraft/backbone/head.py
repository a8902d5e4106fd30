"""`HeadSpec` -> Keras layers; `graft` puts them on a backbone."""

from __future__ import annotations

import keras

from regraft.backbone.load import Backbone
from regraft.recipe import HeadSpec

__all__ = ["OUTPUT", "graft", "pooled"]

OUTPUT = "head_output"  # name of the Dense layer that answers

_POOLINGS = {"avg": keras.layers.GlobalAveragePooling2D, "max": keras.layers.GlobalMaxPooling2D}


def pooled(backbone: Backbone, head: HeadSpec) -> keras.KerasTensor:
    """The backbone's answer as one vector an image: a symbolic tensor of shape (batch, features)."""
    features = backbone.model.outputs[0]
    if len(features.shape) == 2:
        return features
    return _POOLINGS[head.pooling](name="head_pool")(features)


def graft(
    backbone: Backbone, head: HeadSpec, *, task: str = "multiclass", outputs: int, seed: int = 0
) -> keras.Model:
    """A new head on a backbone: pooling, dropout, one Dense layer.

    Args:
        backbone: from `load_backbone`; its layers become the model's own, not copies.
        head: pooling and dropout.
        task: "multiclass", whose output is a softmax over `outputs` classes.
        outputs: number of classes.
        seed: of the dropout.

    Returns:
        An ordinary Functional `keras.Model`, float RGB pixels (batch, size, size, 3) in 0..255 to
        probabilities (batch, outputs), not compiled.
    """
    if task != "multiclass":
        raise ValueError(f'Expected the task "multiclass". Received: {task!r}.')
    vector = pooled(backbone, head)
    if head.dropout:
        vector = keras.layers.Dropout(head.dropout, seed=seed, name="head_dropout")(vector)
    answer = keras.layers.Dense(outputs, activation="softmax", name=OUTPUT, dtype="float32")(vector)
    return keras.Model(backbone.model.inputs[0], answer, name=f"regraft_{backbone.name}")
