"""Learning rates: over the steps of a phase, and by the depth of a layer.

Over the steps: a linear warm-up, then half a cosine down to zero. By depth: the head has the phase's rate,
the pre-trained layers a share of it, smaller with every stage further from the head.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from regraft.backbone.load import Backbone
from regraft.recipe import Phase

__all__ = ["Clock", "Rates", "compile_network", "shares"]

TIMED_STEPS = range(2, 6)  # steps whose time tells how many epochs the budget holds; the first one compiles


@dataclass
class Rates:
    """The optimizers' learning rates at the current step: shares of the head's, in ascending order."""

    optimizers: list[tuple[Any, float]]
    head: float = 0.0

    def renew(self, shares: Sequence[float]) -> None:
        """Give the optimizers other shares, and nothing to remember."""
        self.optimizers = [
            (optimizer, share) for (optimizer, _), share in zip(self.optimizers, shares, strict=True)
        ]
        for optimizer, _ in self.optimizers:
            for variable in optimizer.variables:
                if variable is not optimizer._learning_rate:
                    variable.assign(keras.ops.zeros_like(variable))

    def set(self, rate: float) -> None:
        self.head = rate
        for optimizer, share in self.optimizers:
            optimizer.learning_rate = rate * share


class Clock:
    """How many epochs there will be, and where in the schedule a step stands."""

    def __init__(self, budget: float, steps: int, phase: Phase, most: int) -> None:
        self._end = time.monotonic() + budget
        self._steps = steps
        self._fixed = phase.epochs is not None
        self._warmup = phase.warmup
        self._timed: list[float] = []
        self._most = most
        self.epochs = phase.epochs or most
        self.step = 0

    def ticked(self, seconds: float) -> None:
        """A step took so long; once a few are known, choose the number of epochs the budget holds."""
        if self.step in TIMED_STEPS:
            self._timed.append(seconds)
            if not self._fixed:
                self.epochs = max(1, min(self._most, int(self.left / self.seconds_an_epoch)))
        self.step += 1

    @property
    def seconds_an_epoch(self) -> float:
        """What an epoch takes, by the steps that were timed; validation takes its share."""
        return float(np.median(self._timed)) * self._steps * 1.15

    @property
    def left(self) -> float:
        """Seconds of the budget."""
        return self._end - time.monotonic()

    @property
    def over(self) -> bool:
        return self.left < 0

    @property
    def timed(self) -> bool:
        """Whether it is known just now what an epoch takes."""
        return self.step == TIMED_STEPS.stop

    @property
    def settled(self) -> bool:
        """Whether the number of epochs was chosen just now, for good."""
        return self.timed and not self._fixed

    def state(self) -> dict[str, Any]:
        """What `restore` takes, as JSON."""
        return {"left": self.left, "epochs": self.epochs, "step": self.step, "timed": self._timed}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on as the clock that had this state."""
        self._end = time.monotonic() + state["left"]
        self.epochs, self.step, self._timed = state["epochs"], state["step"], list(state["timed"])

    def rate(self, peak: float) -> float:
        """Linear warm-up, then half a cosine down to zero."""
        total = self.epochs * self._steps
        rise = max(1.0, self._warmup * total)
        if self.step < rise:
            return peak * (self.step + 1) / rise
        return peak * 0.5 * (1 + math.cos(math.pi * min(1.0, (self.step - rise) / max(1.0, total - rise))))


def compile_network(
    network: keras.Model, backbone: Backbone, phase: Phase, loss: Callable[..., Any] | str, *, parts: int = 1
) -> Rates:
    """An AdamW for each rate: the head's, and the pre-trained layers' by their depth.

    It steps once in so many `parts`, by the mean of their gradients.
    """
    share = shares(backbone, phase)
    optimizers = {}
    for value in sorted({1.0, *share.values()}):
        made = keras.optimizers.AdamW(
            phase.learning_rate,
            weight_decay=phase.weight_decay,
            gradient_accumulation_steps=parts if parts > 1 else None,
            name=f"at_{value:g}",
        )
        made.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
        optimizers[value] = made

    def choose(variable: keras.Variable) -> keras.optimizers.Optimizer:
        return optimizers[share.get(id(variable), 1.0)]

    network.compile(optimizer=keras.optimizers.MultiOptimizer(choose), loss=loss)
    return Rates([(optimizer, value) for value, optimizer in optimizers.items()])


def shares(backbone: Backbone, phase: Phase) -> dict[int, float]:
    """id of a backbone's trainable variable -> its rate as a share of the head's, smaller by stage."""
    starts = sorted(backbone.stages.values())
    new = set(backbone.new_layers)
    found: dict[int, float] = {}
    for number, layer in enumerate(backbone.layers):
        above = sum(start > number for start in starts)
        share = 1.0 if layer.name in new else phase.backbone_rate * phase.depth_decay**above
        found |= {id(variable): share for variable in layer.trainable_variables}
    return found
