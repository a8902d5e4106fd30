"""The search for how many layers to train, at which rates, on which head: attempts judged on validation.

Heads come first, each solved on the stored features. Every plan then starts from the best of them, at every
rate, by successive halving. An attempt is the phase that `train` would run: its frozen layers are in the
store after the first attempt with that plan, and the winner's recipe makes the winner again.

Successive halving follows Jamieson and Talwalkar: Non-stochastic best arm identification and hyperparameter
optimization, AISTATS 2016. Here every attempt starts from the beginning, with a schedule of rates as long
as itself, so that each is a finished model; with three times the epochs at each rung that costs half as
much again as continuing would. Every rung has the same share of the time, plus what the earlier ones left.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar, cast

import keras
import numpy as np
from numpy.typing import NDArray

from regraft.backbones.load import Backbone
from regraft.errors import UsageError
from regraft.models.cut import Cut
from regraft.models.freeze import freeze
from regraft.recipe import Phase, SearchSpace, Solver
from regraft.solvers.calibration import calibrate_answers
from regraft.solvers.solve import SOLVER_SPECS
from regraft.system.console import Reporter, SilentReporter, format_duration
from regraft.training.compiled import CompiledNetworks
from regraft.training.fine_tuning import PhaseRunner, reason_not_trainable
from regraft.training.fit import FittedHead, fit_head
from regraft.training.loop import EpochRecord, PhaseResult
from regraft.training.outcome import Attempt, Decision
from regraft.training.planning import compute_trained_share
from regraft.training.training_data import TrainingData

__all__ = ["Tuner", "choose_plans", "halve", "list_rungs"]

SHARES = (1 / 6, 1 / 3, 2 / 3, 1.0)  # of the network's multiplications that plans train, at most
FEWEST_STEPS = 100  # with fewer, a solved head has not recovered from the rates of the first steps
FACTOR = 3  # times the epochs at the next rung, for one in this many candidates

Candidate = TypeVar("Candidate")


class Tuner:
    """Finds and trains the best of a search space within the recipe's budget.

    Args:
        space: plans, rates, heads and epochs to choose from.
    """

    def __init__(self, space: SearchSpace, *, reporter: Reporter) -> None:
        self._space, self._reporter = space, reporter
        self._attempts: list[Attempt] = []
        self._heads = 0  # how many of the attempts are heads
        self._winner = 0  # index of the best attempt
        self._best: PhaseResult | None = None
        self._compiled = CompiledNetworks()

    def fit_head(self, model: keras.Model, head_cut: Cut, data: TrainingData) -> FittedHead:
        """Solve the head in each way; the model ends with the one of the lowest loss on validation.

        Args:
            model, head_cut, data: as for `fit.fit_head`. A head with layers of its own is trained, once.

        Returns:
            The head, with its solver.

        Raises:
            UsageError: there are no validation images to judge by.
        """
        self._end = time.monotonic() + data.recipe.seconds
        if not data.catalog.part("validation"):
            raise UsageError("A search judges by validation images: set some apart. Received: none.")
        heads: list[tuple[FittedHead, list[NDArray[Any]]]] = []
        for solver in _list_solvers(data, self._space):
            begun = time.monotonic()
            if heads and begun > self._end:
                break
            head = fit_head(model, head_cut, data=data, solver=solver, reporter=self._reporter)
            loss, score = _evaluate(head, data)
            seconds = time.monotonic() - begun
            self._attempts.append(Attempt(solver, "none", None, None, 0, loss, score, seconds))
            heads.append((head, head.model.get_weights()))
        self._winner = min(range(len(heads)), key=lambda number: self._attempts[number].val_loss)
        self._heads, (head, self._start) = len(heads), heads[self._winner]
        head.model.set_weights(self._start)
        return replace(head, solver=cast("Solver", self._attempts[self._winner].head))

    def fine_tune(self, head: FittedHead, data: TrainingData) -> Decision:
        """Train by the best plan and rates; changes the model, which ends as the best attempt left it.

        Args:
            head, data: from `fit_head`.

        Raises:
            UsageError: the space names a plan that this head, or samples of several images, do not allow.
        """
        space = self._space
        plans = space.plans or choose_plans(data.backbone)
        reason = reason_not_trainable(Phase(space.plans[0] if space.plans else "auto"), head, data)
        self._weights = self._start
        if not reason:
            settings = zip(*(space.make_phases(plan) for plan in plans), strict=True)
            candidates = [phase for setting in settings for phase in setting]  # every plan, then other rates
            seconds_left = max(0.0, self._end - time.monotonic())
            self._reporter.info(
                f"Plan: search {len(plans)} plans ({', '.join(plans)}) at {len(candidates) // len(plans)} "
                f"rates each, up to {space.epochs} epochs, within {format_duration(seconds_left)}."
            )
            attempt = partial(self._attempt, head, data)
            steps = math.ceil(len(data.catalog.part("train")) / candidates[0].batch_size)
            fewest = math.ceil(FEWEST_STEPS / max(1, steps))
            halve(candidates, attempt, most=space.epochs, fewest=fewest, budget=seconds_left)
        head.model.set_weights(self._weights)
        freeze(data.backbone, self._best.unfreeze if self._best else "none")
        return self._decide(head, data, reason)

    def _attempt(self, head: FittedHead, data: TrainingData, candidate: Phase, epochs: int) -> float:
        """Run a phase from the start; return its loss on validation, infinite if it diverged, NaN to stop."""
        phase, begun = replace(candidate, epochs=epochs), time.monotonic()
        head.model.set_weights(self._start)
        seconds_left = max(1.0, self._end - begun)
        is_stored = any((a.unfreeze, a.epochs) == (phase.unfreeze, epochs) for a in self._attempts)
        reporter = (
            SilentReporter() if is_stored else self._reporter
        )  # the first computes what all others read
        runner = PhaseRunner(head, data, reporter=reporter, compiled=self._compiled, budget=seconds_left)
        (result,), _ = runner.run(phase)
        record, seconds = _choose_record(result), time.monotonic() - begun
        self._reporter.info(
            f"Tried {_describe(phase)}: validation loss {record.judged_loss:.4g}, "
            f"{data.task.score_name} {record.val_score:.3f} ({format_duration(seconds)})."
        )
        self._attempts.append(
            Attempt(
                head=str(head.solver),
                unfreeze=str(phase.unfreeze),
                learning_rate=phase.learning_rate,
                backbone_rate=phase.backbone_rate,
                epochs=epochs,
                val_loss=record.judged_loss,
                val_score=record.val_score,
                seconds=seconds,
                stopped=result.stopped,
            )
        )
        if result.stopped in ("budget", "interrupted"):  # no recipe makes it again
            return math.nan
        if result.best and (
            self._best is None or record.judged_loss < _choose_record(self._best).judged_loss
        ):
            self._best, self._weights = result, head.model.get_weights()
            self._winner = len(self._attempts) - 1
        return math.inf if result.stopped == "diverged" and not result.best else record.judged_loss

    def _decide(self, head: FittedHead, data: TrainingData, reason: str) -> Decision:
        """Return what was tried, which of it is best, and why no more was tried."""
        trained = [result for result in (head.result, self._best) if result]
        decision = Decision.from_phases(tuple(trained), data.task.score_name)
        tried = len(self._attempts) - self._heads
        sentences = [f"The best of {self._heads} heads on validation is {head.solver}."]
        if reason:
            sentences.append(f"Nothing of the backbone was trained: {reason}.")
        elif self._best is None:
            sentences.append(f"None of {tried} attempts to train the backbone beat it.")
        else:
            best = _describe(self._best.phase)
            sentences.append(f"The best of {tried} attempts to train the backbone is {best}.")
        attempts = tuple(
            replace(attempt, kept=number == self._winner) for number, attempt in enumerate(self._attempts)
        )
        return replace(decision, reason=" ".join([*sentences, decision.reason]).strip(), attempts=attempts)


def _list_solvers(data: TrainingData, space: SearchSpace) -> list[Any]:
    """List the solvers to try: one, if the recipe names it or the head cannot be solved."""
    head = data.recipe.head
    if not head.linear or data.backbone.new_layers:
        return ["gradient"]
    if head.solver != "auto":
        return [head.solver]
    task = data.catalog.task
    able = [name for name in space.solvers if name in SOLVER_SPECS and task in SOLVER_SPECS[name].tasks]
    if not able:
        raise UsageError(f"solvers: expected one that can do {task}. Received: {', '.join(space.solvers)}.")
    return able


def _evaluate(head: FittedHead, data: TrainingData) -> tuple[float, float]:
    """Return loss and score on validation, calibrated as the answers of every later attempt are."""
    task, truth = data.task, data.encode_targets("validation")
    answers, weights = head.predict(data, data.catalog.part("validation")), data.weigh("validation")
    shares = np.ones((len(truth), 1)) if weights is None else weights
    answers, _ = calibrate_answers(answers, truth, shares, task=task.name)
    return float(task.compute_losses(answers, truth, data.spread).mean()), task.score(answers, truth)


def _describe(phase: Phase) -> str:
    """Describe a phase: "stage:conv5 at rate 0.001, 0.3 of it below the head, 3 epochs"."""
    length = f"{phase.epochs} epoch{'' if phase.epochs == 1 else 's'}"
    rates = f"rate {phase.learning_rate:g}, {phase.backbone_rate:g} of it below the head"
    return f"{phase.unfreeze} at {rates}, {length}"


def _choose_record(result: PhaseResult) -> EpochRecord:
    """Return the epoch that an attempt is judged by: the one whose weights stayed, else the lowest loss."""
    if result.best:
        return result.final
    finite = [record for record in result.history[1:] if math.isfinite(record.judged_loss)]
    return min(finite, key=lambda record: record.judged_loss, default=result.history[0])


def choose_plans(backbone: Backbone) -> tuple[str, ...]:
    """Choose up to four plans, from a little of the network to all of it: by its stages, else by its layers.

    Example:
        >>> from regraft.backbones.load import load_backbone
        >>> choose_plans(load_backbone("mobilenet_v2", weights="random", image_size=32))
        ('stage:block_16', 'stage:block_13', 'stage:block_5', 'all')
    """
    names = [f"stage:{name}" for name in list(backbone.stages)[1:]]
    count = len(backbone.layers)
    names = names or [
        f"last:{count - number}"
        for number, layer in enumerate(backbone.layers)
        if any(len(weight.shape) > 1 for weight in layer.weights)
    ]
    shares = {"all": 1.0} | {plan: compute_trained_share(backbone, plan) for plan in names}
    plans = [
        max((p for p in shares if shares[p] <= most), key=shares.__getitem__, default="") for most in SHARES
    ]
    return tuple(plan for plan in dict.fromkeys(plans) if plan)


def list_rungs(most: int, fewest: int = 1) -> list[int]:
    """List the epochs of each rung: the last one has the most, and none has less than the fewest.

    If a third of the most is too few, but half of it is enough, the first rung has the fewest.

    >>> list_rungs(9), list_rungs(6), [list_rungs(9, fewest) for fewest in (2, 4, 5)]
    ([1, 3, 9], [2, 6], [[3, 9], [4, 9], [9]])
    """
    rungs = [most]
    while rungs[0] // FACTOR >= fewest:
        rungs.insert(0, rungs[0] // FACTOR)
    return [fewest, most] if len(rungs) == 1 and 2 * fewest <= most else rungs


def halve(
    candidates: Sequence[Candidate],
    attempt: Callable[[Candidate, int], float],
    *,
    most: int,
    fewest: int = 1,
    budget: float,
    now: Callable[[], float] = time.monotonic,
) -> None:
    """Try candidates with few epochs, and the best third of them with three times as many, up to `most`.

    Args:
        candidates: in the order in which they are tried, should there not be time for all.
        attempt: (candidate, epochs) -> the loss that it ends with; infinite if it failed; NaN to stop the
            search.
        most: epochs at the last rung.
        fewest: epochs at the first rung, at least; from 1.
        budget: seconds; no attempt begins that would probably not end within its rung's share of them.
        now: a clock, in seconds.

    Example:
        >>> tried = []
        >>> halve([3, 1, 2], lambda x, epochs: tried.append((x, epochs)) or x, most=3, budget=60)
        >>> tried
        [(3, 1), (1, 1), (2, 1), (1, 3)]
    """
    begun, rungs = now(), list_rungs(most, fewest)
    pace: dict[int, float] = {}  # seconds an epoch, by the candidate's number
    alive = list(range(len(candidates)))
    for rung, epochs in enumerate(rungs, 1):
        end = begun + budget * rung / len(rungs)
        losses: dict[int, float] = {}
        for number in alive:
            start = now()
            if start >= end or start + pace.get(number, 0.0) * epochs > end:
                continue
            loss = attempt(candidates[number], epochs)
            if math.isnan(loss):
                return
            losses[number], pace[number] = loss, (now() - start) / epochs
        finite = [number for number in losses if math.isfinite(losses[number])]
        alive = sorted(finite, key=losses.__getitem__)[: math.ceil(len(losses) / FACTOR)]
