"""Which images show one picture, and which of them lie in parts that should know nothing of each other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from regraft.console import Reporter
from regraft.data.catalog import Catalog, Sample
from regraft.data.decode import THUMBNAIL, Facts
from regraft.data.likeness import Alike, find_alike

__all__ = ["Copies", "groups_of", "leaked", "leaks_of", "tie"]

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
            >>> from regraft.console import SilentReporter
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
