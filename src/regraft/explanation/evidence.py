"""What to ask of an image: which sums of decision values a heat map is made of, and how to call them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["MOST_MAPS", "Question", "list_questions"]

MOST_MAPS = 3  # labels or targets of an image that get a map


@dataclass(frozen=True)
class Question:
    """What a heat map answers.

    Attributes:
        subject: the class, label or target.
        rival: the class that it is compared with; "" for none.
        direction: weights of the decision values, (units,).
        is_signed: whether what speaks against it is shown too.
        is_centred: whether positions are compared with their mean, because only differences mean something.
    """

    subject: str
    rival: str
    direction: NDArray[np.float64]
    is_signed: bool = False
    is_centred: bool = False


def list_questions(
    task: str, outputs: Sequence[str], values: NDArray[Any], thresholds: Mapping[str, float]
) -> list[Question]:
    """Return the questions to ask of an image with these answers.

    A class is compared with the mean of all classes, which is all that a softmax sees, and then with the
    runner-up. A label gets a map if it reaches its threshold, and the likeliest one if none does.

    Args:
        task: one of `tasks.TASKS`.
        outputs: names of the classes, labels or targets.
        values: the answers as probabilities of all classes or labels, or as numbers, (outputs,).
        thresholds: those of labels.

    Example:
        >>> shares = np.array([0.1, 0.7, 0.2])
        >>> for question in list_questions("multiclass", ["cat", "cow", "dog"], shares, {}):
        ...     question.subject, question.rival, question.direction.round(2).tolist()
        ('cow', '', [-0.33, 0.67, -0.33])
        ('cow', 'dog', [0.0, 1.0, -1.0])
    """
    order = np.argsort(-values, kind="stable").tolist()
    if task == "binary":
        sign = 1.0 if order[0] == 1 else -1.0
        return [Question(outputs[order[0]], outputs[order[1]], np.array([sign]), is_signed=True)]
    single = np.eye(len(outputs))
    if task == "multiclass":
        first, second = order[:2]
        alone = single[first] - 1 / len(outputs)
        return [
            Question(outputs[first], "", alone),
            Question(outputs[first], outputs[second], single[first] - single[second], is_signed=True),
        ]
    if task == "multilabel":
        numbers = [number for number in order if values[number] >= thresholds.get(outputs[number], 0.5)]
        return [Question(outputs[number], "", single[number]) for number in (numbers or order)[:MOST_MAPS]]
    return [
        Question(name, "", single[number], is_signed=True, is_centred=True)
        for number, name in enumerate(outputs[:MOST_MAPS])
    ]
