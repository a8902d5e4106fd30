"""Shortcuts: classes that size, format or folder reveal without looking at the image.

A model may then learn the camera or the scanner instead of the content, and score well only on images from
the same source.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.data.catalog import Catalog, Sample
from regraft.data.images.decode import ImageFacts
from regraft.data.parts import read_part
from regraft.metrics.intervals import Interval, wilson_interval
from regraft.solvers.cross_validation import make_folds

__all__ = ["Shortcut", "find_shortcuts", "strip_known_folders"]

FOLDS = 5
BINS, PENALTY = 16, 2.0  # bins per column, and the penalty on their weights: rules that many images follow
MAX_IMAGES = 20_000  # images of larger catalogs are taken at even distances
MAX_FOLDERS = 50  # folders with the most images; the others count as one
MIN_GAIN = 0.2  # share of the mistakes of the largest class that a shortcut has to avoid

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Shortcut:
    """A property that reveals the class.

    Attributes:
        kind: "size", "format" or "folder".
        score: top-1 accuracy on held-out images.
        baseline: accuracy of predicting the most frequent class.
    """

    kind: str
    score: Interval
    baseline: float


def find_shortcuts(catalog: Catalog, facts: Sequence[ImageFacts], *, groups: NDArray[Any]) -> list[Shortcut]:
    """Find which of size, format and folder predict the class much better than the most frequent class does.

    Args:
        catalog: a catalog of classes; other tasks have no shortcuts.
        facts: facts about the image of each sample.
        groups: shape (n,); samples of one group, such as copies, are held out together.

    Example:
        >>> from pathlib import Path
        >>> from regraft.data.catalog import Sample
        >>> samples = tuple(Sample(f"{n}.x", n % 2, f"{n:032x}") for n in range(60))
        >>> facts = [ImageFacts(640, 480, "JPEG" if n % 2 else "PNG") for n in range(60)]
        >>> catalog = Catalog(Path(), ("a", "b"), samples)
        >>> [shortcut.kind for shortcut in find_shortcuts(catalog, facts, groups=np.arange(60))]
        ['format']
    """
    if catalog.task not in ("multiclass", "binary"):
        return []
    step = -(-len(facts) // MAX_IMAGES)
    samples, facts = catalog.samples[::step], facts[::step]
    labels = catalog.targets(samples)
    folds = make_folds(labels, task=catalog.task, count=FOLDS, seed=0, groups=groups[::step])
    baseline = float(np.bincount(labels).max() / len(labels))
    shortcuts = []
    for kind, columns in _make_columns(catalog, samples, facts).items():
        if not folds or not np.ptp(columns, axis=0).any():
            continue
        is_correct = _predict_held_out(columns, labels, folds)
        score = wilson_interval(int(is_correct.sum()), len(is_correct))
        if score.value - baseline >= MIN_GAIN * (1 - baseline) and score.low > baseline:
            shortcuts.append(Shortcut(kind, score, baseline))
    return shortcuts


def _make_columns(
    catalog: Catalog, samples: Sequence[Sample], facts: Sequence[ImageFacts]
) -> dict[str, Matrix]:
    width, height = np.array([[fact.width, fact.height] for fact in facts], np.float64).T
    folders = [strip_known_folders(sample.path, catalog.describe_target(sample)) for sample in samples]
    return {
        "size": np.stack([width, height, width / height, width * height], 1),
        "format": _encode_one_hot([fact.format for fact in facts]),
        "folder": _encode_one_hot(folders),
    }


def strip_known_folders(path: str, label: str) -> str:
    """Return the folders of a file without those that name its part or its class, as folders may.

    >>> strip_known_folders("train/cat/site 2/7.jpg", "cat")
    'site 2'
    """
    names = PurePosixPath(path).parts[:-1]
    return "/".join(name for name in names if name != label and not read_part(name))


def _encode_one_hot(values: Sequence[str]) -> Matrix:
    kinds = [kind for kind, _ in Counter(values).most_common(MAX_FOLDERS)]
    return np.array([[value == kind for kind in kinds] for value in values], np.float64)


def _predict_held_out(
    columns: Matrix, labels: NDArray[np.int64], folds: Sequence[NDArray[np.bool_]]
) -> NDArray[Any]:
    """Return whether ridge regression on the other rows predicts the class of each held-out row."""
    rows, targets = _split_into_bins(columns), np.eye(labels.max() + 1)[labels]
    is_correct = np.zeros(len(labels), bool)
    for held in folds:
        train = rows[~held]
        gram = train.T @ train + PENALTY * np.eye(train.shape[1])
        weights = np.linalg.solve(gram, train.T @ targets[~held])
        is_correct[held] = (rows[held] @ weights).argmax(1) == labels[held]
    return is_correct[np.any(folds, axis=0)]


def _split_into_bins(columns: Matrix) -> Matrix:
    """Return a column for each quantile bin of each column: a class may lie anywhere in the range."""
    binned = []
    for column in columns.T:
        edges = np.unique(np.quantile(column, np.linspace(0, 1, BINS + 1)[1:-1], method="nearest"))
        number = np.searchsorted(edges, column, side="right")
        binned.append(np.eye(len(edges) + 1)[number])
    return np.concatenate(binned, axis=1)
