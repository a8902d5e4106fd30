"""The phases of a recipe, each from where the one before it left the model.

Of each the plan is chosen, the boundary stored, and what the plan names trained; all is said beforehand.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import keras

from regraft.data.augmentation import MIXING, resolve_augment
from regraft.errors import UsageError
from regraft.features.extract import extract_features
from regraft.models.cut import Cut, cut
from regraft.recipe import Phase, Recipe
from regraft.system.console import Reporter, amount, duration
from regraft.training.fit import Compiled, Fitted, FoundHead, Trainer, find_head, solver_of
from regraft.training.journal import Bookmark, Progress
from regraft.training.optimizers import step_bytes
from regraft.training.outcome import UNTOUCHED, Decision
from regraft.training.planning import Depth, Images, Search, TrainingPace, pays, room
from regraft.training.training_data import Material, Tensors, extract_views

__all__ = ["AsAsked", "PhaseRunner", "head_phase", "impossible"]


class PhaseRunner:
    """Run phases, each on pixels or on what is stored at its boundary, within one budget and one limit.

    Args:
        found, material: a model with its head, and what it learns from.
        progress: where it is kept how far training came; None to keep nothing.
        compiled: see `Trainer`.
        budget: seconds that all of them may take; None for the recipe's.
    """

    def __init__(
        self,
        found: FoundHead,
        material: Material,
        *,
        reporter: Reporter,
        progress: Progress | None = None,
        compiled: Compiled | None = None,
        budget: float | None = None,
    ) -> None:
        recipe = material.recipe
        self._progress, self._reporter = progress or Progress(), reporter
        self._model, self._material = found.model, material
        self._trainer = Trainer(found.model, material.backbone, reporter, recipe.seed, compiled)
        self._names = resolve_augment(recipe.augment, material.task.name)
        self._mixing = [name for name in self._names if name in MIXING]
        self._end = time.monotonic() + (recipe.budget if budget is None else budget)
        # A mixed image is no image's view: then what is frozen runs again in every epoch.
        self._limit = 0.0 if self._mixing else room(material.store.root, recipe.store_limit)
        train, validation = (len(material.catalog.part(part)) for part in ("train", "validation"))
        images = Images(train, validation, recipe.views if self._names else 1)
        self._paces = TrainingPace(found.model, material.views[0], material.store)
        self._search = Search(found.model, material.backbone, images, self._paces)

    @property
    def _left(self) -> float:
        return max(0.0, self._end - time.monotonic())

    def run(self, asked: Phase, name: str = "phase") -> tuple[list[Fitted], str]:
        """Return what a phase did, two things where it was left to the program; or why it did nothing.

        Args:
            asked: the phase.
            name: its name in the progress.
        """
        if asked.unfreeze != "auto":
            return [self._fit(self._choose(self._search.price, asked, name), name)], ""
        first = self._choose(self._search.choose, asked, name)
        if not first.epochs:
            return [], first.why
        fitted = self._fit(first, name)
        if first.phase.unfreeze == "all" or fitted.stopped not in ("done", "no progress"):
            return [fitted], ""
        if not pays(fitted):
            _explain(fitted, "it took away less than half of the loss, so nothing deeper was tried")
            return [fitted], ""
        name += ", deeper"
        deeper = self._choose(partial(self._search.choose, beyond=first.phase), asked, name)
        if not deeper.epochs:
            _explain(fitted, deeper.why)
            return [fitted], ""
        return [fitted, self._fit(deeper, name)], ""

    def _choose(self, how: Callable[..., Depth], asked: Phase, name: str) -> Depth:
        """Choose by the clock of this run, or as a process before this one chose."""
        state = self._progress.decide(
            f"{name}: plan", lambda: how(asked, budget=self._left, limit=self._limit).state()
        )
        return self._search.restore(state)

    def _fit(self, depth: Depth, name: str) -> Fitted:
        bookmark = self._progress.bookmark(name)
        if bookmark.done:
            fitted = self._trainer.finish(depth.phase, bookmark)
        else:
            fitted = self._train(depth, bookmark)
        seconds = [record.seconds for record in fitted.history]
        if len(seconds) > 2:  # the first epoch compiles
            usual = statistics.median(seconds[2:])
            self._paces.learn(fitted.unfreeze, depth.placed, usual)
            _explain(fitted, f"about {duration(usual)} an epoch on this machine")
        self._end = time.monotonic() + fitted.left
        self._limit -= depth.placed.whole
        trained = f"{fitted.trained} of {self._material.backbone.name} trained, and the head"
        # `Trainer` has compared them.
        self._reporter.info(
            f"Phase {fitted.unfreeze}: {trained}; every other weight is bit-identical to before."
        )
        return fitted

    def _train(self, depth: Depth, bookmark: Bookmark) -> Fitted:
        material, phase, placed = self._material, depth.phase, depth.placed
        self._announce(depth)
        if placed.boundary:
            stored = cut(self._model, depth.plan, placed.boundary)
            lesson = material.boundary_lesson(phase, self._tensors(stored, placed.views))
        else:
            stored, lesson = None, material.pixel_lesson(phase)
        budget = max(1.0, self._left)
        return self._trainer.train(phase, lesson, budget=budget, stored=stored, bookmark=bookmark)

    def _tensors(self, halves: Cut, count: int) -> Tensors:
        """What the prefix gives for the images of training, in so many views, and for those of validation."""
        catalog, store = self._material.catalog, self._material.store
        both = replace(catalog, samples=(*catalog.part("train"), *catalog.part("validation")))
        first = extract_features(
            halves.prefix,
            both,
            store=store,
            precision=self._material.views[0].precision,
            reporter=self._reporter,
        )
        found = extract_views(
            halves.prefix,
            catalog,
            recipe=self._material.recipe,
            count=count,
            first=first,
            store=store,
            reporter=self._reporter,
        )
        return Tensors(found, halves.names)

    def _announce(self, depth: Depth) -> None:
        """Say what a phase is about to do, what it stores, and how long both take."""
        phase, boundary, say = depth.phase, depth.placed.boundary, self._reporter.info
        epochs = phase.epochs or max(1, depth.epochs)
        memory = amount(step_bytes(self._model, depth.plan, phase.batch_size, boundary))
        say(
            f"Plan: fine-tune {phase.unfreeze}, {epochs} epoch{'s' * (epochs > 1)} over "
            f"{self._search.images.train:,} images: about {duration(depth.once)} once, "
            f"{duration(depth.epoch)} an epoch, {duration(depth.once + epochs * depth.epoch)} in all, "
            f"at most {duration(self._left)}; a step takes about {memory} of memory."
        )
        if self._material.recipe.feature_noise and not boundary:
            say("Plan: no noise on features, for this phase reads pixels.")
        if boundary:
            say(f"Plan: {depth.placed}; what is frozen runs once, not again where that is stored already.")
        elif self._mixing:
            say(f"Plan: what is frozen runs in every epoch, for {' and '.join(self._mixing)} mix images.")
        elif (wanted := self._search.place(phase, depth.plan, math.inf)).boundary:
            say(
                f"Plan: what is frozen runs in every epoch. To {wanted} is more than the "
                f"{amount(self._limit)} that are left to store (--store-limit, free disk)."
            )


def _explain(fitted: Fitted, why: str) -> None:
    """Add a phrase to why a phase was what it was."""
    fitted.why = "; ".join(filter(None, [fitted.why, why]))


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
