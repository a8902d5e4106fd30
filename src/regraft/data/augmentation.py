"""Augmentation: changed versions of training images, the same for the same key, on every thread.

Flip and crop are NumPy's and Pillow's, all else is Keras' own preprocessing layers, made anew for every call
with a seed drawn from the key: nothing is shared with the model that trains meanwhile, nor between calls.
They run here, on pixels in 0..255, and are never part of a model, so a saved one has none.

Seen in Keras 3.15 and gone around: one factor given to `RandomContrast` only raises contrast;
`RandomSaturation` leaves the range of pixels unless they lie in 0..1; `RandAugment` draws one pair of
operations for a whole batch, computes all eleven, and rotates by up to 180 degrees at its default.
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
from regraft.errors import UsageError, nearest
from regraft.recipe import AUGMENTATIONS

if TYPE_CHECKING:
    import keras

__all__ = ["CHANGING", "View", "augment_batch", "augment_pixels", "in_order", "resolve_augment"]

Floats = NDArray[np.float32]
Pixels = NDArray[Any]
Operation = tuple[str, dict[str, Any]]  # a layer of Keras and its arguments

SMALLEST_CROP = 0.6  # of the area
SHARING = 4  # images of a batch share RandAugment's draw: a call costs as much as these do in it

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
    ("Solarization", {"threshold_factor": 1.0}),  # its own lower bound cannot be set: any threshold
    ("AutoContrast", {}),
    ("Equalization", {}),
)
# The same for what mixes one image with another, targets too.
MIXING: dict[str, Operation] = {
    "mixup": ("MixUp", {"alpha": 0.2}),
    "cutmix": ("CutMix", {"factor": (1.0, 1.0)}),
}
WITHOUT_SEED = ("AutoContrast", "Equalization")  # they draw nothing


def resolve_augment(names: Iterable[str], task: str) -> tuple[str, ...]:
    """What a phase's `augment` means for a task, each name once, in the order in which they are done.

    "auto" is flip and crop for labels and nothing for regression: a changed image may no longer have its
    angle, size or place. Whoever names one for regression knows that the target bears it.

    Raises:
        UsageError: an unknown name; cutmix for regression, where a patch of an image has no value of its own.

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
    return in_order(chosen)


def in_order(names: Iterable[str], known: Iterable[str] = AUGMENTATIONS) -> tuple[str, ...]:
    """Each name once, in the order of `recipe.AUGMENTATIONS`.

    Raises:
        UsageError: one that is not among `known`.
    """
    chosen, allowed = tuple(names), tuple(known)
    for name in chosen:
        if name not in allowed:
            hint = " It needs targets to mix." if name in MIXING else nearest(name, allowed)
            raise UsageError(f"augment: expected any of {', '.join(allowed)}. Received: {name}.{hint}")
    return tuple(name for name in AUGMENTATIONS if name in chosen)


def augment_pixels(pixels: Pixels, names: Iterable[str], key: Sequence[int]) -> Floats:
    """A random version of each image.

    Args:
        pixels: RGB in 0..255, shape (b, size, size, 3), uint8 or whole numbers of another type.
        names: any of `recipe.AUGMENTATIONS` but mixup and cutmix, which need targets.
        key: whole numbers from 0: the same key gives the same pixels, whatever ran before.

    Returns:
        float32 (b, size, size, 3) in 0..255.

    Raises:
        UsageError: a name that is none of these.

    Example:
        >>> pixels = np.arange(192, dtype=np.uint8).reshape(1, 8, 8, 3)
        >>> one, same, other = (augment_pixels(pixels, ["crop"], [0, epoch]) for epoch in (1, 1, 2))
        >>> bool((one == same).all()), bool((one == other).all())
        (True, False)
    """
    for name in in_order(names, CHANGING):
        pixels = CHANGING[name](pixels, _random(name, key))
    return np.clip(pixels.astype(np.float32), 0, 255)  # rounding may leave the range by a hair


def augment_batch(batch: Batch, names: Iterable[str], key: Sequence[int]) -> Batch:
    """The pixels of a batch changed, then its samples mixed in pairs where that is named.

    mixup (Zhang et al. 2018, arXiv:1710.09412) takes w of one image and 1 - w of another, w from
    Beta(0.2, 0.2); cutmix (Yun et al. 2019, arXiv:1905.04899) a patch of another, its share of the area from
    Beta(1, 1). Targets and weights are mixed in the same shares. Of the two, one is drawn for each batch.

    Args:
        batch: one with pixels as its only input, shape (b, size, size, 3); targets as in `tasks.Task.encode`.
        names, key: as in `augment_pixels`; mixup and cutmix too.
    """
    chosen = in_order(names)
    (pixels,) = batch.inputs
    changed = augment_pixels(pixels, [name for name in chosen if name not in MIXING], key)
    mixing = [name for name in chosen if name in MIXING]
    whole = Batch((changed,), batch.targets, batch.weights)
    return _mixed(whole, mixing, _random(mixing[0], key)) if mixing else whole


def _random(name: str, key: Sequence[int]) -> np.random.Generator:
    """Each augmentation draws from a stream of its own: adding one leaves what the others do."""
    return np.random.default_rng([*key, AUGMENTATIONS.index(name)])


def _flip(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Left and right change places half of the time."""
    return np.where(rng.random(len(pixels))[:, None, None, None] < 0.5, pixels[:, :, ::-1], pixels)


def _crop(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """A random part of at least 60 % of the area, its sides' ratio changed by up to a quarter, enlarged."""
    return np.stack([_cropped(image.astype(np.uint8), rng) for image in pixels])


def _cropped(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    size = len(image)
    area = rng.uniform(SMALLEST_CROP, 1.0)
    ratio = np.exp(rng.uniform(-1, 1) * np.log(1.25) / 2)
    width, height = min(size, size * np.sqrt(area) * ratio), min(size, size * np.sqrt(area) / ratio)
    left, top = rng.uniform(0, size - width), rng.uniform(0, size - height)
    return np.asarray(resize(Image.fromarray(image), size, box=(left, top, left + width, top + height)))


def _colour(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Brightness and contrast by up to a fifth, saturation by up to a half; hue, often the class, stays."""
    factors = {"brightness_factor": 0.2, "contrast_factor": (0.2, 0.2), "saturation_factor": (0.4, 0.6)}
    operation = ("RandomColorJitter", {"value_range": (0, 1), **factors})
    return _apply(operation, pixels.astype(np.float32) / 255, rng) * 255


def _randaugment(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Two of `OPERATIONS` for every few images."""
    parts = [pixels[at : at + SHARING] for at in range(0, len(pixels), SHARING)]
    for _ in range(2):
        drawn = [OPERATIONS[number] for number in rng.integers(len(OPERATIONS), size=len(parts))]
        parts = [_apply(operation, part, rng) for operation, part in zip(drawn, parts, strict=True)]
    return np.concatenate(parts)


def _apply(operation: Operation, pixels: Pixels, rng: np.random.Generator) -> Pixels:
    changed: Pixels = _called(_layer(operation, rng), pixels.astype(np.float32))
    return changed


CHANGING: dict[str, Callable[[Pixels, np.random.Generator], Pixels]] = {
    "flip": _flip,
    "crop": _crop,
    # By up to 15 degrees, by up to a fifth in or out; what comes in at the edges is the image mirrored.
    "rotation": partial(_apply, ("RandomRotation", {"factor": 15 / 360})),
    "zoom": partial(_apply, ("RandomZoom", {"height_factor": (-0.2, 0.2)})),
    "colour": _colour,
    "randaugment": _randaugment,
}


def _layer(operation: Operation, rng: np.random.Generator) -> keras.Layer:
    import keras

    name, arguments = operation
    seed = {} if name in WITHOUT_SEED else {"seed": int(rng.integers(2**31))}
    with keras.device("cpu"):
        return getattr(keras.layers, name)(**arguments, **seed, dtype="float32")


def _called(layer: keras.Layer, inputs: Any) -> Any:
    """What a layer makes in training of images (b, size, size, 3), or of a dictionary with images and labels.

    On the CPU always: the accelerator is busy training, and a view must not depend on which one there is.
    """
    import keras

    with keras.device("cpu"):
        return keras.tree.map_structure(keras.ops.convert_to_numpy, layer(inputs, training=True))


def _mixed(batch: Batch, mixing: list[str], rng: np.random.Generator) -> Batch:
    layer = _layer(MIXING[mixing[rng.integers(len(mixing))]], rng)
    units = batch.targets.shape[1]
    labels = np.concatenate([batch.targets, batch.weights], axis=1)
    mixed = _called(layer, {"images": batch.inputs[0], "labels": labels})
    return Batch((mixed["images"],), mixed["labels"][:, :units], mixed["labels"][:, units:])


@dataclass(frozen=True)
class View:
    """One augmented version of every image, the same whenever it is computed; view 0 is the image itself.

    Attributes:
        number: which of the versions, from 0.
        names: any of `recipe.AUGMENTATIONS` but mixup and cutmix: a view has the image's own target.
        seed: of all views.

    Raises:
        UsageError: an unknown name, or one that mixes images; no name at all for a view after 0.

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
        object.__setattr__(self, "names", in_order(self.names, CHANGING))
        if self.number > 0 and not self.names:
            raise UsageError(
                f"views: expected augmentations to make them with. Received: none for view {self.number}. "
                "Name some, such as flip and crop, or ask for 1 view."
            )

    @property
    def key(self) -> str:
        """The part of a store's key that says which view: what its pixels depend on besides the image."""
        if self.number == 0:
            return "view 0"
        import keras

        with_what = f"augment 1, Keras {keras.__version__} on {keras.backend.backend()}"
        return f"view {self.number} of {', '.join(self.names)}, seed {self.seed}, {with_what}"

    def of(self, pixels: NDArray[np.uint8], digest: str) -> NDArray[np.uint8]:
        """This view of the image with this digest: uint8 (size, size, 3) -> uint8 (size, size, 3)."""
        if self.number == 0:
            return pixels
        key = [self.seed, self.number, int.from_bytes(digest.encode(), "big")]
        found: NDArray[np.uint8] = np.rint(augment_pixels(pixels[None], self.names, key)[0]).astype(np.uint8)
        return found
