"""Whether a network may be computed in bf16: decided by the answers to the user's own images.

bf16 keeps the range of f32 and 8 of its 24 digits. What that does depends on the network and on what the
images differ in, so nothing but a measurement answers.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from regraft.data.augmentation import View
from regraft.data.catalog import Catalog, Sample
from regraft.data.images.decode import Decoded, Facts
from regraft.data.images.decoder_pool import DecodeAhead
from regraft.data.images.rejections import Refusal
from regraft.features.engine import Speed, fast_in_bf16
from regraft.features.image_facts import as_tensors, facts_key
from regraft.features.keras_engine import Network
from regraft.features.openvino import Outputs
from regraft.features.store import Store
from regraft.recipe import PrecisionChoice
from regraft.solvers.cross_validation import Family, Part, cross_validate
from regraft.solvers.decision import Scaler
from regraft.solvers.logistic import ridge, views_of
from regraft.system.console import Reporter
from regraft.tasks import TASKS

__all__ = ["choose_precision", "sample_images"]

MOST = 500  # images that are looked at
FEWEST = 8  # images below which nothing can be said
HELD_OUT = 50  # answers of the probe below which the features are compared instead
WORK = 9.6e10  # multiplications of f32 for which images are looked at: about 1.5 seconds of two cores
ENOUGH = 60  # images that are looked at where twice that work does for them
BYTES = 256 * 2**20  # of features, likewise
AT_A_TIME = 32  # images that are looked at of a slow network
CHUNK = 160  # images that run in one precision, then in the other
ASKED = 32  # images that the remembered answer is for
WORSE = 0.01  # of the probe's loss, by which it may rise
LIMIT = 0.1  # of the spread between images, by which the features of too few images may differ
PENALTIES = (30.0, 5.0, 1.0)

PROBE = Family("ridge", ridge, lambda part: [{"penalty": each} for each in PENALTIES], views=views_of(ridge))


class _Measured(NamedTuple):
    """Images that ran in both precisions: what decoding told, and features and seconds of f32 and of bf16."""

    digests: list[str]
    facts: list[Facts]
    features: list[Outputs]
    seconds: NDArray[np.float64]


def choose_precision(
    speed: Speed,
    catalog: Catalog,
    store: Store,
    wanted: PrecisionChoice,
    *,
    ahead: DecodeAhead | None = None,
    reporter: Reporter,
) -> tuple[Speed, int]:
    """Choose the precision of a network; for "auto" bf16 where that is faster and harms no answer.

    A ridge probe is cross-validated on the features of training images in both precisions. bf16 is refused
    where the loss on held-out images is worse by more than its standard error and by more than `WORSE`.
    Where too few can be held out, it is refused where its features are further from f32's than `LIMIT` of the
    spread between images. The images are those of the smallest digests, as many as make `WORK` in f32.
    The answer is remembered for the first of them and their targets, so images that are added rarely change
    it. The features in the chosen precision go to the store; where most of f32 lie there already, that is it.

    Returns:
        The network in the chosen precision, and for how many images the store had no such features before.
    """
    if wanted != "auto":
        return speed.at(wanted), 0
    speeds, samples = [speed.at("f32"), speed.at("bf16")], sample_images(catalog)
    first = [(digest, sample.target) for digest, sample in samples.items()][:ASKED]
    what = f"{catalog.task} of {len(catalog.outputs)}: {first}"
    question = f"precision: {speeds[1].engine_name} through {speed.network.fingerprint} for {what}"
    if (answer := store.recall(question)) is not None:
        return speeds[answer == "bf16"], 0
    measured, contents = None, catalog.contents
    if 2 * len(store.entries(speeds[0].feature_key(View())).missing(contents)) > len(contents):
        measured = _measure(speeds, catalog, list(samples), ahead)
    if measured is None:
        store.remember(question, "f32")
        return speeds[0], 0
    harmless, words = _judge(measured.features, catalog, [samples[digest] for digest in measured.digests])
    speeds[not harmless].release()
    chosen = speeds[harmless]
    store.remember(question, chosen.precision)
    times = measured.seconds[0] / measured.seconds[1]
    reporter.info(f"Precision: {chosen.precision} is used. {words}; bf16 is {times:.1f} times as fast.")
    return chosen, _keep(measured, measured.features[harmless], chosen, store)


def _keep(measured: _Measured, features: Outputs, speed: Speed, store: Store) -> int:
    """Store features, and what decoding told; count the images that had none before."""
    entries, digests = store.entries(speed.feature_key(View())), measured.digests
    missing = len(entries.missing(digests))
    entries.put(digests, features)
    store.entries(facts_key(speed.network.size)).put(digests, as_tensors(measured.facts))
    return missing


def sample_images(catalog: Catalog) -> dict[str, Sample]:
    """Return the training images of the smallest digests, each with a sample that shows it."""
    training = (sample for sample in catalog.samples if sample.part in ("", "train"))
    samples = {photo.digest: sample for sample in training for photo in sample.photos}
    return {digest: samples[digest] for digest in sorted(samples)[:MOST]}


def _measure(
    speeds: Sequence[Speed], catalog: Catalog, digests: list[str], ahead: DecodeAhead | None
) -> _Measured | None:
    """Run images in both precisions in turn; None where there is no choice, or too few images."""
    if not fast_in_bf16(speeds[0].engine_name) or len(digests) < FEWEST:
        return None
    engines = [speed.engine for speed in speeds]
    if not all(engine.name.endswith(speed.precision) for engine, speed in zip(engines, speeds, strict=True)):
        return None  # the engine refuses this network
    looked: list[tuple[str, Facts]] = []
    outputs: list[list[Outputs]] = [[], []]
    seconds = np.zeros(2)
    digests = digests[: _count_images(speeds[0].network)]
    with _decoding(catalog, digests, speeds[0].network.size, ahead) as results:
        sound = ((digest, each) for digest, each in results if isinstance(each, Decoded))
        while some := list(islice(sound, CHUNK)):
            looked += [(digest, each.facts) for digest, each in some]
            pixels = np.stack([each.pixels for _, each in some])
            for number, engine in enumerate(engines):
                begun = time.process_time()
                outputs[number] += engine.run(
                    np.split(pixels, range(engine.batch, len(pixels), engine.batch))
                )
                seconds[number] += time.process_time() - begun
            if sum(rows.nbytes for each in outputs for batch in each for rows in batch.values()) > BYTES:
                break
    if len(looked) < FEWEST:
        return None
    features = [
        {name: np.concatenate([batch[name] for batch in each]) for name in each[0]} for each in outputs
    ]
    return _Measured([digest for digest, _ in looked], [facts for _, facts in looked], features, seconds)


def _count_images(network: Network) -> int:
    """Count the images to look at by what the network multiplies: the clock and other work have no say."""
    from regraft.backbones.graph import nodes_of
    from regraft.models.cut import multiplications

    each = max(1, multiplications(nodes_of(network.model)))
    if WORK / each >= ENOUGH:
        return min(MOST, int(WORK / each))
    return ENOUGH if ENOUGH * each <= 2 * WORK else AT_A_TIME


@contextmanager
def _decoding(
    catalog: Catalog, digests: Sequence[str], size: int, ahead: DecodeAhead | None
) -> Iterator[Iterator[tuple[str, Decoded | Refusal]]]:
    """Yield the images with their digests: from decoding that began earlier, where it begins with them."""
    first = [job.digest for job in ahead.jobs[: len(digests)]] if ahead and ahead.size == size else []
    if ahead is not None and first == digests and len(digests) <= ahead.reach:
        yield ((digest, ahead.peek(number)) for number, digest in enumerate(digests))
    else:
        with DecodeAhead(catalog.jobs(digests), size) as decoding:
            yield zip(digests, decoding, strict=True)


def _judge(features: Sequence[Outputs], catalog: Catalog, samples: Sequence[Sample]) -> tuple[bool, str]:
    """Say whether bf16 does no harm, and what was measured."""
    parts = [_part(each, catalog, samples) for each in features]
    tried = [cross_validate(PROBE, part) for part in parts]
    answered = tried[0][1]
    truth, losses = parts[0].targets[answered], TASKS[catalog.task].losses
    if len(truth) < HELD_OUT or (truth == truth[0]).all():
        return _compare(*features)
    exact, rough = (
        np.array([losses(trial.link(trial.decisions), truth) for trial in trials]) for trials, _ in tried
    )
    best = int((exact + rough).mean(1).argmin())
    before, after, change = exact[best].mean(), rough[best].mean(), rough[best] - exact[best]
    harmless = change.mean() <= max(WORSE * before, change.std() / np.sqrt(len(change)))
    told = f"On {len(samples)} of your images a probe's loss is {after:.3f} in bf16 and {before:.3f} in f32"
    return bool(harmless), told


def _part(features: Outputs, catalog: Catalog, samples: Sequence[Sample]) -> Part:
    """Make rows for the probe: each tensor is averaged over its positions, numbers are standardised."""
    vectors = [rows.reshape(len(rows), -1, rows.shape[-1]).mean(1) for rows in features.values()]
    data = np.nan_to_num(np.concatenate(vectors, 1).astype(np.float64), posinf=0.0, neginf=0.0)
    targets = TASKS[catalog.task].encode(catalog.targets(samples), len(catalog.outputs)).astype(np.float64)
    scaler = Scaler.of(targets) if catalog.task == "regression" else Scaler.none(targets.shape[1])
    return Part(data, scaler(targets), np.ones(len(data)), catalog.task)


def _compare(exact: Outputs, rough: Outputs) -> tuple[bool, str]:
    """Judge by the features alone, where no answers can be compared."""
    apart = max(_difference(rough[name], value) for name, value in exact.items())
    images = len(next(iter(exact.values())))
    told = f"On {images} of your images its features are {100 * apart:.1f} % of their spread away from f32's"
    return apart < LIMIT, f"{told} (limit {100 * LIMIT:.0f} %)"


def _difference(received: NDArray[Any], expected: NDArray[Any]) -> float:
    """Measure how far two arrays (n, ...) are apart, in units of the spread of the rows of `expected`."""
    rows = expected.reshape(len(expected), -1).astype(np.float64)
    apart = float(np.linalg.norm(received.reshape(rows.shape) - rows))
    spread = float(np.linalg.norm(rows - rows.mean(0)))
    return apart / spread if spread else np.inf
