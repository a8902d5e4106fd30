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
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from regraft.console import Reporter
from regraft.data.decode import THUMBNAIL

__all__ = ["Alike", "find_alike", "is_plain"]

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
        >>> from regraft.console import SilentReporter
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
