"""A phase of training by gradient: the head on stored features, or part of the backbone with it on pixels.

Changes the model it is given: its weights, and its layers' `trainable` flags.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import keras
import numpy as np

from regraft.backbone.cut import Cut, cut
from regraft.backbone.freeze import freeze, may_move, resolve_plan
from regraft.backbone.load import Backbone
from regraft.console import Reporter
from regraft.recipe import Phase
from regraft.training.compiled import Compiled
from regraft.training.lesson import Lesson
from regraft.training.progress import Bookmark
from regraft.training.rates import Clock, compile_network
from regraft.training.session import EpochRecord, Fitted, Session

__all__ = ["EpochRecord", "Fitted", "Lesson", "fine_tune", "finished", "fit_head"]

EPOCHS = 6  # of the backbone, where neither the recipe nor the budget says otherwise
HEAD_EPOCHS = 100  # of the head alone, which patience ends much earlier


def fit_head(
    model: keras.Model,
    backbone: Backbone,
    *,
    head: Cut,
    phase: Phase,
    lesson: Lesson,
    budget: float,
    reporter: Reporter,
    bookmark: Bookmark | None = None,
    seed: int = 0,
) -> Fitted:
    """Train the head alone, on features that are computed already; nothing of the backbone runs.

    Args:
        model: from `graft`; it ends with the weights of the best epoch.
        backbone: the one in `model`. All of it is frozen, but layers that surgery has put in.
        head: `model`, cut where its head begins.
        phase: rates, epochs, patience.
        lesson: batches of the tensors that cross the cut.
        budget: seconds it may take.
        reporter: who is told how it goes.
        bookmark: where checkpoints are kept, and the one to go on from; None to keep none.
        seed: of dropout.
    """
    fitted = Fitted(phase, freeze(backbone, "none"))
    compiling = partial(compile_network, head.suffix, backbone, phase, _loss(lesson))
    session = Session(
        model,
        head.suffix,
        compiling(),
        phase=phase,
        lesson=lesson,
        bookmark=bookmark or Bookmark(),
        reporter=reporter,
        compile_in_parts=lambda parts: compiling(parts=parts),
    )
    return session.run(fitted, Clock(budget, len(lesson.train), phase, HEAD_EPOCHS), seed)


def fine_tune(
    model: keras.Model,
    backbone: Backbone,
    *,
    phase: Phase,
    lesson: Lesson,
    budget: float,
    reporter: Reporter,
    stored: Cut | None = None,
    compiled: Compiled | None = None,
    bookmark: Bookmark | None = None,
    seed: int = 0,
) -> Fitted:
    """Train what the phase's plan names, and the head; the model ends with the weights of the best epoch.

    Args:
        model: from `graft`, its head found. Its weights and flags are changed.
        backbone: the one in `model`.
        phase: freeze plan, rates, epochs, patience.
        lesson: batches of pixels, or of the tensors that cross where `stored` was cut.
        budget: seconds it may take; epochs are chosen to fit, and it stops there in any case.
        reporter: who is told how it goes.
        stored: `model`, cut at one of the boundaries of the phase's plan; None to train on pixels.
        compiled: networks of this model from phases before, to be used again; None to compile anew.
        bookmark: as for `fit_head`.
        seed: of dropout; order and augmentation have the seed of the batches.

    An epoch counts only if it beats the model as it was on validation: a lower loss and no lower score. Of
    those that do, the one with the lowest loss is best: of a few hundred images it says more than accuracy.
    """
    fitted = Fitted(phase, freeze(backbone, phase.unfreeze))
    at = None if stored is None else tuple(_maker(tensor) for tensor in stored.prefix.outputs)

    def make() -> keras.Model:
        plan = resolve_plan(backbone, phase.unfreeze)
        return cut(model, plan).joined() if stored is None else stored.trained()

    compiled, loss = compiled or Compiled(), _loss(lesson)
    network, rates = compiled.get((phase.unfreeze, at), make, backbone, phase, loss)
    session = Session(
        model,
        network,
        rates,
        phase=phase,
        lesson=lesson,
        bookmark=bookmark or Bookmark(),
        reporter=reporter,
        compile_in_parts=lambda parts: compile_network(network, backbone, phase, loss, parts=parts),
    )
    return session.run(fitted, Clock(budget, len(lesson.train), phase, EPOCHS), seed)


def finished(model: keras.Model, backbone: Backbone, *, phase: Phase, bookmark: Bookmark) -> Fitted:
    """A phase that a process before this one finished: the model gets its weights, nothing is trained.

    Args:
        model, backbone, phase: as for `fit_head` and `fine_tune`.
        bookmark: one that is done.
    """
    fitted = Fitted(phase, freeze(backbone, phase.unfreeze))
    said, arrays = bookmark.take() or ({}, {})
    fitted.restore(said["fitted"])
    for variable, value in zip(may_move(model), arrays["now"], strict=True):
        variable.assign(value)
    return fitted


def _maker(tensor: Any) -> str:
    """The layer that makes a symbolic tensor."""
    return str(tensor._keras_history.operation.name)


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
