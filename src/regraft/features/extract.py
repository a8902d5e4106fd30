"""Run a network's frozen part over every image of a catalog, once, and keep its outputs in the store.

It is one steady stream: child processes decode ahead, the engine has as many batches under way as suit the
processor, and a thread writes the results; none of them waits for another to finish a round. What the store
already has is neither computed nor decoded again. What decoding tells of an image is stored on the way, for
all networks: see `features.image_facts`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from regraft.data.augmentation import View
from regraft.data.catalog import Catalog, RejectedFile, Sample
from regraft.data.images.decode import ImageFacts
from regraft.data.images.decoder_pool import DecodingPool
from regraft.data.images.rejections import Rejection
from regraft.features.engine import EngineRunner
from regraft.features.image_facts import facts_key, facts_to_tensors, read_facts
from regraft.features.keras_engine import Network
from regraft.features.openvino import Precision
from regraft.features.precision import choose_precision
from regraft.features.store import Entries, ShardWriter, Store, pixel_key
from regraft.recipe import PrecisionChoice
from regraft.system.console import TERMINAL, Reporter, format_duration

if TYPE_CHECKING:
    import keras

__all__ = ["Features", "extract_features"]

UNCHANGED = View()

_Image = tuple[str, NDArray[np.uint8]]  # its digest and its pixels


class Features:
    """The tensors of a catalog's images, read from the store.

    Tensors that were computed just now are read from there too, so they have the same eleven significant bits
    as in later runs.

    Attributes:
        computed, reused: how many distinct images were computed now, and how many were in the store.
        refused: files that turned out to be unusable, one entry per file.
    """

    def __init__(
        self,
        entries: Entries,
        facts: Entries,
        *,
        runner: EngineRunner,
        computed: int,
        reused: int,
        refused: Sequence[RejectedFile],
    ) -> None:
        self._entries, self._facts = entries, facts
        self._runner = runner
        self.computed = computed
        self.reused = reused
        self.refused = tuple(refused)

    def matrix(self, samples: Sequence[Sample], name: str) -> NDArray[Any]:
        """Return one named tensor of shape (len(samples), ...), in the order of `samples`.

        A sample of several images gets the mean of their tensors.
        """
        counts = [len(sample.images) for sample in samples]
        rows = self._entries.read([image.digest for sample in samples for image in sample.images], name)
        if len(rows) == len(counts):
            return rows
        means: NDArray[Any] = np.stack([block.mean(0) for block in np.split(rows, np.cumsum(counts)[:-1])])
        return means

    @property
    def key(self) -> str:
        """The store's key of these tensors."""
        return self._entries.key

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the network."""
        return self._runner.network.fingerprint

    @property
    def precision(self) -> Precision:
        """What the engine computed in, or would have."""
        return self._runner.precision

    @property
    def seconds_per_image(self) -> float:
        """The seconds that the engine takes to run the network over one image on this machine."""
        return self._runner.seconds_per_image

    def facts(self, samples: Sequence[Sample]) -> list[ImageFacts]:
        """Return what the decoder learnt of each sample's first image."""
        return read_facts(self._facts, [sample.digest for sample in samples])

    def facts_by_digest(self, digests: Sequence[str]) -> dict[str, ImageFacts]:
        """Return what the decoder learnt of each of these images."""
        return dict(zip(digests, read_facts(self._facts, digests), strict=True))


def extract_features(
    network: keras.Model | Network,
    catalog: Catalog,
    *,
    store: Store,
    keep_pixels: bool = False,
    decoding: DecodingPool | None = None,
    view: View = UNCHANGED,
    precision: PrecisionChoice = "auto",
    reporter: Reporter = TERMINAL,
) -> Features:
    """Run a frozen network over the images whose features the store does not have yet.

    Args:
        network: float RGB pixels (b, size, size, 3) in 0..255 -> dictionary of named tensors.
        catalog: the images, all of them where a sample has several.
        store: where results are looked up and kept.
        keep_pixels: also keep decoded pixels, for phases that train on them.
        decoding: decoding that was begun earlier; used if it covers what is needed.
        view: the augmented version of the images that the network sees. Pixels are kept unchanged.
        precision: what the engine computes in; "auto" for bf16 where `choose_precision` allows it.
        reporter: shows the plan and the progress.

    Raises:
        EnvironmentFault: the store cannot be written, or no decoding process can be started.
    """
    network = Network.from_model(network)
    runner = EngineRunner(network, store)
    runner, new = choose_precision(
        runner, catalog, store=store, choice=precision, decoding=decoding, reporter=reporter
    )
    plan = partial(
        _Extraction, catalog=catalog, store=store, size=network.size, keep_pixels=keep_pixels, view=view
    )
    work = plan(runner.feature_key(view, depth=catalog.depth))
    if work.missing and runner.engine.name != runner.engine_name:  # the first choice cannot run it
        work = plan(runner.feature_key(view, runner.engine.name, depth=catalog.depth))
    with _choose_decoding(catalog, work.to_decode, size=network.size, decoding=decoding) as pool:
        work.run(pool, runner, reporter)
    runner.release()
    return Features(
        work.features,
        work.facts,
        runner=runner,
        computed=len(work.missing - work.rejections.keys()) + new,
        reused=len(work.digests) - len(work.missing) - new,
        refused=catalog.find_rejected_files(work.rejections),
    )


def _choose_decoding(
    catalog: Catalog, digests: list[str], *, size: int, decoding: DecodingPool | None
) -> DecodingPool:
    """Return the decoding that was begun earlier if it covers these images; else begin another."""
    if decoding is not None:
        if decoding.size == size and set(digests) <= {job.digest for job in decoding.jobs}:
            return decoding
        decoding.close()
    return DecodingPool(catalog.make_jobs(digests), size, depth=catalog.depth)


class _TimedIterator(Iterator[NDArray[np.uint8]]):
    """An iterator that knows how many `seconds` its source took in all."""

    def __init__(self, source: Iterator[NDArray[np.uint8]]) -> None:
        self._source = source
        self.seconds = 0.0

    def __next__(self) -> NDArray[np.uint8]:
        start = time.monotonic()
        try:
            return next(self._source)
        finally:
            self.seconds += time.monotonic() - start


class _Extraction:
    """The part of a catalog that the store lacks, and the computation of it.

    Attributes:
        features, pixels, facts: the entries of the store that are completed.
        digests: all images of the catalog.
        missing: images without features.
        to_keep: images whose pixels are stored too.
        without_facts: images whose facts are not stored.
        to_decode: images whose files have to be opened, in the catalog's order.
        with_pixels: images without features whose pixels are read from the store instead.
        rejections: why each image that cannot be used was refused, once it was decoded.
    """

    def __init__(
        self, key: str, *, catalog: Catalog, store: Store, size: int, keep_pixels: bool, view: View
    ) -> None:
        keys = key, pixel_key(size, catalog.depth), facts_key(size, catalog.depth)
        self.features, self.pixels, self.facts = map(store.entries, keys)
        self._view = view
        self._label = f" of view {view.number}" if view.number else ""
        self.rejections: dict[str, Rejection] = {}
        self.digests = catalog.digests
        self.missing = frozenset(self.features.find_missing(self.digests))
        without_pixels = frozenset(self.pixels.find_missing(self.digests if keep_pixels else self.missing))
        self.to_keep = without_pixels if keep_pixels else frozenset()
        self.without_facts = frozenset(self.facts.find_missing(self.digests))
        to_decode = self.to_keep | self.without_facts | (self.missing & without_pixels)
        self.to_decode = [digest for digest in self.digests if digest in to_decode]
        with_pixels = self.missing - to_decode
        self.with_pixels = [digest for digest in self.digests if digest in with_pixels]

    def run(self, decoding: DecodingPool, runner: EngineRunner, reporter: Reporter) -> None:
        """Decode, compute and store all that is missing."""
        label = f"Frozen features{self._label}"
        if not self.missing and not self.to_decode:
            reporter.info(f"{label}: all {len(self.digests):,} images are in the store, nothing to compute.")
            return
        reporter.info(self._describe_plan(runner))
        total = len(self.to_decode) + len(self.with_pixels)
        with reporter.track(label, total) as advance, ThreadPoolExecutor(1) as thread:
            facts, pixels, features = (
                ShardWriter(entries, thread) for entries in (self.facts, self.pixels, self.features)
            )
            under_way: deque[list[str]] = deque()
            images = self._iter_images(decoding, facts, pixels)
            batches = _TimedIterator(self._iter_batches(images, runner, under_way, advance))
            if self.missing:
                runner.tune(len(self.missing))
                computed, start = 0, time.monotonic()
                for outputs in runner.engine.run(batches):
                    computed += len(under_way[0])
                    features.add(under_way.popleft(), outputs)
                runner.correct_pace(computed, seconds=time.monotonic() - start, waited=batches.seconds)
            deque(batches, maxlen=0)  # decodes the rest where only pixels or facts are missing
            for writer in (facts, pixels, features):
                writer.close()
            advance(len(self.rejections))

    def _describe_plan(self, runner: EngineRunner) -> str:
        steps = []
        if self.missing:
            amount = f"{len(self.missing):,} of {len(self.digests):,} images"
            steps.append(f"{amount} to run through the frozen network once")
        if self.to_decode:
            steps.append(f"{len(self.to_decode):,} to decode")
        if self.missing:
            steps.append(f"about {format_duration(len(self.missing) * runner.seconds_per_image)}")
        return f"Plan{self._label}: {', '.join(steps)}."

    def _iter_images(
        self, decoding: DecodingPool, facts: ShardWriter, pixels: ShardWriter
    ) -> Iterator[_Image]:
        """Yield every usable image, stored ones first; hand what decoding gives to the writers."""
        for digest in self.with_pixels:
            yield digest, self.pixels.read([digest], "pixels")[0]
        to_decode = frozenset(self.to_decode)
        if not to_decode:
            return
        for job, result in zip(decoding.jobs, decoding, strict=True):
            if job.digest not in to_decode:
                continue
            if isinstance(result, Rejection):
                self.rejections[job.digest] = result
                continue
            if job.digest in self.without_facts:
                facts.add([job.digest], facts_to_tensors([result.facts]))
            if job.digest in self.to_keep:
                pixels.add([job.digest], {"pixels": result.pixels[None]})
            yield job.digest, result.pixels

    def _iter_batches(
        self,
        images: Iterator[_Image],
        runner: EngineRunner,
        under_way: deque[list[str]],
        advance: Callable[[int], None],
    ) -> Iterator[NDArray[np.uint8]]:
        """Yield the images without features in batches; append the digests of each to `under_way`."""

        def count_images() -> Iterator[_Image]:
            for image in images:
                advance(1)
                yield image

        missing = (image for image in count_images() if image[0] in self.missing)
        size = runner.engine.batch if self.missing else 1
        while batch := list(islice(missing, size)):
            under_way.append([digest for digest, _ in batch])
            yield np.stack([self._view.apply(pixels, digest) for digest, pixels in batch])
