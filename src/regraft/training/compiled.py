"""Networks that are compiled once and trained many times, each time with optimizers as good as new.

Keras traces the step of a network when it first runs, which for small data takes longer than an epoch. A
search trains the same part of a network again and again: only the rates differ, and those are variables.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import keras

from regraft.backbone.load import Backbone
from regraft.recipe import Phase
from regraft.training.rates import Rates, compile_network, shares

__all__ = ["Compiled"]


class Compiled:
    """What has been compiled so far, by what it is."""

    def __init__(self) -> None:
        self._kept: dict[Hashable, tuple[keras.Model, Rates, Any]] = {}

    def get(
        self,
        what: Hashable,
        make: Callable[[], keras.Model],
        backbone: Backbone,
        phase: Phase,
        loss: Callable[..., Any],
    ) -> tuple[keras.Model, Rates]:
        """A network ready to train, and its rates.

        Args:
            what: names the network that `make` makes: the same for networks of the same layers.
            make: called where there is none yet.
            backbone, phase, loss: as for `compile_network`. Phases of one network that differ in more than
                their rates and epochs are compiled anew.
        """
        values = sorted({1.0, *shares(backbone, phase).values()})
        key = (what, len(values), phase.depth_decay, phase.weight_decay)
        if key not in self._kept or self._kept[key][0].optimizer is not self._kept[key][2]:
            network = make()  # or compiled by somebody else since
            rates = compile_network(network, backbone, phase, loss)
            self._kept[key] = network, rates, network.optimizer
        network, rates, _ = self._kept[key]
        rates.renew(values)
        return network, rates
