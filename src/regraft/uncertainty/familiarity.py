"""How familiar an image is: the share of images like those of training that look as strange as it does.

An image is measured, each time as the surprise: -log of the share of familiar images that reach the value.

| measurement | high for |
|---|---|
| outside (see `neighbours`) | images of another kind |
| far distance | images of a new class, and of another kind |
| doubt of the answer: the entropy of its probabilities | images of a new class, and of no clear class |

Their sum is the strangeness: far + doubt / 2 + max(0, outside - 1.5). The last term is 0 for most familiar
images and grows without limit for images of another kind. So one number answers two questions: is this a
kind of image that the model knows, and does it show one of its classes?

What familiar images reach is measured on images that the model has not learnt from: training images, each
against the others and answered out of fold, or the validation part. The strangeness is measured on them too,
so `familiarity` is a p-value: of 100 familiar images, about one is below 0.01. An image is always measured by
axes that were found without it. Beyond the largest values measured, an exponential tail goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.uncertainty.held_out import HeldOutAnswers, ReferenceImages
from regraft.uncertainty.neighbours import (
    NO_GROUP,
    Distances,
    Metric,
    ReferenceVectors,
    fit_metric,
    scale_to_unit_length,
)

__all__ = ["LEVEL", "Familiarity", "Tail", "fit_familiarity", "is_count_surprising", "measure_doubt"]

LEVEL = 0.01  # of familiarity: an image below it is not like the training images
MAX_REFERENCES = 2000
MAX_RANK = 50  # of the far distance
MAX_BYTES = 8_400_000  # of the references in the file
MAX_MEASURED = 4000  # familiar images that are measured
MIN_MEASURED = 8
TAIL_SHARES = (
    0.1,
    0.02,
)  # of the values whose mean excess makes the tail: a measurement's, the strangeness's
MIN_TAIL = 20  # values, if half of all are as many
SMALLEST_SCALE = 1e-3  # of a tail: smaller differences are of no account
SURPRISING = 1e-3  # chance
OVERRULE = 1.5  # surprise of what is outside, above which it adds to the strangeness
DOUBT_WEIGHT = 0.5
FOLDS = 4  # into which training images are divided, to be measured by axes that the others gave

Floats = NDArray[np.floating[Any]]
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Tail:
    """The distribution of a measurement over familiar images.

    Attributes:
        values: sorted, float32 (m,).
        share: of the values that make the exponential tail.

    Example:
        >>> tail = Tail(np.arange(100, dtype=np.float32), 0.2)
        >>> np.exp(-tail.surprise(np.array([0.0, 50.0, 98.0, 200.0]))).round(3).tolist()
        [1.0, 0.505, 0.034, 0.0]
    """

    values: NDArray[np.float32]
    share: float

    @classmethod
    def from_values(cls, values: Floats, share: float) -> Tail:
        """Sort the values of m familiar images."""
        return cls(np.sort(np.asarray(values, np.float32)), share)

    @cached_property
    def _count(self) -> int:
        size = len(self.values)
        return int(np.clip(round(self.share * size), min(MIN_TAIL, size // 2), size // 2))

    @cached_property
    def _start(self) -> float:
        return float(self.values[-self._count - 1])

    @cached_property
    def _scale(self) -> float:
        return max(float(self.values[-self._count :].mean()) - self._start, SMALLEST_SCALE)

    def surprise(self, values: Floats) -> NDArray[np.float64]:
        """Return -log of the share of familiar images that reach each value, (n,), never below 0."""
        numbers, size = np.asarray(values, np.float64), len(self.values)
        reached = size - np.searchsorted(self.values, values, "left")
        inside = -np.log((1 + reached) / (size + 1))
        beyond = (numbers - self._start) / self._scale - np.log((self._count + 1) / (size + 1))
        return np.where(numbers > self._start, beyond, inside)


@dataclass(frozen=True)
class Familiarity:
    """What new images are compared with.

    Attributes:
        references: vectors of n training images.
        names, labels: their paths and their targets as text, (n,).
        distances: outside and far of familiar images.
        doubt: of the answers to them; None for a regression, or without answers.
        strangeness: of them.
        task: one of `tasks.TASKS`.
    """

    references: ReferenceVectors
    names: NDArray[np.str_]
    labels: NDArray[np.str_]
    distances: tuple[Tail, Tail]
    doubt: Tail | None
    strangeness: Tail
    task: str

    def measure(self, features: Floats, answers: Floats) -> NDArray[np.float64]:
        """Return the familiarity of images, (n,), above 0 and at most 1.

        Args:
            features: pooled features, (n, d).
            answers: the model's answers, (n, units).
        """
        doubt = None if self.doubt is None else measure_doubt(answers, self.task)
        distances = self.references.measure(features)
        strangeness = _add_surprises(distances, self.distances, doubt, self.doubt)
        return np.maximum(np.exp(-self.strangeness.surprise(strangeness)), np.finfo(np.float64).tiny)

    def find_nearest(self, features: Floats, count: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return the nearest training images: rows of `names`, (n, count), and cosines, the nearest first."""
        return self.references.find_nearest(features, count)

    def to_arrays(self) -> Arrays:
        """Return everything as arrays."""
        outside, far = (tail.values for tail in self.distances)
        arrays: Arrays = {
            "vectors": self.references.vectors,
            "axes": self.references.axes,
            "rank": np.array(self.references.rank),
            **{f"metric_{name}": values for name, values in self._list_metric().items()},
            "names": np.char.encode(self.names, "utf-8"),
            "labels": np.char.encode(self.labels, "utf-8"),
            "outside": outside,
            "far": far,
            "strangeness": self.strangeness.values,
            "task": np.array(self.task),
        }
        return arrays if self.doubt is None else {**arrays, "doubt": self.doubt.values}

    def _list_metric(self) -> Arrays:
        """Return the arrays of the metric; its axes take half the bytes, which loses nothing."""
        metric = self.references.metric
        halves = {"axes": metric.axes.astype(np.float16), "inner": metric.inner.astype(np.float16)}
        return {**vars(metric), **halves}

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> Familiarity:
        """Return what `to_arrays` wrote."""
        single, total = TAIL_SHARES
        metric = Metric(*(arrays[f"metric_{field.name}"].astype(np.float32) for field in fields(Metric)))
        return cls(
            ReferenceVectors(arrays["vectors"], arrays["axes"], int(arrays["rank"]), metric),
            _decode_texts(arrays["names"]),
            _decode_texts(arrays["labels"]),
            (Tail(arrays["outside"], single), Tail(arrays["far"], single)),
            Tail(arrays["doubt"], single) if "doubt" in arrays else None,
            Tail(arrays["strangeness"], total),
            str(arrays["task"]),
        )


def measure_doubt(answers: Floats, task: str) -> NDArray[np.float64]:
    """Return the entropy of each answer's probabilities in nats, (n,); of labels, the sum over them.

    Args:
        answers: probabilities, (n, units), see `regraft.tasks`.
        task: any task but "regression".

    >>> measure_doubt(np.array([[0.5], [1.0]]), "binary").round(3).tolist()
    [0.693, 0.0]
    """
    chances = np.clip(np.asarray(answers, np.float64), 1e-12, 1)
    terms = -chances * np.log(chances)
    if task != "multiclass":
        others = np.clip(1 - chances, 1e-12, 1)
        terms -= others * np.log(others)
    doubt: NDArray[np.float64] = terms.sum(1)
    return doubt


def _add_surprises(
    distances: Distances, tails: Sequence[Tail], doubt: Floats | None, doubts: Tail | None
) -> NDArray[np.float64]:
    """Return the strangeness of images, (n,).

    Args:
        distances: of the images.
        tails: of the distances of familiar images, in the same order.
        doubt, doubts: of the answers to the images, and to familiar ones.
    """
    outside, far = (tail.surprise(values) for tail, values in zip(tails, distances, strict=True))
    strangeness = far + np.maximum(outside - OVERRULE, 0)
    if doubt is None or doubts is None:
        return strangeness
    return strangeness + DOUBT_WEIGHT * doubts.surprise(doubt)


# --- fitting


def fit_familiarity(
    held_out: HeldOutAnswers | None,
    reference: ReferenceImages,
    *,
    task: str,
    labels: Sequence[str],
    seed: int,
) -> Familiarity | None:
    """Measure how strange familiar images look.

    Args:
        held_out: images that the model has not learnt from. Without them the reference images are measured,
            each against the others, and answers do not count.
        reference: the training images to compare others with; of many, a sample that is stored.
        task: one of `tasks.TASKS`.
        labels: the target of each reference image as text.
        seed: random seed of the samples.

    Returns:
        None if there are too few images to tell.
    """
    chosen = _choose_references(reference, task, seed)
    groups = reference.groups[chosen]
    largest = int(np.unique(groups, return_counts=True)[1].max(initial=0))
    if len(chosen) - largest < 1:
        return None
    rank = min(_choose_rank(reference.targets[chosen], task), len(chosen) - largest)
    shown = replace(reference, features=reference.features[chosen], groups=groups)
    classes = None
    if task in ("multiclass", "binary"):
        classes = np.unique(reference.targets[chosen], return_inverse=True)[1].reshape(-1)
    vectors = ReferenceVectors.from_features(shown.features, classes, rank=rank, max_bytes=MAX_BYTES)
    features, answers, own_groups = _list_familiar_images(held_out, reference, seed)
    if len(features) < MIN_MEASURED:
        return None
    distances = _measure_apart(vectors, shown, classes, features, own_groups, seed=seed)
    doubt = None if answers is None or task == "regression" else measure_doubt(answers, task)
    single, total = TAIL_SHARES
    outside, far = (Tail.from_values(values, single) for values in distances)
    doubts = None if doubt is None else Tail.from_values(doubt, single)
    strangeness = Tail.from_values(_add_surprises(distances, (outside, far), doubt, doubts), total)
    names = np.array([_make_encodable(reference.samples[row].path) for row in chosen])
    texts = np.array([_make_encodable(labels[row]) for row in chosen])
    return Familiarity(vectors, names, texts, (outside, far), doubts, strangeness, task)


def _measure_apart(
    vectors: ReferenceVectors,
    reference: ReferenceImages,
    classes: NDArray[np.int64] | None,
    features: Floats,
    own_groups: NDArray[np.int64],
    *,
    seed: int,
) -> Distances:
    """Return the distances of familiar images, each by a metric learnt without it and its copies.

    Args:
        vectors: of the reference images.
        reference: their features, (n, d), and groups.
        classes: of them; None if there are none.
        features, own_groups: of the images to measure, (m, d) and (m,).
        seed: of the division into folds.
    """
    groups = reference.groups
    names, numbers = np.unique(groups, return_inverse=True)
    folds = np.random.default_rng(seed).permutation(len(names)) % FOLDS
    fold_of = dict(zip(names.tolist(), folds.tolist(), strict=True))
    own_folds = np.array([fold_of.get(group, FOLDS) for group in own_groups.tolist()])
    unit, matrix = scale_to_unit_length(reference.features), vectors.vectors.astype(np.float32)
    outside, far = np.zeros((2, len(features)), np.float32)
    for fold in np.unique(own_folds).tolist():
        rows, others = own_folds == fold, folds[numbers] != fold
        apart = vectors
        if fold < FOLDS and others.any():
            own = None if classes is None else classes[others]
            apart = replace(vectors, metric=fit_metric(unit[others], matrix[others], own))
        outside[rows], far[rows] = apart.measure(
            features[rows], groups=own_groups[rows], reference_groups=groups
        )
    return Distances(outside, far)


def _choose_references(reference: ReferenceImages, task: str, seed: int) -> NDArray[np.int64]:
    """Return the rows of the reference images to store: all, or a sample with the same shares of classes."""
    count = len(reference.features)
    if count <= MAX_REFERENCES:
        return np.arange(count)
    from regraft.solvers.cross_validation import assign_strata, draw_stratified_sample

    strata = assign_strata(reference.targets, task)
    return np.flatnonzero(draw_stratified_sample(strata, MAX_REFERENCES, seed))


def _choose_rank(targets: NDArray[Any], task: str) -> int:
    """Return k of the far distance: half a class; where there are no classes, a twentieth of the images."""
    if task in ("multiclass", "binary"):
        sizes = np.unique(targets, return_counts=True)[1]
        return int(np.clip(np.median(sizes) // 2, 1, MAX_RANK))
    return int(np.clip(len(targets) // 20, 1, MAX_RANK))


def _list_familiar_images(
    held_out: HeldOutAnswers | None, reference: ReferenceImages, seed: int
) -> tuple[Floats, Floats | None, NDArray[np.int64]]:
    """Return features, answers and groups of the images to measure; a random sample of many."""
    if held_out is None or held_out.features is None:
        features, answers, groups = reference.features, None, reference.groups
    else:
        group_of = {
            sample.digest: group for sample, group in zip(reference.samples, reference.groups, strict=True)
        }
        features, answers = held_out.features, held_out.answers
        groups = np.array([group_of.get(sample.digest, NO_GROUP) for sample in held_out.samples], np.int64)
    if len(features) <= MAX_MEASURED:
        return features, answers, groups
    rows = np.sort(np.random.default_rng(seed).permutation(len(features))[:MAX_MEASURED])
    return features[rows], None if answers is None else answers[rows], groups[rows]


def _decode_texts(texts: NDArray[Any]) -> NDArray[np.str_]:
    """Return texts that are stored as UTF-8, or as in earlier versions as they are."""
    return np.char.decode(texts, "utf-8") if texts.dtype.kind == "S" else texts


def _make_encodable(text: str) -> str:
    """Return a text that UTF-8 can hold: file names of any bytes come with lone surrogates."""
    return text.encode("utf-8", "backslashreplace").decode()


# --- many images at once


def is_count_surprising(unfamiliar: int, count: int, level: float = LEVEL) -> bool:
    """Return whether far more of `count` images are unfamiliar than should be: drift, or other images.

    Twice the level is expected of clean images at most; a chance below 1 in 1,000 is surprising.

    >>> is_count_surprising(3, 100), is_count_surprising(12, 100)
    (False, True)
    """
    chance, hits = 2 * level, np.arange(count + 1)
    factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, count + 1)))])
    logs = factorials[-1] - factorials - factorials[::-1]
    logs += hits * np.log(chance) + (count - hits) * np.log1p(-chance)
    return bool(np.exp(logs[unfamiliar:]).sum() < SURPRISING)
