"""The phases of a recipe, one after the other, each from where the one before it left the model."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import keras

from regraft.backbone.cut import Cut, cut
from regraft.backbone.freeze import trains
from regraft.backbone.load import Backbone
from regraft.console import amount, duration, say
from regraft.data.augment import MIXING, resolve_augment
from regraft.data.view import View
from regraft.errors import UsageError
from regraft.features.boundary import Images, room
from regraft.features.extract import extract_features
from regraft.features.views import extract_views
from regraft.outcome import UNTOUCHED, Decision
from regraft.recipe import Phase, Recipe
from regraft.training.compiled import Compiled
from regraft.training.fit import Fitted, fine_tune, finished
from regraft.training.heads import FoundHead, find_head, solver_of
from regraft.training.material import Material, Tensors
from regraft.training.memory import step_bytes
from regraft.training.progress import Bookmark, Progress
from regraft.training.search import Depth, Search, pays

__all__ = ["AsAsked", "head_phase", "impossible", "run_phase", "run_phases", "tuning_phases"]


def head_phase(recipe: Recipe) -> Phase | None:
    """The phase that trains the head on stored features: the first one, if its plan is "none"."""
    first = recipe.phases[0] if recipe.phases else None
    return first if first is not None and first.unfreeze == "none" else None


def tuning_phases(recipe: Recipe, found: FoundHead) -> tuple[Phase, ...]:
    """The phases that are left when the head has been found."""
    return recipe.phases[1:] if found.fitted and head_phase(recipe) else recipe.phases


def run_phases(found: FoundHead, material: Material, progress: Progress | None = None) -> Decision:
    """Train by the recipe's phases within its budget; changes the model. Says what it does and why.

    A phase that leaves its plan to the program first trains what costs little, on what is stored at its
    boundary, then everything that fits, where that one took away much of the loss. A phase that the progress
    says was finished, or begun, by a process before this one is taken from there.

    Raises:
        UsageError: a phase was asked for that this head, or samples of several images, do not allow.
    """
    done: list[Fitted] = [found.fitted] if found.fitted else []
    said: list[str] = []
    tuner = _Tuner(found, material, progress=progress)
    for asked in tuning_phases(material.recipe, found):
        reason = impossible(asked, found, material)
        if not reason:
            fitted, reason = tuner.run(asked)
            done += fitted
        if reason:
            said.append(f"Nothing of the backbone was trained: {reason}.")
        elif done[-1].stopped in ("interrupted", "budget"):
            break
    decision = Decision.of(tuple(done), material.task.score_name)
    if not material.recipe.phases:
        said.append(UNTOUCHED)
    return replace(decision, reason=" ".join(filter(None, [decision.reason, *said])))


def run_phase(
    found: FoundHead, material: Material, phase: Phase, *, budget: float, compiled: Compiled | None = None
) -> Fitted:
    """One phase with its plan in words, as `run_phases` would run it alone; changes the model.

    Args:
        found, material: as for `run_phases`.
        phase: its plan is not "auto".
        budget: seconds it may take.
        compiled: see `fine_tune`.
    """
    recipe = replace(material.recipe, budget=budget)
    (fitted,), _ = _Tuner(found, replace(material, recipe=recipe), compiled).run(phase)
    return fitted


class AsAsked:
    """Learns what the recipe says: its head, then its phases.

    Args:
        head: a Keras layer or model, or a scikit-learn estimator, instead of the recipe's; or None.
        progress: where it is kept how far training came, to be resumed; or None.
    """

    def __init__(self, head: Any = None, progress: Progress | None = None) -> None:
        self._head, self._progress = head, progress

    def find_head(self, model: keras.Model, whole: Cut, material: Material) -> tuple[FoundHead, Material]:
        """The head in place, see `heads.find_head`; and the material as it was."""
        recipe, head = material.recipe, self._head
        solver = head if hasattr(head, "get_params") else solver_of(recipe.head if head is None else head)
        phase = head_phase(recipe)
        found = find_head(
            model,
            whole,
            material,
            solver=solver,
            phase=phase,
            budget=recipe.budget,
            progress=self._progress,
        )
        return found, material

    def fine_tune(self, found: FoundHead, material: Material) -> Decision:
        """See `phases.run_phases`."""
        return run_phases(found, material, self._progress)


class _Tuner:
    """Runs phases, each on pixels or on what is stored at its boundary, within one budget and one limit."""

    def __init__(
        self,
        found: FoundHead,
        material: Material,
        compiled: Compiled | None = None,
        progress: Progress | None = None,
    ) -> None:
        recipe = material.recipe
        self._compiled, self._progress = compiled, progress or Progress()
        self._model, self._material = found.model, material
        self._names = resolve_augment(recipe.augment, material.task.name)
        self._mixing = [name for name in self._names if name in MIXING]
        self._end = time.monotonic() + recipe.budget
        # A mixed image is no image's view: then what is frozen runs again in every epoch.
        self._limit = 0.0 if self._mixing else room(material.store.root, recipe.store_limit)
        train, validation = (len(material.catalog.part(part)) for part in ("train", "validation"))
        images = Images(train, validation, recipe.views if self._names else 1)
        pace = material.views[0].seconds_per_image
        self._search = Search(found.model, material.backbone, images, pace)

    @property
    def _left(self) -> float:
        return max(0.0, self._end - time.monotonic())

    def run(self, asked: Phase) -> tuple[list[Fitted], str]:
        """What a phase did, two things where it was left to the program; or why it did nothing."""
        if asked.unfreeze != "auto":
            return [self._fit(self._choose(self._search.cost, asked))], ""
        first = self._choose(self._search.choose, asked)
        if not first.epochs:
            return [], first.why
        fitted = self._fit(first)
        if first.phase.unfreeze == "all" or fitted.stopped not in ("done", "no progress"):
            return [fitted], ""
        if not pays(fitted):
            fitted.why += "; it took away less than half of the loss, so nothing deeper was tried"
            return [fitted], ""
        deeper = self._choose(partial(self._search.choose, beyond=first.phase), asked)
        if not deeper.epochs:
            fitted.why += f"; {deeper.why}"
            return [fitted], ""
        return [fitted, self._fit(deeper)], ""

    def _choose(self, how: Callable[..., Depth], asked: Phase) -> Depth:
        """What was chosen by the clock of this run, be it by a process before this one."""
        known = self._progress.decided()
        if known is not None:
            return self._search.again(known)
        depth = how(asked, budget=self._left, limit=self._limit)
        self._progress.decide(depth.state())
        return depth

    def _fit(self, depth: Depth) -> Fitted:
        bookmark, backbone = self._progress.bookmark(), self._material.backbone
        if bookmark.done:
            fitted = finished(self._model, backbone, phase=depth.phase, bookmark=bookmark)
        else:
            fitted = self._train(depth, bookmark)
        fitted.why = depth.why
        self._end = time.monotonic() + fitted.left
        self._limit -= depth.placed.whole
        say(_statement(fitted, backbone))
        return fitted

    def _train(self, depth: Depth, bookmark: Bookmark) -> Fitted:
        material, phase, placed = self._material, depth.phase, depth.placed
        self._say(depth)
        stored = cut(self._model, trains, placed.boundary) if placed.boundary else None
        return fine_tune(
            self._model,
            material.backbone,
            phase=phase,
            lesson=(
                material.boundary_lesson(phase, self._tensors(stored, placed.views))
                if stored
                else material.pixel_lesson(phase)
            ),
            budget=max(1.0, self._left),
            stored=stored,
            compiled=self._compiled,
            bookmark=bookmark,
            seed=material.recipe.seed,
        )

    def _tensors(self, halves: Cut, count: int) -> Tensors:
        """What the prefix gives for the images of training, in so many views, and for those of validation."""
        catalog, store = self._material.catalog, self._material.store
        train, validation = catalog.part("train"), catalog.part("validation")
        both = replace(catalog, samples=(*train, *validation))
        first = extract_features(halves.prefix, both, store=store, precision=self._material.recipe.precision)
        views = [View(number, self._names, self._material.recipe.seed) for number in range(1, count)]
        if not views:
            return Tensors((first,), halves.names)
        seen = replace(catalog, samples=train)
        return Tensors(
            extract_views(halves.prefix, seen, first=first, store=store, views=views), halves.names
        )

    def _say(self, depth: Depth) -> None:
        phase, images, boundary = depth.phase, self._search.images, depth.placed.boundary
        say(
            f"Plan: fine-tune {phase.unfreeze}, {phase.epochs or max(1, depth.epochs)} passes over "
            f"{images.train:,} images, about {duration(depth.seconds)}, at most {duration(self._left)}; "
            f"a step takes about {amount(step_bytes(self._model, phase.batch_size, boundary))} of memory."
        )
        if self._material.recipe.feature_noise and not boundary:
            say("Plan: no noise on features, for this phase reads pixels.")
        if boundary:
            say(f"Plan: {depth.placed}; what is frozen runs once.")
        elif self._mixing:
            say(f"Plan: what is frozen runs in every epoch, for {' and '.join(self._mixing)} mix images.")
        elif (wanted := self._search.placed(phase, math.inf)).boundary:
            say(
                f"Plan: what is frozen runs in every epoch. To {wanted} is more than the "
                f"{amount(self._limit)} that are left to store (--store-limit, free disk)."
            )


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


def _statement(fitted: Fitted, backbone: Backbone) -> str:
    """What trained, and that nothing else did: `fine_tune` has compared every other weight."""
    return (
        f"Phase {fitted.unfreeze}: {fitted.trained} of {backbone.name} trained, and the head; "
        "every other weight is bit-identical to before."
    )
