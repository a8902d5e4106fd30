"""The refit of a fine-tuned model: once everything is chosen, it is trained once more on validation as well.

Validation has done its work when plan, epochs, averaging and calibration are chosen. The phases then run
again from the untouched backbone, under a head solved on training and validation images together, exactly as
long and with the same averaging; the calibration of their answers stays. Nothing judges that model but the
test part, which has not been used before. Answers to the validation images are those of the model before.
"""

from __future__ import annotations

import hashlib
import json
import math
import statistics
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.features.store import pixel_key
from regraft.models.cut import Cut
from regraft.models.freeze import FrozenWeightsGuard, freeze, list_mutable_weights
from regraft.system.console import Reporter, SilentReporter, format_duration
from regraft.system.signals import stop_after_step
from regraft.training.averaging import EpochMean, interpolate
from regraft.training.calibrate import absorb_link, find_output_dense
from regraft.training.checkpoint import PhaseCheckpoint
from regraft.training.compiled import CompiledNetwork
from regraft.training.fine_tuning import PhaseRunner
from regraft.training.finished_phases import FinishedPhases, describe_phase_inputs
from regraft.training.fit import FittedHead, solve_on_all
from regraft.training.journal import RunJournal
from regraft.training.loop import PhaseResult, assign_values, copy_values, seed_layers, train_batch
from regraft.training.optimizers import Schedule
from regraft.training.outcome import Decision
from regraft.training.training_data import PhaseData, TrainingData

__all__ = ["Refit", "refit"]

CHUNK = 64  # images predicted at a time
OVERHEAD = 5.0  # seconds to solve the head again, and to compute what validation adds to the store

Values = list[NDArray[Any]]


@dataclass(frozen=True)
class Refit:
    """What a refit did.

    Attributes:
        sentence: on what was done, or why nothing was; "" if nobody asked for it.
        answers: of the model before the refit to the validation samples, (n, units); None without a refit.
        interrupted: whether the user stopped it; the model is then as it was before.
    """

    sentence: str = ""
    answers: NDArray[Any] | None = None
    interrupted: bool = False


def refit(
    head: FittedHead,
    head_cut: Cut,
    data: TrainingData,
    decision: Decision,
    *,
    start: Values,
    runner: PhaseRunner,
    journal: RunJournal,
    reporter: Reporter,
) -> Refit:
    """Train a fine-tuned model once more, on training and validation images, if the time allows it.

    Args:
        head, data, decision: of the run; the model of `head` changes.
        head_cut: that model, cut where its head begins.
        start: the weights of the model before its first phase.
        runner: it ran the phases, and knows what time is left.
        journal: of the run; a resumed run decides as before and takes what was finished.
    """
    phases = [result for result in decision.phases if result.best]
    if data.recipe.refit == "never" or not decision.fine_tuned or decision.interrupted:
        return Refit()
    if reason := _reason_not_repeatable(phases, head, data):
        return Refit(f"The validation images were not learnt from: {reason}.")
    price = _estimate_seconds(phases, data)
    choice = runner.decide("refit", {"runs": price <= runner.spare_seconds, "left": runner.spare_seconds})
    if not choice["runs"]:
        limits = format_duration(choice["left"])
        return Refit(
            f"The validation images were not learnt from: a refit would take about {format_duration(price)}, "
            f"and {limits} are left for it (--budget)."
        )
    count = len(data.catalog.part("validation"))
    reporter.info(f"Plan: train once more, with the {count} validation images: {format_duration(price)}.")
    answers, after = _predict_validation(head, data), head.model.get_weights()
    joined = data.merge_validation()
    head.model.set_weights(start)
    solve_on_all(head.model, head_cut, data=joined, solver=head.solved_by, reporter=SilentReporter())
    repeater = _Repeater(head, joined, runner, journal, reporter)
    for number, result in enumerate(phases, 1):
        if not repeater.repeat(result, f"refit {number}"):
            head.model.set_weights(after)
            return Refit("The refit was interrupted: the model is the one before it.", interrupted=True)
    freeze(data.backbone, phases[-1].unfreeze)
    return Refit(
        f"The final model also learnt from the {count} validation images, with the same plan, epochs and "
        "calibration; scores of validation are from before that.",
        answers,
    )


def _reason_not_repeatable(phases: list[PhaseResult], head: FittedHead, data: TrainingData) -> str:
    if head.result is not None or head.solved_by is None or head.as_linear(data) is None:
        return "the head was not solved"
    if len(data.views) > 1:
        return "the head learnt from several views"
    if any(result.stopped not in ("done", "no progress") for result in phases):
        return "a phase was cut short"
    return ""


def _estimate_seconds(phases: list[PhaseResult], data: TrainingData) -> float:
    """Return the seconds of the same epochs over training and validation images."""
    train, validation = (len(data.catalog.part(part)) for part in ("train", "validation"))
    usual = sum(
        result.best * statistics.median([record.seconds for record in (result.history[2:] or result.history)])
        for result in phases
    )
    return OVERHEAD + usual * (train + validation) / max(1, train)


def _predict_validation(head: FittedHead, data: TrainingData) -> NDArray[Any]:
    """Return the model's answers to the validation samples, (n, units), from stored pixels."""
    samples = data.catalog.part("validation")
    pixels = data.store.entries(pixel_key(data.backbone.image_size, data.catalog.depth))
    digests = [sample.digest for sample in samples]
    chunks = [
        head.model.predict_on_batch(pixels.read(digests[start : start + CHUNK], "pixels").astype(np.float32))
        for start in range(0, len(digests), CHUNK)
    ]
    return np.concatenate([np.asarray(chunk) for chunk in chunks])


@dataclass(frozen=True)
class _Repeater:
    """Repeats phases on other data, without judging them."""

    head: FittedHead
    data: TrainingData
    runner: PhaseRunner
    journal: RunJournal
    reporter: Reporter

    def repeat(self, result: PhaseResult, name: str) -> bool:
        """Repeat a phase, or take its result from the journal or the store; return False if stopped."""
        model, finished = self.head.model, FinishedPhases(self.data.store)
        freeze(self.data.backbone, result.unfreeze)
        checkpoint = self.journal.open_checkpoint(name)
        inputs = self._describe_inputs(result)
        if not checkpoint.is_done and (stored := finished.read(inputs)) is not None:
            checkpoint.adopt(stored)
        if checkpoint.is_done:
            _, arrays = checkpoint.take_previous() or ({}, {"now": []})
            assign_values(list_mutable_weights(model), arrays["now"])
            return True
        if not self._train(result):
            return False
        self._save(checkpoint, finished, inputs)
        return True

    def _describe_inputs(self, result: PhaseResult) -> str:
        phase = replace(result.phase, epochs=result.planned_epochs)
        inputs = describe_phase_inputs(self.head.model, phase, self.data)
        link = result.link and [result.link.gain.tolist(), result.link.shift.tolist()]
        mixture = result.mixture and asdict(result.mixture)
        depth = self.runner.find_depth(result)
        ending = json.dumps([inputs, result.best, mixture, link, depth.cut.views, depth.cut.name])
        return hashlib.blake2b(ending.encode(), digest_size=16).hexdigest()

    def _save(self, checkpoint: PhaseCheckpoint, finished: FinishedPhases, inputs: str) -> None:
        state = {"done": True}
        arrays = {"now": copy_values(list_mutable_weights(self.head.model))}
        checkpoint.save(state, arrays)
        finished.write(inputs, (state, arrays))

    def _train(self, result: PhaseResult) -> bool:
        """Train as many epochs as the phase took, and mix and calibrate as it did."""
        model = self.head.model
        weights, guard = list_mutable_weights(model), FrozenWeightsGuard(model)
        before, mean = copy_values(weights), EpochMean()
        network, phase_data = self.runner.prepare_again(result, self.data)
        phase = replace(result.phase, epochs=result.planned_epochs)
        schedule = Schedule(math.inf, len(phase_data.train), phase, result.planned_epochs)
        seed_layers(network.model, self.data.recipe.seed)
        for epoch in range(1, result.best + 1):
            if not self._train_epoch(network, phase_data, schedule, epoch, phase.learning_rate):
                return False
            if result.mixture is not None and result.mixture.first < result.mixture.last:
                mean.add(copy_values(weights), epoch, since=result.mixture.first)
        if mean.count:
            assign_values(weights, mean.values)
        if result.mixture is not None and result.mixture.share < 1:
            assign_values(weights, interpolate(before, copy_values(weights), result.mixture.share))
        dense = find_output_dense(model, self.data.task)
        if dense is not None and result.link is not None:
            absorb_link(dense, result.link)
        guard.check()
        return True

    def _train_epoch(
        self, network: CompiledNetwork, data: PhaseData, schedule: Schedule, epoch: int, rate: float
    ) -> bool:
        """Train for an epoch; return False if the user stopped it."""
        title = f"Training with validation, epoch {epoch}"
        with (
            stop_after_step(self.reporter) as stop,
            self.reporter.track(title, len(data.train.samples)) as advance,
        ):
            for batch in data.train.iter_shuffled(epoch, 0):
                if stop.is_set():
                    return False
                train_batch(network, batch, schedule.rate(rate), self.reporter)
                schedule.add_step(0.0)
                advance(len(batch.targets))
        return True
