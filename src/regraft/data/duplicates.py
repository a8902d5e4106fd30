"""Thumbnails -> pairs of images that are one picture.

Meant to be found: a picture saved again, in another format, quality or size down to a thumbnail, a little
brighter or darker, with a border of up to 2 % cut off, mirrored, or turned by a quarter. Not meant: stronger
crops, another photograph of the same thing, the same drawing in another colour.

**Candidates.** The 15 lowest frequencies of a thumbnail's grey values (its cosine transform, what a
perceptual hash takes the signs of), divided by its contrast, are a point; near points are found in a tree.
Mirrored and turned pictures are near each other once all are brought into one position. Where many points
lie close together (frames of a video, a camera that never moves) being near says little: beside `CROWD`
others only those count that are nearer than a third of the way to the last of them, and the proof is stricter
by as much as that one is nearer than `NEAR`. So pictures with more than `CROWD` copies may be missed;
byte-identical files are one point, however many they are.

**Proof.** One thumbnail is fitted to the other in all three colours by least squares, free to be moved and
stretched by up to a pixel, and to be brighter or of more contrast. What the fit leaves over, measured against
the contrast, decides. On 1,372 photographs of clothes before plain walls the nearest that are not one
picture leave over 0.19.

Which images show one picture, and which of them lie in parts that should know nothing of each other.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from regraft.data.catalog import Catalog, Sample
from regraft.data.images.decode import THUMBNAIL, Facts
from regraft.system.console import Reporter

__all__ = ["Alike", "Copies", "find_alike", "groups_of", "is_plain", "leaked", "leaks_of", "tie"]


NEAR = 0.24  # distance of points up to which they are candidates
CROWD = 8
LEFT_OVER = 0.13  # share of the contrast that a fit may leave over
NOISE = 16.0  # of 255: contrast that counts as none, for points and proof
PLAIN = 4.0  # of 255: a picture of less contrast is one colour, and like every other such picture
MOST_MOVED = 1.2  # thumbnail pixels
GAIN = (0.5, 2.0)  # of contrast
ROWS = 4096  # points asked for at a time; pairs proved at a time are a quarter
GREY = np.array([0.299, 0.587, 0.114], np.float32)

Floats = NDArray[np.float32]
Thumbnails = NDArray[np.uint8]
Name = TypeVar("Name", int, str)


@dataclass(frozen=True, slots=True)
class Alike(Generic[Name]):
    """Two images, by row or by digest, `first` before `second`, that are one picture.

    `left_over`: what tells them apart, 0 for nothing. `how`: "", "mirrored" or "turned".
    """

    first: Name
    second: Name
    left_over: float
    how: str


def find_alike(thumbnails: Thumbnails, *, reporter: Reporter) -> list[Alike[int]]:
    """The pairs of images that are one picture, in the order of their rows.

    Time grows little faster than the number of images, memory with it.

    Args:
        thumbnails: RGB, uint8 of shape (n, 16, 16, 3), as in `Facts.thumbnail`. Plain ones are like none.
        reporter: shows how far it is.

    Example:
        >>> from regraft.system.console import SilentReporter
        >>> rng = np.random.default_rng(0)
        >>> pictures = rng.integers(0, 200, (30, 16, 16, 3), np.uint8)
        >>> pictures[7] = pictures[3][:, ::-1] + 9
        >>> pairs = find_alike(pictures, reporter=SilentReporter())
        >>> [(pair.first, pair.second, pair.how) for pair in pairs]
        [(3, 7, 'mirrored')]
    """
    rows = np.flatnonzero(~is_plain(thumbnails))
    if len(rows) < 2:
        return []
    waves = _waves(thumbnails[rows])
    with reporter.track("Comparing", len(rows)) as advance:
        one, two = _near(waves, advance, 0), _near(_in_position(waves), advance, len(rows))
    pairs = np.unique(np.concatenate([one.pairs, two.pairs]), axis=0)
    most = LEFT_OVER * np.minimum(one.room, two.room)[pairs].min(1, initial=1)
    step = ROWS // 4
    proved = (
        _prove(thumbnails, rows[pairs[at : at + step]], most[at : at + step])
        for at in range(0, len(pairs), step)
    )
    return [pair for some in proved for pair in some]


def is_plain(thumbnails: Thumbnails) -> NDArray[np.bool_]:
    """Which pictures are one colour all over, shape (n,)."""
    return np.concatenate(
        [_contrast(_floats(thumbnails[at : at + ROWS])) < PLAIN for at in range(0, len(thumbnails), ROWS)]
        or [np.zeros(0, bool)]
    )


def _floats(thumbnails: Thumbnails) -> Floats:
    return thumbnails.reshape(-1, THUMBNAIL, THUMBNAIL, 3).astype(np.float32)


def _contrast(pictures: Floats) -> Floats:
    """Standard deviation over the picture, the mean square of the three colours, shape (n,)."""
    contrast: Floats = np.sqrt(pictures.var((1, 2)).mean(1))
    return contrast


def _waves(thumbnails: Thumbnails) -> Floats:
    """The lowest frequencies, (n, 4, 4), down the picture first; [0, 0], the brightness, is zero."""
    from scipy.fft import dctn

    found = np.empty((len(thumbnails), 4, 4), np.float32)
    for at in range(0, len(thumbnails), ROWS):
        grey = _floats(thumbnails[at : at + ROWS]) @ GREY
        size = THUMBNAIL * (grey.std((1, 2)) + NOISE)
        found[at : at + ROWS] = dctn(grey, axes=(1, 2), norm="ortho")[:, :4, :4] / size[:, None, None]
    found[:, 0, 0] = 0
    return found


def _in_position(waves: Floats) -> Floats:
    """Mirrored and turned so that it is brighter on the left and above, and more so on the left."""
    found = waves.copy()
    found[found[:, 0, 1] < 0, :, 1::2] *= -1
    found[found[:, 1, 0] < 0, 1::2] *= -1
    lies = found[:, 1, 0] > found[:, 0, 1]
    found[lies] = found[lies].transpose(0, 2, 1)
    return found


class _Candidates(NamedTuple):
    """Pairs (a, b) of points, a < b; and for each point how far away the last of a crowd is, 1 for NEAR."""

    pairs: NDArray[np.intp]
    room: Floats


def _near(waves: Floats, advance: Callable[[int], None], done: int) -> _Candidates:
    """The candidates among points; each is looked at twice, and `done` looks were taken before."""
    from scipy.spatial import cKDTree

    points = waves.reshape(len(waves), -1)[:, 1:]
    count = len(points)
    tree = cKDTree(points)
    near = np.full((count, CROWD + 1), np.inf, np.float32)
    others = np.full((count, CROWD + 1), count, np.int32)
    for at in range(0, count, ROWS):
        some = points[at : at + ROWS]
        asked = tree.query(some, k=CROWD + 1, distance_upper_bound=NEAR, workers=-1)
        near[at : at + ROWS], others[at : at + ROWS] = asked
        begin = done + at
        advance((begin + len(some)) // 2 - begin // 2)
    reach = np.where(np.isfinite(near[:, -1]), near[:, -1] / 3, NEAR)
    found = []
    for column in range(CROWD + 1):
        rows = np.flatnonzero(others[:, column] < count)
        other = others[rows, column]
        counts = (near[rows, column] <= np.minimum(reach[rows], reach[other])) & (rows != other)
        found.append(np.sort(np.stack([rows, other], 1)[counts], axis=1))
    return _Candidates(np.concatenate(found), np.minimum(near[:, -1] / NEAR, 1))


def _prove(thumbnails: Thumbnails, pairs: NDArray[np.intp], most: Floats) -> list[Alike[int]]:
    """Those of some candidates that are one picture: a fit leaves over no more than `most`, (pairs,)."""
    one, two = _floats(thumbnails[pairs[:, 0]]), _floats(thumbnails[pairs[:, 1]])
    least = np.minimum(_contrast(one), _contrast(two)) + NOISE
    best, how = np.full(len(pairs), np.inf), np.zeros(len(pairs), np.intp)
    for position in range(8):
        todo = np.flatnonzero(best > most)  # as it lies comes first: most pictures have a symmetry
        left = _left_over(_turned(one[todo], position), two[todo]) / least[todo]
        better = left < best[todo]
        best[todo[better]], how[todo[better]] = left[better], position
    names = ("", "mirrored", *("turned",) * 6)
    return [
        Alike(int(pairs[at, 0]), int(pairs[at, 1]), float(best[at]), names[how[at]])
        for at in np.flatnonzero(best <= most)
    ]


def _turned(pictures: Floats, position: int) -> Floats:
    """One of the eight positions of a square: 0 as it is, 1 mirrored, the others turned."""
    seen = np.rot90(pictures, position // 2, axes=(1, 2))
    return seen[:, :, ::-1] if position % 2 else seen


def _left_over(one: Floats, two: Floats) -> Floats:
    """Root of the mean square that is left when `one` is fitted to `two`, (n,); infinite where it had to be
    moved or changed too much.

    For small movements a picture changes by its slope times the distance: across by a + b x, down by c + d y.
    """
    middle = (one + two) / 2
    place = np.linspace(-1, 1, THUMBNAIL, dtype=np.float32)
    across, down = np.gradient(middle, axis=2), np.gradient(middle, axis=1)
    changes = [across, across * place[:, None], down, down * place[:, None, None], one, np.ones_like(one)]
    values = 3 * THUMBNAIL**2
    slopes = np.stack(changes, -1).reshape(-1, values, len(changes))
    wanted = (two - one).reshape(-1, values, 1)
    square = slopes.transpose(0, 2, 1) @ slopes + 1e-2 * np.eye(len(changes), dtype=np.float32)
    answer = np.linalg.solve(square, slopes.transpose(0, 2, 1) @ wanted)
    left: Floats = np.sqrt(((wanted - slopes @ answer) ** 2).mean((1, 2)))
    moved = np.abs(answer[:, [0, 2], 0]) + np.abs(answer[:, [1, 3], 0])
    gain = 1 + answer[:, 4, 0]
    far = (moved > MOST_MOVED).any(1) | (gain < GAIN[0]) | (gain > GAIN[1])
    return np.where(far, np.float32(np.inf), left)


CHAIN = 32  # pictures: a longer chain of near ones is a film or a texture, not copies
BEFORE = {"validation": ("train",), "test": ("train", "validation")}  # parts that a part must not repeat


@dataclass(frozen=True)
class Copies:
    """Contents that are one picture.

    Attributes:
        near: pairs of them.
        chained: digests of those that are near each other in chains too long to be copies; in no pair.
    """

    near: tuple[Alike[str], ...]
    chained: tuple[str, ...] = ()

    @classmethod
    def of(cls, facts: Mapping[str, Facts], *, reporter: Reporter) -> Copies:
        """What the thumbnails of contents tell; `facts` by digest.

        Example:
            >>> from regraft.system.console import SilentReporter
            >>> picture = np.random.default_rng(0).integers(0, 200, 3 * THUMBNAIL**2, np.uint8)
            >>> brighter = Facts(8, 8, "PNG", thumbnail=(picture + 9).tobytes())
            >>> facts = {"a": Facts(8, 8, "PNG", thumbnail=picture.tobytes()), "b": brighter}
            >>> Copies.of(facts, reporter=SilentReporter()).ties
            [('a', 'b')]
        """
        digests = sorted(facts)
        joined = b"".join(facts[digest].thumbnail for digest in digests)
        thumbnails = np.frombuffer(joined, np.uint8).reshape(-1, THUMBNAIL, THUMBNAIL, 3)
        pairs = find_alike(thumbnails, reporter=reporter)
        component = _chain(len(digests), np.array([[pair.first, pair.second] for pair in pairs], np.intp))
        long = np.bincount(component, minlength=1)[component] > CHAIN
        near = (
            Alike(digests[pair.first], digests[pair.second], pair.left_over, pair.how)
            for pair in pairs
            if not long[pair.first]
        )
        return cls(tuple(near), tuple(digests[at] for at in np.flatnonzero(long)))

    @property
    def ties(self) -> list[tuple[str, str]]:
        """The pairs as `split` takes them."""
        return [(pair.first, pair.second) for pair in self.near]


def groups_of(samples: Sequence[Sample], ties: Iterable[tuple[str, str]]) -> NDArray[np.int64]:
    """Number samples, shape (n,): the same number for those that share a picture, or are tied.

    Numbers rise in the order of the samples, for folds depend on them.
    """
    return tie([[photo.digest for photo in sample.photos] for sample in samples], ties)


def tie(keys: Sequence[Sequence[str]], ties: Iterable[tuple[str, str]]) -> NDArray[np.int64]:
    """Number things, shape (n,): the same number for those that share a key, directly or through others.

    Args:
        keys: what each thing shares with others; the first of them at least.
        ties: pairs of keys that count as one; pairs with another key tie nothing.
    """
    numbers = {key: number for number, key in enumerate(dict.fromkeys(chain.from_iterable(keys)))}
    shared = ((first, other) for first, *others in keys for other in others)
    pairs = [(numbers[a], numbers[b]) for a, b in chain(shared, ties) if a in numbers and b in numbers]
    component = _chain(len(numbers), np.array(pairs, np.intp))
    return component[[numbers[first] for first, *_ in keys]]


def leaked(catalog: Catalog, ties: Iterable[tuple[str, str]]) -> dict[str, tuple[Sample, ...]]:
    """For each part that scores a model, its samples that show what a part before it has shown already.

    Example:
        >>> from pathlib import Path
        >>> samples = (Sample("1.png", 0, "61" * 16, "train"), Sample("2.png", 0, "61" * 16, "test"))
        >>> [sample.path for sample in leaked(Catalog(Path(), ("a",), samples), [])["test"]]
        ['2.png']
    """
    group = dict(zip(catalog.samples, groups_of(catalog.samples, ties).tolist(), strict=True))
    parts = defaultdict(set)
    for sample, number in group.items():
        parts[number].add(sample.part)
    return {
        part: tuple(s for s in catalog.part(part) if not parts[group[s]].isdisjoint(before))
        for part, before in BEFORE.items()
        if catalog.part(part)
    }


def leaks_of(catalog: Catalog, ties: Iterable[tuple[str, str]]) -> tuple[dict[str, int], list[str]]:
    """How many samples of each part are leaked; and a sentence for each part with any."""
    found = leaked(catalog, ties)
    said = [
        f"{len(samples):,} of {len(catalog.part(part)):,} {part} images show a picture that is in "
        f"{' or '.join(BEFORE[part])} too (the first: {samples[0].path}): the model has seen what it is "
        "scored on. `regraft check` lists them."
        for part, samples in found.items()
        if samples
    ]
    return {part: len(samples) for part, samples in found.items()}, said


def _chain(count: int, pairs: NDArray[np.intp]) -> NDArray[np.int64]:
    """The number of each point's component in the graph of the pairs, shape (count,)."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    one, two = pairs.reshape(-1, 2).T
    graph = coo_array((np.ones(len(one), bool), (one, two)), (count, count))
    found: NDArray[np.int64] = connected_components(graph, directed=False)[1].astype(np.int64)
    return found
