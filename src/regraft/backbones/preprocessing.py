"""The pixel contracts: the scale and order of colours that a backbone was trained on, as part of its graph.

Outside a graph, pixels are RGB, 0..255, everywhere. This module puts each backbone's convention in front of
it in plain Keras layers, so that a saved model takes plain RGB and opens without regraft.

| contract | what the backbone sees | families |
|---|---|---|
| `tf` | RGB in -1..1 | MobileNet, MobileNetV2, ResNetV2, Inception, Xception, NASNet |
| `torch` | RGB, standardised by ImageNet's mean and deviation of each channel | DenseNet |
| `caffe` | BGR minus ImageNet's mean of each channel | ResNet, VGG |
| `raw` | RGB, 0..255: the backbone itself converts | MobileNetV3, EfficientNet, EfficientNetV2, ConvNeXt |
| `unit` | RGB in 0..1 | TensorFlow Hub's and Kaggle's SavedModels |

A KerasHub preset brings its own scale and offset for each channel: `rescale` puts those in front, and
`find_contract` calls them `preset`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import keras

from regraft.errors import UsageError, suggest_nearest

__all__ = [
    "CAFFE_MEAN",
    "CONTRACTS",
    "DEVIATION",
    "MEAN",
    "apply_contract",
    "check_contract",
    "find_contract",
    "list_own_layers",
    "rescale",
]

# ImageNet's channels, R G B, on the scale 0..1; as in keras.applications.imagenet_utils.
MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)
# ImageNet's means on the scale 0..255 in the order B G R, as Caffe's reference models subtract them.
CAFFE_MEAN = (103.939, 116.779, 123.68)

_PREFIX = "pixels_"
_PRESET = "preset"


def _apply_torch(x: keras.KerasTensor) -> keras.KerasTensor:
    mean = [255 * m for m in MEAN]
    variance = [(255 * d) ** 2 for d in DEVIATION]
    return keras.layers.Normalization(mean=mean, variance=variance, name=_PREFIX + "torch")(x)


def _apply_caffe(x: keras.KerasTensor) -> keras.KerasTensor:
    # The graph records the flip as an operation: no layer of ours, no Lambda, no `training` argument.
    x = keras.ops.flip(x, axis=-1)
    return keras.layers.Normalization(
        mean=list(CAFFE_MEAN), variance=[1.0, 1.0, 1.0], name=_PREFIX + "caffe"
    )(x)


def rescale(
    x: keras.KerasTensor,
    scale: float | Sequence[float],
    offset: float | Sequence[float],
    contract: str = _PRESET,
) -> keras.KerasTensor:
    """Return `x * scale + offset`, with one figure for all channels or one for each.

    >>> image = keras.Input((8, 8, 3))
    >>> model = keras.Model(image, rescale(image, [1 / 255] * 3, [0.0, -0.5, -1.0]))
    >>> model.predict_on_batch(keras.ops.zeros((1, 8, 8, 3)))[0, 0, 0].tolist()
    [0.0, -0.5, -1.0]
    """
    return keras.layers.Rescaling(scale, offset=offset, name=_PREFIX + contract)(x)


CONTRACTS: dict[str, Callable[[keras.KerasTensor], keras.KerasTensor]] = {
    "tf": partial(rescale, scale=1 / 127.5, offset=-1.0, contract="tf"),
    "torch": _apply_torch,
    "caffe": _apply_caffe,
    "raw": lambda x: x,
    "unit": partial(rescale, scale=1 / 255, offset=0.0, contract="unit"),
}


def check_contract(contract: str) -> None:
    """Raise UsageError, which suggests the nearest name, where no contract has this name."""
    if contract not in CONTRACTS:
        raise UsageError(
            f"pixels: a pixel contract is one of {', '.join(CONTRACTS)}. Received: {contract!r}."
            f"{suggest_nearest(str(contract), CONTRACTS)}"
        )


def apply_contract(contract: str, x: keras.KerasTensor) -> keras.KerasTensor:
    """Return what a backbone with this contract sees of pixels.

    Args:
        contract: `"tf"`, `"torch"`, `"caffe"`, `"raw"` or `"unit"`.
        x: symbolic tensor of shape `(batch, height, width, 3)`: RGB, float, 0..255.

    Returns:
        A symbolic tensor of the same shape. For `"raw"` it is `x` itself.

    Raises:
        UsageError: no contract has that name.

    Example:
        >>> image = keras.Input((8, 8, 3))
        >>> model = keras.Model(image, apply_contract("tf", image))
        >>> model.predict_on_batch(keras.ops.zeros((1, 8, 8, 3))).min()
        np.float32(-1.0)
    """
    check_contract(contract)
    return CONTRACTS[contract](x)


def find_contract(layer: keras.layers.Layer) -> str | None:
    """Return the contract that a layer belongs to, also after saving and loading; None for other layers.

    >>> find_contract(keras.layers.Rescaling(1 / 127.5, name="pixels_tf"))
    'tf'
    """
    name = str(layer.name)
    contract = name.removeprefix(_PREFIX)
    return contract if contract in (*CONTRACTS, _PRESET) and name != contract else None


def list_own_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """Return the layers of a model without its input layer and the pixel contract in front of it."""
    layers = (layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer))
    return [layer for layer in layers if not find_contract(layer)]
