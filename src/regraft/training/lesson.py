"""What a phase learns from and is judged by, as batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.data.batches import Batches
from regraft.tasks import Task

__all__ = ["Lesson"]


@dataclass(frozen=True)
class Lesson:
    """What a phase learns from and is judged by.

    Attributes:
        task: says what counts as loss and as score.
        train, validation: batches of what the trained part takes: stored features, or pixels.
        spread: standard deviation of each target of regression in training, (units,); 1 otherwise.
    """

    task: Task
    train: Batches[Any]
    validation: Batches[Any]
    spread: NDArray[np.float32] | float = 1.0
