"""catalog + network + engine + store -> `Features`: every image through the frozen part, once.

Images are decoded by child processes while the network runs over those that are ready. What the store
already has is not computed again, and not decoded either.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any, NamedTuple

import keras
import numpy as np
from numpy.typing import NDArray

from regraft.console import duration, say, track
from regraft.data.catalog import Catalog, Refused, Sample
from regraft.data.decode import DECODER, Facts, Refusal
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


class _Image(NamedTuple):
    digest: str
    pixels: NDArray[np.uint8]
    facts: Facts


@dataclass(frozen=True)
class _Need:
    """What is not in the store yet: tensors of the network, pixels to keep."""

    features: frozenset[str]
    pixels: frozenset[str]

    def files(self, stored: Sequence[str]) -> frozenset[str]:
        """What has to be decoded: everything needed whose pixels are not `stored`."""
        return (self.features | self.pixels) - frozenset(stored)


def _feature_key(name: str, size: int) -> str:
    """The store's key of what the network with this fingerprint makes of an image (view 0: as it is)."""
    return f"prefix {name}\n{DECODER}\nsize {size}\nengine {engine_name()}\nview 0"


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
        EnvironmentFault: the store cannot be written.
    """
    size = network.inputs[0].shape[1]
    name = fingerprint(network)
    entries = store.entries(_feature_key(name, size))
    kept = store.entries(pixel_key(size))
    contents = list(dict.fromkeys(sample.digest for sample in catalog.samples))
    missing = entries.missing(contents)
    without_pixels = set(kept.missing(contents))
    need = _Need(frozenset(missing), frozenset(without_pixels if keep_pixels else ()))
    stored = [digest for digest in missing if digest not in without_pixels]
    todo = [digest for digest in contents if digest in need.files(stored)]
    speed = _Speed(network, store, name)
    refusals: dict[str, Refusal] = {}
    decoding = _decoding(catalog, todo, size, ahead)
    with decoding:
        if missing or todo:
            engine = speed.engine if missing else None
            _say_plan(len(missing), len(todo), len(contents), speed if missing else None)
            with track("Frozen features", len(todo) + len(stored)) as advance:
                images = _images(stored, kept, decoding, frozenset(todo), refusals)
                while chunk := list(islice(images, SHARD)):
                    _compute(chunk, need, engine, entries, kept)
                    advance(len(chunk))
                advance(len(refusals))
        else:
            say(f"Frozen features: all {len(contents):,} images are in the store, nothing to compute.")
    refused = [
        Refused(sample.path, found.code, found.detail)
        for sample in catalog.samples
        if (found := refusals.get(sample.digest)) is not None
    ]
    computed = sum(digest not in refusals for digest in missing)
    return Features(
        entries, speed=speed, computed=computed, reused=len(contents) - len(missing), refused=refused
    )


class _Speed:
    """The engine of a network, made when it is first needed, and how long it takes for an image."""

    def __init__(self, network: keras.Model, store: Store, name: str) -> None:
        self._network = network
        self._store = store
        self._name = name

    @cached_property
    def engine(self) -> Engine:
        return make_engine(self._network, self._store.folder("engines", self._name))

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


def _say_plan(missing: int, todo: int, contents: int, speed: _Speed | None) -> None:
    parts = [f"{missing:,} of {contents:,} images to run through the frozen network once"]
    if todo:
        parts.append(f"{todo:,} to decode")
    if speed is not None:
        parts.append(f"about {duration(missing * speed.seconds_per_image)}")
    say(f"Plan: {', '.join(parts)}.")


def _decoding(catalog: Catalog, todo: list[str], size: int, ahead: DecodeAhead | None) -> DecodeAhead:
    if ahead is not None:
        if ahead.size == size and set(todo) <= {job.digest for job in ahead.jobs}:
            return ahead
        ahead.close()
    return DecodeAhead(jobs_for(catalog, todo), size)


def _images(
    stored: list[str],
    kept: Entries,
    decoding: DecodeAhead,
    todo: frozenset[str],
    refusals: dict[str, Refusal],
) -> Iterator[_Image]:
    for digest in stored:
        yield _Image(digest, kept.read([digest], "pixels")[0], kept.facts(digest))
    if not todo:
        return
    for job, result in zip(decoding.jobs, decoding, strict=True):
        if job.digest not in todo:
            continue
        if isinstance(result, Refusal):
            refusals[job.digest] = result
        else:
            yield _Image(job.digest, result.pixels, result.facts)


def _compute(chunk: list[_Image], need: _Need, engine: Engine | None, entries: Entries, kept: Entries) -> None:
    facts = {image.digest: image.facts for image in chunk}
    fresh = [image for image in chunk if image.digest in need.pixels]
    if fresh:
        pixels = np.stack([image.pixels for image in fresh])
        kept.put([image.digest for image in fresh], {"pixels": pixels}, facts)
    fresh = [image for image in chunk if image.digest in need.features]
    if fresh and engine is not None:
        batches = (
            np.stack([image.pixels for image in fresh[at : at + BATCH]]) for at in range(0, len(fresh), BATCH)
        )
        outputs = list(engine.run(batches))
        tensors = {name: np.concatenate([output[name] for output in outputs]) for name in outputs[0]}
        entries.put([image.digest for image in fresh], tensors, facts)
