"""Planning a phase: where to cut the network, how long training takes, and how many layers to fine-tune.

A phase runs the layers that train in every epoch. The frozen layers in front of them can run once, in the
engine, and be read back in every epoch; or run from pixels in every epoch, in Keras. Every other boundary
lies in between: fewer bytes on disk, and some frozen layers that run in every epoch. All costs, bytes too,
are in units of the engine's work (`estimate_work`), so the choice is the same on a fast and on a slow
machine.

Seconds are estimated from Keras' own pace: a forward pass that is timed once, and what earlier phases took.
The engine may compute in bf16 or on another device, so its pace says nothing about that of Keras. Deeper
plans are compared where there is time for it. Nothing here changes the model.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import keras
import numpy as np

from regraft.backbones.graph import list_nodes
from regraft.backbones.load import Backbone
from regraft.features.extract import Features
from regraft.features.store import Store
from regraft.models.cut import (
    Boundary,
    PartitionedGraph,
    count_multiplications,
    estimate_work,
    partition_graph,
)
from regraft.models.freeze import FreezePlan, Predicate, resolve_plan
from regraft.recipe import VIEWS, Phase
from regraft.system.console import format_bytes, format_duration
from regraft.training.fit import EPOCHS

__all__ = [
    "TRIAL_EPOCHS",
    "CutPlan",
    "DepthPlan",
    "DepthPlanner",
    "ImageCounts",
    "Pace",
    "TrainingPace",
    "available_bytes",
    "compute_trained_share",
    "plan_cut",
]

FORWARD_COST = 2  # a forward pass of Keras, in units of the engine's
TRAIN_COST = 6  # forward and backward in Keras, in the same units: three times its forward pass
FROZEN_COST = 4  # the multiplications of a frozen layer behind a trained one: its weights need no gradients
WRITE_COST = 700  # a byte written, with its checksum, in the same units: 200 MB/s at 140 G/s
READ_COST = 280  # a byte read
NUMBER_BYTES = 2  # of a stored number: float16
DISK_SHARE = 0.5  # of the free disk, at most

TIMED_IMAGES = 8  # black images in a forward pass that is timed
TIMED_PASSES = 5  # the fastest counts: the result is remembered, so other work must not spoil it
COMPILING = 11  # times what tracing a forward pass takes: forward, backward, update, the engine's graph

FEWEST_EPOCHS = 4  # with fewer, fine-tuning has not had its chance
SMALL = 1 / 3  # share of the network's multiplications that the first plan trains, at most
MIDDLE = 2 / 3  # share that the second of the plans to compare trains, at most
TRIAL_EPOCHS = 2  # of each plan where plans are compared

# Fields of `CutPlan` and `DepthPlan` in a journal.
_CUT_KEYS = ("boundary", "views", "each", "whole", "once", "epoch")
_DEPTH_KEYS = ("epochs", "once", "epoch", "why")


@dataclass(frozen=True)
class ImageCounts:
    """How many images a phase sees in every epoch; only those of training are augmented.

    `views` is how many versions of a training image to store; None to choose, 1 if nothing changes them.
    """

    train: int
    validation: int
    views: int | None = None


@dataclass(frozen=True)
class CutPlan:
    """A boundary and what it costs; `boundary` is None if the frozen part runs from pixels in every epoch.

    Attributes:
        views: versions stored of each training image.
        image_bytes, total_bytes: bytes of one image in one view, and of all of them.
        once, epoch: work before the first epoch, and in each; see `cut.estimate_work`.
    """

    boundary: Boundary | None
    views: int
    image_bytes: int
    total_bytes: int
    once: int
    epoch: int

    def cost(self, epochs: int) -> int:
        """Return the work of this many epochs and of what comes before them."""
        return self.once + epochs * self.epoch

    @property
    def name(self) -> str:
        """The layers whose outputs are stored, as a phrase."""
        return self.boundary.name if self.boundary else "nothing"

    def __str__(self) -> str:
        views = f" in {self.views} views" if self.views > 1 else ""
        sizes = f"{format_bytes(self.image_bytes)} an image{views}, {format_bytes(self.total_bytes)} in all"
        return f"store {sizes}, of {self.name}"


def plan_cut(
    model: keras.Model, plan: Predicate, images: ImageCounts, *, epochs: int, limit: float
) -> CutPlan:
    """Choose the cheapest boundary for a number of epochs, and how many views to store there; or pixels.

    Args:
        model: from `graft`.
        plan: what trains, see `cut`.
        images: what each epoch sees.
        epochs: how often the stored tensors will be read.
        limit: bytes that may be stored.

    More views than epochs would never be seen, and more than `recipe.VIEWS` are not worth their pass.
    """
    graph = partition_graph(model, plan)
    ahead = [0, *accumulate(estimate_work([node]) for node in graph.frozen)]
    trained, seen = _estimate_trained_work(graph, plan, images), images.train + images.validation
    pixels = CutPlan(None, 1, 0, 0, once=0, epoch=trained + seen * FORWARD_COST * ahead[-1])

    def price(boundary: Boundary, views: int) -> CutPlan:
        rows, size = images.train * views + images.validation, boundary.numbers * NUMBER_BYTES
        once = rows * (ahead[boundary.position] + size * WRITE_COST)
        repeated = seen * (FORWARD_COST * (ahead[-1] - ahead[boundary.position]) + size * READ_COST)
        return CutPlan(boundary, views, size, rows * size, once, trained + repeated)

    for views in range(images.views or min(VIEWS, epochs), 0, -1):
        plans = [
            price(boundary, views) for boundary in reversed(graph.boundaries)
        ]  # on a tie the latest wins
        affordable = [cut for cut in plans if cut.total_bytes <= limit]
        best = min([pixels, *affordable], key=lambda cut: cut.cost(epochs))
        if best is not pixels:
            return best
    return pixels


def _estimate_trained_work(graph: PartitionedGraph, plan: Predicate, images: ImageCounts) -> int:
    """Return the work of the layers after the boundary in an epoch; validation runs them forward only."""
    layers = [node for node in graph.changing if isinstance(node.operation, keras.layers.Layer)]
    frozen = count_multiplications(node for node in layers if not plan(node.operation))
    train = TRAIN_COST * estimate_work(graph.changing) - (TRAIN_COST - FROZEN_COST) * frozen
    return images.train * train + images.validation * FORWARD_COST * estimate_work(graph.changing)


def available_bytes(folder: Path, limit: float) -> float:
    """Return the bytes that may be stored: the limit, or half of the free disk if that is less."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return min(limit, DISK_SHARE * shutil.disk_usage(existing).free)


@dataclass(frozen=True)
class Pace:
    """Seconds that work takes.

    Attributes:
        engine, training: seconds of a unit of work (see `cut.estimate_work`), in the engine and in Keras.
        compiling: seconds to compile the frozen part for the engine and the rest for Keras.
    """

    engine: float
    training: float
    compiling: float

    def estimate_once(self, cut: CutPlan) -> float:
        """Return the seconds before the first epoch: the engine's pass, and compiling."""
        return cut.once * self.engine + self.compiling

    def estimate_epoch(self, cut: CutPlan) -> float:
        """Return the seconds of an epoch."""
        return max(cut.epoch * self.training, 1e-9)


class TrainingPace:
    """The pace of one network, remembered as hints of the store. It chooses plans, and never where to cut.

    Args:
        model: from `graft`.
        features: of its frozen backbone; they know how fast the engine is.
        store: where measured times are remembered.
        clock: returns seconds that only grow.
    """

    def __init__(
        self,
        model: keras.Model,
        features: Features,
        store: Store,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._model, self._features, self._store, self._clock = model, features, store, clock
        self._work = max(1, estimate_work(list_nodes(model)))

    def estimate(self, plan: str) -> Pace:
        """Return the pace of a plan when it last ran; if it never did, that of a forward pass."""
        engine = self._features.seconds_per_image / self._work
        forward, tracing = self._recall("forward"), self._recall("tracing")
        if forward is None or tracing is None:
            forward, tracing = self._measure()
        return Pace(engine, self._recall(plan) or forward, COMPILING * tracing)

    def record(self, plan: str, cut: CutPlan, seconds: float) -> None:
        """Remember what an epoch of a plan took."""
        self._remember(plan, seconds / max(1, cut.epoch))

    def _measure(self) -> tuple[float, float]:
        """Time forward passes; return the seconds of a unit of work, and of tracing (in the first pass)."""
        size = self._model.inputs[0].shape[1:]
        black, seconds = np.zeros((TIMED_IMAGES, *size), np.float32), []
        for _ in range(TIMED_PASSES + 1):
            begun = self._clock()
            self._model.predict_on_batch(black)
            seconds.append(self._clock() - begun)
        fastest = min(seconds[1:])
        forward = fastest / TIMED_IMAGES / (FORWARD_COST * self._work)
        tracing = max(0.0, seconds[0] - fastest)
        self._remember("forward", forward)
        self._remember("tracing", tracing)
        return forward, tracing

    def _remember(self, name: str, seconds: float) -> None:
        self._store.remember(self._hint(name), repr(seconds))

    def _recall(self, name: str) -> float | None:
        try:
            return float(self._store.recall(self._hint(name)) or "")
        except ValueError:
            return None

    def _hint(self, name: str) -> str:
        backend = keras.backend.backend()
        return f"seconds a unit of training: {name}, {backend} through {self._features.fingerprint}"


@dataclass(frozen=True)
class DepthPlan:
    """A phase with its plan chosen, and what it is expected to take.

    Attributes:
        phase: with its plan in words.
        plan: the same plan, resolved to layers.
        cut: the boundary at which the network is cut, and the cost of storing activations there.
        epochs: how many are expected to fit; 0 if too few do.
        once, epoch: seconds before the first epoch, if nothing is stored yet, and of each.
        remark: why nothing fits, as a phrase.
    """

    phase: Phase
    plan: FreezePlan
    cut: CutPlan
    epochs: int
    once: float
    epoch: float
    remark: str = ""

    @property
    def seconds(self) -> float:
        """Seconds of all epochs; of the fewest that are worth it, if not even these fit."""
        return self.once + (self.epochs or FEWEST_EPOCHS) * self.epoch

    def state(self) -> dict[str, Any]:
        """Return the choice as JSON, for `DepthPlanner.restore`."""
        boundary, values = self.cut.boundary, (self.epochs, self.once, self.epoch, self.remark)
        placed = dict(zip(_CUT_KEYS, vars(self.cut).values(), strict=True))
        placed["boundary"] = None if boundary is None else boundary.position
        return {**dict(zip(_DEPTH_KEYS, values, strict=True)), "phase": asdict(self.phase), "placed": placed}


@dataclass(frozen=True)
class DepthPlanner:
    """Chooses how many layers a phase trains, within a budget.

    Attributes:
        model: from `graft`.
        backbone: the one in `model`.
        images: what an epoch sees.
        paces: estimates of seconds.
    """

    model: keras.Model
    backbone: Backbone
    images: ImageCounts
    paces: TrainingPace

    def choose(self, phase: Phase, *, budget: float, limit: float) -> DepthPlan:
        """Choose the plan of an "auto" phase: the deepest of those that train a third of the network at most.

        It has no epochs if not even the smallest plan fits the budget.

        Args:
            phase: everything but the plan.
            budget: seconds.
            limit: bytes that may be stored.
        """
        plans = self._list_plans()
        small = [plan for plan in plans if compute_trained_share(self.backbone, plan) <= SMALL]
        plans = small or plans
        enough = min(FEWEST_EPOCHS, phase.epochs or FEWEST_EPOCHS)
        for plan in plans:
            depth = self.price(replace(phase, unfreeze=plan), budget=budget, limit=limit)
            if depth.epochs >= enough:
                return depth
        needed, limits = format_duration(depth.once + enough * depth.epoch), format_duration(budget)
        remark = f"even {plans[-1]} would take about {needed} for {enough} epochs, and the budget is {limits}"
        return replace(depth, epochs=0, remark=remark)

    def choose_rivals(
        self, phase: Phase, first: DepthPlan, *, budget: float, limit: float
    ) -> list[DepthPlan]:
        """Choose the plans that a few epochs compare: the first one, and up to two deeper ones.

        The deeper ones are the deepest that trains two thirds of the network at most, and everything. There
        must be time for a trial of each and for all epochs of the most costly one; where there is none, the
        deepest go first. One plan alone needs no trial.

        Args:
            phase: everything but the plan.
            first: from `choose`.
            budget, limit: seconds, and bytes that may be stored by all of them.
        """
        plans = self._list_plans()
        deeper = plans[: plans.index(str(first.phase.unfreeze))]
        middle = [p for p in deeper if p != "all" and compute_trained_share(self.backbone, p) <= MIDDLE]
        rivals = [first]
        for plan in [*middle[:1], *(plan for plan in deeper if plan == "all")]:
            rival = self.price(replace(phase, unfreeze=plan), budget=budget, limit=limit)
            limit -= rival.cut.total_bytes
            longest = max((phase.epochs or EPOCHS) * depth.epoch for depth in (*rivals, rival))
            trials = sum(depth.once + TRIAL_EPOCHS * depth.epoch for depth in (*rivals, rival))
            if trials + longest > budget:
                break
            rivals.append(rival)
        return rivals

    def _list_plans(self) -> list[str]:
        """List the plans that "auto" knows, the deepest first."""
        return ["all", *(f"stage:{name}" for name in list(self.backbone.stages)[1:])]

    def price(self, phase: Phase, *, budget: float, limit: float) -> DepthPlan:
        """Return what a phase with its plan takes: where it is cut, and how many epochs fit the budget."""
        plan = resolve_plan(self.backbone, phase.unfreeze)
        cut = self.plan_cut(phase, plan, limit)
        pace = self.paces.estimate(str(phase.unfreeze))
        once, epoch = pace.estimate_once(cut), pace.estimate_epoch(cut)
        epochs = max(0, min(phase.epochs or EPOCHS, int((budget - once) / epoch)))
        return DepthPlan(phase, plan, cut, epochs, once, epoch)

    def restore(self, state: dict[str, Any]) -> DepthPlan:
        """Return the choice that had this state, whatever clock and disk would choose now."""
        phase, stored = Phase(**state["phase"]), state["placed"]
        plan = resolve_plan(self.backbone, phase.unfreeze)
        boundary = None
        if stored["boundary"] is not None:
            boundaries = partition_graph(self.model, plan).boundaries
            boundary = next(other for other in boundaries if other.position == stored["boundary"])
        cut = CutPlan(boundary, *(stored[key] for key in _CUT_KEYS[1:]))
        return DepthPlan(phase, plan, cut, *(state[key] for key in _DEPTH_KEYS))

    def plan_cut(self, phase: Phase, plan: FreezePlan, limit: float) -> CutPlan:
        """Return where a phase would be cut if this many bytes may be stored."""
        return plan_cut(self.model, plan, self.images, epochs=phase.epochs or EPOCHS, limit=limit)


def compute_trained_share(backbone: Backbone, plan: str) -> float:
    """Return the share of a network's multiplications from the first layer that trains on."""
    network = list_nodes(backbone.model)
    first = backbone.layers.index(resolve_plan(backbone, plan).layers[0])
    behind = {id(layer) for layer in backbone.layers[first:]}
    late = count_multiplications(node for node in network if id(node.operation) in behind)
    return late / max(1, count_multiplications(network))
