"""Augment training images: the same key gives the same pixels, on every thread.

Flip and crop use NumPy and Pillow; all other augmentations are preprocessing layers of Keras, created for
each call with a seed drawn from the key, so that nothing is shared between calls or with the model in
training. They run on pixels in 0..255, outside the model, so a saved model contains none of them.

This works around Keras 3.15: a single factor of `RandomContrast` only raises contrast; `RandomSaturation`
needs pixels in 0..1; `RandAugment` draws one pair of operations for all images of a batch, computes all
eleven, and rotates by up to 180 degrees by default.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from regraft.data.batches import Batch
from regraft.data.images.resize import resize
from regraft.errors import UsageError, suggest_nearest
from regraft.recipe import AUGMENTATIONS

if TYPE_CHECKING:
    import keras

__all__ = ["CHANGES", "View", "augment_batch", "augment_pixels", "order_augmentations", "resolve_augment"]

Floats = NDArray[np.float32]
Pixels = NDArray[Any]
Operation = tuple[str, dict[str, Any]]  # a layer of Keras and its arguments

SMALLEST_CROP = 0.6  # of the area
IMAGES_PER_DRAW = 4  # that share a draw of RandAugment: a call costs as much as this many images

# RandAugment's operations at magnitude 9 of 30 (Cubuk et al. 2020, arXiv:1909.13719), as layers of Keras.
OPERATIONS: tuple[Operation, ...] = (
    ("RandomShear", {"x_factor": 0.09, "y_factor": 0.09, "fill_mode": "reflect"}),
    ("RandomTranslation", {"height_factor": 0.135, "width_factor": 0.135}),
    ("RandomRotation", {"factor": 9 / 360}),
    ("RandomBrightness", {"factor": 0.27}),
    ("RandomColorDegeneration", {"factor": 0.27}),
    ("RandomContrast", {"factor": (0.27, 0.27)}),
    ("RandomSharpness", {"factor": (0.365, 0.635)}),
    ("RandomPosterization", {"factor": 7}),
    ("Solarization", {"threshold_factor": 1.0}),  # any threshold, since the lower bound cannot be set
    ("AutoContrast", {}),
    ("Equalization", {}),
)
# Layers that mix images and their targets.
MIXING: dict[str, Operation] = {
    "mixup": ("MixUp", {"alpha": 0.2}),
    "cutmix": ("CutMix", {"factor": (1.0, 1.0)}),
}
WITHOUT_SEED = ("AutoContrast", "Equalization")  # these draw no random numbers


def resolve_augment(names: Iterable[str], task: str) -> tuple[str, ...]:
    """Return the augmentations that a phase's `augment` stands for, each once, in the order of their use.

    "auto" stands for flip and crop, but for none in regression: a changed image may no longer have the same
    angle, size or position. Users who name one for regression know that it leaves the target unchanged.

    Raises:
        UsageError: a name is unknown, or is cutmix for regression, where a patch has no value of its own.

    Example:
        >>> resolve_augment(("auto",), "multiclass"), resolve_augment(("auto",), "regression")
        (('flip', 'crop'), ())
        >>> resolve_augment(("randaugment", "flip"), "binary")
        ('flip', 'randaugment')
    """
    chosen = tuple(names)
    if chosen == ("auto",):
        return () if task == "regression" else ("flip", "crop")
    if task == "regression" and "cutmix" in chosen:
        raise UsageError(
            "augment: expected augmentations that leave the target of a regression known. Received: cutmix, "
            "but a patch of an image has no value of its own. Use mixup, which mixes whole images."
        )
    return order_augmentations(chosen)


def order_augmentations(names: Iterable[str], allowed: Iterable[str] = AUGMENTATIONS) -> tuple[str, ...]:
    """Return each name once, in the order of `recipe.AUGMENTATIONS`.

    Raises:
        UsageError: a name is not one of `allowed`.
    """
    chosen, allowed = tuple(names), tuple(allowed)
    for name in chosen:
        if name not in allowed:
            hint = " It needs targets to mix." if name in MIXING else suggest_nearest(name, allowed)
            raise UsageError(f"augment: expected any of {', '.join(allowed)}. Received: {name}.{hint}")
    return tuple(name for name in AUGMENTATIONS if name in chosen)


def augment_pixels(pixels: Pixels, names: Iterable[str], key: Sequence[int]) -> Floats:
    """Return a random version of each image.

    Args:
        pixels: RGB in 0..255, shape (b, size, size, 3), uint8 or whole numbers of another type.
        names: any of `recipe.AUGMENTATIONS` except mixup and cutmix, which need targets.
        key: whole numbers from 0; the same key always gives the same pixels.

    Returns:
        float32 (b, size, size, 3) in 0..255.

    Raises:
        UsageError: a name is none of these.

    Example:
        >>> pixels = np.arange(192, dtype=np.uint8).reshape(1, 8, 8, 3)
        >>> one, same, other = (augment_pixels(pixels, ["crop"], [0, epoch]) for epoch in (1, 1, 2))
        >>> bool((one == same).all()), bool((one == other).all())
        (True, False)
    """
    for name in order_augmentations(names, CHANGES):
        pixels = CHANGES[name](pixels, _make_rng(name, key))
    return np.clip(pixels.astype(np.float32), 0, 255)  # rounding may leave the range


def augment_batch(batch: Batch, names: Iterable[str], key: Sequence[int]) -> Batch:
    """Change the pixels of a batch, and mix pairs of its samples by mixup or cutmix where these are named.

    mixup (Zhang et al. 2018, arXiv:1710.09412) adds w of one image and 1 - w of another, w from Beta(0.2,
    0.2); cutmix (Yun et al. 2019, arXiv:1905.04899) pastes a patch of another image, its share of the area
    from Beta(1, 1). Targets and weights are mixed alike. Where both are named, each batch draws one.

    Args:
        batch: its only input is pixels, shape (b, size, size, 3); targets as encoded by `tasks.Task.encode`.
        names, key: as in `augment_pixels`, and mixup and cutmix.
    """
    chosen = order_augmentations(names)
    (pixels,) = batch.inputs
    changed = augment_pixels(pixels, [name for name in chosen if name not in MIXING], key)
    mixing = [name for name in chosen if name in MIXING]
    augmented = Batch((changed,), batch.targets, batch.weights)
    return _mix(augmented, mixing, _make_rng(mixing[0], key)) if mixing else augmented


def _make_rng(name: str, key: Sequence[int]) -> np.random.Generator:
    """Return a generator for one augmentation, so that adding another does not change what this one does."""
    return np.random.default_rng([*key, AUGMENTATIONS.index(name)])


def _flip(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Swap left and right with probability one half."""
    return np.where(rng.random(len(pixels))[:, None, None, None] < 0.5, pixels[:, :, ::-1], pixels)


def _crop(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Enlarge a random region: at least 60 % of the area, with an aspect ratio of 4:5 to 5:4."""
    return np.stack([_crop_image(image.astype(np.uint8), rng) for image in pixels])


def _crop_image(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    size = len(image)
    area = rng.uniform(SMALLEST_CROP, 1.0)
    ratio = np.exp(rng.uniform(-1, 1) * np.log(1.25) / 2)
    width, height = min(size, size * np.sqrt(area) * ratio), min(size, size * np.sqrt(area) / ratio)
    left, top = rng.uniform(0, size - width), rng.uniform(0, size - height)
    return np.asarray(resize(Image.fromarray(image), size, box=(left, top, left + width, top + height)))


def _colour(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Change brightness and contrast by up to a fifth and saturation by up to a half, but not hue."""
    factors = {"brightness_factor": 0.2, "contrast_factor": (0.2, 0.2), "saturation_factor": (0.4, 0.6)}
    operation = ("RandomColorJitter", {"value_range": (0, 1), **factors})
    return _apply(operation, pixels.astype(np.float32) / 255, rng) * 255


def _randaugment(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Apply two of `OPERATIONS`, drawn for every few images."""
    chunks = [pixels[n : n + IMAGES_PER_DRAW] for n in range(0, len(pixels), IMAGES_PER_DRAW)]
    for _ in range(2):
        operations = [OPERATIONS[number] for number in rng.integers(len(OPERATIONS), size=len(chunks))]
        chunks = [_apply(operation, chunk, rng) for operation, chunk in zip(operations, chunks, strict=True)]
    return np.concatenate(chunks)


def _apply(operation: Operation, pixels: Pixels, rng: np.random.Generator) -> Pixels:
    changed: Pixels = _call(_make_layer(operation, rng), pixels.astype(np.float32))
    return changed


CHANGES: dict[str, Callable[[Pixels, np.random.Generator], Pixels]] = {
    "flip": _flip,
    "crop": _crop,
    # By up to 15 degrees, and by up to a fifth in or out; the image is mirrored at its edges.
    "rotation": partial(_apply, ("RandomRotation", {"factor": 15 / 360})),
    "zoom": partial(_apply, ("RandomZoom", {"height_factor": (-0.2, 0.2)})),
    "colour": _colour,
    "randaugment": _randaugment,
}


def _make_layer(operation: Operation, rng: np.random.Generator) -> keras.Layer:
    import keras

    name, arguments = operation
    seed = {} if name in WITHOUT_SEED else {"seed": int(rng.integers(2**31))}
    with keras.device("cpu"):
        return getattr(keras.layers, name)(**arguments, **seed, dtype="float32")


def _call(layer: keras.Layer, inputs: Any) -> Any:
    """Call a layer in training mode on images (b, size, size, 3), or on a dictionary of images and labels.

    It runs on the CPU: an accelerator is busy training, and views must not depend on which one there is.
    """
    import keras

    with keras.device("cpu"):
        return keras.tree.map_structure(keras.ops.convert_to_numpy, layer(inputs, training=True))


def _mix(batch: Batch, mixing: list[str], rng: np.random.Generator) -> Batch:
    layer = _make_layer(MIXING[mixing[rng.integers(len(mixing))]], rng)
    units = batch.targets.shape[1]
    labels = np.concatenate([batch.targets, batch.weights], axis=1)
    mixed = _call(layer, {"images": batch.inputs[0], "labels": labels})
    return Batch((mixed["images"],), mixed["labels"][:, :units], mixed["labels"][:, units:])


@dataclass(frozen=True)
class View:
    """An augmented version of every image, the same whenever it is computed; view 0 is the image itself.

    Attributes:
        number: of the version, from 0.
        names: any of `recipe.AUGMENTATIONS` except mixup and cutmix, since a view has the target of its
        image. seed: of all views.

    Raises:
        UsageError: a name is unknown or mixes images, or a view after 0 has no names.

    Example:
        >>> View().key
        'view 0'
        >>> View(1, ("flip", "cutmix"))
        Traceback (most recent call last):
        regraft.errors.UsageError: augment: expected any of flip, crop, ...
    """

    number: int = 0
    names: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", order_augmentations(self.names, CHANGES))
        if self.number > 0 and not self.names:
            raise UsageError(
                f"views: expected augmentations to make them with. Received: none for view {self.number}. "
                "Name some, such as flip and crop, or ask for 1 view."
            )

    @property
    def key(self) -> str:
        """Return the part of a store key for the view: all that its pixels depend on besides the image."""
        if self.number == 0:
            return "view 0"
        import keras

        versions = f"augment 1, Keras {keras.__version__} on {keras.backend.backend()}"
        return f"view {self.number} of {', '.join(self.names)}, seed {self.seed}, {versions}"

    def apply(self, pixels: NDArray[np.uint8], digest: str) -> NDArray[np.uint8]:
        """Return this view of the image with a digest: uint8 (size, size, 3), as `pixels`."""
        if self.number == 0:
            return pixels
        key = [self.seed, self.number, int.from_bytes(digest.encode(), "big")]
        view: NDArray[np.uint8] = np.rint(augment_pixels(pixels[None], self.names, key)[0]).astype(np.uint8)
        return view
