"""What a network does to pixels before its first layer with weights, read from the graph and not from names.

Preprocessing is a change of each colour channel by a scale and an offset, at most in another order of the
channels. Keras writes it in many ways: `Rescaling`, `Normalization`, the operations that `preprocess_input`
of `keras.applications` leaves in a graph. So the graph is asked instead: it is run on a few plain colours.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
import numpy as np
from numpy.typing import NDArray

from regraft.backbones.graph import find_node, list_nodes
from regraft.backbones.preprocessing import CAFFE_MEAN, DEVIATION, MEAN

__all__ = ["CONTRACT_MAPS", "PixelMap", "find_entry_tensor", "name_contract", "trace_pixels"]

TOLERANCE = 0.02  # of the range of values, by which two maps may differ and mean the same


class PixelMap(NamedTuple):
    """An affine map of RGB pixels 0..255: `pixels @ matrix + offset`, matrix (3, 3), offset (3,)."""

    matrix: NDArray[np.float64]
    offset: NDArray[np.float64]

    @classmethod
    def from_channels(cls, scale: Any, offset: Any, *, is_bgr: bool = False) -> PixelMap:
        """Return the map with one scale and offset for each channel of the result."""
        order = np.eye(3)[:, ::-1] if is_bgr else np.eye(3)
        return cls(order * np.asarray(scale), np.zeros(3) + offset)

    def apply(self, pixels: NDArray[Any]) -> NDArray[np.float32]:
        """Return what a network sees of pixels (..., 3)."""
        return (pixels @ self.matrix + self.offset).astype(np.float32)

    def is_near(self, other: PixelMap) -> bool:
        """Return whether two maps give the same values, but for a small share of their range."""
        mine, others = self.apply(_COLOURS), other.apply(_COLOURS)
        return bool(np.abs(mine - others).max() <= TOLERANCE * np.ptp(others))

    def __str__(self) -> str:
        corners = self.apply(_COLOURS).round(4) + 0.0
        order = " in the order BGR" if abs(self.matrix[2, 0]) > abs(self.matrix[0, 0]) else ""
        return f"{corners.min():.4g}..{corners.max():.4g}{order}"


# Black, the three colours, white, and others in between.
_COLOURS = np.array(
    [[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [60, 130, 220], [200, 90, 30]], float
)

CONTRACT_MAPS = {
    "raw": PixelMap.from_channels(1, 0),
    "unit": PixelMap.from_channels(1 / 255, 0),
    "tf": PixelMap.from_channels(1 / 127.5, -1),
    "torch": PixelMap.from_channels(1 / (255 * np.array(DEVIATION)), -np.array(MEAN) / np.array(DEVIATION)),
    "caffe": PixelMap.from_channels(1, -np.array(CAFFE_MEAN), is_bgr=True),
}


def name_contract(pixel_map: PixelMap) -> str | None:
    """Return the contract that a map is that of; None where it is another map.

    >>> name_contract(PixelMap.from_channels(1 / 128, -127 / 128))
    'tf'
    """
    return next((name for name, other in CONTRACT_MAPS.items() if pixel_map.is_near(other)), None)


def find_entry_tensor(model: keras.Model) -> Any:
    """Return the image that the first layer with weights takes; None where that is no RGB image.

    A `Normalization` has settings, not weights, and borders are added to an image that is converted already.
    """
    for node in list_nodes(model):
        operation = node.operation
        is_statistic = isinstance(operation, keras.layers.Normalization)
        if node.is_input or is_statistic or not getattr(operation, "weights", None):
            continue
        tensor = node.input_tensors[0]
        while isinstance((maker := find_node(tensor)).operation, keras.layers.ZeroPadding2D):
            tensor = maker.input_tensors[0]
        return tensor if len(tensor.shape) == 4 and tensor.shape[-1] == 3 else None
    return None


def trace_pixels(model: keras.Model, tensor: Any) -> PixelMap | None:
    """Return how pixels become a tensor of a graph; None where that is no affine map of the colours.

    Args:
        model: RGB pixels 0..255, of a fixed size.
        tensor: from `find_entry_tensor`.

    Example:
        >>> image = keras.Input((8, 8, 3))
        >>> model = keras.Model(image, keras.layers.Conv2D(4, 3)(keras.layers.Rescaling(1 / 255)(image)))
        >>> print(trace_pixels(model, find_entry_tensor(model)))
        0..1
    """
    image = model.inputs[0]
    if tensor is image:
        return CONTRACT_MAPS["raw"]
    plain = np.broadcast_to(_COLOURS[:, None, None], (len(_COLOURS), *image.shape[1:])).astype(np.float32)
    try:
        conversion = keras.Model(image, tensor)
    except ValueError:  # other tensors than the image lead there
        return None
    seen = keras.ops.convert_to_numpy(conversion(plain, training=False)).astype(np.float64)
    rows = seen[:, seen.shape[1] // 2, seen.shape[2] // 2]
    inputs = np.column_stack([_COLOURS, np.ones(len(_COLOURS))])
    solution = np.linalg.lstsq(inputs, rows, rcond=None)[0]
    residual = np.abs(inputs @ solution - rows).max()
    is_affine = np.isfinite(rows).all() and residual <= 1e-3 * max(np.ptp(rows), 1e-6)
    return PixelMap(solution[:3], solution[3]) if is_affine else None
