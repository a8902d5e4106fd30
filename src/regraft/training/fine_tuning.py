"""Fine-tuning by the phases of a recipe; each continues from the model that the one before it left.

For each phase the plan is chosen, announced with its costs, and what crosses its boundary is stored; then the
plan's layers train.
"""

from __future__ import annotations

import hashlib
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import keras
from numpy.typing import NDArray

from regraft.data.augmentation import MIXING, resolve_augment
from regraft.errors import UsageError
from regraft.features.extract import extract_features
from regraft.models.cut import Cut, cut
from regraft.models.freeze import list_mutable_weights
from regraft.recipe import HeadSpec, Phase
from regraft.system.console import Reporter, format_bytes, format_duration
from regraft.training.checkpoint import PhaseCheckpoint
from regraft.training.compiled import CompiledNetwork, CompiledNetworks
from regraft.training.finished_phases import FinishedPhases, describe_phase_inputs
from regraft.training.fit import EPOCHS, FittedHead, Trainer, find_head_phase, fit_head
from regraft.training.journal import RunJournal
from regraft.training.loop import PhaseResult, copy_values
from regraft.training.optimizers import estimate_step_bytes
from regraft.training.outcome import Decision
from regraft.training.planning import (
    TRIAL_EPOCHS,
    DepthPlan,
    DepthPlanner,
    ImageCounts,
    TrainingPace,
    available_bytes,
)
from regraft.training.training_data import PhaseData, StoredFeatures, TrainingData, extract_views

__all__ = ["PhaseRunner", "RecipeTrainer", "reason_not_trainable"]


class PhaseRunner:
    """Runs phases on pixels or stored activations, within one budget of time and one of disk space.

    Args:
        head, data: a model with its head, and what it learns from.
        journal, compiled: see `fit_head`, `Trainer`.
        budget: seconds that all phases together may take; None for the recipe's.
        finished: results of earlier runs, to use again; None to train every phase.
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
        finished: FinishedPhases | None = None,
    ) -> None:
        recipe = data.recipe
        self._journal, self._reporter = journal or RunJournal(), reporter
        self._model, self._data, self._finished = head.model, data, finished
        compiled = compiled or CompiledNetworks()
        self._trainer = Trainer(head.model, data.backbone, reporter, recipe.seed, compiled)
        augmentations = resolve_augment(recipe.augment, data.task.name)
        self._mixing = [name for name in augmentations if name in MIXING]
        self._depths: dict[str, DepthPlan] = {}  # of the phases that ran
        self._budget = recipe.seconds if budget is None else budget
        self._spare = recipe.spare_seconds if budget is None else budget
        self._end = time.monotonic() + self._budget
        # A mixed image is no view of one image, so the frozen layers must run in every epoch.
        self._limit = 0.0 if self._mixing else available_bytes(data.store.root, recipe.store_limit)
        train, validation = (len(data.catalog.part(part)) for part in ("train", "validation"))
        images = ImageCounts(train, validation, recipe.views if augmentations else 1)
        self._paces = TrainingPace(head.model, data.views[0], data.store)
        self._planner = DepthPlanner(head.model, data.backbone, images, self._paces)

    @property
    def _seconds_left(self) -> float:
        return max(0.0, self._end - time.monotonic())

    @property
    def spare_seconds(self) -> float:
        """The seconds left for what "auto" adds to what the recipe asks for."""
        return max(0.0, self._spare - self._budget + self._seconds_left)

    def run(self, phase: Phase, name: str = "phase") -> tuple[list[PhaseResult], str]:
        """Run a phase; return its result, or none and the reason.

        Args:
            phase: as the recipe has it.
            name: under which the journal records its decisions and checkpoints.
        """
        inputs = self._describe_inputs(phase, self._budget, self._data.recipe.store_limit)
        if phase.unfreeze != "auto":
            (depth,) = self._decide(
                name,
                inputs,
                lambda: [self._planner.price(phase, budget=self._seconds_left, limit=self._limit)],
            )
            return [self._fit(depth, name)], ""
        rivals = self._decide(name, inputs, lambda: self._choose_rivals(phase))
        if not rivals[0].epochs:
            return [], rivals[0].remark
        if len(rivals) == 1:
            return [self._fit(rivals[0], name)], ""
        best, remark = self._compare_depths(rivals, name)
        result = best if isinstance(best, PhaseResult) else self._fit(best, name)
        result.add_remark(remark)
        return [result], ""

    def _choose_rivals(self, phase: Phase) -> list[DepthPlan]:
        first = self._planner.choose(phase, budget=self._seconds_left, limit=self._limit)
        if not first.epochs:
            return [first]
        budget, limit = self.spare_seconds, self._limit - first.cut.total_bytes
        return self._planner.choose_rivals(phase, first, budget=budget, limit=limit)

    def _describe_inputs(self, phase: Phase, *details: Any) -> str:
        """Return a digest of what a phase depends on, with further details; "" if nothing is used again."""
        if self._finished is None:
            return ""
        inputs = describe_phase_inputs(self._model, phase, self._data)
        return hashlib.blake2b(repr((inputs, *details)).encode(), digest_size=16).hexdigest()

    def _decide(self, name: str, inputs: str, choose: Callable[[], list[DepthPlan]]) -> list[DepthPlan]:
        """Choose by the clock, or as an earlier process of this run, or an equal run, did."""
        decision = self._recall_or_choose(
            f"{name}: plan",
            inputs,
            lambda: {"plans": [depth.state() for depth in choose()]},
            is_possible=lambda choice: sum(map(_count_bytes, choice["plans"])) <= self._limit,
        )
        return [self._planner.restore(state) for state in decision["plans"]]

    def _recall_or_choose(
        self,
        name: str,
        inputs: str,
        choose: Callable[[], dict[str, Any]],
        is_possible: Callable[[dict[str, Any]], bool] = lambda choice: True,
    ) -> dict[str, Any]:
        """Return the choice of an earlier process of this run, or of an equal run if possible; or choose."""

        def decide() -> dict[str, Any]:
            choice = self._finished.recall_choice(inputs) if self._finished else None
            if choice is None or not is_possible(choice):
                choice = choose()
                if self._finished is not None:
                    self._finished.remember_choice(inputs, choice)
            return choice

        return self._journal.decide(name, decide)

    def _compare_depths(self, rivals: list[DepthPlan], name: str) -> tuple[DepthPlan | PhaseResult, str]:
        """Train by each plan for a few epochs from the same weights; return the best plan, and a remark.

        The model ends as it began, unless a trial was stopped: then its result is returned.
        """
        start, losses = self._model.get_weights(), []
        plans = ", ".join(str(depth.phase.unfreeze) for depth in rivals)
        self._reporter.info(f"Plan: compare {plans} by {TRIAL_EPOCHS} epochs each; the best goes on.")
        for depth in rivals:
            trial = replace(depth, phase=replace(depth.phase, epochs=TRIAL_EPOCHS), epochs=TRIAL_EPOCHS)
            result = self._fit(trial, f"{name}, trial {depth.phase.unfreeze}")
            if result.stopped in ("interrupted", "budget"):
                return result, ""
            records = [*result.history[1:], result.final] if result.best else result.history[1:]
            finite = [record.judged_loss for record in records if math.isfinite(record.judged_loss)]
            losses.append(min(finite, default=math.inf))
            self._model.set_weights(start)
        named = zip(losses, rivals, strict=True)
        remark = ", ".join(f"{loss:.3g} with {depth.phase.unfreeze}" for loss, depth in named)
        best = rivals[min(range(len(rivals)), key=losses.__getitem__)]
        return best, f"{TRIAL_EPOCHS} epochs each gave a validation loss of {remark}"

    def _fit(self, depth: DepthPlan, name: str) -> PhaseResult:
        self._depths[str(depth.phase.unfreeze)] = depth
        checkpoint = self._journal.open_checkpoint(name)
        inputs = self._describe_inputs(depth.phase, depth.cut.views, depth.cut.name)
        finished = None if checkpoint.has_begun or not self._finished else self._finished.read(inputs)
        if finished is not None:
            checkpoint.adopt(finished)
            self._reporter.info(
                f"Phase {depth.phase.unfreeze}: an equal run is in the store and is used again."
            )
        is_done = checkpoint.is_done
        seconds_left = self._seconds_left
        result = self._trainer.restore(depth.phase, checkpoint) if is_done else self._train(depth, checkpoint)
        if finished is not None:
            result.seconds_left = seconds_left
        elif not is_done and self._finished is not None and _is_complete(result):
            values = {"now": copy_values(list_mutable_weights(self._model))}
            self._finished.write(inputs, ({"done": True, "fitted": result.state()}, values))
        self._note_pace(depth, result)
        self._end = time.monotonic() + result.seconds_left
        self._limit -= depth.cut.total_bytes
        # The training loop has compared all other weights.
        self._reporter.info(
            f"Phase {result.unfreeze}: {result.trained} of {self._data.backbone.name} trained, and the head; "
            "every other weight is bit-identical to before."
        )
        return result

    def _note_pace(self, depth: DepthPlan, result: PhaseResult) -> None:
        """Remember what an epoch took, without the first, which compiles."""
        seconds = [record.seconds for record in result.history[2:]]
        if seconds:
            usual = statistics.median(seconds)
            self._paces.record(result.unfreeze, depth.cut, usual)
            result.add_remark(f"about {format_duration(usual)} an epoch on this machine")

    def _train(self, depth: DepthPlan, checkpoint: PhaseCheckpoint) -> PhaseResult:
        phase = depth.phase
        self._announce(depth)
        stored, phase_data = self._prepare(depth, self._data)
        budget = max(1.0, self._seconds_left)
        return self._trainer.train(phase, phase_data, budget=budget, stored=stored, checkpoint=checkpoint)

    def _prepare(self, depth: DepthPlan, data: TrainingData) -> tuple[Cut | None, PhaseData]:
        """Return the model cut at the boundary of a plan, None for pixels, and what crosses there."""
        if not depth.cut.boundary:
            return None, data.make_pixel_data(depth.phase)
        stored = cut(self._model, depth.plan, depth.cut.boundary)
        features = self._extract(stored, depth.cut.views, data)
        return stored, data.make_boundary_data(depth.phase, features)

    def find_depth(self, result: PhaseResult) -> DepthPlan:
        """Return the plan that a phase of this runner had."""
        return self._depths[result.unfreeze]

    def prepare_again(self, result: PhaseResult, data: TrainingData) -> tuple[CompiledNetwork, PhaseData]:
        """Return the network of a phase that ran, to train it again, and other data cut as then."""
        stored, phase_data = self._prepare(self.find_depth(result), data)
        return self._trainer.compile(result.phase, phase_data, stored), phase_data

    def decide(self, name: str, choice: dict[str, Any]) -> dict[str, Any]:
        """Return this choice, or the one that an earlier process of this run, or an equal run, made."""
        inputs = f"{name}, after {self._describe_inputs(Phase(), self._budget)}"
        return self._recall_or_choose(name, inputs, lambda: choice)

    def _extract(self, stored: Cut, count: int, data: TrainingData) -> StoredFeatures:
        """Extract what the prefix gives for training images in this many views, and for validation images."""
        prefix, reporter = stored.prefix, self._reporter
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


def _count_bytes(state: dict[str, Any]) -> int:
    """Return how many bytes a plan stores, from its state."""
    return int(state["placed"]["whole"])


def _is_complete(result: PhaseResult) -> bool:
    """Tell whether neither the clock nor the user cut a phase short."""
    return result.stopped in ("done", "no progress") and result.planned_epochs == (
        result.phase.epochs or EPOCHS
    )


class RecipeTrainer:
    """Trains what the recipe says: its head, then its phases.

    Args:
        head: a Keras layer or model, or a scikit-learn estimator, instead of the recipe's; or None.
        journal: of the run, which may be resumed; None to save nothing.

    Attributes:
        runner, start: what ran the phases, and the model's weights before them; for a refit.
    """

    def __init__(self, head: Any = None, journal: RunJournal | None = None, *, reporter: Reporter) -> None:
        self._head, self._journal, self._reporter = head, journal, reporter
        self.runner: PhaseRunner | None = None
        self.start: list[NDArray[Any]] = []

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

        An "auto" phase trains the last layers, on stored activations; where there is time, a few epochs
        compare that with deeper plans. A phase that an earlier process of this run finished or began is
        continued from its checkpoint, and one that an equal run finished comes from the store.

        Raises:
            UsageError: a phase that this head, or samples of several images, do not allow.
        """
        recipe = data.recipe
        results: list[PhaseResult] = [head.result] if head.result else []
        sentences: list[str] = []
        finished = FinishedPhases(data.store)
        runner = PhaseRunner(head, data, reporter=self._reporter, journal=self._journal, finished=finished)
        self.runner, self.start = runner, head.model.get_weights()
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
