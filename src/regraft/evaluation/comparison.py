"""Compare two models on the same images: how much better one is, how sure that is, and what changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from regraft.evaluation.scores import MEASURES, compute_scores, format_three_digits
from regraft.metrics.intervals import Interval
from regraft.metrics.paired import LOWER_IS_BETTER, McNemar, compare_scores, mcnemar_test
from regraft.tasks import TASKS

__all__ = [
    "Change",
    "ModelAnswers",
    "PairedComparison",
    "compare_models",
    "format_difference",
    "format_score",
    "is_better_when_lower",
]

Verdict = Literal["better", "worse", "unclear"]


@dataclass(frozen=True)
class ModelAnswers:
    """A model by name, with its answers (n, units) and, for multilabel, its thresholds (labels,)."""

    name: str
    answers: NDArray[np.float64]
    thresholds: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Change:
    """An image that one model answers better than the other.

    Attributes:
        image: its name.
        target, before, after: the truth and the answers of both models, in words.
        gain: positive where the second model is better: by how many wrong labels, or by how much of the
            first model's mean error; 1 or -1 for classes.
    """

    image: str
    target: str
    before: str
    after: str
    gain: float


@dataclass(frozen=True)
class PairedComparison:
    """A model beside the first one.

    Attributes:
        run: name of the model.
        scores: of this model on the compared images, as in `compute_scores`.
        differences: by how much each score exceeds that of the first model.
        mcnemar: of the accuracies; None for tasks without one.
        verdict: "better" or "worse" if the headline score says so with 95 % confidence, else "unclear".
        summary: the verdict as a sentence.
        changes: images that changed, the largest gains and then the largest losses first.
    """

    run: str
    scores: dict[str, Interval]
    differences: dict[str, Interval]
    mcnemar: McNemar | None
    verdict: Verdict
    summary: str
    changes: tuple[Change, ...]


def compare_models(
    task: str,
    targets: NDArray[Any],
    first: ModelAnswers,
    second: ModelAnswers,
    *,
    outputs: Sequence[str],
    images: Sequence[str],
    seed: int = 0,
) -> PairedComparison:
    """Compare the answers of two models to the same images.

    For classes the verdict needs both the interval of the difference and McNemar's exact test.

    Args:
        task, targets: as for `compute_scores`.
        first, second: answers in the order of the targets.
        outputs: names of classes, labels or targets.
        images: names of the images, n of them.
        seed: of the bootstrap.

    >>> labels, names = np.arange(40) % 2, [f"{number}.jpg" for number in range(40)]
    >>> answers = np.stack([1.0 - labels, labels], axis=1)
    >>> old, new = ModelAnswers("old", answers[::-1]), ModelAnswers("new", answers)
    >>> result = compare_models("multiclass", labels, old, new, outputs=["no", "yes"], images=names)
    >>> result.verdict, len(result.changes), result.changes[0].image
    ('better', 40, '0.jpg')
    """
    differences = compare_scores(
        task,
        targets,
        first.answers,
        second.answers,
        thresholds=(first.thresholds, second.thresholds),
        seed=seed,
    )
    before, after = (_count_mistakes(task, targets, model) for model in (first, second))
    is_class = task in ("multiclass", "binary")
    mcnemar = mcnemar_test(before == 0, after == 0) if is_class else None
    verdict = _judge(next(iter(differences.items()), None), mcnemar)
    scores = [
        compute_scores(task, targets, model.answers, thresholds=model.thresholds, seed=seed)
        for model in (first, second)
    ]
    unit = float(before.mean()) if task == "regression" and before.any() else 1.0
    return PairedComparison(
        second.name,
        scores[1],
        differences,
        mcnemar,
        verdict,
        _summarise(second.name, verdict, scores, differences, mcnemar=mcnemar, n=len(images)),
        _list_changes(
            task, targets, first, second, outputs=outputs, images=images, gains=(before - after) / unit
        ),
    )


def is_better_when_lower(score: str) -> bool:
    """Tell whether a score is an error or a loss."""
    return score in LOWER_IS_BETTER


def format_score(name: str, value: float) -> str:
    """Format a score: shares in percent, others with three digits.

    >>> format_score("top1", 0.892), format_score("mae", 2.3)
    ('89.2 %', '2.30')
    """
    return f"{100 * value:.1f} %" if MEASURES[name].is_share else format_three_digits(value)


def format_difference(name: str, value: float) -> str:
    """Format a difference of scores with its sign: shares in points of 100, others with three digits.

    >>> format_difference("top1", 0.0296), format_difference("mae", -0.5)
    ('+3.0', '-0.500')
    """
    if MEASURES[name].is_share:
        return f"{100 * value:+.1f}"
    return f"{'+' if value >= 0 else '-'}{format_three_digits(abs(value))}"


def _judge(headline: tuple[str, Interval] | None, mcnemar: McNemar | None) -> Verdict:
    if headline is None or (mcnemar is not None and mcnemar.p_value >= 0.05):
        return "unclear"
    name, difference = headline
    if difference.low <= 0 <= difference.high:
        return "unclear"
    return "better" if (difference.value > 0) != is_better_when_lower(name) else "worse"


def _summarise(
    name: str,
    verdict: Verdict,
    scores: Sequence[dict[str, Interval]],
    differences: dict[str, Interval],
    *,
    mcnemar: McNemar | None,
    n: int,
) -> str:
    """Return a sentence: "runs/b is better: a top-1 accuracy of 89.2 % against 86.3 % ..."."""
    score = next(iter(differences), None)
    if score is None:
        return f"{name} cannot be judged: its score is undefined on these {n:,} images."
    difference, measure = differences[score], MEASURES[score]
    label = measure.label[0].lower() + measure.label[1:] if measure.label != "R2" else measure.label
    start = f"{name} is {verdict}" if verdict != "unclear" else f"{name} is not clearly better or worse"
    value, low, high = (
        format_difference(score, number) for number in (difference.value, difference.low, difference.high)
    )
    points = " points" if measure.is_share else ""
    test = f"; McNemar's exact p = {mcnemar.p_value:.2g}" if mcnemar else ""
    return (
        f"{start}: a {label} of {format_score(score, scores[1][score].value)} against "
        f"{format_score(score, scores[0][score].value)} on the same {n:,} images, "
        f"{value}{points} (95 % {low} to {high}{test})."
    )


def _count_mistakes(task: str, targets: NDArray[Any], model: ModelAnswers) -> NDArray[np.float64]:
    """Return for each image, (n,): 1 for a wrong class, the number of wrong labels, or the mean error.

    The errors of a target count relative to its standard deviation, so that units do not matter.
    """
    if task == "regression":
        spread = targets.std(axis=0)
        errors = abs(model.answers - targets) / np.where(spread > 0, spread, 1.0)
        return np.asarray(errors.mean(axis=1))
    if task == "multilabel":
        return np.asarray((_predict_labels(model) != (targets > 0)).sum(axis=1), np.float64)
    predicted = TASKS[task].expand_binary(model.answers).argmax(axis=1)
    return np.asarray(predicted != targets, np.float64)


def _predict_labels(model: ModelAnswers) -> NDArray[np.bool_]:
    limits = 0.5 if model.thresholds is None else model.thresholds
    return np.asarray(model.answers >= limits)


def _list_changes(
    task: str,
    targets: NDArray[Any],
    first: ModelAnswers,
    second: ModelAnswers,
    *,
    outputs: Sequence[str],
    images: Sequence[str],
    gains: NDArray[np.float64],
) -> tuple[Change, ...]:
    """Return the changed images; of numbers, those whose error changed by the first model's mean error."""
    least = 1.0 if task == "regression" else 0.5
    rows = np.flatnonzero(abs(gains) >= least)
    rows = rows[np.lexsort((-abs(gains[rows]), gains[rows] < 0))]
    before, after = (_describe_answers(task, model, outputs, rows) for model in (first, second))
    truth = _describe_targets(task, targets[rows], outputs)
    return tuple(
        Change(images[row], target, old, new, float(gains[row]))
        for row, target, old, new in zip(rows.tolist(), truth, before, after, strict=True)
    )


def _describe_answers(
    task: str, model: ModelAnswers, outputs: Sequence[str], rows: NDArray[np.intp]
) -> list[str]:
    if task == "regression":
        return _describe_targets(task, model.answers[rows], outputs)
    if task == "multilabel":
        return _describe_targets(task, _predict_labels(model)[rows], outputs)
    return _describe_targets(task, TASKS[task].expand_binary(model.answers[rows]).argmax(axis=1), outputs)


def _describe_targets(task: str, targets: NDArray[Any], outputs: Sequence[str]) -> list[str]:
    if task == "multilabel":
        return [", ".join(outputs[k] for k in np.flatnonzero(row).tolist()) or "no label" for row in targets]
    if task == "regression":
        names = [f"{name} " if len(outputs) > 1 else "" for name in outputs]
        return [
            ", ".join(f"{name}{format_three_digits(x)}" for name, x in zip(names, row, strict=True))
            for row in targets
        ]
    return [outputs[number] for number in targets.tolist()]
