"""Likely label errors, found by cross-validated predictions and by the nearest images.

Each image is scored by heads that were solved without it, on stored features: the log probabilities of linear
discriminant analysis, averaged over several partitions into folds. It has a closed form, and its folds share
their sums. To them comes the vote of the nearest images, which see what no linear head can. A model of the
noise in labels (`evaluation.label_noise`) then says about how many labels are wrong, and how probably each
one is; the most probable error comes first.

Measured by `benchmarks/label_errors.py` on 1,372 photographs of clothes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.evaluation.label_noise import fit_label_noise
from regraft.solvers.closed_form import DISCRIMINANT, fix_discriminant
from regraft.solvers.cross_validation import Mask, TrainingRows, cross_validate
from regraft.solvers.solve import make_training_rows
from regraft.system.console import Reporter

__all__ = ["LABEL_TASKS", "LabelCheck", "LabelError", "find_label_errors", "find_neighbours"]

LABEL_TASKS = ("multiclass", "binary", "multilabel")  # tasks whose targets are labels

REPEATS = 3  # partitions into folds
SEED_STEP = 1_000  # between the seeds of two partitions
VOTERS = 10  # nearest images
VOTE_WEIGHT = 0.5  # of the logarithm of their vote, beside the head's log probabilities
SHOWN_NEIGHBOURS = 3
MAX_SHOWN = 300  # errors whose neighbours are listed
MAX_REFERENCES = 10_000  # images among which neighbours are looked for
MIN_CLASS_SIZE = 5  # images of a class: a head that has seen fewer cannot tell it
CHUNK = 1_024  # images compared at a time

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LabelError:
    """A label that contradicts its image.

    Attributes:
        row: row of the image.
        output: number of the class that the image looks like; for multilabel, of the label that looks wrong.
        label_probability: probability of the label as it stands, by the image alone.
        other_probability: probability of `output`; for multilabel, of the opposite.
        error_probability: probability that the label is wrong, with how often labels are.
        neighbours: rows of the nearest images, the nearest first; of the first `MAX_SHOWN` errors.
    """

    row: int
    output: int
    label_probability: float
    other_probability: float
    error_probability: float = 0.0
    neighbours: tuple[int, ...] = ()


@dataclass(frozen=True)
class LabelCheck:
    """The result of a check of labels.

    Attributes:
        errors: every label that contradicts its image, the most probably wrong first. Most of them are right
            where images are hard to tell: about the first `wrong_count` are wrong.
        wrong_count: about how many labels are wrong.
        checked_count: how many labels were checked: images, or images times labels for multilabel, except
            those of classes with fewer than five images.
    """

    errors: tuple[LabelError, ...] = ()
    wrong_count: int = 0
    checked_count: int = 0

    @property
    def wrong_share(self) -> float:
        """About which share of the labels is wrong, in 0..1."""
        return self.wrong_count / max(1, self.checked_count)


def find_label_errors(
    features: NDArray[np.floating[Any]],
    targets: NDArray[Any],
    *,
    task: str,
    reporter: Reporter,
    seed: int = 0,
    groups: NDArray[Any] | Sequence[str] | None = None,
) -> LabelCheck:
    """Find the labels that contradict heads solved without them, and about how many are wrong.

    Args:
        features, targets, task, seed: as for `solvers.solve.solve`.
        groups: shape (n,); rows of one group, such as copies, never answer for each other.

    Raises:
        DataError: features and targets that no head can be solved on.

    Example:
        >>> from regraft.system.console import SilentReporter
        >>> rng = np.random.default_rng(0)
        >>> labels = np.arange(90) % 3
        >>> features = 5 * np.eye(3)[labels] + rng.normal(size=(90, 3))
        >>> labels[4] = 2  # was 1
        >>> check = find_label_errors(features, labels, task="multiclass", reporter=SilentReporter())
        >>> (check.errors[0].row, check.errors[0].output, check.wrong_count)
        (4, 1, 1)
    """
    data = np.asarray(features)
    rows, _ = make_training_rows(data, np.asarray(targets), task=task, seed=seed, weights=None)
    numbers = (
        np.arange(len(data)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    )
    folds = f"{REPEATS} times {DISCRIMINANT.fold_count}-fold"
    reporter.info(f"Checking {len(rows.data):,} labels with {folds} cross-validation.")
    scores, answered = _score_rows(rows, numbers)
    if not answered.any():
        return LabelCheck()
    votes = _count_votes(rows, find_neighbours(data, count=VOTERS, groups=numbers))
    check = _judge_labels(rows, scores + VOTE_WEIGHT * votes, answered)
    shown = np.array([error.row for error in check.errors[:MAX_SHOWN]], np.int64)
    near = find_neighbours(data, count=SHOWN_NEIGHBOURS, groups=numbers, rows=shown)
    errors = [
        replace(error, neighbours=tuple(row for row in neighbours if row >= 0))
        for error, neighbours in zip(check.errors, near.tolist(), strict=False)
    ]
    return replace(check, errors=(*errors, *check.errors[MAX_SHOWN:]))


def find_neighbours(
    features: NDArray[np.floating[Any]],
    *,
    count: int,
    groups: NDArray[np.integer[Any]],
    rows: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:
    """Return the rows whose features point in the most similar direction, the nearest first.

    Args:
        features: shape (n, d).
        count: how many neighbours; of more than `MAX_REFERENCES` rows, among as many evenly spaced ones.
        groups: shape (n,); no row of the same group counts.
        rows: rows to find neighbours of, shape (m,); None for all.

    Returns:
        Shape (m, k), k <= count; -1 where there is no further row of another group.

    Example:
        >>> directions = np.array([[1, 0], [0.9, 0.1], [0, 1], [0.1, 0.9]])
        >>> find_neighbours(directions, count=1, groups=np.arange(4)).tolist()
        [[1], [0], [3], [2]]
    """
    query_rows = np.arange(len(features)) if rows is None else rows
    references = np.unique(np.linspace(0, len(features) - 1, min(len(features), MAX_REFERENCES)).astype(int))
    count = min(count, len(references))
    unit = _scale_to_unit_length(features[references]).T
    nearest = np.full((len(query_rows), count), -1)
    for start in range(0, len(query_rows), CHUNK):
        chunk = query_rows[start : start + CHUNK]
        similarity = _scale_to_unit_length(features[chunk]) @ unit
        similarity[groups[chunk][:, None] == groups[references]] = -np.inf
        part = np.argpartition(-similarity, count - 1, axis=1)[:, :count]
        order = np.argsort(-np.take_along_axis(similarity, part, 1), axis=1, kind="stable")
        best = np.take_along_axis(part, order, 1)
        is_other = np.take_along_axis(similarity, best, 1) > -np.inf
        nearest[start : start + CHUNK] = np.where(is_other, references[best], -1)
    return nearest


def _scale_to_unit_length(features: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    unit: NDArray[np.float32] = (features / np.where(lengths > 0, lengths, 1)).astype(np.float32)
    return unit


def _score_rows(rows: TrainingRows, groups: NDArray[np.int64]) -> tuple[Floats, Mask]:
    """Return the mean log probabilities of repeated folds, (n, units), and the mask of rows that have them.

    The first repeat chooses the shrinkage.
    """
    trials, answered = cross_validate(DISCRIMINANT, rows, groups=groups)
    total, counts = np.zeros(rows.targets.shape), np.zeros(len(rows.targets))
    for repeat in range(REPEATS):
        if repeat:
            spec = fix_discriminant(trials[0].settings)
            again = replace(rows, seed=rows.seed + SEED_STEP * repeat)
            trials, answered = cross_validate(spec, again, groups=groups)
        if not trials:
            break
        trials = [min(trials, key=lambda trial: float(trial.losses.mean()))]
        total[answered] += trials[0].link.gain * trials[0].decisions
        counts += answered
    return total / np.maximum(counts, 1)[:, None], counts > 0


def _count_votes(rows: TrainingRows, neighbours: NDArray[np.int64]) -> Floats:
    """Return the votes of neighbours (n, k) as scores like those of the head, (n, units)."""
    is_voter = (neighbours >= 0)[..., None]
    votes = (rows.targets[neighbours] * is_voter).sum(1)
    total = is_voter.sum(1)
    others = 0.5 * votes.shape[1] - 0.5 if rows.task == "multiclass" else -votes
    scores: Floats = np.log((votes + 0.5) / (total + others + 0.5))
    return scores


def _have_enough_images(rows: TrainingRows, truth: NDArray[np.int64]) -> Mask:
    """Tell of each label (n, questions) whether enough images have it for a head to tell it."""
    if rows.task == "multilabel":
        with_label = truth.sum(0)
        counts = np.where(truth > 0, with_label, len(truth) - with_label)
    else:
        counts = np.bincount(truth[:, 0])[truth]
    is_enough: Mask = counts >= MIN_CLASS_SIZE
    return is_enough


def _judge_labels(rows: TrainingRows, scores: Floats, answered: Mask) -> LabelCheck:
    """Fit the noise of labels to scores (n, units), and list the labels that contradict them."""
    # (n, questions, choices): one question with all classes, or for each label whether the image has it.
    is_choice = rows.task == "multiclass"
    choices = scores[:, None] if is_choice else np.stack([np.zeros_like(scores), scores], -1)
    truth = rows.labels[:, None] if is_choice else rows.targets.astype(np.int64)
    is_checked = answered[:, None] & _have_enough_images(rows, truth)
    images, questions = np.nonzero(is_checked)
    flat, labels = choices[images, questions], truth[images, questions]
    if not len(labels):
        return LabelCheck()
    noise = fit_label_noise(flat, labels)
    probabilities = noise.predict(flat)
    wrong = noise.compute_error_probabilities(flat, labels)
    of_label = np.take_along_axis(probabilities, labels[:, None], 1)[:, 0]
    best = probabilities.argmax(1)
    errors = []
    for number in np.flatnonzero(best != labels).tolist():
        output = int(questions[number] if rows.task == "multilabel" else best[number])
        as_labelled, other = float(of_label[number]), float(probabilities[number, best[number]])
        error = LabelError(int(images[number]), output, as_labelled, other, float(wrong[number]))
        errors.append(error)
    errors.sort(key=lambda error: (-error.error_probability, error.label_probability, error.row))
    return LabelCheck(tuple(errors), min(round(float(wrong.sum())), len(errors)), len(labels))
