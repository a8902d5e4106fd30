"""Fine-tuning by the phases of a recipe; each continues from the model that the one before it left.

For each phase the plan is chosen, announced with its costs, and what crosses its boundary is stored; then the
plan's layers train.
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
from regraft.recipe import HeadSpec, Phase
from regraft.system.console import Reporter, format_bytes, format_duration
from regraft.training.checkpoint import PhaseCheckpoint
from regraft.training.compiled import CompiledNetworks
from regraft.training.fit import FittedHead, Trainer, find_head_phase, fit_head
from regraft.training.journal import RunJournal
from regraft.training.loop import PhaseResult
from regraft.training.optimizers import estimate_step_bytes
from regraft.training.outcome import Decision
from regraft.training.planning import (
    DepthPlan,
    DepthPlanner,
    ImageCounts,
    TrainingPace,
    available_bytes,
    is_worth_going_deeper,
)
from regraft.training.training_data import StoredFeatures, TrainingData, extract_views

__all__ = ["PhaseRunner", "RecipeTrainer", "reason_not_trainable"]


class PhaseRunner:
    """Runs phases on pixels or stored activations, within one budget of time and one of disk space.

    Args:
        head, data: a model with its head, and what it learns from.
        journal, compiled: see `fit_head`, `Trainer`.
        budget: seconds that all phases together may take; None for the recipe's.
    """

    def __init__(
        self,
        head: FittedHead,
        data: TrainingData,
        *,
        reporter: Reporter,
        journal: RunJournal | None = None,
        compiled: CompiledNetworks | None = None,
        budget: float | None = None,
    ) -> None:
        recipe = data.recipe
        self._journal, self._reporter = journal or RunJournal(), reporter
        self._model, self._data = head.model, data
        self._trainer = Trainer(head.model, data.backbone, reporter, recipe.seed, compiled)
        augmentations = resolve_augment(recipe.augment, data.task.name)
        self._mixing = [name for name in augmentations if name in MIXING]
        self._end = time.monotonic() + (recipe.budget if budget is None else budget)
        # A mixed image is no view of one image, so the frozen layers must run in every epoch.
        self._limit = 0.0 if self._mixing else available_bytes(data.store.root, recipe.store_limit)
        train, validation = (len(data.catalog.part(part)) for part in ("train", "validation"))
        images = ImageCounts(train, validation, recipe.views if augmentations else 1)
        self._paces = TrainingPace(head.model, data.views[0], data.store)
        self._planner = DepthPlanner(head.model, data.backbone, images, self._paces)

    @property
    def _seconds_left(self) -> float:
        return max(0.0, self._end - time.monotonic())

    def run(self, phase: Phase, name: str = "phase") -> tuple[list[PhaseResult], str]:
        """Run a phase; return its results, two for some "auto" phases, or none and the reason.

        Args:
            phase: as the recipe has it.
            name: under which the journal records its decisions and checkpoints.
        """
        if phase.unfreeze != "auto":
            return [self._fit(self._choose(self._planner.price, phase, name), name)], ""
        first = self._choose(self._planner.choose, phase, name)
        if not first.epochs:
            return [], first.remark
        result = self._fit(first, name)
        if first.phase.unfreeze == "all" or result.stopped not in ("done", "no progress"):
            return [result], ""
        if not is_worth_going_deeper(result):
            result.add_remark("it took away less than half of the loss, so nothing deeper was tried")
            return [result], ""
        name += ", deeper"
        deeper = self._choose(partial(self._planner.choose, beyond=first.phase), phase, name)
        if not deeper.epochs:
            result.add_remark(deeper.remark)
            return [result], ""
        return [result, self._fit(deeper, name)], ""

    def _choose(self, choose: Callable[..., DepthPlan], phase: Phase, name: str) -> DepthPlan:
        """Choose by the clock, or as an earlier process of this run did."""
        state = self._journal.decide(
            f"{name}: plan", lambda: choose(phase, budget=self._seconds_left, limit=self._limit).state()
        )
        return self._planner.restore(state)

    def _fit(self, depth: DepthPlan, name: str) -> PhaseResult:
        checkpoint = self._journal.open_checkpoint(name)
        if checkpoint.is_done:
            result = self._trainer.restore(depth.phase, checkpoint)
        else:
            result = self._train(depth, checkpoint)
        seconds = [record.seconds for record in result.history]
        if len(seconds) > 2:  # the first epoch compiles
            usual = statistics.median(seconds[2:])
            self._paces.record(result.unfreeze, depth.cut, usual)
            result.add_remark(f"about {format_duration(usual)} an epoch on this machine")
        self._end = time.monotonic() + result.seconds_left
        self._limit -= depth.cut.total_bytes
        # The training loop has compared all other weights.
        self._reporter.info(
            f"Phase {result.unfreeze}: {result.trained} of {self._data.backbone.name} trained, and the head; "
            "every other weight is bit-identical to before."
        )
        return result

    def _train(self, depth: DepthPlan, checkpoint: PhaseCheckpoint) -> PhaseResult:
        phase, stored = depth.phase, None
        self._announce(depth)
        if depth.cut.boundary:
            stored = cut(self._model, depth.plan, depth.cut.boundary)
            phase_data = self._data.make_boundary_data(phase, self._extract(stored, depth.cut.views))
        else:
            phase_data = self._data.make_pixel_data(phase)
        budget = max(1.0, self._seconds_left)
        return self._trainer.train(phase, phase_data, budget=budget, stored=stored, checkpoint=checkpoint)

    def _extract(self, stored: Cut, count: int) -> StoredFeatures:
        """Extract what the prefix gives for training images in this many views, and for validation images."""
        data, prefix, reporter = self._data, stored.prefix, self._reporter
        samples = (*data.catalog.part("train"), *data.catalog.part("validation"))
        catalog, precision = replace(data.catalog, samples=samples), data.views[0].precision
        first = extract_features(prefix, catalog, store=data.store, precision=precision, reporter=reporter)
        views = extract_views(
            prefix, catalog, recipe=data.recipe, count=count, first=first, store=data.store, reporter=reporter
        )
        return StoredFeatures(views, stored.names)

    def _announce(self, depth: DepthPlan) -> None:
        """Report what a phase is about to do, what it stores, and how long both take."""
        phase, boundary, report = depth.phase, depth.cut.boundary, self._reporter.info
        epochs = phase.epochs or max(1, depth.epochs)
        memory = format_bytes(estimate_step_bytes(self._model, depth.plan, phase.batch_size, boundary))
        report(
            f"Plan: fine-tune {phase.unfreeze}, {epochs} epoch{'s' * (epochs > 1)} over "
            f"{self._planner.images.train:,} images: about {format_duration(depth.once)} once, "
            f"{format_duration(depth.epoch)} an epoch, "
            f"{format_duration(depth.once + epochs * depth.epoch)} in all, "
            f"at most {format_duration(self._seconds_left)}; a step takes about {memory} of memory."
        )
        if self._data.recipe.feature_noise and not boundary:
            report("Plan: add no noise to features, because this phase reads pixels.")
        if boundary:
            report(f"Plan: {depth.cut}; the frozen layers run once, or not at all where that is stored.")
        elif self._mixing:
            names = " and ".join(self._mixing)
            report(f"Plan: run the frozen layers in every epoch, because images are mixed ({names}).")
        elif (unlimited := self._planner.plan_cut(phase, depth.plan, math.inf)).boundary:
            report(
                f"Plan: run the frozen layers in every epoch. To {unlimited} would exceed the "
                f"{format_bytes(self._limit)} that may still be stored (--store-limit, free disk)."
            )


class RecipeTrainer:
    """Trains what the recipe says: its head, then its phases.

    Args:
        head: a Keras layer or model, or a scikit-learn estimator, instead of the recipe's; or None.
        journal: of the run, which may be resumed; None to save nothing.
    """

    def __init__(self, head: Any = None, journal: RunJournal | None = None, *, reporter: Reporter) -> None:
        self._head, self._journal, self._reporter = head, journal, reporter

    def fit_head(self, model: keras.Model, head_cut: Cut, data: TrainingData) -> FittedHead:
        """Solve or train the head; see `fit.fit_head`."""
        head = data.recipe.head if self._head is None else self._head
        own = head if hasattr(head, "get_params") else "gradient"  # a layer of the user's own is trained
        solver = head.solver if isinstance(head, HeadSpec) else own
        return fit_head(
            model, head_cut, data=data, solver=solver, reporter=self._reporter, journal=self._journal
        )

    def fine_tune(self, head: FittedHead, data: TrainingData) -> Decision:
        """Train by the recipe's phases within its budget; changes the model.

        An "auto" phase first trains a few layers, on stored activations. If that removes much of the loss, it
        then trains as many layers as the budget allows. A phase that an earlier process of this run
        finished or began is continued from its checkpoint.

        Raises:
            UsageError: a phase that this head, or samples of several images, do not allow.
        """
        recipe = data.recipe
        results: list[PhaseResult] = [head.result] if head.result else []
        sentences: list[str] = []
        runner = PhaseRunner(head, data, reporter=self._reporter, journal=self._journal)
        for number, phase in enumerate(recipe.phases[1 if results and find_head_phase(recipe) else 0 :], 1):
            reason = reason_not_trainable(phase, head, data)
            if not reason:
                phase_results, reason = runner.run(phase, f"phase {number}")
                results += phase_results
            if reason:
                sentences.append(f"Nothing of the backbone was trained: {reason}.")
            elif results[-1].stopped in ("interrupted", "budget"):
                break
        decision = Decision.from_phases(tuple(results), data.task.score_name)
        if not recipe.phases:
            why = data.backbone.frozen_because
            sentences.append(
                f"Nothing of the backbone was trained, {f'for {why}' if why else 'as asked for'}."
            )
        return replace(decision, reason=" ".join(filter(None, [decision.reason, *sentences])))


def reason_not_trainable(phase: Phase, head: FittedHead, data: TrainingData) -> str:
    """Return why a phase cannot train, or "" if it can.

    Raises:
        UsageError: it cannot, and its plan is not "auto".
    """
    catalog = data.catalog
    reason = ""
    if not catalog.part("validation"):
        reason = "without validation images nothing shows what training gains"
    elif data.backbone.frozen_because:
        reason = data.backbone.frozen_because
    elif not head.trainable:
        reason = "gradients cannot pass through this head"
    elif any(sample.extra_images for sample in catalog.samples):
        reason = "samples of several images can train only a head, on features"
    if reason and phase.unfreeze != "auto":
        raise UsageError(f"unfreeze {phase.unfreeze}: {reason}. Leave the phase out, or say none.")
    return reason
