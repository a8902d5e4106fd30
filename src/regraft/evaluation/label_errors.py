"""Labels that a head which has not seen them does not believe.

Every image is answered by a head that was solved without it, on stored features; the label with the least
probability there is the first suspect. That is the self-confidence of confident learning (Northcutt, Jiang
and Chuang, 2021), out of fold and after the temperature. The head is linear discriminant analysis: in closed
form, its folds share their sums, and on photographs of clothes with swapped labels it ranked these as well as
logistic regression did, or as several kinds of heads together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.solvers.cross_validation import cross_validate
from regraft.solvers.sklearn_heads import FAMILIES
from regraft.solvers.solve import part_of
from regraft.system.console import Reporter

__all__ = ["Suspect", "find_suspects"]

HEAD = "lda"
TASKS = ("multiclass", "binary", "multilabel")  # those whose targets are labels


@dataclass(frozen=True, slots=True)
class Suspect:
    """A label that is doubted.

    Attributes:
        row: of the image.
        output: number of the class that it should rather have; of the label that is doubted for multilabel.
        given: probability of what the label says.
        other: probability of `output`; of the opposite for multilabel.
    """

    row: int
    output: int
    given: float
    other: float


def find_suspects(
    features: NDArray[np.floating[Any]],
    targets: NDArray[Any],
    *,
    task: str,
    reporter: Reporter,
    seed: int = 0,
    groups: NDArray[Any] | Sequence[str] | None = None,
) -> list[Suspect]:
    """Find the labels that a head solved without them contradicts, the most doubtful first.

    Args:
        features, targets, task, seed: as for `training.classical.solve`.
        groups: shape (n,); rows of one group, such as copies, answer never for each other.

    Raises:
        DataError: features and targets that no head can be solved on.

    Example:
        >>> from regraft.system.console import SilentReporter
        >>> rng = np.random.default_rng(0)
        >>> labels = np.arange(90) % 3
        >>> features = 5 * np.eye(3)[labels] + rng.normal(size=(90, 3))
        >>> labels[4] = 2  # was 1
        >>> found = find_suspects(features, labels, task="multiclass", reporter=SilentReporter())
        >>> (found[0].row, found[0].output)
        (4, 1)
    """
    part, _ = part_of(np.asarray(features), np.asarray(targets), task=task, seed=seed, weights=None)
    places = None if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    count = FAMILIES[HEAD].count
    reporter.info(
        f"Doubting {len(part.data):,} labels: a head is solved {count} times, each time without some."
    )
    trials, seen = cross_validate(FAMILIES[HEAD], part, groups=places)
    if not trials:
        return []
    best = min(trials, key=lambda trial: float(trial.losses.mean()))
    answers = np.full(part.targets.shape, 0.5)
    answers[seen] = best.link(best.decisions)
    # Of each question, (n, questions, alternatives): which class, or for every label whether not or whether.
    shares = answers[:, None] if task == "multiclass" else np.stack([1 - answers, answers], -1)
    truth = part.targets.astype(np.int64) if task == "multilabel" else part.labels[:, None]
    given = np.take_along_axis(shares, truth[..., None], -1)[..., 0]
    answer = shares.argmax(-1)
    found = [
        Suspect(
            row,
            unit if task == "multilabel" else int(answer[row, unit]),
            float(given[row, unit]),
            float(shares[row, unit].max()),
        )
        for row, unit in np.argwhere((answer != truth) & seen[:, None]).tolist()
    ]
    return sorted(found, key=lambda one: (one.given, one.row))
