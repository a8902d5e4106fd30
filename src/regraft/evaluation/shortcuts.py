"""Whether a class can be told without looking at the picture: from its size, format or folder.

Where it can, a model may learn the camera or the scanner instead of what is shown, and score well on images
from the same source only.
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
from regraft.data.folders import PART_NAMES
from regraft.data.images.decode import Facts
from regraft.metrics.intervals import Interval, wilson_interval
from regraft.solvers.cross_validation import folds

__all__ = ["Shortcut", "find_shortcuts"]

FOLDS = 5
BINS, PENALTY = 16, 2.0  # of each figure, and on the weights of each bin: rules that many images follow
MOST = 20_000  # images, of larger catalogs evenly spaced ones
FOLDERS = 50  # the folders of most images; the others count as one
GAIN = 0.2  # share of the majority's mistakes that a shortcut avoids at least

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Shortcut:
    """What tells the class by itself.

    `kind`: "size", "format" or "folder"; `score`: top-1 on images that were held out; `baseline`: that of
    always saying the most frequent class.
    """

    kind: str
    score: Interval
    baseline: float


def find_shortcuts(catalog: Catalog, facts: Sequence[Facts], *, groups: NDArray[Any]) -> list[Shortcut]:
    """What of size, format and folder predicts the class much better than the most frequent class does.

    Args:
        catalog: of classes; for other tasks nothing is found.
        facts: of each sample.
        groups: shape (n,); samples of one group, such as copies, are held out together.

    Example:
        >>> from pathlib import Path
        >>> from regraft.data.catalog import Sample
        >>> samples = tuple(Sample(f"{n}.x", n % 2, f"{n:032x}") for n in range(60))
        >>> facts = [Facts(640, 480, "JPEG" if n % 2 else "PNG") for n in range(60)]
        >>> catalog = Catalog(Path(), ("a", "b"), samples)
        >>> [found.kind for found in find_shortcuts(catalog, facts, groups=np.arange(60))]
        ['format']
    """
    if catalog.task not in ("multiclass", "binary"):
        return []
    step = -(-len(facts) // MOST)
    samples, facts = catalog.samples[::step], facts[::step]
    labels = catalog.targets(samples)
    parts = folds(labels, task=catalog.task, count=FOLDS, seed=0, groups=groups[::step])
    baseline = float(np.bincount(labels).max() / len(labels))
    found = []
    for kind, columns in _columns(catalog, samples, facts).items():
        if not parts or not np.ptp(columns, axis=0).any():
            continue
        right = _right(columns, labels, parts)
        score = wilson_interval(int(right.sum()), len(right))
        if score.value - baseline >= GAIN * (1 - baseline) and score.low > baseline:
            found.append(Shortcut(kind, score, baseline))
    return found


def _columns(catalog: Catalog, samples: Sequence[Sample], facts: Sequence[Facts]) -> dict[str, Matrix]:
    sizes = np.array([[each.width, each.height] for each in facts], np.float64)
    wide, high = sizes.T
    return {
        "size": np.stack([wide, high, wide / high, wide * high], 1),
        "format": _one_hot([each.format for each in facts]),
        "folder": _one_hot([_folder(sample.path, catalog.words(sample)) for sample in samples]),
    }


def _folder(path: str, label: str) -> str:
    """The folders of a file but those that say its part or its class, as folders may."""
    names = PurePosixPath(path).parts[:-1]
    return "/".join(name for name in names if name != label and name.lower() not in PART_NAMES)


def _one_hot(values: Sequence[str]) -> Matrix:
    kinds = [kind for kind, _ in Counter(values).most_common(FOLDERS)]
    return np.array([[value == kind for kind in kinds] for value in values], np.float64)


def _right(columns: Matrix, labels: NDArray[np.int64], parts: Sequence[NDArray[np.bool_]]) -> NDArray[Any]:
    """Return whether ridge regression that has not seen them tells the class of each held-out row."""
    rows, targets = _in_bins(columns), np.eye(labels.max() + 1)[labels]
    right = np.zeros(len(labels), bool)
    for held in parts:
        seen = rows[~held]
        weights = np.linalg.solve(seen.T @ seen + PENALTY * np.eye(seen.shape[1]), seen.T @ targets[~held])
        right[held] = (rows[held] @ weights).argmax(1) == labels[held]
    return right[np.any(parts, axis=0)]


def _in_bins(columns: Matrix) -> Matrix:
    """Return a column for each bin of each column, between quantiles: a class may be anywhere within."""
    binned = []
    for column in columns.T:
        edges = np.unique(np.quantile(column, np.linspace(0, 1, BINS + 1)[1:-1], method="nearest"))
        number = np.searchsorted(edges, column, side="right")
        binned.append(np.eye(len(edges) + 1)[number])
    return np.concatenate(binned, axis=1)
