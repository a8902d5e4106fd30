"""The pixel contracts: what a backbone was trained to see, as pieces of its own graph.

Outside a graph pixels are RGB, 0..255, everywhere. Each backbone's convention is put in front of it here, in
plain Keras pieces, so that a saved model takes plain RGB and opens without regraft.

| contract | what the backbone sees | families |
|---|---|---|
| `tf` | RGB in -1..1 | MobileNet, MobileNetV2, ResNetV2, Inception, Xception, NASNet |
| `torch` | RGB, standardised with ImageNet's mean and deviation a channel | DenseNet |
| `caffe` | BGR less ImageNet's mean a channel | ResNet, VGG |
| `raw` | RGB, 0..255: the backbone itself converts | MobileNetV3, EfficientNet, EfficientNetV2, ConvNeXt |
| `unit` | RGB in 0..1 | TensorFlow Hub's and Kaggle's SavedModels |

A KerasHub preset brings figures of its own, a scale and an offset a channel: `rescaled` puts those in front,
and `contract_of` calls them `preset`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import keras

from regraft.errors import UsageError, nearest

__all__ = ["CONTRACTS", "apply_contract", "check_contract", "contract_of", "own_layers", "rescaled"]

# ImageNet's channels, R G B, on the scale 0..1; as in keras.applications.imagenet_utils.
_MEAN = (0.485, 0.456, 0.406)
_DEVIATION = (0.229, 0.224, 0.225)
# ImageNet's means on the scale 0..255 in the order B G R, as Caffe's reference models subtract them.
_CAFFE_MEAN = (103.939, 116.779, 123.68)

_PREFIX = "pixels_"
_PRESET = "preset"


def _torch(x: keras.KerasTensor) -> keras.KerasTensor:
    mean = [255 * m for m in _MEAN]
    variance = [(255 * d) ** 2 for d in _DEVIATION]
    return keras.layers.Normalization(mean=mean, variance=variance, name=_PREFIX + "torch")(x)


def _caffe(x: keras.KerasTensor) -> keras.KerasTensor:
    # The flip is recorded as an operation of the graph: no layer of ours, no Lambda, no `training` argument.
    x = keras.ops.flip(x, axis=-1)
    return keras.layers.Normalization(
        mean=list(_CAFFE_MEAN), variance=[1.0, 1.0, 1.0], name=_PREFIX + "caffe"
    )(x)


def rescaled(
    x: keras.KerasTensor,
    scale: float | Sequence[float],
    offset: float | Sequence[float],
    contract: str = _PRESET,
) -> keras.KerasTensor:
    """What a preset with figures of its own sees: `x * scale + offset`, one figure or one a channel.

    >>> image = keras.Input((8, 8, 3))
    >>> model = keras.Model(image, rescaled(image, [1 / 255] * 3, [0.0, -0.5, -1.0]))
    >>> model.predict_on_batch(keras.ops.zeros((1, 8, 8, 3)))[0, 0, 0].tolist()
    [0.0, -0.5, -1.0]
    """
    return keras.layers.Rescaling(scale, offset=offset, name=_PREFIX + contract)(x)


CONTRACTS: dict[str, Callable[[keras.KerasTensor], keras.KerasTensor]] = {
    "tf": partial(rescaled, scale=1 / 127.5, offset=-1.0, contract="tf"),
    "torch": _torch,
    "caffe": _caffe,
    "raw": lambda x: x,
    "unit": partial(rescaled, scale=1 / 255, offset=0.0, contract="unit"),
}


def check_contract(contract: str) -> None:
    """Raise UsageError, which names the nearest one, where no contract is called so."""
    if contract not in CONTRACTS:
        raise UsageError(
            f"pixels: a pixel contract is one of {', '.join(CONTRACTS)}. Received: {contract!r}."
            f"{nearest(str(contract), CONTRACTS)}"
        )


def apply_contract(contract: str, x: keras.KerasTensor) -> keras.KerasTensor:
    """What the backbone sees, from pixels.

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


def contract_of(layer: keras.layers.Layer) -> str | None:
    """The contract that `layer` is a piece of, also after saving and loading; None for any other layer.

    >>> contract_of(keras.layers.Rescaling(1 / 127.5, name="pixels_tf"))
    'tf'
    """
    name = str(layer.name)
    contract = name.removeprefix(_PREFIX)
    return contract if contract in (*CONTRACTS, _PRESET) and name != contract else None


def own_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """List the layers of a model without its input layer and the pixel contract in front of it."""
    layers = (layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer))
    return [layer for layer in layers if not contract_of(layer)]
