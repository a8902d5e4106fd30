"""The images that a model's uncertainty is measured on, and those that new images are compared with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from regraft.data.samples import Sample

__all__ = ["HeldOutAnswers", "ReferenceImages"]


@dataclass(frozen=True)
class HeldOutAnswers:
    """Answers to images that the model has not learnt from.

    Attributes:
        samples: the images, n of them.
        targets: class numbers (n,), 0 and 1 per label (n, labels), or numbers (n, targets).
        answers: the model's answers, (n, units), as in `regraft.tasks`.
        features: pooled features, float32 (n, d), see `ReferenceImages`; None if the model has none.
        source: "cross-validation" for training images, each answered by a head that was solved without it;
            "validation" for the validation part, answered by the model itself.
        fewer, step: answers to the same images by heads that were solved on fewer, and how far a head of all
            images goes on from there, see `solvers.fewer_rows`; None if there are none.
    """

    samples: tuple[Sample, ...]
    targets: NDArray[Any]
    answers: NDArray[np.floating[Any]]
    features: NDArray[np.float32] | None
    source: Literal["cross-validation", "validation"]
    fewer: NDArray[np.floating[Any]] | None = None
    step: float = 0.0

    def leave_out(self, part: str) -> HeldOutAnswers:
        """Return the answers without those to the images of a part."""
        rows = _find_others(self.samples, part)
        return replace(
            self,
            samples=tuple(self.samples[row] for row in rows),
            targets=self.targets[rows],
            answers=self.answers[rows],
            features=None if self.features is None else self.features[rows],
            fewer=None if self.fewer is None else self.fewer[rows],
        )


@dataclass(frozen=True)
class ReferenceImages:
    """Training images with the features that the final model computes of them.

    Attributes:
        samples: the images, n of them; a sample of all training images if the backbone was trained.
        targets: as in `HeldOutAnswers`.
        features: pooled output of the backbone, float32 (n, d).
        groups: shape (n,); images of one group are copies of one another.
    """

    samples: tuple[Sample, ...]
    targets: NDArray[Any]
    features: NDArray[np.float32]
    groups: NDArray[np.int64]

    def leave_out(self, part: str) -> ReferenceImages:
        """Return the images without those of a part."""
        rows = _find_others(self.samples, part)
        samples = tuple(self.samples[row] for row in rows)
        return ReferenceImages(samples, self.targets[rows], self.features[rows], self.groups[rows])


def _find_others(samples: tuple[Sample, ...], part: str) -> NDArray[np.int64]:
    return np.flatnonzero([sample.part != part for sample in samples])
