"""Compiled networks: each is traced once and trained in any number of phases, in parts if memory is short."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from regraft.backbones.load import Backbone
from regraft.errors import EnvironmentFault
from regraft.recipe import Phase
from regraft.system.console import Reporter
from regraft.training.optimizers import (
    compile_network,
    compute_rate_shares,
    copy_optimizer_state,
    is_out_of_memory,
    split_batch,
)

__all__ = ["CompiledNetwork", "CompiledNetworks", "as_network_input"]

Loss = Callable[[Any, Any], Any] | str


class CompiledNetwork:
    """A network and its optimizers.

    Attributes:
        model: what trains; it takes what crosses at the cut, or pixels.
        rates: the learning rates of its optimizers.
        parts: how many parts a batch is computed in.
    """

    def __init__(self, model: keras.Model, *, backbone: Backbone, phase: Phase, loss: Loss) -> None:
        self.model, self.parts = model, 1
        self._backbone, self._phase, self._loss = backbone, phase, loss
        self.rates = compile_network(model, backbone, phase, loss)

    def reset(self, phase: Phase) -> None:
        """Prepare for a phase that differs in its rates and epochs alone; the optimizers start afresh."""
        self._phase = phase
        self.rates.reset(sorted({1.0, *compute_rate_shares(self._backbone, phase).values()}))

    def train_step(
        self, inputs: tuple[NDArray[Any], ...], weighted: NDArray[np.float32], reporter: Reporter
    ) -> float:
        """Train on a batch and return its loss; a batch that does not fit the memory is split from then on.

        Args:
            inputs, weighted: as for `split_batch`.
            reporter: told when the number of parts changes.

        Raises:
            EnvironmentFault: not even one sample fits.
        """
        while True:
            try:
                parts = split_batch(inputs, weighted, self.parts)
                losses = (self.model.train_on_batch(as_network_input(part), of) for part, of in parts)
                return sum(map(float, losses)) / self.parts
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if self.parts >= len(weighted):
                    raise EnvironmentFault(
                        "Training does not fit the memory of this machine, not even one sample at a time. "
                        "Choose a smaller --image-size, or a plan that trains less of the backbone."
                    ) from error
            self.split_steps(2 * self.parts)
            reporter.info(
                f"A batch of {len(weighted)} does not fit the memory: from now on each step is computed in "
                f"{self.parts} parts, with the same result."
            )

    def split_steps(self, parts: int) -> None:
        """Compute every step in this many parts from now on."""
        before, variables = self.rates, self.model.trainable_variables
        self.model.optimizer.build(variables)
        self.rates = compile_network(self.model, self._backbone, self._phase, self._loss, parts=parts)
        self.model.optimizer.build(variables)
        copy_optimizer_state(before, self.rates, parts // self.parts)
        self.rates.set(before.head)
        self.parts = parts


class CompiledNetworks:
    """Networks that are compiled once and trained many times, each time with fresh optimizers.

    Keras traces the step of a network when it first runs, which for small data takes longer than an epoch. A
    search trains the same part of a network again and again: only the rates differ, and those are variables.
    """

    def __init__(self) -> None:
        self._networks: dict[Hashable, CompiledNetwork] = {}

    def get(
        self,
        name: Hashable,
        make: Callable[[], keras.Model],
        *,
        backbone: Backbone,
        phase: Phase,
        loss: Loss,
    ) -> CompiledNetwork:
        """Return a network that is ready to train.

        Args:
            name: of the network that `make` makes; networks of the same layers share a name.
            make: called if there is none yet.
            backbone, phase, loss: as for `compile_network`. Phases of one network that differ in more than
                their rates and epochs are compiled separately.
        """
        shares = {1.0, *compute_rate_shares(backbone, phase).values()}
        key = (name, len(shares), phase.depth_decay, phase.weight_decay)
        if key not in self._networks or self._networks[key].parts > 1:
            self._networks[key] = CompiledNetwork(make(), backbone=backbone, phase=phase, loss=loss)
        network = self._networks[key]
        network.reset(phase)
        return network


def as_network_input(inputs: tuple[NDArray[Any], ...]) -> Any:
    """Return arrays as a network takes them: one by itself, several as a list."""
    return inputs[0] if len(inputs) == 1 else list(inputs)
