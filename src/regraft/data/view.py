"""`View`: one augmented version of every image, the same whenever it is computed, so it can be stored."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from regraft.data.augment import CHANGING, augment_pixels, in_order
from regraft.errors import UsageError

__all__ = ["View"]


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
