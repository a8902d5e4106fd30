"""How many layers to fine-tune within a budget: what costs little first, more where that pays.

What a plan costs is known beforehand (`features.boundary`): what it trains runs in every epoch, what is
frozen once, where its boundary is stored. How many seconds that is, `training.pace` knows. Nothing here
changes the model.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import keras

from regraft.backbone.cost import multiplications, nodes_of
from regraft.backbone.cut import sides
from regraft.backbone.freeze import FreezePlan, resolve_plan
from regraft.backbone.load import Backbone
from regraft.console import duration
from regraft.features.boundary import Images, Placed, place
from regraft.recipe import Phase
from regraft.training.fit import EPOCHS, Fitted
from regraft.training.pace import TrainingPace

__all__ = ["Depth", "Search", "pays", "share"]

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
