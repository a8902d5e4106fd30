"""Decide whether a network may be computed in bf16, by what that does to predictions for the user's images.

bf16 keeps the range of f32 and 8 of its 24 binary digits. The effect depends on the network and on what the
images differ in, so it has to be measured.
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
from regraft.data.images.decode import DecodedImage, ImageFacts
from regraft.data.images.decoder_pool import DecodingPool
from regraft.data.images.rejections import Rejection
from regraft.data.images.sample_range import FULL_DEPTH
from regraft.features.engine import EngineRunner, is_fast_in_bf16
from regraft.features.image_facts import facts_key, facts_to_tensors
from regraft.features.keras_engine import Network
from regraft.features.openvino import Outputs, join_batches
from regraft.features.store import Store
from regraft.recipe import PrecisionChoice
from regraft.solvers.cross_validation import TrainingRows, draw_folds
from regraft.solvers.decision import Scaler
from regraft.solvers.kernel_probe import PENALTIES, make_gram, measure_loss
from regraft.system.console import Reporter
from regraft.tasks import TASKS

__all__ = ["choose_precision", "sample_images"]

MAX_IMAGES = 500  # images that are compared
MIN_IMAGES = 8  # with fewer, nothing can be decided
MIN_HELD_OUT = 50  # with fewer predictions of the probe, the features are compared instead
WORK = 9.6e10  # multiplications in f32 that a comparison may take: about 1.5 seconds of two cores
ENOUGH_IMAGES = 60  # images that twice that work is spent on
SLOW_IMAGES = 32  # images that are compared of a slower network, whatever they take
MAX_BYTES = 256 * 2**20  # of features, at which the comparison stops
FOLDS = 5  # of the probe
CHUNK = 128  # images that run in one precision, then in the other
HINT_IMAGES = 32  # images that the remembered answer names
MAX_LOSS_RISE = 0.01  # share of the probe's loss
MAX_DIFFERENCE = 0.1  # of features, as a share of the spread between images


class _Comparison(NamedTuple):
    """Images that ran in both precisions: their facts, and features and seconds in f32 and in bf16."""

    digests: list[str]
    facts: list[ImageFacts]
    features: list[Outputs]
    seconds: NDArray[np.float64]


def choose_precision(
    runner: EngineRunner,
    catalog: Catalog,
    *,
    store: Store,
    choice: PrecisionChoice,
    decoding: DecodingPool | None = None,
    reporter: Reporter,
) -> tuple[EngineRunner, int]:
    """Choose the precision of a network; "auto" takes bf16 where that is faster and does no harm.

    A ridge probe is cross-validated on features of training images in both precisions. bf16 is refused if the
    loss on held-out images is worse by more than its standard error and by more than `MAX_LOSS_RISE`. More
    images are compared until that is clear. If too few images can be held out, it is refused if its features
    differ from f32's by more than `MAX_DIFFERENCE` of the spread between images. The images are those of the
    smallest digests, as many as take `WORK` in f32. The answer is remembered for the first of them and their
    targets, so that adding images rarely changes it. Features in the chosen precision go to the store. If
    most f32 features are stored already, f32 is chosen.

    `decoding` was begun earlier; it is used if it begins with the images to compare.

    Returns:
        The network in the chosen precision, and the number of images whose features were added to the store.
    """
    if choice != "auto":
        return runner.with_precision(choice), 0
    runners, samples = [runner.with_precision("f32"), runner.with_precision("bf16")], sample_images(catalog)
    first = [(digest, sample.target) for digest, sample in samples.items()][:HINT_IMAGES]
    data = f"{catalog.task} of {len(catalog.outputs)}: {first}"
    if catalog.depth != FULL_DEPTH:
        data = f"{data} at {catalog.depth} bits"
    question = f"precision: {runners[1].engine_name} through {runner.network.fingerprint} for {data}"
    if (answer := store.recall(question)) is not None:
        return runners[answer == "bf16"], 0
    comparison, verdict, digests = None, None, catalog.digests
    stored = store.entries(runners[0].feature_key(View(), depth=catalog.depth))
    if 2 * len(stored.find_missing(digests)) > len(digests):
        for comparison in _run_both(runners, catalog, digests=list(samples), decoding=decoding):
            verdict = _judge(comparison, catalog, samples)
            if verdict.is_clear:
                break
    if comparison is None or verdict is None:
        store.remember(question, "f32")
        return runners[0], 0
    chosen = runners[verdict.is_harmless]
    runners[not verdict.is_harmless].release()
    store.remember(question, chosen.precision)
    ratio = comparison.seconds[0] / comparison.seconds[1]
    reporter.info(
        f"Precision: {chosen.precision} is used. {verdict.finding}; bf16 is {ratio:.1f} times as fast."
    )
    features = store.entries(chosen.feature_key(View(), depth=catalog.depth))
    facts = store.entries(facts_key(chosen.network.size, catalog.depth))
    missing = len(features.find_missing(comparison.digests))
    features.put(comparison.digests, comparison.features[verdict.is_harmless])
    facts.put(comparison.digests, facts_to_tensors(comparison.facts))
    return chosen, missing


def sample_images(catalog: Catalog) -> dict[str, Sample]:
    """Return the training images of the smallest digests, each with a sample that shows it."""
    training = (sample for sample in catalog.samples if sample.part in ("", "train"))
    samples = {image.digest: sample for sample in training for image in sample.images}
    return {digest: samples[digest] for digest in sorted(samples)[:MAX_IMAGES]}


def _run_both(
    runners: Sequence[EngineRunner], catalog: Catalog, *, digests: list[str], decoding: DecodingPool | None
) -> Iterator[_Comparison]:
    """Run chunks of images in both precisions in turn; yield all results so far after each chunk.

    Nothing is yielded if there is no choice, or there are too few images.
    """
    if not is_fast_in_bf16(runners[0].engine_name) or len(digests) < MIN_IMAGES:
        return
    engines = [runner.engine for runner in runners]
    if any(not runner.engine.name.endswith(runner.precision) for runner in runners):
        return  # the engine does not support this network
    images: list[tuple[str, ImageFacts]] = []
    outputs: list[list[Outputs]] = [[], []]
    seconds = np.zeros(2)
    digests = digests[: _count_images(_count_work(runners[0].network))]
    with _open_images(catalog, digests, size=runners[0].network.size, decoding=decoding) as results:
        usable = ((digest, result) for digest, result in results if isinstance(result, DecodedImage))
        while chunk := list(islice(usable, CHUNK)):
            images += [(digest, image.facts) for digest, image in chunk]
            pixels = np.stack([image.pixels for _, image in chunk])
            for number, engine in enumerate(engines):
                start = time.process_time()
                batches = np.split(pixels, range(engine.batch, len(pixels), engine.batch))
                outputs[number] += engine.run(batches)
                seconds[number] += time.process_time() - start
            if len(images) < MIN_IMAGES:
                return
            features = [join_batches(batches) for batches in outputs]
            yield _Comparison(
                [digest for digest, _ in images], [facts for _, facts in images], features, seconds
            )
            if sum(rows.nbytes for tensors in features for rows in tensors.values()) > MAX_BYTES:
                return


def _count_work(network: Network) -> int:
    """Count the multiplications of a network for one image."""
    from regraft.backbones.graph import list_nodes
    from regraft.models.cut import count_multiplications

    return max(1, count_multiplications(list_nodes(network.model)))


def _count_images(work: float) -> int:
    """Count the images to compare by the multiplications for one: neither clock nor other work matter."""
    if WORK / work >= ENOUGH_IMAGES:
        return min(MAX_IMAGES, int(WORK / work))
    return ENOUGH_IMAGES if ENOUGH_IMAGES * work <= 2 * WORK else SLOW_IMAGES


@contextmanager
def _open_images(
    catalog: Catalog, digests: Sequence[str], *, size: int, decoding: DecodingPool | None
) -> Iterator[Iterator[tuple[str, DecodedImage | Rejection]]]:
    """Yield the images with their digests, from earlier decoding if that begins with them."""
    first = (
        [job.digest for job in decoding.jobs[: len(digests)]] if decoding and decoding.size == size else []
    )
    if decoding is not None and first == digests and len(digests) <= decoding.reach:
        yield ((digest, decoding.peek(number)) for number, digest in enumerate(digests))
    else:
        with DecodingPool(catalog.make_jobs(digests), size, depth=catalog.depth) as pool:
            yield zip(digests, pool, strict=True)


class _Verdict(NamedTuple):
    """Whether bf16 does no harm, what was measured in words, and whether more images could not change it."""

    is_harmless: bool
    finding: str
    is_clear: bool = False


def _judge(comparison: _Comparison, catalog: Catalog, samples: dict[str, Sample]) -> _Verdict:
    """Judge bf16 by a probe's losses on held-out images, or by the features if those are too few."""
    compared = [samples[digest] for digest in comparison.digests]
    rows = _make_rows(catalog, compared)
    sample, folds = draw_folds(rows, max_rows=MAX_IMAGES, count=FOLDS, groups=None)
    truth = rows.targets[np.any(folds, axis=0)] if folds else rows.targets[:0]
    if not sample.all() or len(truth) < MIN_HELD_OUT or (truth == truth[0]).all():
        return _compare(*comparison.features)
    exact, rough = (
        [measure_loss(gram, penalty, rows, folds).rows for penalty in PENALTIES]
        for gram in map(_make_gram, comparison.features)
    )
    best = int(np.argmin([(one + other).mean() for one, other in zip(exact, rough, strict=True)]))
    before, after = exact[best].mean(), rough[best].mean()
    finding = (
        f"On {len(compared)} of your images a probe's loss is {after:.3f} in bf16 and {before:.3f} in f32"
    )
    is_harmless, is_clear = _is_harmless(exact[best], rough[best])
    return _Verdict(is_harmless, finding, is_clear)


def _is_harmless(exact: NDArray[np.float64], rough: NDArray[np.float64]) -> tuple[bool, bool]:
    """Tell whether held-out losses, (n,), rise by no more in bf16 than is tolerated, and whether clearly so.

    It is clear if they rise by less than `MAX_LOSS_RISE` even one standard error above the measured mean.
    """
    change = rough - exact
    error = float(change.std() / np.sqrt(len(change)))
    limit = MAX_LOSS_RISE * float(exact.mean())
    return bool(change.mean() <= max(limit, error)), bool(change.mean() + error <= limit)


def _make_rows(catalog: Catalog, samples: Sequence[Sample]) -> TrainingRows:
    """Make the probe's rows without features, and standardise the targets of a regression."""
    targets = TASKS[catalog.task].encode(catalog.targets(samples), len(catalog.outputs)).astype(np.float64)
    scaler = (
        Scaler.from_features(targets) if catalog.task == "regression" else Scaler.identity(targets.shape[1])
    )
    return TrainingRows(np.zeros((len(targets), 0)), scaler(targets), np.ones(len(targets)), catalog.task)


def _make_gram(features: Outputs) -> NDArray[np.float32]:
    """Return the Gram matrix of all tensors, each averaged over its positions, (n, n)."""
    blocks = (rows.reshape(len(rows), -1, rows.shape[-1]).mean(1) for rows in features.values())
    grams = [make_gram(np.nan_to_num(block, posinf=0.0, neginf=0.0)) for block in blocks]
    gram: NDArray[np.float32] = np.mean(grams, axis=0)
    return gram


def _compare(exact: Outputs, rough: Outputs) -> _Verdict:
    """Judge by the features alone, where no predictions can be compared."""
    difference = max(_measure_difference(rough[name], value) for name, value in exact.items())
    images = len(next(iter(exact.values())))
    finding = f"On {images} of your images its features are {100 * difference:.1f} % of their spread away"
    finding = f"{finding} from f32's (limit {100 * MAX_DIFFERENCE:.0f} %)"
    return _Verdict(difference < MAX_DIFFERENCE, finding)


def _measure_difference(received: NDArray[Any], expected: NDArray[Any]) -> float:
    """Measure the distance of two arrays (n, ...), in units of the spread of the rows of `expected`."""
    rows = expected.reshape(len(expected), -1).astype(np.float64)
    distance = float(np.linalg.norm(received.reshape(rows.shape) - rows))
    spread = float(np.linalg.norm(rows - rows.mean(0)))
    return distance / spread if spread else np.inf
