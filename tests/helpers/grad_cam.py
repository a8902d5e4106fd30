"""Grad-CAM by the gradients of a backend, as a reference for heat maps; also a program, for another backend.

    KERAS_BACKEND=jax python grad_cam.py MODEL LAYER PIXELS UNIT OUT

writes the layer's map and its Grad-CAM to an .npz file.
"""

from __future__ import annotations

import sys

import keras
import numpy as np


def compute_grad_cam(model, layer: str, pixels: np.ndarray, unit: int) -> tuple[np.ndarray, np.ndarray]:
    """The map of a layer, and its channels weighted by the mean gradient of a decision value."""
    tensor = model.get_layer(layer).output
    answers = model.layers[-1]
    linear = keras.layers.Dense(answers.units)
    decisions = linear(answers.input)
    linear.set_weights(answers.get_weights())
    head = keras.Model(tensor, decisions)
    inner = keras.Model(model.inputs[0], tensor)
    maps = keras.ops.convert_to_tensor(inner(pixels.astype("float32"), training=False))
    if keras.backend.backend() == "jax":
        import jax

        gradient = jax.grad(lambda x: head(x, training=False)[:, unit].sum())(maps)
    else:
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(maps)
            decision = head(maps, training=False)[:, unit]
        gradient = tape.gradient(decision, maps)
    maps, gradient = np.asarray(maps), np.asarray(gradient)
    weights = gradient.mean(axis=(1, 2), keepdims=True)
    return maps, (weights * maps).sum(axis=-1)


if __name__ == "__main__":
    file, name, images, number, out = sys.argv[1:]
    features, heat = compute_grad_cam(keras.models.load_model(file), name, np.load(images), int(number))
    np.savez(out, map=features, heat=heat)
