"""Optimizers of a phase: the schedule of learning rates, a rate by depth, and steps that fit the memory.

Over the steps of a phase the rate rises in a linear warm-up, then falls to zero along half a cosine. By
depth, the head has the phase's rate and the pre-trained layers a share of it, smaller with every stage
further away. A step that does not fit the memory is computed in parts whose gradients are averaged.
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

from regraft.backbones.graph import get_step_counter, list_moments
from regraft.backbones.load import Backbone
from regraft.models.cut import Boundary, count_numbers, partition_graph
from regraft.models.freeze import FreezePlan
from regraft.recipe import Phase

__all__ = [
    "LearningRates",
    "Schedule",
    "compile_network",
    "compute_rate_shares",
    "copy_optimizer_state",
    "estimate_step_bytes",
    "is_out_of_memory",
    "split_batch",
]

TIMED_STEPS = range(2, 6)  # steps that are timed to choose the number of epochs; the first one compiles
VALIDATION = 1.15  # an epoch with its validation takes this many times its training steps

NUMBER = 4  # bytes of a float32
PASSING = 3  # copies of the widest tensors that exist at once where no gradient needs them

# Errors that backends raise, by name: the core imports no backend.
_OUT_OF_MEMORY = ("ResourceExhaustedError", "OutOfMemoryError")

Inputs = tuple[NDArray[Any], ...]
Floats = NDArray[np.float32]


class Schedule:
    """How many epochs a phase has, and the learning rate of its current step.

    An epoch has `steps` steps. If the phase does not fix the epochs, as many as fit the budget (in seconds)
    are chosen, `max_epochs` at most.
    """

    def __init__(self, budget: float, steps: int, phase: Phase, max_epochs: int) -> None:
        self._end = time.monotonic() + budget
        self._steps = steps
        self._is_fixed = phase.epochs is not None
        self._warmup = phase.warmup
        self._step_seconds: list[float] = []
        self._max_epochs = max_epochs
        self.epochs = phase.epochs or max_epochs
        self.step = 0

    def add_step(self, seconds: float) -> None:
        """Count a step; once enough steps are timed, choose as many epochs as fit the budget."""
        if self.step in TIMED_STEPS:
            self._step_seconds.append(seconds)
            if not self._is_fixed:
                self.epochs = max(1, min(self._max_epochs, int(self.seconds_left / self.seconds_per_epoch)))
        self.step += 1

    @property
    def seconds_per_epoch(self) -> float:
        """Seconds of an epoch with its validation, by the steps that were timed."""
        return float(np.median(self._step_seconds)) * self._steps * VALIDATION

    @property
    def seconds_left(self) -> float:
        """Seconds left of the budget; negative when it is spent."""
        return self._end - time.monotonic()

    @property
    def is_over(self) -> bool:
        """Whether the budget is spent."""
        return self.seconds_left < 0

    @property
    def is_just_timed(self) -> bool:
        """Whether the last step was the last one that is timed."""
        return self.step == TIMED_STEPS.stop

    @property
    def has_just_chosen(self) -> bool:
        """Whether the last step settled the number of epochs."""
        return self.is_just_timed and not self._is_fixed

    def state(self) -> dict[str, Any]:
        """Return the state as JSON, for `restore`."""
        state = {"left": self.seconds_left, "epochs": self.epochs, "step": self.step}
        return {**state, "timed": self._step_seconds}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore a state that `state` returned."""
        self._end = time.monotonic() + state["left"]
        self.epochs, self.step, self._step_seconds = state["epochs"], state["step"], list(state["timed"])

    def rate(self, peak: float) -> float:
        """Return the rate of the current step: a linear warm-up to `peak`, then half a cosine to zero."""
        total = self.epochs * self._steps
        rise = max(1.0, self._warmup * total)
        if self.step < rise:
            return peak * (self.step + 1) / rise
        return peak * 0.5 * (1 + math.cos(math.pi * min(1.0, (self.step - rise) / max(1.0, total - rise))))


@dataclass
class LearningRates:
    """The optimizers of a network, each with its rate as a share of the head's; `head` is the head's rate."""

    optimizers: list[tuple[Any, float]]
    head: float = 0.0

    def reset(self, shares: Sequence[float]) -> None:
        """Give the optimizers new shares and clear their state."""
        self.optimizers = list(zip([optimizer for optimizer, _ in self.optimizers], shares, strict=True))
        for optimizer, _ in self.optimizers:
            for variable in optimizer.variables:
                if variable is not optimizer.learning_rate:
                    variable.assign(keras.ops.zeros_like(variable))

    def set(self, rate: float) -> None:
        """Set the head's rate, and every optimizer's to its share."""
        self.head = rate
        for optimizer, share in self.optimizers:
            optimizer.learning_rate = rate * share


def compile_network(
    network: keras.Model, backbone: Backbone, phase: Phase, loss: Callable[..., Any] | str, *, parts: int = 1
) -> LearningRates:
    """Compile a network with one AdamW for each rate: the head's, and the pre-trained layers' by depth.

    A step averages the gradients of this many parts.
    """
    shares = compute_rate_shares(backbone, phase)
    optimizers = {}
    for share in sorted({1.0, *shares.values()}):
        optimizer = keras.optimizers.AdamW(
            phase.learning_rate,
            weight_decay=phase.weight_decay,
            gradient_accumulation_steps=parts if parts > 1 else None,
            name=f"at_{share:g}",
        )
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
        optimizers[share] = optimizer

    def choose(variable: keras.Variable) -> keras.optimizers.Optimizer:
        return optimizers[shares.get(id(variable), 1.0)]

    network.compile(optimizer=keras.optimizers.MultiOptimizer(choose), loss=loss)
    return LearningRates([(optimizer, share) for share, optimizer in optimizers.items()])


def compute_rate_shares(backbone: Backbone, phase: Phase) -> dict[int, float]:
    """Return the rate of each trainable variable of a backbone, by id, as a share of the head's rate."""
    starts = sorted(backbone.stages.values())
    new = set(backbone.new_layers)
    shares: dict[int, float] = {}
    for number, layer in enumerate(backbone.layers):
        stages_above = sum(start > number for start in starts)
        share = 1.0 if layer.name in new else phase.backbone_rate * phase.depth_decay**stages_above
        shares |= {id(variable): share for variable in layer.trainable_variables}
    return shares


def copy_optimizer_state(before: LearningRates, after: LearningRates, times: float) -> None:
    """Copy what built optimizers remember to others whose steps have `times` as many parts."""
    for (old, _), (new, _) in zip(before.optimizers, after.optimizers, strict=True):
        if not old.built:  # no variable of this phase has this rate
            continue
        for source, target in zip(list_moments(old), list_moments(new), strict=True):
            target.assign(source)
        get_step_counter(new).assign(int(get_step_counter(old)) * times)


def estimate_step_bytes(
    model: keras.Model, plan: FreezePlan, samples: int, boundary: Boundary | None = None
) -> int:
    """Estimate the bytes of a training step, without the model; measured ones are 0.7 to 1.3 times that.

    Gradients of weights need the inputs of their layers, so these stay in memory from the forward pass on;
    all other tensors only pass. Each number that trains has a gradient, two moments and its best value.

    Args:
        model: from `graft`.
        plan: what trains.
        samples: in a batch.
        boundary: where the step begins, at stored tensors; None for pixels.
    """
    nodes = partition_graph(model, plan)
    run = [*nodes.frozen[boundary.position if boundary else 0 :], *nodes.changing]
    layers = [node for node in nodes.changing if isinstance(node.operation, keras.layers.Layer)]
    inputs = {
        id(x): count_numbers(x) for node in layers if node.operation.weights for x in node.input_tensors
    }
    widest: int = max(count_numbers(x) for node in run for x in node.outputs)
    trainable = {id(weight): weight for layer in model.layers for weight in plan.list_weights(layer)}
    trained: int = sum(math.prod(weight.shape) for weight in trainable.values())
    return NUMBER * (samples * (sum(inputs.values()) + PASSING * widest) + 4 * trained)


def is_out_of_memory(error: Exception) -> bool:
    """Tell whether a backend, or Python, reports a lack of memory.

    >>> is_out_of_memory(MemoryError()), is_out_of_memory(RuntimeError("RESOURCE_EXHAUSTED: 2 GiB"))
    (True, True)
    >>> is_out_of_memory(ValueError("shape"))
    False
    """
    names = {kind.__name__ for kind in type(error).__mro__}
    has_name = bool(names & set(_OUT_OF_MEMORY))
    return isinstance(error, MemoryError) or has_name or "RESOURCE_EXHAUSTED" in str(error)


def split_batch(inputs: Inputs, weighted: Floats, count: int) -> Iterator[tuple[Inputs, Floats]]:
    """Split a batch into parts of one size; the mean of their losses is the loss of the batch.

    If the batch does not divide evenly, samples of zero weight fill the last part.

    Args:
        inputs: each (b, ...).
        weighted: targets and their weights, (b, units, 2).
        count: how many parts; one yields the batch as it is.

    Example:
        >>> weighted = np.ones((3, 1, 2), np.float32)
        >>> [part[:, 0, 1].tolist() for _, part in split_batch((np.zeros((3, 4)),), weighted, 2)]
        [[1.3333333730697632, 1.3333333730697632], [1.3333333730697632, 0.0]]
    """
    if count == 1:
        yield inputs, weighted
        return
    samples = len(weighted)
    size = -(-samples // count)
    rows = np.arange(count * size)
    padded = weighted[rows % samples].copy()
    padded[..., 1] *= np.where(rows < samples, len(rows) / samples, 0)[:, None]
    for part in np.split(rows, count):
        yield tuple(array[part % samples] for array in inputs), padded[part]
