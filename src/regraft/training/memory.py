"""What memory a step takes; one that does not fit: the same step, in parts whose gradients are averaged."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from regraft.backbone.cut import Boundary, numbers_of, sides
from regraft.backbone.freeze import FreezePlan
from regraft.training.rates import Rates

__all__ = ["carry_over", "in_parts", "is_out_of_memory", "step_bytes"]

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
