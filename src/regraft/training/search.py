"""How many layers to fine-tune within a budget: what costs little first, more where that pays.

What a plan costs is known beforehand (`features.boundary`): what it trains runs in every epoch, what is
frozen once, where its boundary is stored. Multiplications become seconds by how fast the engine ran the whole
network on this machine.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import keras

from regraft.backbone.cost import multiplications, nodes_of
from regraft.backbone.cut import sides
from regraft.backbone.freeze import freeze, planned, trains
from regraft.backbone.load import Backbone
from regraft.console import duration
from regraft.features.boundary import Images, Placed, place
from regraft.recipe import Phase
from regraft.training.fit import EPOCHS, Fitted

__all__ = ["Depth", "Search", "pays", "share"]

FEWEST_EPOCHS = 4  # below this, fine-tuning has not had its chance
SMALL = 1 / 3  # share of the network's multiplications that the first plan trains, at most
PAYS = 0.5  # share of the loss that a plan has to take away for a deeper one to be tried


@dataclass(frozen=True)
class Depth:
    """A choice.

    Attributes:
        phase: with its plan.
        epochs: how many are expected to fit; 0 where too few do.
        seconds: what they take.
        placed: where the network is cut for it, and what is stored there.
        why: a phrase.
    """

    phase: Phase
    epochs: int
    seconds: float
    placed: Placed
    why: str

    def state(self) -> dict[str, Any]:
        """The choice as JSON, for `Search.again`."""
        boundary = self.placed.boundary
        placed = {**vars(self.placed), "boundary": None if boundary is None else boundary.before}
        return {**vars(self), "phase": asdict(self.phase), "placed": placed}


@dataclass(frozen=True)
class Search:
    """What a choice depends on.

    Attributes:
        model: from `graft`; looking at a plan writes its layers' flags, as `freeze` does.
        backbone: the one in `model`.
        images: what an epoch looks at.
        seconds_per_image: what the engine took for one image through the whole backbone.
    """

    model: keras.Model
    backbone: Backbone
    images: Images
    seconds_per_image: float

    def choose(self, phase: Phase, *, budget: float, limit: float, beyond: Phase | None = None) -> Depth:
        """The plan for a phase that leaves it to the program: one that fits the budget.

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
            depth = self.cost(replace(phase, unfreeze=plan), budget=budget, limit=limit)
            if depth.epochs >= enough:
                return depth
        why = (
            f"even {plans[-1]} would take about {duration(depth.seconds)} for {enough} epochs, and "
            f"the budget is {duration(budget)}"
        )
        return replace(depth, epochs=0, why=why)

    def cost(self, phase: Phase, *, budget: float, limit: float) -> Depth:
        """What a phase with its plan takes: where it is cut, and how many epochs fit the budget."""
        placed, wanted = self.placed(phase, limit), phase.epochs or EPOCHS
        pace = self.seconds_per_image / max(1, multiplications(nodes_of(self.backbone.model)))
        epoch = max(placed.epoch * pace, 1e-9)
        epochs = max(0, min(wanted, int((budget - placed.once * pace) / epoch)))
        seconds = placed.cost(epochs or FEWEST_EPOCHS) * pace
        return Depth(phase, epochs, seconds, placed, f"about {duration(epoch)} an epoch on this machine")

    def again(self, state: dict[str, Any]) -> Depth:
        """The choice that had this state: neither clock nor disk has a say in it any more."""
        phase, placed = Phase(**state["phase"]), dict(state["placed"])
        freeze(self.backbone, phase.unfreeze)
        found = {boundary.before: boundary for boundary in sides(self.model, trains).boundaries}
        placed["boundary"] = None if placed["boundary"] is None else found[placed["boundary"]]
        return Depth(**{**state, "phase": phase, "placed": Placed(**placed)})

    def placed(self, phase: Phase, limit: float) -> Placed:
        """Where a phase would be cut if so many bytes may be stored."""
        freeze(self.backbone, phase.unfreeze)
        return place(self.model, self.images, epochs=phase.epochs or EPOCHS, limit=limit)


def share(backbone: Backbone, plan: str) -> float:
    """The share of a network's multiplications from the first layer that trains on."""
    whole = nodes_of(backbone.model)
    layers = backbone.layers[planned(backbone, plan).index(True) :]
    behind = {id(layer) for layer in layers}
    late = multiplications(node for node in whole if id(node.operation) in behind)
    return late / max(1, multiplications(whole))


def pays(fitted: Fitted) -> bool:
    """Whether a deeper plan is worth its time: this one took away much of the loss, and there may be more.

    A backbone whose features fit the task leaves its last layers little to mend; one that was made for
    something else goes on gaining with every layer.
    """
    first, best = fitted.history[0], fitted.history[fitted.best]
    return best.val_loss <= (1 - PAYS) * first.val_loss
