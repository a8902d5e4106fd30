"""How many layers to fine-tune within a budget: what costs little first, more where that pays.

What a plan costs is known beforehand (`features.boundary`): what it trains runs in every epoch, what is
frozen once, where its boundary is stored. How many seconds that is, a forward pass of Keras tells, timed
once, and what phases took: the engine may compute in bf16 or on another device, so its pace says nothing of
that of Keras. Nothing here changes the model.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from typing import Any

import keras
import numpy as np

from regraft.backbone.cut import multiplications, nodes_of, sides, work
from regraft.backbone.freeze import FreezePlan, resolve_plan
from regraft.backbone.load import Backbone
from regraft.console import duration
from regraft.features.boundary import FORWARD, Images, Placed, place
from regraft.features.extract import Features
from regraft.features.store import Store
from regraft.recipe import Phase
from regraft.training.fit import EPOCHS, Fitted

__all__ = ["Depth", "Pace", "Search", "TrainingPace", "pays", "share"]

FEWEST_EPOCHS = 4  # below this, fine-tuning has not had its chance
SMALL = 1 / 3  # share of the network's multiplications that the first plan trains, at most
PAYS = 0.5  # share of the loss that a plan has to take away for a deeper one to be tried


@dataclass(frozen=True)
class Depth:
    """A choice.

    Attributes:
        phase: with its plan in words.
        plan: the same, resolved.
        placed: where the network is cut for it, and what is stored there.
        epochs: how many are expected to fit; 0 where too few do.
        once, epoch: seconds before the first epoch, where nothing is stored yet, and of each.
        why: a phrase, where the program chose or nothing was done.
    """

    phase: Phase
    plan: FreezePlan
    placed: Placed
    epochs: int
    once: float
    epoch: float
    why: str = ""

    @property
    def seconds(self) -> float:
        """What all of it takes; of the fewest epochs that are worth it, where not even these fit."""
        return self.once + (self.epochs or FEWEST_EPOCHS) * self.epoch

    def state(self) -> dict[str, Any]:
        """Return the choice as JSON, for `Search.restore`."""
        boundary = self.placed.boundary
        placed = {**vars(self.placed), "boundary": None if boundary is None else boundary.before}
        told = {name: getattr(self, name) for name in ("epochs", "once", "epoch", "why")}
        return {**told, "phase": asdict(self.phase), "placed": placed}


@dataclass(frozen=True)
class Search:
    """What a choice depends on.

    Attributes:
        model: from `graft`.
        backbone: the one in `model`.
        images: what an epoch looks at.
        paces: how many seconds costs are.
    """

    model: keras.Model
    backbone: Backbone
    images: Images
    paces: TrainingPace

    def choose(self, phase: Phase, *, budget: float, limit: float, beyond: Phase | None = None) -> Depth:
        """Choose the plan for a phase that leaves it to the program: one that fits the budget.

        The deepest of those that train a third of the network at most; beyond a plan that did so already,
        the deepest of all.

        No epochs where not even the smallest one fits.

        Args:
            phase: everything but the plan.
            budget: seconds.
            limit: bytes that may be stored.
            beyond: a phase that was chosen before; only deeper plans than its own are looked at.
        """
        plans = ["all", *(f"stage:{name}" for name in list(self.backbone.stages)[1:])]
        small = [plan for plan in plans if share(self.backbone, plan) <= SMALL]
        if beyond is not None:
            plans = plans[: plans.index(str(beyond.unfreeze))]
        elif small:
            plans = small
        enough = min(FEWEST_EPOCHS, phase.epochs or FEWEST_EPOCHS)
        for plan in plans:
            depth = self.price(replace(phase, unfreeze=plan), budget=budget, limit=limit)
            if depth.epochs >= enough:
                return depth
        why = (
            f"even {plans[-1]} would take about {duration(depth.once + enough * depth.epoch)} for {enough} "
            f"epochs, and the budget is {duration(budget)}"
        )
        return replace(depth, epochs=0, why=why)

    def price(self, phase: Phase, *, budget: float, limit: float) -> Depth:
        """Tell what a phase with its plan takes: where it is cut, and how many epochs fit the budget."""
        plan = resolve_plan(self.backbone, phase.unfreeze)
        placed = self.place(phase, plan, limit)
        pace = self.paces.of(str(phase.unfreeze))
        once, epoch = pace.once(placed), pace.epoch(placed)
        epochs = max(0, min(phase.epochs or EPOCHS, int((budget - once) / epoch)))
        return Depth(phase, plan, placed, epochs, once, epoch)

    def restore(self, state: dict[str, Any]) -> Depth:
        """Make the choice that had this state: neither clock nor disk has a say in it any more."""
        phase, placed = Phase(**state["phase"]), dict(state["placed"])
        plan = resolve_plan(self.backbone, phase.unfreeze)
        if placed["boundary"] is not None:
            by_place = {boundary.before: boundary for boundary in sides(self.model, plan).boundaries}
            placed["boundary"] = by_place[placed["boundary"]]
        return Depth(**{**state, "phase": phase, "plan": plan, "placed": Placed(**placed)})

    def place(self, phase: Phase, plan: FreezePlan, limit: float) -> Placed:
        """Tell where a phase would be cut if so many bytes may be stored."""
        return place(self.model, plan, self.images, epochs=phase.epochs or EPOCHS, limit=limit)


def share(backbone: Backbone, plan: str) -> float:
    """Return the share of a network's multiplications from the first layer that trains on."""
    network = nodes_of(backbone.model)
    first = backbone.layers.index(resolve_plan(backbone, plan).layers[0])
    behind = {id(layer) for layer in backbone.layers[first:]}
    late = multiplications(node for node in network if id(node.operation) in behind)
    return late / max(1, multiplications(network))


def pays(fitted: Fitted) -> bool:
    """Tell whether a deeper plan is worth its time: this one took away much of the loss.

    A backbone whose features fit the task leaves its last layers little to mend; one that was made for
    something else goes on gaining with every layer.
    """
    first, best = fitted.history[0], fitted.history[fitted.best]
    return best.val_loss <= (1 - PAYS) * first.val_loss


IMAGES = 8  # black ones in a forward pass
ROUNDS = 5  # of which the fastest counts: it is remembered, so what else ran just then must not
COMPILING = 11  # times what tracing a forward pass takes: forward, backward, update, the engine's graph


@dataclass(frozen=True)
class Pace:
    """Seconds that things take.

    Attributes:
        engine, training: a unit of cost (see `backbone.cut.work`), in the engine and in Keras.
        compiling: what is frozen for the engine, what trains for Keras.
    """

    engine: float
    training: float
    compiling: float

    def once(self, placed: Placed) -> float:
        """Estimate the seconds before the first epoch: the engine's pass, and compiling."""
        return placed.once * self.engine + self.compiling

    def epoch(self, placed: Placed) -> float:
        """Estimate the seconds of an epoch."""
        return max(placed.epoch * self.training, 1e-9)


class TrainingPace:
    """The pace of one network in this run: hints of the store. They choose plans, and never where to cut.

    Args:
        model: from `graft`.
        features: of its frozen backbone; they know how fast the engine is.
        store: where measured times are remembered.
    """

    def __init__(self, model: keras.Model, features: Features, store: Store) -> None:
        self._model, self._features, self._store = model, features, store
        self._work = max(1, work(nodes_of(model)))

    def of(self, plan: str) -> Pace:
        """Return the pace of a plan: as it was when it last ran, else as a forward pass tells it."""
        engine = self._features.seconds_per_image / self._work
        forward, traced = self._recall("forward"), self._recall("tracing")
        if forward is None or traced is None:
            forward, traced = self._measure()
        return Pace(engine, self._recall(plan) or forward, COMPILING * traced)

    def learn(self, plan: str, placed: Placed, seconds: float) -> None:
        """Remember what an epoch of a plan took."""
        self._remember(plan, seconds / max(1, placed.epoch))

    def _remember(self, what: str, value: float) -> None:
        self._store.remember(self._question(what), repr(value))

    def _recall(self, what: str) -> float | None:
        try:
            return float(self._store.recall(self._question(what)) or "")
        except ValueError:
            return None

    def _measure(self) -> tuple[float, float]:
        """Time the first forward pass, which traces, and others; seconds of a unit, and of tracing."""
        size = self._model.inputs[0].shape[1:]
        black, seconds = np.zeros((IMAGES, *size), np.float32), []
        for _ in range(ROUNDS + 1):
            begun = time.monotonic()
            self._model.predict_on_batch(black)
            seconds.append(time.monotonic() - begun)
        usual = min(seconds[1:])
        forward, traced = usual / IMAGES / (FORWARD * self._work), max(0.0, seconds[0] - usual)
        self._remember("forward", forward)
        self._remember("tracing", traced)
        return forward, traced

    def _question(self, what: str) -> str:
        backend = keras.backend.backend()
        return f"seconds a unit of training: {what}, {backend} through {self._features.fingerprint}"
