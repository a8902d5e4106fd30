"""The phases of a recipe, one after the other, each from where the one before it left the model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import keras

from regraft.backbone.cut import Cut
from regraft.console import Reporter
from regraft.errors import UsageError
from regraft.outcome import UNTOUCHED, Decision
from regraft.recipe import Phase, Recipe
from regraft.training.fit import Fitted
from regraft.training.heads import FoundHead, find_head, solver_of
from regraft.training.material import Material
from regraft.training.progress import Progress
from regraft.training.runner import PhaseRunner

__all__ = ["AsAsked", "head_phase", "impossible"]


def head_phase(recipe: Recipe) -> Phase | None:
    """Return the phase that trains the head on stored features: the first one, if its plan is "none"."""
    first = recipe.phases[0] if recipe.phases else None
    return first if first is not None and first.unfreeze == "none" else None


class AsAsked:
    """Learn what the recipe says: its head, then its phases.

    Args:
        head: a Keras layer or model, or a scikit-learn estimator, instead of the recipe's; or None.
        progress: where it is kept how far training came, to be resumed; or None.
        reporter: what a person is told by.
    """

    def __init__(self, head: Any = None, progress: Progress | None = None, *, reporter: Reporter) -> None:
        self._head, self._progress, self._reporter = head, progress, reporter

    def find_head(self, model: keras.Model, whole: Cut, material: Material) -> FoundHead:
        """Put the head in place; see `heads.find_head`."""
        recipe, head = material.recipe, self._head
        solver = head if hasattr(head, "get_params") else solver_of(recipe.head if head is None else head)
        return find_head(
            model,
            whole,
            material,
            solver=solver,
            phase=head_phase(recipe),
            budget=recipe.budget,
            reporter=self._reporter,
            progress=self._progress,
        )

    def fine_tune(self, found: FoundHead, material: Material) -> Decision:
        """Train by the recipe's phases within its budget; changes the model. Says what it does and why.

        A phase that leaves its plan to the program first trains what costs little, on what is stored at its
        boundary, then everything that fits, where that one took away much of the loss. A phase that the
        progress says was finished, or begun, by a process before this one is taken from there.

        Raises:
            UsageError: a phase was asked for that this head, or samples of several images, do not allow.
        """
        recipe = material.recipe
        done: list[Fitted] = [found.fitted] if found.fitted else []
        sentences: list[str] = []
        runner = PhaseRunner(found, material, reporter=self._reporter, progress=self._progress)
        for number, asked in enumerate(recipe.phases[1 if done and head_phase(recipe) else 0 :], 1):
            reason = impossible(asked, found, material)
            if not reason:
                fitted, reason = runner.run(asked, f"phase {number}")
                done += fitted
            if reason:
                sentences.append(f"Nothing of the backbone was trained: {reason}.")
            elif done[-1].stopped in ("interrupted", "budget"):
                break
        decision = Decision.of(tuple(done), material.task.score_name)
        if not recipe.phases:
            sentences.append(UNTOUCHED)
        return replace(decision, reason=" ".join(filter(None, [decision.reason, *sentences])))


def impossible(phase: Phase, found: FoundHead, material: Material) -> str:
    """Say why this phase cannot be; nothing where it can."""
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
