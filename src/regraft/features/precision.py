"""Whether a network may be computed in bf16: measured on the user's own images.

bf16 keeps the range of f32 and 8 of its 24 digits. What that does depends on the network and on how much
the images differ for it, so nothing but the measurement answers.
"""

from __future__ import annotations

import time

import numpy as np

from regraft.console import say
from regraft.data.catalog import Catalog
from regraft.data.decode import Decoded
from regraft.data.workers import DecodeAhead, jobs_for
from regraft.features.engine import Engine, fast_in_bf16
from regraft.features.openvino import Outputs
from regraft.features.speed import Speed
from regraft.features.store import Store
from regraft.recipe import PrecisionChoice

__all__ = ["choose_precision"]

SAMPLE = 32  # images
FEWEST = 8  # images below which nothing can be said
LIMIT = 0.1  # of the spread between images: at 0.14 a probe on MobileNetV2 answers 0.9 points less right


def choose_precision(speed: Speed, catalog: Catalog, store: Store, wanted: PrecisionChoice) -> Speed:
    """The network in the precision that is wanted; for "auto" in bf16 where that is faster and close enough.

    Close enough: over a few dozen images, the root mean square of bf16 less f32 is below `LIMIT` of the
    spread between images (the same of f32 less its mean), for each of the network's tensors. The clock has
    no say. The images are those of the smallest digests, so more images rarely make another sample.

    Args:
        speed: the network in f32.
        catalog: the user's images.
        store: where the answer is remembered.
        wanted: "auto", or what it has to be.
    """
    if wanted != "auto":
        return speed.at(wanted)
    digests = sorted(catalog.contents)[:SAMPLE]
    question = f"precision: {speed.at('bf16').engine_name} through {speed.network.fingerprint} of {digests}"
    known = store.recall(question)
    if known is None:
        known = "bf16" if _is_close(speed, catalog, digests) else "f32"
        store.remember(question, known)
    return speed.at("bf16" if known == "bf16" else "f32")


def _is_close(speed: Speed, catalog: Catalog, digests: list[str]) -> bool:
    if not fast_in_bf16(speed.engine_name) or len(digests) < FEWEST:
        return False
    exact, rough = speed.engine, speed.at("bf16").engine
    if not (exact.name.endswith("f32") and rough.name.endswith("bf16")):
        return False  # the engine refuses this network
    with DecodeAhead(jobs_for(catalog, digests), speed.network.size) as decoding:
        images = [result.pixels for result in decoding if isinstance(result, Decoded)]
    if len(images) < FEWEST:
        return False
    pixels = np.stack(images)
    (expected, slow), (received, fast) = _run(exact, pixels), _run(rough, pixels)
    difference = max(_difference(received[name], value) for name, value in expected.items())
    words = "bf16 is used" if difference < LIMIT else "f32 is used"
    say(
        f"Precision: over {len(images)} of your images bf16 is {100 * difference:.1f} % of their spread away "
        f"from f32 (limit {100 * LIMIT:.0f} %) and {slow / fast:.1f} times as fast: {words}."
    )
    return difference < LIMIT


def _run(engine: Engine, pixels: np.ndarray) -> tuple[Outputs, float]:
    """The outputs for all the pixels, and the seconds they took."""
    batches = [pixels[at : at + engine.batch] for at in range(0, len(pixels), engine.batch)]
    begun = time.monotonic()
    found = list(engine.run(batches))
    seconds = time.monotonic() - begun
    return {name: np.concatenate([each[name] for each in found]) for name in found[0]}, seconds


def _difference(received: np.ndarray, expected: np.ndarray) -> float:
    """Of two arrays of shape (n, ...): how far apart, in units of how far the rows of `expected` are."""
    rows = expected.reshape(len(expected), -1).astype(np.float64)
    apart = float(np.linalg.norm(received.reshape(rows.shape) - rows))
    spread = float(np.linalg.norm(rows - rows.mean(0)))
    return apart / spread if spread else np.inf
