"""A model of one image -> a model of samples with several images, whose features are pooled."""

from __future__ import annotations

import keras

__all__ = ["over_photos"]


def over_photos(prefix: keras.Model, head: keras.Model, photos: int) -> keras.Model:
    """The frozen part runs over every image, its tensors are averaged over a sample's, the head answers.

    Args:
        prefix: pixels (batch, size, size, 3) -> dictionary of tensors, in the order of the head's inputs.
        head: those tensors -> answers (batch, units).
        photos: images a sample.

    Returns:
        An ordinary Functional model, RGB pixels 0..255 (batch, photos, size, size, 3) to answers.

    Example:
        >>> image = keras.Input((4, 4, 3))
        >>> mean = keras.Model(image, {"mean": keras.layers.GlobalAveragePooling2D()(image)})
        >>> given = keras.Input((3,))
        >>> both = over_photos(mean, keras.Model(given, keras.layers.Dense(2)(given)), 2)
        >>> both.input_shape, both.output_shape
        ((None, 2, 4, 4, 3), (None, 2))
    """
    shape = prefix.inputs[0].shape[1:]
    pixels = keras.Input((photos, *shape), name="images")
    each = prefix(keras.ops.reshape(pixels, (-1, *shape)))
    means = [
        keras.ops.mean(keras.ops.reshape(tensor, (-1, photos, *tensor.shape[1:])), axis=1)
        for tensor in each.values()
    ]
    return keras.Model(pixels, head(means if len(means) > 1 else means[0]), name="regraft_over_photos")
