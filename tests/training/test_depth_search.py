"""The depth of fine-tuning: what costs little first, then as deep as the budget allows."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import pytest

from regraft.backbones.graph import list_nodes
from regraft.backbones.load import load_backbone
from regraft.models.cut import cut, estimate_work
from regraft.models.freeze import freeze
from regraft.models.head import graft
from regraft.recipe import HeadSpec, Phase
from regraft.training.fit import EPOCHS
from regraft.training.optimizers import estimate_step_bytes
from regraft.training.planning import (
    FEWEST_EPOCHS,
    MIDDLE,
    TRIAL_EPOCHS,
    DepthPlanner,
    ImageCounts,
    Pace,
    compute_trained_share,
)

PHASE = Phase("auto")
PLENTY = 1e12


@pytest.fixture(scope="module")
def planner():
    backbone = load_backbone("mobilenet_v2", weights="random", image_size=64)
    model = graft(backbone, HeadSpec(), outputs=3)
    return DepthPlanner(
        model, backbone, ImageCounts(1000, 200), Same(0.01 / estimate_work(list_nodes(model)))
    )


@dataclass
class Same:
    """One pace for every plan, for the engine and for training; compiling takes no time."""

    seconds: float

    def estimate(self, plan: str) -> Pace:
        return Pace(self.seconds, self.seconds, compiling=0.0)


def test_first_comes_the_deepest_plan_that_trains_a_third_of_the_network(planner) -> None:
    depth = planner.choose(PHASE, budget=1e6, limit=PLENTY)
    assert depth.phase.unfreeze == "stage:block_13"
    assert depth.cut.boundary.name == "block_12_add"


def choose_rivals(planner, budget: float, phase: Phase = PHASE) -> list[str]:
    first = planner.choose(phase, budget=1e6, limit=PLENTY)
    rivals = planner.choose_rivals(phase, first, budget=budget, limit=PLENTY)
    assert rivals[0] is first
    return [str(depth.phase.unfreeze) for depth in rivals]


def test_deeper_plans_are_compared_where_there_is_time_for_trials_and_for_the_best(planner) -> None:
    third, everything = "stage:block_13", "all"
    found = choose_rivals(planner, 1e6)
    assert [found[0], found[2]] == [third, everything]
    middle = found[1]
    assert compute_trained_share(planner.backbone, middle) <= MIDDLE
    depths = [planner.price(Phase(plan), budget=1e6, limit=PLENTY) for plan in (third, middle, everything)]
    trials = [depth.once + TRIAL_EPOCHS * depth.epoch for depth in depths]
    enough = sum(trials) + EPOCHS * depths[2].epoch
    assert choose_rivals(planner, enough * 1.001) == found
    assert choose_rivals(planner, enough * 0.999) == [third, middle]
    assert choose_rivals(planner, (sum(trials[:2]) + EPOCHS * depths[1].epoch) * 0.999) == [third]


def test_an_epoch_of_everything_costs_forward_and_backward(planner) -> None:
    depth = planner.price(Phase("all"), budget=1e6, limit=PLENTY)
    assert depth.cut.boundary is None
    # forward and backward for training, forward for validation, in units of the engine's forward pass
    assert depth.seconds == pytest.approx(depth.epochs * (1000 * 0.01 * 6 + 200 * 0.01 * 2), rel=0.01)


@pytest.mark.parametrize("limit", [0, PLENTY])  # from pixels, at a boundary
def test_a_choice_that_was_noted_is_the_same_choice_whatever_the_clock_says_now(
    planner, limit: float
) -> None:
    chosen = planner.choose(replace(PHASE, epochs=7), budget=1e6, limit=limit)
    again = replace(planner, paces=Same(1e9)).restore(json.loads(json.dumps(chosen.state())))
    assert again.phase == chosen.phase
    assert (again.epochs, again.seconds, again.remark) == (chosen.epochs, chosen.seconds, chosen.remark)
    assert str(again.cut) == str(chosen.cut)
    tensors = [plan.boundary and plan.boundary.tensors for plan in (again.cut, chosen.cut)]
    assert tensors[0] is tensors[1] or all(a is b for a, b in zip(*tensors, strict=True))
    assert again.plan.layers == chosen.plan.layers
    assert again.plan.count == chosen.plan.count


def test_less_time_means_a_later_stage(planner) -> None:
    stages = list(planner.backbone.stages)
    chosen = [
        planner.choose(PHASE, budget=budget, limit=PLENTY).phase.unfreeze for budget in (200, 110, 80, 60)
    ]
    numbers = [stages.index(plan.removeprefix("stage:")) for plan in chosen]
    assert numbers == sorted(numbers)
    assert numbers[-1] > numbers[0]


def test_no_time_at_all_means_the_probe_and_says_why(planner) -> None:
    depth = planner.choose(PHASE, budget=1, limit=PLENTY)
    assert depth.epochs == 0
    assert "the budget is 1.0 s" in depth.remark


def test_a_stored_boundary_makes_an_epoch_cheaper(planner) -> None:
    phase = Phase("stage:block_13", epochs=6)
    stored = planner.price(phase, budget=1e6, limit=PLENTY)
    again = planner.price(phase, budget=1e6, limit=0)
    assert stored.cut.epoch < 0.7 * again.cut.epoch
    assert stored.seconds < again.seconds
    assert stored.cut.total_bytes > 0 == again.cut.total_bytes


def test_what_is_stored_once_counts_towards_the_budget(planner) -> None:
    phase = Phase("stage:block_13")
    depth = planner.price(phase, budget=1e6, limit=PLENTY)
    assert depth.epochs > planner.price(phase, budget=depth.seconds * 0.8, limit=PLENTY).epochs
    assert planner.price(phase, budget=0.01, limit=PLENTY).epochs == 0


def test_chosen_plan_holds_enough_epochs(planner) -> None:
    for budget in (60, 100, 150):
        depth = planner.choose(PHASE, budget=budget, limit=PLENTY)
        assert depth.epochs == 0 or depth.epochs >= FEWEST_EPOCHS
        assert depth.seconds <= budget or depth.epochs == 0


def test_epochs_that_were_asked_for_are_kept(planner) -> None:
    depth = planner.choose(replace(PHASE, epochs=9), budget=1e6, limit=PLENTY)
    assert depth.phase.epochs == depth.epochs == 9
    assert planner.choose(replace(PHASE, epochs=1), budget=1e6, limit=PLENTY).epochs == 1


def test_looking_at_plans_changes_no_flag(planner) -> None:
    layers = planner.model._flatten_layers()
    freeze(planner.backbone, "last:20")
    before = [(layer.trainable, [v.trainable for v in layer.variables]) for layer in layers]
    for budget in (1e6, 60):
        depth = planner.choose(PHASE, budget=budget, limit=PLENTY)
        planner.restore(json.loads(json.dumps(depth.state())))
        estimate_step_bytes(planner.model, depth.plan, 16, depth.cut.boundary)
        cut(planner.model, depth.plan, depth.cut.boundary).make_trainable_suffix()
    assert [(layer.trainable, [v.trainable for v in layer.variables]) for layer in layers] == before


@pytest.mark.parametrize("flags", ["none", "all", "last:9"])
def test_where_a_plan_is_cut_and_what_it_costs_do_not_depend_on_flags(planner, flags: str) -> None:
    expected = planner.price(Phase("stage:block_13"), budget=1e6, limit=PLENTY)
    freeze(planner.backbone, flags)
    depth = planner.price(Phase("stage:block_13"), budget=1e6, limit=PLENTY)
    assert depth.state() == expected.state()
    sizes = [estimate_step_bytes(planner.model, d.plan, 16, d.cut.boundary) for d in (depth, expected)]
    assert sizes[0] == sizes[1]
