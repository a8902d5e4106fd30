"""Finding how many layers to train, at which rates, on which head: by attempts judged on validation.

Heads first, each solved on the stored features. From the best of them every plan begins, with every rate, by
successive halving. An attempt is the phase that `train` would run: what is frozen in front of it is in the
store after the first attempt with that plan, and the winner's recipe makes the winner again.

Successive halving is that of Jamieson and Talwalkar: Non-stochastic best arm identification and
hyperparameter optimization, AISTATS 2016. Here every attempt begins anew, with a schedule of rates as long as
itself, so that each is a finished model; with three times the epochs at each rung that costs half as much
again as going on would. Every rung has the same share of the time, and what the ones before it left.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar, cast

import keras
from numpy.typing import NDArray

from regraft.backbones.load import Backbone
from regraft.errors import UsageError
from regraft.models.cut import Cut
from regraft.models.freeze import freeze
from regraft.recipe import Phase, Solver, Space
from regraft.solvers.sklearn_heads import FAMILIES
from regraft.system.console import Reporter, SilentReporter, duration
from regraft.training.fine_tuning import PhaseRunner, head_phase, impossible
from regraft.training.fit import Compiled, EpochRecord, Fitted, FoundHead, find_head
from regraft.training.outcome import Attempt, Decision
from regraft.training.planning import share
from regraft.training.training_data import Material

__all__ = ["Search", "choose_plans", "halve", "rungs"]

SHARES = (1 / 6, 1 / 3, 2 / 3, 1.0)  # of the network's multiplications that plans train, at most
STEPS = 100  # below this, a solved head has not yet got over what the rates of the first steps did to it
FACTOR = 3  # times the epochs at the next rung, for one in so many candidates

Candidate = TypeVar("Candidate")


class Search:
    """Learns the best of a space within the recipe's budget.

    Args:
        space: plans, rates, heads and epochs to choose from.
    """

    def __init__(self, space: Space, *, reporter: Reporter) -> None:
        self._space, self._reporter = space, reporter
        self._attempts: list[Attempt] = []
        self._heads = self._kept = 0  # how many of the attempts are heads; the place of the best of all
        self._best: Fitted | None = None
        self._compiled = Compiled()

    def find_head(self, model: keras.Model, whole: Cut, material: Material) -> FoundHead:
        """Solve the head in each way; the model ends with the one of the lowest loss on validation.

        Args:
            model, whole, material: as for `heads.find_head`. A head with layers of its own is trained, once.

        Returns:
            The head, with its solver.

        Raises:
            UsageError: there are no validation images to judge by.
        """
        recipe = material.recipe
        self._end = time.monotonic() + recipe.budget
        if not material.catalog.part("validation"):
            raise UsageError("A search judges by validation images: set some apart. Received: none.")
        phase = head_phase(recipe)
        states: list[tuple[FoundHead, list[NDArray[Any]]]] = []
        for solver in _solvers(material, self._space):
            begun = time.monotonic()
            if states and begun > self._end:
                break
            found = find_head(
                model,
                whole,
                material,
                solver=solver,
                phase=phase,
                budget=recipe.budget,
                reporter=self._reporter,
            )
            loss, score = _judged(found, material)
            seconds = time.monotonic() - begun
            self._attempts.append(Attempt(solver, "none", None, None, 0, loss, score, seconds))
            states.append((found, found.model.get_weights()))
        self._kept = min(range(len(states)), key=lambda at: self._attempts[at].val_loss)
        self._heads, (found, self._start) = len(states), states[self._kept]
        found.model.set_weights(self._start)
        return replace(found, solver=cast("Solver", self._attempts[self._kept].head))

    def fine_tune(self, found: FoundHead, material: Material) -> Decision:
        """Train by the best plan and rates; changes the model, which ends as the best attempt left it.

        Args:
            found, material: from `find_head`.

        Raises:
            UsageError: a plan was named that this head, or samples of several images, do not allow.
        """
        space = self._space
        plans = space.plans or choose_plans(material.backbone)
        reason = impossible(Phase(space.plans[0] if space.plans else "auto"), found, material)
        self._weights = self._start
        if not reason:
            settings = zip(*(space.phases(plan) for plan in plans), strict=True)
            candidates = [phase for setting in settings for phase in setting]  # every plan, then other rates
            left = max(0.0, self._end - time.monotonic())
            amount = f"{len(plans)} plans ({', '.join(plans)}) at {len(candidates) // len(plans)} rates each"
            self._reporter.info(
                f"Plan: search {amount}, up to {space.epochs} epochs, within {duration(left)}."
            )
            attempt = partial(self._attempt, found, material)
            steps = math.ceil(len(material.catalog.part("train")) / candidates[0].batch_size)
            fewest = math.ceil(STEPS / max(1, steps))
            halve(candidates, attempt, most=space.epochs, fewest=fewest, budget=left)
        found.model.set_weights(self._weights)
        freeze(material.backbone, self._best.unfreeze if self._best else "none")
        return self._decided(found, material, reason)

    def _attempt(self, found: FoundHead, material: Material, candidate: Phase, epochs: int) -> float:
        """One phase from the beginning; its loss on validation, infinite where it diverged, NaN to stop."""
        phase, begun = replace(candidate, epochs=epochs), time.monotonic()
        found.model.set_weights(self._start)
        left = max(1.0, self._end - begun)
        known = any((each.unfreeze, each.epochs) == (phase.unfreeze, epochs) for each in self._attempts)
        reporter = SilentReporter() if known else self._reporter  # the first computes what all others read
        runner = PhaseRunner(found, material, reporter=reporter, compiled=self._compiled, budget=left)
        (fitted,), _ = runner.run(phase)
        record = _record(fitted)
        self._reporter.info(
            f"Tried {_words(phase)}: validation loss {record.val_loss:.4g}, "
            f"{material.task.score_name} {record.val_score:.3f} ({duration(time.monotonic() - begun)})."
        )
        self._attempts.append(
            Attempt(
                head=str(found.solver),
                unfreeze=str(phase.unfreeze),
                learning_rate=phase.learning_rate,
                backbone_rate=phase.backbone_rate,
                epochs=epochs,
                val_loss=record.val_loss,
                val_score=record.val_score,
                seconds=time.monotonic() - begun,
                stopped=fitted.stopped,
            )
        )
        if fitted.stopped in ("budget", "interrupted"):  # no recipe makes it again
            return math.nan
        if fitted.best and (self._best is None or record.val_loss < _record(self._best).val_loss):
            self._best, self._weights = fitted, found.model.get_weights()
            self._kept = len(self._attempts) - 1
        return math.inf if fitted.stopped == "diverged" and not fitted.best else record.val_loss

    def _decided(self, found: FoundHead, material: Material, reason: str) -> Decision:
        """What was tried, what is best of it, and why no more was tried."""
        trained = [fitted for fitted in (found.fitted, self._best) if fitted]
        decision = Decision.of(tuple(trained), material.task.score_name)
        tried = len(self._attempts) - self._heads
        said = [f"Of {self._heads} heads the best on validation: {found.solver}."]
        if reason:
            said.append(f"Nothing of the backbone was trained: {reason}.")
        elif self._best is None:
            said.append(f"Of {tried} attempts to train the backbone none beat it.")
        else:
            said.append(f"Of {tried} attempts to train the backbone the best: {_words(self._best.phase)}.")
        attempts = [replace(each, kept=place == self._kept) for place, each in enumerate(self._attempts)]
        return replace(decision, reason=" ".join([*said, decision.reason]).strip(), attempts=tuple(attempts))


def _solvers(material: Material, space: Space) -> list[Any]:
    """Those to choose from; where the recipe names one, or the head cannot be solved, there is no choice."""
    head = material.recipe.head
    if not head.linear or material.backbone.new_layers:
        return ["gradient"]
    if head.solver != "auto":
        return [head.solver]
    task = material.catalog.task
    able = [name for name in space.solvers if name in FAMILIES and task in FAMILIES[name].tasks]
    if not able:
        raise UsageError(f"solvers: expected one that can do {task}. Received: {', '.join(space.solvers)}.")
    return able


def _judged(found: FoundHead, material: Material) -> tuple[float, float]:
    """Loss and score on validation."""
    task, truth = material.task, material.encoded("validation")
    answers = found.answers(material, material.catalog.part("validation"))
    return float(task.losses(answers, truth, material.spread).mean()), task.score(answers, truth)


def _words(phase: Phase) -> str:
    """A phase for the eye: "stage:conv5 at rate 0.001, 0.3 of it below the head, 3 epochs"."""
    length = f"{phase.epochs} epoch{'' if phase.epochs == 1 else 's'}"
    rates = f"rate {phase.learning_rate:g}, {phase.backbone_rate:g} of it below the head"
    return f"{phase.unfreeze} at {rates}, {length}"


def _record(fitted: Fitted) -> EpochRecord:
    """The epoch an attempt is judged by: the one whose weights it kept, else its best; 0 if it diverged."""
    if fitted.best:
        return fitted.history[fitted.best]
    trained = [record for record in fitted.history[1:] if math.isfinite(record.val_loss)]
    return min(trained, key=lambda record: record.val_loss, default=fitted.history[0])


def choose_plans(backbone: Backbone) -> tuple[str, ...]:
    """Up to four plans, from a little of the network to all of it: by its stages, else by its layers.

    Example:
        >>> from regraft.backbones.load import load_backbone
        >>> choose_plans(load_backbone("mobilenet_v2", weights="random", image_size=32))
        ('stage:block_16', 'stage:block_13', 'stage:block_5', 'all')
    """
    names = [f"stage:{name}" for name in list(backbone.stages)[1:]]
    count = len(backbone.layers)
    names = names or [
        f"last:{count - place}"
        for place, layer in enumerate(backbone.layers)
        if any(len(weight.shape) > 1 for weight in layer.weights)
    ]
    shares = {"all": 1.0} | {plan: share(backbone, plan) for plan in names}
    found = [
        max((p for p in shares if shares[p] <= most), key=shares.__getitem__, default="") for most in SHARES
    ]
    return tuple(plan for plan in dict.fromkeys(found) if plan)


def rungs(most: int, fewest: int = 1) -> list[int]:
    """Epochs at each rung, the last one with the most, none with less than the fewest.

    Where a third of the most says nothing yet, but half of it does, the first rung has the fewest.

    >>> rungs(9), rungs(6), rungs(9, fewest=2), rungs(9, fewest=4), rungs(9, fewest=5)
    ([1, 3, 9], [2, 6], [3, 9], [4, 9], [9])
    """
    found = [most]
    while found[0] // FACTOR >= fewest:
        found.insert(0, found[0] // FACTOR)
    return [fewest, most] if len(found) == 1 and 2 * fewest <= most else found


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
        attempt: (candidate, epochs) -> the loss it ends with; infinite where it came to nothing; NaN to stop
            all of this.
        most: epochs at the last rung.
        fewest: epochs that say something; from 1.
        budget: seconds; nothing begins that would probably not end within a rung's share of them.
        now: a clock, in seconds.

    Example:
        >>> tried = []
        >>> halve([3, 1, 2], lambda x, epochs: tried.append((x, epochs)) or x, most=3, budget=60)
        >>> tried
        [(3, 1), (1, 1), (2, 1), (1, 3)]
    """
    begun, steps, alive = now(), rungs(most, fewest), list(candidates)
    pace: dict[int, float] = {}  # seconds an epoch, by place in `candidates`
    places = list(range(len(alive)))
    for number, epochs in enumerate(steps, 1):
        share_ends = begun + budget * number / len(steps)
        losses: dict[int, float] = {}
        for place in places:
            start = now()
            if start >= share_ends or start + pace.get(place, 0.0) * epochs > share_ends:
                continue
            loss = attempt(alive[place], epochs)
            if math.isnan(loss):
                return
            losses[place], pace[place] = loss, (now() - start) / epochs
        finite = [place for place in losses if math.isfinite(losses[place])]
        places = sorted(finite, key=losses.__getitem__)[: math.ceil(len(losses) / FACTOR)]
