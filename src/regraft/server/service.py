"""From the images of a request to their answers: decode, queue, compute, describe; all within limits."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
from starlette.requests import Request

from regraft.data.images.decode import DecodedImage
from regraft.data.images.rejections import Rejection
from regraft.errors import EnvironmentFault
from regraft.inference.predict import make_test_images
from regraft.server.batching import GroupQueue
from regraft.server.body import UploadedImage
from regraft.server.decoding import ImageDecoder
from regraft.server.metrics import ServerMetrics
from regraft.server.refusals import RequestRefused
from regraft.server.registry import ModelRegistry
from regraft.server.served_model import ServedModel
from regraft.server.settings import Limits
from regraft.uncertainty.prediction_sets import DEFAULT_COVERAGE

__all__ = ["ImageService", "run_while_connected"]

T = TypeVar("T")
Row = dict[str, Any]


class ImageService:
    """Answers images with the models of a registry.

    Attributes:
        is_ready: whether a first image went all the way to its answer.
        is_draining: whether the server was asked to end: it answers, but wants no more requests.
    """

    def __init__(self, registry: ModelRegistry, limits: Limits, metrics: ServerMetrics) -> None:
        self.registry, self.metrics = registry, metrics
        self.is_ready = self.is_draining = False
        self._limits = limits
        self._images = 0
        self._decoder = ImageDecoder(limits.answer_seconds)
        self._queue = GroupQueue(metrics.count_group)
        metrics.watch(
            lambda: self._images, lambda: [(model.name, model.version) for model in registry.models]
        )

    async def open(self) -> None:
        """Load the models, start the decoders and answer a first image with each model.

        Raises:
            UsageError, ModelRefused, EnvironmentFault: a model cannot be served.
        """
        await asyncio.gather(asyncio.to_thread(self.registry.load), self._decoder.open())
        for model in self.registry.models:
            samples = [_make_test_upload(model)] * model.bundle.images_per_sample
            await self._answer_sample(model, samples, DEFAULT_COVERAGE, explain=False)
        self.is_ready = True

    def close(self) -> None:
        """End the decoders and the threads."""
        self._decoder.close()
        self._queue.close()

    async def reload(self) -> tuple[list[str], list[str]]:
        """Replace the models whose runs changed; see `ModelRegistry.reload`."""
        replaced, failed = await asyncio.to_thread(self.registry.reload)
        for names, result in ((replaced, "done"), (failed, "refused")):
            for _ in names:
                self.metrics.count_reload(result)
        return replaced, failed

    async def answer_images(
        self, model: ServedModel, images: Sequence[UploadedImage], *, coverage: float, explain: bool = False
    ) -> list[Row | Rejection]:
        """Return the answer to each sample, in order, or why its image is refused.

        Args:
            model: from the registry.
            images: if samples have several images, those of the first sample come first.
            coverage: share of images whose set or interval should hold the truth.
            explain: add heat maps and the nearest training images.

        Raises:
            RequestRefused: the images do not make up samples, or too many images are waiting.
        """
        size = model.bundle.images_per_sample
        if len(images) % size:
            raise RequestRefused(
                400, "wrong_number_of_images", f"expected {size} images per sample, received {len(images)}"
            )
        samples = [images[start : start + size] for start in range(0, len(images), size)]
        with self._admit(len(images)):
            answers = await asyncio.gather(
                *(self._answer_sample(model, sample, coverage, explain=explain) for sample in samples)
            )
        for answer in answers:
            self.metrics.count_image(model.name, answer.code if isinstance(answer, Rejection) else "ok")
        return answers

    @contextmanager
    def _admit(self, count: int) -> Iterator[None]:
        if self._images + count > self._limits.queue:
            raise RequestRefused(503, "overloaded", "too many images are waiting")
        self._images += count
        try:
            yield
        finally:
            self._images -= count

    async def _answer_sample(
        self, model: ServedModel, images: Sequence[UploadedImage], coverage: float, *, explain: bool
    ) -> Row | Rejection:
        size, depth = model.bundle.image_size, model.bundle.depth
        try:
            decoded = await asyncio.gather(
                *(self._decoder.decode(image.data, size, depth) for image in images)
            )
        except EnvironmentFault as error:
            raise RequestRefused(503, "no_decoder", "no decoder process can be started") from error
        if rejection := next((item for item in decoded if isinstance(item, Rejection)), None):
            return rejection
        pixels = [item.pixels for item in decoded if isinstance(item, DecodedImage)]
        sample = pixels[0] if len(pixels) == 1 else np.stack(pixels)
        output = await asyncio.wrap_future(self._queue.submit(model, sample))
        name = ", ".join(image.name for image in images)
        if explain:
            return await asyncio.to_thread(model.explain, name, sample, output, coverage=coverage)
        return model.answer(name, output, coverage=coverage)


def _make_test_upload(model: ServedModel) -> UploadedImage:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(make_test_images(model.bundle.image_size)[0]).save(buffer, "PNG")
    return UploadedImage("warm-up", buffer.getvalue())


async def run_while_connected(request: Request, work: Coroutine[Any, Any, T], seconds: float) -> T:
    """Run the work of a request whose body was read; cancel it when the client goes or time is over.

    Raises:
        RequestRefused: there is no answer in time; the status is 499 if the client has gone.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait({task, gone}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        if gone.done():
            raise RequestRefused(499, "client_gone", "the client closed the connection")
        raise RequestRefused(504, "answer_timeout", f"no answer within {seconds:g} seconds")
    finally:
        gone.cancel()
        task.cancel()
