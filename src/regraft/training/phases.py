"""The phases of a recipe, one after the other, each from where the one before it left the model."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import keras

from regraft.backbone.cut import Cut
from regraft.backbone.load import Backbone
from regraft.console import duration, say
from regraft.errors import UsageError
from regraft.outcome import Decision
from regraft.recipe import Phase, Recipe
from regraft.training.compiled import Compiled
from regraft.training.fit import Fitted, fine_tune
from regraft.training.heads import FoundHead, find_head, solver_of
from regraft.training.material import Material
from regraft.training.search import choose_depth

__all__ = ["AsAsked", "head_phase", "impossible", "run_phase", "run_phases", "tuning_phases"]


def head_phase(recipe: Recipe) -> Phase | None:
    """The phase that trains the head on stored features: the first one, if its plan is "none"."""
    first = recipe.phases[0] if recipe.phases else None
    return first if first is not None and first.unfreeze == "none" else None


def tuning_phases(recipe: Recipe, found: FoundHead) -> tuple[Phase, ...]:
    """The phases that are left when the head has been found."""
    return recipe.phases[1:] if found.fitted and head_phase(recipe) else recipe.phases


def run_phases(found: FoundHead, material: Material) -> Decision:
    """Train by the recipe's phases within its budget; changes the model. Says what it does and why.

    Raises:
        UsageError: a phase was asked for that this head, or samples of several images, do not allow.
    """
    end = time.monotonic() + material.recipe.budget
    done: list[Fitted] = [found.fitted] if found.fitted else []
    said: list[str] = []
    for asked in tuning_phases(material.recipe, found):
        reason = impossible(asked, found, material)
        phase, why = asked, ""
        if not reason:
            phase, reason, why = _resolved(asked, material, end - time.monotonic())
        if reason:
            said.append(f"Nothing of the backbone was trained: {reason}.")
            continue
        fitted = run_phase(found, material, phase, budget=max(1.0, end - time.monotonic()))
        fitted.why = why
        done.append(fitted)
        if fitted.stopped in ("interrupted", "budget"):
            break
    decision = Decision.of(tuple(done), material.task.score_name)
    if not material.recipe.phases:
        said.append("Nothing of the backbone was trained, as asked for.")
    return replace(decision, reason=" ".join(filter(None, [decision.reason, *said])))


def run_phase(
    found: FoundHead, material: Material, phase: Phase, *, budget: float, compiled: Compiled | None = None
) -> Fitted:
    """One phase with its plan in words; changes the model. See `fine_tune` for `compiled`."""
    fitted = fine_tune(
        found.model,
        material.backbone,
        phase=phase,
        lesson=material.pixel_lesson(phase),
        budget=budget,
        compiled=compiled,
        seed=material.recipe.seed,
    )
    say(_statement(fitted, material.backbone))
    return fitted


class AsAsked:
    """Learns what the recipe says: its head, then its phases.

    Args:
        head: a Keras layer or model, or a scikit-learn estimator, instead of the recipe's; or None.
    """

    def __init__(self, head: Any = None) -> None:
        self._head = head

    def find_head(self, model: keras.Model, whole: Cut, material: Material) -> tuple[FoundHead, Material]:
        """The head in place, see `heads.find_head`; and the material as it was."""
        recipe, head = material.recipe, self._head
        solver = head if hasattr(head, "get_params") else solver_of(recipe.head if head is None else head)
        phase = head_phase(recipe)
        return find_head(model, whole, material, solver=solver, phase=phase, budget=recipe.budget), material

    def fine_tune(self, found: FoundHead, material: Material) -> Decision:
        """See `phases.run_phases`."""
        return run_phases(found, material)


def impossible(phase: Phase, found: FoundHead, material: Material) -> str:
    """Why this phase cannot be; empty where it can."""
    catalog = material.catalog
    reason = ""
    if not catalog.part("validation"):
        reason = "without validation images nothing shows what training gains"
    elif material.backbone.frozen_because:
        reason = material.backbone.frozen_because
    elif not found.trainable:
        reason = "the head is not one that gradients go through"
    elif any(sample.more for sample in catalog.samples):
        reason = "of samples with several images only the features are trained on"
    if reason and phase.unfreeze != "auto":
        raise UsageError(f"unfreeze {phase.unfreeze}: {reason}. Leave the phase out, or say none.")
    return reason


def _resolved(phase: Phase, material: Material, budget: float) -> tuple[Phase, str, str]:
    """The phase with its plan chosen and said; why there is none; why it is this one."""
    images = len(material.catalog.part("train"))
    depth = choose_depth(
        material.backbone,
        images=images,
        seconds_per_image=material.views[0].seconds_per_image,
        budget=budget,
        unfreeze=str(phase.unfreeze),  # in words by now
    )
    if not depth.epochs:
        return phase, depth.why, ""
    epochs = phase.epochs or depth.epochs
    say(
        f"Plan: fine-tune {depth.unfreeze}, {epochs} passes over {images:,} images, "
        f"about {duration(depth.seconds / depth.epochs * epochs)}, at most {duration(budget)}."
    )
    return replace(phase, unfreeze=depth.unfreeze), "", depth.why


def _statement(fitted: Fitted, backbone: Backbone) -> str:
    """What trained, and that nothing else did: `fine_tune` has compared every other weight."""
    return (
        f"Phase {fitted.unfreeze}: {fitted.trained} of {backbone.name} trained, and the head; "
        "every other weight is bit-identical to before."
    )
