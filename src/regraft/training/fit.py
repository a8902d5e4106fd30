"""A phase of training by gradient: the head on stored features, or part of the backbone with it."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from regraft.backbone.cut import Cut, cut
from regraft.backbone.freeze import freeze, may_move, resolve_plan
from regraft.backbone.load import Backbone
from regraft.console import Reporter
from regraft.recipe import Phase
from regraft.training.material import Lesson
from regraft.training.progress import Bookmark
from regraft.training.rates import Clock, Rates, compile_network, shares
from regraft.training.session import EpochRecord, Fitted, Session

__all__ = ["EPOCHS", "HEAD_EPOCHS", "Compiled", "EpochRecord", "Fitted", "Lesson", "Trainer"]

EPOCHS = 6  # of the backbone, where neither the recipe nor the budget says otherwise
HEAD_EPOCHS = 100  # of the head alone, which patience ends much earlier


@dataclass(frozen=True)
class Trainer:
    """Train a model phase by phase: changes its weights, and its layers' `trainable` flags.

    Attributes:
        model: from `graft`.
        backbone: the one in `model`.
        seed: of dropout; order and augmentation have the seed of the batches.
        compiled: networks of this model from phases before, to be used again; None to compile anew.
    """

    model: keras.Model
    backbone: Backbone
    reporter: Reporter
    seed: int = 0
    compiled: Compiled | None = None

    def train(
        self,
        phase: Phase,
        lesson: Lesson,
        *,
        budget: float,
        stored: Cut | None = None,
        bookmark: Bookmark | None = None,
        most: int = EPOCHS,
    ) -> Fitted:
        """Train what the phase's plan names, and the head; the model ends with the weights of the best epoch.

        Args:
            phase: freeze plan, rates, epochs, patience.
            lesson: batches of pixels, or of the tensors that cross where `stored` was cut.
            budget: seconds it may take; epochs are chosen to fit, and it stops there in any case.
            stored: `model`, cut at one of the boundaries of the phase's plan; None to train on pixels.
            bookmark: where checkpoints are kept, and the one to go on from; None to keep none.
            most: epochs, where the phase does not say how many.

        An epoch counts only if it beats the model as it was on validation: a lower loss and no lower score.
        Of those that do, the one with the lowest loss is best: of a few hundred images it says more than
        accuracy.
        """
        model, backbone, loss = self.model, self.backbone, _loss(lesson)
        fitted = Fitted(phase, freeze(backbone, phase.unfreeze))
        at = None if stored is None else tuple(x._keras_history.operation.name for x in stored.prefix.outputs)

        def make() -> keras.Model:
            plan = resolve_plan(backbone, phase.unfreeze)
            return cut(model, plan).joined() if stored is None else stored.trained()

        compiled = self.compiled or Compiled()
        network, rates = compiled.get((phase.unfreeze, at), make, backbone, phase, loss)
        session = Session(
            model,
            network,
            rates,
            phase=phase,
            lesson=lesson,
            bookmark=bookmark or Bookmark(),
            reporter=self.reporter,
            compile_in_parts=lambda parts: compile_network(network, backbone, phase, loss, parts=parts),
        )
        return session.run(fitted, Clock(budget, len(lesson.train), phase, most), self.seed)

    def finish(self, phase: Phase, bookmark: Bookmark) -> Fitted:
        """Give the model the weights of a phase that a process before this one finished.

        Args:
            phase: as for `train`.
            bookmark: one that is done.
        """
        fitted = Fitted(phase, freeze(self.backbone, phase.unfreeze))
        said, arrays = bookmark.take() or ({}, {})
        fitted.restore(said["fitted"])
        for variable, value in zip(may_move(self.model), arrays["now"], strict=True):
            variable.assign(value)
        return fitted


def _loss(lesson: Lesson) -> Callable[[Any, Any], Any]:
    """The training loss on targets with their weights beside them, (b, units, 2)."""
    name, spread = lesson.task.name, np.asarray(lesson.spread, np.float32)

    def loss(weighted: Any, answers: Any) -> Any:
        truth, weights = weighted[..., 0], weighted[..., 1]
        if name == "multiclass":
            return keras.ops.categorical_crossentropy(truth, answers) * weights[:, 0]
        if name == "regression":
            return keras.ops.mean(weights * ((answers - truth) / spread) ** 2, axis=-1)
        return keras.ops.mean(weights * keras.ops.binary_crossentropy(truth, answers), axis=-1)

    return loss


class Compiled:
    """Networks that are compiled once and trained many times, each time with optimizers as good as new.

    Keras traces the step of a network when it first runs, which for small data takes longer than an epoch. A
    search trains the same part of a network again and again: only the rates differ, and those are variables.
    """

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
