"""Do the pixels that a user's network gets look like those that it was trained on?

Its first batch normalisation remembers the mean and variance that each of its channels had in training.
Images with the colours and the smoothness of photographs are converted as the network would get them, and run
up to there. Under the right contract the channels have nearly those means and variances; under a wrong one
they are far away. The distance is the divergence between two normal distributions, in the median over the
channels:

| weights | right contract | the nearest wrong one |
|---|---|---|
| Xception | 0.06 | 0.52 |
| EfficientNet-Lite0 | 0.13 | 0.86 |

Statistics that were folded into the kernels, or were never learnt, tell nothing. For a network of
`keras.applications` the contract of its published weights is then the best guess; for others there is none.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
import numpy as np
from numpy.typing import NDArray

from regraft.backbones.graph import list_nodes
from regraft.backbones.pixel_map import (
    CONTRACT_MAPS,
    PixelMap,
    find_entry_tensor,
    name_contract,
    trace_pixels,
)
from regraft.backbones.preprocessing import MEAN
from regraft.backbones.zoo import Entry

__all__ = ["PixelVerdict", "check_pixels", "make_natural_images"]

IMAGES = 12
SUSPICIOUS = 0.35  # the distance from which a contract looks wrong, if another one fits
CONVINCING = 0.3  # the distance up to which another contract fits
CLEAR = 2.5  # how many times nearer the other one has to be, at least
IMPOSSIBLE = 20.0  # the distance from which a contract looks wrong even if no other one fits
LATEST = 3  # layers with a kernel before the first batch normalisation, at most


class PixelVerdict(NamedTuple):
    """What is assumed of a network's pixels, and why that looks wrong, as sentences; "" for none."""

    note: str = ""
    caution: str = ""


def check_pixels(model: keras.Model, front: str, entry: Entry | None) -> PixelVerdict:
    """Tell what a network gets of RGB pixels 0..255, and whether that looks like what it was trained on.

    Args:
        model: the network, with the conversion of its own that its graph may have.
        front: the contract that is put in front of it.
        entry: its entry in the table, or one of its family.

    Example:
        >>> image = keras.Input((16, 16, 3))
        >>> scaled = keras.layers.Rescaling(1 / 255)(image)
        >>> model = keras.Model(image, keras.layers.Conv2D(4, 3)(scaled))
        >>> check_pixels(model, "raw", None).note.split(". ")[0]
        'Pixels: RGB 0..255, which the graph converts to 0..1 (contract unit)'
    """
    tensor = find_entry_tensor(model)
    own = None if tensor is None else trace_pixels(model, tensor)
    if own is None:
        return PixelVerdict()
    seen = _chain(CONTRACT_MAPS[front], own)
    distances = _measure_distances(model, tensor, {"": seen, **CONTRACT_MAPS})
    if distances is not None:
        caution = _warn_by_statistics(distances, seen, own)
    else:
        caution = _warn_by_family(entry, front, seen, own)
    unknown = "" if distances or caution else " Its weights do not tell whether that is right."
    return PixelVerdict(_describe(front, seen, own) + unknown, caution)


def _chain(first: PixelMap, second: PixelMap) -> PixelMap:
    return PixelMap(first.matrix @ second.matrix, first.offset @ second.matrix + second.offset)


def _describe(front: str, seen: PixelMap, own: PixelMap) -> str:
    if seen.is_near(CONTRACT_MAPS["raw"]):
        return (
            "Pixels: RGB 0..255 as they are; nothing in the graph converts them. If it was trained on other "
            "values, say so with --pixels."
        )
    makers = ["the graph"] if not own.is_near(CONTRACT_MAPS["raw"]) else []
    makers = [f"the contract {front} in front", *makers] if front != "raw" else makers
    contract = name_contract(seen)
    name = f" (contract {contract})" if contract and front == "raw" else ""
    verb = "converts" if len(makers) == 1 else "convert"
    return f"Pixels: RGB 0..255, which {' and '.join(makers)} {verb} to {seen}{name}."


# --- warnings


def _warn_by_statistics(distances: dict[str, float], seen: PixelMap, own: PixelMap) -> str:
    """Return why a conversion looks wrong by its distance and those of the contracts, by name; or ""."""
    distance = distances.pop("")
    best = min(distances, key=lambda name: distances[name])
    is_better = distances[best] <= min(CONVINCING, distance / CLEAR)
    if distance < (SUSPICIOUS if is_better else IMPOSSIBLE):
        return ""
    problem = (
        f"The pixels look wrong: with {seen}, photographs give the first batch normalisation means and "
        "variances far from those of its training"
    )
    if not is_better:
        return f"{problem}, and so does every other contract. Check how the network was trained."
    better = CONTRACT_MAPS[best]
    fronts = (name for name, other in CONTRACT_MAPS.items() if _chain(other, own).is_near(better))
    if (front := next(fronts, None)) is not None:
        return f"{problem}; {better} would fit: --pixels {front}."
    return f"{problem}; {better} would fit. The conversion is part of its graph: build it with another one."


def _warn_by_family(entry: Entry | None, front: str, seen: PixelMap, own: PixelMap) -> str:
    """Return why a conversion is not that of the published weights; "" where it is, or none are known."""
    if entry is None:
        return ""
    is_right = front == "raw" if entry.pixels == "raw" else seen.is_near(CONTRACT_MAPS[entry.pixels])
    if is_right:
        return ""
    is_free = own.is_near(CONTRACT_MAPS["raw"]) or entry.pixels == "raw"
    remedy = (
        f"--pixels {entry.pixels}"
        if is_free
        else "rebuild the model, for the conversion is part of its graph"
    )
    return (
        f"The pixels look wrong: the published weights of {entry.module} take the contract {entry.pixels}, "
        f"and these get {seen}. The weights themselves do not tell, since no batch normalisation near the "
        f"pixels holds statistics. Unless they were trained on such pixels: {remedy}."
    )


# --- the distance to the statistics of training


def _measure_distances(model: keras.Model, tensor: Any, maps: dict[str, PixelMap]) -> dict[str, float] | None:
    """Return the distance of each map to the first batch normalisation's statistics; None without these."""
    norm, before = _find_first_norm(model)
    if norm is None:
        return None
    mean, variance = (keras.ops.convert_to_numpy(value) for value in (norm.moving_mean, norm.moving_variance))
    if np.allclose(mean, 0, atol=1e-6) and np.allclose(variance, 1, atol=5e-3):
        return None  # folded into the kernels, or never trained
    try:
        first_layers = None if before is tensor else keras.Model(tensor, before)
    except ValueError:  # other tensors lead there too
        return None
    images = make_natural_images(int(tensor.shape[1] or 0))
    distances = {}
    for name, pixel_map in maps.items():
        values = pixel_map.apply(images)
        if first_layers is not None:
            values = keras.ops.convert_to_numpy(first_layers(values, training=False))
        distances[name] = _measure_distance(values, mean, variance + norm.epsilon)
    return distances


def _find_first_norm(model: keras.Model) -> tuple[Any, Any]:
    """Return the first batch normalisation and the tensor that it takes; None if only a deep one is there."""
    kernels = 0
    for node in list_nodes(model):
        if isinstance(node.operation, keras.layers.BatchNormalization):
            return node.operation, node.input_tensors[0]
        kernels += any(len(weight.shape) > 1 for weight in getattr(node.operation, "weights", ()))
        if kernels > LATEST:
            break
    return None, None


def _measure_distance(values: NDArray[Any], mean: NDArray[Any], variance: NDArray[Any]) -> float:
    """Return the median over channels of the divergence from a normal distribution with these moments."""
    rows = values.reshape(-1, values.shape[-1]).astype(np.float64)
    ratio = (rows.var(0) + 1e-12) / variance
    shift = (rows.mean(0) - mean) ** 2 / variance
    return float(np.median((ratio + shift - 1 - np.log(ratio)) / 2))


def make_natural_images(size: int) -> NDArray[np.float32]:
    """Return images with the first- and second-order statistics of photographs, (IMAGES, size, size, 3).

    The amplitude falls with the frequency, channels are correlated, and brightness differs between images, as
    in Ruderman (1994), The statistics of natural images; means and deviations are those of ImageNet.

    Args:
        size: pixels a side.

    >>> images = make_natural_images(32)
    >>> images.shape, bool(images.min() >= 0), bool(images.max() <= 255)
    ((12, 32, 32, 3), True, True)
    """
    random = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size)[None])
    frequency[0, 0] = np.inf  # the mean is set below
    spectrum = np.fft.fft2(random.normal(size=(IMAGES, 3, size, size))) / frequency
    maps = np.fft.ifft2(spectrum).real
    maps /= maps.std(axis=(2, 3), keepdims=True)
    # Brightness, and two opponent colours: red against blue, and green against both.
    maps = np.moveaxis(maps, 1, -1) * (52, 31, 31)
    colours = maps @ np.array([[1, 1, 1], [0.35, 0, -0.35], [0.15, -0.3, 0.15]])
    exposure = np.linspace(-50, 50, IMAGES)[:, None, None, None]  # the same for every size
    images = colours + 255 * np.array(MEAN) + exposure
    return np.asarray(np.clip(images, 0, 255), np.float32)
