"""catalog + network + engine + store -> `Features`: every image through the frozen part, once.

Images are decoded by child processes while the network runs over those that are ready. What the store
already has is not computed again, and not decoded either.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import keras
import numpy as np
from numpy.typing import NDArray

from regraft.console import duration, say, track
from regraft.data.catalog import Catalog, Photo, Refused, Sample
from regraft.data.decode import DECODER, Facts
from regraft.data.refusal import Refusal
from regraft.data.view import View
from regraft.data.workers import DecodeAhead, jobs_for
from regraft.features.engine import BATCH, engine_name, fingerprint
from regraft.features.speed import Speed
from regraft.features.store import Entries, Store, pixel_key

__all__ = ["Features", "extract_features"]

SHARD = 256  # images stored at a time
AS_IT_IS = View()


class Features:
    """The tensors of a catalog's images, read from the store.

    Attributes:
        computed, reused: how many distinct images were computed now, and found.
        refused: files that turned out not to be usable, one entry a file.
    """

    def __init__(
        self, entries: Entries, *, speed: Speed, computed: int, reused: int, refused: Sequence[Refused]
    ) -> None:
        self._entries = entries
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
    def seconds_per_image(self) -> float:
        """How long the engine takes to run the network over one image on this machine."""
        return self._speed.seconds_per_image

    def facts(self, sample: Sample) -> Facts:
        """What the decoder learnt of a sample's first image."""
        return self._entries.facts(sample.digest)


def extract_features(
    network: keras.Model,
    catalog: Catalog,
    *,
    store: Store,
    keep_pixels: bool = False,
    ahead: DecodeAhead | None = None,
    view: View = AS_IT_IS,
) -> Features:
    """Run a frozen network over the images the store does not have yet.

    Args:
        network: float RGB pixels (b, size, size, 3) in 0..255 -> dictionary of named tensors.
        catalog: the images; of a sample of several, all.
        store: where results are looked up and kept.
        keep_pixels: also keep decoded pixels, for phases that train on them.
        ahead: decoding that was begun earlier; used if it covers what is needed.
        view: which version of the images the network sees. Kept pixels are those of the image as it is.

    Raises:
        EnvironmentFault: the store cannot be written, or no decoding process can be started.
    """
    size = network.inputs[0].shape[1]
    name = fingerprint(network)
    speed = Speed(network, store, name)
    kept = store.entries(pixel_key(size))
    entries = store.entries(_feature_key(name, size, engine_name(), view))
    work = _Work(entries, kept, catalog, keep_pixels=keep_pixels, view=view)
    if work.missing and speed.engine.name != engine_name():  # OpenVINO cannot run this network
        entries = store.entries(_feature_key(name, size, speed.engine.name, view))
        work = _Work(entries, kept, catalog, keep_pixels=keep_pixels, view=view)
    with _decoding(catalog, work.to_decode, size, ahead) as decoding:
        work.run(decoding, speed)
    speed.release()
    return Features(
        entries, speed=speed, computed=work.computed, reused=work.reused, refused=work.refused(catalog)
    )


def _feature_key(name: str, size: int, engine: str, view: View) -> str:
    """The store's key of what the network with this fingerprint makes of a view of an image."""
    return f"prefix {name}\n{DECODER}\nsize {size}\nengine {engine}\n{view.key}"


def _decoding(catalog: Catalog, todo: list[str], size: int, ahead: DecodeAhead | None) -> DecodeAhead:
    if ahead is not None:
        if ahead.size == size and set(todo) <= {job.digest for job in ahead.jobs}:
            return ahead
        ahead.close()
    return DecodeAhead(jobs_for(catalog, todo), size)


def _photos(catalog: Catalog) -> Iterator[Photo]:
    return (photo for sample in catalog.samples for photo in sample.photos)


class _Image(NamedTuple):
    digest: str
    pixels: NDArray[np.uint8]
    facts: Facts


class _Work:
    """What the store does not have of a catalog, and the way to get it there.

    Attributes:
        missing: images without features. Those whose pixels are `stored` need no decoding.
        to_keep: images whose pixels are to be stored too.
        to_decode: images whose files have to be opened, in the catalog's order.
    """

    def __init__(
        self, entries: Entries, kept: Entries, catalog: Catalog, *, keep_pixels: bool, view: View
    ) -> None:
        self._entries, self._kept, self._view = entries, kept, view
        self._refusals: dict[str, Refusal] = {}
        self.contents = list(dict.fromkeys(photo.digest for photo in _photos(catalog)))
        self.missing = frozenset(entries.missing(self.contents))
        without_pixels = frozenset(kept.missing(self.contents))
        self.to_keep = without_pixels if keep_pixels else frozenset()
        wanted = self.to_keep | (self.missing & without_pixels)
        self.to_decode = [digest for digest in self.contents if digest in wanted]
        self.stored = [digest for digest in self.contents if digest in self.missing - without_pixels]

    @property
    def computed(self) -> int:
        return len(self.missing - self._refusals.keys())

    @property
    def reused(self) -> int:
        return len(self.contents) - len(self.missing)

    @property
    def _of_view(self) -> str:
        return f" of view {self._view.number}" if self._view.number else ""

    def refused(self, catalog: Catalog) -> list[Refused]:
        """An entry for every file of a refused content, copies included."""
        return [
            Refused(photo.path, found.code, found.detail)
            for photo in dict.fromkeys(_photos(catalog))
            if (found := self._refusals.get(photo.digest)) is not None
        ]

    def run(self, decoding: DecodeAhead, speed: Speed) -> None:
        if not self.missing and not self.to_decode:
            found = f"all {len(self.contents):,} images are in the store, nothing to compute"
            say(f"Frozen features{self._of_view}: {found}.")
            return
        self._say_plan(speed)
        with track(f"Frozen features{self._of_view}", len(self.to_decode) + len(self.stored)) as advance:
            images = self._images(decoding)
            while chunk := list(islice(images, SHARD)):
                self._keep([image for image in chunk if image.digest in self.to_keep])
                self._compute([image for image in chunk if image.digest in self.missing], speed)
                advance(len(chunk))
            advance(len(self._refusals))

    def _say_plan(self, speed: Speed) -> None:
        parts = []
        if self.missing:
            amount = f"{len(self.missing):,} of {len(self.contents):,} images"
            parts.append(f"{amount} to run through the frozen network once")
        if self.to_decode:
            parts.append(f"{len(self.to_decode):,} to decode")
        if self.missing:
            parts.append(f"about {duration(len(self.missing) * speed.seconds_per_image)}")
        say(f"Plan{self._of_view}: {', '.join(parts)}.")

    def _images(self, decoding: DecodeAhead) -> Iterator[_Image]:
        for digest in self.stored:
            yield _Image(digest, self._kept.read([digest], "pixels")[0], self._kept.facts(digest))
        todo = frozenset(self.to_decode)
        if not todo:
            return
        for job, result in zip(decoding.jobs, decoding, strict=True):
            if job.digest not in todo:
                continue
            if isinstance(result, Refusal):
                self._refusals[job.digest] = result
            else:
                yield _Image(job.digest, result.pixels, result.facts)

    def _keep(self, images: list[_Image]) -> None:
        if images:
            pixels = np.stack([image.pixels for image in images])
            _put(self._kept, images, {"pixels": pixels})

    def _compute(self, images: list[_Image], speed: Speed) -> None:
        if images:
            chunks = (images[at : at + BATCH] for at in range(0, len(images), BATCH))
            seen = self._view.of
            batches = (np.stack([seen(image.pixels, image.digest) for image in chunk]) for chunk in chunks)
            outputs = list(speed.engine.run(batches))
            tensors = {name: np.concatenate([output[name] for output in outputs]) for name in outputs[0]}
            _put(self._entries, images, tensors)


def _put(entries: Entries, images: list[_Image], tensors: dict[str, NDArray[Any]]) -> None:
    facts = {image.digest: image.facts for image in images}
    halved = {name: _halved(array) for name, array in tensors.items()}
    entries.put([image.digest for image in images], halved, facts)


def _halved(array: NDArray[Any]) -> NDArray[Any]:
    """Feature maps as float16 where it holds their numbers: they are large, and an eleventh bit is noise."""
    fits = array.ndim > 2 and array.dtype == np.float32 and np.abs(array).max() < np.finfo(np.float16).max
    return array.astype(np.float16) if fits else array
