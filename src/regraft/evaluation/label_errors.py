"""Likely label errors, found by cross-validated predictions.

Each image is answered by a head that was solved without it, on stored features; the label with the least
probability comes first. That is the self-confidence of confident learning (Northcutt, Jiang and Chuang,
2021), out of fold and with a temperature. The head is linear discriminant analysis: it has a closed form, its
folds share their sums, and on photographs of clothes with swapped labels it ranked them as well as logistic
regression or several kinds of heads together did.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.solvers.closed_form import DISCRIMINANT
from regraft.solvers.cross_validation import cross_validate
from regraft.solvers.solve import make_training_rows
from regraft.system.console import Reporter

__all__ = ["LABEL_TASKS", "LabelError", "find_label_errors"]

LABEL_TASKS = ("multiclass", "binary", "multilabel")  # tasks whose targets are labels


@dataclass(frozen=True, slots=True)
class LabelError:
    """A label that is probably wrong.

    Attributes:
        row: row of the image.
        output: number of the class that the image looks like; for multilabel, of the label that looks wrong.
        label_probability: probability of the label as it stands.
        other_probability: probability of `output`; for multilabel, of the opposite.
    """

    row: int
    output: int
    label_probability: float
    other_probability: float


def find_label_errors(
    features: NDArray[np.floating[Any]],
    targets: NDArray[Any],
    *,
    task: str,
    reporter: Reporter,
    seed: int = 0,
    groups: NDArray[Any] | Sequence[str] | None = None,
) -> list[LabelError]:
    """Find the labels that contradict a head solved without them, the most suspicious first.

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
        >>> errors = find_label_errors(features, labels, task="multiclass", reporter=SilentReporter())
        >>> (errors[0].row, errors[0].output)
        (4, 1)
    """
    data, answers = np.asarray(features), np.asarray(targets)
    rows, _ = make_training_rows(data, answers, task=task, seed=seed, weights=None)
    numbers = None if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    count = DISCRIMINANT.fold_count
    reporter.info(f"Checking {len(rows.data):,} labels with {count}-fold cross-validation.")
    trials, answered = cross_validate(DISCRIMINANT, rows, groups=numbers)
    if not trials:
        return []
    best = min(trials, key=lambda trial: float(trial.losses.mean()))
    probabilities = np.full(rows.targets.shape, 0.5)
    probabilities[answered] = best.link(best.decisions)
    # (n, questions, choices): one question with all classes, or for each label whether the image has it.
    choices = (
        probabilities[:, None] if task == "multiclass" else np.stack([1 - probabilities, probabilities], -1)
    )
    truth = rows.targets.astype(np.int64) if task == "multilabel" else rows.labels[:, None]
    of_label = np.take_along_axis(choices, truth[..., None], -1)[..., 0]
    best_choice = choices.argmax(-1)
    errors = [
        LabelError(
            row,
            unit if task == "multilabel" else int(best_choice[row, unit]),
            float(of_label[row, unit]),
            float(choices[row, unit].max()),
        )
        for row, unit in np.argwhere((best_choice != truth) & answered[:, None]).tolist()
    ]
    return sorted(errors, key=lambda error: (error.label_probability, error.row))
