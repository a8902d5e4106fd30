"""catalog + network + engine + store -> `Features`: every image through the frozen part, once.

One steady stream: child processes decode ahead, the engine has as many batches under way as suit the
processor, and a thread writes what is done; none of them waits for another to finish a round. What the store
already has is not computed again, and not decoded either. What decoding tells of an image is stored on the
way, for all networks: see `features.facts`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from regraft.data.augmentation import View
from regraft.data.catalog import Catalog, Refused, Sample
from regraft.data.images.decode import Facts
from regraft.data.images.decoder_pool import DecodeAhead
from regraft.data.images.rejections import Refusal
from regraft.features.engine import Speed
from regraft.features.image_facts import as_tensors, facts_key, read_facts
from regraft.features.keras_engine import Network
from regraft.features.openvino import Precision
from regraft.features.precision import choose_precision
from regraft.features.store import Entries, Store, Writer, pixel_key
from regraft.recipe import PrecisionChoice
from regraft.system.console import TERMINAL, Reporter, duration

if TYPE_CHECKING:
    import keras

__all__ = ["Features", "extract_features"]

AS_IT_IS = View()

_Image = tuple[str, NDArray[np.uint8]]  # its digest and its pixels


class Features:
    """The tensors of a catalog's images, read from the store.

    What was computed just now is read from there too: it has the same eleven significant bits as ever after.

    Attributes:
        computed, reused: how many distinct images were computed now, and found.
        refused: files that turned out not to be usable, one entry a file.
    """

    def __init__(
        self,
        entries: Entries,
        known: Entries,
        *,
        speed: Speed,
        computed: int,
        reused: int,
        refused: Sequence[Refused],
    ) -> None:
        self._entries, self._known = entries, known
        self._speed = speed
        self.computed = computed
        self.reused = reused
        self.refused = tuple(refused)

    def matrix(self, samples: Sequence[Sample], name: str) -> NDArray[Any]:
        """One named tensor: array of shape (len(samples), ...), in the order of `samples`.

        A sample of several images has the mean of theirs.
        """
        counts = [len(sample.photos) for sample in samples]
        rows = self._entries.read([photo.digest for sample in samples for photo in sample.photos], name)
        if len(rows) == len(counts):
            return rows
        pooled: NDArray[Any] = np.stack([part.mean(0) for part in np.split(rows, np.cumsum(counts)[:-1])])
        return pooled

    @property
    def key(self) -> str:
        """The store's key of these tensors."""
        return self._entries.key

    @property
    def fingerprint(self) -> str:
        """That of the network."""
        return self._speed.network.fingerprint

    @property
    def precision(self) -> Precision:
        """What the engine computed in, or was to."""
        return self._speed.precision

    @property
    def seconds_per_image(self) -> float:
        """How long the engine takes to run the network over one image on this machine."""
        return self._speed.seconds_per_image

    def facts(self, samples: Sequence[Sample]) -> list[Facts]:
        """What the decoder learnt of each sample's first image."""
        return read_facts(self._known, [sample.digest for sample in samples])

    def facts_of(self, digests: Sequence[str]) -> dict[str, Facts]:
        """What the decoder learnt of each of these images."""
        return dict(zip(digests, read_facts(self._known, digests), strict=True))


def extract_features(
    network: keras.Model | Network,
    catalog: Catalog,
    *,
    store: Store,
    keep_pixels: bool = False,
    ahead: DecodeAhead | None = None,
    view: View = AS_IT_IS,
    precision: PrecisionChoice = "auto",
    reporter: Reporter = TERMINAL,
) -> Features:
    """Run a frozen network over the images the store does not have yet.

    Args:
        network: float RGB pixels (b, size, size, 3) in 0..255 -> dictionary of named tensors.
        catalog: the images; of a sample of several, all.
        store: where results are looked up and kept.
        keep_pixels: also keep decoded pixels, for phases that train on them.
        ahead: decoding that was begun earlier; used if it covers what is needed.
        view: which version of the images the network sees. Kept pixels are those of the image as it is.
        precision: what the engine computes in; "auto" for bf16 where `choose_precision` allows it.
        reporter: shows what is planned and how far it is.

    Raises:
        EnvironmentFault: the store cannot be written, or no decoding process can be started.
    """
    network = Network.of(network)
    size = network.size
    speed, computed = choose_precision(
        Speed(network, store), catalog, store, precision, ahead=ahead, reporter=reporter
    )
    kept, known = store.entries(pixel_key(size)), store.entries(facts_key(size))
    entries = store.entries(speed.feature_key(view))
    work = _Work(entries, kept, known, catalog, keep_pixels=keep_pixels, view=view)
    if work.missing and speed.engine.name != speed.engine_name:  # it cannot run this network
        entries = store.entries(speed.feature_key(view, speed.engine.name))
        work = _Work(entries, kept, known, catalog, keep_pixels=keep_pixels, view=view)
    with _decoding(catalog, work.to_decode, size, ahead) as decoding:
        work.run(decoding, speed, reporter)
    speed.release()
    return Features(
        entries,
        known,
        speed=speed,
        computed=work.computed + computed,
        reused=work.reused - computed,
        refused=catalog.refused_for(work.refusals),
    )


def _decoding(catalog: Catalog, todo: list[str], size: int, ahead: DecodeAhead | None) -> DecodeAhead:
    if ahead is not None:
        if ahead.size == size and set(todo) <= {job.digest for job in ahead.jobs}:
            return ahead
        ahead.close()
    return DecodeAhead(catalog.jobs(todo), size)


class _Work:
    """What the store does not have of a catalog, and the way to get it there.

    Attributes:
        missing: images without features.
        to_keep: images whose pixels are to be stored too.
        unknown: images of which the store does not know what the decoder tells.
        to_decode: images whose files have to be opened, in the catalog's order.
        stored: images without features whose pixels are read from the store instead.
        refusals: the verdict on each content that cannot be used, once it was decoded.
    """

    def __init__(
        self,
        entries: Entries,
        kept: Entries,
        known: Entries,
        catalog: Catalog,
        *,
        keep_pixels: bool,
        view: View,
    ) -> None:
        self._entries, self._kept, self._known, self._view = entries, kept, known, view
        self.refusals: dict[str, Refusal] = {}
        self.contents = catalog.contents
        self.missing = frozenset(entries.missing(self.contents))
        without_pixels = frozenset(kept.missing(self.contents if keep_pixels else self.missing))
        self.to_keep = without_pixels if keep_pixels else frozenset()
        self.unknown = frozenset(known.missing(self.contents))
        wanted = self.to_keep | self.unknown | (self.missing & without_pixels)
        self.to_decode = [digest for digest in self.contents if digest in wanted]
        with_pixels = self.missing - wanted
        self.stored = [digest for digest in self.contents if digest in with_pixels]

    @property
    def computed(self) -> int:
        return len(self.missing - self.refusals.keys())

    @property
    def reused(self) -> int:
        return len(self.contents) - len(self.missing)

    @property
    def _of_view(self) -> str:
        return f" of view {self._view.number}" if self._view.number else ""

    def run(self, decoding: DecodeAhead, speed: Speed, reporter: Reporter) -> None:
        if not self.missing and not self.to_decode:
            found = f"all {len(self.contents):,} images are in the store, nothing to compute"
            reporter.info(f"Frozen features{self._of_view}: {found}.")
            return
        reporter.info(self._describe_plan(speed))
        label = f"Frozen features{self._of_view}"
        total = len(self.to_decode) + len(self.stored)
        with reporter.track(label, total) as advance, ThreadPoolExecutor(1) as thread:
            facts, pixels, features = (
                Writer(entries, thread) for entries in (self._known, self._kept, self._entries)
            )
            under_way: deque[list[str]] = deque()
            images = self._images(decoding, facts, pixels)
            batches = self._batches(images, speed, under_way, advance)
            if self.missing:
                speed.tune(len(self.missing))
                for outputs in speed.engine.run(batches):
                    features.add(under_way.popleft(), outputs)
            deque(batches, maxlen=0)  # where only pixels or facts are wanted, there are none
            for writer in (facts, pixels, features):
                writer.close()
            advance(len(self.refusals))

    def _describe_plan(self, speed: Speed) -> str:
        parts = []
        if self.missing:
            amount = f"{len(self.missing):,} of {len(self.contents):,} images"
            parts.append(f"{amount} to run through the frozen network once")
        if self.to_decode:
            parts.append(f"{len(self.to_decode):,} to decode")
        if self.missing:
            parts.append(f"about {duration(len(self.missing) * speed.seconds_per_image)}")
        return f"Plan{self._of_view}: {', '.join(parts)}."

    def _images(self, decoding: DecodeAhead, facts: Writer, pixels: Writer) -> Iterator[_Image]:
        """Every image that is looked at; what decoding tells is handed to the writers."""
        for digest in self.stored:
            yield digest, self._kept.read([digest], "pixels")[0]
        todo = frozenset(self.to_decode)
        if not todo:
            return
        for job, result in zip(decoding.jobs, decoding, strict=True):
            if job.digest not in todo:
                continue
            if isinstance(result, Refusal):
                self.refusals[job.digest] = result
                continue
            if job.digest in self.unknown:
                facts.add([job.digest], as_tensors([result.facts]))
            if job.digest in self.to_keep:
                pixels.add([job.digest], {"pixels": result.pixels[None]})
            yield job.digest, result.pixels

    def _batches(
        self,
        images: Iterator[_Image],
        speed: Speed,
        under_way: deque[list[str]],
        advance: Callable[[int], None],
    ) -> Iterator[NDArray[np.uint8]]:
        """What the network has to see, a batch at a time; the digests of each are put into `under_way`."""

        def looked_at() -> Iterator[_Image]:
            for image in images:
                advance(1)
                yield image

        wanted = (image for image in looked_at() if image[0] in self.missing)
        size = speed.engine.batch if self.missing else 1
        while batch := list(islice(wanted, size)):
            under_way.append([digest for digest, _ in batch])
            yield np.stack([self._view.of(pixels, digest) for digest, pixels in batch])
