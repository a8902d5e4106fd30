"""One queue in front of the models: images of all requests wait in it and are run in groups.

A group is whatever waits, so a lone image waits for nobody and a crowd is handled together. Two threads take
groups in turn: while the network of one is running, the other prepares its group or hands out answers. On a
processor OpenVINO runs images of a group as requests of their own, at the same speed as a batch or faster, so
the group need not have a certain size.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from regraft.inference.predict import ModelOutput

__all__ = ["LARGEST_GROUP", "GroupQueue", "ImageModel"]

LARGEST_GROUP = 16
RUNNERS = 2


class ImageModel(Protocol):
    """What the queue needs of a model."""

    def compute(self, samples: Sequence[NDArray[np.uint8]]) -> list[ModelOutput]:
        """Return what the network computes of each sample."""
        ...


class _Item(NamedTuple):
    model: ImageModel
    pixels: NDArray[np.uint8]
    answer: Future[ModelOutput]


class GroupQueue:
    """Threads that run models over the images that wait for them.

    Args:
        observe: is told the size of each group.
        runners: number of threads.
    """

    def __init__(self, observe: Any = lambda size: None, runners: int = RUNNERS) -> None:
        self._waiting: deque[_Item] = deque()
        self._changed = threading.Condition()
        self._is_closed = False
        self._observe = observe
        self._threads = [
            threading.Thread(target=self._run, name=f"runner-{number}", daemon=True)
            for number in range(runners)
        ]
        for thread in self._threads:
            thread.start()

    def __len__(self) -> int:
        return len(self._waiting)

    def submit(self, model: ImageModel, pixels: NDArray[np.uint8]) -> Future[ModelOutput]:
        """Queue a sample and return its answer to be; a cancelled one is never computed."""
        item = _Item(model, pixels, Future())
        with self._changed:
            if self._is_closed:
                raise RuntimeError("the queue is closed")
            self._waiting.append(item)
            self._changed.notify()
        return item.answer

    def close(self) -> None:
        """Compute what waits, then end the threads."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _take_group(self) -> list[_Item]:
        """Return the items to run next, all of one model; none at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_closed)
            if not self._waiting:
                return []
            model = self._waiting[0].model
            share = min(LARGEST_GROUP, -(-len(self._waiting) // len(self._threads)))
            group: list[_Item] = []
            others: deque[_Item] = deque()
            while self._waiting and len(group) < share:
                item = self._waiting.popleft()
                (group if item.model is model else others).append(item)
            self._waiting.extendleft(reversed(others))
            return group

    def _run(self) -> None:
        while group := self._take_group():
            group = [item for item in group if item.answer.set_running_or_notify_cancel()]
            if not group:
                continue
            self._observe(len(group))
            try:
                outputs = group[0].model.compute([item.pixels for item in group])
                for item, output in zip(group, outputs, strict=True):
                    item.answer.set_result(output)
            except BaseException as error:  # each of them waits for an answer
                for item in group:
                    if not item.answer.done():
                        item.answer.set_exception(error)
