"""Where a phase cuts the network, and what it stores there: bytes on disk against layers run again.

A phase runs what it trains in every epoch. What is frozen in front of that can be run once, by the engine,
and read back in every epoch; or run again from pixels in every epoch, by Keras. In between lies every other
boundary: fewer bytes, and some frozen layers run again.

Costs are in units of the engine's work (`work`), bytes too: the choice is the same on a fast and a
slow machine. How many seconds a unit takes is the business of `training.search`.

How many layers to fine-tune within a budget: what costs little first, more where that pays.

What a plan costs is known beforehand (`features.boundary`): what it trains runs in every epoch, what is
frozen once, where its boundary is stored. How many seconds that is, a forward pass of Keras tells, timed
once, and what phases took: the engine may compute in bf16 or on another device, so its pace says nothing of
that of Keras. Nothing here changes the model.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import asdict, dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import keras
import numpy as np

from regraft.backbones.load import Backbone
from regraft.features.extract import Features
from regraft.features.store import Store
from regraft.models.cut import Boundary, Predicate, Sides, multiplications, nodes_of, sides, work
from regraft.models.freeze import FreezePlan, resolve_plan
from regraft.recipe import VIEWS, Phase
from regraft.system.console import amount, duration
from regraft.training.fit import EPOCHS, Fitted

__all__ = ["Depth", "Images", "Pace", "Placed", "Search", "TrainingPace", "pays", "place", "room", "share"]


FORWARD = 2  # a forward pass of Keras, in units of the engine's
TRAINED = 6  # forward and backward in Keras, in the same units: three times its forward pass
PASSED = 4  # the multiplications of a frozen layer behind a trained one, which needs no gradients of its own
WRITTEN = 700  # a byte written, with its checksum, in the same units: 200 MB/s at 140 G/s
READ = 280  # a byte read
BYTES = 2  # of a stored number: float16
SHARE = 0.5  # of the free disk, at most


@dataclass(frozen=True)
class Images:
    """How many images a phase looks at in every epoch; only those of training are augmented.

    `views` is how many versions of a training image to store; None to choose, 1 where nothing changes them.
    """

    train: int
    validation: int
    views: int | None = None


@dataclass(frozen=True)
class Placed:
    """A boundary and what it costs; `boundary` is None where the frozen part runs from pixels every epoch.

    Attributes:
        views: versions stored of each training image.
        each, whole: bytes of one image in one view, and of all of them.
        once, epoch: work before the first epoch, and in each; see `cut.work`.
    """

    boundary: Boundary | None
    views: int
    each: int
    whole: int
    once: int
    epoch: int

    def cost(self, epochs: int) -> int:
        """Add up so many epochs, and what comes before them."""
        return self.once + epochs * self.epoch

    def __str__(self) -> str:
        views = f" in {self.views} views" if self.views > 1 else ""
        name = self.boundary.name if self.boundary else "nothing"
        return f"store {amount(self.each)} an image{views}, {amount(self.whole)} in all, of {name}"


def place(model: keras.Model, plan: Predicate, images: Images, *, epochs: int, limit: float) -> Placed:
    """The boundary at which so many epochs take least, with as many views as pay; or pixels.

    Args:
        model: from `graft`.
        plan: what trains, see `cut`.
        images: what each epoch looks at.
        epochs: how often what is stored will be read.
        limit: bytes that may be stored.

    More views than epochs would never be seen, and more than `recipe.VIEWS` are not worth their pass.
    """
    found = sides(model, plan)
    ahead = [0, *accumulate(work([node]) for node in found.cold)]
    trained, seen = _trained(found, plan, images), images.train + images.validation
    pixels = Placed(None, 1, 0, 0, once=0, epoch=trained + seen * FORWARD * ahead[-1])

    def stored(at: Boundary, views: int) -> Placed:
        rows, each = images.train * views + images.validation, at.numbers * BYTES
        once = rows * (ahead[at.before] + each * WRITTEN)
        again = seen * (FORWARD * (ahead[-1] - ahead[at.before]) + each * READ)
        return Placed(at, views, each, rows * each, once, trained + again)

    for views in range(images.views or min(VIEWS, epochs), 0, -1):
        every = [stored(at, views) for at in reversed(found.boundaries)]  # of equal ones the latest
        fitting = [placed for placed in every if placed.whole <= limit]
        best = min([pixels, *fitting], key=lambda placed: placed.cost(epochs))
        if best is not pixels:
            return best
    return pixels


def room(folder: Path, limit: float) -> float:
    """Bytes that may be stored: the limit, and no more than half of what the disk has left."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    return min(limit, SHARE * shutil.disk_usage(there).free)


def _trained(found: Sides, plan: Predicate, images: Images) -> int:
    """Price an epoch behind what is frozen; validation goes through it forward only."""
    layers = [node for node in found.hot if isinstance(node.operation, keras.layers.Layer)]
    frozen = multiplications(node for node in layers if not plan(node.operation))
    train = TRAINED * work(found.hot) - (TRAINED - PASSED) * frozen
    return images.train * train + images.validation * FORWARD * work(found.hot)


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
