"""Learning rates: over the steps of a phase, and by the depth of a layer.

Over the steps: a linear warm-up, then half a cosine down to zero. By depth: the head has the phase's rate,
the pre-trained layers a share of it, smaller with every stage further from the head.

What memory a step takes; one that does not fit: the same step, in parts whose gradients are averaged.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from regraft.backbones.load import Backbone
from regraft.models.cut import Boundary, numbers_of, sides
from regraft.models.freeze import FreezePlan
from regraft.recipe import Phase

__all__ = [
    "Clock",
    "Rates",
    "carry_over",
    "compile_network",
    "in_parts",
    "is_out_of_memory",
    "shares",
    "step_bytes",
]


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


NUMBER = 4  # bytes of a float32
PASSING = 3  # of the widest tensors at once, of those that no gradient needs: read, written, laid out anew

# What backends raise, by name: the core imports none of them.
_KINDS = ("ResourceExhaustedError", "OutOfMemoryError")

Inputs = tuple[NDArray[Any], ...]
Floats = NDArray[np.float32]


def step_bytes(model: keras.Model, plan: FreezePlan, samples: int, boundary: Boundary | None = None) -> int:
    """About what a step of training takes beside the model, in bytes; measured ones are 0.7 to 1.3 times it.

    Gradients of weights need what went into their layers, so that is kept from the way forward; the rest
    only passes. Each number that trains has a gradient, two moments and its best value.

    Args:
        model: from `graft`.
        plan: what trains.
        samples: in a batch.
        boundary: where the step begins, at stored tensors; None for pixels.
    """
    found = sides(model, plan)
    run = [*found.cold[boundary.before if boundary else 0 :], *found.hot]
    entering = [node for node in found.hot if isinstance(node.operation, keras.layers.Layer)]
    kept = {id(x): numbers_of(x) for node in entering if node.operation.weights for x in node.input_tensors}
    widest: int = max(numbers_of(x) for node in run for x in node.outputs)
    moving = {id(weight): weight for layer in model.layers for weight in plan.weights(layer)}
    trained: int = sum(math.prod(weight.shape) for weight in moving.values())
    return NUMBER * (samples * (sum(kept.values()) + PASSING * widest) + 4 * trained)


def is_out_of_memory(error: Exception) -> bool:
    """Whether a backend, or Python, says that there is not enough memory.

    >>> is_out_of_memory(MemoryError()), is_out_of_memory(RuntimeError("RESOURCE_EXHAUSTED: 2 GiB"))
    (True, True)
    >>> is_out_of_memory(ValueError("shape"))
    False
    """
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return isinstance(error, MemoryError) or bool(kinds & set(_KINDS)) or "RESOURCE_EXHAUSTED" in str(error)


def in_parts(inputs: Inputs, weighted: Floats, count: int) -> Iterator[tuple[Inputs, Floats]]:
    """A batch in so many parts of one size; the mean of their losses is the loss of the batch.

    Where it does not come out even, samples without weight fill the last part.

    Args:
        inputs: each (b, ...).
        weighted: targets and their weights, (b, units, 2).
        count: how many parts; one is the batch as it is.

    Example:
        >>> weighted = np.ones((3, 1, 2), np.float32)
        >>> [part[:, 0, 1].tolist() for _, part in in_parts((np.zeros((3, 4)),), weighted, 2)]
        [[1.3333333730697632, 1.3333333730697632], [1.3333333730697632, 0.0]]
    """
    if count == 1:
        yield inputs, weighted
        return
    samples = len(weighted)
    size = -(-samples // count)
    rows = np.arange(count * size)
    filled = weighted[rows % samples].copy()
    filled[..., 1] *= np.where(rows < samples, len(rows) / samples, 0)[:, None]
    for part in np.split(rows, count):
        yield tuple(array[part % samples] for array in inputs), filled[part]


def carry_over(before: Rates, after: Rates, times: float) -> None:
    """What optimizers remember, for others that step after more parts.

    Args:
        before, after: of the same shares; both built.
        times: how many parts `after` takes for one of `before`.
    """
    for (old, _), (new, _) in zip(before.optimizers, after.optimizers, strict=True):
        if not old.built:  # a rate that no variable of this phase has
            continue
        for source, target in zip(_remembered(old), _remembered(new), strict=True):
            target.assign(source)
        new._iterations.assign(int(old._iterations) * times)


def _remembered(optimizer: Any) -> list[Any]:
    """The moments of each variable, without the gradients that are being summed up."""
    own = (optimizer._iterations, optimizer._learning_rate)
    summed = getattr(optimizer, "_accumulated_gradients", [])
    left_out = {id(variable) for variable in (*own, *summed)}
    return [variable for variable in optimizer.variables if id(variable) not in left_out]
