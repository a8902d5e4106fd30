"""Grad-CAM by the gradients of a backend, as a reference for heat maps; also a program, for another backend.

    KERAS_BACKEND=jax python grad_cam.py HEAD MAPS UNIT OUT

writes the Grad-CAM of maps to an .npy file.
"""

from __future__ import annotations

import sys

import keras
import numpy as np


def compute_grad_cam(head: keras.Model, maps: np.ndarray, unit: int) -> np.ndarray:
    """The channels of maps weighted by the mean gradient of a decision value, (n, height, width).

    `head` is a model from maps to answers that ends with a Dense layer and its softmax.
    """
    answers = head.layers[-1]
    linear = keras.layers.Dense(answers.units)
    decide = keras.Model(head.inputs[0], linear(answers.input))
    linear.set_weights(answers.get_weights())
    tensor = keras.ops.convert_to_tensor(maps)
    if keras.backend.backend() == "jax":
        import jax

        gradient = jax.grad(lambda x: decide(x, training=False)[:, unit].sum())(tensor)
    else:
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(tensor)
            decision = decide(tensor, training=False)[:, unit]
        gradient = tape.gradient(decision, tensor)
    weights = np.asarray(gradient).mean(axis=(1, 2), keepdims=True)
    return (weights * maps).sum(axis=-1)


if __name__ == "__main__":
    model, features, number, out = sys.argv[1:]
    np.save(out, compute_grad_cam(keras.models.load_model(model), np.load(features), int(number)))
