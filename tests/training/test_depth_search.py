"""The depth of fine-tuning: what costs little first, then as deep as the budget holds."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import pytest

from regraft.backbones.load import load_backbone
from regraft.models.cut import cut, nodes_of, work
from regraft.models.freeze import Trained, freeze
from regraft.models.head import graft
from regraft.recipe import HeadSpec, Phase
from regraft.training.fit import EpochRecord, Fitted
from regraft.training.optimizers import step_bytes
from regraft.training.planning import FEWEST_EPOCHS, Images, Pace, Search, pays

PHASE = Phase("auto")
PLENTY = 1e12


@pytest.fixture(scope="module")
def search():
    backbone = load_backbone("mobilenet_v2", weights="random", image_size=64)
    model = graft(backbone, HeadSpec(), outputs=3)
    return Search(model, backbone, Images(1000, 200), Same(0.01 / work(nodes_of(model))))


@dataclass
class Same:
    """One pace for every plan, for the engine and for training; compiling takes no time."""

    seconds: float

    def of(self, plan: str) -> Pace:
        return Pace(self.seconds, self.seconds, compiling=0.0)


def test_first_comes_the_deepest_plan_that_trains_a_third_of_the_network(search) -> None:
    depth = search.choose(PHASE, budget=1e6, limit=PLENTY)
    assert depth.phase.unfreeze == "stage:block_13"
    assert depth.placed.boundary.name == "block_12_add"


def test_beyond_it_comes_everything_when_there_is_time(search) -> None:
    first = search.choose(PHASE, budget=1e6, limit=PLENTY)
    depth = search.choose(PHASE, budget=1e6, limit=PLENTY, beyond=first.phase)
    assert depth.phase.unfreeze == "all"
    assert depth.placed.boundary is None
    # forward and backward for training, forward for validation, in units of the engine's forward pass
    assert depth.seconds == pytest.approx(depth.epochs * (1000 * 0.01 * 6 + 200 * 0.01 * 2), rel=0.01)


def test_beyond_a_plan_only_deeper_ones_are_looked_at(search) -> None:
    first = Phase("stage:block_1")
    depth = search.choose(PHASE, budget=200, limit=PLENTY, beyond=first)
    assert depth.epochs == 0
    assert "even all would take" in depth.why


@pytest.mark.parametrize("limit", [0, PLENTY])  # from pixels, at a boundary
def test_a_choice_that_was_noted_is_the_same_choice_whatever_the_clock_says_now(search, limit: float) -> None:
    chosen = search.choose(replace(PHASE, epochs=7), budget=1e6, limit=limit)
    again = replace(search, paces=Same(1e9)).restore(json.loads(json.dumps(chosen.state())))
    assert again.phase == chosen.phase
    assert (again.epochs, again.seconds, again.why) == (chosen.epochs, chosen.seconds, chosen.why)
    assert str(again.placed) == str(chosen.placed)
    tensors = [placed.boundary and placed.boundary.tensors for placed in (again.placed, chosen.placed)]
    assert tensors[0] is tensors[1] or all(a is b for a, b in zip(*tensors, strict=True))
    assert again.plan.layers == chosen.plan.layers
    assert again.plan.trained == chosen.plan.trained


def test_less_time_means_a_later_stage(search) -> None:
    stages = list(search.backbone.stages)
    chosen = [
        search.choose(PHASE, budget=budget, limit=PLENTY).phase.unfreeze for budget in (200, 110, 80, 60)
    ]
    places = [stages.index(plan.removeprefix("stage:")) for plan in chosen]
    assert places == sorted(places)
    assert places[-1] > places[0]


def test_no_time_at_all_means_the_probe_and_says_why(search) -> None:
    depth = search.choose(PHASE, budget=1, limit=PLENTY)
    assert depth.epochs == 0
    assert "the budget is 1.0 s" in depth.why


def test_a_stored_boundary_makes_an_epoch_cheaper(search) -> None:
    phase = Phase("stage:block_13", epochs=6)
    stored = search.price(phase, budget=1e6, limit=PLENTY)
    again = search.price(phase, budget=1e6, limit=0)
    assert stored.placed.epoch < 0.7 * again.placed.epoch
    assert stored.seconds < again.seconds
    assert stored.placed.whole > 0 == again.placed.whole


def test_what_is_stored_once_counts_towards_the_budget(search) -> None:
    phase = Phase("stage:block_13")
    whole = search.price(phase, budget=1e6, limit=PLENTY)
    assert whole.epochs > search.price(phase, budget=whole.seconds * 0.8, limit=PLENTY).epochs
    assert search.price(phase, budget=0.01, limit=PLENTY).epochs == 0


def test_chosen_plan_holds_enough_epochs(search) -> None:
    for budget in (60, 100, 150):
        depth = search.choose(PHASE, budget=budget, limit=PLENTY)
        assert depth.epochs == 0 or depth.epochs >= FEWEST_EPOCHS
        assert depth.seconds <= budget or depth.epochs == 0


def test_epochs_that_were_asked_for_are_kept(search) -> None:
    depth = search.choose(replace(PHASE, epochs=9), budget=1e6, limit=PLENTY)
    assert depth.phase.epochs == depth.epochs == 9
    assert search.choose(replace(PHASE, epochs=1), budget=1e6, limit=PLENTY).epochs == 1


def test_looking_at_plans_changes_no_flag(search) -> None:
    layers = search.model._flatten_layers()
    freeze(search.backbone, "last:20")
    before = [(layer.trainable, [v.trainable for v in layer.variables]) for layer in layers]
    for budget in (1e6, 60):
        depth = search.choose(PHASE, budget=budget, limit=PLENTY)
        search.restore(json.loads(json.dumps(depth.state())))
        step_bytes(search.model, depth.plan, 16, depth.placed.boundary)
        cut(search.model, depth.plan, depth.placed.boundary).trained()
    assert [(layer.trainable, [v.trainable for v in layer.variables]) for layer in layers] == before


@pytest.mark.parametrize("flags", ["none", "all", "last:9"])
def test_where_a_plan_is_cut_and_what_it_costs_do_not_depend_on_flags(search, flags: str) -> None:
    expected = search.price(Phase("stage:block_13"), budget=1e6, limit=PLENTY)
    freeze(search.backbone, flags)
    depth = search.price(Phase("stage:block_13"), budget=1e6, limit=PLENTY)
    assert depth.state() == expected.state()
    sizes = [step_bytes(search.model, each.plan, 16, each.placed.boundary) for each in (depth, expected)]
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize(("losses", "expected"), [((1.0, 0.2), True), ((0.5, 0.34), False), ((1.0,), False)])
def test_going_deeper_pays_where_half_of_the_loss_is_gone(losses, expected) -> None:
    history = [EpochRecord(n, loss, loss, 0.5, 1e-3, 1.0) for n, loss in enumerate(losses)]
    fitted = Fitted(Phase("all"), Trained(1, 1), history=history, best=len(losses) - 1)
    assert pays(fitted) is expected
