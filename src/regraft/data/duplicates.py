"""Find near-duplicates among images, and duplicates that lie in several parts.

A near-duplicate is an image saved again: in another format, quality or size down to a thumbnail, a little
brighter or darker, with a border of up to 2 % cut off, mirrored, or turned by a quarter. Stronger crops,
another image of the same object and the same drawing in another colour are no near-duplicates.

**Candidates.** The 15 lowest frequencies of a thumbnail's grey values (its cosine transform, whose signs a
perceptual hash takes), divided by its contrast, are a point; near points are found in a tree. Mirrored and
turned images are near each other once all are turned into one position. Where many points lie close together
(frames of a video, a camera that never moves), near points say little. So a point with more than `CROWD`
neighbours counts only those nearer than a third of the distance to the last of them, and the check is
stricter by as much as that distance is below `NEAR`. This may miss images with more than `CROWD` copies.
Files with the same bytes are one point, however many they are.

**Check.** One thumbnail is fitted to the other in all three colours by least squares. It may be moved and
stretched by up to a pixel, and be brighter or of more contrast. The residual of the fit, relative to the
contrast, decides. Among 1,372 images of clothes in front of plain walls, the smallest residual of two
different images is 0.19.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from regraft.data.catalog import Catalog, Sample
from regraft.data.images.decode import THUMBNAIL, ImageFacts
from regraft.system.console import Reporter

__all__ = ["NearDuplicates", "describe_leaks", "find_leaks", "group_samples", "number_groups"]

NEAR = 0.24  # distance of points up to which they are candidates
CROWD = 8
MAX_RESIDUAL = 0.13  # of a fit, as a share of the contrast
NOISE = 16.0  # of 255: added to the contrast, so that noise does not count
PLAIN_CONTRAST = 4.0  # of 255: an image of less contrast has one colour, and resembles all such images
MAX_SHIFT = 1.2  # thumbnail pixels
GAIN_RANGE = (0.5, 2.0)  # of contrast
CHUNK_POINTS = 4096  # searched at a time; four times as many as the pairs checked at a time
GREY = np.array([0.299, 0.587, 0.114], np.float32)

MAX_CHAIN = 32  # images: a longer chain of near-duplicates is a film or a texture
EARLIER_PARTS = {"validation": ("train",), "test": ("train", "validation")}  # which a part must not repeat

Floats = NDArray[np.float32]
Thumbnails = NDArray[np.uint8]
Name = TypeVar("Name", int, str)


@dataclass(frozen=True, slots=True)
class DuplicatePair(Generic[Name]):
    """A pair of near-duplicates, by row or by digest; `first` is before `second`.

    `residual`: the difference that the fit leaves, 0 for none. `transform`: "", "mirrored" or "turned".
    """

    first: Name
    second: Name
    residual: float
    transform: str


@dataclass(frozen=True)
class NearDuplicates:
    """The near-duplicates among contents.

    Attributes:
        pairs: of near-duplicates.
        chained: digests in chains that are too long for near-duplicates; they are in no pair.
    """

    pairs: tuple[DuplicatePair[str], ...]
    chained: tuple[str, ...] = ()

    @classmethod
    def from_facts(cls, facts: Mapping[str, ImageFacts], *, reporter: Reporter) -> NearDuplicates:
        """Find the near-duplicates by the thumbnails in `facts`, which are given by digest.

        Example:
            >>> from regraft.system.console import SilentReporter
            >>> image = np.random.default_rng(0).integers(0, 200, 3 * THUMBNAIL**2, np.uint8)
            >>> brighter = ImageFacts(8, 8, "PNG", thumbnail=(image + 9).tobytes())
            >>> facts = {"a": ImageFacts(8, 8, "PNG", thumbnail=image.tobytes()), "b": brighter}
            >>> NearDuplicates.from_facts(facts, reporter=SilentReporter()).digest_pairs
            [('a', 'b')]
        """
        digests = sorted(facts)
        joined = b"".join(facts[digest].thumbnail for digest in digests)
        thumbnails = np.frombuffer(joined, np.uint8).reshape(-1, THUMBNAIL, THUMBNAIL, 3)
        pairs = find_duplicates(thumbnails, reporter=reporter)
        rows = np.array([[pair.first, pair.second] for pair in pairs], np.intp)
        component = _find_components(len(digests), rows)
        is_chained = np.bincount(component, minlength=1)[component] > MAX_CHAIN
        short = (
            DuplicatePair(digests[pair.first], digests[pair.second], pair.residual, pair.transform)
            for pair in pairs
            if not is_chained[pair.first]
        )
        return cls(tuple(short), tuple(digests[row] for row in np.flatnonzero(is_chained)))

    @property
    def digest_pairs(self) -> list[tuple[str, str]]:
        """Return the digests of the pairs, as `split` takes them."""
        return [(pair.first, pair.second) for pair in self.pairs]


def find_duplicates(thumbnails: Thumbnails, *, reporter: Reporter) -> list[DuplicatePair[int]]:
    """Find the pairs of near-duplicates, in the order of their rows.

    Time and memory grow little faster than the number of images.

    Args:
        thumbnails: RGB, uint8 of shape (n, 16, 16, 3), as in `ImageFacts.thumbnail`. Plain ones are in no
        pair. reporter: shows progress.

    Example:
        >>> from regraft.system.console import SilentReporter
        >>> rng = np.random.default_rng(0)
        >>> images = rng.integers(0, 200, (30, 16, 16, 3), np.uint8)
        >>> images[7] = images[3][:, ::-1] + 9
        >>> pairs = find_duplicates(images, reporter=SilentReporter())
        >>> [(pair.first, pair.second, pair.transform) for pair in pairs]
        [(3, 7, 'mirrored')]
    """
    rows = np.flatnonzero(~is_plain(thumbnails))
    if len(rows) < 2:
        return []
    waves = _transform(thumbnails[rows])
    with reporter.track("Comparing", len(rows)) as advance:  # each row is searched twice
        pairs, reach = _find_candidates(waves, advance, 0)
        turned_pairs, turned_reach = _find_candidates(_normalise_position(waves), advance, len(rows))
    pairs = np.unique(np.concatenate([pairs, turned_pairs]), axis=0)
    limits = MAX_RESIDUAL * np.minimum(reach, turned_reach)[pairs].min(1, initial=1)
    step = CHUNK_POINTS // 4
    chunks = (slice(start, start + step) for start in range(0, len(pairs), step))
    checked = (_check_pairs(thumbnails, rows[pairs[chunk]], limits[chunk]) for chunk in chunks)
    return list(chain.from_iterable(checked))


def is_plain(thumbnails: Thumbnails) -> NDArray[np.bool_]:
    """Tell which images have one colour, shape (n,)."""
    chunks = (thumbnails[n : n + CHUNK_POINTS] for n in range(0, max(1, len(thumbnails)), CHUNK_POINTS))
    return np.concatenate([_compute_contrast(_to_floats(chunk)) < PLAIN_CONTRAST for chunk in chunks])


def _to_floats(thumbnails: Thumbnails) -> Floats:
    return thumbnails.reshape(-1, THUMBNAIL, THUMBNAIL, 3).astype(np.float32)


def _compute_contrast(images: Floats) -> Floats:
    """Return the standard deviation over each image, as the root mean square of the three colours, (n,)."""
    contrast: Floats = np.sqrt(images.var((1, 2)).mean(1))
    return contrast


def _transform(thumbnails: Thumbnails) -> Floats:
    """Return the lowest frequencies, (n, 4, 4), vertical ones first; [0, 0], the brightness, is zero."""
    from scipy.fft import dctn

    waves = np.empty((len(thumbnails), 4, 4), np.float32)
    for start in range(0, len(thumbnails), CHUNK_POINTS):
        chunk = slice(start, start + CHUNK_POINTS)
        grey = _to_floats(thumbnails[chunk]) @ GREY
        size = THUMBNAIL * (grey.std((1, 2)) + NOISE)
        waves[chunk] = dctn(grey, axes=(1, 2), norm="ortho")[:, :4, :4] / size[:, None, None]
    waves[:, 0, 0] = 0
    return waves


def _normalise_position(waves: Floats) -> Floats:
    """Mirror and turn images so that they are brighter on the left and on top, and more so on the left."""
    waves = waves.copy()
    waves[waves[:, 0, 1] < 0, :, 1::2] *= -1
    waves[waves[:, 1, 0] < 0, 1::2] *= -1
    is_turned = waves[:, 1, 0] > waves[:, 0, 1]
    waves[is_turned] = waves[is_turned].transpose(0, 2, 1)
    return waves


def _find_candidates(
    waves: Floats, advance: Callable[[int], None], done: int
) -> tuple[NDArray[np.intp], Floats]:
    """Return pairs (a, b) of near points, a < b, and how far each one's last neighbour is, 1 for NEAR."""
    from scipy.spatial import cKDTree

    points = waves.reshape(len(waves), -1)[:, 1:]
    count = len(points)
    tree = cKDTree(points)
    distances = np.full((count, CROWD + 1), np.inf, np.float32)
    neighbours = np.full((count, CROWD + 1), count, np.int32)
    for start in range(0, count, CHUNK_POINTS):
        chunk = slice(start, start + CHUNK_POINTS)
        nearest = tree.query(points[chunk], k=CROWD + 1, distance_upper_bound=NEAR, workers=-1)
        distances[chunk], neighbours[chunk] = nearest
        searched = done + start
        advance((searched + len(points[chunk])) // 2 - searched // 2)
    reach = np.where(np.isfinite(distances[:, -1]), distances[:, -1] / 3, NEAR)
    pairs = []
    for column in range(CROWD + 1):
        rows = np.flatnonzero(neighbours[:, column] < count)
        others = neighbours[rows, column]
        is_near = (distances[rows, column] <= np.minimum(reach[rows], reach[others])) & (rows != others)
        pairs.append(np.sort(np.stack([rows, others], 1)[is_near], axis=1))
    return np.concatenate(pairs), np.minimum(distances[:, -1] / NEAR, 1)


def _check_pairs(thumbnails: Thumbnails, pairs: NDArray[np.intp], limits: Floats) -> list[DuplicatePair[int]]:
    """Return the candidate pairs whose residual after fitting is at most the limit, (pairs,)."""
    one, two = _to_floats(thumbnails[pairs[:, 0]]), _to_floats(thumbnails[pairs[:, 1]])
    contrast = np.minimum(_compute_contrast(one), _compute_contrast(two)) + NOISE
    best, best_position = np.full(len(pairs), np.inf), np.zeros(len(pairs), np.intp)
    for position in range(8):
        todo = np.flatnonzero(best > limits)  # unturned first: most images resemble their mirror image
        residual = _fit(_turn(one[todo], position), two[todo]) / contrast[todo]
        is_better = residual < best[todo]
        best[todo[is_better]], best_position[todo[is_better]] = residual[is_better], position
    transforms = ("", "mirrored", *("turned",) * 6)
    return [
        DuplicatePair(int(pairs[n, 0]), int(pairs[n, 1]), float(best[n]), transforms[best_position[n]])
        for n in np.flatnonzero(best <= limits)
    ]


def _turn(images: Floats, position: int) -> Floats:
    """Turn images into one of the eight positions of a square: 0 is unchanged, 1 is mirrored."""
    turned = np.rot90(images, position // 2, axes=(1, 2))
    return turned[:, :, ::-1] if position % 2 else turned


def _fit(one: Floats, two: Floats) -> Floats:
    """Fit `one` to `two`; return the root mean square residual, (n,), infinite where it changes too much.

    For small movements an image changes by its slope times the distance: across by a + b x, down by c + d y.
    """
    middle = (one + two) / 2
    position = np.linspace(-1, 1, THUMBNAIL, dtype=np.float32)
    across, down = np.gradient(middle, axis=2), np.gradient(middle, axis=1)
    shifts = [across, across * position[:, None], down, down * position[:, None, None]]
    changes = [*shifts, one, np.ones_like(one)]
    values = 3 * THUMBNAIL**2
    slopes = np.stack(changes, -1).reshape(-1, values, len(changes))
    difference = (two - one).reshape(-1, values, 1)
    square = slopes.transpose(0, 2, 1) @ slopes + 1e-2 * np.eye(len(changes), dtype=np.float32)
    solution = np.linalg.solve(square, slopes.transpose(0, 2, 1) @ difference)
    residual: Floats = np.sqrt(((difference - slopes @ solution) ** 2).mean((1, 2)))
    shift = np.abs(solution[:, [0, 2], 0]) + np.abs(solution[:, [1, 3], 0])
    gain = 1 + solution[:, 4, 0]
    is_too_far = (shift > MAX_SHIFT).any(1) | (gain < GAIN_RANGE[0]) | (gain > GAIN_RANGE[1])
    return np.where(is_too_far, np.float32(np.inf), residual)


def group_samples(samples: Sequence[Sample], duplicates: Iterable[tuple[str, str]]) -> NDArray[np.int64]:
    """Number samples, shape (n,): those that share an image, or are duplicates, have the same number.

    Numbers rise in the order of the samples, because folds depend on them.
    """
    return number_groups([[image.digest for image in sample.images] for sample in samples], duplicates)


def number_groups(keys: Sequence[Sequence[str]], duplicates: Iterable[tuple[str, str]]) -> NDArray[np.int64]:
    """Number items, shape (n,): items that share a key, directly or through others, have the same number.

    Args:
        keys: of each item, at least one.
        duplicates: pairs of keys that count as one; a pair with an unknown key has no effect.
    """
    numbers = {key: number for number, key in enumerate(dict.fromkeys(chain.from_iterable(keys)))}
    shared = ((first, other) for first, *others in keys for other in others)
    pairs = [(numbers[a], numbers[b]) for a, b in chain(shared, duplicates) if a in numbers and b in numbers]
    component = _find_components(len(numbers), np.array(pairs, np.intp))
    return component[[numbers[first] for first, *_ in keys]]


def find_leaks(catalog: Catalog, duplicates: Iterable[tuple[str, str]]) -> dict[str, tuple[Sample, ...]]:
    """Return the samples of each scored part that are duplicates of samples in an earlier part.

    Example:
        >>> from pathlib import Path
        >>> samples = (Sample("1.png", 0, "61" * 16, "train"), Sample("2.png", 0, "61" * 16, "test"))
        >>> [sample.path for sample in find_leaks(Catalog(Path(), ("a",), samples), [])["test"]]
        ['2.png']
    """
    groups = group_samples(catalog.samples, duplicates).tolist()
    group_of_sample = dict(zip(catalog.samples, groups, strict=True))
    parts = defaultdict(set)
    for sample, group in group_of_sample.items():
        parts[group].add(sample.part)
    return {
        part: tuple(s for s in catalog.part(part) if not parts[group_of_sample[s]].isdisjoint(earlier))
        for part, earlier in EARLIER_PARTS.items()
        if catalog.part(part)
    }


def describe_leaks(
    catalog: Catalog, duplicates: Iterable[tuple[str, str]]
) -> tuple[dict[str, int], list[str]]:
    """Return the number of leaked samples of each part, and a sentence for each part that has some."""
    leaks = find_leaks(catalog, duplicates)
    sentences = [
        f"{len(samples):,} of {len(catalog.part(part)):,} {part} images are duplicates of "
        f"{' or '.join(EARLIER_PARTS[part])} images (the first: {samples[0].path}): the model has seen what "
        "it is scored on. `regraft check` lists them."
        for part, samples in leaks.items()
        if samples
    ]
    return {part: len(samples) for part, samples in leaks.items()}, sentences


def _find_components(count: int, pairs: NDArray[np.intp]) -> NDArray[np.int64]:
    """Return the number of each point's component in the graph of the pairs, shape (count,)."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    one, two = pairs.reshape(-1, 2).T
    graph = coo_array((np.ones(len(one), bool), (one, two)), (count, count))
    component: NDArray[np.int64] = connected_components(graph, directed=False)[1].astype(np.int64)
    return component
