"""How many layers to fine-tune: the deepest plan that the budget holds.

An image costs a frozen layer one forward pass and a trained one forward, backward and update. Layers are
weighed by their multiplications, seconds by how fast the engine ran the whole network on this machine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import keras
import numpy as np

from regraft.backbone.freeze import planned
from regraft.backbone.load import Backbone
from regraft.console import duration
from regraft.training.fit import EPOCHS

__all__ = ["Depth", "choose_depth", "multiplications"]

FEWEST_EPOCHS = 4  # below this, fine-tuning has not had its chance
FORWARD = 2.0  # a forward pass in Keras, in units of the engine's
TRAINED = 6.0  # forward, backward and update in Keras, in the same units
PASSED = 4.0  # a frozen layer behind a trained one: forward and backward, in the same units


@dataclass(frozen=True)
class Depth:
    """A choice: the freeze plan, the epochs expected to fit, the seconds they take, and a sentence on why."""

    unfreeze: str
    epochs: int
    seconds: float
    why: str


def choose_depth(
    backbone: Backbone, *, images: int, seconds_per_image: float, budget: float, unfreeze: str = "auto"
) -> Depth:
    """The deepest plan whose fine-tuning fits the budget, or "none" with the reason.

    Args:
        backbone: from `load_backbone`.
        images: training images.
        seconds_per_image: what the engine took for one image through the whole backbone.
        budget: seconds.
        unfreeze: "auto" to choose among everything and each stage; a plan to cost only that one.
    """
    plans = (
        ["all", *(f"stage:{name}" for name in list(backbone.stages)[1:])]
        if unfreeze == "auto"
        else [unfreeze]
    )
    epoch = math.inf
    for plan in plans:
        epoch = images * seconds_per_image * _factor(backbone, plan)
        epochs = min(EPOCHS, int(budget / max(epoch, 1e-9)))
        if epochs >= FEWEST_EPOCHS or unfreeze != "auto":
            why = f"about {duration(epoch)} an epoch on this machine"
            return Depth(plan, max(1, epochs), epoch * max(1, epochs), why)
    why = (
        f"even {plans[-1]} would take about {duration(epoch)} an epoch, and the budget is {duration(budget)}"
    )
    return Depth("none", 0, 0.0, why)


def multiplications(layer: keras.layers.Layer) -> int:
    """Multiplications of a layer for one image: its kernels once for every place of its output."""
    kernels = sum(math.prod(v.shape) for v in layer.weights if len(v.shape) >= 2)
    output = layer.output
    shape = output.shape if hasattr(output, "shape") else output[0].shape
    return int(kernels * math.prod(size or 1 for size in shape[1:-1]))


def _factor(backbone: Backbone, plan: str) -> float:
    trains = planned(backbone, plan)
    first = trains.index(True) if any(trains) else len(trains)
    costs = [multiplications(layer) for layer in backbone.layers]
    factors = [FORWARD] * first + [TRAINED if each else PASSED for each in trains[first:]]
    return float(np.dot(costs, factors)) / max(1, sum(costs))
