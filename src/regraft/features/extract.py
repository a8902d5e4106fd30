"""catalog + network + engine + store -> `Features`: every image through the frozen part, once.

Images are decoded by child processes while the network runs over those that are ready. What the store
already has is not computed again, and not decoded either.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import islice
from typing import Any, NamedTuple

import keras
import numpy as np
from numpy.typing import NDArray

from regraft.console import duration, say, track
from regraft.data.catalog import Catalog, Refused, Sample
from regraft.data.decode import DECODER, Facts
from regraft.data.refusal import Refusal
from regraft.data.workers import DecodeAhead, jobs_for
from regraft.features.engine import BATCH, Engine, engine_name, fingerprint, make_engine
from regraft.features.store import Entries, Store, pixel_key

__all__ = ["Features", "extract_features"]

SHARD = 256  # images stored at a time


class Features:
    """The tensors of a catalog's images, read from the store.

    Attributes:
        computed, reused: how many distinct images were computed now, and found.
        refused: files that turned out not to be usable, one entry a file.
    """

    def __init__(
        self, entries: Entries, *, speed: _Speed, computed: int, reused: int, refused: Sequence[Refused]
    ) -> None:
        self._entries = entries
        self._speed = speed
        self.computed = computed
        self.reused = reused
        self.refused = tuple(refused)

    def matrix(self, samples: Sequence[Sample], name: str) -> NDArray[Any]:
        """One named tensor: array of shape (len(samples), ...), in the order of `samples`."""
        return self._entries.read([sample.digest for sample in samples], name)

    @property
    def key(self) -> str:
        """The store's key of these tensors."""
        return self._entries.key

    @property
    def seconds_per_image(self) -> float:
        """How long the engine takes to run the network over one image on this machine."""
        return self._speed.seconds_per_image

    def facts(self, sample: Sample) -> Facts:
        """What the decoder learnt of an image."""
        return self._entries.facts(sample.digest)


def extract_features(
    network: keras.Model,
    catalog: Catalog,
    *,
    store: Store,
    keep_pixels: bool = False,
    ahead: DecodeAhead | None = None,
) -> Features:
    """Run a frozen network over the images the store does not have yet.

    Args:
        network: float RGB pixels (b, size, size, 3) in 0..255 -> dictionary of named tensors.
        catalog: the images.
        store: where results are looked up and kept.
        keep_pixels: also keep decoded pixels, for phases that train on them.
        ahead: decoding that was begun earlier; used if it covers what is needed.

    Raises:
        EnvironmentFault: the store cannot be written, or no decoding process can be started.
    """
    size = network.inputs[0].shape[1]
    name = fingerprint(network)
    speed = _Speed(network, store, name)
    entries, kept = store.entries(_feature_key(name, size, engine_name())), store.entries(pixel_key(size))
    work = _Work(entries, kept, catalog, keep_pixels=keep_pixels)
    if work.missing and speed.engine.name != engine_name():  # OpenVINO cannot run this network
        entries = store.entries(_feature_key(name, size, speed.engine.name))
        work = _Work(entries, kept, catalog, keep_pixels=keep_pixels)
    with _decoding(catalog, work.to_decode, size, ahead) as decoding:
        work.run(decoding, speed)
    speed.release()
    return Features(
        entries, speed=speed, computed=work.computed, reused=work.reused, refused=work.refused(catalog)
    )


def _feature_key(name: str, size: int, engine: str) -> str:
    """The store's key of what the network with this fingerprint makes of an image (view 0: as it is)."""
    return f"prefix {name}\n{DECODER}\nsize {size}\nengine {engine}\nview 0"


def _decoding(catalog: Catalog, todo: list[str], size: int, ahead: DecodeAhead | None) -> DecodeAhead:
    if ahead is not None:
        if ahead.size == size and set(todo) <= {job.digest for job in ahead.jobs}:
            return ahead
        ahead.close()
    return DecodeAhead(jobs_for(catalog, todo), size)


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

    def __init__(self, entries: Entries, kept: Entries, catalog: Catalog, *, keep_pixels: bool) -> None:
        self._entries, self._kept = entries, kept
        self._refusals: dict[str, Refusal] = {}
        self.contents = list(dict.fromkeys(sample.digest for sample in catalog.samples))
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

    def refused(self, catalog: Catalog) -> list[Refused]:
        """An entry for every file of a refused content, copies included."""
        return [
            Refused(sample.path, found.code, found.detail)
            for sample in catalog.samples
            if (found := self._refusals.get(sample.digest)) is not None
        ]

    def run(self, decoding: DecodeAhead, speed: _Speed) -> None:
        if not self.missing and not self.to_decode:
            say(f"Frozen features: all {len(self.contents):,} images are in the store, nothing to compute.")
            return
        self._say_plan(speed)
        with track("Frozen features", len(self.to_decode) + len(self.stored)) as advance:
            images = self._images(decoding)
            while chunk := list(islice(images, SHARD)):
                self._keep([image for image in chunk if image.digest in self.to_keep])
                self._compute([image for image in chunk if image.digest in self.missing], speed)
                advance(len(chunk))
            advance(len(self._refusals))

    def _say_plan(self, speed: _Speed) -> None:
        parts = []
        if self.missing:
            amount = f"{len(self.missing):,} of {len(self.contents):,} images"
            parts.append(f"{amount} to run through the frozen network once")
        if self.to_decode:
            parts.append(f"{len(self.to_decode):,} to decode")
        if self.missing:
            parts.append(f"about {duration(len(self.missing) * speed.seconds_per_image)}")
        say(f"Plan: {', '.join(parts)}.")

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

    def _compute(self, images: list[_Image], speed: _Speed) -> None:
        if images:
            chunks = (images[at : at + BATCH] for at in range(0, len(images), BATCH))
            batches = (np.stack([image.pixels for image in chunk]) for chunk in chunks)
            outputs = list(speed.engine.run(batches))
            tensors = {name: np.concatenate([output[name] for output in outputs]) for name in outputs[0]}
            _put(self._entries, images, tensors)


def _put(entries: Entries, images: list[_Image], tensors: dict[str, NDArray[Any]]) -> None:
    facts = {image.digest: image.facts for image in images}
    entries.put([image.digest for image in images], tensors, facts)


class _Speed:
    """The engine of a network, made when it is first needed, and how long it takes for an image."""

    def __init__(self, network: keras.Model, store: Store, name: str) -> None:
        self._network = network
        self._store = store
        self._name = name

    @cached_property
    def engine(self) -> Engine:
        return make_engine(self._network, self._store.folder("engines", self._name))

    def release(self) -> None:
        """Let go of the engine: a compiled network holds hundreds of megabytes."""
        self.__dict__.pop("engine", None)

    @cached_property
    def seconds_per_image(self) -> float:
        """Measured once on this machine and remembered; a few batches of black images."""
        question = f"seconds an image takes {engine_name()} through {self._name}"
        try:
            return float(self._store.recall(question) or "")
        except ValueError:
            pass
        black = [np.zeros((BATCH, *self._network.inputs[0].shape[1:]), np.uint8)] * 4
        list(self.engine.run(black[:1]))
        begun = time.monotonic()
        list(self.engine.run(black))
        measured = (time.monotonic() - begun) / (BATCH * len(black))
        self._store.remember(question, repr(measured))
        return measured
