"""Where a phase cuts the network, and what it stores there: bytes on disk against layers run again.

A phase runs what it trains in every epoch. What is frozen in front of that can be run once, by the engine,
and read back in every epoch; or run again from pixels in every epoch, by Keras. In between lies every other
boundary: fewer bytes, and some frozen layers run again.

Costs are in units of the engine's work (`work`), bytes too: the choice is the same on a fast and a
slow machine. How many seconds a unit takes is the business of `training.search`.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import keras

from regraft.backbone.cut import Boundary, Predicate, Sides, multiplications, sides, work
from regraft.console import amount
from regraft.recipe import VIEWS

__all__ = ["Images", "Placed", "place", "room"]

FORWARD = 2  # a forward pass of Keras, in units of the engine's
TRAINED = 6  # forward and backward in Keras, in the same units: three times its forward pass
PASSED = 4  # the multiplications of a frozen layer behind a trained one, which needs no gradients of its own
WRITTEN = 700  # a byte written, with its checksum, in the same units: 200 MB/s at 140 G/s
READ = 280  # a byte read
BYTES = 2  # of a stored number: float16
SHARE = 0.5  # of the free disk, at most


@dataclass(frozen=True)
class Images:
    """How many images a phase looks at in every epoch; only those of training are augmented.

    `views` is how many versions of a training image to store; None to choose, 1 where nothing changes them.
    """

    train: int
    validation: int
    views: int | None = None


@dataclass(frozen=True)
class Placed:
    """A boundary and what it costs; `boundary` is None where the frozen part runs from pixels every epoch.

    Attributes:
        views: versions stored of each training image.
        each, whole: bytes of one image in one view, and of all of them.
        once, epoch: work before the first epoch, and in each; see `cut.work`.
    """

    boundary: Boundary | None
    views: int
    each: int
    whole: int
    once: int
    epoch: int

    def cost(self, epochs: int) -> int:
        """Add up so many epochs, and what comes before them."""
        return self.once + epochs * self.epoch

    def __str__(self) -> str:
        views = f" in {self.views} views" if self.views > 1 else ""
        name = self.boundary.name if self.boundary else "nothing"
        return f"store {amount(self.each)} an image{views}, {amount(self.whole)} in all, of {name}"


def place(model: keras.Model, plan: Predicate, images: Images, *, epochs: int, limit: float) -> Placed:
    """The boundary at which so many epochs take least, with as many views as pay; or pixels.

    Args:
        model: from `graft`.
        plan: what trains, see `cut`.
        images: what each epoch looks at.
        epochs: how often what is stored will be read.
        limit: bytes that may be stored.

    More views than epochs would never be seen, and more than `recipe.VIEWS` are not worth their pass.
    """
    found = sides(model, plan)
    ahead = [0, *accumulate(work([node]) for node in found.cold)]
    trained, seen = _trained(found, plan, images), images.train + images.validation
    pixels = Placed(None, 1, 0, 0, once=0, epoch=trained + seen * FORWARD * ahead[-1])

    def stored(at: Boundary, views: int) -> Placed:
        rows, each = images.train * views + images.validation, at.numbers * BYTES
        once = rows * (ahead[at.before] + each * WRITTEN)
        again = seen * (FORWARD * (ahead[-1] - ahead[at.before]) + each * READ)
        return Placed(at, views, each, rows * each, once, trained + again)

    for views in range(images.views or min(VIEWS, epochs), 0, -1):
        every = [stored(at, views) for at in reversed(found.boundaries)]  # of equal ones the latest
        fitting = [placed for placed in every if placed.whole <= limit]
        best = min([pixels, *fitting], key=lambda placed: placed.cost(epochs))
        if best is not pixels:
            return best
    return pixels


def room(folder: Path, limit: float) -> float:
    """Bytes that may be stored: the limit, and no more than half of what the disk has left."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    return min(limit, SHARE * shutil.disk_usage(there).free)


def _trained(found: Sides, plan: Predicate, images: Images) -> int:
    """Price an epoch behind what is frozen; validation goes through it forward only."""
    layers = [node for node in found.hot if isinstance(node.operation, keras.layers.Layer)]
    frozen = multiplications(node for node in layers if not plan(node.operation))
    train = TRAINED * work(found.hot) - (TRAINED - PASSED) * frozen
    return images.train * train + images.validation * FORWARD * work(found.hot)
